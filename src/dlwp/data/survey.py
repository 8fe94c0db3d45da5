"""Own the look at every sample of a data set before a long run: what each is, in a few numbers, and what is wrong.

Knows nothing of models, nor of how a finding is shown. A data set held as arrays is looked at in chunks, any other
sample by sample, by the same worker processes and seeds that training reads with.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from dlwp import frames, nested
from dlwp.data.datasets import ArrayDataset, is_iterable, length_of, size
from dlwp.data.facts import name_of, one_line, path_of
from dlwp.data.reading import Failure, Reader, begin_worker

_CHUNK = 512
_MOST_ITERATED = 10_000
"""Samples that are read of what can only be iterated."""
_LEAST_SIDE = 32
"""Pixels a side from which pictures are compared by their looks: smaller ones are alike without being the same."""
_HASH_SHAPE = (8, 9)
MOST_BITS = 8
"""Of the 64 bits of two difference hashes, those that may differ."""
_MOST_DIFFERENCE = 0.3
"""Mean difference of two such pictures' brightness, in standard deviations of the one, that is still the same. With
both, 119 of CIFAR-10's 10,000 test pictures have a twin among 45,000 of train; of 41 looked at all were the same."""
_MOST_COLUMNS = 100_000


@dataclass
class Glance:
    """What was seen of some samples that have one shape; lists are by sample.

    Attributes:
        indices: of the samples. shape: their input's, in words. digests: of the inputs' content.
        labels: targets that are single whole numbers, else None. label_bounds: least and largest of any whole numbers.
        wrong_inputs, wrong_targets: indices of those that are not finite.
        low, high: by column of inputs that are rows of numbers. small: float16 (B, 8, 9), brightness of pictures.
        faults: (index, file or data set, why, frames of the user's own) of one that could not be read.
    """

    indices: list[int]
    shape: str = ""
    digests: list[bytes] = field(default_factory=list)
    labels: list[int] | None = None
    label_bounds: tuple[int, int] | None = None
    wrong_inputs: list[int] = field(default_factory=list)
    wrong_targets: list[int] = field(default_factory=list)
    low: numpy.ndarray | None = None
    high: numpy.ndarray | None = None
    small: numpy.ndarray | None = None
    faults: list[tuple[int, str, str, str]] = field(default_factory=list)


@dataclass
class Seen:
    """What was seen of a split: glances put together; see `Glance`."""

    dataset: Any
    count: int = 0
    shapes: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    digests: dict[bytes, int] = field(default_factory=dict)
    counts: Counter[int] = field(default_factory=Counter)
    bounds: dict[int, tuple[int, int]] = field(default_factory=dict)
    wrong_inputs: list[int] = field(default_factory=list)
    wrong_targets: list[int] = field(default_factory=list)
    low: numpy.ndarray | None = None
    high: numpy.ndarray | None = None
    small: list[numpy.ndarray] = field(default_factory=list)
    small_of: list[int] = field(default_factory=list)
    faults: list[tuple[int, str, str, str]] = field(default_factory=list)

    def add(self, one: Glance) -> None:
        """Take in a glance."""
        self.count += len(one.indices)
        self.faults += one.faults
        if one.faults:
            return
        self.shapes[one.shape] += one.indices
        for digest, index in zip(one.digests, one.indices, strict=True):
            self.digests.setdefault(digest, index)
        self.counts.update(one.labels or ())
        if one.label_bounds is not None:
            self.bounds.update(dict.fromkeys(one.indices, one.label_bounds))
        if one.labels is not None:
            self.bounds.update({index: (label, label) for index, label in zip(one.indices, one.labels, strict=True)})
        self.wrong_inputs += one.wrong_inputs
        self.wrong_targets += one.wrong_targets
        if one.low is not None and one.high is not None:
            if self.low is not None and self.high is not None and len(self.low) == len(one.low):
                self.low, self.high = numpy.fmin(self.low, one.low), numpy.fmax(self.high, one.high)
            else:
                self.low, self.high = one.low, one.high
        if one.small is not None:
            self.small.append(one.small)
            self.small_of += one.indices

    def named(self, index: int) -> str:
        """Return a sample's number, with its file where it has one."""
        path = None if is_iterable(self.dataset) else path_of(self.dataset, index)
        return f"{index} ({path})" if path else str(index)


# ---- looking --------------------------------------------------------------------------------------------------------


def look(dataset: Any, *, seed: int, num_workers: int, bar: Any = None) -> Seen:
    """Look at every sample of a split (of one that can only be iterated at the first 10,000).

    Args:
        dataset: of the split. seed: of the run, for data sets that draw. num_workers: processes that read.
        bar: moved by each sample, as tqdm's.
    """
    seen = Seen(dataset)
    for one in _glances(dataset, seed, num_workers):
        seen.add(one)
        if bar is not None:
            bar.update(len(one.indices))
    return seen


def number_of(dataset: Any) -> int:
    """Return how many samples `look` looks at, at most."""
    return _MOST_ITERATED if is_iterable(dataset) else length_of(dataset) or 0


def _glances(dataset: Any, seed: int, num_workers: int) -> Iterator[Glance]:
    if isinstance(dataset, ArrayDataset):
        for indices in torch.arange(len(dataset)).split(_CHUNK):
            yield _of_rows(indices.tolist(), *dataset.batch(indices))
    elif is_iterable(dataset):
        yield from _of_iterable(dataset)
    else:
        looker = _Looker(dataset, seed)
        workers: dict[str, Any] = {"num_workers": num_workers, "worker_init_fn": begin_worker} if num_workers else {}
        yield from DataLoader(looker, batch_size=None, generator=torch.Generator(), **workers)


def _of_iterable(dataset: Any) -> Iterator[Glance]:
    index = 0
    try:
        for index, sample in enumerate(itertools.islice(iter(copy.copy(dataset)), _MOST_ITERATED)):
            yield glance(index, sample)
    except Exception as error:  # any error: the data set is the user's own
        yield Glance([index], faults=[(index, name_of(dataset), one_line(error), frames.place(error))])


class _Looker(Dataset[Glance]):
    """The data set, of which each sample is but looked at: by a worker, so that little travels."""

    def __init__(self, dataset: Dataset[Any], seed: int) -> None:
        self._dataset = dataset
        self._reader = Reader(dataset, seed, 0, False, None, True)

    def __len__(self) -> int:
        return size(self._dataset)

    def __getitem__(self, index: int) -> Glance:
        where = path_of(self._dataset, index) or name_of(self._dataset)
        try:
            found = self._reader[0, index]
        except Exception as error:  # any error: the data set is the user's own
            return Glance([index], faults=[(index, where, one_line(error), frames.place(error))])
        if isinstance(found, Failure):
            return Glance([index], faults=[(index, where, found.error.message, "")])
        return glance(index, found.sample)


def glance(index: int, sample: Any) -> Glance:
    """Return what is seen of one sample, of whatever kind."""
    inputs, target = nested.inputs_of(sample), nested.target_of(sample)
    found: list[Any] = []
    nested.each(inputs, found.append)
    tensors = [tensor for value in found if (tensor := _tensor(value)) is not None]
    if len(found) == len(tensors) == 1:
        one = _of_rows([index], tensors[0].unsqueeze(0), None)
    else:
        digest = hashlib.blake2b(digest_size=16)
        for value in found:
            tensor = _tensor(value)
            digest.update(repr(value).encode() if tensor is None else _bytes(tensor))
        one = Glance([index], ", ".join(_shape(value) for value in found), [digest.digest()])
        one.wrong_inputs = [] if all(bool(_finite(value.unsqueeze(0)).all()) for value in tensors) else [index]
    values = None if isinstance(target, dict) else _tensor(target)
    if values is not None:
        _see_targets(one, values.unsqueeze(0))
    return one


def _tensor(value: Any) -> Tensor | None:
    if isinstance(value, str | bytes) or value is None:
        return None
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        return None


def _shape(value: Any) -> str:
    shape = getattr(value, "shape", ())
    return "×".join(map(str, shape)) if len(shape) else type(value).__name__


def _bytes(values: Tensor) -> bytes:
    return values.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def _of_rows(indices: list[int], inputs: Tensor, targets: Tensor | None) -> Glance:
    """Return what is seen of inputs (B, ...) and targets (B, ...)."""
    inputs = inputs.detach().cpu()
    head = f"{inputs.dtype} {tuple(inputs.shape[1:])}".encode()
    digests = [hashlib.blake2b(head + _bytes(row), digest_size=16).digest() for row in inputs]
    shape = "×".join(map(str, inputs.shape[1:])) or "a number"
    one = Glance(indices, shape, digests, wrong_inputs=_at(indices, _finite(inputs)))
    if inputs.dim() == 2 and inputs.shape[1] <= _MOST_COLUMNS and inputs.dtype != torch.bool:
        values = inputs.double().numpy()
        one.low, one.high = numpy.fmin.reduce(values, 0), numpy.fmax.reduce(values, 0)
    if inputs.dim() == 4 and inputs.shape[1] in (1, 3, 4) and min(inputs.shape[2:]) >= _LEAST_SIDE:
        grey = inputs[:, :3].float().mean(1, keepdim=True)
        one.small = functional.adaptive_avg_pool2d(grey, _HASH_SHAPE)[:, 0].half().numpy()
    if targets is not None:
        _see_targets(one, targets)
    return one


def _see_targets(one: Glance, targets: Tensor) -> None:
    targets = targets.detach().cpu()
    one.wrong_targets = _at(one.indices, _finite(targets))
    if targets.is_floating_point() or targets.is_complex() or targets.numel() == 0:
        return
    if targets.dim() == 1:
        one.labels = targets.tolist()
    else:
        one.label_bounds = (int(targets.min()), int(targets.max()))


def _finite(values: Tensor) -> Tensor:
    """Return which rows hold finite numbers alone, (B,)."""
    if not values.is_floating_point():
        return torch.ones(len(values), dtype=torch.bool)
    return torch.isfinite(values).reshape(len(values), -1).all(1)


def _at(indices: Sequence[int], sound: Tensor) -> list[int]:
    return [] if bool(sound.all()) else [indices[at] for at in (~sound).nonzero().flatten().tolist()]


# ---- comparing ------------------------------------------------------------------------------------------------------


def same(one: Seen, other: Seen) -> list[tuple[int, int]]:
    """Return the pairs of samples (of `one`, of `other`) whose inputs are equal in every bit."""
    return [(at, index) for digest, index in other.digests.items() if (at := one.digests.get(digest)) is not None]


def alike(one: Seen, other: Seen, known: Sequence[tuple[int, int]] = ()) -> list[tuple[int, int]]:
    """Return the pairs of pictures that look the same, (of `one`, of `other`), none of `known` among them.

    Their difference hashes (which of two neighbours of 8×9 pixels is the brighter: 64 bits) differ in at most
    `MOST_BITS`, and their brightness in at most 0.3 of its standard deviation. Pictures of one tone are left out.

    Source: N. Krawetz, "Kind of Like That" (2013), hackerfactor.com, for the hash.
    """
    if not (one.small and other.small):
        return []
    told = {index for _, index in known}
    first, second = (numpy.concatenate(each.small).astype(numpy.float32) for each in (one, other))
    hashes = [_hashes(first), _hashes(second)]
    spreads = first.std((1, 2))
    found = []
    for begin in range(0, len(second), chunk := max(1, 2**22 // len(first))):
        differing = numpy.bitwise_count(hashes[1][begin : begin + chunk, None] ^ hashes[0][None])
        for at, match in zip(*numpy.nonzero(differing <= MOST_BITS), strict=True):
            index = other.small_of[begin + at]
            difference = numpy.abs(first[match] - second[begin + at]).mean()
            if index not in told and 0 < difference + 1e-9 <= _MOST_DIFFERENCE * spreads[match] and spreads[match] > 0:
                told.add(index)
                found.append((one.small_of[match], index))
    return found


def _hashes(small: numpy.ndarray) -> numpy.ndarray:
    bits = (small[:, :, 1:] > small[:, :, :-1]).reshape(len(small), 64)
    return numpy.packbits(bits, axis=1).view(numpy.uint64)[:, 0]


# ---- what is wrong --------------------------------------------------------------------------------------------------


def out_of_range(seen: Seen, num_classes: int, *, skips_negative: bool) -> list[int]:
    """Return the samples with a label outside of [0, num_classes); in masks a negative one may mean: do not count."""
    return [
        index
        for index, (least, largest) in seen.bounds.items()
        if largest >= num_classes or (least < 0 and not skips_negative)
    ]


def odd_shapes(seen: Seen) -> tuple[str, list[tuple[str, list[int]]]]:
    """Return the shape that most inputs have, and the others with their samples."""
    shapes = sorted(seen.shapes.items(), key=lambda one: -len(one[1]))
    return (shapes[0][0], shapes[1:]) if shapes else ("", [])


def constant_columns(seen: Seen) -> list[int]:
    """Return the columns of inputs (rows of numbers) that are the same in every sample, or nowhere a number."""
    if seen.low is None or seen.high is None or seen.count < 2:
        return []
    return numpy.nonzero(~(seen.low < seen.high))[0].tolist()
