"""Folders of classes become splits: any layout, size and mode of picture; what is wrong in them is named."""

from __future__ import annotations

import os
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image

from dlwp.data.imagefolder import HeldPictures, PictureFiles, imagefolder
from dlwp.data.pictures import Form, Listing
from dlwp.data.splits import cut_validation, find_facts
from dlwp.errors import ConfigError, DataError


def draw(path: str, size: tuple[int, int] = (40, 30), mode: str = "RGB", seed: int | None = None) -> Path:
    """Write a picture of noise, another one for each path."""
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    generator = numpy.random.default_rng(sum(path.encode()) if seed is None else seed)
    pixels = generator.integers(0, 256, (size[1], size[0], 3), dtype=numpy.uint8)
    Image.fromarray(pixels).convert(mode).save(file)
    return file


@pytest.fixture
def folder() -> str:
    for split, count in (("train", 6), ("val", 3)):
        for name in ("ant", "bee"):
            for number in range(count):
                draw(f"set/{split}/{name}/{number}.png")
    return "set"


def test_splits_and_classes_are_those_of_the_folders(folder: str) -> None:
    found = imagefolder(folder, image_size=16)
    assert found.facts.classes == ["ant", "bee"]
    assert (len(found.train), len(found.val), found.test) == (12, 6, None)  # type: ignore[arg-type]
    inputs, target = found.train[11]
    assert inputs.shape == (3, 16, 16) and inputs.dtype == torch.uint8 and target == 1
    assert found.warnings == []


def test_folders_of_classes_alone_are_train_and_validation_is_cut_by_the_seed(folder: str) -> None:
    found = imagefolder(f"{folder}/train", image_size=8)
    assert found.val is None
    halves = cut_validation(found, 0.5, seed=3)
    again = cut_validation(imagefolder(f"{folder}/train", image_size=8), 0.5, seed=3)
    assert isinstance(halves.val, HeldPictures) and isinstance(again.val, HeldPictures)
    assert halves.val.samples == again.val.samples
    assert halves.val.targets.bincount().tolist() == [3, 3]
    for index, (path, target) in enumerate(halves.val.samples):  # the names stay with their pictures
        whole = PictureFiles(imagefolder_listing(path, target), found_form(8))
        assert torch.equal(whole[0][0], halves.val[index][0])


def imagefolder_listing(path: str, target: int) -> Listing:
    return Listing(Path(path).parent, [path], [target], b"")


def found_form(size: int) -> Form:
    return Form(size, size)


def test_workers_and_memory_give_the_same_pictures(folder: str) -> None:
    held = imagefolder(folder, image_size=20, resize=24, interpolation="bicubic", loader="memory").train
    read = imagefolder(folder, image_size=20, resize=24, interpolation="bicubic", loader="workers").train
    assert isinstance(held, HeldPictures) and isinstance(read, PictureFiles)
    for index in range(12):
        assert torch.equal(held[index][0], read[index][0])
        assert int(held[index][1]) == read[index][1]
    assert held.samples == read.samples


MODES = [("L", "png"), ("P", "png"), ("RGBA", "png"), ("CMYK", "jpg"), ("RGB", "webp"), ("RGB", "bmp")]


@pytest.mark.parametrize(("mode", "suffix"), MODES)
def test_pictures_of_any_mode_and_format_become_rgb(folder: str, mode: str, suffix: str) -> None:
    file = draw(f"{folder}/train/ant/zz.{suffix}", mode=mode)
    found = imagefolder(folder, image_size=30)
    inputs, _ = found.train[6]
    expected = numpy.asarray(Image.open(file).convert("RGB"))[:, 5:35]  # the middle 30 of 40 columns
    assert inputs.shape == (3, 30, 30)
    assert torch.equal(inputs.permute(1, 2, 0), torch.from_numpy(expected.copy()))


def test_resize_is_that_of_torchvisions_presets(folder: str) -> None:
    from dlwp import torchvision_ops

    torchvision_ops.ensure_importable()
    from torchvision.transforms import InterpolationMode, v2

    file = draw("set/train/ant/large.png", (301, 200))
    theirs = v2.Compose([v2.Resize(64, InterpolationMode.BICUBIC, antialias=True), v2.CenterCrop(56)])
    expected = torch.from_numpy(numpy.array(theirs(Image.open(file)))).permute(2, 0, 1)
    found = imagefolder(folder, image_size=56, resize=64, interpolation="bicubic").train
    assert isinstance(found, HeldPictures)
    at = [path for path, _ in found.samples].index(str(file))
    assert (found[at][0].int() - expected.int()).abs().max() <= 1  # rounding of Pillow and torch


def test_pictures_are_turned_upright(folder: str) -> None:
    picture = Image.new("RGB", (20, 10))
    picture.paste((255, 0, 0), (0, 0, 10, 10))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    picture.save(f"{folder}/train/ant/turned.png", exif=exif)
    found = imagefolder(folder, image_size=10, fit="stretch").train
    inputs = next(inputs for (path, _), (inputs, _) in zip(found.samples, found) if "turned" in path)  # type: ignore[attr-defined]
    assert inputs[0, :4].min() == 255 and inputs[0, 6:].max() == 0


def test_broken_pictures_are_all_named_at_once_or_left_out(folder: str) -> None:
    Path(f"{folder}/train/ant/text.jpg").write_text("no picture")
    whole = draw(f"{folder}/val/bee/cut.png").read_bytes()
    Path(f"{folder}/val/bee/cut.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"2 pictures cannot be read. .*data.on_error=skip") as told:
        imagefolder(folder, image_size=8)
    assert any("text.jpg" in line for line in told.value.details) and any(
        "cut.png" in line for line in told.value.details
    )
    found = imagefolder(folder, image_size=8, on_error="skip")
    assert (len(found.train), len(found.val)) == (12, 6)  # type: ignore[arg-type]
    assert "left out 2 pictures that cannot be read" in found.notes[-1]


def test_what_stands_in_two_splits_is_told(folder: str) -> None:
    os.link(f"{folder}/train/bee/1.png", f"{folder}/val/bee/same.png")
    draw(f"{folder}/val/bee/other.png", seed=7)
    [warning] = imagefolder(folder, image_size=8).warnings
    assert "1 pictures stand in more than one split" in warning
    assert "train/bee/1.png" in warning and "val/bee/same.png" in warning


def test_few_and_lacking_pictures_of_a_class_are_told(folder: str) -> None:
    draw(f"{folder}/train/cat/0.png")
    warnings = imagefolder(folder, image_size=8).warnings
    assert warnings == ["classes of train with fewer than 5 pictures: cat (1)", "val has no picture of cat"]


@pytest.mark.parametrize(
    ("make", "root", "line"),
    [
        ("", "sett", "no data folder 'sett' .data.root.. Near it: 'set'"),
        ("set/val/fly/0.png", "set", "val has class 'fly', train does not"),
        ("set/more/0.png", "set", "holds train/ and also 'more'"),
        ("deep/images/ant/0.png", "deep", "only one class, 'images'.*Did you mean data.root=deep/images"),
        ("one/ant/0.png", "one", "only one class, 'ant', in 'one'. Expected one/CLASS"),
    ],
)
def test_other_layouts_are_one_line(folder: str, make: str, root: str, line: str) -> None:
    if make:
        draw(make)
    with pytest.raises(DataError, match=line):
        imagefolder(root, image_size=8)


def test_a_class_without_pictures_is_named(folder: str) -> None:
    Path(folder, "train", "empty").mkdir()
    with pytest.raises(DataError, match=r"'set/train/empty' has no pictures.*Remove it, or data.allow_empty=true"):
        imagefolder(folder, image_size=8)


def test_a_class_without_pictures_stays_a_class_where_that_is_allowed(folder: str) -> None:
    Path(folder, "train", "cat").mkdir()
    found = imagefolder(folder, image_size=8, allow_empty=True)
    assert found.facts.classes == ["ant", "bee", "cat"] and len(found.train) == 12  # type: ignore[arg-type]
    assert "train has no picture of cat" in found.warnings


def test_the_folder_of_runs_beside_the_classes_is_none_of_them() -> None:
    for name in ("set/ant/0.png", "set/bee/0.png", "set/outputs/a-b/2026/plots/curves.png"):
        draw(name)
    assert imagefolder("set", image_size=8).facts.classes == ["ant", "bee"]
    draw("set/outputs/0.png")
    assert imagefolder("set", image_size=8).facts.classes == ["ant", "bee", "outputs"]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ({"resize": 4}, "data.resize=4 is below data.image_size=8"),
        ({"interpolation": "cubic"}, "data.interpolation must be bilinear or bicubic, got 'cubic'"),
        ({"fit": "pad"}, "data.fit must be crop or stretch"),
    ],
)
def test_wrong_keys_are_one_line(folder: str, words: dict[str, object], line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        imagefolder(folder, image_size=8, **words)  # type: ignore[arg-type]


def test_facts_say_how_pictures_were_formed(folder: str) -> None:
    found = imagefolder(folder, image_size=16, resize=20)
    find_facts(found, mean="auto", std="auto")
    record = found.facts.record()
    assert record["form"] == {"fit": "crop", "resize": 20, "interpolation": "bilinear"}
    assert record["input_shape"] == (3, 16, 16) and record["classes"] == ["ant", "bee"] and len(record["mean"]) == 3
