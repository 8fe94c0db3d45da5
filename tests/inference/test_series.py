"""A run that was trained on a table forecasts what comes after another's end, in its unit, beside a baseline."""

from __future__ import annotations

import csv
import io
import json
import math
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy
import pytest

import dlwp
from dlwp import api, report
from dlwp.commands import evaluate, predict
from dlwp.data import ordered
from dlwp.inference import export as exporting

WORDS = ["data=timeseries", "data.target=load", "data.horizon=6", "data.window=24", "data.batch_size=32", "model=lstm"]
WORDS += ["model.width=16", "optimizer.lr=0.02", "trainer.epochs=8", "logger.plots=false", "trainer.progress=false"]
WORDS += ["logger.tensorboard=false", "data.season=12"]


def write(path: Path, count: int) -> Path:
    """Write hours of a wave of a day around 500."""
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["when", "load"])
        for row in range(count):
            table.writerow([datetime(2024, 1, 1) + timedelta(hours=row), 500 + 100 * math.sin(row * math.pi / 12)])
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("series")
    path = write(home / "t.csv", 700)
    return dlwp.train(*WORDS, f"data.path={path}", f"run_dir={home / 'run'}").folder


def called(monkeypatch: pytest.MonkeyPatch, command: Any, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["dlwp", *words])
    return command.main()


def test_a_forecast_is_in_the_unit_and_begins_after_the_end(run: Path) -> None:
    found = api.load(run)(write(Path("new.csv"), 100))
    truth = [500 + 100 * math.sin(row * math.pi / 12) for row in range(100, 106)]
    assert found.times[0] == "2024-01-05 04:00" and len(found.times) == 6
    assert numpy.abs(found.values[:, 0] - truth).mean() < 25
    assert found.past[-1, 0] == ordered.read("new.csv").numbers["load"][-1]


def test_table_csv_and_json_hold_the_same_numbers(run: Path, monkeypatch: Any, capsys: Any) -> None:
    write(Path("new.csv"), 100)
    texts = {}
    for form in ("table", "csv", "json"):
        assert called(monkeypatch, predict, f"checkpoint={run}", "new.csv", f"format={form}") == 0
        texts[form] = capsys.readouterr().out
    listed = json.loads(texts["json"])[0]["forecast"]
    rows = list(csv.DictReader(io.StringIO(texts["csv"])))
    lines = texts["table"].splitlines()
    assert lines[0].split() == ["after", "the", "end", "load"] and len(lines) == 7
    for one, row, line in zip(listed, rows, lines[1:], strict=True):
        assert row["time"] == one["time"] and line.startswith(one["time"])
        assert float(row["load"]) == pytest.approx(one["load"], rel=1e-5)
        assert float(line.split()[-1]) == pytest.approx(one["load"], rel=1e-3)


def test_a_picture_is_drawn_when_asked_for(run: Path, monkeypatch: Any) -> None:
    write(Path("new.csv"), 100)
    assert called(monkeypatch, predict, f"checkpoint={run}", "new.csv", "plots=true", "output=out.txt") == 0
    assert Path("forecast.png").read_bytes()[:4] == b"\x89PNG" and Path("out.txt").exists()


@pytest.mark.parametrize(
    ("rows", "words", "status", "told"),
    [
        (10, ["new.csv"], 3, "new.csv has 10 rows with load; a forecast looks back on 24"),
        (100, [], 2, "this run forecasts"),
        (100, ["new.csv", "new.csv"], 2, "2 are given"),
        (100, ["old.csv"], 3, "no file 'old.csv'"),
    ],
)
def test_what_cannot_be_is_one_line(
    run: Path, monkeypatch: Any, capsys: Any, rows: int, words: list[str], status: int, told: str
) -> None:
    write(Path("new.csv"), rows)
    assert called(monkeypatch, predict, f"checkpoint={run}", *words) == status
    assert told in capsys.readouterr().err


def test_an_evaluation_tells_the_baseline_beside_the_run_and_draws_both(
    run: Path, monkeypatch: Any, capsys: Any
) -> None:
    found = dlwp.evaluate(str(run), split="test")
    assert found["baseline"]["rmse"] > 100 > 50 > found["values"]["rmse"]  # a season of 12 turns the wave over
    assert Path(found["files"]["forecast"]).read_bytes()[:4] == b"\x89PNG"
    lines = report.evaluation_lines(found)
    assert [line for line in lines if line.startswith("baseline seasonal naive (12 rows before): test rmse")]
    assert called(monkeypatch, evaluate, f"checkpoint={run}", "format=json", "plots=false") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["baseline"] == found["baseline"] and "baseline_line" not in said


@pytest.mark.parametrize("format", ["onnx", "torch_export", "safetensors"])
def test_a_file_gives_what_the_network_gives(run: Path, format: str) -> None:
    if format == "onnx":
        for name in ("onnx", "onnxruntime", "onnxscript"):
            pytest.importorskip(name)
    lines: list[str] = []
    exporting.export(api._network(run, [])[0], format, "model.file", say=lines.append)  # refused where it does not
    assert any("standardised as encoding.scale in the metadata says" in line for line in lines)
