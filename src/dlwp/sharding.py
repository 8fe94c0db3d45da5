"""Own how a model is cut over processes (`strategy=fsdp2`): its blocks, the shards of a whole, and the way back.

Knows nothing of the loop, files and configs. The engine is torch's `fully_shard`: each process holds its rows of every
weight, of its gradient and of what the optimizer keeps for it; a block's weights are whole only while it computes.

What is read or written as a whole goes through the host's memory of the first process, a tensor at a time. The engine
is imported where models are cut: that takes 0.6 s, two fifths of `import torch`.
"""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from dlwp import distributed
from dlwp.errors import ConfigError
from dlwp.settings import TrainerSettings

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

NAME = "fsdp2"
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_BY_ELEMENT = (
    "SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "Adadelta", "Adamax", "NAdam", "RAdam", "ASGD", "Rprop",
)  # fmt: skip
"""Optimizers of torch's that treat each number by itself, as those of rows of a weight must."""
_PASSED_BY = ("mixed torch.Tensor and DTensor", "running forward through the root module first")
_FUSED = ("Adam", "AdamW")  # of these torch has fused kernels for shards


@dataclass(frozen=True)
class Idle:
    """A batch that a process without samples goes through a model with, because the others do; nothing of it counts."""

    part: Any


def is_wanted(strategy: str) -> bool:
    """Return whether models are sharded here: it takes two processes."""
    return strategy == NAME and distributed.world_size() > 1


def home(strategy: str, device: torch.device) -> torch.device:
    """Return where a model is made: on its device, or, where it need not fit there, in the host's memory."""
    return torch.device("cpu") if is_wanted(strategy) else device


def is_sharded(model: nn.Module) -> bool:
    """Return whether a model is cut over processes."""
    if "torch.distributed.fsdp" not in sys.modules:
        return False
    from torch.distributed.fsdp import FSDPModule

    return isinstance(model, FSDPModule)


def _is_cut(value: Any) -> TypeGuard[DTensor]:
    """Return whether a tensor is a shard that knows of its whole."""
    return type(value).__name__ == "DTensor"


def refuse(settings: TrainerSettings, optimizer: Optimizer, model: nn.Module) -> None:
    """Refuse what does not go with shards.

    Args:
        settings, optimizer, model: of the run.

    Raises:
        ConfigError: it names the key.
    """
    instead = "or strategy=ddp"
    for name, module in ((type(one).__name__, type(one).__module__) for one in _each(optimizer)):
        if module.startswith("dlwp.") or (module.startswith("torch.") and name not in _BY_ELEMENT):
            raise ConfigError(
                f"strategy={NAME}: {name} needs whole weights, a process has its rows of them. "
                f"optimizer=adamw, {instead}"
            )
    wrong = {
        "compile": (settings.compile, "trainer.compile=false"),
        "cuda_graphs": (settings.cuda_graphs, "trainer.cuda_graphs=false"),
        "accumulate": (settings.accumulate == "auto", "trainer.accumulate=2"),
        "precision": (settings.precision == "fp16", "trainer.precision=bf16"),
        "unfreeze_at": (settings.unfreeze_at is not None, "trainer.unfreeze_at=null"),
    }
    for key, (is_wrong, way) in wrong.items():
        if is_wrong:
            given = str(getattr(settings, key)).lower()
            raise ConfigError(f"strategy={NAME} does not go with trainer.{key}={given}. {way}, {instead}")
    if single := next((name for name, value in model.named_parameters() if not value.dim()), None):
        raise ConfigError(
            f"strategy={NAME} cuts weights along their first axis, and '{single}' has none. Shape (1,), {instead}"
        )


def blocks(model: nn.Module) -> list[nn.Module]:
    """Return the modules whose weights are gathered together: children of containers, with a weight of two axes.

    Containers (`Sequential`, `ModuleList`, `ModuleDict`) themselves are gone through; within a block none is looked
    for. What shares a weight with another module is no block. All that is in no block belongs to the model as a whole.

    >>> layers = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3), nn.Sequential(nn.Linear(3, 3), nn.ReLU()))
    >>> [type(one).__name__ for one in blocks(layers)]
    ['Linear', 'Linear']
    """
    owners: dict[int, set[int]] = {}
    found = [one for one in _candidates(model) if any(value.dim() > 1 for value in one.parameters())]
    for one in found:
        for module in one.modules():
            for value in module.parameters(recurse=False):
                owners.setdefault(id(value), set()).add(id(one))
    inside = {id(module) for one in found for module in one.modules()}
    for module in model.modules():
        if id(module) not in inside:
            for value in module.parameters(recurse=False):
                owners.setdefault(id(value), set()).add(id(model))
    return [one for one in found if all(len(owners[id(value)]) == 1 for value in one.parameters())]


def _candidates(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        if isinstance(module, _CONTAINERS) and not isinstance(child, _CONTAINERS):
            yield child
        else:
            yield from _candidates(child)


def told(model: nn.Module) -> str:
    """Return what a person is told of how a model, not yet cut, is going to be."""
    count = len(blocks(model))
    return f"{NAME}: {count} block{'s' if count != 1 else ''} sharded over {distributed.world_size()} processes"


def shard(model: nn.Module, optimizer: Optimizer, device: torch.device, precision: str) -> None:
    """Cut a model, in place, and hand its optimizer the shards.

    Args:
        model: in the host's memory or on the device; all processes begin with the weights of the first.
        optimizer: over its parameters.
        device: of this process, on which its shards will lie.
        precision: that of the trainer.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    names = {id(value): name for name, value in model.named_parameters()}
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.data = tensor.data.contiguous()
            if tensor.numel():
                torch.distributed.broadcast(tensor.data.view(-1).view(torch.uint8), 0, group=distributed.hosts())
    mesh = init_device_mesh(device.type, (distributed.world_size(),))
    # batch norm takes weights and statistics of one type; there, autocast alone makes products bf16
    narrow = precision == "bf16" and not any(isinstance(one, _BatchNorm) for one in model.modules())
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32) if narrow else None
    options: dict[str, Any] = {"mesh": mesh, "reshard_after_forward": True, **({"mp_policy": policy} if policy else {})}
    for one in [*blocks(model), model]:
        fully_shard(one, **options)
    # the danger is an in-place operation on a block's output; that of the whole goes to the criterion
    warnings.filterwarnings("ignore", message=rf"FSDP2-wrapped module \({type(model).__name__}\) returned a view")
    shards = dict(model.named_parameters())
    for group in [group for one in _each(optimizer) if type(one).__name__ not in _FUSED for group in one.param_groups]:
        if group.get("fused"):
            group["fused"] = False
    for group in optimizer.param_groups:
        group["params"] = [_handed(optimizer, value, shards[names[id(value)]]) for value in group["params"]]


def _each(optimizer: Optimizer) -> Sequence[Optimizer]:
    """Return the optimizers that one is made of, or it alone."""
    return getattr(optimizer, "optimizers", (optimizer,))


def _handed(optimizer: Optimizer, whole: Tensor, shard: Tensor) -> Tensor:
    if whole in optimizer.state:  # some have one before their first step
        state = optimizer.state.pop(whole)
        optimizer.state[shard] = _of_shards(state, {"": shard}, lambda value, like: _rows(value, like), shard)
    return shard


@contextlib.contextmanager
def passed_through(model: nn.Module, *, is_last: bool) -> Iterator[None]:
    """Let a backward pass over what is computed here sum gradients over processes, or, not the last, leave that to it.

    Raises:
        ConfigError: a weight was used elsewhere than in the forward pass of its block, where alone it is whole.
    """
    model.set_requires_gradient_sync(is_last)  # type: ignore[operator]
    try:
        yield
    except RuntimeError as error:
        if not any(sign in str(error) for sign in _PASSED_BY):
            raise
        raise ConfigError(
            f"strategy={NAME}: a weight is used outside of the forward pass of its module. Let the step call the model "
            "as a whole, model(inputs), and each module of it too; or strategy=ddp"
        ) from error


def plain(values: Sequence[Tensor]) -> list[Tensor]:
    """Return this process's part of each tensor; of a number over all parts, such as a norm, the number."""
    if not any(_is_cut(value) for value in values):
        return list(values)
    found = []
    for value in values:
        if _is_cut(value):
            value = value.full_tensor() if any(one.is_partial() for one in value.placements) else value.to_local()
        if value.numel():
            found.append(value)
    return found


def agreed(found: Tensor, model: nn.Module) -> Tensor:
    """Return, in place, the largest of a number over the processes that a model is cut over."""
    if is_sharded(model):
        torch.distributed.all_reduce(found, torch.distributed.ReduceOp.MAX)
    return found


@contextlib.contextmanager
def exchanged(pairs: Sequence[tuple[Tensor, Tensor]]) -> Iterator[None]:
    """Put the second of each pair into the first for the length of the context, by content: an engine holds the first.

    The second holds the first's content meanwhile.
    """
    _swap(pairs)
    try:
        yield
    finally:
        _swap(pairs)


@torch.no_grad()
def _swap(pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
    for one, other in pairs:
        one, other = (each.to_local() if _is_cut(each) else each for each in (one, other))
        kept = one.clone()
        one.copy_(other)
        other.copy_(kept)


# ---- shards to a whole, and back ------------------------------------------------------------------------------------


def to_first(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return named tensors as they are, or, where some are cut, copies of all in the first process's host memory.

    All processes of a sharded model ask at once, for the same names; but the first, they get none.
    """
    if not any(_is_cut(value) for value in tensors.values()):
        return tensors
    found: dict[int, Tensor | None] = {}
    for value in tensors.values():
        if id(value) not in found:  # a tied weight has several names
            found[id(value)] = _whole(value)
    return {name: whole for name, value in tensors.items() if (whole := found[id(value)]) is not None}


@torch.no_grad()
def _whole(value: Tensor) -> Tensor | None:
    """Return a tensor, whole, in the first process, None in the others."""
    if not _is_cut(value):
        return value.detach().to("cpu", copy=True) if distributed.is_main() else None
    own = value.to_local().detach()
    if not distributed.is_main():
        if own.numel():
            torch.distributed.send(own.cpu().contiguous(), 0, group=distributed.hosts())
        return None
    whole = torch.empty(value.shape, dtype=value.dtype)
    whole[: len(own)] = own.cpu()
    for rank in range(1, distributed.world_size()):
        if (part := whole[rows_of(rank, len(whole))]).numel():
            torch.distributed.recv(part, rank, group=distributed.hosts())
    return whole


def read(take: Callable[[], tuple[dict[str, Any], Any]], model: nn.Module) -> tuple[dict[str, Any], Any]:
    """Return what `take` reads in the first process, to all; of tensors that are cut, each gets its part.

    Args:
        take: gives nested tensors, those of a parameter below its name, and a record.
        model: which, if any, is cut.
    """
    if not is_sharded(model):
        return distributed.from_first(take)
    parameters = dict(model.named_parameters())
    held: list[dict[str, Any]] = []

    def outline() -> tuple[dict[str, Any], Any]:
        tensors, record = take()
        held.append(tensors)
        return _of_shards(tensors, parameters, lambda value, _: value.to("meta")), record

    tensors, record = distributed.from_first(outline)
    return _of_shards(held[0] if held else tensors, parameters, _spread), record


def _of_shards(
    nested: Any, parameters: Mapping[str, Tensor], change: Callable[[Tensor, DTensor], Tensor], like: Any = None
) -> Any:
    """Return nested containers, each tensor in them changed that is of the shape of the parameter whose name is above.

    Args:
        change: (tensor, parameter) -> tensor. like: the parameter whose name was passed already.
    """
    if isinstance(nested, dict):
        return {
            key: _of_shards(value, parameters, change, parameters.get(str(key), like)) for key, value in nested.items()
        }
    if isinstance(nested, list):
        return [_of_shards(value, parameters, change, like) for value in nested]
    if isinstance(nested, Tensor) and _is_cut(like) and nested.shape == like.shape:
        return change(nested, like)
    return nested


def _rows(whole: Tensor, like: DTensor) -> Tensor:
    """Return a tensor, which this process has whole, cut as a parameter is."""
    return _cut(whole[rows_of(distributed.rank(), len(whole))].to(like.device, copy=True), like)


@torch.no_grad()
def _spread(whole: Tensor, like: DTensor) -> Tensor:
    """Return a tensor, which the first process has, cut as a parameter is."""
    if distributed.is_main():
        for rank in range(1, distributed.world_size()):
            if (part := whole[rows_of(rank, len(whole))]).numel():
                torch.distributed.send(part.contiguous(), rank, group=distributed.hosts())
        return _rows(whole, like)
    own = torch.empty(like.to_local().shape, dtype=whole.dtype)
    if own.numel():
        torch.distributed.recv(own, 0, group=distributed.hosts())
    return _cut(own.to(like.device), like)


def _cut(own: Tensor, like: DTensor) -> DTensor:
    from torch.distributed.tensor import DTensor

    return DTensor.from_local(
        own, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    )


def rows_of(rank: int, count: int) -> slice:
    """Return which of a tensor's rows a process holds: as many as the others, the last ones fewer or none.

    As `torch.chunk` cuts.
    """
    each = -(-count // distributed.world_size())
    return slice(min(rank * each, count), min((rank + 1) * each, count))
