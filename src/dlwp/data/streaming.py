"""Own the feeding of data that gives its samples one by one, through worker processes.

Knows nothing of what a transform does, and nothing of models. Order and batches are those of `resident`.
"""

from __future__ import annotations

import contextlib
import re
import signal
import threading
import time
import warnings
from collections.abc import Callable, Generator, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch.utils.data._utils import signal_handling

from dlwp import devices, distributed, randomness
from dlwp.data.datasets import size
from dlwp.data.facts import path_of
from dlwp.data.handover import PREFETCH, Receiver
from dlwp.data.reading import Collate, Failure, Reader, begin_worker, most_left_out
from dlwp.data.resident import Order, finish, is_divisible, portion, shares_of
from dlwp.errors import DataError, RunError
from dlwp.nested import each

TIMEOUT_S = 300
"""How long a worker may take over a batch."""
_LOOK_S = 1.0
"""While a batch is waited for, the listener is asked so often whether to go on."""


class StreamingLoader:
    """Feed a map-style `Dataset`, by worker processes or (0 workers) in this one, with the same result.

    In front of each sample Python's, NumPy's and torch's generators are seeded from (seed, epoch, index); without
    workers they are restored afterwards. Workers stay over epochs, unless the data set has a `set_epoch`: then that is
    called, here, before each epoch, and the workers start anew. They hold no state: when one dies all are started anew
    from the current batch, with a warning; a death at the same sample of an epoch again is an error.

    Args:
        dataset: has `__len__` and `__getitem__`.
        batch_size: samples a batch; the last may be smaller.
        seed, shuffle, device, transform, drop_last, limit_batches, channels_last: as in `ResidentLoader`.
        num_workers: processes.
        timeout_s: a worker that needs longer for a batch is taken for hung.
        on_error: "error", or "skip": a sample that cannot be read is replaced by another, a function of (seed, epoch,
            sample, attempt); up to 1% of the samples, or 100 where that is more, but never half of them.
        collate: makes a batch of a list of samples; None: torch's `default_collate`.
        multiprocessing_context: "fork", "spawn" or "forkserver"; None is the platform's own.

    Attributes:
        num_samples: samples used an epoch. num_read: read so far, by this process's count.
        cpu_s: seconds for which reading kept this process's processor busy; workers' are not counted.
        indices: of the last batch's samples as they were asked for and came back, int64 (B,), on the host.
        listener: None, or who is told: `warn(text)`; `waiting()`, about once a second while a batch is waited for,
            where True ends the epoch; `left_out(sample, name, reason)`, once for each sample that cannot be read.
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
        on_error: str = "error",
        collate: Callable[[list[Any]], Any] | None = None,
        multiprocessing_context: str | None = None,
    ) -> None:
        self.device = torch.device(device)
        self.listener: Any = None
        self.indices = torch.empty(0, dtype=torch.int64)

        self._dataset = dataset
        self.order = Order(size(dataset), batch_size, seed, shuffle, drop_last, limit_batches, shares_of(dataset))
        self.num_samples = self.order.num_samples
        self.batch_size = batch_size
        self.transform = transform
        self._channels_last = channels_last
        self.num_workers = num_workers
        self._timeout_s = timeout_s
        self._looked = self.cpu_s = 0.0
        self.num_read = 0
        self._lost: dict[int, str] = {}
        self._told: set[int] = set()
        self._receiver = Receiver(num_workers)  # not for cards: what is on its way to one must not be written over
        self._batches = _Batches(self.order)
        self.divisible = is_divisible(transform)
        between = None if num_workers else self._look_up
        self._reader = Reader(dataset, seed, num_workers, on_error == "skip", between, collate is not None)
        with _without_advice():
            self._loader: DataLoader[Any] = DataLoader(
                self._reader,
                batch_sampler=self._batches,
                num_workers=num_workers,
                collate_fn=Collate(self._receiver.free if self.device.type == "cpu" else None, collate),
                generator=randomness.generator(seed, "workers"),  # else it draws from the global one
                worker_init_fn=begin_worker,
                prefetch_factor=PREFETCH if num_workers else None,
                timeout=min(_LOOK_S, timeout_s) if num_workers else 0,
                persistent_workers=num_workers > 0 and not hasattr(dataset, "set_epoch"),
                multiprocessing_context=multiprocessing_context if num_workers else None,
                pin_memory=self.device.type == "cuda",
            )

    def __len__(self) -> int:
        return len(self.order)

    def epoch(self, number: int = 0, start: int = 0) -> Iterator[Any]:
        """Yield the batches of epoch `number` from batch `start` on; the samples before are not read.

        Raises:
            DataError: a sample is None or cannot be read, samples cannot be stacked, or too many were left out.
            RunError: a worker died twice at one sample, or hangs.
        """
        if hasattr(self._dataset, "set_epoch"):
            self._dataset.set_epoch(number)
        with contextlib.closing(self._collated(number, start)) as batches:
            for position, (found, batch, lost) in enumerate(batches, start):
                for sample, name, reason in lost:
                    self._leave_out(sample, name, reason)
                samples = torch.tensor(found)
                self.num_read += len(found)
                moved = each(self._receiver.opened(batch), self._moved)  # from pinned memory that does not wait
                at = (number * len(self) + position, samples, number)
                whole = samples if self.least_share is None else self.order.batch(number, position).clone()
                own, part = portion(whole, self.least_share)
                whole[own], self.indices = samples, whole
                yield finish(moved, self.transform, at, self._channels_last, part)

    @property
    def least_share(self) -> int | None:
        """As in `ResidentLoader`: other samples are then not read here."""
        return self._batches.least_share

    @least_share.setter
    def least_share(self, least: int | None) -> None:
        """Set it; from the next epoch on it counts."""
        self._batches.least_share = least

    def _moved(self, value: Any) -> Any:
        return on_device(value, self.device)

    def _collated(self, number: int, start: int) -> Generator[Any]:
        """Yield (indices, batch, samples left out) of each batch, from a new pool of workers where one has died."""
        died: set[int] = set()
        position = start
        while True:
            self._batches.number, self._batches.start = number, position
            try:
                with contextlib.closing(self._from_pool()) as batches:
                    for found in batches:
                        position += 1
                        yield found
                return
            except _GivenUp:
                return
            except _Death as death:
                if death.sample in died:
                    fewer = f"often out of memory: fewer workers, data.num_workers={self.num_workers // 2}"
                    raise RunError(f"{death} twice, {fewer}") from None
                died.add(death.sample)
                self._warn(f"{death}; all workers were started anew at batch {position + 1} of epoch {number + 1}")

    def _from_pool(self) -> Generator[Any]:
        with _without_advice():
            batches = self._pool()
        sound = False
        try:
            for _ in range(len(self._batches)):
                found = self._next(batches)
                if isinstance(found, Failure):
                    raise found.error
                yield found
            sound = True
        except GeneratorExit:  # the epoch was left early
            sound = True
            raise
        finally:
            if self.num_workers and not (sound and self._loader.persistent_workers):
                self._end_workers(batches)

    def _pool(self) -> Any:
        if self.num_workers:
            deaths.listen()
        began, old = time.monotonic(), self._loader._iterator
        if old is None:
            return iter(self._loader)
        processes: list[Any] = old._workers  # type: ignore[attr-defined]
        try:
            with deaths.told(processes, began + self._timeout_s + _LOOK_S):
                return iter(self._loader)
        except (RuntimeError, ConnectionError, EOFError) as error:
            # workers of the last epoch have died or hang, or are too slow to say that they are ready
            fault = self._worker_fault(error, processes, time.monotonic() - began - _LOOK_S)
            self._end_workers(old, at_once=True)
            if isinstance(fault, RunError):
                raise fault from error
            if isinstance(fault, _Death):
                self._warn(f"{fault}; all workers were started anew")
            return iter(self._loader)

    def _next(self, batches: Any) -> Any:
        began = self._looked = time.monotonic()
        self._receiver.release()
        if not self.num_workers:
            busy = time.thread_time()
            with randomness.preserved():
                found = next(batches)
            self.cpu_s += time.thread_time() - busy
            return found
        while True:
            try:
                with deaths.told(batches._workers, began + self._timeout_s + _LOOK_S):
                    return next(batches)
            except (RuntimeError, ConnectionError, EOFError) as error:
                told = self._worker_fault(error, batches._workers, time.monotonic() - began)
                if told is None:
                    continue
                if told is not error:
                    for process in batches._workers:
                        process.kill()  # a hung one would be waited for
                raise told from error

    def _look_up(self) -> None:
        """Ask the listener, once a second, whether to go on."""
        now = time.monotonic()
        if self.listener is not None and now - self._looked >= _LOOK_S:
            self._looked = now
            if self.listener.waiting():
                raise _GivenUp

    def _leave_out(self, sample: int, name: str, reason: str) -> None:
        if sample not in self._told and self.listener is not None:
            self._told.add(sample)
            self.listener.left_out(sample, name, reason)
        if sample in self._lost:
            return
        self._lost[sample] = name
        count = size(self._dataset)
        if len(self._lost) > most_left_out(count):
            some = ", ".join(f"{index} ({path})" for index, path in list(self._lost.items())[-3:])
            raise DataError(
                f"{len(self._lost):,} of {count:,} samples cannot be read, too many for data.on_error=skip: "
                f"{some}, ... {reason}"
            )

    def _warn(self, text: str) -> None:
        if self.listener is not None:
            self.listener.warn(text)
        else:
            warnings.warn(text, RuntimeWarning, stacklevel=2)

    def _end_workers(self, batches: Any, *, at_once: bool = False) -> None:
        """End the workers now, not when memory is tidied up, which may happen in a forked process.

        torch's SIGCHLD handler raises for a dead worker until its pool is shut down.
        """
        if at_once:
            for process in batches._workers:
                process.kill()
        for _ in range(2):
            with contextlib.suppress(RuntimeError):  # that handler, once more
                batches._shutdown_workers()
        self._loader._iterator = None
        self._receiver.forget()
        self._reader.places.fill_(-1)
        deaths.forget(batches._workers)

    def _worker_fault(self, error: Exception, processes: list[Any], waited_s: float) -> Exception | None:
        """Return what to raise when a worker died or hangs, `error` where it is another, None to wait on."""
        text = str(error)
        found = re.search(r"DataLoader worker \(pid(?:\(s\))? (\d+)", text)
        slow = "DataLoader timed out" in text
        if slow and waited_s < self._timeout_s:
            try:
                self._look_up()
            except _GivenUp as stop:
                return stop
            return None
        if slow or (found is not None and waited_s > self._timeout_s):
            samples = ", ".join(self._named(sample) for sample in self._reader.places.tolist() if sample >= 0)
            return RunError(
                f"no answer from the data workers for {self._timeout_s:g} s, at samples {samples or 'not yet read'}."
                " data.num_workers=0 shows where"
            )
        if found is not None:
            numbers = [number for number, process in enumerate(processes) if process.pid == int(found[1])]
        elif isinstance(error, ConnectionError | EOFError):  # the first sign of a death may be a closed connection
            numbers = _dead(processes)
        else:
            return error
        if not numbers:
            return error
        sample = int(self._reader.places[numbers[0]])
        code = processes[numbers[0]].exitcode
        how = f"was killed (signal {-code})" if code is not None and code < 0 else "ended"
        if code == -signal.SIGBUS:
            how += ", shared memory (/dev/shm) is full"
        where = f"at sample {self._named(sample)}" if sample >= 0 else "before its first sample"
        return _Death(f"data worker {numbers[0]} {how} {where}", sample)

    def _named(self, sample: int) -> str:
        path = path_of(self._dataset, sample)
        return f"{sample} ({path})" if path else str(sample)


def on_device(value: Any, device: torch.device) -> Any:
    """Return a tensor, or what else moves as one does (a PackedSequence, a batch of graphs), on a device."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    return value.to(device) if hasattr(value, "to") else value


class _GivenUp(Exception):
    """The listener wants no more batches."""


class _Death(Exception):
    """A worker died: at which sample."""

    def __init__(self, text: str, sample: int) -> None:
        super().__init__(text)
        self.sample = sample


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
    A worker that is stopped while it hands over a batch would be waited for without end: it is killed when it is due.
    """

    def __init__(self) -> None:
        self._handler: Any = None
        self._asked: set[int] = set()  # processes of the pool that is asked
        self._noted: dict[int, RuntimeError] = {}  # by process
        self._due: tuple[float, list[Any]] | None = None  # when these processes must have answered
        self._watch: threading.Thread | None = None

    def listen(self) -> None:
        """Stand in front of torch's handler; set that first, as the first pool would, in which a worker may die too."""
        if threading.current_thread() is not threading.main_thread():
            return
        signal_handling._set_SIGCHLD_handler()
        if signal.getsignal(signal.SIGCHLD) != self._on_signal:
            self._handler = signal.getsignal(signal.SIGCHLD)
            signal.signal(signal.SIGCHLD, self._on_signal)

    def _on_signal(self, number: int, frame: Any) -> None:
        try:
            if callable(self._handler):
                self._handler(number, frame)
        except RuntimeError as error:
            found = re.search(r"pid (\d+)", str(error))
            process = int(found[1]) if found else 0
            if process in self._asked:
                raise
            self._noted[process] = error

    def forget(self, processes: list[Any]) -> None:
        """Drop what was noted of a pool, once it is gone."""
        for process in processes:
            self._noted.pop(process.pid, None)

    @contextlib.contextmanager
    def told(self, processes: list[Any], due: float) -> Iterator[None]:
        """Raise the death of one of these processes within this block, at once what was noted before it."""
        asked = {process.pid for process in processes}
        for process in asked & self._noted.keys():
            raise self._noted.pop(process)
        if self._watch is None or not self._watch.is_alive():  # not alive: in a forked process
            self._watch = threading.Thread(target=self._kill_what_is_due, daemon=True)
            self._watch.start()
        self._asked, self._due = asked, (due, processes)
        try:
            yield
        finally:
            self._asked, self._due = set(), None

    def _kill_what_is_due(self) -> None:
        while True:
            time.sleep(_LOOK_S / 2)
            due = self._due
            if due is not None and time.monotonic() > due[0]:
                for process in due[1]:
                    process.kill()


deaths = _Deaths()


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
        self.least_share: int | None = None

    def __len__(self) -> int:
        return len(self.order) - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        indices = self.order.of(self.number)
        for position in range(self.start, len(self.order)):
            whole = indices[self.order.bounds(position)]
            own, _ = portion(whole, self.least_share)
            yield [(self.number, index) for index in whole[own].tolist()]


def default_workers() -> tuple[int, str]:
    """Return a number of worker processes for this machine, and the reason."""
    available = devices.usable_processors(distributed.local_size())
    count = max(0, min(8, available - 1))
    return count, f"{available} processor core{'s' if available != 1 else ''}, one for the loop"
