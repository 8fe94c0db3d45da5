"""The facts keep their promises: keys win over attributes, attributes over samples, and each source is named."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.data import Dataset

from dlwp.data.facts import _read_targets, find_facts
from dlwp.data.splits import ArrayDataset, Splits
from dlwp.errors import ConfigError, DataError


class MyData(Dataset[Any]):
    """A data set of a user's own: `length` times what `make` gives for an index."""

    def __init__(self, make: Any, length: int = 6, **attributes: Any) -> None:
        self.make = make
        self.length = length
        for name, value in attributes.items():
            setattr(self, name, value)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Any:
        return self.make(index)


def facts_of(train: Any, **keys: Any) -> Any:
    """Return the facts of a single split."""
    splits = Splits(train)
    find_facts(splits, **keys)
    return splits.facts


def test_integer_targets_are_classes_and_floats_are_a_regression() -> None:
    classes = facts_of(MyData(lambda index: (torch.zeros(3, 8, 8), index % 4)))
    assert (classes.task, classes.num_classes, classes.input_shape, classes.target_shape) == (
        "classification", 4, (3, 8, 8), (),
    )  # fmt: skip
    assert classes.sources["num_classes"] == "largest label, from all 6 samples"
    numbers = facts_of(MyData(lambda index: (torch.zeros(5), 0.5 * index)))
    assert (numbers.task, numbers.num_classes, numbers.input_shape) == ("regression", None, (5,))


def test_names_come_from_keys_then_attributes() -> None:
    data = MyData(lambda index: (torch.zeros(2), index % 2), classes=["cat", "dog"])
    assert facts_of(data).classes == ["cat", "dog"]
    assert facts_of(data).sources["num_classes"] == "MyData.classes"
    assert facts_of(data, classes=["a", "b", "c"]).classes == ["a", "b", "c"]
    assert facts_of(data, classes=7).num_classes == 7


def test_a_large_set_is_not_read_whole_to_count_its_classes() -> None:
    asked: list[int] = []

    def make(index: int) -> tuple[torch.Tensor, int]:
        asked.append(index)
        return torch.zeros(1), index % 5

    with pytest.raises(ConfigError, match=r"number of classes of MyData is not known.*data.classes=NUMBER"):
        facts_of(MyData(make, 100_000))
    facts = facts_of(MyData(make, 100_000, targets=[index % 5 for index in range(100_000)]))
    assert (facts.num_classes, facts.sources["num_classes"]) == (5, "largest label, from MyData.targets")
    assert set(asked) == {0}


def test_classes_of_samples_that_are_drawn_are_those_of_all_samples() -> None:
    class Drawn(Dataset[Any]):
        def __len__(self) -> int:
            return 50

        def __getitem__(self, index: int) -> Any:
            return torch.zeros(2), index // 25 * 3 + int(torch.randint(0, 3, ()))

    data = Splits(Drawn())
    find_facts(data)
    assert data.facts.num_classes == 6
    labels = _read_targets(data.train)
    assert len(labels.unique()) == 6


def test_reading_samples_leaves_the_generators_as_they_were() -> None:
    torch.manual_seed(0)
    expected = torch.rand(1).item()
    torch.manual_seed(0)
    facts_of(MyData(lambda index: (torch.rand(2), index % 2)), mean="auto", std="auto")
    assert torch.rand(1).item() == expected


def test_numbers_to_predict_become_columns_of_floats() -> None:
    splits = Splits(
        ArrayDataset(torch.zeros(4, 2), torch.arange(4)), test=ArrayDataset(torch.zeros(1, 2), torch.ones(1))
    )
    find_facts(splits, task="regression")
    assert splits.facts.target_shape == (1,)
    for dataset in splits.present().values():
        assert dataset.targets.dtype == torch.float32
        assert dataset.targets.shape[1:] == (1,)


@pytest.mark.parametrize("channels_last", [False, True])
def test_the_measured_normalisation_is_that_of_train_exactly(channels_last: bool) -> None:
    pictures = torch.randint(0, 256, (700, 3, 6, 5), dtype=torch.uint8)
    pictures[:, 1] |= 240  # bright: sums of squares over more than 256 pictures would not be exact in fp32
    pictures[:, 2] = 51
    if channels_last:
        pictures = pictures.contiguous(memory_format=torch.channels_last)
    facts = facts_of(ArrayDataset(pictures, torch.zeros(700, dtype=torch.int64)), mean="auto", std="auto")
    scaled = pictures.double() / 255
    assert facts.mean == pytest.approx(scaled.mean((0, 2, 3)).tolist(), rel=1e-12)
    assert facts.std[:2] == pytest.approx(scaled.std((0, 2, 3), correction=0).tolist()[:2], rel=1e-9)
    assert facts.std[2] == 1.0


def test_normalisation_is_per_feature_for_tables_and_works_without_arrays() -> None:
    table = torch.randn(50, 4) * torch.tensor([1.0, 2.0, 3.0, 4.0])
    arrays = facts_of(ArrayDataset(table, torch.rand(50)), mean="auto", std="auto")
    samples = facts_of(MyData(lambda index: (table[index], 0.5), 50), mean="auto", std="auto")
    assert arrays.mean == pytest.approx(table.double().mean(0).tolist())
    assert samples.mean == pytest.approx(arrays.mean)
    assert samples.std == pytest.approx(arrays.std)
    assert samples.sources["mean"] == "50 samples of train"


def test_one_number_serves_all_channels() -> None:
    pictures = ArrayDataset(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64))
    assert facts_of(pictures, mean=0.5, std=[0.25]).mean == [0.5] * 3
    assert facts_of(pictures).mean is None


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"mean": [0.5, 0.5], "std": 1.0}, "data.mean has 2 numbers but the data 3 channels"),
        ({"mean": 0.5}, "data.mean is set without data.std"),
        ({"mean": "average", "std": 1}, "data.mean must be a number"),
        ({"mean": 0, "std": 0}, "data.std must be above 0"),
        ({"classes": [True, False]}, "data.classes[0] is the boolean True; write 'yes' in quotes"),
        ({"classes": "cat"}, "data.classes must be a number of classes or a list"),
    ],
)
def test_a_key_that_does_not_fit_is_refused(keys: dict[str, Any], words: str) -> None:
    pictures = ArrayDataset(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ConfigError) as caught:
        facts_of(pictures, **keys)
    assert words in caught.value.message


def test_a_label_out_of_range_names_split_and_sample() -> None:
    train = ArrayDataset(torch.zeros(4, 1), torch.tensor([0, 1, 2, 1]))
    with pytest.raises(
        DataError, match=r"label 2 in train \(sample 2\) but there are 2 classes \(0–1\). data.classes=3"
    ):
        facts_of(train, classes=2)
    splits = Splits(train, test=ArrayDataset(torch.zeros(2, 1), torch.tensor([0, -1])))
    with pytest.raises(DataError, match=r"label -1 in test \(sample 1\) .* Labels count from 0"):
        find_facts(splits)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda index: None, "sample 0 of MyData is None; it must give (input, target)"),
        (lambda index: (object(), 1), "sample 0 of MyData is (object, int); it must give (input, target)"),
    ],
)
def test_a_sample_that_is_none_is_named(make: Any, words: str) -> None:
    with pytest.raises(DataError) as caught:
        facts_of(MyData(make))
    assert words in caught.value.message


def test_an_empty_split_is_named() -> None:
    with pytest.raises(DataError, match=r"train is empty \(0 samples\)"):
        facts_of(MyData(lambda index: (1, 1), 0))


def test_inputs_alone_are_another_task_and_a_reconstruction_aims_at_its_input() -> None:
    assert facts_of(MyData(lambda index: torch.zeros(7))).task == "other"
    pictures = ArrayDataset(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64))
    assert facts_of(pictures, task="reconstruction").target_shape == (3, 4, 4)
