"""Hold that a batch is shared out exactly, and that one process is the case of one."""

from __future__ import annotations

import datetime
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dlwp import distributed


def test_alone_this_is_the_only_process_and_sums_are_what_they_are() -> None:
    assert (distributed.rank(), distributed.world_size(), distributed.is_main()) == (0, 1, True)
    tensor = torch.tensor([1.0, 2.0])
    assert distributed.sum_(tensor) is tensor
    assert tensor.tolist() == [1.0, 2.0]
    assert distributed.share(128) == slice(0, 128)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("length", [0, 1, 2, 7, 128, 129])
def test_the_shares_cover_a_batch_once_in_order_and_differ_by_at_most_one(
    size: int, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distributed, "world_size", lambda: size)  # the arithmetic of many, without starting them
    pieces = []
    for rank in range(size):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        pieces.append(range(length)[distributed.share(length)])
    assert [sample for piece in pieces for sample in piece] == list(range(length))
    lengths = [len(piece) for piece in pieces]
    assert max(lengths) - min(lengths) <= 1


SECOND = """
import datetime, sys, torch
from dlwp import distributed
torch.distributed.init_process_group(
    "gloo", init_method=sys.argv[1], rank=1, world_size=2, timeout=datetime.timedelta(seconds=120)
)
total = distributed.sum_(torch.tensor([2.0, 10.0]))
print(distributed.rank(), distributed.world_size(), distributed.is_main(), total.tolist(), distributed.share(5))
"""


def test_two_processes_sum_and_share(tmp_path: Path) -> None:
    meeting = (tmp_path / "store").as_uri()
    second = subprocess.Popen([sys.executable, "-c", SECOND, meeting], stdout=subprocess.PIPE, text=True)
    limit = datetime.timedelta(seconds=120)
    torch.distributed.init_process_group("gloo", init_method=meeting, rank=0, world_size=2, timeout=limit)
    try:
        total = distributed.sum_(torch.tensor([1.0, 10.0]))
        assert total.tolist() == [3.0, 20.0]
        assert (distributed.rank(), distributed.world_size(), distributed.is_main()) == (0, 2, True)
        assert distributed.share(5) == slice(0, 3)
        said, _ = second.communicate(timeout=120)
    finally:
        torch.distributed.destroy_process_group()
    assert said.strip() == "1 2 False [3.0, 20.0] slice(3, 5, None)"


ONE_SAMPLE = """
import sys, torch
from dlwp.metrics import R2
from dlwp.training.evaluation import evaluate
rank = int(sys.argv[2])
torch.distributed.init_process_group("gloo", init_method=sys.argv[1], rank=rank, world_size=2)
batches = [] if rank else [(torch.ones(3, 2), torch.arange(6.0).reshape(3, 2))]
print(evaluate(torch.nn.Identity(), batches, torch.nn.MSELoss(), {"r2": R2()}))
"""


def test_a_process_without_samples_joins_an_evaluation(tmp_path: Path) -> None:
    words = [sys.executable, "-c", ONE_SAMPLE, (tmp_path / "store").as_uri()]
    both = [subprocess.Popen([*words, str(rank)], stdout=subprocess.PIPE, text=True) for rank in range(2)]
    try:
        said = [process.communicate(timeout=60)[0] for process in both]
    finally:
        for process in both:
            process.kill()
    assert said[0] == said[1] != ""
