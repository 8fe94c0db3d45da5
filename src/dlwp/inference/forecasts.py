"""Own the pictures of forecasts: against the truth, their error by how far ahead, and beyond a table's end.

Knows nothing of runs, nor of files. Uses matplotlib's objects alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy
import torch

from dlwp.data import timeseries
from dlwp.data.datasets import Facts
from dlwp.inference.series import Forecast, in_units

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_INK, _FAINT, _BLUE, _RED = "#222222", "#9a9a9a", "#3b6fb6", "#d1592b"
_DPI = 130
_STRETCH = 14
"""Forecasts that are drawn side by side."""


def draw_evaluation(model: torch.nn.Module, loader: Any, dataset: Any, facts: Facts, split: str) -> Figure:
    """Return a figure: forecasts of the last stretch of a split against the truth, and RMSE by steps ahead.

    Args:
        loader: of the split, in order. dataset: the split, `SeriesWindows`.
    """
    from matplotlib.figure import Figure

    encoding: Any = facts.encoding
    horizon, period, name = encoding["horizon"], encoding["season"], encoding["targets"][0]
    found, truth = _forecasts(model, loader, facts)
    whole = in_units(dataset.targets.cpu().repeat(1, horizon), facts)[:, 0, 0].numpy()  # each row once
    ends = dataset.ends.cpu().numpy()[: len(found)]
    repeated = timeseries.naive(whole[:, None], numpy.maximum(ends, period - 1), horizon, period)[..., 0]
    figure = Figure(figsize=(10, 6.6), dpi=_DPI, layout="constrained")
    upper, lower = figure.subplots(2, 1, height_ratios=[2, 1])
    shown = list(range(len(found) - 1, -1, -horizon))[:_STRETCH][::-1]
    for number, at in enumerate(shown):
        places = numpy.arange(ends[at] + 1, ends[at] + 1 + horizon)
        for values, colour, width, label in (
            (repeated[at], _FAINT, 1.0, f"seasonal naive ({period} rows before)"),
            (truth[at], _INK, 1.4, "truth"),
            (found[at], _RED, 1.4, f"forecast, {horizon} rows each"),
        ):
            upper.plot(places, values, color=colour, linewidth=width, label=None if number else label)
        upper.axvline(places[0] - 0.5, color=_FAINT, linewidth=0.5, alpha=0.6)
    upper.set(xlabel="row", ylabel=name)
    upper.set_title(f"{split}: the last {len(shown)} forecasts side by side", loc="left")
    steps = numpy.arange(1, horizon + 1)
    for values, colour, label in ((repeated, _FAINT, "seasonal naive"), (found, _RED, "model")):
        lower.plot(steps, numpy.sqrt(((values - truth) ** 2).mean(0)), color=colour, label=label, marker=".")
    lower.set(xlabel="rows ahead", ylabel=f"rmse of {name}", ylim=(0, None))
    lower.set_title(f"error over all {len(found):,} windows", loc="left")
    for axes in (upper, lower):
        axes.legend(frameon=False, fontsize=9, loc="lower right", bbox_to_anchor=(1, 0.98), ncols=3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0.01)
    return figure


def _forecasts(model: torch.nn.Module, loader: Any, facts: Facts) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Return forecasts and truth of the first target, (n, H), in its unit."""
    pairs = []
    model.eval()
    with torch.inference_mode():
        for inputs, targets in loader.epoch():
            pairs.append([in_units(one.float().cpu(), facts)[..., 0].numpy() for one in (model(inputs), targets)])
    found, truth = (numpy.concatenate(parts) for parts in zip(*pairs, strict=True))
    return found, truth


def draw_ahead(found: Forecast) -> Figure:
    """Return a figure of the end of a table and the forecast behind it, a panel a target."""
    from matplotlib.figure import Figure

    count = len(found.targets)
    figure = Figure(figsize=(10, 1 + 3 * count), dpi=_DPI, layout="constrained")
    for number, axes in enumerate(figure.subplots(count, 1, squeeze=False).flat):
        past, ahead = found.past[:, number], found.values[:, number]
        axes.plot(numpy.arange(-len(past), 0), past, color=_INK, linewidth=1.4, label="the table")
        places = numpy.arange(-1, len(ahead))
        axes.plot(places, [past[-1], *ahead], color=_RED, linewidth=1.6, label="forecast")
        axes.axvline(-0.5, color=_FAINT, linewidth=0.8)
        axes.set(ylabel=found.targets[number], xlabel=f"rows; 0 is {found.times[0]}")
        axes.legend(frameon=False, fontsize=9, loc="lower right", bbox_to_anchor=(1, 0.98), ncols=3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0.01)
    return figure
