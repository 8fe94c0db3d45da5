"""Own the U-Net, for a class for each pixel of a picture.

Knows nothing of data or training.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from dlwp.errors import ConfigError


class UNet(nn.Module):
    """U-Net: down by pooling with twice the channels at each level, up again, beside what was there on the way down.

    Unlike the paper's, its convolutions are padded and followed by a norm, so that the outputs are as large as the
    picture, and pictures of any size go in: they are padded to whole halvings inside, and the outputs cut.

    Args:
        in_channels: channels C of a picture.
        num_classes: number of classes K.
        channels: of the first level; 64 in the paper.
        depth: halvings; 4 in the paper.
        dropout: probability with which channels of the lowest level are left out in training.
        norm: "batch", or "group" (Wu, He 2018; 4 channels each), which takes each picture for itself: for small batches
            of pictures that are unlike each other.

    Shape:
        input (B, C, H, W) -> output (B, K, H, W) logits.

    Raises:
        ConfigError: a number is below 1.

    Example:
        >>> UNet(in_channels=3, num_classes=2, channels=4, depth=2)(torch.zeros(1, 3, 30, 50)).shape
        torch.Size([1, 2, 30, 50])

    Source:
        Ronneberger, Fischer, Brox 2015: U-Net, Convolutional Networks for Biomedical Image Segmentation,
        arXiv 1505.04597, figure 1.
    """

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 2,
        channels: int = 32,
        depth: int = 4,
        dropout: float = 0.0,
        norm: str = "batch",
    ) -> None:
        super().__init__()
        if channels < 1 or depth < 1:
            raise ConfigError(f"unet takes channels and depth of at least 1, got {channels} and {depth}")
        if norm not in ("batch", "group"):
            raise ConfigError(f"unet takes norm batch or group, got {norm!r}")
        self.depth = depth
        widths = [channels * 2**level for level in range(depth + 1)]
        self.down = nn.ModuleList(
            convolutions(before, width, norm) for before, width in zip([in_channels, *widths], widths, strict=False)
        )
        self.dropout = nn.Dropout2d(dropout)
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * width, width, 2, 2) for width in reversed(widths[:-1]))
        self.merge = nn.ModuleList(convolutions(2 * width, width, norm) for width in reversed(widths[:-1]))
        self.head = nn.Conv2d(channels, num_classes, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        nn.init.normal_(self.head.weight, std=0.01)

    def forward(self, pictures: Tensor) -> Tensor:
        """Return logits (B, K, H, W) of pictures (B, C, H, W)."""
        height, width = pictures.shape[-2:]
        unit = 2**self.depth
        features = functional.pad(pictures, (0, -width % unit, 0, -height % unit))
        kept: list[Tensor] = []
        for level, convolutions in enumerate(self.down):
            features = convolutions(functional.max_pool2d(features, 2) if level else features)
            kept.append(features)
        features = self.dropout(kept.pop())
        for up, merge in zip(self.up, self.merge, strict=True):
            features = merge(torch.cat([kept.pop(), up(features)], 1))
        return self.head(features)[..., :height, :width]


def convolutions(in_channels: int, width: int, norm: str) -> nn.Sequential:
    """Return two 3x3 convolutions, each with a norm ("batch", or "group" of 4 channels) and ReLU."""
    layers: list[nn.Module] = []
    for channels in (in_channels, width):
        layers.append(nn.Conv2d(channels, width, 3, padding=1, bias=False))
        layers.append(nn.BatchNorm2d(width) if norm == "batch" else nn.GroupNorm(max(1, width // 4), width))
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)
