"""Own what a data set is to dlwp: a mapping of splits to plain `Dataset`s, and the facts known of them.

Knows nothing of how splits are made, facts found or samples fed.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset

from dlwp import nested, randomness
from dlwp.errors import DataError

NAMES = ("train", "val", "test")
"""The splits, in the order in which they are told of."""


class ArrayDataset(Dataset[tuple[Tensor, Tensor]]):
    """A data set held whole: `inputs` (N, ...) and `targets` (N, ...), indexed together.

    Pictures are uint8 of shape (N, C, H, W); scaling to [0, 1] and normalising is done on whole batches.

    Attributes:
        in_memory: whether it is; else it lies in a file, and what is read of it is in memory.
    """

    in_memory = True

    def __init__(self, inputs: Tensor, targets: Tensor) -> None:
        if len(inputs) != len(targets):
            raise DataError(f"inputs hold {len(inputs):,} samples but targets {len(targets):,}")
        self.inputs = inputs
        self.targets = targets

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.inputs[index], self.targets[index]

    @property
    def nbytes(self) -> int:
        """Bytes of all inputs and targets."""
        return self.inputs.nbytes + self.targets.nbytes

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return inputs (B, ...) and targets (B, ...) of these samples; the indices lie where the data does."""
        return rows(self.inputs, indices), rows(self.targets, indices)

    def to(self, device: torch.device) -> ArrayDataset:
        """Return the same on a device."""
        return ArrayDataset(self.inputs.to(device), self.targets.to(device))

    def subset(self, indices: Tensor) -> ArrayDataset:
        """Return the samples at `indices`, copied."""
        return ArrayDataset(rows(self.inputs, indices), rows(self.targets, indices))


def rows(values: Tensor, indices: Tensor) -> Tensor:
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
        task: one of the choices of `data.task` but auto.
        input_shape: shape of one input without the batch, (C, H, W) for pictures.
        target_shape: shape of one target without the batch, () for a class index.
        num_classes: number of classes K, for classification.
        classes: their names, in the order of the indices.
        mean, std: per channel, of inputs scaled to [0, 1] (uint8 pictures) or as they are (floats).
        form: how picture files were made to have the input shape: further arguments of `pictures.Form`.
        inputs: names of the columns that an input is made of, one for each of its numbers.
        cardinalities: of the last of these, that are indices of categories: how many categories each has.
        target_names: names of the numbers of a target.
        target_mean, target_std: of each number of a target, in its own unit, where targets are standardised:
            a target is then (value - mean) / std.
        encoding: how what a person has becomes an input and what comes out is read, where that is no picture and a
            class: "kind", which says who can use it, and whatever that one needs, fit for JSON.
    """

    task: str = "other"
    input_shape: tuple[int, ...] = ()
    target_shape: tuple[int, ...] = ()
    num_classes: int | None = None
    classes: list[str] | None = None
    mean: list[float] | None = None
    std: list[float] | None = None
    form: dict[str, Any] | None = None
    inputs: list[str] | None = None
    cardinalities: list[int] | None = None
    target_names: list[str] | None = None
    target_mean: list[float] | None = None
    target_std: list[float] | None = None
    encoding: dict[str, Any] | None = None
    sources: dict[str, str] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """Return what one must know of the data to use a model that was trained on it, fit for JSON."""
        return {name: value for name, value in dataclasses.asdict(self).items() if name != "sources"}

    def answers(self) -> dict[str, tuple[Any, str]]:
        """Return what these facts answer for a key that is `auto`: name -> (value, reason)."""
        answers: dict[str, tuple[Any, str]] = {}
        shape = self.input_shape
        if shape:
            text = f"data is {'x'.join(map(str, shape))}"
            answers["in_features"] = (math.prod(shape), text)
            if len(shape) == 2:
                answers["window"], answers["in_columns"] = (shape[0], text), (shape[1], text)
            if len(shape) == 3:
                answers["in_channels"] = (shape[0], text)
                answers["image_size"] = (shape[1], text)
        if self.task == "sequence":
            answers["max_length"] = (shape[0], f"windows of {shape[0]}")
        if self.num_classes:
            reason = f"data has {self.num_classes} classes"
            answers["num_classes"] = answers["out_features"] = (self.num_classes, reason)
            answers["average"] = ("foreground" if self.num_classes == 2 else "classes", reason)
        elif self.task == "regression":
            answers["out_features"] = (math.prod(self.target_shape), f"a target is {list(self.target_shape)}")
        if self.inputs is not None:
            answers["columns"] = (self.inputs, "columns of the data")
        if self.target_names is not None:
            answers["targets"] = (self.target_names, "what is to be explained")
        answers["task"] = (self.task, self.sources.get("task", "the data"))
        answers["cardinalities"] = (self.cardinalities or [], "categories in each column of such")
        answers["scale"] = (self.target_std or 1.0, "one of the target's units, in those of the loss")
        return answers


@dataclass
class Splits:
    """The splits of a data set. A data function returns one of these, or a plain `Dataset` (which is then `train`).

    `notes` are short sentences for the summary: where the data was found, what was done to it. `warnings` are such as
    a person should look at. `samples`: a table in Markdown of some samples and what became of them. `guesses`: what was
    found out of a file and can be written down by its `write()`, for a dry run. `sample`: the first one of train, as a
    batch holds it, once facts were found.
    """

    train: Dataset[Any]
    val: Dataset[Any] | None = None
    test: Dataset[Any] | None = None
    facts: Facts = field(default_factory=Facts)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    samples: str = ""
    guesses: Any = None
    sample: Any = None

    def present(self) -> dict[str, Dataset[Any]]:
        """Return the splits that there are, by name."""
        return {name: dataset for name in NAMES if (dataset := getattr(self, name)) is not None}


def as_arrays(dataset: Dataset[Any]) -> Dataset[Any]:
    """Return a data set of two tensors, or a subset of one, as an `ArrayDataset`; any other as it is."""
    if isinstance(dataset, TensorDataset) and len(dataset.tensors) == 2:
        return ArrayDataset(*dataset.tensors)
    if isinstance(dataset, Subset):
        whole = as_arrays(dataset.dataset)
        if isinstance(whole, ArrayDataset):
            return whole.subset(torch.as_tensor(dataset.indices, dtype=torch.int64))
    return dataset


def is_iterable(dataset: Any) -> bool:
    """Return whether a data set can only be iterated."""
    return isinstance(dataset, IterableDataset)


def length_of(dataset: Any) -> int | None:
    """Return the number of samples of a data set of any kind; None where it does not say."""
    try:
        return len(dataset)
    except (TypeError, NotImplementedError):
        return None


def has_state(dataset: Any) -> bool:
    """Return whether a data set can say where it stands, and go there."""
    return callable(getattr(dataset, "state_dict", None)) and callable(getattr(dataset, "load_state_dict", None))


def first_samples(dataset: Any, count: int) -> list[Any]:
    """Return the first samples of a data set that can only be iterated, which stays as it is."""
    state = copy.deepcopy(dataset.state_dict()) if has_state(dataset) else None
    try:
        with randomness.preserved():
            return list(itertools.islice(iter(copy.copy(dataset)), count))
    finally:
        if state is not None:
            dataset.load_state_dict(state)


def size(dataset: Dataset[Any]) -> int:
    """Return the number of samples of a map-style data set."""
    return len(dataset)  # type: ignore[arg-type]


def targets_of(dataset: Dataset[Any]) -> tuple[Tensor, str] | None:
    """Return all targets of a data set as a tensor, and where they were read; None where samples must be read for it.

    An attribute `targets` or `labels` counts only where it agrees with the target of the first sample.
    """
    if isinstance(dataset, ArrayDataset):
        return dataset.targets, "targets"
    if is_iterable(dataset):
        return None
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
    target = nested.target_of(sample)
    if target is None or isinstance(target, dict | tuple | list | str):
        return False
    target = torch.as_tensor(target)
    return target.dim() == 0 and target.item() == first.item()
