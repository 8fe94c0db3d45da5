"""What the forecast promises: too little room for the checkpoints to come is told before a run trains."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from dlwp import api, forecast
from dlwp.config.compose import compose

WORDS = (
    "data=synthetic", "data.num_train=20", "data.num_val=10", "data.num_test=10", "data.shape=[3,8,8]",
    "data.batch_size=10", "model=linear", "trainer.epochs=1", "logger.tensorboard=false", "logger.plots=false",
)  # fmt: skip


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_room_is_compared_with_what_the_checkpoints_take(
    optimizer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = api.train(*WORDS, f"optimizer={optimizer}", "trainer.keep_last=2", f"run_dir={tmp_path / 'run'}")
    checkpoints = run.folder / "checkpoints"
    last = checkpoints / (checkpoints / "last").read_text().strip()
    one = sum(file.stat().st_size for file in last.glob("*.safetensors"))
    parts = api._build(compose([*WORDS, f"optimizer={optimizer}", "trainer.keep_last=2"]))
    empty = tmp_path / "empty"
    empty.mkdir()

    def warnings(free: float, folder: Path) -> list[str]:
        usage: Any = shutil.disk_usage(tmp_path)._replace(free=int(free))
        with monkeypatch.context() as patch:
            patch.setattr(forecast.shutil, "disk_usage", lambda path: usage)
            return forecast.disk_warnings(parts, folder)

    assert warnings(4 * one, empty) == []  # two, the best, and one that is being written
    (text,) = warnings(0.8 * 4 * one, empty)
    assert f"'{empty}'" in text
    assert "4 checkpoints" in text
    assert warnings(0.8 * 4 * one, checkpoints) == []  # one of them is there already
