"""Own what a batch is to the loop: who gives it, its size, its weight, its pieces, the step that makes it a loss.

Knows nothing of optimizers, evaluation or observers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

StepFunction = Callable[[nn.Module, Any, Any], tuple[Any, Any]]
"""(model, batch, criterion) -> (loss or a dictionary with "loss" and further numbers, outputs)."""


class Loader(Protocol):
    """What feeds the loop: the batches of a numbered epoch, from a position that can be sought.

    It may have two attributes more: `indices`, of the samples in its last batch (int64, on the host), for the audit;
    and `listener`, which is set to the trainer, to be told while it waits (`Trainer.waiting`).
    """

    num_samples: int
    batch_size: int

    def __len__(self) -> int:
        """Return the number of batches an epoch."""
        ...

    def epoch(self, number: int = 0, start: int = 0) -> Iterator[Any]:
        """Yield the batches of an epoch on the device, from batch `start` on."""
        ...


def supervised_step(model: nn.Module, batch: tuple[Any, Any], criterion: Any) -> tuple[Tensor, Any]:
    """Return the criterion of a pair (inputs, targets), and the outputs: what training on examples means."""
    inputs, targets = batch
    outputs = model(inputs)
    return criterion(outputs, targets), outputs


def is_pair(batch: Any) -> bool:
    """Return whether a batch is (inputs, targets)."""
    return isinstance(batch, tuple | list) and len(batch) == 2


def size_of(batch: Any) -> int:
    """Return the number of samples in a batch: the length of its first tensor."""
    while not isinstance(batch, Tensor):
        if type(batch) is tuple:  # asked first: a test for Mapping takes longer
            batch = batch[0]
            continue
        batch = next(iter(batch.values())) if isinstance(batch, Mapping) else batch[0]
    return batch.shape[0]


def targets_of(batch: Any) -> Any:
    """Return what the weight of a batch follows from: the targets of a pair, else the number of samples."""
    return batch[1] if is_pair(batch) else float(size_of(batch))


def split_result(result: Any) -> tuple[Tensor, dict[str, Tensor]]:
    """Return (loss, further numbers) of what a step function gave as its loss."""
    if isinstance(result, Tensor) or not isinstance(result, Mapping):
        return result, {}
    return result["loss"], {key: value for key, value in result.items() if key != "loss"}


def cut(batch: Any, count: int) -> list[Any]:
    """Cut a batch into at most `count` pieces along the first axis of each tensor, sizes as equal as can be.

    >>> [len(piece) for piece in cut(torch.zeros(7), 3)]
    [3, 2, 2]
    """
    if count == 1:
        return [batch]
    if isinstance(batch, Tensor):
        return list(torch.tensor_split(batch, min(count, len(batch))))
    if isinstance(batch, Mapping):
        parts = {key: cut(value, count) for key, value in batch.items()}
        return [dict(zip(parts, values, strict=True)) for values in zip(*parts.values(), strict=True)]
    return [type(batch)(values) for values in zip(*(cut(value, count) for value in batch), strict=True)]
