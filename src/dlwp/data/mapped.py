"""Own data that lies in a file as rows of numbers and is mapped into memory, not loaded.

Knows nothing of what is in the file beside the rows, nor of what they mean.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dlwp.data.datasets import ArrayDataset, is_channels_last, rows

_MAPPED_BYTES = 2**30  # what a process maps of a larger file before it lets go
_AROUND_BYTES = 2**16  # the system maps so much around what is read


class MappedRows:
    """Rows of numbers in a file, read by their numbers; what this process has mapped of it stays small.

    Args:
        file: the file. offset: where in it the numbers begin, in bytes.
        dtype, shape: of all of them, (N, ...), in the order of C.
        order: of the axes as they are given: (0, 3, 1, 2) makes (N, H, W, C) pictures (N, C, H, W).
    """

    def __init__(
        self, file: Path, offset: int, dtype: torch.dtype, shape: Sequence[int], order: Sequence[int] | None = None
    ) -> None:
        self._made_of = file, offset, dtype, tuple(shape), order
        with file.open("rb") as opened:
            # a private copy: torch takes only what can be written; nobody writes
            self._memory = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_COPY)
        flat = torch.frombuffer(self._memory, dtype=dtype, count=math.prod(shape), offset=offset)
        whole = flat.view(*shape)
        self._rows = whole if order is None else whole.permute(*order)
        self.row_bytes = math.prod(shape[1:]) * dtype.itemsize
        self._mapped = 0

    def __reduce__(self) -> Any:
        return MappedRows, self._made_of  # to a worker that was spawned

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def dtype(self) -> torch.dtype:
        """Of the numbers."""
        return self._rows.dtype

    def rows(self, indices: Tensor) -> Tensor:
        """Return rows (B, ...), copied."""
        found = rows(self._rows, indices)
        self._mapped += len(indices) * max(self.row_bytes, _AROUND_BYTES)
        if min(self._mapped, self._rows.nbytes) > _MAPPED_BYTES:
            self._memory.madvise(mmap.MADV_DONTNEED)  # of this process; the system keeps what it has room for
            self._mapped = 0
        return found


class MappedDataset(ArrayDataset):
    """Some of the rows of a file, and their targets in memory; a subset copies no row."""

    in_memory = False

    def __init__(self, mapped: MappedRows, chosen: Tensor, targets: Tensor) -> None:
        self._mapped = mapped
        self._chosen = chosen
        self.targets = targets

    @property
    def inputs(self) -> Tensor:  # type: ignore[override]
        """All rows, read into memory."""
        return self._mapped.rows(self._chosen)

    @property
    def nbytes(self) -> int:
        """Bytes of all rows and targets."""
        return len(self) * self._mapped.row_bytes + self.targets.nbytes

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self._mapped.rows(self._chosen[index].view(1))[0], self.targets[index]

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return inputs (B, ...) and targets (B, ...) of these samples."""
        return self._mapped.rows(self._chosen.index_select(0, indices)), self.targets.index_select(0, indices)

    def to(self, device: torch.device) -> ArrayDataset:
        """Return the same on a device: on the host as it is, on a card read whole, a piece at a time."""
        if device.type == "cpu":
            return self
        first = self.batch(torch.arange(1))[0]
        form = torch.channels_last if is_channels_last(first) else torch.contiguous_format
        size = (len(self), *first.shape[1:])
        inputs = torch.empty(size, dtype=first.dtype, device=device, memory_format=form)
        for piece in torch.arange(len(self)).split(4096):
            inputs[piece[0] : piece[-1] + 1] = self.batch(piece)[0].to(device)
        return ArrayDataset(inputs, self.targets.to(device))

    def subset(self, indices: Tensor) -> ArrayDataset:
        """Return the samples at `indices`."""
        return MappedDataset(self._mapped, self._chosen[indices], self.targets[indices])
