"""Processes that others start train as one: torchrun on one host and on two, srun, submitit's queue, and Ray."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import dlwp
from dlwp import api, joining
from dlwp.errors import ConfigError

WORDS = ["data=digits", "model=mlp", "logger.plots=false", "logger.tensorboard=false"]
SHORT = [*WORDS, "trainer.epochs=2"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
TRAIN = [sys.executable, "-m", "dlwp"]


def metrics(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: one for name, one in line.items() if name not in ("time", "samples_per_s")} for line in lines]


def assert_equal_runs(run: Path, other: Path) -> None:
    """Compare what two runs measured, up to the order of sums; and prove that each sample was used once."""
    assert len(metrics(run)) == len(metrics(other)) > 0
    for mine, its in zip(metrics(run), metrics(other), strict=True):
        assert mine.pop("split") == its.pop("split")
        assert mine == pytest.approx(its, rel=1e-4)
    assert (run / "audit.jsonl").read_text() == (other / "audit.jsonl").read_text()
    api.audit(str(run))


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that trains in this process alone, once for the same words."""
    runs: dict[tuple[str, ...], Path] = {}

    def train(*words: str, epochs: int = 2) -> Path:
        words = (*words, f"trainer.epochs={epochs}")
        if words not in runs:
            runs[words] = tmp_path_factory.mktemp("alone") / "run"
            dlwp.train(*WORDS, *words, f"run_dir={runs[words]}")
        return runs[words]

    return train


@pytest.fixture
def started() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Return a function that starts a process whose output can be read; none is left behind."""
    processes: list[subprocess.Popen[str]] = []

    def start(*command: str, **environment: str) -> subprocess.Popen[str]:
        given = os.environ | environment
        one = subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=given)
        processes.append(one)
        return one

    yield start
    for one in processes:
        one.kill()
        one.communicate()


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def wait_for_lines(process: subprocess.Popen[str], run: Path, count: int) -> None:
    """Wait until a run has recorded `count` lines; the process must live."""
    path = run / "metrics.jsonl"
    while not (path.exists() and len(path.read_text().splitlines()) > count):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)


def children(process: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


# ---- torchrun -------------------------------------------------------------------------------------------------------


def test_torchrun_on_one_host_trains_as_one_process_does(
    tmp_path: Path, alone: Callable[..., Path], started: Callable[..., subprocess.Popen[str]]
) -> None:
    one = started(*TORCHRUN, "--nproc-per-node=2", "-m", "dlwp", *SHORT, "run_dir=run")
    out, _ = one.communicate(timeout=200)
    assert one.returncode == 0, out
    assert out.count("run      ") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert_equal_runs(tmp_path / "run", alone())


@pytest.mark.skipif(sys.platform != "linux", reason="finds a process in /proc")
def test_two_machines_start_again_after_a_death_and_end_as_one_process_does(
    tmp_path: Path, alone: Callable[..., Path], started: Callable[..., subprocess.Popen[str]]
) -> None:
    words = [*WORDS, "trainer.epochs=40", "run_dir=run"]
    endpoint = f"--rdzv-endpoint=127.0.0.1:{free_port()}"
    agent = [*TORCHRUN, "--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", endpoint, "--max-restarts=2"]
    agents = [started(*agent, "-m", "dlwp", *words) for _ in range(2)]
    wait_for_lines(agents[0], tmp_path / "run", 10)
    os.kill(children(agents[1].pid)[0], signal.SIGKILL)
    told = [one.communicate(timeout=200)[0] for one in agents]
    assert [one.returncode for one in agents] == [0, 0], told
    assert "resume   from step-" in "".join(told)
    assert_equal_runs(tmp_path / "run", alone(epochs=40))


# ---- Slurm ----------------------------------------------------------------------------------------------------------


def test_tasks_of_srun_train_as_one_and_go_on_after_a_signal(
    tmp_path: Path, alone: Callable[..., Path], started: Callable[..., subprocess.Popen[str]]
) -> None:
    job = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NODELIST": "localhost"}

    def tasks(*words: str) -> list[subprocess.Popen[str]]:
        port = str(free_port())
        own = [{"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank), "MASTER_PORT": port} for rank in range(2)]
        return [started(*TRAIN, *words, **job, **one) for one in own]

    first = tasks(*WORDS, "trainer.epochs=40", "run_dir=run")
    wait_for_lines(first[0], tmp_path / "run", 4)
    for one in first:
        one.send_signal(signal.SIGUSR1)
    told = [one.communicate(timeout=200)[0] for one in first]
    assert [one.returncode for one in first] == [143, 143], told
    assert told[1] == ""
    second = tasks("resume=run")
    told = [one.communicate(timeout=200)[0] for one in second]
    assert [one.returncode for one in second] == [0, 0], told
    assert_equal_runs(tmp_path / "run", alone(epochs=40))


def test_a_mistake_is_told_by_one_task_in_one_line(started: Callable[..., subprocess.Popen[str]]) -> None:
    job = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NODELIST": "localhost", "MASTER_PORT": str(free_port())}
    both = [started(*TRAIN, "modle=mlp", SLURM_PROCID=rank, **job) for rank in ("0", "1")]
    told = [one.communicate(timeout=200)[0] for one in both]
    assert [one.returncode for one in both] == [2, 5], told
    assert told == ["dlwp: error: unknown key 'modle'. Did you mean the group 'model'? (model=mlp)\n", ""]


@pytest.mark.parametrize("lost", ["01", "0", "1"])
def test_processes_that_do_not_reach_one_another_end_all_and_say_so_in_a_line(
    lost: str, started: Callable[..., subprocess.Popen[str]]
) -> None:
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(free_port())}
    cards = [{"GLOO_SOCKET_IFNAME": "none"} if rank in lost else {} for rank in "01"]
    both = [started(*TRAIN, *SHORT, RANK=rank, **place, **cards[int(rank)]) for rank in "01"]
    out = "".join(one.communicate(timeout=200)[0] for one in both)
    assert sorted(one.returncode for one in both) == [4, 5]
    assert out.startswith("dlwp: error: the 2 processes do not reach one another (")
    assert "GLOO_SOCKET_IFNAME=eth0" in out
    assert out.count("\n") == 1


def test_the_words_of_srun_become_those_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    for name in names:
        monkeypatch.setenv(name, "to be taken back")
        monkeypatch.delenv(name)
    told = {"PROCID": "5", "LOCALID": "1", "STEP_NUM_TASKS": "8", "STEP_NODELIST": "gpu[07-10]", "JOB_ID": "20123"}
    told |= {"NODEID": "1", "STEP_TASKS_PER_NODE": "4(x2)"}
    for name, value in told.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert joining.is_one_of_many()
    joining._take_from_queue()
    assert [os.environ[name] for name in names] == ["5", "8", "1", "4", "gpu07", "12123"]
    monkeypatch.setenv("SLURM_PROCID", "6")
    joining._take_from_queue()
    assert os.environ["RANK"] == "5"  # torchrun under srun has the last word


@pytest.mark.parametrize(
    ("masks", "sharing"),
    [("", 4), ("0xff", 4), ("0x03,0x0c,0x30,0xc0", 1), ("0x0f,0x0f,0xf0,0xf0", 2)],
    ids=["unbound", "all together", "each alone", "two and two"],
)
def test_a_task_shares_processors_with_those_that_srun_has_bound_to_the_same(masks: str, sharing: int) -> None:
    told = {"SLURM_STEP_TASKS_PER_NODE": "1,2(x2),4", "SLURM_NODEID": "3", "SLURM_CPU_BIND_LIST": masks}
    assert joining.sharing_tasks(told) == sharing


def test_the_first_of_slurms_hosts_is_found_in_each_form_of_its_list() -> None:
    lists = ["n1", "a1,a2", "gpu[003-006,9],login1", "rack[1-2]n[07,9]-ib", "n[2,5].far.org"]
    assert [joining.first_host(one) for one in lists] == ["n1", "a1", "gpu003", "rack1n07-ib", "n2.far.org"]


def test_one_task_of_srun_is_no_one_of_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    assert not joining.is_one_of_many()


# ---- a sweep in a queue ---------------------------------------------------------------------------------------------


def test_a_sweep_in_a_queue_gives_what_it_gives_without(
    tmp_path: Path, alone: Callable[..., Path], started: Callable[..., subprocess.Popen[str]]
) -> None:
    pytest.importorskip("submitit")
    queue = ["hydra/launcher=submitit_local", "hydra.launcher.tasks_per_node=2"]
    one = started(*TRAIN, "-m", *queue, *SHORT, "optimizer.lr=0.001,0.002", "run_dir=sweep")
    out, _ = one.communicate(timeout=280)
    assert one.returncode == 0, out
    assert out.rstrip().endswith("table    sweep/table.md, sweep/table.csv")
    assert len((tmp_path / "sweep" / "jobs.jsonl").read_text().splitlines()) == 4  # each job begins and ends once
    assert sorted(path.name for path in (tmp_path / "sweep").glob("*_*/")) == [
        "0_optimizer.lr-0.001",
        "1_optimizer.lr-0.002",
    ]
    for number, rate in enumerate(("0.001", "0.002")):
        assert_equal_runs(tmp_path / "sweep" / f"{number}_optimizer.lr-{rate}", alone(f"optimizer.lr={rate}"))
    again = started(*TRAIN, "-m", "sweep_resume=sweep", "hydra.launcher.timeout_min=90")  # more time for what was cut
    assert "2 are done" in again.communicate(timeout=100)[0]
    assert again.returncode == 0


@pytest.mark.skipif(sys.platform != "linux", reason="finds a process in /proc")
def test_a_job_that_its_queue_takes_back_saves_and_goes_on_when_started_again(
    tmp_path: Path, alone: Callable[..., Path], started: Callable[..., subprocess.Popen[str]]
) -> None:
    pytest.importorskip("submitit")
    words = [*WORDS, "trainer.epochs=40", "device=cpu,cuda:99"]
    one = started(*TRAIN, "-m", "hydra/launcher=submitit_local", *words, "run_dir=sweep")
    run = tmp_path / "sweep" / "0_device-cpu"
    wait_for_lines(one, run, 4)
    controllers = [process for process in children(one.pid) if children(process)]
    os.kill(children(controllers[0])[0], signal.SIGUSR2)
    out, _ = one.communicate(timeout=200)
    assert one.returncode == 5, out
    assert "1 of 2 jobs failed: #1 device=cuda:99 (exit 4: " in out
    assert "(SIGUSR2): saved step" in (run / "run.log").read_text()
    assert "data.mean" in json.loads((run / "environment.json").read_text())["decided"]  # not a column of the table
    assert_equal_runs(run, alone("device=cpu", epochs=40))


@pytest.mark.skipif(sys.platform != "linux", reason="finds a process in /proc")
def test_a_job_that_is_gone_without_a_word_is_told_of_in_a_line(
    tmp_path: Path, started: Callable[..., subprocess.Popen[str]]
) -> None:
    pytest.importorskip("submitit")
    words = [*WORDS, "trainer.epochs=1000", "seed=1,2", "run_dir=sweep"]
    one = started(*TRAIN, "-m", "hydra/launcher=submitit_local", *words)
    wait_for_lines(one, tmp_path / "sweep" / "0_seed-1", 2)
    for controller in children(one.pid):
        for task in children(controller):
            os.kill(task, signal.SIGKILL)
    out, _ = one.communicate(timeout=200)
    assert one.returncode == 5
    assert "dlwp: error: a job of the queue ended without a word" in out
    assert "Traceback" not in out


# ---- Ray ------------------------------------------------------------------------------------------------------------


RAY = """
import sys
from dlwp import on_ray
run = on_ray.train(*sys.argv[1:], num_workers=2)
print("exit", run.exit, run.summary["step"])
"""


def test_ray_trains_as_one_process_does(
    tmp_path: Path, alone: Callable[..., Path], started: Callable[..., subprocess.Popen[str]]
) -> None:
    pytest.importorskip("ray.train", exc_type=ImportError)
    one = started(sys.executable, "-c", RAY, *SHORT, "run_dir=run", RAY_TMPDIR="/tmp/ray-dlwp")
    out, _ = one.communicate(timeout=280)
    assert one.returncode == 0, out
    assert "exit done 42" in out
    assert_equal_runs(tmp_path / "run", alone())


def test_a_folder_of_another_run_is_refused_before_ray_starts(alone: Callable[..., Path]) -> None:
    pytest.importorskip("ray.train", exc_type=ImportError)
    from dlwp import on_ray

    with pytest.raises(ConfigError, match=r"is a run\. Another run_dir=, or resume="):
        on_ray.train(*WORDS, f"run_dir={alone()}", num_workers=2)


# ---- files for other systems ----------------------------------------------------------------------------------------


def test_the_files_for_skypilot_and_kubeflow_can_be_read(checkout: Path) -> None:
    task = yaml.safe_load((checkout / "docs" / "machines" / "sky.yaml").read_text())
    assert task["num_nodes"] == 2
    assert "SKYPILOT_NODE_RANK" in task["run"]
    documents = list(yaml.safe_load_all((checkout / "docs" / "machines" / "trainjob.yaml").read_text()))
    assert [one["kind"] for one in documents] == ["TrainJob"]
