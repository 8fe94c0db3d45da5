"""The batch transform keeps its promises: exact scaling, draws by (seed, step), operations by name."""

from __future__ import annotations

import random
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn

from dlwp.data.augment import BatchTransform, build_ops
from dlwp.data.datasets import is_channels_last
from dlwp.errors import ConfigError

MEAN, STD = [0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]


def pictures(count: int = 8) -> Tensor:
    return torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("ops", [[], ["flip"], ["colour"]])
def test_pictures_are_scaled_and_normalised(memory_format: Any, ops: list[str]) -> None:
    inputs = pictures().contiguous(memory_format=memory_format)
    before = inputs.clone()
    found, targets = BatchTransform(build_ops(ops), MEAN, STD, train=False)(inputs, torch.arange(8, dtype=torch.uint8))
    shape = (1, 3, 1, 1)
    expected = (before.double() / 255 - torch.tensor(MEAN).view(shape)) / torch.tensor(STD).view(shape)
    torch.testing.assert_close(found, expected.float(), rtol=0, atol=1e-6)
    assert is_channels_last(found) is (memory_format == torch.channels_last)
    assert (found.dtype, targets.dtype) == (torch.float32, torch.int64)
    assert torch.equal(inputs, before)


def test_floats_are_normalised_without_touching_the_data() -> None:
    table = torch.randn(6, 4)
    before = table.clone()
    found, targets = BatchTransform([], [1.0] * 4, [2.0] * 4)(table, torch.zeros(6, dtype=torch.float64))
    torch.testing.assert_close(found, (before - 1) / 2)
    assert torch.equal(table, before)
    assert targets.dtype == torch.float32


def test_without_mean_pictures_lie_between_0_and_1_and_tokens_stay() -> None:
    assert BatchTransform()(pictures())[0].max() <= 1
    tokens = torch.arange(6).view(2, 3)
    assert BatchTransform([], [0.5], [0.5])(tokens)[0] is tokens


def test_the_draws_are_a_function_of_seed_and_step() -> None:
    def at(seed: int, step: int) -> Tensor:
        ops = build_ops(["crop", "flip", "colour", "erasing", "randaugment", "mixup"])
        return BatchTransform(ops, MEAN, STD, seed=seed, num_classes=8)(pictures(), torch.arange(8), step)[0]

    first = at(0, 5)
    torch.manual_seed(123)
    assert torch.equal(at(0, 5), first)
    assert not torch.equal(at(0, 6), first)
    assert not torch.equal(at(1, 5), first)


def test_operations_are_left_out_of_evaluation() -> None:
    ops = build_ops(["flip", "erasing"])
    assert torch.equal(BatchTransform(ops, train=False)(pictures())[0], BatchTransform([])(pictures())[0])


def test_mixing_gives_a_share_of_each_class() -> None:
    _, targets = BatchTransform(build_ops(["mixup"]), num_classes=8)(pictures(), torch.arange(8), 0)
    assert targets.shape == (8, 8)
    torch.testing.assert_close(targets.sum(1), torch.ones(8))


class Noise(nn.Module):
    """A transform of a user's own that draws from every global generator, as torchvision's do."""

    def forward(self, *inputs: Tensor) -> Tensor:
        return inputs[0] + torch.rand(1) + random.random() + numpy.random.rand()


def test_an_own_callable_repeats_and_leaves_the_generators_as_they_were() -> None:
    transform = BatchTransform(build_ops([Noise()]))
    before = torch.random.get_rng_state(), random.getstate(), numpy.random.get_state()[1].tolist()
    first = transform(pictures(), None, 3)[0]
    after = torch.random.get_rng_state(), random.getstate(), numpy.random.get_state()[1].tolist()
    assert torch.equal(before[0], after[0]) and before[1:] == after[1:]
    torch.rand(1), random.random(), numpy.random.rand()
    assert torch.equal(transform(pictures(), None, 3)[0], first)
    assert not torch.equal(transform(pictures(), None, 4)[0], first)


def test_an_own_callable_may_take_inputs_or_all_three() -> None:
    def all_three(inputs: Tensor, targets: Any, generator: torch.Generator) -> tuple[Tensor, Any]:
        return inputs * 0, targets + 1

    transform = BatchTransform(build_ops([all_three, torch.neg]))
    inputs, targets = transform(pictures(), torch.zeros(8))
    assert inputs.abs().max() == 0 and targets.min() == 1
    assert str(transform) == "all_three, neg"


def test_a_transform_says_what_it_does() -> None:
    ops = build_ops(["crop", {"crop": {"padding": 2}}, {"flip": None, "mixup": {"alpha": 0.3}}])
    assert str(BatchTransform(ops, [0.5], [0.5])) == "crop 4 px, crop 2 px, flip, mixup 0.3, normalised"
    assert str(BatchTransform()) == "as it is"


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ("crops", "data.augment has no 'crops'. Did you mean 'crop'? There are: crop, flip, colour"),
        (["color"], "Did you mean 'colour'"),
        ([{"crop": {"pading": 4}}], "crop has no argument 'pading'. Did you mean 'padding'? It takes: padding, mode"),
        ([{"crop": 4}], "write crop with arguments as {crop: {padding: 4}}"),
        ([{"crop": {"mode": "wrap"}}], "mode zeros or reflect, got 4, wrap"),
        ([{"crop": {"padding": "two"}}], "crop(padding=two)"),
        ([3], "data.augment holds 3"),
    ],
)
def test_a_mistake_in_the_key_is_told_in_one_line(entries: Any, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build_ops(entries)
    assert words in caught.value.message


def test_an_operation_that_goes_by_samples_gets_them_and_says_so_where_there_are_none() -> None:
    transform = BatchTransform(build_ops([{"flip": {"alternate": True}}]), seed=3)
    samples = torch.arange(8)
    first, second = (transform(pictures(), None, 0, samples, epoch)[0] for epoch in (0, 1))
    assert torch.equal(first, second.flip(-1)) and not torch.equal(first, second)
    with pytest.raises(ConfigError, match="alternating flip needs data whose samples have numbers"):
        transform(pictures())
