"""What a fingerprint promises: the same for the same samples, another for others, and no sample of one's own read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset, IterableDataset, Subset

from dlwp.data import fingerprint as module
from dlwp.data.datasets import ArrayDataset, Splits
from dlwp.data.fingerprint import fingerprint


def arrays(count: int = 50, at: int | None = None) -> ArrayDataset:
    inputs = torch.arange(count * 4, dtype=torch.float32).reshape(count, 4)
    if at is not None:
        inputs[at, 3] += 1e-3
    return ArrayDataset(inputs, torch.arange(count))


def digest(dataset: Any) -> Any:
    return fingerprint(Splits(dataset))["train"]["digest"]


def test_arrays_have_that_of_all_their_bytes() -> None:
    found = fingerprint(Splits(arrays(), test=arrays(7)))
    assert found["train"] == {"samples": 50, "digest": digest(arrays()), "of": "samples"}
    assert set(found) == {"train", "test"} and found["test"]["samples"] == 7
    assert len({digest(arrays()), digest(arrays(49)), digest(arrays(at=0)), digest(arrays(at=49))}) == 4
    assert digest(arrays().subset(torch.arange(50))) == digest(arrays())


def test_of_large_sets_samples_are_taken_evenly_the_last_included(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_BYTES", 10 * 24)
    found = fingerprint(Splits(arrays()))["train"]
    assert found["of"] == "samples, 10 of 50"
    assert digest(arrays(at=49)) != found["digest"] == digest(arrays(at=1))


class Files(Dataset[Any]):
    """Lists files, and breaks when one is read."""

    def __init__(self, folder: str) -> None:
        self.samples = [(f"{folder}/cat/{name}.jpg", 0) for name in "ab"]
        for path, _ in self.samples:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            Path(path).write_bytes(b"12345")

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Any:
        raise AssertionError("read")


def test_files_have_that_of_names_and_sizes_wherever_they_lie() -> None:
    here, there = Files("here"), Files("there")
    assert digest(here) == digest(there) == digest(Subset(there, [0, 1]))
    assert fingerprint(Splits(here))["train"]["of"] == "names and sizes of files"
    Path("there/cat/b.jpg").write_bytes(b"123456")
    assert digest(here) != digest(there)
    Path("there/cat/b.jpg").unlink()
    assert digest(here) != digest(there)


class Own(Dataset[Any]):
    """Counts how often it is read."""

    def __init__(self, targets: list[int] | None) -> None:
        self.reads = 0
        if targets is not None:
            self.targets = targets

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> tuple[Any, int]:
        self.reads += 1
        return torch.rand(2), index


def test_a_set_of_ones_own_has_that_of_its_targets_or_none() -> None:
    assert digest(Own([0, 1, 2, 3])) != digest(Own([0, 1, 3, 2])) is not None
    parts = [Subset(Own([0, 0, 0, 0]), [0, 1]), Subset(Own([0, 0, 0, 0]), [0, 2])]
    assert digest(parts[0]) != digest(parts[1])
    silent = Own(None)
    assert fingerprint(Splits(silent))["train"] == {"samples": 4, "digest": None, "of": "nothing"}
    assert silent.reads == 0


class Stream(IterableDataset[Any]):
    """Has no length."""

    def __iter__(self) -> Any:
        raise AssertionError("read")


def test_what_can_only_be_iterated_has_none() -> None:
    assert fingerprint(Splits(Stream()))["train"] == {"samples": None, "digest": None, "of": "nothing"}
