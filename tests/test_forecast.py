"""What the forecast promises: too little room for the checkpoints to come is told before a run trains."""

from __future__ import annotations

import re
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


def test_a_peak_above_what_is_free_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    told = forecast.forecast(api._build(compose(list(WORDS))), budget_s=0.1)
    assert told.warnings() == []
    monkeypatch.setattr(forecast.memory, "free", lambda: 0)
    told.memory_mib = 9e6
    (text,) = told.warnings()
    assert re.match(r"the run takes 9,000,000 MiB of memory at its peak, [\d,]+ MiB are free here\. trainer", text)


def test_a_run_on_features_of_a_frozen_backbone_is_forecast_on_as_many_of_them() -> None:
    words = [*WORDS, "model=cnn", "model.freeze=backbone", "data.augment=null", "data.shape=[3,16,16]"]
    parts = api._build(compose([word for word in words if word not in ("model=linear", "data.shape=[3,8,8]")]))
    fed, seconds = forecast._fed(parts, budget_s=1e-9)
    assert seconds > 0
    assert {name: one.num_samples for name, one in fed.loaders.items()} == {"train": 20, "val": 10, "test": 10}
    assert fed.step is not None and parts.step is None
    told = forecast.forecast(parts, budget_s=0.1)
    assert told.steps == 2 and told.evaluations == 1
