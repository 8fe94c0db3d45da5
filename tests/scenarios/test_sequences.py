"""A run of text or of a series that is cut in the middle of an epoch goes on to the same bits."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

import dlwp
from dlwp import api

SMALL = ["trainer.progress=false", "logger.plots=false", "logger.tensorboard=false", "trainer.epochs=3"]
SMALL += ["data.batch_size=8", "trainer.checkpoint_every=5 steps", "trainer.keep_last=99"]


@pytest.fixture
def kinds() -> dict[str, list[str]]:
    """Return the words of a small run of each kind."""
    text = "".join(f"line {number} of a poem.\n" for number in range(120))
    Path("poem.txt").write_text(text, encoding="utf-8")
    rows = [f"{math.sin(row):.4f},{row % 7}" for row in range(200)]
    Path("table.csv").write_text("\n".join(["load,day", *rows]), encoding="utf-8")
    transformer = ["model=transformer", "model.width=16", "model.depth=1", "model.num_heads=2", "model.dropout=0.1"]
    series = ["data=timeseries", "data.path=table.csv", "data.target=load", "data.window=12", "data.horizon=4"]
    return {
        "text": ["data=sequence", "data.path=poem.txt", "data.length=16", *transformer],
        "tcn": [*series, "model=tcn", "model.width=8", "data.known=[day]"],
        "lstm": [*series, "model=lstm", "model.width=8"],
    }


@pytest.mark.parametrize("kind", ["text", "tcn", "lstm"])
def test_resume_from_the_middle_of_an_epoch_equals_the_uninterrupted_run(
    kinds: dict[str, list[str]], kind: str
) -> None:
    words = [*kinds[kind], *SMALL]
    whole = dlwp.train(*words, "run_dir=whole").folder
    steps = int(dlwp.train(*words, "run_dir=cut").summary["step"])  # of which all after step 5 is forgotten
    middle = Path("cut/checkpoints/step-00000005")
    assert middle.exists() and steps > 10
    resumed = dlwp.train(f"resume={middle}").folder
    one, other = (api._network(folder / "checkpoints" / f"step-{steps:08}", [])[0].model for folder in (whole, resumed))
    for (name, left), right in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(left, right), name
