"""Own what a run tells its observers: one small record for each thing that happens.

Knows nothing of who listens. An observer is any object with some of the methods named in `HOOKS`; each gets one record.
A hook may return `Stop(reason)`, and that is the only way in which an observer steers the loop.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

if TYPE_CHECKING:
    from dlwp.training.trainer import Trainer

HOOKS = (
    "on_start", "on_wait", "on_left_out", "on_step", "on_log", "on_evaluation_step", "on_evaluation", "on_epoch",
    "on_settled", "on_save", "on_end",
)  # fmt: skip
"""The methods an observer may have, in the order in which a run first calls them."""


@dataclass(frozen=True)
class Stop:
    """What a hook returns to end the run after the current step: `exit` becomes the run's `exit` in summary.json.

    `exit` is "early_stopped", "max_time", "stopped:SIGTERM", or a word of the user's own.
    """

    exit: str


@dataclass(slots=True)
class Started:
    """The loop is about to begin (or to go on, then `step` > 0)."""

    hook: ClassVar[str] = "on_start"
    trainer: Trainer
    step: int
    epoch: int
    total_steps: int
    steps_per_epoch: int
    epochs: int


@dataclass(slots=True)
class Waiting:
    """The loop waits for data, and has so for a second."""

    hook: ClassVar[str] = "on_wait"
    trainer: Trainer
    step: int


@dataclass(slots=True)
class LeftOut:
    """A sample could not be read, and another took its place: its index, its data set or file, and why."""

    hook: ClassVar[str] = "on_left_out"
    trainer: Trainer
    sample: int
    name: str
    reason: str


@dataclass(slots=True)
class StepEnded:
    """One optimizer step was taken. `loss` is a detached scalar on the device: reading it waits for the device."""

    hook: ClassVar[str] = "on_step"
    trainer: Trainer
    step: int
    epoch: int
    loss: Tensor
    num_samples: int


@dataclass(slots=True)
class Logged:
    """Every `log_every` steps: plain numbers (`loss`, `lr`, `samples_per_s`, metrics) over the steps since the last."""

    hook: ClassVar[str] = "on_log"
    trainer: Trainer
    step: int
    epoch: int
    values: dict[str, float]


@dataclass(slots=True)
class EvaluationStep:
    """One batch of an evaluation is done: `done` of `total` samples."""

    hook: ClassVar[str] = "on_evaluation_step"
    trainer: Trainer
    split: str
    done: int
    total: int


@dataclass(slots=True)
class Evaluated:
    """A split was evaluated: `values` holds `loss` and each metric; `confusion` is (K, K) counts, rows true classes."""

    hook: ClassVar[str] = "on_evaluation"
    trainer: Trainer
    step: int
    epoch: int
    split: str
    values: dict[str, float]
    num_samples: int
    elapsed_s: float
    is_best: bool = False
    confusion: Tensor | None = None


@dataclass(slots=True)
class EpochEnded:
    """An epoch of training is complete: `train` is over the whole epoch, `val` the epoch's last evaluation if any."""

    hook: ClassVar[str] = "on_epoch"
    trainer: Trainer
    step: int
    epoch: int
    train: dict[str, float]
    val: dict[str, float]
    elapsed_s: float
    samples_per_s: float


@dataclass(slots=True)
class Settled:
    """A step and all that follows from it (log, evaluation, end of epoch) is done: the state may be saved now.

    `epoch` counts whole epochs; `epoch_ended` says that this step was an epoch's last.
    """

    hook: ClassVar[str] = "on_settled"
    trainer: Trainer
    step: int
    epoch: int
    epoch_ended: bool


@dataclass(slots=True)
class Saved:
    """A checkpoint is on disk, whole; training waited `elapsed_s` for it. It may be some steps old by now."""

    hook: ClassVar[str] = "on_save"
    trainer: Trainer
    step: int
    path: Path
    elapsed_s: float


@dataclass(slots=True)
class Ended:
    """The loop is over. `exit`: done, early_stopped, max_time, stopped:SIGNAL, failed. `error` is set for failed."""

    hook: ClassVar[str] = "on_end"
    trainer: Trainer
    step: int
    epoch: int
    exit: str
    error: BaseException | None = None
    times: dict[str, float] = field(default_factory=dict)


@dataclass
class Outcome:
    """How a run ended: `exit` is done, early_stopped, max_time or stopped:SIGNAL; values of the last evaluation."""

    exit: str
    step: int
    epoch: int
    values: dict[str, float | None] = field(default_factory=dict)
