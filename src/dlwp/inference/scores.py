"""Own the numbers of a report: by class, calibration, intervals, the worst samples; all from counts and sums.

Knows nothing of runs, files or pictures.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dlwp.inference.samples import Classified
from dlwp.metrics import Accuracy, TopK
from dlwp.report import wilson_interval

NUM_BINS = 15
"""Bins of confidence, as in Guo et al. 2017."""


def among(found: Classified, there: Tensor) -> Classified:
    """Return the samples with their classes numbered by their places in `there`, (M,), sorted, which holds them all."""
    places = [torch.searchsorted(there, values) for values in (found.labels, found.predictions)]
    return dataclasses.replace(found, labels=places[0], predictions=places[1], num_classes=len(there))


def confusion(found: Classified) -> Tensor:
    """Return the counts (K, K), int64: rows true classes, columns predicted ones."""
    cells = found.labels * found.num_classes + found.predictions
    return torch.bincount(cells, minlength=found.num_classes**2).reshape(found.num_classes, found.num_classes)


def by_class(counts: Tensor, names: Sequence[str]) -> list[dict[str, Any]]:
    """Return precision, recall and F1 of each class, in the order of the indices.

    precision = right / predicted as it, recall = right / samples of it, F1 = 2 right / (samples + predicted); None
    where nothing is there to divide by. "recall_interval" is the 95% interval of the recall (Wilson 1927).

    Args:
        counts: (K, K), rows true classes.
        names: of the K classes.
    """
    found = []
    totals, predicted, right = counts.sum(1).tolist(), counts.sum(0).tolist(), counts.diagonal().tolist()
    for index, name in enumerate(names):
        found.append({
            "class": name, "index": index, "samples": totals[index], "predicted": predicted[index],
            "precision": _share(right[index], predicted[index]), "recall": _share(right[index], totals[index]),
            "f1": _share(2 * right[index], totals[index] + predicted[index]),
            "recall_interval": interval(right[index] / totals[index], totals[index]) if totals[index] else None,
        })  # fmt: skip
    return found


def macro_f1(classes: Sequence[Mapping[str, Any]]) -> float | None:
    """Return the mean F1 over the classes that are there, or were predicted, as scikit-learn's average="macro" does."""
    values = [one["f1"] for one in classes if one["f1"] is not None]
    return math.fsum(values) / len(values) if values else None


def interval(share: float, count: int) -> list[float] | None:
    """Return the 95% interval [low, high] of a share of `count` samples (Wilson 1927); None where it is no number."""
    return [*wilson_interval(share, count)] if math.isfinite(share) else None


def intervals(values: Mapping[str, float], metrics: Mapping[str, Any], count: int) -> dict[str, list[float] | None]:
    """Return the 95% interval of each value that is a proportion of samples: those of `Accuracy` and `TopK`."""
    proportions = [name for name, metric in metrics.items() if isinstance(metric, Accuracy | TopK) and name in values]
    return {name: interval(values[name], count) for name in proportions}


def calibration(found: Classified, num_bins: int = NUM_BINS) -> dict[str, Any]:
    """Return how far the probabilities are from what happens: the expected calibration error, and its bins.

    ECE = sum over bins of (n / N) |accuracy - mean confidence|, over bins of equal width, each with its upper bound.

    Args:
        found: the samples. Confidences that are no numbers are in no bin, and then there is no error.
        num_bins: from 0 to 1.

    Returns:
        "error"; "confidence" and "accuracy", means over all samples; "bins", a list of "from", "to", "count",
        "confidence", "accuracy" (None in an empty one).

    Source:
        Guo et al. 2017, On Calibration of Modern Neural Networks, equations 1 to 3 (15 bins there too).
    """
    total = len(found.confidences)
    sound = found.confidences.isfinite()
    confidences, right = found.confidences[sound], found.right[sound].double()
    edges = torch.arange(1, num_bins, dtype=torch.float64) / num_bins
    places = torch.bucketize(confidences, edges)  # in bin m where edge m - 1 < confidence <= edge m
    sums = torch.zeros(3, num_bins, dtype=torch.float64)
    sums.index_add_(1, places, torch.stack([torch.ones_like(right), confidences, right]))
    bins = [
        {
            "from": place / num_bins, "to": (place + 1) / num_bins, "count": int(count),
            "confidence": _share(confidence, count), "accuracy": _share(correct, count),
        }
        for place, (count, confidence, correct) in enumerate(sums.T.tolist())
    ]  # fmt: skip
    gaps = (sums[2] - sums[1]).abs().sum()  # n |accuracy - confidence| of each bin
    is_whole = bool(sound.all()) and total > 0
    return {
        "error": float(gaps) / total if is_whole else None,
        "confidence": float(confidences.mean()) if is_whole else None,
        "accuracy": _share(int(found.right.sum()), total),
        "num_bins": num_bins,
        "bins": bins,
    }


def worst(found: Classified, names: Sequence[str], most: int) -> list[dict[str, Any]]:
    """Return the wrong samples with the highest loss -log p(true class), the highest first."""
    wrong = (~found.right).nonzero().flatten()
    order = wrong[found.losses[wrong].argsort(descending=True, stable=True)][:most]
    return [
        {
            "sample": int(found.indices[at]),
            "true": names[int(found.labels[at])],
            "predicted": names[int(found.predictions[at])],
            "probability": float(found.confidences[at]),
            "true_probability": float(found.chances[at]),
            "loss": float(found.losses[at]),
        }
        for at in order.tolist()
    ]


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None
