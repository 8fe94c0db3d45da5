"""Own the schedules of the learning rate: each a function of progress that gives a factor of the base rate.

Knows nothing of optimizers or of the loop: a schedule can be plotted before a run, and resumed without state (but for
`Plateau`, whose past is no function of progress).

A schedule is called as `schedule(step, total_steps, steps_per_epoch)`; `step` counts the optimizer steps already taken,
0 before the first. Every schedule warms up on request: over `warmup`, the first "500 steps", "2 epochs" or 0.05 of the
run, its factor is multiplied by one that climbs to 1 in equal steps (Goyal et al. 2017, arXiv 1706.02677, section 2.2).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from dlwp.errors import ConfigError, did_you_mean
from dlwp.settings import Duration


class Constant:
    """Keep the base rate.

    Args:
        warmup: length of the climb at the start: a part of the run in [0, 1), "500 steps" or "2 epochs".
    """

    def __init__(self, warmup: str | float = 0.0) -> None:
        self._warmup = _length("warmup", warmup)

    def __call__(self, step: int, total_steps: int, steps_per_epoch: int) -> float:
        """Return the factor for the step after `step`."""
        return _climb(step, _steps(self._warmup, total_steps, steps_per_epoch))


class Linear:
    """Fall from the base rate to `final` along a line, from the end of warm-up to the end of the run.

    Args:
        warmup: length of the climb at the start: a part of the run in [0, 1), "500 steps" or "2 epochs".
        final: factor that the line ends at, in [0, 1].
        end: where the line ends, and the rate stays from there on: a part of the run or a length, counted from the
            start; None is the end of the run.
    """

    def __init__(self, warmup: str | float = 0.0, final: float = 0.0, end: str | float | None = None) -> None:
        self._warmup = _length("warmup", warmup)
        self._final = _fraction("final", final)
        self._end = None if end is None else _length("end", end)

    def __call__(self, step: int, total_steps: int, steps_per_epoch: int) -> float:
        """Return the factor for the step after `step`."""
        length = _steps(self._warmup, total_steps, steps_per_epoch)
        end = total_steps if self._end is None else _steps(self._end, total_steps, steps_per_epoch)
        return _climb(step, length) * _between(1.0, self._final, _progress(step, length, end), "linear")


class Cosine:
    """Fall from the base rate to `final` along half a cosine, from the end of warm-up to the end of the run.

    Args:
        warmup: length of the climb at the start: a part of the run in [0, 1), "500 steps" or "2 epochs".
        final: factor that the curve ends at, in [0, 1].

    Source:
        Loshchilov, Hutter 2017, arXiv 1608.03983, equation 5, without restarts.
    """

    def __init__(self, warmup: str | float = 0.0, final: float = 0.0) -> None:
        self._warmup = _length("warmup", warmup)
        self._final = _fraction("final", final)

    def __call__(self, step: int, total_steps: int, steps_per_epoch: int) -> float:
        """Return the factor for the step after `step`."""
        length = _steps(self._warmup, total_steps, steps_per_epoch)
        return _climb(step, length) * _between(1.0, self._final, _progress(step, length, total_steps), "cosine")


class OneCycle:
    """Climb from 1 / `div_factor` of the base rate to it, then fall to `final`: the base rate is the peak.

    Args:
        pct_start: part of the run that the climb takes, in (0, 1).
        div_factor: the first factor is 1 / div_factor; above 1.
        final: factor at the end, in [0, 1].
        shape: of climb and fall, "linear" or "cosine".
        warmup: length of a further climb at the start, multiplied with the cycle's own.

    Source:
        Smith, Topin 2018, arXiv 1708.07120.
    """

    def __init__(
        self,
        pct_start: float = 0.2,
        div_factor: float = 25.0,
        final: float = 0.0,
        shape: str = "linear",
        warmup: str | float = 0.0,
    ) -> None:
        if not 0 < pct_start < 1:
            raise ConfigError(f"scheduler.pct_start must be between 0 and 1, got {pct_start}. scheduler.pct_start=0.2")
        if div_factor < 1:
            raise ConfigError(f"scheduler.div_factor must be at least 1, got {div_factor}. scheduler.div_factor=25")
        self._start = pct_start
        self._first = 1 / div_factor
        self._final = _fraction("final", final)
        self._shape = _shape(shape)
        self._warmup = _length("warmup", warmup)

    def __call__(self, step: int, total_steps: int, steps_per_epoch: int) -> float:
        """Return the factor for the step after `step`."""
        peak = self._start * total_steps
        if step < peak:
            factor = _between(self._first, 1.0, step / peak, self._shape)
        else:
            factor = _between(1.0, self._final, _progress(step, peak, total_steps), self._shape)
        return factor * _climb(step, _steps(self._warmup, total_steps, steps_per_epoch))


class Step:
    """Multiply the rate by `gamma` after every `every`.

    Args:
        every: length between two drops, "30 epochs" or "1000 steps".
        gamma: what a drop multiplies the rate by, in (0, 1].
        warmup: length of the climb at the start: a part of the run in [0, 1), "500 steps" or "2 epochs".
    """

    def __init__(self, every: str = "5 epochs", gamma: float = 0.1, warmup: str | float = 0.0) -> None:
        self._every = _duration("every", every)
        self._gamma = _gamma(gamma)
        self._warmup = _length("warmup", warmup)

    def __call__(self, step: int, total_steps: int, steps_per_epoch: int) -> float:
        """Return the factor for the step after `step`."""
        drops = step // self._every.steps(steps_per_epoch)
        return _climb(step, _steps(self._warmup, total_steps, steps_per_epoch)) * self._gamma**drops


class MultiStep:
    """Multiply the rate by `gamma` at each milestone.

    Args:
        milestones: parts of the run in (0, 1), or lengths such as "80 epochs" or "32000 steps".
        gamma: what a drop multiplies the rate by, in (0, 1].
        warmup: length of the climb at the start: a part of the run in [0, 1), "500 steps" or "2 epochs".

    Source:
        He et al. 2015, arXiv 1512.03385, section 4.2: tenths at 1/2 and 3/4 of the run.
    """

    def __init__(
        self, milestones: Sequence[float | str] = (0.5, 0.75), gamma: float = 0.1, warmup: str | float = 0.0
    ) -> None:
        self._milestones = [_length("milestones", value) for value in milestones]
        self._gamma = _gamma(gamma)
        self._warmup = _length("warmup", warmup)

    def __call__(self, step: int, total_steps: int, steps_per_epoch: int) -> float:
        """Return the factor for the step after `step`."""
        drops = sum(step >= _steps(mark, total_steps, steps_per_epoch) for mark in self._milestones)
        return _climb(step, _steps(self._warmup, total_steps, steps_per_epoch)) * self._gamma**drops


class Plateau:
    """Multiply the rate by `gamma` when the monitored value has not got better for `patience` evaluations.

    The one schedule with state: it is told of each evaluation by `observe`.

    Args:
        patience: evaluations without a better value before a drop, at least 1.
        gamma: what a drop multiplies the rate by, in (0, 1].
        least: factor below which it does not fall, in [0, 1].
        warmup: length of the climb at the start: a part of the run in [0, 1), "500 steps" or "2 epochs".
    """

    def __init__(self, patience: int = 3, gamma: float = 0.1, least: float = 0.0, warmup: str | float = 0.0) -> None:
        if patience < 1:
            raise ConfigError(f"scheduler.patience must be at least 1, got {patience}. scheduler.patience=3")
        self._patience = patience
        self._gamma = _gamma(gamma)
        self._least = _fraction("least", least)
        self._warmup = _length("warmup", warmup)
        self._factor = 1.0
        self._waited = 0

    def __call__(self, step: int, total_steps: int, steps_per_epoch: int) -> float:
        """Return the factor for the step after `step`."""
        return _climb(step, _steps(self._warmup, total_steps, steps_per_epoch)) * self._factor

    def observe(self, value: float, better: bool) -> None:
        """Take in an evaluation: `better` says whether `value` is the best so far."""
        self._waited = 0 if better else self._waited + 1
        if self._waited >= self._patience:
            self._waited = 0
            self._factor = max(self._factor * self._gamma, self._least)

    def state_dict(self) -> dict[str, Any]:
        """Return the past as plain numbers."""
        return {"factor": self._factor, "waited": self._waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the past back."""
        self._factor, self._waited = state["factor"], state["waited"]


class ByGroup:
    """Give each group of parameters its own schedule.

    Args:
        schedules: one for each group of the optimizer, in its order.
    """

    def __init__(self, schedules: Sequence[Callable[[int, int, int], float]]) -> None:
        self._schedules = list(schedules)

    def __call__(self, step: int, total_steps: int, steps_per_epoch: int) -> list[float]:
        """Return the factor of each group for the step after `step`."""
        return [schedule(step, total_steps, steps_per_epoch) for schedule in self._schedules]


def by_group(shared: Any, own: Sequence[Any]) -> Any:
    """Return the schedule of a run: the shared one where no group has its own, else a `ByGroup`.

    Args:
        shared: of the groups without one; None keeps their rate.
        own: a schedule or None for each group.

    Raises:
        ConfigError: the shared one has a state, or sets the rates itself, so that it cannot be one among several.
    """
    if not any(own):
        return shared
    if shared is not None and (hasattr(shared, "state_dict") or not callable(shared)):
        raise ConfigError(
            f"a group of optimizer.groups has its own scheduler, beside which {type(shared).__name__} cannot stand, as "
            "it is no function of the step alone. scheduler=linear"
        )
    return ByGroup([one or shared or Constant() for one in own])


def _climb(step: int, length: int) -> float:
    """Return the factor of warm-up: 1/length for the first step, 1 from the last of its steps on."""
    return min(1.0, (step + 1) / length) if length else 1.0


def _progress(step: int, start: float, end: int) -> float:
    """Return how far `step` lies from start (0) to end (1); 1 where there is nothing between."""
    return min(1.0, max(0.0, (step - start) / (end - start))) if end > start else float(step >= end)


def _between(first: float, last: float, progress: float, shape: str) -> float:
    part = progress if shape == "linear" else (1 - math.cos(math.pi * progress)) / 2
    return first + (last - first) * part


def _length(key: str, value: float | str) -> float | Duration:
    """Read a length: a part of the run in [0, 1), or epochs or steps as text; "0 steps" is none."""
    if isinstance(value, str) and value.split()[:1] == ["0"]:
        return 0.0
    if isinstance(value, str):
        return _duration(key, value)
    if not 0 <= value < 1:
        text = f"[{value:g} epochs]" if key == "milestones" else f"{value:g} epochs"
        raise ConfigError(
            f"scheduler.{key}: a number is a part of the run, from 0 to below 1, got {value}. 'scheduler.{key}={text}'"
        )
    return float(value)


def _steps(length: float | Duration, total_steps: int, steps_per_epoch: int) -> int:
    return round(length * total_steps) if isinstance(length, float) else length.steps(steps_per_epoch)


def _duration(key: str, text: str) -> Duration:
    try:
        length = Duration.parse(text)
    except ValueError as error:
        raise ConfigError(f"scheduler.{key}: {error}") from error
    if length.unit == "time":
        raise ConfigError(f"scheduler.{key} counts epochs or steps, not time, got {text!r}. 'scheduler.{key}=2 epochs'")
    return length


def _fraction(key: str, value: float) -> float:
    if not 0 <= value <= 1:
        raise ConfigError(f"scheduler.{key} is a factor of the base rate between 0 and 1, got {value}")
    return float(value)


def _gamma(value: float) -> float:
    if not 0 < value <= 1:
        raise ConfigError(f"scheduler.gamma must be above 0 and at most 1, got {value}. scheduler.gamma=0.1")
    return float(value)


def _shape(value: str) -> str:
    if value not in ("linear", "cosine"):
        options = did_you_mean(value, ("linear", "cosine"))
        raise ConfigError(f"scheduler.shape cannot be {value!r}.{options} There are: linear, cosine")
    return value
