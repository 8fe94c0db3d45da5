"""Own the small network that soonest reaches 94% on CIFAR-10 (Jordan 2024), and its first layer, which whitens.

Knows nothing of data or training, but that `init_from` is called with the first training batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from dlwp.errors import ConfigError


class Airbench(nn.Module):
    """Convolutional network: a frozen whitening layer, stages of two 3x3 convolutions, the maximum of each channel.

    A stage is convolution, 2x2 max pooling, batch norm, GELU, convolution, batch norm, GELU. Its filters begin as the
    identity as far as they can (dirac), the rest random. Batch norm has a bias and no scale, and forgets quickly.

    Args:
        in_channels: channels C of a picture.
        num_classes: number of outputs K.
        channels: of each stage; the last is the length of the features.
        kernel_size: side in pixels of the patches that are whitened.
        norm_momentum: part of batch norm's running statistics that each step replaces, above 0 to 1.
        head_scale: factor on the logits; None is 1 / features. The last layer's weights begin with a standard deviation
            of 1.

    Shape:
        input (B, C, H, W), H and W at least 2 ** stages + kernel_size - 1 -> output (B, K) logits.

    Raises:
        ConfigError: `channels` is empty or holds a number below 1, or `norm_momentum` is out of its range.

    Example:
        >>> Airbench(in_channels=3, num_classes=10)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])

    Source:
        Jordan 2024, 94% on CIFAR-10 in 3.29 Seconds on a Single GPU, arXiv 2404.00498, section 3, with the head of
        its later form that trains with Muon (github.com/KellerJordan/cifar10-airbench).
        Dirac filters: Zagoruyko, Komodakis 2017, arXiv 1706.00388. GELU: Hendrycks, Gimpel 2016, arXiv 1606.08415.
    """

    def __init__(
        self,
        in_channels: int = 3,
        num_classes: int = 10,
        channels: Sequence[int] = (64, 256, 256),
        kernel_size: int = 2,
        norm_momentum: float = 0.4,
        head_scale: float | None = None,
    ) -> None:
        super().__init__()
        if not channels or min(channels) < 1:
            raise ConfigError(
                f"airbench needs channels of 1 and more, one a stage, got {list(channels)}. channels=[64,256,256]"
            )
        if not 0 < norm_momentum <= 1:
            raise ConfigError(f"norm_momentum of airbench is above 0 and at most 1, got {norm_momentum}. 0.4")
        self.whitening = Whitening(in_channels, kernel_size)
        widths = (self.whitening.out_channels, *channels)
        self.stages = nn.Sequential(*(Stage(*pair, norm_momentum) for pair in zip(widths, channels)))
        self.head = nn.Linear(channels[-1], num_classes, bias=False)
        with torch.no_grad():
            self.head.weight.div_(self.head.weight.std())
        self.head_scale = 1 / channels[-1] if head_scale is None else head_scale

    def init_from(self, pictures: Tensor) -> None:
        """Set the whitening filters from training pictures (B, C, H, W)."""
        self.whitening.init_from(pictures)

    def forward(self, pictures: Tensor) -> Tensor:
        """Return logits (B, K) of pictures (B, C, H, W)."""
        features = functional.gelu(self.whitening(pictures))  # (B, 24, H - 1, W - 1)
        features = self.stages(features)  # (B, 256, H/8, W/8)
        return self.head(features.amax((2, 3))) * self.head_scale


class Whitening(nn.Conv2d):
    """Convolution whose frozen filters make the pixels of a patch uncorrelated, each filter twice, with both signs.

    The filters are the eigenvectors v of the second moments E[p pᵀ] of patches p, divided by the root of their
    eigenvalues λ: w = ± v / sqrt(λ + eps). Until `init_from` has been called they are random. The bias is trained.

    Args:
        in_channels: channels C of a picture.
        kernel_size: side K of a patch; there are 2 C K² filters.
        eps: added to the eigenvalues, so that the faintest directions are not blown up.

    Source:
        Page 2019, How to Train Your ResNet 8: Bag of Tricks; arXiv 2404.00498, section 3.2.
    """

    def __init__(self, in_channels: int, kernel_size: int, eps: float = 5e-4) -> None:
        super().__init__(in_channels, 2 * in_channels * kernel_size**2, kernel_size)
        self.weight.requires_grad_(False)
        self.eps = eps

    @torch.no_grad()
    def init_from(self, pictures: Tensor) -> None:
        """Set the filters from pictures (B, C, H, W), in float64 on the host: the same bits on every device."""
        patches = functional.unfold(pictures.contiguous(), self.kernel_size)  # (B, C K², number of patches)
        moments = torch.zeros(patches.shape[1], patches.shape[1], dtype=torch.float64)
        for some in patches.split(256):
            flat = some.transpose(0, 1).flatten(1).to("cpu", torch.float64)
            moments += flat @ flat.T
        values, vectors = torch.linalg.eigh(moments / (patches.shape[0] * patches.shape[2]))
        filters = (vectors / (values + self.eps).sqrt()).T
        self.weight.copy_(torch.cat([filters, -filters]).view(self.weight.shape))


class Stage(nn.Module):
    """Convolution, 2x2 max pooling, batch norm, GELU, convolution, batch norm, GELU."""

    def __init__(self, in_channels: int, width: int, norm_momentum: float) -> None:
        super().__init__()
        self.conv1 = _convolution(in_channels, width)
        self.pool = nn.MaxPool2d(2)
        self.norm1 = _norm(width, norm_momentum)
        self.conv2 = _convolution(width, width)
        self.norm2 = _norm(width, norm_momentum)

    def forward(self, features: Tensor) -> Tensor:
        """Return (B, width, H/2, W/2) of features (B, in_channels, H, W)."""
        features = functional.gelu(self.norm1(self.pool(self.conv1(features))))
        return functional.gelu(self.norm2(self.conv2(features)))


def _convolution(in_channels: int, width: int) -> nn.Conv2d:
    """Return a 3x3 convolution whose first filters pass the channels on as they are."""
    convolution = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
    nn.init.dirac_(convolution.weight.data[:in_channels])
    return convolution


def _norm(width: int, momentum: float) -> nn.BatchNorm2d:
    """Return a batch norm whose scale stays 1."""
    norm = nn.BatchNorm2d(width, eps=1e-12, momentum=momentum)
    norm.weight.requires_grad_(False)
    return norm
