"""Own the way from a table to a forecast of what comes after its end, by a run that was trained on such tables.

Knows nothing of configs, command lines or how a forecast is shown.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor

from dlwp.data import timeseries
from dlwp.inference.networks import Network


@dataclass
class Forecast:
    """What comes after the end of a table.

    Attributes:
        targets: names of the columns. times: when each of the H rows is. values: (H, targets), in their unit.
        past: (P, targets), the last rows known, for a picture.
    """

    targets: list[str]
    times: list[str]
    values: numpy.ndarray
    past: numpy.ndarray


class SeriesPredictor:
    """Forecast the rows after the end of a table.

    Args:
        network: of a run with `data=timeseries`. device: where it runs.

    Example:
        >>> import dlwp
        >>> dlwp.load("outputs/latest")("table.csv").values  # doctest: +SKIP
    """

    def __init__(self, network: Network, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.facts, self.name = network.facts, network.name
        self.encoding: dict[str, Any] = network.facts.encoding or {}
        self.model = network.model.to(self.device).eval()

    def __call__(self, table: str | Path) -> Forecast:
        """Return the forecast of the `horizon` rows after the last one in which the target is known.

        Args:
            table: a CSV file with the columns of the training table.

        Raises:
            DataError: it lacks a column, is too short, or lacks the future of a column that must be known.
        """
        window, rows, count = timeseries.last_window(str(table), self.encoding)
        with torch.inference_mode():
            outputs = self.model(window[None].to(self.device)).float().cpu()
        values = in_units(outputs, self.facts)[0]
        targets, length = self.encoding["targets"], len(values)
        past = numpy.stack([rows.numbers[name][:count] for name in targets], 1)
        times = [rows.label(count + step) for step in range(length)]
        return Forecast(targets, times, values.numpy(), past[-max(len(window), 2 * length) :])


def in_units(outputs: Tensor, facts: Any) -> Tensor:
    """Return forecasts (B, H, targets) in the targets' own units, float64, of outputs or targets (B, H · targets)."""
    mean, std = (torch.tensor(values, dtype=torch.float64) for values in (facts.target_mean, facts.target_std))
    return (outputs.double() * std + mean).unflatten(1, (-1, len(facts.encoding["targets"])))


def of_network(network: Network, device: torch.device) -> SeriesPredictor:
    """Return the predictor of a network."""
    return SeriesPredictor(network, device)
