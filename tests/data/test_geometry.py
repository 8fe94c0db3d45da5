"""Masks move with their pictures: whatever an operation does to places, it does to both alike, drawn once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from dlwp.data.augment import BatchTransform, build_ops
from dlwp.data.datasets import is_channels_last
from dlwp.data.geometry import IGNORED, Crop, Rotate90, VerticalFlip, Window
from dlwp.data.operations import OPERATIONS
from dlwp.errors import ConfigError

MIXING = ("mixup", "cutmix")
COVERING = ("erasing", "cutout")
BLENDING = ("resized_crop", "randaugment")  # bilinear: edges of the picture are mixed
FORMATS = [torch.contiguous_format, torch.channels_last]


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def drawn(count: int = 24, side: int = 32) -> tuple[Tensor, Tensor]:
    """Return pictures of smooth blobs, uint8, and masks made of their content: where they are bright."""
    coarse = torch.rand(count, 1, 5, 5, generator=generator())
    field = torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic", align_corners=False).clamp(0, 1)
    pictures = (field * 255).round().to(torch.uint8).expand(-1, 3, -1, -1).contiguous()
    return pictures, (pictures[:, 0] >= 128).long()


def of_content(pictures: Tensor) -> Tensor:
    return (pictures[:, 0] >= 127.5 / 255).long()  # between two grey values


def of_bytes(pictures: Tensor) -> Tensor:
    return (pictures[:, 0] >= 128).long()


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("name", [name for name in OPERATIONS if name not in MIXING])
def test_a_mask_made_of_a_picture_is_still_that_of_the_picture_after(name: str, memory_format: Any) -> None:
    pictures, masks = drawn()
    arguments: dict[str, Any] = {"window": {"size": 20}, "colour": {"brightness": 0.0, "contrast": 0.0}}
    transform = BatchTransform(build_ops([{name: arguments.get(name, {})}]))
    seen, found = transform(pictures.contiguous(memory_format=memory_format), masks.clone(), 7)
    assert found.dtype == torch.int64 and found.shape == (24, *seen.shape[2:])
    if getattr(OPERATIONS[name], "moves_only", False):
        assert is_channels_last(seen) is (memory_format == torch.channels_last)
    counted = found != IGNORED
    if name == "randaugment":  # changes of colour are among them, so that brightness says nothing: see below
        return
    expected = of_content(seen)
    wrong = (expected != found) & counted
    if name in BLENDING:
        near = (seen[:, 0] - 128 / 255).abs() < 0.1
        wrong &= ~near
    assert int(wrong.sum()) == 0
    assert float(counted.float().mean()) > 0.6
    if name not in ("colour", *COVERING):
        assert not (found.shape == masks.shape and torch.equal(found, masks))


def test_every_move_of_randaugment_moves_the_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    from dlwp.data import operations

    monkeypatch.setattr(operations, "_COLOURS", ())
    pictures, masks = drawn()
    values = pictures.float() / 255
    seen, found = operations.RandAugment(2, 9)(values, masks, generator())
    near = (seen[:, 0] - 128 / 255).abs() < 0.12
    wrong = (of_content(seen) != found) & (found != IGNORED) & ~near
    assert float(wrong.float().mean()) < 0.002
    assert bool((found == IGNORED).any()) and not torch.equal(found, masks)


@pytest.mark.parametrize("name", COVERING)
def test_what_is_covered_does_not_count_and_the_rest_keeps_its_class(name: str) -> None:
    pictures, masks = drawn()
    arguments = {"cutout": {"size": 10}, "erasing": {"probability": 1.0}}[name]
    seen, found = OPERATIONS[name](**arguments)(pictures.float() / 255, masks, generator())
    covered = found == IGNORED
    assert 0.02 < float(covered.float().mean()) < 0.5
    assert torch.equal(found[~covered], masks[~covered])
    changed = (seen != pictures.float() / 255).any(1)
    assert not bool((changed & ~covered).any())


def test_what_a_crop_adds_outside_does_not_count() -> None:
    pictures, masks = drawn()
    seen, found = Crop(6)(pictures, masks + 1, generator())
    outside = found == IGNORED
    assert bool((seen == 0).all(1)[outside].all()) and torch.equal(found[~outside] - 1, of_bytes(seen)[~outside])
    assert bool(outside.any()) and set(found.unique().tolist()) == {IGNORED, 1, 2}
    _, reflected = Crop(6, "reflect")(pictures, masks, generator())
    assert set(reflected.unique().tolist()) == {0, 1}


@pytest.mark.parametrize("name", MIXING)
def test_mixing_is_refused_in_one_line(name: str) -> None:
    pictures, masks = drawn()
    transform = BatchTransform(build_ops([name]), num_classes=2)
    with pytest.raises(ConfigError, match=rf"data.augment: {name} mixes classes, and a mask has one a pixel"):
        transform(pictures, masks, 0)


def test_quarter_turns_are_of_all_four_kinds_and_want_squares() -> None:
    picture = torch.arange(9, dtype=torch.uint8).view(1, 1, 3, 3)
    seen, _ = Rotate90()(picture.repeat(64, 1, 1, 1), None, generator())
    kinds = {tuple(one.flatten().tolist()) for one in seen}
    assert kinds == {tuple(picture.rot90(turns, (2, 3)).flatten().tolist()) for turns in range(4)}
    with pytest.raises(ConfigError, match="rotate90 needs square pictures, not 4x6"):
        Rotate90()(torch.zeros(2, 3, 4, 6), None, generator())


def test_a_vertical_flip_turns_upside_down() -> None:
    inputs, _ = drawn()
    found, _ = VerticalFlip(1.0)(inputs, None, generator())
    assert torch.equal(found, inputs.flip(2))


def test_a_window_is_cut_from_where_it_was() -> None:
    inputs = torch.arange(100, dtype=torch.uint8).view(1, 1, 10, 10).repeat(40, 1, 1, 1)
    found, masks = Window(4)(inputs, inputs[:, 0].long(), generator())
    assert found.shape == (40, 1, 4, 4) and torch.equal(found[:, 0].long(), masks)
    assert bool((found[:, 0, 0, 1:] - found[:, 0, 0, :-1] == 1).all()) and len(found[:, 0, 0, 0].unique()) > 10
    with pytest.raises(ConfigError, match=r"a window of 16 px is larger than the pictures, 10x10"):
        Window(16)(inputs, None, generator())


@pytest.mark.parametrize("name", [*MIXING[:1], "flip"])
def test_targets_of_other_kinds_are_left(name: str) -> None:
    pictures, _ = drawn()
    targets = torch.rand(24, 5, generator=generator())
    _, found = BatchTransform(build_ops([name]), num_classes=5)(pictures, targets, 0)
    assert found.shape == (24, 5) and (name == "mixup" or torch.equal(found, targets))


def test_a_window_is_cut_within_the_picture_where_the_rest_was_padded() -> None:
    inputs, masks = drawn(40)
    inputs[:, :, 24:], masks[:, 24:] = 0, IGNORED  # below
    _, found = Window(16)(inputs, masks, generator())
    assert not bool((found == IGNORED).any())
    _, wide = Window(28)(inputs, masks, generator())  # which has no room in it
    assert wide.shape == (40, 28, 28) and bool((wide == IGNORED).any())
