"""Own the solution of ordinary differential equations, differentiable by their parameters and starting values.

Knows nothing of data or fits.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy
import torch
from torch import Tensor

from dlwp.errors import ConfigError, RunError
from dlwp.models.formula import Formula, read

_TOLERANCE = 1e-10
_MOST_STEPS = 5_000


def begin_of(state: str) -> str:
    """Return the name of the parameter that a state begins at."""
    return f"{state}_0"


class System:
    """A system dx/dt = f(x, t, parameters).

    Args:
        derivatives: state -> formula. time: the column of time. columns: of the data. known: names with a meaning.

    Attributes:
        states: names. time: the column. formulas: of the derivatives, in the order of the states.
        is_held: whether the steps of the last solution are taken again, as they must be while it is differentiated.

    Raises:
        ConfigError: no such column, a state is also a column, or a formula cannot be read.
    """

    def __init__(
        self, derivatives: Mapping[str, str], time: str | None, columns: Sequence[str], known: Mapping[str, Any]
    ) -> None:
        if time not in columns:
            named = "is not set" if time is None else f"names no column '{time}'"
            raise ConfigError(f"model.time {named}; it is the column of time. There are: {', '.join(columns)}")
        for state in derivatives:
            if state in columns:
                raise ConfigError(
                    f"model.derivatives: '{state}' is a column of the inputs; a state is what is computed."
                    " If it is what was measured: data.target"
                )
        self.states, self.time, self.is_held = list(derivatives), time, False
        names = {**known, **dict.fromkeys(derivatives)}
        self.formulas = [read(str(one), f"model.derivatives.{name}", names) for name, one in derivatives.items()]

    def __iter__(self) -> Iterator[tuple[str, Formula]]:
        return iter(zip(self.states, self.formulas, strict=True))

    def solve(self, values: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return each state at each sample's time.

        The steps are chosen by SciPy's integrator to a relative and absolute error of 1e-10 for the present values;
        on these steps the states are computed anew by the same method, so that their derivatives by parameters are
        those of the result.

        Args:
            values: the columns, tensors (B,), and the parameters, tensors (); or columns (B, 1) and parameters (P,),
                for P solutions at once on the same steps, those of the first of them.

        Returns:
            State -> (B,), or (B, P), float64.

        Raises:
            RunError: the equations cannot be integrated that far.

        Source:
            Hairer, Norsett, Wanner 1993, Solving Ordinary Differential Equations I, II.5 (DOP853).
        """
        from scipy.integrate import DOP853

        assert self.time is not None
        times = values[self.time]
        begin = torch.stack([values[begin_of(state)] for state in self.states], -1)  # (n,) or (P, n)
        used = dict.fromkeys(name for one in self.formulas for name in one.names)
        others = {name: values[name] for name in used if name in values and name != self.time}
        if not self.is_held:
            wanted, self._places = torch.unique(times.detach().flatten(), return_inverse=True)  # sorted
            self._grid = _grid(lambda t, x: self._slope(t, x, others), begin.detach(), wanted)
            self._at = torch.searchsorted(self._grid, wanted)
        stages, weights, nodes = (torch.from_numpy(one) for one in (DOP853.A, DOP853.B, DOP853.C))
        state, found = begin, [begin]
        for first, last in zip(self._grid[:-1], self._grid[1:]):
            width, slopes = last - first, [self._slope(first, state, others)]
            for number in range(1, DOP853.n_stages):
                inner = state + width * torch.tensordot(stages[number, :number], torch.stack(slopes), 1)
                slopes.append(self._slope(first + nodes[number] * width, inner, others))
            state = state + width * torch.tensordot(weights, torch.stack(slopes), 1)
            found.append(state)
        solution = torch.stack(found)[self._at][self._places]  # (B, n) or (B, P, n)
        return {name: solution[..., number] for number, name in enumerate(self.states)}

    def _slope(self, time: Any, state: Tensor, others: Mapping[str, Any]) -> Tensor:
        values = {**others, str(self.time): time, **dict(zip(self.states, state.unbind(-1)))}
        return torch.stack([_like(one(values), state) for one in self.formulas], -1)


def _like(value: Any, state: Tensor) -> Tensor:
    return torch.as_tensor(value, dtype=torch.float64).expand(state.shape[:-1])


def _grid(slope: Any, begin: Tensor, wanted: Tensor) -> Tensor:
    """Return the times of steps from the first to the last wanted, these among them."""
    from scipy.integrate import solve_ivp

    if len(wanted) == 1:
        return wanted
    calls = itertools.count()

    def plain(time: float, state: numpy.ndarray) -> numpy.ndarray:
        if next(calls) > 12 * _MOST_STEPS:
            raise RunError(_TOO_MANY)
        return slope(torch.tensor(time, dtype=torch.float64), torch.from_numpy(state)).numpy()

    with torch.no_grad():
        span = float(wanted[0]), float(wanted[-1])
        solved = solve_ivp(plain, span, begin.numpy(), "DOP853", rtol=_TOLERANCE, atol=_TOLERANCE)
    if not solved.success or not numpy.isfinite(solved.y).all():
        raise RunError(
            f"the differential equations cannot be integrated from {wanted[0]:g} to {wanted[-1]:g} ({solved.message})."
            " Other starting values: model.parameters.NAME.init"
        )
    return torch.unique(torch.cat([torch.from_numpy(solved.t), wanted]))


_TOO_MANY = (
    f"the differential equations need more than {_MOST_STEPS:,} steps: they are stiff, or run away. "
    "Other starting values or bounds: model.parameters.NAME.init, .min, .max"
)
