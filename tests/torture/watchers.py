"""Promise 13: no failure of a watcher stops or changes training; it is told once when it happens, and at the end."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dlwp.training.events import Stop
from torture.commands import outcome, succeed
from torture.kit import Broken, Promise, Scale, Trial, once, require, require_equal

FAULTS = ("raises", "SystemExit", "disk full", "rubbish", "a Stop")
QUIET = ("rubbish", "a Stop")
"""Answers that nobody reads."""
HOOKS = (
    "on_start", "on_step", "on_log", "on_evaluation_step", "on_evaluation", "on_epoch", "on_settled", "on_end",
)  # fmt: skip
"""Those that a small training calls; `on_save`, `on_wait` and `on_left_out` are tried through dlwp-train."""
WORDS = (
    "data=synthetic", "data.num_train=60", "data.num_test=20", "data.shape=[6]", "data.batch_size=8", "model=mlp",
    "trainer.epochs=2",
)  # fmt: skip


class Rogue:
    """A watcher that fails in one hook, each time."""

    watcher = True

    def __init__(self, hook: str, fault: str) -> None:
        self.calls = 0
        setattr(self, hook, lambda event: self._fail(fault))

    def _fail(self, fault: str) -> Any:
        self.calls += 1
        torch.rand(3)
        if fault == "raises":
            raise KeyError("acc")
        if fault == "SystemExit":
            raise SystemExit(3)
        if fault == "disk full":
            raise OSError(errno.ENOSPC, "No space left on device")
        return Stop("early") if fault == "a Stop" else {"stop": True}


def _trained(observers: list[Any]) -> Any:
    from dlwp.data.datasets import ArrayDataset
    from dlwp.data.resident import ResidentLoader
    from dlwp.settings import TrainerSettings
    from dlwp.training.trainer import Trainer

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 1))
    inputs = torch.randn(34, 4)
    data = ArrayDataset(inputs, inputs.sum(1, keepdim=True))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    settings = TrainerSettings(epochs=3, log_every=2)
    trainer = Trainer(model, nn.MSELoss(), optimizer, settings, observers=observers)
    exit_word = trainer.fit(ResidentLoader(data, 8, shuffle=True), ResidentLoader(data, 8)).exit
    require(exit_word == "done", f"ended with {exit_word}")
    return trainer


def _hook(hook: str, fault: str) -> None:
    expected = _trained([]).model.state_dict()
    rogue = Rogue(hook, fault)
    try:
        trainer = _trained([rogue])
    except SystemExit as error:
        raise Broken(f"{hook}, {fault}: the run ended with SystemExit") from error
    except Exception as error:  # any error: that it got out at all is what is looked for
        require(False, f"{hook}, {fault}: the run ended with {error}")
    require(rogue.calls > 0, f"{hook} was never called")
    for name, value in trainer.model.state_dict().items():
        require(torch.equal(value, expected[name]), f"{hook}, {fault}: {name} differs from the clean run")
    if fault in QUIET:
        return
    first = [text for text in trainer.warnings if "Rogue failed at step" in text]
    require(len(first) == 1, f"{hook}, {fault}: told {len(first)} times: {trainer.warnings}")
    require(rogue.calls <= 3, f"{hook}, {fault}: not switched off after 3 failures in a row")
    off = [text for text in trainer.warnings if "switched off" in text]
    require(len(off) == (rogue.calls == 3), f"{hook}, {fault}: the switching off is told {len(off)} times")


def _all(folder: Path) -> int:
    for hook in HOOKS:
        for fault in FAULTS:
            _hook(hook, fault)
    return len(HOOKS) * len(FAULTS)


def _no_import() -> None:
    sys.modules["tensorboard"] = None  # type: ignore[assignment]
    sys.modules["tensorboard.summary.writer.record_writer"] = None  # type: ignore[assignment]
    sys.modules["torch.utils.tensorboard"] = None  # type: ignore[assignment]
    sys.modules["matplotlib"] = None  # type: ignore[assignment]
    sys.modules["matplotlib.figure"] = None  # type: ignore[assignment]


def _cannot_be_imported(folder: Path) -> None:
    clean = once("watchers", lambda place: succeed(*WORDS, "run_dir=run", folder=place) and None) / "run"
    succeed(*WORDS, "run_dir=run", before=_no_import)
    require_equal(outcome(folder / "run"), outcome(clean), "without TensorBoard and matplotlib")
    warnings = json.loads((folder / "run" / "summary.json").read_text())["warnings"]
    require(len(warnings) >= 2, f"not told: {warnings}")


# ---- through dlwp-train ----------------------------------------------------------------------------------------------

OWN = '''
import errno, os
import torch
from torch.utils.data import Dataset
from dlwp.training.events import Stop

FAULT = os.environ.get("FAULT", "")

class Samples(Dataset):
    """A regression of 60 samples, 4 of which cannot be read."""

    def __len__(self):
        return 60

    def __getitem__(self, index):
        if index in (7, 21, 30, 44):
            raise ValueError("a broken sample")
        inputs = torch.randn(6, generator=torch.Generator().manual_seed(index))
        return inputs, inputs[:1]

class Watcher:
    """A watcher that fails each time it is called."""

    watcher = True

    def fail(self, event):
        with open(type(self).__name__, "a") as file:
            file.write(".")
        torch.rand(3)
        if FAULT == "raises":
            raise KeyError("acc")
        if FAULT == "SystemExit":
            raise SystemExit(3)
        if FAULT == "disk full":
            raise OSError(errno.ENOSPC, "No space left on device")
        return {"rubbish": {"stop": True}, "a Stop": Stop("early")}.get(FAULT)

class OnSave(Watcher):
    on_save = Watcher.fail

class OnWait(Watcher):
    on_wait = Watcher.fail

class OnLeftOut(Watcher):
    on_left_out = Watcher.fail
'''
"""A user's own data and watchers, to be written beside the command as own.py."""
OWN_HOOKS = ("OnSave", "OnWait", "OnLeftOut")
OWN_WORDS = (
    "data=dataset", "data._target_=own.Samples", "data.loader=workers", "data.num_workers=0", "data.on_error=skip",
    "data.batch_size=8", "criterion=mse", "metrics=regression", "model=mlp", "trainer.epochs=4", "trainer.log_every=2",
    *(f"+callbacks.{name}._target_=own.{name}" for name in OWN_HOOKS), "logger.tensorboard=false", "logger.plots=false",
    "run_dir=run",
)  # fmt: skip


def _asked_at_once() -> None:
    from dlwp.data import streaming

    streaming._LOOK_S = 0.0  # seconds of waiting before a listener is asked


def own(fault: str, before: Callable[[], None] = lambda: None) -> Trial:
    """Return the try of three watchers of a user's that fail at saves, while data is waited for, at lost samples."""

    def make(folder: Path) -> None:
        (folder / "own.py").write_text(OWN)
        succeed(*OWN_WORDS, folder=folder, before=_asked_at_once)

    def patch() -> None:
        _asked_at_once()
        before()

    def do(folder: Path) -> int:
        clean = once("watchers-own", make) / "run"
        (folder / "own.py").write_text(OWN)
        said = succeed(*OWN_WORDS, before=patch, environment={"FAULT": fault})
        require_equal(outcome(folder / "run"), outcome(clean), fault)
        warnings = json.loads((folder / "run" / "summary.json").read_text())["warnings"]
        for name in OWN_HOOKS:
            calls = len((folder / name).read_text()) if (folder / name).exists() else 0
            require(calls == 3 if fault not in QUIET else calls > 3, f"{name}, {fault}: called {calls} times")
            for text in (f"{name} failed at step", f"{name} failed 3 times in a row and was switched off"):
                told = len([one for one in warnings if one.startswith(text)])
                require(told == (fault not in QUIET), f"{text!r} is told {told} times: {warnings}")
                require(fault in QUIET or f"warning  {text}" in said, f"{text!r} is not told at the end: {said[-300:]}")
        return len(OWN_HOOKS)

    return Trial(f"on_save, on_wait, on_left_out: {fault}", do)


def _all_hooks(error: BaseException) -> Callable[[], None]:
    """Return the patch that lets each hook of dlwp's three watchers fail."""

    def patch() -> None:
        from dlwp.observers import console, plots, tensorboard

        def fail(self: Any, event: Any) -> None:
            raise error

        for watcher in (console.Console, plots.Plots, tensorboard.TensorBoard):
            for hook in [name for name in vars(watcher) if name.startswith("on_")]:
                setattr(watcher, hook, fail)

    return patch


def _inside() -> None:
    """Let fail what the three call: TensorBoard's file, the drawing, the wording of a line."""
    from dlwp.observers import console, plots
    from dlwp.observers.tensorboard import EventFile

    def fail(*words: Any, **options: Any) -> Any:
        raise RuntimeError("inside")

    EventFile.add = fail  # type: ignore[method-assign]
    plots.draw_curves = fail
    console._split = fail


def _bars() -> None:
    """Let fail all that a bar can do, once there is one."""
    import tqdm

    from dlwp.observers import console

    class Bar(tqdm.tqdm):  # type: ignore[type-arg]
        moves = 0

        def refresh(self, *words: Any, **options: Any) -> Any:
            Bar.moves += 1
            return self.clear() if Bar.moves > 3 else super().refresh(*words, **options)

        def clear(self, *words: Any, **options: Any) -> Any:
            raise RuntimeError("a bar")

    console._BAR_S = 0.0
    tqdm.tqdm = Bar  # type: ignore[misc]


BARS = ("trainer.progress=true", "logger.plots=false")


def shipped(name: str, patch: Callable[[], None], *told: str, words: tuple[str, ...] = ()) -> Trial:
    """Return the try of dlwp's own console, plots and TensorBoard with a fault in them: told, and all else is equal."""

    def do(folder: Path) -> None:
        clean = once("watchers", lambda place: succeed(*WORDS, "run_dir=run", folder=place) and None) / "run"
        said = succeed(*WORDS, *words, "run_dir=run", before=patch)
        require_equal(outcome(folder / "run"), outcome(clean), name)
        warnings = json.loads((folder / "run" / "summary.json").read_text())["warnings"]
        for text in told:
            require(any(one.startswith(text) for one in warnings), f"{text!r} is not in summary.json: {warnings}")
            require(f"dlwp: warning: {text}" in said, f"{text!r} is not told: {said[-300:]}")

    return Trial(f"shipped watchers: {name}", do)


def _left() -> None:
    """Let standard output be a pipe whose reader has left, as with `| head`."""
    reader, writer = os.pipe()
    os.close(reader)
    os.dup2(writer, 1)


def _full() -> None:
    os.dup2(os.open("/dev/full", os.O_WRONLY), 1)


def _closed() -> None:
    os.close(1)
    sys.stdout = None  # type: ignore[assignment]


def no_output(name: str, *patches: Callable[[], None]) -> Trial:
    """Return the try of a standard output that takes nothing: the run is done all the same."""

    def patch() -> None:
        for one in patches:
            one()

    return shipped(f"output {name}", patch, words=("logger.plots=false",))


def in_a_shell(*behind: str) -> Trial:
    """Return the try of the same in a shell, with new interpreters, by what stands behind the command."""
    return Trial(f"output in a shell: {', '.join(behind)}", lambda folder: _shell(folder, behind))


def _shell(folder: Path, all_behind: tuple[str, ...]) -> int:
    clean = once("watchers", lambda place: succeed(*WORDS, "run_dir=run", folder=place) and None) / "run"
    program = f'{shlex.quote(sys.executable)} -c "from dlwp.commands.train import main; raise SystemExit(main())"'
    words = shlex.join([*WORDS, "logger.tensorboard=false", "logger.plots=false"])
    for number, behind in enumerate(all_behind):
        line = f"{program} {words} run_dir=run{number} {behind}; exit ${{PIPESTATUS[0]}}"
        done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
        require(done.returncode == 0, f"dlwp-train {behind} ended with {done.returncode}: {done.stderr[-300:]}")
        require(not done.stderr, f"dlwp-train {behind} says {done.stderr[-300:]}")
        if behind == "| head -1":
            require(re.fullmatch(r"run +run0\n", done.stdout), f"head shows {done.stdout!r}")
        require_equal(outcome(folder / f"run{number}"), outcome(clean), f"dlwp-train {behind}")
    return len(all_behind)


def _trials(scale: Scale) -> list[Trial]:
    three = ("Console failed at step", "Plots failed at step", "TensorBoard failed at step")
    found = [
        Trial("hooks and faults", _all),
        Trial("cannot be imported", _cannot_be_imported),
        shipped("inside", _inside, *three),
        shipped("bars", _bars, "Console failed: RuntimeError: a bar", words=BARS),
        no_output("left", _left),
        no_output("closed", _closed),
    ]
    if scale.is_fast:
        return [*found, own("raises")]
    errors = (KeyError("acc"), SystemExit(3), OSError(errno.ENOSPC, "No space left on device"))
    found += [shipped(f"each hook, {type(error).__name__}", _all_hooks(error), *three) for error in errors]
    found += [own(fault) for fault in FAULTS]
    shells = ("| head -1", ">&-") if not scale.is_full else ("| head -1", ">&-", "| true", ">&- 2>&-", ">/dev/full")
    return [*found, no_output("full", _full), in_a_shell(*shells)]


def _unguarded(folder: Path) -> None:
    _dispatch_raises()
    _hook("on_step", "raises")


def _dispatch_raises() -> None:
    from dlwp.training.dispatch import Dispatch

    Dispatch._failure = lambda self, part, hook, error, step: error  # type: ignore[method-assign]


def _heard() -> None:
    """Let a watcher stop the run."""
    from dlwp.training.dispatch import Dispatch

    made = Dispatch.__init__

    def init(self: Dispatch, observers: Any, warn: Any) -> None:
        for part in observers:
            part.watcher = False
        made(self, observers, warn)

    Dispatch.__init__ = init  # type: ignore[method-assign]


def _not_given_up() -> None:
    from dlwp.observers.console import Console

    Console._given_up = lambda self, stream=None: contextlib.nullcontext()  # type: ignore[method-assign]


def _both(one: Callable[[], None], other: Callable[[], None]) -> Callable[[], None]:
    def patch() -> None:
        one()
        other()

    return patch


def _controls(scale: Scale) -> list[Trial]:
    bars = shipped("bars", _both(_bars, _not_given_up), words=BARS)
    found = [
        Trial("failures of watchers get out", _unguarded, breaks="on_step, raises: the run ended with"),
        replace(bars, breaks="ended with 5: .*RuntimeError: a bar"),
    ]
    if scale.is_fast:
        return found
    return [
        *found,
        replace(own("raises", _dispatch_raises), breaks="ended with 5: .*KeyError"),
        replace(own("a Stop", _heard), breaks="a Stop: /"),
        replace(shipped("inside", _both(_inside, _dispatch_raises)), breaks="ended with 5: .*RuntimeError: inside"),
        replace(no_output("left", _left, _not_given_up), breaks="ended with 4: .*broken pipe"),
    ]


PROMISES = [Promise(13, "watchers", "No failure of a watcher stops or changes training.", _trials, _controls)]
