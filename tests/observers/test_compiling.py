"""A compiled run says how long the first step took, what breaks its graph, and what is compiled anew."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dlwp.data.datasets import ArrayDataset
from dlwp.data.resident import ResidentLoader
from dlwp.observers.compiling import Compiling
from dlwp.settings import TrainerSettings
from dlwp.training.trainer import Trainer


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.linear(inputs)
        return outputs + 1 if outputs.sum() > 0 else outputs


class Hearing:
    watcher = True

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


def told(model: nn.Module, count: int) -> tuple[list[str], list[str]]:
    """Return what is said and warned of in two epochs of `count` samples, in batches of 8."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    hearing = Hearing()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    parts: list[Any] = [hearing, Compiling()]
    trainer = Trainer(model, nn.CrossEntropyLoss(), optimizer, TrainerSettings(epochs=2, log_every=1), observers=parts)
    trainer.passes._step = torch.compile(trainer.step_function, backend="eager")
    trainer.fit(ResidentLoader(ArrayDataset(torch.randn(count, 4), torch.randint(2, (count,))), 8))
    return [re.sub(r"[\d.]+ s;", "... s;", text) for text in hearing.said], trainer.warnings


def test_a_model_of_one_graph_is_told_of_once() -> None:
    assert told(nn.Linear(4, 2), 16) == (["compile  the first step took ... s; 1 graph"], [])


def test_a_smaller_last_batch_is_told_of_as_compiled_anew() -> None:
    said, warned = told(nn.Linear(4, 2), 20)
    assert len(said) == 2 and "2 graphs" in said[1] and warned == []


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # by dynamo itself
def test_what_breaks_a_graph_is_warned_of_once() -> None:
    _, warned = told(Branching(), 16)
    assert warned == ["torch.compile: the graph breaks: Data-dependent branching"]
