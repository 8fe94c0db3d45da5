"""Own all that must survive a cut: `TrainState` is its one place.

Knows nothing of files: a checkpoint asks it for tensors and a record.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from dlwp.averaging import AveragedWeights
from dlwp.errors import ConfigError
from dlwp.jsonable import from_json, to_json


@runtime_checkable
class Stateful(Protocol):
    """Anything whose state is saved with the run."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state: containers of JSON values (tensors too, for schedulers)."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> Any:
        """Take the state back."""
        ...


@dataclass
class Progress:
    """How far the run has come.

    Attributes:
        step: optimizer steps taken. samples: training samples seen.
        epoch: whole epochs done. position: batches done of the current one.
        pending: what still has to follow the last step ("log", "evaluate", "epoch"), so that a cut between loses none.
        best_value, best_loss, best_step: of the evaluation that is best by the monitored metric.
        last_values: of the last evaluation.
        skipped, rollbacks: steps left out, and returns to the last checkpoint, after a non-finite loss or gradient.
        elapsed_s: time of training in earlier processes.
        order: that the samples are to come in.
        total_steps, cycles: the length of the run, and what the schedule makes of it (`training.rates`).
        pieces: those that a batch is cut into since memory ran out, 0 if it never did.
    """

    step: int = 0
    samples: int = 0
    epoch: int = 0
    position: int = 0
    pending: list[str] = field(default_factory=list)
    best_value: float | None = None
    best_loss: float | None = None
    best_step: int | None = None
    last_values: dict[str, float | None] = field(default_factory=dict)
    skipped: int = 0
    rollbacks: int = 0
    elapsed_s: float = 0.0
    order: dict[str, Any] = field(default_factory=dict)
    total_steps: int = 0
    cycles: list[list[int]] = field(default_factory=list)
    pieces: int = 0


class TrainState:
    """Everything of a run that is not a function of its config: saved whole, and taken back whole.

    Args:
        model, optimizer: the objects that are trained with.
        scheduler: an object with state (`Stateful`), or one that is a function of progress and has none.
        averaged: the EMA weights, if they are kept.
        scaler: the gradient scaler of fp16, if there is one.
        others: further objects with state, by name: observers and callbacks.

    Attributes:
        data: what must be known of the data to use the model elsewhere, fit for JSON.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        scheduler: Any = None,
        averaged: AveragedWeights | None = None,
        scaler: torch.amp.GradScaler | None = None,
        others: dict[str, Stateful] | None = None,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.averaged = averaged
        self.progress = Progress()
        self.data: dict[str, Any] = {}
        self._given = [_options(group) for group in optimizer.param_groups]
        self._scheduler_owns_rates = isinstance(scheduler, torch.optim.lr_scheduler.LRScheduler)
        self._stateful: dict[str, Stateful] = dict(others or {})
        if isinstance(scheduler, Stateful):
            self._stateful["scheduler"] = scheduler
        if scaler is not None:
            self._stateful["scaler"] = scaler

    def keep(self, name: str, part: Any) -> None:
        """Save the state of a further object with the run, if it has one."""
        if isinstance(part, Stateful):
            self._stateful[name] = part

    def tensors(self) -> dict[str, Any]:
        """Return group -> nested tensors: "model", "optimizer" (by parameter name), "ema" where it is kept."""
        groups: dict[str, Any] = {
            "model": self.model.state_dict(keep_vars=True),
            "optimizer": self._optimizer_by_name(),
        }
        if self.averaged is not None:
            groups["ema"] = self.averaged.state_dict(self.model)
        own = {name: part for name, part in self._stateful.items() if _is_own(part)}
        others = {name: to_json(part.state_dict(), keep=True) for name, part in own.items()}
        if others := {name: nested for name, nested in others.items() if _holds_tensors(nested)}:
            groups["others"] = others
        return groups

    def record(self) -> dict[str, Any]:
        """Return all that is not a tensor, fit for JSON."""
        stateful = {}
        for name, part in self._stateful.items():
            try:
                if state := to_json(part.state_dict()):
                    stateful[name] = state
            except TypeError as error:
                raise ConfigError(f"the state of {name} cannot be saved: {error}") from error
        progress = to_json(dataclasses.asdict(self.progress))
        return {"progress": progress, "stateful": stateful, "classes": self._classes(), "data": self.data}

    def load(self, tensors: dict[str, Any], record: dict[str, Any], *, exact: bool = True) -> list[str]:
        """Take back what `tensors` and `record` gave.

        Args:
            exact: refuse the state of another optimizer or scheduler; else begin theirs anew.

        Returns:
            What was begun anew.

        Raises:
            ConfigError: the weights are of another model, or the state of another optimizer or scheduler.
        """
        load_weights(self.model, tensors["model"])
        stateful = {**record["stateful"], **tensors.get("others", {})}
        if self.averaged is not None:
            self.averaged.load_state_dict(tensors.get("ema", tensors["model"]))
        former = record.get("classes", {})
        anew = {name: now for name, now in self._classes().items() if former.get(name, now) != now}
        changes = [f"{name} {former[name]} → {now}" for name, now in anew.items()]
        if changes and exact:
            raise ConfigError(f"the checkpoint is of another {', '.join(changes)}. If you mean it: resume_exact=false")
        if "optimizer" not in anew:
            self._load_optimizer(tensors["optimizer"])
        self.progress = Progress(**from_json(record["progress"]))
        for name, part in self._stateful.items():
            if name in stateful and name not in anew:
                part.load_state_dict(from_json(stateful[name]))
        return [f"{change}: begun anew (resume_exact=false)" for change in changes]

    def _classes(self) -> dict[str, str]:
        parts = {"optimizer": self.optimizer, "scheduler": self._stateful.get("scheduler")}
        return {name: type(part).__name__ for name, part in parts.items() if part is not None}

    def _optimizer_by_name(self) -> dict[str, Any]:
        names = {id(parameter): name for name, parameter in self.model.named_parameters()}
        state = {
            names[id(parameter)]: dict(values)
            for parameter, values in self.optimizer.state.items()
            if id(parameter) in names
        }
        groups = []
        for group, given in zip(self.optimizer.param_groups, self._given, strict=True):
            members = [names[id(parameter)] for parameter in group["params"]]
            groups.append({**_options(group), "params": members, "given": given})
        return {"state": state, "groups": groups}

    def _load_optimizer(self, saved: dict[str, Any]) -> None:
        parameters = dict(self.model.named_parameters())
        current = self.optimizer.state_dict()
        number = {
            id(parameter): index
            for group, packed in zip(self.optimizer.param_groups, current["param_groups"], strict=True)
            for parameter, index in zip(group["params"], packed["params"], strict=True)
        }
        unknown = [name for name in saved["state"] if name not in parameters]
        if unknown:
            raise ConfigError(f"the checkpoint's optimizer knows the parameter '{unknown[0]}', the model does not")
        current["state"] = {
            number[id(parameters[name])]: {key: _laid_out_as(parameters[name], value) for key, value in values.items()}
            for name, values in saved["state"].items()
        }
        for packed, stored, given in zip(current["param_groups"], saved["groups"], self._given, strict=True):
            # what an optimizer keeps in its groups is state, as rates are that of a scheduler of torch's; but what the
            # config gives otherwise than before counts
            former = stored.get("given", given if self._scheduler_owns_rates else {})
            packed |= {
                key: value for key, value in _options(stored).items()
                if key not in given or (key in former and _is_same(given[key], former[key]))
            }  # fmt: skip
        self.optimizer.load_state_dict(current)


def _options(group: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in group.items() if key not in ("params", "given")}


def _is_same(one: Any, other: Any) -> bool:
    """Return whether an option is what was saved of it: tuples come back as lists."""
    return bool(to_json(one) == to_json(other))


def _is_own(part: Any) -> bool:
    """Return whether a part is the user's own: dlwp's keep no tensors in their states."""
    return getattr(part, "has_tensors", False) or type(part).__module__.partition(".")[0] not in ("dlwp", "torch")


def _holds_tensors(nested: Any) -> bool:
    if isinstance(nested, dict | list):
        return any(_holds_tensors(item) for item in (nested.values() if isinstance(nested, dict) else nested))
    return isinstance(nested, Tensor)


def load_weights(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Load weights and buffers into a model that must have just these.

    Raises:
        ConfigError: names or shapes differ; the first three are told.
    """
    own = model.state_dict()
    differing = [
        f"{name}: checkpoint {_shape(tensors, name)}, model {_shape(own, name)}"
        for name in {**own, **tensors}
        if _shape(tensors, name) != _shape(own, name)
    ]
    if differing:
        raise ConfigError(
            f"the checkpoint is of another model: {len(differing)} of {len(own)} tensors differ. "
            "Start it with the model that it was made with",
            differing[:3],
        )
    model.load_state_dict(tensors)


def _laid_out_as(parameter: Tensor, value: Any) -> Any:
    """Return a tensor of the parameter's shape in its memory format: fused kernels go through both side by side."""
    if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
        return torch.empty_like(parameter, dtype=value.dtype).copy_(value)
    return value


def _shape(tensors: dict[str, Tensor], name: str) -> str:
    found = tensors.get(name)
    return "none" if name not in tensors else str(list(found.shape)) if isinstance(found, Tensor) else "its own state"
