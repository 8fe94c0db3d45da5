"""Own what happens when a loss or a gradient becomes NaN or infinite: it is found before it reaches a weight.

Knows nothing of why it happened, but finds the module where it arose.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from dlwp import devices, distributed, randomness, sharding
from dlwp.errors import NonFiniteError
from dlwp.models.fault import first_not_finite
from dlwp.training.batches import split_result

if TYPE_CHECKING:
    from dlwp.training.trainer import Trainer

MAX_SKIPS = 100
"""Steps that `skip` leaves out before it gives up."""
MAX_ROLLBACKS = 3
"""Returns to the last checkpoint before `rollback` gives up."""


LEAST_SCALE = 2.0**-10
"""The scale of the loss in fp16 below which it is not overflow that makes its gradients infinite."""


_HALVES = (torch.float16, torch.bfloat16)


class Guard:
    """Decides whether a step may be taken, by `trainer.on_nonfinite`.

    stop: the run fails, naming step and module.
    skip: the step is left out, and buffers (batch statistics) are put back, as are the sums of the epoch's metrics.
    rollback: weights, buffers and optimizer return to the last checkpoint; training goes on with the next batch.

    On the CPU, and for skip and rollback, the verdict is read at each step. Elsewhere, with "stop", it stays on the
    device and is read when values are logged. Until then it keeps fused optimizers from stepping, and others get
    gradients of 0.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._policy = trainer.settings.on_nonfinite
        self._deferred = trainer.device.type != "cpu" and self._policy == "stop"
        self._since_bad: Tensor | None = None  # the steps since the first that was not finite, that one included
        self._found: Tensor | None = None  # 1 once a loss or a gradient was not finite; else 0
        self._looked_at, self._alike = 0, False  # how many values, and whether they are alike
        self._buffers: list[Tensor] = []
        self._kept_buffers: list[Tensor] = []
        self._good: dict[str, Any] | None = None

    def begin_step(self) -> None:
        """Keep a copy of the buffers, which batch norm changes in its forward pass, and of the sums of the metrics."""
        if self._policy == "stop":
            return
        self._kept_sums = self._trainer.tally.state_dict()
        if not self._kept_buffers:
            self._buffers = list(self._trainer.model.buffers())
            self._kept_buffers = [buffer.clone() for buffer in self._buffers]
        elif self._buffers:
            torch._foreach_copy_(self._kept_buffers, self._buffers)

    def allows_step(self, loss: Tensor, gradients: Sequence[Tensor], batch: Any) -> bool:
        """Return whether loss and gradients (or a norm of them all) are finite; act by the policy where they are not.

        Raises:
            NonFiniteError: the policy is "stop", or its limit is reached.
        """
        if gradients and loss.dtype in _HALVES:  # of a step that computes its loss within autocast
            loss = loss.to(gradients[0].dtype)
        found = sharding.agreed(self._look([loss, *gradients]), self._trainer.model)
        if self._deferred:
            self._remember(found)
            return True
        if not found.item():
            return True
        found.zero_()
        progress = self._trainer.state.progress
        if self._policy == "skip" and progress.skipped < MAX_SKIPS:
            progress.skipped += 1
            if self._buffers:
                torch._foreach_copy_(self._buffers, self._kept_buffers)
            self._trainer.tally.load_state_dict(self._kept_sums)
            self._trainer.warn(f"step {progress.step + 1} left out: {_word(loss)}")
            return False
        if self._policy == "rollback" and progress.rollbacks < MAX_ROLLBACKS:
            progress.rollbacks += 1
            since = self._restore()
            self._trainer.tally.load_state_dict(self._kept_sums)
            self._trainer.warn(
                f"step {progress.step + 1} left out: {_word(loss)}; weights are back at step {since}, "
                f"so steps {since + 1} to {progress.step + 1} do not count"
            )
            return False
        raise self._error(loss, batch, progress.step + 1)

    def _look(self, values: list[Tensor]) -> Tensor:
        """Return a tensor on the device that is 1 if one of the values, or one looked at before, is not finite."""
        if self._found is None or len(values) != self._looked_at:
            self._looked_at, self._alike = len(values), _are_alike(values)
            self._found = torch.zeros((), device=values[0].device) if self._found is None else self._found
            self._one = torch.ones_like(self._found)
        if self._alike:
            torch._amp_foreach_non_finite_check_and_unscale_(values, self._found, self._one)
            return self._found
        norms = torch.stack([value.norm().to(self._found.device) for value in values])
        return torch.maximum(self._found, torch.isfinite(norms).all().logical_not().float(), out=self._found)

    def read_verdict(self) -> None:
        """Read a verdict that was left on the device; waits for it.

        Raises:
            NonFiniteError: a step was not finite; or, in fp16, no step is any more.
        """
        if self._trainer.loss_scale < LEAST_SCALE:
            step = self._trainer.state.progress.step
            raise NonFiniteError(
                f"gradients are not finite at step {step}, however small the loss is scaled (fp16).{self._way_out()}"
            )
        if self._since_bad is not None and (count := int(self._since_bad)):
            step = self._trainer.state.progress.step - count + 1
            raise NonFiniteError(f"the loss or a gradient is not finite at step {step}.{self._way_out()}")

    def keep(self) -> None:
        """Keep a copy of the state for `rollback`: called when a checkpoint is on disk, and at the start."""
        if self._policy == "rollback":
            state = self._trainer.state
            self._good = {
                "model": copy.deepcopy(state.model.state_dict()),
                "optimizer": copy.deepcopy(state.optimizer.state_dict()),
                "ema": None if state.averaged is None else copy.deepcopy(state.averaged.parameters),
                "step": state.progress.step,
            }

    def check_weights(self) -> None:
        """Look at all weights, and their averages, before they are saved; waits for the device.

        Raises:
            NonFiniteError: one is NaN or infinite; it names it. Or a step was, whose verdict had not been read:
                batch statistics are then, too.
        """
        self.read_verdict()
        averaged = self._trainer.state.averaged
        averages = averaged.parameters.items() if averaged is not None else ()
        named = dict(self._trainer.model.named_parameters()) | {f"average of {name}": one for name, one in averages}
        own = {name: one for name, value in named.items() for one in sharding.plain([value.detach()])}
        values, first = [value for value in own.values() if value.is_floating_point()], None
        if values and not bool(torch.isfinite(nn.utils.get_total_norm(values, float("inf")))):
            first = next(name for name, value in own.items() if not bool(torch.isfinite(value).all()))
        if (name := distributed.any_of(first)) is not None:
            step = self._trainer.state.progress.step
            raise NonFiniteError(f"the weights '{name}' are not finite at step {step}: not saved.{self._way_out()}")

    def _restore(self) -> int:
        """Put back what was kept, and return its step."""
        assert self._good is not None
        state = self._trainer.state
        state.model.load_state_dict(self._good["model"])
        state.optimizer.load_state_dict(copy.deepcopy(self._good["optimizer"]))
        if state.averaged is not None:
            for name, value in state.averaged.parameters.items():
                value.copy_(self._good["ema"][name])
        return int(self._good["step"])

    def _remember(self, found: Tensor) -> None:
        """Count the step if it, or one before it, was not finite; keep it from the weights, without a wait."""
        if self._since_bad is None:
            self._since_bad = torch.zeros_like(found)
        self._since_bad.add_(found)
        optimizer: Any = self._trainer.optimizer
        for one in getattr(optimizer, "optimizers", (optimizer,)):
            if any(group.get("fused") for group in one.param_groups):
                one.grad_scale, one.found_inf = None, found  # fused kernels leave weights alone where this is 1
                continue
            bad, parameters = found.bool(), [each for group in one.param_groups for each in group["params"]]
            for gradient in sharding.plain([each.grad for each in parameters if each.grad is not None]):
                gradient.masked_fill_(bad, 0)

    def _error(self, loss: Tensor, batch: Any, step: int) -> NonFiniteError:
        progress = self._trainer.state.progress
        at = f"at step {step} (epoch {progress.epoch + 1}{self._samples()})"
        modules = distributed.gathered(self.first_module(batch))
        first = next((name for name in modules if name.startswith("'")), modules[0])
        return NonFiniteError(f"{_word(loss)} {at}; first in {first}.{self._way_out()}")

    def _samples(self) -> str:
        """Return which samples were in the batch: the first of them."""
        indices = getattr(self._trainer.train_loader, "indices", None)
        if indices is None:
            return ""
        shown = ", ".join(map(str, indices[:4].tolist()))
        return f", samples {shown}{', ...' if len(indices) > 4 else ''}"

    def _way_out(self) -> str:
        rate = self._trainer.base_rate
        return f" Try optimizer.lr={rate / 10:g} (now {rate:g}), trainer.clip_norm=1 or trainer.on_nonfinite=skip"

    def first_module(self, batch: Any) -> str:
        """Replay a batch and return the first module whose output is not finite, quoted, or a word for the rest."""
        trainer = self._trainer

        def forward() -> Tensor:
            randomness.seed_step(trainer.seed, trainer.state.progress.step, 0, 0, trainer.device)
            with devices.autocast(trainer.device, trainer.precision):
                return split_result(trainer.step_function(trainer.model, batch, trainer.criterion)[0])[0]

        return first_not_finite(trainer.model, forward)


def _are_alike(values: Sequence[Tensor]) -> bool:
    """Return whether one kernel can look at all of them."""
    kinds = {(value.device.type, value.device.index, value.dtype, value.layout) for value in values}
    kind = kinds.pop()
    return not kinds and kind[0] in ("cpu", "cuda") and values[0].is_floating_point() and kind[3] is torch.strided


def _word(loss: Tensor) -> str:
    value = float(loss)
    return f"loss is {value}" if not torch.isfinite(loss) else f"a gradient is not finite (loss {value:.4g})"
