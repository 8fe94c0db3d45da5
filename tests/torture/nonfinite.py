"""Promise 9: NaN and infinity are found before they reach a weight, named, handled, and never kept."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from torture import nonfinite_runs
from torture.kit import Promise, Scale, Trial, require

STEPS, SIZE = 8, 4
FAULTS = {
    "NaN pixel": "first", "inf pixel": "first", "NaN target": "the criterion", "log of 0": "log",
    "root of 0": "a gradient", "last piece": "first",
}  # fmt: skip
"""What is injected, and what must be named."""


class Net(nn.Module):
    """A small network with batch statistics, whose `fault` arises when the first input of a sample is 77."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 6)
        self.norm = nn.BatchNorm1d(6)
        self.log = Odd()
        self.last = nn.Linear(6, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return (B, 2)."""
        hidden = self.log(self.norm(self.first(inputs)).relu(), inputs[:, 0] == 77)
        return self.last(hidden)


class Odd(nn.Module):
    """Passes its input on, but for the samples marked."""

    fault = ""

    def forward(self, hidden: Tensor, marked: Tensor) -> Tensor:
        """Return log(0), or sqrt(0), whose gradient alone is not finite, for marked samples."""
        if self.fault == "log of 0" and bool(marked.any()):
            return hidden + torch.log(torch.zeros(()))
        if self.fault == "root of 0" and bool(marked.any()):
            return hidden + torch.sqrt(self.scale * 0)
        return hidden

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))


class Batches:
    """Batches of a seed, with a fault in that of step `at`; `left_out` steps are not there at all."""

    batch_size = SIZE
    num_samples = STEPS * SIZE

    def __init__(self, fault: str = "", at: int = -1) -> None:
        self.fault, self.at = fault, at

    def __len__(self) -> int:
        return STEPS

    def epoch(self, number: int = 0, start: int = 0) -> Any:
        """Yield (inputs, targets)."""
        for step in range(start, STEPS):
            generator = torch.Generator().manual_seed(step)
            inputs = torch.randn(SIZE, 3, generator=generator)
            targets = torch.randn(SIZE, 2, generator=generator)
            if step == self.at:
                if self.fault in ("NaN pixel", "last piece", "NaN in evaluation"):
                    inputs[-1, 0] = math.nan
                elif self.fault == "inf pixel":
                    inputs[1, 0] = math.inf
                elif self.fault == "NaN target":
                    targets[2, 0] = math.nan
                else:
                    inputs[0, 0] = 77
            yield inputs, targets


def _trainer(fault: str, policy: str, **settings: Any) -> Any:
    from dlwp.settings import TrainerSettings
    from dlwp.training.trainer import Trainer

    torch.manual_seed(0)
    model = Net()
    Odd.fault = fault
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    options = {"epochs": 1, "on_nonfinite": policy, "accumulate": 2 if fault == "last piece" else 1, **settings}
    return Trainer(model, nn.MSELoss(), optimizer, TrainerSettings(**options))


def _state(trainer: Any) -> dict[str, Tensor]:
    found = {name: value.clone() for name, value in trainer.model.state_dict().items() if value.is_floating_point()}
    for number, values in trainer.optimizer.state_dict()["state"].items():
        found |= {f"{number}/{name}": value.clone() for name, value in values.items() if name != "step"}
    return found


def _require_finite(trainer: Any) -> None:
    for name, value in _state(trainer).items():
        require(bool(torch.isfinite(value).all()), f"{name} is not finite")


def _fit(trainer: Any, batches: Batches) -> str:
    """Return what the run died of, "" where it did not."""
    from dlwp.errors import NonFiniteError

    try:
        trainer.fit(batches)
    except NonFiniteError as error:
        return str(error)
    return ""


def _stop(fault: str, at: int) -> None:
    trainer = _trainer(fault, "stop")
    said = _fit(trainer, Batches(fault, at))
    require(f"at step {at + 1} " in said, f"does not name step {at + 1}: {said or 'no error'}")
    require(FAULTS[fault] in said, f"does not name {FAULTS[fault]!r}: {said}")
    for name, value in trainer.model.named_parameters():
        require(bool(torch.isfinite(value).all()), f"{name} is not finite")


def _skip(fault: str, at: int) -> None:
    trainer = _trainer(fault, "skip")
    require(not _fit(trainer, Batches(fault, at)), "skip ended the run")
    require(any(f"step {at + 1} left out" in text for text in trainer.warnings), f"not told: {trainer.warnings}")
    _require_finite(trainer)
    other = _trainer("", "skip", accumulate=2 if fault == "last piece" else 1)
    take = other._take_step
    forward = other.passes.loss
    kept: dict[str, Any] = {}

    def loss_without(batch: Any) -> Tensor:
        kept["buffers"] = {name: value.clone() for name, value in other.model.named_buffers()}
        return forward(batch)

    def take_without(loss: Tensor, batch: Any) -> None:
        if other.state.progress.step == at:
            for name, value in other.model.named_buffers():
                if value.is_floating_point():
                    value.copy_(kept["buffers"][name])
            allows, other.guard.allows_step = other.guard.allows_step, lambda *_: False
            take(loss, batch)
            other.guard.allows_step = allows
        else:
            take(loss, batch)

    other.passes.loss, other._take_step = loss_without, take_without
    _fit(other, Batches())
    expected = _state(other)
    for name, value in _state(trainer).items():
        require(torch.equal(value, expected[name]), f"{name} is not that of a run without step {at + 1}")


def _rollback(fault: str, at: int) -> None:
    trainer = _trainer(fault, "rollback", ema_decay=0.9)
    require(not _fit(trainer, Batches(fault, at)), "rollback ended the run")
    said = f"step {at + 1} left out"
    require(any(said in text for text in trainer.warnings), f"not told: {trainer.warnings}")
    _require_finite(trainer)
    require(trainer.state.progress.step == STEPS, f"ended at step {trainer.state.progress.step}")


def _best(at: int) -> None:
    """A NaN evaluation is never best, and the first one does not block later ones."""
    trainer = _trainer("", "stop", epochs=3)
    turn = {"number": 0}
    evaluate = trainer.evaluate

    def faulty(loader: Any, split: str) -> Any:
        loader.at = at if turn["number"] == 0 else -1
        turn["number"] += 1
        return evaluate(loader, split)

    trainer.evaluate = faulty
    trainer.fit(Batches(), Batches("NaN in evaluation"))
    progress = trainer.state.progress
    require(progress.best_value is not None and math.isfinite(progress.best_value), f"best is {progress.best_value}")
    require(progress.best_step in (2 * STEPS, 3 * STEPS), f"best is step {progress.best_step}")


def _averages() -> None:
    from dlwp.errors import NonFiniteError

    trainer = _trainer("", "stop", ema_decay=0.9)
    trainer.guard.check_weights()
    next(iter(trainer.state.averaged.parameters.values()))[0, 0] = math.nan
    try:
        trainer.guard.check_weights()
    except NonFiniteError as error:
        require("average of first.weight" in str(error), str(error))
    else:
        require(False, "an average that is NaN would be saved")


def _half() -> None:
    """An overflow in fp16 is no error, with clipping too."""
    trainer = _trainer("", "stop", clip_norm=1.0)
    trainer.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    require(not _fit(trainer, Batches()), "an overflow of the scaled gradient ended the run")
    require(trainer.scaler.get_scale() < 2.0**127, "the scale was not lowered: nothing overflowed")


def _trials(scale: Scale) -> list[Trial]:
    places = range(STEPS - 1) if scale.is_full else (2, 5) if not scale.is_fast else (3,)

    def of(policy: Callable[[str, int], None], fault: str) -> Trial:
        def do(folder: Path) -> int:
            for at in places:
                policy(fault, at)
            return len(places)

        return Trial(f"{fault}: {policy.__name__[1:]}", do)

    trials = [of(policy, fault) for fault in FAULTS for policy in (_stop, _skip, _rollback)]
    trials += [Trial(f"NaN evaluation {at}", lambda folder, at=at: _best(at)) for at in places]
    trials += [Trial("NaN average", lambda _: _averages()), Trial("fp16 overflow", lambda _: _half())]
    return [*trials, *nonfinite_runs.trials(scale)]


def _unguarded(policy: Callable[[str, int], None]) -> Callable[[Path], None]:
    def do(folder: Path) -> None:
        from dlwp.training.nonfinite import Guard

        Guard.allows_step = lambda *_: True  # type: ignore[method-assign]
        policy("NaN pixel", 3)

    return do


def _without_buffers(folder: Path) -> None:
    nonfinite_runs.buffers_stay()
    _skip("NaN pixel", 3)


def _controls(scale: Scale) -> list[Trial]:
    return [
        Trial("no verdict, stop", _unguarded(_stop), breaks="does not name step"),
        Trial("no verdict, rollback", _unguarded(_rollback), breaks="not told"),
        Trial("batch statistics not put back", _without_buffers, breaks="norm.running_mean is not finite"),
        *nonfinite_runs.controls(scale),
    ]


PROMISES = [
    Promise(9, "nonfinite", "NaN is found before it reaches a weight, named, handled, never kept.", _trials, _controls)
]
