"""Data that can only be iterated trains, and a run that was cut goes on bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import dlwp
from dlwp.errors import ConfigError, DataError, RunError
from scenarios.own_sets import FILE

WORDS = ["data=dataset", "model=linear", "data.batch_size=16", "scheduler=constant", "data.classes=2"]
QUIET = ["trainer.progress=false", "logger.plots=false", "logger.tensorboard=false"]
STEPS = "data.steps_per_epoch=4"  # of 5.6 that a pass has


@pytest.fixture(autouse=True)
def own_file(own_place: Path) -> None:
    """Put the user's file into the working directory."""
    (own_place / "my_sets.py").write_text(FILE, encoding="utf-8")


def train(name: str, *words: str) -> dlwp.Run:
    return dlwp.train(f"data._target_=my_sets.{name}", *WORDS, *QUIET, *words)


def weights(run: dlwp.Run) -> bytes:
    """Return the file of a run's only checkpoint."""
    return max((run.folder / "checkpoints").glob("step-*/model.safetensors")).read_bytes()


@pytest.mark.parametrize(
    ("name", "words", "said"),
    [
        ("Stateful", [STEPS], None),
        ("Stateful", [STEPS, "data.num_workers=1"], None),
        ("Stream", [STEPS], "22 samples of Stream read again and skipped (it has no state_dict)"),
        (
            "Stream",
            [STEPS, "data.num_workers=2"],
            "112 samples of Stream read again and skipped (it has no state_dict)",
        ),
        ("Sized", [], "16 samples of Sized read again and skipped"),
        ("Counting", [], "16 samples of Counting read again and skipped"),
        ("with_val", [STEPS], None),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value) if value else "",
)
def test_a_run_cut_in_the_middle_of_an_epoch_goes_on_bit_for_bit(
    name: str, words: list[str], said: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = train(name, *words, "trainer.epochs=3", "run_dir=whole")
    train(name, *words, "trainer.epochs=3", "trainer.max_steps=7", "run_dir=cut")
    capsys.readouterr()
    again = dlwp.train("resume=cut", "trainer.max_steps=null")
    assert (said or "resume ") in (told := capsys.readouterr().out)
    assert ("skipped" in told) == (said is not None)
    assert again.summary["step"] == whole.summary["step"] > 7
    assert weights(again) == weights(whole)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("name", ["Sized", "SizedStateful"])
def test_a_run_cut_at_the_end_of_a_pass_goes_on_with_the_next(name: str, workers: int) -> None:
    words = [f"data.num_workers={workers}", "trainer.epochs=3"]
    whole = train(name, *words, "run_dir=whole")
    train(name, *words, "trainer.max_steps=6", "run_dir=cut")  # 90 samples by 16
    assert weights(dlwp.train("resume=cut", "trainer.max_steps=null")) == weights(whole)


def test_one_worker_gives_what_this_process_gives() -> None:
    here = train("Stateful", STEPS, "trainer.epochs=2", "run_dir=here")
    there = train("Stateful", STEPS, "trainer.epochs=2", "data.num_workers=1", "run_dir=there")
    assert weights(here) == weights(there)


def test_another_number_of_workers_is_other_data() -> None:
    train("Stream", STEPS, "trainer.epochs=2", "trainer.max_steps=3", "run_dir=cut")
    with pytest.raises(DataError, match=r"num_workers 1 → 2"):
        dlwp.train("resume=cut", "trainer.max_steps=null", "data.num_workers=2")


def test_without_a_length_max_steps_is_the_epoch_and_may_grow() -> None:
    whole = train("Stateful", "trainer.max_steps=12", "run_dir=whole")
    train("Stateful", "trainer.max_steps=7", "run_dir=cut")
    assert weights(dlwp.train("resume=cut", "trainer.max_steps=12")) == weights(whole)


def test_workers_that_give_the_same_are_told() -> None:
    run = train("Unshared", "trainer.epochs=1", "data.num_workers=2")
    assert [text for text in run.summary["warnings"] if "Unshared does not share its samples out" in text]


@pytest.mark.parametrize(
    ("name", "words", "kind", "line"),
    [
        ("Stream", [], ConfigError, r"Stream can only be iterated and has no length.*data.steps_per_epoch=1000"),
        ("Nothing", [], DataError, r"Nothing yields nothing: its __iter__ gives no sample"),
        ("Short", [], DataError, r"Short ended after 40 samples of epoch 1, its __len__ says 90"),
        ("Stream", [STEPS, "data.max_samples=9"], ConfigError, r"data.max_samples does not cut"),
        ("Stream", [STEPS, "data.on_error=skip"], ConfigError, r"data.on_error=skip needs samples that have numbers"),
        ("Ragged", [STEPS], ConfigError, r"data.steps_per_epoch is for data that can only be iterated"),
    ],
)
def test_what_cannot_be_is_one_line(name: str, words: list[str], kind: type[Exception], line: str) -> None:
    with pytest.raises(kind, match=line):
        train(name, "trainer.epochs=1", *words)


def test_facts_are_of_the_first_samples_and_cost_none(capsys: pytest.CaptureFixture[str]) -> None:
    from dlwp.build import Builder
    from dlwp.config.compose import compose

    words = [word for word in WORDS if "classes" not in word]
    parts = Builder(compose(["data._target_=my_sets.Stateful", *words, STEPS]).values).build()
    assert (parts.data.facts.num_classes, parts.data.facts.input_shape) == (2, (6,))
    assert parts.data.facts.sources["num_classes"] == "largest label, from the first 90 samples"
    state = parts.data.train.state_dict()  # type: ignore[attr-defined]
    assert state["at"] == 0 and torch.equal(state["noise"], torch.Generator().manual_seed(5).get_state())


def test_a_worker_that_dies_is_one_line() -> None:
    with pytest.raises(RunError, match=r"a data worker died"):
        train("Dying", STEPS, "data.num_workers=1")
