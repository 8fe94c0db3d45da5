"""The schedules promise their values at every step, as pure functions of progress."""

import math
from typing import Any

import pytest

from dlwp.errors import ConfigError
from dlwp.schedules import Constant, Cosine, Linear, MultiStep, OneCycle, Plateau, Step, by_group

TOTAL, EPOCH = 100, 10


def _values(schedule: Any, total: int = TOTAL) -> list[float]:
    return [schedule(step, total, EPOCH) for step in range(total + 1)]


def test_constant_is_one() -> None:
    assert set(_values(Constant())) == {1.0}


def test_linear_falls_along_a_line_to_final() -> None:
    assert _values(Linear(final=0.2)) == pytest.approx([1 - 0.8 * step / TOTAL for step in range(TOTAL + 1)], abs=1e-12)


def test_cosine_falls_along_half_a_cosine() -> None:
    expected = [0.5 * (1 + math.cos(math.pi * step / TOTAL)) for step in range(TOTAL + 1)]
    assert _values(Cosine()) == pytest.approx(expected, abs=1e-12)


def test_cosine_begins_where_warmup_ends() -> None:
    values = _values(Cosine(warmup="20 steps"))
    assert values[19] == 1.0
    assert values[20] == 1.0
    assert values[60] == pytest.approx(0.5)
    assert values[100] == pytest.approx(0.0)


@pytest.mark.parametrize("shape", ["linear", "cosine"])
def test_one_cycle_climbs_to_the_base_rate_and_falls_to_final(shape: str) -> None:
    values = _values(OneCycle(pct_start=0.3, div_factor=25, final=0.01, shape=shape))
    assert values[0] == pytest.approx(1 / 25)
    assert values[15] == pytest.approx((1 / 25 + 1) / 2)
    assert values[30] == 1.0
    assert values[65] == pytest.approx((1 + 0.01) / 2)
    assert values[100] == pytest.approx(0.01)
    assert values[:31] == sorted(values[:31])
    assert values[30:] == sorted(values[30:], reverse=True)


def test_step_drops_after_every_length() -> None:
    values = _values(Step(every="4 epochs", gamma=0.1))
    assert values[39:41] == pytest.approx([1.0, 0.1])
    assert values[79:81] == pytest.approx([0.1, 0.01])


def test_milestones_are_parts_of_the_run_or_lengths() -> None:
    values = _values(MultiStep(milestones=[0.5, "80 steps", "9 epochs"], gamma=0.5))
    assert [values[step] for step in (49, 50, 79, 80, 89, 90)] == [1.0, 0.5, 0.5, 0.25, 0.25, 0.125]


@pytest.mark.parametrize("make", [Constant, Linear, Cosine, OneCycle, Step, MultiStep, Plateau])
@pytest.mark.parametrize("warmup", ["8 steps", "0.8 epochs", 0.08])
def test_every_schedule_warms_up_in_equal_steps(make: Any, warmup: str | float) -> None:
    steps = range(8)
    climb = [make(warmup=warmup)(step, TOTAL, EPOCH) for step in steps]
    plain = [make()(step, TOTAL, EPOCH) if make is OneCycle else 1.0 for step in steps]
    assert climb == pytest.approx([(step + 1) / 8 * value for step, value in zip(steps, plain)])


@pytest.mark.parametrize("make", [Linear, Cosine, OneCycle])
def test_a_run_of_one_step_has_a_rate(make: Any) -> None:
    assert 0 < make()(0, 1, 1) <= 1


@pytest.mark.parametrize("make", [Linear, Cosine, OneCycle])
def test_steps_beyond_the_run_keep_the_last_rate(make: Any) -> None:
    assert make(final=0.1)(TOTAL + 50, TOTAL, EPOCH) == pytest.approx(0.1)


@pytest.mark.parametrize("none", [0, 0.0, "0 steps", "0 epochs"])
def test_no_warmup_can_be_said_in_any_unit(none: Any) -> None:
    assert _values(Cosine(warmup=none)) == _values(Cosine())


def test_plateau_drops_after_patience_evaluations_without_a_better_value() -> None:
    schedule = Plateau(patience=2, gamma=0.1, least=0.005)
    factors = []
    for better in (True, False, True, False, False, False, False, False, False, False):
        schedule.observe(0.0, better)
        factors.append(schedule(0, TOTAL, EPOCH))
    assert factors == pytest.approx([1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01, 0.005, 0.005])


def test_plateau_goes_on_from_its_saved_past() -> None:
    first, second = Plateau(patience=2), Plateau(patience=2)
    for _ in range(3):
        first.observe(0.0, False)
    second.load_state_dict(first.state_dict())
    for schedule in (first, second):
        schedule.observe(0.0, False)
    assert first(0, TOTAL, EPOCH) == second(0, TOTAL, EPOCH) == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (Cosine, {"warmup": "5 parsecs"}, "scheduler.warmup: '5 parsecs' is not a duration"),
        (Cosine, {"warmup": "10 min"}, "scheduler.warmup counts epochs or steps, not time"),
        (Cosine, {"warmup": 5}, "'scheduler.warmup=5 epochs'"),
        (Cosine, {"final": 2}, "scheduler.final is a factor of the base rate between 0 and 1, got 2"),
        (MultiStep, {"milestones": [80]}, r"'scheduler.milestones=\[80 epochs\]'"),
        (Step, {"gamma": 0}, "scheduler.gamma must be above 0 and at most 1, got 0"),
        (Step, {"every": "0 epochs"}, "scheduler.every"),
        (OneCycle, {"pct_start": 1}, "scheduler.pct_start must be between 0 and 1, got 1"),
        (OneCycle, {"shape": "cos"}, "scheduler.shape cannot be 'cos'. Did you mean 'cosine'"),
        (Plateau, {"patience": 0}, "scheduler.patience must be at least 1, got 0"),
    ],
)
def test_values_out_of_range_are_refused_in_one_line(make: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        make(**arguments)
    assert "\n" not in str(caught.value)


def test_a_line_may_end_before_the_run_does() -> None:
    line = Linear(end="3 epochs")
    assert [line(step, 40, 5) for step in (0, 3, 15, 16, 39)] == pytest.approx([1.0, 0.8, 0.0, 0.0, 0.0])
    assert Linear(end=0.5, final=0.1)(30, 40, 5) == pytest.approx(0.1)


def test_groups_may_have_schedules_of_their_own() -> None:
    shared, own = Linear(), Linear(end="1 epoch")
    assert by_group(shared, [None, None]) is shared
    assert by_group(shared, [None, own])(5, 20, 10) == [0.75, 0.5]
    assert by_group(None, [None, own])(5, 20, 10) == [1.0, 0.5]
    with pytest.raises(ConfigError, match="beside which Plateau cannot stand"):
        by_group(Plateau(), [None, own])
