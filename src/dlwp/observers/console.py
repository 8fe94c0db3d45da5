"""Own what a person sees while a run goes on: bars on a terminal, plain lines elsewhere, and run.log.

Knows nothing of what is kept: metrics.jsonl has the numbers.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from dlwp.runs import files

if TYPE_CHECKING:
    from dlwp.training.events import (
        Ended,
        EpochEnded,
        Evaluated,
        EvaluationStep,
        Logged,
        Settled,
        Started,
        StepEnded,
    )

_BAR_S = 0.2  # between refreshes of a bar
_VALUES_S = 1.0  # between readings of the loss: each waits for the device
_LINE_S = 30.0  # between progress lines without a terminal
_LOG_BYTES = 10_000_000  # of run.log, before it is set aside as run.log.1


class Nowhere(io.StringIO):
    """A stream that keeps nothing of what is written to it: for the processes that are not to be heard."""

    def write(self, text: str) -> int:
        """Return the length of a text, as if it were written."""
        return len(text)


class Console:
    """Say lines, show bars, and write both's lasting part to run.log with the time.

    Nothing here can end a run: a closed or full output is given up without a word.

    Args:
        log_path: run.log, or None for none.
        progress: whether to show bars (True), nothing but the epochs' lines (False), or ("auto") bars on a terminal and
            a plain line every 30 s elsewhere.
        stream: where to; standard output by default. Warnings go to standard error.
        clock: seconds, rising.
    """

    watcher = True

    def __init__(
        self,
        log_path: Path | None = None,
        *,
        progress: bool | str = "auto",
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.warnings: list[str] = []
        self.log_path = log_path
        self._stream: TextIO | None = stream or sys.stdout
        self._clock = clock
        self._bars = _is_terminal(stream or sys.stdout) if progress in ("auto", None) else _is_true(progress)
        self._lines = progress == "auto" and not self._bars
        self._told: set[str] = set()
        self._bar: Any = None
        self._evaluation_bar: Any = None
        self._start: Started | None = None
        self._began = self._shown = self._read = self._line = clock()
        self._window = (clock(), 0)  # time and samples at the last reading
        self._samples = 0
        self._loss: float | None = None
        self._logged: dict[str, float] = {}
        self._speed: float | None = None
        self._pending: Evaluated | None = None

    # what others say

    def say(self, text: str) -> None:
        """Print a line (or several), and log it."""
        with self._bars_aside():
            self._print(self._stream, text)
        self._log(text)

    def say_table(self, lines: Mapping[str, Sequence[str]]) -> None:
        """Print lines of text, each with its name in front of the first."""
        for line in labelled(lines):
            self.say(line)

    def warn(self, text: str) -> None:
        """Print a warning once, keep it for the end of the run, and log it."""
        if text not in self.warnings:
            self.warnings.append(text)
        if text in self._told:
            return
        self._told.add(text)
        with self._bars_aside():
            self._print(sys.stderr if self._stream in (sys.stdout, None) else self._stream, f"dlwp: warning: {text}")
        self._log(f"warning: {text}")

    # what the run tells

    def on_start(self, event: Started) -> None:
        """Note the run's size; from now on its list of warnings is also this one's."""
        known = event.trainer.warnings
        known.extend(text for text in self.warnings if text not in known)
        self.warnings = known
        self._tell_warnings()
        self._start = event
        self._began = self._shown = self._read = self._line = self._clock()
        self._window = (self._began, 0)

    def on_step(self, event: StepEnded) -> None:
        """Move the bar, as often as an eye can follow."""
        self._samples += event.num_samples
        now = self._clock()
        if self._bars and now - self._shown >= _BAR_S:
            self._shown = now
            self._read_values(event, now)
            self._show_bar(event)
        elif self._lines and now - self._line >= _LINE_S:
            self._line = now
            self._read_values(event, now)
            place = f"{self._epoch(self._epochs_before(event.step))}  step {event.step:,}/{self._total():,}"
            self.say(f"  {place}  {self._values(event)}")

    def on_log(self, event: Logged) -> None:
        """Take in the metrics that the bar shows."""
        self._logged = event.values
        self._tell_warnings()

    def on_evaluation_step(self, event: EvaluationStep) -> None:
        """Show a bar for the evaluation."""
        if not self._bars:
            return
        now = self._clock()
        if self._evaluation_bar is None:
            self._close_bar()
            self._evaluation_bar = self._new_bar(f"{event.split:<8}", event.total)
        elif now - self._shown >= _BAR_S or event.done >= event.total:
            self._shown = now
            self._move(self._evaluation_bar, event.done, "")

    def on_evaluation(self, event: Evaluated) -> None:
        """Keep the values for the epoch's line; those of the test split are told by whoever asked for them."""
        self._close_evaluation_bar()
        self._pending = event if event.split != "test" else None

    def on_epoch(self, event: EpochEnded) -> None:
        """Print the epoch's line, which stays."""
        self._close_bar()
        self._pending = None
        name = main_metric(event.trainer.monitor, event.train or event.val)
        parts = [self._epoch(event.epoch - 1), _split("train", event.train, name), _split("val", event.val, name)]
        parts += [f"{event.samples_per_s:,.0f}/s".rjust(8), duration(event.elapsed_s).rjust(6), self._left(event.step)]
        self.say("  ".join(part for part in parts if part.strip()))
        self._line = self._clock()

    def on_settled(self, event: Settled) -> None:
        """Print an evaluation within an epoch, and what there is to warn of."""
        if self._pending is not None:
            found, self._pending = self._pending, None
            name = main_metric(event.trainer.monitor, found.values)
            self._close_bar()
            self.say(f"step {found.step:>{len(f'{self._total():,}')},}  {_split(found.split, found.values, name)}")
        self._tell_warnings()

    def on_end(self, event: Ended) -> None:
        """Print the best value."""
        self._close_evaluation_bar()
        self._close_bar()
        self._tell_warnings()
        progress = event.trainer.state.progress
        if progress.best_step is not None and progress.best_value is not None:
            name = event.trainer.monitor
            self.say(f"best     {name} {number(name, progress.best_value).strip()} at step {progress.best_step:,}")

    def repeat_warnings(self) -> None:
        """Print the run's warnings once more, for its end."""
        for text, count in Counter(self.warnings).items():
            self.say(f"warning  {text}" + (f" ({count} times)" if count > 1 else ""))

    def log_error(self, error: BaseException) -> None:
        """Write an error to run.log with its traceback; on the screen it is one line, printed by the command."""
        self._close_evaluation_bar()
        self._close_bar()
        self._log("".join(traceback.format_exception(error)))

    # bars

    def _show_bar(self, event: StepEnded) -> None:
        assert self._start is not None
        per_epoch = self._start.steps_per_epoch
        before = self._epochs_before(event.step)
        if self._bar is None:
            self._bar = self._new_bar(self._epoch(before), per_epoch)
        self._move(self._bar, event.step - before * per_epoch, self._values(event))

    def _new_bar(self, title: str, total: int) -> Any:
        from tqdm import tqdm

        tqdm.monitor_interval = 0  # no thread of its own: refreshes come from the loop
        with self._given_up():
            return tqdm(
                desc=title, total=total, unit="", file=self._stream, leave=False, dynamic_ncols=True,
                mininterval=math.inf, bar_format="{desc} {percentage:3.0f}% {bar} {n_fmt}/{total_fmt}{unit}",
            )  # fmt: skip
        return None  # the output was given up

    def _move(self, bar: Any, done: int, text: str) -> None:
        if bar is None:
            return  # the output was given up
        bar.n = done
        bar.unit = f"  {text}"  # tqdm puts a comma before its postfix
        with self._given_up():
            bar.refresh()

    def _close_bar(self) -> None:
        bar, self._bar = self._bar, None
        self._close(bar)

    def _close_evaluation_bar(self) -> None:
        bar, self._evaluation_bar = self._evaluation_bar, None
        self._close(bar)

    def _close(self, bar: Any) -> None:
        if bar is not None:
            with self._given_up():
                bar.close()

    @contextlib.contextmanager
    def _bars_aside(self) -> Any:
        bars = [bar for bar in (self._bar, self._evaluation_bar) if bar is not None]
        for bar in bars:
            with self._given_up():
                bar.clear()
        yield
        for bar in bars:
            with self._given_up():
                bar.refresh()

    # numbers

    def _read_values(self, event: StepEnded, now: float) -> None:
        since, samples = self._window
        if self._speed is not None and now - since < _VALUES_S:
            return
        self._loss = float(event.loss)  # waits for the device
        if now > since:
            speed = (self._samples - samples) / (now - since)
            self._speed = speed if self._speed is None else 0.7 * self._speed + 0.3 * speed
        self._window = (now, self._samples)

    def _values(self, event: StepEnded) -> str:
        name = main_metric(event.trainer.monitor, self._logged)
        parts = [f"loss {self._loss:.4g}" if self._loss is not None else ""]
        parts.append(f"{name} {number(name, self._logged[name]).strip()}" if name in self._logged else "")
        parts.append(f"{self._speed:,.0f}/s" if self._speed else "")
        parts.append(self._left(event.step))
        return "  ".join(part for part in parts if part)

    def _epoch(self, done: int) -> str:
        epochs = -(-self._start.total_steps // self._start.steps_per_epoch) if self._start else done + 1
        return f"epoch {min(done + 1, epochs):>{len(str(epochs))}}/{epochs}"

    def _epochs_before(self, step: int) -> int:
        return (step - 1) // self._start.steps_per_epoch if self._start else 0

    def _total(self) -> int:
        return self._start.total_steps if self._start else 0

    def _left(self, step: int) -> str:
        if self._start is None or step <= self._start.step or step >= self._total():
            return ""
        rate = (self._clock() - self._began) / (step - self._start.step)
        return f"left {duration(rate * (self._total() - step))}"

    # output

    def _tell_warnings(self) -> None:
        if len(self.warnings) > len(self._told):
            for text in list(self.warnings):
                self.warn(text)

    def _print(self, stream: TextIO | None, text: str) -> None:
        if stream is None:
            return
        with self._given_up(stream):
            encoding = getattr(stream, "encoding", None) or "utf-8"
            stream.write(text.encode(encoding, "replace").decode(encoding) + "\n")
            stream.flush()

    @contextlib.contextmanager
    def _given_up(self, stream: TextIO | None = None) -> Any:
        """Let a closed or full output be, for good; of bars that fail otherwise there are no more."""
        try:
            yield
        except (OSError, ValueError):  # ValueError: written to a closed file
            if stream in (None, self._stream):
                self._bars = self._lines = False
                self._bar = self._evaluation_bar = None
                _swallow(self._stream)
                self._stream = None
        except Exception as error:  # any error: of tqdm, or a stream that is not Python's own, also while this warns
            had_bars, self._bars = self._bars, False
            self._bar = self._evaluation_bar = None
            if had_bars:
                self.warn(f"Console failed: {type(error).__name__}: {error}; no bars any more, training goes on")

    def _log(self, text: str) -> None:
        if self.log_path is None:
            return
        stamp = f"{datetime.now():%Y-%m-%d %H:%M:%S}"
        try:
            for line in text.splitlines():
                if files.append_line(self.log_path, f"{stamp}  {line}") > _LOG_BYTES:
                    files.rename(self.log_path, self.log_path.with_name(self.log_path.name + ".1"))
        except OSError as error:
            path, self.log_path = self.log_path, None
            self.warn(f"{files.fault(error, path)}: run.log ends here")


def main_metric(monitor: str, values: dict[str, float]) -> str:
    """Return the metric to show beside the loss: the monitored one, else the first, else ""."""
    name = monitor.partition("/")[2]
    others = [other for other in values if other not in ("loss", "lr", "samples_per_s")]
    return name if name in others else (others[0] if others else "")


def number(name: str, value: float) -> str:
    """Return a metric's value as a person reads it, in a fixed width: shares of 1 as percent.

    >>> number("val/accuracy", 0.6034), number("loss", 1.41243), number("loss", 0.02156), number("loss", 0.00012)
    (' 60.3%', ' 1.412', '0.0216', '1.2e-4')
    """
    leaf = name.rpartition("/")[2]
    if math.isfinite(value) and (leaf.endswith("accuracy") or leaf.startswith("top")):
        return f"{value:.1%}".rjust(6)
    size = abs(value)
    if size >= 10_000 or not math.isfinite(value):
        return f"{value:.4g}".rjust(6)
    if 0 < size < 0.001:
        return f"{value:.1e}".replace("e-0", "e-").rjust(6)
    decimals = 4 if size < 0.1 else 3 if size < 10 else 2 if size < 100 else 1
    return f"{value:.{decimals}f}".rjust(6)


def duration(seconds: float) -> str:
    """Return a time as m:ss, h:mm:ss, or days and hours; under ten seconds with a decimal.

    >>> duration(4.24), duration(65), duration(4000)
    ('4.2 s', '1:05', '1:06:40')
    """
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 48:
        return f"{hours // 24} d {hours % 24} h"
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _split(split: str, values: dict[str, float], name: str) -> str:
    if not values:
        return ""
    text = f"{split} {number('loss', values['loss'])}" if "loss" in values else split
    if name in values:
        percent = number(name, values[name])
        text += f"  {percent}" if percent.endswith("%") else f"  {name} {percent}"
    return text


def _is_true(progress: bool | str) -> bool:
    return str(progress).lower() == "true"


def _is_terminal(stream: TextIO | None) -> bool:
    try:
        return stream is not None and stream.isatty() and os.environ.get("TERM", "") != "dumb"
    except ValueError:
        return False  # closed


def _swallow(stream: TextIO | None) -> None:
    """Lead a broken standard output to nowhere, or Python would complain when it flushes it at its exit."""
    if stream is not None and stream is sys.stdout:
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)


def labelled(lines: Mapping[str, Sequence[str]]) -> list[str]:
    """Return lines of text, each with its name in front of the first.

    >>> labelled({"run": ["one", "two"]})
    ['run      one', '         two']
    """
    return [f"{'' if number else name:<8} {text}" for name, texts in lines.items() for number, text in enumerate(texts)]
