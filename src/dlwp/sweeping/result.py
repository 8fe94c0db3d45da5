"""Own what a search came to: its best trial beside the default, the importance of its keys, and both as plots.

Knows nothing of how trials are chosen. Uses matplotlib's objects alone, so that no figure outlives its call.
"""

from __future__ import annotations

import itertools
import math
import shlex
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlwp.config import check
from dlwp.runs import files, table
from dlwp.runs.folder import RunFolder
from dlwp.sweeping import jobs, search
from dlwp.sweeping.jobs import Job
from dlwp.sweeping.space import Dimension

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_FEWEST = 5
"""Whole trials from which the importance of keys is told."""
_INK, _BEST, _PRUNED, _DEFAULT = "#3b6fb6", "#d1592b", "#b0b0b0", "#3d8c53"


@dataclass(frozen=True)
class Trial:
    """One trial: its number, the best value it reached (NaN: none), whether it was pruned, and its job."""

    number: int
    value: float
    pruned: bool
    job: Job


def trials(folder: Path) -> list[Trial]:
    """Return the trials of a search that have ended with a value, in their order."""
    begun = {line["number"]: line for line in jobs.records(folder)}
    found = []
    for number, line in sorted(begun.items()):
        job = jobs.recorded(folder, line)
        if job.is_finished and math.isfinite(job.best):
            pruned = RunFolder(job.place).read_summary().get("exit") == "pruned"
            found.append(Trial(number, job.best, pruned, job))
    return found


def lines(folder: Path) -> list[str]:
    """Draw the plots of a search, and return what to say of it, a line each."""
    plan = jobs.read_plan(folder)["search"]
    monitor, sign = plan["monitor"], 1 if plan["mode"] == "max" else -1
    found = trials(folder)
    if not found:
        is_blind = any(end["exit_code"] == 0 for end in jobs.ends(folder).values())
        return [f"best     none: no trial has a {monitor}. data.val_fraction=0.1"] if is_blind else []
    best = max(found, key=lambda trial: (sign * trial.value, -trial.number))
    default = next((trial for trial in found if trial.number == 0), None)
    pruned = sum(trial.pruned for trial in found)
    counts = f"{len(found)} trials" + (f", {pruned} of them pruned" if pruned else "")
    said = [f"best     trial {best.number} of {counts}: {monitor} {table.quantity(monitor, best.value)}"]
    if default is not None and best.number:
        by = table.quantity(monitor, abs(best.value - default.value)).replace("%", " points")
        said[0] += f" · default (trial 0) {table.quantity(monitor, default.value)}: better by {by}"
    elif best.number == 0:
        said[0] += " · that is the default: nothing better was found"
    said += _on_test(best, default, monitor)
    weights = importance(folder)
    if weights:
        said.append(
            "keys     " + " · ".join(f"{key} {share:.0%}" for key, share in weights.items()) + " of the differences"
        )
    said.append(f"plots    {', '.join(str(path) for path in _draw(folder, found, best, monitor, weights))}")
    typed = jobs.read_plan(folder)
    said.append(f"again    {command(best.job, typed)}")
    return said


def command(job: Job, plan: Mapping[str, Any]) -> str:
    """Return the command that runs a job again as a run of its own."""
    options = ["--config-dir", plan["config_dir"]] if plan.get("config_dir") else []
    options += ["-cn", plan["config_name"]] if plan.get("config_name", "train") != "train" else []
    words = [word.removeprefix("++") for word in job.words if check.split(word)[1] != "run_dir"]
    return shlex.join(["dlwp-train", *options, *words])


def _on_test(best: Trial, default: Trial | None, monitor: str) -> list[str]:
    """Return a line on the test split, which the search has not seen: the best of many flatters on the split it saw."""
    name = monitor.removeprefix("val/")
    values = []
    for trial in (best, default):
        value = (RunFolder(trial.job.place).read_summary().get("test") or {}).get(name) if trial else None
        values.append(None if value is None else table.quantity(name, value))
    if values[0] is None:
        return []
    text = f"test     trial {best.number}: {name} {values[0]}"
    return [text + (f" · default {values[1]}" if best.number and values[1] is not None else "")]


def importance(folder: Path) -> dict[str, float]:
    """Return the share of each key in the differences of the values, the largest first; {} where too little is known.

    Source: Hutter, Hoos, Leyton-Brown, An Efficient Approach for Assessing Hyperparameter Importance (fANOVA), 2014,
    as Optuna has it; of the trials that ran to their end.
    """
    import optuna

    plan = jobs.read_plan(folder)["search"]
    space = [Dimension(**values) for values in plan["space"]]
    study, _ = search.study_of(folder)
    whole = [trial for trial in study.get_trials(deepcopy=False) if trial.state == optuna.trial.TrialState.COMPLETE]
    varying = [one.key for one in space if len({trial.params[one.key] for trial in whole}) > 1]
    if len(whole) < _FEWEST or len({trial.value for trial in whole}) < 2 or not varying:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the state of Optuna's own parts
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        found = optuna.importance.get_param_importances(study, evaluator=evaluator, params=varying)
    return dict(sorted(found.items(), key=lambda pair: -pair[1]))


def _draw(folder: Path, found: Sequence[Trial], best: Trial, monitor: str, weights: dict[str, float]) -> list[Path]:
    from dlwp.observers.plots import png

    plan = jobs.read_plan(folder)["search"]
    space = [Dimension(**values) for values in plan["space"]]
    params = {trial.number: trial.params for trial in search.study_of(folder)[0].get_trials(deepcopy=False)}
    figures = {"history": draw_history(found, best, monitor, 1 if plan["mode"] == "max" else -1)}
    if any(params.get(trial.number) for trial in found):
        figures["keys"] = draw_keys(found, params, space, monitor, 1 if plan["mode"] == "max" else -1)
    if weights:
        figures["importance"] = draw_importance(weights, monitor)
    files.make_folders(folder / "plots")
    paths = [folder / "plots" / f"{name}.png" for name in figures]
    for path, figure in zip(paths, figures.values()):
        files.write_atomic(path, png(figure))
    return paths


def _scale(axes: Axes, values: Sequence[float], monitor: str, sign: int) -> Callable[[float], float]:
    """Let an axis show the better half of the values, and return where a value is drawn: worse ones at its edge."""
    from matplotlib.ticker import FuncFormatter

    ordered = sorted(sign * value for value in values)
    top, floor = ordered[-1], ordered[len(ordered) // 2]
    room = 0.08 * (top - floor) or 0.05 * abs(top) or 1.0
    low, high = floor - room, top + room
    axes.set_ylim(*sorted((sign * low, sign * high)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: table.quantity(monitor, value)))
    axes.spines[["top", "right"]].set_visible(False)
    return lambda value: sign * max(sign * value, low + room / 4)


def _points(axes: Axes, found: Sequence[Trial], across: Sequence[float], place: Callable[[float], float]) -> None:
    """Draw trials, each as what it is: whole, pruned, or worse than the axis shows."""
    kinds = {"trial": (_INK, "o"), "pruned (its best till then)": (_PRUNED, "x"), "worse than shown": (_PRUNED, "v")}
    points: dict[str, list[tuple[float, float]]] = {kind: [] for kind in kinds}
    for one, x in zip(found, across):
        whole = "pruned (its best till then)" if one.pruned else "trial"
        points[whole if place(one.value) == one.value else "worse than shown"].append((x, place(one.value)))
    for kind, (colour, marker) in kinds.items():
        if points[kind]:
            xs, ys = zip(*points[kind])
            axes.scatter(xs, ys, color=colour, marker=marker, s=24, label=kind, zorder=3)


def draw_history(found: Sequence[Trial], best: Trial, monitor: str, sign: int) -> Figure:
    """Draw the value of each trial over its number, the best so far, and the default.

    Args:
        found: trials. best: of them. monitor: what is measured. sign: 1 where more is better, else -1.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(7, 4), dpi=120, layout="constrained")
    axes = figure.subplots()
    place = _scale(axes, [one.value for one in found], monitor, sign)
    numbers = [one.number for one in found]
    if found[0].number == 0:
        label = f"default {table.quantity(monitor, found[0].value)}"
        axes.axhline(place(found[0].value), color=_DEFAULT, linewidth=1, linestyle="--", label=label)
    so_far = itertools.accumulate((sign * one.value for one in found), max)
    axes.step(
        numbers, [place(sign * one) for one in so_far], where="post", color=_BEST, linewidth=1.2, label="best so far"
    )
    _points(axes, found, numbers, place)
    label = f"trial {best.number}: {table.quantity(monitor, best.value)}"
    axes.scatter([best.number], [best.value], s=80, facecolors="none", edgecolors=_BEST, label=label, zorder=4)
    axes.set_xlabel("trial")
    axes.set_ylabel(monitor)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(frameon=False, fontsize=8, loc="outside upper center", ncols=4)
    return figure


def draw_keys(
    found: Sequence[Trial], params: Mapping[int, Mapping[str, Any]], space: Sequence[Dimension], monitor: str, sign: int
) -> Figure:
    """Draw the value of each trial over each key's value, a panel a key.

    Args:
        found: trials. params: number -> key -> value. space: the keys. monitor: what is measured.
        sign: 1 where more is better, else -1.
    """
    from matplotlib.figure import Figure

    columns = min(3, len(space))
    rows = math.ceil(len(space) / columns)
    figure = Figure(figsize=(0.6 + 3.2 * columns, 2.8 * rows + 0.3), dpi=120, layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    for axes, one in zip(panels, space):
        known = [trial for trial in found if one.key in params.get(trial.number, {})]
        place = _scale(axes, [trial.value for trial in found], monitor, sign)
        across = [params[trial.number][one.key] for trial in known]
        if one.kind == "choice":
            axes.set_xticks(range(len(one.choices)), one.choices)
            axes.set_xlim(-0.5, len(one.choices) - 0.5)
            across = [one.choices.index(value) for value in across]
        elif one.log:
            axes.set_xscale("log")
        _points(axes, known, across, place)
        axes.set_xlabel(one.key)
    for axes in panels[len(space) :]:
        axes.set_visible(False)
    panels[0].set_ylabel(monitor)
    labels = {label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels())}
    figure.legend(list(labels.values()), list(labels), frameon=False, fontsize=8, loc="outside upper center", ncols=3)
    return figure


def draw_importance(weights: Mapping[str, float], monitor: str) -> Figure:
    """Draw the share of each key in the differences of the values.

    Args:
        weights: key -> share, the largest first. monitor: what is measured.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 1.2 + 0.4 * len(weights)), dpi=120, layout="constrained")
    axes = figure.subplots()
    bars = axes.barh(list(weights), list(weights.values()), color=_INK, height=0.6)
    axes.bar_label(bars, [f"{share:.0%}" for share in weights.values()], padding=4, fontsize=9)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.12 * max(weights.values()))
    axes.set_xticks([])
    axes.set_xlabel(f"share in the differences of {monitor} (fANOVA)")
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    return figure
