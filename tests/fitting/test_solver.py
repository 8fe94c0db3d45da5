"""Hold the solver to NIST's certified values, and robust losses, bounds and ends to what they promise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
import torch
from nist import SMALL, Certified, digits, read

from dlwp.errors import ConfigError, DataError, RunError
from dlwp.fitting.least_squares import LOSSES, LeastSquares
from dlwp.fitting.problem import Problem, of_model
from dlwp.fitting.solver import solve
from dlwp.fitting.statistics import of_solution
from dlwp.models.expression import Expression

NAMES = [
    "Bennett5",
    "BoxBOD",
    "Chwirut1",
    "Chwirut2",
    "DanWood",
    "ENSO",
    "Eckerle4",
    "Gauss1",
    "Gauss2",
    "Gauss3",
    "Hahn1",
    "Kirby2",
    "Lanczos1",
    "Lanczos2",
    "Lanczos3",
    "MGH09",
    "MGH10",
    "MGH17",
    "Misra1a",
    "Misra1b",
    "Misra1c",
    "Misra1d",
    "Nelson",
    "Rat42",
    "Rat43",
    "Roszman1",
    "Thurber",
]


def agreement(certified: Certified, start: int) -> tuple[float, float]:
    """Return the digits of the worst parameter and of the worst standard error."""
    problem = certified.problem(start)
    how = LeastSquares(problem.model.parameters())
    said = of_solution(problem.names, solve(problem, how), how, problem.targets.flatten().numpy())
    by_name = dict(zip(said.names, zip(said.values, said.errors), strict=True))
    found = [by_name[name] for name in certified.names]
    values = min(digits(one[0], value) for one, value in zip(found, certified.values, strict=True))
    return values, min(digits(one[1], error) for one, error in zip(found, certified.errors, strict=True))


@pytest.mark.parametrize("start", [0, 1])
@pytest.mark.parametrize("name", SMALL)
def test_small_certified_problems_are_solved_to_8_digits_from_both_starts(name: str, start: int) -> None:
    values, errors = agreement(SMALL[name], start)
    assert values > 8 and errors > 8


@pytest.mark.parametrize("start", [0, 1])
@pytest.mark.parametrize("name", NAMES)
def test_all_certified_problems_are_solved_to_6_digits(name: str, start: int, data_root: Callable[[str], Path]) -> None:
    path = data_root("nist_strd") / "nist_strd" / f"{name}.dat"
    values, errors = agreement(read(path.read_text()), start)
    assert values > 6
    assert errors > (6 if name != "Lanczos1" else 2)  # residuals of 1e-13: their standard deviation is rounding


def line(loss: str = "linear", **options: object) -> tuple[Problem, LeastSquares]:
    """Return a line y = 2 x + 1 with one wild point."""
    x = torch.linspace(0, 1, 21, dtype=torch.float64).unsqueeze(1)
    y = 2 * x + 1 + 0.01 * torch.sin(50 * x)
    y[10] += 100
    model = Expression("a*x+b", ["x"], ["y"], options)
    return of_model(model, x, y), LeastSquares(model.parameters(), loss=loss, loss_scale=0.1)


@pytest.mark.parametrize("loss", [one for one in LOSSES if one not in ("linear", "arctan")])
def test_a_robust_loss_does_not_follow_a_wild_point(loss: str) -> None:
    problem, how = line(loss)
    found = solve(problem, how)
    assert found.converged
    assert found.point == pytest.approx([2, 1], abs=0.05)
    problem, how = line()
    assert solve(problem, how).point[1] > 5


def test_a_bound_is_kept_and_told() -> None:
    problem, how = line(b={"init": 0.5, "max": 0.75}, a={"init": 1.0, "min": 0.0})
    found = solve(problem, how)
    assert found.point[problem.names.index("b")] == pytest.approx(0.75, abs=1e-6)
    assert found.at_bound.tolist() == [name == "b" for name in problem.names]


def test_each_step_is_told_with_its_cost() -> None:
    problem = SMALL["Misra1a"].problem(0)
    told: list[float] = []
    found = solve(problem, LeastSquares(problem.model.parameters()), lambda _, cost: told.append(cost))
    assert len(told) == found.iterations > 5
    assert told[0] > 100 * told[-1] and told[-1] == pytest.approx(found.cost)
    assert numpy.all(numpy.diff(told) <= 0)


def test_a_start_where_the_formula_is_not_finite_is_one_line() -> None:
    model = Expression("log(a*x)", ["x"], ["y"], {"a": -1.0})
    problem = of_model(model, torch.ones(3, 1), torch.zeros(3, 1))
    with pytest.raises(RunError, match=r"not finite at the starting values a=-1\. Others: model\.parameters"):
        solve(problem, LeastSquares(model.parameters()))


def test_what_cannot_be_fitted_is_one_line() -> None:
    x, y = torch.ones(3, 1), torch.zeros(3, 1)
    fixed = Expression("a*x", ["x"], ["y"], {"a": {"init": 1.0, "fixed": True}})
    with pytest.raises(ConfigError, match="nothing is left to fit"):
        of_model(fixed, x, y)
    model = Expression("log(y) = a*x", ["x"], ["y"])
    with pytest.raises(DataError, match=r"the left side of model\.formula is not finite at sample 0"):
        of_model(model, x, y)
    with pytest.raises(DataError, match=r"targets of sample 1 are not finite \(2 samples\)"):
        of_model(model, x, torch.tensor([[1.0], [torch.nan], [torch.inf]]))
    with pytest.raises(ConfigError, match=r"optimizer\.sigma=s is no column of the inputs\. There are: x"):
        of_model(Expression("a*x", ["x"], ["y"]), x, y, ["x"], "s")
    with pytest.raises(DataError, match="the standard deviation 'x' of sample 0 is 0"):
        of_model(Expression("a*x", ["x"], ["y"]), 0 * x, y, ["x"], "x")
    with pytest.raises(ConfigError, match=r"needs float64.*trainer\.precision=fp64"):
        of_model(torch.nn.Linear(1, 1), x, y)


def test_a_network_is_fitted_too() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(1, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1)).double()
    x = torch.linspace(-2, 2, 60, dtype=torch.float64).unsqueeze(1)
    problem = of_model(model, x, torch.sin(2 * x))
    found = solve(problem, LeastSquares(model.parameters(), max_iterations=200, tolerance=1e-8))
    assert found.cost < 0.01
