"""Synthetic data keeps its promises: any shape and size, the same for the same seed, and it can be learned."""

from __future__ import annotations

import pytest
import torch

from dlwp.data.synthetic import synthetic
from dlwp.errors import ConfigError


@pytest.mark.parametrize(("shape", "dtype"), [([1, 5, 7], torch.uint8), ([6], torch.float32), ([4, 3], torch.float32)])
def test_any_shape_and_size(shape: list[int], dtype: torch.dtype) -> None:
    data = synthetic(shape, num_train=11, num_val=3, num_test=0, num_classes=4)
    assert data.train.inputs.shape == (11, *shape)
    assert data.train.inputs.dtype == dtype
    assert (len(data.val), data.test, data.facts.num_classes) == (3, None, 4)


def test_the_data_is_a_function_of_the_seed_and_splits_differ() -> None:
    first, again, other = (synthetic([8], 20, 20, 20, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.train.inputs, again.train.inputs)
    assert not torch.equal(first.train.inputs, other.train.inputs)
    assert not torch.equal(first.train.inputs, first.test.inputs)


@pytest.mark.parametrize("shape", [[3, 8, 8], [32]])
def test_the_nearest_class_mean_of_train_tells_the_class_of_test(shape: list[int]) -> None:
    data = synthetic(shape, 1000, 0, 200, num_classes=5)
    train, test = (part.inputs.float().flatten(1) for part in (data.train, data.test))
    means = torch.stack([train[data.train.targets == kind].mean(0) for kind in range(5)])
    assert (torch.cdist(test, means).argmin(1) == data.test.targets).float().mean() > 0.95


def test_no_classes_make_a_regression_that_is_linear() -> None:
    data = synthetic([10], 500, 0, 100, num_classes=0)
    assert (data.facts.task, data.train.targets.shape) == ("regression", (500, 1))
    weights = torch.linalg.lstsq(data.train.inputs, data.train.targets).solution
    assert (data.test.inputs @ weights - data.test.targets).square().mean() < 0.02


def test_an_impossible_shape_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"data\.shape of numbers >= 1"):
        synthetic([3, 0, 4])
