"""`dlwp-train`: what stands around a run. Flags, sweeps, completion, and how faults are told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dlwp import __version__, frames
from dlwp.commands import entry, train
from dlwp.errors import ConfigError, DataError
from dlwp.sweeping import jobs

FAST = ["model=linear", "trainer.epochs=1", "trainer.limit_batches=2", "logger.plots=false", "logger.tensorboard=false"]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Return a function that types words behind `dlwp-train`."""

    def type_in(*words: str) -> int:
        monkeypatch.setattr(sys, "argv", ["dlwp-train", *words])
        return train.main()

    return type_in


def test_one_run_ends_with_status_0_and_its_folder(command: Callable[..., int], tmp_path: Path) -> None:
    assert command(*FAST, "run_dir=run") == 0
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["exit"] == "done"


def test_a_sweep_goes_on_after_a_failure_and_ends_with_a_table(
    command: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = dict(os.environ)
    assert command("-m", *FAST, "device=cuda:99,cpu", "seed=1,2") == 5
    assert dict(os.environ) == before
    assert sys.argv[0] == "dlwp-train"
    (sweep,) = (tmp_path / "outputs" / "sweeps").iterdir()
    folders = sorted(path.name for path in sweep.iterdir() if path.is_dir())
    assert folders[2:] == ["2_device-cpu,seed-1", "3_device-cpu,seed-2"]
    assert {"table.csv", "table.md"} <= {path.name for path in sweep.iterdir()}
    for folder in folders[2:]:
        assert json.loads((sweep / folder / "summary.json").read_text())["exit"] == "done"
    out, err = capsys.readouterr()
    assert err.index("dlwp: error: job 0 (device=cuda:99 seed=1): ") < err.index(
        "2 of 4 jobs failed: #0 device=cuda:99"
    )
    assert "HYDRA" not in err
    assert "Traceback" not in err
    assert "table" in out.splitlines()[-1]


def test_a_sweep_whose_jobs_all_fail_alike_has_their_status(command: Callable[..., int]) -> None:
    assert command("-m", *FAST, "device=cuda:98,cuda:99", "run_dir=sweep") == 4
    assert Path("sweep/jobs.jsonl").is_file()


def test_flags_may_stand_between_settings() -> None:
    flags = entry.read(["data=a", "-m", "model=a,b", "--config-dir", "x", "seed=1", "--cfg", "job"])
    assert flags.words == ["data=a", "model=a,b", "seed=1"]
    assert flags.multirun
    assert flags.config_dir == Path("x")
    assert flags.handed_over == ("--cfg", "job")


def test_version_and_hydras_own_help(command: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert command("--version") == 0
    assert capsys.readouterr().out == f"dlwp {__version__}\n"
    assert command("--hydra-help") == 0
    assert "== Flags ==" in capsys.readouterr().out


def test_cfg_and_info_answer_as_in_every_hydra_application(
    command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("model=linear", "--cfg", "job", "-p", "trainer") == 0
    assert "epochs: 15" in capsys.readouterr().out
    assert command("--info", "defaults") == 0
    assert "model/resnet" in capsys.readouterr().out


def test_completion_knows_the_users_folder(
    command: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine" / "model").mkdir(parents=True)
    (tmp_path / "mine" / "model" / "mynet.yaml").write_text("_target_: a.B\n")
    monkeypatch.setenv("COMP_LINE", "dlwp-train --config-dir mine model=my")
    assert command("-sc", "query=bash") == 0
    assert capsys.readouterr() == ("model=mynet\n", "")
    assert command("-sc", "install=bash") == 0
    assert "hydra_bash_completion" in capsys.readouterr().out


@pytest.mark.parametrize(("error", "status"), [(ConfigError("a\nb"), 2), (DataError("a b"), 3)])
def test_a_fault_is_one_line_and_its_status(error: Exception, status: int, capsys: pytest.CaptureFixture[str]) -> None:
    def job() -> int:
        error.__notes__ = ["details: run.log"]
        raise error

    assert entry.run(job) == status
    assert capsys.readouterr().err == "dlwp: error: a b\n    details: run.log\n"


def test_a_defect_says_so_and_shows_its_traceback_on_demand(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def job() -> int:
        return int("x" * 2, base=40)

    monkeypatch.setattr(frames, "is_users", lambda file: False)
    assert entry.run(job) == 5
    err = capsys.readouterr().err
    assert err.startswith("dlwp: error: this is a fault in dlwp, please report: ValueError: int() base")
    assert "Traceback" not in err
    assert "DLWP_DEBUG=1" in err
    monkeypatch.setenv("DLWP_DEBUG", "1")
    assert entry.run(job) == 5
    assert "Traceback" in capsys.readouterr().err


def test_a_fault_in_the_users_code_shows_the_users_frames(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mynet.py").write_text("def build():\n    return {}['depth']\n")
    scope: dict[str, Callable[[], int]] = {}
    source = tmp_path / "mynet.py"
    exec(compile(source.read_text(), str(source), "exec"), scope)
    assert entry.run(scope["build"]) == 5
    err = capsys.readouterr().err
    assert err.startswith("dlwp: error: your code failed at mynet.py:2: KeyError: 'depth'\n")
    assert "    mynet.py:2 in build: return {}['depth']" in err


def test_control_c_is_130(capsys: pytest.CaptureFixture[str]) -> None:
    def job() -> int:
        raise KeyboardInterrupt

    assert entry.run(job) == 130
    assert capsys.readouterr().err == "dlwp: stopped\n"


def test_a_closed_pipe_is_no_fault() -> None:
    code = "from dlwp.commands import entry; exit(entry.run(lambda: print(*range(99_999), sep=chr(10))))"
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], stdout=pipe, stderr=pipe, env=buffered) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_slugs_are_fit_for_folder_names() -> None:
    assert (
        jobs.slug(["optimizer.lr=0.1", "+model.x=[1,2]", "data.root='/a b'"])
        == "optimizer.lr-0.1,model.x-_1,2_,data.root-_a_b"
    )
    assert len(jobs.slug([f"a{number}=1" for number in range(99)])) <= 80
