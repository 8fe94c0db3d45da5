"""Weights are put in as far as they fit, told of, and read without trust."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from dlwp.errors import ConfigError, DataError
from dlwp.models.pretrained import imagenet_classes, imagenet_ids, load_into, read_file


def network(outputs: int = 3) -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, outputs))


def test_what_fits_is_put_in_and_the_rest_is_named() -> None:
    source, target = network(5), network(3)
    tensors = {**source.state_dict(), "stray": torch.zeros(2)}
    del tensors["0.bias"]
    before = {name: value.clone() for name, value in target.state_dict().items()}
    found = load_into(target, tensors, "FILE")
    assert found.loaded == ["0.weight"]
    assert found.reshaped == ["2.weight", "2.bias"]
    assert found.missing == ["0.bias"]
    assert found.left == ["stray"]
    after = target.state_dict()
    assert torch.equal(after["0.weight"], source.state_dict()["0.weight"])
    assert all(torch.equal(after[name], before[name]) for name in found.new)


def test_weights_of_another_network_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"weights FILE fit no layer of Sequential: they have conv.weight \[2, 2\]"):
        load_into(network(), {"conv.weight": torch.zeros(2, 2)}, "FILE")


@pytest.mark.parametrize("inner", [None, "state_dict", "model"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_files_of_both_kinds_are_read(tmp_path: Path, suffix: str, inner: str | None) -> None:
    tensors = {"a": torch.arange(3.0), "b": torch.ones(2, 2)}
    path = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors if inner is None else {inner: tensors, "epoch": 3}, path)
    found = read_file(path)
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)


class Bomb:
    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (Path("went_off"),)


def test_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path: Path) -> None:
    torch.save({"a": Bomb()}, tmp_path / "bomb.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps({"a": Bomb()}))
    for name in ("bomb.pth", "plain.pth"):
        with pytest.raises(DataError, match="cannot be read as weights without trusting it"):
            read_file(tmp_path / name)
    assert not Path("went_off").exists()


def test_missing_damaged_and_foreign_files_are_told_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no file '.*none.pth' \(model.weights\)"):
        read_file(tmp_path / "none.pth")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{")
    with pytest.raises(DataError, match=r"cut.safetensors is no whole .safetensors file"):
        read_file(tmp_path / "cut.safetensors")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(DataError, match="holds no named tensors"):
        read_file(tmp_path / "list.pth")


def test_classes_of_imagenet_are_in_their_order() -> None:
    assert (imagenet_classes()[281], imagenet_ids()[281]) == ("tabby", "n02123045")
    assert len(imagenet_classes()) == len(imagenet_ids()) == 1000
    assert imagenet_ids() == sorted(imagenet_ids())
