"""Own the evaluation of a run's weights: one pass over a split, and from it values, tables and pictures.

Knows nothing of configs, nor of how the run's parts are built from them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from dlwp import checkpoint as checkpoints
from dlwp import randomness, report, resuming
from dlwp.build import Parts
from dlwp.data import timeseries
from dlwp.data.facts import path_of
from dlwp.errors import ConfigError, MachineError
from dlwp.inference import figures, label_scores, mask_scores, scores
from dlwp.inference.baseline import baselines
from dlwp.inference.label_scores import LabelCollector
from dlwp.inference.mask_scores import MaskCollector
from dlwp.inference.samples import ClassCollector, Classified, ErrorCollector, Unread, Watched
from dlwp.models.named_inputs import NamedStep
from dlwp.nested import inputs_of
from dlwp.runs import files
from dlwp.runs.folder import RunFolder, find_run
from dlwp.training.state import load_weights
from dlwp.training.trainer import Trainer

_MOST_WORST = 12


def find_weights(checkpoint: str) -> tuple[RunFolder, Path]:
    """Return the run and the checkpoint that are meant: of a run folder its best one, else its last.

    Args:
        checkpoint: a run folder, a checkpoint folder, or "last".

    Raises:
        ConfigError: no such run, or it has no checkpoint yet. DataError: a pointer is damaged.
    """
    path, folder = find_run(checkpoint)
    run = RunFolder(path)
    folder = folder or run.pointed("best") or resuming.find_checkpoint(run, None, fallback=False)[0]
    if folder is None:
        raise ConfigError(f"{path} has no checkpoint yet. Train it: {resuming.command(path)}")
    return run, folder


def evaluate(
    parts: Parts, run: RunFolder, folder: Path, *, split: str = "auto", output: str | None = None, plots: bool = True,
    baseline: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Evaluate a checkpoint on a split; return and draw what is found.

    Args:
        parts: of the run, built for evaluation; they get the checkpoint's weights.
        run, folder: from `find_weights`.
        split: train, val or test; auto is test, or val where the data has no test split.
        output: the folder of the pictures; None is the run's `plots`, and where that cannot be written there are none.
        plots: whether pictures are drawn. baseline: whether what simple ones reach is measured, of a table.

    Returns:
        As `dlwp.evaluate` says.

    Raises:
        ConfigError: no such split, or no such folder. DataError: the checkpoint is damaged.
    """
    weights, record = checkpoints.load_weights(folder)
    load_weights(parts.model, weights)
    trainer, step = evaluator(parts), record["progress"]["step"]
    found = measure(
        parts, trainer, str(folder), step, run.plots, split=split, output=output, plots=plots, baseline=baseline
    )
    return found | {"line": found["line"] + report.origin(step, run.best_step, trainer.monitor)}


def measure(
    parts: Parts, trainer: Trainer, name: str, step: int | None, place: Path, *, split: str, output: str | None,
    plots: bool, baseline: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Measure the weights that the parts have on a split; return and draw what is found, as `evaluate` does.

    Args:
        trainer: from `evaluator`. name, step: of the weights; without a step they are published ones, of many classes,
            and only those are told of which samples have or were taken for.
        place: where pictures go without `output`. baseline: as `evaluate` takes it.
    """
    if split == "auto":
        split = "test" if "test" in parts.loaders else "val"
    if split not in parts.loaders:
        raise ConfigError(f"the data has no split '{split}'. It has: {', '.join(parts.loaders)}")
    facts = parts.data.facts
    naive = (facts.encoding or {}).get("baseline", {}).get(split)  # of a series
    drawable = facts.task in ("classification", "segmentation") or facts.target_names is not None
    folder, refused = _place(place, output) if plots and drawable else (None, "")
    count = parts.loaders[split].num_samples
    found: dict[str, Any] = {"checkpoint": name, "split": split, "step": step, "num_samples": count}
    measured, collector = _measured(parts, trainer, split, all_classes=step is not None)
    found |= measured
    found["num_samples"] = count = parts.loaders[split].num_samples  # of what is only iterated it is known by now
    found["baseline"] = baselines(parts, split) if baseline else naive
    points = found.pop("points")
    if naive is not None:
        found["baseline_line"] = timeseries.baseline_line(facts.encoding or {}, split)
    if folder is not None and found["by_class"]:
        drawn = _drawn_masks if isinstance(collector, MaskCollector) else _drawn_classes
        found["files"] = _write(drawn(found, parts, collector), folder, split)
    elif folder is not None and naive is not None:
        found["files"] = _draw_forecasts(parts, split, folder)
    elif folder is not None and points is not None:
        found["files"] = _draw_scatter(points, parts, split, folder)
    bounds = {name: pair for name, pair in found["intervals"].items() if pair is not None}
    found["line"] = report.values_line(found["values"], count, bounds)
    nothing = "none: there are no classes to draw" if output is not None else ""
    found["note"] = refused if drawable and (found["by_class"] or points is not None) else nothing
    return found


def _measured(parts: Parts, trainer: Trainer, split: str, *, all_classes: bool) -> tuple[dict[str, Any], Any]:
    """Pass over a split once; return values with what a report adds to them, and what collected it."""
    loader, unread, task = parts.loaders[split], Unread(), parts.data.facts.task
    if hasattr(loader, "listener"):
        loader.listener = unread
    watched = None
    ours = isinstance(parts.step, NamedStep | None)
    own_step = not ours or hasattr(type(parts.model), "training_step")  # its outputs may be anything
    collector = None if own_step else _collector(parts)
    if collector is not None:
        trainer.step_function = watched = Watched(trainer.step_function, loader, collector)
    values = trainer.evaluate(loader, split) or {}
    # neighbouring tokens and pixels depend on one another: an interval of independent trials would be too small
    bounds = {} if task in ("sequence", "segmentation") else scores.intervals(values, parts.metrics, loader.num_samples)
    found: dict[str, Any] = {
        "values": values, "intervals": bounds, "macro_f1": None, "by_class": [], "confusion": [], "calibration": None,
        "regression": None, "worst": [], "files": {}, "points": None,
        "left_out": [
            {"sample": sample, "file": name, "reason": reason} for sample, (name, reason) in unread.samples.items()
        ],
    }  # fmt: skip
    if watched is None or not watched.fits:
        return found, None
    names = parts.data.facts.classes or []
    if isinstance(collector, ErrorCollector):
        found |= {"regression": collector.values(), "worst": collector.worst(), "points": collector.points()}
    elif isinstance(collector, MaskCollector):
        counts = collector.counts
        found |= {"by_class": mask_scores.by_class(counts, names), "confusion": counts.tolist()}
        found["worst"] = collector.worst()
    elif isinstance(collector, LabelCollector):
        found["by_class"] = label_scores.by_class(*collector.finish(), names)
    elif isinstance(collector, ClassCollector):
        found |= _of_classes(parts, collector.finish(), values, all_classes)
    # in the place of one that could not be read stood another
    worst = [one for one in found["worst"] if one["sample"] not in unread.samples]
    dataset = getattr(parts.data, split)
    found["worst"] = [one | {"file": path_of(dataset, one["sample"])} for one in worst[:_MOST_WORST]]
    return found, collector


def _collector(parts: Parts) -> Any:
    """Return what keeps of each sample what is told of such data; None where nothing is."""
    facts = parts.data.facts
    if facts.task == "classification":
        return ClassCollector()
    if facts.task == "regression":
        return ErrorCollector(parts.device, _MOST_WORST, facts.target_mean or 0.0, facts.target_std or 1.0)
    if facts.task == "segmentation" and facts.num_classes:
        return MaskCollector(facts.num_classes, _MOST_WORST)
    return LabelCollector() if facts.task == "multilabel" else None


def evaluator(parts: Parts) -> Trainer:
    """Return a trainer that only evaluates: its optimizer is never stepped."""
    idle = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.0)
    settings = dataclasses.replace(parts.settings, ema_decay=None)
    return dataclasses.replace(parts, optimizer=idle, settings=settings).trainer([])


def _of_classes(parts: Parts, samples: Classified, values: dict[str, float], all_classes: bool) -> dict[str, Any]:
    names = _names(parts.data.facts.classes, samples)
    there = torch.arange(len(names)) if all_classes else torch.cat([samples.labels, samples.predictions]).unique()
    samples, names = scores.among(samples, there), [names[index] for index in there.tolist()]
    counts = scores.confusion(samples)
    classes = [one | {"index": index} for one, index in zip(scores.by_class(counts, names), there.tolist())]
    return {
        "intervals": scores.intervals(values, parts.metrics, len(samples.labels)),
        "macro_f1": scores.macro_f1(classes),
        "by_class": classes,
        "confusion": counts.tolist(),
        "calibration": scores.calibration(samples),
        "worst": scores.worst(samples, names, _MOST_WORST),
    }


def _names(classes: Sequence[str] | None, samples: Classified) -> list[str]:
    """Return a name for each output: its number where the data has no name for it."""
    known = list(classes or ())[: samples.num_classes]
    return [*known, *map(str, range(len(known), samples.num_classes))]


# ---- pictures -------------------------------------------------------------------------------------------------------


def _place(usual: Path, output: str | None) -> tuple[Path | None, str]:
    """Return the folder for the pictures, made and tried; or None and why not, where nobody asked for this one."""
    place = usual if output is None else Path(output).expanduser()
    if output is not None and place.exists() and not place.is_dir():
        raise ConfigError(f"output must be a folder, '{output}' is a file. output=FOLDER, or plots=false")
    try:
        files.make_folders(place)
        files.probe(place)
    except OSError as error:
        if output is not None:
            raise MachineError(f"output: {files.fault(error, place)}. output=FOLDER, or plots=false") from error
        return None, f"none: {files.fault(error, place)}. output=FOLDER puts them elsewhere"
    return place, ""


def _drawn_masks(found: dict[str, Any], parts: Parts, collector: MaskCollector) -> dict[str, Any]:
    """Return the figure of the worst pictures with their masks, by its name."""
    dataset, samples = getattr(parts.data, found["split"]), [one["sample"] for one in found["worst"]]
    truths = [dataset[sample][1] for sample in samples]
    pictures = _pictures(dataset, samples)
    return {"masks": mask_scores.draw_worst(found["worst"], pictures, truths, collector, found["split"])}


def _drawn_classes(found: dict[str, Any], parts: Parts, _: Any) -> dict[str, Any]:
    """Return the figures of a classification by their names."""
    from dlwp.observers.plots import draw_confusion

    split = found["split"]
    drawn = {
        "confusion": draw_confusion(found["confusion"], [one["class"] for one in found["by_class"]], split),
        "reliability": figures.draw_reliability(found["calibration"], split),
    }
    pictures = _pictures(getattr(parts.data, split), [one["sample"] for one in found["worst"]])
    if pictures:
        drawn["mistakes"] = figures.draw_mistakes(found["worst"], pictures, split)
    return drawn


def _write(drawn: dict[str, Any], place: Path, split: str) -> dict[str, str]:
    """Write the figures and return their paths by name."""
    from dlwp.observers.plots import png

    written: dict[str, str] = {}
    for kind in ("confusion", "reliability", "mistakes", "masks"):
        path = place / f"eval-{split}-{kind}.png"
        if kind in drawn:
            files.write_atomic(path, png(drawn[kind]))
            written[kind] = str(path)
        else:
            path.unlink(missing_ok=True)  # that of an evaluation before would pass for this one's
    return written


def _draw_scatter(points: tuple[Tensor, Tensor], parts: Parts, split: str, place: Path) -> dict[str, str]:
    """Write the picture of numbers predicted against true ones, in the unit of the targets; return its path by kind."""
    from dlwp.observers.plots import png

    path = place / f"eval-{split}-scatter.png"
    files.write_atomic(path, png(figures.draw_scatter(*points, parts.data.facts.target_names or ["target"], split)))
    return {"scatter": str(path)}


def _draw_forecasts(parts: Parts, split: str, place: Path) -> dict[str, str]:
    """Write the picture of forecasts and return its path by kind."""
    from dlwp.inference import forecasts
    from dlwp.observers.plots import png

    drawn = forecasts.draw_evaluation(
        parts.model, parts.loaders[split], getattr(parts.data, split), parts.data.facts, split
    )
    path = place / f"eval-{split}-forecast.png"
    files.write_atomic(path, png(drawn))
    return {"forecast": str(path)}


def _pictures(dataset: Dataset[Any], samples: Sequence[int]) -> list[Tensor]:
    """Return the inputs of samples as they lie in the data set, before normalisation; none where one is no picture."""
    found = []
    for sample in samples:
        with randomness.preserved():
            picture = figures.as_picture(inputs_of(dataset[sample]))
        if picture is None:
            return []
        found.append(picture)
    return found
