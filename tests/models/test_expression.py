"""Hold expressions: columns and parameters told apart, bounds and ties, several targets, and differential equations."""

from __future__ import annotations

import math
from typing import Any

import numpy
import pytest
import torch
from scipy.integrate import solve_ivp

from dlwp.errors import ConfigError, RunError
from dlwp.models.expression import Expression

INPUTS = torch.tensor([[0.0, 2.0], [1.0, 3.0], [4.0, 5.0]], dtype=torch.float64)


def predator_prey(**options: Any) -> Expression:
    """Return the equations of Lotka and Volterra, which have no solution in a formula."""
    parameters = {"a": 1.0, "b": 0.1, "c": 1.5, "d": 0.075, "x_0": 10.0, "y_0": 5.0}
    return Expression(
        None, ["t"], ["x", "y"], parameters, {"x": "a*x - b*x*y", "y": "-c*y + d*x*y"}, time="t", **options
    )


def test_names_that_are_no_columns_are_parameters() -> None:
    model = Expression("b1*x + b2*z", ["x", "unused", "z"], ["y"], {"b1": 2.0, "b2": {"init": -1}})
    assert dict(model.parameters_.specified).keys() == {"b1", "b2"}
    inputs = torch.tensor([[1.0, 99.0, 3.0]])
    assert model(inputs).tolist() == [[-1.0]]
    assert model.used == ["x", "z"]


def test_a_tied_parameter_follows_and_a_fixed_one_is_not_trained() -> None:
    model = Expression(
        "a*x + b + c", ["x", "z"], ["y"], {"b": {"equals": "2*a"}, "c": {"init": 1, "fixed": True}, "a": 3}
    )
    assert [name for name, value in model.named_parameters() if value.requires_grad] == ["parameters_.values.a"]
    assert model(INPUTS).flatten().tolist() == [7.0, 10.0, 19.0]


def test_each_target_has_its_formula_and_parameters_are_shared() -> None:
    model = Expression(["a*x", "exp(z) = a + x"], ["x", "w"], ["y", "z"], {"a": 2.0})
    assert model(INPUTS).tolist() == [[0.0, 2.0], [2.0, 3.0], [8.0, 6.0]]
    found = model.transform_targets(torch.tensor([[1.0, 0.0]]))
    assert found.tolist() == [[1.0, 1.0]]


def test_a_vector_parameter_has_its_shape() -> None:
    model = Expression("sum(v)*x", ["x", "z"], ["y"], {"v": {"init": 0.5, "shape": [4]}})
    assert model(INPUTS).flatten().tolist() == [0.0, 2.0, 8.0]


@pytest.mark.parametrize(
    ("formula", "parameters", "said"),
    [
        (None, {}, "no formula is given"),
        ("a*b", {}, "has none of the columns"),
        ("a*xx", {}, r"has none of the columns\. Did you mean 'x' for 'xx'"),
        ("a*x + y", {}, "'y' is what is to be explained"),
        ("a*x", {"b": 1}, "model.parameters.b is in no formula. Did you mean 'a'|model.parameters.b is in no formula"),
        ("a*x", {"a": {"strat": 1}}, "has no option 'strat'"),
        ("a*x", {"a": {"init": 1, "int": 1}}, "has no option 'int'. Did you mean 'init'"),
        ("a*x", {"a": {"init": 1, "min": 2}}, "model.parameters.a.init=1 is outside"),
        ("a*x", {"a": {"min": 2, "max": 1}}, "model.parameters.a.min=2 is not below"),
        ("a*x", {"a": {"min": "low"}}, "model.parameters.a.min must be a number"),
        ("a*x", {"a": {"init": "high"}}, "model.parameters.a.init must be a number"),
        ("a*x", {"a": {"init": math.inf}}, "must be finite"),
        ("a*x", {"a": {"fixed": 3}}, "model.parameters.a.fixed must be true or false"),
        ("a*x", {"a": {"equals": "b", "init": 3}}, "tied by equals, so its init has no effect"),
        ("a*x", {"a": {"equals": "b"}, "b": {"equals": "a"}}, "a is tied to b is tied to a"),
        ("keys*x", {}, "a parameter cannot be called 'keys'"),
        ("y = z = x", {}, "2 equals signs"),
        ("x = a*x", {}, "'x' stands left of the equals sign"),
        (["a*x", "b*x"], {}, "2 formulas, data.target 1"),
    ],
)
def test_what_does_not_fit_is_one_line(formula: Any, parameters: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Expression(formula, ["x", "z"], ["y"], parameters)


def test_states_follow_their_equations() -> None:
    times = torch.tensor([0.0, 15.0, 3.0, 3.0, 7.5], dtype=torch.float64).unsqueeze(1)
    found = predator_prey()(times).detach().numpy()

    def slope(_: float, z: numpy.ndarray) -> list[float]:
        return [z[0] - 0.1 * z[0] * z[1], -1.5 * z[1] + 0.075 * z[0] * z[1]]

    exact = solve_ivp(slope, (0, 15), [10, 5], "DOP853", rtol=1e-13, atol=1e-13, dense_output=True).sol(times[:, 0]).T
    assert numpy.abs(found / exact - 1).max() < 1e-8


def test_derivatives_of_states_are_those_of_the_solution() -> None:
    model = predator_prey()
    times = torch.linspace(0, 4, 5, dtype=torch.float64).unsqueeze(1)
    with torch.no_grad():
        model(times)
        found = model.jacobian(times)
        width = 1e-6
        for number, value in enumerate(model.parameters_.values.values()):
            before = float(value)
            sides = []
            for side in (1, -1):
                value.fill_(before + side * width)
                sides.append(model(times))
            value.fill_(before)
            numeric = (sides[0] - sides[1]) / (2 * width)
            assert torch.allclose(found[:, :, number], numeric, rtol=1e-6, atol=1e-6)


def test_formulas_of_states_are_of_the_solution() -> None:
    model = Expression("2*x", ["t"], ["y"], {"k": 0.5, "x_0": 3.0}, {"x": "-k*x"}, time="t")
    times = torch.tensor([[0.0], [1.0], [2.0]], dtype=torch.float64)
    assert torch.allclose(model(times), 6 * (-0.5 * times).exp(), rtol=1e-9)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"time": None}, "model.time is not set"),
        ({"time": "s"}, "model.time names no column 's'"),
        ({"derivatives": {"t": "1"}}, "'t' is a column of the inputs"),
        ({"derivatives": {"z": "-z"}}, "no formula says how the target 'y' follows from the states z"),
    ],
)
def test_equations_that_do_not_fit_are_one_line(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Expression(**{"formula": None, "columns": ["t"], "derivatives": {"y": "-y"}, "time": "t", **options})


def test_equations_that_run_away_are_one_line() -> None:
    model = Expression(None, ["t"], ["y"], {"y_0": 1.0}, {"y": "y^2"}, time="t")
    with pytest.raises(RunError, match=r"cannot be integrated from 0 to 2|need more than"):
        model(torch.tensor([[0.0], [2.0]], dtype=torch.float64))
