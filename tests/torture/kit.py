"""Own what a promise is to the torture, and how its tries are run: each in a process and a folder of its own.

Knows nothing of dlwp.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import multiprocessing
import os
import random
import re
import shutil
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

LEVELS = ("fast", "short", "full")


class Broken(AssertionError):
    """The promise is broken: what a try raises, and what a negative control must raise."""


class Skipped(Exception):
    """A try that this machine cannot make (no strace, no user namespaces, no real data), with the reason."""


def require(condition: object, text: str) -> None:
    """Raise `Broken` unless the condition holds."""
    if not condition:
        raise Broken(text)


def require_equal(found: Any, expected: Any, what: str = "") -> None:
    """Raise `Broken`, naming the first place in nested containers where two values differ."""
    place = _difference(found, expected)
    if place is not None:
        raise Broken(f"{what}: {place}" if what else place)


def _difference(found: Any, expected: Any, path: str = "") -> str | None:
    if isinstance(found, dict) and isinstance(expected, dict):
        for key in [*expected, *(key for key in found if key not in expected)]:
            if key not in found or key not in expected:
                return f"{path}/{key} is only {'expected' if key in expected else 'found'}"
            if (place := _difference(found[key], expected[key], f"{path}/{key}")) is not None:
                return place
        return None
    if isinstance(found, list) and isinstance(expected, list):
        for index, (one, other) in enumerate(zip(found, expected, strict=False)):
            if (place := _difference(one, other, f"{path}[{index}]")) is not None:
                return place
        return None if len(found) == len(expected) else f"{path} has {len(found)} items, expected {len(expected)}"
    if found == expected or (_is_nan(found) and _is_nan(expected)):
        return None
    return f"{path} is {found!r}, expected {expected!r}"


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


@dataclass(frozen=True)
class Trial:
    """One thing to try.

    Args:
        name: what is tried, for a failure's line.
        do: called in an empty folder of its own, which it also gets; raises `Broken` where the promise does not hold,
            `Skipped` where it cannot be tried. Returns how many tries it was (None: one).
        limit_s: after so long it has failed.
        breaks: of a control, what it must break with (a regular expression), so that it breaks for its own reason.
    """

    name: str
    do: Callable[[Path], int | None]
    limit_s: float = 180.0
    breaks: str = ""


@dataclass(frozen=True)
class Scale:
    """How much to try: "fast" (the tests), "short" (15 minutes for all promises) or "full".

    Args:
        level: of `LEVELS`.
        tries: in place of the numbers that a promise names (`--tries`, `--kills`).
        seed: of every random choice.
    """

    level: str = "fast"
    tries: int | None = None
    seed: int = 0

    def count(self, fast: int, short: int, full: int) -> int:
        """Return the number for this level."""
        return self.tries if self.tries is not None else (fast, short, full)[LEVELS.index(self.level)]

    def random(self, name: object) -> random.Random:
        """Return a generator that is a function of seed and name."""
        return random.Random(f"{self.seed}/{name}")

    @property
    def is_fast(self) -> bool:
        """Whether this is what the tests run."""
        return self.level == "fast"

    @property
    def is_full(self) -> bool:
        """Whether everything is to be tried."""
        return self.level == "full"


@dataclass(frozen=True)
class Promise:
    """A promise of a run, and how it is tried.

    Args:
        number, name: "1", "exact-resume".
        says: the promise in one sentence.
        trials: what to try at a scale.
        controls: with the protection switched off; each must raise `Broken`, else the torture shows nothing.
    """

    number: int
    name: str
    says: str
    trials: Callable[[Scale], list[Trial]]
    controls: Callable[[Scale], list[Trial]]


@dataclass
class Result:
    """What came of a promise's tries: `failures` and `skipped` hold (trial, reason)."""

    tries: int = 0
    failures: list[tuple[str, str]] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    controls: int = 0
    controls_broke: int = 0
    elapsed_s: float = 0.0

    @property
    def is_kept(self) -> bool:
        """Whether no try failed, some were made, and every negative control broke."""
        return not self.failures and self.tries > 0 and self.controls_broke == self.controls > 0


def run(
    promise: Promise, scale: Scale, place: Path, workers: int, on_done: Callable[[int, int], None] | None = None
) -> Result:
    """Make every try of a promise, `workers` at a time, and its negative controls; `on_done` hears (done, of)."""
    began = time.monotonic()
    trials, controls = promise.trials(scale), promise.controls(scale)
    result = Result(controls=len(controls))
    total = len(trials) + len(controls)
    for done, (trial, (kind, text, tries)) in enumerate(each([*controls, *trials], place, workers), 1):
        if on_done is not None:
            on_done(done, total)
        if kind == "skipped":
            result.skipped.append((trial.name, text))
            result.controls -= trial in controls
        elif trial in controls:
            if kind == "broken" and re.search(trial.breaks, text):
                result.controls_broke += 1
            else:
                why = f"broke, but not with {trial.breaks!r}: {text}" if kind == "broken" else text
                result.failures.append((f"control: {trial.name}", why or "held although its protection was off"))
        else:
            result.tries += tries
            if kind != "kept":
                result.failures.append((trial.name, text))
    result.elapsed_s = time.monotonic() - began
    return result


def each(trials: Sequence[Trial], place: Path, workers: int) -> Iterator[tuple[Trial, tuple[str, str, int]]]:
    """Run trials in processes of their own; yield each with ("kept" | "broken" | "failed" | "skipped", text, tries)."""
    waiting = list(enumerate(trials))
    running: dict[Connection, tuple[Trial, Any, float, Path]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                number, trial = waiting.pop(0)
                folder = place / f"{number:05d}"
                receiver, process = _start(trial, folder)
                running[receiver] = (trial, process, time.monotonic() + trial.limit_s, folder)
            for receiver in [one for one in wait(list(running), 0.5) if isinstance(one, Connection)]:
                trial, process, _, folder = running.pop(receiver)
                yield trial, _received(receiver, process)
                shutil.rmtree(folder, ignore_errors=True)
            for receiver, (trial, process, end, folder) in list(running.items()):
                if time.monotonic() > end:
                    del running[receiver]
                    _kill(process)
                    yield trial, ("failed", f"took over {trial.limit_s:g} s", 1)
                    shutil.rmtree(folder, ignore_errors=True)
    finally:
        for _, process, _, _ in running.values():
            _kill(process)


def _start(trial: Trial, folder: Path) -> tuple[Connection, Any]:
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(trial, folder, sender))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads: this process has none
        process.start()
    sender.close()
    return receiver, process


def _child(trial: Trial, folder: Path, sender: Connection) -> None:
    os.setpgrp()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    folder.mkdir(parents=True)
    os.chdir(folder)
    log = os.open(folder / ".trial.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(log, stream)
    try:
        outcome = ("kept", "", trial.do(folder) or 1)
    except Broken as error:
        outcome = ("broken", str(error), 1)
    except Skipped as reason:
        outcome = ("skipped", str(reason), 0)
    except BaseException:  # any error: of the torture itself; it counts as a failure
        outcome = ("failed", traceback.format_exc(), 1)
    sender.send(outcome)
    sender.close()
    sys.stdout.flush()
    os._exit(0)


def _received(receiver: Connection, process: Any) -> tuple[str, str, int]:
    try:
        outcome = receiver.recv()
    except EOFError:
        outcome = ("failed", "its process died", 1)
    receiver.close()
    _kill(process)
    return outcome


def _kill(process: Any) -> None:
    """End a try and whatever it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.join()


def once(name: str, make: Callable[[Path], None]) -> Path:
    """Return a folder that `make` has filled, once for all tries of a torture, however many ask at the same time."""
    shared = Path(os.environ["TORTURE_SHARED"])
    folder, mark = shared / name, shared / f"{name}.made"
    with (shared / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not mark.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            make(folder)
            mark.touch()
    return folder
