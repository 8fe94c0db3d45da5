"""Own what a fit says of its parameters: errors, correlations, how well they are determined, how good it is.

Knows nothing of how the fit was found.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy
from scipy import stats

from dlwp.fitting.least_squares import LeastSquares
from dlwp.fitting.solver import Solution, rho

LEVEL = 0.95
"""Of all intervals."""
_UNDETERMINED = 0.05


@dataclass
class Statistics:
    """What N residuals say of P parameters.

    Attributes:
        names, values: of the parameters. errors: their standard errors, NaN where there is none; `refused` says why.
        intervals: (P, 2), 95% by Student's t distribution.
        correlations: (P, P), NaN where there is none.
        condition: of the Jacobian with columns of length 1: how much rounding and noise are magnified.
        freedom: degrees of freedom, N - P. rss: sum of squares, weighted by sigma. residual_sd: (rss / freedom)^0.5.
        aic, bic: N ln(rss / N) + 2 (P + 1), + ln N (P + 1); with an absolute sigma rss + 2 P, rss + ln N P.
        r2: 1 - rss / sum of squares around the mean, of the targets as they were fitted.
    """

    names: list[str]
    values: numpy.ndarray
    errors: numpy.ndarray
    intervals: numpy.ndarray
    correlations: numpy.ndarray
    covariance: numpy.ndarray
    condition: float
    num_residuals: int
    freedom: int
    rss: float
    residual_sd: float
    aic: float
    bic: float
    r2: float
    refused: dict[str, str]

    def record(self) -> dict[str, Any]:
        """Return it fit for JSON."""
        return {
            "residuals": self.num_residuals, "degrees_of_freedom": self.freedom, "residual_sum_of_squares": self.rss,
            "residual_standard_deviation": _finite(self.residual_sd),
            "reduced_chi_square": _finite(self.rss / self.freedom) if self.freedom > 0 else None,
            "aic": _finite(self.aic), "bic": _finite(self.bic), "r2": _finite(self.r2),
            "condition": _finite(self.condition),
            "correlations": [[_finite(one) for one in row] for row in self.correlations],
        }  # fmt: skip


def _finite(number: float) -> float | None:
    return float(number) if math.isfinite(number) else None


def of_solution(names: list[str], found: Solution, how: LeastSquares, targets: numpy.ndarray) -> Statistics:
    """Return the statistics of a fit.

    The covariance is s^2 (J'J)^-1 from the orthogonal factor of J with its columns scaled to length 1 (s = 1 where
    sigma is absolute); of a robust loss H^-1 (sum psi_i^2 J_i'J_i) H^-1, with psi and H the first and second
    derivative of the loss. A parameter on a bound, or one of which only a combination with others is determined, has
    no standard error.

    Args:
        names: of the P parameters. targets: as they were fitted, (N,), in units of sigma.

    Source:
        Seber, Wild 1989, Nonlinear Regression, 2.1; Huber 1967 (the robust covariance).
    """
    count, size = found.jacobian.shape
    rss = float(found.residuals @ found.residuals)
    freedom = count - size + int(found.at_bound.sum())
    free = ~found.at_bound
    refused = {names[at]: "it lies on its bound" for at in numpy.nonzero(found.at_bound)[0]}
    covariance, condition, loose = _covariance(found, how, free, freedom, rss)
    for at in loose:
        near = [names[other] for other in loose if other != at]
        refused[names[at]] = f"only a combination with {', '.join(near)} is determined" if near else "it has no effect"
    if freedom <= 0 and not how.absolute_sigma:
        refused |= dict.fromkeys(names, "there are no more samples than parameters")
    for name in refused:
        covariance[names.index(name), :] = covariance[:, names.index(name)] = numpy.nan
    with numpy.errstate(invalid="ignore", divide="ignore"):
        errors = numpy.sqrt(numpy.diag(covariance))
        correlations = covariance / numpy.outer(errors, errors)
    factor = quantile(freedom, how)
    intervals = numpy.stack([found.point - factor * errors, found.point + factor * errors], 1)
    spread = float(((targets - targets.mean()) ** 2).sum())
    aic, bic = _criteria(rss, count, size, how.absolute_sigma)
    return Statistics(
        names, found.point, errors, intervals, correlations, covariance, condition, count, freedom, rss,
        math.sqrt(rss / freedom) if freedom > 0 else math.nan, aic, bic,
        1 - rss / spread if spread > 0 else math.nan, refused,
    )  # fmt: skip


def quantile(freedom: int, how: LeastSquares) -> float:
    """Return how many standard errors half an interval is: of Student's t, of the normal where sigma is absolute."""
    if how.absolute_sigma:
        return float(stats.norm.ppf(0.5 + LEVEL / 2))
    return float(stats.t.ppf(0.5 + LEVEL / 2, freedom)) if freedom > 0 else math.nan


def _criteria(rss: float, count: int, size: int, is_absolute: bool) -> tuple[float, float]:
    if is_absolute:
        return rss + 2 * size, rss + math.log(count) * size
    base = count * math.log(rss / count) if rss > 0 else -math.inf
    return base + 2 * (size + 1), base + math.log(count) * (size + 1)


def _covariance(
    found: Solution, how: LeastSquares, free: numpy.ndarray, freedom: int, rss: float
) -> tuple[numpy.ndarray, float, list[int]]:
    """Return covariance (P, P), condition, and the parameters that are not determined."""
    size = len(free)
    covariance = numpy.full((size, size), numpy.nan)
    at = numpy.nonzero(free)[0]
    if not len(at):
        return covariance, math.nan, []
    _, first, second = rho(found.residuals, how)
    curvature = first + 2 * second * (found.residuals / how.loss_scale) ** 2  # of the loss, by the residual
    jacobian = found.jacobian[:, at]
    scale = numpy.linalg.norm(jacobian, axis=0)
    scale = numpy.where(scale > 0, scale, 1.0)
    scaled = jacobian / scale
    singular, right = numpy.linalg.svd(scaled, full_matrices=False)[1:]
    limit = max(scaled.shape) * numpy.finfo(float).eps * singular[0]
    condition = float(singular[0] / singular[-1]) if singular[-1] > 0 else math.inf
    null = right[singular <= limit]
    if len(null) or len(singular) < len(at):
        loose = [int(at[one]) for one in numpy.nonzero((numpy.abs(null) > _UNDETERMINED).any(0))[0]]
        return covariance, condition, loose or [int(one) for one in at]
    if how.loss == "linear":
        factor = numpy.linalg.qr(scaled, mode="r")
        inverse = numpy.linalg.solve(factor, numpy.eye(len(at)))
        inner = inverse @ inverse.T
        inner *= 1.0 if how.absolute_sigma else rss / freedom if freedom > 0 else math.nan
    else:
        hessian = scaled.T @ (curvature[:, None] * scaled)
        slope = first * found.residuals
        inverse = numpy.linalg.pinv(hessian)
        inner = inverse @ (scaled.T @ (slope[:, None] ** 2 * scaled)) @ inverse
        inner *= len(slope) / freedom if freedom > 0 else math.nan
    covariance[numpy.ix_(at, at)] = inner / numpy.outer(scale, scale)
    return covariance, condition, []


def band(jacobian: numpy.ndarray, statistics: Statistics, how: LeastSquares) -> numpy.ndarray:
    """Return half the width of the 95% confidence band of outputs whose derivatives (N, P) these are, (N,)."""
    known = numpy.isfinite(statistics.errors)
    part = statistics.covariance[numpy.ix_(known, known)]
    variance = numpy.einsum("np,pq,nq->n", jacobian[:, known], part, jacobian[:, known])
    return quantile(statistics.freedom, how) * numpy.sqrt(numpy.maximum(variance, 0.0))
