"""What is compared: seeds together, one metric, the same data, and nothing that did not finish."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dlwp.comparing import groups, verdict
from dlwp.errors import ConfigError
from dlwp.runs.folder import RunFolder

CONFIG = """
defaults: [train_schema]
seed: {seed}
device: {device}
trainer: {{epochs: 2, monitor_mode: {mode}, precision: {precision}}}
data: {{_target_: dlwp.data.images.{data}, batch_size: 64}}
model: {{_target_: my.Net, num_classes: 10}}
optimizer: {{_target_: torch.optim.SGD, lr: {lr}}}
"""


def make(
    name: str, value: float | None, *, seed: int = 0, lr: float = 0.1, metric: str = "accuracy", data: str = "digits",
    exit: str = "done", digest: str | None = "d", mode: str = "auto", val: tuple[float, ...] = (0.5, 0.9),
    typed: tuple[str, ...] = (), machine: str = "cpu",
) -> Path:  # fmt: skip
    run = RunFolder.create(Path(name))
    precision = "bf16" if machine == "cuda" else "fp32"
    run.config.write_text(CONFIG.format(seed=seed, lr=lr, data=data, mode=mode, device=machine, precision=precision))
    run.overrides.write_text(json.dumps([f"optimizer.lr={lr}", f"seed={seed}", *typed]))
    found: dict[str, Any] = {"decided": {"trainer.precision": {}}, "packages": {"torch": "2.13.0"}, "device": machine}
    if digest is not None:
        found["data"] = {"test": {"samples": 359, "digest": digest}, "val": {"samples": 144, "digest": f"v{seed}"}}
    run.environment.write_text(json.dumps(found))
    lines = [
        {"step": 10 + i, "epoch": 1 + i, "split": "val", metric: one, "loss": 1 - one} for i, one in enumerate(val)
    ]
    run.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    best = {"step": 9 + len(val), f"val/{metric}": val[-1]}
    test = None if value is None else {metric: value, "loss": 2.0, "step": 9 + len(val)}
    run.update_summary(exit=exit, step=9 + len(val), epoch=len(val), best=best, test=test, elapsed_s=3.0)
    run.close()
    return run.path


def both(**options: Any) -> None:
    """Make three seeds of each of two rates in `runs`, the second better by 0.1."""
    for seed in range(3):
        make(f"runs/a{seed}", 0.7 + seed / 100, seed=seed, lr=0.1, **options)
        make(f"runs/b{seed}", 0.8 + seed / 90, seed=seed, lr=0.2, **options)


def test_seeds_of_one_setting_are_together_and_named_by_what_differs() -> None:
    both()
    found = groups.read([Path("runs")])
    assert [setting.name for setting in found.settings] == ["lr=0.1", "lr=0.2"]
    assert found.keys == ["optimizer.lr"] and found.metric == "test/accuracy" and found.higher
    assert found.settings[0].values == {0: 0.7, 1: 0.71, 2: pytest.approx(0.72)}
    assert found.num_samples == 359


def test_runs_that_did_not_finish_are_named_and_do_not_count() -> None:
    both()
    make("runs/c", 0.1, seed=3, exit="failed")
    make("runs/d", None, seed=4)
    found = groups.read([Path("runs")], metric="test/accuracy")
    assert found.left_out == {"runs/c": "failed", "runs/d": "has no test/accuracy"}
    assert [len(setting.trials) for setting in found.settings] == [3, 3]
    with pytest.raises(ConfigError, match="none of 1 runs is finished") as told:
        groups.read([Path("runs/c")])
    assert told.value.details == ("runs/c: failed",)


def test_where_not_all_were_tested_the_best_of_val_is_compared() -> None:
    make("runs/a", 0.7, lr=0.1)
    make("runs/b", None, lr=0.2)
    found = groups.read([Path("runs")])
    assert found.metric == "val/accuracy" and found.settings[0].values == {0: 0.9}


def test_a_metric_that_is_not_monitored_is_that_of_the_best_step() -> None:
    both(val=(0.5, 0.9))
    found = groups.read([Path("runs")], metric="val/loss")
    assert found.settings[0].mean == pytest.approx(0.1) and not found.higher


@pytest.mark.parametrize(
    ("metric", "mode", "val", "higher"),
    [
        ("accuracy", "auto", (0.5, 0.9), True),
        ("strange", "auto", (0.5, 0.9), True),  # the run itself took the largest for the best
        ("strange", "auto", (0.9, 0.5), False),
        ("strange", "min", (0.5, 0.5), False),
        ("rmse", "auto", (0.5,), False),
    ],
)
def test_what_is_better_is_known_from_the_runs_else_from_the_name(
    metric: str, mode: str, val: tuple[float, ...], higher: bool
) -> None:
    make("runs/a", 0.7, lr=0.1, metric=metric, mode=mode, val=val)
    make("runs/b", 0.8, lr=0.2, metric=metric, mode=mode, val=val)
    assert groups.read([Path("runs")]).higher is higher
    assert groups.read([Path("runs")], mode="min").higher is False


def test_the_machine_tells_no_settings_apart_and_is_told() -> None:
    make("runs/a", 0.7, seed=0, machine="cpu")
    make("runs/b", 0.8, seed=1, machine="cuda")
    found = groups.read([Path("runs")])
    assert len(found.settings) == 1 and found.keys == []
    assert found.beside == {"device": ["cpu", "cuda"], "trainer.precision": ["fp32", "bf16"]}


def test_a_replay_is_of_the_setting_that_it_replays() -> None:
    make("runs/a", 0.7, seed=0, typed=("model=net", "experiment=mine"))
    make("runs/b", 0.8, seed=1)
    assert [len(setting.trials) for setting in groups.read([Path("runs")]).settings] == [2]


def test_a_seed_that_was_run_twice_counts_once() -> None:
    both()
    make("runs/again", 0.75, seed=0, lr=0.1)
    found = groups.read([Path("runs/a0"), Path("runs")])
    assert len(found.settings[0].trials) == 3
    assert found.notes == ["lr=0.1: 1 run of a seed that a newer one has too, not counted"]


def test_folders_of_the_same_config_are_compared_with_one_another() -> None:
    for seed in range(3):
        make(f"before/{seed}", 0.7, seed=seed)
        make(f"after/{seed}", 0.8, seed=seed)
    found = groups.read([Path("before"), Path("after")])
    assert [setting.name for setting in found.settings] == [
        "before",
        "after",
    ] and "configs are the same" in found.notes[0]
    apart = groups.read([Path("before/0"), Path("after/1")])
    assert [setting.name for setting in apart.settings] == ["all runs"]
    pair = groups.read([Path("before/0"), Path("after/0")])
    assert [setting.name for setting in pair.settings] == ["before/0", "after/0"]


def test_the_baseline_is_the_first_or_the_one_named_and_the_others_come_best_first() -> None:
    for lr, value in ((0.1, 0.5), (0.2, 0.6), (0.3, 0.9)):
        make(f"runs/{lr}", value, lr=lr)
    assert [one.name for one in groups.read([Path("runs")]).settings] == ["lr=0.1", "lr=0.3", "lr=0.2"]
    named = groups.read([Path("runs")], baseline="0.3")
    assert [one.name for one in named.settings] == ["lr=0.3", "lr=0.2", "lr=0.1"]
    for wrong, told in (("lr=", "fits several"), ("lr=0.33", "is no setting. Did you mean 'lr=0.3'")):
        with pytest.raises(ConfigError, match=told) as error:
            groups.read([Path("runs")], baseline=wrong)
        assert error.value.details == ("there are: lr=0.1, lr=0.2, lr=0.3",)


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"data": "mnist", "digest": None}, "different data (digits: 1 run, mnist: 1 run), so they are not compared"),
        ({"digest": "e"}, "test holds other samples in runs/b than in runs/a, so they are not compared"),
        (
            {"metric": "f1"},
            "judged by different metrics (val/accuracy: 1 run, val/f1: 1 run), so they are not compared. "
            "metric=test/loss compares what all have",
        ),
    ],
    ids=["data", "samples", "metrics"],
)
def test_what_cannot_be_compared_is_said_in_one_line(other: dict[str, Any], told: str) -> None:
    make("runs/a", 0.7, lr=0.1)
    make("runs/b", 0.8, lr=0.2, **other)
    with pytest.raises(ConfigError) as error:
        groups.read([Path("runs")])
    assert told in str(error.value)


def test_a_test_split_that_the_seed_cuts_is_compared_and_one_of_other_samples_is_not() -> None:
    for seed in range(3):
        for lr in (0.1, 0.2):
            make(f"cut/{lr}-{seed}", 0.7, seed=seed, lr=lr, digest=f"of seed {seed}")
        make(f"other/a{seed}", 0.7, seed=seed, lr=0.1, digest="d")
        make(f"other/b{seed}", 0.8, seed=seed + 3, lr=0.2, digest="e")
    assert len(groups.read([Path("cut")]).settings) == 2
    with pytest.raises(ConfigError, match=r"test holds other samples in other/b. than in other/a."):
        groups.read([Path("other")])


def test_of_a_very_long_run_most_lines_of_training_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    run = make("runs/a", 0.7)
    lines = [{"step": step, "split": "train", "loss": step / 100} for step in range(1, 101)]
    lines.insert(37, {"step": 37, "split": "val", "accuracy": 0.9})
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    RunFolder(run).update_summary(best={"step": 37, "val/accuracy": 0.9})
    monkeypatch.setattr(groups, "MOST_LINES", 10)
    found = groups.read([Path("runs")], metric="train/loss").settings[0]
    assert found.mean == 0.37 and len(found.trials[0].records) < 15


def test_an_unknown_metric_is_named_with_the_nearest() -> None:
    make("runs/a", 0.7)
    with pytest.raises(ConfigError, match=r"Did you mean 'test/accuracy'.*There are: test/accuracy, test/loss, val/"):
        groups.read([Path("runs")], metric="test/acuracy")


def test_files_that_hold_something_else_break_nothing() -> None:
    both()
    Path("runs/a0/environment.json").write_text("[1")
    Path("runs/a1/environment.json").write_text('{"data": {"test": 3}, "packages": [], "git": "x"}')
    Path("runs/b0/metrics.jsonl").write_text('{"step": "x", "split": "val", "accuracy": []}\n{"split": 3}\n')
    found = groups.read([Path("runs")])
    assert len(verdict.pairs_of(found)) == 1 and found.num_samples is None
