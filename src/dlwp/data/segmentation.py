"""Own pictures with masks (a class for each pixel) as a data set: its layout, what is wrong in it, and its decoding.

Knows nothing of models; how large pictures are to be comes as arguments.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor
from torch.utils.data import Dataset

from dlwp import memory
from dlwp.data import pictures
from dlwp.data.datasets import Facts, Splits
from dlwp.data.geometry import IGNORED
from dlwp.data.imagefolder import HeldPictures
from dlwp.data.pictures import Form
from dlwp.errors import ConfigError, DataError, MachineError, did_you_mean
from dlwp.settings import PICTURE_SUFFIXES

_SPLITS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
_MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".gif")
_MODES = ("1", "L", "P", "I", "I;16")
_SHARE = 0.5  # of the free memory that decoded pictures may take
_CHUNK = 8
_SHOWN = 10
_LOOKED_AT = 512  # masks whose values are found out before training where they are not all decoded
_MOST_CLASSES = 256
_OUTSIDE = -1  # what a mask as it is holds where its picture was padded
_INSTANCES = 20  # numbers of things go beyond this, classes seldom


@dataclass(frozen=True)
class Coding:
    """How the values of masks become classes.

    Args:
        kind: "classes" (values are indices) or "foreground" (0 is class 0, all above class 1).
        ignore: value of pixels that do not count, None for none.
        num_classes: values must lie below.
    """

    kind: str
    ignore: int | None
    num_classes: int

    def classes_of(self, values: numpy.ndarray) -> numpy.ndarray:
        """Return classes, int16, of the values of masks."""
        found = (values > 0).astype(numpy.int16) if self.kind == "foreground" else values.astype(numpy.int16)
        found[values == _OUTSIDE] = IGNORED
        if self.ignore is not None:
            found[values == self.ignore] = IGNORED
        return found


@dataclass
class _Pairs:
    """Pictures and masks of one split, in the order of their names."""

    samples: list[tuple[str, str]]
    values: list[numpy.ndarray] = field(default_factory=list)  # that occur in each mask that was looked at
    files: list[str] = field(default_factory=list)  # the masks whose values those are
    faults: list[str] = field(default_factory=list)


def segmentation(
    root: str,
    images: str = "images",
    masks: str = "masks",
    mask_suffix: str = "",
    mask_values: str = "auto",
    ignore: int | str | None = "auto",
    classes: Any = None,
    image_size: int | Sequence[int] = 256,
    fit: str = "stretch",
    interpolation: str = "bilinear",
    loader: str = "auto",
) -> Splits:
    """Return the pictures of `root`/images with the masks of `root`/masks, or `root`/train/images and so on.

    Pictures become RGB of one size; masks have one channel, and are scaled with their pictures without mixing values.

    Args:
        root: the folder.
        images, masks: names of the folders in it.
        mask_suffix: what the name of a mask has after that of its picture, before its ending.
        mask_values: "classes", "foreground" (whatever is above 0 is class 1), or "auto".
        ignore: value of pixels that do not count; None: none; "auto": 255 where values are classes.
        classes: number of classes, or their names; None: as many as the values say.
        image_size: pixels a side, or (height, width).
        fit: "stretch", "crop", or "pad" (the whole picture, no larger than it is; the rest does not count).
        interpolation: of pictures, "bilinear" or "bicubic".
        loader: "memory", "workers", or "auto": memory where they fit.

    Raises:
        DataError: the layout is another one, a picture has no mask, sizes differ, a mask has several channels, or a
            value is no class.
    """
    form = _form(image_size, fit, interpolation)
    if mask_values not in ("auto", "classes", "foreground"):
        raise ConfigError(f"data.mask_values must be auto, classes or foreground, got {mask_values!r}")
    names = (images, masks, mask_suffix)
    splits = {name: _pairs(folder, *names) for name, folder in _folders(pictures.existing_folder(root), *names).items()}
    in_memory = _in_memory(sum(len(one.samples) for one in splits.values()), form, loader)
    read = {name: _read(one, form, in_memory) for name, one in splits.items()}
    _refuse_faults(splits)
    coding, how = _coding(splits, mask_values, ignore, classes)
    names_of = _names(classes, coding)
    found: dict[str, Dataset[Any]] = {}
    for name, one in splits.items():
        _check_values(one, coding, how)
        found[name] = MaskedFiles(one.samples, form, coding)
        if in_memory:
            held, values = read[name]
            held_masks = torch.from_numpy(coding.classes_of(values))
            found[name] = HeldPictures(torch.from_numpy(held).permute(0, 3, 1, 2), held_masks, list(one.samples))
            del read[name]
    facts = Facts(
        task="segmentation", num_classes=coding.num_classes, classes=names_of,
        form={"fit": fit, "resize": None, "interpolation": interpolation},
    )  # fmt: skip
    notes = [f"pictures of {root}, made {form.height}x{form.width} ({_words(form)})", how, *_told(splits, coding)]
    warnings = pictures.in_two_splits({name: [path for path, _ in one.samples] for name, one in splits.items()})
    return Splits(found["train"], found.get("val"), found.get("test"), facts, notes, warnings)


def _in_memory(count: int, form: Form, loader: str) -> bool:
    needed, free = count * form.height * form.width * 9, memory.free()  # 3 of pictures, masks while read
    if loader == "memory" and needed > free:
        sizes = f"{needed / 2**30:.1f} GiB, {free / 2**30:.1f} are free"
        raise MachineError(f"{count:,} pictures take {sizes}. data.loader=workers")
    return loader == "memory" or (loader == "auto" and needed <= _SHARE * free)


def _form(image_size: Any, fit: str, interpolation: str) -> Form:
    if interpolation not in ("bilinear", "bicubic"):
        raise ConfigError(f"data.interpolation must be bilinear or bicubic, got {interpolation!r}")
    if fit not in ("pad", "stretch", "crop"):
        raise ConfigError(f"data.fit must be pad, stretch or crop, got {fit!r}")
    sides = [image_size, image_size] if isinstance(image_size, int) else image_size
    is_pair = isinstance(sides, Sequence) and len(sides) == 2 and all(isinstance(one, int) and one > 0 for one in sides)
    if not is_pair or isinstance(image_size, bool):
        raise ConfigError(f"data.image_size must be a number of pixels, or [height, width], got {image_size!r}")
    return Form(sides[0], sides[1], fit, None, interpolation)


def _words(form: Form) -> str:
    how = {"pad": "whole, what is free does not count", "stretch": "stretched", "crop": "the middle cut out"}
    return f"{how[form.fit]}, {form.interpolation}, masks nearest"


# ---- layout ---------------------------------------------------------------------------------------------------------


def _folders(root: Path, images: str, masks: str, suffix: str) -> dict[str, Path]:
    """Return the folder of each split; of one without splits all is train."""
    if (root / images).is_dir():
        return {"train": root}
    found = {name: root / one for name, known in _SPLITS.items() for one in known if (root / one / images).is_dir()}
    if "train" not in found:
        inside = sorted(entry.name for entry in root.iterdir() if entry.is_dir())
        near = did_you_mean(images, inside)
        raise DataError(
            f"'{root}' has no folder '{images}' (data.images), nor train/{images}.{near}"
            f" It holds: {_some(inside) or 'no folders'}"
        )
    return found


def _pairs(folder: Path, images: str, masks: str, suffix: str) -> _Pairs:
    """Return the pictures of a folder, each with its mask.

    Raises:
        DataError: there is no folder of masks, no picture, or a picture without a mask; or two of one name.
    """
    if not (folder / masks).is_dir():
        inside = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and entry.name != images)
        near = did_you_mean(masks, inside)
        raise DataError(f"'{folder}' has no folder '{masks}' (data.masks).{near} It holds: {_some([images, *inside])}")
    shown = _by_stem(folder / images, PICTURE_SUFFIXES)
    known = _by_stem(folder / masks, _MASK_SUFFIXES)
    if not shown:
        raise DataError(f"'{folder / images}' has no pictures ({', '.join(PICTURE_SUFFIXES)})")
    lacking = [path for stem, path in shown.items() if stem + suffix not in known]
    if lacking:
        raise _no_mask(folder / masks, suffix, lacking, len(shown), known)
    return _Pairs([(path, known[stem + suffix]) for stem, path in shown.items()])


def _no_mask(folder: Path, suffix: str, lacking: Sequence[str], total: int, known: dict[str, str]) -> DataError:
    first = Path(lacking[0])
    count = "a picture has" if len(lacking) == 1 else f"{len(lacking):,} of {total:,} pictures have"
    text = f"{count} no mask: {first}, expected {folder / (first.stem + suffix + '.png')}."
    endings = sorted({path.suffix.lower() for path in folder.iterdir() if path.is_file()} - set(_MASK_SUFFIXES))
    alike = [stem for stem in known if stem.startswith(first.stem + suffix)]
    if alike:
        text += f" Near it: {known[alike[0]]}. data.mask_suffix={alike[0].removeprefix(first.stem)}"
    elif endings and not known:
        text += f" '{folder}' holds {', '.join(endings)}; masks are {', '.join(_MASK_SUFFIXES)}"
    else:
        text += " Remove it, or add the mask" if len(lacking) == 1 else " Remove them, or add the masks"
    return DataError(text, [str(path) for path in lacking[:_SHOWN]] if len(lacking) > 1 else [])


def _by_stem(folder: Path, suffixes: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    try:
        listed = sorted(folder.iterdir())
    except PermissionError:
        raise pictures.unreadable(folder) from None
    for path in listed:
        if path.suffix.lower() in suffixes and not path.name.startswith("."):
            if path.stem in found:
                raise DataError(f"two files of one name: {found[path.stem]} and {path}. Remove or rename one")
            found[path.stem] = str(path)
    return found


# ---- reading --------------------------------------------------------------------------------------------------------


class MaskedFiles(Dataset[tuple[Tensor, Tensor]]):
    """Files of pictures and masks, decoded as they are asked for: (uint8 (3, H, W), int16 (H, W)).

    Attributes:
        samples: (picture, mask) of each.
    """

    def __init__(self, samples: Sequence[tuple[str, str]], form: Form, coding: Coding) -> None:
        self.samples = list(samples)
        self._form, self._coding = form, coding

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        path, mask_path = self.samples[index]
        picture = pictures.decode(path, index, self._form)
        values = formed_mask(read_mask(mask_path), self._form)
        fault = _out_of_range(values[values != _OUTSIDE], self._coding)
        if fault:
            raise DataError(f"{mask_path} {fault}")
        return torch.from_numpy(picture.copy()).permute(2, 0, 1), torch.from_numpy(self._coding.classes_of(values))


def read_mask(path: str) -> numpy.ndarray:
    """Return the values of a mask, int32 (H, W); of one with a palette the numbers of the colours.

    Raises:
        DataError: it is no picture, is cut off, or has more than one channel.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path, formats=("PNG", "BMP", "TIFF", "GIF")) as picture:
            if picture.width * picture.height > pictures.MAX_PIXELS:
                raise DataError(f"{path} has more than {pictures.MAX_PIXELS:,} pixels. Remove or replace it")
            if picture.mode not in _MODES:
                raise DataError(
                    f"{path} has {len(picture.getbands())} channels ({picture.mode}); a mask has one, whose values are"
                    " classes. Save it so, or with a palette"
                )
            return numpy.asarray(picture).astype(numpy.int32)
    except UnidentifiedImageError:
        raise DataError(f"{path} is not a picture that a mask can be (PNG, BMP, TIFF). Remove or replace it") from None
    except PermissionError:
        raise pictures.unreadable(Path(path)) from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:  # Pillow raises each for broken files
        how = "is cut off" if "truncated" in str(error) else f"cannot be decoded ({error})"
        raise DataError(f"{path} {how}. Remove or replace it") from None


def formed_mask(values: numpy.ndarray, form: Form) -> numpy.ndarray:
    """Return the values of a mask cut and scaled as its picture is, each pixel the nearest; -1 where it is padded."""
    kept = values[form.kept(*values.shape)]
    rows, columns = form.filled(*kept.shape)
    if kept.shape != (rows, columns):
        places = [
            numpy.minimum(((numpy.arange(count) + 0.5) * whole / count).astype(int), whole - 1)
            for count, whole in zip((rows, columns), kept.shape)
        ]
        kept = kept[numpy.ix_(*places)]
    return pictures.padded(kept, form, _OUTSIDE)


def _read(pairs: _Pairs, form: Form, in_memory: bool) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Return pictures (N, H, W, 3) and values of masks (N, H, W), or none; note what masks hold and what is wrong."""
    from tqdm import tqdm

    count = len(pairs.samples)
    shape = (count if in_memory else 0, form.height, form.width)
    held, values = numpy.empty((*shape, 3), numpy.uint8), numpy.empty(shape, numpy.int32)
    looked_at = range(count) if in_memory else numpy.unique(numpy.linspace(0, count - 1, _LOOKED_AT).astype(int))
    wanted = [int(one) for one in looked_at]
    found: dict[int, numpy.ndarray] = {}

    def fill(begin: int) -> int:
        chunk = wanted[begin : begin + _CHUNK]
        for sample in chunk:
            path, mask_path = pairs.samples[sample]
            try:
                mask = read_mask(mask_path)
                found[sample] = numpy.unique(mask)
                picture = pictures.decode(path, sample)
                if picture.shape[:2] != mask.shape:
                    sizes = [f"{one[1]}x{one[0]}" for one in (picture.shape, mask.shape)]
                    raise DataError(f"{path} is {sizes[0]}, its mask {mask_path} {sizes[1]}")
                if in_memory:
                    held[sample], values[sample] = pictures.formed(picture, form), formed_mask(mask, form)
            except DataError as error:
                pairs.faults.append(error.message.removesuffix(" Remove or replace it"))
        return len(chunk)

    with tqdm(total=len(wanted), desc="decoding", unit=" pictures", leave=False, disable=None) as bar:
        pictures.by_threads(fill, range(0, len(wanted), _CHUNK), bar)
    pairs.values = [found[sample] for sample in wanted if sample in found]
    pairs.files = [pairs.samples[sample][1] for sample in wanted if sample in found]
    return held, values


def _refuse_faults(splits: dict[str, _Pairs]) -> None:
    faults = sorted(fault for one in splits.values() for fault in one.faults)
    if faults:
        first = faults[0] if len(faults) == 1 else f"{len(faults):,} pictures or masks cannot be used"
        raise DataError(f"{first.rstrip('.')}. Mend or remove them", faults[:_SHOWN] if len(faults) > 1 else [])


# ---- what the values mean -------------------------------------------------------------------------------------------


def _coding(splits: dict[str, _Pairs], kind: str, ignore: Any, classes: Any) -> tuple[Coding, str]:
    """Return how values become classes, and the sentence that says so with its reason."""
    values = [one for split in splits.values() for one in split.values]
    every = sorted({int(value) for one in values for value in one})
    reason = "as asked"
    if kind == "auto":
        kind, reason = ("classes", "data.classes is given") if classes is not None else _kind(values, every)
    if ignore == "auto":
        ignore = 255 if kind == "classes" else None
    elif ignore is not None and not isinstance(ignore, int):
        raise ConfigError(f"data.ignore must be a value of the masks, null or auto, got {ignore!r}")
    known = [value for value in every if value != ignore]
    if kind == "foreground":
        number = 2
        how = f"masks: 0 is background, all above it foreground ({reason})"
    else:
        number = classes if isinstance(classes, int) else len(classes) if classes else max(known, default=0) + 1
        how = f"masks: values are classes ({reason})"
        if ignore in every:
            how += f", {ignore} does not count"
    if number > _MOST_CLASSES:
        files = [file for split in splits.values() for file in split.files]
        file = next(file for file, one in zip(files, values, strict=True) if max(known) in one)
        raise DataError(
            f"masks hold values up to {max(known)} ({file}), which would be {number:,} classes. "
            "data.mask_values=foreground, or data.classes=NUMBER"
        )
    if len(known) < 2:
        raise DataError(f"all masks hold the one value {known[0] if known else ignore}: there is nothing to learn")
    return Coding(kind, ignore, max(2, number)), how


def _kind(values: Sequence[numpy.ndarray], every: Sequence[int]) -> tuple[str, str]:
    above = [value for value in every if value > 0]
    if len(above) == 1 and above[0] > 1:
        return "foreground", f"they hold 0 and {above[0]} alone"
    tops = [int(one.max()) for one in values]
    unbroken = all(len(one[one > 0]) == top for one, top in zip(values, tops))
    if unbroken and max(tops, default=0) > _INSTANCES and len(set(tops)) > 1:
        return "foreground", f"they number things: 1 to {min(tops)} in one picture, to {max(tops)} in another"
    return "classes", f"they hold {_some([str(value) for value in every])}"


def _names(classes: Any, coding: Coding) -> list[str]:
    if isinstance(classes, Sequence) and not isinstance(classes, str):
        if coding.kind == "foreground" and len(classes) != 2:
            raise ConfigError(f"data.classes names {len(classes)} classes; background and foreground are two")
        return [str(name) for name in classes]
    if classes is not None and (isinstance(classes, bool) or not isinstance(classes, int)):
        raise ConfigError(f"data.classes must be a number of classes or a list of their names, got {classes!r}")
    if coding.num_classes == 2:
        return ["background", "foreground"]
    return [str(number) for number in range(coding.num_classes)]


def _out_of_range(values: numpy.ndarray, coding: Coding) -> str:
    if coding.kind == "foreground":
        return ""
    wrong = values[(values >= coding.num_classes) & (values != coding.ignore)]
    if not len(wrong):
        return ""
    last, top = coding.num_classes - 1, int(wrong.max())
    return (
        f"holds the value {int(wrong.min())}, classes are 0 to {last}. data.classes={top + 1}, data.ignore={top}, or "
        "data.mask_values=foreground"
    )


def _check_values(pairs: _Pairs, coding: Coding, how: str) -> None:
    for (_, mask_path), values in zip(pairs.samples, pairs.values):
        fault = _out_of_range(values, coding)
        if fault:
            raise DataError(f"{mask_path} {fault}")


def _told(splits: dict[str, _Pairs], coding: Coding) -> list[str]:
    """Return what a person should know of the masks."""
    counts = Counter(name for name, one in splits.items() for values in one.values if not (values > 0).any())
    return [
        f"{count:,} of {len(splits[name].values):,} masks of {name} hold background alone"
        for name, count in counts.items()
    ]


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
