"""What survives a cut comes back as it was, in the memory format of the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dlwp import checkpoint
from dlwp.averaging import AveragedWeights
from dlwp.errors import ConfigError
from dlwp.training.state import TrainState, load_weights


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_fused_optimizer_of_a_channels_last_model_goes_on_with_the_same_bits(
    tmp_path: Path, kind: type[torch.optim.Optimizer]
) -> None:
    options = {"momentum": 0.9} if kind is torch.optim.SGD else {}

    def make() -> TrainState:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 36, 2)).to(
            memory_format=torch.channels_last
        )
        return TrainState(model, kind(model.parameters(), lr=0.01, fused=True, **options))

    def step(state: TrainState, number: int) -> None:
        inputs = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(number))
        state.optimizer.zero_grad()
        state.model(inputs.contiguous(memory_format=torch.channels_last)).square().mean().backward()
        state.optimizer.step()

    whole, first, resumed = make(), make(), make()
    for number in range(4):
        step(whole, number)
    for number in range(2):
        step(first, number)
    resumed.load(*checkpoint.load(checkpoint.save(tmp_path, 2, first, "")))
    for number in range(2, 4):
        step(resumed, number)
    assert all(torch.equal(*pair) for pair in zip(whole.model.parameters(), resumed.model.parameters()))


def test_weights_of_another_model_are_refused_with_the_shapes() -> None:
    with pytest.raises(ConfigError, match="of another model: 2 of 2 tensors differ") as caught:
        load_weights(nn.Linear(3, 2), nn.Linear(4, 5).state_dict())
    assert caught.value.details == ("weight: checkpoint [5, 4], model [2, 3]", "bias: checkpoint [5], model [2]")


def test_averaged_weights_follow_the_formula_and_swap_back() -> None:
    model = nn.Linear(1, 1, bias=False)
    averaged = AveragedWeights(model, 0.9)
    first = model.weight.item()
    with torch.no_grad():
        model.weight.fill_(5.0)
    averaged.update(model, 1)  # the decay is min(0.9, 2/11)
    expected = 5.0 + (2 / 11) * (first - 5.0)
    with averaged.swapped_into(model):
        assert model.weight.item() == pytest.approx(expected, rel=1e-6)
    assert model.weight.item() == 5.0


def test_the_average_of_tied_weights_is_tied_too() -> None:
    model = nn.Sequential(nn.Embedding(5, 2), nn.Linear(2, 5, bias=False))
    model[1].weight = model[0].weight
    averaged = AveragedWeights(model, 0.9)
    with torch.no_grad():
        model[0].weight += 1
    found = averaged.state_dict(model)
    assert set(found) == {"0.weight", "1.weight"}
    assert torch.equal(found["1.weight"], averaged.parameters["0.weight"])
    load_weights(model, found)
    assert torch.equal(model[0].weight, averaged.parameters["0.weight"])


def test_what_json_cannot_hold_comes_back_as_it_was() -> None:
    """MultiStepLR keeps a Counter of milestones with numbers as keys: as texts they would never be met again."""

    def make() -> tuple[TrainState, Any]:
        model = nn.Linear(2, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 4])
        return TrainState(model, optimizer, scheduler), scheduler

    (saved, scheduler), (fresh, again) = make(), make()
    for _ in range(3):
        saved.optimizer.step()
        scheduler.step()
    saved.progress.best_loss = float("inf")
    fresh.load(saved.tensors(), json.loads(json.dumps(saved.record(), allow_nan=False)))
    assert fresh.progress.best_loss == float("inf")
    assert again.milestones == scheduler.milestones and type(again.milestones) is type(scheduler.milestones)
    again.step()
    assert again.get_last_lr() == pytest.approx([0.01])


def test_a_state_that_cannot_be_saved_is_named() -> None:
    class Mine:
        def state_dict(self) -> dict[str, object]:
            return {"x": object()}

        def load_state_dict(self, state: object) -> None:
            pass

    model = nn.Linear(2, 2)
    state = TrainState(model, torch.optim.SGD(model.parameters()), others={"Mine": Mine()})
    with pytest.raises(ConfigError, match="the state of Mine cannot be saved: object is neither"):
        state.record()


def test_another_optimizer_is_refused_or_begun_anew() -> None:
    model = nn.Linear(2, 2)
    saved = TrainState(model, torch.optim.AdamW(model.parameters()))
    model(torch.ones(1, 2)).sum().backward()
    saved.optimizer.step()
    other = TrainState(model, torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(ConfigError, match="another optimizer AdamW → SGD"):
        other.load(saved.tensors(), saved.record())
    [note] = other.load(saved.tensors(), saved.record(), exact=False)
    assert "optimizer AdamW → SGD: begun anew" in note and not other.optimizer.state


def test_averages_that_begin_at_a_resume_begin_with_its_weights() -> None:
    model = nn.Linear(2, 2)
    saved = TrainState(model, torch.optim.SGD(model.parameters()))
    tensors = {group: dict(found) for group, found in saved.tensors().items()}
    tensors["model"] = {name: value + 1 for name, value in tensors["model"].items()}
    averaged = AveragedWeights(model, 0.999)
    TrainState(model, torch.optim.SGD(model.parameters()), averaged=averaged).load(tensors, saved.record())
    assert torch.equal(averaged.parameters["weight"], tensors["model"]["weight"])


class Keeping(torch.optim.SGD):
    """Keeps a number of its own in its groups, as Prodigy does."""

    def __init__(self, params: Any, lr: float = 0.1, d: float = 1.0) -> None:
        super().__init__(params, lr)
        for group in self.param_groups:
            group["d"] = d


def test_what_an_optimizer_keeps_in_its_groups_comes_back_unless_it_is_given_anew() -> None:
    def make(d: float = 1.0, lr: float = 0.1) -> TrainState:
        model = nn.Linear(2, 2)
        return TrainState(model, Keeping(model.parameters(), lr, d))

    saved = make()
    saved.optimizer.param_groups[0]["d"] = 7.0
    again, other = make(lr=0.2), make(d=2.0)
    for state in (again, other):
        state.load(saved.tensors(), saved.record())
    assert (again.optimizer.param_groups[0]["d"], again.optimizer.param_groups[0]["lr"]) == (7.0, 0.2)
    assert other.optimizer.param_groups[0]["d"] == 2.0


def test_tensors_of_a_callback_come_back_as_tensors(tmp_path: Path) -> None:
    class Mine:
        def __init__(self) -> None:
            self.mean: Any = {1: torch.zeros(3)}

        def state_dict(self) -> dict[str, Any]:
            return {"mean": self.mean, "count": 2}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            self.mean = state["mean"]

    model = nn.Linear(2, 2)
    mine, again = Mine(), Mine()
    mine.mean[1] += 5
    saved, fresh = (
        TrainState(model, torch.optim.SGD(model.parameters()), others={"Mine": one}) for one in (mine, again)
    )
    fresh.load(*checkpoint.load(checkpoint.save(tmp_path, 1, saved, "")))
    assert torch.equal(again.mean[1], torch.full((3,), 5.0))


def test_tensors_that_share_memory_in_part_are_saved(tmp_path: Path) -> None:
    model = nn.Linear(4, 4)
    model.register_buffer("head", model.weight.detach()[:2])
    model.register_buffer("flat", model.weight.detach().view(-1))
    tensors, _ = checkpoint.load(checkpoint.save(tmp_path, 1, TrainState(model, torch.optim.SGD([model.bias])), ""))
    for name in ("weight", "head", "flat"):
        assert torch.equal(tensors["model"][name], model.state_dict()[name])
