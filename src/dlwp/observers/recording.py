"""Own what is kept of a run's numbers: metrics.jsonl, and summary.json while the run goes on.

Knows nothing of how they are shown.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from dlwp.errors import RunError
from dlwp.runs import files, history
from dlwp.runs.folder import RunFolder
from dlwp.training.events import Ended, EpochEnded, Evaluated, Logged, Saved, Started


class Recording:
    """Write a line of metrics.jsonl for each log ("train"), epoch ("train_epoch") and evaluation ("val", "test").

    A line that the disk does not take waits, and is written before the next; a checkpoint is not saved while lines wait.
    After a resume the file is cut to what the checkpoint had seen, so that it holds each step once.

    Args:
        run: the folder.
        clock: seconds, rising.
    """

    watcher = False

    def __init__(self, run: RunFolder, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._run = run
        self._clock = clock
        self._waiting: list[str] = []
        self._offset = 0
        self._began = clock()
        self._earlier_s = 0.0  # of training, in earlier processes
        self._aside_s = 0.0  # of all training, in evaluations and saves
        self._resumed = False
        self._last: dict[str, Any] | None = None
        self._test: dict[str, Any] | None = None

    def on_start(self, event: Started) -> None:
        """Begin to count time, and say in summary.json that the run goes on."""
        self._began = self._clock()
        if not self._resumed and event.step == 0:  # begun again in the same folder: there was no checkpoint yet
            self._cut(0)
        self._summarise(event, "running")

    def on_log(self, event: Logged) -> None:
        """Record training over the steps since the last log."""
        self._record(event, "train", event.values)

    def on_epoch(self, event: EpochEnded) -> None:
        """Record training over the whole epoch."""
        self._record(event, "train_epoch", {**event.train, "samples_per_s": event.samples_per_s})

    def on_evaluation(self, event: Evaluated) -> None:
        """Record an evaluation, and bring summary.json up to date."""
        self._aside_s += event.elapsed_s
        self._record(event, event.split, event.values)
        if event.split == "test":
            self._test = dict(event.values)
        else:
            self._last = {"step": event.step, **{f"{event.split}/{name}": value for name, value in event.values.items()}}
        self._summarise(event, "running")

    def on_save(self, event: Saved) -> None:
        """Leave the time of saving out of the training speed."""
        self._aside_s += event.elapsed_s

    def on_end(self, event: Ended) -> None:
        """Write what is left, and the final summary.json.

        Raises:
            RunError: the disk does not take it.
        """
        try:
            self._write()
            self._summarise(event, event.exit, **({"error": str(event.error)} if event.error else {}))
        except OSError as error:
            raise RunError(f"{files.fault(error, self._run.path)}: the last numbers of the run are not recorded") from error

    def flush(self) -> None:
        """Wait until every line is on disk.

        Raises:
            OSError: it does not take them.
        """
        self._write()
        if self._offset:
            files.fsync_file(self._run.metrics)

    def state_dict(self) -> dict[str, Any]:
        """Return where metrics.jsonl ends, all of it on disk, and what summary.json needs."""
        self.flush()
        return {
            "offset": self._offset,
            "time": self._elapsed(),
            "aside": self._aside_s,
            "last": history.finite(self._last),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Cut metrics.jsonl to where it ended when the state was saved; what is cut off goes to metrics.cut.jsonl."""
        self._resumed = True
        self._earlier_s, self._aside_s, self._last = state["time"], state["aside"], state["last"]
        self._began = self._clock()
        self._cut(state["offset"])

    def _cut(self, offset: int) -> None:
        metrics = self._run.metrics
        files.cut(metrics, offset, metrics.with_name("metrics.cut.jsonl"))
        self._offset = metrics.stat().st_size if metrics.exists() else 0

    def _elapsed(self) -> float:
        return self._earlier_s + self._clock() - self._began

    def _record(self, event: Logged | EpochEnded | Evaluated, split: str, values: dict[str, float]) -> None:
        record = {"step": event.step, "epoch": event.epoch, "split": split, **values, "time": round(self._elapsed(), 3)}
        self._waiting.append(history.line(record))
        try:
            self._write()
        except OSError as error:
            _warn(event.trainer, f"{files.fault(error, self._run.metrics)}: lines of metrics.jsonl wait for room")

    def _write(self) -> None:
        while self._waiting:
            self._offset = files.append_line(self._run.metrics, self._waiting[0])
            del self._waiting[0]

    def _summarise(self, event: Started | Evaluated | Ended, exit: str, **more: Any) -> None:
        trainer, progress = event.trainer, event.trainer.state.progress
        elapsed = self._elapsed()
        times = (event.times if isinstance(event, Ended) else {}) or trainer.times
        total = sum(times.values())
        best = {"step": progress.best_step, trainer.monitor: progress.best_value} if progress.best_step is not None else None
        values = {
            "exit": exit,
            "step": progress.step,
            "epoch": progress.epoch,
            "best": best,
            "last": self._last,
            "test": self._test,
            "samples_per_s": round(progress.samples / max(elapsed - self._aside_s, 1e-9), 1) if progress.samples else None,
            "elapsed_s": round(elapsed, 3),
            "time": {name: round(seconds / total, 4) for name, seconds in times.items()} if total else {},
            "warnings": list(trainer.warnings),
            "error": None,
            **more,
        }
        try:
            self._run.update_summary(**values)
        except OSError as error:
            if isinstance(event, Ended):
                raise
            _warn(trainer, f"{files.fault(error, self._run.summary)}: summary.json is behind")


def _warn(trainer: Any, text: str) -> None:
    if text not in trainer.warnings:
        trainer.warnings.append(text)
