"""What `Recording` promises: each number once, also after a cut; a summary that is always there."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from dlwp import checkpoint
from dlwp.errors import RunError
from dlwp.observers.recording import Recording
from dlwp.runs import files, history
from dlwp.runs.folder import RunFolder
from dlwp.training.events import Settled, Stop

TIMES = ("time", "samples_per_s")


class StopAt:
    def __init__(self, step: int) -> None:
        self.step = step

    def on_settled(self, event: Settled) -> Stop | None:
        return Stop("max_time") if event.step == self.step else None


class SaveAt:
    """Saves a checkpoint at a step, as a saver does, and lets the run go on."""

    def __init__(self, run: RunFolder, step: int) -> None:
        self.run, self.step = run, step

    def on_settled(self, event: Settled) -> None:
        if event.step == self.step:
            checkpoint.save(self.run.checkpoints, event.step, event.trainer.state, "seed: 0\n")


def without_times(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in record.items() if key not in TIMES} for record in records]


def run_whole(path: Path, make_trainer: Any, batches: Any) -> list[dict[str, Any]]:
    run = RunFolder.create(path)
    make_trainer([Recording(run)]).fit(*batches)
    return history.read(run.metrics)


def test_metrics_hold_each_step_of_each_split_once_and_in_order(
    tmp_path: Path, make_trainer: Any, batches: Any
) -> None:
    records = run_whole(tmp_path / "run", make_trainer, batches)
    train = [record["step"] for record in records if record["split"] == "train"]
    val = [record["step"] for record in records if record["split"] == "val"]
    assert train == [3, 6, 7, 9, 12, 14, 15, 18, 21]
    assert val == [7, 14, 21]
    assert list(records[0]) == ["step", "epoch", "split", "loss", "accuracy", "lr", "samples_per_s", "time"]
    assert [record["epoch"] for record in records if record["split"] == "val"] == [1, 2, 3]


@pytest.mark.parametrize("resumed_from", [4, 7, 10])
def test_metrics_after_a_cut_and_a_resume_equal_those_of_the_uninterrupted_run(
    resumed_from: int, tmp_path: Path, make_trainer: Any, batches: Any
) -> None:
    whole = run_whole(tmp_path / "whole", make_trainer, batches)
    run = RunFolder.create(tmp_path / "cut")
    make_trainer([Recording(run), SaveAt(run, resumed_from), StopAt(resumed_from + 6)]).fit(*batches)
    with run.metrics.open("a") as stream:
        stream.write('{"step": 99, "torn')
    trainer = make_trainer([Recording(run)])
    trainer.state.load(*checkpoint.load(run.checkpoints / checkpoint.name_of(resumed_from)))
    trainer.fit(*batches)
    assert without_times(history.read(run.metrics)) == without_times(whole)
    assert "torn" in (run.path / "metrics.cut.jsonl").read_text()
    times = [record["time"] for record in history.read(run.metrics)]
    assert times == sorted(times)


def test_a_run_begun_again_without_a_checkpoint_holds_each_step_once(
    tmp_path: Path, make_trainer: Any, batches: Any
) -> None:
    whole = run_whole(tmp_path / "run", make_trainer, batches)
    run = RunFolder(tmp_path / "run")
    make_trainer([Recording(run)]).fit(*batches)
    assert without_times(history.read(run.metrics)) == without_times(whole)


def test_numbers_that_are_not_finite_are_written_as_null(tmp_path: Path, make_trainer: Any, batches: Any) -> None:
    run = RunFolder.create(tmp_path / "run")
    trainer = make_trainer([Recording(run)], epochs=1)
    with torch.no_grad():
        trainer.model[1].bias[0] = float("nan")
    trainer._begin(*batches)
    trainer.evaluate(batches[1], "val")
    text = run.metrics.read_text()
    assert json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))["loss"] is None
    assert run.read_summary()["last"]["val/loss"] is None


def test_summary_has_the_promised_form_from_the_start_to_the_test(
    tmp_path: Path, make_trainer: Any, batches: Any
) -> None:
    run = RunFolder.create(tmp_path / "run")
    assert run.read_summary()["exit"] == "running"
    seen: list[str] = []

    class Look:
        def on_settled(self, event: Settled) -> None:
            seen.append(run.read_summary()["exit"])

    trainer = make_trainer([Recording(run), Look()])
    trainer.warn("a warning")
    trainer.fit(*batches)
    trainer.evaluate(batches[1], "test")
    summary = run.read_summary()
    assert set(seen) == {"running"}
    assert list(summary) == [
        "exit", "step", "epoch", "best", "last", "test", "samples_per_s", "elapsed_s", "time", "left_out",
        "skipped_steps", "rollbacks", "warnings", "error",
    ]  # fmt: skip
    assert (summary["exit"], summary["step"], summary["epoch"]) == ("done", 21, 3)
    assert list(summary["best"]) == ["step", "val/accuracy"]
    assert set(summary["last"]) == {"step", "val/loss", "val/accuracy"}
    assert summary["test"] == {"loss": summary["last"]["val/loss"], "accuracy": summary["last"]["val/accuracy"]}
    assert summary["warnings"] == ["a warning"]
    assert sum(summary["time"].values()) == pytest.approx(1, abs=1e-3)


def test_summary_says_why_a_run_failed(tmp_path: Path, make_trainer: Any, batches: Any) -> None:
    run = RunFolder.create(tmp_path / "run")

    class Break:
        def on_settled(self, event: Settled) -> None:
            raise KeyError("acc")

    with pytest.raises(RunError):
        make_trainer([Recording(run), Break()]).fit(*batches)
    assert run.read_summary()["exit"] == "failed"
    assert "KeyError: 'acc'" in run.read_summary()["error"]


def test_a_disk_that_is_full_for_a_while_loses_no_line_and_stops_no_run(
    tmp_path: Path, make_trainer: Any, batches: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run_whole(tmp_path / "whole", make_trainer, batches)
    run = RunFolder.create(tmp_path / "full")
    real, calls = os.write, []

    def full(descriptor: int, data: Any) -> int:
        calls.append(bytes(data))
        if 3 <= len(calls) <= 9:
            if len(calls) % 2:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(descriptor, data[: len(data) // 2])  # half a line, as a disk does that fills up
        return real(descriptor, data)

    trainer = make_trainer([Recording(run)])
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "write", full)
        trainer.fit(*batches)
    assert without_times(history.read(run.metrics)) == without_times(whole)
    assert run.metrics.read_bytes().count(b"\n") == len(whole)
    assert any("wait for room" in text for text in run.read_summary()["warnings"])
    assert not list(run.path.glob(".tmp-*"))


def test_no_checkpoint_is_saved_while_lines_wait(tmp_path: Path, make_trainer: Any, batches: Any) -> None:
    run = RunFolder.create(tmp_path / "run")
    recording = Recording(run)
    trainer = make_trainer([recording], epochs=1)
    trainer.fit(*batches)
    recording._metrics.waiting.append("{}")
    run.metrics.rename(tmp_path / "aside")
    run.metrics.mkdir()  # a name that takes no line
    with pytest.raises(OSError):
        checkpoint.save(run.checkpoints, 7, trainer.state, "")
    assert list(run.checkpoints.iterdir()) == []


def test_a_run_that_fails_is_told_of_by_its_own_fault_though_the_disk_is_full(
    tmp_path: Path, make_trainer: Any, batches: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Fail:
        def on_settled(self, event: Settled) -> None:
            if event.step == 4:
                monkeypatch.setattr(files.os, "write", refuse)
                raise RunError("the cause")

    def refuse(*arguments: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    Fail.__module__ = "dlwp.cause"  # a keeper's fault, not a callback's
    trainer = make_trainer([Recording(RunFolder.create(tmp_path / "run")), Fail()])
    with pytest.raises(RunError, match="the cause"):
        trainer.fit(*batches)
    monkeypatch.undo()
    assert any("the run's last numbers are not recorded" in text for text in trainer.warnings)
