"""Several data sets are one: all samples, classes by name, shares by weights; or a line says why not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset, IterableDataset, TensorDataset

import dlwp
from dlwp.data.concat import Joined, JoinedArrays, concat
from dlwp.data.datasets import ArrayDataset, Facts, Splits
from dlwp.data.resident import Order
from dlwp.data.splits import cut_validation, find_facts
from dlwp.errors import ConfigError, DataError


def part(count: int, value: float, classes: list[str] | None = None, **facts: Any) -> Splits:
    """Return arrays that hold one value, the classes in turn."""
    targets = torch.arange(count) % (len(classes) if classes else 2)
    data = ArrayDataset(torch.full((count, 3), value), targets)
    return Splits(data, facts=Facts(task="classification", classes=classes, **facts))


class Read(Dataset[Any]):
    """The same, sample by sample."""

    def __init__(self, count: int, value: float, classes: list[str], shape: int = 3) -> None:
        self.count, self.value, self.classes, self.shape = count, value, classes, shape

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        return torch.full((self.shape,), self.value), index % len(self.classes)


def test_arrays_stay_in_memory_and_all_samples_are_there() -> None:
    data = concat({"a": part(6, 1.0), "b": part(4, 2.0)})
    assert isinstance(data.train, JoinedArrays) and data.train.shares is None
    assert data.train.inputs[:, 0].tolist() == [1.0] * 6 + [2.0] * 4
    assert data.notes == ["train: a 6 · b 4"]


@pytest.mark.parametrize("held", [True, False])
def test_classes_are_united_by_name(held: bool) -> None:
    names = (["cat", "dog"], ["dog", "eel"])
    one, other = (part(4, 1.0, name) if held else Read(4, 1.0, name) for name in names)
    data = concat([one, other])
    find_facts(data)
    assert data.facts.classes == ["cat", "dog", "eel"]
    assert [int(data.train[index][1]) for index in range(8)] == [0, 1, 0, 1, 1, 2, 1, 2]


@pytest.mark.parametrize("held", [True, False])
def test_an_epoch_draws_by_the_weights_and_none_twice_before_all(held: bool) -> None:
    parts = {name: part(count, value, ["x", "y"]) if held else Read(count, value, ["x", "y"])
             for name, count, value in (("a", 30, 1.0), ("b", 10, 2.0))}  # fmt: skip
    data = cut_validation(concat(parts, [1, 1]), 0.1, 0)
    assert isinstance(data.train, JoinedArrays | Joined)
    (count_a, taken_a), (count_b, taken_b) = data.train.shares or ()
    assert taken_a == taken_b == 18 and count_a + count_b == 36 == len(data.train)
    order = Order(36, 6, 0, True, False, None, data.train.shares)
    for number in (0, 1):
        drawn = order.of(number)
        values = [float(data.train[int(index)][0][0]) for index in drawn]
        assert values.count(1.0) == 18
        times = torch.bincount(drawn, minlength=36)
        assert set(times[:count_a].tolist()) == {0, 1} and set(times[count_a:].tolist()) <= {1, 2, 3}
        assert int(times[count_a:].max() - times[count_a:].min()) <= 1
    assert not torch.equal(order.of(0), order.of(1))


def test_the_other_splits_are_joined_without_weights() -> None:
    one, other = part(4, 1.0), part(4, 2.0)
    one.test, other.test = (
        ArrayDataset(torch.zeros(3, 3), torch.zeros(3)),
        ArrayDataset(torch.ones(2, 3), torch.ones(2)),
    )
    data = concat([one, other], [3, 1])
    assert len(data.test) == 5  # type: ignore[arg-type]
    assert data.train.told == "an epoch draws 0 75.0% (6 of its 4) · 1 25.0% (2 of its 4) (data.weights)"  # type: ignore[attr-defined]


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        yield 1


PLAIN = TensorDataset(torch.zeros(4, 3), torch.zeros(4).long())


@pytest.mark.parametrize(
    ("parts", "weights", "line"),
    [
        ({"a": Read(4, 1.0, ["x"]), "b": Read(4, 1.0, ["x"], 5)}, None, "a sample of 'a' is (float32 3, int), of"),
        ({"a": part(4, 1.0, ["x", "y"]), "b": PLAIN}, None, "part 'a' names its classes, 'b' does not"),
        ({"a": Read(4, 1.0, ["x"]), "b": PLAIN}, None, "part 'a' names its classes, 'b' does not"),
        ({"a": PLAIN, "b": Stream()}, None, "part 'b' can only be iterated (train)"),
        ({"a": PLAIN, "b": PLAIN}, [1], "data.weights has 1 numbers, data.parts 2 (a, b)"),
        ({"a": PLAIN}, [-1], "data.weights must be numbers from 0"),
        ({}, None, "data.parts names no data set"),
        ({"a": {"root": "x"}}, None, "data.parts.a has no _target_"),
        ("mnist", None, "data.parts must be {NAME: {_target_: ...}, ...}, or a list, got str"),
        ({"a": part(4, 1.0, target_mean=[1.0]), "b": part(4, 1.0)}, None, "parts differ in target_mean: 'a' has [1.0]"),
    ],
)  # fmt: skip
def test_what_cannot_be_joined_is_one_line(parts: Any, weights: Any, line: str) -> None:
    with pytest.raises((ConfigError, DataError)) as found:
        concat(parts, weights)
    assert line in found.value.message


FILE = """
import torch
from torch.utils.data import Dataset, TensorDataset

class Read(Dataset):
    classes = ["a", "b"]
    def __len__(self): return 50
    def __getitem__(self, index): return torch.randn(3), index % 2

class Held(TensorDataset):
    classes = ["b", "c"]
    def __init__(self): super().__init__(torch.arange(90.).reshape(30, 3) / 90, torch.arange(30) % 2)
"""


@pytest.mark.parametrize("first", ["Held", "Read"])
def test_a_weighted_run_goes_on_bit_for_bit_and_is_audited(first: str, own_place: Path) -> None:
    (own_place / "my_parts.py").write_text(FILE, encoding="utf-8")
    words = ["data=concat", f"data.parts={{one:{{_target_:my_parts.{first}}},two:{{_target_:my_parts.Held}}}}"]
    words += ["data.weights=[3,1]", "model=linear", "data.batch_size=8", "trainer.epochs=3", "scheduler=constant"]
    words += ["trainer.progress=false", "logger.plots=false", "logger.tensorboard=false", "data.num_workers=0"]
    whole = dlwp.train(*words, "run_dir=whole")
    dlwp.train(*words, "run_dir=cut", "trainer.max_steps=9")
    again = dlwp.train("resume=cut", "trainer.max_steps=null", *(["data.num_workers=1"] if first == "Read" else []))
    weights = [max((run.folder / "checkpoints").glob("step-*/model.safetensors")) for run in (whole, again)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert "3 epochs, in which parts of the data are drawn by data.weights" in dlwp.api.audit("cut")
