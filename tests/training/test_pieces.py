"""Out of memory with accumulate=auto: the batch is cut anew, and the run equals one that began with those pieces."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dlwp import randomness
from dlwp.data.datasets import ArrayDataset
from dlwp.data.resident import ResidentLoader
from dlwp.errors import RunError
from dlwp.metrics import Accuracy
from dlwp.settings import TrainerSettings
from dlwp.training.trainer import Trainer


class Small(nn.Module):
    """Has room for `room` samples at a time while it trains, and once for one piece more of up to twice as many.

    So memory runs out in a second piece too, after a first one was counted; batch norm and dropout make a wrong
    repetition visible.
    """

    def __init__(self, room: int, text: str) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 3))
        self.room, self.text, self.most, self.larger = room, text, 0, 0

    def forward(self, inputs: Tensor) -> Tensor:
        outputs = self.layers(inputs)  # the statistics are changed before memory runs out
        self.larger += self.training and self.room < len(inputs) <= 2 * self.room
        if self.training and len(inputs) > self.room and self.larger != 1:
            raise torch.OutOfMemoryError(self.text) if "CUDA" in self.text else RuntimeError(self.text)
        self.most = len(inputs) if self.training else self.most
        return outputs


CUDA, CPU = "CUDA out of memory. Tried to allocate 2 GiB", "DefaultCPUAllocator: can't allocate memory: you tried"


def trained(room: int, accumulate: int | str, text: str = CPU, seed_epochs: int = 2) -> tuple[Trainer, dict[str, Any]]:
    generator = randomness.generator(0, "split")
    data = ArrayDataset(torch.randn(40, 4, generator=generator), torch.randint(0, 3, (40,), generator=generator))
    randomness.seed_everything(0)
    model = Small(room, text)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    settings = TrainerSettings(epochs=seed_epochs, accumulate=accumulate, log_every=1)
    told: list[dict[str, float]] = []

    class Listen:
        def on_log(self, event: Any) -> None:
            told.append({name: value for name, value in event.values.items() if name != "samples_per_s"})

    trainer = Trainer(
        model, nn.CrossEntropyLoss(), optimizer, settings, metrics={"accuracy": Accuracy()}, observers=[Listen()]
    )
    trainer.fit(ResidentLoader(data, 16, shuffle=True))
    return trainer, {"model": model.state_dict(), "told": told}


@pytest.mark.parametrize("text", [CUDA, CPU], ids=["CUDA", "CPU"])
def test_a_batch_that_does_not_fit_is_cut_until_it_does_and_nothing_is_counted_twice(text: str) -> None:
    trainer, found = trained(5, "auto", text)
    _, expected = trained(99, 4)
    assert trainer.state.progress.pieces == 4 and trainer.model.most <= 4
    assert found["told"] == expected["told"]
    assert all(torch.equal(value, expected["model"][name]) for name, value in found["model"].items())
    assert ["trainer.accumulate=" in text for text in trainer.warnings] == [True, True]
    assert "2 pieces of 8" in trainer.warnings[0] and "4 pieces of 4" in trainer.warnings[1]


def test_the_number_found_is_kept_by_a_checkpoint() -> None:
    trainer, _ = trained(5, "auto")
    other, _ = trained(99, "auto")
    other.state.load(trainer.state.tensors(), trainer.state.record())
    assert other.state.progress.pieces == 4


def test_without_auto_and_with_a_sample_that_does_not_fit_the_error_is_raised() -> None:
    with pytest.raises(RuntimeError, match="DefaultCPUAllocator"):
        trained(5, 1)
    with pytest.raises(RuntimeError, match="DefaultCPUAllocator"):
        trained(0, "auto")


def test_out_of_memory_in_an_evaluation_names_its_own_batch_size() -> None:
    trainer, _ = trained(99, 1)
    loader = ResidentLoader(ArrayDataset(torch.zeros(10, 4), torch.zeros(10, dtype=torch.int64)), 8)

    def step(model: nn.Module, batch: Any, criterion: Any) -> Any:
        raise RuntimeError(CPU)

    trainer.step_function = step
    with pytest.raises(RunError, match=r"while evaluating test \(DefaultCPUAllocator.*data\.eval_batch_size=4"):
        trainer.evaluate(loader, "test")


def test_another_error_is_not_taken_for_a_lack_of_memory() -> None:
    with pytest.raises(RuntimeError, match="shape"):
        trained(5, "auto", "a shape is wrong")
