"""Own what the mean inside a criterion divides by, so that losses of unequal batches add up exactly.

Knows nothing of models, data or who adds them up. The criteria themselves are those of torch.nn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dlwp.errors import ConfigError


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
    if isinstance(criterion, nn.CrossEntropyLoss | nn.NLLLoss) and not torch.is_floating_point(targets):
        counts = targets != criterion.ignore_index
        dtype = torch.float32 if targets.device.type == "mps" else torch.float64  # the share of a piece is exact in it
        if criterion.weight is None:
            return counts.sum(dtype=dtype)
        weight = criterion.weight.to(targets.device, dtype)
        return (weight[torch.where(counts, targets, 0)] * counts).sum()
    return float(_num_samples(targets))


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
    weights = [one if isinstance(one, float) else batch_weight(criterion, one) for one in targets]
    return [float(weight) for weight in weights]


def _stacked(targets: Sequence[Any]) -> Tensor | None:
    try:
        return torch.stack(list(targets))
    except (RuntimeError, TypeError):  # of several shapes, or no tensors
        return None


def weight_of(criterion: Any, batch: Any) -> float | Tensor:
    """Return the `batch_weight` of a batch: by its targets where it is a pair (inputs, targets), else its samples."""
    is_pair = isinstance(batch, tuple | list) and len(batch) == 2
    return batch_weight(criterion, batch[1]) if is_pair else float(_num_samples(batch))


def _num_samples(targets: Any) -> int:
    while not hasattr(targets, "shape"):
        targets = next(iter(targets.values())) if isinstance(targets, Mapping) else targets[0]
    return len(targets) if targets.ndim else 1
