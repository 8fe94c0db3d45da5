"""The U-Net gives a class for each pixel of pictures of any size."""

from __future__ import annotations

import pytest
import torch

from dlwp.errors import ConfigError
from dlwp.models.torchvision import torchvision_network
from dlwp.models.unet import UNet


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (5, 70), (1, 1)])
def test_outputs_are_as_large_as_the_picture(size: tuple[int, int]) -> None:
    model = UNet(in_channels=1, num_classes=3, channels=4, depth=3).eval()
    assert model(torch.zeros(2, 1, *size)).shape == (2, 3, *size)


def test_the_network_of_the_paper_has_its_parameters() -> None:
    # weights of figure 1: 3x3 convolutions, 2x2 transposed ones, the last 1x1; the paper's has one channel, two classes
    weights = sum(p.numel() for name, p in UNet(1, 2, channels=64, depth=4).named_parameters() if p.dim() == 4)
    widths = [64, 128, 256, 512, 1024]
    down = sum(9 * a * b + 9 * b * b for a, b in zip([1, *widths], widths))
    up = sum(4 * 2 * width * width + 9 * 2 * width * width + 9 * width * width for width in widths[:-1])
    assert weights == down + up + 64 * 2


def test_each_pixel_sees_both_its_surroundings_and_its_own_place() -> None:
    torch.manual_seed(0)
    model = UNet(1, 2, channels=4, depth=2).eval()
    picture = torch.rand(1, 1, 64, 64, requires_grad=True)
    model(picture)[0, 0, 16, 16].backward()
    assert picture.grad is not None
    seen = picture.grad[0, 0].abs() > 0
    assert bool(seen[16, 16]) and 150 < int(seen.sum()) < 64 * 64


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ConfigError, match="channels and depth of at least 1, got 0 and 4"):
        UNet(channels=0)


@pytest.mark.parametrize("name", ["lraspp_mobilenet_v3_large", "fcn_resnet50", "deeplabv3_mobilenet_v3_large"])
def test_networks_of_torchvision_for_pixels_give_logits_alone(name: str) -> None:
    model = torchvision_network(name, num_classes=4).eval()
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 40, 48)).shape == (1, 4, 40, 48)


def test_group_norm_takes_each_picture_for_itself() -> None:
    torch.manual_seed(0)
    model = UNet(3, 2, channels=4, depth=2, norm="group")  # in training mode
    pictures = torch.rand(2, 3, 16, 16)
    torch.testing.assert_close(model(pictures)[:1], model(pictures[:1]), rtol=1e-4, atol=1e-5)
    with pytest.raises(ConfigError, match="norm batch or group, got 'layer'"):
        UNet(norm="layer")
