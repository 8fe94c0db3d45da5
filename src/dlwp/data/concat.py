"""Own several data sets as one: their classes united by name, their shares of an epoch by weights.

Knows nothing of where a part comes from, nor of how samples are fed.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from dlwp import nested
from dlwp.data.datasets import NAMES, ArrayDataset, Facts, Splits, as_arrays, is_iterable, size, targets_of
from dlwp.data.facts import first_sample, names_of_classes
from dlwp.data.splits import as_splits, collate_of
from dlwp.errors import ConfigError, DataError

_ALIKE = ("task", "form", "inputs", "target_names", "target_mean", "target_std", "encoding")
"""Facts in which the parts must agree; mean and std are kept where they do, and else measured anew."""


def concat(parts: Any, weights: Sequence[float] | None = None) -> Splits:
    """Return several data sets as one, split by split; held in memory where all of them are.

    Args:
        parts: name -> what a `_target_` of data gives (splits, or one data set, which is train), or a list of such.
        weights: in what proportion the parts are drawn in training, in their order; an epoch has as many samples as
            train, and takes none of a part again before all of that were taken. None: all samples as they are.

    Raises:
        ConfigError: `parts` or `weights` are wrong. DataError: what the parts hold cannot be one data set.
    """
    given = _named(parts)
    names = {name: _classes(part) for name, part in given.items()}
    found = {name: as_splits(part) for name, part in given.items()}
    _check_weights(weights, list(found))
    for name, part in found.items():
        for split, dataset in part.present().items():
            if is_iterable(dataset):
                raise DataError(f"part '{name}' can only be iterated ({split}), which cannot be joined with others")
    facts = _joined_facts(found, names)
    if facts.classes is not None:
        for name, part in found.items():
            for split, dataset in part.present().items():
                setattr(part, split, _renumbered(as_arrays(dataset), names[name], facts.classes))
    joined: dict[str, Any] = {}
    notes, warnings = [], []
    for split in NAMES:
        datasets = {name: one for name, part in found.items() if (one := getattr(part, split)) is not None}
        if datasets:
            joined[split] = _joined(datasets, weights if split == "train" else None)
            notes.append(f"{split}: " + " · ".join(f"{name} {size(one):,}" for name, one in datasets.items()))
    for name, part in found.items():
        notes += [f"{name}: {note}" for note in part.notes]
        warnings += [f"{name}: {warning}" for warning in part.warnings]
    return Splits(joined["train"], joined.get("val"), joined.get("test"), facts, notes, warnings)


def _named(parts: Any) -> dict[str, Any]:
    if isinstance(parts, Mapping) and "_target_" not in parts:
        found = {str(name): part for name, part in parts.items() if part is not None}
    elif isinstance(parts, Sequence) and not isinstance(parts, str):
        found = {str(number): part for number, part in enumerate(parts)}
    else:
        raise ConfigError(f"data.parts must be {{NAME: {{_target_: ...}}, ...}}, or a list, got {type(parts).__name__}")
    if not found:
        raise ConfigError("data.parts names no data set. data.parts.a._target_=my_file.MyDataset")
    bare = [name for name, part in found.items() if isinstance(part, Mapping) and not set(part) <= set(NAMES)]
    if bare:
        raise ConfigError(f"data.parts.{bare[0]} has no _target_. data.parts.{bare[0]}._target_=my_file.MyDataset")
    return found


def _check_weights(weights: Any, names: list[str]) -> None:
    if weights is None:
        return
    sound = isinstance(weights, Sequence) and not isinstance(weights, str)
    sound = sound and all(isinstance(one, int | float) and not isinstance(one, bool) and one >= 0 for one in weights)
    if not sound or not any(weights):
        raise ConfigError(f"data.weights must be numbers from 0, one a part, got {weights!r}. data.weights=[3,1]")
    if len(weights) != len(names):
        raise ConfigError(f"data.weights has {len(weights)} numbers, data.parts {len(names)} ({', '.join(names)})")


def _told(names: Sequence[str], shares: list[list[int]]) -> str:
    total = sum(taken for _, taken in shares)
    pieces = [f"{name} {taken / total:.1%} ({taken:,} of its {count:,})" for name, (count, taken) in zip(names, shares)]
    return f"an epoch draws {' · '.join(pieces)} (data.weights)"


# ---- facts ----------------------------------------------------------------------------------------------------------


def _classes(part: Any) -> list[str] | None:
    """Return the names of the classes of a part as it was given: arrays made of it would have none."""
    if isinstance(part, Splits):
        return part.facts.classes or names_of_classes(part.train)
    return names_of_classes(part["train"] if isinstance(part, Mapping) and "train" in part else part)


def _joined_facts(found: Mapping[str, Splits], names: Mapping[str, list[str] | None]) -> Facts:
    """Return the facts of all parts.

    Raises:
        DataError: they do not agree; it names the first two that do not.
    """
    (first, one), *others = found.items()
    sample = first_sample(one.train, collate_of(one.train))
    for name, part in others:
        other = first_sample(part.train, collate_of(part.train))
        if _shapes(other) != _shapes(sample):
            raise DataError(
                f"parts differ: a sample of '{first}' is {nested.described(sample)}, of '{name}' "
                f"{nested.described(other)}. Make them alike, in one of their functions"
            )
        for key in _ALIKE:
            mine, theirs = getattr(one.facts, key), getattr(part.facts, key)
            if mine != theirs and not (key == "task" and "other" in (mine, theirs)):  # other: not known yet
                raise DataError(f"parts differ in {key}: '{first}' has {mine!r}, '{name}' {theirs!r}"[:300])
    kept = {key: getattr(one.facts, key) for key in (*_ALIKE, "mean", "std", "num_classes", "cardinalities")}
    for key in ("mean", "std"):
        if any(getattr(part.facts, key) != kept[key] for _, part in others):
            kept[key] = None
    kept["task"] = next((part.facts.task for part in found.values() if part.facts.task != "other"), "other")
    kept["classes"] = _united(names)
    if kept["classes"] is not None:
        kept["num_classes"] = len(kept["classes"])
    elif len(set(numbers := [part.facts.num_classes for part in found.values()])) > 1:
        told = ", ".join(f"'{name}' {number}" for name, number in zip(found, numbers))
        raise DataError(f"parts differ in their number of classes and name none: {told}")
    return Facts(**kept)


def _shapes(sample: Any) -> Any:
    """Return what must be alike in two samples: the shapes and whether they are whole numbers."""
    return nested.each(sample, lambda value: (tuple(getattr(value, "shape", ())), _kind(value)))


def _kind(value: Any) -> str:
    dtype = getattr(value, "dtype", type(value))
    return str(dtype) if isinstance(value, Tensor) and value.dim() else "number"


def _united(names: Mapping[str, list[str] | None]) -> list[str] | None:
    """Return the names of all classes, each once, in the order in which the parts name them.

    Raises:
        DataError: some parts name theirs, others do not.
    """
    silent = [name for name, classes in names.items() if classes is None]
    if len(silent) == len(names):
        return None
    named = next(name for name, classes in names.items() if classes is not None)
    if silent:
        raise DataError(
            f"part '{named}' names its classes, '{silent[0]}' does not, so they cannot be united. Give that an "
            "attribute 'classes'"
        )
    return list(dict.fromkeys(itertools.chain.from_iterable(classes or () for classes in names.values())))


# ---- samples --------------------------------------------------------------------------------------------------------


def _renumbered(dataset: Dataset[Any], own: list[str] | None, classes: list[str]) -> Dataset[Any]:
    """Return a data set with the numbers of its classes among all."""
    numbers = torch.tensor([classes.index(name) for name in own or ()])
    if torch.equal(numbers, torch.arange(len(numbers))):
        return dataset
    if isinstance(dataset, ArrayDataset) and dataset.in_memory:
        return ArrayDataset(dataset.inputs, numbers[dataset.targets.long()])
    return _Renumbered(dataset, numbers)


class _Renumbered(Dataset[Any]):
    """Pairs whose classes have other numbers."""

    def __init__(self, dataset: Dataset[Any], numbers: Tensor) -> None:
        self._dataset, self._numbers = dataset, numbers
        if (found := targets_of(dataset)) is not None:
            self.targets = numbers[found[0].long()]
        if (collate := collate_of(dataset)) is not None:
            self.collate_fn = collate
        if hasattr(dataset, "set_epoch"):
            self.set_epoch = dataset.set_epoch

    def __len__(self) -> int:
        return size(self._dataset)

    def __getitem__(self, index: int) -> Any:
        sample = self._dataset[index]
        name = nested.target_name(sample)
        if name is not None and isinstance(sample, dict):
            return {**sample, name: int(self._numbers[int(sample[name])])}
        if not nested.is_pair(sample):
            raise DataError("classes of parts are united in pairs (input, class) and in dictionaries with a label")
        return sample[0], int(self._numbers[int(sample[1])])


def _joined(parts: Mapping[str, Dataset[Any]], weights: Sequence[float] | None) -> Dataset[Any]:
    datasets = [as_arrays(dataset) for dataset in parts.values()]
    counts = [size(dataset) for dataset in datasets]
    held = [one for one in datasets if isinstance(one, ArrayDataset) and one.in_memory]
    if len(held) == len(datasets) and len({(one.inputs.dtype, one.targets.dtype) for one in held}) == 1:
        inputs, targets = torch.cat([one.inputs for one in held]), torch.cat([one.targets for one in held])
        return JoinedArrays(inputs, targets, list(parts), counts, weights)
    return Joined(datasets, list(parts), weights)


class JoinedArrays(ArrayDataset):
    """Arrays of several parts, one after the other.

    Args:
        names: of the parts. counts: samples of each. weights: their proportions in an epoch; None: as they are.

    Attributes:
        shares: of each part how many samples it has and how many an epoch takes; None: as they are.
        told: these in words, for the summary.
    """

    def __init__(
        self, inputs: Tensor, targets: Tensor, names: list[str], counts: list[int], weights: Sequence[float] | None
    ) -> None:
        super().__init__(inputs, targets)
        self._names, self._counts, self._weights = names, counts, weights
        self.shares = None if weights is None else _shares(counts, weights)
        self.told = None if self.shares is None else _told(names, self.shares)

    def subset(self, indices: Tensor) -> ArrayDataset:
        """Return the samples at `indices`, which rise, copied."""
        part = super().subset(indices)
        return JoinedArrays(part.inputs, part.targets, self._names, _counts(indices, self._counts), self._weights)


class Joined(Dataset[Any]):
    """Several data sets, one after the other; `shares` and `told` as `JoinedArrays` has them.

    Args:
        datasets: of the parts. names: theirs. weights: their proportions in an epoch; None: as they are.
        chosen: the samples, which rise; None: all.
    """

    def __init__(
        self, datasets: Sequence[Dataset[Any]], names: list[str], weights: Sequence[float] | None,
        chosen: Tensor | None = None,
    ) -> None:  # fmt: skip
        self._datasets, self._names, self._weights = list(datasets), names, weights
        sizes = list(map(size, datasets))
        self._ends = list(itertools.accumulate(sizes))
        self._chosen = torch.arange(self._ends[-1]) if chosen is None else chosen
        self.shares = None if weights is None else _shares(_counts(self._chosen, sizes), weights)
        self.told = None if self.shares is None else _told(names, self.shares)
        targets = [targets_of(dataset) for dataset in datasets]
        if all(found is not None for found in targets):
            self.targets = torch.cat([found[0] for found in targets if found is not None])[self._chosen]
        collates = [collate_of(dataset) for dataset in datasets]
        if collates[0] is not None and all(one == collates[0] for one in collates):
            self.collate_fn = collates[0]
        if any(hasattr(dataset, "set_epoch") for dataset in datasets):
            self.set_epoch = self._set_epoch

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, index: int) -> Any:
        place = int(self._chosen[index])
        part = bisect.bisect_right(self._ends, place)
        sample = self._datasets[part][place - (self._ends[part - 1] if part else 0)]
        return nested.each(sample, _plain)  # a class may be a number in one part and a tensor in another

    def subset(self, indices: Tensor) -> Joined:
        """Return the samples at `indices`, which rise."""
        return Joined(self._datasets, self._names, self._weights, self._chosen[indices])

    def _set_epoch(self, epoch: int) -> None:
        for dataset in self._datasets:
            if hasattr(dataset, "set_epoch"):
                dataset.set_epoch(epoch)


def _plain(value: Any) -> Any:
    is_number = isinstance(value, Tensor) and value.dim() == 0 and not value.is_floating_point()
    return int(value) if is_number else value


def _counts(indices: Tensor, sizes: list[int]) -> list[int]:
    """Return how many of the samples lie in each part."""
    ends = torch.tensor(sizes).cumsum(0)
    return torch.bincount(torch.searchsorted(ends, indices, right=True), minlength=len(sizes)).tolist()


def _shares(counts: list[int], weights: Sequence[float]) -> list[list[int]]:
    """Return of each part (samples, samples taken an epoch): by the weights, rounded so that the whole is exact."""
    total = sum(counts)
    usable = [weight if count else 0 for weight, count in zip(weights, counts)]
    exact = [total * weight / (sum(usable) or 1) for weight in usable]
    taken = [int(one) for one in exact]
    for part in sorted(range(len(exact)), key=lambda part: taken[part] - exact[part])[: total - sum(taken)]:
        taken[part] += 1
    return [list(pair) for pair in zip(counts, taken)]
