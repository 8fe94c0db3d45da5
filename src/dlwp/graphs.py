"""Own the capture of a job on a card as one CUDA graph, which is then launched as a whole (`trainer.cuda_graphs`).

Knows nothing of what the job computes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map_only

from dlwp.errors import ConfigError
from dlwp.settings import NOT_WITH_GRAPHS, TrainerSettings

_WARM_UP = 3
"""Calls before the capture, in which libraries choose their algorithms and take their memory."""


class Captured:
    """A job that computes gradients, captured for the shapes of a batch once these have come a few times in a row.

    A small network's step is hundreds of launches of a few µs each, for which the host takes longer than the card does
    for the work; a graph is one launch. A batch of other shapes is computed as ever. Random numbers are those that the
    job alone would draw, as the seed of the card's generator is read at each launch.

    Args:
        job: (batch) -> nested tensors; it leaves gradients, and waits for nothing.
        parameters: whose gradients those are.
        settings: of the trainer whose step it is.

    Raises:
        ConfigError: the parameters are on no card, or other settings forbid it; or, when called, it cannot be captured.

    Source:
        Nguyen, Carilli et al. 2021, Accelerating PyTorch with CUDA Graphs (pytorch.org/blog).
    """

    def __init__(self, job: Callable[[Any], Any], parameters: Sequence[Tensor], settings: TrainerSettings) -> None:
        device = parameters[0].device.type
        why = [f"beside trainer.{key}" for key in NOT_WITH_GRAPHS if getattr(settings, key)]
        why += [f"on {device}"] if device != "cuda" else []
        if why:
            raise ConfigError(f"trainer.cuda_graphs does not work {why[0]}. trainer.cuda_graphs=false")
        self._job, self._parameters = job, parameters
        self._stream = torch.cuda.Stream()
        self._shapes: Any = None
        self._calls = 0
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, batch: Any) -> Any:
        """Return what the job gives for a batch on the card."""
        parts, structure = tree_flatten(batch)
        shapes = [(part.shape, part.dtype, part.stride()) if isinstance(part, Tensor) else part for part in parts]
        if self._graph is None:
            self._calls = self._calls + 1 if shapes == self._shapes else 1
            self._shapes = shapes
            if self._calls <= _WARM_UP:
                return self._warm_up(batch)
            self._capture(batch)
            assert self._graph is not None
        if (shapes, structure) != (self._shapes, self._structure):
            return self._job(batch)
        torch._foreach_copy_(self._inputs, [part for part in parts if isinstance(part, Tensor)])
        self._graph.replay()
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = gradient
        return tree_map_only(Tensor, Tensor.clone, self._results)

    def _warm_up(self, batch: Any) -> Any:
        """Call the job in the stream of the capture: torch notes the stream in which a gradient is first added."""
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            results = self._job(batch)
        current.wait_stream(self._stream)
        return results

    def _capture(self, batch: Any) -> None:
        held = tree_map_only(Tensor, Tensor.clone, batch)
        parts, self._structure = tree_flatten(held)
        self._inputs = [part for part in parts if isinstance(part, Tensor)]
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=self._stream):
                self._results = tree_map_only(Tensor, Tensor.detach, self._job(held))
        except RuntimeError as error:
            why = " ".join(str(error).split())[:120]
            raise ConfigError(
                f"trainer.cuda_graphs: a step cannot be captured ({why}). trainer.cuda_graphs=false"
            ) from error
        self._gradients = [parameter.grad for parameter in self._parameters]
        self._graph = graph
