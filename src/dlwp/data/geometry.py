"""Own the random changes that move pixels, of pictures and of masks (a class a pixel) alike.

Knows nothing of colours, nor of the order of changes. What is drawn is drawn once, for picture and mask.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from dlwp import randomness
from dlwp.data.datasets import is_channels_last
from dlwp.devices import sent
from dlwp.errors import ConfigError
from dlwp.randomness import drawn

IGNORED = -100
"""The class of pixels that do not count: the `ignore_index` of torch's criteria."""


def is_dense(inputs: Tensor, targets: Any) -> bool:
    """Return whether targets are masks: a class for each pixel of pictures (B, C, H, W), integers (B, H, W)."""
    is_mask = isinstance(targets, Tensor) and targets.dim() == 3 and not targets.is_floating_point()
    return is_mask and inputs.dim() == 4 and targets.shape[1:] == inputs.shape[2:]


def moved(inputs: Tensor, targets: Any, move: Callable[[Tensor], Tensor]) -> tuple[Tensor, Any]:
    """Return pictures moved, and their masks with them where targets are such; `move` takes (B, C, H, W)."""
    if not is_dense(inputs, targets):
        return move(inputs), targets
    return move(inputs), move(targets.unsqueeze(1)).squeeze(1)


def need_pictures(inputs: Tensor, name: str) -> None:
    """Raise ConfigError where a batch is no pictures (B, C, H, W)."""
    if inputs.dim() != 4:
        raise ConfigError(
            f"data.augment: {name} needs pictures (C, H, W), not {tuple(inputs.shape[1:])}. data.augment=null"
        )


def uniform(count: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    """Draw `count` numbers from [low, high)."""
    return drawn(lambda many: torch.empty(many).uniform_(low, high, generator=generator), count, generator)


@dataclass(frozen=True)
class Crop:
    """Pad each side and cut a window of the old size at a random place; in a mask what is outside does not count.

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
        need_pictures(inputs, "crop")
        most = 2 * self.padding + 1
        offsets = drawn(lambda many: torch.randint(most, (2, many), generator=generator), len(inputs), generator, 1)
        offsets = sent(offsets, inputs.device)
        if is_dense(inputs, targets):
            targets = self._cut(targets.contiguous()[:, None, :, :, None], offsets, IGNORED)[:, 0, ..., 0]
        if is_channels_last(inputs):
            return self._cut(inputs.permute(0, 2, 3, 1).unsqueeze(1), offsets)[:, 0].permute(0, 3, 1, 2), targets
        return self._cut(inputs.contiguous().unsqueeze(-1), offsets)[..., 0], targets

    def _cut(self, planes: Tensor, offsets: Tensor, outside: int = 0) -> Tensor:
        """Cut from (B, P, H, W, Q), contiguous: P planes of pixels of Q numbers each; `outside` is what zeros are."""
        batch, count, height, width, depth = planes.shape
        pad, wide = self.padding, (width + 2 * self.padding) * depth
        if self.mode == "reflect":
            moved = planes.movedim(-1, 1).reshape(batch, -1, height, width)
            padded = F.pad(moved.float(), (pad,) * 4, mode="reflect").to(planes.dtype)
            padded = padded.view(batch, depth, count, *padded.shape[-2:]).movedim(1, -1).contiguous()
        else:
            padded = F.pad(planes, (0, 0, pad, pad, pad, pad), value=outside)
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
        need_pictures(inputs, "flip")
        if self.alternate:
            assert samples is not None
            flipped = randomness.coins(seed, "flip", samples) ^ (epoch % 2 == 1)
        else:
            flipped = uniform(len(inputs), 0, 1, generator) < self.probability
        return moved(inputs, targets, lambda values: _turned(values, flipped.long(), (-1,)))

    def __str__(self) -> str:
        """Return the name."""
        return "alternating flip" if self.alternate else "flip"


def _turned(values: Tensor, choice: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Return (B, C, H, W), each as it is where its choice (B,) is 0, and flipped along `axes` where it is 1."""
    places = sent(torch.arange(len(values)) + len(values) * choice, values.device)
    if is_channels_last(values):
        pixels = values.permute(0, 2, 3, 1)
        axes = tuple({-1: 2, -2: 1}[axis] for axis in axes)
        return torch.cat([pixels, pixels.flip(axes)]).index_select(0, places).permute(0, 3, 1, 2)
    return torch.cat([values, values.flip(axes)]).index_select(0, places)


def _laid_out(values: Tensor, like: Tensor) -> Tensor:
    """Return (B, C, H, W) in the memory format of another batch."""
    layout = torch.channels_last if is_channels_last(like) else torch.contiguous_format
    return values.contiguous(memory_format=layout)


@dataclass(frozen=True)
class VerticalFlip:
    """Mirror pictures top to bottom: for those without an up, as under a microscope or from above.

    Args:
        probability: for each picture, 0 to 1.
    """

    probability: float = 0.5
    moves_only: ClassVar[bool] = True

    def __call__(self, inputs: Tensor, targets: Any, generator: torch.Generator) -> tuple[Tensor, Any]:
        """Flip (B, C, H, W)."""
        need_pictures(inputs, "vertical_flip")
        flipped = uniform(len(inputs), 0, 1, generator) < self.probability
        return moved(inputs, targets, lambda values: _turned(values, flipped.long(), (-2,)))

    def __str__(self) -> str:
        """Return the name."""
        return "vertical flip"


@dataclass(frozen=True)
class Rotate90:
    """Turn square pictures by 0, 90, 180 or 270 degrees, each as likely."""

    moves_only: ClassVar[bool] = True

    def __call__(self, inputs: Tensor, targets: Any, generator: torch.Generator) -> tuple[Tensor, Any]:
        """Turn (B, C, H, W)."""
        need_pictures(inputs, "rotate90")
        if inputs.shape[2] != inputs.shape[3]:
            size = "x".join(map(str, inputs.shape[2:]))
            raise ConfigError(f"data.augment: rotate90 needs square pictures, not {size}. flip and vertical_flip")
        halves, quarters = drawn(
            lambda many: torch.randint(2, (2, many), generator=generator), len(inputs), generator, 1
        )

        def turn(values: Tensor) -> Tensor:
            values = _turned(values, halves, (-1, -2))
            chosen = sent(quarters.bool(), values.device).view(-1, 1, 1, 1)
            return _laid_out(torch.where(chosen, values.rot90(1, (-2, -1)), values), values)

        return moved(inputs, targets, turn)

    def __str__(self) -> str:
        """Return the name."""
        return "quarter turns"


def _extents(inputs: Tensor, targets: Any) -> Tensor:
    """Return how many rows and columns each picture fills, (2, B) on the host: to the last pixel that counts."""
    height, width = inputs.shape[2:]
    if not is_dense(inputs, targets):
        return torch.tensor([[height], [width]]).expand(2, len(inputs))
    counted = targets != IGNORED
    last = [(counted.any(axis) * torch.arange(1, side + 1, device=counted.device)).amax(1)
            for axis, side in ((2, height), (1, width))]  # fmt: skip
    return torch.stack(last).cpu()


@dataclass(frozen=True)
class Window:
    """Cut a smaller window at a random place: training then takes windows, and evaluation the whole pictures.

    Where masks say that a picture was padded below and at the right, it is cut within the picture.

    For networks that take pictures of any size.

    Args:
        size: pixels a side.

    Source: Ronneberger et al. 2015, U-Net, section 2 (tiles of large pictures).
    """

    size: int = 128
    moves_only: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ConfigError(f"data.augment: window takes size >= 1, got {self.size}")

    def __call__(self, inputs: Tensor, targets: Any, generator: torch.Generator) -> tuple[Tensor, Any]:
        """Cut (B, C, size, size) from (B, C, H, W)."""
        need_pictures(inputs, "window")
        height, width = inputs.shape[2:]
        if self.size > min(height, width):
            raise ConfigError(
                f"data.augment: a window of {self.size} px is larger than the pictures, {height}x{width}."
                f" {{window: {{size: {min(height, width)}}}}}"
            )
        room = _extents(inputs, targets) - self.size + 1
        make = functools.partial(torch.rand, generator=generator, dtype=torch.float64)
        draws = drawn(lambda many: make(2, many), len(inputs), generator, 1)
        tops, lefts = (draws * room.clamp_min(1)).long().tolist()
        places = [(slice(top, top + self.size), slice(left, left + self.size)) for top, left in zip(tops, lefts)]

        def cut(values: Tensor) -> Tensor:
            return _laid_out(
                torch.stack([value[(slice(None), *place)] for value, place in zip(values, places)]), values
            )

        return moved(inputs, targets, cut)

    def __str__(self) -> str:
        """Return the name and the side."""
        return f"windows of {self.size} px"


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
        need_pictures(inputs, "resized_crop")
        count = len(inputs)
        area = uniform(count, self.scale[0], self.scale[1], generator)
        ratio = uniform(count, math.log(self.ratio[0]), math.log(self.ratio[1]), generator).exp()
        width, height = (area * ratio).sqrt().clamp_max(1), (area / ratio).sqrt().clamp_max(1)
        x, y = ((1 - side) * uniform(count, -1, 1, generator) for side in (width, height))
        zero = torch.zeros(count)
        return warped(inputs, targets, torch.stack([width, zero, x, zero, height, y], 1).view(count, 2, 3))

    def __str__(self) -> str:
        """Return the name and the scales."""
        return f"resized crop of {self.scale[0]:.0%} to {self.scale[1]:.0%}"


def warped(inputs: Tensor, targets: Any, matrices: Tensor) -> tuple[Tensor, Any]:
    """Sample pictures, bilinear, and their masks, nearest, where matrices say; what is outside is black, or ignored.

    Args:
        inputs: (B, C, H, W) in [0, 1]. targets: of any kind; masks (B, H, W) are moved, all others left.
        matrices: (B, 2, 3), in coordinates of [-1, 1].
    """
    grid = F.affine_grid(sent(matrices, inputs.device).to(inputs.dtype), list(inputs.shape), align_corners=False)
    if is_dense(inputs, targets):
        shifted = (targets - IGNORED).unsqueeze(1).to(inputs.dtype)  # so that 0, which stands outside, is ignored
        found = F.grid_sample(shifted, grid, mode="nearest", padding_mode="zeros", align_corners=False)
        targets = found.squeeze(1).to(targets.dtype) + IGNORED
    return F.grid_sample(inputs, grid, padding_mode="zeros", align_corners=False), targets
