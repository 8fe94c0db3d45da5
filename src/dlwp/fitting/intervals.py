"""Own intervals of parameters that do not take the formula for a straight line: profile likelihood and bootstrap.

Knows nothing of how they are shown.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy
import torch
from scipy.optimize import brentq

from dlwp import randomness
from dlwp.fitting import batched
from dlwp.fitting.least_squares import LeastSquares
from dlwp.fitting.problem import Problem
from dlwp.fitting.solver import Solution, solve
from dlwp.fitting.statistics import LEVEL, Statistics, quantile

_TOLERANCE = 1e-9
_FURTHEST = 40
"""Doublings of the distance at which the end of an interval is looked for."""


@dataclass
class _Held:
    """A problem with one of its numbers held."""

    problem: Problem
    at: int
    value: float

    def __post_init__(self) -> None:
        self.low, self.high = numpy.delete(self.problem.low, self.at), numpy.delete(self.problem.high, self.at)
        self.names = [name for number, name in enumerate(self.problem.names) if number != self.at]

    def whole(self, point: numpy.ndarray) -> numpy.ndarray:
        return numpy.insert(point, self.at, self.value)

    def residuals(self, point: numpy.ndarray) -> numpy.ndarray:
        return self.problem.residuals(self.whole(point))

    def jacobian(self, point: numpy.ndarray) -> numpy.ndarray:
        return numpy.delete(self.problem.jacobian(self.whole(point)), self.at, axis=1)


def profile(problem: Problem, how: LeastSquares, found: Solution, statistics: Statistics) -> numpy.ndarray:
    """Return the 95% profile-likelihood intervals (P, 2): where the least sum of squares, with the parameter held, is
    rss (1 + F / (N - P)), F the squared quantile of t; infinite where it never gets there, and a bound where that is
    met first.

    Source:
        Bates, Watts 1988, Nonlinear Regression Analysis and Its Applications, 6.1.
    """
    limit = quantile(statistics.freedom, how) ** 2
    limit *= 1.0 if how.absolute_sigma else statistics.rss / statistics.freedom
    ends = numpy.full((len(problem.names), 2), numpy.nan)
    for at, error in enumerate(statistics.errors):
        if numpy.isfinite(error):
            ends[at] = [_end(problem, how, found, at, side * error, limit) for side in (-1.0, 1.0)]
    return ends


def _end(problem: Problem, how: LeastSquares, found: Solution, at: int, step: float, limit: float) -> float:
    best, near = found.point[at], [numpy.delete(found.point, at)]
    rss = float(found.residuals @ found.residuals)

    def excess(distance: float) -> float:
        held = _Held(problem, at, best + distance * step)
        if not len(held.low):
            residuals = held.residuals(numpy.empty(0))
            return float(residuals @ residuals) - rss - limit
        start = numpy.clip(near[0], held.low, held.high)
        if not numpy.isfinite(held.residuals(start)).all():
            return numpy.inf
        solution = solve(held, how, start=start, tolerance=_TOLERANCE)
        near[0] = solution.point
        return float(solution.residuals @ solution.residuals) - rss - limit

    bound = problem.low[at] if step < 0 else problem.high[at]
    most = (bound - best) / step if numpy.isfinite(bound) else numpy.inf
    before, distance = 0.0, 1.0
    for _ in range(_FURTHEST):
        distance = min(distance, most)
        if excess(distance) > 0:
            return best + step * float(brentq(excess, before, distance, xtol=1e-6, rtol=1e-9))
        if distance == most:
            return float(bound)
        before, distance = distance, 2 * distance
    return float(numpy.copysign(numpy.inf, step))


def bootstrap(
    problem: Problem, how: LeastSquares, found: Solution, seed: int, statistics: Statistics
) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Return 95% intervals (P, 2) and standard errors (P,) from fits to resampled residuals.

    Residuals are centred, multiplied by (N / (N - P))^0.5, drawn with replacement, added to the fitted outputs, and
    fitted anew; all fits go on at once. The interval is the studentised one, b - error · the quantiles of
    (b* - b) / error*, of a robust loss the basic one, 2 b - the quantiles of b*.

    Args:
        seed: of the run: resample b is a function of (seed, "bootstrap").

    Source:
        Davison, Hinkley 1997, Bootstrap Methods and Their Application, 6.2.3 and 5.2.1.
    """
    count = len(found.residuals)
    residuals = torch.from_numpy(found.residuals)
    residuals = (residuals - residuals.mean()) * (count / max(1, statistics.freedom)) ** 0.5
    generator = randomness.generator(seed, "bootstrap")
    drawn = torch.randint(count, (how.resamples, count), generator=generator)
    fitted = problem.outputs(found.point)
    noise = residuals[drawn].reshape(how.resamples, *fitted.shape) * problem.sigma
    points, errors = _refitted(problem, how, found, fitted + noise)
    scale = numpy.ones_like(found.point) if errors is None else statistics.errors
    low, high = numpy.nanquantile(
        (points - found.point) / (1.0 if errors is None else errors), [0.5 - LEVEL / 2, 0.5 + LEVEL / 2], axis=0
    )
    return numpy.stack([found.point - high * scale, found.point - low * scale], 1), points.std(axis=0, ddof=1)


def _refitted(
    problem: Problem, how: LeastSquares, found: Solution, targets: torch.Tensor
) -> tuple[numpy.ndarray, numpy.ndarray | None]:
    """Return the fits (B, P) to B sets of targets (B, N, K), from the solution on, and their standard errors."""
    start = torch.from_numpy(found.point)
    if how.loss == "linear" and getattr(problem.model, "system", None) is None:
        several: Any = (len(targets), -1, -1)
        fits = batched.solve(
            problem.model, problem.inputs.expand(*several), targets, (1 / problem.sigma[:, 0]).expand(len(targets), -1),
            start.expand(len(targets), -1), torch.from_numpy(problem.low), torch.from_numpy(problem.high),
        )  # fmt: skip
        return fits.points.numpy(), fits.errors.numpy()
    points = [solve(problem.replaced(one), how, start=found.point, tolerance=_TOLERANCE).point for one in targets]
    return numpy.stack(points), None
