"""A run says where its time went, and what would make it faster by how much, where that is worth saying."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import dlwp
from dlwp import devices
from dlwp.data.datasets import ArrayDataset
from dlwp.data.resident import ResidentLoader
from dlwp.data.streaming import StreamingLoader
from dlwp.settings import TrainerSettings
from dlwp.timing import advice, time_line

MODEL = {"forward": 3.0, "backward": 6.0, "optimizer": 1.0}
DATA = ArrayDataset(torch.zeros(64, 2), torch.zeros(64))


def told(others: dict[str, float], loader: Any = None, **settings: Any) -> str | None:
    return advice({**MODEL, **others}, loader, TrainerSettings(**settings))


def streaming(workers: int, cpu_s: float) -> StreamingLoader:
    loader = StreamingLoader(DATA, 8, num_workers=workers)
    loader.cpu_s, loader.num_read = cpu_s, 1000
    return loader


@pytest.fixture
def two_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "usable_processors", lambda among=1: 2)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_the_line_puts_the_model_together_and_leaves_out_what_is_nothing() -> None:
    assert time_line({**MODEL, "data": 10.0, "saving": 0.01}) == "50% model · 50% data"
    assert time_line({}) == "no step was taken"


def test_nothing_is_said_where_the_model_takes_nearly_all_or_the_start_took_long() -> None:
    assert told({"data": 1.0, "evaluation": 1.0}) is None
    assert told({"start": 100.0}) is None


def test_of_a_run_of_seconds_only_the_data_is_told_of() -> None:
    short = {name: seconds / 2 for name, seconds in MODEL.items()}
    assert told({**short, "logging": 4.0}) is None
    assert str(told({**short, "data": 4.0}, ResidentLoader(DATA, 8))).startswith("44% making batches")


@pytest.mark.usefixtures("two_processors")
def test_data_that_waits_for_a_disk_is_read_beside_the_model() -> None:
    found = told({"data": 10.0}, streaming(0, cpu_s=0.0))
    assert found == "50% waiting for data: data.num_workers=1, about 2.0 times faster"
    found = told({"data": 40.0}, streaming(0, cpu_s=0.0))  # of one worker 40 s, of two 20 s
    assert found == "80% waiting for data: data.num_workers=2, about 2.5 times faster"


@pytest.mark.usefixtures("two_processors")
def test_data_that_keeps_a_processor_busy_competes_with_the_model() -> None:
    # 10 s of the model on both processors, 10 s of reading on one, and a quarter of that as they wait for one another,
    # are 32.5 s for two processors
    found = told({"data": 10.0}, streaming(0, cpu_s=10.0))
    assert found == "50% waiting for data: data.num_workers=1, about 1.2 times faster"


@pytest.mark.usefixtures("two_processors")
def test_where_workers_do_not_help_it_says_what_a_sample_costs() -> None:
    found = told({"data": 10.0}, streaming(2, cpu_s=0.0))
    assert found == "50% waiting for data: a sample takes 40 ms, and more workers would not help here"


def test_batches_of_what_is_in_memory_are_told_of_as_such() -> None:
    found = told({"data": 10.0}, ResidentLoader(DATA, 8))
    assert found == "50% making batches of what is in memory: fewer or cheaper operations in data.augment"


@pytest.mark.parametrize(
    ("name", "settings", "key"),
    [
        ("evaluation", {"eval_every": "1 epoch"}, "trainer.eval_every='10 epochs'"),
        ("evaluation", {"eval_every": "50 steps"}, "trainer.eval_every='500 steps'"),
        ("saving", {"checkpoint_every": "1 min"}, "trainer.checkpoint_every='600 s'"),
        ("logging", {"log_every": 1}, "trainer.log_every=10"),
    ],
)
def test_what_comes_too_often_is_to_come_as_much_rarer_as_brings_it_to_a_twentieth(
    name: str, settings: dict[str, Any], key: str
) -> None:
    assert told({name: 5.0}, **settings) == f"33% {name}: {key}, about 1.4 times faster"


@pytest.mark.parametrize(
    ("text", "quota"), [("max 100000", float("inf")), ("150000 100000", 1.5), ("", float("inf")), (None, float("inf"))]
)
def test_the_quota_of_a_container_is_read(tmp_path: Path, text: str | None, quota: float) -> None:
    if text is not None:
        (tmp_path / "cpu.max").write_text(text)
    assert devices._quota(tmp_path / "cpu.max") == quota


def test_the_shares_of_a_run_stand_in_its_summary_and_make_a_whole(tmp_path: Path) -> None:
    found = dlwp.train("data=digits", "model=linear", "trainer.epochs=1", f"run_dir={tmp_path / 'run'}")
    shares = found.summary["time"]
    assert {"start", "data", "forward", "backward", "optimizer", "evaluation", "logging"} <= set(shares)
    assert sum(shares.values()) == pytest.approx(1, abs=1e-3)
