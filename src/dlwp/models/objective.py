"""Own an objective as a model: a formula of parameters alone, which is to be made small.

Knows nothing of how.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dlwp.errors import ConfigError
from dlwp.models.expression import Parameters, shortly
from dlwp.models.formula import read

_RECORDED = 10


class Objective(nn.Module):
    """A formula f of parameters; training with criterion=value minimises it.

    Args:
        formula: such as "(1-x)^2 + 100*(y-x^2)^2", or of vectors "sum((1-x[:-1])^2 + 100*(x[1:]-x[:-1]^2)^2)".
        parameters: name -> starting value, or a mapping with init, fixed, equals, shape. They begin at 1 otherwise.

    Attributes:
        parameters_: the parameters.

    Shape:
        input (B, ...), not looked at -> output (1,), the value.

    Raises:
        ConfigError: the formula cannot be read or gives no single number, or a parameter has bounds.

    Example:
        >>> Objective("(1-x)^2", {"x": 3.0})(torch.zeros(1, 0)).item()
        4.0
    """

    def __init__(self, formula: str, parameters: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.formula = read(formula, "model.formula", parameters or {})
        if not self.formula.names:
            raise ConfigError(f"model.formula='{formula}' has no parameter that could be changed")
        self.parameters_ = Parameters(self.formula.names, parameters or {})
        bounded = next(iter(self.parameters_.bounds), None)
        if bounded is not None:
            raise ConfigError(
                f"model.parameters.{bounded} has bounds, which steps along a gradient do not keep. Write the formula in"
                f" a parameter without: such as exp({bounded}) for values above 0"
            )
        with torch.no_grad():
            value = self(torch.zeros(1))
        if not bool(value.isfinite().all()):
            raise ConfigError(f"model.formula is {float(value):g} at the starting values. model.parameters.NAME.init")

    def forward(self, inputs: Tensor) -> Tensor:
        value = torch.as_tensor(self.formula(self.parameters_()))
        if value.numel() != 1:
            raise ConfigError(
                f"model.formula gives {value.numel()} numbers; one is made small. Put sum(...) or mean(...) around it"
            )
        return value.reshape(1)

    def training_step(self, batch: Any, criterion: Any) -> tuple[dict[str, Tensor], Tensor]:
        """Return the value, with the parameters to be recorded beside it where they are few and single numbers."""
        outputs = self(batch[0] if isinstance(batch, tuple | list) else batch)
        values = {name: value.clone() for name, value in self.values().items() if value.dim() == 0}
        return {"loss": criterion(outputs, None), **(values if len(values) <= _RECORDED else {})}, outputs

    def values(self) -> dict[str, Tensor]:
        """Return the parameters by name."""
        with torch.no_grad():
            return self.parameters_()

    def describe(self) -> list[str]:
        """Return the formula, then where the parameters begin, in lines."""
        specified = self.parameters_.specified.items()
        begins = [f"{name} from {shortly(one.init)}" for name, one in specified if one.equals is None]
        return [self.formula.text, " · ".join(begins)]
