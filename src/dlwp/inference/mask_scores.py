"""Own what an evaluation of masks keeps and tells: counts of pixels, the worst pictures, and how these are drawn.

Knows nothing of runs or files.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy
import torch
from torch import Tensor

from dlwp.data.geometry import IGNORED
from dlwp.inference import scores
from dlwp.observers import overlays

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DRAWN = 6
_INK, _FAINT = "#222222", "#777777"


class MaskCollector:
    """Keep the counts of pixels by true and predicted class, and the predicted masks of the worst pictures.

    Args:
        num_classes: number of classes K. most: how many of the worst are kept.
    """

    def __init__(self, num_classes: int, most: int) -> None:
        self.num_classes, self._most = num_classes, most
        self.counts = torch.zeros(num_classes, num_classes, dtype=torch.int64)
        self._worst: list[tuple[float, int, Tensor]] = []

    def add(self, outputs: Tensor, targets: Tensor, indices: Tensor) -> bool:
        """Add a batch; return False where it is not a class for each pixel. Waits for the device.

        Args:
            outputs: logits (B, K, H, W). targets: classes (B, H, W). indices: of the samples, (B,), on the host.
        """
        if outputs.dim() != 4 or targets.shape != (len(outputs), *outputs.shape[2:]):
            return False
        size = self.num_classes**2
        found, counted = outputs.max(1).indices, targets != IGNORED
        own = torch.arange(len(targets), device=targets.device).view(-1, 1, 1) * size  # a block of cells a picture
        cells = (own + targets * self.num_classes + found)[counted]
        counts = torch.bincount(cells, minlength=len(targets) * size).view(-1, self.num_classes, self.num_classes).cpu()
        self.counts += counts.sum(0)
        for index, one, mask in zip(indices.tolist(), counts, found):
            value = mean_iou(one)
            if value == value and (len(self._worst) < self._most or value < self._worst[-1][0]):
                self._worst.append((value, index, mask.to("cpu", torch.uint8)))
                self._worst = sorted(self._worst, key=lambda kept: kept[:2])[: self._most]
        return True

    def worst(self) -> list[dict[str, Any]]:
        """Return the pictures of the lowest IoU, the lowest first: the sample and its IoU."""
        return [{"sample": index, "iou": value} for value, index, _ in self._worst]

    def mask(self, sample: int) -> numpy.ndarray:
        """Return the predicted mask of one of the worst, uint8 (H, W)."""
        return next(mask.numpy() for _, index, mask in self._worst if index == sample)


def iou_of(counts: Tensor) -> Tensor:
    """Return the IoU of each class, float64 (K,), of counts (K, K); NaN of one that is neither there nor predicted."""
    right = counts.diagonal().double()
    return right / (counts.sum(0) + counts.sum(1) - right)


def mean_iou(counts: Tensor) -> float:
    """Return the mean IoU of the classes that occur; of two classes that of the second, the foreground.

    A picture of background alone, and predicted so, counts 1.
    """
    values = iou_of(counts)
    if len(values) == 2:
        return 1.0 if bool(values[1].isnan()) and int(counts.sum()) else float(values[1])
    return float(values.nanmean())


def by_class(counts: Tensor, names: Sequence[str]) -> list[dict[str, Any]]:
    """Return IoU, precision, recall and F1 (the Dice coefficient) of each class, with its pixels."""
    values = iou_of(counts).tolist()
    rows = scores.by_class(counts, names)
    # neighbouring pixels are alike: an interval as of independent samples would be far too narrow
    return [
        row | {"iou": None if value != value else value, "recall_interval": None} for row, value in zip(rows, values)
    ]


def draw_worst(
    worst: Sequence[dict[str, Any]], pictures: Sequence[Tensor], truths: Sequence[Tensor], collector: MaskCollector,
    title: str = "",
) -> Figure:  # fmt: skip
    """Return a figure of the worst pictures: each as it is, with its true mask, and with the predicted one.

    Args:
        worst: as `MaskCollector.worst` gives them, with "file". pictures: uint8 (H, W, 1 or 3) of each.
        truths: classes (H, W) of each. collector: has the predicted masks. title: what was evaluated.
    """
    from matplotlib.figure import Figure

    rows = list(zip(worst, pictures, truths))[:_DRAWN]
    figure = Figure(figsize=(8.4, 2.95 * len(rows) + 0.4), dpi=100, layout="constrained")
    figure.suptitle(
        f"lowest IoU{f' ({title})' if title else ''}", x=0.01, ha="left", fontsize=11, fontweight="bold", color=_INK
    )
    axes = figure.subplots(len(rows), 3, squeeze=False)
    for row, (one, picture, truth) in zip(axes, rows):
        counted = truth != IGNORED
        shown = numpy.ix_(counted.any(1).numpy(), counted.any(0).numpy())  # without what was padded
        pixels, classes = picture.expand(-1, -1, 3).numpy()[shown], truth.numpy()[shown]
        predicted = numpy.where(classes == IGNORED, 0, collector.mask(one["sample"])[shown])
        _draw(row[0], pixels, f"sample {one['sample']:,}" if one["file"] is None else Path(one["file"]).name[-34:])
        _draw(row[1], overlays.overlaid(pixels, classes), "true")
        _draw(row[2], overlays.overlaid(pixels, predicted), f"predicted, IoU {one['iou']:.1%}")
    return figure


def _draw(axis: Axes, pixels: numpy.ndarray, text: str) -> None:
    axis.imshow(pixels, interpolation="antialiased")
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_color("#cccccc")
    axis.set_title(text, fontsize=8.5, loc="left", color=_FAINT, pad=3)
