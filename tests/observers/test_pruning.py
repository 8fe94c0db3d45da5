"""A run of a search tells each evaluation under its number, and stops where it is told to."""

from __future__ import annotations

import math
from typing import Any

import pytest

from dlwp.errors import ConfigError
from dlwp.observers.pruning import Pruning


def test_each_evaluation_is_told_once_under_its_number_and_the_run_stops_when_told_to(
    make_trainer: Any, batches: Any
) -> None:
    told: list[tuple[int, float]] = []

    def report(number: int, value: float) -> bool:
        told.append((number, value))
        return number == 4

    trainer = make_trainer([Pruning(report, "val/accuracy", "max")], eval_every="3 steps")
    outcome = trainer.fit(*batches)
    assert outcome.exit == "pruned"
    assert [number for number, _ in told] == [1, 2, 3, 4]
    assert outcome.step == 12
    assert told[-1][1] == outcome.values["accuracy"]


def test_the_last_evaluation_has_a_number_where_the_run_ends_between_two(make_trainer: Any, batches: Any) -> None:
    numbers: list[int] = []
    pruning = Pruning(lambda number, value: bool(numbers.append(number)), "val/loss", "min")
    trainer = make_trainer([pruning], epochs=1, eval_every="3 steps", monitor="val/loss", monitor_mode="min")
    assert trainer.fit(*batches).exit == "done"
    assert numbers == [1, 2, 3]  # steps 3, 6 and 7


def test_a_value_that_is_not_finite_is_told_as_the_worst(make_trainer: Any, batches: Any) -> None:
    told: list[float] = []
    pruning = Pruning(lambda number, value: bool(told.append(value)), "val/loss", "min")
    trainer = make_trainer([pruning], epochs=1, monitor="val/loss", monitor_mode="min")
    trainer.criterion.forward = lambda outputs, targets: outputs.sum() * math.nan
    trainer.guard.read_verdict = lambda: None
    trainer.guard.allows_step = lambda *args: True
    trainer.fit(*batches)
    assert told == [math.inf]


def test_a_run_that_is_judged_otherwise_than_its_search_is_refused(make_trainer: Any, batches: Any) -> None:
    trainer = make_trainer([Pruning(lambda number, value: False, "val/loss", "min")])
    with pytest.raises(
        ConfigError,
        match=r"judged by val/accuracy, its search by val/loss\. Say it for all: trainer\.monitor=val/accuracy",
    ):
        trainer.fit(*batches)
    trainer = make_trainer([Pruning(lambda number, value: False, "val/accuracy", "min")])
    with pytest.raises(ConfigError, match=r"as its max, its search as its min\. Say it: trainer\.monitor_mode=max"):
        trainer.fit(*batches)
