"""Own the forward and the backward pass of a step: the loss of a batch, and its gradient.

Knows nothing of what is done with a gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dlwp import devices, distributed, parallel, randomness
from dlwp.criteria import weight_of
from dlwp.graphs import Captured
from dlwp.nested import size_of, target_of
from dlwp.training.batches import is_divided, split_result, targets_of, whole_size
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
        self._shared = None
        if distributed.world_size() > 1:
            self._shared = parallel.Shared(trainer.model, self._step, trainer.criterion, settings)

    def loss(self, batch: Any) -> Tensor:
        """Return the loss of a batch, detached; its gradient is where the optimizer finds it."""
        self.drop_gradients()
        if self._shared is None:
            self.size, self.targets, self._batch = size_of(batch), targets_of(batch), batch
            return self._pieces.compute(batch, self._accumulate)
        loader = self._trainer.train_loader
        self.size = whole_size(loader, batch)
        share = self._shared.share(batch, self.size, is_divided(loader))
        own = weight_of(self._trainer.criterion, share)
        self.targets = self._shared.total(own, self.size)
        loss = self._pieces.compute(share, self._accumulate)
        return self._shared.together(loss, own / self.targets)

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
            at = trainer.state.progress.step, distributed.rank(), number
            randomness.seed_step(trainer.seed, *at, trainer.device)
            last = number == len(pieces) - 1
            loss, further, outputs = (
                self._captured(piece) if whole and self._captured else self._compute(piece, whole, last)
            )
            trainer.spend("backward")
            losses.append(loss)
            counts = self._counts and (self._shared is None or self._shared.counts)
            if outputs is not None and counts and (target := target_of(piece)) is not None:
                trainer.tally.update(outputs, target)
            for name, value in further.items() if counts else ():
                trainer.tally.add(name, value, targets_of(piece))
        return sum(losses[1:], losses[0])

    def _compute(self, piece: Any, whole: bool = True, last: bool = True) -> tuple[Tensor, dict[str, Any], Any]:
        """Add the gradient of a piece of the batch to what is there; return its loss, further numbers and outputs."""
        trainer = self._trainer
        with devices.autocast(trainer.device, trainer.precision):
            if self._shared is not None:
                result, outputs = self._shared(piece, is_last=last)
            else:
                result, outputs = self._step(trainer.model, piece, trainer.criterion)
        loss, further = split_result(result)
        if not whole or self._shared is not None:
            loss = loss * self._weight(piece)
        trainer.spend("forward")
        wanted = loss if self._shared is None else loss * distributed.world_size()  # torch's engine takes the mean
        (trainer.scaler.scale(wanted) if trainer.scaler is not None else wanted).backward()
        further = {name: one.detach() if isinstance(one, Tensor) else one for name, one in further.items()}
        return loss.detach(), further, outputs

    def _weight(self, piece: Any) -> float | Tensor:
        """Return the share of a piece in its batch."""
        if self._shared is None:
            return weight_of(self._trainer.criterion, piece) / weight_of(self._trainer.criterion, self._batch)
        return weight_of(self._trainer.criterion, piece) / self.targets if self._shared.counts else 0.0
