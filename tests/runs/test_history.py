"""What metrics.jsonl promises its readers: valid JSON at any time, whatever was cut."""

from __future__ import annotations

import json
from pathlib import Path

from dlwp.runs import history


def test_a_torn_last_line_and_foreign_lines_are_ignored(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert history.read(path) == []
    path.write_bytes(b'{"step": 1}\nnonsense\n[1]\n{"step": 2}\n{"step": 3}')
    assert history.read(path) == [{"step": 1}, {"step": 2}]


def test_numbers_survive_exactly_and_what_is_not_finite_becomes_null() -> None:
    values = {"loss": 0.1 + 0.2, "nan": float("nan"), "inf": [float("-inf"), 1], "words": {"a": "b"}}
    assert json.loads(history.line(values)) == {"loss": 0.1 + 0.2, "nan": None, "inf": [None, 1], "words": {"a": "b"}}


def test_a_series_is_of_one_split_without_gaps() -> None:
    records = [
        {"step": 1, "split": "train", "loss": 2.0},
        {"step": 2, "split": "val", "loss": 1.0},
        {"step": 3, "split": "train", "loss": None},
        {"step": 4, "split": "train"},
        {"step": 5, "split": "train", "loss": 1},
    ]
    assert history.series(records, "train", "loss") == ([1, 5], [2.0, 1])
