"""Own what a batch is to the loop: who gives it, its weight, the step that makes it a loss.

Knows nothing of optimizers, evaluation or observers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from torch import Tensor, nn

from dlwp import distributed
from dlwp.nested import size_of, target_of

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


def divide(loader: Any, least: int) -> None:
    """Let each process make only its own part of each batch, where the loader can; `least` as in `portion`."""
    if distributed.world_size() > 1 and getattr(loader, "divisible", False):
        loader.least_share = least


def is_divided(loader: Any) -> bool:
    """Return whether a loader gives this process's part of each batch, and not the whole."""
    return getattr(loader, "least_share", None) is not None


def whole_size(loader: Any, batch: Any) -> int:
    """Return the number of samples in the batch that a loader has given last, over all processes."""
    return len(loader.indices) if is_divided(loader) else size_of(batch)


def targets_of(batch: Any) -> Any:
    """Return what the weight of a batch follows from: its target, else the number of samples."""
    target = target_of(batch)
    return float(size_of(batch)) if target is None else target


def split_result(result: Any) -> tuple[Tensor, dict[str, Tensor]]:
    """Return (loss, further numbers) of what a step function gave as its loss."""
    if isinstance(result, Tensor) or not isinstance(result, Mapping):
        return result, {}
    return result["loss"], {key: value for key, value in result.items() if key != "loss"}
