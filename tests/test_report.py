"""What a run says before it begins is true, and only what matters here."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

import dlwp
from dlwp import devices, report


@pytest.mark.parametrize(
    ("threads", "busy", "told"), [(2, 0.2, False), (2, 0.6, True), (1, 1.2, False), (1, 1.9, True)]
)
def test_a_run_says_that_its_threads_outnumber_the_free_processors(
    threads: int, busy: float, told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dlwp.api import _build
    from dlwp.config.compose import compose

    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(devices, "usable_processors", lambda among=1: 2)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    lines = report.crowding_lines(_build(compose(["data=digits", "model=linear", "device=cpu"])), busy)
    assert [line.partition(":")[0] for line in lines] == [f"other work keeps {busy} of 2 processors busy"] * told


def evaluated(**further: object) -> dict[str, object]:
    """Return what an evaluation finds that found nothing, but for `further`."""
    nothing: dict[str, object] = {"by_class": [], "worst": [], "files": {}, "left_out": [], "note": ""}
    values = {"values": {"rmse": 1.0}, "regression": None, "macro_f1": None, "calibration": None}
    return {"split": "val", "line": "loss 1", **nothing, **values, **further}


def test_the_table_by_class_has_the_worst_20_and_says_how_many_more() -> None:
    classes = [
        {"class": f"c{index}", "index": index, "samples": 1000, "predicted": 0, "precision": None, "f1": 0.5,
         "recall": None if index == 3 else (7 * index % 23) / 23, "recall_interval": None}
        for index in range(23)
    ]  # fmt: skip
    lines = report.evaluation_lines(evaluated(by_class=classes))
    assert lines[0] == "val      loss 1" and lines[1].split() == [
        "classes", "class", "samples", "precision", "recall", "95%", "interval", "F1",
    ]  # fmt: skip
    expected = sorted((index for index in range(23) if index != 3), key=lambda index: 7 * index % 23)[:20]
    assert [line.split()[0] for line in lines[2:-1]] == [f"c{index}" for index in expected]
    assert lines[2].split() == ["c0", "1,000", "–", "0.0%", "–", "50.0%"]
    assert lines[-1].strip() == "and 3 more (format=json has all)"
    assert len({len(line) for line in lines[1:-1]}) == 1


def test_of_numbers_only_what_is_no_metric_anyway_is_added() -> None:
    worst = [{"sample": 1234, "file": None, "error": 3.0, "prediction": [4.0], "target": [1.0]}]
    worst.append({"sample": 1, "file": "a.csv", "error": 2.0, "prediction": None, "target": None})
    lines = report.evaluation_lines(evaluated(regression={"r2": 0.5, "rmse": 1.0}, worst=worst))
    assert lines[1:] == [
        "         r2 0.5", "worst    predicted 4, is 1 (sample 1,234)", "         off by 2 (a.csv)"
    ]  # fmt: skip


def test_what_was_left_out_and_why_there_are_no_pictures_is_said() -> None:
    left_out = [{"sample": 3, "file": "3.jpg", "reason": "truncated"}] * 2
    lines = report.evaluation_lines(evaluated(left_out=left_out, note="none: full"))
    assert lines[1:] == [
        "left out 2 samples could not be read, others took their places: 3.jpg, …", "plots    none: full"
    ]  # fmt: skip


def test_each_proportion_has_its_own_interval() -> None:
    values = {"loss": 1.0, "accuracy": 0.889, "top5": 0.99, "mine": 0.5}
    plain = report.result_line("test", values, 10_000, 7, None, "val/accuracy")
    assert plain == "accuracy 88.9% (95% interval 88.3% to 89.5%), loss 1, top-5 99.0%, mine 0.5, from step 7"
    line = report.result_line("test", values, 10_000, 7, None, "val/accuracy", {"top5": (0.98, 0.995), "mine": (0, 1)})
    assert line == "accuracy 0.889, loss 1, top-5 99.0% (98.0% to 99.5%), mine 50.0% (0.0% to 100.0%), from step 7"


def test_tensorboard_is_what_to_type_next_where_it_was_written_for(tmp_path: Path) -> None:
    resume = "dlwp-train resume=runs/a"
    assert report.next_lines(Path("runs/a"), resume, watched=True) == [
        "tensorboard --logdir runs", "dlwp-eval checkpoint=runs/a", resume
    ]  # fmt: skip
    for watched in ("true", "false"):
        words = ["data=digits", "model=linear", "trainer.max_steps=1", f"logger.tensorboard={watched}"]
        run = dlwp.train(*words, f"run_dir={tmp_path / watched}")
        assert ("tensorboard --logdir" in (run.folder / "run.log").read_text()) == (watched == "true")
