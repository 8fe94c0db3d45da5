"""Hold formulas: what may stand in one, what it gives, and that nothing else is ever run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy
import pytest
import scipy.special
import torch

from dlwp.errors import ConfigError
from dlwp.models.formula import read, split_equation

X = torch.tensor([0.25, 1.5, 3.0], dtype=torch.float64)
VALUES: dict[str, Any] = {"x": X, "y": X.flip(0), "a": torch.tensor(2.0, dtype=torch.float64), "v": X}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a*x + 1", 2 * X + 1),
        ("-x^2", -(X**2)),
        ("2^-x", 2.0**-X),
        ("x**2^0.5", X ** (2**0.5)),
        ("a/(1+exp(-x))", 2 / (1 + (-X).exp())),
        ("a/(1+exp[-x])", 2 / (1 + (-X).exp())),
        ("log(x)/log10(x)", torch.full((3,), math.log(10), dtype=torch.float64)),
        ("cos(pi) + e*0", torch.tensor(-1.0, dtype=torch.float64)),
        ("atan2(x, y)", torch.atan2(X, X.flip(0))),
        ("where(x > 1, x, 0)", torch.tensor([0.0, 1.5, 3.0], dtype=torch.float64)),
        ("minimum(x, 1)", X.clamp(max=1)),
        ("sum(v[1:]*v[:-1])", (X[1:] * X[:-1]).sum()),
        ("v[-1]", X[2]),
        ("norm(v)", X.norm()),
        ("+x", X),
        ("1e-3*x", 1e-3 * X),
    ],
)
def test_a_formula_gives_what_it_says_and_so_does_its_python(text: str, expected: torch.Tensor) -> None:
    formula = read(text)
    found = torch.as_tensor(formula(VALUES), dtype=torch.float64)
    assert torch.allclose(found, expected.double(), rtol=1e-14, atol=1e-15)
    names = {name: value.numpy() for name, value in VALUES.items()}
    known = {"numpy": numpy, "scipy": scipy, "pi": math.pi, "e": math.e, **names}
    assert numpy.allclose(eval(formula.python(), known), expected.numpy(), rtol=1e-14, atol=1e-15)


def test_names_come_in_their_order_without_functions_and_constants() -> None:
    formula = read("b2*exp(-b1*x)/pi + e")
    assert formula.names == ("b2", "b1", "x")
    assert formula.constants == ("pi", "e")


def test_a_column_goes_before_the_constant_and_the_function_of_its_name() -> None:
    assert read("e*x", names={"e": None}).names == ("e", "x")
    assert read("sum[0]", names={"sum": None}).names == ("sum",)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("b1*(1-exp(-b2*x)", "is no formula"),
        ("", "is no formula"),
        ("a b", "is no formula near 'a b'"),
        ("expp(x)", "no function 'expp'. Did you mean 'exp'"),
        ("exp(x, y)", r"exp\(\) takes 1 argument, got 2"),
        ("atan2(x)", r"atan2\(\) takes 2 arguments, got 1"),
        ("exp*x", r"'exp' is a function: write exp\(...\)"),
        ("x.real", "'x.real' has no place"),
        ("__import__('os').system('touch ran')", "has no place"),
        ("(lambda: x)()", "has no place"),
        ("[x for x in y]", "has no place"),
        ("'text'", "has no place"),
        ("True", "has no place"),
        ("2j*x", "has no place"),
        ("x if y else a", "has no place"),
        ("x % 2", "has no place"),
        ("x and y", "has no place"),
        ("f'{x}'", "has no place"),
        ("v[x]", "has no place"),
        ("exp(x=1)", "has no place"),
        ("x < y < a", "has no place"),
        ("x:=3", "is no formula"),
        ("x\ny", "is no formula"),
        ("-" * 150 + "x", "nested more than 100 deep"),
        ("x+" * 20_000 + "x", "at most 20,000"),
    ],
)
def test_what_is_no_formula_is_refused_in_one_line_and_never_run(text: str, said: str, own_place: Path) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        read(text)
    assert "\n" not in caught.value.message
    assert not (own_place / "ran").exists()


def test_an_equation_has_two_sides_and_a_comparison_is_none() -> None:
    assert split_equation("log(y) = a*x") == ("log(y)", "a*x")
    assert split_equation("where(x <= 1, a, b)") == (None, "where(x <= 1, a, b)")
    with pytest.raises(ConfigError, match="2 equals signs"):
        split_equation("y = a = b")
