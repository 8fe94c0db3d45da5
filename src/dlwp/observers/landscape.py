"""Own what a run tells of an objective without data: the least value found, where, and the path to it as a picture.

Knows nothing of how steps are taken; the path is read from metrics.jsonl.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy
import torch

from dlwp.observers.plots import png
from dlwp.runs import files, history
from dlwp.runs.folder import RunFolder

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from dlwp.training.events import Ended

_GRID = 160
_MARGIN = 0.25
_LEVELS = 24
_SHOWN = 6


class Landscape:
    """Write objective.json, and plots/path.png of an objective of two numbers.

    Args:
        run: the folder.
    """

    watcher = True

    def __init__(self, run: RunFolder) -> None:
        self._run = run

    def on_end(self, event: Ended) -> None:
        """Tell of the parameters that the run ended with."""
        model: Any = event.trainer.model
        with torch.no_grad():
            value = float(model(torch.zeros(1)))
        found = {name: one.tolist() for name, one in model.values().items()}
        record = {"value": value, "step": event.step, "parameters": found}
        files.write_atomic(self._run.path / "objective.json", json.dumps(record, indent=1) + "\n")
        shown = [f"{name} {_shown(one)}" for name, one in list(found.items())[:_SHOWN]]
        event.trainer.say(f"least    {value:.6g} at {', '.join(shown)}, after {event.step:,} steps")
        own = dict(model.named_parameters())  # tied ones have no axis of their own
        if len(found) == len(own) == 2 and all(isinstance(one, float) for one in found.values()):
            records = history.read(self._run.metrics)
            path = {name: [*history.series(records, "train", name)[1], one] for name, one in found.items()}
            self._run.plots.mkdir(exist_ok=True)
            files.write_atomic(self._run.plots / "path.png", png(draw(model, path)))


def draw(model: Any, path: dict[str, list[float]]) -> Figure:
    """Return contours of an objective of two numbers, with the path of a run over them.

    Args:
        model: an `Objective`. path: name -> its value at each step, of both.
    """
    from matplotlib.figure import Figure

    (first, across), (second, up) = path.items()
    grids = []
    for values in (across, up):
        low, high = min(values), max(values)
        margin = _MARGIN * (high - low) or 1.0
        grids.append(numpy.linspace(low - margin, high + margin, _GRID))
    heights = _heights(model, first, second, grids)
    figure = Figure(figsize=(6.4, 5.2), layout="constrained")
    axes = figure.subplots()
    least = numpy.nanmin(heights)
    shown = numpy.log10(heights - least + 1e-6 * (numpy.nanmax(heights) - least))
    drawn = axes.contourf(*grids, shown, levels=_LEVELS, cmap="viridis_r")
    axes.contour(*grids, shown, levels=_LEVELS, colors="white", linewidths=0.3)
    axes.plot(across, up, "o-", color="#d1592b", ms=3, lw=1)
    axes.plot(across[0], up[0], "o", color="#222222", ms=6, label="begin")
    axes.plot(across[-1], up[-1], "*", color="#222222", ms=12, label="end")
    axes.set(xlabel=first, ylabel=second)
    axes.legend(loc="best", framealpha=0.9)
    figure.colorbar(drawn, ax=axes, label="log10 of the value above the least one shown")
    return figure


def _heights(model: Any, first: str, second: str, grids: list[numpy.ndarray]) -> numpy.ndarray:
    """Return the objective on a grid, (rows up, columns across); NaN where it is not finite."""
    keys = {name.rpartition(".")[2]: name for name, _ in model.named_parameters()}
    across, up = (torch.from_numpy(grid) for grid in grids)

    def value(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        given = {keys[first]: one, keys[second]: other}
        return torch.func.functional_call(model, given, (torch.zeros(1),))[0]

    with torch.no_grad():
        rows = torch.func.vmap(torch.func.vmap(value, (0, None)), (None, 0))(across, up)
    return rows.masked_fill(~rows.isfinite(), torch.nan).numpy()


def _shown(value: Any) -> str:
    return f"{value:.10g}" if isinstance(value, float) else f"[{', '.join(f'{one:.6g}' for one in value[:3])}, …]"
