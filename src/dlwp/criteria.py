"""Own what the mean inside a criterion divides by, so that losses of unequal batches add up exactly.

Knows nothing of models, data or who adds them up. The criteria themselves are those of torch.nn, but one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dlwp.errors import ConfigError
from dlwp.nested import size_of, target_of


class Value(nn.Module):
    """The mean of the outputs themselves, whatever the targets: for a model that is an objective."""

    def forward(self, outputs: Tensor, targets: Any = None) -> Tensor:
        return outputs.mean()


def of_task(task: str, weight: Tensor | None = None) -> nn.Module:
    """Return the usual criterion of a task: cross-entropy for classes, mean squared error for numbers.

    Args:
        task: of the data. weight: of each class (K,).

    Raises:
        ConfigError: the task has no usual one, or no classes to weigh.
    """
    if task == "classification":
        return nn.CrossEntropyLoss(weight)
    if weight is not None:
        raise ConfigError(f"criterion.weight is for classes, the task is {task}. criterion.weight=null")
    if task == "regression":
        return nn.MSELoss()
    raise ConfigError(f"no criterion is usual for the task '{task}'. criterion=mse, or criterion._target_=...")


def batch_weight(criterion: Any, targets: Any) -> float | Tensor:
    """Return what the mean of a criterion divides by: sum(loss * weight) / sum(weight) is the mean over all batches.

    Args:
        criterion: a loss of torch.nn with reduction "mean" or "batchmean", or any callable (outputs, targets) -> mean.
        targets: of one batch, a tensor (B, ...), or containers of such.

    Returns:
        For cross-entropy and nll the number of targets that count (`ignore_index` does not), or the sum of their class
        weights, as a tensor on the targets' device, so that nothing waits for it. Else the number of samples B.

    Raises:
        ConfigError: the criterion sums, or reduces nothing: then the loss is no mean.

    Example:
        >>> float(batch_weight(nn.CrossEntropyLoss(), torch.tensor([1, -100, 2])))
        2.0
    """
    reduction = getattr(criterion, "reduction", "mean")
    if reduction in ("sum", "none") and type(criterion).__module__.startswith("torch.nn."):
        raise ConfigError(
            f"criterion.reduction={reduction} gives no mean, so the loss would depend on the batch size. "
            "criterion.reduction=mean"
        )
    counting = isinstance(criterion, nn.CrossEntropyLoss | nn.NLLLoss) and isinstance(targets, Tensor)
    if counting and not torch.is_floating_point(targets):
        counts = targets != criterion.ignore_index
        dtype = torch.float32 if targets.device.type == "mps" else torch.float64  # the share of a piece is exact in it
        if criterion.weight is None:
            return counts.sum(dtype=dtype)
        weight = criterion.weight.to(targets.device, dtype)
        return (weight[torch.where(counts, targets, 0)] * counts).sum()
    return float(size_of(targets))


def batch_weights(criterion: Any, targets: Sequence[Any]) -> list[float]:
    """Return the `batch_weight` of each of many batches, counted in one go where they are alike; waits for the device.

    Args:
        criterion: as there.
        targets: of each batch; or, of a batch that is no pair, its weight.
    """
    counting = isinstance(criterion, nn.CrossEntropyLoss | nn.NLLLoss) and criterion.weight is None
    stacked = _stacked(targets) if counting else None
    if stacked is not None and not stacked.is_floating_point():
        return list(map(float, (stacked != criterion.ignore_index).flatten(1).sum(1).tolist()))
    weights = [one if _is_weight(one) else batch_weight(criterion, one) for one in targets]
    return [float(weight) for weight in weights]


def _is_weight(one: Any) -> bool:
    return isinstance(one, float) or (isinstance(one, Tensor) and one.dim() == 0 and one.is_floating_point())


def _stacked(targets: Sequence[Any]) -> Tensor | None:
    try:
        return torch.stack(list(targets))
    except (RuntimeError, TypeError):  # of several shapes, or no tensors
        return None


def weight_of(criterion: Any, batch: Any) -> float | Tensor:
    """Return the `batch_weight` of a batch: by its targets where these are known, else the number of its samples."""
    target = target_of(batch)
    return float(size_of(batch)) if target is None else batch_weight(criterion, target)
