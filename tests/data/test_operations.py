"""The operations keep their promises: each equals a plain loop over pictures, in both memory formats."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dlwp.data.datasets import is_channels_last
from dlwp.data.operations import (
    OPERATIONS,
    Colour,
    Crop,
    Cutmix,
    Cutout,
    Erasing,
    Flip,
    Mixup,
    RandAugment,
    ResizedCrop,
)
from dlwp.errors import ConfigError

FORMATS = [torch.contiguous_format, torch.channels_last]


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def pictures(dtype: torch.dtype = torch.uint8, count: int = 16) -> Tensor:
    values = torch.randint(1, 256, (count, 3, 6, 7), dtype=torch.uint8, generator=generator())
    return values if dtype == torch.uint8 else values.to(dtype) / 255


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("mode", ["zeros", "reflect"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_a_crop_is_a_window_of_the_padded_picture(memory_format: Any, mode: str, dtype: torch.dtype) -> None:
    inputs = pictures(dtype)
    found, _ = Crop(2, mode)(inputs.contiguous(memory_format=memory_format), None, generator())
    kind = {"zeros": "constant", "reflect": "reflect"}[mode]
    padded = F.pad(inputs.float(), (2, 2, 2, 2), mode=kind).to(dtype)
    tops, lefts = torch.randint(5, (2, 16), generator=generator()).tolist()
    expected = torch.stack([padded[i, :, tops[i] : tops[i] + 6, lefts[i] : lefts[i] + 7] for i in range(16)])
    assert torch.equal(found, expected)
    assert is_channels_last(found) is (memory_format == torch.channels_last)
    assert len({*zip(tops, lefts)}) > 5


@pytest.mark.parametrize("memory_format", FORMATS)
def test_a_flip_mirrors_some_pictures_and_leaves_the_rest(memory_format: Any) -> None:
    inputs = pictures()
    found, _ = Flip()(inputs.contiguous(memory_format=memory_format), None, generator())
    flipped = torch.rand(16, generator=generator()) < 0.5
    assert 0 < flipped.sum() < 16
    assert torch.equal(found[flipped], inputs[flipped].flip(-1))
    assert torch.equal(found[~flipped], inputs[~flipped])
    assert is_channels_last(found) is (memory_format == torch.channels_last)


SAME_SIZE = [name for name in OPERATIONS if name not in ("window", "rotate90")]  # the others want room, or squares


@pytest.mark.parametrize("name", SAME_SIZE)
def test_the_memory_format_changes_no_number(name: str) -> None:
    op = OPERATIONS[name](num_classes=4) if name in ("mixup", "cutmix") else OPERATIONS[name]()
    inputs, targets = pictures(torch.float32, 64), torch.arange(64) % 4
    plain, plain_targets = op(inputs, targets, generator())
    other, other_targets = op(inputs.contiguous(memory_format=torch.channels_last), targets, generator())
    torch.testing.assert_close(other, plain, rtol=0, atol=1e-6)  # sums over pixels run in another order
    assert torch.equal(plain_targets, other_targets)
    assert plain.shape == inputs.shape
    assert not torch.equal(plain, inputs)


@pytest.mark.parametrize("name", SAME_SIZE)
def test_an_operation_leaves_its_input_alone(name: str) -> None:
    op = OPERATIONS[name](num_classes=4) if name in ("mixup", "cutmix") else OPERATIONS[name]()
    inputs, targets = pictures(torch.float32), torch.arange(16) % 4
    before = inputs.clone()
    op(inputs, targets, generator())
    assert torch.equal(inputs, before)


@pytest.mark.parametrize("name", ["colour", "erasing", "cutout", "cutmix", "mixup", "randaugment"])
def test_pictures_stay_within_their_range(name: str) -> None:
    op = OPERATIONS[name](num_classes=4) if name in ("mixup", "cutmix") else OPERATIONS[name]()
    for _ in range(5):
        found, _ = op(pictures(torch.float32, 64), torch.arange(64) % 4, generator())
        assert found.min() >= 0 and found.max() <= 1 + 1e-6


def test_colour_agrees_with_its_formula() -> None:
    inputs = pictures(torch.float32)
    found, _ = Colour(brightness=0.4, contrast=0, saturation=0)(inputs, None, generator())
    factors = torch.empty(16).uniform_(0.6, 1.4, generator=generator())
    assert torch.equal(found, (inputs * factors.view(-1, 1, 1, 1)).clamp(0, 1))
    grey = inputs[:, :1].expand(-1, 3, -1, -1)
    saturated, _ = Colour(brightness=0, contrast=0, saturation=0.4)(grey, None, generator())
    torch.testing.assert_close(saturated, grey, rtol=0, atol=1e-3)  # a grey picture has no colour to change


def test_erasing_covers_one_box_of_each_erased_picture_with_one_colour() -> None:
    inputs = pictures(torch.float32, 64)
    found, _ = Erasing(probability=0.5)(inputs, None, generator())
    changed = (found != inputs).any(1)
    share = changed.flatten(1).any(1).float().mean().item()
    assert 0.3 < share < 0.7
    for picture, mask in zip(found, changed):
        if mask.any():
            y, x = mask.nonzero().T
            box = picture[:, y.min() : y.max() + 1, x.min() : x.max() + 1]
            assert torch.equal(box, box[:, :1, :1].expand_as(box))


def test_mixup_mixes_inputs_and_targets_by_the_same_share() -> None:
    inputs = torch.eye(8)  # each input says which sample it is
    mixed, targets = Mixup(1.0, num_classes=8)(inputs, torch.arange(8), generator())
    torch.testing.assert_close(mixed, targets)
    torch.testing.assert_close(targets.sum(1), torch.ones(8))
    assert len(targets.unique()) > 2


def test_cutmix_mixes_targets_by_the_area_it_replaced() -> None:
    inputs = torch.arange(8.0).view(8, 1, 1, 1).expand(8, 1, 10, 10)
    mixed, targets = Cutmix(1.0, num_classes=8)(inputs, torch.arange(8), generator())
    areas = torch.stack([(mixed == kind).float().mean((1, 2, 3)) for kind in range(8)], 1)
    torch.testing.assert_close(targets, areas)
    assert (targets.max(1).values < 1).any()


def test_mixing_needs_targets_that_can_be_mixed() -> None:
    with pytest.raises(ConfigError, match="mixup needs one class a sample, and the number of classes"):
        Mixup()(torch.zeros(2, 3), torch.tensor([0, 1]), generator())
    with pytest.raises(ConfigError, match="mixup mixes targets"):
        Mixup()(torch.zeros(2, 3), None, generator())


def test_randaugment_of_no_magnitude_shifts_nothing() -> None:
    inputs = torch.full((64, 3, 8, 8), 0.25)
    found, _ = RandAugment(2, 0)(inputs, None, generator())
    torch.testing.assert_close(found, inputs, rtol=0, atol=0.002)  # posterize at 8 bits rounds


def test_a_rotation_by_the_full_level_is_30_degrees() -> None:
    from dlwp.data.geometry import warped
    from dlwp.data.operations import _rotate

    inputs = torch.zeros(1, 1, 65, 65)
    inputs[0, 0, 32, 60] = 1  # 28 to the right of the centre
    inputs = F.max_pool2d(inputs, 3, 1, 1)
    found, _ = warped(inputs, None, _rotate(inputs, torch.tensor([1.0])))
    y, x = divmod(int(found.flatten().argmax()), 65)
    assert abs(abs(y - 32) - 14) <= 1.5
    assert abs(x - 32 - 24.2) <= 1.5


@pytest.mark.parametrize("name", ["crop", "flip", "colour", "erasing", "cutout", "cutmix", "randaugment"])
def test_operations_on_pictures_refuse_a_table(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"{name} needs pictures \(C, H, W\), not \(5,\)"):
        OPERATIONS[name]()(torch.zeros(2, 5), torch.tensor([0, 1]), generator())


@pytest.mark.parametrize("memory_format", FORMATS)
def test_an_alternating_flip_shows_every_picture_both_ways_in_any_two_epochs(memory_format: Any) -> None:
    inputs, samples = pictures(), torch.randperm(50_000, generator=generator())[:16]
    flip, held = Flip(alternate=True), inputs.contiguous(memory_format=memory_format)

    def mirrored(epoch: int, seed: int = 3) -> list[bool]:
        found, _ = flip(held, None, generator(), samples, epoch, seed)
        assert is_channels_last(found) is (memory_format == torch.channels_last)
        ways = [(torch.equal(a, b), torch.equal(a, b.flip(-1))) for a, b in zip(found, inputs)]
        assert all(sum(way) == 1 for way in ways)
        return [way[1] for way in ways]

    first = mirrored(0)
    assert 0 < sum(first) < 16
    assert mirrored(1) == mirrored(7) == [not way for way in first]
    assert mirrored(2) == first
    assert mirrored(0, seed=4) != first


def test_an_alternating_flip_has_no_probability() -> None:
    with pytest.raises(ConfigError, match="leave probability out"):
        Flip(probability=0.3, alternate=True)


def test_cutout_covers_a_square_whose_centre_lies_anywhere() -> None:
    inputs = torch.rand(400, 3, 12, 9, generator=generator()) * 0.4
    found, _ = Cutout(4)(inputs, None, generator())
    covered = found == 0.5
    assert torch.equal(covered.all(1), covered.any(1))  # in all channels
    assert torch.equal(found[~covered], inputs[~covered])
    counts = covered[:, 0].sum((1, 2))
    assert int(counts.max()) == 16 and int(counts.min()) == 4  # at a corner two rows and columns of it are left
    assert bool(covered[:, 0].any(0).all())
    with pytest.raises(ConfigError, match="size >= 1"):
        Cutout(0)


def test_a_resized_crop_of_all_of_a_picture_is_the_picture_and_a_part_is_an_enlarged_part() -> None:
    ramp = torch.linspace(0, 1, 32).expand(6, 3, 32, 32).contiguous()  # each column brighter than the one before it
    whole, _ = ResizedCrop(scale=(1.0, 1.0), ratio=(1.0, 1.0))(ramp, None, torch.Generator().manual_seed(0))
    torch.testing.assert_close(whole, ramp, rtol=0, atol=1e-5)
    part, _ = ResizedCrop(scale=(0.25, 0.25), ratio=(1.0, 1.0))(ramp, None, torch.Generator().manual_seed(0))
    steps = part[:, 0, 16].diff()  # (6, 31): of half a column each
    torch.testing.assert_close(steps, torch.full((6, 31), 0.5 / 31), rtol=0, atol=1e-4)
    assert len(part[:, 0, 0, 0].unique()) == 6  # elsewhere in each picture
    with pytest.raises(ConfigError, match="resized_crop takes scale"):
        ResizedCrop(scale=(0.0, 1.0))
