"""Own the feeding of data that gives its samples one by one, through worker processes.

Knows nothing of what a transform does, and nothing of models. Order and batches are those of `resident`.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate, get_worker_info

from dlwp import randomness
from dlwp.data.datasets import size
from dlwp.data.facts import check_sample, name_of
from dlwp.data.resident import Order, finish
from dlwp.errors import DataError, DlwpError, RunError

TIMEOUT_S = 300
"""How long a worker may take over a batch."""


class StreamingLoader:
    """Feed a map-style `Dataset`, by worker processes or (0 workers) in this one, with the same result.

    In front of each sample Python's, NumPy's and torch's generators are seeded from (seed, epoch, index); without
    workers they are restored afterwards. Workers stay over epochs, unless the data set has a `set_epoch`: then that is
    called, here, before each epoch, and the workers start anew.

    Args:
        dataset: has `__len__` and `__getitem__`.
        batch_size: samples a batch; the last may be smaller.
        seed, shuffle, device, transform, drop_last, limit_batches, channels_last: as in `ResidentLoader`.
        num_workers: processes.
        timeout_s: a worker that needs longer for a batch is taken for hung.
        multiprocessing_context: "fork", "spawn" or "forkserver"; None is the platform's own.

    Attributes:
        num_samples: samples used an epoch.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        batch_size: int,
        *,
        seed: int = 0,
        shuffle: bool = False,
        device: torch.device | str = "cpu",
        transform: Callable[..., Any] | None = None,
        drop_last: bool = False,
        limit_batches: int | None = None,
        channels_last: bool = False,
        num_workers: int = 0,
        timeout_s: float = TIMEOUT_S,
        multiprocessing_context: str | None = None,
    ) -> None:
        self.device = torch.device(device)

        self._dataset = dataset
        self._order = Order(size(dataset), batch_size, seed, shuffle, drop_last, limit_batches)
        self.num_samples = self._order.num_samples
        self.batch_size = batch_size
        self._transform = transform
        self._channels_last = channels_last
        self._num_workers = num_workers
        self._timeout_s = timeout_s
        self._batches = _Batches(self._order)
        self._seeded = _Seeded(dataset, seed, num_workers)
        self._loader: DataLoader[Any] = DataLoader(
            self._seeded,
            batch_sampler=self._batches,
            num_workers=num_workers,
            collate_fn=_collate,
            generator=randomness.generator(seed, "workers"),  # else it draws from the global one
            worker_init_fn=_begin_worker,
            timeout=timeout_s if num_workers else 0,
            persistent_workers=num_workers > 0 and not hasattr(dataset, "set_epoch"),
            multiprocessing_context=multiprocessing_context if num_workers else None,
            pin_memory=self.device.type == "cuda",
        )

    def __len__(self) -> int:
        return len(self._order)

    def epoch(self, number: int = 0, start: int = 0) -> Iterator[Any]:
        """Yield the batches of epoch `number` from batch `start` on; the samples before are not read.

        Raises:
            DataError: a sample is None, or samples cannot be stacked.
            RunError: a worker died or hangs.
        """
        if hasattr(self._dataset, "set_epoch"):
            self._dataset.set_epoch(number)
        self._batches.number, self._batches.start = number, start
        batches = iter(self._loader)
        for position in range(start, len(self)):
            batch = self._next(batches)
            if isinstance(batch, _Failure):
                raise batch.error
            yield finish(
                _moved(batch, self.device), self._transform, number * len(self) + position, self._channels_last
            )

    def _next(self, batches: Iterator[Any]) -> Any:
        if not self._num_workers:
            with randomness.preserved():
                return next(batches)
        try:
            return next(batches)
        except RuntimeError as error:
            told = self._worker_fault(str(error))
            if told is None:
                raise
            raise told from error

    def _worker_fault(self, text: str) -> RunError | None:
        """Return what to tell of torch's "DataLoader worker ... exited" or "timed out", or None for any other error."""
        if "DataLoader timed out" in text:
            samples = ", ".join(str(sample) for sample in self._seeded.places[:, 1].tolist())
            return RunError(
                f"no answer from the data workers for {self._timeout_s:g} s, at samples {samples}."
                " data.num_workers=0 shows where"
            )
        found = re.search(r"DataLoader worker \(pid(?:\(s\))? (\d+)", text)
        if found is None:
            return None
        worker = (self._seeded.places[:, 0] == int(found[1])).nonzero().view(-1).tolist()
        where = f"data worker {worker[0]} " if worker else "a data worker "
        sample = f" at sample {int(self._seeded.places[worker[0], 1])}" if worker else ""
        cause = "was killed" if "killed by signal" in text else "ended"
        by = re.search(r"killed by signal: (\w[\w ]*)", text)
        shm = " (shared memory, /dev/shm, is full?)" if by and by[1].startswith("Bus") else ""
        named = f" ({by[1]})" if by else ""
        fewer = self._num_workers // 2
        return RunError(
            f"{where}{cause}{named}{sample}{shm}, often out of memory: fewer workers, data.num_workers={fewer}"
        )


class _Batches:
    """The batch sampler: indices of the batches of an epoch, each with the epoch's number, from a position on."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.number = 0
        self.start = 0

    def __len__(self) -> int:
        return len(self.order) - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        indices = self.order.of(self.number)
        for position in range(self.start, len(self.order)):
            yield [(self.number, index) for index in indices[self.order.bounds(position)].tolist()]


class _Failure:
    """A fault fit for a person, met in a worker; raised in this process, where torch would wrap it in a traceback."""

    def __init__(self, error: DlwpError) -> None:
        self.error = error


class _Seeded(Dataset[Any]):
    """The data set, with the generators seeded in front of each sample, and a note of who is at which."""

    def __init__(self, dataset: Dataset[Any], seed: int, num_workers: int) -> None:
        self.dataset = dataset
        self.seed = seed
        self.places = torch.full((max(1, num_workers), 2), -1, dtype=torch.int64)  # process, sample
        if num_workers:
            self.places.share_memory_()

    def __getitem__(self, key: tuple[int, int]) -> Any:
        epoch, index = key
        info = get_worker_info()
        if info is not None:
            self.places[info.id, 1] = index
        randomness.seed_sample(self.seed, epoch, index)
        try:
            sample = self.dataset[index]
            if sample is None:
                check_sample(sample, index, self.dataset)
        except DlwpError as error:
            return _Failure(error)
        return index, sample, name_of(self.dataset)


def _collate(found: list[Any]) -> Any:
    for one in found:
        if isinstance(one, _Failure):
            return one
    try:
        return default_collate([sample for _, sample, _ in found])
    except (RuntimeError, TypeError) as error:
        return _Failure(_why_no_batch(found, error))


def _why_no_batch(found: list[Any], error: Exception) -> DataError:
    """Return which samples cannot be stacked."""
    first, sample, name = found[0]
    shapes = _shapes(sample)
    for index, other, _ in found[1:]:
        if _shapes(other) != shapes:
            return DataError(
                f"samples of {name} differ: sample {first} is {shapes}, sample {index} is {_shapes(other)}."
                " Give them one shape"
            )
    return DataError(f"no batch can be made of samples of {name}: {str(error).splitlines()[0]}")


def _shapes(sample: Any) -> str:
    parts = sample if isinstance(sample, tuple | list) else (sample,)
    return ", ".join(
        "×".join(map(str, part.shape)) if getattr(part, "shape", ()) else type(part).__name__ for part in parts
    )


def _begin_worker(worker: int) -> None:
    """Leave Ctrl-C and SIGUSR1 to the parent, and let SIGTERM end this process."""
    for name in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(name, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    info = get_worker_info()
    assert info is not None
    info.dataset.places[worker, 0] = os.getpid()  # type: ignore[attr-defined]


def _moved(batch: Any, device: torch.device) -> Any:
    """Return a batch on the device; from pinned memory that does not wait."""
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, dict):
        return {key: _moved(value, device) for key, value in batch.items()}
    if isinstance(batch, tuple | list):
        parts = [_moved(value, device) for value in batch]
        return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)
    return batch


def default_workers() -> tuple[int, str]:
    """Return a number of worker processes for this machine, and the reason."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    count = max(0, min(8, available - 1))
    return count, f"{available} processor core{'s' if available != 1 else ''}, one for the loop"
