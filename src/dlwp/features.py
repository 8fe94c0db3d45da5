"""Own the features of a frozen backbone: what its head is given, computed once for all samples.

Knows nothing of how the head is trained on them.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from dlwp import checkpoint, devices, distributed, sharding
from dlwp.build import Parts
from dlwp.data.datasets import ArrayDataset
from dlwp.data.resident import ResidentLoader
from dlwp.models import stages
from dlwp.training.batches import Loader
from dlwp.training.state import load_weights

_SAME = 1e-4  # of the outputs' size: what a batch of another size may change


def once(parts: Parts, begun: Path | None, say: Callable[[str], None]) -> Parts:
    """Return parts that train the head on features computed here, where that is possible; say so, or why not.

    Args:
        begun: the checkpoint that the run goes on from, whose backbone it is; None: the model has its weights.
    """
    if parts.frozen is None or parts.frozen.what != "backbone":
        return parts
    if (reason := _why_not(parts)) is not None:
        say(f"features are computed anew in every step: {reason}")
        return parts
    if begun is not None:
        load_weights(parts.model, checkpoint.load_weights(begun)[0])
    began = time.perf_counter()
    found = _computed(parts)
    if found is not parts:
        took, count = time.perf_counter() - began, sum(loader.num_samples for loader in parts.loaders.values())
        told = f"features of {count:,} samples computed once, in {took:.1f} s"
        say(f"{told} (the backbone is frozen); the head trains on them")
    return found


def _why_not(parts: Parts) -> str | None:
    """Return why the features of a frozen backbone cannot be computed once, None where they can."""
    if sharding.is_wanted(parts.strategy):
        return f"strategy={parts.strategy} cuts the backbone over processes"
    if parts.settings.unfreeze_at is not None:
        return "trainer.unfreeze_at trains the backbone later"
    if parts.step is not None or hasattr(type(parts.model), "training_step") or parts.settings.tta is not None:
        return "a step of your own, or trainer.tta, needs the pictures"
    train: Any = parts.loaders["train"]
    if getattr(train.transform, "ops", ()):
        return "data.augment changes pictures in every epoch: data.augment=null computes their features once"
    if {"iterable", "shares"} & train.order.options.keys():
        return "the data is iterated, or drawn by data.weights"
    if train.order.num_samples < train.order.options["length"]:
        return "data.drop_last and trainer.limit_batches take other samples in every epoch"
    return None


def _computed(parts: Parts) -> Parts:
    """Return parts that train the head alone on its inputs, which are computed here, with a bar.

    The model stays whole: only what it is given and how a step is taken change, `head(features)` for `model(pictures)`.
    Order and batches are those of the pictures.

    Args:
        parts: with a frozen backbone, of which `_why_not` is None.

    Returns:
        The same parts where the head is not the last thing that the model does.
    """
    taken = stages.HeadInput(parts.model, parts.data.facts.num_classes)
    loaders: dict[str, Loader] = {}
    total = sum(loader.num_samples for loader in parts.loaders.values())
    parts.model.eval()
    try:
        hidden = None if distributed.is_main() else True  # None: where there is no terminal
        with tqdm(total=total, desc="features", unit=" samples", leave=False, disable=hidden) as bar:
            for name, loader in parts.loaders.items():
                found = _of_split(parts, taken, loader, bar)
                if found is None:
                    return parts
                loaders[name] = found
    finally:
        taken.remove()
    return dataclasses.replace(parts, loaders=loaders, step=stages.HeadStep(taken.name))


def _of_split(parts: Parts, taken: stages.HeadInput, loader: Any, bar: Any) -> ResidentLoader | None:
    features: list[Tensor] = []
    targets, order = [], []
    with torch.no_grad(), devices.autocast(parts.device, parts.settings.precision):
        for inputs, wanted in loader.epoch():
            outputs = parts.model(inputs)
            if not features and not torch.allclose(outputs, taken.head(taken.last), atol=_SAME, rtol=_SAME):
                return None
            features.append(taken.last.to("cpu", next(parts.model.parameters()).dtype))
            targets.append(wanted.cpu())
            order.append(loader.indices)
            bar.update(len(wanted))
    places = torch.cat(order).argsort()  # features in the order of the samples in their set
    data = ArrayDataset(torch.cat(features)[places], torch.cat(targets)[places])
    options = loader.order.options
    return ResidentLoader(
        data, options["batch_size"], seed=options["seed"], shuffle=options["shuffle"], device=parts.device
    )
