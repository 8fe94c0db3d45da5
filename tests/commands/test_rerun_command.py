"""What `dlwp-rerun` does again, tells and refuses."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

import dlwp
from dlwp.commands import rerun
from dlwp.comparing import again
from dlwp.runs import history

WORDS = [
    "data=digits", "model=linear", "trainer.epochs=2", "trainer.log_every=7", "seed=3", "logger.tensorboard=false",
    "logger.plots=false",
]  # fmt: skip


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Return a function from words to (exit status, standard output, standard error) of dlwp-rerun."""

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["dlwp-rerun", *words])
        capsys.readouterr()
        return rerun.main(), *capsys.readouterr()

    return run


@pytest.fixture
def first() -> Path:
    """Return a run of 6 lines of training, 2 of val and 1 of test."""
    return dlwp.train(*WORDS, "run_dir=first").folder


def changed(run: Path, line: int, **values: Any) -> None:
    """Write other numbers into a line of metrics.jsonl, as if the run had been another."""
    lines = run.joinpath("metrics.jsonl").read_text().splitlines()
    lines[line] = json.dumps(json.loads(lines[line]) | values)
    run.joinpath("metrics.jsonl").write_text("\n".join(lines) + "\n")


def environment(run: Path, **values: Any) -> None:
    path = run / "environment.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def last(said: str) -> list[str]:
    lines = said.splitlines()
    return lines[next(number for number, line in enumerate(lines) if line.startswith("rerun ")) :]


def test_a_run_done_again_is_equal_in_every_line(first: Path, typed: Any) -> None:
    code, said, _ = typed("first", "run_dir=second")
    assert code == 0
    assert last(said) == [
        "rerun    second is first again",
        "changed  nothing of what both recorded (code, packages, machine, data)",
        "unknown  the code's commit (it ran outside of a git repository)",
        "equal    in all 9 recorded lines, bit for bit",
    ]
    assert (
        Path("second/config.yaml").read_text().split("defaults", 1)[1]
        == (Path("first/config.yaml").read_text().split("defaults", 1)[1])
    )


def test_what_changed_since_is_told_and_the_first_line_that_differs(first: Path, typed: Any) -> None:
    data = json.loads((first / "environment.json").read_text())["data"]
    data["train"]["digest"] = "other"
    data["val"]["samples"] = 99
    packages = {"dlwp": "0.0.1", "torch": "2.1.0", "gone": "1"}
    environment(first, packages=packages, device="cpu, 64 threads", data=data, git={"commit": "a" * 40, "clean": False})
    loss = history.read(first / "metrics.jsonl")[4]["loss"]
    changed(first, 4, loss=loss + 1e-15, accuracy=0.0)
    changed(first, 2, time=99.0, samples_per_s=1.0)
    code, said, _ = typed("first", "run_dir=second")
    told = last(said)
    assert code == 5
    assert told[1].startswith("changed  code: dlwp 0.0.1 → ")
    assert told[2].startswith("         packages: torch 2.1.0 → ") and "gone 1 → none" in told[2]
    assert told[3].startswith("         machine: device cpu, 64 threads → ")
    assert told[4] == "         data: train 1,294 samples, not the same, val 99 samples → 144 samples"
    assert told[5] == "unknown  the code as it was (its tree had changes that were not committed)"
    step = history.read(first / "metrics.jsonl")[4]["step"]
    assert told[6].startswith(
        f"differs  first at step {step} (train): loss {loss + 1e-15!r} → {loss!r}, accuracy 0.0 → "
    )
    assert told[6].endswith("; 4 lines before it are equal")


def test_until_differs_ends_there_and_leaves_the_test_split_alone(first: Path, typed: Any) -> None:
    changed(first, 1, loss=1.0)
    code, said, _ = typed("first", "until_differs=true", "run_dir=second")
    assert code == 5 and "differs  first at step 14 (train): loss 1.0 → " in said
    assert len(history.read(Path("second/metrics.jsonl"))) == 2
    assert json.loads(Path("second/summary.json").read_text())["exit"] == "stopped:differs"
    assert typed("second", "until_differs=true", "run_dir=third")[0] == 0  # of a run that is equal it does all


def test_of_a_run_that_was_cut_short_what_it_has_is_compared(first: Path, typed: Any) -> None:
    path = first / "metrics.jsonl"
    path.write_text("".join(line + "\n" for line in path.read_text().splitlines()[:3]))
    code, said, _ = typed("first", "run_dir=second")
    assert code == 0 and last(said)[-1] == "equal    in all 3 recorded lines, bit for bit (6 more than it had recorded)"


def test_a_run_that_failed_is_seen_to_fail_again(typed: Any) -> None:
    words = [*WORDS[:3], "trainer.log_every=1", *WORDS[4:], "optimizer=sgd", "optimizer.lr=1e30", "scheduler=constant"]
    with pytest.raises(dlwp.DlwpError, match=r"not finite|loss is"):
        dlwp.train(*words)
    run = next(Path("outputs").glob("digits-*/*"))
    lines = len(history.read(run / "metrics.jsonl"))
    assert lines > 0
    code, said, told = typed(str(run))
    assert code == 5 and last(said)[-1] == f"equal    in all {lines} recorded lines, bit for bit"
    assert told.startswith("dlwp: error: loss is")


def test_a_rerun_that_is_shorter_is_not_called_equal() -> None:
    lines = [{"step": 1, "split": "train", "loss": 0.5, "time": 1.0}, {"step": 2, "split": "train", "loss": 0.4}]
    assert again.first_difference(lines, lines[:1]) == (1, None)
    for name, some in (("a", lines), ("b", lines[:1])):
        Path(name).mkdir()
        Path(name, "metrics.jsonl").write_text("".join(history.line(line) + "\n" for line in some))
    told, is_equal = again.report(Path("a"), Path("b"))
    assert not is_equal and told[-1] == "equal    in 1 of 2 recorded lines, bit for bit; the others are lacking"
    assert told[2] == "unknown  where it ran (no environment.json)"


def test_a_strangers_run_is_judged_as_when_it_is_resumed(first: Path, typed: Any) -> None:
    own = first.rename("foreign")
    code, said, _ = typed("foreign", "run_dir=second")
    assert code == 0 and "equal    in all 9 recorded lines" in said
    config = own / "config.yaml"
    config.write_text(config.read_text().replace("dlwp.models.linear.Linear", "os.system"))
    code, _, told = typed("foreign", "run_dir=third")
    assert code == 2 and "trust=[os]" in told and not Path("third").exists()
    config.write_text(config.read_text().replace("notes: ''", "notes: ${oc.env:HOME}"))
    code, _, told = typed("foreign", "run_dir=third")
    assert code == 2 and "trust=[oc.env]" in told


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "one run is needed, got none. dlwp-rerun outputs/latest"),
        (["a", "b"], "one run is needed, got 2"),
        (["nowhere"], "no run 'nowhere', and none in 'outputs'"),
        (["a", "seed=1"], "'seed=1' would make another run of it. With other settings: dlwp-train --config-dir RUN"),
        (["a", "trainer.epochs=3"], "'trainer.epochs=3' would make another run of it."),
        (["a", "until_difers=true"], "unknown key 'until_difers'. Did you mean 'until_differs'?"),
        (["a", "until_differs=yes"], "until_differs must be true or false, got 'yes'"),
    ],
    ids=str,
)
def test_a_mistake_is_one_line(words: list[str], told: str, typed: Any) -> None:
    code, said, error = typed(*words)
    assert code == 2 and said == ""
    assert error.startswith("dlwp: error: ") and told in error and len(error.splitlines()) == 1
