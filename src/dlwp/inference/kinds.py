"""Own which kind of predictor a network gets: that of what its data was.

Knows nothing of what any of them does.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch

from dlwp.inference import predictor
from dlwp.inference.networks import Network

_OF = {"arrays": "arrays", "segmentation": "masks", "sequence": "text", "series": "series", "table": "rows"}
"""Kind of encoding (`Facts.encoding`), else task -> the module of this room whose `of_network` makes the predictor."""


def predictor_of(network: Network, device: torch.device, tta: str | None = None, precision: str = "fp32") -> Any:
    """Return what predicts with a network.

    Args:
        network: of a run, or with published weights. device: where it runs. tta, precision: of pictures.

    Raises:
        ConfigError: nothing here predicts of such data.
    """
    facts = network.facts
    kind = (facts.encoding or {}).get("kind", facts.task)
    if kind in _OF:
        views = {"tta": tta} if kind == "segmentation" else {}
        return importlib.import_module(f"dlwp.inference.{_OF[kind]}").of_network(network, device, **views)
    return predictor.of_network(network, device, tta, precision)
