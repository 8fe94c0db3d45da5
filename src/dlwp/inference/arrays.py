"""Own the way from rows of numbers to what a network makes of them.

Knows nothing of files.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dlwp.data.augment import BatchTransform
from dlwp.errors import DataError
from dlwp.inference.networks import Network

_ROWS = 1024


class ArrayPredictor:
    """Give the outputs of a network for rows of numbers, normalised as in its training.

    Args:
        network: of a run on arrays. device: where it runs.

    Attributes:
        classes: their names where it was trained on classes, else None.

    Example:
        >>> dlwp.load("outputs/latest")(numpy.zeros((3, 6))).shape  # doctest: +SKIP
        (3, 2)
    """

    def __init__(self, network: Network, device: torch.device) -> None:
        facts = network.facts
        self._model, self._device, self._name = network.model.to(device), device, network.name
        self._shape = facts.input_shape
        self._is_classes = facts.task == "classification"
        dtype = next((one.dtype for one in network.model.parameters() if one.is_floating_point()), torch.float32)
        self._transform = BatchTransform([], facts.mean, facts.std, train=False, dtype=dtype)
        count = facts.num_classes or 0
        self.classes = (facts.classes or [str(number) for number in range(count)]) if self._is_classes else None

    @torch.no_grad()
    def __call__(self, inputs: Any) -> Tensor:
        """Return probabilities (N, K) of classes, else what the network gives, (N, ...), on the host.

        Args:
            inputs: (N, ...), an array or a tensor, as the data had it.

        Raises:
            DataError: its shape is another than that of the data.
        """
        values = torch.as_tensor(inputs)
        if tuple(values.shape[1:]) != tuple(self._shape):
            raise DataError(f"rows are {list(values.shape[1:])}, {self._name} takes {list(self._shape)}")
        found = []
        for rows in values.split(_ROWS):
            outputs = self._model(self._transform(rows.to(self._device))[0])
            found.append((outputs.softmax(1) if self._is_classes and outputs.dim() == 2 else outputs).cpu())
        return torch.cat(found)


def of_network(network: Network, device: torch.device) -> ArrayPredictor:
    """Return the predictor of a network that was trained on arrays."""
    return ArrayPredictor(network, device)
