"""The resident loader keeps its promises: every sample once, any position, and nothing held but data and batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dlwp import randomness
from dlwp.data import resident
from dlwp.data.augment import BatchTransform, build_ops
from dlwp.data.datasets import ArrayDataset
from dlwp.data.resident import ResidentLoader
from dlwp.errors import ConfigError


def numbered(count: int) -> ArrayDataset:
    return ArrayDataset(torch.arange(float(count)).view(-1, 1), torch.arange(count))


def order_of(loader: ResidentLoader, number: int = 0, start: int = 0) -> list[int]:
    return [index for _, targets in loader.epoch(number, start) for index in targets.tolist()]


@pytest.mark.parametrize(("count", "batch_size"), [(1, 1), (7, 3), (8, 4), (5, 64)])
def test_an_epoch_has_every_sample_once(count: int, batch_size: int) -> None:
    loader = ResidentLoader(numbered(count), batch_size, shuffle=True, seed=2)
    assert sorted(order_of(loader)) == list(range(count))
    assert len(loader) == -(-count // batch_size)
    assert loader.num_samples == count


def test_the_order_is_the_permutation_of_seed_and_epoch() -> None:
    loader = ResidentLoader(numbered(50), 8, shuffle=True, seed=2)
    assert order_of(loader, 3) == randomness.permutation(50, 2, "order", 3).tolist()
    assert order_of(loader, 3) != order_of(loader, 4)
    assert order_of(ResidentLoader(numbered(50), 8)) == list(range(50))


def test_a_sought_position_gives_the_rest_of_the_epoch_with_its_steps() -> None:
    steps: list[int] = []

    def transform(inputs: torch.Tensor, targets: torch.Tensor, step: int, samples: torch.Tensor, epoch: int) -> Any:
        steps.append(step)
        assert samples.tolist() == targets.tolist() and epoch == 2
        return inputs, targets

    loader = ResidentLoader(numbered(23), 4, shuffle=True, transform=transform)
    assert order_of(loader, 2)[12:] == order_of(loader, 2, start=3)
    assert steps == [12, 13, 14, 15, 16, 17, 15, 16, 17]


def test_drop_last_and_limit_batches_shorten_the_epoch() -> None:
    assert ResidentLoader(numbered(23), 4, drop_last=True).num_samples == 20
    limited = ResidentLoader(numbered(23), 4, limit_batches=2)
    assert (len(limited), limited.num_samples, order_of(limited)) == (2, 8, list(range(8)))
    with pytest.raises(ConfigError, match="no batch of 64 can be made of 23 samples"):
        ResidentLoader(numbered(23), 64, drop_last=True)


@pytest.mark.parametrize("held", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("channels_last", [False, True])
def test_the_memory_format_is_the_one_asked_for(held: torch.memory_format, channels_last: bool) -> None:
    pictures = torch.randint(0, 256, (9, 3, 4, 5), dtype=torch.uint8)
    data = ArrayDataset(pictures.contiguous(memory_format=held), torch.arange(9))
    batches = list(ResidentLoader(data, 4, channels_last=channels_last).epoch())
    assert torch.equal(torch.cat([inputs for inputs, _ in batches]), pictures)
    wanted = torch.channels_last if channels_last else torch.contiguous_format
    assert all(inputs.is_contiguous(memory_format=wanted) for inputs, _ in batches)


def test_the_data_is_not_copied() -> None:
    data = ArrayDataset(torch.zeros(100, 3, 8, 8, dtype=torch.uint8), torch.zeros(100, dtype=torch.int64))
    loader = ResidentLoader(data, 10, channels_last=True)
    next(loader.epoch())
    assert loader._held.inputs.data_ptr() == data.inputs.data_ptr()
    assert loader._held.targets.data_ptr() == data.targets.data_ptr()


def test_samples_without_arrays_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"data.loader=memory needs data held as two arrays, list gives samples"):
        ResidentLoader([1, 2], 1)  # type: ignore[arg-type]
    assert resident.fits([1, 2], torch.device("cpu")) == (False, "list gives samples one by one")  # type: ignore[arg-type]


def test_arrays_fit_the_host() -> None:
    data = ArrayDataset(torch.zeros(1024, 1024, dtype=torch.uint8), torch.zeros(1024, dtype=torch.int64))
    assert resident.fits(data, torch.device("cpu")) == (True, "1 MiB, as it lies")


@pytest.mark.parametrize("start", [0, 1, 9, 21])
@pytest.mark.parametrize("transform", [None, BatchTransform(mean=[3.0], std=[2.0])])
def test_small_batches_made_many_at_once_are_those_made_one_by_one(
    start: int, transform: BatchTransform | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = ArrayDataset(torch.randn(64 * 21 + 5, 16), torch.arange(64 * 21 + 5))

    def batches(at_once: int) -> list[tuple[torch.Tensor, ...]]:
        monkeypatch.setattr(resident, "_AT_ONCE", at_once)
        loader = ResidentLoader(data, 64, seed=3, shuffle=True, transform=transform)
        assert (loader._at_once > 1) == (at_once > 1)
        return [(inputs, targets, loader.indices) for inputs, targets in loader.epoch(2, start)]  # type: ignore[misc]

    together, alone = batches(2**15), batches(1)
    assert len(together) == len(alone) == 22 - start
    for one, other in zip(together, alone, strict=True):
        assert all(torch.equal(*pair) for pair in zip(one, other, strict=True))
        assert one[0].is_contiguous() and one[0].data_ptr() % 64 == 0


def own(inputs: torch.Tensor, targets: torch.Tensor, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    return inputs + step, targets


@pytest.mark.parametrize("transform", [BatchTransform(build_ops(["flip"])), own])
def test_what_is_drawn_for_a_batch_is_drawn_for_it_alone(transform: Any) -> None:
    data = ArrayDataset(torch.zeros(128, 1, 8, 8), torch.zeros(128))
    assert ResidentLoader(data, 64, transform=transform)._at_once == 1
