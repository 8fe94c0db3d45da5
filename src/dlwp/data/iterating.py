"""Own the feeding of data that can only be iterated, and where in it a run goes on.

Knows nothing of what a transform does, and nothing of models. The order is that of the data set itself: nothing is
shuffled here. Each pass over it begins from the state that it had when it was made, and is told its number where it has
a `set_epoch`, so that a pass is a function of (seed, number) in this process and in workers alike.
"""

from __future__ import annotations

import contextlib
import copy
import sys
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from dlwp import randomness
from dlwp.data.datasets import has_state, length_of
from dlwp.data.facts import check_sample, name_of
from dlwp.data.reading import Collate, Failure, Read, begin_worker
from dlwp.data.resident import finish
from dlwp.data.streaming import TIMEOUT_S, deaths, on_device
from dlwp.errors import ConfigError, DataError, RunError
from dlwp.nested import each, size_of, tensors

_LOOK_S = 1.0


@dataclass
class Place:
    """Where in the data a run stands: in which pass, after how many of its samples, and the state of the set there."""

    number: int = 0
    sample: int = 0
    state: Any = None


@dataclass
class Order:
    """What the order of the samples depends on beside the data: a run goes on only where it is the same."""

    options: dict[str, Any]


class IterableLoader:
    """Feed an `IterableDataset`, in this process or by workers.

    With a number of steps an epoch is so many batches: the data goes on over epochs, and where it ends it is begun
    anew. Without, an epoch is one pass. Generators are seeded in front of each sample from (seed, pass, sample).

    With at most one worker a run goes on from the set's `state_dict` as it was behind the last batch used, which
    `load_state_dict` takes; where it has none, and with more workers, what was used is read again and skipped.

    Args:
        dataset: gives samples when it is iterated.
        batch_size: samples a batch; the last of a pass may be smaller.
        steps: batches an epoch; None: a pass.
        seed, device, transform, drop_last, limit_batches, channels_last: as in `ResidentLoader`.
        num_workers: processes; of several each iterates a copy of the set, which is to give it its share.
        timeout_s: a worker that needs longer for a batch is taken for hung.
        collate: makes a batch of a list of samples; None: torch's `default_collate`.

    Attributes:
        num_samples: an epoch; of a pass of unknown length that of the last pass, at first 0.
        order: of `options` alone. listener: as in `StreamingLoader`. has_tensors: its state may hold such.
    """

    has_tensors = True

    def __init__(
        self,
        dataset: Dataset[Any],
        batch_size: int,
        *,
        steps: int | None = None,
        seed: int = 0,
        device: torch.device | str = "cpu",
        transform: Callable[..., Any] | None = None,
        drop_last: bool = False,
        limit_batches: int | None = None,
        channels_last: bool = False,
        num_workers: int = 0,
        timeout_s: float = TIMEOUT_S,
        collate: Callable[[list[Any]], Any] | None = None,
    ) -> None:
        self.listener: Any = None
        self.transform, self.batch_size, self.num_workers = transform, batch_size, num_workers
        self._device, self._channels_last, self._timeout_s = torch.device(device), channels_last, timeout_s
        self._name, self._has_state = name_of(dataset), has_state(dataset)
        self._length = None if steps is not None else length_of(dataset)
        count = steps
        if self._length is not None:
            count = self._length // batch_size if drop_last else -(-self._length // batch_size)
        self._count = count if limit_batches is None else min(count or sys.maxsize, limit_batches)
        known = (self._count or 0) * batch_size
        self.num_samples = known if self._length is None else min(known, self._length)
        self.order = Order({
            "iterable": True, "batch_size": batch_size, "seed": seed, "drop_last": drop_last, "steps": steps,
            "limit_batches": limit_batches, "num_workers": max(1, num_workers),
        })  # fmt: skip
        self._source = _Source(dataset, batch_size, seed, steps is not None, drop_last, Collate(None, collate))
        self._source.between = None if num_workers else self._look_up
        self._live: Generator[Any] | None = None
        self._next, self._place, self._batches = (0, 0), Place(), 0  # what comes next, where that lies, used so far
        self._looked = 0.0

    def __len__(self) -> int:
        return -(-self.num_samples // self.batch_size) if self._count is None else self._count

    def epoch(self, number: int = 0, start: int = 0) -> Iterator[Any]:
        """Yield the batches of epoch `number` from batch `start` on.

        Raises:
            DataError: it yields nothing, ends before its `__len__` says, or samples cannot be stacked.
            RunError: a worker died, or hangs.
        """
        if (number, start) != self._next or self._live is None:
            self._seek(number, start)
        used, first = start * self.batch_size, None
        try:
            for position in range(start, self._count or sys.maxsize):
                found = next(self._live, None)  # type: ignore[arg-type]
                if found is None:
                    break
                batch, self._place = found
                self._batches += 1
                used += size_of(batch)
                is_last = position + 1 == self._count
                self._next = (number + 1, 0) if is_last else (number, position + 1)
                if is_last and not self._source.endless:
                    self._place = Place(number + 1)
                if self.num_workers > 1 and position < 2 and number == 0:
                    first = self._compared(first, batch)
                at = (number * len(self) + position, None, number)
                moved = each(batch, lambda value: on_device(value, self._device))
                yield finish(moved, self.transform, at, self._channels_last)
        except BaseException:  # any error: workers must not stay
            self._close()
            raise
        if not self._source.endless:
            self._close()
            self._next, self._place = (number + 1, 0), Place(number + 1)
            if self._count is None:
                self.num_samples = used
            elif used < self.num_samples:
                raise DataError(
                    f"{self._name} ended after {used:,} samples of epoch {number + 1}, its __len__ says "
                    f"{self._length:,}. Mend that, or data.steps_per_epoch={max(1, used // self.batch_size)}"
                )

    # ---- where a run goes on ------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return where the data stands behind the last batch."""
        place = self._place
        if self._live is not None and self._is_here(place):
            place.state = self._source.state()
        return {"next": list(self._next), "batches": self._batches, **vars(place)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self._close()
        self._next, self._batches = (int(state["next"][0]), int(state["next"][1])), int(state["batches"])
        self._place = Place(int(state["number"]), int(state["sample"]), state["state"])

    def _is_here(self, place: Place) -> bool:
        return not self.num_workers and self._has_state and place.sample > 0

    def _seek(self, number: int, start: int) -> None:
        """Open the data where this batch comes next: at the place known, else by skipping what comes before it."""
        self._close()
        endless = self._source.endless
        place, skip = self._place, 0  # batches
        if (number, start) != self._next:
            self._batches = number * (self._count or 0) + start if endless else start
            place = Place(0 if endless else number)
            skip = self._batches
        elif self.num_workers > 1:
            skip = self._batches if endless else start
            place = Place(0 if endless else number)
        passed = skip * self.batch_size + (place.sample if place.state is None else 0)
        if passed and self.listener is not None and hasattr(self.listener, "say"):
            why = "several workers are sought so" if self._has_state else "it has no state_dict"
            self.listener.say(f"resume   {passed:,} samples of {self._name} read again and skipped ({why})")
        self._source.begin = place
        self._live = self._from_workers() if self.num_workers else self._from_here()
        for _ in range(skip):
            if next(self._live, None) is None:
                raise DataError(f"{self._name} ended before batch {skip:,}, at which the run stands")

    def _close(self) -> None:
        """End the workers, once the state here is kept."""
        if self._live is not None:
            if self._is_here(self._place):
                self._place.state = self._source.state()
            self._live.close()
            self._live = None

    # ---- batches ------------------------------------------------------------------------------------------------

    def _from_here(self) -> Generator[Any]:
        batches = iter(self._source)
        while True:
            self._looked = time.monotonic()
            try:
                with randomness.preserved():
                    found = next(batches)
            except (StopIteration, _GivenUp):
                return
            yield _opened(found)

    def _from_workers(self) -> Generator[Any]:
        deaths.listen()
        loader: DataLoader[Any] = DataLoader(
            self._source, batch_size=None, num_workers=self.num_workers, collate_fn=_as_it_is,
            worker_init_fn=begin_worker, generator=randomness.generator(0, "workers"),
            timeout=min(_LOOK_S, self._timeout_s), pin_memory=self._device.type == "cuda",
        )  # fmt: skip
        batches: Any = iter(loader)
        try:
            while True:
                found = self._asked(batches)
                if found is None:
                    return
                yield _opened(found)
        finally:
            for _ in range(2):
                with contextlib.suppress(RuntimeError):  # torch's handler tells once more of a dead worker
                    batches._shutdown_workers()
            deaths.forget(batches._workers)

    def _asked(self, batches: Any) -> Any:
        began = time.monotonic()
        while True:
            try:
                with deaths.told(batches._workers, began + self._timeout_s + _LOOK_S):
                    return next(batches, None)
            except (RuntimeError, ConnectionError, EOFError) as error:
                waited = time.monotonic() - began
                if "DataLoader timed out" in str(error) and waited < self._timeout_s:
                    if self.listener is not None and self.listener.waiting():
                        return None
                    continue
                signs = ("timed out", "exited unexpectedly", "DataLoader worker")
                # what the data set itself raised begins so, and may hold the same words
                if not str(error).startswith("Caught ") and any(sign in str(error) for sign in signs):
                    what = "hangs" if waited >= self._timeout_s else "died, often out of memory"
                    raise RunError(
                        f"a data worker {what}, after {self._batches:,} batches. data.num_workers=0"
                    ) from error
                raise

    def _look_up(self) -> None:
        """Ask the listener, once a second, whether to go on."""
        now = time.monotonic()
        if self.listener is not None and now - self._looked >= _LOOK_S:
            self._looked = now
            if self.listener.waiting():
                raise _GivenUp

    def _compared(self, first: Any, batch: Any) -> Any:
        """Warn where two workers begin with the same samples: the set does not share them out."""
        mine = list(tensors(batch))
        same = first is not None and len(first) == len(mine) and all(map(torch.equal, first, mine))
        if same and mine and self.listener is not None:
            self.listener.warn(
                f"workers begin with the same batch: {self._name} does not share its samples out by "
                "torch.utils.data.get_worker_info, so each comes several times. data.num_workers=1"
            )
        return mine


class _GivenUp(Exception):
    """The listener wants no more batches."""


def _opened(found: Any) -> Any:
    if isinstance(found, Failure):
        raise found.error
    return found


def _as_it_is(found: Any) -> Any:
    return found


class _Source(IterableDataset[Any]):
    """Batches of the data set, each with the place behind it; in a worker of its own copy of the set."""

    def __init__(
        self, dataset: Dataset[Any], batch_size: int, seed: int, endless: bool, drop_last: bool, collate: Collate
    ) -> None:
        self._dataset = dataset
        self._first = copy.deepcopy(dataset.state_dict()) if has_state(dataset) else None  # type: ignore[attr-defined]
        self._batch_size, self._seed, self.endless, self._drop_last = batch_size, seed, endless, drop_last
        self._collate = collate
        self.begin = Place()
        self.between: Callable[[], None] | None = None

    def state(self) -> Any:
        """Return the state of the set as it is now, of its own."""
        return copy.deepcopy(self._dataset.state_dict())  # type: ignore[attr-defined]

    def __iter__(self) -> Iterator[Any]:
        samples: list[Read] = []
        place, in_worker = self.begin, get_worker_info() is not None
        try:
            for place, sample in self._samples():
                samples.append(Read(place.sample, place.sample, sample, name_of(self._dataset), []))
                if len(samples) == self._batch_size:
                    yield self._batch(samples, place, in_worker)
                    samples = []
            if samples and not self._drop_last:
                yield self._batch(samples, place, in_worker)
        except DataError as error:  # torch would wrap it in a traceback
            yield Failure(error)

    def _batch(self, samples: list[Read], place: Place, in_worker: bool) -> Any:
        found = self._collate(samples)
        if isinstance(found, Failure):
            return found
        if in_worker and self._first is not None:
            place.state = self.state()
        return found[1], place

    def _samples(self) -> Iterator[tuple[Place, Any]]:
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        number, name = self.begin.number, name_of(self._dataset)
        skip = self.begin.sample if self.begin.state is None else 0
        count = self.begin.sample - skip
        state = self.begin.state
        while True:
            samples = iter(self._opened(number, state))
            while True:
                if self.between is not None:
                    self.between()
                randomness.seed_sample(self._seed, number, workers * count + worker)
                try:
                    sample = next(samples)
                except StopIteration:
                    break
                count += 1
                if count > skip:
                    check_sample(sample, count - 1, self._dataset, None if sample is None else _as_it_is)
                    yield Place(number, count), sample
            if count < skip:
                raise DataError(f"{name} ended after {count:,} samples, the run stands at its sample {skip:,}")
            if count == 0 and (self.endless or workers == 1):
                to = f" to worker {worker + 1} of {workers}" if workers > 1 else ""
                raise DataError(f"{name} yields nothing{to}: its __iter__ gives no sample")
            if not self.endless:
                return
            number, count, skip, state = number + 1, 0, 0, None

    def _opened(self, number: int, state: Any) -> Any:
        """Return the set as it was made, or in a state of its own, for a pass of this number."""
        dataset: Any = self._dataset
        if self._first is not None:
            dataset.load_state_dict(copy.deepcopy(self._first if state is None else state))
        else:
            dataset = copy.copy(dataset)  # so that what a pass notes in attributes is gone with it
        if hasattr(dataset, "set_epoch"):
            dataset.set_epoch(number)
        return dataset


def steps_of(dataset: Dataset[Any], steps: int | None, max_steps: int | None) -> tuple[int | None, str]:
    """Return how many batches an epoch of the training data has, None for a pass, and how that is known.

    Raises:
        ConfigError: it is not known.
    """
    name, length = name_of(dataset), length_of(dataset)
    if steps is not None:
        return steps, f"{name} goes on over epochs of {steps:,} steps, begun anew where it ends"
    if length is not None:
        return None, f"{name} is iterated, an epoch is a pass of {length:,} samples (its __len__)"
    if max_steps is not None:
        return (
            max_steps,
            f"{name} has no length: one epoch of trainer.max_steps={max_steps:,}, begun anew where it ends",
        )
    raise ConfigError(
        f"{name} can only be iterated and has no length, so an epoch has no end. data.steps_per_epoch=1000, or "
        "trainer.max_steps=10000, or give the class a __len__"
    )
