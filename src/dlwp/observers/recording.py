"""Own what is kept of a run's numbers: metrics.jsonl, audit.jsonl, left_out.jsonl, and summary.json while it goes on.

Knows nothing of how they are shown.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlwp.errors import RunError
from dlwp.runs import files, history
from dlwp.runs.folder import RunFolder

if TYPE_CHECKING:
    from dlwp.training.events import Ended, Evaluated, LeftOut, Logged, Saved, Started


class Recording:
    """Write a line of metrics.jsonl for each log (split "train") and each evaluation ("val", "test").

    At each log the chain over the samples used goes to audit.jsonl (`training.audit`); a sample that was left out goes
    to left_out.jsonl, once. A line that the disk does not take waits, and is written before the next; no checkpoint is
    saved while lines wait. After a resume each file is cut to what the checkpoint had seen, so that it holds each step
    once.

    Args:
        run: the folder.
        test_follows: whether the caller writes the `exit` of summary.json, once the test split is evaluated.
    """

    watcher = False

    def __init__(self, run: RunFolder, *, test_follows: bool = False) -> None:
        self._run = run
        self._test_follows = test_follows
        self._metrics = _Lines(run.metrics)
        self._audit = _Lines(run.path / "audit.jsonl")
        self._left_out = _Lines(run.path / "left_out.jsonl")
        self._files = {"offset": self._metrics, "audit": self._audit, "left_out": self._left_out}
        self._known_left_out: set[int] = set()
        self._aside_s = 0.0  # of the training's time, in evaluations and saves
        self._ends: dict[str, int] | None = None  # of a checkpoint that the run goes on from
        self._earlier: list[str] = []  # warnings of the processes before
        self._exit = "running"
        self._error: str | None = None
        self._last: dict[str, Any] | None = None
        self._test: dict[str, Any] | None = None

    def on_start(self, event: Started) -> None:
        """Cut each file to where it ended when the state was saved, and say in summary.json that the run goes on.

        What is cut off goes to NAME.cut.jsonl.
        """
        if self._ends is not None:
            self._earlier = [str(text) for text in self._run.read_summary().get("warnings") or []]
        if self._ends is not None or event.step == 0:  # at 0: maybe begun again, where there was no checkpoint yet
            for name, lines in self._files.items():
                lines.cut((self._ends or {}).get(name, 0))
        self._known_left_out = {line["sample"] for line in history.read(self._left_out.path)}
        self._note_order(event)
        self._exit, self._error, self._test = "running", None, None
        self._try_to_summarise(event)

    def on_log(self, event: Logged) -> None:
        """Record training over the steps since the last log."""
        self._record(event, "train", event.values)
        if chain := event.trainer.chain.read():
            self._add(event, self._audit, {"step": event.step, "epoch": event.epoch, "chain": chain})

    def on_left_out(self, event: LeftOut) -> None:
        """Record a sample that could not be read, once."""
        if event.sample not in self._known_left_out:
            self._known_left_out.add(event.sample)
            self._add(event, self._left_out, {"sample": event.sample, "name": event.name, "reason": event.reason})

    def on_evaluation(self, event: Evaluated) -> None:
        """Record an evaluation, and bring summary.json up to date."""
        self._aside_s += event.elapsed_s
        self._record(event, event.split, event.values)
        if event.split == "test":
            self._test = dict(event.values)
            self._try_to_flush(event)  # who reads "done" in the summary finds every line, after a power loss too
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
        self._exit = "running" if self._test_follows and event.error is None else event.exit
        self._error = None if event.error is None else str(event.error)
        try:
            self.flush()
            self._summarise(event)
        except OSError as error:
            text = f"{files.fault(error, self._run.path)}: the run's last numbers are not recorded"
            if event.error is None:
                raise RunError(text) from error
            _warn(event.trainer, text)  # the run fails already, maybe for the same reason: that is what is raised

    def flush(self) -> None:
        """Wait until every line is on disk.

        Raises:
            OSError: it does not take them.
        """
        for lines in self._files.values():
            lines.flush()

    def state_dict(self) -> dict[str, Any]:
        """Return where each file ends, all of it on disk, and what summary.json needs."""
        self.flush()
        ends = {name: lines.offset for name, lines in self._files.items()}
        return {**ends, "aside": self._aside_s, "last": history.finite(self._last)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back where each file ended; it is cut there when the run begins."""
        self._aside_s, self._last = float(state["aside"]), state["last"]
        self._ends = {name: int(state.get(name, 0)) for name in self._files}

    def _note_order(self, event: Started) -> None:
        """Record the order that the samples must come in, at the start and when it is another than before."""
        order = getattr(event.trainer.train_loader, "order", None)
        known = [line["order"] for line in history.read(self._audit.path) if "order" in line]
        if order is not None and known[-1:] != [order.options]:
            self._add(event, self._audit, {"step": event.step, "order": order.options})

    def _record(self, event: Logged | Evaluated, split: str, values: dict[str, float]) -> None:
        record = {"step": event.step, "epoch": event.epoch, "split": split, **values}
        self._add(event, self._metrics, {**record, "time": round(event.trainer.elapsed_s, 3)})

    def _add(self, event: Started | Logged | Evaluated | LeftOut, lines: _Lines, record: dict[str, Any]) -> None:
        lines.waiting.append(history.line(record))
        try:
            lines.write()
        except OSError as error:
            _warn(event.trainer, f"{files.fault(error, lines.path)}: lines of {lines.path.name} wait for room")

    def _try_to_flush(self, event: Evaluated) -> None:
        try:
            self.flush()
        except OSError as error:
            _warn(event.trainer, f"{files.fault(error, self._run.path)}: lines wait for room")

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
            "left_out": len(self._known_left_out),
            "skipped_steps": progress.skipped,
            "rollbacks": progress.rollbacks,
            "warnings": list(dict.fromkeys([*self._earlier, *trainer.warnings])),
            "error": self._error,
        }
        self._run.update_summary(**values)


class _Lines:
    """A file of lines that only grows, and can be cut to where it ended at a checkpoint."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.offset = 0
        self.waiting: list[str] = []

    def write(self) -> None:
        """Write the lines that wait.

        Raises:
            OSError: the disk does not take them.
        """
        while self.waiting:
            self.offset = files.append_line(self.path, self.waiting[0], at=self.offset)
            del self.waiting[0]

    def flush(self) -> None:
        """Wait until every line is on disk.

        Raises:
            OSError: it does not take them.
        """
        self.write()
        if self.offset:
            files.fsync_file(self.path)

    def cut(self, offset: int) -> None:
        """Keep what stands before `offset`; the rest is put aside."""
        files.cut(self.path, offset, self.path.with_name(f"{self.path.stem}.cut.jsonl"))
        self.offset = self.path.stat().st_size if self.path.exists() else 0


def _warn(trainer: Any, text: str) -> None:
    if text not in trainer.warnings:
        trainer.warn(text)
