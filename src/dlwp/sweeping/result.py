"""Own what a search came to: its best trial beside the default, the importance of its keys, and both as plots.

Knows nothing of how trials are chosen. Uses matplotlib's objects alone, so that no figure outlives its call.
"""

from __future__ import annotations

import math
import shlex
import warnings
from collections.abc import Mapping, Sequence
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
        job = Job(number, line["name"], line["words"], Path(line["folder"]))
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
        return []
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

    files.make_folders(folder / "plots")
    sign = 1 if jobs.read_plan(folder)["search"]["mode"] == "max" else -1
    paths = [folder / "plots" / "history.png"]
    files.write_atomic(paths[0], png(draw_history(found, best, monitor, sign)))
    if weights:
        paths.append(folder / "plots" / "importance.png")
        files.write_atomic(paths[1], png(draw_importance(weights, monitor)))
    return paths


def draw_history(found: Sequence[Trial], best: Trial, monitor: str, sign: int) -> Figure:
    """Draw the value of each trial over its number, the best so far, and the default.

    Args:
        found: trials. best: of them. monitor: what is measured. sign: 1 where more is better, else -1.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(7, 4), dpi=120, layout="constrained")
    axes = figure.subplots()
    whole, pruned = [one for one in found if not one.pruned], [one for one in found if one.pruned]
    if found[0].number == 0:
        label = f"default {table.quantity(monitor, found[0].value)}"
        axes.axhline(found[0].value, color=_DEFAULT, linewidth=1, linestyle="--", label=label)
    so_far, top = [], -math.inf
    for one in found:
        top = max(top, sign * one.value)
        so_far.append(sign * top)
    axes.step([one.number for one in found], so_far, where="post", color=_BEST, linewidth=1.2, label="best so far")
    axes.scatter([one.number for one in whole], [one.value for one in whole], color=_INK, s=22, label="trial", zorder=3)
    if pruned:
        numbers, values = [one.number for one in pruned], [one.value for one in pruned]
        axes.scatter(numbers, values, color=_PRUNED, marker="x", s=24, label="pruned, its best till then", zorder=2)
    label = f"trial {best.number}: {table.quantity(monitor, best.value)}"
    axes.scatter([best.number], [best.value], s=80, facecolors="none", edgecolors=_BEST, label=label, zorder=4)
    axes.set_xlabel("trial")
    axes.set_ylabel(monitor)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
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
    axes.set_xlim(0, min(1.1, 1.15 * max(weights.values())))
    axes.set_xlabel(f"share in the differences of {monitor} (fANOVA)")
    axes.spines[["top", "right"]].set_visible(False)
    return figure
