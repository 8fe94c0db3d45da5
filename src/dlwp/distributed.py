"""Own rank, world size and collectives, behind one small interface: one process is the case of one.

Knows nothing of what is reduced. What is agreed on goes between hosts (gloo), so that no card is waited for.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


def _active() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def rank() -> int:
    """Return the number of this process, from 0."""
    return torch.distributed.get_rank() if _active() else 0


def world_size() -> int:
    """Return the number of processes."""
    return torch.distributed.get_world_size() if _active() else 1


def local_size() -> int:
    """Return how many processes share the processors of this one: as LOCAL_WORLD_SIZE says, else all."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", world_size())) if _active() else 1


def is_main() -> bool:
    """Return whether this process writes files and speaks to the person."""
    return rank() == 0


def sum_(tensor: Tensor) -> Tensor:
    """Sum `tensor` over all processes in place and return it; with one process this does nothing."""
    if _active():
        torch.distributed.all_reduce(tensor)
    return tensor


def gathered(value: Any) -> list[Any]:
    """Return what each process gives, in the order of ranks."""
    found: list[Any] = [value] * world_size()
    if _active():
        torch.distributed.all_gather_object(found, value, group=hosts())
    return found


def summed(sums: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
    """Return nested lists of numbers by name, each added up over the processes that have one of the name."""
    if world_size() == 1:
        return {name: list(value) for name, value in sums.items()}
    total: dict[str, Any] = {}
    for one in gathered(dict(sums)):
        total = {
            **total,
            **{name: _added(total[name], value) if name in total else value for name, value in one.items()},
        }
    return total


def _added(one: Any, other: Any) -> Any:
    return [_added(*pair) for pair in zip(one, other, strict=True)] if isinstance(one, list) else one + other


def any_of(value: T | None) -> T | None:
    """Return the first value, in the order of ranks, that is not None; all processes ask at once, and get the same."""
    if world_size() == 1:
        return value
    flag = torch.tensor([value is not None], dtype=torch.int32)
    torch.distributed.all_reduce(flag, group=hosts())
    return next(one for one in gathered(value) if one is not None) if flag.item() else None


def from_first(make: Callable[[], T]) -> T:
    """Return what `make` gives in the first process, which alone calls it."""
    if world_size() == 1:
        return make()
    holder = [make() if is_main() else None]
    torch.distributed.broadcast_object_list(holder, group=hosts())
    return holder[0]  # type: ignore[return-value]


@functools.cache
def hosts() -> Any:
    """Return the group in which hosts speak to one another, whatever the cards use."""
    return torch.distributed.new_group(backend="gloo")


def portion(length: int, least: int) -> tuple[slice, bool]:
    """Return this process's slice of a batch, and whether it counts: where it has none it takes the first `least`.

    So every process has samples to go through a model with, as collectives in it need.
    """
    own = share(length, least)
    return (own, True) if own.start < own.stop else (slice(0, min(least, length)), False)


def share(length: int, least: int = 1) -> slice:
    """Return this process's unpadded slice of a batch of `length`: contiguous, sizes differing by at most one.

    Args:
        least: samples that a process gets, or none.
    """
    number, size = rank(), max(1, min(world_size(), length // least))
    base, extra = divmod(length, size)
    start = min(number, size) * base + min(number, extra)
    return slice(start, start + (base + (number < extra) if number < size else 0))
