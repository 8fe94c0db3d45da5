"""Own when a checkpoint is saved, which are kept, and what happens when a save fails.

Knows nothing of what is in a checkpoint.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from dlwp import checkpoint
from dlwp.errors import RunError
from dlwp.runs import files
from dlwp.runs.folder import RunFolder
from dlwp.settings import Duration
from dlwp.training.events import Ended, Evaluated, Saved, Settled, Started


class Saving:
    """Save the run's state as often as asked, at each best evaluation, and at the end.

    The order is: write the new checkpoint whole, let `last` (and `best`) name it, and only then delete old ones, so
    that at any moment one that is complete is named.

    Args:
        run: the folder.
        every: epochs, steps or seconds between saves.
        keep_last: newest checkpoints to keep, from 1.
        keep_best: also keep that of the best evaluation.
        config_text: config.yaml, laid into each.
        max_failed_saves: failures in a row that end the run.
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
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run = run
        self._every = every
        self._keep_last = keep_last
        self._keep_best = keep_best
        self._config_text = config_text
        self._max_failed_saves = max_failed_saves
        self._clock = clock
        self._every_steps = 1
        self._began = clock()
        self._order: list[str] = []  # in the order of commitment, the oldest first
        self._stale: set[str] = set()
        self._saved_step: int | None = None
        self._best_due = False
        self._failed = 0

    def on_start(self, event: Started) -> None:
        """Take stock of what is there; after a resume from an older checkpoint the later ones no longer count."""
        self._began = self._clock()
        if self._every.unit != "time":
            self._every_steps = self._every.steps(event.steps_per_epoch)
        files.sweep(self._run.checkpoints)
        steps = {path.name: checkpoint.step_of(path) for path in self._run.saved()}
        self._stale = {name for name, step in steps.items() if step > event.step}
        self._order = sorted(steps, key=lambda name: (name not in self._stale, steps[name]))
        current = checkpoint.name_of(event.step)
        if current in steps:
            self._saved_step = event.step
            self._run.point("last", current)
            self._repair_best(event.trainer.state.progress.best_step, set(steps))

    def on_evaluation(self, event: Evaluated) -> None:
        """Remember that this step is the best so far."""
        if event.is_best and self._keep_best:
            self._best_due = True

    def on_settled(self, event: Settled) -> None:
        """Save if it is time, or this step is the best so far.

        Raises:
            RunError: too many saves in a row have failed.
        """
        if self._every.unit == "time":
            due = self._clock() - self._began >= self._every.value
        else:
            due = event.step % self._every_steps == 0
        if due or self._best_due:
            self._try_to_save(event)

    def on_end(self, event: Ended) -> None:
        """Save the last step, unless it is saved or the run failed.

        Raises:
            RunError: it cannot be saved.
        """
        if event.exit != "failed" and (event.step != self._saved_step or self._best_due):
            self._try_to_save(event, attempts=1)

    def _try_to_save(self, event: Settled | Ended, attempts: int | None = None) -> None:
        try:
            path, elapsed_s = self._save(event)
        except OSError as error:
            self._failed += 1
            text = f"checkpoint of step {event.step:,} not saved: {self._fault(error)}"
            if self._failed >= (attempts or self._max_failed_saves):
                times = f" ({self._failed} saves in a row have failed)" if self._failed > 1 else ""
                raise RunError(text + times) from error
            event.trainer.warn(text)
            return
        self._failed = 0
        spent = event.trainer.times
        spent["saving"] = spent.get("saving", 0.0) + elapsed_s
        event.trainer.emit(Saved(event.trainer, event.step, path, elapsed_s))
        self._delete_old(event)

    def _save(self, event: Settled | Ended) -> tuple[Path, float]:
        began = time.perf_counter()
        name = checkpoint.name_of(event.step)
        if name in self._stale:
            self._discard(name)
        path = checkpoint.save(self._run.checkpoints, event.step, event.trainer.state, self._config_text)
        self._order = [known for known in self._order if known != name] + [name]
        self._run.point("last", name)
        if self._best_due:
            self._run.point("best", name)
        self._best_due = False
        self._saved_step = event.step
        self._began = self._clock()
        return path, time.perf_counter() - began

    def _delete_old(self, event: Settled | Ended) -> None:
        kept = {*self._order[-self._keep_last :], *self._named()}
        try:
            for name in [name for name in self._order if name not in kept]:
                self._discard(name)
        except OSError as error:
            event.trainer.warn(f"an old checkpoint stays: {files.fault(error, self._run.checkpoints)}")

    def _named(self) -> set[str]:
        found = (self._run.pointed(name) for name in ("last", "best"))
        return {path.name for path in found if path is not None}

    def _discard(self, name: str) -> None:
        trash = self._run.checkpoints / f".trash-{name}-{files.unique()}"
        if (self._run.checkpoints / name).exists():
            files.rename(self._run.checkpoints / name, trash)
        self._order = [known for known in self._order if known != name]
        self._stale.discard(name)
        files.remove_tree(trash)

    def _repair_best(self, step: int | None, there: set[str]) -> None:
        wanted = checkpoint.name_of(step) if step is not None and self._keep_best else None
        pointed = self._run.pointed("best")
        if wanted in there:
            if pointed is None or pointed.name != wanted:
                self._run.point("best", wanted)
        elif pointed is not None and pointed.name in self._stale:
            self._run.point("best", None)

    def _fault(self, error: OSError) -> str:
        last = self._run.pointed("last")
        needed = sum(path.stat().st_size for path in last.iterdir()) if last is not None else 0
        text = files.fault(error, self._run.checkpoints, needed)
        advice = ". Free space, or trainer.keep_last=1" if text.startswith("disk") else ""
        return f"{text}{advice}; last good: {f'step {checkpoint.step_of(last):,}' if last is not None else 'none'}"
