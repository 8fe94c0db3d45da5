"""What a longer run makes of its schedule, and that a cut between changes nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dlwp.schedules import Cosine, Linear, OneCycle, Step, by_group
from dlwp.training.rates import Rates
from dlwp.training.state import Progress


def make(extend: str = "stretch", scheduler: Any = None, interval: str = "step") -> Rates:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.0)
    if isinstance(scheduler, type):
        scheduler = scheduler(optimizer, T_max=10)
    return Rates(optimizer, scheduler or Cosine(), interval, extend)


def rates_over(rates: Rates, progress: Progress, until: int) -> list[float]:
    found = []
    while progress.step < until:
        rates.before_step(progress)
        found.append(rates.now)
        rates._optimizer.step()
        progress.step += 1
        rates.after_step(progress)
    return found


def extended(extend: str, scheduler: Any = None) -> tuple[list[float], str | None]:
    progress = Progress()
    rates = make(extend, scheduler)
    assert rates.plan(progress, 10, 5) is None
    rates_over(rates, progress, 10)
    told = rates.plan(progress, 20, 5)
    return rates_over(rates, progress, 20), told


def test_stretch_goes_on_as_if_the_run_had_always_been_so_long() -> None:
    longer = Progress()
    rates = make()
    rates.plan(longer, 20, 5)
    found, told = extended("stretch")
    assert found == rates_over(rates, longer, 20)[10:]
    assert told == "10 → 20 steps: trainer.extend=stretch (or hold or restart), the next rate is 1"


def test_hold_keeps_the_rate_of_the_last_planned_step() -> None:
    progress = Progress()
    rates = make()
    rates.plan(progress, 10, 5)
    last = rates_over(rates, progress, 10)[-1]
    found, _ = extended("hold")
    assert found == [last] * 10 and last > 0


def test_restart_goes_through_the_schedule_again_over_the_added_steps() -> None:
    progress = Progress()
    rates = make(scheduler=OneCycle())
    rates.plan(progress, 10, 5)
    first = rates_over(rates, progress, 10)
    found, _ = extended("restart", OneCycle())
    assert found == first


def test_a_second_extension_builds_on_the_first() -> None:
    progress = Progress()
    rates = make("restart")
    rates.plan(progress, 10, 5)
    progress.step = 10
    rates.plan(progress, 20, 5)
    progress.step = 20
    make("hold").plan(progress, 30, 5)
    assert progress.cycles == [[0, 10], [10, 20]] and progress.total_steps == 30
    make("restart").plan(progress, 40, 5)
    assert progress.cycles == [[0, 10], [10, 20], [30, 40]]


def test_a_resume_of_the_same_length_tells_and_changes_nothing() -> None:
    progress = Progress()
    make().plan(progress, 10, 5)
    assert make("restart").plan(progress, 10, 5) is None
    assert progress.cycles == [[0, 10]]


def test_a_schedule_by_length_goes_on_falling_under_stretch() -> None:
    found, _ = extended("stretch", Step("1 epoch", gamma=0.5))
    assert found == [0.5] * 5 + [0.25] * 5


@pytest.mark.parametrize("extend", ["stretch", "hold", "restart"])
def test_a_torch_scheduler_with_an_end_is_held_there(extend: str) -> None:
    found, told = extended(extend, torch.optim.lr_scheduler.CosineAnnealingLR)
    assert found == [0.0] * 10
    assert told == "10 → 20 steps: CosineAnnealingLR keeps its own plan and is held"


def test_each_group_follows_its_own_factor() -> None:
    weights = [torch.zeros(1, requires_grad=True) for _ in range(2)]
    optimizer = torch.optim.SGD([{"params": [weights[0]], "lr": 2.0}, {"params": [weights[1]], "lr": 10.0}])
    rates, progress = Rates(optimizer, by_group(Linear(), [None, Linear(end=0.5)]), "step", "stretch"), Progress(step=5)
    rates.plan(progress, 20, 5)
    rates.before_step(progress)
    assert [group["lr"] for group in optimizer.param_groups] == [1.5, 5.0]
