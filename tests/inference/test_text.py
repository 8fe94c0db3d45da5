"""A run that has learned text goes on with a prompt, from Python and by `dlwp-predict`, and is exported as it is."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import dlwp
from dlwp import api
from dlwp.commands import predict
from dlwp.errors import ConfigError, DataError
from dlwp.inference import export as exporting

WORDS = ["data=sequence", "data.length=16", "data.batch_size=16", "model=transformer", "model.width=32"]
WORDS += ["model.depth=1", "model.num_heads=2", "optimizer.lr=0.01", "trainer.epochs=6", "logger.plots=false"]
WORDS += ["trainer.progress=false"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run that has learned to count from a to h, again and again."""
    home = tmp_path_factory.mktemp("text")
    (home / "abc.txt").write_text("abcdefgh" * 300, encoding="utf-8")
    return dlwp.train(*WORDS, f"data.path={home / 'abc.txt'}", f"run_dir={home / 'run'}").folder


def called(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["dlwp-predict", *words])
    return predict.main()


def test_what_is_learned_is_gone_on_with(run: Path) -> None:
    predictor = api.load(run)
    assert predictor("abc", length=20, temperature=0) == ("defgh" + "abcdefgh" * 2)[:20]
    assert "".join(predictor.stream("h", 30, seed=1)) == predictor("h", length=30, seed=1)
    assert len(predictor("", length=3)) == 3


def test_bits_are_those_of_the_loss_and_near_none(run: Path) -> None:
    found = dlwp.evaluate(str(run), split="val")
    values = found["values"]
    assert values["bits_per_character"] == pytest.approx(values["loss"] / 0.693147, rel=1e-4) and values["loss"] < 0.3
    assert found["intervals"] == {}  # neighbours depend on one another


def test_the_prompt_and_what_follows_it_come_to_the_terminal(run: Path, monkeypatch: Any, capsys: Any) -> None:
    assert called(monkeypatch, f"checkpoint={run}", "prompt=abc", "length=5", "temperature=0") == 0
    assert capsys.readouterr().out == "abcdefgh\n"


def test_json_and_a_file_hold_the_same(run: Path, monkeypatch: Any, capsys: Any) -> None:
    words = [f"checkpoint={run}", "prompt=ab", "length=2", "top_k=1", "format=json", "output=out.json"]
    assert called(monkeypatch, *words) == 0 and capsys.readouterr().out == ""
    assert json.loads(Path("out.json").read_text(encoding="utf-8")) == [{"prompt": "ab", "text": "cd"}]


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        (["prompt=azb"], 3, "the prompt has 'z', which the text that was learned from lacks. It has: abcdefgh"),
        ([], 2, "this run goes on with text. Give it a begin"),
        (["abc"], 2, "prompt=\"abc\" in place of 'abc'"),
        (["prompt=a", "temperature=hot"], 2, "temperature must be a number, got 'hot'"),
        (["prompt=a", "temperature=-1"], 2, "temperature must be ≥ 0"),
        (["prompt=a", "length=many"], 2, "length must be a whole number ≥ 0, got 'many'"),
        (["prompt=a", "format=csv"], 2, "format=csv is for tables"),
    ],
)
def test_what_cannot_be_is_one_line(
    run: Path, monkeypatch: Any, capsys: Any, words: list[str], status: int, told: str
) -> None:
    assert called(monkeypatch, f"checkpoint={run}", *words) == status
    assert told in capsys.readouterr().err


def test_a_prompt_has_no_effect_on_pictures_and_says_so(monkeypatch: Any, capsys: Any) -> None:
    assert called(monkeypatch, "photo.jpg", "prompt=abc") == 2
    assert "prompt=abc has no effect on pictures" in capsys.readouterr().err


def test_unknown_characters_raise_from_python(run: Path) -> None:
    with pytest.raises(DataError, match=r"the prompt has 'q'"):
        api.load(run)("aq")


def test_a_safetensors_file_takes_tokens_as_the_network_does(run: Path) -> None:
    lines: list[str] = []
    network = api._network(run, [])[0]
    exporting.export(network, "safetensors", "model.safetensors", say=lines.append)
    assert any("input: int64 (batch, 16), tokens" in line for line in lines)
    with pytest.raises(ConfigError, match=r"preprocessing=true has no effect on a network that takes tokens"):
        exporting.export(network, "torch_export", "model.pt2", preprocessing=True)


@pytest.mark.parametrize("format", ["onnx", "torch_export"])
def test_a_program_gives_what_the_network_gives(run: Path, format: str) -> None:
    if format == "onnx":
        for name in ("onnx", "onnxruntime", "onnxscript"):
            pytest.importorskip(name)
    exporting.export(api._network(run, [])[0], format, "model.file")  # refused where it does not
    assert Path("model.file").exists()


def test_tensorboard_shows_windows_and_what_is_written(run: Path) -> None:
    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"tensors": 0}).Reload()
    windows, written = (
        [event.tensor_proto.string_val[0].decode() for event in events.Tensors(f"{tag}/text_summary")]
        for tag in ("training windows", "what it writes")
    )
    assert len(windows) == 1 and "| 1 | `" in windows[0]
    assert len(written) == 6 and "it writes" in written[-1] and "abcdefgh" in written[-1]


def test_a_sample_leaves_the_training_as_it_was(tmp_path: Path) -> None:
    """The weights are those of a run that shows nothing: no random number is drawn for a sample."""
    Path("abc.txt").write_text("abcdefgh" * 100, encoding="utf-8")
    weights = []
    for shown in ("true", "false"):
        words = [word for word in WORDS if not word.startswith("trainer.epochs")] + ["trainer.epochs=2"]
        words += ["model.dropout=0.2", f"logger.tensorboard={shown}", "data.path=abc.txt"]
        folder = dlwp.train(*words, f"run_dir={tmp_path / shown}").folder
        weights.append(api._network(folder, [])[0].model.state_dict())
    assert all(torch.equal(weights[0][name], one) for name, one in weights[1].items())
