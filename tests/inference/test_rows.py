"""Rows are predicted raw, by the code that a run keeps, in any order of columns; baselines stand beside."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy
import pytest

import dlwp
from dlwp.commands import evaluate, predict
from dlwp.errors import ConfigError, DataError

QUIET = ("trainer.progress=false", "logger.plots=false", "logger.tensorboard=false", "model=mlp", "model.hidden=[32]")


def write_rows(path: str, head: list[str], count: int, seed: int) -> str:
    draw = numpy.random.default_rng(seed)
    with Path(path).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(head)
        for _ in range(count):
            x, colour = float(draw.normal()), str(draw.choice(["red", "blue"]))
            y = 100 + 20 * x + (10 if colour == "red" else -10)
            cells = {"x": f"{x:.4f}", "colour": colour, "y": f"{y:.3f}", "big": "yes" if y > 100 else "no"}
            writer.writerow([cells[name] for name in head])
    return path


@pytest.fixture
def numbers() -> dlwp.Run:
    write_rows("train.csv", ["x", "colour", "y"], 600, 0)
    return dlwp.train(
        "data=csv", "data.path=train.csv", "data.target=y", "data.test_fraction=0.2", "trainer.epochs=60", *QUIET
    )


@pytest.fixture
def classes() -> dlwp.Run:
    write_rows("train.csv", ["x", "colour", "big"], 600, 0)
    return dlwp.train("data=csv", "data.path=train.csv", "data.target=big", "trainer.epochs=20", *QUIET)


def run(monkeypatch: pytest.MonkeyPatch, command: Any, *words: str) -> int:
    monkeypatch.setattr("sys.argv", ["dlwp", *words])
    return command.main()


def test_numbers_are_predicted_in_their_own_unit(numbers: dlwp.Run) -> None:
    predictor = dlwp.load(numbers.folder)
    found = predictor([{"colour": "red", "x": 1}, {"x": -1.0, "colour": "blue"}, {"x": None, "colour": "red"}])
    assert [one["y"] for one in found] == pytest.approx([130, 70, 110], abs=6)
    assert numbers.summary["test"]["rmse"] < 3


def test_columns_may_come_in_any_order_and_the_target_be_absent(numbers: dlwp.Run) -> None:
    Path("a.csv").write_text("x;colour\n0.5;red\n-1;blue\n")
    Path("b.csv").write_text("other,colour,y,x\n1,red,7,0.5\n2,blue,7,-1\n")
    predictor = dlwp.load(numbers.folder)
    with pytest.raises(DataError, match=r"a.csv has no column 'x'"):
        predictor("a.csv")  # the delimiter is that of training
    Path("a.csv").write_text("x,colour\n0.5,red\n-1,blue\n")
    assert predictor("a.csv") == predictor("b.csv")


def test_the_command_appends_what_it_predicts(
    classes: dlwp.Run, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    Path("new.csv").write_text("colour,x\nred,1.5\nblue,-1.5\ngreen,3\n")
    words = (f"checkpoint={classes.folder}", "new.csv")
    assert run(monkeypatch, predict, *words, "output=out.csv") == 0
    assert "1 rows have a 'colour' that was not trained on, such as 'green'" in capfd.readouterr().err
    rows = list(csv.DictReader(Path("out.csv").read_text(encoding="utf-8").splitlines()))
    assert [row["predicted_big"] for row in rows] == ["yes", "no", "yes"] and rows[0]["colour"] == "red"
    assert all(0.5 <= float(row["probability"]) <= 1 for row in rows)
    assert run(monkeypatch, predict, *words, "format=json") == 0
    found = json.loads(capfd.readouterr().out)
    assert found[0]["predictions"][0]["label"] == "yes" and len(found[0]["predictions"]) == 2
    assert run(monkeypatch, predict, *words) == 0
    assert "predicted_big" in capfd.readouterr().out.splitlines()[0]


def test_a_mistake_of_the_command_is_one_line(
    classes: dlwp.Run, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    Path("new.csv").write_text("color,x\nred,1.5\n")
    assert run(monkeypatch, predict, f"checkpoint={classes.folder}", "new.csv") == 3
    assert "new.csv has no column 'colour'" in (said := capfd.readouterr().err) and "Did you mean 'color'?" in said
    assert run(monkeypatch, predict, f"checkpoint={classes.folder}") == 2
    assert run(monkeypatch, predict, f"checkpoint={classes.folder}", "new.csv", "features=f.npz") == 2
    Path("new.csv").write_text("colour,x\nred,tall\n")
    assert run(monkeypatch, predict, f"checkpoint={classes.folder}", "new.csv") == 3
    assert "column 'x' is 'tall' in row 1" in capfd.readouterr().err


def test_baselines_are_measured_on_the_same_rows(
    numbers: dlwp.Run, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, evaluate, f"checkpoint={numbers.folder}", "baseline=true") == 0
    said = capfd.readouterr().out
    assert "HistGradientBoosting of scikit-learn as it comes" in said and "one answer for all: the mean" in said
    found = dlwp.evaluate(str(numbers.folder), baseline=True)
    assert found["baseline"]["trees"]["r2"] > 0.9 and abs(found["baseline"]["constant"]["r2"]) < 0.05
    assert Path(found["files"]["scatter"]).exists()


def test_baselines_are_for_tables() -> None:
    other = dlwp.train("data=digits", "model=linear", "trainer.max_steps=1", *QUIET[:3])
    with pytest.raises(ConfigError, match="baseline=true is for tables"):
        dlwp.evaluate(str(other.folder), baseline=True, plots=False)


def test_an_exported_table_network_is_checked_on_codes_and_carries_its_encoding(classes: dlwp.Run) -> None:
    from dlwp import api

    path = api.export(str(classes.folder), format="safetensors", say=lambda line: None)
    import safetensors

    with safetensors.safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    assert json.loads(metadata["encoding"])["categories"][0]["values"] == ["blue", "red"]
