"""What `dlwp-eval` prints and refuses."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

import dlwp
from dlwp.commands import evaluate

WORDS = [
    "data=digits", "model=mlp", "trainer.epochs=1", "optimizer.lr=0.001", "logger.tensorboard=false",
    "logger.plots=false", "run_dir=run",
]  # fmt: skip


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Return a function from words to (exit status, standard output, standard error) of dlwp-eval."""

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["dlwp-eval", *words])
        capsys.readouterr()
        return evaluate.main(), *capsys.readouterr()

    return run


def test_json_holds_all_of_it(typed: Any) -> None:
    dlwp.train(*WORDS)
    code, said, _ = typed("checkpoint=run", "split=val", "format=json", "tta=mirror", "output=here")
    expected = dlwp.evaluate("run", split="val", words=["trainer.tta=mirror"], output="here")
    del expected["line"], expected["note"]
    assert code == 0 and json.loads(said) == expected
    assert list(expected)[:5] == ["checkpoint", "split", "step", "num_samples", "values"]
    assert {"intervals", "by_class", "confusion", "calibration", "worst", "files"} < set(expected)
    assert sorted(path.name for path in Path("here").iterdir()) == [
        "eval-val-confusion.png", "eval-val-mistakes.png", "eval-val-reliability.png",
    ]  # fmt: skip


def test_what_is_no_number_is_null_in_json() -> None:
    assert evaluate._as_json({"values": {"loss": float("nan")}, "line": "", "note": "", "worst": [float("inf")]}) == (
        '{\n "values": {"loss": null},\n "worst": [null]\n}'
    )


def test_text_shows_the_table_and_the_pictures(typed: Any) -> None:
    dlwp.train(*WORDS)
    code, said, _ = typed("checkpoint=run")
    lines = said.splitlines()
    found = dlwp.evaluate("run")
    assert code == 0 and lines[0] == f"test     {found['line']}"
    assert re.fullmatch(r" +macro F1 .*%, calibration error .*% \(on average .*% sure, .*% right\)", lines[1])
    recalls = [re.findall(r"[\d.]+%", line)[1] for line in lines[3:13]]
    shown = [f"{one['recall']:.1%}" for one in sorted(found["by_class"], key=lambda one: one["recall"])]
    assert recalls == shown
    assert [line[9:] for line in lines[-3:]] == list(found["files"].values())
    _, said, _ = typed("checkpoint=run", "plots=false")
    assert "plots" not in said


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "checkpoint must be given: checkpoint=RUN (a run folder, a checkpoint, or last)"),
        (["model=efficientnet_lite"], "without checkpoint= a published network is evaluated on data: data=imagefolder"),
        (["checkpoint=run", "format=xml"], "format must be text or json, got 'xml'"),
        (["checkpoint=run", "plots=maybe"], "plots must be true or false, got 'maybe'"),
        (["checkpoint=run", "plots=false", "output=x"], "output=x has no effect with plots=false. Leave one of"),
        (["checkpoint=run", "split=tset"], "the data has no split 'tset'. It has: train, val, test"),
        (["checkpoint=run", "tta=mirorr"], "trainer.tta must be mirror, mirror_translate or null, got 'mirorr'"),
        (["checkpoint=run", "output=run/config.yaml"], "output must be a folder, 'run/config.yaml' is a file. output="),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line(typed: Any, words: list[str], told: str) -> None:
    dlwp.train(*WORDS)
    code, said, error = typed(*words)
    assert (code, said) == (2, "")
    assert error.startswith(f"dlwp: error: {told}") and error.count("\n") == 1
