"""The airbench network promises a first layer that whitens, filters that begin as the identity, and to learn."""

import pytest
import torch
from torch.nn import functional

from dlwp.errors import ConfigError
from dlwp.models.airbench import Airbench, Whitening


def correlated(count: int = 64, side: int = 12) -> torch.Tensor:
    """Return pictures whose neighbouring pixels and channels resemble one another, as in photographs."""
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(count, 3, side, side, generator=generator)
    smooth = functional.avg_pool2d(noise, 3, stride=1, padding=1)
    return smooth + 0.5 * smooth.mean(1, keepdim=True)


def test_whitened_patches_are_uncorrelated_and_of_one_size() -> None:
    pictures = correlated()
    layer = Whitening(3, 2, eps=0.0)
    layer.init_from(pictures)
    outputs = functional.conv2d(pictures, layer.weight).transpose(0, 1).flatten(1).double()  # without the bias
    moments = outputs @ outputs.T / outputs.shape[1]
    expected = torch.eye(12, dtype=torch.float64)
    both_signs = torch.cat([torch.cat([expected, -expected]), torch.cat([-expected, expected])], dim=1)
    torch.testing.assert_close(moments, both_signs, rtol=0, atol=1e-4)  # float32 filters and products


def test_whitening_is_frozen_but_for_its_bias_and_does_not_depend_on_the_memory_format() -> None:
    layer, pictures = Whitening(3, 2), correlated()
    assert [name for name, each in layer.named_parameters() if each.requires_grad] == ["bias"]
    layer.init_from(pictures)
    before = layer.weight.clone()
    layer.init_from(pictures.contiguous(memory_format=torch.channels_last))
    assert torch.equal(layer.weight, before)


def test_the_first_filters_of_a_convolution_pass_its_channels_on() -> None:
    convolution = Airbench(3, 10, channels=(32, 64)).stages[1].conv1
    features = torch.randn(2, 32, 7, 7)
    assert torch.equal(convolution(features)[:, :32], features)
    assert not convolution.weight[32:].eq(0).any()


def test_norms_have_a_bias_alone_and_logits_are_scaled() -> None:
    model = Airbench(3, 10)
    norms = {name for name, each in model.named_parameters() if "norm" in name and each.requires_grad}
    assert norms == {f"stages.{stage}.norm{number}.bias" for stage in range(3) for number in (1, 2)}
    torch.testing.assert_close(model.head.weight.std(), torch.tensor(1.0))
    pictures = correlated(4, 32)
    twice = Airbench(3, 10, head_scale=2 / 256)
    twice.load_state_dict(model.state_dict())
    torch.testing.assert_close(twice.eval()(pictures), 2 * model.eval()(pictures))


@pytest.mark.parametrize(("channels", "size"), [((4, 8), (5, 9)), ((64, 256, 256), (32, 32)), ((4, 8, 8), (9, 17))])
def test_takes_pictures_down_to_a_pixel_a_stage(channels: tuple[int, ...], size: tuple[int, int]) -> None:
    assert Airbench(1, 7, channels=channels)(torch.randn(2, 1, *size)).shape == (2, 7)


def test_fits_eight_pictures_exactly() -> None:
    torch.manual_seed(0)
    model, pictures, classes = Airbench(3, 8, channels=(16, 32), head_scale=0.3), correlated(8), torch.arange(8)
    model.init_from(pictures)
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=0.02)
    for _ in range(60):
        loss = functional.cross_entropy(model(pictures), classes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.05


def test_refuses_what_makes_no_network() -> None:
    with pytest.raises(ConfigError, match=r"channels=\[64,256,256\]"):
        Airbench(channels=[])
    with pytest.raises(ConfigError, match="norm_momentum"):
        Airbench(norm_momentum=0.0)
