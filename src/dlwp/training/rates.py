"""Own the learning rate of each step: the schedule's factor, and what a longer run makes of the schedule.

Knows nothing of the loop.

A schedule is planned over cycles, [first step, end) each; at first there is one, the whole run. When a run is resumed
with another length, `trainer.extend` says what becomes of it:

    stretch   the last cycle ends where the run now ends: the rate goes on as if the run had always been this long
    hold      the cycles stay; past the last one the rate is that of its last step
    restart   another cycle follows, over the added steps, with its warm-up

A scheduler of torch's that has an end of its own (`total_steps`, `T_max`) is held there, whatever `extend` says.
"""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from dlwp.training.state import Progress


class Rates:
    """Sets the rate of each step.

    Args:
        optimizer: whose groups' "lr" is set; "initial_lr" is the base rate.
        scheduler: a function (step, total_steps, steps_per_epoch) -> factor, or a list of one for each group; an object
            of torch's; or None.
        interval: when torch's is stepped, "step" or "epoch".
        extend: "stretch", "hold" or "restart".
    """

    def __init__(self, optimizer: Optimizer, scheduler: Any, interval: str, extend: str) -> None:
        self._optimizer = optimizer
        self._scheduler = scheduler
        self._interval = interval
        self._extend = extend
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])

    @property
    def now(self) -> float:
        """The rate of the first parameter group at the last step."""
        return float(self._optimizer.param_groups[0]["lr"])

    @property
    def base(self) -> float:
        """The rate of the first parameter group before the schedule's factor."""
        return float(self._optimizer.param_groups[0]["initial_lr"])

    def plan(self, progress: Progress, total_steps: int, steps_per_epoch: int) -> str | None:
        """Fit the cycles to a run of `total_steps`; return what to tell where the length is another than before."""
        self._steps_per_epoch = steps_per_epoch
        before, progress.total_steps = progress.total_steps, total_steps
        if not progress.cycles:
            progress.cycles = [[0, total_steps]]
        if before in (0, total_steps) or self._scheduler is None:
            return None
        if isinstance(self._scheduler, LRScheduler):
            how = f"{type(self._scheduler).__name__} keeps its own plan" + (" and is held" if self._has_end() else "")
            return f"{before:,} → {total_steps:,} steps: {how}"
        if self._extend == "stretch":
            progress.cycles[-1][1] = total_steps
        elif self._extend == "restart" and total_steps > before:
            progress.cycles.append([before, total_steps])
        others = {"stretch": "hold or restart", "hold": "stretch or restart", "restart": "stretch or hold"}
        factor = self._factors(progress)[0]
        return (
            f"{before:,} → {total_steps:,} steps: trainer.extend={self._extend} (or {others[self._extend]}), "
            f"the next rate is {self.base * factor:.3g}"
        )

    def before_step(self, progress: Progress) -> None:
        """Set the rate of the step after `progress.step`."""
        if callable(self._scheduler):
            for group, factor in zip(self._optimizer.param_groups, self._factors(progress)):
                group["lr"] = group["initial_lr"] * factor

    def after_step(self, progress: Progress) -> None:
        """Step a scheduler of torch's that counts steps."""
        self._step_torch("step", progress)

    def after_epoch(self, progress: Progress) -> None:
        """Step a scheduler of torch's that counts epochs."""
        self._step_torch("epoch", progress)

    def after_evaluation(self, value: float, *, is_best: bool) -> None:
        """Tell a scheduler that listens the monitored value."""
        if hasattr(self._scheduler, "observe"):
            self._scheduler.observe(value, is_best)
        elif isinstance(self._scheduler, ReduceLROnPlateau):
            self._scheduler.step(value)

    def _factors(self, progress: Progress) -> list[float]:
        cycles = progress.cycles
        start, end = cycles[0] if len(cycles) == 1 else next(one for one in cycles[::-1] if one[0] <= progress.step)
        step = min(progress.step, max(end - 1, start)) - start
        found = self._scheduler(step, end - start, self._steps_per_epoch)
        return found if isinstance(found, list) else [float(found)] * len(self._optimizer.param_groups)

    def _step_torch(self, interval: str, progress: Progress) -> None:
        scheduler = self._scheduler
        if not isinstance(scheduler, LRScheduler) or isinstance(scheduler, ReduceLROnPlateau):
            return
        if self._interval == interval and not (self._has_end() and progress.step > progress.cycles[-1][1]):
            scheduler.step()

    def _has_end(self) -> bool:
        return any(hasattr(self._scheduler, name) for name in ("total_steps", "T_max"))
