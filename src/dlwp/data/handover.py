"""Own how batches come from a worker to this process: in shared memory that serves again and again.

Knows nothing of what is in them. Torch takes new shared memory for each batch, which costs a picture of 224x224 pixels
84 µs, a sixth of what its decoding takes, and opens a connection to hand it over; memory used before costs 3 µs.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate, get_worker_info
from torch.utils.data._utils.collate import collate, default_collate_fn_map

from dlwp.data.datasets import is_channels_last
from dlwp.nested import each

PREFETCH = 2
"""Batches that a worker may be ahead by, as `DataLoader` has it."""

_TURNS = PREFETCH + 2  # of its last batches two wait and two are the loop's, when a worker begins the next
_SMALL_BYTES = 2**16


@dataclass(frozen=True)
class Parcel:
    """A tensor that lies in a worker's memory; `memory` comes with the first only."""

    key: tuple[int, int, int]  # worker, turn, number in the batch
    serial: int  # of the worker's batches
    dtype: torch.dtype
    size: tuple[int, ...]
    stride: tuple[int, ...]
    memory: Tensor | None

    def within(self, memory: Tensor) -> Tensor:
        """Return the tensor, without a copy."""
        return memory.view(self.dtype).as_strided(self.size, self.stride)


class Sender:
    """The worker's side: large tensors of a batch become `Parcel`s.

    Args:
        free: int64 (workers, turns), shared: the serial of the last batch of that turn that came and was let go of.
    """

    def __init__(self, free: Tensor) -> None:
        self._free = free
        self._memory: dict[tuple[int, int], Tensor] = {}
        self._sent: dict[int, int] = {}  # turn -> serial
        self._worker = self._turn = self._number = self._serial = 0

    def collated(self, samples: Sequence[Any]) -> Any:
        """Return samples as a batch, as `default_collate` makes it."""
        self._begin()
        return collate(samples, collate_fn_map={**default_collate_fn_map, Tensor: self._stacked})

    def copied(self, batch: Any) -> Any:
        """Return what is a batch already, its large tensors copied to where they are handed over."""
        self._begin()
        return each(batch, self._copied)

    def _copied(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or not _is_plain(value):
            return value
        if not (value.is_contiguous() or is_channels_last(value)):  # it is torch's to hand over
            return value
        parcel = self._parcel(value.dtype, value.shape, value.stride(), value.nbytes)
        if parcel is not None:
            self._within(parcel).copy_(value)
        return value if parcel is None else parcel

    def _begin(self) -> None:
        self._worker = get_worker_info().id  # type: ignore[union-attr]
        self._serial, self._number = self._serial + 1, 0
        self._turn = self._serial % _TURNS
        if self._sent.get(self._turn) != self._free[self._worker, self._turn]:  # it is kept, or was never looked at
            for place in [place for place in self._memory if place[0] == self._turn]:
                del self._memory[place]

    def _stacked(self, tensors: Sequence[Tensor], *, collate_fn_map: Any = None) -> Any:
        first = tensors[0]
        size = torch.Size([len(tensors), *first.shape])
        stride = (first.numel(), *torch.empty(first.shape, device="meta").stride())
        parcel = self._parcel(first.dtype, size, stride, len(tensors) * first.nbytes) if _is_plain(first) else None
        if parcel is None:
            return default_collate(list(tensors))
        torch.stack(list(tensors), 0, out=self._within(parcel))
        return parcel

    def _parcel(self, dtype: torch.dtype, size: torch.Size, stride: tuple[int, ...], nbytes: int) -> Parcel | None:
        if nbytes <= _SMALL_BYTES:
            return None
        place = (self._turn, self._number)
        self._number += 1
        self._sent[self._turn] = self._serial
        memory = self._memory.get(place)
        is_new = memory is None or len(memory) < nbytes
        if is_new:
            self._memory[place] = memory = torch.empty(-(-nbytes // 16) * 16, dtype=torch.uint8).share_memory_()
        return Parcel((self._worker, *place), self._serial, dtype, tuple(size), stride, memory if is_new else None)

    def _within(self, parcel: Parcel) -> Tensor:
        return parcel.within(self._memory[parcel.key[1:]])


def _is_plain(tensor: Tensor) -> bool:
    return not tensor.is_nested and tensor.layout is torch.strided and not tensor.requires_grad


class Receiver:
    """This process's side: `Parcel`s become tensors, and workers are told when nothing refers to these any more.

    Attributes:
        free: as `Sender` takes it.
    """

    def __init__(self, num_workers: int) -> None:
        self.free = torch.zeros((num_workers, _TURNS), dtype=torch.int64).share_memory_()
        self._memory: dict[tuple[int, int, int], Tensor] = {}
        self._held: dict[tuple[int, int, int], tuple[int, weakref.ref[Any]]] = {}

    def opened(self, batch: Any) -> Any:
        """Return a batch with its parcels opened."""
        return each(batch, self._open)

    def release(self) -> None:
        """Tell workers what memory they may use again; before they are told of further batches."""
        gone = {key: serial for key, (serial, held) in self._held.items() if held() is None}
        for key, serial in gone.items():
            del self._held[key]
            if not any(other[:2] == key[:2] for other in self._held):
                self.free[key[:2]] = serial

    def forget(self) -> None:
        """Let go of the memory of workers that are gone."""
        self._memory.clear()
        self._held.clear()
        self.free.zero_()

    def _open(self, value: Any) -> Any:
        if not isinstance(value, Parcel):
            return value
        if value.memory is not None:
            self._memory[value.key] = value.memory
        array = self._memory[value.key].numpy()  # a new object, which lives as long as any tensor on it
        self._held[value.key] = value.serial, weakref.ref(array)
        return value.within(torch.from_numpy(array))
