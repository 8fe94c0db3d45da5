"""Own the forward and the backward pass of a step: the loss of a batch, and its gradient.

Knows nothing of what is done with a gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dlwp import devices, randomness
from dlwp.criteria import weight_of
from dlwp.graphs import Captured
from dlwp.nested import target_of
from dlwp.training.batches import split_result, targets_of
from dlwp.training.pieces import Pieces

if TYPE_CHECKING:
    from dlwp.training.trainer import Trainer


class Passes:
    """Computes the loss of a batch and its gradient, in pieces that are weighted by their samples.

    Raises:
        ConfigError: `trainer.cuda_graphs` is asked for where there are none.
    """

    def __init__(self, trainer: Trainer) -> None:
        settings = trainer.settings
        self._trainer = trainer
        self._pieces = Pieces(trainer)
        self._counts = True
        self._step = torch.compile(trainer.step_function) if settings.compile else trainer.step_function
        tuned = [parameter for group in trainer.optimizer.param_groups for parameter in group["params"]]
        self._parameters = list(dict.fromkeys([*tuned, *trainer.model.parameters()]))
        self._captured = Captured(self._compute, self._parameters, settings) if settings.cuda_graphs else None

    def loss(self, batch: Any) -> Tensor:
        """Return the loss of a batch, detached; its gradient is where the optimizer finds it."""
        self._batch = batch
        self.drop_gradients()
        return self._pieces.compute(batch, self._accumulate)

    def closure(self, loss: Tensor, batch: Any) -> Callable[[], Tensor]:
        """Return what evaluates a batch again at other parameters; the first time it gives what is there already."""
        known = [loss]

        def again() -> Tensor:
            self._counts = False  # what the run tells of a step is what it began with
            found = known.pop() if known else self.loss(batch)
            self._counts = True
            return found

        return again

    def drop_gradients(self) -> None:
        """Do what `optimizer.zero_grad` does, in a thirtieth of its time."""
        for parameter in self._parameters:
            parameter.grad = None

    def _accumulate(self, pieces: list[Any]) -> Tensor:
        trainer = self._trainer
        losses: list[Tensor] = []
        whole = len(pieces) == 1
        for number, piece in enumerate(pieces):
            randomness.seed_step(trainer.seed, trainer.state.progress.step, 0, number, trainer.device)
            loss, further, outputs = self._captured(piece) if whole and self._captured else self._compute(piece, whole)
            trainer.spend("backward")
            losses.append(loss)
            if outputs is not None and self._counts and (target := target_of(piece)) is not None:
                trainer.tally.update(outputs, target)
            for name, value in further.items() if self._counts else ():
                trainer.tally.add(name, value, targets_of(piece))
        return sum(losses[1:], losses[0])

    def _compute(self, piece: Any, whole: bool = True) -> tuple[Tensor, dict[str, Any], Any]:
        """Add the gradient of a piece of the batch to what is there; return its loss, further numbers and outputs."""
        trainer = self._trainer
        with devices.autocast(trainer.device, trainer.precision):
            result, outputs = self._step(trainer.model, piece, trainer.criterion)
        loss, further = split_result(result)
        if not whole:
            loss = loss * (weight_of(trainer.criterion, piece) / weight_of(trainer.criterion, self._batch))
        trainer.spend("forward")
        (trainer.scaler.scale(loss) if trainer.scaler is not None else loss).backward()
        further = {name: one.detach() if isinstance(one, Tensor) else one for name, one in further.items()}
        return loss.detach(), further, outputs
