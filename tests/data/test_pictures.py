"""The picture reader keeps its promises: decoded once, found again, never stale, and a broken file is named."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image, ImageOps

from dlwp.data import pictures
from dlwp.data.datasets import is_channels_last
from dlwp.errors import DataError


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("DLWP_CACHE_DIR", str(folder))
    return folder


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    """Return train and test, of two classes: three pictures each of one colour, its red the number of the picture."""
    made = {split: tmp_path / "set" / split for split in ("train", "test")}
    for folder in made.values():
        for kind in ("cat", "dog"):
            (folder / kind).mkdir(parents=True)
            for number in range(3):
                colour = (10 * number, 200 if kind == "dog" else 0, 0)
                Image.new("RGB", (6, 4), colour).save(folder / kind / f"{number}.png")
    return made


def test_pictures_classes_and_order(folders: dict[str, Path], cache: Path) -> None:
    parts, classes, notes = pictures.read_splits(folders, "set")
    assert classes == ["cat", "dog"]
    train = parts["train"]
    assert train.inputs.shape == (6, 3, 4, 6) and train.inputs.dtype == torch.uint8
    assert is_channels_last(train.inputs)
    assert train.inputs[:, 0, 0, 0].tolist() == [0, 10, 20, 0, 10, 20]
    assert train.inputs[:, 1, 0, 0].tolist() == [0, 0, 0, 200, 200, 200]
    assert train.targets.tolist() == [0, 0, 0, 1, 1, 1]
    assert notes[0].startswith(f"pictures decoded, and kept in {cache}")


def test_the_second_reading_comes_from_the_cache(folders: dict[str, Path], cache: Path) -> None:
    first, _, _ = pictures.read_splits(folders, "set")
    for file in folders["train"].rglob("*.png"):  # as long and as old as before, and no pictures any more
        times = file.stat().st_atime_ns, file.stat().st_mtime_ns
        file.write_bytes(b"x" * file.stat().st_size)
        os.utime(file, ns=times)
    again, classes, notes = pictures.read_splits(folders, "set")
    assert notes[0].startswith("decoded pictures from the cache")
    assert classes == ["cat", "dog"]
    for split in folders:
        assert torch.equal(first[split].inputs, again[split].inputs)
        assert torch.equal(first[split].targets, again[split].targets)


def test_a_changed_picture_is_decoded_anew(folders: dict[str, Path], cache: Path) -> None:
    pictures.read_splits(folders, "set")
    Image.new("RGB", (6, 4), (99, 0, 0)).save(folders["train"] / "cat" / "1.png")
    parts, _, _ = pictures.read_splits(folders, "set")
    assert parts["train"].inputs[1, 0, 0, 0] == 99


def test_a_cut_cache_is_made_again(folders: dict[str, Path], cache: Path) -> None:
    first, _, _ = pictures.read_splits(folders, "set")
    (file,) = cache.iterdir()
    file.write_bytes(file.read_bytes()[:-10])
    again, _, notes = pictures.read_splits(folders, "set")
    assert torch.equal(first["train"].inputs, again["train"].inputs)
    assert notes[0].startswith("pictures decoded, and kept")


def test_without_a_writable_cache_the_run_goes_on(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DLWP_CACHE_DIR", "/dev/null/cache")
    parts, _, notes = pictures.read_splits(folders, "set")
    assert len(parts["train"]) == 6
    assert "not kept: cannot write to '/dev/null/cache' (Not a directory). DLWP_CACHE_DIR=FOLDER" in notes[0]


def test_grey_pictures_become_rgb(folders: dict[str, Path], cache: Path) -> None:
    Image.new("L", (6, 4), 7).save(folders["train"] / "cat" / "1.png")
    assert pictures.read_splits(folders, "set")[0]["train"].inputs[1, :, 0, 0].tolist() == [7, 7, 7]


def test_a_broken_picture_is_named(folders: dict[str, Path], cache: Path) -> None:
    file = folders["train"] / "dog" / "1.png"
    file.write_text("<html>")
    with pytest.raises(DataError, match=r"dog/1\.png \(sample 4\) is not a picture\. Remove or replace it"):
        pictures.read_splits(folders, "set")
    noise = numpy.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=numpy.uint8)
    Image.fromarray(noise).save(file.with_suffix(".jpg"))
    file.unlink()
    cut = file.with_suffix(".jpg")
    cut.write_bytes(cut.read_bytes()[:1500])
    with pytest.raises(DataError, match=r"dog/1\.jpg \(sample 4\) is cut off"):
        pictures.read_splits(folders, "set")
    assert not list(cache.glob("*"))


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda train: Image.new("RGB", (5, 5)).save(train / "dog" / "1.png"), r"pictures differ: .*6×4.*\) is 5×5"),
        (lambda train: [file.unlink() for file in (train / "dog").iterdir()], "train/dog' has no pictures"),
        (
            lambda train: (train / "dog").rename(train / "fox"),
            r"test has class 'dog', train does not \(train: cat, fox",
        ),
        (
            lambda train: train.rename(train.parent / "other") and train.mkdir(),
            r"has no class folders\. Expected .*CLASS",
        ),
    ],
)
def test_a_folder_that_does_not_fit_is_told(
    folders: dict[str, Path], cache: Path, break_it: object, words: str
) -> None:
    break_it(folders["train"])  # type: ignore[operator]
    with pytest.raises(DataError, match=words):
        pictures.read_splits(folders, "set")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="needs to become another user")
def test_a_folder_without_permission_names_owner_and_mode(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    handle = os.open(closed, os.O_PATH)  # the folders above are closed to others as well
    os.seteuid(65534)
    try:
        with pytest.raises(DataError, match=r"no permission to read '.*' \(owner root, mode 0700\)"):
            pictures.class_names(Path(f"/proc/self/fd/{handle}"))
    finally:
        os.seteuid(0)
        os.close(handle)


def test_a_picture_of_too_many_pixels_is_refused_by_its_header(
    folders: dict[str, Path], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "MAX_PIXELS", 23)
    with pytest.raises(DataError, match=r"cat/0\.png \(sample 0\) has more than 23 pixels \(6×4\)"):
        pictures.read_splits(folders, "set")


def test_only_formats_of_pictures_are_opened(folders: dict[str, Path], cache: Path) -> None:
    Image.new("RGB", (6, 4)).save(folders["train"] / "cat" / "0.eps")  # Pillow hands these to a program
    (folders["train"] / "cat" / "0.eps").replace(folders["train"] / "cat" / "0.png")
    with pytest.raises(DataError, match=r"cat/0\.png \(sample 0\) is not a picture"):
        pictures.read_splits(folders, "set")


def test_a_pipe_among_pictures_is_named(folders: dict[str, Path], cache: Path) -> None:
    os.mkfifo(folders["train"] / "cat" / "9.png")
    with pytest.raises(DataError, match=r"cat/9\.png' is not a regular file"):
        pictures.read_splits(folders, "set")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_is_read_upright(tmp_path: Path, orientation: int) -> None:
    pixels = numpy.arange(4 * 6 * 3, dtype=numpy.uint8).reshape(4, 6, 3)
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = tmp_path / "held.png"
    Image.fromarray(pixels).save(file, exif=exif)
    with Image.open(file) as picture:
        upright = numpy.asarray(ImageOps.exif_transpose(picture))
    assert (pictures.decode(str(file), 0) == upright).all()


def test_a_broken_exif_costs_no_picture(tmp_path: Path) -> None:
    file = tmp_path / "odd.jpg"
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02\0\0\0\x02ab" + 6 * b"\0"  # held as "ab"
    Image.new("RGB", (8, 8), (200, 0, 0)).save(file, exif=exif)
    assert pictures.decode(str(file), 0).shape == (8, 8, 3)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "LA", "I;16"])
@pytest.mark.parametrize("form", [None, pictures.Form(4, 4)])
def test_every_kind_of_picture_becomes_rgb(tmp_path: Path, mode: str, form: pictures.Form | None) -> None:
    file = tmp_path / ("kind.jpg" if mode == "CMYK" else "kind.png")
    Image.new(mode, (9, 7)).save(file)
    found = pictures.decode(str(file), 0, form)
    assert found.dtype == numpy.uint8 and found.shape == ((7, 9, 3) if form is None else (4, 4, 3))


def test_a_form_keeps_the_middle_or_all(tmp_path: Path) -> None:
    pixels = numpy.zeros((8, 24, 3), numpy.uint8)
    pixels[:, :8, 0], pixels[:, 8:16, 1], pixels[:, 16:, 2] = 255, 255, 255  # red, green, blue
    file = tmp_path / "wide.png"
    Image.fromarray(pixels).save(file)
    middle = pictures.decode(str(file), 0, pictures.Form(4, 4))
    assert (middle == [0, 255, 0]).all()
    whole = pictures.decode(str(file), 0, pictures.Form(4, 12, "stretch"))
    assert (whole[:, [0, 5, 11]] == [[255, 0, 0], [0, 255, 0], [0, 0, 255]]).all()


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_large_photograph_halved_while_decoded_is_that_scaled_at_once(tmp_path: Path, orientation: int) -> None:
    noise = numpy.random.default_rng(0).integers(0, 256, (12, 18, 3), dtype=numpy.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    photo = Image.fromarray(noise).resize((720, 480), Image.Resampling.BICUBIC)
    photo.save(tmp_path / "large.jpg", quality=95, exif=exif)
    with Image.open(tmp_path / "large.jpg") as picture:
        photo = ImageOps.exif_transpose(picture)
    photo.save(tmp_path / "large.png", exif=Image.Exif())  # of a PNG all pixels are decoded
    form = pictures.Form(40, 40)
    halved, whole = (pictures.decode(str(tmp_path / f"large.{kind}"), 0, form) for kind in ("jpg", "png"))
    assert numpy.abs(halved.astype(int) - whole).mean() < 1  # of 255: another filter, the same picture
    assert not (halved == whole).all()


def test_torchcodec_gives_the_bits_of_pillow(data_root: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    if pictures.torchcodec_jpeg() is None:
        pytest.skip("torchcodec is not installed, or not for this torch")
    found = sorted((data_root("photos") / "photos").glob("*.jpg"))
    fast = [pictures.decode(str(file), 0) for file in found]
    monkeypatch.setattr(pictures, "torchcodec_jpeg", lambda: None)
    for file, pixels in zip(found, fast, strict=True):
        assert (pictures.decode(str(file), 0) == pixels).all()


def test_what_is_scaled_lies_row_by_row(tmp_path: Path) -> None:
    file = tmp_path / "wide.png"
    Image.new("RGB", (24, 8)).save(file)
    assert pictures.decode(str(file), 0, pictures.Form(4, 4)).flags["C_CONTIGUOUS"]  # else a copy takes long
