"""Own what a sample and a batch are made of: their tensors, however nested, which of them is the target, and cutting.

Knows nothing of what is computed of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor

from dlwp.errors import ConfigError

TARGETS = ("target", "targets", "label", "labels")
"""Names under which the target stands in a dictionary or a namedtuple."""


def each(batch: Any, change: Callable[[Any], Any]) -> Any:
    """Return a batch with each thing in its dictionaries, tuples and lists changed."""
    if isinstance(batch, Mapping):
        return {key: each(value, change) for key, value in batch.items()}
    if isinstance(batch, tuple | list) and not hasattr(batch, "to"):  # torch's PackedSequence is a tuple that moves
        return rebuilt(batch, [each(value, change) for value in batch])
    return change(batch)


def rebuilt(like: Any, parts: list[Any]) -> Any:
    """Return parts as the tuple, namedtuple or list that `like` is."""
    return type(like)(*parts) if hasattr(like, "_fields") else type(like)(parts)


def tensors(batch: Any) -> Iterator[Tensor]:
    """Yield the tensors in a batch, in their order."""
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, Mapping | tuple | list):
        for value in batch.values() if isinstance(batch, Mapping) else batch:
            yield from tensors(value)


def is_pair(batch: Any) -> bool:
    """Return whether a batch is (inputs, targets)."""
    return isinstance(batch, tuple | list) and len(batch) == 2


def is_named(batch: Any) -> bool:
    """Return whether the parts of a batch have names that are words: a dictionary or a namedtuple."""
    return hasattr(batch, "_fields") or (isinstance(batch, Mapping) and all(isinstance(key, str) for key in batch))


def named(batch: Any) -> dict[str, Any]:
    """Return the parts of a dictionary or a namedtuple by name."""
    return dict(batch) if isinstance(batch, Mapping) else dict(zip(batch._fields, batch, strict=True))


def target_name(batch: Any) -> str | None:
    """Return the name of the target in a dictionary or namedtuple, one of `TARGETS`; None where there is none."""
    names = named(batch) if is_named(batch) else ()
    return next((name for name in TARGETS if name in names), None)


def target_of(batch: Any) -> Any:
    """Return the target in a batch, or in a sample; None where it is not known.

    It is the second of a pair; of a dictionary or namedtuple what stands under one of `TARGETS`; the last of a longer
    tuple.
    """
    if type(batch) is tuple and len(batch) == 2:  # asked first: it is nearly always so
        return batch[1]
    if (name := target_name(batch)) is not None:
        return named(batch)[name]
    if is_pair(batch):
        return batch[1]
    is_longer = isinstance(batch, tuple | list) and len(batch) > 2 and not hasattr(batch, "_fields")
    return batch[-1] if is_longer and any(True for _ in tensors(batch)) else None


def inputs_of(batch: Any) -> Any:
    """Return what a model is given of a batch, or of a sample: all but its target, the thing itself where it is one."""
    if is_named(batch):
        name, parts = target_name(batch), named(batch)
        if name is not None:
            parts.pop(name)
            return next(iter(parts.values())) if len(parts) == 1 else parts
    if is_pair(batch):
        return batch[0]
    return batch[:-1] if target_of(batch) is not None else batch


def size_of(batch: Any) -> int:
    """Return the number of samples in a batch: the length of its first tensor that has one, else its own."""
    while type(batch) is tuple:  # asked first: a test for Mapping takes longer
        if isinstance(batch[0], Tensor):
            return batch[0].shape[0] if batch[0].dim() else 1
        if any(True for _ in tensors(batch[0])):
            batch = batch[0]
            continue
        break
    first = next((tensor for tensor in tensors(batch) if tensor.dim()), None)
    if first is not None:
        return first.shape[0]
    return len(batch) if hasattr(batch, "__len__") and not isinstance(batch, Tensor) else 1


def cut(batch: Any, count: int) -> list[Any]:
    """Cut a batch into at most `count` pieces along the first axis of each tensor, sizes as equal as can be.

    What has no such axis (a number, a text) stands in each piece.

    Raises:
        ConfigError: the first axes of its tensors differ.

    >>> import torch
    >>> [len(piece) for piece in cut(torch.zeros(7), 3)]
    [3, 2, 2]
    """
    if count == 1:
        return [batch]
    size = size_of(batch)
    pieces = min(count, size)
    bounds = [number * (size // pieces) + min(number, size % pieces) for number in range(pieces + 1)]
    return [_slice(batch, *ends, size) for ends in itertools.pairwise(bounds)]


def piece(batch: Any, bounds: slice) -> Any:
    """Return the samples of a batch within bounds, as `cut` does.

    Raises:
        ConfigError: the first axes of its tensors differ.
    """
    size = size_of(batch)
    return batch if bounds == slice(0, size) else _slice(batch, bounds.start, bounds.stop, size)


def _slice(batch: Any, begin: int, end: int, size: int) -> Any:
    if isinstance(batch, Mapping):
        return {key: _slice(value, begin, end, size) for key, value in batch.items()}
    is_list = isinstance(batch, tuple | list) and not hasattr(batch, "to")
    if is_list and any(isinstance(part, Tensor | Mapping | tuple | list) for part in batch):
        return rebuilt(batch, [_slice(part, begin, end, size) for part in batch])
    if isinstance(batch, Tensor) and batch.dim() == 0:
        return batch
    if not (isinstance(batch, Tensor) or is_list):
        if hasattr(batch, "to"):
            raise ConfigError(f"a batch that holds a {type(batch).__name__} cannot be cut. trainer.accumulate=1")
        return batch
    if len(batch) != size:
        raise ConfigError(
            f"a batch cannot be cut: its tensors have first axes of {size} and {len(batch)}. trainer.accumulate=1"
        )
    return batch[begin:end]


def described(batch: Any) -> str:
    """Return what a batch or a sample is made of, in a line: "image float32 3x32x32, label int64"."""
    if is_named(batch):
        return ", ".join(f"{name} {described(part)}".strip() for name, part in named(batch).items())
    if isinstance(batch, tuple | list) and any(isinstance(part, Tensor) for part in batch):
        return f"({', '.join(described(part) for part in batch)})"
    kind = str(getattr(batch, "dtype", type(batch).__name__)).removeprefix("torch.")
    return f"{kind} {'x'.join(map(str, getattr(batch, 'shape', ())))}".strip()
