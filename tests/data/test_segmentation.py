"""Pictures with masks become splits: any layout and size; what the values mean is found out, what is wrong is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image

from dlwp.data.geometry import IGNORED
from dlwp.data.imagefolder import HeldPictures
from dlwp.data.pictures import Form
from dlwp.data.segmentation import MaskedFiles, formed_mask, segmentation
from dlwp.data.splits import class_weights, cut_validation, find_facts
from dlwp.errors import ConfigError, DataError


def draw(
    root: str, number: int, values: Any = (0, 1), size: tuple[int, int] = (24, 16), suffix: str = "", mode: str = "L"
) -> None:
    """Write a picture of size (width, height), a stripe for each value, and its mask."""
    width, height = size
    mask = numpy.repeat(numpy.asarray(values), -(-width // len(values)))[:width][None].repeat(height, 0)
    shade = 20 + 200 * mask / max(1, mask.max())
    noise = numpy.random.default_rng(number + sum(root.encode())).integers(0, 20, (height, width, 3))
    for name, pixels in (("images", shade[..., None] + noise), ("masks", mask)):
        file = Path(root, name, f"{number}{suffix * (name == 'masks')}.png")
        file.parent.mkdir(parents=True, exist_ok=True)
        kind = numpy.uint16 if mode == "I;16" and name == "masks" else numpy.uint8
        picture = Image.fromarray(pixels.astype(kind))
        picture.convert(mode).save(file) if name == "masks" and mode in ("RGB", "P") else picture.save(file)


def pairs(root: str = "set", count: int = 6, **options: Any) -> None:
    for number in range(count):
        draw(root, number, **options)


def test_pictures_and_masks_of_several_sizes_become_one_size_and_stay_together() -> None:
    draw("set", 0)
    draw("set", 1, size=(16, 24))
    draw("set", 2, size=(32, 32))
    found = segmentation("set", image_size=32, fit="pad")
    find_facts(found)
    assert isinstance(found.train, HeldPictures)
    inputs, targets = found.train.inputs, found.train.targets
    assert inputs.shape == (3, 3, 32, 32) and inputs.dtype == torch.uint8 and targets.shape == (3, 32, 32)
    assert (found.facts.task, found.facts.num_classes) == ("segmentation", 2)
    assert found.facts.classes == ["background", "foreground"] and found.facts.target_shape == (32, 32)
    free = [round(float((mask == IGNORED).float().mean()), 2) for mask in targets]
    assert free == [0.62, 0.62, 0.0]  # none is made larger: 24x16 fills 384 of 1,024
    counted = targets != IGNORED
    bright = inputs[:, 0] > 120
    assert float((bright == targets.bool())[counted].float().mean()) > 0.97  # all but what is blended at the edge
    assert bool((inputs.permute(0, 2, 3, 1)[~counted] == 0).all())


@pytest.mark.parametrize("fit", ["pad", "stretch", "crop"])
@pytest.mark.parametrize("size", [(24, 16), (16, 24), (7, 31)])
def test_a_mask_is_formed_as_its_picture_is(fit: str, size: tuple[int, int]) -> None:
    from dlwp.data import pictures

    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 1, 3, 3, generator=generator)
    field = torch.nn.functional.interpolate(coarse, size[::-1], mode="bicubic", align_corners=False)[0, 0]
    pixels = (field.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    form = Form(40, 40, fit)
    picture = pictures.formed(pixels[..., None].repeat(3, 2), form)[..., 0].astype(int)
    mask = formed_mask((pixels >= 128).astype(numpy.int32), form)
    near = numpy.abs(picture - 128) < 25  # where the bilinear picture goes from one side to the other
    alike = ((picture >= 128) == (mask == 1))[(mask >= 0) & ~near]
    assert alike.mean() > 0.98
    assert ((mask < 0).any()) == (fit == "pad")


def test_folders_of_splits_are_the_splits_and_workers_give_the_same_samples() -> None:
    for split, count in (("train", 4), ("val", 2), ("test", 3)):
        pairs(f"set/{split}", count)
    held = segmentation("set", image_size=16)
    assert [len(one) for one in held.present().values()] == [4, 2, 3]  # type: ignore[arg-type]
    files = segmentation("set", image_size=16, loader="workers")
    assert isinstance(files.test, MaskedFiles) and files.facts == held.facts
    for index in range(3):
        assert all(torch.equal(*one) for one in zip(files.test[index], held.test[index]))  # type: ignore[index]


def test_validation_is_cut_at_random_and_names_stay_with_their_pictures() -> None:
    pairs(count=10)
    halves = cut_validation(segmentation("set", image_size=16), 0.3, seed=1)
    assert isinstance(halves.val, HeldPictures) and len(halves.val) == 3
    whole = MaskedFiles(halves.val.samples, Form(16, 16, "stretch"), *[_coding()])
    assert all(torch.equal(*one) for one in zip(whole[1], halves.val[1]))


def _coding() -> Any:
    from dlwp.data.segmentation import Coding

    return Coding("classes", 255, 2)


@pytest.mark.parametrize(
    ("values", "options", "expected", "said"),
    [
        ([(0, 1, 2)] * 3, {}, {0, 1, 2}, "values are classes (they hold 0, 1, 2)"),
        ([(0, 255)] * 3, {}, {0, 1}, "all above it foreground (they hold 0 and 255 alone)"),
        ([(0, 1, 255)] * 3, {}, {0, 1, IGNORED}, "255 does not count"),
        ([(0, 1, 2), range(25), (0, 1)], {}, {0, 1}, "they number things: 1 to 1 in one picture, to 24 in another"),
        ([(0, 1, 2)] * 3, {"mask_values": "foreground"}, {0, 1}, "all above it foreground (as asked)"),
        ([(0, 1, 2)] * 3, {"ignore": 2}, {0, 1, IGNORED}, "2 does not count"),
        ([range(25), (0, 1)], {"classes": 30}, set(range(25)), "values are classes (data.classes is given)"),
    ],
)  # fmt: skip
def test_what_the_values_of_masks_mean_is_found_out_and_said(
    values: Any, options: Any, expected: set[int], said: str
) -> None:
    for number, one in enumerate(values):
        draw("set", number, values=list(one), size=(50, 16))
    found = segmentation("set", image_size=[16, 50], fit="stretch", **options)
    assert set(found.train.targets.unique().tolist()) == expected  # type: ignore[attr-defined]
    assert said in " · ".join(found.notes)


@pytest.mark.parametrize("mode", ["L", "P", "I;16"])
def test_masks_of_every_mode_of_one_channel_are_read(mode: str) -> None:
    pairs(mode=mode)
    if mode == "P":  # Pillow's palette of its own: write one whose numbers are known
        for path in Path("set/masks").iterdir():
            picture = Image.fromarray((numpy.arange(24) >= 12).astype(numpy.uint8)[None].repeat(16, 0))
            picture.putpalette([0, 0, 0, 200, 10, 10])
            picture.save(path)
    found = segmentation("set", image_size=[16, 24])
    assert torch.equal(found.train[0][1][0], (torch.arange(24) >= 12).to(torch.int16))


def test_masks_of_background_alone_and_pictures_in_two_splits_are_told() -> None:
    pairs("set/train")
    pairs("set/val", 2)
    Image.fromarray(numpy.zeros((16, 24), numpy.uint8)).save("set/val/masks/1.png")
    Path("set/val/images/0.png").write_bytes(Path("set/train/images/3.png").read_bytes())
    found = segmentation("set", image_size=16)
    assert "1 of 2 masks of val hold background alone" in found.notes
    assert len(found.warnings) == 1 and "stand in more than one split" in found.warnings[0]


def test_class_weights_are_of_pixels() -> None:
    pairs(values=(0, 0, 0, 1))
    splits = segmentation("set", image_size=[16, 24], classes=["field", "path"])
    weights, reason = class_weights(splits)
    assert weights == pytest.approx([4 / 6, 2.0]) and reason == "25.00% to 75.0% of the pixels"


def spoil(kind: str) -> None:
    pairs()
    match kind:
        case "none":
            Path("set/masks/4.png").unlink()
        case "suffix":
            for path in sorted(Path("set/masks").iterdir()):
                path.rename(path.with_stem(f"{path.stem}_mask"))
        case "size":
            Image.new("L", (5, 5)).save("set/masks/2.png")
        case "channels":
            Image.new("RGB", (24, 16)).save("set/masks/2.png")
        case "two":
            Path("set/images/0.jpg").write_bytes(b"")
        case "text":
            Path("set/masks/2.png").write_text("hello")
        case "cut":
            Path("set/images/2.png").write_bytes(Path("set/images/2.png").read_bytes()[:80])
        case "blank":
            for path in Path("set/masks").iterdir():
                Image.new("L", (24, 16)).save(path)
        case "value":
            draw("set", 3, values=(0, 7))
        case "jpg":
            for path in list(Path("set/masks").iterdir()):
                Image.open(path).save(path.with_suffix(".jpg"))
                path.unlink()


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("", {"root": "sett"}, "no data folder 'sett' (data.root). Near it: 'set'"),
        ("", {"images": "imags"}, "'set' has no folder 'imags' (data.images), nor train/imags. Did you mean 'images'"),
        ("", {"masks": "mask"}, "'set' has no folder 'mask' (data.masks). Did you mean 'masks'?"),
        ("none", {}, "a picture has no mask: set/images/4.png, expected set/masks/4.png. Remove it, or add the mask"),
        ("suffix", {}, "6 of 6 pictures have no mask: set/images/0.png, expected set/masks/0.png. Near it: "
         "set/masks/0_mask.png. data.mask_suffix=_mask"),
        ("jpg", {}, "'set/masks' holds .jpg; masks are .png"),
        ("size", {}, "set/images/2.png is 24x16, its mask set/masks/2.png 5x5"),
        ("channels", {}, "set/masks/2.png has 3 channels (RGB); a mask has one, whose values are classes"),
        ("two", {}, "two files of one name: set/images/0.jpg and set/images/0.png"),
        ("text", {}, "set/masks/2.png is not a picture that a mask can be"),
        ("cut", {}, "set/images/2.png (sample 2) is cut off"),
        ("blank", {}, "all masks hold the one value 0: there is nothing to learn"),
        ("value", {"classes": 2}, "set/masks/3.png holds the value 7, classes are 0 to 1. data.classes=8, data.ignore=7"
         ", or data.mask_values=foreground"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_folder_is_named_in_one_line(kind: str, options: Any, message: str) -> None:
    spoil(kind)
    with pytest.raises(DataError) as caught:
        segmentation(**{"root": "set", "image_size": 16, **options})
    assert message in caught.value.message and "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": [16]}, "data.image_size must be a number of pixels, or [height, width], got [16]"),
        ({"fit": "squash"}, "data.fit must be pad, stretch or crop, got 'squash'"),
        ({"mask_values": "ids"}, "data.mask_values must be auto, classes or foreground, got 'ids'"),
        ({"classes": "two"}, "data.classes must be a number of classes or a list"),
        ({"ignore": "none"}, "data.ignore must be a value of the masks, null or auto, got 'none'"),
        ({"mask_values": "foreground", "classes": ["a", "b", "c"]}, "data.classes names 3 classes"),
    ],
)
def test_wrong_keys_are_named(options: Any, message: str) -> None:
    pairs()
    with pytest.raises(ConfigError) as caught:
        segmentation("set", **options)
    assert message in caught.value.message


def test_the_real_nuclei_are_known_as_numbered_things(data_root: Any) -> None:
    found = segmentation(str(data_root("segmentation") / "segmentation"), image_size=64)
    assert len(found.train) == 160 and found.facts.num_classes == 2  # type: ignore[arg-type]
    assert "they number things: 1 to 3 in one picture, to 117 in another" in found.notes[1]
