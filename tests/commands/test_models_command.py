"""What `dlwp-models` promises: the networks asked for, in that order, in any width, and one line for a mistake."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dlwp import __version__, zoo
from dlwp.commands import models as command

Models = Callable[..., tuple[int, str, str]]


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Models:
    """Return a function from words to (exit status, standard output, standard error) of the command."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "huggingface"))

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["dlwp-models", *words])
        status = command.main()
        return status, *capsys.readouterr()

    return run


def names(text: str) -> list[str]:
    return [line.split()[0] for line in text.splitlines()[1:-2]]


def test_all_networks_are_listed_by_name_with_what_was_found_and_how_the_first_is_used(models: Models) -> None:
    status, said, told = models()
    lines = said.splitlines()
    assert (status, told) == (0, "")
    assert lines[0].split() == ["name", "weights", "source", "parameters", "size", "accuracy", "classes", "disk"]
    assert len(lines) == 1 + len(zoo.read()) + 2
    assert names(said) == sorted(names(said), key=zoo.natural)
    assert lines[-2].startswith(f"found    {len(zoo.read()):,} weights of ")
    assert lines[-2].endswith(
        f" networks (torchvision {zoo.made_from()['torchvision']}, timm {zoo.made_from()['timm']})"
    )
    assert lines[-1] == f"next     {zoo.ordered(zoo.read(), 'name')[0].use}"


def test_a_row_says_what_is_known_of_a_network(models: Models) -> None:
    _, said, _ = models("resnet50", "source=torchvision")
    rows = [line.split() for line in said.splitlines()]
    assert rows[0] == ["name", "weights", "source", "parameters", "size", "accuracy", "disk"]  # all have 1,000 classes
    assert rows[1] == ["resnet50", "IMAGENET1K_V2", "torchvision", "25.6", "M", "224", "80.86%"]
    assert said.endswith("next     dlwp-predict model=torchvision model.name=resnet50 PHOTO\n")
    _, said, _ = models("resnet50.bamboo", "vit_tiny_patch16_224.augreg_in21[k]")
    assert [line.split()[-1] for line in said.splitlines()[:3]] == ["disk", "none", "21,843"]


def test_several_patterns_find_each_network_once(models: Models) -> None:
    _, said, _ = models("resnet18", "resnet1*", "alexnet", "source=torchvision")
    assert names(said) == ["alexnet", "resnet18", "resnet101", "resnet101", "resnet152", "resnet152"]


def test_sort_is_by_parameters_or_by_accuracy(models: Models) -> None:
    _, said, _ = models("mobilenet_v3*", "resnet18", "source=torchvision", "sort=parameters")
    assert names(said) == ["mobilenet_v3_small", "mobilenet_v3_large", "mobilenet_v3_large", "resnet18"]
    _, said, _ = models("mobilenet_v3*", "resnet18", "source=torchvision", "sort=accuracy")
    assert names(said) == ["mobilenet_v3_large", "mobilenet_v3_large", "resnet18", "mobilenet_v3_small"]


@pytest.mark.parametrize("source", zoo.SOURCES)
def test_source_leaves_one_source(models: Models, source: str) -> None:
    _, said, _ = models(f"source={source}", "format=json")
    found = json.loads(said)
    assert {one["source"] for one in found} == {source}
    assert len(found) == sum(one.source == source for one in zoo.read())


def test_json_and_csv_hold_the_numbers_themselves(models: Models) -> None:
    _, said, _ = models("resnet50", "source=torchvision", "format=json")
    first = json.loads(said)[0]
    expected = {
        "source": "torchvision",
        "name": "resnet50",
        "weights": "IMAGENET1K_V2",
        "parameters": 25557032,
        "image_size": "224",
        "accuracy": 0.80858,
        "num_classes": 1000,
        "on_disk": False,
        "settings": "model=torchvision model.name=resnet50",
    }
    assert first == expected
    _, said, _ = models("resnet50", "source=torchvision", "format=csv")
    row = next(csv.DictReader(io.StringIO(said)))
    assert row == {key: "false" if value is False else str(value) for key, value in expected.items()}
    _, said, _ = models("lite0", "source=dlwp", "format=json")
    assert json.loads(said)[0]["accuracy"] is None
    _, said, _ = models("lite0", "source=dlwp", "format=csv")
    assert next(csv.DictReader(io.StringIO(said)))["accuracy"] == ""


def test_weights_on_disk_are_marked_and_can_be_asked_for(models: Models, tmp_path: Path) -> None:
    (tmp_path / "torch" / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "torch" / "hub" / "checkpoints" / "resnet18-f37072fd.pth").touch()
    snapshot = tmp_path / "huggingface" / "models--timm--resnet18.a1_in1k" / "snapshots" / "0"
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").touch()
    _, said, _ = models("on_disk=true")
    assert names(said) == ["lite0", "resnet18", "resnet18"]
    assert all(line.endswith("yes") for line in said.splitlines()[1:4])
    _, said, _ = models("resnet18.*", "on_disk=false")
    assert "a2_in1k" in said and "a1_in1k" not in said and "IMAGENET1K_V1" not in said and "yes" not in said
    _, said, _ = models("resnet18.*", "format=json")
    assert sum(one["on_disk"] for one in json.loads(said)) == 2


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["resnett18"], "no network matches 'resnett18'. Did you mean 'resnet18' or 'resnet18d'? All: dlwp-models"),
        (["resnett18*"], "no network matches 'resnett18*'. Did you mean 'resnet18' or 'resnet18d'? All: dlwp-models"),
        (["alexnet.IMAGENET1K_V2"], "no network matches 'alexnet.IMAGENET1K_V2'. Did you mean 'alexnet.IMAGENET1K_V1'"),
        (["resnet18", "qqqqqq"], "no network matches 'qqqqqq'. All: dlwp-models"),
        (["resnet18", "on_disk=true"], "found match, but none with on_disk=true. Leave that out to see them"),
        (["frmat=json"], "unknown key 'frmat'. Did you mean 'format'? All keys: dlwp-models --help"),
        (["format=jsn"], "format must be table, json, csv, got 'jsn'"),
        (["sort=accurracy"], "sort must be name, parameters, accuracy, got 'accurracy'"),
        (["--sort"], "unrecognized arguments: --sort. All keys: dlwp-models --help"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line_with_the_way_out(models: Models, words: list[str], told: str) -> None:
    status, said, line = models(*words)
    assert (status, said) == (2, "")
    assert line.startswith("dlwp: error: ") and told in line and line.count("\n") == 1


@pytest.mark.parametrize("width", [48, 60, 80, 100, 132])
@pytest.mark.parametrize("words", [[], ["vit_b*"], ["resnet*"]], ids=str)
def test_a_narrow_terminal_has_name_parameters_size_and_accuracy(
    models: Models, monkeypatch: pytest.MonkeyPatch, width: int, words: list[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    _, said, _ = models(*words)
    lines = said.splitlines()[:-2]
    assert max(map(len, lines)) <= width
    assert {"name", "parameters", "size", "accuracy"} <= set(lines[0].split())
    assert all(len(line) > lines[0].index("size") for line in lines)
    if width >= 80:
        assert "weights" in lines[0]


def test_a_long_name_keeps_both_of_its_ends() -> None:
    (network,) = (
        one for one in zoo.read() if one.full_name == "vit_gigantic_patch14_clip_quickgelu_224.metaclip_2pt5b"
    )
    lines = command.render([network], set(), 60).splitlines()
    assert lines[1].startswith("vit_gigantic") and "gelu_224 " in lines[1] and "…" in lines[1]
    assert "vit_gigantic_patch14_clip_quickgelu_224" in command.render([network], set())


def test_a_reader_that_leaves_early_is_no_fault() -> None:
    program = "import sys; from dlwp.commands.models import main; sys.exit(main())"
    line = f"'{sys.executable}' -c '{program}' format=json | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[\n", "")


def test_version_and_help_are_told(models: Models, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        models("--version")
    assert capsys.readouterr().out == f"dlwp {__version__}\n"
    with pytest.raises(SystemExit, match="0"):
        models("--help")
    said = capsys.readouterr().out
    assert all(word in said for word in ("'resnet*'", "sort", "source", "on_disk", "format", "accuracy"))
