"""The chain over sample indices proves that each was used once, and finds a step that was skipped or repeated."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dlwp.auditing import check
from dlwp.data.datasets import ArrayDataset
from dlwp.data.resident import ResidentLoader
from dlwp.data.streaming import StreamingLoader
from dlwp.errors import DataError
from dlwp.training.audit import Chain, link

OPTIONS = {"length": 23, "batch_size": 5, "seed": 3, "shuffle": True, "drop_last": False, "limit_batches": None}


def loader(kind: type = ResidentLoader, **options: Any) -> Any:
    data = ArrayDataset(torch.zeros(23, 1), torch.zeros(23))
    return kind(data, 5, seed=3, shuffle=True, **options)


def lines(found: Any, steps: list[tuple[int, int]]) -> list[dict[str, Any]]:
    """Return what would be recorded of these (epoch, position) steps, a line a step."""
    chain, recorded = "", [{"step": 0, "order": found.order.options}]
    for number, (epoch, position) in enumerate(steps, 1):
        next(iter(found.epoch(epoch, position)))
        chain = link(chain, found.indices)
        recorded.append({"step": number, "epoch": epoch + 1, "chain": chain})
    return recorded


ALL = [(epoch, position) for epoch in range(2) for position in range(5)]


@pytest.mark.parametrize(
    ("kind", "options"),
    [(ResidentLoader, {}), (StreamingLoader, {}), (StreamingLoader, {"num_workers": 1})],
)
def test_two_epochs_are_proven(kind: type, options: dict[str, Any]) -> None:
    assert check(lines(loader(kind, **options), ALL)) == (10, 2, 23)


@pytest.mark.parametrize(
    ("steps", "place"),
    [
        ([*ALL[:3], *ALL[4:]], "steps 4 to 4"),
        ([*ALL[:3], *ALL[2:]], "steps 4 to 4"),
        ([*ALL[:5], *ALL[:5]], "steps 6 to 6"),
    ],
    ids=["skipped", "repeated", "same epoch twice"],
)
def test_a_step_skipped_or_repeated_is_found(steps: list[tuple[int, int]], place: str) -> None:
    with pytest.raises(DataError, match=place):
        check(lines(loader(), steps))


def test_steps_exchanged_between_two_records_are_found() -> None:
    recorded = lines(loader(), [ALL[1], ALL[0], *ALL[2:]])
    with pytest.raises(DataError, match="steps 1 to 10"):
        check([recorded[0], recorded[-1]])


def test_a_changed_order_and_an_empty_record_prove_nothing() -> None:
    recorded = lines(loader(), ALL[:2])
    with pytest.raises(DataError, match="from step 2 on"):
        check([*recorded, {"step": 2, "order": {**OPTIONS, "batch_size": 4}}])
    with pytest.raises(DataError, match="no step is recorded"):
        check([])


def test_the_chain_is_the_same_whenever_it_is_read() -> None:
    steps = [torch.arange(number, number + 5) for number in range(9)]
    text, seldom, often = "", Chain(), Chain()
    for indices in steps:
        text = link(text, indices)
        seldom.add(indices)
        often.add(indices)
        assert often.read() == text
    assert seldom.read() == text
    again = Chain()
    again.load_state_dict(seldom.state_dict())
    assert again.read() == text
