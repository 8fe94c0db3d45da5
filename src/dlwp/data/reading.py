"""Own the reading of single samples, in a worker process or in this one, and the making of a batch of them.

Knows nothing of processes, order or devices. What must not cross between processes as a traceback goes as a `Failure`.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate, get_worker_info

from dlwp import devices, randomness
from dlwp.data.datasets import ArrayDataset, size
from dlwp.data.facts import check_sample, explained, name_of, one_line, path_of
from dlwp.data.handover import Sender
from dlwp.errors import DataError, DlwpError

_KEPT_BYTES = 2**27  # by a worker, of what its samples free
_ATTEMPTS = 10
"""Samples that are tried in place of one that cannot be read."""


def most_left_out(count: int) -> int:
    """Return how many of so many samples may be left out: 1%, or 100 where that is more, but never half of them."""
    return min(max(100, count // 100), (count - 1) // 2)


class Failure:
    """A fault fit for a person, met in a worker; raised in this process, where torch would wrap it in a traceback."""

    def __init__(self, error: DlwpError) -> None:
        self.error = error


class Read(NamedTuple):
    """A sample that was read: `read` stands in for the one `asked` for where that and others were `lost`."""

    asked: int
    read: int
    sample: Any
    name: str
    lost: list[tuple[int, str, str]]


class Rows(NamedTuple):
    """A batch read at once."""

    indices: list[int]
    batch: tuple[Tensor, Tensor]


class Reader(Dataset[Any]):
    """The data set, with the generators seeded in front of each sample, and a note of who is at which."""

    def __init__(
        self, dataset: Dataset[Any], seed: int, num_workers: int, skip: bool, between: Callable[[], None] | None,
        singly: bool = False,
    ) -> None:  # fmt: skip
        self._dataset = dataset
        self._seed = seed
        self._skip = skip
        self._between = between
        self._singly = singly
        self.places = torch.full((max(1, num_workers),), -1)  # sample at which each worker is
        if num_workers:
            self.places.share_memory_()

    def __getitem__(self, key: tuple[int, int]) -> Any:
        epoch, asked = key
        if self._between is not None:
            self._between()
        lost: list[tuple[int, str, str]] = []
        read = asked
        while True:
            try:
                return Read(asked, read, self._read(epoch, read), name_of(self._dataset), lost)
            except Exception as error:  # any error: the data set is the user's own
                if not self._skip or len(lost) == _ATTEMPTS:
                    told = explained(error, read, self._dataset)
                    if isinstance(told, DlwpError):
                        return Failure(told)
                    raise
                reason = error.message if isinstance(error, DlwpError) else one_line(error)
                lost.append((read, path_of(self._dataset, read) or name_of(self._dataset), reason))
                read = randomness.derive(self._seed, "replacement", epoch, asked, len(lost)) % size(self._dataset)

    def __getitems__(self, keys: list[tuple[int, int]]) -> Any:
        """Return the samples of a batch; of arrays the batch at once, which draws nothing and does not fail."""
        if self._singly or not isinstance(self._dataset, ArrayDataset):
            return [self[key] for key in keys]
        if self._between is not None:
            self._between()
        self._note(keys[0][1])
        indices = [index for _, index in keys]
        return Rows(indices, self._dataset.batch(torch.tensor(indices)))

    def _note(self, index: int) -> None:
        info = get_worker_info()
        if info is not None:
            self.places.numpy()[info.id] = index  # a view; to set an item of a tensor takes ten times as long

    def _read(self, epoch: int, index: int) -> Any:
        self._note(index)
        randomness.seed_sample(self._seed, epoch, index)
        sample = self._dataset[index]
        if sample is None:
            check_sample(sample, index, self._dataset)
        return sample


class Collate:
    """Make (indices asked for, batch, samples left out) of what was read, or pass on the first `Failure`.

    The indices are a list, which travels in the message.

    Args:
        free: as `Sender` takes it, which hands over large tensors for a worker; None: torch does.
        own: makes a batch of a list of samples in the place of torch's `default_collate`.
    """

    def __init__(self, free: Tensor | None, own: Callable[[list[Any]], Any] | None = None) -> None:
        self._sender = None if free is None else Sender(free)
        self._own = own

    def __call__(self, found: Any) -> Any:
        """Return a batch."""
        sender = self._sender if get_worker_info() is not None else None
        if isinstance(found, Rows):
            return found.indices, found.batch if sender is None else sender.copied(found.batch), []
        for one in found:
            if isinstance(one, Failure):
                return one
        samples = [one.sample for one in found]
        if self._own is not None:
            batch = self._own(samples)
            batch = batch if sender is None else sender.copied(batch)
        else:
            try:
                batch = default_collate(samples) if sender is None else sender.collated(samples)
            except (RuntimeError, TypeError) as error:
                return Failure(_why_no_batch(found, error))
        return [one.asked for one in found], batch, [each for one in found for each in one.lost]


def _why_no_batch(found: list[Read], error: Exception) -> DataError:
    """Return which samples cannot be stacked."""
    _, first, sample, name, _ = found[0]
    shapes = _shapes(sample)
    for _, index, other, _, _ in found[1:]:
        if _shapes(other) != shapes:
            return DataError(
                f"samples of {name} differ: sample {first} is {shapes}, sample {index} is {_shapes(other)}."
                " Give them one shape, or data.collate=my_file.collate"
            )
    return DataError(f"no batch can be made of samples of {name}: {str(error).splitlines()[0]}")


def _shapes(sample: Any) -> str:
    if isinstance(sample, Mapping):
        return ", ".join(f"{name} {_shapes(part)}" for name, part in sample.items())
    parts = sample if isinstance(sample, tuple | list) else (sample,)
    return ", ".join(
        "×".join(map(str, part.shape)) if getattr(part, "shape", ()) else type(part).__name__ for part in parts
    )


def begin_worker(worker: int) -> None:
    """Leave Ctrl-C and SIGUSR1 to the parent, and let SIGTERM end this process."""
    for name in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(name, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    devices.keep_freed_memory(_KEPT_BYTES)
