"""Own how a network is taken apart: its head, the stages of the backbone in front of it, and which of them are frozen.

Knows nothing of data or optimizers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dlwp.errors import ConfigError

_NORMS = (nn.modules.batchnorm._BatchNorm,)
_ANY_NORM = (*_NORMS, nn.LayerNorm, nn.GroupNorm)
_LARGE = 0.8  # a child with so much of the backbone is taken apart itself
_FEW = 4  # fewer stages than these are taken apart further


def head_of(model: nn.Module, num_outputs: int | None = None) -> tuple[str, nn.Module]:
    """Return name and module of the head: the last linear layer (or convolution) with `num_outputs` outputs.

    Args:
        model: any network.
        num_outputs: K; None takes the last of them.

    Raises:
        ConfigError: there is none.
    """
    found = None
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d) and num_outputs in (None, module.weight.shape[0]):
            found = name, module
    if found is None:
        raise ConfigError(f"{type(model).__name__} has no last linear layer, so it has no head and backbone")
    return found


def stages_of(model: nn.Module, head: str) -> list[list[str]]:
    """Return the stages of the backbone, first to last, each as the names of its modules.

    They are the network's children but the head; one that holds most of the backbone is taken apart in its own
    children. A norm belongs to the stage before it.
    """
    names = list(_children(model, "", head))
    while len(names) < 2 * _FEW:
        total = sum(_size(model, name) for name in names)
        large = next((name for name in names if _size(model, name) > _LARGE * total), None)
        parts = list(_children(model, large, head)) if large is not None else []
        if large is None or not parts:
            break
        names[names.index(large) : names.index(large) + 1] = parts
    found: list[list[str]] = []
    for name in names:
        is_norm = isinstance(model.get_submodule(name), _ANY_NORM)
        if is_norm and found:
            found[-1].append(name)
        else:
            found.append([name])
    return found


def _children(model: nn.Module, name: str, head: str) -> Iterator[str]:
    for child, module in model.get_submodule(name).named_children():
        path = f"{name}.{child}" if name else child
        if path == head:
            continue
        if head.startswith(f"{path}."):  # what holds the head is taken apart
            yield from _children(model, path, head)
        elif any(True for _ in module.parameters()):
            yield path


def _size(model: nn.Module, name: str) -> int:
    return sum(parameter.numel() for parameter in model.get_submodule(name).parameters())


def backbone_of(model: nn.Module, num_outputs: int | None) -> list[list[str]]:
    """Return the names of the parameters of each stage of the backbone; those of no stage stand in the first.

    Raises:
        ConfigError: the network has no head.
    """
    head, _ = head_of(model, num_outputs)
    stages = stages_of(model, head)
    found: list[list[str]] = [[] for _ in stages] or [[]]
    for name, _ in model.named_parameters():
        if not name.startswith(f"{head}."):
            at = [number for number, stage in enumerate(stages) if any(name.startswith(f"{one}.") for one in stage)]
            found[at[0] if at else 0].append(name)
    return found


@dataclass(frozen=True)
class Frozen:
    """What was frozen: `tensors` parameters, and the words for it ("backbone", "3 of 9 stages")."""

    what: str
    parameters: Sequence[Tensor]

    def thaw(self, model: nn.Module) -> str:
        """Let all of it be trained, and return what it was."""
        for parameter in self.parameters:
            parameter.requires_grad_(True)
        if model.training:
            to_training(model)
        return self.what


def freeze(model: nn.Module, spec: str | int, num_outputs: int | None) -> Frozen | None:
    """Freeze the backbone, or its first stages; batch norm all of whose parameters are frozen keeps its statistics.

    Args:
        model: any network.
        spec: "none"; "backbone": all but the head; or a number of stages, from the input on.
        num_outputs: of the head.

    Returns:
        What was frozen, None for "none".

    Raises:
        ConfigError: there is no such way, no head, or there are fewer stages.
    """
    if str(spec) == "none":
        return None
    head, module = head_of(model, num_outputs)
    kept = {id(parameter) for parameter in module.parameters()}
    if str(spec) == "backbone":
        what, chosen = "backbone", [one for one in model.parameters() if id(one) not in kept]
    elif str(spec).isdigit():
        stages, count = stages_of(model, head), int(spec)
        if not 0 < count <= len(stages):
            raise ConfigError(
                f"model.freeze={spec}, but the backbone has {len(stages)} stages: "
                f"{', '.join(stage[0] for stage in stages)}. model.freeze=1 to {len(stages)}, or backbone"
            )
        what = f"{count} of {len(stages)} stages"
        names = {name for stage in backbone_of(model, num_outputs)[:count] for name in stage}
        chosen = [parameter for name, parameter in model.named_parameters() if name in names]
    else:
        raise ConfigError(f"model.freeze must be none, backbone or a number of stages, got '{spec}'")
    for parameter in chosen:
        parameter.requires_grad_(False)
    return Frozen(what, chosen)


class HeadInput:
    """Keep what the head of a model is given, batch by batch, as (B, D).

    Args:
        model: any network. num_outputs: of its head; None: the last linear layer's.

    Attributes:
        head: its module. last: what it was given last, (B, ...).
    """

    def __init__(self, model: nn.Module, num_outputs: int | None) -> None:
        self.name, self.head = head_of(model, num_outputs)
        self.last = torch.empty(0)
        self._hook = self.head.register_forward_pre_hook(self._keep)

    def _keep(self, module: nn.Module, given: tuple[Any, ...]) -> None:
        self.last = given[0].detach()

    def vectors(self) -> Tensor:
        """Return the last as (B, D): of a convolution's input the mean over its pixels."""
        return self.last.flatten(2).mean(2) if self.last.dim() == 4 else self.last

    def remove(self) -> None:
        """Let go of the model."""
        self._hook.remove()


class HeadStep:
    """A step on what a model's head is given: (model, (features, targets), criterion) -> (loss, outputs)."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, model: nn.Module, batch: tuple[Tensor, Tensor], criterion: Any) -> tuple[Tensor, Tensor]:
        """Take the step."""
        features, targets = batch
        outputs = model.get_submodule(self.name)(features)
        return criterion(outputs, targets), outputs


def to_training(model: nn.Module) -> None:
    """Put a model into training mode, save batch norm whose parameters are all frozen."""
    model.train()
    for module in model.modules():
        if isinstance(module, _NORMS):
            parameters = list(module.parameters())
            if parameters and not any(parameter.requires_grad for parameter in parameters):
                module.eval()
