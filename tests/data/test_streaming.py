"""The streaming loader keeps its promises: the resident one's batches for any workers; faults told by sample."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
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
LEFT_BEHIND = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
"""A worker that is killed may leave a temporary file of torch's half made, which is collected at any time after."""


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
    with pytest.raises(KeyError, match="acc") as caught:
        tensors(StreamingLoader(Faulty("own"), 3, num_workers=workers).epoch())
    assert "at sample 7 of Faulty" in str([caught.value, *getattr(caught.value, "__notes__", ())])


class Listener:
    """Hears what a loader tells; says after `patience` questions that it wants no more."""

    def __init__(self, patience: float = float("inf")) -> None:
        self.warnings: list[str] = []
        self.lost: list[tuple[int, str, str]] = []
        self.asked = 0
        self.patience = patience

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def waiting(self) -> bool:
        self.asked += 1
        return self.asked > self.patience

    def left_out(self, sample: int, name: str, reason: str) -> None:
        self.lost.append((sample, name, reason))


@LEFT_BEHIND
def test_a_worker_killed_twice_at_a_sample_is_told_with_it() -> None:
    loader = StreamingLoader(Faulty("kill"), 3, num_workers=1)
    loader.listener = Listener()
    words = r"data worker 0 was killed \(signal 9\) at sample 7 twice.*data.num_workers=0"
    with pytest.raises(RunError, match=words):
        tensors(loader.epoch())
    assert len(loader.listener.warnings) == 1


class KilledOnce(Noisy):
    """Its worker is killed at sample 7, the first time."""

    def __init__(self, mark: str) -> None:
        super().__init__(40)
        self.mark = Path(mark)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        if index == 7 and not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


@LEFT_BEHIND
@pytest.mark.parametrize("step_s", [0.0, 1.0])
def test_dead_workers_are_replaced_from_the_current_batch_with_the_same_result(step_s: float) -> None:
    """With a step of a second the worker dies in the middle of it: torch's own handler would raise there."""
    loader = StreamingLoader(KilledOnce("killed"), 3, seed=2, shuffle=True, num_workers=2)
    loader.listener = Listener()
    batches = loader.epoch()
    first = next(batches)
    time.sleep(step_s)
    expected = tensors(StreamingLoader(Noisy(40), 3, seed=2, shuffle=True).epoch())
    assert_same([*first, *tensors(batches)], expected)
    [warning] = loader.listener.warnings
    assert "was killed (signal 9) at sample 7; all workers were started anew at batch" in warning
    assert_same(tensors(loader.epoch(1)), tensors(StreamingLoader(Noisy(40), 3, seed=2, shuffle=True).epoch(1)))


@LEFT_BEHIND
def test_workers_that_die_between_epochs_are_replaced() -> None:
    """The loader of another split asks for data in between."""
    loader = StreamingLoader(Noisy(), 3, num_workers=1)
    loader.listener = Listener()
    other = StreamingLoader(Noisy(), 4, num_workers=1)
    expected = tensors(loader.epoch()) + tensors(other.epoch())
    for process in loader._loader._iterator._workers:
        process.kill()
    time.sleep(0.2)
    found = tensors(other.epoch())
    assert_same(tensors(loader.epoch()) + found, expected)
    [warning] = loader.listener.warnings
    assert "data worker 0 was killed (signal 9) at sample 10; all workers were started anew" in warning


@LEFT_BEHIND
def test_a_worker_that_dies_before_its_first_sample_names_none() -> None:
    armed = [True]

    def kill_once() -> None:
        if armed:
            os.kill(os.getpid(), signal.SIGKILL)

    os.register_at_fork(after_in_child=kill_once, after_in_parent=armed.clear)
    loader = StreamingLoader(Broken(0), 3, num_workers=2)
    loader.listener = Listener()
    assert_same(tensors(loader.epoch()), tensors(StreamingLoader(Broken(0), 3).epoch()))
    [warning] = loader.listener.warnings
    assert warning.startswith("data worker 0 was killed (signal 9) before its first sample; all workers were started")


class Slow(Noisy):
    """A sample takes a while."""

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        time.sleep(1.3)
        return super().__getitem__(index)


@pytest.mark.parametrize("workers", [0, 1])
def test_while_data_is_waited_for_the_listener_is_asked_and_may_end_it(workers: int) -> None:
    loader = StreamingLoader(Slow(), 3, num_workers=workers)
    loader.listener = Listener()
    assert len(tensors(loader.epoch(0, 3))) == 2  # two samples, 2.6 s
    assert 1 <= loader.listener.asked <= 3
    loader.listener = Listener(patience=0)
    began = time.monotonic()
    assert tensors(loader.epoch()) == []
    assert time.monotonic() - began < 3


@pytest.mark.parametrize("workers", WORKERS)
def test_the_indices_of_a_batch_come_back_with_it(workers: int) -> None:
    loader = StreamingLoader(Noisy(), 4, seed=5, shuffle=True, num_workers=workers)
    for _, targets in loader.epoch(3, 1):
        assert loader.indices.dtype == torch.int64
        assert loader.indices.tolist() == targets.tolist()


class Broken(Noisy):
    """Some samples cannot be read; `samples` names them as torchvision's data sets do."""

    def __init__(self, broken: int, length: int = 40) -> None:
        super().__init__(length)
        self.broken = broken
        self.samples = [(f"/d/{index}.jpg", 0) for index in range(length)]

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        if index < self.broken:
            raise OSError("image file is truncated")
        return super().__getitem__(index)


def test_samples_that_cannot_be_read_are_replaced_alike_for_any_workers_and_told_once() -> None:
    found = []
    for workers in WORKERS:
        loader = StreamingLoader(Broken(8), 3, seed=1, shuffle=True, num_workers=workers, on_error="skip")
        loader.listener = Listener()
        found.append(tensors(loader.epoch()) + tensors(loader.epoch(1)))
        lost = {index: (name, reason) for index, name, reason in loader.listener.lost}
        assert sorted(lost) == list(range(8))
        assert len(loader.listener.lost) == 8
        assert lost[3] == ("/d/3.jpg", "OSError: image file is truncated")
    assert int(min(targets.min() for targets in found[0][1::2])) == 8
    for other in found[1:]:
        assert_same(other, found[0])


def test_too_many_samples_that_cannot_be_read_are_named() -> None:
    tensors(StreamingLoader(Broken(19), 1, on_error="skip").epoch())
    with pytest.raises(DataError, match=r"20 of 40 samples cannot be read.*\(/d/17.jpg\)"):
        tensors(StreamingLoader(Broken(20), 1, on_error="skip").epoch())


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_cannot_be_read_is_named_with_its_sample(workers: int) -> None:
    words = r"sample 0 of Broken \(/d/0.jpg\) cannot be read: OSError: image file is truncated.*data.on_error=skip"
    with pytest.raises(DataError, match=words):
        tensors(StreamingLoader(Broken(1), 3, num_workers=workers).epoch())


@LEFT_BEHIND
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


class Large(Dataset[Any]):
    """Samples of more than a message holds: two tensors of several kinds, and a dictionary."""

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> Any:
        picture = torch.full((3, 64, 64), index, dtype=torch.uint8).permute(1, 2, 0)
        return {"picture": picture, "mask": torch.full((64, 64), float(index)), "number": index}


def test_memory_that_serves_again_shows_in_no_batch_kept() -> None:
    loader = StreamingLoader(Large(), 6, shuffle=True, num_workers=2)  # the last batch is small
    for number in range(3):
        kept = list(loader.epoch(number))  # all held until the end
        for position, batch in enumerate(kept):
            chosen = loader.order.batch(number, position)
            assert batch["number"].tolist() == chosen.tolist()
            assert batch["picture"].shape == (len(chosen), 64, 64, 3) and batch["picture"].dtype == torch.uint8
            for name in ("picture", "mask"):
                assert (batch[name].flatten(1) == chosen[:, None]).all()


def test_batches_come_in_memory_that_serves_again() -> None:
    loader = StreamingLoader(Large(), 8, num_workers=2)
    found = set()
    for number in range(4):
        for batch in loader.epoch(number):
            found.add(batch["picture"].data_ptr())
    assert len(found) == 8, "four turns of each of two workers"


def test_a_part_of_a_batch_that_is_kept_keeps_its_memory() -> None:
    loader = StreamingLoader(Large(), 8, num_workers=1)
    masks = [batch["mask"][1] for number in range(2) for batch in loader.epoch(number)]
    assert [int(mask[0, 0]) for mask in masks] == 2 * list(range(1, 64, 8))


def test_an_epoch_left_early_with_batches_kept_spoils_none_after() -> None:
    loader = StreamingLoader(Large(), 8, num_workers=1)
    batches = loader.epoch()
    kept = [next(batches) for _ in range(5)]
    del batches, kept
    for number in range(3):
        found = [(int(batch["mask"][0, 0, 0]), int(batch["number"][0])) for batch in loader.epoch(number)]
        assert found == [(first, first) for first in range(0, 64, 8)]


def test_arrays_come_from_workers_as_they_lie() -> None:
    pictures = torch.randint(0, 256, (40, 64, 64, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    data = ArrayDataset(pictures, torch.arange(40))
    for number in range(2):
        found = tensors(StreamingLoader(data, 16, num_workers=2, channels_last=True).epoch(number))
        assert torch.equal(torch.cat(found[::2]), pictures)
        assert all(inputs.is_contiguous(memory_format=torch.channels_last) for inputs in found[::2])


FAULTS = """
import resource, sys, numpy
from dlwp import devices
if sys.argv[1] == "kept":
    devices.keep_freed_memory()
found = []
for _ in range(4):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    arrays = [numpy.ones(2**20, numpy.uint8) for _ in range(40)]
    del arrays
    found.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(found[-1])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc has it")
def test_a_worker_keeps_freed_memory_for_what_comes_next() -> None:
    faults = {
        how: int(subprocess.run([sys.executable, "-c", FAULTS, how], check=True, capture_output=True).stdout)
        for how in ("kept", "given back")
    }
    assert faults["kept"] < 100 < 1000 < faults["given back"]  # a page of 4 KiB each
