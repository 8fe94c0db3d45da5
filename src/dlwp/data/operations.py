"""Own the random changes of whole batches that `data.augment` can name: of colours and of mixing, with their papers.

Knows nothing of their order, of scaling or of normalisation. Each draws on the host, per picture, from the generator
that it is given, and computes on the device of the batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy
import torch
import torch.nn.functional as F
from torch import Tensor

from dlwp.data.geometry import (
    IGNORED,
    Crop,
    Flip,
    ResizedCrop,
    Rotate90,
    VerticalFlip,
    Window,
    is_dense,
    need_pictures,
    uniform,
    warped,
)
from dlwp.devices import sent
from dlwp.errors import ConfigError
from dlwp.randomness import drawn


def _whole_numbers(count: int, end: int, generator: torch.Generator) -> Tensor:
    """Draw `count` whole numbers from 0 to `end` - 1."""
    return drawn(lambda many: torch.randint(end, (many,), generator=generator), count, generator)


def _per_picture(values: Tensor, like: Tensor) -> Tensor:
    return sent(values.to(like.dtype) if like.is_floating_point() else values, like.device).view(-1, 1, 1, 1)


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
        need_pictures(inputs, "colour")
        changes = ((self.brightness, _brightness), (self.contrast, _contrast), (self.saturation, _saturation))
        for strength, change in changes:
            if strength > 0:
                inputs = change(inputs, uniform(len(inputs), max(0.0, 1 - strength), 1 + strength, generator))
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


def _uncounted(inputs: Tensor, targets: Any, box: Tensor) -> Any:
    """Return targets; of masks the pixels in the box (B, 1, H, W) do not count, as nothing is to be seen there."""
    return targets.masked_fill(box[:, 0], IGNORED) if is_dense(inputs, targets) else targets


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
        need_pictures(inputs, "erasing")
        count, channels, height, width = inputs.shape
        erased = uniform(count, 0, 1, generator) < self.probability
        areas = uniform(count, *self.area, generator) * height * width
        ratios = uniform(count, math.log(self.ratio[0]), math.log(self.ratio[1]), generator).exp()
        heights = (areas * ratios).sqrt().round().clamp(1, height).long()
        widths = (areas / ratios).sqrt().round().clamp(1, width).long()
        tops = (uniform(count, 0, 1, generator) * (height - heights + 1)).long()
        lefts = (uniform(count, 0, 1, generator) * (width - widths + 1)).long()
        colours = drawn(lambda many: torch.rand(many, channels, 1, 1, generator=generator), count, generator)
        colours = sent(colours, inputs.device).to(inputs.dtype)
        box = _box(inputs, heights * erased, widths, tops, lefts)
        return torch.where(box, colours, inputs), _uncounted(inputs, targets, box)

    def __str__(self) -> str:
        """Return the name."""
        return "erasing"


def _mixed_targets(targets: Tensor, order: Tensor, share: float, num_classes: int | None, name: str) -> Tensor:
    """Return share · targets + (1 - share) · targets[order]; class indices (B,) become probabilities (B, K)."""
    if not isinstance(targets, Tensor):
        raise ConfigError(f"data.augment: {name} mixes targets, and this data has none that can be mixed")
    if targets.dim() == 3 and not targets.is_floating_point():
        raise ConfigError(f"data.augment: {name} mixes classes, and a mask has one a pixel. Leave {name} out")
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
    mixes: ClassVar[bool] = True

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
    mixes: ClassVar[bool] = True

    def __call__(self, inputs: Tensor, targets: Any, generator: torch.Generator) -> tuple[Tensor, Any]:
        """Mix (B, C, H, W) and targets (B,) or (B, K)."""
        need_pictures(inputs, "cutmix")
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
        need_pictures(inputs, "cutout")
        count, _, height, width = inputs.shape
        y, x = (_whole_numbers(count, length, generator) - self.size // 2 for length in (height, width))
        side = torch.full((count,), self.size)
        box = _box(inputs, side, side, y, x)
        return inputs.masked_fill(box, 0.5), _uncounted(inputs, targets, box)

    def __str__(self) -> str:
        """Return the name and the side."""
        return f"cutout {self.size} px"


# ---- RandAugment ----------------------------------------------------------------------------------------------------


def _affine(row: int, column: int, strength: float) -> Callable[[Tensor, Tensor], Tensor]:
    def matrices(inputs: Tensor, level: Tensor) -> Tensor:
        found = torch.eye(2, 3).repeat(len(inputs), 1, 1)
        found[:, row, column] = strength * level
        return found

    return matrices


def _rotate(inputs: Tensor, level: Tensor) -> Tensor:
    angle = level * math.radians(30)
    cosine, sine, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    stretch = inputs.shape[-1] / inputs.shape[-2]  # so that it is a rotation in pixels
    rows = [torch.stack([cosine, -sine / stretch, zero], 1), torch.stack([sine * stretch, cosine, zero], 1)]
    return torch.stack(rows, 1)


def _posterize(inputs: Tensor, level: Tensor) -> Tensor:
    steps = 2 ** (8 - (4 * level.abs()).round()) - 1  # 8 to 4 bits
    steps = _per_picture(steps, inputs)
    return (inputs * steps).round() / steps


def _solarize(inputs: Tensor, level: Tensor) -> Tensor:
    return torch.where(inputs >= _per_picture(1 - level.abs(), inputs), 1 - inputs, inputs)


def _autocontrast(inputs: Tensor, level: Tensor) -> Tensor:
    low, high = inputs.amin((2, 3), keepdim=True), inputs.amax((2, 3), keepdim=True)
    return torch.where(high > low, (inputs - low) / (high - low).clamp_min(1e-6), inputs)


_MOVES: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (
    _affine(0, 1, 0.3),  # shear
    _affine(1, 0, 0.3),
    _affine(0, 2, 0.6),  # shift by up to 0.3 of the side
    _affine(1, 2, 0.6),
    _rotate,
)
"""The changes of RandAugment that move pixels: pictures and a level in [-1, 1] for each -> matrices (B, 2, 3)."""

_COLOURS: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (
    lambda inputs, level: _brightness(inputs, 1 + 0.9 * level),
    lambda inputs, level: _contrast(inputs, 1 + 0.9 * level),
    lambda inputs, level: _saturation(inputs, 1 + 0.9 * level),
    lambda inputs, level: _sharpness(inputs, 1 + 0.9 * level),
    _posterize,
    _solarize,
    _autocontrast,
)
"""The others (all of the paper but equalize): pictures in [0, 1] and a level in [-1, 1] for each -> pictures."""


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
        need_pictures(inputs, "randaugment")
        for _ in range(self.count):
            chosen = _whole_numbers(len(inputs), 1 + len(_MOVES) + len(_COLOURS), generator)
            signs = 2.0 * _whole_numbers(len(inputs), 2, generator) - 1
            inputs = inputs.clone(memory_format=torch.preserve_format)
            targets = targets.clone() if is_dense(inputs, targets) else targets
            for number, change in enumerate((*_MOVES, *_COLOURS), 1):  # 0 leaves a picture as it is
                members = (chosen == number).nonzero().view(-1)
                if not len(members):
                    continue
                places, level = sent(members, inputs.device), signs[members] * self.magnitude / 10
                if number > len(_MOVES):
                    inputs[places] = change(inputs[places], level)
                elif is_dense(inputs, targets):
                    matrices = change(inputs[places], level)
                    inputs[places], targets[places] = warped(inputs[places], targets[places], matrices)
                else:
                    inputs[places] = warped(inputs[places], None, change(inputs[places], level))[0]
        return inputs, targets

    def __str__(self) -> str:
        """Return the name, the count and the magnitude."""
        return f"randaugment {self.count} of magnitude {self.magnitude:g}"


OPERATIONS: dict[str, type[Any]] = {
    "crop": Crop, "flip": Flip, "colour": Colour, "erasing": Erasing, "mixup": Mixup, "cutmix": Cutmix,
    "randaugment": RandAugment, "cutout": Cutout, "resized_crop": ResizedCrop, "vertical_flip": VerticalFlip,
    "rotate90": Rotate90, "window": Window,
}  # fmt: skip
"""The operations by the name under which `data.augment` knows them."""
