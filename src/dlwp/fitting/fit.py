"""Own a fit from the data to its record: one of all samples, or one for each group of them.

Knows nothing of configs or of who hears the run.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import itertools
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor

from dlwp.data.datasets import ArrayDataset, Facts, Splits
from dlwp.errors import ConfigError, RunError
from dlwp.fitting import batched, intervals, statistics
from dlwp.fitting.least_squares import LeastSquares
from dlwp.fitting.problem import Problem, of_model
from dlwp.fitting.solver import Solution, solve
from dlwp.fitting.words import lines_of
from dlwp.models.expression import Expression
from dlwp.runs import files
from dlwp.training.events import Outcome
from dlwp.training.trainer import Trainer

Say = Callable[[str, Sequence[str]], None]
"""(name, lines): prints lines with a name before the first."""


def fit(trainer: Trainer, data: Splits, loaders: dict[str, Any], folder: Path, seed: int, say: Say) -> Outcome:
    """Fit the trainer's model to the training split by its `LeastSquares`; write fit.json, or fits.csv, and plots.

    Args:
        trainer: its observers hear of each step. data, loaders: of the run. folder: of the run. seed: of resamples.
        say: prints what was found.

    Raises:
        ConfigError, DataError, RunError: the problem cannot be posed or solved.
    """
    how = trainer.optimizer
    assert isinstance(how, LeastSquares)
    trainer.settings = dataclasses.replace(trainer.settings, epochs=how.max_iterations, max_steps=None)  # each a step
    problem = _posed(trainer, data, loaders["train"], how)
    group = (data.facts.encoding or {}).get("group")
    if group is not None:
        return _groups(trainer, problem, data.facts, loaders, how, group, folder, say)
    found: list[Solution] = []
    told = trainer.state.progress.step  # before a cut: from the same start the same steps are taken again
    if told and isinstance(trainer.model, Expression):
        trainer.model.parameters_.restart()

    def solver(tell: Callable[[float], None]) -> None:
        taken = itertools.count(1)

        def heard(_: numpy.ndarray, cost: float) -> None:
            if next(taken) > told:
                tell(2 * cost / problem.num_residuals)

        found.append(solve(problem, how, heard))
        problem.put(found[0].point)

    outcome = trainer.follow(loaders["train"], loaders.get("val"), solver)
    if outcome.exit == "done":
        _report(problem, found[0], data.facts, how, folder, seed, say)
    return outcome


def _posed(trainer: Trainer, data: Splits, loader: Any, how: LeastSquares) -> Problem:
    if data.facts.task != "regression":
        raise ConfigError(f"least squares fits numbers, the data's task is {data.facts.task}. trainer=default")
    if not isinstance(data.train, ArrayDataset) or loader.transform.ops:
        reason = "data.augment changes them" if isinstance(data.train, ArrayDataset) else "they come one by one"
        raise ConfigError(f"least squares needs all samples as they are, but {reason}. data.augment=null, data=csv")
    inputs, targets = loader.transform(data.train.inputs, data.train.targets)
    return of_model(trainer.model, inputs, targets, data.facts.inputs, how.sigma)


# ---- one fit --------------------------------------------------------------------------------------------------------


def _report(
    problem: Problem, found: Solution, facts: Facts, how: LeastSquares, folder: Path, seed: int, say: Say
) -> None:
    targets = (problem.targets / problem.sigma).flatten().numpy()
    said = statistics.of_solution(problem.names, found, how, targets)
    bounds, errors = said.intervals, said.errors
    if how.interval == "profile" and said.freedom > 0:
        bounds = intervals.profile(problem, how, found, said)
    elif how.interval == "bootstrap" and said.freedom > 0:
        bounds, errors = intervals.bootstrap(problem, how, found, seed, said)
    record = _record(problem, found, said, bounds, errors, how)
    files.write_atomic(folder / "fit.json", json.dumps(record, indent=1) + "\n")
    say("fit", lines_of(record))
    if not found.converged:
        raise RunError(f"the fit has {found.message}. optimizer.max_iterations, or other model.parameters.NAME.init")
    from dlwp.fitting import figures

    (folder / "plots").mkdir(exist_ok=True)
    for name, picture in figures.draw(problem, found, said, how, facts).items():
        files.write_atomic(folder / "plots" / f"{name}.png", picture)


def _record(
    problem: Problem, found: Solution, said: statistics.Statistics, bounds: numpy.ndarray, errors: numpy.ndarray,
    how: LeastSquares,
) -> dict[str, Any]:  # fmt: skip
    parameters: dict[str, Any] = {}
    for at, name in enumerate(said.names):
        parameters[name] = {
            "value": float(said.values[at]),
            "standard_error": _known(errors[at]) if name not in said.refused else None,
            "interval": [_known(one) for one in bounds[at]] if name not in said.refused else None,
        }
        if name in said.refused:
            parameters[name]["refused"] = said.refused[name]
    fixed, tied = _others(problem)
    return {
        "parameters": parameters, "fixed": fixed, "tied": tied, "converged": found.converged, "ended_by": found.message,
        "iterations": found.iterations, "loss": how.loss, "interval": how.interval, **said.record(),
    }  # fmt: skip


def _others(problem: Problem) -> tuple[dict[str, float], dict[str, float]]:
    """Return the values of what is fixed, and of what is tied to others."""
    parameters = getattr(problem.model, "parameters_", None)
    if parameters is None:
        return {}, {}
    with torch.no_grad():
        values = {name: value for name, value in parameters().items() if value.dim() == 0}
    specified = parameters.specified
    fixed = {name: float(value) for name, value in values.items() if specified[name].fixed}
    return fixed, {name: float(value) for name, value in values.items() if specified[name].equals is not None}


def _known(number: float) -> float | None:
    return float(number) if math.isfinite(number) else None


# ---- a fit for each group -------------------------------------------------------------------------------------------


def _groups(
    trainer: Trainer, problem: Problem, facts: Facts, loaders: dict[str, Any], how: LeastSquares, group: str,
    folder: Path, say: Say,
) -> Outcome:  # fmt: skip
    if getattr(problem.model, "system", None) is not None:
        raise ConfigError("data.group fits formulas; differential equations are fitted one set at a time")
    if how.loss != "linear" or how.interval != "standard":
        raise ConfigError("data.group fits many at once, with optimizer.loss=linear and optimizer.interval=standard")
    values, places = torch.unique(problem.inputs[:, (facts.inputs or []).index(group)], return_inverse=True)
    padded = [_padded(one, places, len(values)) for one in (problem.inputs, problem.targets, 1 / problem.sigma)]
    counts = torch.bincount(places)
    weights = torch.where(torch.arange(padded[0].shape[1]) < counts.unsqueeze(1), padded[2].squeeze(2), 0.0)
    done: list[batched.Fits] = []

    def solver(tell: Callable[[float], None]) -> None:
        start = torch.from_numpy(problem.start()).expand(len(values), -1)
        low, high = torch.from_numpy(problem.low), torch.from_numpy(problem.high)
        done.append(
            batched.solve(
                problem.model, padded[0], padded[1], weights, start, low, high,
                tolerance=max(how.tolerance, 1e-13), max_iterations=how.max_iterations,
            )
        )  # fmt: skip
        if trainer.state.progress.step == 0:
            tell(float(done[0].rss.sum()) / problem.num_residuals)
        problem.put(done[0].points.median(0).values.numpy())

    # evaluated are parameters that no group has: what the run tells of is the fits
    outcome = trainer.follow(loaders["train"], None, solver)
    fits = done[0]
    names = _names_of(values, facts, group)
    files.write_atomic(folder / "fits.csv", _table(names, problem.names, fits, group))
    say("fits", _summary(fits, problem.names, folder))
    return outcome


def _padded(values: Tensor, places: Tensor, groups: int) -> Tensor:
    """Return (G, N, ...) of rows (n, ...): those of a group, then its first row again and again."""
    order = places.argsort(stable=True)
    counts = torch.bincount(places, minlength=groups)
    begins = counts.cumsum(0) - counts
    within = torch.arange(int(counts.max()))
    at = begins.unsqueeze(1) + torch.where(within < counts.unsqueeze(1), within, 0)
    return values[order][at]


def _names_of(values: Tensor, facts: Facts, group: str) -> list[str]:
    """Return what each code of the group's column stands for."""
    known = next(one["values"] for one in (facts.encoding or {})["categories"] if one["column"] == group)
    return [str(known[int(code) - 1]) if code > 0 else "" for code in values.tolist()]


def _table(groups: Sequence[str], names: Sequence[str], fits: batched.Fits, title: str) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    both = [word for name in names for word in (name, f"{name}_standard_error")]
    writer.writerow([title, "samples", *both, "residual_sum_of_squares", "converged"])
    columns = fits.points.tolist(), fits.errors.tolist(), fits.rss.tolist(), fits.counts.tolist(), fits.converged
    for group, values, errors, rss, count, converged in zip(groups, *columns, strict=True):
        pairs = [
            number for pair in zip(values, ["" if math.isnan(e) else e for e in errors], strict=True) for number in pair
        ]
        writer.writerow([group, count, *pairs, rss, "true" if converged else "false"])
    return text.getvalue()


def _summary(fits: batched.Fits, names: Sequence[str], folder: Path) -> list[str]:
    done = int(fits.converged.sum())
    lines = [f"{done:,} of {len(fits.points):,} fits converged, in at most {fits.iterations} iterations"]
    width = max(map(len, names))
    for name, column in zip(names, fits.points[fits.converged].T.tolist(), strict=True):
        if column:
            low, middle, high = numpy.quantile(column, [0.05, 0.5, 0.95])
            lines.append(f"{name:<{width}}  median {middle:.6g}, 90% of them from {low:.6g} to {high:.6g}")
    return [*lines, f"all of them: {folder / 'fits.csv'}"]
