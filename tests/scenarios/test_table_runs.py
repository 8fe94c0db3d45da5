"""A run on a table that was cut within an epoch goes on to the same weights, bit for bit."""

from __future__ import annotations

from pathlib import Path

import numpy
import torch

import dlwp
from dlwp import checkpoint

WORDS = (
    "data=csv", "data.path=t.csv", "data.target=y", "data.batch_size=32", "model=resnet_tabular", "model.width=32",
    "trainer.epochs=3", "trainer.progress=false", "logger.plots=false", "logger.tensorboard=false",
    "trainer.extend=stretch",
)  # fmt: skip


def weights_of(run: dlwp.Run) -> dict[str, torch.Tensor]:
    name = Path(run.folder, "checkpoints", "last").read_text().strip()
    return checkpoint.load_weights(run.folder / "checkpoints" / name)[0]


def test_a_run_on_a_table_resumes_bit_for_bit_within_an_epoch() -> None:
    draw = numpy.random.default_rng(0)
    rows = [f"{x:.3f},{'abc'[c]},{x * c:.3f}" for x, c in zip(draw.normal(size=300), draw.integers(0, 3, 300))]
    Path("t.csv").write_text("\n".join(["x,c,y", *rows]) + "\n")
    whole = dlwp.train(*WORDS, "run_dir=whole")
    steps = whole.summary["step"]
    assert steps == 3 * 8
    dlwp.train(*WORDS, "run_dir=cut", "trainer.checkpoint_every=11 steps", "trainer.keep_last=5")
    middle = Path("cut", "checkpoints", "step-00000011")
    assert middle.exists()
    resumed = dlwp.train(f"resume={middle}")
    first, second = weights_of(whole), weights_of(resumed)
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
