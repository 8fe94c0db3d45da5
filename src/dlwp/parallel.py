"""Own how a step is shared by processes: whose samples, whose gradient, and what becomes of batch statistics.

Knows nothing of optimizers and observers. The engine is torch's DistributedDataParallel. It wraps the step, not the
model: so any step of the user's own works, and the model keeps its attributes and the names of its weights.

After a step all processes hold the same weights, gradients and buffers. Batch norm sees the samples of its process
alone (but for SyncBatchNorm, on cards); its running statistics are then the mean over processes, by samples.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from dlwp import distributed, sharding
from dlwp.errors import ConfigError
from dlwp.nested import piece
from dlwp.settings import TrainerSettings

LEAST = 2
"""Samples of a batch that a process trains on at least, or on none: batch norm refuses one."""


class Shared:
    """Computes a step over all processes.

    Args:
        model: its buffers are kept alike.
        step: (model, batch, criterion) -> (loss, outputs), as the trainer's.
        criterion: given to the step.
        settings: of the run.
    """

    def __init__(self, model: nn.Module, step: Callable[..., Any], criterion: Any, settings: TrainerSettings) -> None:
        self._model, self._step, self._criterion = model, step, criterion
        # gradients are reduced after the backward pass: who runs out of memory in it must not leave others waiting
        self._by_hand = settings.accumulate == "auto"
        self._unused = str(settings.find_unused_parameters).lower()
        self._engine: DistributedDataParallel | None = None
        self._of: Sequence[Tensor] = []  # the parameters that the engine was made for
        self._versions: dict[int, int] = {}
        self.counts = True

    def share(self, batch: Any, size: int, is_divided: bool) -> Any:
        """Return this process's part of a batch; where it has none, some samples that do not count: see `counts`.

        Args:
            batch: the whole, or that part already, as `is_divided` says. size: of the whole.
        """
        bounds, self.counts = distributed.portion(size, LEAST)
        return batch if is_divided else piece(batch, bounds)

    def total(self, weight: float | Tensor, size: int) -> float | Tensor:
        """Return the weight of the whole batch from that of this process's part: where it is no tensor, its `size`."""
        return distributed.sum_(weight * int(self.counts)) if isinstance(weight, Tensor) else float(size)

    def __call__(self, part: Any, *, is_last: bool) -> Any:
        """Return what the step gives; after the backward pass of a step's last piece all gradients are summed."""
        if self._by_hand:
            return self._step(self._model, part, self._criterion)
        if sharding.is_sharded(self._model):
            with sharding.passed_through(self._model, is_last=is_last):
                return self._step(self._model, part, self._criterion)
        engine = self._made(part)
        try:
            with contextlib.nullcontext() if is_last else engine.no_sync():
                return engine(part)
        except RuntimeError as error:
            if "finished reduction in the prior iteration" not in str(error):
                raise
            text = "the last step left weights without a gradient that the first one did not"
            raise ConfigError(f"{text}. trainer.find_unused_parameters=true looks for them in each step") from error

    def together(self, loss: Tensor, weight: float | Tensor) -> Tensor:
        """Return the loss of the whole batch, the sum of what each process gives; make gradients and buffers alike.

        Args:
            loss: of this process's part, times its share of the batch. weight: that share, where it counts.
        """
        if self._by_hand:
            self._reduce_gradients()
        statistics, others = self._changed()
        share = torch.as_tensor(
            weight if self.counts else 0.0,
            device=loss.device,
            dtype=torch.float64 if loss.device.type == "cpu" else None,
        )
        values = [loss.reshape(1).to(share.dtype), *(one.to(share.dtype) * share for one in statistics)]
        flat = distributed.sum_(_flatten_dense_tensors(values))
        total, *means = _unflatten_dense_tensors(flat, values)
        for buffer, mean in zip(statistics, means, strict=True):
            buffer.copy_(mean)
        for buffer in others:
            torch.distributed.broadcast(buffer, 0)
        self._versions = {id(one): one._version for one in self._model.buffers()}
        return total.reshape(()).to(loss.dtype)

    def _made(self, part: Any) -> DistributedDataParallel:
        """Return the engine for the parameters that are trained now."""
        trained = [one for one in self._model.parameters() if one.requires_grad]
        if self._engine is None or len(trained) != len(self._of):
            unused = self._unused == "true"
            if self._unused == "auto":
                unused = distributed.any_of(self._leaves_some(trained, part) or None) is not None
            self._of = trained
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*broadcast_buffers", category=FutureWarning)  # from 2.13 on
                self._engine = DistributedDataParallel(
                    _Step(self._model, self._step, self._criterion), broadcast_buffers=False,
                    gradient_as_bucket_view=True, find_unused_parameters=unused,
                )  # fmt: skip
        return self._engine

    def _leaves_some(self, trained: Sequence[Tensor], part: Any) -> bool:
        """Return whether a backward pass, here and now, leaves parameters without a gradient."""
        buffers = [(buffer, buffer.clone()) for buffer in self._model.buffers()]
        cards = {one.device.index for one in trained if one.device.type == "cuda"}
        with torch.random.fork_rng(cards):
            result, _ = self._step(self._model, part, self._criterion)
            loss = result if isinstance(result, Tensor) else result["loss"]
            found = torch.autograd.grad(loss, trained, allow_unused=True)
        for buffer, kept in buffers:
            buffer.copy_(kept)
        return any(one is None for one in found)

    def _reduce_gradients(self) -> None:
        trained = [one for one in self._model.parameters() if one.requires_grad]
        there = distributed.sum_(
            torch.tensor([one.grad is not None for one in trained], dtype=torch.int32, device=trained[0].device)
        )
        used = [one for one, count in zip(trained, there.tolist(), strict=True) if count]
        for one in used:
            one.grad = torch.zeros_like(one) if one.grad is None else one.grad
        by_type: dict[torch.dtype, list[Tensor]] = {}
        for one in used:
            by_type.setdefault(one.dtype, []).append(one.grad)  # type: ignore[arg-type]
        for gradients in by_type.values():
            flat = distributed.sum_(_flatten_dense_tensors(gradients)).div_(distributed.world_size())
            for gradient, whole in zip(gradients, _unflatten_dense_tensors(flat, gradients), strict=True):
                gradient.copy_(whole)

    def _changed(self) -> tuple[list[Tensor], list[Tensor]]:
        """Return the buffers that this step has changed: statistics of batch norm, and others."""
        modules = [one for one in self._model.modules() if isinstance(one, _BatchNorm) and one.training]
        known = [buffer for one in modules for buffer in (one.running_mean, one.running_var) if buffer is not None]
        alike = {id(buffer) for module in modules for buffer in module.buffers(recurse=False)}  # counts of batches, too
        changed = [one for one in self._model.buffers() if self._versions.get(id(one)) != one._version]
        return known, [one for one in changed if id(one) not in alike]


class _Step(nn.Module):
    """The step as a module, which is what torch's engine takes."""

    def __init__(self, model: nn.Module, step: Callable[..., Any], criterion: Any) -> None:
        super().__init__()
        self.model = model
        self._given = (step, criterion)  # in a tuple: a criterion's own parameters are not trained

    def forward(self, part: Any) -> Any:
        step, criterion = self._given
        return step(self.model, part, criterion)


def with_norms(model: nn.Module, setting: bool | str, device: torch.device) -> nn.Module:
    """Return a model whose batch norms see the samples of all processes, where that is wanted.

    Args:
        setting: true, false, or "auto": on cards, where torch has it.

    Raises:
        ConfigError: it is wanted on a device on which torch does not have it.
    """
    if (
        not has_norms(model)
        or sharding.is_sharded(model)
        or distributed.world_size() == 1
        or str(setting).lower() == "false"
    ):
        return model
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    if str(setting).lower() == "true":
        raise ConfigError(
            f"trainer.sync_batchnorm=true needs cards: torch has none on {device.type}. trainer.sync_batchnorm=auto"
        )
    return model


def over_processes(
    model: nn.Module, optimizer: Optimizer, strategy: str, settings: TrainerSettings, device: torch.device
) -> nn.Module:
    """Return a model as several processes hold it: whole, or, with `strategy=fsdp2`, cut, its optimizer with it."""
    if not sharding.is_wanted(strategy):
        return model
    model = with_norms(model, settings.sync_batchnorm, device)
    sharding.shard(model, optimizer, device, settings.precision)
    return model


def has_norms(model: nn.Module) -> bool:
    """Return whether a model has batch norms."""
    return any(isinstance(module, _BatchNorm) for module in model.modules())


def told_of_norms(model: nn.Module, setting: bool | str, device: torch.device) -> str:
    """Return what a person should know of a model's batch norms, "" where it has none."""
    if not has_norms(model):
        return ""
    together = device.type == "cuda" and str(setting).lower() != "false"
    return ", batch norm over all of them" if together else ", batch norm over each one's own samples"
