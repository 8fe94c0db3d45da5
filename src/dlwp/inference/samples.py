"""Own what an evaluation keeps of each sample: a few numbers, never the outputs, so that a split is passed over once.

Knows nothing of runs, files, or what is said of the numbers. Nothing here waits for the device but `finish`.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dlwp.devices import sent, sum_dtype
from dlwp.metrics import MAE, R2, RMSE, is_binary, labels_of
from dlwp.nested import target_of
from dlwp.training.batches import Loader, StepFunction

_IGNORED = -100
_MOST_NUMBERS = 64
"""How many outputs of a sample are told of."""
_MOST_POINTS = 20_000
_MOST_PANELS = 6
"""Samples and numbers of each that are kept for a picture of predictions against targets."""


@dataclass
class Classified:
    """What is known of N samples of a classification, on the host, in the order of their indices.

    Attributes:
        indices, labels, predictions: int64 (N,); in the split, of the true class, of the largest output.
        confidences: float64 (N,), probability of the predicted class.
        chances: float64 (N,), probability of the true class.
        losses: float64 (N,), -log of that, computed from the logits: it does not end where the probability is 0.
        num_classes: number of classes K that the outputs have.
    """

    indices: Tensor
    labels: Tensor
    predictions: Tensor
    confidences: Tensor
    chances: Tensor
    losses: Tensor
    num_classes: int

    @property
    def right(self) -> Tensor:
        """Which were predicted right, bool (N,)."""
        return self.predictions == self.labels


class ClassCollector:
    """Keep index, label, prediction, probabilities and loss of each sample: 48 bytes, for any number of classes."""

    def __init__(self) -> None:
        self._kept: list[tuple[Tensor, ...]] = []
        self._num_classes = 0

    def add(self, outputs: Tensor, targets: Tensor, indices: Tensor) -> bool:
        """Add a batch; return False where it is not one class a sample.

        Args:
            outputs: logits (B, K), or (B,) or (B, 1) of a binary task.
            targets: class indices (B,), or probabilities (B, K), of which the largest counts.
            indices: of the samples, (B,), on the host.
        """
        labels = labels_of(outputs, targets).long()
        logits = outputs.to(sum_dtype(outputs.device))
        if is_binary(outputs):
            logits = torch.stack([torch.zeros_like(logits.flatten()), logits.flatten()], 1)
        if logits.dim() != 2 or labels.shape != logits.shape[:1]:
            return False
        self._num_classes = logits.shape[1]
        logs = logits.log_softmax(1)  # (B, K)
        # of the outputs, not of these: two that differ in the last bit may have one logarithm
        predictions = (outputs.flatten() > 0).long() if is_binary(outputs) else outputs.max(1).indices
        true = logs.gather(1, labels.clamp_min(0).unsqueeze(1)).squeeze(1)
        own = logs.gather(1, predictions.unsqueeze(1)).squeeze(1)
        self._kept.append((indices, labels, predictions, own.exp(), true.exp(), -true))
        return True

    def finish(self) -> Classified:
        """Return all that was kept but samples whose target is ignored; waits for the device."""
        columns = [torch.cat(column).cpu() for column in zip(*self._kept, strict=True)]
        order = columns[0].argsort(stable=True)
        order = order[columns[1][order] != _IGNORED]
        indices, labels, predictions, confidences, chances, losses = (column[order] for column in columns)
        reals = confidences.double(), chances.double(), losses.double()
        return Classified(indices, labels, predictions, *reals, self._num_classes)


class ErrorCollector:
    """Keep R2, MAE and RMSE of numbers, and the samples whose squared error is the largest.

    Args:
        device: where the outputs are.
        most: how many samples are kept.
        mean, scale: a target t is t · scale + mean in the unit in which all is told; a number or one for each output.
    """

    def __init__(self, device: torch.device, most: int, mean: Any = 0.0, scale: Any = 1.0) -> None:
        metrics: dict[str, Any] = {"r2": R2(), "mae": MAE(scale), "rmse": RMSE(scale)}
        self._mean, self._scale = torch.tensor(mean, dtype=torch.float64), torch.tensor(scale, dtype=torch.float64)
        self._metrics = {name: metric.to(device) for name, metric in metrics.items()}
        self._most = most
        self._worst: tuple[Tensor, ...] = ()
        self._few: list[tuple[Tensor, Tensor]] = []
        self._num_few = 0

    def add(self, outputs: Tensor, targets: Tensor, indices: Tensor) -> bool:
        """Add a batch of one shape (B, ...); return False where the shapes differ or these are no numbers."""
        if outputs.shape != targets.shape or outputs.dim() == 0 or not outputs.is_floating_point():
            return False
        for metric in self._metrics.values():
            metric.update(outputs, targets)
        flat, wanted = (values.flatten(1) if values.dim() > 1 else values.unsqueeze(1) for values in (outputs, targets))
        dtype = sum_dtype(outputs.device)
        scale, mean = self._scale.to(flat.device, dtype), self._mean.to(flat.device, dtype)
        flat, wanted = flat.to(dtype) * scale + mean, wanted.to(dtype) * scale + mean
        if self._num_few < _MOST_POINTS and flat.shape[1] <= _MOST_PANELS:
            self._few.append((flat, wanted))
            self._num_few += len(flat)
        found = ((flat - wanted).square().mean(1), sent(indices, outputs.device), flat, wanted)
        joined = [torch.cat(pair) for pair in zip(self._worst, found, strict=True)] if self._worst else list(found)
        order = joined[0].sort(descending=True, stable=True).indices[: self._most]
        self._worst = tuple(column[order] for column in joined)
        return True

    def values(self) -> dict[str, float]:
        """Return R2, MAE and RMSE; waits for the device."""
        return {name: float(metric.compute()) for name, metric in self._metrics.items()}

    def points(self) -> tuple[Tensor, Tensor] | None:
        """Return outputs and targets (N, D) of the first samples, for a picture; None where D is large."""
        if not self._few:
            return None
        outputs, targets = (torch.cat(parts).cpu()[:_MOST_POINTS] for parts in zip(*self._few, strict=True))
        return outputs, targets

    def worst(self) -> list[dict[str, Any]]:
        """Return the samples, the worst first: index, root of the mean squared error, outputs and targets."""
        errors, indices, outputs, targets = (column.tolist() for column in self._worst)
        few = not outputs or len(outputs[0]) <= _MOST_NUMBERS
        return [
            {
                "sample": index,
                "error": error**0.5,
                "prediction": output if few else None,
                "target": target if few else None,
            }
            for error, index, output, target in zip(errors, indices, outputs, targets, strict=True)
        ]


class Watched:
    """A step function that shows each batch's outputs to a collector, as long as that takes them.

    Args:
        step: the function it stands for.
        loader: says which samples a batch has.
        collector: with `add`.

    Attributes:
        fits: whether the collector has taken every batch.
    """

    def __init__(self, step: StepFunction, loader: Loader, collector: Any) -> None:
        self._step = step
        self._loader = loader
        self._collector = collector
        self.fits = True

    def __call__(self, model: nn.Module, batch: Any, criterion: Any) -> tuple[Any, Any]:
        """Return what the step gives."""
        result, outputs = self._step(model, batch, criterion)
        target = target_of(batch)
        tensors = isinstance(outputs, Tensor) and isinstance(target, Tensor)
        if self.fits:
            indices = getattr(self._loader, "indices", None)
            self.fits = tensors and indices is not None and self._collector.add(outputs, target, indices)
        return result, outputs


class Unread:
    """Hear from a loader which samples could not be read, so that others took their places (`data.on_error=skip`).

    Attributes:
        samples: index -> its file or data set, and why.
    """

    def __init__(self) -> None:
        self.samples: dict[int, tuple[str, str]] = {}

    def left_out(self, sample: int, name: str, reason: str) -> None:
        """Note a sample."""
        self.samples[sample] = name, reason

    def waiting(self) -> bool:
        """Return whether to give up waiting for data: never."""
        return False

    def warn(self, text: str) -> None:
        """Pass on a warning."""
        warnings.warn(text, RuntimeWarning, stacklevel=2)
