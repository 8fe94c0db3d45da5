"""Own pictures in folders of classes as a data set: its layout, what is wrong in it, and its decoding.

Knows nothing of models; how large pictures are to be comes as arguments.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from dlwp import memory
from dlwp.data import pictures
from dlwp.data.datasets import ArrayDataset, Facts, Splits
from dlwp.data.pictures import Form, Listing
from dlwp.errors import ConfigError, DataError, MachineError

_SPLITS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
_SHARE = 0.5  # of the free memory that decoded pictures may take
_CHUNK = 32
_SHOWN = 10


def imagefolder(
    root: str,
    image_size: int = 224,
    resize: int | None = None,
    interpolation: str = "bilinear",
    fit: str = "crop",
    loader: str = "auto",
    on_error: str = "error",
    allow_empty: bool = False,
) -> Splits:
    """Return the pictures of `root`/train/CLASS/*.jpg, val/ and test/ alike, or of `root`/CLASS/*.jpg as train.

    JPEG, PNG, WebP and BMP of any size and mode become RGB of one size, upright. They are decoded once and held in
    memory where that has room, else by workers in each epoch.

    Args:
        root: the folder.
        image_size: pixels a side.
        resize: with fit="crop", the shorter side is scaled to this, and the middle is cut out; None: to image_size.
        interpolation: "bilinear" or "bicubic", antialiased.
        fit: "crop", or "stretch", which scales both sides as needed.
        loader: "memory", "workers", or "auto": memory where they fit.
        on_error: "error", or "skip", which leaves pictures out that cannot be read.
        allow_empty: whether a class folder may hold no picture; it is a class still.

    Raises:
        DataError: there is no such folder, it has another layout, a class is empty or foreign to train, or pictures
            cannot be read (all of them are named).
    """
    folder = pictures.existing_folder(root)
    form = form_of(image_size, resize, interpolation, fit)
    folders = _folders(folder)
    classes = _classes(folder, folders)
    listings = {name: pictures.list_pictures(one, classes, allow_empty) for name, one in folders.items()}
    notes = [f"pictures of {folder}, made {image_size}x{image_size} ({words_of(form)})"]
    paths = {name: listing.paths for name, listing in listings.items()}
    warnings = [*_few(listings, classes), *pictures.in_two_splits(paths)]
    found, told = decoded(listings, form, loader, on_error)
    notes += told
    facts = Facts(
        task="classification", num_classes=len(classes), classes=classes,
        form={"fit": fit, "resize": form.resize, "interpolation": interpolation},
    )  # fmt: skip
    return Splits(found["train"], found.get("val"), found.get("test"), facts, notes, warnings)


def decoded(
    listings: dict[str, Listing], form: Form, loader: str, on_error: str
) -> tuple[dict[str, Dataset[Any]], list[str]]:
    """Return the pictures of each split, in memory where they are to be and fit, and what is to be told of it.

    Args:
        listings: of the splits. form: what pictures are made. loader, on_error: as `imagefolder` takes them.

    Raises:
        MachineError: they do not fit in memory. DataError: they cannot be read.
    """
    count = sum(len(listing.paths) for listing in listings.values())
    needed, free = count * form.height * form.width * 3, memory.free()
    if loader == "memory" and needed > free:
        sizes = f"{needed / 2**30:.1f} GiB, {free / 2**30:.1f} are free"
        raise MachineError(f"{count:,} pictures take {sizes}. data.loader=workers")
    if loader != "memory" and (loader != "auto" or needed > _SHARE * free):
        return {name: PictureFiles(one, form) for name, one in listings.items()}, []
    found, left_out = _decoded(listings, form, on_error == "skip")
    told = f"left out {len(left_out):,} pictures that cannot be read: {left_out[0]}" if left_out else None
    return found, [told] if told else []


def form_of(image_size: int, resize: int | None, interpolation: str, fit: str) -> Form:
    """Return the form that keys of data name.

    Raises:
        ConfigError: one of them cannot be.
    """
    if interpolation not in ("bilinear", "bicubic"):
        raise ConfigError(f"data.interpolation must be bilinear or bicubic, got {interpolation!r}")
    if fit not in ("crop", "stretch"):
        raise ConfigError(f"data.fit must be crop or stretch, got {fit!r}")
    if not isinstance(image_size, int) or image_size < 1:
        raise ConfigError(f"data.image_size must be a number of pixels, got {image_size!r}")
    if resize is not None and (not isinstance(resize, int) or resize < image_size):
        raise ConfigError(f"data.resize={resize} is below data.image_size={image_size}, which is cut out of it")
    return Form(image_size, image_size, fit, resize if fit == "crop" else None, interpolation)


def words_of(form: Form) -> str:
    """Return in a few words how pictures are made square."""
    if form.fit == "stretch":
        return f"stretched, {form.interpolation}"
    scaled = f"shorter side to {form.resize}, " if form.resize else ""
    return f"{scaled}the middle cut out, {form.interpolation}"


# ---- layout ---------------------------------------------------------------------------------------------------------


def _folders(folder: Path) -> dict[str, Path]:
    """Return the folder of each split; of one without splits all is train."""
    inside = pictures.class_names(folder)
    found = {name: folder / one for name, known in _SPLITS.items() for one in known if one in inside}
    if "train" not in found:
        return {"train": folder}
    strange = [name for name in inside if folder / name not in found.values()]
    if strange:
        raise DataError(
            f"'{folder}' holds train/ and also '{strange[0]}'. It may hold train/, val/ and test/, or the folders of "
            "the classes alone"
        )
    return found


def _classes(folder: Path, folders: dict[str, Path]) -> list[str]:
    classes = pictures.class_names(folders["train"])
    if len(classes) == 1:
        hint = pictures.one_deeper(folders["train"]) or f" Expected {folders['train']}/CLASS/*.jpg"
        raise DataError(f"only one class, '{classes[0]}', in '{folders['train']}'.{hint}")
    return classes


# ---- what is doubtful -----------------------------------------------------------------------------------------------


def _few(listings: dict[str, Listing], classes: Sequence[str]) -> list[str]:
    found = []
    for name, listing in listings.items():
        counts = Counter(listing.targets)
        lacking = [one for number, one in enumerate(classes) if not counts[number]]
        if lacking:
            found.append(f"{name} has no picture of {_some(lacking)}")
        few = [f"{classes[number]} ({count})" for number, count in sorted(counts.items()) if count < 5]
        if name == "train" and few:
            found.append(f"classes of train with fewer than 5 pictures: {_some(few)}")
    return found


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


# ---- pictures -------------------------------------------------------------------------------------------------------


class PictureFiles(Dataset[tuple[Tensor, Any]]):
    """Picture files, decoded as they are asked for: (uint8 (3, H, W), class), or with the labels, float32 (K,).

    Attributes:
        samples: (path, class or labels) of each. targets: these alone.
    """

    def __init__(self, listing: Listing, form: Form) -> None:
        self.samples = list(zip(listing.paths, listing.targets, strict=True))
        self.targets = listing.targets
        self._form = form

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, Any]:
        path, target = self.samples[index]
        target = torch.tensor(target) if isinstance(target, list) else target
        return torch.from_numpy(pictures.decode(path, index, self._form).copy()).permute(2, 0, 1), target


class HeldPictures(ArrayDataset):
    """Decoded pictures of known files.

    Attributes:
        samples: (path, class) of each, as `PictureFiles` has it; or a path and what else its target is of.
    """

    def __init__(self, inputs: Tensor, targets: Tensor, samples: list[tuple[str, Any]]) -> None:
        super().__init__(inputs, targets)
        self.samples = samples

    def subset(self, indices: Tensor) -> ArrayDataset:
        """Return the samples at `indices`, copied."""
        part = super().subset(indices)
        return HeldPictures(part.inputs, part.targets, [self.samples[index] for index in indices.tolist()])


def _decoded(listings: dict[str, Listing], form: Form, skip: bool) -> tuple[dict[str, Dataset[Any]], list[str]]:
    """Return all pictures of the splits, decoded by one thread a core, and what could not be read.

    Raises:
        DataError: pictures cannot be read, and `skip` is false; or none of a class can be.
    """
    from tqdm import tqdm

    faults: list[str] = []
    found: dict[str, Dataset[Any]] = {}
    total = sum(len(listing.paths) for listing in listings.values())
    with tqdm(total=total, desc="decoding", unit=" pictures", leave=False, disable=None) as bar:
        for name, listing in listings.items():
            found[name] = _decoded_split(listing, form, faults, bar)
    faults.sort()
    if faults and not skip:
        first = faults[0] if len(faults) == 1 else f"{len(faults):,} pictures cannot be read"
        raise DataError(f"{first.rstrip('.')}. Remove or replace them, or data.on_error=skip", faults[:_SHOWN])
    if any(len(one) == 0 for one in found.values()):  # type: ignore[arg-type]
        raise DataError("no picture of a split can be read", faults[:_SHOWN])
    return found, faults


def _decoded_split(listing: Listing, form: Form, faults: list[str], bar: Any) -> ArrayDataset:
    """Return the pictures of a split that can be read; what is wrong with the others is added to `faults`."""
    memory = torch.empty((len(listing.paths), form.height, form.width, 3), dtype=torch.uint8)
    kept = torch.ones(len(listing.paths), dtype=torch.bool)

    def fill(begin: int) -> int:
        chunk = listing.paths[begin : begin + _CHUNK]
        for sample, path in enumerate(chunk, begin):
            try:
                memory.numpy()[sample] = pictures.decode(path, sample, form)
            except DataError as error:
                kept[sample] = False
                faults.append(error.message.removesuffix(" Remove or replace it"))
        return len(chunk)

    pictures.by_threads(fill, range(0, len(listing.paths), _CHUNK), bar)
    samples = list(zip(listing.paths, listing.targets, strict=True))
    held = HeldPictures(memory.permute(0, 3, 1, 2), torch.tensor(listing.targets), samples)
    return held if bool(kept.all()) else held.subset(kept.nonzero().flatten())
