"""Mistakes that need a run to be made, or that break one off: one line, the run or key, the exit status.

`ERRORS` of the design numbers them, as in test_mistakes.py.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from dlwp.commands import train
from dlwp.runs import manifest
from dlwp.runs.folder import RunFolder

SMALL = (
    "data=synthetic data.num_train=40 data.num_val=8 data.num_test=8 data.shape=[1,8,8] data.num_classes=3 "
    "trainer.epochs=2 trainer.keep_last=2 logger.plots=false logger.tensorboard=false "
)
NET = """
import torch

class Net(torch.nn.Linear):
    def forward(self, inputs):
        if self.training and len(inputs) > 4:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: "
                               "you tried to allocate 400 bytes. Error code 12 (Cannot allocate memory)")
        return super().forward(inputs.flatten(1))

class Call:
    def on_step(self, event):
        return {}["acc"]
"""


class Row(NamedTuple):
    """A mistake: its number, what is typed, the status, a pattern for the line, what is done to the run before."""

    number: int
    name: str
    words: str
    code: int
    pattern: str
    lay: Callable[[], object] = lambda: None


def spoil() -> None:
    """Turn a bit of the newest checkpoint's weights."""
    file = sorted(Path("run/checkpoints").glob("step-*"))[-1] / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(data)


def newer() -> None:
    """Let the checkpoints say that a dlwp of the future wrote them."""
    for folder in Path("run/checkpoints").glob("step-*"):
        record = json.loads((folder / "state.json").read_text())
        (folder / "state.json").write_text(json.dumps({**record, "format_version": 99, "dlwp": "9.0"}))
        _sign(folder, "state.json")


def _sign(folder: Path, name: str) -> None:
    """Note a changed file of a checkpoint in its manifest, as who wrote it would have."""
    entries = json.loads((folder / manifest.NAME).read_text())["files"]
    for _ in manifest.noted([(folder / name).read_bytes()], name, entries):
        pass
    (folder / manifest.NAME).write_bytes(manifest.text_of(entries))


def of_a_stranger() -> None:
    """Let the run be one that this account did not begin, with a class of its own."""
    for path in (Path("run/config.yaml"), *Path("run/checkpoints").glob("*/config.yaml")):
        path.write_text(path.read_text().replace("dlwp.models.linear.Linear", "evil.run"))
        if path.parent.name.startswith("step-"):
            _sign(path.parent, "config.yaml")


OWN = SMALL + "model._target_=own_runs.Net +model.in_features=64 +model.out_features=3 "
ROWS = [
    Row(40, "a stranger's class", "resume=run trainer.epochs=4", 2,
        r"model\._target_ wants to run 'evil\.run'\. If you trust its maker: trust=\[evil\]", of_a_stranger),
    Row(73, "rate of zero", SMALL + "model=linear optimizer.lr=0", 0,
        r"warning: optimizer\.lr=0, nothing will be learned"),
    Row(84, "out of memory", OWN, 5,
        r"out of memory \(.*can't allocate memory.*\)\. For the same steps: trainer\.accumulate=2 \(pieces of 64\)"),
    Row(89, "no checkpoint yet", "resume=run", 0,
        r"warning: run has no checkpoint yet: starting it again from step 0, in the same folder",
        lambda: (shutil.rmtree("run/checkpoints"), Path("run/metrics.jsonl").unlink())),
    Row(90, "finished", "resume=run", 0,
        r"run is finished \(2 epochs, 2 steps\)\. To go on: dlwp-train resume=run trainer\.epochs=4"),
    Row(91, "damaged", "resume=run trainer.epochs=4", 3,
        r"model\.safetensors is damaged.*resume_fallback=true", spoil),
    Row(92, "made by a newer dlwp", "resume=run trainer.epochs=4", 4,
        r"made by dlwp 9\.0.*pip install 'dlwp>=9\.0'", newer),
    Row(93, "another model", "resume=run trainer.epochs=4 model=mlp", 2,
        r"'model=mlp' cannot change in a replay; set single keys \(model\.KEY=VALUE\) or start anew: dlwp-train data="),
    Row(93, "another size of the model", "resume=run trainer.epochs=4 model.out_features=4 resume_exact=false", 2,
        r"the checkpoint is of another model: 2 of 2 tensors differ\. Start it with the model that it was made with"),
    Row(94, "another rate", "resume=run trainer.epochs=4 optimizer.lr=0.01", 2,
        r"resume with a changed optimizer\.lr \(.* → 0\.01\) is another experiment.*resume_exact=false"),
    Row(95, "in use", "resume=run trainer.epochs=4", 2, r"run is running on host \S+, process \d+"),
    Row(98, "folder is taken", SMALL + "model=linear run_dir=run", 2,
        r"'run' exists and is not empty\. resume=run, or another run_dir="),
    Row(100, "a callback of one's own raises", SMALL + "model=linear +callbacks.mine._target_=own_runs.Call", 5,
        r"callback Call\.on_step failed at own_runs\.py:13: KeyError: 'acc'\. Saved at step 1; go on: dlwp-train"),
]  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a run that ended (run), the account that began it (state), and code of one's own."""
    place = tmp_path_factory.mktemp("finished")
    (place / "own_runs.py").write_text(NET)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setenv("XDG_STATE_HOME", str(place / "state"))
        patch.setattr(sys, "argv", ["dlwp-train", *SMALL.split(), "model=linear", "run_dir=run"])
        assert train.main() == 0
    return place


@pytest.fixture
def here(finished: Path, own_place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand beside a copy of that run, as who began it."""
    shutil.copytree(finished, own_place, dirs_exist_ok=True)
    monkeypatch.delitem(sys.modules, "own_runs", raising=False)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if "pytest-of" not in place])
    return own_place


@pytest.mark.parametrize("mistake", ROWS, ids=lambda mistake: f"{mistake.number} {mistake.name}")
def test_a_mistake_is_one_line(
    mistake: Row, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mistake.lay()
    monkeypatch.setattr(sys, "argv", ["dlwp-train", *mistake.words.split()])
    holder = RunFolder.open(Path("run")) if mistake.number == 95 else None
    status = train.main()
    if holder is not None:
        holder.close()
    out, err = capsys.readouterr()
    assert status == mistake.code, err
    assert "Traceback" not in err + out and "fault in dlwp" not in err
    if mistake.code == 0:
        assert re.search(mistake.pattern, out + err), out + err
        return
    lines = [line for line in err.rstrip("\n").split("\n") if not line.startswith("dlwp: warning: ")]
    assert lines[0].startswith("dlwp: error: "), err
    assert re.search(mistake.pattern, lines[0]), err
    assert all(line.startswith("    ") for line in lines[1:]), err
    assert len(lines[0]) < 320


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method")  # of torch's own compiler
def test_85_without_a_compiler_a_run_goes_on_uncompiled_and_says_so(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CXX", "/nonexistent")
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", (None, "/nonexistent"))
    words = [*SMALL.split(), "model=linear", "device=cpu", "trainer.compile=true", "run_dir=plain"]
    monkeypatch.setattr(sys, "argv", ["dlwp-train", *words])
    assert train.main() == 0
    assert re.search(
        r"warning: torch\.compile failed \(InvalidCxxCompiler: .*\); going on without\n", capsys.readouterr().err
    )
    assert json.loads(Path("plain/summary.json").read_text())["exit"] == "done"


def test_106_a_reader_that_leaves_ends_no_run(here: Path) -> None:
    code = "from dlwp.commands.train import main; raise SystemExit(main())"
    words = [*SMALL.split(), "model=linear", "run_dir=piped"]
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code, *words], stdout=pipe, stderr=pipe, env=buffered) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline().startswith(b"run ")  # as `| head -1` does
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0
    assert json.loads(Path("piped/summary.json").read_text())["exit"] == "done"
    assert "dlwp-train resume=piped" in Path("piped/run.log").read_text()
