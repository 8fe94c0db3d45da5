"""Own the feeding of data that gives its samples one by one, through worker processes.

Knows nothing of what a transform does, and nothing of models. Order and batches are those of `resident`.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import threading
import warnings
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
        with _without_advice():
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
        with _without_advice():
            batches = iter(self._loader)
        if self._num_workers:
            _deaths.listen()
        sound = False
        try:
            for position in range(start, len(self)):
                batch = self._next(batches)
                if isinstance(batch, _Failure):
                    raise batch.error
                batch = _moved(batch, self.device)
                yield finish(batch, self._transform, number * len(self) + position, self._channels_last)
            sound = True
        except GeneratorExit:  # the epoch was left early
            sound = True
            raise
        finally:
            if self._num_workers and not (sound and self._loader.persistent_workers):
                self._end_workers(batches)

    def _next(self, batches: Iterator[Any]) -> Any:
        if not self._num_workers:
            with randomness.preserved():
                return next(batches)
        try:
            with _deaths.told():
                return next(batches)
        except (RuntimeError, ConnectionError, EOFError) as error:
            processes = getattr(batches, "_workers", [])
            told = self._worker_fault(error, processes)
            if told is None:
                raise
            for process in processes:
                process.kill()  # a hung one would be waited for
            raise told from error

    def _end_workers(self, batches: Any) -> None:
        """End the workers at once, not when memory is tidied up, which may happen in a forked process.

        torch's SIGCHLD handler raises for a dead worker until its pool is shut down.
        """
        for _ in range(2):
            with contextlib.suppress(RuntimeError):  # that handler, once more
                batches._shutdown_workers()
        self._loader._iterator = None
        _deaths.forget()

    def _worker_fault(self, error: Exception, processes: list[Any]) -> RunError | None:
        """Return what to tell when a worker died or hangs, or None where it is another error."""
        text = str(error)
        if "DataLoader timed out" in text:
            samples = ", ".join(str(sample) for sample in self._seeded.places[:, 1].tolist())
            return RunError(
                f"no answer from the data workers for {self._timeout_s:g} s, at samples {samples}."
                " data.num_workers=0 shows where"
            )
        found = re.search(r"DataLoader worker \(pid(?:\(s\))? (\d+)", text)
        if found is not None:
            numbers = (self._seeded.places[:, 0] == int(found[1])).nonzero().view(-1).tolist()
        elif isinstance(error, ConnectionError | EOFError):  # the first sign of a death may be a closed connection
            numbers = _dead(processes)
        else:
            return None
        if not numbers:
            return (
                RunError(f"a data worker ended: {text.splitlines()[0]}. data.num_workers=0 shows why")
                if found
                else None
            )
        sample = int(self._seeded.places[numbers[0], 1])
        code = processes[numbers[0]].exitcode if processes else None
        how = f"was killed (signal {-code})" if code is not None and code < 0 else "ended"
        if code == -signal.SIGBUS:
            how += ", shared memory (/dev/shm) is full"
        fewer = f"often out of memory: fewer workers, data.num_workers={self._num_workers // 2}"
        return RunError(f"data worker {numbers[0]} {how} at sample {sample}, {fewer}")


def _dead(processes: list[Any]) -> list[int]:
    """Return which processes are dead, after a moment in which one may be dying."""
    for process in processes:
        process.join(0.5)
        if process.exitcode is not None:
            break
    return [number for number, process in enumerate(processes) if process.exitcode is not None]


class _Deaths:
    """Have the death of a worker told when its data is asked for.

    torch's SIGCHLD handler raises wherever the main thread happens to be: in a step, or while a checkpoint is written.
    """

    def __init__(self) -> None:
        self._handler: Any = None
        self._asking = False
        self._noted: RuntimeError | None = None

    def listen(self) -> None:
        """Stand in front of torch's handler, which the first pool of workers has set."""
        if (
            threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGCHLD) != self._on_signal
        ):
            self._handler = signal.getsignal(signal.SIGCHLD)
            signal.signal(signal.SIGCHLD, self._on_signal)

    def _on_signal(self, number: int, frame: Any) -> None:
        try:
            if callable(self._handler):
                self._handler(number, frame)
        except RuntimeError as error:
            if self._asking:
                raise
            self._noted = error

    def forget(self) -> None:
        """Drop what was noted, once its pool is gone."""
        self._noted = None

    @contextlib.contextmanager
    def told(self) -> Iterator[None]:
        """Raise within this block, at once what was noted before it."""
        noted, self._noted = self._noted, None
        if noted is not None:
            raise noted
        self._asking = True
        try:
            yield
        finally:
            self._asking = False


_deaths = _Deaths()


@contextlib.contextmanager
def _without_advice() -> Iterator[None]:
    """Leave out torch's advice on the number of workers: it was asked for."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This DataLoader will create")
        yield


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
