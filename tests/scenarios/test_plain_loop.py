"""The trainer adds nothing to the result: it ends with the bits of scripts/plain_loop.py."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch

from dlwp.api import train_config
from dlwp.build import Builder
from dlwp.config.compose import compose
from dlwp.data.datasets import ArrayDataset

PLAIN_LOOP = Path(__file__).parents[2] / "scripts" / "plain_loop.py"


@pytest.mark.parametrize("seed", [0, 7])
def test_trainer_equals_plain_loop_bit_for_bit(seed: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from dlwp.models import resnet

    monkeypatch.chdir(tmp_path)
    cifar10 = compose(["data=cifar10", "model=resnet"]).values["data"]
    words = [
        "model=resnet", "data=synthetic", f"seed={seed}", "trainer.epochs=2", "data.num_train=300", "data.num_val=30",
        "data.num_test=30", "logger.tensorboard=false", "logger.plots=false", "trainer.keep_best=false",
        *(f"data.{name}={cifar10[name]}".replace(" ", "") for name in ("mean", "std", "augment", "batch_size")),
    ]  # fmt: skip
    config = compose(words)
    run = train_config(config)
    data = Builder(config.values).build_for_evaluation().data.train
    assert isinstance(data, ArrayDataset)
    # the pictures are 32x32, so that the network is the real one; the three batches of 300 keep it short
    bare = runpy.run_path(str(PLAIN_LOOP))["train"](data, 2, seed, say=lambda line: None)
    from dlwp import checkpoint
    from dlwp.runs.folder import RunFolder

    last = RunFolder(run.folder).pointed("last")
    assert last is not None
    weights, _ = checkpoint.load_weights(last)
    assert isinstance(bare, resnet.ResNet)
    different = [name for name, value in bare.state_dict().items() if not torch.equal(value, weights[name])]
    assert different == []
