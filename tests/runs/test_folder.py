"""What a run's folder promises: its own name, one process at a time, pointers that can be trusted, and to be found."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

import pytest

from dlwp.errors import ConfigError, DataError, MachineError
from dlwp.runs.folder import (
    RunFolder,
    default_path,
    find_run,
    find_runs,
    is_own,
    note_own,
    point_latest,
)

NOW = datetime(2026, 11, 23, 20, 15, 3)


def child(program: str, *words: str, **options: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(program), *words]
    return subprocess.Popen(
        command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options
    )  # type: ignore[call-overload, no-any-return]


HOLD = """
    import sys
    from pathlib import Path
    from dlwp.errors import ConfigError
    from dlwp.runs.folder import RunFolder
    try:
        run = RunFolder.open(Path(sys.argv[1]))
    except ConfigError as error:
        print(error); sys.exit(2)
    print("held", flush=True)
    sys.stdin.read()
"""


def test_the_default_path_names_data_model_and_time() -> None:
    assert str(default_path(Path("outputs"), "cifar10", "resnet", NOW)) == "outputs/cifar10-resnet/2026-11-23_20-15-03"
    assert default_path(Path("o"), "a=b/c", "../../x y", NOW).parent == Path("o/a_b_c-.._.._x_y")


def test_runs_that_start_in_the_same_instant_get_different_folders(tmp_path: Path) -> None:
    path = default_path(tmp_path, "digits", "mlp", NOW)
    with ThreadPoolExecutor(8) as pool:
        runs = list(pool.map(lambda _: RunFolder.create(path), range(8)))
    assert {run.path.name for run in runs} == {path.name, *(f"{path.name}-{number}" for number in range(2, 9))}
    for run in runs:
        run.close()


def test_a_folder_that_was_named_is_taken_only_when_it_is_empty(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    RunFolder.create(tmp_path / "empty", given=True).close()
    RunFolder.create(tmp_path / "empty", given=True).close()  # a run that died before it wrote what it is to be
    (tmp_path / "empty" / "config.yaml").touch()
    RunFolder.create(tmp_path / "new" / "deep", given=True).close()
    with pytest.raises(ConfigError, match=r"'.*/empty' exists and is not empty. resume=.*/empty, or another run_dir="):
        RunFolder.create(tmp_path / "empty", given=True)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    with pytest.raises(ConfigError, match=r"'.*/photos' exists and is not empty. Another run_dir="):
        RunFolder.create(tmp_path / "photos", given=True)
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["a.jpg"]
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="is not a folder"):
        RunFolder.create(tmp_path / "file", given=True)


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(MachineError, match=r"^cannot write to '.*file/run' \(.*\)\. run_dir=FOLDER$"):
        RunFolder.create(tmp_path / "file" / "run")
    with pytest.raises(MachineError, match=r"cannot write to '/proc/dlwp'"):
        RunFolder.create(Path("/proc/dlwp"))


def test_of_two_resumes_one_goes_on_and_the_other_names_host_and_process(tmp_path: Path) -> None:
    RunFolder.create(tmp_path / "run").close()
    both = [child(HOLD, str(tmp_path / "run")) for _ in range(2)]
    first_lines = [process.stdout.readline() for process in both]  # type: ignore[union-attr]
    winner = both[first_lines.index("held\n")]
    loser = both[1 - first_lines.index("held\n")]
    assert loser.wait(30) == 2
    expected = f"{tmp_path / 'run'} is running on host {socket.gethostname()}, process {winner.pid}\n"
    assert first_lines[both.index(loser)] == expected
    assert RunFolder(tmp_path / "run").holder() == f"host {socket.gethostname()}, process {winner.pid}"
    winner.communicate()
    loser.communicate()
    assert RunFolder(tmp_path / "run").holder() is None


def test_a_killed_holder_leaves_no_lock_even_when_its_workers_live_on(tmp_path: Path) -> None:
    RunFolder.create(tmp_path / "run").close()
    program = """
        import os, sys, time
        from pathlib import Path
        from dlwp.runs.folder import RunFolder
        run = RunFolder.open(Path(sys.argv[1]))
        worker = os.fork()
        if worker == 0:
            time.sleep(30)
            os._exit(0)
        print(worker, flush=True)
        sys.stdin.read()
    """
    holder = child(program, str(tmp_path / "run"))
    worker = int(holder.stdout.readline())  # type: ignore[union-attr]
    with pytest.raises(ConfigError, match="is running on host"):
        RunFolder.open(tmp_path / "run")
    holder.kill()
    holder.wait()
    for pipe in (holder.stdin, holder.stdout, holder.stderr):
        pipe.close()  # type: ignore[union-attr]
    try:
        RunFolder.open(tmp_path / "run").close()
    finally:
        os.kill(worker, signal.SIGKILL)


def test_going_on_sweeps_what_a_killed_process_left(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run")
    run.close()
    (run.checkpoints / ".tmp-step-00000007-1").mkdir()
    (run.path / ".tmp-summary.json-1").touch()
    RunFolder.open(run.path).close()
    assert not list(run.path.rglob(".tmp*"))


def test_pointers_hold_the_name_of_a_checkpoint_and_nothing_else(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run")
    assert run.pointed("last") is None
    with pytest.raises(ValueError, match="not the name"):
        run.point("last", "../../etc")
    run.point("last", "step-00000007")
    assert run.pointed("last") is None  # dangling
    (run.checkpoints / "step-00000007").mkdir()
    (run.checkpoints / "step-100000000").mkdir()
    (run.checkpoints / "step-7").mkdir()
    assert run.pointed("last") == run.checkpoints / "step-00000007"
    assert [path.name for path in run.saved()] == ["step-00000007", "step-100000000"]
    for text in ("../../x", "step-00000007/../../..", "", "step-7"):
        (run.checkpoints / "last").write_text(text)
        with pytest.raises(DataError, match=r"last is damaged"):
            run.pointed("last")
    run.point("last", None)
    assert run.pointed("last") is None


def test_summary_keeps_what_is_not_replaced_and_is_valid_json(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run")
    run.update_summary(best={"step": 3, "val/loss": float("inf")}, warnings=["a"])
    assert json.loads(run.summary.read_text()) == {
        "exit": "running", "step": 0, "epoch": 0, "best": {"step": 3, "val/loss": None}, "warnings": ["a"],
    }  # fmt: skip
    run.summary.write_text('{"exit": "ru')
    assert run.read_summary() == {}


def test_values_by_name_of_a_summary_that_are_none_are_left_out(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run")
    run.summary.write_text('{"best": 3, "test": [], "last": null, "time": {"data": 1.0}, "exit": "done"}')
    assert run.read_summary() == {"last": None, "time": {"data": 1.0}, "exit": "done"}
    assert run.best_step is None


def make_run(path: Path, age: int) -> Path:
    run = RunFolder.create(path)
    run.config.write_text("seed: 0\n")
    os.utime(run.config, (1e9 - age, 1e9 - age))
    (run.checkpoints / "step-00000007").mkdir()
    run.point("best", "step-00000007")
    run.close()
    return run.path


def test_a_run_is_found_by_folder_checkpoint_pointer_and_as_the_last(own_place: Path) -> None:
    older = make_run(Path("outputs/digits-mlp/2026-11-23_20-15-03"), 100)
    newer = make_run(Path("outputs/digits-cnn/2026-11-24_20-15-03"), 50)
    checkpoint = older / "checkpoints" / "step-00000007"
    assert find_run(str(older)) == (older, None)
    assert find_run(f"{older}/") == (older, None)
    assert find_run(str(checkpoint)) == (older, checkpoint)
    assert find_run(str(older / "checkpoints" / "best")) == (older, checkpoint)
    assert find_run("last") == (newer, None)
    point_latest(older)
    assert Path("outputs/latest").readlink() == Path("digits-mlp/2026-11-23_20-15-03")
    assert find_run("last") == (older, None)
    assert find_runs(Path("outputs")) == [older, newer]


def test_a_run_that_is_not_there_is_answered_with_the_nearest_and_the_newest(own_place: Path) -> None:
    with pytest.raises(ConfigError, match=r"^no run 'last', and none in 'outputs'. Start one: dlwp-train$"):
        find_run("last")
    make_run(Path("outputs/digits-mlp/a1"), 100)
    newest = make_run(Path("outputs/digits-mlp/zzz"), 50)
    expected = f"no run 'outputs/digits-mlp/a2'. Did you mean 'outputs/digits-mlp/a1'? Newest: {newest}"
    with pytest.raises(ConfigError, match=f"^{re.escape(expected)}$"):
        find_run("outputs/digits-mlp/a2")
    with pytest.raises(ConfigError, match="Newest"):
        find_run("outputs")


def test_latest_is_left_out_where_there_are_no_outputs(own_place: Path) -> None:
    run = make_run(Path("elsewhere/run"), 1)
    point_latest(run)
    assert not Path("outputs").exists()
    Path("outputs/latest").mkdir(parents=True)
    point_latest(run)
    assert Path("outputs/latest").is_dir()


def test_a_run_is_own_when_this_account_noted_it_with_the_config_that_lies_there(own_place: Path) -> None:
    run = make_run(Path("outputs/a/b"), 1)
    assert not is_own(run)
    note_own(run, "seed: 0\n")
    assert is_own(run)
    assert is_own(run.resolve())
    run.rename("elsewhere")
    assert not is_own(Path("elsewhere"))
    Path("elsewhere").rename(run)
    (run / "config.yaml").write_text("seed: 0\nmodel: {_target_: os.system}\n")
    assert not is_own(run)


def test_an_account_without_a_state_folder_owns_nothing_and_fails_nothing(
    own_place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(Path("outputs/a/b"), 1)
    Path("file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(Path("file").resolve()))
    note_own(run, "seed: 0\n")
    assert not is_own(run)
