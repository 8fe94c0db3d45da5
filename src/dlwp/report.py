"""Own the words about a run: the summary before it, and what stands at its end.

Knows nothing of how parts are built or trained; it reads them.
"""

from __future__ import annotations

import inspect
import math
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dlwp import devices, distributed, parallel, sharding
from dlwp.build import Parts
from dlwp.data.datasets import length_of
from dlwp.data.resident import ResidentLoader
from dlwp.fitting.least_squares import LeastSquares
from dlwp.observers.console import labelled
from dlwp.rehearsal import Rehearsal

_BAR = " · "


def machine_line(parts: Parts) -> str:
    """Return device, precision, memory format, with the reason of each `auto`."""
    settings = parts.settings
    pieces = [_reasoned(devices.describe(parts.device), parts.reason("device"))]
    if (size := distributed.world_size()) > 1:
        pieces.insert(0, f"{size} processes")
    pieces.append(_reasoned(settings.precision, parts.reason("trainer.precision")))
    if settings.channels_last:
        pieces.append(_reasoned("channels_last", parts.reason("trainer.channels_last")))
    if settings.compile:
        pieces.append("torch.compile")
    if settings.cuda_graphs:
        pieces.append("CUDA graphs")
    if settings.deterministic:
        pieces.append("deterministic")
    return _BAR.join(pieces)


def crowding_lines(parts: Parts, busy: float) -> list[str]:
    """Return a line where other work leaves too few processors for the threads of this run, else none.

    Two jobs of two threads each on two processors have taken 7 to 10 times as long as one after the other: threads that
    have done their share wait for the others by turning in circles.
    """
    threads, processors = torch.get_num_threads(), os.cpu_count() or 1
    if parts.device.type != "cpu" or devices.usable_processors() != processors or threads + busy < processors + 0.5:
        return []
    if distributed.world_size() > 1:  # the others are no other work
        return []
    return [
        f"other work keeps {busy:.1f} of {processors} processors busy: with {threads} threads this may take much longer"
    ]


def data_lines(parts: Parts, name: str, values: dict[str, Any]) -> list[str]:
    """Return splits, classes and shape, then how the data is fed and augmented, then where it came from."""
    data, facts = parts.data, parts.data.facts
    lengths = {split: length_of(dataset) for split, dataset in data.present().items()}
    sizes = [f"{split} {'of unknown length' if count is None else f'{count:,}'}" for split, count in lengths.items()]
    cut = [note for note in data.notes if note.startswith("val ")]  # how val was cut, which says its size too
    if cut:
        sizes = [cut[0] if text.startswith("val ") else text for text in sizes]
    pieces = [f"{name}: {_BAR.join(sizes)}"]
    if facts.task == "sequence":
        pieces += [f"windows of {facts.input_shape[0]}", f"vocabulary of {facts.num_classes}"]
    elif facts.num_classes:
        pieces.append(f"{facts.num_classes} classes")
    elif facts.task != "other":
        pieces.append(facts.task)
    if facts.input_shape and facts.task != "sequence":
        pieces.append("x".join(map(str, facts.input_shape)))
    workers = parts.decided().get("data.num_workers", values.get("num_workers"))
    if isinstance(parts.loaders["train"], ResidentLoader):
        feeding = "in memory"
    else:
        feeding = f"by {workers} worker{'s' if workers != 1 else ''}" if workers else "sample by sample in this process"
    second = [_reasoned(feeding, parts.reason("data.loader"))]
    second.append(f"augmented: {describe_augment(values.get('augment'))}" if values.get("augment") else "not augmented")
    if facts.mean is not None:
        second.append("normalised")
    return [_BAR.join(pieces), _BAR.join(second), *(note for note in data.notes if note not in cut)]


def describe_augment(augment: Any) -> str:
    """Return the names of the operations in `data.augment`."""
    names = []
    for one in augment if isinstance(augment, list) else [augment]:
        names.append(next(iter(one.values()), "?") if isinstance(one, dict) and "_target_" in one else one)
        if isinstance(one, dict) and "_target_" not in one:
            names[-1] = ", ".join(one)
    return ", ".join(map(str, names))


def model_lines(parts: Parts, name: str, values: dict[str, Any], rehearsal: Rehearsal) -> list[str]:
    """Return the model's size and cost, then its layers in a line."""
    model = parts.model
    count = sum(parameter.numel() for parameter in model.parameters())
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    takes_depth = "depth" in values and "depth" in inspect.signature(type(model)).parameters  # not left of another's
    depth = f", depth {values['depth']}" if takes_depth else ""
    size = f"{name}{depth}: {count:,} parameters"
    if trainable != count:
        size += f", {trainable:,} of them trained"
        size += f" ({parts.frozen.what} frozen)" if parts.frozen is not None else ""
    pieces = [size]
    if rehearsal.flops_per_sample:
        pieces[-1] += f", {_quantity(rehearsal.flops_per_sample)}FLOP a training sample"
    if hasattr(model, "init_from"):
        pieces.append("begun from the first training batch")
    own = model.describe() if hasattr(model, "describe") else [describe_layers(model)]  # type: ignore[operator]
    return [_BAR.join(pieces), *_weights_lines(parts), *own]


def _weights_lines(parts: Parts) -> list[str]:
    """Return what came of the weights that the model begins with."""
    loaded = parts.loaded
    if loaded is None:
        return []
    tensors = len(loaded.loaded) + len(loaded.new)
    pieces = [f"begins with {parts.weights}: {len(loaded.loaded):,} of {tensors:,} tensors"]
    for names, what in ((loaded.reshaped, "of another shape, so new"), (loaded.missing, "not among them, so new")):
        if names:
            pieces.append(f"{_listed(names)} {what}")
    if loaded.left:
        pieces.append(f"{_listed(loaded.left)} left out")
    return [_BAR.join(pieces)]


def _listed(names: list[str], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def describe_layers(model: nn.Module) -> str:
    """Return the model's children in one line, each with its parameters; a long list is shortened in its middle."""
    pieces = []
    for name, child in model.named_children():
        count = sum(parameter.numel() for parameter in child.parameters())
        kind = type(child).__name__
        inside = f"[{len(list(child.children()))}]" if isinstance(child, nn.Sequential | nn.ModuleList) else ""
        pieces.append(f"{name} {kind}{inside} {_quantity(count)}".rstrip() if count else f"{name} {kind}")
    if len(pieces) > 7:
        pieces = [*pieces[:3], f"… {len(pieces) - 6} more …", *pieces[-3:]]
    return " → ".join(pieces)


def train_lines(parts: Parts, values: dict[str, Any], choices: dict[str, str | None]) -> list[str]:
    """Return criterion, optimizer, schedule and length of the run, then the parameters that are trained otherwise."""
    if isinstance(parts.optimizer, LeastSquares):
        return [f"{parts.optimizer.describe()} · {len(parts.data.train):,} samples at once"]  # type: ignore[arg-type]
    criterion = type(parts.criterion).__name__ if choices.get("criterion") in (None, "auto") else choices["criterion"]
    pieces = [str(criterion)]
    optimizer = values["optimizer"]
    name = choices.get("optimizer") or type(parts.optimizer).__name__
    text = f"{name} lr {_shown(parts.decided().get('optimizer.lr', optimizer.get('lr', '?')))}"
    if parts.reason("optimizer.lr"):
        text += f" ({parts.reason('optimizer.lr')})"
    if optimizer.get("momentum"):
        text += f", {'Nesterov' if optimizer.get('nesterov') else 'momentum'} {optimizer['momentum']:g}"
    if optimizer.get("weight_decay"):
        text += f", decay {optimizer['weight_decay']:g}"
        assert parts.optimizer is not None
        undecayed = sum(len(group["params"]) for group in parts.optimizer.param_groups if not group.get("weight_decay"))
        if undecayed and not optimizer.get("decay_norms_and_biases", True):
            text += f" (not on {undecayed} norms and biases)"
    if optimizer.get("lookahead"):
        text += ", looking ahead"
    pieces.append(text)
    steps = len(parts.loaders["train"])
    total = parts.settings.total_steps(steps)
    batch = values["data"]["batch_size"]
    schedule = choices.get("scheduler") or "no schedule"
    pieces.append(f"{schedule} over {total:,} steps of {batch}")
    if parts.settings.accumulate not in (1, "auto"):
        pieces.append(f"each in {parts.settings.accumulate} pieces")
    if (size := distributed.world_size()) > 1:
        norms = parallel.told_of_norms(parts.model, parts.settings.sync_batchnorm, parts.device)
        how = sharding.told(parts.model) if sharding.is_wanted(parts.strategy) else f"shared by {size} processes"
        pieces.append(f"{how}{norms}")
    apart = [_describe_group(entry) for entry in optimizer.get("groups") or ()]
    return [_BAR.join(pieces), *([f"apart: {_BAR.join(apart)}"] if apart else [])]


def _describe_group(entry: dict[str, Any]) -> str:
    """Return an entry of `optimizer.groups` in a few words: "head.* Muon lr 0.02 with a schedule of its own"."""
    names = entry["parameters"]
    words = [names if isinstance(names, str) else ", ".join(names)]
    if "_target_" in entry:
        words.append(entry["_target_"].rpartition(".")[2])
    if "lr" in entry:
        words.append(f"lr {_shown(entry['lr'])}")
    if entry.get("scheduler"):
        words.append("with a schedule of its own")
    return " ".join(words)


def result_line(
    split: str, values: dict[str, float], count: int, step: int, best_step: int | None, monitor: str,
    intervals: Mapping[str, Sequence[float]] | None = None,
) -> str:  # fmt: skip
    """Return the metrics of a split, and whose weights they are.

    Args:
        intervals: the 95% interval of each value that is a proportion; None: that of the accuracy (Wilson).
    """
    return values_line(values, count, intervals) + origin(step, best_step, monitor)


def origin(step: int, best_step: int | None, monitor: str) -> str:
    """Return whose weights a line is of: ", from step 352 (best val/accuracy)"."""
    best = "" if best_step is None else f" (best {monitor}{'' if best_step == step else f': step {best_step:,}'})"
    return f", from step {step:,}{best}"


def values_line(values: Mapping[str, float], count: int, intervals: Mapping[str, Sequence[float]] | None = None) -> str:
    """Return the metrics of `count` samples, the accuracy first; `intervals` as in `result_line`."""
    pieces: list[str] = []
    if intervals is None:
        accuracy = values.get("accuracy", math.nan)
        intervals = {"accuracy": wilson_interval(accuracy, count)} if math.isfinite(accuracy) else {}
    for name, value in values.items():
        shown = "top-5" if name == "top5" else name
        text = f"{shown} {value:.1%}" if name in intervals or name == "top5" else f"{shown} {value:.4g}"
        if name in intervals:
            low, high = intervals[name]
            text += f" ({'95% interval ' if name == 'accuracy' else ''}{low:.1%} to {high:.1%})"
        pieces.insert(0 if name == "accuracy" else len(pieces), text)
    return ", ".join(pieces)


def wilson_interval(share: float, count: int, z: float = 1.959964) -> tuple[float, float]:
    """Return the 95% interval of a share of `count` trials.

    Source:
        Wilson 1927, Journal of the American Statistical Association 22, pages 209 to 212 (the score interval).

    >>> [round(bound, 3) for bound in wilson_interval(0.889, 10_000)]
    [0.883, 0.895]
    """
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return centre - half, centre + half


def evaluation_lines(found: Mapping[str, Any], most: int = 20) -> list[str]:
    """Return what an evaluation found, for a person.

    Args:
        found: as `dlwp.evaluate` gives it.
        most: rows of the table by class, those of the lowest recall.
    """
    table: dict[str, list[str]] = {found["split"]: [found["line"], *_further(found)]}
    if "baseline_line" in found:
        table["baseline"] = [found["baseline_line"]]
    elif found.get("baseline"):
        table["baseline"] = [_baseline_line(name, found["baseline"]) for name in ("trees", "constant")]
    if found["by_class"]:
        kinds = {"iou": _mask_table, "average_precision": _label_table}
        table_of = next((kind for key, kind in kinds.items() if key in found["by_class"][0]), _class_table)
        table["classes"] = table_of(found["by_class"], most)
    if found["left_out"]:
        first, count = found["left_out"][0], len(found["left_out"])
        text = f"{count:,} samples could not be read, others took their places: {first['file']}"
        table["left out"] = [text + (", …" if count > 1 else "")]
    if found["worst"]:
        table["worst"] = [_worst_line(one) for one in found["worst"][:3]]
    if found["files"]:
        table["plots"] = list(found["files"].values())
    elif found["note"]:
        table["plots"] = [found["note"]]
    return labelled(table)


def _further(found: Mapping[str, Any]) -> list[str]:
    """Return the line of what is measured of every classification and regression, whatever its metrics are."""
    if found["regression"] is not None:
        further = {name: value for name, value in found["regression"].items() if name not in found["values"]}
        return [", ".join(f"{name} {value:.4g}" for name, value in further.items())] if further else []
    if found["calibration"] is None:
        return []
    pieces = [] if found["macro_f1"] is None else [f"macro F1 {found['macro_f1']:.1%}"]
    calibration = found["calibration"]
    if calibration["error"] is not None:
        sure, right = calibration["confidence"], calibration["accuracy"]
        pieces.append(f"calibration error {calibration['error']:.1%} (on average {sure:.1%} sure, {right:.1%} right)")
    return [", ".join(pieces)] if pieces else []


def _baseline_line(name: str, found: Mapping[str, Any]) -> str:
    """Return what a baseline of a table reaches, and what it is."""
    values = found[name].items()
    said = [f"{key} {value:.1%}" if key == "accuracy" else f"{key} {value:.4g}" for key, value in values]
    trees = f"HistGradientBoosting of scikit-learn as it comes, fitted in {found['elapsed_s']:.1f} s on the same train"
    return f"{', '.join(said)} ({trees if name == 'trees' else 'one answer for all: ' + found['answer']})"


def _class_table(classes: Sequence[Mapping[str, Any]], most: int) -> list[str]:
    """Return a table with a row a class, the lowest recall first; of classes without samples there is none."""
    ranked = sorted(classes, key=lambda one: math.inf if one["recall"] is None else one["recall"])
    rows: list[tuple[str, ...]] = [("class", "samples", "precision", "recall", "95% interval", "F1")]
    for one in ranked[:most]:
        bounds = one["recall_interval"]
        between = "–" if bounds is None else f"{bounds[0]:.1%} to {bounds[1]:.1%}"
        shares = [_percent(one[key]) for key in ("precision", "recall", "f1")]
        rows.append((_shortened(one["class"]), f"{one['samples']:,}", *shares[:2], between, shares[2]))
    return _in_columns(rows, len(ranked) - most)


def _mask_table(classes: Sequence[Mapping[str, Any]], most: int) -> list[str]:
    """Return a table with a row a class, the lowest IoU first."""
    ranked = sorted(classes, key=lambda one: math.inf if one["iou"] is None else one["iou"])
    total = sum(one["samples"] for one in classes) or 1
    rows: list[tuple[str, ...]] = [("class", "of pixels", "IoU", "precision", "recall", "Dice")]
    for one in ranked[:most]:
        shares = [_percent(one[key]) for key in ("iou", "precision", "recall", "f1")]
        rows.append((_shortened(one["class"]), _percent(one["samples"] / total), *shares))
    values = [one["iou"] for one in classes if one["iou"] is not None]
    if values:
        rows.append(("mean of all", "", _percent(math.fsum(values) / len(values)), "", "", ""))
    return _in_columns(rows, len(ranked) - most)


def _label_table(classes: Sequence[Mapping[str, Any]], most: int) -> list[str]:
    """Return a table with a row a label, the lowest average precision first."""
    key = "average_precision"
    ranked = sorted(classes, key=lambda one: math.inf if one[key] is None else one[key])
    rows: list[tuple[str, ...]] = [("label", "samples", "average precision", "precision", "recall", "F1")]
    for one in ranked[:most]:
        shares = [_percent(one[name]) for name in (key, "precision", "recall", "f1")]
        rows.append((_shortened(one["class"]), f"{one['samples']:,}", *shares))
    return _in_columns(rows, len(ranked) - most)


def _in_columns(rows: Sequence[Sequence[str]], left_out: int) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows]
    if left_out > 0:
        lines.append(f"and {left_out:,} more (format=json has all)")
    return lines


def _worst_line(one: Mapping[str, Any]) -> str:
    where = f"sample {one['sample']:,}" if one["file"] is None else one["file"]
    if "iou" in one:
        return f"IoU {one['iou']:.1%} ({where})"
    if "probability" in one:
        true, predicted = _shortened(one["true"]), _shortened(one["predicted"])
        return f"{true} taken for {predicted}, {one['probability']:.1%} sure ({where})"
    if one["prediction"] is None:
        return f"off by {one['error']:.4g} ({where})"
    predicted, true = (_numbers(one[key]) for key in ("prediction", "target"))
    return f"predicted {predicted}, is {true} ({where})"


def _numbers(values: Sequence[float]) -> str:
    text = ", ".join(f"{value:.4g}" for value in values[:4]) + (", …" if len(values) > 4 else "")
    return text if len(values) == 1 else f"[{text}]"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"


def _shortened(name: str) -> str:
    return name if len(name) <= 30 else f"{name[:29]}…"


def next_lines(folder: Path, resume: str, *, watched: bool) -> list[str]:
    """Return the commands that one would type next: of the run's folder, and `resume`; `watched` by TensorBoard."""
    return [
        *([shlex.join(["tensorboard", "--logdir", str(folder.parent)])] if watched else []),
        shlex.join(["dlwp-eval", f"checkpoint={folder}"]),
        resume,
    ]


def formula_lines(folder: Path) -> list[str]:
    """Return the commands that one would type next when a formula was fitted."""
    run = f"checkpoint={folder}"
    return [
        f"{shlex.join(['dlwp-predict', run])} NEW.csv output=out.csv",
        shlex.join(["dlwp-export", run, "format=python"]),
    ]


def _reasoned(value: str, reason: str) -> str:
    return f"{value} ({reason})" if reason else value


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def _quantity(number: float) -> str:
    for scale, unit in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= scale:
            return f"{number / scale:.3g}{unit}"
    return f"{number:.3g} "
