"""Own how a model without a step of its own takes a batch that is a dictionary: each argument by its name.

Knows nothing of data sets or of the loop.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from torch import nn

from dlwp import nested
from dlwp.errors import ConfigError


class NamedStep:
    """A step over batches that are dictionaries or namedtuples: criterion(model(**all but the target), target).

    Args:
        target: the name of the target. inputs: the names of all else.

    Attributes:
        told: what it does, for the summary.
    """

    def __init__(self, target: str, inputs: Sequence[str]) -> None:
        self.target = target
        self.told = f"{', '.join(inputs)} by name, its outputs are compared with {target}"

    def __call__(self, model: nn.Module, batch: Any, criterion: Any) -> tuple[Any, Any]:
        """Return the criterion, and the outputs."""
        parts = dict(nested.named(batch))
        targets = parts.pop(self.target)
        outputs = model(**parts)
        return criterion(outputs, targets), outputs


def step_for(model: nn.Module, sample: Any) -> NamedStep | None:
    """Return the step for samples that are no pairs; None where they are pairs, or inputs alone.

    Args:
        model: has no step of its own.
        sample: one of them.

    Raises:
        ConfigError: the model's `forward` does not take what the samples hold, or they have no target.
    """
    if nested.is_pair(sample) and not nested.is_named(sample):
        return None
    told = nested.described(sample)
    way_out = "Give trainer.step=my_file.step, a function (model, batch, criterion) -> (loss, outputs)"
    if not nested.is_named(sample):
        if isinstance(sample, tuple | list):
            raise ConfigError(f"a sample is {told}, not (input, target). {way_out}; or dictionaries of the arguments")
        return None
    target = nested.target_name(sample)
    if target is None:
        known = ", ".join(nested.TARGETS)
        raise ConfigError(f"a sample holds {told}: none of it is a target ({known}). {way_out}")
    inputs = [name for name in nested.named(sample) if name != target]
    parameters = inspect.signature(model.forward).parameters.values()
    takes = [one.name for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
    needed = [one.name for one in parameters if one.name in takes and one.default is one.empty]
    if any(name not in takes for name in inputs) or any(name not in inputs for name in needed):
        raise ConfigError(
            f"a sample holds {', '.join(inputs)} and its {target}, the model's forward takes {', '.join(takes)}. "
            f"{way_out}; or name them alike"
        )
    return NamedStep(target, inputs)
