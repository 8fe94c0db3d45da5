"""Arrays in files become data sets with the same numbers, and what is wrong in them is one line."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from safetensors.torch import save_file

import dlwp
from dlwp.data import arrays as module
from dlwp.data.arrays import arrays
from dlwp.data.datasets import ArrayDataset
from dlwp.data.mapped import MappedDataset
from dlwp.data.splits import Splits, find_facts
from dlwp.errors import ConfigError, DataError

DRAW = numpy.random.default_rng(0)
X = DRAW.normal(size=(40, 5))
Y = (X[:, 0] > 0).astype(numpy.int32)
PICTURES = DRAW.integers(0, 256, (40, 6, 7, 3), dtype=numpy.uint8)


def write(kind: str, name: str = "data", **held: Any) -> dict[str, str]:
    """Write arrays in one of three ways, and return the keys that name them."""
    if kind == "npz":
        numpy.savez(f"{name}.npz", **held)
        return {"path": f"{name}.npz"}
    if kind == "safetensors":
        save_file({one: torch.from_numpy(values) for one, values in held.items()}, f"{name}.safetensors")
        return {"path": f"{name}.safetensors"}
    Path(name).mkdir()
    for one, values in held.items():
        numpy.save(Path(name) / f"{one}.npy", values)
    return {"path": name}


def whole(data: Splits, split: str = "train") -> tuple[torch.Tensor, torch.Tensor]:
    dataset = getattr(data, split)
    assert isinstance(dataset, ArrayDataset)
    return dataset.batch(torch.arange(len(dataset)))


@pytest.mark.parametrize("limit", [0, 2**40], ids=["mapped", "read"])
@pytest.mark.parametrize("kind", ["npz", "safetensors", "folder"])
def test_numbers_are_those_of_the_file(kind: str, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LARGE_BYTES", limit)
    data = arrays(**write(kind, x_train=X, y_train=Y, x_test=X[:9], y_test=Y[:9]))
    assert isinstance(data.train, MappedDataset) == (limit == 0 and kind != "npz")
    for split, count in (("train", 40), ("test", 9)):
        inputs, targets = whole(data, split)
        assert torch.equal(inputs, torch.from_numpy(X[:count]))
        assert torch.equal(targets, torch.from_numpy(Y[:count]).long())
    assert data.val is None
    find_facts(data, mean="auto", std="auto")
    assert (data.facts.task, data.facts.num_classes, data.facts.input_shape) == ("classification", 2, (5,))
    assert data.facts.mean == pytest.approx(X.mean(0).tolist())


@pytest.mark.parametrize("limit", [0, 2**40], ids=["mapped", "read"])
@pytest.mark.parametrize(
    ("stored", "keys", "shape"),
    [
        (PICTURES, {}, (3, 6, 7)),
        (PICTURES.transpose(0, 3, 1, 2).copy(), {}, (3, 6, 7)),
        (PICTURES[..., 0].copy(), {}, (1, 6, 7)),
        (PICTURES[:, :3].copy(), {"layout": "channels_first"}, (3, 7, 3)),
        (PICTURES[:, :3].copy(), {"layout": "channels_last"}, (3, 3, 7)),
    ],
)
def test_pictures_become_channels_first(
    stored: Any, keys: dict[str, Any], shape: tuple[int, ...], limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LARGE_BYTES", limit)
    numpy.save("x.npy", stored)
    numpy.save("y.npy", Y)
    data = arrays(inputs="x.npy", targets="y.npy", **keys)
    inputs, _ = whole(data)
    assert tuple(inputs.shape[1:]) == shape
    assert inputs.sum() == stored.sum(dtype=numpy.int64)
    assert "pictures" in data.notes[0]


def test_a_mapped_array_goes_to_a_worker_that_is_spawned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LARGE_BYTES", 0)
    numpy.save("x.npy", X)
    numpy.save("y.npy", Y)
    data = arrays(inputs="x.npy", targets="y.npy").train
    again = pickle.loads(pickle.dumps(data))
    assert torch.equal(again[7][0], data[7][0])


def test_words_are_classes_by_name_in_every_split() -> None:
    words = numpy.array(["ape", "bee"])[Y]
    data = arrays(**write("npz", x=X, y=words, x_test=X[:4], y_test=words[:4]))
    assert data.facts.classes == ["ape", "bee"]
    assert torch.equal(whole(data, "test")[1], torch.from_numpy(Y[:4]).long())


def test_float_targets_are_numbers_and_a_column_of_whole_ones_is_classes() -> None:
    data = arrays(**write("npz", x=X, y=X[:, :1]))
    find_facts(data)
    assert (data.facts.task, data.facts.target_shape) == ("regression", (1,))
    assert whole(arrays(**write("npz", x=X, y=Y[:, None])))[1].shape == (40,)


def test_samples_with_nan_are_refused_or_left_out() -> None:
    bad = X.copy()
    bad[[3, 8], 2] = numpy.nan, numpy.inf
    keys = write("npz", x=bad, y=Y)
    with pytest.raises(
        DataError, match=r"2 of 40 samples of 'x' hold NaN or infinities, first sample 3. data.on_nan=dr"
    ):
        arrays(**keys)
    data = arrays(**keys, on_nan="drop")
    assert torch.equal(whole(data)[0], torch.from_numpy(numpy.delete(X, [3, 8], 0)))
    assert any("left out 2 samples" in note for note in data.notes)


@pytest.mark.parametrize(
    ("held", "keys", "line"),
    [
        ({"x": X, "y": Y[:39]}, {}, "inputs hold 40 samples but targets 'y' 39"),
        ({"x": X, "y": Y}, {"inputs": "xs"}, "data.inputs=xs: there is no such array. Did you mean 'x'? data.npz ho"),
        ({"cells": X, "kind": Y}, {}, "which array of data.npz are the inputs? It holds: cells, kind. data.inputs"),
        ({"x": X}, {}, "which array of data.npz are the targets? It holds: x. data.targets=NAME, or data.targets=null"),
        ({"x": X, "y": numpy.array(3)}, {}, "'y' is a single number"),
        ({"x": numpy.array(3.0), "y": Y}, {}, "'x' is a single number"),
        ({"x": X * 1j, "y": Y}, {}, "'x' is complex128"),
        ({"x": numpy.array([{}] * 3), "y": Y}, {}, "'x' holds Python objects, which are never unpickled"),
        ({"x": X, "y": Y, "x_val": X}, {}, "which array of data.npz are the targets?"),
        ({"x": X, "y": Y}, {"layout": "channels_last"}, "data.layout=channels_last is for inputs of four axes"),
        ({"x": X, "y": Y}, {"on_nan": "dorp"}, "data.on_nan must be error, drop, got 'dorp'. Did you mean 'drop'"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line(held: dict[str, Any], keys: dict[str, Any], line: str) -> None:
    numpy.savez("data.npz", **held)
    with pytest.raises((DataError, ConfigError)) as found:
        arrays("data.npz", **keys)
    assert line in found.value.message


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("a.npy", b"no", "a.npy is no .npy file, or damaged"),
        ("a.npz", b"no", "a.npz is no .npz file, or damaged"),
        ("a.safetensors", b"no", "a.safetensors is no .safetensors file, or damaged"),
        ("a.csv", b"no", "'a.csv' is none of .npy, .npz, .safetensors"),
    ],
)
def test_a_damaged_file_is_one_line(name: str, content: bytes, line: str) -> None:
    Path(name).write_bytes(content)
    with pytest.raises(DataError) as found:
        arrays(name)
    assert line in found.value.message


def test_a_file_cut_off_or_not_there_is_one_line() -> None:
    numpy.save("x.npy", X)
    Path("x.npy").write_bytes(Path("x.npy").read_bytes()[:-8])
    with pytest.raises(DataError, match=r"x.npy is cut off: it has 1,720 bytes, 1,728 are needed"):
        arrays(inputs="x.npy", targets="x.npy")
    with pytest.raises(DataError, match=r"no file 'y.npy' \(data.path\). Near it: 'x.npy'"):
        arrays("y.npy")


def test_a_run_of_arrays_predicts_arrays(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from dlwp.commands import predict

    raw = X + 1000
    numpy.savez("data.npz", x=raw, y=numpy.array(["ape", "bee"])[Y])
    words = ["data=arrays", "data.path=data.npz", "model=mlp", "trainer.epochs=12", "data.batch_size=8", "run_dir=run"]
    dlwp.train(*words, "trainer.progress=false", "logger.plots=false", "logger.tensorboard=false")
    predictor = dlwp.load("run")
    assert float((predictor(raw).argmax(1).numpy() == Y).mean()) > 0.9
    numpy.save("new.npy", raw[:3])
    capsys.readouterr()
    monkeypatch.setattr("sys.argv", ["dlwp-predict", "checkpoint=run", "new.npy"])
    assert predict.main() == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0] == "file,row,label,index,probability" and told[1].startswith(f"new.npy,0,{['ape', 'bee'][Y[0]]}")
    monkeypatch.setattr("sys.argv", ["dlwp-predict", "checkpoint=run", "new.npy", "output=out.npy"])
    assert predict.main() == 0
    assert numpy.array_equal(numpy.load("out.npy"), predictor(raw[:3]).numpy())
    with pytest.raises(DataError, match=r"rows are \[4\], .* takes \[5\]"):
        predictor(raw[:, :4])


def test_a_run_of_arrays_goes_on_bit_for_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LARGE_BYTES", 0)
    numpy.save("x.npy", X)
    numpy.save("y.npy", Y)
    words = [
        "data=arrays",
        "data.inputs=x.npy",
        "data.targets=y.npy",
        "model=mlp",
        "data.batch_size=8",
        "run_dir=whole",
    ]
    words += ["trainer.progress=false", "logger.plots=false", "logger.tensorboard=false", "scheduler=constant"]
    whole_run = dlwp.train(*words, "trainer.epochs=3")
    dlwp.train(*words[:-5], "run_dir=cut", *words[-4:], "trainer.epochs=3", "trainer.max_steps=6")
    again = dlwp.train("resume=cut", "trainer.max_steps=null", "data.loader=workers", "data.num_workers=1")
    weights = [max((run.folder / "checkpoints").glob("step-*/model.safetensors")) for run in (whole_run, again)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
