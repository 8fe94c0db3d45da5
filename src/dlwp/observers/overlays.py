"""Own how masks are shown: a colour for each class, laid over the picture and outlined.

Knows nothing of runs, of TensorBoard or of how masks are found.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy
import torch
from torch import Tensor

from dlwp.data.geometry import IGNORED

_SHARE = 0.35  # of the colour inside an outline
_FIRST = ((0, 0, 0), (230, 60, 40), (40, 120, 220), (60, 180, 75), (245, 200, 40), (150, 70, 190), (60, 200, 210))
"""Colours of class 0, which is left as it is, and of the next ones; further ones are mixed from the bits of a class."""


def palette(num_classes: int) -> numpy.ndarray:
    """Return a colour for each class, uint8 (K, 3); the first six are easily told apart.

    Source: those after them as in the Pascal VOC development kit (bits of the class to high bits of the channels).
    """
    found = numpy.zeros((num_classes, 3), numpy.uint8)
    for number in range(num_classes):
        for bit in range(8):
            for channel in range(3):
                found[number, channel] |= ((number >> (3 * bit + channel)) & 1) << (7 - bit)
    count = min(num_classes, len(_FIRST))
    found[:count] = _FIRST[:count]
    return found


def overlaid(picture: numpy.ndarray, mask: numpy.ndarray) -> numpy.ndarray:
    """Return a picture with the colours of a mask over it: full along its outlines, faint inside.

    Args:
        picture: uint8 (H, W, 3). mask: classes (H, W); of class 0, and of pixels that do not count, nothing is shown.
    """
    classes = numpy.where(mask == IGNORED, 0, mask).astype(int)
    colours = palette(int(classes.max()) + 1)[classes]
    inside = (_SHARE * colours + (1 - _SHARE) * picture).round().astype(numpy.uint8)
    edge = numpy.zeros(classes.shape, bool)
    edge[:-1] |= classes[:-1] != classes[1:]
    edge[1:] |= classes[1:] != classes[:-1]
    edge[:, :-1] |= classes[:, :-1] != classes[:, 1:]
    edge[:, 1:] |= classes[:, 1:] != classes[:, :-1]
    shown = numpy.where((edge & (classes > 0))[..., None], colours, inside)
    return numpy.where((classes > 0)[..., None], shown, picture).astype(numpy.uint8)


def overlaid_batch(
    inputs: Tensor, masks: Tensor, mean: Sequence[float] | None, std: Sequence[float] | None
) -> list[numpy.ndarray]:
    """Return overlays uint8 (H, W, 3) of a batch as the model sees it.

    Args:
        inputs: (B, C, H, W), normalised by mean and std where they are given. masks: (B, H, W).
    """
    pictures = inputs.detach().float().cpu()
    if mean is not None and std is not None:
        pictures = pictures * torch.tensor(std).view(-1, 1, 1) + torch.tensor(mean).view(-1, 1, 1)
    pixels = (pictures * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)  # (B, H, W, C)
    pixels = pixels[..., :3] if pixels.shape[-1] >= 3 else pixels[..., :1].expand(-1, -1, -1, 3)
    return [overlaid(one, mask) for one, mask in zip(pixels.numpy(), masks.cpu().numpy(), strict=True)]


def mask_picture(mask: numpy.ndarray, num_classes: int) -> Any:
    """Return a mask as a picture of Pillow's with a palette: its values are the classes, its colours are seen."""
    from PIL import Image

    picture = Image.fromarray(mask.astype(numpy.uint8), "L")
    picture.putpalette(palette(max(2, num_classes)).tobytes())
    return picture


def columns(pictures: Sequence[Sequence[numpy.ndarray]], gap: int = 4) -> numpy.ndarray:
    """Return rows of pictures of one size side by side, uint8 (H', W', 3), with white between them."""
    rows = [numpy.concatenate([_framed(one, gap) for one in row], 1) for row in pictures]
    return numpy.concatenate(rows, 0)[:-gap, :-gap]


def _framed(picture: numpy.ndarray, gap: int) -> numpy.ndarray:
    return numpy.pad(picture, ((0, gap), (0, gap), (0, 0)), constant_values=255)
