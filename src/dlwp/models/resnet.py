"""Own the residual networks for small pictures (He et al. 2015), depths 20 to 110 and 18, 34, 50.

Knows nothing of data or training.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional

from dlwp.errors import ConfigError

_WIDE_STAGES = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
_NARROW_DEPTHS = (20, 32, 44, 56, 110)


class ResNet(nn.Module):
    """Residual network for small pictures: x + f(x), where f is two or three convolutions with batch norm.

    Depths 20, 32, 44, 56 and 110 are the networks of the paper's CIFAR-10 section: three stages of 16, 32 and 64
    channels, shortcuts without parameters. Depths 18, 34 and 50 are those of its ImageNet section (four stages, 64 to
    512 channels, projections where the shape changes) behind a stem for small pictures: one 3x3 convolution, no
    pooling.

    Args:
        in_channels: channels C of a picture.
        num_classes: number of outputs K.
        depth: number of layers with weights: 18, 20, 32, 34, 44, 50, 56 or 110.
        zero_init_residual: start each branch at zero (Goyal et al. 2017), so that the network starts as the identity.

    Shape:
        input (B, C, H, W), H and W at least 8 (three halvings at most) -> output (B, K) logits.

    Raises:
        ConfigError: the depth is none of these.

    Example:
        >>> import torch
        >>> ResNet(in_channels=3, num_classes=10)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])

    Source:
        He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition, arXiv 1512.03385, sections 4.1 and 4.2.
        Weights as in He et al. 2015, arXiv 1502.01852, equation 10 (normal, fan out).
    """

    def __init__(
        self, in_channels: int = 3, num_classes: int = 10, depth: int = 20, zero_init_residual: bool = False
    ) -> None:
        super().__init__()
        counts: tuple[int, ...]
        widths: tuple[int, ...]
        if depth in _WIDE_STAGES:
            block: Callable[..., nn.Module] = Bottleneck if depth == 50 else BasicBlock
            counts, widths, expansion, project = _WIDE_STAGES[depth], (64, 128, 256, 512), 4 if depth == 50 else 1, True
        elif depth in _NARROW_DEPTHS:
            block, counts, widths, expansion, project = BasicBlock, ((depth - 2) // 6,) * 3, (16, 32, 64), 1, False
        else:
            known = ", ".join(map(str, sorted((*_WIDE_STAGES, *_NARROW_DEPTHS))))
            raise ConfigError(f"resnet has no depth {depth}. There are: {known}")
        self.conv1 = nn.Conv2d(in_channels, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        channels, stages = widths[0], []
        for number, (count, width) in enumerate(zip(counts, widths, strict=True)):
            blocks = []
            for position in range(count):
                stride = 2 if number > 0 and position == 0 else 1
                blocks.append(block(channels, width, stride, project))
                channels = width * expansion
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(channels, num_classes)
        self._initialise(zero_init_residual)

    def _initialise(self, zero_init_residual: bool) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif zero_init_residual and isinstance(module, BasicBlock | Bottleneck):
                nn.init.zeros_(module.last_norm.weight)

    def forward(self, pictures: Tensor) -> Tensor:
        """Return logits (B, K) of pictures (B, C, H, W)."""
        features = functional.relu(self.bn1(self.conv1(pictures)))
        features = self.stages(features)  # (B, 64, H/4, W/4), or (B, 512 or 2048, H/8, W/8)
        return self.head(features.mean((2, 3)))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and the shortcut around them (He et al. 2015, figure 5 left)."""

    def __init__(self, in_channels: int, width: int, stride: int, project: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = _shortcut(in_channels, width, stride, project)

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        """The norm that ends the branch."""
        return self.bn2

    def forward(self, features: Tensor) -> Tensor:
        """Return (B, width, H/stride, W/stride) of features (B, in_channels, H, W)."""
        branch = functional.relu(self.bn1(self.conv1(features)))
        branch = self.bn2(self.conv2(branch))
        return functional.relu(branch + self.shortcut(features))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and the shortcut around them (figure 5 right); the stride is in the 3x3."""

    def __init__(self, in_channels: int, width: int, stride: int, project: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.shortcut = _shortcut(in_channels, 4 * width, stride, project)

    @property
    def last_norm(self) -> nn.BatchNorm2d:
        """The norm that ends the branch."""
        return self.bn3

    def forward(self, features: Tensor) -> Tensor:
        """Return (B, 4 width, H/stride, W/stride) of features (B, in_channels, H, W)."""
        branch = functional.relu(self.bn1(self.conv1(features)))
        branch = functional.relu(self.bn2(self.conv2(branch)))
        branch = self.bn3(self.conv3(branch))
        return functional.relu(branch + self.shortcut(features))


def _shortcut(in_channels: int, out_channels: int, stride: int, project: bool) -> nn.Module:
    if in_channels == out_channels and stride == 1:
        return nn.Identity()
    if project:  # option B of the paper
        return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels))
    return PaddedShortcut(out_channels - in_channels, stride)  # option A


class PaddedShortcut(nn.Module):
    """Every `stride`-th pixel, and zeros for the channels that are new (option A of the paper: no parameters)."""

    def __init__(self, extra_channels: int, stride: int) -> None:
        super().__init__()
        self.extra_channels = extra_channels
        self.stride = stride

    def forward(self, features: Tensor) -> Tensor:
        """Return (B, C + extra_channels, H/stride, W/stride) of features (B, C, H, W)."""
        features = features[:, :, :: self.stride, :: self.stride]
        return functional.pad(features, (0, 0, 0, 0, self.extra_channels // 2, (self.extra_channels + 1) // 2))
