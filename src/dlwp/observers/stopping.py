"""Own the reasons to end a run before its last step: no betterment, no time left, a signal, another run's numbers.

Knows nothing of how a run is ended or saved.
"""

from __future__ import annotations

import math
import os
import signal
import threading
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from dlwp.comparing import again
from dlwp.errors import ConfigError, did_you_mean
from dlwp.runs import history
from dlwp.training.events import Ended, Evaluated, EvaluationStep, Logged, Saved, Started, StepEnded, Stop, Waiting

if TYPE_CHECKING:
    from dlwp.training.trainer import Trainer


class Patience:
    """Stop after `patience` evaluations in a row without betterment of the monitored metric.

    A value that is not finite is worse than any.

    Args:
        patience: evaluations, from 1.
    """

    watcher = False

    def __init__(self, patience: int) -> None:
        self._patience = patience
        self._best: float | None = None
        self._without = 0

    def on_start(self, event: Started) -> Stop | None:
        """Stop at once if the evaluation that ended patience was the last thing before a cut."""
        return self._verdict()

    def on_evaluation(self, event: Evaluated) -> Stop | None:
        """Count this evaluation.

        Raises:
            ConfigError: the monitored metric is not measured.
        """
        split, _, name = event.trainer.monitor.partition("/")
        if event.split != split:
            return None
        if name not in event.values:
            measured = [f"{split}/{name}" for name in event.values]
            hint = did_you_mean(event.trainer.monitor, measured) or f" Measured: {', '.join(measured)}"
            raise ConfigError(f"trainer.monitor='{event.trainer.monitor}' is not measured.{hint}")
        value = event.values[name]
        if math.isfinite(value) and event.trainer.is_better(value, self._best):
            self._best, self._without = value, 0
        else:
            self._without += 1
        return self._verdict()

    def state_dict(self) -> dict[str, Any]:
        """Return the best value and the evaluations since."""
        return {"best": self._best, "without": self._without}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self._best, self._without = state["best"], state["without"]

    def _verdict(self) -> Stop | None:
        return Stop("early_stopped") if self._without >= self._patience else None


class MaxTime:
    """Stop once the run has trained for a number of seconds, over all the processes that it was resumed in.

    Args:
        seconds: above 0.
    """

    watcher = False

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def on_start(self, event: Started) -> Stop | None:
        """Stop before the first step if the time is used up."""
        return self._verdict(event)

    def on_wait(self, event: Waiting) -> Stop | None:
        """Look at the clock."""
        return self._verdict(event)

    def on_step(self, event: StepEnded) -> Stop | None:
        """Look at the clock."""
        return self._verdict(event)

    def _verdict(self, event: Started | Waiting | StepEnded) -> Stop | None:
        return Stop("max_time") if event.trainer.elapsed_s >= self._seconds else None


class UntilDiffers:
    """Stop at the first line of metrics.jsonl that is not that of another run, bit for bit.

    Args:
        run: the other run's folder.
    """

    watcher = False

    def __init__(self, run: str | Path) -> None:
        self._lines = iter(history.read(Path(run) / "metrics.jsonl"))

    def on_log(self, event: Logged) -> Stop | None:
        """Compare training over the last steps."""
        return self._verdict(event, "train")

    def on_evaluation(self, event: Evaluated) -> Stop | None:
        """Compare an evaluation."""
        return self._verdict(event, event.split)

    def _verdict(self, event: Logged | Evaluated, split: str) -> Stop | None:
        record = {"step": event.step, "epoch": event.epoch, "split": split, **event.values}
        other = next(self._lines, None)
        return Stop("stopped:differs") if other is not None and again.differing(other, history.finite(record)) else None


class Signals:
    """Turn SIGINT, SIGTERM, SIGUSR1, SIGUSR2, SIGHUP into a stop after this step; a second Ctrl-C leaves at once.

    Use it as a context around the training. Its handler sets a flag and does nothing else. SIGHUP is left alone where
    it is ignored (nohup); outside of the main thread there are no handlers.

    Args:
        go_on: the command that goes on with the run.
    """

    watcher = False

    def __init__(self, go_on: str) -> None:
        self._go_on = go_on
        self._received: str | None = None
        self._told: set[str] = set()
        self._last_saved: Saved | None = None
        self._former: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP):
                if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                    self._former[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *error: type[BaseException] | BaseException | TracebackType | None) -> None:
        for number, former in self._former.items():
            signal.signal(number, former)
        self._former.clear()

    @property
    def exit(self) -> str | None:
        """The run's `exit` if a signal has come, such as "stopped:SIGTERM"."""
        return None if self._received is None else f"stopped:{self._received}"

    def on_start(self, event: Started) -> Stop | None:
        """Stop before the first step if a signal has come already."""
        return self._verdict(event, event.step)

    def on_wait(self, event: Waiting) -> Stop | None:
        """Stop waiting for data if a signal has come."""
        return self._verdict(event, event.step)

    def on_step(self, event: StepEnded) -> Stop | None:
        """Stop after this step if a signal has come."""
        return self._verdict(event, event.step)

    def on_evaluation_step(self, event: EvaluationStep) -> Stop | None:
        """Break off the evaluation if a signal has come; it is done anew after a resume."""
        return self._verdict(event, event.trainer.state.progress.step)

    def on_save(self, event: Saved) -> None:
        """Tell that the state is safe."""
        self._last_saved = event
        if self._received is not None:
            self._tell_saved(event, f" in {event.elapsed_s:.1f} s")

    def on_end(self, event: Ended) -> None:
        """Tell that the state is safe, where it was saved before the signal came."""
        if self._received is not None and self._last_saved is not None and self._last_saved.step == event.step:
            self._tell_saved(self._last_saved, "")

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._received == "SIGINT":
            os._exit(130)  # every save is atomic, so this harms none
        if self._received is None or number == signal.SIGINT:
            self._received = signal.Signals(number).name

    def _verdict(self, event: Started | Waiting | StepEnded | EvaluationStep, step: int) -> Stop | None:
        if self._received is None:
            return None
        if self._received == "SIGINT":
            self._tell(event.trainer, "stopping", f"stopping: saving step {step:,} (again Ctrl-C: leave at once)")
        return Stop(f"stopped:{self._received}")

    def _tell_saved(self, event: Saved, duration: str) -> None:
        if self._received == "SIGINT":
            self._tell(event.trainer, "saved", f"saved. Go on: {self._go_on}")
        else:
            self._tell(event.trainer, "saved", f"asked to stop ({self._received}): saved step {event.step:,}{duration}")

    def _tell(self, trainer: Trainer, kind: str, text: str) -> None:
        if kind not in self._told:
            self._told.add(kind)
            trainer.say(text)
