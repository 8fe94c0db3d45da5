"""Own what the mean inside a criterion divides by, so that losses of unequal batches add up exactly.

Knows nothing of models, data or who adds them up. The criteria themselves are those of torch.nn, but two.
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


class Dice(nn.Module):
    """Soft Dice coefficient of each picture's mask, taken from 1, with cross-entropy beside it; the mean over pictures.

    1 - mean over classes of (2 Σ p t + smooth) / (Σ p + Σ t + smooth) + cross_entropy · mean of -log p of the true
    class; sums and the second mean go over the pixels of a picture that count, p are probabilities, t is 1 for the
    true class, else 0. Of two classes the foreground alone. A picture of which no pixel counts adds 0, but is one of B.

    Args:
        cross_entropy: factor of the cross-entropy, 0 or more.
        smooth: pixels added to both sides of the fraction, above 0: of a class that a picture does not have, that many
            wrong pixels make the fraction a half.
        ignore_index: targets of this value do not count.

    Shape:
        logits (B, K, H, W) with classes (B, H, W) -> a number; instead of H, W any number of axes.

    Raises:
        ConfigError: a factor is out of range, there is one class, or the outputs are not of a class for each pixel.

    Example:
        >>> logits = torch.tensor([[[[-9.0, 9.0]], [[9.0, -9.0]]]])  # (1, 2, 1, 2)
        >>> round(float(Dice()(logits, torch.tensor([[[1, 0]]]))), 3)
        0.0

    Source:
        Milletari, Navab, Ahmadi 2016: V-Net, arXiv 1606.04797, section 3 (without its squares); with cross-entropy:
        Isensee et al. 2021, nnU-Net, Nature Methods 18.
    """

    def __init__(self, cross_entropy: float = 1.0, smooth: float = 1.0, ignore_index: int = -100) -> None:
        super().__init__()
        if cross_entropy < 0 or smooth <= 0:
            raise ConfigError(
                f"criterion.cross_entropy must be 0 or more and criterion.smooth above 0, got {cross_entropy}, {smooth}"
            )
        self.cross_entropy, self.smooth, self.ignore_index = cross_entropy, smooth, ignore_index

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        shape = list(outputs.shape)
        if outputs.dim() < 3 or targets.is_floating_point() or [shape[0], *shape[2:]] != list(targets.shape):
            kind = f"outputs {shape} for targets {list(targets.shape)}"
            raise ConfigError(f"criterion=dice is for a class for each pixel, here are {kind}. criterion=cross_entropy")
        if shape[1] < 2:
            raise ConfigError("criterion=dice takes an output for each class, also the background, and here is one")
        counts = (targets != self.ignore_index).flatten(1)  # (B, N)
        true = torch.where(counts, targets.flatten(1), 0)
        logits = outputs.to(torch.promote_types(outputs.dtype, torch.float32)).flatten(2)  # (B, K, N)
        logs = logits.log_softmax(1) * counts.unsqueeze(1)
        found = logits.softmax(1) * counts.unsqueeze(1)
        wanted = torch.zeros_like(found).scatter_(1, true.unsqueeze(1), 1) * counts.unsqueeze(1)
        first = 1 if shape[1] == 2 else 0
        both, either = (found * wanted).sum(2), found.sum(2) + wanted.sum(2)  # (B, K)
        dice = (2 * both + self.smooth) / (either + self.smooth)
        losses = 1 - dice[:, first:].mean(1)
        if self.cross_entropy:
            surprise = -logs.gather(1, true.unsqueeze(1)).sum((1, 2)) / counts.sum(1).clamp_min(1)
            losses = losses + self.cross_entropy * surprise
        return losses.mean()


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
