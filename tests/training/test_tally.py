"""The running sums take whatever outputs a model gives."""

from __future__ import annotations

from typing import Any

import torch

from dlwp.training.tally import Tally


class OfTwo:
    """The share of samples whose two outputs are equal; a metric of the user's own."""

    additive = True

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.sums = torch.zeros(2, dtype=torch.float64)

    def update(self, outputs: Any, targets: Any) -> None:
        first, second = outputs
        self.sums += torch.tensor([(first == second).sum(), len(targets)])

    def compute(self) -> float:
        return float(self.sums[0] / self.sums[1])


def test_outputs_that_are_no_tensor_are_passed_to_a_metric_as_they_are() -> None:
    tally = Tally({"equal": OfTwo()})
    tally.update((torch.tensor([1, 2]), torch.tensor([1, 3])), torch.tensor([0, 0]))
    tally.update((torch.tensor([4]), torch.tensor([4])), torch.tensor([0]))
    assert tally.window() == {"equal": 2 / 3}
