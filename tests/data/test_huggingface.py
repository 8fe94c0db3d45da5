"""What Hugging Face's datasets wrote on the disk is read as it is: pictures and labels, numbers, or dictionaries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

import dlwp
from dlwp.data.huggingface import huggingface
from dlwp.data.splits import find_facts
from dlwp.errors import ConfigError, DataError

PIXELS = numpy.random.default_rng(0).integers(0, 256, (24, 8, 9, 3), dtype=numpy.uint8)


@pytest.fixture
def hf() -> Any:
    return pytest.importorskip("datasets", reason="needs the extra hf")


def pictures(hf: Any, count: int = 24) -> Any:
    from PIL import Image

    features = hf.Features({"image": hf.Image(), "label": hf.ClassLabel(names=["cat", "dog"])})
    rows = {"image": [Image.fromarray(one) for one in PIXELS[:count]], "label": [n % 2 for n in range(count)]}
    return hf.Dataset.from_dict(rows, features=features)


def write(hf: Any, how: str) -> str:
    """Write pictures for train and test in one of three ways, and return the path."""
    if how == "disk":
        hf.DatasetDict({"train": pictures(hf), "test": pictures(hf, 6)}).save_to_disk("set")
    else:
        Path("set").mkdir()
        pictures(hf).to_parquet("set/train-00000-of-00001.parquet")
        pictures(hf, 6).to_parquet("set/test-00000-of-00001.parquet")
    return "set"


@pytest.mark.parametrize("how", ["disk", "parquet"])
def test_pictures_and_labels_are_pairs(hf: Any, how: str) -> None:
    data = huggingface(write(hf, how))
    find_facts(data)
    assert (data.facts.classes, data.facts.input_shape) == (["cat", "dog"], (3, 8, 9))
    assert torch.equal(data.train[5][0], torch.from_numpy(PIXELS[5]).permute(2, 0, 1))
    assert [data.train[n][1] for n in range(4)] == [0, 1, 0, 1]
    assert data.val is None and len(data.test) == 6  # type: ignore[arg-type]
    assert data.notes == ["read from set: pairs (image, label)"]


def test_numbers_are_pairs_and_other_columns_dictionaries(hf: Any) -> None:
    hf.Dataset.from_dict({"x": [[1.0, 2.0], [3.0, 4.0]], "target": [0.5, 1.5]}).save_to_disk("numbers")
    data = huggingface("numbers")
    assert torch.equal(data.train[1][0], torch.tensor([3.0, 4.0])) and float(data.train[1][1]) == 1.5
    hf.Dataset.from_dict({"text": ["a", "b"], "ids": [[1, 2], [3, 4]], "label": [0, 1]}).save_to_disk("texts")
    sample = huggingface("texts").train[1]
    assert sample["text"] == "b" and sample["ids"].tolist() == [3, 4] and sample["label"] == 1
    assert set(huggingface("texts", columns=["ids"]).train[0]) == {"ids", "label"}


def test_a_run_of_pictures_goes_on_bit_for_bit(hf: Any) -> None:
    write(hf, "disk")
    words = ["data=huggingface", "data.path=set", "model=linear", "data.batch_size=4", "data.augment=[flip]"]
    words += ["trainer.epochs=2", "scheduler=constant", "trainer.progress=false", "logger.plots=false"]
    whole = dlwp.train(*words, "run_dir=whole", "data.num_workers=0", "logger.tensorboard=false")
    dlwp.train(*words, "run_dir=cut", "data.num_workers=0", "trainer.max_steps=7", "logger.tensorboard=false")
    again = dlwp.train("resume=cut", "trainer.max_steps=null", "data.num_workers=1")
    weights = [max((run.folder / "checkpoints").glob("step-*/model.safetensors")) for run in (whole, again)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert whole.summary["test"]["accuracy"] >= 0


def test_what_is_wrong_is_one_line(hf: Any) -> None:
    path = write(hf, "disk")
    with pytest.raises(
        ConfigError, match=r"data.target=lable: there is no such column. Did you mean 'label'\? Columns"
    ):
        huggingface(path, target="lable")
    with pytest.raises(DataError, match=r"no folder 'nowhere' \(data.path\)"):
        huggingface("nowhere")
    Path("empty").mkdir()
    with pytest.raises(DataError, match=r"holds no .parquet or .arrow file"):
        huggingface("empty")
    Path("empty", "train.parquet").write_bytes(b"no")
    with pytest.raises(DataError, match=r"train.parquet cannot be read"):
        huggingface("empty")
    hf.DatasetDict({"test": pictures(hf, 2)}).save_to_disk("tested")
    with pytest.raises(DataError, match=r"has no split 'train'. It has: test"):
        huggingface("tested")
