"""Samples and batches of any make: their size, their target, and their pieces."""

from __future__ import annotations

from collections import namedtuple
from typing import Any

import pytest
import torch

from dlwp import nested
from dlwp.errors import ConfigError

Named = namedtuple("Named", "image label")
IMAGES, LABELS = torch.arange(14).reshape(7, 2), torch.arange(7)
BATCHES: list[Any] = [
    (IMAGES, LABELS),
    [IMAGES, LABELS],
    Named(IMAGES, LABELS),
    {"name": list("abcdefg"), "image": IMAGES, "label": LABELS, "scale": torch.tensor(2.0), "unit": "m"},
    (IMAGES, {"deep": [IMAGES, IMAGES]}, LABELS),
    {"inner": (IMAGES, IMAGES), "labels": LABELS},
]


@pytest.mark.parametrize("batch", BATCHES)
def test_size_and_target_are_found_in_every_kind_of_batch(batch: Any) -> None:
    assert nested.size_of(batch) == 7
    assert nested.target_of(batch) is LABELS


@pytest.mark.parametrize("batch", BATCHES)
def test_pieces_are_of_the_same_kind_and_together_the_batch(batch: Any) -> None:
    pieces = nested.cut(batch, 3)
    assert [nested.size_of(piece) for piece in pieces] == [3, 2, 2]
    assert {type(piece) for piece in pieces} == {type(batch)}
    for whole, *parts in zip(nested.tensors(batch), *map(nested.tensors, pieces), strict=True):
        assert torch.equal(torch.cat(parts) if whole.dim() else parts[0], whole)
    if isinstance(batch, dict) and "name" in batch:
        assert [piece["name"] for piece in pieces] == [list("abc"), list("de"), list("fg")]
        assert pieces[1]["unit"] == "m"


def test_what_has_no_target_has_none() -> None:
    assert nested.target_of(torch.zeros(3)) is None
    assert nested.target_of({"a": IMAGES, "b": IMAGES}) is None
    assert nested.target_of(namedtuple("Three", "a b c")(1, 2, 3)) is None


def test_inputs_are_all_but_the_target() -> None:
    assert nested.inputs_of(Named(IMAGES, LABELS)) is IMAGES
    assert set(nested.inputs_of({"a": IMAGES, "b": IMAGES, "target": LABELS})) == {"a", "b"}


def test_a_batch_of_unequal_first_axes_is_not_cut() -> None:
    with pytest.raises(ConfigError, match=r"first axes of 7 and 4. trainer.accumulate=1"):
        nested.cut({"nodes": torch.zeros(7, 2), "graphs": torch.zeros(4)}, 2)


def test_a_packed_sequence_moves_as_one_thing() -> None:
    packed = torch.nn.utils.rnn.pack_sequence([torch.zeros(3, 1), torch.zeros(2, 1)])
    seen: list[Any] = []
    nested.each({"words": packed}, lambda value: seen.append(value) or value)
    assert seen == [packed]
