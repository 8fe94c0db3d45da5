"""Promise 2: a signal makes a run save and leave, resumed it ends as if left alone; a second Ctrl-C quits at once."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

from torture import exact_resume, faults, kit
from torture.commands import Command, outcome, succeed, wait_for
from torture.kit import Promise, Scale, Skipped, Trial, require, require_equal

NAMES = ("SIGTERM", "SIGINT", "SIGUSR1")
_STATUS = {"SIGINT": 130}
_LEAVES_S = 10.0  # what a run of such short steps may take to leave: promised are 30 s and a step
_AT_ONCE_S = 0.02  # between two things that happen one right after the other

_SLOW = '''
import os, pathlib, time, torch

class Slow(torch.utils.data.Dataset):
    """67 samples; the one that SLOW_AT names takes a minute, and the file `.slow` says that it is being read."""

    classes = ["even", "odd"]

    def __len__(self):
        return 67

    def __getitem__(self, index):
        if index == int(os.environ.get("SLOW_AT", "-1")):
            pathlib.Path(".slow").touch()
            time.sleep(60)
        return torch.randn(8, generator=torch.Generator().manual_seed(index)) + index % 2, index % 2
'''
_SLOW_WORDS = (
    "data=dataset", "data._target_=slow.Slow", "data.batch_size=9", "data.loader=workers", "data.num_workers=2",
    "model=mlp", "trainer.epochs=3", "trainer.checkpoint_every=2 steps", "logger.plots=false",
    "logger.tensorboard=false", "run_dir=run",
)  # fmt: skip
_SLOW_AT = {"SLOW_AT": "41"}


def _clean_slow() -> Path:
    def make(folder: Path) -> None:
        (folder / "slow.py").write_text(_SLOW)
        succeed(*_SLOW_WORDS, folder=folder)

    return kit.once("clean-slow", make) / "run"


def _noted_s(path: Path) -> float:
    """Return the time that `KillAt` or a `_SignallingDisk` has noted, infinity where it has not."""
    return float(path.read_text()) if path.exists() else math.inf


def _hold_stop(command: Command, folder: Path, name: str, began: float | None = None) -> None:
    """Wait for the end of a run that got a signal while it trained: soon, saved, with its status and the way on.

    Args:
        began: when the signal was sent; None where the run has sent it to itself.
    """
    status = command.finish()
    took = time.monotonic() - (_noted_s(folder / ".signalled") if began is None else began)
    require(math.isfinite(took), f"{name} was never sent: {command.output}")
    require(took < _LEAVES_S, f"{name}: {took:.1f} s from the signal to the end")
    expected = _STATUS.get(name, 143)
    require(status == expected, f"{name}: ended with {status}, expected {expected}: {command.output}")
    found = json.loads((folder / "run" / "summary.json").read_text())["exit"]
    require(found == f"stopped:{name}", f"summary.json says {found}, expected stopped:{name}")
    require("dlwp-train resume=run" in command.output, f"the way on is not told: {command.output}")


def _require_same(run: Path, expected: dict[str, Any], what: str) -> None:
    """Require equality; but a checkpoint made by the stop keeps what was then to follow, such as an evaluation."""
    found, expected = outcome(run), {**expected, "states": dict(expected["states"])}
    for pointer, state in list(found["states"].items()):
        if state["progress"]["pending"] not in ([], ["settle"]):
            found["states"].pop(pointer)
            expected["states"].pop(pointer, None)
    require_equal(found, expected, what)


def _hold_resume(folder: Path, expected: dict[str, Any], what: str, **options: Any) -> None:
    succeed("resume=run", folder=folder, **options)
    _require_same(folder / "run", expected, what)


# ---- a signal at a random time, or at a chosen point -----------------------------------------------------------------


def at_random(
    variant: str, name: str, random: Random, *, fresh: bool = False, group: bool = False,
    before: Callable[[], None] | None = None, trained: float = 0.8,
) -> Trial:  # fmt: skip
    """Return the try of one signal at a random time, to the process or (`group`) to its workers too.

    Args:
        trained: how often it comes after the training has begun.
    """

    def do(folder: Path) -> None:
        for number in range(30):
            place = folder / str(number)
            place.mkdir()
            if _stopped_at_random(place, variant, name, random, fresh, group, before, trained):
                return
            shutil.rmtree(place)
        raise Skipped("every run was over before it could be stopped")

    how = ("group, " if group else "") + ("new interpreter" if fresh else "fork")
    return Trial(f"{variant}: {name} at a random time, {how}", do, 400.0)


def _stopped_at_random(
    folder: Path, variant: str, name: str, random: Random, fresh: bool, group: bool,
    before: Callable[[], None] | None, share: float,
) -> bool:  # fmt: skip
    """Stop a run at a random time, and resume it; return False where it was over first."""
    expected = outcome(exact_resume.clean(variant))
    begin_s, training_s = exact_resume.times_of(variant)
    faults.write_kill_at(folder)
    typed = exact_resume.words(variant)
    command = Command(*typed, folder=folder, fresh=fresh, own_group=group, before=before)
    if random.random() < share:
        wait_for((folder / ".training").exists, command=command)
        time.sleep(random.uniform(0, training_s))
    else:
        time.sleep(random.uniform(0, begin_s * (8 if fresh else 1)))
    if command.poll() is not None:
        require(command.finish() == 0, f"failed by itself: {command.output}")
        return False
    trained = (folder / ".training").exists()
    began, number = time.monotonic(), getattr(signal, name)
    os.killpg(command.pid, number) if group else command.send(number)
    sent = time.monotonic()
    status = command.finish()
    over = _noted_s(folder / ".tested") < sent + _AT_ONCE_S  # nothing was left to break off
    if over and status == 0:
        _require_same(folder / "run", expected, variant)
        return False
    require(status != 0, f"{name} was swallowed: the run went on to its end")
    if (trained and not over) or status == 143:
        _hold_stop(command, folder, name, began)
    else:  # before anything was there to save
        require(status in (-number, 128 + number), f"{name} ended it with {status}: {command.output}")
    if (folder / "run" / "config.yaml").exists():
        typed = ("resume=run",)
    else:
        shutil.rmtree(folder / "run", ignore_errors=True)
    succeed(*typed, folder=folder, fresh=fresh)
    _require_same(folder / "run", expected, f"{variant}, {name}")
    return not over


POINTS = (
    "start 0", "step 1", "evaluation FIRST", "evaluation LAST", "test LAST", "step LAST", "end LAST", "save 8",
    "rename 1", "pointer 1", "deletion 1",
)  # fmt: skip


class _SignallingDisk(faults.FaultyDisk):
    """Sends a signal at a call, then does it."""

    def _fail(self, name: str, real: Any, arguments: tuple[Any, ...]) -> None:
        Path(".signalled").write_text(str(time.monotonic()))
        os.kill(os.getpid(), getattr(signal, self.how))


def at_point(variant: str, name: str, point: str, *, before: Callable[[], None] | None = None) -> Trial:
    """Return the try of a signal that comes at one of `POINTS`, in a save among them."""

    def do(folder: Path) -> None:
        expected = outcome(exact_resume.clean(variant))
        faults.write_kill_at(folder)
        options = exact_resume.killing(point, expected, name)
        if "before" in options:
            disk = options["before"].__self__
            disk.__class__, disk.how = _SignallingDisk, name
        command = Command(*exact_resume.words(variant), **{"before": before, **options})
        _hold_stop(command, folder, name)
        _hold_resume(folder, expected, f"{variant}, {name} at {point}")

    return Trial(f"{variant}: {name} at {point}", do)


# ---- slow data, a second Ctrl-C, a hang-up ---------------------------------------------------------------------------


def while_waiting(name: str, workers: int = 2) -> Trial:
    """Return the try of a signal while workers take a minute over a sample."""

    def do(folder: Path) -> None:
        expected = outcome(_clean_slow())
        command = _slow_command(folder, workers)
        time.sleep(0.5)  # the batches that other workers had ready are used up
        began = time.monotonic()
        command.send(getattr(signal, name))
        _hold_stop(command, folder, name, began)
        _hold_resume(folder, expected, f"{name} while waiting")

    return Trial(f"{name} while {workers} workers are slow", do)


def _slow_command(folder: Path, workers: int, **options: Any) -> Command:
    """Start a run and wait until it is in the slow sample."""
    (folder / "slow.py").write_text(_SLOW)
    typed = (*(word for word in _SLOW_WORDS if "num_workers" not in word), f"data.num_workers={workers}")
    command = Command(*typed, folder=folder, environment=_SLOW_AT, **options)
    require(wait_for((folder / ".slow").exists, command=command), f"no slow sample: {command.output}")
    return command


def second_ctrl_c(pause_s: float, *, fresh: bool = False, before: Callable[[], None] | None = None) -> Trial:
    """Return the try of a second Ctrl-C, `pause_s` after the first, in a step that takes a minute."""

    def do(folder: Path) -> None:
        expected = outcome(_clean_slow())
        command = _slow_command(folder, 0, fresh=fresh, before=before)
        command.send(signal.SIGINT)
        time.sleep(pause_s)
        require(command.poll() is None, f"the first Ctrl-C did not wait for the step: {command.output}")
        command.send(signal.SIGINT)
        gone = wait_for(lambda: command.poll() is not None, 1.0)
        require(gone, "a second Ctrl-C: still there after 1 s")
        require(command.poll() == 130, f"a second Ctrl-C ended with {command.poll()}, expected 130")
        _hold_resume(folder, expected, "second Ctrl-C", fresh=fresh)

    return Trial("a second Ctrl-C", do)


def hang_up(ignored: bool) -> Trial:
    """Return the try of a hang-up: under nohup the run goes on, else it is a stop."""

    def set_up() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)

    def do(folder: Path) -> None:
        expected = outcome(exact_resume.clean("memory, onecycle"))
        faults.write_kill_at(folder)
        options = {"environment": {"KILL_AT": "step 9", "KILL_WITH": "SIGHUP"}, "before": set_up}
        command = Command(*exact_resume.words("memory, onecycle"), **options)  # type: ignore[arg-type]
        if ignored:
            require(command.finish() == 0, f"a hang-up under nohup ended the run: {command.output}")
            require((folder / ".signalled").exists(), "no hang-up was sent")
            _require_same(folder / "run", expected, "nohup")
            return
        _hold_stop(command, folder, "SIGHUP")
        _hold_resume(folder, expected, "SIGHUP")

    return Trial("a hang-up" + (" under nohup" if ignored else ""), do)


# ---- what is tried, and the negative controls ------------------------------------------------------------------------


def _spawn() -> None:
    multiprocessing.set_start_method("spawn", force=True)


def _trials(scale: Scale) -> list[Trial]:
    random = scale.random
    if scale.is_fast:
        return [
            *(at_random("memory, onecycle", name, random(name)) for name in NAMES),
            at_point("memory, onecycle", "SIGTERM", "evaluation FIRST"),
            at_point("memory, onecycle", "SIGTERM", "test LAST"),
            while_waiting("SIGTERM"),
            second_ctrl_c(0.3),
        ]
    known = exact_resume.variants()
    found = []
    for number in range(scale.count(0, 4, 20)):
        variant, fresh = known[number % len(known)], number % 4 == 3
        found += [at_random(variant, name, random(f"{name} {number}"), fresh=fresh) for name in NAMES]
    points = POINTS if scale.is_full else POINTS[2:]
    turns = len(NAMES) if scale.is_full else 1
    found += [at_point(known[number % len(known)], NAMES[(number + turn) % len(NAMES)], point)
              for turn in range(turns) for number, point in enumerate(points)]  # fmt: skip
    repeated = scale.count(1, 1, 10)
    for number in range(repeated):
        name, group_variant = NAMES[number % len(NAMES)], ("2 workers", "4 workers, cosine, warm-up")[number % 2]
        found += [second_ctrl_c(1.0, fresh=number % 2 == 1), while_waiting(name)]
        found.append(at_random(group_variant, name, random(f"group {number}"), group=True, fresh=number % 3 == 2))
    found.append(at_random("2 workers", "SIGINT", random("spawn"), group=True, before=_spawn))
    return [*found, hang_up(False), *[hang_up(True)] * scale.count(1, 1, 5)]


def _without_handlers() -> None:
    from dlwp.observers.stopping import Signals

    Signals.__enter__ = lambda self: self  # type: ignore[method-assign]


def _without_stopping() -> None:
    from dlwp.observers.stopping import Signals

    Signals._verdict = lambda self, event, step: None  # type: ignore[method-assign]


def _leaving_late() -> None:
    from dlwp.observers.stopping import Signals

    verdict = Signals._verdict

    def late(self: Signals, event: Any, step: int) -> Any:
        if self._received is not None:
            time.sleep(_LEAVES_S)
        return verdict(self, event, step)

    Signals._verdict = late  # type: ignore[method-assign]


def _without_leaving() -> None:
    from dlwp.observers.stopping import Signals

    def note(self: Signals, number: int, frame: Any) -> None:
        self._received = signal.Signals(number).name

    Signals._handle = note  # type: ignore[method-assign]


def _without_what_was_left_undone() -> None:
    from dlwp.training.state import TrainState

    record = TrainState.record

    def forgetting(self: TrainState) -> dict[str, Any]:
        self.progress.pending = [part for part in self.progress.pending if part != "evaluate"]
        return record(self)

    TrainState.record = forgetting  # type: ignore[method-assign]


def _controls(scale: Scale) -> list[Trial]:
    variant = "memory, onecycle"
    found = {
        "ended with -15, expected 143": at_point(variant, "SIGTERM", "step 10", before=_without_handlers),
        "SIGTERM at evaluation FIRST: /": at_point(
            variant, "SIGTERM", "evaluation FIRST", before=_without_what_was_left_undone
        ),
        "still there after 1 s": second_ctrl_c(0.3, before=_without_leaving),
        "SIGTERM was swallowed": at_random(
            variant, "SIGTERM", scale.random("swallowed"), before=_without_stopping, trained=1.0
        ),
    }
    if not scale.is_fast:
        found["s from the signal to the end"] = at_point(variant, "SIGTERM", "step 10", before=_leaving_late)
    return [replace(trial, breaks=breaks) for breaks, trial in found.items()]


PROMISES = [Promise(2, "signals", "A signal makes a run save and leave; a second Ctrl-C quits at once.",
                    _trials, _controls)]  # fmt: skip
