"""Own formulas: text to a function of named tensors, by a list of what may stand in it; none of it is run as code.

Knows nothing of parameters, data or fits.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dlwp.errors import ConfigError, did_you_mean

_LONGEST, _DEEPEST = 20_000, 100

CONSTANTS = {"pi": math.pi, "e": math.e}
"""Names that stand for a number, unless a column or a parameter has that name."""

_Call = Callable[..., Tensor]


def _norm(values: Tensor) -> Tensor:
    return values.square().sum().sqrt()


_FUNCTIONS: dict[str, tuple[int, _Call, str]] = {
    "exp": (1, torch.exp, "numpy.exp"), "expm1": (1, torch.expm1, "numpy.expm1"),
    "log": (1, torch.log, "numpy.log"), "log1p": (1, torch.log1p, "numpy.log1p"),
    "log2": (1, torch.log2, "numpy.log2"), "log10": (1, torch.log10, "numpy.log10"),
    "sqrt": (1, torch.sqrt, "numpy.sqrt"), "abs": (1, torch.abs, "numpy.abs"), "sign": (1, torch.sign, "numpy.sign"),
    "sin": (1, torch.sin, "numpy.sin"), "cos": (1, torch.cos, "numpy.cos"), "tan": (1, torch.tan, "numpy.tan"),
    "asin": (1, torch.asin, "numpy.arcsin"), "acos": (1, torch.acos, "numpy.arccos"),
    "atan": (1, torch.atan, "numpy.arctan"), "arctan": (1, torch.atan, "numpy.arctan"),
    "atan2": (2, torch.atan2, "numpy.arctan2"),
    "sinh": (1, torch.sinh, "numpy.sinh"), "cosh": (1, torch.cosh, "numpy.cosh"), "tanh": (1, torch.tanh, "numpy.tanh"),
    "erf": (1, torch.erf, "scipy.special.erf"), "erfc": (1, torch.erfc, "scipy.special.erfc"),
    "lgamma": (1, torch.lgamma, "scipy.special.gammaln"), "sigmoid": (1, torch.sigmoid, "scipy.special.expit"),
    "minimum": (2, torch.minimum, "numpy.minimum"), "maximum": (2, torch.maximum, "numpy.maximum"),
    "where": (3, torch.where, "numpy.where"),
    "sum": (1, torch.sum, "numpy.sum"), "mean": (1, torch.mean, "numpy.mean"), "prod": (1, torch.prod, "numpy.prod"),
    "dot": (2, torch.dot, "numpy.dot"), "norm": (1, _norm, "numpy.linalg.norm"),
}  # fmt: skip
"""Name -> number of arguments, what computes it, and its name in NumPy or SciPy."""

_BINARY: dict[type, tuple[Callable[[Any, Any], Any], str]] = {
    ast.Add: (lambda a, b: a + b, "+"), ast.Sub: (lambda a, b: a - b, "-"), ast.Mult: (lambda a, b: a * b, "*"),
    ast.Div: (lambda a, b: a / b, "/"), ast.Pow: (lambda a, b: _power(a, b), "**"),
}  # fmt: skip
_COMPARISONS: dict[type, tuple[Callable[[Any, Any], Any], str]] = {
    ast.Lt: (lambda a, b: a < b, "<"), ast.LtE: (lambda a, b: a <= b, "<="),
    ast.Gt: (lambda a, b: a > b, ">"), ast.GtE: (lambda a, b: a >= b, ">="),
}  # fmt: skip

_Values = Mapping[str, Any]
_Compiled = Callable[[_Values], Any]


@dataclass(frozen=True)
class Formula:
    """A formula that has been read.

    Attributes:
        text: as it was written. names: what it refers to, functions and constants apart, in order of appearance.
        constants: those of CONSTANTS that it refers to.

    Example:
        >>> formula = read("b1*(1-exp(-b2*x))")
        >>> formula.names
        ('b1', 'b2', 'x')
        >>> formula({"b1": 2.0, "b2": 1.0, "x": torch.tensor([0.0, 1e9])})
        tensor([0., 2.])
    """

    text: str
    names: tuple[str, ...]
    constants: tuple[str, ...]
    _tree: ast.expr
    _compiled: _Compiled

    def __call__(self, values: _Values) -> Any:
        """Return the formula's value, with each name's value from `values`: tensors (N,) or (), or numbers."""
        return self._compiled(values)

    def python(self) -> str:
        """Return it as Python source on NumPy arrays; uses `numpy` and `scipy.special`."""
        return _source(self._tree)


def read(text: str, key: str = "model.formula", names: Mapping[str, Any] | None = None) -> Formula:
    """Return a formula of + - * / ^ (or **), functions, comparisons within where(), parts of vectors x[1:], and names.

    Args:
        text: such as "b1*(1-exp(-b2*x))"; brackets after a function's name, exp[x], stand for parentheses.
        key: that holds it, for messages.
        names: what is known to be a column or parameter: it goes before a constant of that name.

    Raises:
        ConfigError: it is no formula, or holds what has no place in one; nothing of it has been run.
    """
    if len(text) > _LONGEST:
        raise ConfigError(f"{key} is {len(text):,} characters long; at most {_LONGEST:,} are read")
    text = " ".join(text.split())
    try:
        tree = ast.parse(text.replace("^", "**"), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        place = error.offset if isinstance(error, SyntaxError) else None
        at = f" near '{text[max(0, place - 6) : place + 5].strip()}'" if place else ""
        raise ConfigError(f"{key}='{text}' is no formula{at}. Such as b1*(1-exp(-b2*x))") from None
    reader = _Reader(key, names or {})
    compiled = reader.compile(tree)
    return Formula(text, tuple(reader.names), tuple(reader.constants), tree, compiled)


def split_equation(text: str, key: str = "model.formula") -> tuple[str | None, str]:
    """Return both sides of "log(y) = b1*x", (None, whole) where there is no equals sign.

    Raises:
        ConfigError: there are several.
    """
    sides = re.split(r"(?<![<>=!])=(?!=)", text)
    if len(sides) > 2:
        raise ConfigError(f"{key}='{text}' has {len(sides) - 1} equals signs; one, as in log(y) = b1*x, or none")
    return (sides[0].strip(), sides[1].strip()) if len(sides) == 2 else (None, text.strip())


def _power(base: Any, exponent: Any) -> Any:
    if not isinstance(base, Tensor) and isinstance(exponent, Tensor):
        base = torch.as_tensor(base, dtype=exponent.dtype)
    return base**exponent


class _Reader:
    """Turns a syntax tree into nested functions of the values, and collects the names in it."""

    def __init__(self, key: str, known: Mapping[str, Any]) -> None:
        self._key, self._known, self._depth = key, known, 0
        self.names: dict[str, None] = {}
        self.constants: dict[str, None] = {}

    def compile(self, node: ast.expr) -> _Compiled:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise ConfigError(f"{self._key} is nested more than {_DEEPEST} deep")
        found = self._compile(node)
        self._depth -= 1
        return found

    def _compile(self, node: ast.expr) -> _Compiled:
        match node:
            case ast.Constant(value=bool()) | ast.Constant(value=complex()):
                raise self._refusal(node)
            case ast.Constant(value=int() | float() as number):
                return lambda values: number
            case ast.Name(id=name):
                return self._name(name)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                inner = self.compile(operand)
                return lambda values: -inner(values)
            case ast.UnaryOp(op=ast.UAdd(), operand=operand):
                return self.compile(operand)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
                return self._pair(_BINARY[type(op)][0], left, right)
            case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in _COMPARISONS:
                return self._pair(_COMPARISONS[type(op)][0], left, right)
            case ast.Call(func=ast.Name(id=name), args=args, keywords=[]):
                return self._call(name, args)
            case ast.Subscript(value=ast.Name(id=name), slice=inside) if name in _FUNCTIONS and name not in self._known:
                return self._call(name, inside.elts if isinstance(inside, ast.Tuple) else [inside])
            case ast.Subscript(value=value, slice=inside):
                whole, part = self.compile(value), _part(inside)
                if part is not None:
                    return lambda values: whole(values)[part]
        raise self._refusal(node)

    def _pair(self, operation: Callable[[Any, Any], Any], left: ast.expr, right: ast.expr) -> _Compiled:
        first, second = self.compile(left), self.compile(right)
        return lambda values: operation(first(values), second(values))

    def _name(self, name: str) -> _Compiled:
        if name not in self._known and name in CONSTANTS:
            self.constants[name] = None
            number = CONSTANTS[name]
            return lambda values: number
        if name not in self._known and name in _FUNCTIONS:
            raise ConfigError(f"{self._key}: '{name}' is a function: write {name}(...)")
        self.names[name] = None
        return lambda values: values[name]

    def _call(self, name: str, arguments: list[ast.expr]) -> _Compiled:
        if name not in _FUNCTIONS:
            hint = did_you_mean(name, _FUNCTIONS)
            raise ConfigError(f"{self._key} has no function '{name}'.{hint} There are: {', '.join(_FUNCTIONS)}")
        wanted, function, _ = _FUNCTIONS[name]
        if len(arguments) != wanted:
            raise ConfigError(
                f"{self._key}: {name}() takes {wanted} argument{'s' if wanted > 1 else ''}, got {len(arguments)}"
            )
        inner = [self.compile(argument) for argument in arguments]
        return lambda values: function(*_tensors([one(values) for one in inner], values))

    def _refusal(self, node: ast.expr) -> ConfigError:
        return ConfigError(
            f"{self._key}: '{ast.unparse(node)}' has no place in a formula. There are + - * / ^, parentheses, numbers, "
            "names, functions, comparisons within where(), and parts of vectors x[1:]"
        )


def _tensors(arguments: list[Any], values: _Values) -> Iterator[Tensor]:
    """Give numbers as tensors of the type and place of the others, or of the values."""
    like = next((one for one in (*arguments, *values.values()) if isinstance(one, Tensor)), None)
    for one in arguments:
        if isinstance(one, Tensor):
            yield one
        else:
            dtype = torch.float64 if like is None or not like.is_floating_point() else like.dtype
            yield torch.as_tensor(one, dtype=dtype, device=None if like is None else like.device)


def _part(node: ast.expr) -> int | slice | None:
    """Return a whole number or a slice of such; None for anything else."""
    if isinstance(node, ast.Slice):
        bounds = [None if one is None else _whole(one) for one in (node.lower, node.upper, node.step)]
        given = [one for one in (node.lower, node.upper, node.step) if one is not None]
        return slice(*bounds) if all(_whole(one) is not None for one in given) else None
    return _whole(node)


def _whole(node: ast.expr) -> int | None:
    match node:
        case ast.Constant(value=int() as number) if not isinstance(number, bool):
            return number
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() as number)):
            return -number
    return None


def _source(node: ast.expr) -> str:
    match node:
        case ast.Constant(value=number):
            return repr(number)
        case ast.Name(id=name):
            return name
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return f"(-{_source(operand)})"
        case ast.UnaryOp(operand=operand):
            return _source(operand)
        case ast.BinOp(left=left, op=op, right=right):
            return f"({_source(left)} {_BINARY[type(op)][1]} {_source(right)})"
        case ast.Compare(left=left, ops=[op], comparators=[right]):
            return f"({_source(left)} {_COMPARISONS[type(op)][1]} {_source(right)})"
        case ast.Call(func=ast.Name(id=name), args=args):
            return f"{_FUNCTIONS[name][2]}({', '.join(map(_source, args))})"
        case ast.Subscript(value=ast.Name(id=name), slice=inside) if name in _FUNCTIONS:
            parts = inside.elts if isinstance(inside, ast.Tuple) else [inside]
            return f"{_FUNCTIONS[name][2]}({', '.join(map(_source, parts))})"
        case ast.Subscript(value=value, slice=inside):
            return f"{_source(value)}[{ast.unparse(inside)}]"
    raise AssertionError(f"{type(node).__name__} was let through")
