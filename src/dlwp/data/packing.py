"""Own the packing of a folder of pictures into one file: decoded by workers, gone on with after a kill, never half.

Knows nothing of how a pack is read or fed. What is in the making is named .part; `pack.json` comes last.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from dlwp.data import pictures
from dlwp.data.datasets import NAMES
from dlwp.data.facts import measure
from dlwp.data.mapped import MappedDataset
from dlwp.data.packed import (
    CONTENTS,
    HEADER_BYTES,
    PICTURES,
    Contents,
    checksum,
    header_of,
    mapped_pictures,
    read_contents,
)
from dlwp.data.reading import most_left_out
from dlwp.data.streaming import StreamingLoader, default_workers
from dlwp.errors import ConfigError, DataError, MachineError, RunError
from dlwp.runs import files

_PART, _STATE = f"{PICTURES}.part", f"{CONTENTS}.part"
_SAVE_S = 2.0
_BATCH_BYTES, _MOST_BATCH = 2**22, 64


@dataclasses.dataclass
class State:
    """How far a pack has come; what is behind it in the file does not count.

    Args:
        contents: what it will be. done: pictures read, in the order of the lists. rows: those of them in the file.
    """

    contents: Contents
    done: int = 0
    rows: int = 0


class Pictures(Dataset[tuple[Tensor, str]]):
    """Picture files of one form, each as (uint8 (H, W, 3), ""), or with why it cannot be read in place of ""."""

    def __init__(self, paths: list[str], form: pictures.Form | None, size: tuple[int, int], skip: bool) -> None:
        self.paths = paths
        self._form = form
        self._size = size
        self._skip = skip

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, str]:
        try:
            pixels = torch.from_numpy(pictures.decode(self.paths[index], index, self._form).copy())
            if pixels.shape[:2] != self._size:
                sizes = [f"{width}×{height}" for height, width in (self._size, pixels.shape[:2])]
                raise DataError(
                    f"pictures differ: the first is {sizes[0]}, {self.paths[index]} is {sizes[1]}."
                    f" image_size={min(self._size)} makes them alike"
                )
            return pixels, ""
        except DataError as error:
            if not self._skip:
                raise
            return torch.zeros(*self._size, 3, dtype=torch.uint8), error.message


def pack(
    source: Path,
    destination: Path,
    *,
    image_size: tuple[int, int] | None = None,
    fit: str = "crop",
    on_error: str = "error",
    num_workers: int | None = None,
    progress: bool | None = None,
) -> tuple[Contents, bool]:
    """Pack the pictures of SOURCE/CLASS/*.jpg, or SOURCE/{train,val,test}/CLASS/*.jpg; go on with what was begun.

    Args:
        source: folder of pictures. destination: folder of the pack.
        image_size: height and width; None takes pictures as they are, which must be of one size.
        fit: how they are made to fit, as in `pictures.Form`.
        on_error: "error", or "skip": pictures that cannot be read are left out, as many as `data.on_error=skip` bears.
        num_workers: processes that decode; None: one a core.
        progress: whether to show a bar; None shows it on a terminal.

    Returns:
        What the pack holds, and whether it was there before.

    Raises:
        DataError: no pictures, one that cannot be read, or the destination holds another pack.
        ConfigError: somebody else packs into this folder at this moment.
        MachineError: the disk is full or read-only.
    """
    paths, contents = _listed(source)
    contents.fit = "as they are" if image_size is None else fit
    if image_size is None:
        image_size = _first_size(paths, on_error == "skip")
        form = None
    else:
        form = pictures.Form(*image_size, fit)
    contents.image_size = list(image_size)
    dataset = Pictures(paths, form, image_size, on_error == "skip")
    try:
        files.make_folders(destination)
        with _alone(destination):
            if (destination / CONTENTS).exists():
                return _the_same(destination, contents), True
            if (destination / PICTURES).exists():  # it was named just before the end came
                files.rename(destination / PICTURES, destination / _PART)
            state = _begun(destination, contents)
            files.sweep(destination)
            workers = default_workers()[0] + 1 if num_workers is None else num_workers  # this process hardly works
            _fill(destination, state, dataset, workers, progress)
            return _finish(destination, state, progress), False
    except OSError as error:
        raise MachineError(
            f"{files.fault(error, destination, contents.nbytes)}. Another DEST, or mend that and pack again: it goes on"
        ) from None


def _listed(source: Path) -> tuple[list[str], Contents]:
    """Return all pictures, split by split and class by class, and what is known of the pack without reading them."""
    if not source.is_dir():
        raise DataError(f"no folder '{source}'. dlwp-pack SOURCE DEST, where SOURCE holds CLASS/*.jpg")
    splits = {name: source / name for name in NAMES if (source / name).is_dir()}
    if "train" not in splits or not any(entry.is_dir() for entry in splits["train"].iterdir()):
        splits = {"train": source}
    classes = pictures.class_names(splits["train"])
    paths: list[str] = []
    counts: dict[str, list[int]] = {}
    stamp = hashlib.blake2b(digest_size=16)
    for split, folder in splits.items():
        listing = pictures.list_pictures(folder, classes)
        paths += listing.paths
        counts[split] = torch.bincount(torch.tensor(listing.targets), minlength=len(classes)).tolist()
        stamp.update(split.encode() + listing.stamp)
    return paths, Contents([], "", stamp.hexdigest(), classes, counts)


def _first_size(paths: list[str], skip: bool) -> tuple[int, int]:
    for index, path in enumerate(paths):
        try:
            return pictures.decode(path, index).shape[:2]
        except DataError:
            if not skip or index >= most_left_out(len(paths)):
                raise
    raise DataError("no picture can be read")


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder for this process: a lock that ends with it, and that its workers do not inherit."""
    lock = folder / ".lock"
    with files.open_part(lock, 0) as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise ConfigError(f"another dlwp-pack is at work in '{folder}'. Wait, or give another DEST") from None
        except OSError:  # no locks on this file system
            pass
        yield
    files.remove(lock)


def _wanted(contents: Contents) -> list[Any]:
    return [contents.version, contents.source, contents.image_size, contents.fit, contents.classes]


def _the_same(folder: Path, contents: Contents) -> Contents:
    there = read_contents(folder)
    if _wanted(there) != _wanted(contents):
        what = "of other pictures" if there.source != contents.source else "of another image_size or fit"
        raise DataError(f"'{folder}' holds a pack {what}. Remove it, or give another DEST")
    return there


def _begun(folder: Path, contents: Contents) -> State:
    """Return how far an earlier process came with the same pictures, else the beginning."""
    try:
        found = json.loads(files.read_regular(folder / _STATE, 2**26))
        state = State(Contents(**found["contents"]), found["done"], found["rows"])
        row_bytes = state.contents.image_size[0] * state.contents.image_size[1] * 3
        whole = (folder / _PART).stat().st_size >= HEADER_BYTES + state.rows * row_bytes
        if whole and _wanted(state.contents) == _wanted(contents):
            return state
    except (OSError, ValueError, TypeError, KeyError, IndexError):
        pass  # none, or a part that was lost
    needed, free = contents.nbytes, shutil.disk_usage(folder).free
    if needed > free:
        amounts = f"has {free / 1e9:.3g} GB, {needed / 1e9:.3g} GB are needed"
        raise MachineError(f"disk of '{folder}' {amounts}. Free some, or give another DEST")
    return State(contents)


def _fill(folder: Path, state: State, dataset: Pictures, num_workers: int, progress: bool | None) -> None:
    """Decode what is missing and append it, in order; what the state counts is on disk."""
    from tqdm import tqdm

    height, width = state.contents.image_size
    row_bytes = height * width * 3
    batch_size = max(1, min(_MOST_BATCH, _BATCH_BYTES // row_bytes))
    if state.done == len(dataset):
        return
    remaining = Subset(dataset, range(state.done, len(dataset)))
    loader = StreamingLoader(remaining, batch_size, num_workers=num_workers)
    bar = tqdm(
        total=len(dataset), initial=state.done, desc=f"packing {folder.name}", unit=" pictures",
        disable=None if progress is None else not progress,
    )  # fmt: skip
    with bar, files.open_part(folder / _PART, HEADER_BYTES + state.rows * row_bytes) as part:
        saved = time.monotonic()
        try:
            for rows, reasons in loader.epoch():
                kept = [position for position, reason in enumerate(reasons) if not reason]
                part.write((rows if len(kept) == len(rows) else rows[kept]).numpy())
                _leave_out(state, dataset, reasons)
                state.done, state.rows = state.done + len(rows), state.rows + len(kept)
                bar.update(len(rows))
                if time.monotonic() - saved > _SAVE_S:
                    _save(folder, part, state)
                    saved = time.monotonic()
        except (DataError, RunError) as error:
            text = error.message.replace("data.num_workers", "num_workers")
            raise type(error)(text.replace("Remove or replace it", "Remove or replace it, or on_error=skip")) from None
        finally:
            _save(folder, part, state)


def _save(folder: Path, part: BinaryIO, state: State) -> None:
    part.flush()
    files.fsync_file(folder / _PART)
    files.write_atomic(folder / _STATE, json.dumps(dataclasses.asdict(state)))


def _leave_out(state: State, dataset: Pictures, reasons: Sequence[str]) -> None:
    """Note what could not be read of the next pictures."""
    lost = state.contents.left_out
    for number, reason in enumerate(reasons, state.done):
        if not reason:
            continue
        lost.append({"number": number, "file": dataset.paths[number], "reason": reason})
        if len(lost) > most_left_out(len(dataset)):
            raise DataError(
                f"{len(lost):,} of {len(dataset):,} pictures cannot be read, too many for on_error=skip: {reason}"
            )


def _finish(folder: Path, state: State, progress: bool | None) -> Contents:
    """Count, measure, take the checksum, and give the file its name and the pack its contents."""
    contents, part = state.contents, folder / _PART
    owners = [(split, kind) for split, counts in contents.splits.items() for kind in range(len(counts))]
    ends = torch.tensor([count for counts in contents.splits.values() for count in counts]).cumsum(0)
    for one in contents.left_out:
        split, kind = owners[int(torch.searchsorted(ends, one["number"], right=True))]
        contents.splits[split][kind] -= 1
    train = sum(contents.splits["train"])
    if train == 0:
        raise DataError(f"no picture of train can be read: {contents.left_out[0]['reason']}")
    files.write_over(part, header_of(contents.num_pictures, contents.image_size))
    chosen = torch.arange(train)
    (contents.mean, contents.std), _ = measure(MappedDataset(mapped_pictures(part), chosen, chosen))
    contents.sha256 = checksum(part, progress)
    files.rename(part, folder / PICTURES)
    files.write_atomic(folder / CONTENTS, contents.dump())
    files.remove(folder / _STATE)
    return contents
