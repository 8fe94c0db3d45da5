"""Hold what every shipped YAML file promises: it says what it is, explains each key, composes, and takes a step.

The files are found, not listed: a new one is tested by being there.
"""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
import yaml
from PIL import Image

import dlwp
from dlwp import settings
from dlwp.config.compose import compose, composed
from dlwp.data import packing
from dlwp.errors import DataError

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
FILES = sorted(CONFIGS.rglob("*.yaml"))
OPTIONS = [f"{path.parent.name}={path.stem}" for path in FILES if path.parent.parent == CONFIGS]
EXPLAINED_BY_THEMSELVES = {"_target_", "defaults"}

SYNTHETIC = ["data=synthetic", "data.num_train=64", "data.num_test=16"]
SMALL = ["trainer.max_steps=1", "trainer.limit_batches=1", "data.batch_size=8", "trainer.progress=false"]
SMALL += ["logger.plots=false", "logger.tensorboard=false"]
CLASS_CRITERIA = {"cross_entropy", "nll"}
"""Criteria whose targets are class indices; to all others the targets below are possible."""
PROBABILITIES = """
import torch

class Probabilities(torch.utils.data.TensorDataset):
    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        super().__init__(torch.rand(64, 5, generator=generator), torch.rand(64, 3, generator=generator).softmax(1))
"""
TABLE = ["data=csv", "data.path=numbers.csv", "data.target=y"]
NUMBERS = ["data=dataset", "data._target_=probabilities.Probabilities", "metrics=regression", "criterion=mse"]


@pytest.fixture(autouse=True)
def own_dataset(own_place: Path) -> None:
    """Put a plain Dataset of numbers into the working directory, as a user does."""
    (own_place / "probabilities.py").write_text(PROBABILITIES, encoding="utf-8")
    rows = [f"{at * 0.7},{at * 1.4 + 0.1 * (at % 3)}" for at in range(32)]
    (own_place / "numbers.csv").write_text("\n".join(["x,y", *rows]) + "\n", encoding="utf-8")
    (own_place / "poem.txt").write_text("so much depends upon a wheel\n" * 40, encoding="utf-8")
    rows = [f"2024-01-{1 + row // 24:02}T{row % 24:02}:00,{row % 24}" for row in range(480)]
    (own_place / "hours.csv").write_text("\n".join(["when,load", *rows]), encoding="utf-8")


def needed_words(path: Path) -> list[str]:
    """Return the words that give a config what it cannot know."""
    if path.stem == "packed":
        return ["data.path=packed"]
    if path.stem in ("csv", "parquet"):
        return [f"data.path=table.{path.stem}", "data.target=y"]
    if path.stem == "expression":
        return ["model.formula=a*x+b", *TABLE]
    if path.stem == "arrays":
        return ["data.path=arrays.npz"]
    if path.stem == "concat":
        return ["data.parts={a:{_target_:dlwp.data.images.digits},b:{_target_:dlwp.data.images.digits}}"]
    if path.stem == "huggingface":
        return ["data.path=saved"]
    if path.stem in ("sequence", "transformer"):
        return ["data=sequence"] * (path.parent.name != "data") + ["data.path=poem.txt", "data.length=8"]
    if path.stem == "timeseries":
        return ["data.path=hours.csv", "data.target=load", "data.horizon=4"]
    if path.stem in ("tcn", "lstm"):
        return []  # they take rows of columns
    if path.stem in ("imagefolder", "transfer"):
        return ["data.root=pictures"]
    if path.stem in ("segmentation", "nuclei"):
        return ["data.root=cells"] if path.parent.name != "metrics" else []
    if path.stem == "multilabel":
        return ["data.root=pictures", "data.labels=labels.csv"] if path.parent.name != "metrics" else []
    if path.stem in ("torchvision", "timm"):
        return ["model.name=resnet18"]
    return NUMBERS[1:] if "???" in path.read_text(encoding="utf-8") else []


def make_pictures() -> None:
    """Write two classes of eight pictures of noise where `data.root=pictures` finds them."""
    draw = numpy.random.default_rng(0)
    for number in range(16):
        file = Path("pictures", "cat" if number % 2 else "dog", f"{number}.png")
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (8, 8, 3), dtype=numpy.uint8)).save(file)
    files = sorted(Path("pictures").rglob("*.png"))
    rows = [f"{file.relative_to('pictures')},{'|'.join(['small', file.parent.name])}" for file in files]
    Path("labels.csv").write_text("\n".join(["file,labels", *rows]), encoding="utf-8")


def make_cells() -> None:
    """Write eight pictures of noise with a bright box, and its mask, where `data.root=cells` finds them."""
    draw = numpy.random.default_rng(0)
    for number in range(8):
        mask = numpy.zeros((160, 160), numpy.uint8)
        mask[20 + number : 90, 30:100] = 1
        picture = draw.integers(0, 100, (160, 160), dtype=numpy.uint8) + 120 * mask
        for name, pixels in (("images", picture), ("masks", mask)):
            Path("cells", name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(Path("cells", name, f"{number}.png"))


def make_table(form: str) -> None:
    """Write a table of a number and a category where `data.path=table.FORM` finds it."""
    columns = {"x": [at * 0.7 for at in range(64)], "c": ["ab"[at % 2] for at in range(64)]}
    columns["y"] = ["no" if at % 3 else "yes" for at in range(64)]
    if form == "parquet":
        pyarrow = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.parquet").write_table(pyarrow.table(columns), "table.parquet")
        return
    rows = [",".join(map(str, row)) for row in zip(*columns.values())]
    Path("table.csv").write_text("\n".join([",".join(columns), *rows]) + "\n", encoding="utf-8")


def name_of(path: Path) -> str:
    return str(path.relative_to(CONFIGS))


def keys_of(node: yaml.Node, section: str = "") -> Iterator[tuple[str, yaml.Node, yaml.Node]]:
    """Walk through the keys of a YAML file, with the nodes of key and value."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value not in EXPLAINED_BY_THEMSELVES:
                yield section + key.value, key, value
                yield from keys_of(value, f"{section}{key.value}.")


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_config_opens_with_one_sentence_and_a_command(path: Path) -> None:
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("# @package")]
    assert re.fullmatch(r"# \S.*\bdlwp-\w+.*", lines[0]), "the first line is a sentence and a command that runs"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_the_command_that_a_config_opens_with_composes(path: Path) -> None:
    command = re.search(r"dlwp-train(.*)", path.read_text(encoding="utf-8"))
    assert command, "no dlwp-train command"
    words = shlex.split(command[1])
    composed([word for word in words if not word.startswith("-")], sweep="-m" in words)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_every_key_is_explained_in_a_comment_of_one_line(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    silent = []
    for name, key, value in keys_of(yaml.compose(text)):
        if path.parent.name == "experiment" and isinstance(value, yaml.MappingNode):
            continue  # the name of a group, or of a callback, which says itself what it is
        on_one_line = isinstance(value, yaml.ScalarNode) or value.flow_style
        end = value.end_mark if on_one_line else key.end_mark
        behind = lines[end.line][end.column :]
        above = lines[key.start_mark.line - 1].strip() if key.start_mark.line > 1 else ""
        if not re.search(r"(^|\s)# ?\S", behind) and not above.startswith("# "):
            silent.append(name)
    assert silent == []


@pytest.mark.parametrize("option", [option for option in OPTIONS if option.split("=")[0] != "experiment"])
def test_every_choice_composes_and_is_what_was_chosen(option: str) -> None:
    group, _, name = option.partition("=")
    config = compose([option, *needed_words(CONFIGS / group / f"{name}.yaml")])
    assert config.choices[group] == name


@pytest.mark.parametrize("name", [path.stem for path in FILES if path.parent.name == "experiment"])
def test_every_experiment_composes(name: str) -> None:
    words = needed_words(CONFIGS / "experiment" / f"{name}.yaml")
    assert compose([f"experiment={name}", *words]).choices["experiment"] == name


@pytest.mark.parametrize(
    ("file", "section", "schema"),
    [
        ("train.yaml", "", settings.CommandSettings),
        ("trainer/default.yaml", "trainer.", settings.TrainerSettings),
        ("logger/default.yaml", "logger.", settings.LoggerSettings),
        ("hydra/sweeper/optuna.yaml", "hydra.sweeper.", settings.SearchSettings),
    ],
)
def test_the_yaml_files_name_every_key_of_the_schema_with_the_same_default(
    file: str, section: str, schema: Any
) -> None:
    written = yaml.safe_load((CONFIGS / file).read_text(encoding="utf-8"))
    del written["defaults"]
    defaults = dataclasses.asdict(schema())
    expected = {key: value for key, value in defaults.items() if section or key not in settings.GROUPS}
    assert written == expected


def first_step(*words: str) -> dlwp.Run:
    """Train for one step of a small batch, and hold that it was taken."""
    run = dlwp.train(*words)
    assert run.exit != "failed" and run.exit_code == 0
    assert run.summary["step"] >= 1
    return run


@pytest.mark.parametrize("path", sorted((CONFIGS / "model").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_model_takes_a_step(path: Path) -> None:
    if path.stem == "timm":
        pytest.importorskip("timm", exc_type=Exception)
    data = [] if path.stem in ("transformer", "expression") else SYNTHETIC
    data = [*SYNTHETIC, "data.shape=[12,3]"] if path.stem in ("tcn", "lstm") else data  # rows of columns
    if path.stem in ("unet", "lite_unet"):
        make_cells()
        data = ["data=segmentation", "data.root=cells", "data.image_size=32"]
    first_step(f"model={path.stem}", *data, *needed_words(path), *SMALL)


@pytest.mark.parametrize("path", sorted((CONFIGS / "criterion").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_criterion_takes_a_step(path: Path) -> None:
    data = SYNTHETIC if path.stem in CLASS_CRITERIA else NUMBERS[:-1]
    words = ["model=linear", *data]
    if path.stem == "dice":  # of masks
        make_cells()
        words = ["model=unet", "data=segmentation", "data.root=cells", "data.image_size=32"]
    first_step(*words, f"criterion={path.stem}", *SMALL)


@pytest.mark.parametrize("group", ["optimizer", "scheduler", "metrics", "logger", "callbacks", "trainer"])
def test_every_choice_of_a_group_takes_a_step(group: str) -> None:
    for path in sorted((CONFIGS / group).glob("*.yaml")):
        model = "model=mlp"
        data = NUMBERS if path.stem == "regression" else [*SYNTHETIC, f"{group}={path.stem}"]
        if path.stem == "sequence":
            model, data = "model=transformer", needed_words(path)
        elif path.stem == "least_squares":
            data = ["trainer=least_squares", "model.hidden=[2]", *TABLE]
        elif path.stem == "segmentation":
            make_cells()
            model, data = "model=unet", ["data=segmentation", "data.root=cells", "data.image_size=32"]
        elif path.stem == "multilabel":
            make_pictures()
            data = ["data=multilabel", *needed_words(CONFIGS / "data" / path.name), "data.image_size=8"]
        first_step(model, *data, *SMALL)


@pytest.mark.parametrize("path", sorted((CONFIGS / "experiment").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_experiment_takes_a_step(path: Path) -> None:
    is_recipe = "override /model" in path.read_text(encoding="utf-8")  # of one network, and as long as it says
    words = SMALL if is_recipe else ["model=mlp", "data.batch_size=8", "trainer.progress=false"]
    data = SYNTHETIC
    if path.stem == "nuclei":
        make_cells()
        data = needed_words(path)
    first_step(*data, f"experiment={path.stem}", *words)


@pytest.mark.parametrize("path", sorted((CONFIGS / "data").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_data_set_that_is_there_takes_a_step(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    if path.stem in ("packed", "imagefolder", "multilabel"):
        make_pictures()
    if path.stem in ("csv", "parquet"):
        make_table(path.stem)
    if path.stem == "segmentation":
        make_cells()
    if path.stem == "packed":
        packing.pack(Path("pictures"), Path("packed"), num_workers=0)
    if path.stem == "arrays":
        numpy.savez("arrays.npz", x=numpy.random.default_rng(0).normal(size=(64, 5)), y=numpy.arange(64) % 3)
    if path.stem == "huggingface":
        datasets = pytest.importorskip("datasets", reason="needs the extra hf")
        datasets.Dataset.from_dict({"x": [[1.0, 2.0], [3.0, 4.0]] * 20, "label": [0, 1] * 20}).save_to_disk("saved")
    words = ["data.download=false"] if "download" in yaml.safe_load(text) else needed_words(path)
    try:
        model = {"sequence": "transformer", "none": "objective", "segmentation": "unet"}.get(path.stem, "linear")
        first_step(f"model={model}", f"data={path.stem}", *words, *SMALL)
    except DataError as missing:
        if "data.download=false" not in words:
            raise
        pytest.skip(f"needs the real data {path.stem!r}: {missing}")
