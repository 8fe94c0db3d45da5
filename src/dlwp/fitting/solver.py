"""Own the way from starting values to the least sum of squares.

Knows nothing of models: it gets residuals and Jacobian as functions of a vector.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy
from scipy.linalg import lstsq
from scipy.optimize import least_squares

from dlwp import devices
from dlwp.errors import RunError
from dlwp.fitting.least_squares import LeastSquares

_POLISHING = 20


@dataclass
class Solution:
    """Where a fit ended.

    Attributes:
        point: the parameters, (P,). residuals: (N,). jacobian: of these, (N, P), not changed by a robust loss.
        cost: half the sum of squares (or of what the loss makes of them). iterations: steps taken.
        converged: whether a tolerance was reached. message: how it ended, for a person.
        at_bound: which parameters lie on a bound, bool (P,).
    """

    point: numpy.ndarray
    residuals: numpy.ndarray
    jacobian: numpy.ndarray
    cost: float
    iterations: int
    converged: bool
    message: str
    at_bound: numpy.ndarray


def solve(
    problem: Any, how: LeastSquares, heard: Callable[[numpy.ndarray, float], None] | None = None,
    start: numpy.ndarray | None = None, tolerance: float | None = None,
) -> Solution:  # fmt: skip
    """Return the least squares solution from the model's present parameters, or from `start`; the model stays as it is.

    The Jacobian is exact, columns are scaled by its norms (More 1978); where no bound is met and the loss is linear,
    the last digits come from Gauss-Newton steps by an orthogonal factorisation, as long as each lowers the cost.

    Args:
        problem, how: what is made small (a `Problem`, or what has its `residuals`, `jacobian`, `low`, `high`), and how.
        heard: called with point and cost at each step. tolerance: where a coarser one than `how` has is enough.

    Raises:
        RunError: residuals are not finite at the starting values.
    """
    start = problem.start() if start is None else start
    start = numpy.clip(start, problem.low, problem.high)
    first = problem.residuals(start)
    if not numpy.isfinite(first).all():
        values = ", ".join(f"{name}={value:g}" for name, value in list(zip(problem.names, start))[:6])
        raise RunError(f"the formula is not finite at the starting values {values}. Others: model.parameters.NAME.init")
    steps, last = 0, (start, first)

    def jacobian(point: numpy.ndarray) -> numpy.ndarray:
        nonlocal steps
        steps += 1
        if not numpy.array_equal(last[0], point):
            residuals(point)
        if heard is not None:
            heard(point, _cost(last[1], how))
        return problem.jacobian(point)

    def residuals(point: numpy.ndarray) -> numpy.ndarray:
        nonlocal last
        found = problem.residuals(point)
        last = point.copy(), found
        return numpy.where(numpy.isfinite(found), found, 1e150)  # a step there is taken back

    tolerance = max(how.tolerance, tolerance or 0.0, 2.3e-16)
    with numpy.errstate(over="ignore", invalid="ignore"), devices.forward_mode():
        found = least_squares(
            residuals, start, jacobian, bounds=(problem.low, problem.high), method="trf", x_scale="jac",
            loss=how.loss, f_scale=how.loss_scale, ftol=tolerance, xtol=tolerance, gtol=tolerance,
            max_nfev=how.max_iterations,
        )  # fmt: skip
    at_bound = _at_bound(found.x, problem)
    point = found.x
    if how.loss == "linear" and tolerance == max(how.tolerance, 2.3e-16) and not at_bound.any():
        point = _polished(problem, point)
    final = problem.residuals(point)
    message = {0: f"not converged after {how.max_iterations:,} iterations", 1: "gradient", 2: "cost", 3: "step"}
    said = message.get(found.status, "cost and step")
    return Solution(point, final, problem.jacobian(point), _cost(final, how), steps, found.status > 0, said, at_bound)


def _cost(residuals: numpy.ndarray, how: LeastSquares) -> float:
    return float(0.5 * how.loss_scale**2 * rho(residuals, how)[0].sum())


def rho(residuals: numpy.ndarray, how: LeastSquares) -> tuple[numpy.ndarray, numpy.ndarray, numpy.ndarray]:
    """Return what the loss makes of squared residuals z = (r / scale)^2, and its first two derivatives by z, (N,)."""
    z = (residuals / how.loss_scale) ** 2
    one = numpy.ones_like(z)
    match how.loss:
        case "soft_l1":
            root = numpy.sqrt(1 + z)
            return 2 * (root - 1), 1 / root, -0.5 / root**3
        case "huber":
            far = z > 1
            root = numpy.sqrt(numpy.where(far, z, 1.0))
            return numpy.where(far, 2 * root - 1, z), 1 / root, numpy.where(far, -0.5 / root**3, 0.0)
        case "cauchy":
            return numpy.log1p(z), 1 / (1 + z), -1 / (1 + z) ** 2
        case "arctan":
            return numpy.arctan(z), 1 / (1 + z**2), -2 * z / (1 + z**2) ** 2
    return z, one, 0 * z


def _at_bound(point: numpy.ndarray, problem: Any) -> numpy.ndarray:
    """Return which parameters lie on a bound; an interior method ends a little beside it."""
    scale = numpy.maximum(numpy.abs(point), 1.0)
    return ((point - problem.low) <= 1e-7 * scale) | ((problem.high - point) <= 1e-7 * scale)


def _polished(problem: Any, point: numpy.ndarray) -> numpy.ndarray:
    """Return the point after Gauss-Newton steps, as long as each is less than half of the one before it."""
    residuals = problem.residuals(point)
    last: Any = numpy.inf
    for _ in range(_POLISHING):
        jacobian = problem.jacobian(point)
        scale = numpy.linalg.norm(jacobian, axis=0)
        if not numpy.isfinite(jacobian).all() or not (scale > 0).all():
            break
        step = lstsq(jacobian / scale, -residuals, lapack_driver="gelsy")[0] / scale
        length = numpy.linalg.norm(jacobian @ step)  # of the change of the residuals, whatever units parameters have
        further = point + step
        if not length < 0.5 * last or (further <= problem.low).any() or (further >= problem.high).any():
            break
        new = problem.residuals(further)
        # the cost cannot tell the last digits of a point: near the least it changes by less than its rounding
        if not numpy.isfinite(new).all() or not new @ new <= (residuals @ residuals) * (1 + 1e-12):
            break
        point, residuals, last = further, new, length
    return point
