"""Own the reading of picture files in class folders, and the cache that keeps them decoded.

Knows nothing of particular data sets, splits of them or what is done with the pictures.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import math
import os
import stat
import struct
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor

from dlwp import devices
from dlwp.data.datasets import ArrayDataset
from dlwp.errors import DataError, MachineError, nearest
from dlwp.runs import files
from dlwp.settings import PICTURE_SUFFIXES

MAX_PIXELS = 89_478_485
"""The largest picture that is decoded, as its header says: a quarter of a GiB in RGB."""

_RUNS = "outputs"
"""Where runs lie that are begun beside the pictures: without pictures in it, it is no class."""
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP")  # others call programs (EPS), or unpack without bounds
_CHUNK = 256
_ORIENTATION = 0x0112  # the EXIF tag
_UPRIGHT: dict[Any, tuple[bool, tuple[int, ...]]] = {
    2: (False, (1,)), 3: (False, (0, 1)), 4: (False, (0,)),
    5: (True, ()), 6: (True, (1,)), 7: (True, (0, 1)), 8: (True, (0,)),
}  # fmt: skip
"""EXIF orientation -> whether rows and columns change places, and which of them are then turned about."""


@dataclass
class Listing:
    """The pictures of one split: paths, class indices (or lists of 0 and 1), and a stamp of names, sizes and times."""

    folder: Path
    paths: list[str]
    targets: list[Any]
    stamp: bytes


def cache_folder() -> Path:
    """Return where decoded pictures are kept: DLWP_CACHE_DIR, else XDG_CACHE_HOME/dlwp, else ~/.cache/dlwp."""
    own = os.environ.get("DLWP_CACHE_DIR")
    if own:
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "dlwp"


def read_splits(
    folders: dict[str, Path], name: str, *, progress: bool | None = None
) -> tuple[dict[str, ArrayDataset], list[str], list[str]]:
    """Read pictures FOLDER/CLASS/FILE of several splits, from the cache where they are there.

    Args:
        folders: split -> folder that holds a folder for each class; the first sets the order of the classes.
        name: of the data set, for the cache's file and the bar.
        progress: whether to show a bar; None shows it on a terminal.

    Returns:
        The splits (pictures as uint8 (N, 3, H, W), in memory as (N, H, W, 3)), the class names, and notes.

    Raises:
        DataError: no class folders, a class that train does not have, a broken or unreadable picture, several sizes.
    """
    classes = class_names(next(iter(folders.values())))
    listings = {split: list_pictures(folder, classes) for split, folder in folders.items()}
    digest = hashlib.blake2b(repr(classes).encode(), digest_size=8)
    for listing in listings.values():
        digest.update(listing.stamp)
    cache = cache_folder() / f"{name}-{digest.hexdigest()}.safetensors"
    tensors = _load(cache, listings)
    notes = [f"decoded pictures from the cache {cache}"]
    if tensors is None:
        tensors = {split: _decode(listing, f"{name} {split}", progress) for split, listing in listings.items()}
        notes = [_store(cache, tensors)]
    splits = {
        split: ArrayDataset(tensors[split].permute(0, 3, 1, 2), torch.tensor(listing.targets))
        for split, listing in listings.items()
    }
    return splits, classes, notes


def class_names(folder: Path) -> list[str]:
    """Return the names of the class folders, sorted.

    Raises:
        DataError: there are none, or the folder cannot be read.
    """
    try:
        folders = [entry for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith(".")]
        found = sorted(entry.name for entry in folders if entry.name != _RUNS or _has_pictures(Path(entry.path)))
    except PermissionError:
        raise unreadable(folder) from None
    if not found:
        raise DataError(f"'{folder}' has no class folders. Expected {folder}/CLASS/*.jpg")
    return found


def list_pictures(folder: Path, classes: Sequence[str], allow_empty: bool | None = None) -> Listing:
    """List the pictures of each class, sorted by name.

    Args:
        allow_empty: `data.allow_empty`, whether a class may have no picture; None where the data has no such key.

    Raises:
        DataError: a class that is not in `classes`, one without pictures (unless `allow_empty`; all without, always),
            or no permission.
    """
    paths: list[str] = []
    targets: list[int] = []
    digest = hashlib.blake2b(str(folder.resolve()).encode())
    for name in class_names(folder):
        if name not in classes:
            raise DataError(f"{folder.name} has class '{name}', train does not (train: {', '.join(classes)})")
        entries = _entries(folder / name)
        if not entries and not allow_empty:
            kinds = ", ".join(PICTURE_SUFFIXES)
            way_out = one_deeper(folder) or f" Remove it{'' if allow_empty is None else ', or data.allow_empty=true'}"
            raise DataError(f"class folder '{folder / name}' has no pictures ({kinds}){_held(folder / name)}.{way_out}")
        paths += [path for path, _, _ in entries]
        targets += [classes.index(name)] * len(entries)
        digest.update(repr(entries).encode())
    if not paths:
        raise DataError(f"'{folder}' has no picture in any of its class folders.{one_deeper(folder)}")
    return Listing(folder, paths, targets, digest.digest())


def existing_folder(root: str) -> Path:
    """Return the folder of `data.root`.

    Raises:
        DataError: there is none; it names one near it.
    """
    folder = Path(root).expanduser()
    if not folder.is_dir():
        siblings = [entry.name for entry in folder.parent.iterdir() if entry.is_dir()] if folder.parent.is_dir() else []
        near = nearest(folder.name, siblings, 1)
        hint = f" Near it: '{folder.parent / near[0]}'" if near else ""
        raise DataError(f"no data folder '{folder}' (data.root).{hint}")
    return folder


def one_deeper(folder: Path) -> str:
    """Return a hint at the first folder in `folder` that holds folders with pictures, "" where there is none."""
    for inner in sorted(path for path in folder.iterdir() if path.name != _RUNS):
        with contextlib.suppress(OSError):
            if any(path.is_dir() and _has_pictures(path) for path in (*inner.glob("*"), *inner.glob("train/*"))):
                return f" Did you mean data.root={inner}?"
    return ""


def _has_pictures(folder: Path) -> bool:
    return any(path.name.lower().endswith(PICTURE_SUFFIXES) for path in folder.iterdir())


def _held(folder: Path) -> str:
    """Return what a folder without pictures holds: "; it holds 3 .txt"."""
    kinds = Counter(path.suffix or "without an ending" for path in folder.iterdir() if path.is_file())
    return f"; it holds {', '.join(f'{count} {kind}' for kind, count in kinds.most_common(3))}" if kinds else ""


def _entries(folder: Path) -> list[tuple[str, int, int]]:
    found = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.lower().endswith(PICTURE_SUFFIXES):
                    status = entry.stat()
                    if not stat.S_ISREG(status.st_mode):
                        raise DataError(f"'{entry.path}' is not a regular file. Remove it")
                    found.append((entry.path, status.st_size, status.st_mtime_ns))
    except PermissionError:
        raise unreadable(folder) from None
    return sorted(found)


def unreadable(path: Path) -> DataError:
    """Return what to tell where permission is missing: whose it is, and its mode."""
    try:
        status = path.stat()
    except OSError:
        return DataError(f"no permission to read '{path}'")
    try:
        owner = path.owner()
    except KeyError:
        owner = str(status.st_uid)
    return DataError(f"no permission to read '{path}' (owner {owner}, mode {status.st_mode & 0o7777:04o})")


# ---- the cache ------------------------------------------------------------------------------------------------------


def _load(cache: Path, listings: dict[str, Listing]) -> dict[str, Tensor] | None:
    """Return the decoded pictures of each split as (N, H, W, 3), or None where the cache has not all of them."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(cache)
    except (OSError, SafetensorError):  # not there, or cut off: decode again
        return None
    sizes = {split: len(listing.paths) for split, listing in listings.items()}
    return tensors if {split: len(values) for split, values in tensors.items()} == sizes else None


def _store(cache: Path, tensors: dict[str, Tensor]) -> str:
    """Write the cache, and return a note; where it cannot be written the run goes on without."""
    from safetensors.torch import save

    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        files.write_atomic(cache, save(tensors))
    except OSError as error:
        why = f"cannot write to '{cache.parent}' ({error.strerror})"
        return f"pictures decoded, and not kept: {why}. DLWP_CACHE_DIR=FOLDER"
    return f"pictures decoded, and kept in {cache}"


# ---- decoding -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Form:
    """What every picture is made to be.

    Args:
        height, width: in pixels.
        fit: "crop" scales until the shorter side fits and keeps the middle; "stretch" scales both sides as needed;
            "pad" makes larger ones smaller until all of it fits, and leaves black what is free below and at the right.
        resize: with "crop", the shorter side is scaled to so many pixels, and then the middle is cut out; None: no more
            is cut off than the shape asks for.
        interpolation: "bilinear" or "bicubic", antialiased.
    """

    height: int
    width: int
    fit: str = "crop"
    resize: int | None = None
    interpolation: str = "bilinear"

    def scaled(self, height: int, width: int) -> tuple[int, int]:
        """Return what a picture is scaled to before the middle is cut out, with `resize`."""
        assert self.resize is not None
        shorter = min(height, width)
        return int(self.resize * height / shorter), int(self.resize * width / shorter)

    def kept(self, height: int, width: int) -> tuple[slice, slice]:
        """Return which rows and columns of a picture are kept."""
        if self.fit in ("stretch", "pad") or self.resize is not None:
            return slice(0, height), slice(0, width)
        scale = min(height / self.height, width / self.width)
        rows, columns = max(1, round(scale * self.height)), max(1, round(scale * self.width))
        top, left = (height - rows) // 2, (width - columns) // 2
        return slice(top, top + rows), slice(left, left + columns)

    def filled(self, height: int, width: int) -> tuple[int, int]:
        """Return how many rows and columns of the result a picture fills: all, but with fit="pad"."""
        if self.fit != "pad":
            return self.height, self.width
        scale = min(1.0, self.height / height, self.width / width)
        return max(1, round(scale * height)), max(1, round(scale * width))

    def ratio(self, height: int, width: int) -> float:
        """Return how many pixels of a picture become one, along the side on which it is fewer."""
        if self.resize is not None:
            return min(height, width) / self.resize
        if self.fit == "pad":
            return max(height / self.height, width / self.width)
        rows, columns = self.kept(height, width)
        return min((rows.stop - rows.start) / self.height, (columns.stop - columns.start) / self.width)


def in_two_splits(paths: Mapping[str, Sequence[str]]) -> list[str]:
    """Return a sentence on files that stand in two splits: of equal size, and then of equal content."""
    by_size: defaultdict[int, list[tuple[str, str]]] = defaultdict(list)
    for name, listed in paths.items():
        for path in listed:
            by_size[Path(path).stat().st_size].append((name, path))
    doubtful = [group for group in by_size.values() if len({name for name, _ in group}) > 1]
    first: defaultdict[bytes, dict[str, str]] = defaultdict(dict)
    for group in doubtful:
        for name, path in group:
            with Path(path).open("rb") as file:
                first[hashlib.file_digest(file, "blake2b").digest()].setdefault(name, path)
    same = [places for places in first.values() if len(places) > 1]
    if not same:
        return []
    shown = " = ".join(same[0].values())
    return [f"{len(same):,} pictures stand in more than one split, which makes results too good: {shown}"]


@functools.cache
def _leave_sizes_to_us() -> None:
    """Keep Pillow from warning of a large picture in lines of its own: it is refused here, in one."""
    from PIL import Image

    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def decode(path: Any, sample: int, form: Form | None = None) -> numpy.ndarray:
    """Return one picture as uint8 (H, W, 3), upright as its EXIF says, without its alpha.

    Args:
        path: of the file, or an open file. sample: its number, for messages.
        form: what it is scaled to, antialiased; None keeps its size. A JPEG of four times the size or more
            is halved as it is decoded, to no less than twice the size.

    Raises:
        DataError: it is no picture, is cut off or cannot be read; it names the file.
    """
    from PIL import Image, UnidentifiedImageError

    where = f"{path} (sample {sample})" if isinstance(path, str | Path) else "the picture"
    _leave_sizes_to_us()
    try:
        with Image.open(path, formats=_FORMATS) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise Image.DecompressionBombError(f"{picture.width}×{picture.height}")
            held = picture.getexif().get(_ORIENTATION) if "exif" in picture.info else None
            turned, flips = _UPRIGHT.get(held, (False, ()))
            size = picture.size if turned else picture.size[::-1]
            pixels = _pixels(picture, 1.0 if form is None else form.ratio(*size))
    except UnidentifiedImageError:
        raise DataError(f"{where} is not a picture. Remove or replace it") from None
    except PermissionError:
        raise unreadable(Path(path)) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"{where} has more than {MAX_PIXELS:,} pixels ({error}). Remove or replace it") from None
    except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:  # Pillow raises each for broken files
        how = "is cut off" if "truncated" in str(error) else f"cannot be decoded ({error})"
        raise DataError(f"{where} {how}. Remove or replace it") from None
    pixels = numpy.flip(pixels.swapaxes(0, 1) if turned else pixels, flips)
    return pixels if form is None else formed(pixels, form)


def _pixels(picture: Any, ratio: float) -> numpy.ndarray:
    """Return the pixels of an opened picture as RGB, of which `ratio` will be made one."""
    jpeg = torchcodec_jpeg()
    if ratio >= 4 and picture.format in ("JPEG", "MPO"):
        picture.draft(None, tuple(math.ceil(2 * length / ratio) for length in picture.size))
    elif jpeg is not None and picture.format == "JPEG" and picture.mode == "RGB":
        picture.fp.seek(0)
        with contextlib.suppress(RuntimeError):  # what it cannot read is told, or read after all, by Pillow
            return jpeg(picture.fp.read()).permute(1, 2, 0).numpy()
    return numpy.asarray(picture if picture.mode == "RGB" else picture.convert("RGB"))


@functools.cache
def torchcodec_jpeg() -> Callable[[bytes], Tensor] | None:
    """Return torchcodec's decoder of JPEG, which gives the bits that Pillow gives, sooner.

    None where it is not installed, or was built for another torch.
    """
    try:
        from torchcodec.decoders import decode_jpeg
    except (ImportError, OSError, RuntimeError):
        return None
    return decode_jpeg


def formed(pixels: numpy.ndarray, form: Form) -> numpy.ndarray:
    """Return pixels (H, W, 3) cut and scaled; torch does it in two fifths of Pillow's time, where it has AVX2."""
    kept = pixels[form.kept(*pixels.shape[:2])]
    if form.resize is not None:
        return _cut(_scaled(kept, form.scaled(*kept.shape[:2]), form.interpolation), form)
    if kept.shape[:2] == (form.height, form.width):
        return kept
    filled = form.filled(*kept.shape[:2])
    return padded(_scaled(kept, filled, form.interpolation), form, 0)


def padded(pixels: numpy.ndarray, form: Form, outside: int) -> numpy.ndarray:
    """Return pixels (H, W) or (H, W, 3) with what they do not fill of the form set to `outside`."""
    rows, columns = pixels.shape[:2]
    if (rows, columns) == (form.height, form.width):
        return pixels
    whole = numpy.full((form.height, form.width, *pixels.shape[2:]), outside, pixels.dtype)
    whole[:rows, :columns] = pixels
    return whole


def _scaled(pixels: numpy.ndarray, size: tuple[int, int], interpolation: str) -> numpy.ndarray:
    if pixels.shape[:2] == size:
        return pixels
    # a copy, as torch takes no read-only memory; (1, H, W, 3) to (1, 3, H, W), which it knows for channels_last
    values = torch.from_numpy(numpy.array(pixels, order="C")).unsqueeze(0).permute(0, 3, 1, 2)
    scaled = torch.nn.functional.interpolate(values, size, mode=interpolation, antialias=True)  # (1, 3, H, W)
    return scaled[0].permute(1, 2, 0).numpy()


def _cut(pixels: numpy.ndarray, form: Form) -> numpy.ndarray:
    """Return the middle (height, width) of pixels (H, W, 3), which are no fewer."""
    top, left = (round((whole - part) / 2) for whole, part in zip(pixels.shape, (form.height, form.width)))
    return pixels[top : top + form.height, left : left + form.width]


def _decode(listing: Listing, title: str, progress: bool | None) -> Tensor:
    """Return all pictures of a split, uint8 (N, H, W, 3), decoded by one thread a core."""
    from tqdm import tqdm

    paths = listing.paths
    shape = decode(paths[0], 0).shape
    try:
        pictures = numpy.empty((len(paths), *shape), numpy.uint8)
    except MemoryError:
        size = len(paths) * numpy.prod(shape) / 1e9
        raise MachineError(
            f"{title}: {len(paths):,} pictures need {size:.1f} GB in memory, which are not free"
        ) from None

    def fill(begin: int) -> int:
        chunk = paths[begin : begin + _CHUNK]
        for sample, path in enumerate(chunk, begin):
            picture = decode(path, sample)
            if picture.shape != shape:
                sizes = [f"{one[1]}×{one[0]}" for one in (shape, picture.shape)]
                raise DataError(f"pictures differ: {paths[0]} is {sizes[0]}, {path} (sample {sample}) is {sizes[1]}")
            pictures[sample] = picture
        return len(chunk)

    hidden = None if progress is None else not progress
    with tqdm(total=len(paths), desc=f"decoding {title}", unit=" pictures", disable=hidden) as bar:
        by_threads(fill, range(0, len(paths), _CHUNK), bar)
    return torch.from_numpy(pictures)


def by_threads(fill: Callable[[int], int], begins: Sequence[int], bar: Any) -> None:
    """Call `fill` with each of `begins`, by one thread a core; the bar moves by what it returns.

    Where one call fails those that have not begun are left.
    """
    with ThreadPoolExecutor(devices.usable_processors()) as threads:
        try:
            for count in threads.map(fill, begins):
                bar.update(count)
        except BaseException:
            threads.shutdown(cancel_futures=True)
            raise
