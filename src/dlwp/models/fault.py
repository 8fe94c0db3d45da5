"""Own the search for the module in which a number that is not finite arises.

Knows nothing of what led to the search.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


@torch.no_grad()
def first_not_finite(model: nn.Module, forward: Callable[[], Tensor]) -> str:
    """Return the first module whose output is not finite, quoted, or a word for what comes after them all.

    Args:
        model: whose modules are watched, each before the one that it is in.
        forward: passes a batch through the model, and returns the loss.
    """
    found: list[str] = []

    def watch(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if not found and isinstance(output, Tensor) and not bool(torch.isfinite(output).all()):
                found.append(f"'{name}'" if name else "the model itself")

        return hook

    handles = [module.register_forward_hook(watch(name)) for name, module in model.named_modules()]
    try:
        loss = forward()
    finally:
        for handle in handles:
            handle.remove()
    if found:
        return found[0]
    return "the criterion" if not bool(torch.isfinite(loss).all()) else "a gradient"
