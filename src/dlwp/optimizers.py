"""Own what dlwp adds to torch.optim: groups of parameters, a learning rate to begin with, Muon, and Chained.

Knows nothing of the loop or of schedules.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import _profiler_enabled
from torch.optim import Optimizer
from torch.optim.adamw import adamw
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from dlwp import sharding
from dlwp.errors import ConfigError, did_you_mean

_BATCH_NORMS = (nn.modules.batchnorm._BatchNorm,)
_NORMS = (*_BATCH_NORMS, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.modules.instancenorm._InstanceNorm)
_MATRICES = (nn.Linear, nn.modules.conv._ConvNd)

_BASE_RATES = {"Adam": (3e-3, 1e-3), "AdamW": (3e-3, 1e-3), "RMSprop": (1e-3, 1e-3), "Muon": (0.02, 0.02)}
"""Rates for a batch of 128, of networks without and with layer norm, which as a rule are transformers."""


def parameter_groups(
    model: nn.Module,
    weight_decay: float,
    decay_norms_and_biases: bool,
    *,
    hidden_apart: bool = False,
    without: Iterable[Tensor] = (),
) -> list[dict[str, Any]]:
    """Return the parameters of a model that are trained, in groups for a torch optimizer.

    Args:
        model: parameters without gradient are left out.
        weight_decay: of the weights.
        decay_norms_and_biases: whether norms, biases and every other parameter of one axis decay too.
        hidden_apart: whether filters and matrices inside the network get groups of their own, marked by the key
            "hidden", as `Muon` wants them. Embeddings, tokens, positions and the last layer are not hidden.
        without: parameters that are left out.

    Returns:
        Groups, each with "params" and "weight_decay"; one alone where all is treated alike: a fused step takes as
        long again for each. Those that decay come first.
    """
    exempt = set() if decay_norms_and_biases or not weight_decay else _norms_and_biases(model)
    hidden: set[Tensor] = _hidden_weights(model) if hidden_apart else set()
    left_out = set(without)
    groups: dict[tuple[bool, bool], dict[str, Any]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad and parameter not in left_out:
            decays, inside = parameter not in exempt, parameter in hidden
            group: dict[str, Any] = {"params": [], "weight_decay": weight_decay if decays else 0.0}
            if hidden_apart:
                group["hidden"] = inside
            groups.setdefault((decays, inside), group)["params"].append(parameter)
    return [groups[key] for key in sorted(groups, reverse=True)]


def assemble(
    model: nn.Module,
    section: Mapping[str, Any],
    target: type[Optimizer],
    decay_norms_and_biases: bool,
    entries: Sequence[Mapping[str, Any]],
    make: Callable[..., Any],
) -> Optimizer:
    """Return the optimizer of a model: one for most parameters, and what `optimizer.groups` says of the others.

    An entry of `groups` takes the trained parameters whose names match its `parameters`, a pattern such as "head.*" or
    a list of them, as far as no entry before it took them. Its other keys are options in place of the optimizer's own,
    `scheduler` a schedule of its own, and `_target_` another optimizer with all its options.

    Args:
        section: `_target_` and options of the optimizer for all other parameters.
        target: what its `_target_` stands for.
        decay_norms_and_biases: whether they decay, where no entry takes them.
        entries: of `optimizer.groups`.
        make: (section, key, **given) -> the object that a section describes.

    Returns:
        An optimizer whose groups may hold a schedule as "scheduler"; a `Chained` where an entry names another.

    Raises:
        ConfigError: an entry matches nothing, or has an option that its optimizer does not know.
    """
    taken: list[Tensor] = []
    own: list[dict[str, Any]] = []
    others: list[Optimizer] = []
    for number, entry in enumerate(entries):
        key = f"optimizer.groups[{number}]"
        options = {name: value for name, value in entry.items() if name not in ("parameters", "scheduler")}
        group: dict[str, Any] = {"params": _matching(model, entry.get("parameters"), taken, key)}
        taken += group["params"]
        if entry.get("scheduler") is not None:
            group["scheduler"] = make(entry["scheduler"], f"{key}.scheduler")
        if "_target_" in options:
            others.append(make(options, key, params=[group]))
        else:
            _refuse_unknown_options(options, target, key)
            own.append(options | group)
    decay = section.get("weight_decay", 0.0)
    apart = target is Muon
    rest = parameter_groups(model, decay, decay_norms_and_biases, hidden_apart=apart, without=taken)
    if not rest and not own:
        return others[0] if len(others) == 1 else Chained(others)
    main = make(section, "optimizer", params=[*rest, *own])
    return Chained([main, *others]) if others else main


def graded(
    model: nn.Module,
    section: Mapping[str, Any],
    stages: Sequence[Sequence[str]],
    scale: float,
    decay: float | None,
    decay_norms_and_biases: bool,
) -> list[dict[str, Any]]:
    """Return entries of `groups` by which a backbone is trained at lower rates than the head.

    Stage n of N, counted from 0, gets lr · scale · decay^(N - n).

    Args:
        section: the optimizer's, with its lr. stages: names of the parameters of each, first to last.
        scale, decay: of the rate; decay None is 1. decay_norms_and_biases: as in `assemble`.

    Source: Howard and Ruder 2018, arXiv 1801.06146, section 3.2; Bao et al. 2021, arXiv 2106.08254, appendix (decay).
    """
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    entries = []
    for number, names in enumerate(stages):
        rate = float(section["lr"]) * scale * (decay or 1.0) ** (len(stages) - number)
        for flat in (False, True):  # norms and biases apart, which need not decay
            chosen = [name for name in names if name in trained and (trained[name].dim() < 2) == flat]
            if chosen:
                entries.append({"parameters": chosen, "lr": rate})
                if flat and not decay_norms_and_biases and "weight_decay" in section:
                    entries[-1]["weight_decay"] = 0.0
    return entries


def _matching(model: nn.Module, patterns: Any, taken: Sequence[Tensor], key: str) -> list[Tensor]:
    listed = [patterns] if isinstance(patterns, str) else list(patterns or ())
    if not listed:
        raise ConfigError(f"{key} needs 'parameters', a pattern for their names: {key}.parameters='head.*'")
    held = {id(parameter) for parameter in taken}
    named = {name: each for name, each in model.named_parameters() if each.requires_grad and id(each) not in held}
    for pattern in listed:
        if not any(fnmatchcase(name, str(pattern)) for name in named):
            raise ConfigError(
                f"{key}.parameters: '{pattern}' matches no trained parameter that is left."
                f"{did_you_mean(str(pattern), named)} There are: {_some(named)}"
            )
    return [each for name, each in named.items() if any(fnmatchcase(name, str(pattern)) for pattern in listed)]


def _some(names: Iterable[str], most: int = 12) -> str:
    listed = list(names)
    return ", ".join(listed[:most]) + (f" and {len(listed) - most} more" if len(listed) > most else "")


def _refuse_unknown_options(options: Mapping[str, Any], target: type[Optimizer], key: str) -> None:
    known = [name for name in inspect.signature(target).parameters if name != "params"]
    for name in options:
        if name not in known:
            raise ConfigError(
                f"{key}: {target.__name__} has no argument '{name}'.{did_you_mean(name, known)} "
                f"It takes: parameters, scheduler, {', '.join(known)}"
            )


def _norms_and_biases(model: nn.Module) -> set[Tensor]:
    norms = [module for module in model.modules() if isinstance(module, _NORMS)]
    found: set[Tensor] = {parameter for norm in norms for parameter in norm.parameters()}
    return found | {parameter for parameter in model.parameters() if parameter.ndim < 2}


def _hidden_weights(model: nn.Module) -> set[Tensor]:
    """Return the weights of linear maps and convolutions, without those of the last such layer."""
    weights = [module.weight for module in model.modules() if isinstance(module, _MATRICES)]
    attention = [
        module.in_proj_weight
        for module in model.modules()
        if isinstance(module, nn.MultiheadAttention) and module.in_proj_weight is not None
    ]
    return {weight for weight in (*weights[:-1], *attention) if weight is not None}


def default_lr(optimizer_class_name: str, model: nn.Module, batch_size: int) -> tuple[float, str]:
    """Return the learning rate that `optimizer.lr: auto` stands for, and the reason.

    SGD's rate grows with the batch (Goyal et al. 2017, arXiv 1706.02677), that of optimizers which normalise their step
    with its root (Malladi et al. 2022, arXiv 2205.10287). Other optimizers keep their class's own default.

    Args:
        optimizer_class_name: name of the class, "SGD".
        model: asked whether it has batch norm, which lets SGD bear a rate eight times as high, and whether it has layer
            norm, as transformers do, which want a lower rate of Adam; its own `base_rates` (name -> rate for a batch of
            128) come first.
        batch_size: samples in one step, over all processes.

    Raises:
        ConfigError: nothing is known of this optimizer.
    """
    if optimizer_class_name == "SGD":
        normed = any(isinstance(module, _BATCH_NORMS) for module in model.modules())
        rate = 0.4 if normed else 0.05
        norm = "with" if normed else "without"
        return _round(rate * batch_size / 128), f"{rate:g} a batch of 128, {norm} batch norm"
    own: dict[str, float] = getattr(model, "base_rates", {})
    if optimizer_class_name in own:
        rate = own[optimizer_class_name]
        return _round(rate * math.sqrt(batch_size / 128)), f"{rate:g} a batch of 128 for this model, with its root"
    if optimizer_class_name in _BASE_RATES:
        normed = any(isinstance(module, nn.LayerNorm) for module in model.modules())
        rate = _BASE_RATES[optimizer_class_name][normed]
        norm = "with" if normed else "without"
        reason = f"{rate:g} a batch of 128, growing with its root, {norm} layer norm"
        return _round(rate * math.sqrt(batch_size / 128)), reason
    signature = inspect.signature(getattr(torch.optim, optimizer_class_name, default_lr))
    default = signature.parameters["lr"].default if "lr" in signature.parameters else None
    if not isinstance(default, int | float):
        raise ConfigError(f"optimizer.lr=auto: dlwp knows no rate for {optimizer_class_name}. optimizer.lr=0.001")
    return float(default), f"the default of torch.optim.{optimizer_class_name}"


def _round(rate: float) -> float:
    return float(f"{rate:.3g}")


class Muon(Optimizer):
    """Muon for filters and matrices inside the network, AdamW for everything else.

    The momentum M of a matrix is replaced by the nearest matrix with orthogonal rows or columns, U V^T for M = U S V^T,
    found by five steps of a Newton-Schulz iteration; filters are flattened to (out, in * height * width). The step is
    scaled by sqrt(max(1, rows / columns)). Embeddings, tokens, norms, biases and the last layer are AdamW's.

    Args:
        params: parameters, or groups as from `parameter_groups`. A group without the key "hidden" is split by shape:
            two axes and more are Muon's.
        lr: rate of Muon, about the spectral norm of a step; above 0.
        momentum: of Muon (Nesterov's), in [0, 1).
        weight_decay: decoupled, of both.
        adamw_lr_scale: rate of AdamW as part of `lr`, so that one schedule drives both; above 0.
        betas: of AdamW.
        eps: of AdamW.
        num_iterations: Newton-Schulz steps, at least 1.
        unit_rows: whether each matrix is first scaled so that its rows have norm 1 on average, |W| = sqrt(rows): the
            rate is then that of the direction alone, for layers whose scale a norm takes away; it needs no decay.

    Raises:
        ConfigError: a value is out of its range.

    Source:
        Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/.
        Unit rows: as in github.com/KellerJordan/cifar10-airbench, with Muon.
        Loshchilov, Hutter 2019, arXiv 1711.05101 (AdamW).
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        adamw_lr_scale: float = 0.2,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        num_iterations: int = 5,
        unit_rows: bool = False,
    ) -> None:
        for key, value, right in (
            ("lr", lr, lr > 0),
            ("momentum", momentum, 0 <= momentum < 1),
            ("weight_decay", weight_decay, weight_decay >= 0),
            ("adamw_lr_scale", adamw_lr_scale, adamw_lr_scale > 0),
            ("num_iterations", num_iterations, num_iterations >= 1),
        ):
            if not right:
                raise ConfigError(f"optimizer.{key} of muon is out of its range, got {value}")
        defaults = {
            "lr": lr, "momentum": momentum, "weight_decay": weight_decay, "adamw_lr_scale": adamw_lr_scale,
            "betas": tuple(betas), "eps": eps, "num_iterations": num_iterations, "unit_rows": unit_rows,
        }  # fmt: skip
        super().__init__(_split_by_shape(params), defaults)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Take one step; `closure`, if given, computes loss and gradients first, and its loss is returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if parameters and group["hidden"]:
                self._step_matrices(group, parameters)
            elif parameters:
                self._step_adamw(group, parameters)
        return loss

    def _step_matrices(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        for parameter in parameters:
            state = self.state[parameter]
            if not state:
                state["momentum_buffer"] = torch.zeros_like(parameter)
            momentum = state["momentum_buffer"]
            gradient = parameter.grad
            assert gradient is not None
            momentum.lerp_(gradient, 1 - group["momentum"])
            direction = torch.lerp(gradient, momentum, group["momentum"]).flatten(1)  # (out, in * H * W)
            rows, columns = direction.shape
            direction = orthogonalised(direction, group["num_iterations"])
            if group.get("unit_rows"):
                parameter.mul_(math.sqrt(rows) / parameter.norm().clamp_min(1e-12))
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            scale = math.sqrt(max(1, rows / columns))
            parameter.add_(direction.view_as(parameter), alpha=-group["lr"] * scale)

    def _step_adamw(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        for parameter in parameters:
            state = self.state[parameter]
            if not state:
                state["step"] = torch.tensor(0.0)
                state["exp_avg"] = torch.zeros_like(parameter)
                state["exp_avg_sq"] = torch.zeros_like(parameter)
        states = [self.state[parameter] for parameter in parameters]
        adamw(
            parameters,
            [parameter.grad for parameter in parameters],  # type: ignore[misc]
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"] * group["adamw_lr_scale"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )


def needs_closure(optimizer: Any) -> bool:
    """Return whether an optimizer, or its class, evaluates the loss several times a step, as L-BFGS does."""
    closure = inspect.signature(optimizer.step).parameters.get("closure") if hasattr(optimizer, "step") else None
    return closure is not None and closure.default is inspect.Parameter.empty


def take_step(optimizer: Optimizer) -> None:
    """Let an optimizer step, without the mark for torch's profiler around it where nobody looks: it takes 35 µs.

    One with hooks, or with a scheduler of torch's that counts its steps, steps as ever.
    """
    step = type(optimizer).step
    hooks: Any = (
        optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks,
        _global_optimizer_pre_hooks, _global_optimizer_post_hooks,
    )  # fmt: skip
    if not getattr(step, "hooked", False) or "step" in vars(optimizer) or any(hooks) or _profiler_enabled():
        optimizer.step()
    else:
        step.__wrapped__(optimizer)  # type: ignore[attr-defined]


class Chained(Optimizer):
    """Several optimizers as one: each steps the groups that it was made with.

    Args:
        optimizers: over parameters that do not overlap.

    Example:
        >>> layers = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
        >>> rest = torch.optim.SGD(layers[1].parameters(), lr=0.1)
        >>> len(Chained([Muon(layers[0].parameters(), lr=0.02), rest]).param_groups)
        3
    """

    def __init__(self, optimizers: Sequence[Optimizer]) -> None:
        self.optimizers = list(optimizers)
        super().__init__([group for one in self.optimizers for group in one.param_groups], {})
        self._share()

    def _share(self) -> None:
        """Let each optimizer see its own of the groups here, and the state here."""
        start = 0
        for one in self.optimizers:
            end = start + len(one.param_groups)
            one.param_groups, one.state, start = self.param_groups[start:end], self.state, end

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy needs."""
        return {**super().__getstate__(), "optimizers": self.optimizers}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take groups and state, of a copy or a checkpoint."""
        super().__setstate__(state)
        self._share()

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Take one step of each; `closure`, if given, computes loss and gradients first, and its loss is returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for one in self.optimizers:
            take_step(one)
        return loss


def lookahead(optimizer: Optimizer, settings: Mapping[str, Any]) -> Optimizer:
    """Let an optimizer look ahead: after every few steps the weights go back part of the way to where they last were.

    slow += alpha · (weights - slow), then weights = slow, after every `every` steps of the optimizer.

    Args:
        optimizer: any; it is changed, and its state holds the slow weights as "slow".
        settings: "every", steps between two returns (5), and "alpha", the part of the way that is kept (0.5).

    Raises:
        ConfigError: another setting, or one out of its range.

    Source:
        Zhang, Lucas, Hinton, Ba 2019, Lookahead Optimizer: k steps forward, 1 step back, arXiv 1907.08610, algorithm 1.
    """
    known = {"every": 5, "alpha": 0.5}
    for name in settings:
        if name not in known:
            raise ConfigError(f"optimizer.lookahead has no '{name}'.{did_you_mean(name, known)} It takes: every, alpha")
    every, alpha = (known | dict(settings)).values()
    if not (isinstance(every, int) and every >= 1 and 0 < alpha <= 1):
        raise ConfigError(f"optimizer.lookahead needs every >= 1 and 0 < alpha <= 1, got {every}, {alpha}")
    first: dict[Tensor, Tensor] = {}

    def keep_first(one: Optimizer, *_: Any) -> None:
        if not any("lookahead_steps" in group for group in one.param_groups):
            first.update({each: each.detach().clone() for group in one.param_groups for each in group["params"]})

    @torch.no_grad()
    def look_back(one: Optimizer, *_: Any) -> None:
        for group in one.param_groups:
            group["lookahead_steps"] = group.get("lookahead_steps", 0) + 1
            for parameter in group["params"]:
                if parameter in first:  # not before its first step: optimizers tell from an empty state that it is that
                    one.state[parameter]["slow"] = first.pop(parameter)
            if group["lookahead_steps"] % every == 0:
                slow = sharding.plain([one.state[parameter]["slow"] for parameter in group["params"]])
                fast = sharding.plain(list(group["params"]))
                torch._foreach_lerp_(slow, fast, alpha)
                torch._foreach_copy_(fast, slow)

    optimizer.register_step_pre_hook(keep_first)
    optimizer.register_step_post_hook(look_back)
    return optimizer


def orthogonalised(matrix: Tensor, num_iterations: int = 5) -> Tensor:
    """Return about U V^T of a matrix U S V^T (rows, columns): singular values between about 0.7 and 1.2.

    The coefficients are those of Jordan et al. 2024, chosen for a steep start at 0 rather than for convergence to 1.
    It runs in bfloat16 on CUDA, where that is fast, and else in the matrix's own type.
    """
    work = matrix.bfloat16() if matrix.is_cuda else matrix
    tall = work.shape[0] > work.shape[1]
    work = work.T if tall else work
    work = work / (work.norm() + 1e-7)
    for _ in range(num_iterations):
        gram = work @ work.T
        work = 3.4445 * work + (-4.7750 * gram + 2.0315 * gram @ gram) @ work
    return (work.T if tall else work).to(matrix.dtype)


def _split_by_shape(params: Iterable[Any]) -> list[dict[str, Any]]:
    given = list(params)
    groups = given if given and isinstance(given[0], dict) else [{"params": given}]
    split = []
    for group in groups:
        if "hidden" in group:
            split.append(group)
            continue
        parameters = [group["params"]] if isinstance(group["params"], Tensor) else list(group["params"])
        for hidden in (True, False):
            chosen = [parameter for parameter in parameters if (parameter.ndim >= 2) == hidden]
            if chosen:
                split.append({**group, "params": chosen, "hidden": hidden})
    return split
