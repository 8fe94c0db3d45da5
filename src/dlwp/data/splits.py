"""Own the splits: reading what a `_target_` gave, cutting validation from train, and what the classes weigh.

Knows nothing of how samples are fed or what is done with them. It is the door of this room: the types and the finding
of facts can be imported from here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from dlwp import randomness
from dlwp.data.datasets import NAMES, ArrayDataset, Facts, Splits, as_arrays, is_iterable, size, targets_of
from dlwp.data.facts import check_labels, find_facts
from dlwp.errors import ConfigError, DataError, did_you_mean

__all__ = [
    "ArrayDataset", "Facts", "Splits", "as_splits", "check_labels", "choose", "class_weights", "collate_of",
    "cut_validation",
    "find_facts", "take",
]  # fmt: skip


def as_splits(found: Any) -> Splits:
    """Return what a `_target_` of data gave as splits.

    Args:
        found: `Splits`; one `Dataset` (or a list of samples), which is then `train`; or a mapping of
            train, val and test to such.

    Raises:
        ConfigError: it is none of these.
    """
    if isinstance(found, Splits):
        return found
    if isinstance(found, Mapping):
        unknown = [str(name) for name in found if name not in NAMES]
        if unknown:
            raise ConfigError(
                f"data has no split '{unknown[0]}'.{did_you_mean(unknown[0], NAMES)} There are: train, val, test"
            )
        if found.get("train") is None:
            raise ConfigError(
                f"data gives {', '.join(found) or 'no split'} but no 'train'. Give a mapping of train, val, test"
            )
        parts = {n: as_arrays(_checked(part, f"data.{n}")) for n, part in found.items() if part is not None}
        return Splits(parts["train"], parts.get("val"), parts.get("test"))
    return Splits(train=as_arrays(_checked(found, "data._target_")))


def _checked(found: Any, key: str) -> Dataset[Any]:
    kind = type(found).__name__
    if is_iterable(found):
        return found
    is_map = hasattr(found, "__len__") and hasattr(found, "__getitem__") and not isinstance(found, Tensor | str | bytes)
    if not (isinstance(found, Dataset) or is_map) or isinstance(found, type):
        kind = found.__name__ + " itself" if isinstance(found, type) else kind
        raise ConfigError(
            f"{key} gives {kind}; a torch.utils.data.Dataset (or a mapping train/val/test of them) is needed"
        )
    return found


# ---- the validation split -------------------------------------------------------------------------------------------


def cut_validation(splits: Splits, fraction: float, seed: int) -> Splits:
    """Return splits in which `val` is cut from `train`, if there is none: a function of (targets, fraction, seed).

    Where the targets are class indices, each class gives the same share, rounded so that the whole is exact.

    Args:
        splits: as a data function gave them.
        fraction: share of train that becomes val, in [0, 1); 0 leaves the splits as they are.
        seed: of the run.

    Raises:
        DataError: train or val would be empty.
    """
    if splits.val is not None or fraction == 0:
        return splits
    train = as_arrays(splits.train)
    if is_iterable(train):
        told = "no val: what can only be iterated is not cut; give a function that returns {'train': ..., 'val': ...}"
        return dataclasses.replace(splits, notes=[*splits.notes, told])
    total = size(train)
    count = round(total * fraction)
    if fraction >= 1 or count == total:
        raise DataError(
            f"train would be empty (data.val_fraction={fraction:g} of {total:,} samples). data.val_fraction=0.1"
        )
    if count == 0:
        raise DataError(
            f"val would be empty (0 of {total:,} samples). A larger data.val_fraction (now {fraction:g}), or 0"
        )
    classes = _classes_of(train, splits.facts.task)
    chosen = choose(total, count, classes, randomness.generator(seed, "split"))
    how = "stratified" if classes is not None else "at random"
    note = f"val {count:,} ({100 * fraction:g}% of train, {how}, seed {seed})"
    parts = (_part(train, (~chosen).nonzero().view(-1)), _part(train, chosen.nonzero().view(-1)))
    return Splits(parts[0], parts[1], splits.test, splits.facts, [*splits.notes, note], splits.warnings)


def take(dataset: Dataset[Any], count: int, seed: int) -> Dataset[Any]:
    """Return `count` samples of a data set, stratified where its targets are class indices: a function of the seed."""
    if is_iterable(dataset):
        raise ConfigError(
            "data.max_samples does not cut what can only be iterated. trainer.limit_batches, or max_steps"
        )
    if count >= size(dataset):
        return dataset
    dataset = as_arrays(dataset)
    chosen = choose(size(dataset), count, _classes_of(dataset, "other"), randomness.generator(seed, "split", count))
    return _part(dataset, chosen.nonzero().view(-1))


def class_weights(splits: Splits) -> tuple[list[float], str]:
    """Return weights under which all classes count alike in a mean, N / (K · n_k), and the reason.

    Of several labels a sample: how often each is not there for each time that it is, (N - n_k) / n_k, for `pos_weight`.

    Raises:
        ConfigError: the targets of train cannot be had without reading its samples, or are no classes.
    """
    found, num_classes = targets_of(as_arrays(splits.train)), splits.facts.num_classes
    is_dense = found is not None and found[0].dim() != 1
    if found is None or num_classes is None or (is_dense and splits.facts.task not in ("multilabel", "segmentation")):
        raise ConfigError("class weights 'auto' need class targets that can be read at once. Give them as a list")
    if splits.facts.task == "multilabel":
        counts = found[0].sum(0).clamp_min(1)
        weights = (len(found[0]) - counts.double()).clamp_min(1) / counts
        return weights.tolist(), f"train has {int(counts.min()):,} to {int(counts.max()):,} samples a label"
    classes = found[0].flatten().long()
    classes = classes[classes >= 0]  # of masks: without pixels that do not count
    counts = torch.bincount(classes, minlength=num_classes).clamp_min(1)
    weights = len(classes) / (num_classes * counts.double())
    if splits.facts.task == "segmentation":
        return weights.tolist(), f"{counts.min() / len(classes):.2%} to {counts.max() / len(classes):.1%} of the pixels"
    return weights.tolist(), f"train has {int(counts.min()):,} to {int(counts.max()):,} samples a class"


def _classes_of(dataset: Dataset[Any], task: str) -> Tensor | None:
    found = targets_of(dataset)
    return found[0] if found is not None and _are_classes(found[0], task) else None


def _are_classes(targets: Tensor, task: str) -> bool:
    if targets.dim() != 1 or targets.is_floating_point() or task not in ("classification", "other"):
        return False
    return task == "classification" or 2 * len(targets.unique()) <= len(targets)


def choose(total: int, count: int, classes: Tensor | None, generator: torch.Generator) -> Tensor:
    """Return a mask (total,) of `count` samples; of each class its share, the remainders going to the largest."""
    order = torch.randperm(total, generator=generator)
    chosen = torch.zeros(total, dtype=torch.bool)
    if classes is None:
        chosen[order[:count]] = True
        return chosen
    _, inverse, sizes = classes.unique(return_inverse=True, return_counts=True)
    shares = sizes * count  # in units of 1 / total, so that rounding is exact
    quotas = shares // total
    left = count - int(quotas.sum())
    quotas[torch.argsort(shares % total, descending=True, stable=True)[:left]] += 1
    order = order[torch.argsort(inverse[order], stable=True)]  # by class, at random within each
    begins = sizes.cumsum(0) - sizes
    for begin, quota in zip(begins.tolist(), quotas.tolist()):
        chosen[order[begin : begin + quota]] = True
    return chosen


def collate_of(dataset: Dataset[Any]) -> Any:
    """Return the data set's own `collate_fn`, which makes a batch of a list of samples; None where it has none."""
    if isinstance(dataset, Subset):
        return collate_of(dataset.dataset)
    found = getattr(dataset, "collate_fn", None)
    return found if callable(found) else None


def _part(dataset: Dataset[Any], indices: Tensor) -> Dataset[Any]:
    return dataset.subset(indices) if hasattr(dataset, "subset") else Subset(dataset, indices.tolist())
