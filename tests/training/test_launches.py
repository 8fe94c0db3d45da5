"""What a step asks of torch, counted: beside a bare loop's only what its promises need, and no wait for a device."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from dlwp.data.augment import BatchTransform
from dlwp.data.datasets import ArrayDataset
from dlwp.data.resident import ResidentLoader
from dlwp.metrics import Accuracy, TopK
from dlwp.settings import TrainerSettings
from dlwp.training.trainer import Trainer

BATCH_SIZE, STEPS = 64, 16
DATA = ArrayDataset(torch.randn(BATCH_SIZE * STEPS, 16), torch.randint(4, (BATCH_SIZE * STEPS,)))
VIEWS = {"aten.split.Tensor", "aten.slice.Tensor", "aten.detach.default", "aten.view.default", "aten.alias.default"}
"""Operations that launch nothing on a device."""


class Counting(TorchDispatchMode):
    """Counts the operations that would be launched."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if str(func).startswith("aten.") and str(func) not in VIEWS:
            self.found[str(func)] += 1
        return func(*args, **(kwargs or {}))


def parts() -> tuple[nn.Module, torch.optim.Optimizer]:
    model = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4))
    return model, torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, fused=True)


def bare(steps: int) -> Counter[str]:
    model, optimizer = parts()
    with Counting() as counting:
        for chosen in torch.randperm(BATCH_SIZE * STEPS).split(BATCH_SIZE)[:steps]:
            outputs = model(DATA.inputs.index_select(0, chosen))
            loss = functional.cross_entropy(outputs, DATA.targets.index_select(0, chosen))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
    return counting.found


def ours(steps: int, *, deferred: bool = False, **settings: Any) -> Counter[str]:
    model, optimizer = parts()
    loader = ResidentLoader(DATA, BATCH_SIZE, shuffle=True, transform=BatchTransform(mean=[0.1], std=[2.0]))
    trainer = Trainer(
        model, nn.CrossEntropyLoss(), optimizer,
        TrainerSettings(max_steps=steps, log_every=1000, precision="fp32", **settings),
        metrics={"accuracy": Accuracy(), "top2": TopK(2)},
    )  # fmt: skip
    trainer.guard._deferred = deferred  # as on a card
    with Counting() as counting:
        trainer.fit(loader)
    return counting.found


def a_step(run: Any, **options: Any) -> Counter[str]:
    """Return what eight steps more have asked for."""
    more, fewer = run(15, **options), run(7, **options)
    return Counter({name: count for name in more if (count := more[name] - fewer[name])})


def test_a_step_launches_what_a_bare_loop_does_and_one_look_at_the_gradients() -> None:
    further = a_step(ours)
    further.subtract(a_step(bare))
    assert {name: count for name, count in further.items() if count} == {
        "aten.index_select.default": -16,  # small batches are selected and normalised many at once
        "aten._amp_foreach_non_finite_check_and_unscale_.default": 8,
        "aten._local_scalar_dense.default": 8,  # whether the loss or a gradient is not finite
    }


def test_between_logs_nothing_waits_for_the_device() -> None:
    found = a_step(ours, deferred=True)
    assert not [name for name in found if "_local_scalar" in name or "nonzero" in name]


def test_clipping_looks_at_the_norm_alone() -> None:
    found = a_step(ours, clip_norm=1.0)
    assert found["aten._amp_foreach_non_finite_check_and_unscale_.default"] == 8


@pytest.mark.parametrize("dtypes", [(torch.float64, torch.float64), (torch.float32, torch.float64)])
def test_a_gradient_of_any_type_is_looked_at(dtypes: tuple[torch.dtype, ...]) -> None:
    model, optimizer = parts()
    guard = Trainer(model, nn.CrossEntropyLoss(), optimizer).guard
    good = [torch.ones(3, dtype=dtype) for dtype in dtypes]
    assert float(guard._look(good)) == 0
    for number, value in ((0, float("nan")), (1, float("inf"))):
        bad = [one.clone() for one in good]
        bad[number][1] = value
        assert float(guard._look(bad)) == 1
        assert float(guard._look(good)) == 1  # for good: it is read later
        guard._found.zero_()
    assert all(torch.equal(one, torch.ones_like(one)) for one in good)
