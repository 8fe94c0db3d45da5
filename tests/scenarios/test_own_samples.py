"""A Dataset of one's own may give anything: dictionaries, namedtuples, longer tuples, batches of its own making."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import dlwp
from dlwp.errors import ConfigError
from scenarios.own_sets import FILE

QUIET = ["trainer.progress=false", "logger.plots=false", "scheduler=constant", "data.batch_size=16"]
TWO = ["model._target_=my_sets.TwoInputs", "trainer.epochs=2", "optimizer.lr=0.3", *QUIET]


@pytest.fixture(autouse=True)
def own_file(own_place: Path) -> None:
    """Put the user's file into the working directory."""
    (own_place / "my_sets.py").write_text(FILE, encoding="utf-8")


def weights(run: dlwp.Run) -> bytes:
    """Return the file of a run's only checkpoint."""
    return max((run.folder / "checkpoints").glob("step-*/model.safetensors")).read_bytes()


def data(name: str) -> list[str]:
    return ["data=dataset", f"data._target_=my_sets.{name}"]


@pytest.mark.parametrize(
    "words",
    [
        [*data("Dictionaries"), "trainer.step=my_sets.step"],
        [*data("Named")],
        [*data("Namedtuples")],
        [*data("Tuples"), "trainer.step=my_sets.step_of_tuples"],
    ],
    ids=lambda words: words[1],
)
def test_several_inputs_are_trained_measured_evaluated_and_resumed(words: list[str], capsys: Any) -> None:
    words = [*words, *([] if "Dictionaries" in words[1] else ["logger.tensorboard=false"])]
    whole = dlwp.train(*words, *TWO, "run_dir=whole", "data.num_workers=0")
    assert "a sample is" in capsys.readouterr().out
    assert whole.summary["last"]["val/accuracy"] > 0.5
    assert dlwp.evaluate("whole", split="val", plots=False)["values"] == pytest.approx(
        {name.removeprefix("val/"): value for name, value in whole.summary["last"].items() if name != "step"}, rel=1e-5
    )
    if "trainer.step" not in " ".join(words):  # a step of dlwp's own, of which it is known what it gives
        assert len(dlwp.evaluate("whole", split="val", output="drawn")["by_class"]) == 2
    assert not [one for one in whole.summary["warnings"] if "TensorBoard" in one]
    dlwp.train(*words, *TWO, "run_dir=cut", "trainer.max_steps=8", "data.num_workers=0")  # an epoch has 6 steps
    again = dlwp.train("resume=cut", "trainer.max_steps=null", "data.num_workers=2")
    assert again.summary["step"] == whole.summary["step"] == 12
    assert weights(again) == weights(whole)


def test_pieces_of_a_dictionary_are_the_whole_batch() -> None:
    words = [*data("Namedtuples"), *TWO, "data.num_workers=0", "trainer.precision=fp64"]
    one = dlwp.train(*words, "run_dir=one")
    three = dlwp.train(*words, "trainer.accumulate=3", "run_dir=three")
    assert three.summary["last"]["val/loss"] == pytest.approx(one.summary["last"]["val/loss"], rel=1e-9)


@pytest.mark.parametrize(("name", "key"), [("Ragged", ["data.collate=my_sets.collate"]), ("Collating", [])])
def test_batches_are_made_by_the_users_own_collate(name: str, key: list[str]) -> None:
    words = [*data(name), *key, "model._target_=my_sets.Words", "trainer.epochs=2", *QUIET]
    alone = dlwp.train(*words, "data.num_workers=0", "run_dir=alone")
    helped = dlwp.train(*words, "data.num_workers=2", "run_dir=helped")
    assert weights(alone) == weights(helped)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([*data("Dictionaries")], r"a sample holds left, name, right and its label, the model's forward takes left, r"),
        ([*data("Tuples")], r"a sample is \(float32 3, float32 3, int64\), not .*trainer.step=my_file.step"),
        ([*data("Ragged")], r"samples of Ragged differ: .* or data.collate=my_file.collate"),
        ([*data("Named"), "data.augment=[flip]"], r"data.augment is for pairs"),
        ([*data("Named"), "data.mean=auto", "data.std=auto"], r"data.mean and data.std are for pairs"),
        ([*data("Named"), "trainer.step=my_sets.wrong_step"], r"trainer.step fails at .*my_sets.py:\d+ on a batch of"),
        ([*data("Named"), "data.collate=my_sets.colate"], r"my_sets has no 'colate'. Did you mean 'collate'"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_line(words: list[str], line: str) -> None:
    with pytest.raises(Exception, match=line) as found:
        dlwp.train(*words, *TWO, "data.num_workers=0")
    assert isinstance(found.value, ConfigError) or "differ" in line
