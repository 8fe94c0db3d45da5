"""Hold the schema: durations, and that choices, least values and durations name keys that exist."""

from __future__ import annotations

import dataclasses

import pytest

from dlwp import settings
from dlwp.settings import Duration

SECTIONS = {
    "": settings.CommandSettings,
    "trainer": settings.TrainerSettings,
    "logger": settings.LoggerSettings,
    "data": settings.DataKeys,
    "optimizer": settings.OptimizerKeys,
    "scheduler": settings.SchedulerKeys,
    "hydra.sweeper": settings.SearchSettings,
}


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [
        ("1 epoch", 1, "epoch"),
        ("0.5 epochs", 0.5, "epoch"),
        (".5epochs", 0.5, "epoch"),
        ("500 steps", 500, "step"),
        ("1step", 1, "step"),
        ("  90 s ", 90, "time"),
        ("10 min", 600, "time"),
        ("1.5 h", 5400, "time"),
        ("2 days", 172800, "time"),
    ],
)
def test_a_duration_is_read_as_it_is_written(text: str, value: float, unit: str) -> None:
    assert Duration.parse(text) == Duration(value, unit)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "5",
        "epoch",
        "five steps",
        "0 epochs",
        "0 s",
        "-1 epoch",
        "1.5 steps",
        "3 weeks",
        "1 Epoch",
        "1 epoch 2 steps",
        "1..5 h",
    ],
)
def test_what_is_no_duration_is_refused_in_words_that_hold_it(text: str) -> None:
    with pytest.raises(ValueError) as caught:
        Duration.parse(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "steps"), [("1 epoch", 352), ("2.5 epochs", 880), ("0.0001 epochs", 1), ("500 steps", 500)]
)
def test_a_duration_of_epochs_or_steps_is_a_number_of_steps_and_at_least_one(text: str, steps: int) -> None:
    assert Duration.parse(text).steps(352) == steps


def test_a_time_is_no_number_of_steps() -> None:
    with pytest.raises(ValueError, match="not a number of steps"):
        Duration.parse("10 min").steps(352)


@pytest.mark.parametrize("key", [*settings.CHOICES, *settings.MINIMUM, *settings.DURATIONS])
def test_every_rule_is_about_a_key_that_exists(key: str) -> None:
    section, _, name = key.rpartition(".")
    assert name in {field.name for field in dataclasses.fields(SECTIONS[section])}


def test_the_defaults_obey_their_own_rules() -> None:
    for key, (section, name) in {
        key: key.rpartition(".")[::2] for key in [*settings.MINIMUM, *settings.CHOICES, *settings.DURATIONS]
    }.items():
        value = getattr(SECTIONS[section](), name)
        if value is None:
            continue
        if key in settings.MINIMUM and not isinstance(value, str):
            assert value >= settings.MINIMUM[key], key
        if key in settings.CHOICES:
            assert str(value).lower() in settings.CHOICES[key], key
        if key in settings.DURATIONS:
            assert Duration.parse(value).unit in settings.DURATIONS[key], key


def test_every_section_of_the_command_is_a_group_and_no_group_is_forgotten() -> None:
    fields = {field.name for field in dataclasses.fields(settings.CommandSettings)}
    assert {*settings.GROUPS} - {"experiment"} <= fields
