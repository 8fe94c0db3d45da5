"""Own what is kept of a run's numbers: metrics.jsonl, and summary.json while the run goes on.

Knows nothing of how they are shown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dlwp.errors import RunError
from dlwp.runs import files, history
from dlwp.runs.folder import RunFolder

if TYPE_CHECKING:
    from dlwp.training.events import Ended, Evaluated, Logged, Saved, Started


class Recording:
    """Write a line of metrics.jsonl for each log (split "train") and each evaluation ("val", "test").

    A line that the disk does not take waits, and is written before the next; no checkpoint is saved while lines wait.
    After a resume the file is cut to what the checkpoint had seen, so that it holds each step once.

    Args:
        run: the folder.
    """

    watcher = False

    def __init__(self, run: RunFolder) -> None:
        self._run = run
        self._waiting: list[str] = []
        self._offset = 0
        self._aside_s = 0.0  # of the training's time, in evaluations and saves
        self._resumed = False
        self._exit = "running"
        self._error: str | None = None
        self._last: dict[str, Any] | None = None
        self._test: dict[str, Any] | None = None

    def on_start(self, event: Started) -> None:
        """Say in summary.json that the run goes on."""
        if not self._resumed and event.step == 0:  # begun again in the same folder: there was no checkpoint yet
            self._cut(0)
        self._exit, self._error, self._test = "running", None, None
        self._try_to_summarise(event)

    def on_log(self, event: Logged) -> None:
        """Record training over the steps since the last log."""
        self._record(event, "train", event.values)

    def on_evaluation(self, event: Evaluated) -> None:
        """Record an evaluation, and bring summary.json up to date."""
        self._aside_s += event.elapsed_s
        self._record(event, event.split, event.values)
        if event.split == "test":
            self._test = dict(event.values)
        else:
            values = {f"{event.split}/{name}": value for name, value in event.values.items()}
            self._last = {"step": event.step, **values}
        self._try_to_summarise(event)

    def on_save(self, event: Saved) -> None:
        """Leave the time of saving out of the training speed."""
        self._aside_s += event.elapsed_s

    def on_end(self, event: Ended) -> None:
        """Write what is left, and how the run ended; an evaluation of the test split may still follow.

        Raises:
            RunError: the disk does not take it.
        """
        self._exit, self._error = event.exit, None if event.error is None else str(event.error)
        try:
            self._write()
            self._summarise(event)
        except OSError as error:
            raise RunError(f"{files.fault(error, self._run.path)}: the run's last numbers are not recorded") from error

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
        return {"offset": self._offset, "aside": self._aside_s, "last": history.finite(self._last)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Cut metrics.jsonl to where it ended when the state was saved; what is cut off goes to metrics.cut.jsonl."""
        self._resumed = True
        self._aside_s, self._last = state["aside"], state["last"]
        self._cut(state["offset"])

    def _cut(self, offset: int) -> None:
        metrics = self._run.metrics
        files.cut(metrics, offset, metrics.with_name("metrics.cut.jsonl"))
        self._offset = metrics.stat().st_size if metrics.exists() else 0

    def _record(self, event: Logged | Evaluated, split: str, values: dict[str, float]) -> None:
        record = {"step": event.step, "epoch": event.epoch, "split": split, **values}
        self._waiting.append(history.line({**record, "time": round(event.trainer.elapsed_s, 3)}))
        try:
            self._write()
        except OSError as error:
            _warn(event.trainer, f"{files.fault(error, self._run.metrics)}: lines of metrics.jsonl wait for room")

    def _write(self) -> None:
        while self._waiting:
            self._offset = files.append_line(self._run.metrics, self._waiting[0])
            del self._waiting[0]

    def _try_to_summarise(self, event: Started | Evaluated) -> None:
        try:
            self._summarise(event)
        except OSError as error:
            _warn(event.trainer, f"{files.fault(error, self._run.summary)}: summary.json is behind")

    def _summarise(self, event: Started | Evaluated | Ended) -> None:
        trainer, progress = event.trainer, event.trainer.state.progress
        elapsed, total = trainer.elapsed_s, sum(trainer.times.values())
        best = (
            None if progress.best_step is None else {"step": progress.best_step, trainer.monitor: progress.best_value}
        )
        values = {
            "exit": self._exit,
            "step": progress.step,
            "epoch": progress.epoch,
            "best": best,
            "last": self._last,
            "test": self._test,
            "samples_per_s": round(progress.samples / max(elapsed - self._aside_s, 1e-9), 1),
            "elapsed_s": round(elapsed, 3),
            "time": {name: round(seconds / total, 4) for name, seconds in trainer.times.items()} if total else {},
            "warnings": list(trainer.warnings),
            "error": self._error,
        }
        self._run.update_summary(**values)


def _warn(trainer: Any, text: str) -> None:
    if text not in trainer.warnings:
        trainer.warn(text)
