"""What `dlwp-runs replay` promises: the failing step comes again, and names its module, samples and what went in."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

from dlwp import api
from dlwp.commands import runs
from dlwp.errors import ConfigError, NonFiniteError

CODE = """
import torch
from torch import nn
from torch.utils.data import Dataset

class Rows(Dataset):
    classes = ["a", "b"]
    files = [f"row{number}.txt" for number in range(32)]
    def __len__(self):
        return 32
    def __getitem__(self, index):
        row = torch.rand(3, generator=torch.Generator().manual_seed(index)) + 0.1
        row[0] = index
        return row, index % 2

class Poison(nn.Module):
    def __init__(self, what):
        super().__init__()
        self.what = what
        self.register_buffer("steps", torch.zeros(()))
    def forward(self, x):
        if not self.training:
            return x[:, 1:]
        self.steps += 1
        bad = (x[:, :1] == 13) & (self.steps >= 9)
        values = x[:, 1:]
        if self.what == "log":
            return torch.log(torch.where(bad, -values, values))
        if self.what == "gradient":
            return values + torch.sqrt(torch.where(bad, 0.0, values.detach() * self.scale.abs() + 0.1) * self.scale)
        return values

class Net(nn.Module):
    def __init__(self, what="log"):
        super().__init__()
        self.poison, self.drop, self.head = Poison(what), nn.Dropout(0.2), nn.Linear(2, 2)
        self.poison.scale = nn.Parameter(torch.ones(()))
    def forward(self, x):
        return self.head(self.drop(self.poison(x)))
"""
WORDS = (
    "data=dataset", "data._target_=poisoned.Rows", "data.val_fraction=0", "data.num_workers=0", "data.batch_size=8",
    "model._target_=poisoned.Net", "device=cpu", "trainer.epochs=5", "trainer.log_every=1", "optimizer.lr=0.01",
    "logger.tensorboard=false", "logger.plots=false", "run_dir=run", "trainer.keep_last=9",
)  # fmt: skip


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "poisoned.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "poisoned", raising=False)
    return tmp_path


def failed(*words: str) -> str:
    with pytest.raises(NonFiniteError) as raised:
        api.train(*WORDS, *words)
    return raised.value.message


def told(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    capsys.readouterr()
    runs.show_runs(["replay", "run", *words])
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("every", ["4 steps", "1 step", "100 steps"])
def test_the_module_and_the_sample_are_named_with_what_went_in(
    every: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = failed(f"trainer.checkpoint_every={every}", "+model.what=log")
    assert "first in 'poison'" in text
    found = re.search(r"at step (\d+)", text)
    assert found is not None
    step = int(found[1])
    lines = told(capsys)
    assert lines[0].startswith(f"replay   step {step} of run, from ")
    begun = {"4 steps": (step - 1) // 4 * 4, "1 step": step - 1, "100 steps": 0}[every]
    assert (f"step-{begun:08}" if begun else "the run's beginning") in lines[0]
    assert (f"steps {begun + 1} to {step - 1} taken again" in lines[0]) == (begun < step - 1)
    assert lines[1:3] == [
        "first    in 'poison' (Poison): 2 NaN in an output of [8, 2]",
        "samples  13 (row13.txt) (of 8 in the batch)",
    ]
    assert re.fullmatch(r"inputs   \[8, 3\], 0\.\d+ to 13", lines[3])
    assert len(lines) == 4


def test_a_gradient_that_is_not_finite_is_named_by_its_line(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "a gradient is not finite" in failed("trainer.checkpoint_every=4 steps", "+model.what=gradient")
    lines = told(capsys)
    assert lines[1] == "first    in a gradient: the forward pass is finite"
    assert "13 (row13.txt)" in lines[2]
    line = CODE.splitlines().index(next(line for line in CODE.splitlines() if "torch.sqrt" in line)) + 1
    of = rf"backward the gradient of \w+Backward0 is NaN, of \S*poisoned.py:{line} in forward"
    assert re.fullmatch(of, lines[3])


def test_the_steps_before_come_again_bit_for_bit(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The weights before the failing step are the run's own: what is replayed from any checkpoint is one thing."""
    import torch

    from dlwp import replay

    failed("trainer.checkpoint_every=1 step", "+model.what=log")
    seen: list[Any] = []

    def note(trainer: Any, parts: Any, step: int) -> list[str]:
        seen.append({name: value.clone() for name, value in trainer.model.state_dict().items()})
        return []

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replay, "_look", note)
        replay.replay("run")
        saved = sorted(Path("run/checkpoints").glob("step-*"))
        for path in saved[-4:]:
            path.rename(path.with_name(f"aside-{path.name}"))
        replay.replay("run")
    assert all(torch.equal(value, seen[1][name]) for name, value in seen[0].items())


def test_a_run_that_did_not_end_so_is_told_in_one_line(place: Path) -> None:
    api.train(*WORDS, "+model.what=none")
    with pytest.raises(ConfigError, match=r"run did not end by a loss that is not finite, .* It ended 'done'"):
        runs.show_runs(["replay", "run"])
    with pytest.raises(ConfigError, match="replay needs a run"):
        runs.show_runs(["replay"])
