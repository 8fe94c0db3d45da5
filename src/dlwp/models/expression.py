"""Own the expression as a model: a formula whose names are columns of the data, and parameters that are fitted.

Knows nothing of how parameters are found, nor of what is wrong with a fit.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from dlwp import devices
from dlwp.errors import ConfigError, did_you_mean
from dlwp.models import dynamics
from dlwp.models.formula import CONSTANTS, Formula, read, split_equation

_OPTIONS = ("init", "min", "max", "fixed", "equals", "shape")
_OWN_UNITS = "the parameters of a formula are in the units of the data"


@dataclass(frozen=True)
class Parameter:
    """What was said of a parameter.

    Attributes:
        init: starting value, a number or nested lists. min, max: bounds, None for none.
        fixed: whether it stays there. equals: a formula of other parameters that it is, None where it is its own.
        said: whether the starting value was given.
    """

    init: Any = 1.0
    min: float | None = None
    max: float | None = None
    fixed: bool = False
    equals: Formula | None = None
    said: bool = False


class Parameters(nn.Module):
    """Named parameters, float64, with their bounds and ties.

    Args:
        names: of the parameters that formulas refer to.
        options: name -> its starting value, or a mapping of init, min, max, fixed, equals, shape.

    Attributes:
        specified: name -> `Parameter`, in the order of `names`. values: name -> the tensors that are fitted or fixed.

    Raises:
        ConfigError: an option has no effect or does not fit another.
    """

    def __init__(self, names: Sequence[str], options: Mapping[str, Any]) -> None:
        super().__init__()
        self.specified: dict[str, Parameter] = {}
        self.values = nn.ParameterDict()
        waiting = list(names)
        while waiting:
            name = waiting.pop(0)
            one = _specified(name, options.get(name, {}))
            self.specified[name] = one
            if one.equals is not None:
                waiting += [other for other in one.equals.names if other not in self.specified and other not in waiting]
                continue
            if hasattr(nn.ParameterDict, name):
                raise ConfigError(f"model.formula: a parameter cannot be called '{name}'. Such as {name}1")
            value = torch.tensor(one.init, dtype=torch.float64)
            self.values[name] = nn.Parameter(value, requires_grad=not one.fixed)
        unused = [name for name in options if name not in self.specified]
        if unused:
            hint = did_you_mean(unused[0], self.specified)
            raise ConfigError(
                f"model.parameters.{unused[0]} is in no formula.{hint} Its parameters: {', '.join(self.specified)}"
            )
        _refuse_circles(self.specified)

    def forward(self) -> dict[str, Tensor]:
        return self.tied(dict(self.values.items()))

    def tied(self, found: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return every parameter by name, of those that are not tied to others."""
        left = [name for name, one in self.specified.items() if one.equals is not None]
        while left:
            for name in list(left):
                equals = self.specified[name].equals
                assert equals is not None
                if all(other in found for other in equals.names):
                    found[name] = torch.as_tensor(equals(found), dtype=torch.float64)
                    left.remove(name)
        return found

    @torch.no_grad()
    def restart(self) -> None:
        """Give every parameter its starting value again."""
        for name, value in self.values.items():
            value.copy_(torch.tensor(self.specified[name].init, dtype=torch.float64))

    @property
    def bounds(self) -> dict[str, tuple[float | None, float | None]]:
        """Lower and upper bound of each parameter that has one."""
        return {name: (one.min, one.max) for name, one in self.specified.items() if (one.min, one.max) != (None, None)}


class Expression(nn.Module):
    """A formula of columns and parameters, or of the states of a system of ordinary differential equations.

    Args:
        formula: such as "b1*(1-exp(-b2*x))", or an equation "log(y) = b1 - b2*x" whose left side is a formula of the
            target; a list of one for each target; None with `derivatives`: the states that the targets are named after.
        columns: names of the columns of the inputs; other names are parameters.
        targets: names of the targets.
        parameters: name -> starting value, or a mapping with init, min, max, fixed, equals (a formula of other
            parameters), shape (init is then repeated). Without a starting value a parameter begins at 1.
        derivatives: state -> formula of its derivative by `time`; state NAME begins at the parameter NAME_0.
        time: the column of time, from which the states begin at its smallest value.

    Attributes:
        parameters_: the parameters. constants: those that the formulas use, such as pi.

    Shape:
        input (B, D), the columns -> output (B, K), float64; the formula of each target.

    Raises:
        ConfigError: a formula cannot be read, or does not fit columns and parameters.

    Example:
        >>> model = Expression("b1*(1-exp(-b2*x))", ["x"], ["y"], {"b1": 2.0})
        >>> model(torch.tensor([[0.0], [1e9]]).double()).flatten().tolist()
        [0.0, 2.0]
    """

    data_answers: ClassVar[dict[str, tuple[Any, str]]] = {
        "standardize": (False, _OWN_UNITS),
        "dtype": ("float64", "fits are made to more digits than float32 has"),
        "val_fraction": (0.0, "a fit is of all samples"),
    }

    def __init__(
        self,
        formula: str | Sequence[str] | None,
        columns: Sequence[str],
        targets: Sequence[str] = ("y",),
        parameters: Mapping[str, Any] | None = None,
        derivatives: Mapping[str, str] | None = None,
        time: str | None = None,
    ) -> None:
        super().__init__()
        if formula is None and not derivatives:
            raise ConfigError('no formula is given. model.formula="a*x+b", with names of columns and parameters')
        self.columns, self.targets = list(columns), list(targets)
        known = dict.fromkeys([*columns, *targets, *(parameters or {}), *(derivatives or {})])
        self.system = None if not derivatives else dynamics.System(derivatives, time, self.columns, known)
        states = [] if self.system is None else self.system.states
        texts = self._texts(formula, states)
        sides = [split_equation(text) for text in texts]
        self.formulas = [read(right, "model.formula", known) for _, right in sides]
        self.left = [None if left is None else read(left, "model.formula", known) for left, _ in sides]
        self._refuse_strange_left()
        inner = [*self.formulas, *(self.system.formulas if self.system is not None else ())]
        used = dict.fromkeys(name for one in inner for name in one.names)
        begins = [] if self.system is None else [dynamics.begin_of(state) for state in states]
        free = [name for name in dict.fromkeys([*used, *begins]) if name not in self.columns and name not in states]
        wrong = [name for name in free if name in self.targets]
        if wrong:
            raise ConfigError(f"model.formula: '{wrong[0]}' is what is to be explained (data.target), not a column")
        self.constants = sorted({name for one in inner for name in one.constants})
        self.used = [name for name in self.columns if name in used or (self.system and name == self.system.time)]
        if not self.used:
            near = [f"'{one}' for '{name}'" for name in free for one in difflib.get_close_matches(name, columns, 1)]
            hint = f" Did you mean {near[0]}?" if near else ""
            raise ConfigError(f"model.formula has none of the columns.{hint} There are: {', '.join(columns)}")
        self.parameters_ = Parameters(free, parameters or {})

    def forward(self, inputs: Tensor) -> Tensor:
        inputs = inputs.double()
        values: dict[str, Any] = {name: inputs[:, at] for at, name in enumerate(self.columns)}
        values |= self.parameters_()
        if self.system is not None:
            values |= self.system.solve(values)
        outputs = [torch.as_tensor(one(values), dtype=torch.float64, device=inputs.device) for one in self.formulas]
        return torch.stack([one.expand(inputs.shape[0]) for one in outputs], 1)  # (B, K); len would fix B in an export

    def jacobian(self, inputs: Tensor) -> Tensor:
        """Return the derivatives (B, K, P) of the outputs by the P trained numbers, at the steps of the last solution.

        Of differential equations only: all P are carried along one integration in forward mode, which takes a third
        of the time of `torch.func.jacfwd` through it.
        """
        assert self.system is not None
        trained = [name for name, value in self.parameters_.values.items() if value.requires_grad]
        basis = torch.eye(len(trained), dtype=torch.float64)
        with torch.no_grad(), devices.forward_mode(), forward_ad.dual_level(), self._held():
            values: dict[str, Any] = {name: inputs[:, at : at + 1].double() for at, name in enumerate(self.columns)}
            wide = {name: value.detach().expand(len(trained)) for name, value in self.parameters_.values.items()}
            for number, name in enumerate(trained):
                wide[name] = forward_ad.make_dual(wide[name].clone(), basis[number])
            values |= self.parameters_.tied(wide)
            values |= self.system.solve(values)
            found = [forward_ad.unpack_dual(one(values)).tangent for one in self.formulas]
        empty = torch.zeros(len(inputs), len(trained), dtype=torch.float64)
        return torch.stack([empty if one is None else one.expand_as(empty) for one in found], 1)

    @contextlib.contextmanager
    def _held(self) -> Iterator[None]:
        """Keep what the last values chose, the steps of an integration, while derivatives are taken."""
        if self.system is not None:
            self.system.is_held = True
        try:
            yield
        finally:
            if self.system is not None:
                self.system.is_held = False

    def transform_targets(self, targets: Tensor) -> Tensor:
        """Return the left sides of the equations, (B, K), of targets (B, K)."""
        values = {name: targets[:, at].double() for at, name in enumerate(self.targets)}
        sides = [values[name] if one is None else one(values) for one, name in zip(self.left, self.targets)]
        return torch.stack(sides, 1)

    def describe(self) -> list[str]:
        """Return the formulas, then where the parameters begin, in lines."""
        lines = [
            f"{target if left is None else left.text} = {one.text}"
            for target, left, one in zip(self.targets, self.left, self.formulas)
            if self.system is None or one.text != target
        ]
        lines += [f"d{name}/d{self.system.time} = {one.text}" for name, one in self.system] if self.system else []
        begins = []
        for name, one in self.parameters_.specified.items():
            if one.equals is not None:
                begins.append(f"{name} = {one.equals.text}")
            elif one.fixed:
                begins.append(f"{name} = {shortly(one.init)}, fixed")
            else:
                begins.append(f"{name} from {shortly(one.init)}{_within(one)}{'' if one.said else ' (not given)'}")
        return [*lines, " · ".join(begins)]

    def python(self, name: str, fitted: Mapping[str, Any]) -> str:
        """Return a Python function of the columns, on NumPy arrays, with the parameters as its defaults.

        Args:
            name: of the function. fitted: values of the parameters.

        Raises:
            ConfigError: it is of differential equations.
        """
        if self.system is not None:
            raise ConfigError("format=python writes formulas; the states of differential equations have none")
        own = ", ".join([*self.used, "*", *(f"{key}={_source(value)}" for key, value in fitted.items())])
        lines = [f"    {key} = {CONSTANTS[key]!r}" for key in self.constants]
        results = ", ".join(one.python() for one in self.formulas)  # several: a tuple
        return "\n".join([f"def {name}({own}):", *lines, f"    return {results}"])

    def _texts(self, formula: Any, states: Sequence[str]) -> list[str]:
        if formula is None:
            strange = [name for name in self.targets if name not in states]
            if strange:
                raise ConfigError(
                    f"no formula says how the target '{strange[0]}' follows from the states {', '.join(states)}."
                    " model.formula=..., or name states after the targets"
                )
            return list(self.targets)
        texts = [formula] if isinstance(formula, str) else [str(one) for one in formula]
        if len(texts) != len(self.targets):
            raise ConfigError(
                f"model.formula has {len(texts)} formulas, data.target {len(self.targets)}: {', '.join(self.targets)}"
            )
        return texts

    def _refuse_strange_left(self) -> None:
        for left in self.left:
            strange = [name for name in (left.names if left else ()) if name not in self.targets]
            if strange:
                raise ConfigError(
                    f"model.formula: '{strange[0]}' stands left of the equals sign, where only the target may:"
                    f" {', '.join(self.targets)}"
                )


def _source(value: Any) -> str:
    return repr(value) if isinstance(value, float) else f"numpy.array({value!r})"


def shortly(value: Any) -> str:
    """Return a number, or how many there are."""
    flat = torch.tensor(value, dtype=torch.float64).flatten()
    return f"{float(flat[0]):g}" if flat.numel() == 1 or bool((flat == flat[0]).all()) else f"{flat.numel()} numbers"


def _within(one: Parameter) -> str:
    low, high = ("" if end is None else f"{end:g}" for end in (one.min, one.max))
    return f" within {low or '-∞'} to {high or '∞'}" if low or high else ""


def _specified(name: str, given: Any) -> Parameter:
    key = f"model.parameters.{name}"
    if not isinstance(given, Mapping):
        given = {"init": given}
    for option in given:
        if option not in _OPTIONS:
            hint = did_you_mean(option, _OPTIONS)
            raise ConfigError(f"{key} has no option '{option}'.{hint} There are: {', '.join(_OPTIONS)}")
    low, high = (_number(f"{key}.{end}", given.get(end)) for end in ("min", "max"))
    if given.get("equals") is not None:
        others = [option for option in given if option != "equals" and given[option] is not None]
        if others:
            raise ConfigError(f"{key} is tied by equals, so its {others[0]} has no effect. Leave one of them out")
        return Parameter(equals=read(str(given["equals"]), f"{key}.equals"))
    if low is not None and high is not None and low >= high:
        raise ConfigError(f"{key}.min={low:g} is not below {key}.max={high:g}")
    init = _init(key, given)
    for number in torch.as_tensor(init, dtype=torch.float64).flatten().tolist():
        if (low is not None and number < low) or (high is not None and number > high):
            raise ConfigError(f"{key}.init={number:g} is outside {key}.min={low} and {key}.max={high}")
    fixed = given.get("fixed", False)
    if not isinstance(fixed, bool):
        raise ConfigError(f"{key}.fixed must be true or false, got {fixed!r}. {key}.init=NUMBER {key}.fixed=true")
    return Parameter(init, low, high, fixed, None, given.get("init") is not None)


def _init(key: str, given: Mapping[str, Any]) -> Any:
    init = given.get("init")
    if init is None:
        low, high = given.get("min"), given.get("max")
        bounded = [float(one) for one in (low, high) if one is not None]
        init = min(max(1.0, bounded[0] if low is not None else 1.0), bounded[-1] if high is not None else 1.0)
    try:
        value = torch.tensor(init, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError):
        raise ConfigError(f"{key}.init must be a number or a list of numbers, got {init!r}") from None
    if not bool(value.isfinite().all()):
        raise ConfigError(f"{key}.init must be finite, got {init!r}")
    shape = given.get("shape")
    return value.tolist() if shape is None else value.expand(*shape).tolist()


def _number(key: str, value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"{key} must be a number or null, got {value!r}")
    return float(value)


def _refuse_circles(specified: Mapping[str, Parameter]) -> None:
    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            raise ConfigError(f"model.parameters: {' is tied to '.join([*path[path.index(name) :], name])}")
        equals = specified[name].equals if name in specified else None
        for other in equals.names if equals is not None else ():
            visit(other, (*path, name))

    for name in specified:
        visit(name, ())
