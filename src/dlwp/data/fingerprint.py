"""Own the fingerprint of a data set: by which two runs can tell whether they saw the same samples.

Knows nothing of who compares. It is taken in a moment: of large sets, of samples spread evenly over them.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset, Subset

from dlwp import nested
from dlwp.data.datasets import ArrayDataset, Splits, is_iterable, length_of, targets_of
from dlwp.data.facts import path_of

_MOST_BYTES = 16 * 2**20  # a tenth of a second
_MOST_FILES = 1000
_ROWS = 1024


def fingerprint(splits: Splits) -> dict[str, Any]:
    """Return split -> {"samples", "digest", "of"}: how many samples, a hash (None where there is none), and of what.

    Arrays are hashed as they lie in memory, up to 16 MiB of each split; pictures in files by the names and sizes of up
    to 1,000; of a data set of one's own its targets, where it tells them: no sample is read for this.
    """
    return {name: _of_split(dataset) for name, dataset in splits.present().items()}


def _of_split(dataset: Dataset[Any]) -> dict[str, Any]:
    count = None if is_iterable(dataset) else length_of(dataset)
    digest, of = (None, "nothing") if not count else _digest(dataset, count)
    return {"samples": count, "digest": digest, "of": of}


def _digest(dataset: Dataset[Any], count: int) -> tuple[str | None, str]:
    hashed = hashlib.blake2b(str(count).encode(), digest_size=16)
    if isinstance(dataset, ArrayDataset):
        size = sum(one.nbytes for one in nested.tensors(dataset.batch(torch.zeros(1, dtype=torch.int64))))
        chosen = _spread(count, max(_MOST_BYTES // max(size, 1), 1))
        for start in range(0, len(chosen), _ROWS):
            _add(hashed, dataset.batch(chosen[start : start + _ROWS]))
        return hashed.hexdigest(), _words("samples", len(chosen), count)
    if path_of(dataset, 0) is not None:
        chosen = _spread(count, _MOST_FILES)
        for index in chosen.tolist():
            path = path_of(dataset, index) or ""
            hashed.update(f"{'/'.join(Path(path).parts[-2:])} {_size(path)}\n".encode())
        return hashed.hexdigest(), _words("names and sizes of files", len(chosen), count)
    found = targets_of(dataset)
    if found is None:
        return None, "nothing"
    if isinstance(dataset, Subset):
        _add(hashed, torch.as_tensor(dataset.indices, dtype=torch.int64))
    _add(hashed, found[0])
    return hashed.hexdigest(), "targets"


def _spread(count: int, most: int) -> torch.Tensor:
    """Return up to `most` indices, spread evenly, first and last among them."""
    if count <= most:
        return torch.arange(count)
    return torch.linspace(0, count - 1, most, dtype=torch.float64).round().to(torch.int64)


def _add(hashed: Any, values: Any) -> None:
    """Add the type, shape and bytes of each tensor."""
    for one in nested.tensors(values):
        plain = one.detach().cpu().contiguous()
        hashed.update(f"{plain.dtype}{list(plain.shape)}".encode())
        hashed.update(plain.reshape(-1).view(torch.uint8).numpy().data)


def _words(what: str, taken: int, count: int) -> str:
    return what if taken == count else f"{what}, {taken:,} of {count:,}"


def _size(path: str) -> int:
    try:
        return Path(path).stat().st_size
    except OSError:
        return -1
