"""Hydra's sweep syntax means for a search what it means for a sweep; what cannot be searched is refused in a line."""

from __future__ import annotations

from typing import Any

import pytest

from dlwp.config import check
from dlwp.config.catalog import Catalog
from dlwp.errors import ConfigError
from dlwp.sweeping import space
from dlwp.sweeping.space import Dimension


def read(text: str) -> Dimension:
    return space.read(check.parse([text], Catalog(), sweep=True)[0])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("optimizer.lr=interval(0.1,1)", Dimension("optimizer.lr", "float", (), 0.1, 1.0)),
        ("optimizer.lr=tag(log,interval(1e-4,1))", Dimension("optimizer.lr", "float", (), 1e-4, 1.0, log=True)),
        ("model.depth=int(interval(1,5))", Dimension("model.depth", "int", (), 1, 5)),
        ("model.depth=range(2,8)", Dimension("model.depth", "int", (), 2, 7, 1)),
        ("model.depth=range(8,2,-2)", Dimension("model.depth", "int", (), 4, 8, 2)),
        ("model.dropout=range(0,1,0.25)", Dimension("model.dropout", "float", (), 0, 0.75, 0.25)),
        ("model.width=tag(log,range(1,9))", Dimension("model.width", "int", (), 1, 8, 1, log=True)),
        ("model=mlp,linear", Dimension("model", "choice", ("mlp", "linear"))),
        ("model.hidden=choice([64],[64,64])", Dimension("model.hidden", "choice", ("[64]", "[64,64]"))),
        ("+model.new=1,2", Dimension("model.new", "choice", ("1", "2"), sign="+")),
    ],
)
def test_a_word_of_several_values_is_the_dimension_that_its_sweep_would_run_through(text: str, expected: Any) -> None:
    assert read(text) == expected


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("model.depth=tag(log,interval(0,1))", r"needs values above 0, got 0\. interval\(0\.001,1\)"),
        ("model.depth=tag(log,range(1,9,2))", "a step of 2 exclude each other"),
        ("model.depth=tag(sqrt,interval(1,2))", r"unknown tag 'sqrt'\. There is: log"),
        ("model.depth=interval(2,1)", "2 to 1 is empty. The smaller end comes first"),
        ("model.depth=range(2,2)", "holds no value"),
        ("model=glob(*)", "cannot be searched: list the values"),
        ("model.depth=tag(log,choice(1,2))", r"a list has no logarithm\. model\.depth=1,2"),
    ],
)
def test_what_cannot_be_searched_is_refused_in_a_line_that_says_what_can(text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        read(text)


def test_values_are_typed_as_they_were_drawn_and_lie_where_optuna_draws_them() -> None:
    lr, depth, hidden = read("lr=interval(0,1)"), read("model.depth=range(2,8)"), read("model.hidden=[1],[1,2]")
    assert lr.word(0.1 + 0.2) == "lr=0.30000000000000004"
    assert depth.word(3) == "model.depth=3"
    assert hidden.word("[1,2]") == "model.hidden=[1,2]"
    assert [depth.distribution()._contains(value) for value in (1, 2, 7, 8)] == [False, True, True, False]
    assert depth.listed() == [2, 3, 4, 5, 6, 7]
    with pytest.raises(ConfigError, match="sampler=grid needs values that can be listed; 'lr' is an interval"):
        lr.listed()


def test_the_default_has_a_place_in_the_space_only_where_it_could_be_drawn() -> None:
    dimensions = [read("optimizer.lr=interval(0,1)"), read("model=mlp,linear"), read("model.hidden=[8],[8,8]")]
    values = {"optimizer": {"lr": 0.5}, "model": {"hidden": [8, 8]}}
    expected = {"optimizer.lr": 0.5, "model": "mlp", "model.hidden": "[8,8]"}
    assert space.defaults(dimensions, values, {"model": "mlp"}) == expected
    assert space.defaults(dimensions, values, {"model": "resnet"}) is None
    assert space.defaults(dimensions, {"optimizer": {"lr": "auto"}, "model": {"hidden": [8]}}, {"model": "mlp"}) is None
    steps = read("model.depth=range(2,9,2)")
    assert [steps.place_of(value) for value in (2, 3, 8, 9, 4.0)] == [2, None, 8, None, 4.0]
