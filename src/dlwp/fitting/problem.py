"""Own the problem that a fit solves: residuals and their Jacobian as functions of one vector of numbers.

Knows nothing of how they are made small.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy
import torch
from torch import Tensor, nn

from dlwp.errors import ConfigError, DataError

_MOST_PARAMETERS = 2_000


@dataclass
class Problem:
    """The residuals of N targets as a function of P numbers.

    Attributes:
        model: whose outputs they are of. inputs: (N, D), float64. targets: (N, K), as the outputs should be.
        sigma: standard deviations (N, 1), 1 where none are known.
        names: of the P numbers. low, high: bounds, (P,).
    """

    model: nn.Module
    inputs: Tensor
    targets: Tensor
    sigma: Tensor
    names: list[str]
    low: numpy.ndarray
    high: numpy.ndarray

    def __post_init__(self) -> None:
        self._trained = {name: value for name, value in self.model.named_parameters() if value.requires_grad}

    @property
    def num_residuals(self) -> int:
        """How many residuals there are."""
        return self.targets.numel()

    def start(self) -> numpy.ndarray:
        """Return the present values of the model's parameters, (P,)."""
        return torch.cat([value.detach().flatten() for value in self._trained.values()]).double().numpy()

    def put(self, vector: numpy.ndarray) -> None:
        """Give the model's parameters these values."""
        with torch.no_grad():
            for name, value in self._parts(torch.from_numpy(vector)).items():
                self._trained[name].copy_(value)

    def residuals(self, vector: numpy.ndarray) -> numpy.ndarray:
        """Return (outputs - targets) / sigma, (N·K,)."""
        with torch.no_grad():
            return self._residuals(torch.from_numpy(vector)).numpy()

    def jacobian(self, vector: numpy.ndarray) -> numpy.ndarray:
        """Return the derivatives of the residuals (N·K, P), exact to rounding; `residuals` came before, for this."""
        system = getattr(self.model, "system", None)
        if system is not None:
            self.put(vector)
            found = self.model.jacobian(self.inputs) / self.sigma.unsqueeze(-1)  # type: ignore[operator]
            return found.flatten(0, 1).numpy()
        point = torch.from_numpy(vector)
        few = len(vector) <= self.num_residuals
        take = torch.func.jacfwd(self._residuals) if few else torch.func.jacrev(self._residuals)
        return take(point).detach().numpy()

    def replaced(self, targets: Tensor) -> Problem:
        """Return the problem with other targets (N, K)."""
        return Problem(self.model, self.inputs, targets, self.sigma, self.names, self.low, self.high)

    def outputs(self, vector: numpy.ndarray) -> Tensor:
        """Return the model's outputs (N, K) at a point."""
        with torch.no_grad():
            return self._outputs(torch.from_numpy(vector))

    def _residuals(self, vector: Tensor) -> Tensor:
        return ((self._outputs(vector) - self.targets) / self.sigma).flatten()

    def _outputs(self, vector: Tensor) -> Tensor:
        outputs = torch.func.functional_call(self.model, self._parts(vector), (self.inputs,))
        return outputs.reshape(len(self.inputs), -1)

    def _parts(self, vector: Tensor) -> dict[str, Tensor]:
        found, begin = dict[str, Tensor](), 0
        for name, value in self._trained.items():
            found[name] = vector[begin : begin + value.numel()].reshape(value.shape).to(value.dtype)
            begin += value.numel()
        return found


def of_model(
    model: nn.Module, inputs: Tensor, targets: Tensor, columns: Sequence[str] | None = None, sigma: str | None = None
) -> Problem:
    """Return the problem of fitting a model.

    Args:
        model: gives (N, K), or (N,), of inputs. inputs, targets: all samples, (N, ...).
        columns: names of the inputs. sigma: the one that holds standard deviations.

    Raises:
        ConfigError: nothing is trained, or too much. DataError: values are not finite, or too few.
    """
    inputs, targets = inputs.double().cpu(), targets.double().cpu()
    targets = targets.unsqueeze(1) if targets.dim() == 1 else targets
    for name, values in (("inputs", inputs), ("targets", targets)):
        bad = (~values.isfinite()).flatten(1).any(1).nonzero()
        if len(bad):
            raise DataError(f"{name} of sample {int(bad[0])} are not finite ({len(bad):,} samples). Leave such out")
    if hasattr(model, "transform_targets"):
        targets = model.transform_targets(targets)  # type: ignore[operator]
        if not bool(targets.isfinite().all()):
            at = int((~targets.isfinite()).any(1).nonzero()[0])
            raise DataError(f"the left side of model.formula is not finite at sample {at}")
    single = next((name for name, value in model.named_parameters() if value.dtype != torch.float64), None)
    if single is not None:
        raise ConfigError(f"least squares needs float64, and {single} has less. trainer.precision=fp64")
    names, low, high = _numbers(model)
    if not names:
        raise ConfigError("nothing is left to fit: all parameters are fixed. model.parameters.NAME.fixed=false")
    if len(names) > _MOST_PARAMETERS:
        raise ConfigError(
            f"least squares is for at most {_MOST_PARAMETERS:,} parameters, this model has {len(names):,}."
            " trainer=default"
        )
    return Problem(model, inputs, targets.flatten(1), _sigma(inputs, columns, sigma), names, low, high)


def _numbers(model: nn.Module) -> tuple[list[str], numpy.ndarray, numpy.ndarray]:
    bounds = getattr(getattr(model, "parameters_", None), "bounds", {})
    names, low, high = list[str](), list[float](), list[float]()
    for full, value in model.named_parameters():
        if not value.requires_grad:
            continue
        name = full.removeprefix("parameters_.values.")
        least, most = bounds.get(name, (None, None))
        names += [name] if value.dim() == 0 else [f"{name}[{at}]" for at in range(value.numel())]
        low += [-numpy.inf if least is None else least] * value.numel()
        high += [numpy.inf if most is None else most] * value.numel()
    return names, numpy.array(low), numpy.array(high)


def _sigma(inputs: Tensor, columns: Sequence[str] | None, name: str | None) -> Tensor:
    if name is None:
        return torch.ones(len(inputs), 1, dtype=torch.float64)
    if columns is None or name not in columns:
        known = f" There are: {', '.join(columns)}" if columns else ""
        raise ConfigError(f"optimizer.sigma={name} is no column of the inputs.{known}")
    sigma = inputs[:, list(columns).index(name)].unsqueeze(1)
    if not bool((sigma > 0).all()):
        at = int((sigma <= 0).nonzero()[0, 0])
        raise DataError(f"the standard deviation '{name}' of sample {at} is {float(sigma[at]):g}; it must be above 0")
    return sigma
