"""Own the moving average of a model's weights, and its exchange with them.

Knows nothing of how weights are trained, nor of when the average is looked at.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from dlwp import sharding


class AveragedWeights:
    """An exponential moving average of a model's parameters; its buffers are copied as they are.

    The average after step t has decay min(decay, (1 + t) / (10 + t)), so that early steps are forgotten quickly.

    Source:
        Polyak, Juditsky 1992 (averaging); the ramp as in TensorFlow's ExponentialMovingAverage.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.parameters = {name: value.detach().clone() for name, value in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take in the weights after `step` (from 1)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        current = dict(model.named_parameters())
        torch._foreach_lerp_(
            list(self.parameters.values()), [current[name].detach() for name in self.parameters], 1 - decay
        )

    def state_dict(self, model: nn.Module) -> dict[str, Tensor]:
        """Return the average in the form of `model.state_dict()`."""
        averages = {id(value): self.parameters[name] for name, value in model.named_parameters()}
        return {name: averages.get(id(value), value) for name, value in model.state_dict(keep_vars=True).items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take back what `state_dict` gave."""
        for name, value in self.parameters.items():
            value.copy_(state[name])

    @contextlib.contextmanager
    def swapped_into(self, model: nn.Module) -> Iterator[None]:
        """Put the average into the model for the length of the context."""
        current = dict(model.named_parameters())
        if sharding.is_sharded(model):
            with sharding.exchanged([(current[name], value) for name, value in self.parameters.items()]):
                yield
            return
        kept = {name: current[name].data for name in self.parameters}
        try:
            for name, value in self.parameters.items():
                current[name].data = value
            yield
        finally:
            for name, value in kept.items():
                current[name].data = value
