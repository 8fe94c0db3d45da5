"""Promise 13: no failure of a watcher stops or changes training; it is told once when it happens, and at the end."""

from __future__ import annotations

import errno
import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from torture.commands import outcome, succeed
from torture.kit import Broken, Promise, Scale, Trial, once, require, require_equal

FAULTS = ("raises", "SystemExit", "disk full", "rubbish")
HOOKS = (
    "on_start", "on_step", "on_log", "on_evaluation_step", "on_evaluation", "on_epoch", "on_settled", "on_end",
)  # fmt: skip
"""Those that a small training calls; `on_save`, `on_wait` and `on_left_out` go the same way."""
WORDS = ("data=synthetic", "data.num_train=60", "data.num_test=20", "data.shape=[6]", "model=mlp", "trainer.epochs=2")


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
        return {"stop": True}


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
    if fault == "rubbish":
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
    sys.modules["tensorboard.summary.writer.event_file_writer"] = None  # type: ignore[assignment]
    sys.modules["torch.utils.tensorboard"] = None  # type: ignore[assignment]
    sys.modules["matplotlib"] = None  # type: ignore[assignment]
    sys.modules["matplotlib.figure"] = None  # type: ignore[assignment]


def _cannot_be_imported(folder: Path) -> None:
    clean = once("watchers", lambda place: succeed(*WORDS, "run_dir=run", folder=place) and None) / "run"
    succeed(*WORDS, "run_dir=run", before=_no_import)
    require_equal(outcome(folder / "run"), outcome(clean), "without TensorBoard and matplotlib")
    warnings = json.loads((folder / "run" / "summary.json").read_text())["warnings"]
    require(len(warnings) >= 2, f"not told: {warnings}")


def _trials(scale: Scale) -> list[Trial]:
    return [Trial("hooks and faults", _all), Trial("cannot be imported", _cannot_be_imported)]


def _unguarded(folder: Path) -> None:
    from dlwp.training.dispatch import Dispatch

    Dispatch._failure = lambda self, part, hook, error, step: error  # type: ignore[method-assign]
    _hook("on_step", "raises")


def _controls(scale: Scale) -> list[Trial]:
    return [Trial("failures of watchers get out", _unguarded)]


PROMISES = [Promise(13, "watchers", "No failure of a watcher stops or changes training.", _trials, _controls)]
