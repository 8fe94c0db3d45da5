"""A run killed at any moment and resumed ends with the bits of one that was left alone."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

CALLBACK = '''
import os, signal

class KillAt:
    """Kills the process where the environment says: at a step, in an evaluation, or after a save."""

    def __init__(self):
        self.where, _, step = os.environ.get("KILL_AT", "").partition(" ")
        self.step = int(step or 0)

    def _kill(self, where, step):
        if where == self.where and step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)

    def on_step(self, event):
        self._kill("step", event.step)

    def on_evaluation_step(self, event):
        self._kill("evaluation", event.trainer.state.progress.step)

    def on_save(self, event):
        self._kill("save", event.step)
'''
WORDS = [
    "data=synthetic", "data.num_train=97", "data.num_val=20", "data.num_test=20", "data.shape=[3,8,8]",
    "data.batch_size=15",
    "model=cnn", "trainer.epochs=3", "trainer.checkpoint_every=4 steps", "trainer.log_every=3", "trainer.ema_decay=0.9",
    "+callbacks.kill._target_=kill_at.KillAt", "run_dir=run",
]  # fmt: skip
VARIANTS = {
    "memory": [],
    "workers": ["data.loader=workers", "data.num_workers=2"],
    "plateau, accumulation": ["scheduler=plateau", "trainer.accumulate=2", "optimizer=sgd"],
}
TIMES = {"time", "elapsed_s", "samples_per_s"}


def command(folder: Path, *words: str, kill_at: str = "") -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "KILL_AT": kill_at}
    code = "import sys; from dlwp.commands.train import main; sys.exit(main())"
    return subprocess.Popen(
        [sys.executable, "-c", code, *words], cwd=folder, env=environment, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def finished(process: subprocess.Popen[str]) -> tuple[int, str]:
    output, _ = process.communicate(timeout=120)
    return process.returncode, output


def make(folder: Path) -> Path:
    folder.mkdir()
    (folder / "kill_at.py").write_text(CALLBACK)
    return folder


def timeless(found: Any) -> Any:
    if isinstance(found, dict):
        return {key: timeless(value) for key, value in found.items() if key not in TIMES}
    return found


def outcome(run: Path) -> dict[str, Any]:
    """Return all that must be equal: weights, optimizer, averages, metrics, summary, pointers."""
    pointers = {name: (run / "checkpoints" / name).read_text().strip() for name in ("best", "last")}
    hashes = {
        f"{pointer}/{name}.safetensors": hashlib.sha256(
            (run / "checkpoints" / folder / f"{name}.safetensors").read_bytes()
        ).hexdigest()
        for pointer, folder in pointers.items()
        for name in ("model", "optimizer", "ema")
    }
    lines = [timeless(json.loads(line)) for line in (run / "metrics.jsonl").read_text().splitlines()]
    summary = json.loads((run / "summary.json").read_text())
    kept = {key: timeless(summary[key]) for key in ("exit", "step", "epoch", "best", "last", "test")}
    return {"pointers": pointers, "hashes": hashes, "metrics": lines, "summary": kept}


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Any:
    found: dict[str, dict[str, Any]] = {}

    def of(variant: str) -> dict[str, Any]:
        if variant not in found:
            folder = make(tmp_path_factory.mktemp("clean") / "run")
            status, output = finished(command(folder, *WORDS, *VARIANTS[variant]))
            assert status == 0, output
            found[variant] = outcome(folder / "run")
        return found[variant]

    return of


@pytest.mark.parametrize(
    ("variant", "kills"),
    [
        ("memory", ["step 4", "step 10", "evaluation 14"]),
        ("memory", ["save 8", "evaluation 21"]),
        ("workers", ["step 9"]),
        ("plateau, accumulation", ["evaluation 7", "step 20"]),
    ],
)
def test_killed_and_resumed_run_equals_one_left_alone(
    tmp_path: Path, clean: Any, variant: str, kills: list[str]
) -> None:
    folder = make(tmp_path / "killed")
    words = [*WORDS, *VARIANTS[variant]]
    for kill_at in kills:
        status, output = finished(command(folder, *words, kill_at=kill_at))
        assert status == -signal.SIGKILL, output
        words = ["resume=run"]
    status, output = finished(command(folder, *words))
    assert status == 0, output
    assert outcome(folder / "run") == clean(variant)


def test_terminated_run_saves_says_how_to_go_on_and_ends_equal(tmp_path: Path, clean: Any) -> None:
    folder = make(tmp_path / "stopped")
    process = command(folder, *WORDS)
    metrics = folder / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while not (metrics.exists() and metrics.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    status, output = finished(process)
    if status == 0:
        pytest.skip("the run was over before the signal came")
    assert status == 143 and "asked to stop (SIGTERM): saved step" in output, output
    assert json.loads((folder / "run" / "summary.json").read_text())["exit"] == "stopped:SIGTERM"
    status, output = finished(command(folder, "resume=run"))
    assert status == 0, output
    assert outcome(folder / "run") == clean("memory")
