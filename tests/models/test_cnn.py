"""The convolutional network promises to take pictures of 8 to 64 pixels and any channels, and to learn."""

import pytest
import torch
from torch.nn import functional

from dlwp.errors import ConfigError
from dlwp.models.cnn import CNN


@pytest.mark.parametrize("size", [(8, 8), (28, 28), (33, 17), (64, 64)])
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_takes_pictures_of_any_size_and_channels(size: tuple[int, int], channels: int) -> None:
    assert CNN(channels, 7)(torch.randn(2, channels, *size)).shape == (2, 7)


def test_memory_format_does_not_change_the_outputs() -> None:
    model, pictures = CNN(3, 10).eval(), torch.randn(2, 3, 16, 16)
    expected = model(pictures)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    torch.testing.assert_close(model(pictures.contiguous(memory_format=torch.channels_last)), expected)


def test_fits_eight_pictures_exactly() -> None:
    torch.manual_seed(0)
    model, pictures, classes = CNN(1, 8), torch.randn(8, 1, 8, 8), torch.arange(8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(40):
        loss = functional.cross_entropy(model(pictures), classes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.01


def test_every_parameter_and_every_pixel_has_a_part_in_the_outputs() -> None:
    torch.manual_seed(0)
    model, pictures = CNN(1, 3), torch.randn(4, 1, 8, 8, requires_grad=True)
    model(pictures).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())
    assert pictures.grad is not None and (pictures.grad != 0).float().mean() > 0.9


def test_stages_follow_the_channels() -> None:
    assert len(CNN(1, 2, channels=[4, 8]).stages) == 2
    with pytest.raises(ConfigError, match="channels"):
        CNN(1, 2, channels=[])
