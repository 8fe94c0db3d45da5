"""Own the words about a run: the summary before it, and what stands at its end.

Knows nothing of how parts are built or trained; it reads them.
"""

from __future__ import annotations

import math
import os
import shlex
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dlwp import devices
from dlwp.build import Parts
from dlwp.data.datasets import size
from dlwp.data.resident import ResidentLoader
from dlwp.rehearsal import Rehearsal

_BAR = " · "


def machine_line(parts: Parts) -> str:
    """Return device, precision, memory format, with the reason of each `auto`."""
    settings = parts.settings
    pieces = [_reasoned(devices.describe(parts.device), parts.reason("device"))]
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
    return [
        f"other work keeps {busy:.1f} of {processors} processors busy: with {threads} threads this may take much longer"
    ]


def data_lines(parts: Parts, name: str, values: dict[str, Any]) -> list[str]:
    """Return splits, classes and shape, then how the data is fed and augmented, then where it came from."""
    data, facts = parts.data, parts.data.facts
    sizes = [f"{split} {size(dataset):,}" for split, dataset in data.present().items()]
    cut = [note for note in data.notes if note.startswith("val ")]  # how val was cut, which says its size too
    if cut:
        sizes = [cut[0] if text.startswith("val ") else text for text in sizes]
    pieces = [f"{name}: {_BAR.join(sizes)}"]
    if facts.num_classes:
        pieces.append(f"{facts.num_classes} classes")
    elif facts.task != "other":
        pieces.append(facts.task)
    if facts.input_shape:
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
    depth = f", depth {values['depth']}" if "depth" in values else ""
    size = f"{name}{depth}: {count:,} parameters"
    if trainable != count:
        size += f", {trainable:,} of them trained"
        size += f" ({parts.frozen.what} frozen)" if parts.frozen is not None else ""
    pieces = [size]
    if rehearsal.flops_per_sample:
        pieces[-1] += f", {_quantity(rehearsal.flops_per_sample)}FLOP a training sample"
    if hasattr(model, "init_from"):
        pieces.append("begun from the first training batch")
    return [_BAR.join(pieces), *_weights_lines(parts), describe_layers(model)]


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
    criterion = type(parts.criterion).__name__ if choices.get("criterion") is None else choices["criterion"]
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
    split: str, values: dict[str, float], count: int, step: int, best_step: int | None, monitor: str
) -> str:
    """Return the metrics of a split, an accuracy with its 95% interval (Wilson), and whose weights they are."""
    pieces: list[str] = []
    for name, value in values.items():
        if name == "accuracy" and math.isfinite(value):
            low, high = wilson_interval(value, count)
            pieces.insert(0, f"accuracy {value:.1%} (95% interval {low:.1%} to {high:.1%})")
        elif name == "top5":
            pieces.append(f"top-5 {value:.1%}")
        else:
            pieces.append(f"{name} {value:.4g}")
    best = "" if best_step is None else f" (best {monitor}{'' if best_step == step else f': step {best_step:,}'})"
    return f"{', '.join(pieces)}, from step {step:,}{best}"


def wilson_interval(share: float, count: int, z: float = 1.959964) -> tuple[float, float]:
    """Return the 95% interval of a share of `count` trials.

    Source:
        Wilson 1927, equation for the score interval.

    >>> [round(bound, 3) for bound in wilson_interval(0.889, 10_000)]
    [0.883, 0.895]
    """
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return centre - half, centre + half


def next_lines(folder: Path, resume: str) -> list[str]:
    """Return the commands that one would type next: of the run's folder, and `resume`."""
    return [
        shlex.join(["tensorboard", "--logdir", str(folder.parent)]),
        shlex.join(["dlwp-eval", f"checkpoint={folder}"]),
        resume,
    ]


def audit_line(steps: int, epochs: int, samples: int, summary: dict[str, Any]) -> str:
    """Return what an audit has proven, and what the run says itself that it left out."""
    whole = f"each of {samples:,} samples exactly once in each of {epochs} epochs" if epochs else "no epoch is whole"
    exceptions = {
        "left_out": "samples could not be read and others took their places (left_out.jsonl)",
        "skipped_steps": "steps were left out, their loss was not finite",
        "rollbacks": "times the weights went back to a checkpoint",
    }
    told = [f"{summary[key]} {what}" for key, what in exceptions.items() if summary.get(key)]
    return f"{steps:,} steps are those of the order of seed and epoch: {'; but '.join([whole, *told])}"


def _reasoned(value: str, reason: str) -> str:
    return f"{value} ({reason})" if reason else value


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def _quantity(number: float) -> str:
    for scale, unit in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= scale:
            return f"{number / scale:.3g}{unit}"
    return f"{number:.3g} "
