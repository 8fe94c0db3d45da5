"""A table becomes windows in the order of time: nothing of the future is seen, units come back, faults are named."""

from __future__ import annotations

import csv
import math
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from dlwp.data import ordered
from dlwp.data.splits import find_facts
from dlwp.data.timeseries import last_window, naive, timeseries
from dlwp.errors import ConfigError, DataError

START = datetime(2024, 1, 1)


def write(name: str = "t.csv", count: int = 400, change: Any = None, separator: str = ",") -> str:
    """Write hours with a number that counts them, a wave of a day, the hour, and a word."""
    rows = [
        [str(START + timedelta(hours=row)), row, 50 + 20 * math.sin(row * math.pi / 12), row % 24, "mild"]
        for row in range(count)
    ]
    rows = change(rows) if change else rows
    with Path(name).open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=separator).writerows([["when", "id", "load", "hour", "weather"], *rows])
    return name


def made(path: str, **keys: Any) -> Any:
    return timeseries(path, **{"target": "load", "window": 24, "horizon": 6, **keys})


def test_a_window_holds_the_rows_before_and_its_target_those_after() -> None:
    found = made(write())
    find_facts(found)
    facts = found.facts
    assert facts.task == "regression" and facts.input_shape == (24, 2) and facts.target_shape == (6,)
    assert facts.inputs == ["load", "hour"]
    table = ordered.read("t.csv").numbers["load"]
    mean, std = table[:320].mean(), table[:320].std()
    for number in (0, 7, 290):
        inputs, targets = found.train[number]
        expected = (table[number : number + 30] - mean) / std
        torch.testing.assert_close(torch.cat([inputs[:, 0], targets]), torch.from_numpy(expected).float())


def test_no_target_lies_in_two_parts_and_each_part_is_forecast_to_its_end() -> None:
    found = made(write())
    rows: dict[str, set[int]] = {}
    for name in ("train", "val", "test"):
        ends = getattr(found, name).ends
        rows[name] = {int(end) + step for end in ends for step in range(1, 7)}
    assert rows == {"train": {*range(24, 320)}, "val": {*range(320, 360)}, "test": {*range(360, 400)}}


def test_columns_known_ahead_are_those_of_the_rows_that_are_forecast_and_no_other_is() -> None:
    found = made(write(), known=["hour"])
    plain = made("t.csv")
    hours, scale = ordered.read("t.csv").numbers["hour"], found.facts.encoding["scale"]["hour"]
    inputs, _ = found.train[50]
    ahead = inputs[:, 2] * scale[1] + scale[0]
    torch.testing.assert_close(ahead, torch.from_numpy(hours[50 + 6 : 50 + 6 + 24]).float(), rtol=1e-4, atol=1e-4)
    assert torch.equal(inputs[:, :2], plain.train[50][0])


def test_what_is_learned_from_does_not_change_with_what_comes_after_it() -> None:
    calm = made(write("calm.csv"), season=24)
    wild = made(
        write("wild.csv", change=lambda rows: [*rows[:320], *([*r[:2], 999, 0, "x"] for r in rows[320:])]), season=24
    )
    for number in (0, 150, len(calm.train) - 1):
        assert all(torch.equal(one, other) for one, other in zip(calm.train[number], wild.train[number]))


def test_rows_are_sorted_by_their_dates_and_gaps_are_told() -> None:
    turned = made(write("turned.csv", change=lambda rows: rows[::-1]))
    assert torch.equal(turned.train.targets, made(write()).train.targets)
    assert any("(sorted)" in note and "every hour" in note for note in turned.notes) and not turned.warnings
    gap = made(write("gap.csv", change=lambda rows: rows[:100] + rows[103:]))
    assert gap.warnings == [
        "times are uneven: 1 of 396 steps from date to date differ, first at 2024-01-05 03:00; windows count rows, "
        "not hours"
    ]


def test_days_with_an_hour_a_row_are_hours() -> None:
    path = write(change=lambda rows: [[row[0][:10], *row[1:]] for row in rows[5:-3]])
    found = ordered.read(path)
    assert found.spacing_s == 3600 and not found.warnings
    assert [found.label(row) for row in (0, 1, 391, 392, 394)] == [
        "2024-01-01 05:00", "2024-01-01 06:00", "2024-01-17 12:00", "2024-01-17 13:00", "2024-01-17 15:00"
    ]  # fmt: skip


def test_the_season_is_found_and_its_naive_forecast_is_measured_in_the_unit() -> None:
    found = made(write(count=800))
    assert found.facts.encoding["season"] == 24
    assert found.facts.encoding["baseline"]["val"]["rmse"] == pytest.approx(0, abs=1e-9)
    other = made("t.csv", season=12)  # the wave is then upside down
    values = ordered.read("t.csv").numbers["load"]
    ends = other.val.ends.numpy()
    errors = [values[e + s] - values[e + s - 12 * math.ceil(s / 12)] for e in ends for s in range(1, 7)]
    assert other.facts.encoding["baseline"]["val"]["rmse"] == pytest.approx(
        float(numpy.sqrt(numpy.mean(numpy.square(errors))))
    )


def test_the_naive_forecast_repeats_the_last_season_that_is_known() -> None:
    values = numpy.arange(20.0)[:, None]
    assert naive(values, numpy.array([9]), 7, 3)[0, :, 0].tolist() == [7, 8, 9, 7, 8, 9, 7]


def test_several_targets_come_step_by_step_with_their_units() -> None:
    found = made(write(), target=["load", "hour"])
    find_facts(found)
    assert found.facts.target_shape == (12,) and found.facts.target_names[:3] == ["load +1", "hour +1", "load +2"]
    table = ordered.read("t.csv").numbers
    _, targets = found.val[4]
    units = targets.double() * torch.tensor(found.facts.target_std) + torch.tensor(found.facts.target_mean)
    rows = numpy.stack([table["load"], table["hour"]], 1)[324:330].reshape(-1)
    torch.testing.assert_close(units, torch.from_numpy(rows), rtol=1e-4, atol=1e-3)


def test_an_empty_field_is_named_by_its_line_or_takes_the_value_before() -> None:
    def emptied(rows: list[Any]) -> list[Any]:
        rows[100][2] = rows[101][2] = ""
        return rows

    path = write(change=emptied)
    with pytest.raises(DataError, match=r"t.csv:102: column 'load' is empty \(2 rows are\). data.missing=previous"):
        made(path)
    values = ordered.read(path).filled("load", "previous")
    assert values[100] == values[101] == values[99]


def test_the_last_window_is_that_of_training_and_the_future_of_what_must_be_known_is_asked_for() -> None:
    found = made(write(), known=["hour"])
    encoding = found.facts.encoding
    with pytest.raises(DataError, match=r"the future of hour is needed: 6 rows after the last value of load.* found 0"):
        last_window("t.csv", encoding)
    ahead = write(
        "ahead.csv", count=376, change=lambda rows: [*rows[:370], *([*r[:2], "", *r[3:]] for r in rows[370:])]
    )
    window, rows, count = last_window(ahead, encoding)
    number = int((found.test.ends == 369).nonzero())
    assert torch.equal(window, found.test[number][0]) and count == 370
    assert rows.label(370) == "2024-01-16 10:00"


@pytest.mark.parametrize(
    ("keys", "error", "words"),
    [
        ({"target": "laod"}, DataError, r"no column 'laod' \(data.target\). Did you mean 'load'"),
        ({"target": "weather"}, DataError, r"column 'weather' \(data.target\) holds text"),
        ({"known": ["hours"]}, DataError, r"no column 'hours' \(data.known\)"),
        ({"time": "hour"}, DataError, r"column 'hour' \(data.time\) holds no dates"),
        ({"window": 0}, ConfigError, r"data.window must be a number of rows"),
        ({"horizon": 60}, DataError, r"val has 40 rows: no window of 24 rows with 60"),
        ({"season": 999}, ConfigError, r"data.season must be a number of rows, 1 to 160"),
        ({"missing": "mean"}, ConfigError, r"data.missing cannot be 'mean'"),
        ({"val_fraction": 0.6, "test_fraction": 0.5}, DataError, r"= 1.1: nothing is left to train"),
    ],
)
def test_what_cannot_be_is_one_line(keys: dict[str, Any], error: Any, words: str) -> None:
    path = write(
        change=lambda rows: [
            [*row[:2], "" if keys.get("missing") and row[1] == 5 else row[2], *row[3:]] for row in rows
        ]
    )
    with pytest.raises(error, match=words):
        made(path, **keys)


def test_a_file_that_is_no_table_is_one_line() -> None:
    Path("one.csv").write_text("a,b\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"'one.csv' has a header and no row"):
        ordered.read("one.csv")
    Path("two.csv").write_text("a,b\n1,2\n1,2,3\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"two.csv:3"):
        ordered.read("two.csv")
    with pytest.raises(DataError, match=r"no file 'tow.csv' .*Did you mean 'two.csv'"):
        ordered.read("tow.csv")


def test_semicolons_and_tabs_are_found_out() -> None:
    for separator in ";\t":
        found = ordered.read(write(separator=separator))
        assert list(found.numbers) == ["id", "load", "hour"] and found.texts == ["when", "weather"]
