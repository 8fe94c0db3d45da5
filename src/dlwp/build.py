"""Own the way from a checked config, as plain containers, to parts; and answer every `auto`, with its reason.

Knows nothing of Hydra, run folders or the terminal.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from dlwp import devices, nested, optimizers, parallel, randomness, schedules, sharding, weights
from dlwp.data import loaders, splits
from dlwp.data.datasets import Facts, Splits
from dlwp.errors import ConfigError, did_you_mean
from dlwp.metrics import ConfusionMatrix
from dlwp.models import named_inputs, pretrained, stages
from dlwp.parts import Trust, build_nested, instantiate, locate, take_off, takes
from dlwp.settings import DataKeys, ModelKeys, OptimizerKeys, SchedulerKeys, TrainerSettings
from dlwp.training.batches import Loader
from dlwp.training.trainer import Trainer

_OWN_KEYS = {
    group: tuple(one.name for one in dataclasses.fields(schema))
    for group, schema in (
        ("data", DataKeys),
        ("model", ModelKeys),
        ("optimizer", OptimizerKeys),
        ("scheduler", SchedulerKeys),
    )
}


@dataclass(frozen=True)
class Decision:
    """An `auto` that was answered: the key, its value, and why. `stored`: the result depends on it."""

    key: str
    value: Any
    reason: str
    stored: bool = True


@dataclass
class Parts:
    """Everything that a run needs, as plain PyTorch objects."""

    data: Splits
    model: nn.Module
    criterion: Any
    metrics: dict[str, Any]
    device: torch.device
    settings: TrainerSettings
    seed: int
    loaders: dict[str, Loader] = field(default_factory=dict)
    optimizer: Optimizer | None = None
    scheduler: Any = None
    scheduler_interval: str = "step"
    step: Any = None
    strategy: str = "ddp"
    weights: str | None = None
    loaded: pretrained.Loaded | None = None
    frozen: stages.Frozen | None = None
    decisions: list[Decision] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def decided(self, *, stored_only: bool = False) -> dict[str, Any]:
        """Return key -> value of what was decided."""
        return {one.key: one.value for one in self.decisions if one.stored or not stored_only}

    def reason(self, key: str) -> str:
        """Return why a key has its value, or "" when it was not decided here."""
        return next((one.reason for one in self.decisions if one.key == key), "")

    def trainer(self, observers: list[Any]) -> Trainer:
        """Return the trainer of these parts."""
        assert self.optimizer is not None
        ours = isinstance(self.step, stages.HeadStep | named_inputs.NamedStep | None)
        own_step = not ours or hasattr(type(self.model), "training_step")
        classes = None if own_step or self.data.facts.task != "classification" else self.data.facts.num_classes
        confusion = ConfusionMatrix(classes).to(self.device) if classes and observers else None
        self.model = parallel.over_processes(self.model, self.optimizer, self.strategy, self.settings, self.device)
        trainer = Trainer(
            self.model, self.criterion, self.optimizer, self.settings,
            scheduler=self.scheduler, scheduler_interval=self.scheduler_interval, metrics=self.metrics,
            observers=observers, step=self.step, confusion=confusion,
            device=self.device, seed=self.seed, frozen=self.frozen,
        )  # fmt: skip
        trainer.state.data = self.data.facts.record()
        trainer.state.keep("data", self.loaders.get("train"))
        return trainer


class Builder:
    """Builds the parts of one config, in the order in which each depends on those before it.

    Args:
        values: the composed config as plain containers.
        trust: which targets may be resolved.
        typed: full keys that a person set. Where a part's `_target_` is among them, keys of the option in whose place
            it stands are left out unless the new class takes them, or they are typed as well.
    """

    def __init__(self, values: Mapping[str, Any], trust: Trust | None = None, typed: Collection[str] = ()) -> None:
        self._values = values
        self._typed = frozenset(typed)
        self._trust = trust
        self._seed = values["seed"]
        self._weights: pretrained.Weights | None = None
        self._wanted: dict[str, tuple[Any, str]] = {}
        self._decisions: list[Decision] = []
        self._warnings: list[str] = []

    def build(self, *, fresh: bool = True) -> Parts:
        """Build everything for training.

        Args:
            fresh: the weights that the model is to begin with are put in; else they come with a checkpoint.

        Raises:
            ConfigError, DataError, MachineError: something does not fit or is not there.
        """
        parts = self.build_for_evaluation(fresh=fresh)
        keys = ModelKeys(**self._take_off("model", ModelKeys)[1])
        freeze = functools.partial(stages.freeze, parts.model, keys.freeze, parts.data.facts.num_classes)
        thaws = parts.settings.unfreeze_at is not None  # then the optimizer is to have all
        parts.frozen = None if thaws else freeze()
        if hasattr(parts.model, "init_from"):  # weights that begin from the data, of the first training batch
            first = next(iter(parts.loaders["train"].epoch(0)))[0].to(next(parts.model.parameters()).device)
            with torch.no_grad():
                parts.model.init_from(first)  # type: ignore[operator]
        parts.optimizer = self._optimizer(parts.model, parts.data.facts)
        parts.frozen = freeze() if thaws else parts.frozen
        parts.strategy = self._strategy(parts)
        parts.scheduler, parts.scheduler_interval = self._scheduler(parts)
        own = [group.pop("scheduler", None) for group in parts.optimizer.param_groups]
        parts.scheduler = schedules.by_group(parts.scheduler, own)
        self._check_monitor(parts)
        return parts

    def build_for_evaluation(self, *, fresh: bool = False) -> Parts:
        """Build data, model, criterion, metrics and loaders: what evaluation needs; `fresh` as in `build`."""
        settings = TrainerSettings(**self._values["trainer"])
        if settings.deterministic:
            devices.use_deterministic_algorithms()
        device, reason = devices.resolve(self._values["device"])
        devices.limit_threads()
        devices.keep_freed_memory()
        self._decide("device", str(device), reason, stored=False)
        data, keys = self._data(fresh)
        randomness.seed_everything(self._seed)
        model = self._model(data.facts)
        begun = self._weights
        loaded = pretrained.load_into(model, begun.load(), begun.name) if begun is not None else None
        traits = devices.Traits.of(model)
        settings = self._computation(settings, device, traits, data.facts)
        dtype = torch.float64 if settings.precision == "fp64" else torch.float32
        model = model.to(device=sharding.home(self._values["strategy"], device), dtype=dtype)
        if settings.channels_last:
            model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        criterion = self._criterion(data).to(device=device, dtype=dtype)
        metrics = self._metrics(data, device)
        step = self._step(settings, model, data)
        parts = Parts(data, model, criterion, metrics, device, settings, self._seed, step=step)
        parts.loaded, parts.weights = loaded, begun.name if begun is not None else None
        parts.decisions, parts.warnings = self._decisions, [*self._warnings, *data.warnings]
        parts.loaders = self._loaders(data, keys, device, settings, dtype)
        return parts

    def _decide(self, key: str, value: Any, reason: str, *, stored: bool = True) -> Any:
        self._decisions.append(Decision(key, value, reason, stored))
        return value

    # ---- data -----------------------------------------------------------------------------------------------------

    def read_data(self, *, fresh: bool = True) -> tuple[Splits, DataKeys]:
        """Return the data as its `_target_` gives it, val cut off, before anything is asked of its samples."""
        section, own = self._take_off("model", ModelKeys)
        if fresh:
            target = locate(section["_target_"], "model._target_", self._trust)
            self._weights = weights.chosen(target, section, ModelKeys(**own))
            self._wanted = getattr(target, "data_answers", {})
        section, own = self._take_off("data", DataKeys)
        section, own = self._as_trained(section), self._as_trained(own)
        keys = DataKeys(**own)
        self._skips_itself = "on_error" in section
        found = instantiate(section, "data", self._trust)
        data = splits.as_splits(found)
        fraction = keys.val_fraction
        if fraction == "auto":
            fraction = self._decide("data.val_fraction", 0.2, "usual") if data.val is None else 0.0
        if data.val is None and float(fraction) > 0:
            data = splits.cut_validation(data, float(fraction), self._seed)
        return data, keys

    def _data(self, fresh: bool) -> tuple[Splits, DataKeys]:
        data, keys = self.read_data(fresh=fresh)
        key = keys.collate
        self._collate = splits.collate_of(data.train) if key is None else locate(key, "data.collate", self._trust)
        options = {"mean": keys.mean, "std": keys.std, "collate": self._collate}
        splits.find_facts(data, task=keys.task, classes=keys.classes, **options)
        if (
            keys.max_samples is not None
            and (fewer := splits.take(data.train, keys.max_samples, self._seed)) is not data.train
        ):
            data.train = fewer
            data.notes.append(f"train cut to {keys.max_samples:,} samples (data.max_samples)")
        for name, value in (("mean", data.facts.mean), ("std", data.facts.std)):
            if getattr(keys, name) == "auto":
                self._decide(f"data.{name}", value, data.facts.sources.get(name, "from the training split"))
        return data, keys

    def _as_trained(self, section: dict[str, Any]) -> dict[str, Any]:
        """Return a section of data with each `auto` filled that the model answers, or weights that it begins with."""
        answers = {**weights.answers(self._weights, section), **self._wanted}
        return {
            name: self._decide(f"data.{name}", *answers[name]) if value == "auto" and name in answers else value
            for name, value in section.items()
        }

    def _loaders(
        self, data: Splits, keys: DataKeys, device: torch.device, settings: TrainerSettings, dtype: torch.dtype
    ) -> dict[str, Loader]:
        return loaders.loaders_of(
            data, keys, settings, augment=build_nested(keys.augment, "data.augment", self._trust), seed=self._seed,
            device=device, dtype=dtype, skips_itself=self._skips_itself, collate=self._collate,
            decide=functools.partial(self._decide, stored=False),
        )  # fmt: skip

    # ---- model, criterion, metrics --------------------------------------------------------------------------------

    def _model(self, facts: Facts) -> nn.Module:
        section = self._filled(self._take_off("model", ModelKeys)[0], "model", facts.answers())
        target = locate(section.get("_target_"), "model._target_", self._trust)
        wrong = "function" if inspect.isbuiltin(target) else "class" if isinstance(target, type) else None
        if wrong and not (isinstance(target, type) and issubclass(target, nn.Module)):
            raise ConfigError(f"model._target_ {section['_target_']} is a {wrong}; a torch.nn.Module class is needed")
        model = instantiate(section, "model", self._trust)
        if not isinstance(model, nn.Module):
            raise ConfigError(
                f"model._target_ {section['_target_']} gives a {type(model).__name__}; a torch.nn.Module is needed"
            )
        for name, parameter in model.named_parameters():
            if isinstance(parameter, nn.parameter.UninitializedParameter):
                raise ConfigError(f"model: '{name}' has no size before a first batch. Write Linear(in, out) for Lazy…")
        return model

    def _filled(self, section: Mapping[str, Any], key: str, answers: Mapping[str, tuple[Any, str]]) -> dict[str, Any]:
        filled = dict(section)
        for name, value in section.items():
            if value != "auto":
                continue
            if name not in answers:
                known = f"Known: {', '.join(answers)}" if answers else "None is known"
                raise ConfigError(f"{key}.{name}=auto: no fact of the data answers it. {known}. Set {key}.{name}=...")
            value, reason = answers[name]
            filled[name] = self._decide(f"{key}.{name}", value, reason)
        return filled

    def _computation(
        self, settings: TrainerSettings, device: torch.device, traits: devices.Traits, facts: Facts
    ) -> TrainerSettings:
        precision, why = devices.choose_precision(settings.precision, device, traits, facts.task)
        channels_last, why_format = devices.choose_channels_last(
            settings.channels_last, device, traits, facts.input_shape
        )
        if settings.precision == "auto":
            self._decide("trainer.precision", precision, why)
        if str(settings.channels_last).lower() == "auto":
            self._decide("trainer.channels_last", channels_last, why_format)
        return dataclasses.replace(settings, precision=precision, channels_last=channels_last)

    def _criterion(self, data: Splits) -> Any:
        section = dict(self._section("criterion"))
        for name in ("weight", "pos_weight"):
            value = section.get(name)
            if value == "auto":
                value = self._decide(f"criterion.{name}", *splits.class_weights(data))
            if isinstance(value, list):
                section[name] = torch.tensor(value, dtype=torch.float32)
        section = self._filled(section, "criterion", data.facts.answers())
        found = instantiate(section, "criterion", self._trust)
        return found if isinstance(found, nn.Module) else _Function(found)

    def _metrics(self, data: Splits, device: torch.device) -> dict[str, Any]:
        facts, sections = data.facts, self._values.get("metrics") or {}
        if sections and isinstance(data.sample, Mapping | tuple | list) and nested.target_of(data.sample) is None:
            self._warnings.append(f"left out, for no part of a sample is known as its target: {', '.join(sections)}")
            return {}
        built = {}
        for name, section in sections.items():
            if section is None or section.get("only", facts.task) != facts.task:
                continue
            section = {key: value for key, value in section.items() if key != "only"}
            section = self._filled(section, f"metrics.{name}", facts.answers())
            metric = instantiate(section, f"metrics.{name}", self._trust)
            built[name] = metric.to(device) if hasattr(metric, "to") else metric
        return built

    def _step(self, settings: TrainerSettings, model: nn.Module, data: Splits) -> Any:
        step = settings.step
        if step is None:
            found = None if hasattr(type(model), "training_step") else named_inputs.step_for(model, data.sample)
            data.notes += [f"the model takes {found.told}"] if found is not None else []
            return found
        if isinstance(step, str):
            return locate(step, "trainer.step", self._trust)
        return instantiate(step, "trainer.step", self._trust)

    # ---- optimizer, scheduler -------------------------------------------------------------------------------------

    def _optimizer(self, model: nn.Module, facts: Facts) -> Optimizer:
        section, own = self._take_off("optimizer", OptimizerKeys)
        keys = OptimizerKeys(**own)
        target = locate(section.get("_target_"), "optimizer._target_", self._trust)
        settings = self._values["trainer"]
        for name in ("accumulate", "cuda_graphs", "ema_decay"):
            if optimizers.needs_closure(target) and settings[name] not in (1, None, False):
                raise ConfigError(
                    f"optimizer {target.__name__} evaluates the loss several times a step: trainer.{name} does not go"
                    " with it. optimizer=adamw"
                )
        total = sum(1 for _ in model.parameters())
        trainable = sum(parameter.requires_grad for parameter in model.parameters())
        if not trainable:
            raise ConfigError(f"no parameter is trainable (all {total} are frozen). Thaw some, or choose another model")
        if section.get("lr") == "auto":
            value, reason = optimizers.default_lr(target.__name__, model, int(self._values["data"]["batch_size"]))
            section["lr"] = self._decide("optimizer.lr", value, reason)
        if section.get("fused") == "auto":
            del section["fused"]
            if takes(target, "fused") and settings["unfreeze_at"] is None:  # what thaws has no momentum yet
                section["fused"] = self._decide("optimizer.fused", True, "one kernel for all parameters", stored=False)
        make = functools.partial(instantiate, trust=self._trust)
        entries, flat = keys.groups or [], keys.decay_norms_and_biases
        if keys.backbone_lr_scale != 1.0 or keys.layer_decay is not None:
            if entries:
                raise ConfigError("optimizer.groups sets the rates: leave backbone_lr_scale and layer_decay out")
            apart = stages.backbone_of(model, facts.num_classes)
            entries = optimizers.graded(model, section, apart, keys.backbone_lr_scale, keys.layer_decay, flat)
        optimizer = optimizers.assemble(model, section, target, flat, entries, make)
        return optimizers.lookahead(optimizer, keys.lookahead) if keys.lookahead else optimizer

    def _scheduler(self, parts: Parts) -> tuple[Any, str]:
        if not self._values.get("scheduler"):
            return None, "step"
        section, own = self._take_off("scheduler", SchedulerKeys)
        keys = SchedulerKeys(**own)
        target = locate(section.get("_target_"), "scheduler._target_", self._trust)
        if not (isinstance(target, type) and issubclass(target, LRScheduler)):
            if hasattr(target, "observe") and "val" not in parts.loaders:
                raise ConfigError("this scheduler needs a validation split. data.val_fraction=0.1")
            return instantiate(section, "scheduler", self._trust), "step"
        steps = len(parts.loaders["train"])
        total = parts.settings.total_steps(steps)
        length = total if keys.interval == "step" else parts.settings.epochs
        known = {"total_steps": length, "T_max": length}
        for name, value in known.items():
            if takes(target, name) and section.get(name) in (None, "auto"):
                section[name] = self._decide(f"scheduler.{name}", value, f"length of the run in {keys.interval}s")
        if section.get("total_steps", length) < length:
            raise ConfigError(f"scheduler.total_steps={section['total_steps']} but the run has {length:,}")
        return instantiate(section, "scheduler", self._trust, optimizer=parts.optimizer), keys.interval

    def _strategy(self, parts: Parts) -> str:
        strategy = str(self._values["strategy"])
        assert parts.optimizer is not None
        if sharding.is_wanted(strategy):
            sharding.refuse(parts.settings, parts.optimizer, parts.model)
        elif strategy == sharding.NAME and self._values["devices"] == 1:
            parts.warnings.append(f"strategy={strategy} has no effect with one process. devices=2 or more")
        return strategy

    @staticmethod
    def _check_monitor(parts: Parts) -> None:
        measured = ["val/loss", *(f"val/{name}" for name in parts.metrics)]
        monitor = parts.settings.monitor
        own_step = parts.step is not None or hasattr(type(parts.model), "training_step")  # may measure more
        if monitor != "auto" and monitor not in measured and not own_step:
            hint = did_you_mean(monitor.replace("_", "/"), measured)
            raise ConfigError(f"trainer.monitor='{monitor}' is not measured.{hint} Measured: {', '.join(measured)}")
        if "val" not in parts.loaders and (monitor != "auto" or parts.settings.patience is not None):
            raise ConfigError("trainer.monitor and trainer.patience need a validation split. data.val_fraction=0.1")

    def _section(self, group: str) -> dict[str, Any]:
        section = self._values.get(group)
        if not section or "_target_" not in section:
            raise ConfigError(f"no {group} is chosen. {group}=NAME, or {group}._target_=my_file.MyClass")
        if f"{group}._target_" not in self._typed:
            return dict(section)
        target = locate(section["_target_"], f"{group}._target_", self._trust)
        kept = {"_target_", *_OWN_KEYS.get(group, ())}
        return {
            name: value
            for name, value in section.items()
            if name in kept or f"{group}.{name}" in self._typed or takes(target, name)
        }

    def _take_off(self, group: str, schema: type) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return a section without the keys that dlwp reads itself, and those; a constructor's own argument stays."""
        section = self._section(group)
        return take_off(section, schema, locate(section["_target_"], f"{group}._target_", self._trust))


class _Function(nn.Module):
    """A criterion that was given as a plain function."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, *arguments: Any) -> Any:
        return self.function(*arguments)
