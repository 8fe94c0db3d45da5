"""Hold objectives: formulas of parameters alone, made small by an optimizer of torch's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import dlwp
from dlwp.errors import ConfigError
from dlwp.models.objective import Objective

VALLEY = "(1-x)^2+100*(y-x^2)^2"
QUIET = ["trainer.progress=false", "logger.tensorboard=false"]


def test_the_value_is_that_of_the_formula() -> None:
    assert Objective(VALLEY, {"x": -1.2, "y": 1})(torch.zeros(1, 0)).item() == pytest.approx(24.2)


@pytest.mark.parametrize(
    ("formula", "parameters", "said"),
    [
        ("1+1", {}, "has no parameter"),
        ("x*2", {"x": {"shape": [3]}}, "gives 3 numbers; one is made small"),
        ("x^2", {"x": {"min": 0}}, "model.parameters.x has bounds"),
        ("log(x)", {"x": -1}, "is nan at the starting values"),
    ],
)
def test_what_cannot_be_minimised_is_one_line(formula: str, parameters: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Objective(formula, parameters)


def test_rosenbrocks_valley_is_followed_to_its_end_in_2_dimensions(own_place: Path) -> None:
    run = dlwp.train(f"objective={VALLEY}", "model.parameters.x=-1.2", "model.parameters.y=1", *QUIET)
    record = json.loads((run.folder / "objective.json").read_text())
    assert record["value"] < 1e-8
    assert record["parameters"] == pytest.approx({"x": 1.0, "y": 1.0}, abs=1e-4)
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert (lines[0]["x"], lines[0]["y"]) == (-1.2, 1.0)
    assert lines[0]["loss"] == pytest.approx(24.2)
    assert (run.folder / "plots" / "path.png").stat().st_size > 5_000


def test_rosenbrocks_valley_is_followed_to_its_end_in_100_dimensions(own_place: Path) -> None:
    formula = "sum((1-x[:-1])^2+100*(x[1:]-x[:-1]^2)^2)"
    words = ["model.parameters.x.shape=[100]", "model.parameters.x.init=-1", "trainer.epochs=7", "logger.plots=false"]
    run = dlwp.train(f"objective={formula}", *words, *QUIET)
    assert json.loads((run.folder / "objective.json").read_text())["value"] < 1e-8


def test_a_resumed_minimisation_is_that_which_was_not_cut(own_place: Path) -> None:
    words = [f"objective={VALLEY}", "model.parameters.x=-1.2", "data.batch_size=1", "logger.plots=false", *QUIET]
    whole = dlwp.train(*words, "trainer.max_steps=25", "run_dir=whole")
    dlwp.train(*words, "trainer.max_steps=10", "run_dir=cut")
    cut = dlwp.train("resume=cut", "trainer.max_steps=25")
    assert (whole.folder / "objective.json").read_text() == (cut.folder / "objective.json").read_text()


def test_lbfgs_trains_a_network_too(own_place: Path) -> None:
    words = ["data=digits", "model=linear", "optimizer=lbfgs", "data.batch_size=1438", "trainer.epochs=12"]
    run = dlwp.train(*words, "data.augment=null", "data.val_fraction=0.2", "logger.plots=false", *QUIET)
    assert run.summary["best"]["val/accuracy"] > 0.9


def test_lbfgs_and_pieces_do_not_go_together(own_place: Path) -> None:
    with pytest.raises(ConfigError, match=r"LBFGS evaluates the loss several times a step: trainer\.accumulate"):
        dlwp.train("data=digits", "model=linear", "optimizer=lbfgs", "trainer.accumulate=2")
