"""A checkpoint is written whole or not at all, and read only when every byte is as written."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dlwp import checkpoint
from dlwp.averaging import AveragedWeights
from dlwp.errors import DataError, MachineError
from dlwp.runs import files, manifest
from dlwp.training.state import TrainState


def state(optimizer_class: type[torch.optim.Optimizer] = torch.optim.Adam) -> TrainState:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    optimizer = optimizer_class(model.parameters(), lr=0.01)
    inputs = torch.randn(8, 3)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = model(inputs).square().mean()
        loss.backward()
        return loss

    for _ in range(2):
        optimizer.step(closure)
    return TrainState(model, optimizer)


def flat(nested: object) -> list[object]:
    if isinstance(nested, Tensor):
        return nested.flatten().tolist()
    if isinstance(nested, dict):
        return [item for key in sorted(nested) for item in [key, *flat(nested[key])]]
    if isinstance(nested, list | tuple):
        return [item for value in nested for item in flat(value)]
    return [nested]


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam, torch.optim.RMSprop, torch.optim.LBFGS])
def test_what_is_loaded_equals_what_was_saved(tmp_path: Path, kind: type[torch.optim.Optimizer]) -> None:
    saved = state(kind)
    folder = checkpoint.save(tmp_path, 1200, saved, "model: {}\n")
    assert folder.name == "step-00001200"
    tensors, record = checkpoint.load(folder)
    fresh = state(kind)
    with torch.no_grad():
        for value in fresh.model.parameters():
            value.zero_()
    fresh.load(tensors, record)
    assert flat(fresh.tensors()) == flat(saved.tensors())


def test_no_pickle_and_the_files_of_the_format(tmp_path: Path) -> None:
    folder = checkpoint.save(tmp_path, 3, state(), "model: {}\n")
    names = {path.name for path in folder.iterdir()}
    assert names == {"model.safetensors", "optimizer.safetensors", "state.json", "config.yaml", "MANIFEST.json"}
    assert json.loads((folder / "state.json").read_text())["format_version"] == checkpoint.FORMAT_VERSION


def test_tied_weights_are_stored_once_and_tied_again(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Embedding(50, 8), nn.Linear(8, 50, bias=False))
    model[1].weight = model[0].weight
    folder = checkpoint.save(tmp_path, 1, TrainState(model, torch.optim.SGD(model.parameters(), lr=1.0)), "")
    assert (folder / "model.safetensors").stat().st_size < 50 * 8 * 4 * 1.5
    tensors, _ = checkpoint.load(folder)
    assert torch.equal(tensors["model"]["0.weight"], tensors["model"]["1.weight"])


@pytest.mark.parametrize("decay", [None, 0.5])
def test_the_weights_that_are_evaluated_are_read_without_the_rest(tmp_path: Path, decay: float | None) -> None:
    model = nn.Linear(4, 3)
    averaged = AveragedWeights(model, decay) if decay else None
    with torch.no_grad():
        model.weight += 1
    saved = TrainState(model, torch.optim.Adam(model.parameters()), averaged=averaged)
    folder = checkpoint.save(tmp_path, 1, saved, "")
    (folder / "optimizer.safetensors").unlink()
    if averaged is not None:
        (folder / "model.safetensors").unlink()
    weights, _ = checkpoint.load_weights(folder)
    expected = averaged.state_dict(model) if averaged is not None else model.state_dict()
    assert flat(weights) == flat(expected)
    with pytest.raises(DataError):
        checkpoint.load(folder)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


@pytest.mark.parametrize("damage", [flip, cut_short, lengthen, Path.unlink])
@pytest.mark.parametrize(
    "name", ["model.safetensors", "optimizer.safetensors", "state.json", "config.yaml", "MANIFEST.json"]
)
def test_damage_is_found_and_the_file_is_named(tmp_path: Path, damage: object, name: str) -> None:
    checkpoint.save(tmp_path, 1, state(), "model: {}\n")
    folder = checkpoint.save(tmp_path, 2, state(), "model: {}\n")
    damage(folder / name)
    assert not manifest.is_complete(folder)
    with pytest.raises(DataError, match=rf"{name}.*Newest whole one: step 1, .*resume=.*step-00000001"):
        checkpoint.load(folder)


def test_newer_format_is_refused_with_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "FORMAT_VERSION", checkpoint.FORMAT_VERSION + 1)
    monkeypatch.setattr(checkpoint, "__version__", "9.0")
    folder = checkpoint.save(tmp_path, 1, state(), "")
    monkeypatch.undo()
    with pytest.raises(MachineError, match=r"made by dlwp 9\.0.*pip install 'dlwp>=9\.0'"):
        checkpoint.load(folder)


def test_save_cut_at_any_write_leaves_a_whole_checkpoint_or_none(tmp_path: Path) -> None:
    """All k: the process dies at the k-th system call of a save, for every k until a save gets through."""
    calls = ("open", "write", "fsync", "close", "mkdir", "rename", "replace")
    saved = state()
    for number in range(1, 400):
        parent = tmp_path / str(number)
        parent.mkdir()
        first = checkpoint.save(parent, 1, saved, "old")
        pid = os.fork()
        if pid == 0:  # pragma: no cover (the child dies)
            left = [number]

            def dying(real: object, left: list[int] = left) -> object:
                def call(*arguments: object, **named: object) -> object:
                    left[0] -= 1
                    if left[0] == 0:
                        os._exit(137)
                    return real(*arguments, **named)

                return call

            for name in calls:
                setattr(files.os, name, dying(getattr(os, name)))
            checkpoint.save(parent, 2, saved, "new")
            os._exit(0)
        died = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 137
        found = sorted(parent.glob("step-*"))
        assert all(manifest.is_complete(folder) for folder in found) and first in found
        if not died:
            assert number > 15 and len(found) == 2
            return
    pytest.fail("no save got through")


def test_failed_save_raises_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "write_synced", full)
    with pytest.raises(OSError, match="No space"):
        checkpoint.save(tmp_path, 1, state(), "")
    assert list(tmp_path.iterdir()) == []


def test_same_step_twice_keeps_the_first(tmp_path: Path) -> None:
    folder = checkpoint.save(tmp_path, 1, state(), "first")
    assert checkpoint.save(tmp_path, 1, state(), "second") == folder
    assert (folder / "config.yaml").read_text() == "first"
