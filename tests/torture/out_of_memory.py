"""Promise 10: out of memory says what to change, or goes on with smaller pieces of the same batch."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from torture.commands import Command, outcome, succeed
from torture.kit import Promise, Scale, Trial, require, require_equal

NET = '''
import os, pathlib
import torch

class Net(torch.nn.Module):
    """Runs out of memory above LIMIT samples, in training, from step AT on: in forward, or (WHERE) in backward."""

    def __init__(self, in_features, out_features):
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(in_features)
        self.drop = torch.nn.Dropout(0.2)
        self.last = torch.nn.Linear(in_features, out_features)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, inputs):
        hidden = self.drop(self.norm(inputs.flatten(1)))
        limit = int(os.environ.get("LIMIT", "0"))
        if self.training and limit and pathlib.Path("begun").exists() and len(inputs) > limit:
            if os.environ.get("WHERE") == "backward":
                hidden.register_hook(lambda gradient: out_of_memory())
            else:
                out_of_memory()
        if not self.training and os.environ.get("WHERE") == "evaluation" and pathlib.Path("begun").exists():
            out_of_memory()
        return self.last(hidden)

class Begin:
    """A callback: memory is short from step AT on (0: from the start)."""

    def on_start(self, event):
        self.on_step(event)

    def on_step(self, event):
        if os.environ.get("LIMIT") and event.step >= int(os.environ.get("AT", "0")):
            pathlib.Path("begun").touch()

def out_of_memory():
    if os.environ.get("KIND") == "cpu":
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: "
                           "you tried to allocate 400 bytes. Error code 12 (Cannot allocate memory)")
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
'''
"""A user's own model, to be written beside the command as own_net.py."""

WORDS = (
    "data=synthetic", "data.num_train=97", "data.num_val=20", "data.num_test=0", "data.shape=[12]",
    "data.batch_size=30", "model._target_=own_net.Net", "+model.in_features=auto", "+model.out_features=auto",
    "trainer.epochs=3", "trainer.log_every=1", "trainer.ema_decay=0.9", "logger.tensorboard=false",
    "logger.plots=false", "+callbacks.begin._target_=own_net.Begin", "run_dir=run",
)  # fmt: skip


def goes_on(kind: str, where: str, before: Callable[[], None] | None = None) -> Trial:
    """Return the try with auto: equal to a run begun with the number of pieces found; a resume begins with it."""

    def do(folder: Path) -> None:
        for name in ("auto", "fixed"):
            (folder / name).mkdir()
            (folder / name / "own_net.py").write_text(NET)
        environment = {"LIMIT": "8", "KIND": kind, "WHERE": where}
        said = succeed(
            *WORDS, "trainer.accumulate=auto", folder=folder / "auto", environment=environment, before=before
        )
        require("4 pieces" in said, f"does not say how it goes on: {said[-300:]}")
        succeed(*WORDS, "trainer.accumulate=4", folder=folder / "fixed")
        require_equal(outcome(folder / "auto" / "run"), outcome(folder / "fixed" / "run"), "auto against 4 pieces")
        words = ("resume=run", "trainer.epochs=4")
        again = succeed(*words, folder=folder / "auto", environment=environment)
        require("out of memory at step" not in again.replace("warning  ", ""), "the resumed run found out again")

    return Trial(f"auto, {kind}, in {where}", do)


def goes_on_from(step: int) -> Trial:
    """Return the try in which memory gets short late; the run ends, with as many steps as any."""

    def do(folder: Path) -> None:
        (folder / "own_net.py").write_text(NET)
        said = succeed(*WORDS, "trainer.accumulate=auto", environment={"LIMIT": "8", "AT": str(step)})
        require(f"out of memory at step {step + 1}" in said, f"does not name step {step + 1}")
        summary = json.loads((folder / "run" / "summary.json").read_text())
        require(summary["step"] == 12, f"ended at step {summary['step']}, expected 12")

    return Trial(f"auto, memory short after step {step}", do)


def is_told(kind: str, where: str) -> Trial:
    """Return the try without auto: one line with numbers that would fit, status 5."""

    def do(folder: Path) -> None:
        (folder / "own_net.py").write_text(NET)
        command = Command(*WORDS, environment={"LIMIT": "8", "KIND": kind, "WHERE": where})
        status = command.finish()
        line = next((line for line in command.output.splitlines() if line.startswith("dlwp: error")), "")
        require(status == 5, f"ended with {status}, expected 5: {line}")
        for word in ("out of memory", "trainer.accumulate=2", "data.batch_size=15"):
            require(word in line, f"does not say {word!r}: {line}")

    return Trial(f"told, {kind}, in {where}", do)


def _trials(scale: Scale) -> list[Trial]:
    if scale.is_fast:
        return [goes_on("cuda", "forward"), is_told("cpu", "backward")]
    cases = [(kind, where) for kind in ("cuda", "cpu") for where in ("forward", "backward")]
    trials = [*(goes_on(*case) for case in cases), *(is_told(*case) for case in cases)]
    return [*trials, *(goes_on_from(step) for step in ((5,) if not scale.is_full else range(1, 12)))]


def _never_again() -> None:
    """Give up at the first time, as without the protection."""
    from dlwp.training.pieces import Pieces

    Pieces.compute = lambda self, batch, job: job([batch])  # type: ignore[method-assign]


def _controls(scale: Scale) -> list[Trial]:
    return [goes_on("cuda", "forward", _never_again)]


PROMISES = [Promise(10, "out-of-memory", "Out of memory is told with numbers, or made to fit.", _trials, _controls)]
