"""Own the random changes of whole batches that `data.augment` can name, each with its paper.

Knows nothing of their order, of scaling or of normalisation. Each draws on the host, per picture, from the generator
that it is given, and computes on the device of the batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy
import torch
import torch.nn.functional as F
from torch import Tensor

from dlwp import randomness
from dlwp.data.datasets import is_channels_last
from dlwp.devices import sent
from dlwp.errors import ConfigError


def _need_pictures(inputs: Tensor, name: str) -> None:
    if inputs.dim() != 4:
        raise ConfigError(
            f"data.augment: {name} needs pictures (C, H, W), not {tuple(inputs.shape[1:])}. data.augment=null"
        )


def _uniform(count: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    return torch.empty(count).uniform_(low, high, generator=generator)


def _per_picture(values: Tensor, like: Tensor) -> Tensor:
    return sent(values.to(like.dtype) if like.is_floating_point() else values, like.device).view(-1, 1, 1, 1)


@dataclass(frozen=True)
class Crop:
    """Pad each side and cut a window of the old size at a random place.

    A row of the window is a run of memory in the padded batch, so that one `index_select` of rows does it: 10 times
    faster than indexing pixels.

    Args:
        padding: pixels on each side.
        mode: what is padded with: "zeros" (black) or "reflect".

    Source: Lee et al. 2015, Deeply-Supervised Nets; He et al. 2015, section 4.2.
    """

    padding: int = 4
    mode: str = "zeros"
    moves_only: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.mode not in ("zeros", "reflect") or self.padding < 0:
            raise ConfigError(
                f"data.augment: crop takes padding >= 0 and mode zeros or reflect, got {self.padding}, {self.mode}"
            )

    def __call__(self, inputs: Tensor, targets: Any, generator: torch.Generator) -> tuple[Tensor, Any]:
        """Crop (B, C, H, W)."""
        _need_pictures(inputs, "crop")
        offsets = sent(torch.randint(2 * self.padding + 1, (2, len(inputs)), generator=generator), inputs.device)
        if is_channels_last(inputs):
            return self._cut(inputs.permute(0, 2, 3, 1).unsqueeze(1), offsets)[:, 0].permute(0, 3, 1, 2), targets
        return self._cut(inputs.contiguous().unsqueeze(-1), offsets)[..., 0], targets

    def _cut(self, planes: Tensor, offsets: Tensor) -> Tensor:
        """Cut from (B, P, H, W, Q), contiguous: P planes of pixels of Q numbers each."""
        batch, count, height, width, depth = planes.shape
        pad, wide = self.padding, (width + 2 * self.padding) * depth
        if self.mode == "reflect":
            moved = planes.movedim(-1, 1).reshape(batch, -1, height, width)
            padded = F.pad(moved.float(), (pad,) * 4, mode="reflect").to(planes.dtype)
            padded = padded.view(batch, depth, count, *padded.shape[-2:]).movedim(1, -1).contiguous()
        else:
            padded = F.pad(planes, (0, 0, pad, pad, pad, pad))
        flat, length = padded.view(-1), width * depth
        runs = flat.as_strided((flat.numel() - length + 1, length), (1, 1))  # every run of memory as long as a row
        device = planes.device
        plane = torch.arange(batch * count, device=device).view(batch, count, 1) * ((height + 2 * pad) * wide)
        row = (offsets[0].view(-1, 1, 1) + torch.arange(height, device=device)) * wide
        starts = plane + row + (offsets[1] * depth).view(-1, 1, 1)
        return runs.index_select(0, starts.view(-1)).view(planes.shape)

    def __str__(self) -> str:
        """Return the name and the padding."""
        return f"crop {self.padding} px"


@dataclass(frozen=True)
class Flip:
    """Mirror pictures left to right.

    Args:
        probability: for each picture, 0 to 1.
        alternate: mirror half of the pictures in one epoch and the other half in the next, in turn, so that any two
            epochs show each picture both ways; which half a picture belongs to is drawn once.

    Source: Krizhevsky et al. 2012, section 4.1; Jordan 2024, arXiv 2404.00498, section 3.6 (alternate).
    """

    probability: float = 0.5
    alternate: bool = False
    moves_only: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.alternate and self.probability != 0.5:
            raise ConfigError("data.augment: flip with alternate mirrors half of the pictures: leave probability out")

    @property
    def needs_samples(self) -> bool:
        """Whether it is called with the samples' numbers, the epoch and the seed of the run as well."""
        return self.alternate

    def __call__(
        self,
        inputs: Tensor,
        targets: Any,
        generator: torch.Generator,
        samples: Tensor | None = None,
        epoch: int = 0,
        seed: int = 0,
    ) -> tuple[Tensor, Any]:
        """Flip (B, C, H, W)."""
        _need_pictures(inputs, "flip")
        if self.alternate:
            assert samples is not None
            flipped = randomness.coins(seed, "flip", samples) ^ (epoch % 2 == 1)
        else:
            flipped = torch.rand(len(inputs), generator=generator) < self.probability
        choice = sent(torch.arange(len(inputs)) + len(inputs) * flipped, inputs.device)
        if is_channels_last(inputs):
            pixels = inputs.permute(0, 2, 3, 1)
            return torch.cat([pixels, pixels.flip(2)]).index_select(0, choice).permute(0, 3, 1, 2), targets
        return torch.cat([inputs, inputs.flip(-1)]).index_select(0, choice), targets

    def __str__(self) -> str:
        """Return the name."""
        return "alternating flip" if self.alternate else "flip"


_GREY = (0.2989, 0.587, 0.114)


def _grey(inputs: Tensor) -> Tensor:
    """Return brightness (B, 1, H, W) by the weights of ITU-R 601, or the picture itself where it has not 3 channels."""
    if inputs.shape[1] != 3:
        return inputs.mean(1, keepdim=True)
    return sum(weight * inputs[:, channel : channel + 1] for channel, weight in enumerate(_GREY))  # type: ignore[return-value]


def _blend(inputs: Tensor, other: Tensor | float, factor: Tensor) -> Tensor:
    """Return factor · inputs + (1 - factor) · other, within [0, 1]."""
    factor = _per_picture(factor, inputs)
    return (inputs * factor + other * (1 - factor)).clamp_(0, 1)


def _brightness(inputs: Tensor, factor: Tensor) -> Tensor:
    return _blend(inputs, 0.0, factor)


def _contrast(inputs: Tensor, factor: Tensor) -> Tensor:
    return _blend(inputs, _grey(inputs).mean((1, 2, 3), keepdim=True), factor)


def _saturation(inputs: Tensor, factor: Tensor) -> Tensor:
    return _blend(inputs, _grey(inputs), factor)


def _sharpness(inputs: Tensor, factor: Tensor) -> Tensor:
    channels = inputs.shape[1]
    kernel = torch.ones(3, 3, device=inputs.device, dtype=inputs.dtype)
    kernel[1, 1] = 5
    smooth = inputs.clone()  # the border stays
    kernel = (kernel / kernel.sum()).expand(channels, 1, 3, 3)
    if min(inputs.shape[-2:]) > 2:
        smooth[:, :, 1:-1, 1:-1] = F.conv2d(inputs, kernel, groups=channels)
    return _blend(inputs, smooth, factor)


@dataclass(frozen=True)
class Colour:
    """Change brightness, contrast and saturation, in this order, each by a factor from [1 - x, 1 + x].

    Args:
        brightness, contrast, saturation: x, 0 or more; 0 leaves it out.

    Source: Howard 2013, Some Improvements on Deep Convolutional Neural Network Based Image Classification.
    """

    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4

    def __call__(self, inputs: Tensor, targets: Any, generator: torch.Generator) -> tuple[Tensor, Any]:
        """Change (B, C, H, W) in [0, 1]."""
        _need_pictures(inputs, "colour")
        changes = ((self.brightness, _brightness), (self.contrast, _contrast), (self.saturation, _saturation))
        for strength, change in changes:
            if strength > 0:
                inputs = change(inputs, _uniform(len(inputs), max(0.0, 1 - strength), 1 + strength, generator))
        return inputs, targets

    def __str__(self) -> str:
        """Return the name."""
        return "colour"


def _box(inputs: Tensor, heights: Tensor, widths: Tensor, tops: Tensor, lefts: Tensor) -> Tensor:
    """Return a mask (B, 1, H, W) of a box in each picture; all arguments (B,) in pixels."""
    heights, widths, tops, lefts = (
        sent(values, inputs.device).view(-1, 1, 1, 1) for values in (heights, widths, tops, lefts)
    )
    y = torch.arange(inputs.shape[2], device=inputs.device).view(1, 1, -1, 1)
    x = torch.arange(inputs.shape[3], device=inputs.device).view(1, 1, 1, -1)
    return (y >= tops) & (y < tops + heights) & (x >= lefts) & (x < lefts + widths)


@dataclass(frozen=True)
class Erasing:
    """Cover a box of each picture with one random colour.

    Args:
        probability: for each picture, 0 to 1.
        area: least and greatest share of the picture.
        ratio: least and greatest height over width.

    Source: Zhong et al. 2017, Random Erasing Data Augmentation (a colour a box in place of one a pixel).
    """

    probability: float = 0.5
    area: tuple[float, float] = (0.02, 0.33)
    ratio: tuple[float, float] = (0.3, 3.3)

    def __call__(self, inputs: Tensor, targets: Any, generator: torch.Generator) -> tuple[Tensor, Any]:
        """Erase in (B, C, H, W) in [0, 1]."""
        _need_pictures(inputs, "erasing")
        count, channels, height, width = inputs.shape
        erased = torch.rand(count, generator=generator) < self.probability
        areas = _uniform(count, *self.area, generator) * height * width
        ratios = _uniform(count, math.log(self.ratio[0]), math.log(self.ratio[1]), generator).exp()
        heights = (areas * ratios).sqrt().round().clamp(1, height).long()
        widths = (areas / ratios).sqrt().round().clamp(1, width).long()
        tops = (torch.rand(count, generator=generator) * (height - heights + 1)).long()
        lefts = (torch.rand(count, generator=generator) * (width - widths + 1)).long()
        colours = sent(torch.rand(count, channels, 1, 1, generator=generator), inputs.device).to(inputs.dtype)
        return torch.where(_box(inputs, heights * erased, widths, tops, lefts), colours, inputs), targets

    def __str__(self) -> str:
        """Return the name."""
        return "erasing"


def _mixed_targets(targets: Tensor, order: Tensor, share: float, num_classes: int | None, name: str) -> Tensor:
    """Return share · targets + (1 - share) · targets[order]; class indices (B,) become probabilities (B, K)."""
    if not isinstance(targets, Tensor):
        raise ConfigError(f"data.augment: {name} mixes targets, and this data has none that can be mixed")
    if not targets.is_floating_point():
        if num_classes is None or targets.dim() != 1:
            raise ConfigError(
                f"data.augment: {name} needs one class a sample, and the number of classes (data.classes)"
            )
        targets = F.one_hot(targets, num_classes).to(torch.float32)
    return share * targets + (1 - share) * targets[order]


def _share(alpha: float, generator: torch.Generator) -> float:
    """Draw from Beta(alpha, alpha); NumPy's, as torch's takes no generator."""
    return float(numpy.random.default_rng(int(torch.randint(2**62, (), generator=generator))).beta(alpha, alpha))


@dataclass(frozen=True)
class Mixup:
    """Mix each sample, and its target, with another of the batch: λ x + (1 - λ) x', λ from Beta(α, α), one a batch.

    Args:
        alpha: α > 0; small values mix little.

    Source: Zhang et al. 2018, mixup: Beyond Empirical Risk Minimization, equation 2.
    """

    alpha: float = 0.2
    num_classes: int | None = None

    def __call__(self, inputs: Tensor, targets: Any, generator: torch.Generator) -> tuple[Tensor, Any]:
        """Mix (B, ...) and targets (B,) or (B, ...)."""
        share = _share(self.alpha, generator)
        order = sent(torch.randperm(len(inputs), generator=generator), inputs.device)
        targets = _mixed_targets(targets, order, share, self.num_classes, "mixup")
        return share * inputs + (1 - share) * inputs[order], targets

    def __str__(self) -> str:
        """Return the name and α."""
        return f"mixup {self.alpha:g}"


@dataclass(frozen=True)
class Cutmix:
    """Replace a box of each picture by that of another of the batch, and mix the targets by area.

    Args:
        alpha: the box's share of the area is 1 - λ, λ from Beta(α, α), one a batch.

    Source: Yun et al. 2019, CutMix, equations 1 and 2.
    """

    alpha: float = 1.0
    num_classes: int | None = None

    def __call__(self, inputs: Tensor, targets: Any, generator: torch.Generator) -> tuple[Tensor, Any]:
        """Mix (B, C, H, W) and targets (B,) or (B, K)."""
        _need_pictures(inputs, "cutmix")
        side = math.sqrt(1 - _share(self.alpha, generator))
        order = sent(torch.randperm(len(inputs), generator=generator), inputs.device)
        height, width = inputs.shape[-2:]
        y, x = (int(torch.randint(size, (), generator=generator)) for size in (height, width))
        top, bottom = (min(max(round(y + sign * side * height / 2), 0), height) for sign in (-1, 1))
        left, right = (min(max(round(x + sign * side * width / 2), 0), width) for sign in (-1, 1))
        mixed = inputs.clone(memory_format=torch.preserve_format)
        mixed[:, :, top:bottom, left:right] = inputs[order, :, top:bottom, left:right]
        share = 1 - (bottom - top) * (right - left) / (height * width)
        return mixed, _mixed_targets(targets, order, share, self.num_classes, "cutmix")

    def __str__(self) -> str:
        """Return the name and α."""
        return f"cutmix {self.alpha:g}"


@dataclass(frozen=True)
class Cutout:
    """Cover a square of each picture with grey; its centre is anywhere in the picture, so part of it may lie outside.

    Args:
        size: side of the square in pixels, at least 1.

    Source: DeVries, Taylor 2017, Improved Regularization of Convolutional Neural Networks with Cutout, arXiv 1708.04552
        (with grey, which is about the mean of the pictures, in its place).
    """

    size: int = 16

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ConfigError(f"data.augment: cutout takes size >= 1, got {self.size}")

    def __call__(self, inputs: Tensor, targets: Any, generator: torch.Generator) -> tuple[Tensor, Any]:
        """Cover squares in (B, C, H, W) in [0, 1]."""
        _need_pictures(inputs, "cutout")
        count, _, height, width = inputs.shape
        y, x = (torch.randint(length, (count,), generator=generator) - self.size // 2 for length in (height, width))
        side = torch.full((count,), self.size)
        return inputs.masked_fill(_box(inputs, side, side, y, x), 0.5), targets

    def __str__(self) -> str:
        """Return the name and the side."""
        return f"cutout {self.size} px"


@dataclass(frozen=True)
class ResizedCrop:
    """Cut out a part of random size, shape and place, and scale it to the old size (bilinear).

    Args:
        scale: least and largest part of the area, in (0, 1].
        ratio: least and largest width by height.

    Source: Szegedy et al. 2014, Going Deeper with Convolutions, arXiv 1409.4842, section 6.
    """

    scale: Sequence[float] = (0.35, 1.0)
    ratio: Sequence[float] = (3 / 4, 4 / 3)

    def __post_init__(self) -> None:
        if not (0 < self.scale[0] <= self.scale[1] <= 1 and 0 < self.ratio[0] <= self.ratio[1]):
            raise ConfigError(
                "data.augment: resized_crop takes scale [least, largest] within (0, 1] and ratio [least, largest] above"
                f" 0, got {list(self.scale)}, {list(self.ratio)}"
            )

    def __call__(self, inputs: Tensor, targets: Any, generator: torch.Generator) -> tuple[Tensor, Any]:
        """Crop (B, C, H, W)."""
        _need_pictures(inputs, "resized_crop")
        count = len(inputs)
        area = _uniform(count, self.scale[0], self.scale[1], generator)
        ratio = _uniform(count, math.log(self.ratio[0]), math.log(self.ratio[1]), generator).exp()
        width, height = (area * ratio).sqrt().clamp_max(1), (area / ratio).sqrt().clamp_max(1)
        x, y = ((1 - side) * _uniform(count, -1, 1, generator) for side in (width, height))
        zero = torch.zeros(count)
        return _warp(inputs, torch.stack([width, zero, x, zero, height, y], 1).view(count, 2, 3)), targets

    def __str__(self) -> str:
        """Return the name and the scales."""
        return f"resized crop of {self.scale[0]:.0%} to {self.scale[1]:.0%}"


# ---- RandAugment ----------------------------------------------------------------------------------------------------


def _warp(inputs: Tensor, matrices: Tensor) -> Tensor:
    """Sample pictures where (B, 2, 3) matrices say, in coordinates of [-1, 1]; black outside."""
    grid = F.affine_grid(sent(matrices, inputs.device).to(inputs.dtype), list(inputs.shape), align_corners=False)
    return F.grid_sample(inputs, grid, padding_mode="zeros", align_corners=False)


def _affine(inputs: Tensor, row: int, column: int, values: Tensor) -> Tensor:
    matrices = torch.eye(2, 3).repeat(len(inputs), 1, 1)
    matrices[:, row, column] = values
    return _warp(inputs, matrices)


def _rotate(inputs: Tensor, level: Tensor) -> Tensor:
    angle = level * math.radians(30)
    cosine, sine, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    stretch = inputs.shape[-1] / inputs.shape[-2]  # so that it is a rotation in pixels
    rows = [torch.stack([cosine, -sine / stretch, zero], 1), torch.stack([sine * stretch, cosine, zero], 1)]
    return _warp(inputs, torch.stack(rows, 1))


def _posterize(inputs: Tensor, level: Tensor) -> Tensor:
    steps = 2 ** (8 - (4 * level.abs()).round()) - 1  # 8 to 4 bits
    steps = _per_picture(steps, inputs)
    return (inputs * steps).round() / steps


def _solarize(inputs: Tensor, level: Tensor) -> Tensor:
    return torch.where(inputs >= _per_picture(1 - level.abs(), inputs), 1 - inputs, inputs)


def _autocontrast(inputs: Tensor, level: Tensor) -> Tensor:
    low, high = inputs.amin((2, 3), keepdim=True), inputs.amax((2, 3), keepdim=True)
    return torch.where(high > low, (inputs - low) / (high - low).clamp_min(1e-6), inputs)


_CHANGES: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (
    lambda inputs, level: inputs,
    lambda inputs, level: _affine(inputs, 0, 1, 0.3 * level),  # shear
    lambda inputs, level: _affine(inputs, 1, 0, 0.3 * level),
    lambda inputs, level: _affine(inputs, 0, 2, 0.6 * level),  # shift by up to 0.3 of the side
    lambda inputs, level: _affine(inputs, 1, 2, 0.6 * level),
    _rotate,
    lambda inputs, level: _brightness(inputs, 1 + 0.9 * level),
    lambda inputs, level: _contrast(inputs, 1 + 0.9 * level),
    lambda inputs, level: _saturation(inputs, 1 + 0.9 * level),
    lambda inputs, level: _sharpness(inputs, 1 + 0.9 * level),
    _posterize,
    _solarize,
    _autocontrast,
)
"""The changes of RandAugment (all of the paper but equalize): pictures in [0, 1] and a level in [-1, 1] for each."""


@dataclass(frozen=True)
class RandAugment:
    """Apply some changes to each picture, chosen at random from 13, all of one strength, with a random sign.

    Args:
        count: changes a picture.
        magnitude: strength, 0 to 10; 10 is shear 0.3, shift 0.3 of the side, 30 degrees, factor 1 ± 0.9.

    Source: Cubuk et al. 2019, RandAugment: Practical automated data augmentation with a reduced search space.
    """

    count: int = 2
    magnitude: float = 9.0

    def __call__(self, inputs: Tensor, targets: Any, generator: torch.Generator) -> tuple[Tensor, Any]:
        """Change (B, C, H, W) in [0, 1]."""
        _need_pictures(inputs, "randaugment")
        for _ in range(self.count):
            chosen = torch.randint(len(_CHANGES), (len(inputs),), generator=generator)
            signs = 2.0 * torch.randint(2, (len(inputs),), generator=generator) - 1
            inputs = inputs.clone(memory_format=torch.preserve_format)
            for number, change in enumerate(_CHANGES):
                members = (chosen == number).nonzero().view(-1)
                if number and len(members):
                    places = sent(members, inputs.device)
                    inputs[places] = change(inputs[places], signs[members] * self.magnitude / 10)
        return inputs, targets

    def __str__(self) -> str:
        """Return the name, the count and the magnitude."""
        return f"randaugment {self.count} of magnitude {self.magnitude:g}"


OPERATIONS: dict[str, type[Any]] = {
    "crop": Crop, "flip": Flip, "colour": Colour, "erasing": Erasing, "mixup": Mixup, "cutmix": Cutmix,
    "randaugment": RandAugment, "cutout": Cutout, "resized_crop": ResizedCrop,
}  # fmt: skip
"""The operations by the name under which `data.augment` knows them."""
