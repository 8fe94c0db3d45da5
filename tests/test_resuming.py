"""Where a run goes on: the checkpoint that is named, the newest whole one where that is asked for, and what is told."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from pathlib import Path

import pytest

import dlwp
from dlwp import resuming
from dlwp.errors import ConfigError, DataError
from dlwp.runs.folder import RunFolder

WORDS = [
    "data=synthetic", "data.num_train=40", "data.num_val=8", "data.num_test=8", "model=linear", "trainer.epochs=3",
    "trainer.keep_last=3", "logger.plots=false", "logger.tensorboard=false", "run_dir=run",
]  # fmt: skip


@pytest.fixture
def run() -> RunFolder:
    """Return a run that ended, with three checkpoints."""
    return RunFolder(dlwp.train(*WORDS).folder)


def spoil(checkpoint: Path, name: str = "optimizer.safetensors") -> None:
    data = bytearray((checkpoint / name).read_bytes())
    data[-3] ^= 1
    (checkpoint / name).write_bytes(data)


def test_a_damaged_checkpoint_is_refused_with_the_newest_whole_one_and_taken_in_its_place_when_asked(
    run: RunFolder,
) -> None:
    *_, before, last = run.saved()
    spoil(last)
    step = int(before.name[5:])
    with pytest.raises(DataError, match=rf"optimizer\.safetensors is damaged.*step {step}, .*resume_fallback=true"):
        dlwp.train("resume=run", "trainer.epochs=4")
    found = dlwp.train("resume=run", "trainer.epochs=4", "resume_fallback=true")
    assert found.exit == "done" and found.summary["epoch"] == 4
    assert any(f"going on from {before.name} instead" in text for text in found.summary["warnings"])


def test_a_named_checkpoint_with_a_damaged_config_is_refused_too(run: RunFolder) -> None:
    *_, last = run.saved()
    spoil(last, "config.yaml")
    with pytest.raises(DataError, match=r"config\.yaml is damaged"):
        dlwp.train(f"resume={last}", "trainer.epochs=4")
    found = dlwp.train(f"resume={last}", "trainer.epochs=4", "resume_fallback=true")
    assert any("config.yaml is damaged" in text for text in found.summary["warnings"])


def test_the_command_that_is_told_can_be_pasted_whatever_the_folder_is_called(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = tmp_path / "it's (my) first, $HOME"
    odd.mkdir()
    monkeypatch.chdir(odd)
    dlwp.train(*WORDS[:-1])
    folder = os.path.relpath(RunFolder(Path("outputs/latest").resolve()).path)
    monkeypatch.chdir(tmp_path)
    dlwp.train(f"resume={odd.name}/{folder}", "trainer.epochs=4")
    line = next(line for line in capfd.readouterr().out.splitlines()[::-1] if "dlwp-train " in line)
    program, *words = shlex.split(line)
    assert program == "dlwp-train" and words == [f"resume={odd.name}/{folder}", "trainer.epochs=8"]
    assert dlwp.train(*words).summary["epoch"] == 8


def test_the_command_repeats_what_was_trusted() -> None:
    command = resuming.command(Path("runs/a 1"), ["mylib", "oc.env"], 20)
    assert command == "dlwp-train 'resume=runs/a 1' 'trust=[mylib,oc.env]' trainer.epochs=20"


@pytest.mark.parametrize("pointer", [None, "step-00000099\n"])
def test_without_a_pointer_the_newest_whole_checkpoint_is_taken_and_told(run: RunFolder, pointer: str | None) -> None:
    if pointer is None:
        (run.checkpoints / "last").unlink()
    else:
        (run.checkpoints / "last").write_text(pointer)
    *_, before, last = run.saved()
    spoil(last)
    found, told = resuming.find_checkpoint(run, None, fallback=False)
    assert found == before and "names no checkpoint" in told[0]


def test_a_damaged_pointer_is_an_error_unless_asked_for(run: RunFolder) -> None:
    (run.checkpoints / "last").write_text("../../elsewhere")
    with pytest.raises(DataError, match="resume_fallback=true"):
        resuming.find_checkpoint(run, None, fallback=False)
    assert resuming.find_checkpoint(run, None, fallback=True)[0] == run.saved()[-1]


def test_where_none_is_whole_nothing_is_taken(run: RunFolder) -> None:
    for saved in run.saved():
        spoil(saved)
    for fallback in (False, True):
        with pytest.raises(DataError, match="No other whole checkpoint"):
            dlwp.train("resume=run", "trainer.epochs=4", f"resume_fallback={str(fallback).lower()}")


def test_a_process_that_died_without_a_word_is_told_of(run: RunFolder) -> None:
    assert resuming.word_of_death(run) is None
    run.update_summary(exit="running")
    step = json.loads(run.metrics.read_text().splitlines()[-1])["step"]
    assert resuming.word_of_death(run) == (
        f"the last process died without a word after step {step} (killed; often: out of memory)"
    )
    dlwp.train("resume=run", "trainer.epochs=4")
    assert "died without a word" in run.log.read_text()


def test_another_machine_is_told_of(run: RunFolder) -> None:
    facts = json.loads(run.environment.read_text())
    run.environment.write_text(json.dumps({**facts, "threads": 64}))
    found = dlwp.train("resume=run", "trainer.epochs=4")
    assert any(text.startswith("resume: not bit-identical, threads 64 → ") for text in found.summary["warnings"])


def test_a_change_that_makes_another_experiment_is_refused_or_told_of(run: RunFolder) -> None:
    with pytest.raises(ConfigError, match="resume_exact=false"):
        dlwp.train("resume=run", "trainer.epochs=4", "optimizer.lr=0.5")
    found = dlwp.train("resume=run", "trainer.epochs=4", "optimizer.lr=0.5", "resume_exact=false")
    assert any("optimizer.lr" in text and "another experiment" in text for text in found.summary["warnings"])


def test_an_audit_proves_a_run_that_was_resumed_and_finds_a_line_that_was_changed(run: RunFolder) -> None:
    from dlwp import api

    dlwp.train("resume=run", "trainer.epochs=4")
    assert "each of 40 samples exactly once in each of 4 epochs" in api.audit("run")
    audit = run.path / "audit.jsonl"
    shutil.copy(audit, "kept")
    audit.write_text(audit.read_text().replace('"seed": 0', '"seed": 1'))
    with pytest.raises(DataError, match="not those of the order"):
        api.audit("run")
