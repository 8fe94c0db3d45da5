"""Own ending a run early because others of its search did better by then.

Knows nothing of the search: it tells a value, and hears whether to go on.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from dlwp.errors import ConfigError
from dlwp.settings import Duration
from dlwp.training.events import Evaluated, Started, Stop

if TYPE_CHECKING:
    from dlwp.training.trainer import Trainer


class Pruning:
    """Tell the monitored metric of each evaluation, and stop with the exit "pruned" when told to.

    Evaluations are counted from 1 by `trainer.eval_every`, so that runs with batches of different sizes are compared
    at the same place, and a resumed run tells each once.

    Args:
        report: takes the number of the evaluation and the value, and returns whether to stop.
        monitor, mode: what the search compares ("val/accuracy", "max"); another is refused.
    """

    watcher = False

    def __init__(self, report: Callable[[int, float], bool], monitor: str, mode: str) -> None:
        self._report = report
        self._monitor, self._mode = monitor, mode

    def on_start(self, event: Started) -> None:
        """Refuse a run whose values cannot be compared with the others'.

        Raises:
            ConfigError: it is judged by another metric.
        """
        trainer = event.trainer
        if trainer.monitor != self._monitor:
            text = f"the run is judged by {trainer.monitor}, its search by {self._monitor}"
            raise ConfigError(f"{text}. Say it for all: trainer.monitor={trainer.monitor}")
        if trainer.monitor_mode != self._mode:
            text = f"the run wants {self._monitor} as its {trainer.monitor_mode}, its search as its {self._mode}"
            raise ConfigError(f"{text}. Say it: trainer.monitor_mode={trainer.monitor_mode}")

    def on_evaluation(self, event: Evaluated) -> Stop | None:
        """Tell the value of a validation."""
        split, _, name = self._monitor.partition("/")
        if event.split != split or name not in event.values:
            return None
        value = event.values[name]
        worst = -math.inf if self._mode == "max" else math.inf
        number = _number(event.trainer, event.step)
        return Stop("pruned") if self._report(number, value if math.isfinite(value) else worst) else None


def _number(trainer: Trainer, step: int) -> int:
    every = Duration.parse(trainer.settings.eval_every).steps(trainer.steps_per_epoch)
    return math.ceil(step / every)
