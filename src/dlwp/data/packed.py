"""Own the reading of packed pictures: one file of uint8 rows that is mapped, not loaded, and the JSON that tells of it.

Knows nothing of how they were packed. The file is NumPy's .npy, (N, H, W, 3), which anything reads that reads arrays.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy
import torch

from dlwp.data.datasets import NAMES, Facts, Splits
from dlwp.data.mapped import MappedDataset, MappedRows
from dlwp.data.pictures import unreadable
from dlwp.errors import DataError
from dlwp.runs import files

PICTURES, CONTENTS = "pictures.npy", "pack.json"
"""The two files of a pack; it is whole when it has the second."""
VERSION = 1
HEADER_BYTES = 128
"""Where the pixels begin."""

_BLOCK = 2**24
_MOST_JSON = 2**26


@dataclass
class Contents:
    """What a pack holds, as its JSON says.

    Args:
        image_size: height and width. fit: how pictures were made to fit it. source: a stamp of the files packed.
        classes: their names. splits: split -> number of pictures of each class; the rows lie in this order.
        mean, std: per channel, of train, in [0, 1]. sha256: of the file. left_out: what could not be read, and why.
    """

    image_size: list[int]
    fit: str
    source: str
    classes: list[str] = field(default_factory=list)
    splits: dict[str, list[int]] = field(default_factory=dict)
    mean: list[float] = field(default_factory=list)
    std: list[float] = field(default_factory=list)
    sha256: str = ""
    left_out: list[dict[str, Any]] = field(default_factory=list)
    version: int = VERSION

    @property
    def num_pictures(self) -> int:
        """Pictures of all splits."""
        return sum(map(sum, self.splits.values()))

    @property
    def nbytes(self) -> int:
        """Bytes that the file must have."""
        return HEADER_BYTES + self.num_pictures * self.image_size[0] * self.image_size[1] * 3

    def dump(self) -> str:
        """Return it as JSON."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"


def packed(path: str, verify: bool = False) -> Splits:
    """Return what `dlwp-pack` packed, memory-mapped: rows are read as they are asked for.

    Args:
        path: the folder, or one of the two files in it.
        verify: whether the checksum of the file is computed first; it is anyway where the file was changed after the
            pack was made.

    Raises:
        DataError: it is not there, not whole, of another version, or damaged.
    """
    folder = Path(path).expanduser()
    folder = folder.parent if folder.name in (PICTURES, CONTENTS) else folder
    contents = read_contents(folder)
    file = folder / PICTURES
    _check(file, contents)
    notes = [f"memory-mapped from {file}"]
    if verify or file.stat().st_mtime_ns > (folder / CONTENTS).stat().st_mtime_ns:
        if checksum(file) != contents.sha256:
            raise _damaged(file, f"is damaged: its sha256 is not that in {CONTENTS}")
        notes[0] += ", checksum right"
    if contents.left_out:
        notes.append(f"{len(contents.left_out):,} pictures could not be read and were not packed ({CONTENTS})")
    whole = mapped_pictures(file)
    found: dict[str, MappedDataset] = {}
    begin = 0
    for split, counts in contents.splits.items():
        targets = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
        found[split] = MappedDataset(whole, torch.arange(begin, begin + len(targets)), targets)
        begin += len(targets)
    facts = Facts(
        task="classification", num_classes=len(contents.classes), classes=contents.classes, mean=contents.mean,
        std=contents.std,
    )  # fmt: skip
    return Splits(found["train"], found.get("val"), found.get("test"), facts, notes)


def read_contents(folder: Path) -> Contents:
    """Return what the JSON of a pack says.

    Raises:
        DataError: it is not there, cannot be read, is of another version or no such JSON.
    """
    file = folder / CONTENTS
    if not folder.is_dir():
        raise DataError(f"no folder '{folder}' (data.path). dlwp-pack SOURCE {folder} makes it of a folder of pictures")
    try:
        found = json.loads(files.read_regular(file, _MOST_JSON))
    except FileNotFoundError:
        raise DataError(f"'{folder}' is no whole pack, {CONTENTS} is missing. dlwp-pack SOURCE {folder}") from None
    except PermissionError:
        raise unreadable(file) from None
    except (OSError, ValueError) as error:
        raise _damaged(file, f"is damaged ({error})") from None
    version = found.get("version") if isinstance(found, dict) else None
    if version != VERSION:
        raise _damaged(file, f"is of version {version}, this dlwp reads version {VERSION}")
    try:
        contents = Contents(**found)
        sound = all(len(counts) == len(contents.classes) for counts in contents.splits.values())
        sound &= "train" in contents.splits and set(contents.splits) <= set(NAMES) and contents.nbytes > HEADER_BYTES
    except (TypeError, ValueError, IndexError, AttributeError):
        sound = False
    if not sound:
        raise _damaged(file, "is damaged: a key is missing or wrong")
    return contents


def _damaged(file: Path, how: str) -> DataError:
    return DataError(f"{file} {how}. Remove '{file.parent}', and pack again")


def _check(file: Path, contents: Contents) -> None:
    try:
        size = file.stat().st_size
        with file.open("rb") as begin:
            header = begin.read(HEADER_BYTES)
    except FileNotFoundError:
        raise _damaged(file, "is not there") from None
    except PermissionError:
        raise unreadable(file) from None
    if size != contents.nbytes:
        how = "cut off" if size < contents.nbytes else "too long"
        raise _damaged(file, f"is {how}: it has {size:,} bytes, not {contents.nbytes:,}")
    if header != header_of(contents.num_pictures, contents.image_size):
        raise _damaged(file, "is damaged: its header is wrong")


def header_of(count: int, image_size: list[int]) -> bytes:
    """Return the first bytes of an .npy file of so many pictures, always of the same length."""
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({count}, {image_size[0]}, {image_size[1]}, 3), }}"
    return b"\x93NUMPY\x01\x00" + (HEADER_BYTES - 10).to_bytes(2, "little") + f"{text:<{HEADER_BYTES - 11}}\n".encode()


def checksum(file: Path, progress: bool | None = None) -> str:
    """Return the SHA-256 of a file, with a bar; None shows it on a terminal."""
    from tqdm import tqdm

    digest = hashlib.sha256()
    bar = tqdm(
        total=file.stat().st_size, desc="checksum", unit="B", unit_scale=True, leave=False,
        disable=None if progress is None else not progress,
    )  # fmt: skip
    with bar, file.open("rb") as data:
        while block := data.read(_BLOCK):
            digest.update(block)
            bar.update(len(block))
    return digest.hexdigest()


def mapped_pictures(file: Path) -> MappedRows:
    """Return the pictures in a file, (N, 3, H, W), read by the numbers of their rows."""
    shape = numpy.load(file, mmap_mode="r").shape
    return MappedRows(file, HEADER_BYTES, torch.uint8, shape, (0, 3, 1, 2))  # (N, H, W, 3) to (N, 3, H, W)
