"""Own rank, world size and collectives, behind one small interface: one process is the case of one.

Knows nothing of what is reduced.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def _active() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def rank() -> int:
    """Return the number of this process, from 0."""
    return torch.distributed.get_rank() if _active() else 0


def world_size() -> int:
    """Return the number of processes."""
    return torch.distributed.get_world_size() if _active() else 1


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
        torch.distributed.all_gather_object(found, value)
    return found


def share(length: int) -> slice:
    """Return this process's unpadded slice of a batch of `length`: contiguous, sizes differing by at most one."""
    number, size = rank(), world_size()
    base, extra = divmod(length, size)
    start = number * base + min(number, extra)
    return slice(start, start + base + (number < extra))
