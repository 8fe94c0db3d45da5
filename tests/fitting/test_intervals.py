"""Hold that 95% intervals of all kinds cover the truth in 95 of 100 fits, and what they are where it is certain."""

from __future__ import annotations

import numpy
import pytest
import torch
from nist import SMALL

from dlwp.fitting import batched, intervals
from dlwp.fitting.least_squares import LeastSquares
from dlwp.fitting.problem import Problem, of_model
from dlwp.fitting.solver import Solution, solve
from dlwp.fitting.statistics import Statistics, of_solution
from dlwp.models.expression import Expression


def fitted(problem: Problem, how: LeastSquares) -> tuple[Solution, Statistics]:
    """Return a fit and its statistics."""
    found = solve(problem, how)
    return found, of_solution(problem.names, found, how, problem.targets.flatten().numpy())


def straight(count: int = 12) -> Problem:
    """Return a line with noise: its profile is that of the t distribution."""
    draw = torch.Generator().manual_seed(3)
    x = torch.linspace(0, 1, count, dtype=torch.float64).unsqueeze(1)
    return of_model(Expression("a*x+b", ["x"], ["y"]), x, x + torch.randn(x.shape, generator=draw, dtype=torch.float64))


def test_the_profile_of_a_straight_line_is_its_standard_interval() -> None:
    problem = straight()
    how = LeastSquares(problem.model.parameters(), interval="profile")
    found, said = fitted(problem, how)
    assert intervals.profile(problem, how, found, said) == pytest.approx(
        said.intervals, abs=1e-5 * float(said.errors.max())
    )


def test_the_profile_is_where_the_sum_of_squares_has_grown_by_its_limit() -> None:
    problem = SMALL["BoxBOD"].problem(1)
    how = LeastSquares(problem.model.parameters(), interval="profile")
    found, said = fitted(problem, how)
    ends = intervals.profile(problem, how, found, said)
    lengths = numpy.abs(ends - found.point[:, None])
    assert (lengths[:, 1] > 1.1 * lengths[:, 0]).all()  # this formula bends: the upper side is the longer one
    limit = said.rss * (1 + intervals.quantile(said.freedom, how) ** 2 / said.freedom)
    held = intervals._Held(problem, 0, ends[0, 1])
    assert float((solve(held, how, start=found.point[1:]).residuals ** 2).sum()) == pytest.approx(limit, rel=1e-5)


def test_the_bootstrap_repeats_and_is_about_the_standard_interval_of_a_line() -> None:
    problem = straight(60)
    how = LeastSquares(problem.model.parameters(), interval="bootstrap", resamples=2000)
    found, said = fitted(problem, how)
    bounds, errors = intervals.bootstrap(problem, how, found, 0, said)
    again, _ = intervals.bootstrap(problem, how, found, 0, said)
    other, _ = intervals.bootstrap(problem, how, found, 1, said)
    assert (bounds == again).all() and (bounds != other).any()
    assert errors == pytest.approx(said.errors, rel=0.1)
    assert bounds == pytest.approx(said.intervals, abs=0.25 * float(errors.max()))


def test_intervals_cover_the_truth() -> None:
    truth, tries = numpy.array([3.0, 0.7, 1.0]), 1000
    draw = torch.Generator().manual_seed(7)
    x = torch.linspace(0, 4, 30, dtype=torch.float64).unsqueeze(1)
    model = Expression("a*exp(-k*x)+c", ["x"], ["y"], {"a": 3, "k": 0.7, "c": 1})
    exact = model(x).detach()
    noise = 0.1 * torch.randn(tries, 30, 1, generator=draw, dtype=torch.float64)
    ones, ends = torch.ones(tries, 30, dtype=torch.float64), torch.full((3,), torch.inf, dtype=torch.float64)
    start = torch.from_numpy(truth).expand(tries, 3)
    fits = batched.solve(model, x.expand(tries, 30, 1), exact + noise, ones, start, -ends, ends)
    inside = ((fits.points - torch.from_numpy(truth)).abs() < 2.0518 * fits.errors).numpy()  # t, 27 degrees
    assert (numpy.abs(inside.mean(0) - 0.95) < 0.02).all()
    for kind, count in (
        ("profile", 8),
        ("bootstrap", 60),
    ):  # where the standard one does
        problems = [of_model(model, x, exact + one) for one in noise[:count]]
        found = numpy.array([_covers(kind, problem, truth, seed) for seed, problem in enumerate(problems)])
        assert (found == inside[:count]).mean() > 0.9


def _covers(kind: str, problem: Problem, truth: numpy.ndarray, seed: int) -> numpy.ndarray:
    how = LeastSquares(problem.model.parameters(), interval=kind, resamples=300, tolerance=1e-10)
    found, said = fitted(problem, how)
    if kind == "profile":
        bounds = intervals.profile(problem, how, found, said)
    else:
        bounds, _ = intervals.bootstrap(problem, how, found, seed, said)
    return (bounds[:, 0] < truth) & (truth < bounds[:, 1])
