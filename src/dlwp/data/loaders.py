"""Own how splits become loaders: held in memory or read by workers, and what is done to a batch.

Knows nothing of how a data set came about, nor of what its batches are for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from dlwp import nested
from dlwp.data import resident, streaming
from dlwp.data.augment import BatchTransform, build_ops
from dlwp.data.datasets import ArrayDataset, Splits
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
    for name, dataset in data.present().items():
        if len(dataset) == 0:  # type: ignore[arg-type]
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
        if kind == "memory":
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
    if keys.num_workers == "auto":
        workers, reason = streaming.default_workers()
        return kind, decide("data.num_workers", workers, reason)
    return kind, int(keys.num_workers)


def _eval_batch_size(keys: DataKeys) -> int:
    # without gradients a batch holds far less, and a larger one is faster
    return max(256, keys.batch_size) if keys.eval_batch_size == "auto" else int(keys.eval_batch_size)
