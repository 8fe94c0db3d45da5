"""Hold what a fit says of its parameters: where they have no error, how errors cover the truth, robust ones too."""

from __future__ import annotations

import math

import numpy
import pytest
import torch
from nist import SMALL

from dlwp.fitting.least_squares import LeastSquares
from dlwp.fitting.problem import Problem, of_model
from dlwp.fitting.solver import solve
from dlwp.fitting.statistics import Statistics, of_solution
from dlwp.models.expression import Expression


def fitted(problem: Problem, **options: object) -> Statistics:
    """Return the statistics of a fit."""
    how = LeastSquares(problem.model.parameters(), **options)  # type: ignore[arg-type]
    targets = (problem.targets / problem.sigma).flatten().numpy()
    return of_solution(problem.names, solve(problem, how), how, targets)


def noisy(formula: str, seed: int = 0, sigma: float = 0.1, count: int = 40, **parameters: object) -> Problem:
    """Return a problem whose truth is 3 exp(-0.7 x) + 1."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.linspace(0, 4, count, dtype=torch.float64)
    y = 3 * torch.exp(-0.7 * x) + 1 + sigma * torch.randn(count, generator=draw, dtype=torch.float64)
    inputs = torch.stack([x, torch.full_like(x, sigma)], 1)
    model = Expression(formula, ["x", "s"], ["y"], parameters)
    return of_model(model, inputs, y.unsqueeze(1), ["x", "s"], "s" if sigma != 1 else None)


def test_a_combination_alone_that_is_determined_is_said_and_has_no_error() -> None:
    said = fitted(noisy("a*exp(-k*x)*b + c"))
    assert said.refused == {
        "a": "only a combination with b is determined",
        "b": "only a combination with a is determined",
    }
    assert math.isinf(said.condition) or said.condition > 1e12
    assert math.isnan(said.errors[said.names.index("a")])


def test_a_parameter_without_effect_is_said() -> None:
    assert fitted(noisy("a*exp(-k*x) + c + 0*d")).refused == {"d": "it has no effect"}


def test_a_parameter_on_its_bound_has_no_error_and_the_others_have_theirs() -> None:
    said = fitted(noisy("a*exp(-k*x) + c", c={"init": 0.2, "max": 0.5}, k={"init": 1.0, "min": 0.0}))
    assert said.refused == {"c": "it lies on its bound"}
    assert numpy.isfinite(said.errors[[said.names.index("a"), said.names.index("k")]]).all()


def test_as_many_parameters_as_samples_leave_no_errors() -> None:
    said = fitted(noisy("a + b*x + c*x^2", count=3))
    assert set(said.refused) == {"a", "b", "c"}
    assert math.isnan(said.residual_sd)


def test_a_known_sigma_gives_errors_that_do_not_depend_on_the_residuals() -> None:
    first, second = (fitted(noisy("a*exp(-k*x) + c", seed), sigma="s", absolute_sigma=True) for seed in (0, 1))
    assert first.errors == pytest.approx(second.errors, rel=0.15)
    assert first.rss != pytest.approx(second.rss, rel=0.02)
    relative = fitted(noisy("a*exp(-k*x) + c"), sigma="s")
    assert relative.errors / first.errors == pytest.approx([math.sqrt(first.rss / first.freedom)] * 3, rel=1e-6)


def test_criteria_are_those_of_their_formulas() -> None:
    said = fitted(SMALL["Misra1a"].problem(1))
    base = 14 * math.log(said.rss / 14)
    assert said.aic == pytest.approx(base + 6) and said.bic == pytest.approx(base + 3 * math.log(14))
    assert said.residual_sd == pytest.approx(1.0187876330e-01, rel=1e-9)  # certified


def test_errors_of_a_robust_fit_cover_what_repeated_fits_spread() -> None:
    points, errors = [], []
    for seed in range(60):
        said = fitted(noisy("a*exp(-k*x) + c", seed), loss="huber", loss_scale=1.0)
        points.append(said.values)
        errors.append(said.errors)
    ratio = numpy.mean(errors, 0) / numpy.std(points, 0, ddof=1)
    assert (ratio > 0.75).all() and (ratio < 1.3).all()
