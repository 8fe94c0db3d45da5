"""The guard names what it leaves out, looks at weights before they are saved, and lets fp16 overflow."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from dlwp.data.datasets import ArrayDataset
from dlwp.data.resident import ResidentLoader
from dlwp.errors import NonFiniteError
from dlwp.optimizers import Chained, Muon
from dlwp.settings import TrainerSettings
from dlwp.training.trainer import Trainer


def trainer_of(**settings: object) -> Trainer:
    torch.manual_seed(0)
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return Trainer(model, nn.MSELoss(), optimizer, TrainerSettings(epochs=1, **settings))  # type: ignore[arg-type]


def loader(poisoned: int | None = None) -> ResidentLoader:
    inputs = torch.randn(20, 2, generator=torch.Generator().manual_seed(1))
    if poisoned is not None:
        inputs[poisoned, 0] = math.nan
    return ResidentLoader(ArrayDataset(inputs, torch.ones(20, 1)), 4)


def test_rollback_says_which_steps_do_not_count_and_puts_averages_back() -> None:
    trainer = trainer_of(on_nonfinite="rollback", ema_decay=0.9)
    averaged = trainer.state.averaged
    assert averaged is not None
    first = averaged.parameters["weight"].clone()
    trainer.settings.max_steps = 4
    trainer.fit(loader(poisoned=13))
    assert trainer.warnings == [
        "step 4 left out: loss is nan; weights are back at step 0, so steps 1 to 4 do not count"
    ]
    assert torch.equal(averaged.parameters["weight"], first)


@pytest.mark.parametrize(
    ("of", "name"), [("model", "the weights 'bias'"), ("average", "the weights 'average of bias'")]
)
def test_weights_that_are_not_finite_are_named_before_a_save(of: str, name: str) -> None:
    trainer = trainer_of(ema_decay=0.9)
    trainer.guard.check_weights()
    averaged = trainer.state.averaged
    assert averaged is not None
    values = averaged.parameters if of == "average" else dict(trainer.model.named_parameters())
    values["bias"].data[0] = math.inf
    with pytest.raises(NonFiniteError, match=name):
        trainer.guard.check_weights()


def test_an_overflow_of_fp16_is_no_error_with_clipping_too() -> None:
    trainer = trainer_of(clip_norm=1.0)
    trainer.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    assert trainer.fit(loader()).exit == "done"
    assert trainer.scaler.get_scale() < 2.0**127


OPTIMIZERS = {
    "fused": lambda layers: torch.optim.SGD(layers.parameters(), lr=0.1, momentum=0.9, fused=True),
    "not fused": lambda layers: torch.optim.AdamW(layers.parameters(), lr=0.1, foreach=True),
    "chained": lambda layers: Chained(
        [Muon([layers[0].weight], lr=0.1), torch.optim.SGD([layers[0].bias, *layers[1].parameters()], 0.1, fused=True)]
    ),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_verdict_left_on_the_device_keeps_the_weights_and_names_the_first_step(name: str) -> None:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    trainer = Trainer(layers, nn.MSELoss(), OPTIMIZERS[name](layers), TrainerSettings(epochs=1))
    trainer.guard._deferred = True  # as on a card
    with pytest.raises(NonFiniteError, match=r"^the loss or a gradient is not finite at step 3\."):
        trainer.fit(loader(poisoned=9))
    assert trainer.state.progress.step == 5
    assert all(bool(torch.isfinite(value).all()) for value in layers.parameters())
