"""Own the feeding of data that is held whole: a batch is one selection of rows, on the device.

Knows nothing of what a transform does, and nothing of models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from dlwp import distributed, memory, randomness
from dlwp.data.datasets import ArrayDataset
from dlwp.data.facts import name_of
from dlwp.devices import sent
from dlwp.errors import ConfigError
from dlwp.nested import each, rebuilt

_SHARE = 0.3
"""The share of a card's free memory that the data may take."""
_AT_ONCE = 2**19
"""Bytes of small batches that are selected and normalised at once."""


class ResidentLoader:
    """Feed an `ArrayDataset` from the device's memory.

    Args:
        dataset: held whole; moved to the device once.
        batch_size: samples a batch; the last may be smaller.
        seed: of the run.
        shuffle: whether epoch n comes in the order permutation(seed, "order", n).
        device: where batches are made.
        transform: (inputs, targets, step, samples, epoch) -> (inputs, targets), with step = number · len(self) +
            position, and samples the indices in the set, on the host.
        drop_last: whether a smaller last batch is left out.
        limit_batches: batches an epoch at most.
        channels_last: whether pictures (B, C, H, W) come in the memory format (B, H, W, C).

    Attributes:
        num_samples: samples used an epoch. batch_size, transform: as given. order: of the samples.
        indices: of the samples in the last batch, int64 (B,), on the host.
        least_share: samples of a batch that a process gets at least, or none, where each is to make its own alone
            (`distributed.portion`); None: whole batches. divisible: whether that can be.
    """

    def __init__(
        self,
        dataset: ArrayDataset,
        batch_size: int,
        *,
        seed: int = 0,
        shuffle: bool = False,
        device: torch.device | str = "cpu",
        transform: Callable[..., Any] | None = None,
        drop_last: bool = False,
        limit_batches: int | None = None,
        channels_last: bool = False,
    ) -> None:
        if not isinstance(dataset, ArrayDataset):
            raise ConfigError(
                f"data.loader=memory needs data held as two arrays, {type(dataset).__name__} gives samples."
                " data.loader=workers"
            )
        self.device = torch.device(device)
        self._held = dataset.to(self.device)
        self.order = Order(len(dataset), batch_size, seed, shuffle, drop_last, limit_batches, shares_of(dataset))
        self.transform = transform
        self._channels_last = channels_last
        self._at_once = self._batches_at_once(batch_size)
        self.divisible, self.least_share = is_divisible(transform), None
        self.indices: Tensor | None = None
        self.num_samples = self.order.num_samples
        self.batch_size = batch_size

    def __len__(self) -> int:
        return len(self.order)

    def epoch(self, number: int = 0, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches (inputs, targets) of epoch `number` from batch `start` on; what is before costs nothing."""
        if hasattr(self._held, "set_epoch"):
            self._held.set_epoch(number)
        order = self.order.of(number)
        there = sent(order, self.device)
        at_once = self._at_once if self.least_share is None else 1
        for first in range(start, len(self), at_once):
            bounds = self.order.bounds(first, at_once)
            own, part = portion(order[bounds], self.least_share)
            pair = self._held.batch(there[bounds][own])
            at = (number * len(self) + first, order[bounds][own], number)
            batch = finish(pair, self.transform, at, self._channels_last, part)
            if at_once == 1:
                self.indices = order[bounds]
                yield batch
                continue
            cuts = (part.split(self.batch_size) for part in (order[bounds], *batch))
            for self.indices, inputs, targets in zip(*cuts, strict=True):
                yield inputs, targets

    def _batches_at_once(self, batch_size: int) -> int:
        """Return how many batches one selection makes: more than one only where nothing is drawn for a batch.

        Each begins at a multiple of 64 bytes, as a tensor of its own would: kernels may round otherwise elsewhere.
        """
        if getattr(self.transform, "ops", ()) or not (self.transform is None or hasattr(self.transform, "ops")):
            return 1
        row = max(1, self._held[0][0].numel())
        return max(1, _AT_ONCE // (4 * row * batch_size)) if row * batch_size % 64 == 0 == batch_size % 64 else 1


def shares_of(dataset: Any) -> list[list[int]] | None:
    """Return the shares of a data set's parts in an epoch, as `Order` takes them; None where all samples are used."""
    return getattr(dataset, "shares", None)


class Order:
    """The order of an epoch's samples, and its cutting into batches: a function of (seed, epoch, position).

    Args:
        shares: of data that is drawn from several parts, which lie one after the other: for each how many samples it
            has, and how many an epoch takes of it; together these are as many as there are samples.

    Attributes:
        options: the arguments. num_samples: samples used an epoch.
    """

    def __init__(
        self, length: int, batch_size: int, seed: int, shuffle: bool, drop_last: bool, limit_batches: int | None,
        shares: list[list[int]] | None = None,
    ) -> None:  # fmt: skip
        self.options: dict[str, Any] = {
            "length": length, "batch_size": batch_size, "seed": seed, "shuffle": shuffle, "drop_last": drop_last,
            "limit_batches": limit_batches, **({} if shares is None else {"shares": shares}),
        }  # fmt: skip
        self._shares = shares
        self._made: tuple[int, Tensor] | None = None
        count = length // batch_size if drop_last else -(-length // batch_size)
        if count == 0:
            raise ConfigError(
                f"no batch of {batch_size:,} can be made of {length:,} samples."
                f" data.drop_last=false or data.batch_size={length}"
            )
        self._count = count if limit_batches is None else min(count, limit_batches)
        self._length, self._batch_size, self._seed, self._shuffle = length, batch_size, seed, shuffle
        self.num_samples = min(self._count * batch_size, length)

    def __len__(self) -> int:
        return self._count

    def of(self, number: int) -> Tensor:
        """Return the indices of epoch `number`, (N,), on the host; the last asked for is kept."""
        if self._made is None or self._made[0] != number:
            if self._shuffle and self._shares is not None:
                self._made = number, _drawn(self._shares, self._seed, number)
            elif self._shuffle:
                self._made = number, randomness.permutation(self._length, self._seed, "order", number)
            else:
                self._made = number, torch.arange(self._length)
        return self._made[1]

    def batch(self, number: int, position: int) -> Tensor:
        """Return the indices of a batch, (B,), on the host."""
        return self.of(number)[self.bounds(position)]

    def bounds(self, position: int, count: int = 1) -> slice:
        """Return where `count` batches from batch `position` on lie in the order; fewer, where it ends."""
        last = min(position + count, self._count)
        return slice(position * self._batch_size, min(last * self._batch_size, self._length))


def _drawn(shares: list[list[int]], seed: int, number: int) -> Tensor:
    """Return the indices of an epoch in which each part has its share, (N,): none of a part is drawn twice before all
    of it were drawn."""
    found, begin = [], 0
    for part, (count, taken) in enumerate(shares):
        rounds = -(-taken // count) if count else 0
        orders = [randomness.permutation(count, seed, "part", number, part, one) for one in range(rounds)]
        found += [begin + torch.cat(orders)[:taken]] if orders else []
        begin += count
    whole = torch.cat(found)
    return whole[randomness.permutation(len(whole), seed, "order", number)]


def is_divisible(transform: Any) -> bool:
    """Return whether what is done to a batch can be done to a part of it alone, with the same result."""
    return transform is None or (hasattr(transform, "mixes") and not transform.mixes)


def portion(indices: Tensor, least: int | None) -> tuple[slice, tuple[int, int] | None]:
    """Return this process's slice of a batch, and (begin, whole) of it; all of it and None for whole batches."""
    if least is None:
        return slice(None), None
    own, _ = distributed.portion(len(indices), least)
    return own, (own.start, len(indices))


def finish(
    batch: Any, transform: Callable[..., Any] | None, at: tuple[int, Tensor | None, int], channels_last: bool,
    part: tuple[int, int] | None = None,
) -> Any:  # fmt: skip
    """Return a batch on its device as the model sees it: in the memory format asked for, and transformed.

    `at` says where it stands: (step, indices of its samples, epoch); `part`, of which batch it is a part.

    The format is changed first, while pictures are uint8 and four times smaller. A batch that is no pair (a dictionary,
    a longer tuple) is not scaled, changed or normalised: what its parts mean is known to the step alone.
    """
    if isinstance(batch, Tensor):
        return finish((batch, None), transform, at, channels_last, part)[0]
    if not (isinstance(batch, tuple | list) and len(batch) == 2 and isinstance(batch[0], Tensor)):
        dtype = getattr(transform, "dtype", None)
        return each(batch, lambda value: _finished(value, dtype, channels_last))
    inputs, targets = batch
    inputs = _formatted(inputs, channels_last)
    if transform is not None:
        inputs, targets = transform(inputs, targets, *at, *([part] if part else []))
        inputs = _formatted(inputs, channels_last)
    return rebuilt(batch, [inputs, targets]) if hasattr(batch, "_fields") else (inputs, targets)


def _finished(value: Any, dtype: torch.dtype | None, channels_last: bool) -> Any:
    """Return a part of a batch that is no pair in the precision and the memory format of the model, else as it is."""
    if not isinstance(value, Tensor):
        return value
    value = value.to(dtype) if dtype is not None and value.is_floating_point() else value
    return _formatted(value, channels_last) if value.is_floating_point() else value


def _formatted(inputs: Tensor, channels_last: bool) -> Tensor:
    if inputs.dim() != 4:
        return inputs
    return inputs.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def fits(dataset: Dataset[Any], device: torch.device) -> tuple[bool, str]:
    """Return whether a data set can be held whole on the device, and the reason."""
    if not isinstance(dataset, ArrayDataset):
        return False, f"{name_of(dataset)} gives samples one by one"
    needed = dataset.nbytes
    amount = f"{needed / 2**20:,.0f} MiB" if needed >= 2**20 else f"{needed / 2**10:,.0f} KiB"
    if device.type == "cpu" and dataset.in_memory:
        return True, f"{amount}, as it lies"
    free = _free_memory(device)
    if device.type == "cpu":  # the system keeps in memory what is read of a file, as far as there is room
        return needed <= free, f"{amount}{'' if needed <= free else ' is more than half of the memory'}, memory-mapped"
    if needed <= _SHARE * free:
        return True, f"{amount}, fits {device}"
    return False, f"{amount} is more than {_SHARE:.0%} of the {free / 2**20:,.0f} MiB free on {device}"


def _free_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return memory.whole() // 2  # the host's; MPS shares it
