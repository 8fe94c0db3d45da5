"""Where the user's own code fails, the user's frames are told, and only those, with file and line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

MINE = """
import json

import torch
from torch import nn
from torch.utils.data import Dataset, IterableDataset, default_collate


def broken(text):
    return json.loads(text)  # the innermost of the user's own frames; json's are not


class Rows(Dataset):
    classes = ["a", "b"]
    def __init__(self, fails=False):
        self.fails = fails
    def __len__(self):
        return 24
    def __getitem__(self, index):
        if self.fails and index == 17:
            broken("{")
        return torch.randn(4), index % 2


class Stream(IterableDataset):
    classes = ["a", "b"]
    def __iter__(self):
        for index in range(24):
            if index == 17:
                broken("{")
            yield torch.randn(4), index % 2


class Net(nn.Module):
    def __init__(self, kind="none"):
        super().__init__()
        if kind == "build":
            broken("{")
        self.kind, self.head = kind, nn.Linear(4, 2)
    def forward(self, x):
        if self.kind == "forward":
            broken("{")
        if self.kind == "shape":
            x = torch.cat([x, x[:1]], 1)
        return self.head(x)


class Hears:
    def on_step(self, event):
        broken("{")


def collate(samples):
    broken("{")


def late(samples):
    if len(samples) > 1:
        broken("{")
    return default_collate(samples)


def step(model, batch, criterion):
    broken("{")


def function(**given):
    broken("{")
"""
INNERMOST = "json.loads(text)"
WORDS = (
    "data=dataset", "data._target_=mine.Rows", "data.val_fraction=0", "data.batch_size=8", "model._target_=mine.Net",
    "device=cpu", "trainer.epochs=1", "logger.tensorboard=false", "logger.plots=false", "run_dir=run",
)  # fmt: skip
CASES = {
    "dataset": ("data.num_workers=0", "+data.fails=true"),
    "dataset in a worker": ("data.num_workers=1", "+data.fails=true"),
    "iterable": ("data._target_=mine.Stream", "data.num_workers=0", "data.steps_per_epoch=9"),
    "iterable in a worker": ("data._target_=mine.Stream", "data.num_workers=1", "data.steps_per_epoch=9"),
    "data function": ("data._target_=mine.function",),
    "collate": ("data.num_workers=0", "data.collate=mine.collate"),
    "collate in a worker": ("data.num_workers=1", "data.collate=mine.late"),
    "import": ("model._target_=mine_too.Net",),
    "model built": ("data.num_workers=0", "+model.kind=build"),
    "model": ("data.num_workers=0", "+model.kind=forward"),
    "step": ("data.num_workers=0", "trainer.step=mine.step"),
    "callback": ("data.num_workers=0", "+callbacks.mine._target_=mine.Hears"),
}


def told(tmp_path: Path, *words: str) -> str:
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "mine_too.py").write_text("from mine import *\n\nbroken('{')\n")
    command = [sys.executable, "-c", "import sys; from dlwp.commands.train import main; sys.exit(main())"]
    replaced = {word.partition("=")[0] for word in words}
    kept = [word for word in WORDS if word.partition("=")[0] not in replaced]
    done = subprocess.run(
        [*command, *kept, *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode in (2, 3, 5)
    return done.stderr


@pytest.mark.parametrize("case", CASES)
def test_the_users_frames_are_shown_and_only_those(case: str, tmp_path: Path) -> None:
    err = told(tmp_path, *CASES[case])
    lines = [line for line in err.splitlines() if not line.startswith("dlwp: warning")]
    number = MINE.splitlines().index(next(line for line in MINE.splitlines() if INNERMOST in line)) + 1
    assert lines[0].startswith("dlwp: error: ")
    assert f"mine.py:{number}" in lines[0]
    assert "Expecting property name" in lines[0]
    assert "fault in dlwp" not in err
    frames = [line.strip() for line in lines[1:] if ".py:" in line]
    assert len(frames) >= 2
    assert all(frame.startswith(("mine.py:", "mine_too.py:")) for frame in frames)
    assert frames[-1].startswith(f"mine.py:{number} in broken: return {INNERMOST}")
    assert "site-packages" not in err and "Traceback" not in err


def test_what_torch_refuses_in_the_users_code_names_the_line_of_it(tmp_path: Path) -> None:
    err = told(tmp_path, "data.num_workers=0", "+model.kind=shape")
    line = MINE.splitlines().index(next(line for line in MINE.splitlines() if "torch.cat" in line)) + 1
    assert f"the model fails at mine.py:{line} on a batch of [4, 4]" in err
