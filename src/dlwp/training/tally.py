"""Own the running sums of a training epoch: the loss, a step's further numbers, and metrics.

Knows nothing of when they are read. Sums stay on the device until they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dlwp.training.batches import sum_dtype


class Tally:
    """Sums of weighted values over an epoch, readable for the whole of it and for the part since the last reading.

    Args:
        metrics: name -> metric; those whose state is a tensor `sums` that simply adds up are kept in training too.
        device: where the sums lie.
    """

    def __init__(self, metrics: Mapping[str, Any], device: torch.device) -> None:
        self._metrics = {name: metric for name, metric in metrics.items() if getattr(metric, "additive", False)}
        self._device = device
        self._sums: dict[str, Tensor] = {}  # name -> (weighted sum, weight)
        self._read: dict[str, Tensor] = {}  # the sums at the last reading
        self.reset()

    def add(self, name: str, value: Tensor | float, weight: Any) -> None:
        """Add a mean `value` that was taken over `weight` (samples, or the sum of their weights)."""
        sums = self._sums.get(name)
        if sums is None:
            sums = self._sums[name] = torch.zeros(2, dtype=sum_dtype(self._device), device=self._device)
        sums[0] += value * weight
        sums[1] += weight

    @torch.no_grad()
    def update(self, outputs: Any, targets: Any) -> None:
        """Add a batch to the metrics."""
        for metric in self._metrics.values():
            metric.update(outputs, targets)

    def epoch(self) -> dict[str, float]:
        """Return the means over the epoch so far, by name; waits for the device."""
        return self._means({})

    def window(self) -> dict[str, float]:
        """Return the means since the last call of this method, by name; waits for the device."""
        values = self._means(self._read)
        self._read = {name: sums.clone() for name, sums in self._all().items()}
        return values

    def reset(self) -> None:
        """Begin a new epoch."""
        self._sums.clear()
        self._read = {}
        for metric in self._metrics.values():
            metric.reset()

    def copy(self) -> dict[str, Tensor]:
        """Return a copy of the sums, which `restore` takes back."""
        return {name: sums.clone() for name, sums in self._all().items()}

    def restore(self, sums: dict[str, Tensor]) -> None:
        """Take back what `copy` gave."""
        self._sums = {name: value.clone() for name, value in sums.items() if name not in self._metrics}
        for name, metric in self._metrics.items():
            metric.sums = sums[name].clone()

    def state_dict(self) -> dict[str, Any]:
        """Return the sums as lists."""
        return {
            "sums": {name: sums.tolist() for name, sums in self._all().items()},
            "read": {name: sums.tolist() for name, sums in self._read.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self.reset()
        for name, values in state["sums"].items():
            sums = torch.tensor(values, dtype=sum_dtype(self._device), device=self._device)
            if name in self._metrics:
                self._metrics[name].sums = sums
            else:
                self._sums[name] = sums
        self._read = {
            name: torch.tensor(values, dtype=sum_dtype(self._device), device=self._device)
            for name, values in state["read"].items()
        }

    def _all(self) -> dict[str, Tensor]:
        return {**self._sums, **{name: metric.sums for name, metric in self._metrics.items()}}

    def _means(self, since: dict[str, Tensor]) -> dict[str, float]:
        values = {}
        for name, sums in self._sums.items():
            total, weight = (sums - since[name] if name in since else sums).tolist()
            if weight:
                values[name] = total / weight
        for name, metric in self._metrics.items():
            kept = metric.sums
            metric.sums = kept - since[name] if name in since else kept
            values[name] = float(metric.compute())
            metric.sums = kept
        return values
