"""What `Plots` promises: pictures made from metrics.jsonl that show what it holds."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy
import pytest

from dlwp.observers.plots import Plots, _epoch_means, draw_confusion, draw_curves, png
from dlwp.observers.recording import Recording
from dlwp.runs.folder import RunFolder


def size_of(path: Path) -> tuple[int, int]:
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG")
    return struct.unpack(">II", data[16:24])


def records() -> list[dict[str, Any]]:
    train = [
        {"step": step, "split": "train", "loss": 10 / step, "accuracy": step / 30, "lr": 0.1}
        for step in range(2, 21, 2)
    ]
    val = [{"step": step, "split": "val", "loss": 12 / step, "accuracy": step / 40} for step in (10, 20)]
    return [*train, *val, {"step": 20, "split": "val", "loss": None}]


def test_a_run_leaves_both_pictures(tmp_path: Path, make_trainer: Any, batches: Any) -> None:
    run = RunFolder.create(tmp_path / "run")
    trainer = make_trainer([Recording(run), Plots(run, ["a", "b", "c"])])
    trainer.fit(*batches)
    assert trainer.warnings == []
    before = (run.plots / "curves.png").stat().st_mtime_ns
    trainer.evaluate(batches[1], "test")
    assert (run.plots / "curves.png").stat().st_mtime_ns > before
    assert size_of(run.plots / "curves.png")[0] == 1040
    assert min(size_of(run.plots / "confusion.png")) > 400


def test_curves_show_the_recorded_numbers_over_epochs() -> None:
    summary = {"best": {"step": 10, "val/accuracy": 0.25}, "test": {"loss": 0.5, "accuracy": 0.4}}
    figure = draw_curves(records(), "val/accuracy", 10, summary)
    loss, accuracy, rate = figure.axes
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["loss", "accuracy", "learning rate"]
    lines = [line.get_xydata().tolist() for line in accuracy.lines]
    assert lines[0] == [[step / 10, step / 30] for step in range(2, 21, 2)]
    assert lines[2] == [[1.0, 0.25], [2.0, 0.5]]
    texts = {text.get_text() for text in accuracy.texts}
    assert texts == {"train 53.3%", "val 50.0%", "test 40.0%", "best 25.0%"}
    assert loss.get_xlim()[1] == rate.get_xlim()[1] == pytest.approx(2.02)


def test_epoch_means_weigh_each_window_by_its_steps() -> None:
    assert _epoch_means([6, 10, 16, 20, 23], [1.0, 2.0, 3.0, 4.0, 9.0], 10) == ([10, 20], [1.4, 3.4])
    assert _epoch_means([6, 10], [1.0, 2.0], 10) == ([6, 10], [1.0, 2.0])


@pytest.mark.parametrize("kept", [1, 3, 13])
def test_curves_are_drawn_from_however_little_there_is(kept: int) -> None:
    assert png(draw_curves(records()[:kept], "val/accuracy", 10)).startswith(b"\x89PNG")
    assert png(draw_curves([{"step": 7, "split": "val", "loss": None}], "val/loss", 7)).startswith(b"\x89PNG")


def test_labels_at_the_ends_of_curves_do_not_overlap() -> None:
    near = [{"step": 10, "split": split, "loss": value} for split, value in {"train": 0.5, "val": 0.501}.items()]
    axis = draw_curves(near, "val/loss", 10, {"test": {"loss": 0.5005}}).axes[0]
    heights = sorted(text.xy[1] for text in axis.texts)
    assert len(heights) == 3
    assert min(numpy.diff(heights)) > 0.09


@pytest.mark.parametrize("num_classes", [2, 10, 100])
def test_a_confusion_matrix_is_drawn_for_few_and_many_classes(num_classes: int) -> None:
    counts = numpy.diag(numpy.arange(num_classes)) + numpy.eye(num_classes, k=1)
    figure = draw_confusion(counts, [f"class {index}" for index in range(num_classes)], "test")
    numbers = {text.get_text() for text in figure.axes[0].texts}
    assert numbers == (set() if num_classes > 20 else {str(number) for number in range(1, num_classes)} | {"1"})
    assert png(figure).startswith(b"\x89PNG")


def test_drawing_leaves_matplotlib_as_it_was() -> None:
    program = (
        "from dlwp.observers.plots import draw_curves, png\n"
        "png(draw_curves([{'step': 1, 'split': 'val', 'loss': 1.0}], 'val/loss', 1))\n"
        "import sys; assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, env=os.environ)
    assert (done.returncode, done.stderr) == (0, "")
