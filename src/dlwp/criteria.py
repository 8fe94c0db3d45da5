"""Own what the mean inside a criterion divides by, so that losses of unequal batches add up exactly, and one for masks.

Knows nothing of models, data or who adds them up. All other criteria are those of torch.nn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from dlwp.errors import ConfigError


class DiceCrossEntropy(nn.CrossEntropyLoss):
    """Cross-entropy of each pixel, and beside it what is lacking to the overlap of each mask with the predicted one.

    The Dice coefficient of a class in a picture is (2 Σ p g + 1) / (Σ p + Σ g + 1), with p its probabilities and g 1
    where the mask says it; of a picture it is the mean over all classes but 0, the background. Pictures weigh by what
    counts in them, as pixels do, so that neither batches nor `ignore_index` change the mean.

    Args:
        dice: factor of (1 - Dice).
        weight, ignore_index, label_smoothing: as in cross-entropy; the last does not change the overlap.

    Shape:
        logits (B, K, ...), K at least 2, and targets (B, ...), indices of classes -> ().

    Example:
        >>> logits = torch.tensor([[[[-9.0, 9.0]], [[9.0, -9.0]]]])
        >>> round(float(DiceCrossEntropy()(logits, torch.tensor([[[1, 0]]]))), 4)
        0.0

    Source:
        Milletari, Navab, Ahmadi 2016, V-Net, arXiv 1606.04797, section 3 (its squares left out, and 1 added, as is
        usual); the sum with cross-entropy: Isensee et al. 2021, nnU-Net, Nature Methods 18.
    """

    def __init__(
        self, dice: float = 1.0, weight: Tensor | None = None, ignore_index: int = -100, label_smoothing: float = 0.0
    ) -> None:
        super().__init__(weight=weight, ignore_index=ignore_index, label_smoothing=label_smoothing)
        self.dice = dice

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Return the loss of logits and targets."""
        counts = target != self.ignore_index
        places = torch.where(counts, target, 0)
        masks = functional.one_hot(places, input.shape[1]).movedim(-1, 1) * counts.unsqueeze(1)
        shares = input.to(torch.promote_types(input.dtype, torch.float32)).softmax(1) * counts.unsqueeze(1)
        hits, both = (_sums(values, 2)[:, 1:] for values in (shares * masks, shares + masks))  # (B, K - 1)
        lacking = 1 - ((2 * hits + 1) / (both + 1)).mean(1)
        of_pixels = counts if self.weight is None else self.weight[places] * counts
        weights = _sums(of_pixels, 1).to(lacking.dtype)
        return super().forward(input, target) + self.dice * (lacking * weights).sum() / weights.sum()


def _sums(values: Tensor, kept: int) -> Tensor:
    """Return sums over all but the first dimensions."""
    return values.reshape(*values.shape[:kept], -1).sum(-1)


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
