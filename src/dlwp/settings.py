"""Own the typed keys of the command, of the trainer, and those that dlwp itself reads of a part: they are the schema.

Knows nothing of Hydra, torch or how a key is used. The YAML files under `configs/` say what each key means, and hold
the same defaults (a test compares them). Here stand type, default and choices.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

GROUPS = (
    "data", "model", "criterion", "optimizer", "scheduler", "metrics", "trainer", "logger", "callbacks", "experiment",
)  # fmt: skip
"""The config groups, in the order of the defaults list."""


PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
"""Endings of file names that are taken for pictures."""


@dataclass
class CommandSettings:
    """The top level of `dlwp-train`: everything that is not a group."""

    seed: int = 0
    device: str = "auto"
    devices: int | str = 1
    strategy: str = "ddp"
    max_restarts: int = 3
    run_dir: str | None = None
    resume: str | None = None
    resume_exact: bool = True
    resume_fallback: bool = False
    verify_resume: bool = False
    tags: list[str] = field(default_factory=list)
    notes: str = ""
    dry_run: bool = False
    check: bool = False
    trust: list[str] = field(default_factory=list)
    jobs: int | None = None
    sweep_resume: str | None = None
    data: Any = None
    model: Any = None
    criterion: Any = None
    optimizer: Any = None
    scheduler: Any = None
    metrics: Any = None
    trainer: Any = None
    logger: Any = None
    callbacks: Any = None


def default_of(name: str) -> Any:
    """Return the default of a key of the top level."""
    return getattr(CommandSettings(), name)


@dataclass
class TrainerSettings:
    """How the loop runs. Durations are texts such as "1 epoch", "500 steps", "10 min" (see `Duration`)."""

    epochs: int = 15
    max_steps: int | None = None
    max_time: str | None = None
    extend: str = "stretch"
    precision: str = "auto"
    channels_last: bool | str = "auto"
    compile: bool = False
    cuda_graphs: bool = False
    accumulate: int | str = 1
    sync_batchnorm: bool | str = "auto"
    find_unused_parameters: bool | str = "auto"
    clip_norm: float | None = None
    ema_decay: float | None = None
    tta: str | None = None
    eval_every: str = "1 epoch"
    checkpoint_every: str = "1 epoch"
    keep_last: int = 1
    keep_best: bool = True
    monitor: str = "auto"
    monitor_mode: str = "auto"
    patience: int | None = None
    unfreeze_at: str | None = None
    on_nonfinite: str = "stop"
    deterministic: bool = False
    detect_anomaly: bool = False
    limit_batches: int | None = None
    log_every: int = 50
    progress: bool | str = "auto"
    profile: bool = False
    step: Any = None

    def total_steps(self, steps_per_epoch: int) -> int:
        """Return the optimizer steps of a run."""
        return min(self.epochs * steps_per_epoch, self.max_steps or sys.maxsize)


@dataclass
class LoggerSettings:
    """What is recorded beside metrics.jsonl."""

    tensorboard: bool = True
    plots: bool = True
    images: int = 32


@dataclass
class SearchSettings:
    """How values are searched (`hydra/sweeper=optuna`)."""

    _target_: str = "hydra_plugins.dlwp.Search"
    n_trials: int = 20
    timeout: str | None = None
    sampler: str = "tpe"
    seed: int = 0
    pruner: str = "median"
    warmup: int = 3
    params: Any = field(default_factory=dict)


@dataclass
class DataKeys:
    """The keys of `data` that dlwp reads itself; they are taken off before the `_target_` is called."""

    batch_size: int = 128
    eval_batch_size: int | str = "auto"
    val_fraction: float | str = 0.1
    max_samples: int | None = None
    loader: str = "auto"
    num_workers: int | str = "auto"
    timeout_s: float = 300.0
    on_error: str = "error"
    drop_last: bool = False
    augment: Any = None
    mean: Any = None
    std: Any = None
    task: str = "auto"
    classes: Any = None
    collate: Any = None
    steps_per_epoch: int | None = None


@dataclass
class ModelKeys:
    """The keys of `model` that dlwp reads itself."""

    pretrained: bool = False
    weights: str | None = None
    freeze: Any = "none"


@dataclass
class OptimizerKeys:
    """The keys of `optimizer` that dlwp reads itself."""

    decay_norms_and_biases: bool = True
    groups: Any = None
    lookahead: Any = None
    backbone_lr_scale: float = 1.0
    layer_decay: float | None = None


@dataclass
class SchedulerKeys:
    """The keys of `scheduler` that dlwp reads itself, for classes of torch.optim.lr_scheduler."""

    interval: str = "step"


OPEN = ("model.parameters", "model.derivatives", "data.types", "data.parts")
"""Sections whose keys are a person's own names."""

STANDS_FOR = {
    "trainer=least_squares": ("optimizer=least_squares", "scheduler=constant", "criterion=mse", "metrics=regression"),
}
"""Word -> words that it stands for as well, where their keys are not typed: no file can choose against a model's."""

FORMULAS = r"model\.(formula|derivatives\.\w+|parameters\.\w+\.equals)"
"""Keys that hold formulas, as a pattern: what is typed there is a text, whatever signs it has."""

CHOICES: dict[str, tuple[str, ...]] = {
    "trainer.precision": ("auto", "fp32", "bf16", "fp16", "fp64"),
    "trainer.channels_last": ("auto", "true", "false"),
    "trainer.progress": ("auto", "true", "false"),
    "trainer.on_nonfinite": ("stop", "skip", "rollback"),
    "trainer.monitor_mode": ("auto", "min", "max"),
    "trainer.tta": ("mirror", "mirror_translate"),
    "trainer.extend": ("stretch", "hold", "restart"),
    "data.loader": ("auto", "memory", "workers"),
    "data.on_error": ("error", "skip"),
    "data.task": (
        "auto",
        "classification",
        "regression",
        "reconstruction",
        "multilabel",
        "segmentation",
        "sequence",
        "other",
    ),
    "scheduler.interval": ("step", "epoch"),
    "strategy": ("ddp", "fsdp2"),
    "trainer.sync_batchnorm": ("auto", "true", "false"),
    "trainer.find_unused_parameters": ("auto", "true", "false"),
    "hydra.sweeper.sampler": ("tpe", "random", "grid", "cmaes", "qmc"),
    "hydra.sweeper.pruner": ("median", "hyperband", "none"),
}
"""Keys whose value is one of a few words."""

MINIMUM: dict[str, float] = {
    "seed": 0,
    "devices": 1,
    "max_restarts": 0,
    "jobs": 1,
    "hydra.sweeper.n_trials": 1,
    "hydra.sweeper.seed": 0,
    "hydra.sweeper.warmup": 1,
    "trainer.epochs": 1,
    "trainer.max_steps": 1,
    "trainer.accumulate": 1,
    "trainer.keep_last": 1,
    "trainer.patience": 1,
    "trainer.limit_batches": 1,
    "trainer.log_every": 1,
    "trainer.ema_decay": 0,
    "logger.images": 0,
    "data.batch_size": 1,
    "data.eval_batch_size": 1,
    "data.num_workers": 0,
    "data.timeout_s": 0.1,
    "data.val_fraction": 0,
    "data.max_samples": 1,
    "data.steps_per_epoch": 1,
    "optimizer.backbone_lr_scale": 0,
    "optimizer.layer_decay": 0,
}
"""Keys with a least value."""

NOT_WITH_GRAPHS = ("compile", "unfreeze_at")
"""Keys of the trainer beside which `cuda_graphs` does not work: what was captured stays as it is."""

DURATIONS: dict[str, tuple[str, ...]] = {
    "trainer.max_time": ("time",),
    "hydra.sweeper.timeout": ("time",),
    "trainer.eval_every": ("epoch", "step"),
    "trainer.checkpoint_every": ("epoch", "step", "time"),
    "trainer.unfreeze_at": ("epoch", "step"),
}
"""Keys that hold a duration, and the units that each takes."""

OF_ONE_COMMAND = (
    "run_dir", "resume", "resume_exact", "resume_fallback", "verify_resume", "dry_run", "check", "trust",
    "jobs", "sweep_resume",
)  # fmt: skip
"""Keys that hold for the command in which they are typed: a run's config.yaml does not keep them."""

FREE_ON_RESUME = (
    "callbacks", "check", "data.download", "data.eval_batch_size", "data.loader", "data.num_workers", "data.on_error",
    "data.path", "data.root", "data.test_path", "data.timeout_s", "data.val_path", "data.verify", "device", "devices",
    "dry_run", "logger", "max_restarts", "notes", "resume_exact", "resume_fallback", "strategy", "tags",
    "trainer.checkpoint_every", "trainer.epochs", "trainer.extend", "trainer.keep_best", "trainer.keep_last",
    "trainer.log_every", "trainer.max_steps", "trainer.max_time", "trainer.patience", "trainer.profile",
    "trainer.progress", "trust",
)  # fmt: skip
"""Keys, and sections whole, that a resumed run may change and still be the same run: how long it trains, what it keeps,
shows and records, where it runs and where its data lies."""


def is_within(key: str, sections: Iterable[str]) -> bool:
    """Return whether a key is one of some keys and sections, or lies in one of these.

    >>> [is_within(key, ["jobs", "logger"]) for key in ("jobs", "logger.plots", "jobs_left")]
    [True, True, False]
    """
    return any(f"{key}.".startswith(f"{one}.") for one in sections)


_UNITS = {
    "epoch": ("epoch", 1), "epochs": ("epoch", 1), "step": ("step", 1), "steps": ("step", 1),
    "s": ("time", 1), "sec": ("time", 1), "second": ("time", 1), "seconds": ("time", 1),
    "min": ("time", 60), "minute": ("time", 60), "minutes": ("time", 60),
    "h": ("time", 3600), "hour": ("time", 3600), "hours": ("time", 3600),
    "d": ("time", 86400), "day": ("time", 86400), "days": ("time", 86400),
}  # fmt: skip


@dataclass(frozen=True)
class Duration:
    """A length of training: `value` epochs, steps or seconds, as `unit` ("epoch", "step", "time") says."""

    value: float
    unit: str

    @classmethod
    def parse(cls, text: str) -> Duration:
        """Read "1 epoch", "500 steps", "10 min", "2 h".

        Raises:
            ValueError: the text is not a positive number and a known unit; its message is fit for a person.

        >>> Duration.parse("10 min")
        Duration(value=600.0, unit='time')
        """
        match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([A-Za-z]+)\s*", str(text))
        if match is None or match[2] not in _UNITS:
            raise ValueError(f"{text!r} is not a duration such as '1 epoch', '500 steps' or '10 min'")
        unit, scale = _UNITS[match[2]]
        value = float(match[1]) * scale
        if value <= 0 or (unit == "step" and value != int(value)):
            raise ValueError(f"{text!r} must be above 0, and a whole number where it counts steps")
        return cls(value, unit)

    def steps(self, steps_per_epoch: int) -> int:
        """Return this as a number of steps, at least 1; only for epochs and steps."""
        if self.unit == "time":
            raise ValueError("a time is not a number of steps")
        return max(1, round(self.value * (steps_per_epoch if self.unit == "epoch" else 1)))
