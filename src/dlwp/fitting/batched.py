"""Own many fits of one formula at once: groups of samples, each with parameters of its own.

Knows nothing of how groups are told apart, nor what is reported of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dlwp import devices

_FIRST_DAMPING = 1e-3
_LEAST_DAMPING, _MOST_DAMPING = 1e-14, 1e14
_MEMORY = 2**22
"""Numbers that the Jacobians of fits done at once may have."""


@dataclass
class Fits:
    """G fits.

    Attributes:
        points: parameters (G, P). errors: standard errors (G, P), NaN where there are none. rss: sums of squares (G,).
        counts: samples of each (G,). iterations: of the slowest. converged: bool (G,).
    """

    points: Tensor
    errors: Tensor
    rss: Tensor
    counts: Tensor
    iterations: int
    converged: Tensor


def solve(
    model: nn.Module, inputs: Tensor, targets: Tensor, weights: Tensor, start: Tensor,
    low: Tensor, high: Tensor, *, tolerance: float = 1e-12, max_iterations: int = 500,
) -> Fits:  # fmt: skip
    """Fit each group by Levenberg and Marquardt's method, all in step, those that have converged left out.

    Each group has a damping of its own (Nielsen's rule); a parameter beyond a bound is put on it.

    Args:
        model: gives (N, K) of inputs (N, D); its trained parameters are what is fitted, in their order.
        inputs, targets: (G, N, D), (G, N, K). weights: of the residuals, (G, N), 0 where a group has fewer samples.
        start: (G, P). low, high: bounds (P,). tolerance: relative change of cost or step that ends a fit.
        max_iterations: of each fit.

    Source:
        Madsen, Nielsen, Tingleff 2004, Methods for Non-Linear Least Squares Problems, 3.2.
    """
    many = max(1, _MEMORY // max(1, targets[0].numel() * start.shape[1]))
    pieces = zip(inputs.split(many), targets.split(many), weights.split(many), start.split(many), strict=True)
    parts = [
        _solve(model, some, wanted, weight, begin, low, high, tolerance, max_iterations)
        for some, wanted, weight, begin in pieces
    ]
    names = ("points", "errors", "rss", "counts", "converged")
    joined: dict[str, Any] = {name: torch.cat([getattr(one, name) for one in parts]) for name in names}
    return Fits(iterations=max(one.iterations for one in parts), **joined)


def _solve(
    model: nn.Module, inputs: Tensor, targets: Tensor, weights: Tensor, start: Tensor, low: Tensor, high: Tensor,
    tolerance: float, max_iterations: int,
) -> Fits:  # fmt: skip
    residuals, jacobians = _functions(model)
    points = start.clone().clamp(low, high)
    groups = len(points)
    damping, growth = (torch.full((groups,), one, dtype=torch.float64) for one in (_FIRST_DAMPING, 2.0))
    converged = torch.zeros(groups, dtype=torch.bool)
    active = torch.arange(groups)
    iteration = 0
    found = residuals(points, inputs, targets, weights)
    costs = _finite(found.square().sum(1))
    while len(active) and iteration < max_iterations:
        iteration += 1
        given = inputs[active], targets[active], weights[active]
        here, before = points[active], costs[active]
        slope = jacobians(here, *given)  # (A, R, P)
        gap = residuals(here, *given)  # (A, R)
        scale = slope.norm(dim=1).clamp_min(1e-300)  # (A, P)
        step = _step(slope, gap, scale, damping[active])
        beyond = (here + step).clamp(low, high)
        step = beyond - here
        cost = _finite(residuals(beyond, *given).square().sum(1))
        expected = gap.square().sum(1) - (gap + (slope @ step.unsqueeze(2)).squeeze(2)).square().sum(1)
        gain = (before - cost) / expected.clamp_min(1e-300)
        better = cost < before
        points[active] = torch.where(better.unsqueeze(1), beyond, here)
        costs[active] = torch.where(better, cost, before)
        shrink = (1 - (2 * gain - 1) ** 3).clamp(1 / 3, 1.0)
        damping[active] = torch.where(better, damping[active] * shrink, damping[active] * growth[active])
        growth[active] = torch.where(better, 2.0, 2 * growth[active])
        damping.clamp_(_LEAST_DAMPING, _MOST_DAMPING)
        small = ((step * scale).norm(dim=1) <= tolerance * ((here * scale).norm(dim=1) + tolerance)) | (
            better & (before - cost <= tolerance * before)
        )
        stuck = ~better & ((expected <= tolerance * before) | (damping[active] >= _MOST_DAMPING))
        done = (small | stuck) & cost.isfinite()
        converged[active[done]] = True
        active = active[~done]
    errors, counts = _errors(jacobians, points, costs, inputs, targets, weights)
    return Fits(points, errors, costs, counts, iteration, converged)


def _functions(model: nn.Module) -> tuple[Any, Any]:
    """Return the residuals (G, R) of points (G, P), and their Jacobians (G, R, P)."""
    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}

    def one(point: Tensor, inputs: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        parts, begin = dict[str, Tensor](), 0
        for name, value in trained.items():
            parts[name] = point[begin : begin + value.numel()].reshape(value.shape)
            begin += value.numel()
        outputs = torch.func.functional_call(model, parts, (inputs,))
        gaps = torch.where(weights.unsqueeze(1) > 0, outputs.reshape(targets.shape) - targets, 0.0)
        return (weights.unsqueeze(1) * gaps).flatten()

    every, slopes = torch.func.vmap(one), torch.func.vmap(torch.func.jacfwd(one))

    def jacobians(*arguments: Tensor) -> Tensor:
        with torch.no_grad(), devices.forward_mode():
            return slopes(*arguments).nan_to_num(0.0, 0.0, 0.0)

    def residuals(*arguments: Tensor) -> Tensor:
        with torch.no_grad():
            return every(*arguments)

    return residuals, jacobians


def _finite(costs: Tensor) -> Tensor:
    return costs.nan_to_num(torch.inf, torch.inf, torch.inf)


def _step(slope: Tensor, gap: Tensor, scale: Tensor, damping: Tensor) -> Tensor:
    """Return the steps (A, P) that minimise |J s + r|^2 + mu |D s|^2, D the lengths of the columns of J.

    By the normal equations of scaled columns, a tenth of the time of a factor of J: their rounding bends a step, not
    where the steps end.
    """
    scaled = slope / scale.unsqueeze(1)
    size = slope.shape[2]
    normal = scaled.transpose(1, 2) @ scaled
    normal.diagonal(dim1=1, dim2=2).add_(damping.unsqueeze(1) + size * 2.3e-16)
    right = -(scaled.transpose(1, 2) @ gap.nan_to_num(0.0, 0.0, 0.0).unsqueeze(2))
    return torch.linalg.solve_ex(normal, right)[0].squeeze(2).nan_to_num(0.0, 0.0, 0.0) / scale


def _errors(
    jacobians: Any, points: Tensor, costs: Tensor, inputs: Tensor, targets: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor]:
    """Return standard errors (G, P), NaN where J has not full rank, and the samples of each group."""
    slope = jacobians(points, inputs, targets, weights)
    counts = (weights > 0).sum(1)
    scale = slope.norm(dim=1)
    usable = (scale > 0).all(1)
    scale = torch.where(scale > 0, scale, 1.0)
    triangle = torch.linalg.qr(slope / scale.unsqueeze(1), mode="r").R
    size = points.shape[1]
    diagonal = triangle.diagonal(dim1=1, dim2=2).abs()
    limit = slope.shape[1] * torch.finfo(torch.float64).eps
    usable &= (diagonal > limit).all(1) if triangle.shape[1] == size else False
    freedom = counts * targets.shape[2] - size
    usable &= freedom > 0
    safe = torch.where(usable.view(-1, 1, 1), triangle, torch.eye(size, dtype=torch.float64))
    inverse = torch.linalg.solve_triangular(safe, torch.eye(size, dtype=torch.float64).expand_as(safe), upper=True)
    errors = (inverse.square().sum(2) * (costs / freedom.clamp_min(1)).unsqueeze(1)).sqrt() / scale
    return torch.where(usable.unsqueeze(1), errors, torch.nan), counts
