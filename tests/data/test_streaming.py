"""The streaming loader keeps its promises: the resident one's batches for any workers; faults told by sample."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from typing import Any

import numpy
import pytest
import torch
from torch.utils.data import Dataset, Subset

from dlwp.data.augment import BatchTransform, build_ops
from dlwp.data.datasets import ArrayDataset
from dlwp.data.resident import ResidentLoader
from dlwp.data.splits import Splits, cut_validation
from dlwp.data.streaming import StreamingLoader, default_workers
from dlwp.errors import DataError, RunError

WORKERS = [0, 1, 2]


class Noisy(Dataset[tuple[torch.Tensor, int]]):
    """A data set of a user's own that draws from every global generator, as torchvision's transforms do."""

    def __init__(self, length: int = 11) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        noise = [torch.rand(1).item(), random.random(), numpy.random.rand()]
        return torch.tensor([index, *noise], dtype=torch.float64), index


class Epochs(Noisy):
    """It changes with the epoch, as a curriculum does."""

    epoch = -1

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.tensor([float(self.epoch)]), index


class Faulty(Noisy):
    """Something happens at sample 7."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault = fault

    def __getitem__(self, index: int) -> Any:
        if index == 7:
            if self.fault == "none":
                return None
            if self.fault == "shape":
                return torch.zeros(2), index
            if self.fault == "data":
                raise DataError("/d/x/7.jpg (sample 7) is not a picture")
            if self.fault == "own":
                raise KeyError("acc")
            if self.fault == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.fault == "hang":
                time.sleep(60)
        return torch.zeros(3), index


def tensors(batches: Iterator[Any]) -> list[torch.Tensor]:
    return [tensor for batch in batches for tensor in batch]


def assert_same(first: list[torch.Tensor], second: list[torch.Tensor]) -> None:
    assert len(first) == len(second)
    for one, other in zip(first, second):
        assert torch.equal(one, other)


@pytest.mark.parametrize("workers", WORKERS)
def test_both_loaders_give_the_same_batches_from_any_position(workers: int) -> None:
    data = ArrayDataset(torch.randint(0, 256, (37, 3, 8, 8), dtype=torch.uint8), torch.arange(37) % 4)
    transform = BatchTransform(build_ops(["crop", "flip", "mixup"]), [0.5], [0.2], seed=3, num_classes=4)
    options: dict[str, Any] = {"seed": 3, "shuffle": True, "transform": transform, "channels_last": True}
    resident = ResidentLoader(data, 8, **options)
    streaming = StreamingLoader(data, 8, num_workers=workers, **options)
    assert (len(streaming), streaming.num_samples) == (len(resident), resident.num_samples)
    for number, start in ((0, 0), (1, 3), (4, 0)):
        assert_same(tensors(streaming.epoch(number, start)), tensors(resident.epoch(number, start)))


def test_random_samples_do_not_depend_on_workers_or_position() -> None:
    expected = tensors(StreamingLoader(Noisy(), 4, seed=1, shuffle=True).epoch(2))
    for workers in WORKERS:
        loader = StreamingLoader(Noisy(), 4, seed=1, shuffle=True, num_workers=workers)
        for start in (0, 1):
            assert_same(tensors(loader.epoch(2, start)), expected[2 * start :])


def test_each_sample_epoch_and_seed_draws_its_own_numbers() -> None:
    def drawn(seed: int, number: int) -> torch.Tensor:
        return torch.cat(tensors(StreamingLoader(Noisy(), 4, seed=seed, num_workers=2).epoch(number))[::2])[:, 1:]

    draws = torch.cat([drawn(0, 0), drawn(0, 1), drawn(1, 0)])
    for column in draws.T:
        assert len(column.unique()) == len(draws)


def test_without_workers_the_global_generators_are_left_as_they_were() -> None:
    def state() -> list[Any]:
        return [torch.random.get_rng_state().tolist(), random.getstate(), numpy.random.get_state()[1].tolist()]

    before = state()
    for _ in StreamingLoader(Noisy(), 4, shuffle=True).epoch():
        assert state() == before


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_left_early_does_not_show_in_the_next(workers: int) -> None:
    loader = StreamingLoader(Noisy(), 2, shuffle=True, num_workers=workers)
    next(loader.epoch(0))
    assert_same(tensors(loader.epoch(1)), tensors(StreamingLoader(Noisy(), 2, shuffle=True).epoch(1)))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_data_set_that_changes_with_the_epoch_is_told_of_it(workers: int) -> None:
    loader = StreamingLoader(Epochs(), 11, num_workers=workers)
    for number in (0, 5):
        inputs, _ = next(loader.epoch(number))
        assert inputs.unique().tolist() == [number]


def test_a_part_of_an_own_data_set_is_fed_by_its_own_numbers() -> None:
    own = cut_validation(Splits(Noisy(20)), 0.25, seed=0)
    assert isinstance(own.val, Subset)
    found = tensors(StreamingLoader(own.val, 2, num_workers=1).epoch())
    assert torch.cat(found[1::2]).tolist() == own.val.indices


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("none", "sample 7 of Faulty is None; it must give (input, target)"),
        ("shape", "samples of Faulty differ: sample 6 is 3, int, sample 7 is 2, int"),
        ("data", "/d/x/7.jpg (sample 7) is not a picture"),
    ],
)
def test_a_bad_sample_is_named_in_one_line(workers: int, fault: str, words: str) -> None:
    with pytest.raises(DataError) as caught:
        tensors(StreamingLoader(Faulty(fault), 3, num_workers=workers).epoch())
    assert words in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_in_the_users_own_code_keeps_its_kind(workers: int) -> None:
    with pytest.raises(KeyError, match="acc"):
        tensors(StreamingLoader(Faulty("own"), 3, num_workers=workers).epoch())


def test_a_killed_worker_is_told_with_its_sample() -> None:
    with pytest.raises(RunError, match=r"data worker 0 was killed \(signal 9\) at sample 7.*data.num_workers=0"):
        tensors(StreamingLoader(Faulty("kill"), 3, num_workers=1).epoch())


def test_a_death_is_told_when_data_is_asked_for_and_not_in_the_middle_of_a_step() -> None:
    batches = StreamingLoader(Faulty("kill"), 3, num_workers=1).epoch()
    next(batches)
    time.sleep(2)  # a step, in which the worker dies: torch's own handler would raise here
    with pytest.raises(RunError, match="was killed"):
        list(batches)


def test_a_worker_that_hangs_is_told_with_its_sample() -> None:
    with pytest.raises(RunError, match=r"no answer from the data workers for 1 s, at samples 7"):
        tensors(StreamingLoader(Faulty("hang"), 3, num_workers=1, timeout_s=1).epoch())


class Signalled(Noisy):
    """Sends its own process the signals that a person or a cluster sends to a whole group."""

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        for name in (signal.SIGINT, signal.SIGUSR1):
            os.kill(os.getpid(), name)
        return torch.zeros(1), index


def test_workers_leave_signals_to_the_parent() -> None:
    assert len(tensors(StreamingLoader(Signalled(), 4, num_workers=1).epoch())) == 6


def test_batches_that_are_no_pairs_come_as_they_are_collated() -> None:
    rows = [{"a": float(index), "b": torch.zeros(2)} for index in range(4)]
    batch = next(StreamingLoader(rows, 4).epoch())  # type: ignore[arg-type]
    assert batch["a"].tolist() == [0, 1, 2, 3]
    assert batch["b"].shape == (4, 2)
    inputs = next(StreamingLoader([torch.full((2,), 3.0)] * 4, 4, transform=BatchTransform([], [1.0], [2.0])).epoch())  # type: ignore[arg-type]
    assert inputs.tolist() == [[1.0, 1.0]] * 4


def test_the_default_number_of_workers_leaves_a_core_to_the_loop() -> None:
    count, reason = default_workers()
    assert 0 <= count <= 8
    assert "one for the loop" in reason
