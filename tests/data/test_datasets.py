"""What a data set is to dlwp keeps its promises: samples and targets stay together, in their memory format."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import Dataset, Subset, TensorDataset

from dlwp.data.datasets import ArrayDataset, as_arrays, is_channels_last, rows, targets_of
from dlwp.errors import DataError


def test_inputs_and_targets_of_different_length_are_refused() -> None:
    with pytest.raises(DataError, match="inputs hold 3 samples but targets 2"):
        ArrayDataset(torch.zeros(3, 1), torch.zeros(2))


@pytest.mark.parametrize("channels_last", [False, True])
def test_rows_equal_indexing_and_keep_the_memory_format(channels_last: bool) -> None:
    pictures = torch.randint(0, 256, (20, 3, 4, 5), dtype=torch.uint8)
    if channels_last:
        pictures = pictures.contiguous(memory_format=torch.channels_last)
    indices = torch.tensor([7, 0, 7, 19])
    found = rows(pictures, indices)
    assert torch.equal(found, pictures[indices])
    assert is_channels_last(found) is channels_last


def test_a_subset_of_two_tensors_becomes_arrays_with_the_same_samples() -> None:
    whole = TensorDataset(torch.arange(10.0).view(10, 1), torch.arange(10))
    part = as_arrays(Subset(Subset(whole, [9, 3, 5]), [2, 0]))
    assert isinstance(part, ArrayDataset)
    assert part.inputs.view(-1).tolist() == [5, 9]
    assert part.targets.tolist() == [5, 9]


class Relabelled(Dataset[tuple[torch.Tensor, int]]):
    """Its attribute `targets` is not what its samples give."""

    targets = [3, 3, 3]

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.zeros(1), index


def test_targets_that_disagree_with_the_first_sample_are_not_believed() -> None:
    assert targets_of(Relabelled()) is None
