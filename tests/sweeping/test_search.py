"""A search proposes, prunes and tells; stopped at any trial it goes on, and it compares with the default honestly."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dlwp.sweeping import jobs, result, search
from sweeping.conftest import exits, has_saved, lines

optuna = pytest.importorskip("optuna", minversion="4")

PLAIN = ["logger.plots=false", "logger.tensorboard=false", "model=linear", "trainer.limit_batches=8"]
SEARCH = ["hydra/sweeper=optuna", "optimizer.lr=tag(log,interval(1e-4,1))", "run_dir=search"]


def trials(folder: str = "search") -> list[optuna.trial.FrozenTrial]:
    """Return the trials of the study in a folder."""
    return search.study_of(Path(folder))[0].get_trials()


def states(folder: str = "search") -> list[str]:
    return [trial.state.name for trial in trials(folder)]


def test_trial_0_is_the_default_and_the_best_is_told_beside_it_with_its_command(
    command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*PLAIN, "trainer.epochs=2", *SEARCH, "data.batch_size=32,64", "hydra.sweeper.n_trials=6"]
    assert command(*words, "optimizer.weight_decay=0") == 0
    out = capsys.readouterr().out
    found = {trial.number: trial for trial in result.trials(Path("search"))}
    assert list(found) == [0, 1, 2, 3, 4, 5]
    first = jobs.records(Path("search"))[0]
    assert first["name"] == "default"
    assert not [word for word in first["words"] if "lr" in word or "batch_size" in word]
    best = max(found.values(), key=lambda trial: (trial.value, -trial.number))
    assert f"best     trial {best.number} of 6 trials" in out
    again = next(line for line in out.splitlines() if line.startswith("again    dlwp-train "))
    assert "optimizer.weight_decay=0" in again
    assert "run_dir" not in again
    assert (f"optimizer.lr={trials()[best.number].params.get('optimizer.lr')}" in again) == (best.number > 0)
    assert {"history.png", "importance.png", "keys.png"} == {path.name for path in Path("search/plots").iterdir()}
    values = [trial.value for trial in trials()]
    assert values[1:] == [found[number].value for number in range(1, 6)]


def test_a_search_is_a_function_of_its_seed_however_often_it_was_stopped(command: Callable[..., int]) -> None:
    words = [*PLAIN, "trainer.epochs=1", *SEARCH, "hydra.sweeper.sampler=random"]
    assert command(*words, "hydra.sweeper.n_trials=5") == 0
    words = [word.replace("run_dir=search", "run_dir=parts") for word in words]
    assert command(*words, "hydra.sweeper.n_trials=2") == 0
    assert command("sweep_resume=parts", "hydra.sweeper.n_trials=4") == 0
    assert command("sweep_resume=parts", "hydra.sweeper.n_trials=5") == 0
    assert [trial.params for trial in trials("parts")] == [trial.params for trial in trials()]
    assert len({str(trial.params) for trial in trials()}) == 5
    assert [trial.value for trial in trials("parts")] == [trial.value for trial in trials()]


def test_a_search_that_was_stopped_goes_on_with_the_trial_that_it_was_in(
    command: Callable[..., int], cut: Callable[..., tuple[int, str]]
) -> None:
    words = ["logger.plots=false", "logger.tensorboard=false", "model=mlp", "trainer.epochs=25", *SEARCH]
    words += ["hydra.sweeper.n_trials=3", "hydra.sweeper.pruner=none"]
    status, out = cut(words, has_saved(Path("search"), 1), signal.SIGINT)
    assert status == 130
    assert "go on    dlwp-train -m sweep_resume=search" in out
    assert states() == ["COMPLETE", "RUNNING"]
    values = trials()[1].params
    assert cut(["sweep_resume=search"], has_saved(Path("search"), 2), signal.SIGKILL)[0] == -signal.SIGKILL
    assert states() == ["COMPLETE", "COMPLETE", "RUNNING"]
    assert command("sweep_resume=search") == 0
    assert states() == ["COMPLETE"] * 3
    assert trials()[1].params == values
    for number in (1, 2):
        (log,) = Path("search").glob(f"{number}_*/run.log")
        assert "resume   " in log.read_text()
        assert list(trials()[number].intermediate_values) == list(range(1, 26))
    assert set(exits(Path("search")).values()) == {"done"}


def test_a_trial_that_does_worse_is_pruned_and_counts_as_done(
    command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*PLAIN, "trainer.epochs=4", "hydra/sweeper=optuna", "hydra.sweeper.sampler=grid", "run_dir=search"]
    words += ["optimizer.lr=0.5,0.4,0.3,0.2,0.1,1e-09", "hydra.sweeper.warmup=1"]
    assert command(*words) == 0
    assert [trial.params.get("optimizer.lr") for trial in trials()][1:] == ["0.5", "0.4", "0.3", "0.2", "0.1", "1e-09"]
    assert states()[-1] == "PRUNED"
    assert exits(Path("search"))["6"] == "pruned"
    (metrics,) = Path("search").glob("6_*/metrics.jsonl")
    assert [(line["split"], line["epoch"]) for line in lines(metrics) if line["split"] != "train"] == [("val", 1)]
    assert "1 of them pruned" in capsys.readouterr().out
    assert command("sweep_resume=search") == 0
    assert "\njob" not in capsys.readouterr().out


def test_several_jobs_at_once_and_several_processes_share_one_search(
    command: Callable[..., int], cut: Callable[..., tuple[int, str]]
) -> None:
    words = [*PLAIN, "trainer.epochs=6", *SEARCH, "jobs=2", "hydra.sweeper.n_trials=6", "hydra.sweeper.pruner=none"]
    joined: list[int] = []

    def join() -> bool:
        if has_saved(Path("search"), 0)() and not joined:
            joined.append(command("sweep_resume=search", "jobs=1"))
        return bool(joined)

    cut(words, join, signal.SIGTERM)
    assert command("sweep_resume=search") == 0
    assert len(trials()) == 6
    assert set(states()) <= {"COMPLETE", "FAIL"}
    ends = [line["number"] for line in lines(Path("search/jobs.jsonl")) if line.get("exit_code") == 0]
    assert sorted(ends) == [0, 1, 2, 3, 4, 5]  # each was done once


def test_a_value_at_which_training_fails_is_an_answer_and_three_at_the_start_are_enough(
    command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*PLAIN, "trainer.epochs=1", "hydra/sweeper=optuna", "hydra.sweeper.sampler=grid", "run_dir=search"]
    assert command(*words, "device=cpu,cuda:99") == 0
    assert states()[1:] == ["COMPLETE", "FAIL"]
    assert "1 of 3 trials failed: #2 device=cuda:99 (exit 4" in capsys.readouterr().err
    words = [word.replace("run_dir=search", "run_dir=hopeless") for word in words]
    assert command(*words, "device=cuda:99", "seed=1,2,3,4,5") == 4
    assert "search   given up: the first 3 trials failed" in capsys.readouterr().out


def test_a_line_that_a_killed_process_left_torn_is_cut_off(command: Callable[..., int]) -> None:
    words = [*PLAIN, "trainer.epochs=1", *SEARCH, "hydra.sweeper.n_trials=2"]
    assert command(*words) == 0
    with Path("search", search.STUDY).open("a") as file:
        file.write('{"op_code":5,"wor')
    assert command("sweep_resume=search", "hydra.sweeper.n_trials=3") == 0
    assert len(trials()) == 3
    assert all(json.loads(line) for line in Path("search", search.STUDY).read_text().splitlines())


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["hydra.sweeper.sampler=tpee"], "hydra.sweeper.sampler must be tpe, random, grid, cmaes or qmc, got 'tpee'"),
        (["hydra.sweeper.pruner=medan"], "Did you mean 'median'"),
        (["hydra.sweeper.timeout=5"], "hydra.sweeper.timeout must be a number and a unit, such as '10 min'"),
        (["hydra.sweeper.n_trials=0"], "hydra.sweeper.n_trials must be ≥ 1, got 0"),
        (["hydra.sweeper.n_trails=9"], "n_trails"),
        (["hydra.sweeper.sampler=grid"], "grid needs values that can be listed; 'optimizer.lr' is an interval"),
        (["optimizer.lrr=interval(0,1)"], "unknown key 'optimizer.lrr'. Did you mean 'optimizer.lr'"),
        (["model=mlp,resnett"], "no model 'resnett'. Did you mean 'resnet'"),
        (["trainer.epochs=range(0,3)"], "trainer.epochs must be ≥ 1, got 0"),
        (["metrics=auto"], "One of: trainer.monitor=val/accuracy, trainer.monitor=val/rmse"),
    ],
)
def test_a_mistake_in_a_search_is_told_before_its_first_trial(
    command: Callable[..., int], capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    space = ["optimizer.lr=tag(log,interval(1e-4,1))"] if not words[0].startswith("optimizer") else []
    assert command("data=digits", "hydra/sweeper=optuna", *space, *words) == 2
    err = capsys.readouterr().err
    assert told in err
    assert not Path("outputs").exists()


def test_without_its_package_a_line_names_the_extra(
    command: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert command("hydra/sweeper=optuna", "seed=1,2") == 4
    assert "needs the package optuna: pip install 'dlwp[optuna]'" in capsys.readouterr().err


def test_a_search_space_stands_in_an_experiment_too_and_what_is_typed_wins(
    command: Callable[..., int], tmp_path: Path
) -> None:
    (tmp_path / "own" / "experiment").mkdir(parents=True)
    text = "# @package _global_\ndefaults:\n  - override /hydra/sweeper: optuna\nhydra:\n  sweeper:\n    n_trials: 3\n"
    text += "    params:\n      optimizer.lr: interval(0.1,0.2)\n      data.batch_size: 32,64\n"
    (tmp_path / "own" / "experiment" / "find.yaml").write_text(text)
    words = [*PLAIN, "trainer.epochs=1", "experiment=find", "data.batch_size=16,24", "run_dir=search"]
    assert command("--config-dir", "own", *words) == 0
    assert len(trials()) == 3
    assert all(0.1 <= trial.params["optimizer.lr"] <= 0.2 for trial in trials()[1:])
    assert {trial.params["data.batch_size"] for trial in trials()[1:]} <= {"16", "24"}
