"""Own the pictures of a fit: the formula with its confidence band over the data, and the residuals.

Knows nothing of files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy
import torch
from scipy import stats

from dlwp.data.datasets import Facts
from dlwp.fitting.least_squares import LeastSquares
from dlwp.fitting.problem import Problem
from dlwp.fitting.solver import Solution
from dlwp.fitting.statistics import Statistics, band
from dlwp.observers.plots import png

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_POINT, _LINE, _ZERO = "#3b6fb6", "#d1592b", "#7a7a7a"
_MOST_POINTS = 5_000
_CURVE = 400


def draw(problem: Problem, found: Solution, said: Statistics, how: LeastSquares, facts: Facts) -> dict[str, bytes]:
    """Return the pictures as PNG by name: "residuals", and "fit" where one column explains one or more targets."""
    from matplotlib.figure import Figure

    pictures = {}
    used = list(getattr(problem.model, "used", [])) or list(facts.inputs or [])
    if len(used) == 1 and facts.inputs is not None:
        figure = Figure(figsize=(7, 4.5), layout="constrained")
        _draw_fit(figure.subplots(), problem, found, said, how, facts, used[0])
        pictures["fit"] = png(figure)
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    first, second = figure.subplots(1, 2)
    _draw_residuals(first, problem, found, facts, used)
    _draw_quantiles(second, found)
    pictures["residuals"] = png(figure)
    return pictures


def _draw_fit(
    axes: Axes, problem: Problem, found: Solution, said: Statistics, how: LeastSquares, facts: Facts, column: str
) -> None:
    assert facts.inputs is not None
    at = facts.inputs.index(column)
    values = problem.inputs[:, at].numpy()
    few = _some(len(values))
    grid = torch.linspace(float(values.min()), float(values.max()), _CURVE, dtype=torch.float64)
    rows = problem.inputs[:1].repeat(_CURVE, 1)
    rows[:, at] = grid
    curve = Problem(
        problem.model, rows, torch.zeros(_CURVE, problem.targets.shape[1], dtype=torch.float64),
        torch.ones(_CURVE, 1, dtype=torch.float64), problem.names, problem.low, problem.high,
    )  # fmt: skip
    outputs = curve.outputs(found.point).numpy()
    half = band(curve.jacobian(found.point), said, how).reshape(_CURVE, -1)
    names = facts.target_names or ["target"]
    for number, name in enumerate(names):
        colour = _POINT if len(names) == 1 else f"C{number}"
        line = _LINE if len(names) == 1 else colour
        axes.plot(values[few], problem.targets[few, number].numpy(), "o", ms=3.5, color=colour, alpha=0.7, label=name)
        axes.plot(grid, outputs[:, number], color=line, lw=1.6, label="fit" if len(names) == 1 else None)
        if numpy.isfinite(half).all():
            low, high = outputs[:, number] - half[:, number], outputs[:, number] + half[:, number]
            axes.fill_between(grid, low, high, color=line, alpha=0.22, lw=0, label="95% band" if number == 0 else None)
    left = getattr(problem.model, "left", [None])[0]
    axes.set(xlabel=column, ylabel=(left.text if left is not None else names[0]) if len(names) == 1 else "")
    axes.legend(frameon=False)


def _draw_residuals(axes: Axes, problem: Problem, found: Solution, facts: Facts, used: list[str]) -> None:
    residuals = -found.residuals.reshape(len(problem.inputs), -1)  # data - fit, as one draws them
    few = _some(len(residuals))
    if len(used) == 1 and facts.inputs is not None:
        across, label = problem.inputs[:, facts.inputs.index(used[0])].numpy(), used[0]
        places: Any = numpy.repeat(across[few, None], residuals.shape[1], 1)
    else:
        places, label = problem.outputs(found.point).numpy()[few], "fitted value"
    axes.axhline(0, color=_ZERO, lw=0.8)
    axes.plot(places.flatten(), residuals[few].flatten(), "o", ms=3.5, color=_POINT, alpha=0.7)
    axes.set(xlabel=label, ylabel="data - fit" if bool((problem.sigma == 1).all()) else "(data - fit) / sigma")


def _draw_quantiles(axes: Axes, found: Solution) -> None:
    ordered = numpy.sort(-found.residuals)
    expected = stats.norm.ppf((numpy.arange(len(ordered)) + 0.5) / len(ordered))
    spread = ordered.std() or 1.0
    few = _some(len(ordered))
    axes.plot(expected[few], ordered[few], "o", ms=3.5, color=_POINT, alpha=0.7)
    ends = numpy.array([expected[0], expected[-1]])
    axes.plot(ends, ordered.mean() + spread * ends, color=_LINE, lw=1.2)
    axes.set(xlabel="quantile of a normal distribution", ylabel="data - fit, in order")


def _some(count: int) -> numpy.ndarray:
    """Return which of `count` points are drawn: all, or some at equal distances."""
    return numpy.unique(numpy.linspace(0, count - 1, min(count, _MOST_POINTS)).astype(int))
