"""Promise 10: out of memory says what to change, or goes on with smaller pieces of the same batch."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from torture.commands import Command, fail, outcome, succeed
from torture.faults import write_kill_at
from torture.kit import Promise, Scale, Trial, require, require_equal

NET = '''
import os, pathlib
import torch

class Net(torch.nn.Module):
    """Runs out of memory above LIMIT samples, from step AT on: in forward, or (WHERE) in backward or evaluation."""

    def __init__(self, in_features, out_features):
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(in_features)
        self.drop = torch.nn.Dropout(0.2)
        self.last = torch.nn.Linear(in_features, out_features)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, inputs):
        hidden = self.drop(self.norm(inputs.flatten(1)))
        limit = int(os.environ.get("LIMIT", "0"))
        where = os.environ.get("WHERE", "forward")
        if limit and pathlib.Path("begun").exists() and len(inputs) > limit:
            if self.training and where == "backward":
                hidden.register_hook(lambda gradient: out_of_memory())
            elif where == ("forward" if self.training else "evaluation"):
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


def _outcome(folder: Path) -> Any:
    return outcome(folder / "run", but=("pieces",))


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
        require_equal(_outcome(folder / "auto"), _outcome(folder / "fixed"), "auto against 4 pieces")
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


def is_told_of_evaluation(kind: str, before: Callable[[], None] | None = None) -> Trial:
    """Return the try of an evaluation that does not fit: one line, with a size that then fits; status 5."""

    def do(folder: Path) -> None:
        (folder / "own_net.py").write_text(NET)
        environment = {"LIMIT": "8", "KIND": kind, "WHERE": "evaluation"}
        words = (*WORDS, "data.eval_batch_size=16", "trainer.accumulate=auto")
        said = fail(5, *words, environment=environment, before=before)
        lines = [line for line in said.splitlines() if line.startswith("dlwp: error")]
        require(len(lines) == 1 and "out of memory while evaluating val" in lines[0], f"not told in a line: {lines}")
        require("data.eval_batch_size=8" in lines[0], f"does not say what would fit: {lines[0]}")
        require("pieces of" not in said, "an evaluation has shrunk the pieces of training")
        succeed(*WORDS[:-1], "data.eval_batch_size=8", "run_dir=again", environment=environment)

    return Trial(f"told, {kind}, in evaluation", do)


def goes_on_after_a_kill(step: int, before: Callable[[], None] | None = None) -> Trial:
    """Return the try of a run that is killed after auto has settled: the resumed one is equal to one with 4 pieces.

    From step 5 on the checkpoint of step 2 is there: that of step 4 waits for it.
    """
    words = (*WORDS, "trainer.checkpoint_every=2 steps", "+callbacks.kill._target_=kill_at.KillAt")

    def do(folder: Path) -> None:
        for name in ("auto", "fixed"):
            (folder / name).mkdir()
            (folder / name / "own_net.py").write_text(NET)
            write_kill_at(folder / name)
        environment = {"LIMIT": "8"}
        killed = Command(
            *words, "trainer.accumulate=auto", folder=folder / "auto",
            environment={**environment, "KILL_AT": f"step {step}"},
        )  # fmt: skip
        require(killed.finish() == -signal.SIGKILL, f"not killed: {killed.output[-300:]}")
        said = succeed("resume=run", folder=folder / "auto", environment=environment, before=before)
        require("out of memory at step" not in said, "the resumed run found out again")
        died = f"the last process died without a word after step {step - 1} (killed; often: out of memory)"
        require(died in said, f"the resumed run does not say what has happened: {said[:500]}")
        succeed(*words, "trainer.accumulate=4", folder=folder / "fixed")
        require_equal(_outcome(folder / "auto"), _outcome(folder / "fixed"), "killed against 4 pieces")

    return Trial(f"auto, killed at step {step}", do)


def same_loss(patch: Callable[[], None] | None = None) -> Trial:
    """Return the try that the loss of 50 steps is that of whole batches, without batch statistics or dropout."""

    def do(folder: Path) -> None:
        if patch is not None:
            patch()
        found, expected = _losses(8), _losses(0)
        require(len(found) == len(expected) == 50, f"{len(found)} and {len(expected)} steps")
        for step, (one, other) in enumerate(zip(found, expected, strict=True), 1):
            off = abs(one - other) / abs(other)
            require(off <= 1e-5, f"the loss of step {step} is off by {off:.1e} (relative)")

    return Trial("the loss of 50 steps in fp64", do)


def _losses(limit: int) -> list[float]:
    """Return the loss of each of 50 steps in fp64, in pieces of at most `limit` samples (0: whole)."""
    import torch

    from dlwp.data.datasets import ArrayDataset
    from dlwp.data.resident import ResidentLoader
    from dlwp.settings import TrainerSettings
    from dlwp.training.trainer import Trainer

    class Small(torch.nn.Sequential):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            if limit and len(inputs) > limit:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            return super().forward(inputs)

    class Losses(list[float]):
        def on_step(self, event: Any) -> None:
            self.append(float(event.loss))

    torch.manual_seed(0)
    model = Small(torch.nn.Linear(5, 16), torch.nn.Tanh(), torch.nn.Linear(16, 3)).double()
    data = ArrayDataset(torch.randn(300, 5).double(), torch.arange(300) % 3)
    losses = Losses()
    settings = TrainerSettings(epochs=5, accumulate="auto" if limit else 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    trainer = Trainer(model, torch.nn.CrossEntropyLoss(), optimizer, settings, observers=[losses])
    trainer.fit(ResidentLoader(data, 30, shuffle=True))
    require(bool(trainer.warnings) == bool(limit), f"no memory was short: {trainer.warnings}")
    return list(losses)


def _trials(scale: Scale) -> list[Trial]:
    further = [is_told_of_evaluation("cuda"), goes_on_after_a_kill(7), same_loss()]
    if scale.is_fast:
        return [goes_on("cuda", "forward"), is_told("cpu", "backward"), *further]
    further += [
        is_told_of_evaluation("cpu"),
        *(goes_on_after_a_kill(step) for step in ((5,) if not scale.is_full else range(5, 12))),
    ]
    cases = [(kind, where) for kind in ("cuda", "cpu") for where in ("forward", "backward")]
    trials = [*(goes_on(*case) for case in cases), *(is_told(*case) for case in cases)]
    return [*trials, *further, *(goes_on_from(step) for step in ((5,) if not scale.is_full else range(1, 12)))]


def _never_again() -> None:
    """Give up at the first time, as without the protection."""
    from dlwp.training.pieces import Pieces

    Pieces.compute = lambda self, batch, job: job([batch])  # type: ignore[method-assign]


def _forget() -> None:
    """Let a resumed run begin with whole batches."""
    from dlwp.training.state import TrainState

    load = TrainState.load

    def forgetful(self: Any, *saved: Any, **options: Any) -> Any:
        notes = load(self, *saved, **options)
        self.progress.pieces = 1
        return notes

    TrainState.load = forgetful  # type: ignore[method-assign]


def _say_nothing() -> None:
    """Let a resumed run say nothing of how the last process ended."""
    from dlwp import resuming

    resuming.word_of_death = lambda run: None


def _weigh_alike() -> None:
    """Let each piece of a batch of 30 count the same, though they are of 8 and of 7 samples."""
    from dlwp.training import passes

    passes.weight_of = lambda criterion, batch: 1.0 if len(batch[0]) == 30 else 0.25  # type: ignore[assignment]


def _know_no_memory() -> None:
    """Let an evaluation's lack of memory be an error like any other."""
    from dlwp import devices

    devices.is_out_of_memory = lambda error: False


def _controls(scale: Scale) -> list[Trial]:
    return [
        replace(goes_on("cuda", "forward", _never_again), breaks="ended with 5"),
        replace(is_told_of_evaluation("cuda", _know_no_memory), breaks="not told in a line|ended with"),
        replace(goes_on_after_a_kill(7, _forget), breaks="the resumed run found out again"),
        replace(goes_on_after_a_kill(7, _say_nothing), breaks="does not say what has happened"),
        replace(same_loss(_weigh_alike), breaks="the loss of step . is off by"),
    ]


PROMISES = [Promise(10, "out-of-memory", "Out of memory is told with numbers, or made to fit.", _trials, _controls)]
