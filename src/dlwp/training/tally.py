"""Own the running sums of a training epoch: the loss, a step's further numbers, and metrics.

Knows nothing of when they are read. What a step adds is only noted, and summed when somebody reads, in the order in
which it came: the sums do not depend on when that is, and a step neither computes them nor waits for the device.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dlwp import distributed
from dlwp.criteria import batch_weights

_MOST_NOTED = 1024  # numbers
_MOST_BYTES = 2**20  # of outputs and targets


class Tally:
    """Sums of weighted values over an epoch, readable for the whole of it and for the part since the last reading.

    Args:
        metrics: name -> metric; those whose state is a tensor `sums` that simply adds up are kept in training too.
            Where these are counts (`counting`), many batches are added as one.
        criterion: says what a batch weighs.
    """

    def __init__(self, metrics: Mapping[str, Any], criterion: Any = None) -> None:
        self._criterion = criterion
        self._metrics = {name: metric for name, metric in metrics.items() if getattr(metric, "additive", False)}
        self._noted: defaultdict[str, list[tuple[Any, Any]]]  # name -> (mean, targets or weight)
        self._batches: list[tuple[Any, Any]]
        self._sums: dict[str, list[float]]  # name -> [weighted sum, weight]
        self._read: dict[str, list[Any]]  # the sums at the last reading
        self.reset()

    def add(self, name: str, value: Tensor | float, targets: Any, *, everywhere: bool = False) -> None:
        """Note a mean `value` that a criterion has taken over `targets`; or, in their place, over a weight.

        Args:
            everywhere: all processes note the same, which counts once.
        """
        if everywhere and not distributed.is_main():
            return
        self._noted[name].append((value, targets))
        self._count += 1
        if self._count > _MOST_NOTED:
            self._sum_up()

    def update(self, outputs: Any, targets: Any) -> None:
        """Note a batch for the metrics."""
        if not self._metrics:
            return
        outputs = outputs.detach() if isinstance(outputs, Tensor) else outputs
        self._batches.append((outputs, targets))
        for part in (outputs, targets):
            self._bytes += part.nbytes if isinstance(part, Tensor) else _MOST_BYTES
        if self._bytes > _MOST_BYTES:
            self._sum_up()

    def epoch(self) -> dict[str, float]:
        """Return the means over the epoch so far, by name; waits for the device."""
        return self._means({})

    def window(self) -> dict[str, float]:
        """Return the means since the last call of this method, by name; waits for the device and other processes."""
        values = self._means(self._read)
        self._read = self.state_dict()["sums"]
        return values

    def reset(self) -> None:
        """Begin a new epoch."""
        self.load_state_dict({"sums": {}, "read": {}})

    def state_dict(self) -> dict[str, Any]:
        """Return the sums as lists; waits for the device."""
        self._sum_up()
        of_metrics = {name: metric.sums.tolist() for name, metric in self._metrics.items()}
        return {"sums": distributed.summed(self._sums | of_metrics), "read": self._read}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave: the first process has it, the others begin at nothing."""
        self._forget()
        sums = state["sums"] if distributed.is_main() else {}
        self._sums = {name: list(one) for name, one in sums.items() if name not in self._metrics}
        self._read = state["read"]
        for name, metric in self._metrics.items():
            metric.reset()
            if name in sums:
                metric.sums = metric.sums.new_tensor(sums[name])

    @torch.no_grad()
    def _sum_up(self) -> None:
        for name, noted in self._noted.items():
            sums = self._sums.setdefault(name, [0.0, 0.0])
            means = _numbers([value for value, _ in noted])
            weights = batch_weights(self._criterion, [targets for _, targets in noted])
            for value, weight in zip(means, weights, strict=True):
                sums[0] += value * weight
                sums[1] += weight
        together = _joined(self._batches)
        for metric in self._metrics.values():
            for outputs, targets in together if getattr(metric, "counting", False) else self._batches:
                metric.update(outputs, targets)
        self._forget()

    def _forget(self) -> None:
        self._noted, self._batches, self._bytes, self._count = defaultdict(list), [], 0, 0

    def _means(self, since: dict[str, list[Any]]) -> dict[str, float]:
        sums, values = self.state_dict()["sums"], {}
        for name in [name for name in sums if name not in self._metrics]:
            total, weight = (now - was for now, was in zip(sums[name], since.get(name, (0.0, 0.0)), strict=True))
            if weight > 0:
                values[name] = total / weight
        for name, metric in self._metrics.items():
            kept, whole = metric.sums, metric.sums.new_tensor(sums[name])
            metric.sums = whole - whole.new_tensor(since[name]) if name in since else whole
            values[name] = float(metric.compute())
            metric.sums = kept
        return values


def _numbers(values: list[Any]) -> list[float]:
    """Return numbers and tensors of one number each as numbers; waits for the device once."""
    if all(isinstance(value, Tensor) for value in values):
        return list(torch.stack(values).flatten().tolist())
    return [float(value) for value in values]


def _joined(batches: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """Return batches as one, joined along the first axis, where they are tensors that fit; else as they are."""
    if not batches:
        return batches
    outputs, targets = zip(*batches, strict=True)
    try:
        return [(torch.cat(outputs), torch.cat(targets))]
    except (RuntimeError, TypeError):  # of several shapes, or no tensors
        return batches
