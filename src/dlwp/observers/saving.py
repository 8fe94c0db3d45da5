"""Own when a checkpoint is saved, which are kept, and what happens when a save fails.

Knows nothing of what is in a checkpoint.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dlwp import checkpoint, distributed, memory
from dlwp.checkpoint import Snapshot
from dlwp.errors import CallbackError, DataError, RunError
from dlwp.runs import files
from dlwp.runs.folder import RunFolder
from dlwp.settings import Duration
from dlwp.training.events import Ended, Evaluated, Saved, Settled, Started

_STALE = ".stale-"
_LARGEST_COPY = 256 * 2**20
"""Bytes of a state in the host's memory that are copied at most, to be written beside the training."""


class Saving:
    """Save the run's state as often as asked, at each best evaluation, and at the end.

    The order is: write the new checkpoint whole, let `last` (and `best`) name it, and only then delete old ones, so
    that at any moment one that is complete is named. All that is done in a thread, on a copy of the state, while
    training goes on; one save at a time, the last one waited for. For a large state that lies in the host's memory
    training waits: a copy would raise the peak of memory, and writing needs none. A best step that a full disk did not
    take is kept in memory and written with the next save.

    Args:
        run: the folder.
        every: epochs, steps or seconds between saves.
        keep_last: newest checkpoints to keep, from 1.
        keep_best: also keep that of the best evaluation.
        config_text: config.yaml, laid into each.
        max_failed_saves: failures in a row that end the run.
        background: write beside the training; else training waits.
        clock: seconds, rising.
    """

    watcher = False

    def __init__(
        self,
        run: RunFolder,
        *,
        every: Duration,
        keep_last: int,
        keep_best: bool,
        config_text: str,
        max_failed_saves: int = 3,
        background: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run = run
        self._every = every
        self._keep_last = keep_last
        self._keep_best = keep_best
        self._config_text = config_text
        self._max_failed_saves = max_failed_saves
        self._background = background
        self._clock = clock
        self._every_steps = 1
        self._began = clock()
        self._order: list[str] = []  # in the order of commitment, the oldest first
        self._saved_step: int | None = None
        self._best_due = False
        self._kept: Snapshot | None = None  # the best step, which could not be written yet
        self._writing: _Writing | None = None
        self._failed = 0

    def on_start(self, event: Started) -> None:
        """Take stock of what is there; after a resume from an older checkpoint the later ones no longer count.

        They are renamed, so that nothing takes them for this run's, and deleted once the next one is written.
        """
        self._began = self._clock()
        if self._every.unit != "time":
            self._every_steps = self._every.steps(event.steps_per_epoch)
        files.sweep(self._run.checkpoints)
        steps = {path.name: checkpoint.step_of(path) for path in self._run.saved()}
        stale = {name for name, step in steps.items() if step > event.step}
        self._order = [name for name in steps if name not in stale]  # the lowest step first
        current = checkpoint.name_of(event.step)
        if current in steps:
            self._saved_step = event.step
            self._run.point("last", current)
            self._repair_best(event.trainer.state.progress.best_step, set(self._order), stale)
        for name in stale:
            files.rename(self._run.checkpoints / name, self._run.checkpoints / f"{_STALE}{name}-{files.unique()}")

    def on_evaluation(self, event: Evaluated) -> None:
        """Remember that this step is the best so far."""
        if event.is_best and self._keep_best:
            self._best_due = True

    def on_settled(self, event: Settled) -> None:
        """Begin a save if it is time, or this step is the best so far; tell of the one before when it is done.

        Raises:
            RunError: too many saves in a row have failed.
        """
        if self._every.unit == "time":
            due = self._clock() - self._began >= self._every.value
        else:
            due = event.step % self._every_steps == 0
        if distributed.any_of(due or self._best_due or None):
            self._begin(event, beside=self._background)
        if self._writing is not None and not self._writing.is_alive():
            self._finish(event)

    def on_end(self, event: Ended) -> None:
        """Wait for the save that is being written; save the last step, unless it is saved or the run failed.

        A run that a callback of the user's own has ended is sound: it is saved too.

        Raises:
            RunError: it cannot be saved.
        """
        if event.exit == "failed":
            self._finish(event, attempts=sys.maxsize)
            alone = distributed.world_size() == 1  # others may be gone, and a state is taken together
            if not isinstance(event.error, CallbackError) or event.step == 0 or not alone:
                return
        self._finish(event)
        due = event.step != self._saved_step or self._best_due or self._kept is not None
        if distributed.any_of(due or None):
            self._begin(event, beside=False)
            self._finish(event, attempts=1)

    def _begin(self, event: Settled | Ended, *, beside: bool) -> None:
        """Take hold of the state and begin to write it: beside the training, where memory may hold a copy."""
        self._finish(event)  # one at a time: where the disk is slower than the interval, training waits
        began = time.perf_counter()
        event.trainer.guard.check_weights()
        state = event.trainer.state
        needed = checkpoint.size(state)
        if event.trainer.device.type == "cpu" and needed > _LARGEST_COPY:
            beside = False
        beside = beside and 2 * needed < memory.free()
        is_best, self._best_due = self._best_due, False
        jobs = [_Job(event.step, is_best)]
        try:
            jobs[0].taken = checkpoint.snapshot(event.step, state, self._config_text, copied=beside)
        except OSError as error:  # of a keeper whose lines the disk does not take
            self._writing = _Writing(jobs, self._write, error)
            return
        if self._kept is not None and not is_best:
            jobs.insert(0, _Job(self._kept.step, True, self._kept))
        self._kept = None
        self._saved_step = event.step
        self._began = self._clock()
        self._writing = _Writing(jobs, self._write)
        if beside:
            self._writing.start()
        else:
            self._writing.run()
        self._writing.copied = beside
        self._writing.waited_s = time.perf_counter() - began

    def _write(self, jobs: list[_Job]) -> Path:
        """Write checkpoints, point to them, delete old ones; each job that is done is taken off the list."""
        while True:
            taken, is_best = jobs[0].taken, jobs[0].is_best
            assert taken is not None
            name = checkpoint.name_of(taken.step)
            path = checkpoint.write(self._run.checkpoints, taken)
            self._order = [known for known in self._order if known != name] + [name]
            self._run.point("last", name)
            if is_best:
                self._run.point("best", name)
            if len(jobs) == 1:
                return path
            del jobs[0]

    def _finish(self, event: Settled | Ended, attempts: int | None = None) -> None:
        """Wait for what is being written, delete what is no longer kept, and tell of it.

        Raises:
            RunError: it failed, as `attempts` (max_failed_saves) in a row have.
        """
        if self._writing is None:
            return
        writing, self._writing = self._writing, None
        began = time.perf_counter()
        path = writing.result()
        waited_s = writing.waited_s + time.perf_counter() - began
        event.trainer.spend("saving", waited_s)
        if path is not None:
            self._failed = 0
            event.trainer.emit(Saved(event.trainer, checkpoint.step_of(path), path, waited_s))
            self._delete_old(event)
            return
        self._failed += 1
        self._saved_step = None
        best = next((job for job in writing.jobs if job.is_best), None)
        if best is not None and best.taken is not None:
            room = 2 * checkpoint.size(event.trainer.state) < memory.free()
            self._kept = best.taken if writing.copied else best.taken.copy() if room else None
        text = f"checkpoint of step {writing.jobs[0].step:,} not saved: {self._fault(writing.error, event)}"
        if self._failed >= (attempts or self._max_failed_saves):
            times = f" ({self._failed} saves in a row have failed)" if self._failed > 1 else ""
            raise RunError(text + times) from writing.error
        event.trainer.warn(text)

    def _delete_old(self, event: Settled | Ended) -> None:
        try:
            kept = {*self._order[-self._keep_last :], *self._named()}
            for name in [name for name in self._order if name not in kept]:
                self._discard(name)
            for pattern in (f"{_STALE}*", ".broken-*"):
                for left in self._run.checkpoints.glob(pattern):
                    files.remove_tree(left)
        except OSError as error:
            event.trainer.warn(f"an old checkpoint stays: {files.fault(error, self._run.checkpoints)}")
        except DataError as error:  # `last` or `best` cannot be read: nothing is deleted that they may name
            event.trainer.warn(f"old checkpoints stay: {error}")

    def _named(self) -> set[str]:
        found = (self._run.pointed(name) for name in ("last", "best"))
        return {path.name for path in found if path is not None}

    def _discard(self, name: str) -> None:
        trash = self._run.checkpoints / f".trash-{name}-{files.unique()}"
        if (self._run.checkpoints / name).exists():
            files.rename(self._run.checkpoints / name, trash)
        self._order = [known for known in self._order if known != name]
        files.remove_tree(trash)

    def _repair_best(self, step: int | None, there: set[str], stale: set[str]) -> None:
        wanted = checkpoint.name_of(step) if step is not None and self._keep_best else None
        pointed = self._run.pointed("best")
        if wanted in there:
            if pointed is None or pointed.name != wanted:
                self._run.point("best", wanted)
        elif pointed is not None and pointed.name in stale:
            self._run.point("best", None)

    def _fault(self, error: OSError | None, event: Settled | Ended) -> str:
        assert error is not None
        text = files.fault(error, self._run.checkpoints, checkpoint.size(event.trainer.state))
        advice = ". Free space, or trainer.keep_last=1" if text.startswith("disk") else ""
        return f"{text}{advice}; last good: {f'step {int(self._order[-1][5:]):,}' if self._order else 'none'}"


class Following:
    """Take part, in a process that is not the first, in the saves that the first one makes."""

    watcher = False

    def on_settled(self, event: Settled) -> None:
        """Give what this process knows of the state, where one is taken now."""
        if distributed.any_of(None):
            self._take_part(event)
            event.trainer.guard.keep()

    def on_end(self, event: Ended) -> None:
        """Do so at the end of a run that has not failed."""
        if event.exit != "failed" and distributed.any_of(None):
            self._take_part(event)

    def _take_part(self, event: Settled | Ended) -> None:
        event.trainer.guard.check_weights()
        checkpoint.snapshot(event.step, event.trainer.state, "")


@dataclass
class _Job:
    step: int
    is_best: bool
    taken: Snapshot | None = None


class _Writing(threading.Thread):
    """Checkpoints being written: `run` in this thread, or `start` for one of its own."""

    def __init__(self, jobs: list[_Job], write: Callable[[list[_Job]], Path], error: OSError | None = None) -> None:
        super().__init__(name="saving")
        self.jobs = jobs
        self.error = error
        self.copied = False
        self.waited_s = 0.0
        self._job = write
        self._path: Path | None = None
        self._defect: BaseException | None = None

    def run(self) -> None:
        try:
            self._path = self._job(self.jobs)
        except OSError as error:
            self.error = error
        except BaseException as error:  # any error: it is raised where the result is asked for
            self._defect = error

    def result(self) -> Path | None:
        """Return the last checkpoint once it is written; None where the disk did not take it: see `error`."""
        if self.ident is not None:
            self.join()
        if self._defect is not None:
            raise self._defect
        return self._path
