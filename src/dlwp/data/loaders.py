"""Own how splits become loaders: held in memory or read by workers, and what is done to a batch.

Knows nothing of how a data set came about, nor of what its batches are for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from dlwp import nested
from dlwp.data import iterating, resident, streaming
from dlwp.data.augment import BatchTransform, build_ops
from dlwp.data.datasets import ArrayDataset, Splits, has_state, is_iterable, length_of
from dlwp.errors import ConfigError
from dlwp.settings import DataKeys, TrainerSettings

Decide = Callable[[str, Any, str], Any]
"""(key, value, reason) -> value: notes what was decided for an `auto`."""


def loaders_of(
    data: Splits,
    keys: DataKeys,
    settings: TrainerSettings,
    *,
    augment: Any,
    seed: int,
    device: torch.device,
    dtype: torch.dtype,
    skips_itself: bool,
    collate: Any,
    decide: Decide,
) -> dict[str, Any]:
    """Return the loader of each split that has samples.

    Args:
        augment: `data.augment`, what it names built. skips_itself: the data set left out itself what cannot be read.
        collate: makes a batch of a list of samples; None: torch's `default_collate`.

    Raises:
        ConfigError: keys that do not fit the data.
    """
    kind, workers = _kind(data, keys, device, skips_itself, collate, decide)
    is_pair = nested.is_pair(data.sample) or not isinstance(data.sample, Mapping | tuple | list)
    if augment and not is_pair:
        raise ConfigError(f"data.augment is for pairs (input, target), a sample is {nested.described(data.sample)}")
    found: dict[str, Any] = {}
    if collate is not None:
        data.notes.append(f"batches are made by {getattr(collate, '__qualname__', type(collate).__name__)}")
    if told := getattr(data.train, "told", None):  # of what is left of the parts by now
        data.notes.append(told)
    for name, dataset in data.present().items():
        if length_of(dataset) == 0 and not is_iterable(dataset):
            continue
        train = name == "train"
        transform = BatchTransform(
            build_ops(augment) if train else [], data.facts.mean, data.facts.std,
            seed=seed, train=train, num_classes=data.facts.num_classes, dtype=dtype,
        )  # fmt: skip
        options: dict[str, Any] = {
            "seed": seed, "shuffle": train, "device": device, "transform": transform,
            "drop_last": train and keys.drop_last, "limit_batches": settings.limit_batches,
            "channels_last": settings.channels_last,
        }  # fmt: skip
        batch_size = keys.batch_size if train else _eval_batch_size(keys)
        if is_iterable(dataset):
            found[name] = _iterable(dataset, batch_size, data, keys, settings, {**options, "collate": collate}, decide)
        elif kind == "memory":
            found[name] = resident.ResidentLoader(dataset, batch_size, **options)  # type: ignore[arg-type]
        else:
            options |= {
                "num_workers": workers,
                "timeout_s": keys.timeout_s,
                "on_error": keys.on_error,
                "collate": collate,
            }
            found[name] = streaming.StreamingLoader(dataset, batch_size, **options)
    return found


def _iterable(
    dataset: Any, batch_size: int, data: Splits, keys: DataKeys, settings: TrainerSettings, options: dict[str, Any],
    decide: Decide,
) -> iterating.IterableLoader:  # fmt: skip
    """Return the loader of what can only be iterated, and note what an epoch of it is."""
    steps, train = None, options.pop("shuffle")
    workers = 0 if keys.num_workers == "auto" else int(keys.num_workers)
    if train:
        steps, told = iterating.steps_of(dataset, keys.steps_per_epoch, settings.max_steps)
        data.notes.append(told)
        if workers > 1:
            data.notes.append(f"{workers} workers: each iterates a copy; get_worker_info must give each its share")
        how = (
            "goes on by its state_dict"
            if has_state(dataset) and workers <= 1
            else "reads again what it used, and skips it"
        )
        data.notes.append(f"its order is its own; a resumed run {how}")
    if keys.on_error == "skip":
        raise ConfigError("data.on_error=skip needs samples that have numbers, an iterable leaves them out itself")
    options |= {"num_workers": workers, "timeout_s": keys.timeout_s}
    found = iterating.IterableLoader(dataset, batch_size, steps=steps, **options)
    if keys.steps_per_epoch is None and steps is not None:
        found.order.options["steps"] = None  # that of the run, which may be made longer
    return found


def _kind(
    data: Splits, keys: DataKeys, device: torch.device, skips_itself: bool, collate: Any, decide: Decide
) -> tuple[str, int]:
    fits, reason = resident.fits(data.train, device) if collate is None else (False, "batches are made by data.collate")
    kind = keys.loader
    if kind == "auto":
        kind = decide("data.loader", "memory" if fits else "workers", reason)
    elif kind == "memory" and (collate is not None or not isinstance(data.train, ArrayDataset)):
        raise ConfigError(f"data.loader=memory needs arrays: {reason}. data.loader=workers")
    if kind == "memory" and keys.on_error == "skip" and not skips_itself:
        raise ConfigError("data.on_error=skip is for data.loader=workers; data held in memory was read before")
    if kind == "memory":
        return kind, 0
    if is_iterable(data.train):
        reason = "of more each would give every sample, unless the data set shares them out"
        return kind, decide("data.num_workers", 0, reason) if keys.num_workers == "auto" else int(keys.num_workers)
    if keys.steps_per_epoch is not None:
        raise ConfigError("data.steps_per_epoch is for data that can only be iterated. trainer.limit_batches")
    if keys.num_workers == "auto":
        workers, reason = streaming.default_workers()
        return kind, decide("data.num_workers", workers, reason)
    return kind, int(keys.num_workers)


def _eval_batch_size(keys: DataKeys) -> int:
    # without gradients a batch holds far less, and a larger one is faster
    return max(256, keys.batch_size) if keys.eval_batch_size == "auto" else int(keys.eval_batch_size)
