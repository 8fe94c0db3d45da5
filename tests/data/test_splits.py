"""The splits keep their promises: what is accepted, and that validation is cut exactly, by class and by the seed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from dlwp.data.splits import ArrayDataset, Facts, Splits, as_splits, class_weights, cut_validation, take
from dlwp.errors import ConfigError, DataError


def uneven(total: int = 1000) -> ArrayDataset:
    """Return samples numbered from 0, of three classes in the shares 70, 25 and 5 percent."""
    targets = torch.cat([torch.full((total * share // 100,), kind) for kind, share in enumerate((70, 25, 5))])
    return ArrayDataset(torch.arange(float(total)).view(-1, 1), targets[torch.randperm(total)])


class Samples(Dataset[tuple[torch.Tensor, int]]):
    """A data set of a user's own, without arrays."""

    def __init__(self, targets: list[int], attribute: str | None = None) -> None:
        self._targets = targets
        if attribute:
            setattr(self, attribute, targets)

    def __len__(self) -> int:
        return len(self._targets)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.tensor([float(index)]), self._targets[index]


class Endless(IterableDataset[int]):
    """A data set that can only be iterated."""

    def __iter__(self) -> Iterator[int]:
        return iter(())


def numbers(dataset: Any) -> list[float]:
    """Return the first number of each sample."""
    return [dataset[index][0].item() for index in range(len(dataset))]


def test_validation_takes_the_same_share_of_each_class() -> None:
    found = cut_validation(Splits(uneven()), 0.1, seed=0)
    assert isinstance(found.val, ArrayDataset)
    assert torch.bincount(found.val.targets).tolist() == [70, 25, 5]


@pytest.mark.parametrize("total", [5, 17, 100, 999])
@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5])
def test_train_and_validation_are_all_samples_each_once(total: int, fraction: float) -> None:
    whole = ArrayDataset(torch.arange(float(total)).view(-1, 1), torch.arange(total) % 3)
    if round(total * fraction) == 0:
        pytest.skip("nothing to cut")
    found = cut_validation(Splits(whole), fraction, seed=3)
    assert len(found.val) == round(total * fraction)
    assert sorted(numbers(found.train) + numbers(found.val)) == list(range(total))


def test_the_cut_is_a_function_of_the_seed() -> None:
    whole = uneven()
    first, again, other = (cut_validation(Splits(whole), 0.1, seed=seed) for seed in (0, 0, 1))
    assert numbers(first.val) == numbers(again.val)
    assert numbers(first.val) != numbers(other.val)


@pytest.mark.parametrize("attribute", ["targets", "labels"])
def test_a_data_set_without_arrays_is_cut_like_one_with_arrays(attribute: str) -> None:
    whole = uneven(100)
    own = Samples(whole.targets.tolist(), attribute)
    arrays = cut_validation(Splits(whole), 0.2, seed=0)
    samples = cut_validation(Splits(own), 0.2, seed=0)
    assert numbers(samples.val) == numbers(arrays.val)
    assert numbers(samples.train) == numbers(arrays.train)


def test_the_note_says_how_it_was_cut() -> None:
    assert cut_validation(Splits(uneven()), 0.1, seed=4).notes == ["val 100 (10% of train, stratified, seed 4)"]
    regression = Splits(ArrayDataset(torch.zeros(10, 1), torch.rand(10)))
    assert cut_validation(regression, 0.2, seed=0).notes == ["val 2 (20% of train, at random, seed 0)"]
    assert "at random" in cut_validation(Splits(Samples([0, 1] * 10)), 0.1, seed=0).notes[0]


def test_counts_are_not_taken_for_classes() -> None:
    counts = Splits(ArrayDataset(torch.zeros(40, 1), torch.arange(40)), facts=Facts(task="regression"))
    assert "at random" in cut_validation(counts, 0.1, seed=0).notes[0]


def test_a_validation_split_that_is_there_stays() -> None:
    given = Splits(uneven(), val=uneven(100))
    assert cut_validation(given, 0.1, seed=0) is given
    assert cut_validation(Splits(uneven()), 0, seed=0).val is None


def test_an_empty_split_is_refused() -> None:
    with pytest.raises(DataError, match=r"val would be empty \(0 of 4 samples\)"):
        cut_validation(Splits(uneven(100).subset(torch.arange(4))), 0.1, seed=0)
    with pytest.raises(DataError, match=r"train would be empty \(data.val_fraction=1 of 100 samples\)"):
        cut_validation(Splits(uneven(100)), 1.0, seed=0)


def test_one_data_set_a_list_and_a_mapping_are_splits() -> None:
    pairs = TensorDataset(torch.zeros(4, 2), torch.zeros(4))
    assert isinstance(as_splits(pairs).train, ArrayDataset)
    assert len(as_splits([(torch.zeros(1), 0)] * 3).train) == 3
    both = as_splits({"train": pairs, "test": pairs, "val": None})
    assert list(both.present()) == ["train", "test"]
    assert isinstance(as_splits(Endless()).train, Endless)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (torch.zeros(3), "gives Tensor; a torch.utils.data.Dataset"),
        (Samples, "gives Samples itself"),
        (None, "gives NoneType"),
        ({"train": [1], "valid": [1]}, "no split 'valid'. Did you mean 'val'"),
        ({"test": [1]}, "gives test but no 'train'"),
        ({"train": 3}, "data.train gives int"),
    ],
)
def test_what_is_no_data_set_is_refused_in_one_line(found: Any, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        as_splits(found)
    assert words in caught.value.message
    assert "\n" not in caught.value.message


def test_taking_some_samples_keeps_the_shares_of_the_classes() -> None:
    found = take(uneven(), 100, seed=0)
    assert isinstance(found, ArrayDataset)
    assert torch.bincount(found.targets).tolist() == [70, 25, 5]


def test_class_weights_make_all_classes_count_alike() -> None:
    splits = Splits(uneven(), facts=Facts(task="classification", num_classes=3))
    weights, reason = class_weights(splits)
    assert [weight * count for weight, count in zip(weights, (700, 250, 50))] == pytest.approx([1000 / 3] * 3)
    assert reason == "train has 50 to 700 samples a class"


def test_what_a_reader_warns_of_is_still_told_when_validation_is_cut() -> None:
    splits = Splits(ArrayDataset(torch.zeros(10, 2), torch.zeros(10)), warnings=["3 pictures are left out"])
    assert cut_validation(splits, 0.2, seed=0).warnings == ["3 pictures are left out"]
