"""Hold a fit as a run: one command, its record and pictures, groups, weights, and the formula for elsewhere."""

from __future__ import annotations

import csv
import importlib.util
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from nist import SMALL

import dlwp
from dlwp.errors import ConfigError, RunError
from dlwp.training.events import Stop

QUIET = ["trainer.progress=false", "logger.tensorboard=false", "run_dir=run"]
FORMULA = "model.formula=b1*(1-exp(-b2*x))"
START = ["model.parameters.b1.init=500", "model.parameters.b2=0.0001"]


def write(name: str = "points.csv", **columns: Any) -> str:
    """Write columns as a CSV file and return its name."""
    with Path(name).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return name


def misra() -> str:
    """Write NIST's Misra1a as a table."""
    certified = SMALL["Misra1a"]
    return write(x=certified.inputs[:, 0].tolist(), y=certified.targets[:, 0].tolist())


def fit(*words: str) -> dict[str, Any]:
    """Fit by the command; return what fit.json holds."""
    run = dlwp.train("model=expression", "data=csv", "data.path=points.csv", "data.target=y", *QUIET, *words)
    assert run.exit == "done"
    return json.loads((run.folder / "fit.json").read_text())


def test_one_command_fits_a_formula_and_leaves_a_run(own_place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    misra()
    found = fit(FORMULA, *START)
    parameters = found["parameters"]
    assert parameters["b1"]["value"] == pytest.approx(2.3894212918e02, rel=1e-9)
    assert parameters["b2"]["standard_error"] == pytest.approx(7.2668688436e-06, rel=1e-9)
    assert parameters["b1"]["interval"] == pytest.approx([233.044, 244.840], abs=1e-3)
    assert found["converged"] and found["degrees_of_freedom"] == 12
    said = capsys.readouterr().out
    assert "b1 from 500" in said and "238.9  ± 2.7" in said
    run = Path("run")
    assert all((run / "plots" / name).stat().st_size > 5_000 for name in ("fit.png", "residuals.png"))
    losses = [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert len(losses) == found["iterations"] and losses[-1] < 1e-4 * losses[0]
    again = dlwp.train("resume=run")
    assert again.summary["exit"] == "done"


def test_a_run_predicts_and_its_formula_is_a_function_of_python(own_place: Path) -> None:
    misra()
    fit(FORMULA, *START)
    rows = dlwp.load("run")([{"x": 100.0}, {"x": 760.0}])
    path = dlwp.export("run", format="python")
    spec = importlib.util.spec_from_file_location("exported", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    expected = [238.94212918 * (1 - math.exp(-5.5015643181e-04 * x)) for x in (100.0, 760.0)]
    assert [module.predict(x=100.0), module.predict(x=760.0)] == pytest.approx(expected, rel=1e-9)
    assert [row["y"] for row in rows] == pytest.approx(expected, rel=1e-9)


def test_bounds_ties_and_fixed_parameters_are_typed(own_place: Path) -> None:
    x = [0.1 * number for number in range(40)]
    write(x=x, y=[2 * math.exp(-0.5 * one) + 1 + 0.01 * math.sin(40 * one) for one in x])
    words = ["model.formula=a*exp(-k*x)+c", "model.parameters.k.equals=a/4", "model.parameters.c.init=1"]
    found = fit(*words, "model.parameters.c.fixed=true", "model.parameters.a.min=0")
    assert found["parameters"].keys() == {"a"}
    assert found["parameters"]["a"]["value"] == pytest.approx(2, abs=0.01)
    assert found["fixed"] == {"c": 1.0} and found["tied"]["k"] == pytest.approx(0.5, abs=0.01)


def test_a_parameter_at_its_bound_is_refused_an_error(own_place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    misra()
    found = fit(
        FORMULA,
        *START,
        "model.parameters.b1.max=600",
        "model.parameters.b2.min=0.0006",
        "model.parameters.b2.init=0.001",
    )
    assert found["parameters"]["b2"]["refused"] == "it lies on its bound"
    assert found["parameters"]["b2"]["standard_error"] is None
    assert "no error: it lies on its bound" in capsys.readouterr().out


def test_a_column_of_sigma_weighs_the_samples(own_place: Path) -> None:
    x = [float(number) for number in range(10)]
    wild = [2 * one + (50 if one == 9 else 0.1 * (-1) ** int(one)) for one in x]
    write(x=x, y=wild, s=[0.1] * 9 + [1000.0])
    words = ["model.formula=a*x+b", "optimizer.sigma=s", "optimizer.absolute_sigma=true"]
    found = fit(*words)
    assert found["parameters"]["a"]["value"] == pytest.approx(2, abs=0.02)
    assert found["reduced_chi_square"] == pytest.approx(1, abs=0.5)


@pytest.mark.parametrize("kind", ["profile", "bootstrap"])
def test_other_intervals_are_had_by_a_key(kind: str, own_place: Path) -> None:
    misra()
    found = fit(FORMULA, *START, f"optimizer.interval={kind}", "optimizer.resamples=200")
    low, high = found["parameters"]["b1"]["interval"]
    assert found["interval"] == kind
    assert 231 < low < 237 and 241 < high < 247


def test_each_group_has_a_fit_of_its_own(own_place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [(group, 0.5 * number) for group in ("b", "a", "c") for number in range(8 if group == "a" else 10)]
    factor = {"a": 1.0, "b": 2.0, "c": 3.0}
    write(
        pixel=[group for group, _ in rows], x=[x for _, x in rows],
        y=[factor[group] * math.exp(-0.5 * x) + 1e-3 * math.sin(9 * x) for group, x in rows],
    )  # fmt: skip
    run = dlwp.train(
        "model=expression", "model.formula=a*exp(-k*x)", "data=csv", "data.path=points.csv", "data.target=y",
        "data.group=pixel", *QUIET,
    )  # fmt: skip
    table = list(csv.DictReader((run.folder / "fits.csv").read_text().splitlines()))
    assert [row["pixel"] for row in table] == ["a", "b", "c"]
    assert [int(row["samples"]) for row in table] == [8, 10, 10]
    assert [float(row["a"]) for row in table] == pytest.approx([1, 2, 3], abs=1e-2)
    assert all(row["converged"] == "true" and 0 < float(row["k_standard_error"]) < 0.01 for row in table)
    assert "3 of 3 fits converged" in capsys.readouterr().out


def test_differential_equations_are_fitted_to_what_was_measured(own_place: Path) -> None:
    times = torch.linspace(0, 5, 21, dtype=torch.float64)
    write(t=times.tolist(), y=(3 * torch.exp(-0.8 * times) + 1e-3 * torch.sin(30 * times)).tolist())
    found = fit("model.derivatives.y=-k*y", "model.time=t", "model.parameters.k=0.3")
    assert found["parameters"]["k"]["value"] == pytest.approx(0.8, abs=0.01)
    assert found["parameters"]["y_0"]["value"] == pytest.approx(3.0, abs=0.01)


class Stopper:
    """Ends a run at its third step, as a signal does."""

    def on_step(self, event: Any) -> Stop | None:
        return Stop("stopped:SIGTERM") if event.step == 3 else None


def test_a_fit_that_was_cut_is_that_which_was_not(own_place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    misra()
    whole = fit(FORMULA, *START)
    steps = Path("run/metrics.jsonl").read_text().splitlines()
    Path("run").rename("whole")
    words = [FORMULA, *START, "+callbacks.stopper._target_=test_fit.Stopper"]
    cut = dlwp.train("model=expression", "data=csv", "data.path=points.csv", "data.target=y", *QUIET, *words)
    assert cut.exit == "stopped:SIGTERM" and not Path("run/fit.json").exists()
    resumed = dlwp.train("resume=run", "~callbacks.stopper")
    assert resumed.exit == "done"
    assert json.loads(Path("run/fit.json").read_text()) == whole
    both = steps, Path("run/metrics.jsonl").read_text().splitlines()
    first, second = ([json.loads(line)["loss"] for line in lines] for lines in both)
    assert first == second
    assert dlwp.load("run")([{"x": 100.0}]) == dlwp.load("whole")([{"x": 100.0}])


@pytest.mark.parametrize(
    ("words", "error", "said"),
    [
        (["model.formula=b1*(1-exp(-b2*x)"], ConfigError, "is no formula"),
        (["model.formula=b1*z"], ConfigError, "has none of the columns"),
        (["model.formula=b1*x", "model.parameters.b2=1"], ConfigError, r"model\.parameters\.b2 is in no formula"),
        (["model.formula=b1*x", "optimizer.loss=hubber"], ConfigError, "optimizer.loss has no 'hubber'. Did you mean"),
        (["model.formula=b1*x", "optimizer.sigma=s"], ConfigError, r"optimizer\.sigma=s is no column"),
        (["model.formula=b1*x", "optimizer.absolute_sigma=true"], ConfigError, r"optimizer\.sigma=COLUMN"),
        (["model.formula=log(b1*x)", "model.parameters.b1=-1"], RunError, "not finite at the starting values b1=-1"),
        (["model.formula=b1*x", "trainer.precision=fp32"], ConfigError, r"trainer\.precision=fp64"),
        (
            [FORMULA, *START, "optimizer.max_iterations=2"],
            RunError,
            r"not converged after 2.*optimizer\.max_iterations",
        ),
    ],
)
def test_a_mistake_is_one_line(words: list[str], error: type[Exception], said: str, own_place: Path) -> None:
    misra()
    with pytest.raises(error, match=said):
        fit(*words)
