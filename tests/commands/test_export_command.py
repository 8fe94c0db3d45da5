"""Hold the words of `dlwp-export`: what they mean, what is printed, and what is refused before torch is imported."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import dlwp
from dlwp.commands.export import main

Told = Callable[..., tuple[int, str, str]]
SMALL = ["data=synthetic", "data.shape=[1,8,8]", "data.num_train=32", "data.num_test=8", "data.batch_size=8"]
SMALL += ["trainer.max_steps=1", "trainer.progress=false", "logger.plots=false", "logger.tensorboard=false"]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Told:
    """Return a function from words to (exit status, standard output, standard error)."""

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["dlwp-export", *words])
        capsys.readouterr()
        status = main()
        return (status, *capsys.readouterr())

    return call


def test_a_run_is_exported_and_all_that_is_known_of_the_file_is_said(told: Told, own_place: Path) -> None:
    pytest.importorskip("onnxruntime")
    run = dlwp.train("model=linear", *SMALL, "run_dir=run").folder
    status, out, err = told("checkpoint=run", "preprocessing=true", "softmax=true", "output=files/own.onnx")
    assert (status, err) == (0, "")
    assert Path("files/own.onnx").is_file() and not (run / "export").exists()
    lines = out.splitlines()
    assert [line[:9].strip() for line in lines] == ["exported", "input", "output", "checked", "run it", "", "", ""]
    assert lines[0].startswith("exported files/own.onnx · 0.0") and lines[0].endswith(" MB · ONNX opset 20")
    assert "uint8 (batch, 1, 8, 8)" in lines[1]
    assert "probabilities: float32 (batch, 10)" in lines[2]
    assert "by onnxruntime" in lines[3] and "of the largest probability" in lines[3]
    assert 'onnxruntime.InferenceSession("files/own.onnx")' in lines[5]


def test_where_no_output_is_given_it_lies_in_the_runs_folder(told: Told, own_place: Path) -> None:
    dlwp.train("model=linear", *SMALL, "run_dir=run")
    assert told("checkpoint=run", "format=safetensors")[0] == 0
    assert [path.name for path in Path("run/export").iterdir()] == ["model.safetensors"]


def test_a_class_of_ones_own_is_built_again_by_the_lines_that_are_shown(told: Told, own_place: Path) -> None:
    lines = ["from torch import nn", "class Own(nn.Linear):", "    def forward(self, x):"]
    Path("of_my_own.py").write_text("\n".join([*lines, "        return super().forward(x.flatten(1))"]))
    dlwp.train("model=linear", "model._target_=of_my_own.Own", *SMALL, "run_dir=run")
    status, out, err = told("checkpoint=run", "format=safetensors")
    assert (status, err) == (0, "")
    assert 'of_file("run/export/model.safetensors", trust=["of_my_own"])' in out
    code = "\n".join(line[9:] for line in out.splitlines()[4:])
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


MISTAKES = {
    "": "what is exported? checkpoint=RUN (a run, a checkpoint, or last), or model=efficientnet_lite",
    "run": "'run' is no setting. dlwp-export checkpoint=RUN, or model=efficientnet_lite",
    "checkpont=run": "unknown key 'checkpont'. Did you mean 'checkpoint'?",
    "checkpoint=run format=onxx": "no format 'onxx'. Did you mean 'onnx'? There are: onnx, torch_export, safetensors",
    "checkpoint=run preprocessing=yes": "preprocessing must be true or false, got 'yes'",
    "checkpoint=run format=safetensors softmax=true": "softmax=true has no effect on format=safetensors",
    "checkpoint=nowhere format=safetensors": "no run 'nowhere'",
    "model=resnet format=safetensors": "no weights of ResNet are published",
}


@pytest.mark.parametrize("words", MISTAKES, ids=str)
def test_a_mistake_is_one_line_and_leaves_nothing(words: str, told: Told, own_place: Path) -> None:
    status, out, err = told(*words.split())
    assert (status, out) == (2, "")
    assert err.startswith(f"dlwp: error: {MISTAKES[words]}") and err.count("\n") == 1
    assert list(own_place.iterdir()) == []


def test_without_the_packages_of_onnx_the_status_is_that_of_the_machine(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    status, out, err = told("checkpoint=last")
    assert (status, out) == (4, "")
    packages = "the packages onnx, onnxruntime and onnxscript"
    assert err == f"dlwp: error: format=onnx needs {packages}: pip install 'dlwp[onnx]'\n"


def test_a_file_that_gives_other_outputs_ends_with_the_status_of_a_failed_run(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dlwp.inference import export

    dlwp.train("model=linear", *SMALL, "run_dir=run")
    monkeypatch.setattr(export, "LIMIT", -1.0)
    status, out, err = told("checkpoint=run", "format=safetensors")
    assert (status, out) == (5, "")
    assert err.startswith("dlwp: error: format=safetensors: the file gives other outputs than the network")
    assert list(Path("run/export").iterdir()) == []


@pytest.mark.parametrize("flag", ["--help", "--version"])
def test_help_and_version(flag: str, told: Told, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        told(flag)
    out = capsys.readouterr().out
    assert stopped.value.code == 0
    assert out == f"dlwp {dlwp.__version__}\n" if flag == "--version" else "format=torch_export" in out
