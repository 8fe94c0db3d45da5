"""Own the tries of promise 9 through dlwp-train: with saves, resumes, limits, and a learning rate that explodes."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from torture.commands import fail, outcome, records, succeed
from torture.kit import Scale, Trial, once, require, require_equal

PLANTED = '''
import math, os
import torch
from torch.utils.data import TensorDataset

SAMPLE, FAULT, BY_HAND = 13, os.environ.get("FAULT", ""), bool(os.environ.get("BY_HAND"))
bad, evaluated, kept = False, 0, []

def numbers(num=32):
    """A regression whose first input is the sample's number; sample 13 has the fault."""
    generator = torch.Generator().manual_seed(0)
    inputs, targets = torch.randn(num + 16, 3, generator=generator), torch.randn(num + 16, 1, generator=generator)
    inputs[:, 0] = torch.arange(num + 16)
    if FAULT in ("nan", "inf"):
        inputs[SAMPLE, 1] = float(FAULT)
    if FAULT == "all":
        inputs[:num, 1] = math.nan
    if FAULT == "target":
        targets[SAMPLE] = math.nan
    return {"train": TensorDataset(inputs[:num], targets[:num]), "val": TensorDataset(inputs[num:], targets[num:])}

def step(model, batch, criterion):
    """The usual step, and the faults that data cannot have."""
    global bad, evaluated, kept
    bad = model.training and bool((batch[0][:, 0] == SAMPLE).any())
    kept = [(buffer, buffer.clone()) for buffer in model.buffers() if bad and BY_HAND]
    outputs = model(batch[0])
    loss = criterion(outputs, batch[1])
    evaluated += not model.training
    if FAULT == f"evaluation {evaluated}" and not model.training or FAULT == "loss" and bad:
        loss = loss * math.nan
    if FAULT == "gradient" and bad:
        loss = loss + (outputs.sum() * 0).sqrt()
    return loss, outputs

class Optimizer(torch.optim.AdamW):
    """AdamW; BY_HAND it does not step for the batch of sample 13, and puts the model's buffers back."""

    def step(self, closure=None):
        for buffer, value in kept:
            buffer.copy_(value)
        return None if bad and BY_HAND else super().step(closure)

class Witness:
    """Notes which steps had sample 13."""

    def on_step(self, event):
        if bad:
            with open("bad_steps", "a") as file:
                file.write(f"{event.step} ")
'''
"""A user's own parts, to be written beside the command as planted.py."""

WORDS = (
    "data=dataset", "data._target_=planted.numbers", "data.batch_size=4", "criterion=mse", "metrics=regression",
    "model=mlp", "model.hidden=[8]", "model.norm=batch", "optimizer=adamw", "optimizer._target_=planted.Optimizer",
    "optimizer.lr=0.05", "scheduler=constant", "trainer.step=planted.step", "trainer.epochs=3", "trainer.log_every=1",
    "trainer.eval_every=1 steps", "trainer.checkpoint_every=1 steps", "trainer.ema_decay=0.9", "trainer.keep_last=100",
    "+callbacks.witness._target_=planted.Witness", "logger.tensorboard=false", "logger.plots=false",
    "trainer.progress=false", "run_dir=run",
)  # fmt: skip
NAMED = {
    "nan": "'layers.0'", "inf": "'layers.0'", "target": "the criterion", "loss": "the criterion",
    "gradient": "a gradient",
}  # fmt: skip
"""What is planted, and what must be named."""

Patch = Callable[[], None] | None


def _words(**changed: str) -> list[str]:
    """Return `WORDS` with some of the trainer's settings changed or added."""
    found = [word for word in WORDS if word.removeprefix("trainer.").partition("=")[0] not in changed]
    return found + [f"trainer.{key}={value}" for key, value in changed.items()]


def _made(name: str, **environment: str) -> Path:
    """Return the folder of a run without a fault, made once; in `bad_steps` those that have sample 13."""

    def make(folder: Path) -> None:
        (folder / "planted.py").write_text(PLANTED)
        succeed(*WORDS, folder=folder, environment=environment)

    return once(f"nonfinite-{name}", make)


def _bad_steps() -> list[int]:
    return [int(word) for word in (_made("clean") / "bad_steps").read_text().split()]


def _files(run: Path, step: int, names: tuple[str, ...] = ("model", "optimizer", "ema")) -> dict[str, str]:
    """Return the SHA-256 of what a checkpoint holds."""
    folder = run / "checkpoints" / f"step-{step:08}"
    return {name: hashlib.sha256((folder / f"{name}.safetensors").read_bytes()).hexdigest() for name in names}


def _require_sound(run: Path) -> None:
    """Require that no checkpoint holds, and no record or summary shows, what is not finite."""
    for path in sorted((run / "checkpoints").glob("step-*/*.safetensors")):
        for name, value in load_file(path).items():
            require(not value.is_floating_point() or bool(value.isfinite().all()), f"{path}: {name} is not finite")
    for path in (run / "metrics.jsonl", run / "summary.json"):
        found = [word for word in ("NaN", "Infinity") if word in path.read_text()]
        require(not found, f"{path} shows {found}")


def stops(fault: str, before: Patch = None) -> Trial:
    """Return the try of `stop`: named, best and last those of the step before; with the data mended it goes on."""

    def do(folder: Path) -> None:
        clean, step = _made("clean") / "run", _bad_steps()[0]
        (folder / "planted.py").write_text(PLANTED)
        said = fail(5, *WORDS, environment={"FAULT": fault}, before=before)
        told = next((line for line in said.splitlines() if "error:" in line), "")
        named = re.search(rf"at step {step} \(epoch 1, samples [\d, ]*\b13\b", told)
        require(named, f"does not name step {step} and sample 13: {told}")
        require(f"first in {NAMED[fault]}" in told, f"does not name {NAMED[fault]}: {told}")
        run = folder / "run"
        _require_sound(run)
        pointed = {name: (run / "checkpoints" / name).read_text().strip() for name in ("best", "last")}
        require(pointed["last"] == f"step-{step - 1:08}", f"last is {pointed['last']}, the bad step is {step}")
        for name, checkpoint in pointed.items():
            number = int(checkpoint[5:])
            require_equal(_files(run, number), _files(clean, number), f"{name}, beside a run without the fault")
        succeed("resume=run", "trust=[planted]")
        require_equal(outcome(run), outcome(clean), "resumed with the data mended")

    return Trial(f"dlwp-train stop: {fault}", do)


def leaves_out(policy: str, fault: str, before: Patch = None) -> Trial:
    """Return the try of `skip`, or of `rollback` to the step before: the run is that in which the step is not taken."""

    def do(folder: Path) -> None:
        other, bad = _made("by-hand", BY_HAND="1") / "run", _bad_steps()
        (folder / "planted.py").write_text(PLANTED)
        said = succeed(*WORDS, f"trainer.on_nonfinite={policy}", environment={"FAULT": fault}, before=before)
        run = folder / "run"
        _require_sound(run)
        summary = json.loads((run / "summary.json").read_text())
        require_equal(summary["skipped_steps" if policy == "skip" else "rollbacks"], len(bad), "steps left out")
        for step in bad:
            require(f"warning: step {step} left out" in said, f"step {step} is not told: {said[-300:]}")
            require_equal(_files(run, step), _files(run, step - 1), f"step {step}, beside the step before")
        _require_equal_to(other, run, bad)

    return Trial(f"dlwp-train {policy}: {fault}", do)


def _require_equal_to(other: Path, run: Path, bad: list[int]) -> None:
    """Require the weights at each step, and the metrics at each but those left out, of a run that left them out."""
    for step in range(1, 25):
        one, two = (_files(path, step, ("model", "optimizer")) for path in (run, other))
        require_equal(one, two, f"step {step}, beside a run that does not take the steps {bad}")
    for line in records(other / "metrics.jsonl"):
        if line["split"] == "train" and line["step"] not in bad:
            found = next(one for one in records(run / "metrics.jsonl") if one["step"] == line["step"])
            for name in ("loss", "rmse", "mae"):
                value = found.get(name) if found.get(name) is not None else math.nan
                near = math.isclose(value, line[name], rel_tol=1e-9)  # a difference of sums, one with a step more
                require(near, f"{name} at step {line['step']} is {value}, expected {line[name]}")


def returns(before: Patch = None) -> Trial:
    """Return the try of `rollback` to a checkpoint some steps back, whose bits come back; the fourth ends the run."""

    def do(folder: Path) -> None:
        bad = _bad_steps()
        (folder / "planted.py").write_text(PLANTED)
        words = _words(on_nonfinite="rollback", checkpoint_every="4 steps", keep_best="false")
        said = succeed(*words, environment={"FAULT": "nan"}, before=before)
        for step in bad:
            since = 4 * ((step - 1) // 4)
            told = f"step {step} left out: loss is nan; weights are back at step {since},"
            require(told in said, f"not told: {told} {said[-300:]}")
            if step % 4 == 0:
                require_equal(_files(folder / "run", step), _files(folder / "run", since), f"step {step}, put back")
        require(any(step % 4 == 0 and step > 4 for step in bad), "no bad step has a checkpoint of its own")
        _require_sound(folder / "run")
        said = fail(5, "resume=run", "trust=[planted]", "trainer.epochs=4", environment={"FAULT": "nan"}, before=before)
        require(f"loss is nan at step {_bad_of_a_fourth(said)} " in said, f"does not name the step: {said[-300:]}")
        require((folder / "run/checkpoints/last").read_text().strip() in ("step-00000024", "step-00000028"), "last")
        _require_sound(folder / "run")

    return Trial("dlwp-train rollback, 4 times", do)


def _bad_of_a_fourth(said: str) -> int:
    return next((step for step in range(25, 33) if f"at step {step} " in said), 0)


def gives_up(before: Patch = None) -> Trial:
    """Return the try of `skip` in a run that has nothing else: 100 steps are left out, the next ends it."""

    def do(folder: Path) -> None:
        (folder / "planted.py").write_text(PLANTED)
        planted = {"FAULT": "all"}
        words = _words(on_nonfinite="skip", epochs="20", max_steps="100", checkpoint_every="1 epoch")
        succeed(*words, environment=planted, before=before)
        run = folder / "run"
        first, last = (_files(run, step) for step in (8, 100))
        require_equal(last, first, "weights after 100 steps left out, beside those after 8")
        require_equal(json.loads((run / "summary.json").read_text())["skipped_steps"], 100, "steps left out")
        words = ("resume=run", "trust=[planted]", "trainer.max_steps=110")
        said = fail(5, *words, environment=planted, before=before)
        require("loss is nan at step 101 " in said, f"does not name step 101: {said[-300:]}")
        require((run / "checkpoints/last").read_text().strip() == "step-00000100", "last is not step 100")
        _require_sound(run)

    return Trial("dlwp-train skip, 101 times", do)


def evaluates(number: int) -> Trial:
    """Return the try of a validation loss that is NaN once: it is never best, and blocks none."""

    def do(folder: Path) -> None:
        (folder / "planted.py").write_text(PLANTED)
        succeed(*WORDS, "trainer.monitor=val/loss", environment={"FAULT": f"evaluation {number}"})
        run = folder / "run"
        lines = [line for line in records(run / "metrics.jsonl") if line["split"] == "val"]
        require([line["loss"] is None for line in lines].index(True) == number - 1, f"the NaN is not there: {lines}")
        finite = {line["step"]: line["loss"] for line in lines if line["loss"] is not None}
        require(len(finite) == len(lines) - 1, f"finite: {finite}")
        best = int(outcome(run)["pointers"]["best"][5:])
        require(best == min(finite, key=lambda step: finite[step]), f"best is step {best} of {finite}")
        _require_sound(run)

    return Trial(f"dlwp-train, NaN in evaluation {number}", do)


def explodes(policy: str, optimizer: str) -> Trial:
    """Return the try of lr=1e6: the run fails by the policy's limit, and what it saved is finite."""

    def do(folder: Path) -> None:
        words = ("data=synthetic", "data.shape=[6]", "data.num_train=400", "data.num_val=40", "data.num_test=0",
                 "data.batch_size=8", "model=mlp", "model.hidden=[32]", f"optimizer={optimizer}", "optimizer.lr=1e6",
                 "scheduler=constant", "trainer.epochs=5", "trainer.log_every=2", "trainer.checkpoint_every=3 steps",
                 "trainer.keep_last=100", "logger.tensorboard=false", "logger.plots=false", "trainer.progress=false",
                 "run_dir=run")  # fmt: skip
        said = fail(5, *words, f"trainer.on_nonfinite={policy}")
        told = next((line for line in said.splitlines() if "error:" in line), "")
        require(" is nan at step" in told or " not finite" in told or " is inf at step" in told, f"told: {said[-300:]}")
        require(said.count(" left out") == {"stop": 0, "skip": 100, "rollback": 3}[policy], f"left out: {said[-300:]}")
        last = int((folder / "run/checkpoints/last").read_text().strip()[5:])
        require(last >= 3, f"last is step {last}")
        _require_sound(folder / "run")

    return Trial(f"dlwp-train {policy}: lr=1e6 of {optimizer}", do)


def deferred(before: Patch = None) -> Trial:
    """Return the try of a verdict that stays on the device, as on CUDA: no save comes before it is read."""

    def patch() -> None:
        from dlwp.training.nonfinite import Guard

        begin = Guard.begin_step

        def begin_step(self: Guard) -> None:
            self._deferred = True
            begin(self)

        Guard.begin_step = begin_step  # type: ignore[method-assign]
        if before is not None:
            before()

    def do(folder: Path) -> None:
        step = _bad_steps()[0]
        (folder / "planted.py").write_text(PLANTED)
        words = [word for word in _words(log_every="6") if not word.startswith("optimizer._target_")]
        said = fail(5, *words, environment={"FAULT": "nan"}, before=patch)
        _require_sound(folder / "run")
        require(f"not finite at step {step}." in said, f"does not name step {step}: {said[-300:]}")
        require((folder / "run/checkpoints/last").read_text().strip() == f"step-{step - 1:08}", "last is later")

    return Trial("dlwp-train stop: a verdict left on the device", do)


def _without(*names: str) -> Callable[[], None]:
    """Return the patch that lets a guard's methods do nothing."""

    def patch() -> None:
        from dlwp.training.nonfinite import Guard

        for name in names:
            setattr(Guard, name, lambda *_: True)

    return patch


def _no_limits() -> None:
    from dlwp.training import nonfinite

    nonfinite.MAX_SKIPS = nonfinite.MAX_ROLLBACKS = 1000


def _kept_once() -> None:
    from dlwp.training.nonfinite import Guard

    keep = Guard.keep
    Guard.keep = lambda self: None if self._good else keep(self)  # type: ignore[method-assign]


def _saved_unread() -> None:
    from dlwp.training.nonfinite import Guard

    check = Guard.check_weights

    def check_weights(self: Guard) -> None:
        self.read_verdict = lambda: None  # type: ignore[method-assign]
        check(self)
        del self.read_verdict

    Guard.check_weights = check_weights  # type: ignore[method-assign]


def buffers_stay() -> None:
    """Let a step that is left out change buffers."""
    from dlwp.training.nonfinite import Guard

    begin = Guard.begin_step

    def begin_step(self: Guard) -> None:
        begin(self)
        self._buffers = []

    Guard.begin_step = begin_step  # type: ignore[method-assign]


def _sums_stay() -> None:
    from dlwp.training.tally import Tally

    load = Tally.load_state_dict

    def load_at_a_reset(self: Tally, state: dict[str, Any]) -> None:
        if not state["sums"]:
            load(self, state)

    Tally.load_state_dict = load_at_a_reset  # type: ignore[method-assign]


def _averages_go_on() -> None:
    from dlwp.training.nonfinite import Guard

    allows = Guard.allows_step

    def allows_step(self: Guard, *words: Any) -> bool:
        if not allows(self, *words):
            averaged = self._trainer.state.averaged
            assert averaged is not None
            averaged.update(self._trainer.model, 1)
            return False
        return True

    Guard.allows_step = allows_step  # type: ignore[method-assign]


def trials(scale: Scale) -> list[Trial]:
    """Return what is tried at a scale."""
    if scale.is_fast:
        return [stops("nan"), leaves_out("skip", "gradient"), gives_up(), deferred()]
    some = [*(stops(fault) for fault in NAMED), *(leaves_out("skip", fault) for fault in NAMED)]
    some += [leaves_out("rollback", fault) for fault in (NAMED if scale.is_full else ("inf",))]
    some += [explodes(policy, "sgd") for policy in ("stop", "skip", "rollback")]
    return [*some, returns(), gives_up(), evaluates(1), evaluates(24), deferred()]


def controls(scale: Scale) -> list[Trial]:
    """Return tries with the protection switched off."""
    blind = _without("allows_step", "check_weights")
    found = [replace(stops("nan", blind), breaks="ended with 0, expected 5")]
    if scale.is_fast:
        return found
    return [
        *found,
        replace(stops("nan", _without("allows_step")), breaks="does not name step"),
        replace(leaves_out("skip", "nan", _sums_stay), breaks="^(rmse|mae) at step"),
        replace(leaves_out("skip", "nan", _averages_go_on), breaks="beside the step before: /ema"),
        replace(leaves_out("skip", "gradient", buffers_stay), breaks="beside the step before: /model"),
        replace(returns(_kept_once), breaks="weights are back at step 12"),
        replace(gives_up(_no_limits), breaks="ended with 0, expected 5"),
        replace(deferred(_saved_unread), breaks="running_mean is not finite"),
    ]
