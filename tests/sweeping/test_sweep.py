"""A sweep that was cut goes on: what is done stays, what was cut goes on bit for bit, what failed runs again."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from sweeping.conftest import exits, has_saved, lines

FAST = ["model=linear", "trainer.limit_batches=2", "logger.plots=false", "logger.tensorboard=false"]
LONG = ["model=mlp", "logger.plots=false", "logger.tensorboard=false"]
CALLBACK = """
from pathlib import Path

class Fussy:
    def on_start(self, event):
        if not Path("allowed").exists() and event.trainer.settings.epochs == 2:
            raise ValueError("not allowed")
"""


def test_what_is_done_stays_and_what_failed_runs_again(
    command: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "fussy.py").write_text(CALLBACK)
    words = [*FAST, "trainer.epochs=1,2", "+callbacks.mine._target_=fussy.Fussy", "run_dir=sweep"]
    assert command(*words) == 5
    assert exits(Path("sweep")) == {"0": "done", "1": "failed"}
    first = (tmp_path / "sweep" / "0_trainer.epochs-1" / "summary.json").stat().st_mtime_ns
    Path("allowed").touch()
    capsys.readouterr()
    assert command("sweep_resume=sweep") == 0
    assert exits(Path("sweep")) == {"0": "done", "1": "done"}
    assert (tmp_path / "sweep" / "0_trainer.epochs-1" / "summary.json").stat().st_mtime_ns == first
    out = capsys.readouterr().out
    assert out.splitlines()[0] == "sweep    sweep · 2 jobs · 1 are done"
    assert "job 0" not in out
    assert (tmp_path / "sweep" / "table.md").read_text().count("done") == 2


def test_jobs_that_were_cut_go_on_bit_for_bit(command: Callable[..., int], cut: Callable[..., tuple[int, str]]) -> None:
    words = [*LONG, "trainer.epochs=25", "seed=1,2", "jobs=2"]
    assert command(*words, "run_dir=whole") == 0
    status, out = cut([*words, "run_dir=cut"], has_saved(Path("cut"), 0, 1), signal.SIGINT)
    assert status == 130
    assert "go on    dlwp-train -m sweep_resume=cut" in out
    assert "running" not in exits(Path("cut")).values()
    before = [path.read_text() for path in Path("cut").glob("*/checkpoints/last")]

    def went_on() -> bool:
        return all(path.read_text() not in before for path in Path("cut").glob("*/checkpoints/last"))

    assert cut(["sweep_resume=cut"], went_on, signal.SIGKILL)[0] == -signal.SIGKILL
    assert command("sweep_resume=cut") == 0
    for run in ("0_seed-1", "1_seed-2"):
        step = Path("whole", run, "checkpoints", "last").read_text().strip()
        for file in ("model.safetensors", "optimizer.safetensors"):
            whole, resumed = (Path(name, run, "checkpoints", step, file).read_bytes() for name in ("whole", "cut"))
            assert whole == resumed
        assert "resume   " in Path("cut", run, "run.log").read_text()


def test_a_sweep_goes_on_with_its_own_words_alone(
    command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(*FAST, "trainer.epochs=1", "seed=1,2", "run_dir=sweep") == 0
    assert command("seed=1,2", "sweep_resume=sweep") == 0  # the same word may stand there
    for words, told in (
        (
            ["seed=1,2,3", "sweep_resume=sweep"],
            "'seed=1,2,3' is not of the sweep in 'sweep', which goes on with its own",
        ),
        (["sweep_resume=sweeq"], "'sweeq' is no sweep: it has no sweep.json"),
        (["--config-dir", ".", "sweep_resume=sweep"], "has its own config folder and name"),
        (
            [*FAST, "seed=1,2", "run_dir=sweep"],
            "'sweep' exists and is not empty. sweep_resume=sweep, or another run_dir=",
        ),
        ([*FAST, "seed=1,2", "jobs=0"], "jobs must be ≥ 1, got 0"),
        ([*FAST, "optimizer.lr=interval(0,1)"], "a search draws from it: add hydra/sweeper=optuna"),
        ([*FAST, "seed=1,2", "jobs=2", "hydra/launcher=basic"], "Leave out one"),
    ):
        assert command(*words) == 2
        assert told in capsys.readouterr().err


def test_the_keys_of_a_sweep_are_refused_without_one(capsys: pytest.CaptureFixture[str]) -> None:
    import dlwp
    from dlwp.commands import entry
    from dlwp.errors import ConfigError

    with pytest.raises(ConfigError, match=r"jobs=2 is for a sweep: add -m and several values"):
        dlwp.train(*FAST, "jobs=2")
    with pytest.raises(ConfigError, match=r"dlwp-train -m sweep_resume=here"):
        dlwp.train(*FAST, "sweep_resume=here")
    assert entry.run(lambda: dlwp.train(*FAST, "jobs=two").exit_code) == 2
    assert "jobs must be a whole number or null, got 'two'" in capsys.readouterr().err


def test_a_second_process_is_kept_from_a_plain_sweep(
    command: Callable[..., int], cut: Callable[..., tuple[int, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    found: list[int] = []

    def refused() -> bool:
        if has_saved(Path("sweep"), 0)():
            found.append(command("sweep_resume=sweep"))
        return bool(found)

    cut([*LONG, "trainer.epochs=400", "seed=1,2", "run_dir=sweep"], refused, signal.SIGINT)
    assert found == [2]
    assert "the sweep in 'sweep' is running on host" in capsys.readouterr().err


def test_jobs_at_once_are_told_in_a_line_each_and_one_that_fails_leaves_the_others(
    command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(*FAST, "trainer.epochs=1", "device=cuda:99,cpu", "jobs=2", "run_dir=sweep") == 5
    out, err = capsys.readouterr()
    assert "2 jobs · 2 at once, 1 thread each" in out
    assert "job 0    start  device=cuda:99\n" in out
    assert "job 0    failed device=cuda:99: no CUDA device" in out
    assert "job 1    done   device=cpu · val/accuracy " in out
    assert "epoch" not in out  # that stands in logs/ and in the run's own log
    assert "epoch" in Path("sweep/logs/1.txt").read_text()
    assert "1 of 2 jobs failed: #0 device=cuda:99 (exit 4" in err
    assert [line["exit_code"] for line in lines(Path("sweep/jobs.jsonl")) if "exit_code" in line]
    assert json.loads(Path("sweep/sweep.json").read_text())["jobs"] == 2


def test_a_job_whose_process_is_killed_is_told_and_the_others_go_on(
    command: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = "import os\n\nclass Deadly:\n    def on_step(self, event):\n"
    (tmp_path / "deadly.py").write_text(
        code + "        event.trainer.settings.epochs == 1 and os.kill(os.getpid(), 9)\n"
    )
    words = [*FAST, "trainer.epochs=1,2", "+callbacks.mine._target_=deadly.Deadly", "run_dir=sweep", "jobs=2"]
    assert command(*words) == 5
    out, err = capsys.readouterr()
    assert "job 0    failed trainer.epochs=1: its process was ended by SIGKILL (no memory left?)" in out
    assert exits(Path("sweep"))["1"] == "done"
    assert "1 of 2 jobs failed: #0 trainer.epochs=1 (exit 5: its process was ended by SIGKILL" in err


def test_jobs_at_once_get_their_share_and_come_to_what_they_come_to_one_by_one(
    command: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "import os\nfrom pathlib import Path\n\nclass Telling:\n    def on_start(self, event):\n"
    code += "        told = [os.environ.get('OMP_NUM_THREADS'), os.environ.get('CUDA_VISIBLE_DEVICES')]\n"
    code += "        Path(f'told-{os.getpid()}').write_text(' '.join(map(str, told)))\n"
    (tmp_path / "telling.py").write_text(code)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    words = [*FAST, "trainer.epochs=2", "seed=1,2", "+callbacks.mine._target_=telling.Telling"]
    assert command(*words, "run_dir=together", "jobs=2") == 0
    assert sorted(path.read_text() for path in tmp_path.glob("told-*")) == ["1 3", "1 5"]
    assert command(*words, "run_dir=single") == 0
    for run in ("0_seed-1", "1_seed-2"):
        (one, other) = (
            Path(name, run, "checkpoints", "step-00000004", "model.safetensors") for name in ("together", "single")
        )
        assert one.read_bytes() == other.read_bytes()


def test_a_sweep_that_was_moved_goes_on_in_its_new_place(command: Callable[..., int], tmp_path: Path) -> None:
    assert command(*FAST, "trainer.epochs=1", "device=cuda:99,cpu", "run_dir=here/sweep") == 5
    (tmp_path / "here").rename(tmp_path / "there")
    assert command("sweep_resume=there/sweep") == 5
    assert not (tmp_path / "here").exists()
    assert exits(Path("there/sweep")) == {"0": "failed", "1": "done"}
