"""Own what a data set is to dlwp: a mapping of splits to plain `Dataset`s, and the facts known of them.

Knows nothing of how samples are fed or what is done with them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset

from dlwp import randomness
from dlwp.errors import ConfigError, DataError, did_you_mean

NAMES = ("train", "val", "test")
"""The splits, in the order in which they are told of."""


class ArrayDataset(Dataset[tuple[Tensor, Tensor]]):
    """A data set held whole: `inputs` (N, ...) and `targets` (N, ...), indexed together.

    Pictures are uint8 of shape (N, C, H, W); scaling to [0, 1] and normalising is done on whole batches.
    """

    def __init__(self, inputs: Tensor, targets: Tensor) -> None:
        if len(inputs) != len(targets):
            raise DataError(f"inputs hold {len(inputs):,} samples but targets {len(targets):,}")
        self.inputs = inputs
        self.targets = targets

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.inputs[index], self.targets[index]

    def subset(self, indices: Tensor) -> ArrayDataset:
        """Return the samples at `indices`, copied."""
        return ArrayDataset(take(self.inputs, indices), take(self.targets, indices))


def take(values: Tensor, indices: Tensor) -> Tensor:
    """Return `values[indices]` in the memory format of `values` (50 times faster than indexing for uint8 pictures)."""
    if is_channels_last(values):
        return values.permute(0, 2, 3, 1).index_select(0, indices).permute(0, 3, 1, 2)
    return values.index_select(0, indices)


def is_channels_last(values: Tensor) -> bool:
    """Return whether pictures (B, C, H, W) lie in memory as (B, H, W, C) and not also as (B, C, H, W)."""
    return values.dim() == 4 and not values.is_contiguous() and values.is_contiguous(memory_format=torch.channels_last)


@dataclass
class Facts:
    """What is known of the data, to fill every `auto` from; `sources` says where each fact comes from.

    Attributes:
        task: "classification", "regression", "reconstruction" or "other".
        input_shape: shape of one input without the batch, (C, H, W) for pictures.
        target_shape: shape of one target without the batch, () for a class index.
        num_classes: number of classes K, for classification.
        classes: their names, in the order of the indices.
        mean, std: per channel, of inputs scaled to [0, 1] (uint8 pictures) or as they are (floats).
    """

    task: str = "other"
    input_shape: tuple[int, ...] = ()
    target_shape: tuple[int, ...] = ()
    num_classes: int | None = None
    classes: list[str] | None = None
    mean: list[float] | None = None
    std: list[float] | None = None
    sources: dict[str, str] = field(default_factory=dict)


@dataclass
class Splits:
    """The splits of a data set. A data function returns one of these, or a plain `Dataset` (which is then `train`).

    `notes` are short sentences for the summary: where the data was found, what was done to it.
    """

    train: Dataset[Any]
    val: Dataset[Any] | None = None
    test: Dataset[Any] | None = None
    facts: Facts = field(default_factory=Facts)
    notes: list[str] = field(default_factory=list)

    def present(self) -> dict[str, Dataset[Any]]:
        """Return the splits that there are, by name."""
        return {name: dataset for name in NAMES if (dataset := getattr(self, name)) is not None}


def as_splits(found: Any) -> Splits:
    """Return what a `_target_` of data gave as splits.

    Args:
        found: `Splits`; one map-style `Dataset` (or a list of samples), which is then `train`; or a mapping of
            train, val and test to such.

    Raises:
        ConfigError: it is none of these.
    """
    if isinstance(found, Splits):
        return found
    if isinstance(found, Mapping):
        unknown = [str(name) for name in found if name not in NAMES]
        if unknown:
            raise ConfigError(f"data has no split '{unknown[0]}'.{did_you_mean(unknown[0], NAMES)} There are: train, val, test")
        if found.get("train") is None:
            raise ConfigError(f"data gives {', '.join(found) or 'no split'} but no 'train'. Give a mapping of train, val, test")
        return Splits(**{name: as_arrays(_checked(part, f"data.{name}")) for name, part in found.items() if part is not None})
    return Splits(train=as_arrays(_checked(found, "data._target_")))


def _checked(found: Any, key: str) -> Dataset[Any]:
    kind = type(found).__name__
    if isinstance(found, IterableDataset):
        raise ConfigError(f"{key} gives {kind}, which can only be iterated; a Dataset with __len__ and __getitem__ is needed")
    is_map = hasattr(found, "__len__") and hasattr(found, "__getitem__") and not isinstance(found, Tensor | str | bytes)
    if not (isinstance(found, Dataset) or is_map) or isinstance(found, type):
        kind = found.__name__ + " itself" if isinstance(found, type) else kind
        raise ConfigError(f"{key} gives {kind}; a torch.utils.data.Dataset (or a mapping train/val/test of them) is needed")
    return found  # type: ignore[no-any-return]


def as_arrays(dataset: Dataset[Any]) -> Dataset[Any]:
    """Return a data set of two tensors, or a subset of one, as an `ArrayDataset`; any other as it is."""
    if isinstance(dataset, TensorDataset) and len(dataset.tensors) == 2:
        return ArrayDataset(*dataset.tensors)
    if isinstance(dataset, Subset):
        whole = as_arrays(dataset.dataset)
        if isinstance(whole, ArrayDataset):
            return whole.subset(torch.as_tensor(dataset.indices, dtype=torch.int64))
    return dataset


def size(dataset: Dataset[Any]) -> int:
    """Return the number of samples of a map-style data set."""
    return len(dataset)  # type: ignore[arg-type]


def targets_of(dataset: Dataset[Any]) -> tuple[Tensor, str] | None:
    """Return all targets of a data set as a tensor, and where they were read, or None where samples must be read for it.

    An attribute `targets` or `labels` counts only where it agrees with the target of the first sample.
    """
    if isinstance(dataset, ArrayDataset):
        return dataset.targets, "targets"
    if isinstance(dataset, Subset):
        whole = targets_of(dataset.dataset)
        return None if whole is None else (whole[0][torch.as_tensor(dataset.indices, dtype=torch.int64)], whole[1])
    for name in ("targets", "labels"):
        try:
            values = torch.as_tensor(getattr(dataset, name))
        except (AttributeError, TypeError, ValueError, RuntimeError):
            continue  # not there, or not numbers
        if values.dim() == 1 and 0 < len(values) == size(dataset) and _agrees(dataset, values[0]):
            return values, f"{type(dataset).__name__}.{name}"
    return None


def _agrees(dataset: Dataset[Any], first: Tensor) -> bool:
    with randomness.preserved():
        sample = dataset[0]
    if not isinstance(sample, tuple | list) or len(sample) != 2:
        return False
    target = torch.as_tensor(sample[1])
    return target.dim() == 0 and target.item() == first.item()


# ---- the validation split ---------------------------------------------------------------------------------------------


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
    total = size(train)
    count = round(total * fraction)
    if fraction >= 1 or count == total:
        raise DataError(f"train would be empty (data.val_fraction={fraction:g} of {total:,} samples). data.val_fraction=0.1")
    if count == 0:
        raise DataError(f"val would be empty (0 of {total:,} samples). A larger data.val_fraction (now {fraction:g}), or 0")
    found = targets_of(train)
    classes = found[0] if found is not None and _are_classes(found[0], splits.facts.task) else None
    chosen = _choose(total, count, classes, randomness.generator(seed, "split"))
    how = "stratified" if classes is not None else "at random"
    note = f"val {count:,} ({100 * fraction:g}% of train, {how}, seed {seed})"
    parts = (_part(train, (~chosen).nonzero().view(-1)), _part(train, chosen.nonzero().view(-1)))
    return Splits(parts[0], parts[1], splits.test, splits.facts, [*splits.notes, note])


def _are_classes(targets: Tensor, task: str) -> bool:
    if targets.dim() != 1 or targets.is_floating_point() or task not in ("classification", "other"):
        return False
    return task == "classification" or 2 * len(targets.unique()) <= len(targets)


def _choose(total: int, count: int, classes: Tensor | None, generator: torch.Generator) -> Tensor:
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


def _part(dataset: Dataset[Any], indices: Tensor) -> Dataset[Any]:
    return dataset.subset(indices) if isinstance(dataset, ArrayDataset) else Subset(dataset, indices.tolist())
