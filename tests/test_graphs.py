"""A captured step computes what it computes uncaptured, with dropout, batch norm and short batches (CUDA graphs)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from dlwp.config.compose import compose
from dlwp.data.datasets import ArrayDataset
from dlwp.data.resident import ResidentLoader
from dlwp.errors import ConfigError
from dlwp.metrics import Accuracy
from dlwp.settings import TrainerSettings
from dlwp.training.trainer import Trainer

needs_a_card = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


class Recording:
    """Keeps the loss of each step."""

    def __init__(self) -> None:
        self.losses: list[torch.Tensor] = []

    def on_step(self, event: Any) -> None:
        self.losses.append(event.loss)


def trained(**settings: Any) -> tuple[list[float], dict[str, Any]]:
    """Return losses and weights of two epochs, each of seven whole batches and a short one."""
    torch.manual_seed(0)
    inputs, targets = torch.randn(60, 5), torch.randint(3, (60,))
    layers = nn.Sequential(nn.Linear(5, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 3)).cuda()
    optimizer = torch.optim.AdamW(layers.parameters(), lr=0.01)
    recording = Recording()
    trainer = Trainer(
        layers, nn.CrossEntropyLoss(), optimizer, TrainerSettings(epochs=2, **settings), observers=[recording],
        metrics={"accuracy": Accuracy()}, device="cuda",
    )  # fmt: skip
    trainer.fit(ResidentLoader(ArrayDataset(inputs, targets), 8, shuffle=True, device="cuda"))
    assert trainer.passes._captured is None or trainer.passes._captured._graph is not None
    return [float(one) for one in recording.losses], layers.state_dict()


@needs_a_card
def test_captured_steps_equal_uncaptured_ones() -> None:
    (losses, weights), (expected, expected_weights) = trained(cuda_graphs=True), trained()
    assert losses == pytest.approx(expected, abs=1e-6)
    for name, value in weights.items():
        torch.testing.assert_close(value, expected_weights[name])


class Waiting(nn.Linear):
    """Waits for the card in its forward pass."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        outputs = super().forward(inputs)
        return outputs * 2 if float(outputs.detach().sum()) > 0 else outputs


@needs_a_card
def test_a_step_that_waits_for_the_card_is_refused_in_one_line() -> None:
    model = Waiting(5, 3).cuda()
    trainer = Trainer(
        model, nn.CrossEntropyLoss(), torch.optim.SGD(model.parameters(), lr=0.1), TrainerSettings(cuda_graphs=True),
        device="cuda",
    )  # fmt: skip
    data = ArrayDataset(torch.randn(64, 5), torch.randint(3, (64,)))
    with pytest.raises(ConfigError, match=r"cannot be captured \(.*\)\. trainer\.cuda_graphs=false$"):
        trainer.fit(ResidentLoader(data, 8, device="cuda"))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, of what it imports to compile
@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({}, "on cpu"),
        ({"compile": True}, "beside trainer.compile"),
        ({"unfreeze_at": "1 epoch"}, "beside trainer.unfreeze_at"),
    ],
)
def test_graphs_need_a_card_and_a_step_that_stays_as_it_is(settings: dict[str, Any], why: str) -> None:
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ConfigError, match=rf"^trainer\.cuda_graphs does not work {why}\. trainer\.cuda_graphs=false$"):
        Trainer(model, nn.MSELoss(), optimizer, TrainerSettings(cuda_graphs=True, **settings))
    words = [f"trainer.{key}={value}" for key, value in settings.items()]
    if words:  # refused before data and model are there
        with pytest.raises(ConfigError, match=f"^trainer.cuda_graphs does not work {why}"):
            compose(["trainer.cuda_graphs=true", *words])
