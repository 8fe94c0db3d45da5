"""Own the metrics: exact over any number of batches, since all they keep is sums that add up.

Knows nothing of models or who asks. Each has the calls of torchmetrics (`update`, `compute`, `reset`, `to`), and:

    sums: float64 tensor, the whole state. Sums of several processes, or of two halves of a split, simply add up.
    additive: True, which says just that.
    counting: whether they are whole numbers, so that many batches may be added as one.
    higher_is_better: whether more of it is better.

Nothing waits for the device but `compute`. Where a device has no float64 (MPS) the sums stay on the host.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from dlwp import distributed
from dlwp.errors import ConfigError

_IGNORED = -100
"""Targets of this value are not counted: the `ignore_index` of torch's criteria."""

_MOST_KEPT = 2**28
"""Outputs that a metric keeps at most: 1.3 GiB with their targets."""


def _reset(metric: Any) -> None:
    """Forget everything."""
    metric.sums = torch.zeros_like(metric.sums)


def _to(metric: Any, device: torch.device | str) -> Any:
    """Move the sums to a device and return the metric."""
    metric.sums = metric.sums.to("cpu" if torch.device(device).type == "mps" else device)
    return metric


def _zeros(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.float64)


class Accuracy:
    """The fraction of samples whose largest output is that of their class.

    Outputs are logits (B, K, ...); or (B,) or (B, 1) of a binary task, whose second class is taken where the logit is
    above 0. Targets are class indices (B, ...), or probabilities (B, K) as mixup makes them: then the largest counts.

    Example:
        >>> metric = Accuracy()
        >>> metric.update(torch.tensor([[2.0, 1.0], [0.0, 3.0]]), torch.tensor([0, 0]))
        >>> metric.compute()
        0.5
    """

    higher_is_better = True
    additive = counting = True

    def __init__(self) -> None:
        self.sums = _zeros(2)  # correct, counted

    @torch.no_grad()
    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Add a batch."""
        found = (outputs > 0).flatten().long() if is_binary(outputs) else outputs.max(1).indices
        labels = labels_of(outputs, targets)
        counted = labels != _IGNORED
        _add(self, ((found == labels) & counted).sum(), counted.sum())

    def compute(self) -> float:
        """Return the accuracy in [0, 1]; NaN without samples."""
        return float(self.sums[0] / self.sums[1])

    reset = _reset
    to = _to


class TopK:
    """The fraction of samples whose class is among the k largest outputs; 1 where there are no more than k classes.

    Of equal outputs the first come first.

    Args:
        k: number of largest outputs looked at.
    """

    higher_is_better = True
    additive = counting = True

    def __init__(self, k: int = 5) -> None:
        if k < 1:
            raise ConfigError(f"a top-k metric needs a k of at least 1, got {k}. k=5")
        self.k = k
        self.sums = _zeros(2)  # correct, counted

    @torch.no_grad()
    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Add a batch: outputs (B, K, ...), targets (B, ...) indices or (B, K) probabilities."""
        if is_binary(outputs):
            raise ConfigError(
                f"a top-k metric needs outputs (B, K), got {tuple(outputs.shape)}. metrics=regression, or none"
            )
        labels = labels_of(outputs, targets)
        counted = labels != _IGNORED
        label = torch.where(counted, labels, 0).unsqueeze(1)  # (B, 1, ...)
        own = outputs.gather(1, label)
        # NaN comes before every number; to count what comes before takes a fifth of the time of topk
        before = outputs.shape[1] - (outputs <= own).sum(1)
        equal = outputs == own
        if outputs.device.type != "cpu" or int(equal.sum()) != own.numel() or bool(own.isnan().any()):
            classes = torch.arange(outputs.shape[1], device=outputs.device).view(-1, *[1] * (outputs.ndim - 2))
            before += (equal & (classes < label)).sum(1)
        _add(self, (before < self.k).logical_and(counted).sum(), counted.sum())

    def compute(self) -> float:
        """Return the fraction in [0, 1]; NaN without samples."""
        return float(self.sums[0] / self.sums[1])

    reset = _reset
    to = _to


class ConfusionMatrix:
    """Counts of samples by true class (rows) and by the class of the largest output (columns).

    Args:
        num_classes: number of classes K.
    """

    additive = counting = True

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.sums = _zeros(num_classes, num_classes)

    @torch.no_grad()
    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Add a batch: outputs and targets as for `Accuracy`."""
        found = (outputs > 0).flatten().long() if is_binary(outputs) else outputs.max(1).indices
        labels = labels_of(outputs, targets)
        counted = labels != _IGNORED
        cells = torch.where(counted, labels * self.num_classes + found, 0).flatten().to(self.sums.device)
        self.sums.view(-1).index_add_(0, cells, counted.flatten().to(self.sums))  # whole numbers: exact in any order

    def compute(self) -> Tensor:
        """Return the counts (K, K), float64."""
        return self.sums

    reset = _reset
    to = _to


class BitsPerToken:
    """The mean of -log2 p of the token that came, cross-entropy / ln 2: of logits (B, K, ...) and indices (B, ...)."""

    higher_is_better = False
    additive = True

    def __init__(self) -> None:
        self.sums = _zeros(2)  # of -log2 p, counted

    @torch.no_grad()
    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Add a batch; targets of -100 are not counted."""
        if is_binary(outputs) or targets.is_floating_point():
            raise ConfigError(f"bits need logits (B, K, ...) and indices, got outputs {list(outputs.shape)}")
        nats = functional.cross_entropy(outputs.float(), targets, ignore_index=_IGNORED, reduction="sum")
        _add(self, nats.to(self.sums.dtype) / math.log(2), (targets != _IGNORED).sum())

    def compute(self) -> float:
        """Return the bits a token; NaN without tokens."""
        return float(self.sums[0] / self.sums[1])

    reset = _reset
    to = _to


class IoU:
    """The intersection over union of predicted and true pixels of a class, counted over a whole split: its mean.

    IoU_k = predicted and true / (predicted or true), of the pixels that count. A class that occurs in neither is left
    out of the mean.

    Args:
        num_classes: number of classes K.
        average: "foreground" (all classes but the first, which is the background) or "classes" (all).

    Example:
        >>> metric = IoU(2)
        >>> metric.update(torch.tensor([[[[2.0, 0.0]], [[0.0, 2.0]]]]), torch.tensor([[[1, 1]]]))
        >>> metric.compute()
        0.5

    Source: Everingham et al. 2010, The Pascal Visual Object Classes Challenge, section 4.1.3.
    """

    higher_is_better = True
    additive = counting = True

    def __init__(self, num_classes: int, average: str = "foreground") -> None:
        if average not in ("foreground", "classes"):
            raise ConfigError(f"average must be foreground or classes, got {average!r}")
        self.num_classes, self.average = num_classes, average
        self.sums = _zeros(3, num_classes)  # rows: right, predicted, true

    @torch.no_grad()
    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Add a batch: outputs (B, K, H, W) logits, targets (B, H, W) classes."""
        _check_dense(outputs, targets, self.num_classes)
        found, counted = outputs.max(1).indices, targets != _IGNORED
        rows = (found[counted & (found == targets)], found[counted], targets[counted])
        self.sums += torch.stack([torch.bincount(row, minlength=self.num_classes) for row in rows]).to(self.sums)

    def by_class(self) -> Tensor:
        """Return the IoU of each class, (K,), float64; NaN of one that occurs nowhere."""
        return self.sums[0] / (self.sums[1] + self.sums[2] - self.sums[0])

    def compute(self) -> float:
        """Return the mean in [0, 1]; NaN where none of the classes occurs."""
        values = self.by_class()
        return float((values[1:] if self.average == "foreground" else values).nanmean())

    reset = _reset
    to = _to


class F1:
    """F1 of several labels a sample, 2 · right / (predicted + true), of all labels of all samples together (micro).

    Args:
        threshold: probability above which a label counts as predicted.
    """

    higher_is_better = True
    additive = counting = True

    def __init__(self, threshold: float = 0.5) -> None:
        if not 0 < threshold < 1:
            raise ConfigError(f"threshold must be above 0 and below 1, got {threshold}")
        self.logit = math.log(threshold / (1 - threshold))
        self.sums = _zeros(2)  # right, predicted + true

    @torch.no_grad()
    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Add a batch: outputs (B, K) logits, targets (B, K) of 0 and 1."""
        _check_labels(outputs, targets)
        chosen, true = outputs > self.logit, targets > 0.5
        _add(self, (chosen & true).sum(), chosen.sum() + true.sum())

    def compute(self) -> float:
        """Return F1 in [0, 1]; NaN where nothing is there or predicted."""
        return float(2 * self.sums[0] / self.sums[1])

    reset = _reset
    to = _to


class MeanAveragePrecision:
    """The mean over labels of their average precision, from the outputs of all samples; exact.

    It is no sum, so all outputs are kept, on the host: 5 bytes a label and sample. A label that no sample has is left
    out of the mean. In training it is not kept.

    Source: as scikit-learn's average_precision_score; Everingham et al. 2010, section 4.2, without interpolation.
    """

    higher_is_better = True

    def __init__(self) -> None:
        self._kept: list[tuple[Tensor, Tensor]] = []
        self._count = 0

    @torch.no_grad()
    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Add a batch: outputs (B, K) logits, targets (B, K) of 0 and 1."""
        _check_labels(outputs, targets)
        self._count += outputs.numel()
        if self._count > _MOST_KEPT:
            raise ConfigError(
                f"mean_average_precision keeps every output, and more than {_MOST_KEPT:,} of them come. "
                "metrics.mean_average_precision=null"
            )
        self._kept.append((outputs.float().cpu(), (targets > 0.5).cpu()))

    def compute(self) -> float:
        """Return the mean in [0, 1]; NaN where no label occurs."""
        kept = self._kept
        if distributed.world_size() > 1:
            kept = [pair for one in distributed.gathered(kept) for pair in one]
        if not kept:
            return math.nan
        outputs, labels = (torch.cat(column) for column in zip(*kept, strict=True))
        values = [average_precision(*pair) for pair in zip(outputs.T, labels.T, strict=True)]
        return float(torch.tensor(values, dtype=torch.float64).nanmean())

    def reset(self) -> None:
        """Forget everything."""
        self._kept, self._count = [], 0

    def to(self, device: torch.device | str) -> MeanAveragePrecision:
        """Return the metric: what it keeps stays on the host."""
        return self


def average_precision(outputs: Tensor, labels: Tensor) -> float:
    """Return sum over thresholds of (recall_n - recall_(n-1)) · precision_n; equal outputs are one threshold.

    Args:
        outputs: (N,), larger for samples that are likelier to have the label. labels: bool (N,).

    Returns:
        In [0, 1]; NaN where no sample has the label.

    >>> average_precision(torch.tensor([0.9, 0.8, 0.1]), torch.tensor([True, False, True]))
    0.8333333333333333
    """
    total = int(labels.sum())
    if not total:
        return math.nan
    values, order = outputs.sort(descending=True, stable=True)
    right = labels[order].double().cumsum(0)
    last = torch.ones(len(values), dtype=torch.bool)
    last[:-1] = values[1:] != values[:-1]  # of each run of equal outputs
    found = right[last]
    precision = found / (last.nonzero().flatten() + 1)
    return float((found.diff(prepend=found.new_zeros(1)) / total * precision).sum())


def _check_labels(outputs: Tensor, targets: Tensor) -> None:
    if outputs.dim() != 2 or outputs.shape != targets.shape:
        raise ConfigError(
            f"outputs are {list(outputs.shape)}, labels {list(targets.shape)}: both (B, K) are needed, "
            "with a 0 or 1 for each label. data=multilabel"
        )


def _check_dense(outputs: Tensor, targets: Tensor, num_classes: int) -> None:
    expected = (len(outputs), *outputs.shape[2:])
    if outputs.dim() != 4 or targets.shape != expected or outputs.shape[1] != num_classes:
        raise ConfigError(
            f"outputs are {list(outputs.shape)}, masks {list(targets.shape)}: outputs (B, {num_classes}, H, W) and "
            "masks (B, H, W) are needed. model=unet"
        )


class MAE:
    """The mean absolute error, mean |output - target|, over samples and outputs.

    Args:
        scale: what one of a target is in the unit wanted, a number or one for each output.
    """

    higher_is_better = False
    additive = True

    def __init__(self, scale: float | Sequence[float] = 1.0) -> None:
        self.scale = torch.tensor(scale, dtype=torch.float64)
        self.sums = _zeros(2)  # of |error|, counted

    @torch.no_grad()
    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Add a batch: outputs and targets of one shape (B, ...)."""
        errors = _errors(self.sums, outputs, targets) * self.scale.to(self.sums)
        _add(self, errors.abs().sum(), errors.numel())

    def compute(self) -> float:
        """Return the error in the unit of the targets; NaN without samples."""
        return float(self.sums[0] / self.sums[1])

    reset = _reset
    to = _to


class RMSE:
    """The root of the mean squared error, sqrt(mean (output - target)^2), over samples and outputs.

    Args:
        scale: what one of a target is in the unit wanted, a number or one for each output.
    """

    higher_is_better = False
    additive = True

    def __init__(self, scale: float | Sequence[float] = 1.0) -> None:
        self.scale = torch.tensor(scale, dtype=torch.float64)
        self.sums = _zeros(2)  # of error^2, counted

    @torch.no_grad()
    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Add a batch: outputs and targets of one shape (B, ...)."""
        errors = _errors(self.sums, outputs, targets) * self.scale.to(self.sums)
        _add(self, errors.square().sum(), errors.numel())

    def compute(self) -> float:
        """Return the error in the unit of the targets; NaN without samples."""
        return float((self.sums[0] / self.sums[1]).sqrt())

    reset = _reset
    to = _to


class R2:
    """The coefficient of determination, 1 - sum (output - target)^2 / sum (target - mean)^2, mean over outputs.

    The variance of targets far from zero is a small difference of large sums. To keep it exact and yet additive, each
    target is split as t = a + b, where a is t rounded to 13 bits (Veltkamp's splitting): sums of a and a^2 are exact
    in float64 up to tens of millions of samples of like size, those with b are so much smaller that their rounding does
    not matter, and the difference is taken in rational arithmetic. There is no shift on which processes must agree.

    An output whose targets are all equal counts 1 where it has no error, else 0 (as in scikit-learn).

    Source:
        Dekker 1971, Numerische Mathematik 18 (splitting).
    """

    higher_is_better = True
    additive = True

    def __init__(self) -> None:
        self.sums = _zeros(7, 1)  # rows: counted, a, b, a^2, ab, b^2, error^2; a column an output

    @torch.no_grad()
    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Add a batch: outputs and targets of one shape, (B,) or (B, outputs...)."""
        errors = _errors(self.sums, outputs, targets).reshape(len(targets), -1)  # (B, outputs)
        values = targets.to(self.sums.device).to(self.sums.dtype).reshape(len(targets), -1)
        scaled = values * (2.0**40 + 1)
        coarse = scaled - (scaled - values)
        fine = values - coarse
        rows = (torch.ones_like(values), coarse, fine, coarse.square(), coarse * fine, fine.square(), errors.square())
        self.sums = self.sums + torch.stack([row.sum(0) for row in rows])

    def compute(self) -> float:
        """Return R2, at most 1; NaN without samples."""
        if not bool(self.sums.isfinite().all()) or not bool(self.sums[0].all()):
            return float("nan")
        return sum(_determination(*column) for column in self.sums.T.tolist()) / self.sums.shape[1]

    def reset(self) -> None:
        """Forget everything, the number of outputs too."""
        self.sums = self.sums.new_zeros(7, 1)

    to = _to


def monitored(name: str, mode: str, metrics: Mapping[str, Any]) -> tuple[str, str]:
    """Return the value ("val/accuracy") by which a run is judged, and "max" or "min": whether more of it is better.

    Args:
        name, mode: `trainer.monitor` and `trainer.monitor_mode`; auto is the first metric, and what it says of itself.
        metrics: of the run, by name.
    """
    first = next(iter(metrics), "loss")
    name = f"val/{first}" if name == "auto" else name
    if mode != "auto":
        return name, mode
    metric = metrics.get(name.removeprefix("val/"))
    return name, "max" if getattr(metric, "higher_is_better", False) else "min"


def _determination(count: float, *sums: float) -> float:
    coarse, fine, coarse2, product, fine2, errors = map(Fraction, sums)
    spread = coarse2 + 2 * product + fine2 - (coarse + fine) ** 2 / Fraction(count)
    if spread <= 0:
        return float(errors == 0)
    return float(1 - errors / spread)


def _add(metric: Any, *values: Any) -> None:
    found = [value if isinstance(value, Tensor) else torch.tensor(value) for value in values]
    metric.sums += torch.stack([value.to(metric.sums) for value in found])


def is_binary(outputs: Tensor) -> bool:
    """Return whether there is one logit a sample: (B,), or (B, 1)."""
    return outputs.ndim == 1 or (outputs.ndim == 2 and outputs.shape[1] == 1)


def labels_of(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return class indices (B, ...) of targets that are indices, probabilities, or 0 and 1 as floats."""
    if is_binary(outputs):
        return targets.flatten().long()
    return targets.argmax(1) if targets.shape == outputs.shape else targets


def _errors(sums: Tensor, outputs: Tensor, targets: Tensor) -> Tensor:
    if outputs.shape != targets.shape:
        raise ConfigError(
            f"outputs are {list(outputs.shape)}, targets {list(targets.shape)}: this would compare all with all. "
            "Give both one shape (model.out_features, or the targets of the data)"
        )
    return outputs.to(sums.device).to(sums.dtype) - targets.to(sums.device).to(sums.dtype)
