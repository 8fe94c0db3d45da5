"""Own the small true run that the observers are heard in: a real trainer, a real loader, 97 samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dlwp import randomness
from dlwp.metrics import Accuracy, ConfusionMatrix
from dlwp.settings import TrainerSettings
from dlwp.training.trainer import Trainer


class Batches:
    """The batches of a numbered epoch of 97 random pictures of 3 classes, 14 a step: 7 steps, the last one of 13."""

    def __init__(self, shuffle: bool) -> None:
        generator = randomness.generator(0, "split")
        self.num_samples = 97
        self._shuffle = shuffle
        self._targets = torch.arange(97) % 3
        centres = torch.randn(3, 3, 4, 4, generator=generator)
        self._inputs = centres[self._targets] + torch.randn(97, 3, 4, 4, generator=generator)

    def __len__(self) -> int:
        return 7

    def epoch(self, number: int = 0, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        order = randomness.permutation(97, 0, "order", number) if self._shuffle else torch.arange(97)
        for piece in order.split(14)[start:]:
            yield self._inputs[piece], self._targets[piece]


@pytest.fixture
def make_trainer() -> Callable[..., Trainer]:
    """Return a function from observers and settings to a trainer of a linear classifier."""

    def make(observers: list[Any], **settings: Any) -> Trainer:
        randomness.seed_everything(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(48, 3))
        return Trainer(
            model, nn.CrossEntropyLoss(), torch.optim.SGD(model.parameters(), lr=0.02),
            TrainerSettings(**{"epochs": 3, "log_every": 3, **settings}),
            metrics={"accuracy": Accuracy()}, observers=observers, confusion=ConfusionMatrix(3),
        )  # fmt: skip

    return make


@pytest.fixture
def batches() -> tuple[Batches, Batches]:
    """Return the loaders of training and validation."""
    return Batches(True), Batches(False)
