"""What `Saving` promises: a complete checkpoint is named at any moment, few are kept, a full disk is survived."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dlwp import checkpoint
from dlwp.errors import CallbackError, RunError
from dlwp.observers.saving import Saving
from dlwp.runs import files, manifest
from dlwp.runs.folder import RunFolder
from dlwp.settings import Duration
from dlwp.training.events import Evaluated, Saved, Settled, Stop

FILES = ("model.safetensors", "optimizer.safetensors")
CALLS = ("open", "write", "fsync", "close", "mkdir", "rename", "replace", "unlink", "rmdir")


def make_saving(run: RunFolder, every: str = "1 epoch", **options: Any) -> Saving:
    given: dict[str, Any] = {
        "keep_last": 1,
        "keep_best": True,
        "config_text": "seed: 0\n",
        "background": False,
        **options,
    }
    return Saving(run, every=Duration.parse(every), **given)


def steps_of(run: RunFolder) -> list[int]:
    return [checkpoint.step_of(path) for path in run.saved()]


def pointed(run: RunFolder, name: str) -> int | None:
    path = run.pointed(name)
    return None if path is None else checkpoint.step_of(path)


class Events:
    def __init__(self) -> None:
        self.saved: list[int] = []

    def on_save(self, event: Saved) -> None:
        assert manifest.is_complete(event.path)
        self.saved.append(event.step)


@pytest.mark.parametrize(
    ("every", "expected"),
    [
        ("1 epoch", [7, 14, 21]),
        ("2 epochs", [14, 21]),
        ("5 steps", [5, 10, 15, 20, 21]),
        ("0.5 epoch", [4, 8, 12, 16, 20, 21]),
    ],
)
def test_saves_as_often_as_asked_and_at_the_end(
    every: str, expected: list[int], tmp_path: Path, make_trainer: Any, batches: Any
) -> None:
    run, heard = RunFolder.create(tmp_path / "run"), Events()
    trainer = make_trainer([heard, make_saving(run, every, keep_best=False)])
    trainer.fit(*batches)
    assert heard.saved == expected
    assert steps_of(run) == [21]
    assert pointed(run, "last") == 21
    assert pointed(run, "best") is None
    assert trainer.times["saving"] > 0


def test_saves_by_the_clock(tmp_path: Path, make_trainer: Any, batches: Any) -> None:
    run, heard, now = RunFolder.create(tmp_path / "run"), Events(), [0.0]

    class Clock:
        def on_step(self, event: Any) -> None:
            now[0] += 60

    make_trainer([heard, Clock(), make_saving(run, "5 min", keep_best=False, clock=lambda: now[0])]).fit(*batches)
    assert heard.saved == [5, 10, 15, 20, 21]


def test_the_best_is_saved_in_the_middle_of_an_epoch_and_never_deleted(
    tmp_path: Path, make_trainer: Any, batches: Any
) -> None:
    run = RunFolder.create(tmp_path / "run")
    seen: list[tuple[int | None, int | None]] = []

    class Look:
        def on_save(self, event: Saved) -> None:
            seen.append((event.trainer.state.progress.best_step, pointed(run, "best")))

    trainer = make_trainer([make_saving(run, "3 epochs"), Look()], eval_every="2 steps", epochs=4)
    trainer.fit(*batches)
    assert len(seen) > 2
    assert all(best == named for best, named in seen)
    assert steps_of(run) == sorted({trainer.state.progress.best_step, 28})


def test_keeps_as_many_of_the_newest_as_asked(tmp_path: Path, make_trainer: Any, batches: Any) -> None:
    run = RunFolder.create(tmp_path / "run")
    make_trainer([make_saving(run, "4 steps", keep_last=3, keep_best=False)]).fit(*batches)
    assert steps_of(run) == [16, 20, 21]


class Break:
    """Fails at step 9: as a callback of the user's own, or as the run itself."""

    def __init__(self, itself: bool) -> None:
        self.itself = itself

    def on_step(self, event: Any) -> None:
        if event.step == 9 and self.itself:
            event.trainer.criterion = None
        elif event.step == 9:
            raise KeyError("x")


def test_a_failed_run_saves_nothing(tmp_path: Path, make_trainer: Any, batches: Any) -> None:
    run = RunFolder.create(tmp_path / "run")
    with pytest.raises(TypeError):
        make_trainer([Break(itself=True), make_saving(run)]).fit(*batches)
    assert steps_of(run) == [7]


@pytest.mark.parametrize("last", [False, True])
def test_a_run_that_a_callback_ends_is_saved(tmp_path: Path, make_trainer: Any, batches: Any, last: bool) -> None:
    class AtTheEnd:
        def on_end(self, event: Any) -> None:
            raise KeyError("x")

    run = RunFolder.create(tmp_path / "run")
    callback = AtTheEnd() if last else Break(itself=False)
    with pytest.raises(CallbackError, match="KeyError: 'x'"):
        make_trainer([callback, make_saving(run, "100 steps", keep_best=False)]).fit(*batches)
    assert steps_of(run) == [21 if last else 9]


def test_after_a_resume_from_an_older_checkpoint_the_later_ones_do_not_count(
    tmp_path: Path, make_trainer: Any, batches: Any
) -> None:
    run = RunFolder.create(tmp_path / "run")
    make_trainer([make_saving(run, "7 steps", keep_last=3, keep_best=False)]).fit(*batches)
    assert steps_of(run) == [7, 14, 21]
    foreign = run.checkpoints / "my-notes"
    foreign.mkdir()
    before = (run.checkpoints / "step-00000014" / "MANIFEST.json").stat().st_mtime_ns
    trainer = make_trainer([make_saving(run, "7 steps", keep_last=2, keep_best=False), StopAt(14)])
    trainer.state.load(*checkpoint.load(run.checkpoints / "step-00000007"))
    trainer.fit(*batches)
    assert pointed(run, "last") == 14
    assert steps_of(run) == [7, 14]  # 21 belongs to a future that was left
    assert (run.checkpoints / "step-00000014" / "MANIFEST.json").stat().st_mtime_ns != before
    assert foreign.is_dir()


class StopAt:
    def __init__(self, step: int) -> None:
        self.step = step

    def on_settled(self, event: Settled) -> Stop | None:
        return Stop("max_time") if event.step == self.step else None


def count_calls(monkeypatch: pytest.MonkeyPatch, before: Callable[[int], None]) -> None:
    """Call `before(k)` ahead of the k-th call into the disk that dlwp makes."""
    number = 0

    def wrap(real: Any) -> Any:
        def call(*arguments: Any, **keywords: Any) -> Any:
            nonlocal number
            number += 1
            before(number)
            return real(*arguments, **keywords)

        return call

    for name in CALLS:
        monkeypatch.setattr(files.os, name, wrap(getattr(os, name)))


def test_a_save_killed_at_any_call_leaves_a_complete_checkpoint_named(
    tmp_path: Path, make_trainer: Any, batches: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All k: the process dies at the k-th call into the disk of a save that also deletes, until one goes through."""
    source = RunFolder.create(tmp_path / "source")
    trainer = make_trainer([], epochs=1)
    saving = make_saving(source, keep_best=False)
    trainer.fit(*batches)
    settled = Settled(trainer, 7, 1, True)
    saving._saved_step = None
    saving.on_settled(settled)
    source.close()
    killed = 0
    for k in range(1, 500):
        run = RunFolder(copy_of(source.path, tmp_path / f"run{k}"))
        child = os.fork()
        if child == 0:
            saving._run = run
            saving._order = ["step-00000007"]
            count_calls(monkeypatch, lambda number, k=k: os._exit(137) if number == k else None)
            trainer.state.progress.step = 14
            saving.on_settled(Settled(trainer, 14, 2, True))
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        last = run.pointed("last")
        assert last is not None, f"call {k}: nothing is named"
        assert manifest.is_complete(last), f"call {k}"
        assert all(manifest.is_complete(path) for path in run.saved()), f"call {k}: half a checkpoint has a name"
        if status == 0:
            break
        killed += 1
        RunFolder.open(run.path).close()
        assert not [path for path in run.checkpoints.iterdir() if path.name.startswith(".tmp")]
    assert status == 0
    assert killed > 30
    assert steps_of(run) == [14]


def copy_of(source: Path, target: Path) -> Path:
    import shutil

    return Path(shutil.copytree(source, target))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO, errno.ESTALE])
def test_a_failed_save_is_told_at_once_and_harms_no_older_one(
    number: int, tmp_path: Path, make_trainer: Any, batches: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, told = RunFolder.create(tmp_path / "run"), []

    class Fill:
        def on_step(self, event: Any) -> None:
            if event.step == 8:
                monkeypatch.setattr(files.os, "fsync", refuse)
            if event.step == 15:
                monkeypatch.undo()

        def warn(self, text: str) -> None:
            told.append((text, steps_of(run)))

    def refuse(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    make_trainer([Fill(), make_saving(run, keep_best=False)]).fit(*batches)
    assert len(told) == 1
    text, there = told[0]
    assert there == [7]
    assert text.startswith("checkpoint of step 14 not saved: ")
    assert "last good: step 7" in text
    assert ("keep_last=1" in text and "GB" in text) == (number == errno.ENOSPC)
    assert steps_of(run) == [21]
    assert [path.name for path in run.checkpoints.iterdir() if path.name.startswith(".")] == []


def test_three_failed_saves_in_a_row_end_the_run(
    tmp_path: Path, make_trainer: Any, batches: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder.create(tmp_path / "run")
    trainer = make_trainer([make_saving(run, "2 steps", keep_best=False)])

    def refuse(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", refuse)
        with pytest.raises(RunError, match=r"step 6 not saved.*3 saves in a row"):
            trainer.fit(*batches)
    assert len(trainer.warnings) == 2


def test_a_last_save_that_fails_is_an_error_not_a_warning(
    tmp_path: Path, make_trainer: Any, batches: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder.create(tmp_path / "run")
    trainer = make_trainer([StopAt(9), make_saving(run, keep_best=False)])

    class Fill:
        def on_step(self, event: Any) -> None:
            if event.step == 9:
                monkeypatch.setattr(files.os, "fsync", refuse)

    def refuse(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    trainer = make_trainer([Fill(), StopAt(9), make_saving(run, keep_best=False)])
    with pytest.raises(RunError, match="step 9 not saved"):
        trainer.fit(*batches)
    monkeypatch.undo()
    assert steps_of(run) == [7]


def test_files_of_a_checkpoint_follow_the_umask(tmp_path: Path, make_trainer: Any, batches: Any) -> None:
    former = os.umask(0o027)
    try:
        run = RunFolder.create(tmp_path / "run")
        make_trainer([make_saving(run)], epochs=1).fit(*batches)
    finally:
        os.umask(former)
    modes = {path.stat().st_mode & 0o777 for path in run.path.rglob("*") if path.is_file()}
    assert modes == {0o640}
    assert {path.stat().st_mode & 0o777 for path in run.path.rglob("*") if path.is_dir()} == {0o750}


def test_what_is_written_beside_the_training_is_the_state_of_its_step(
    tmp_path: Path, make_trainer: Any, batches: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a slow disk several steps change the weights while a checkpoint is written."""

    def contents(run: RunFolder) -> dict[str, bytes]:
        return {f"{path.name}/{name}": (path / name).read_bytes() for path in run.saved() for name in FILES}

    real = os.fsync
    waited, beside = RunFolder.create(tmp_path / "waited"), RunFolder.create(tmp_path / "beside")
    make_trainer([make_saving(waited, "4 steps", keep_last=9)]).fit(*batches)
    monkeypatch.setattr(files.os, "fsync", lambda descriptor: (time.sleep(0.01), real(descriptor)))
    trainer = make_trainer([make_saving(beside, "4 steps", keep_last=9, background=True)])
    trainer.fit(*batches)
    assert contents(beside) == contents(waited)
    assert pointed(beside, "best") == trainer.state.progress.best_step


def test_a_best_step_that_the_disk_did_not_take_is_written_with_the_next_save(
    tmp_path: Path, make_trainer: Any, batches: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder.create(tmp_path / "run")

    class Fill:
        def on_step(self, event: Any) -> None:
            if event.step == 6:
                full.setattr(files.os, "fsync", refuse)

        def warn(self, text: str) -> None:
            full.undo()

        def on_evaluation(self, event: Evaluated) -> None:
            event.trainer.state.progress.best_value = 2.0  # no later step is better

    def refuse(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full:
        trainer = make_trainer([Fill(), make_saving(run, "2 epochs", background=True)])
        trainer.fit(*batches)
    assert ["step 7 not saved" in text for text in trainer.warnings] == [True]
    assert (pointed(run, "best"), pointed(run, "last")) == (7, 21)
    kept, _ = checkpoint.load(run.checkpoints / "step-00000007")
    last, _ = checkpoint.load(run.checkpoints / "step-00000021")
    assert not torch.equal(kept["model"]["1.weight"], last["model"]["1.weight"])


def test_a_disk_that_can_neither_be_written_nor_read_costs_only_the_saves(
    tmp_path: Path, make_trainer: Any, batches: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder.create(tmp_path / "run")
    real = os.open

    class Lose:
        def on_settled(self, event: Settled) -> None:
            monkeypatch.setattr(files.os, "open", refuse if event.step == 7 else real)

    def refuse(*arguments: Any) -> int:
        raise OSError(errno.ESTALE, "Stale file handle")

    trainer = make_trainer([Lose(), make_saving(run, keep_best=False, background=False)])
    assert trainer.fit(*batches).exit == "done"
    assert steps_of(run) == [21]
    (text,) = trainer.warnings
    assert "step 7 not saved" in text
    assert "stale file handle" in text
