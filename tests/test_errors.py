"""Hold the tree of errors: exit status, pickling, one line, the nearest name."""

from __future__ import annotations

import pickle

import pytest

from dlwp import errors

CLASSES = [found for found in vars(errors).values() if isinstance(found, type) and issubclass(found, errors.DlwpError)]


@pytest.mark.parametrize("found", CLASSES, ids=lambda found: found.__name__)
def test_every_error_survives_pickling_with_its_details(found: type[errors.DlwpError]) -> None:
    error = found("no model 'resnett'", ["cnn", "resnet"])
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is found
    assert (str(again), again.details, again.exit_code) == ("no model 'resnett'", ("cnn", "resnet"), found.exit_code)


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("DlwpError", 5),
        ("ConfigError", 2),
        ("DataError", 3),
        ("MachineError", 4),
        ("RunError", 5),
        ("NonFiniteError", 5),
        ("CallbackError", 5),
    ],
)
def test_each_error_has_its_exit_status(name: str, code: int) -> None:
    assert getattr(errors, name).exit_code == code


def test_every_error_stands_in_the_drawn_tree_under_its_parent() -> None:
    drawn = errors.__doc__ or ""
    assert [found.__name__ for found in CLASSES if found.__name__ not in drawn] == []
    assert errors.NonFiniteError.__base__ is errors.CallbackError.__base__ is errors.RunError


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("epochz", " Did you mean 'epochs'?"),
        ("resnett", " Did you mean 'resnet'?"),
        ("zzz", ""),
        ("", ""),
    ],
)
def test_the_nearest_name_is_offered_and_none_where_nothing_is_near(name: str, told: str) -> None:
    assert errors.did_you_mean(name, ["epochs", "resnet", "precision"]) == told


def test_two_near_names_come_likeliest_first() -> None:
    assert errors.did_you_mean("adm", ["adamw", "sgd", "adam"]) == " Did you mean 'adam' or 'adamw'?"
