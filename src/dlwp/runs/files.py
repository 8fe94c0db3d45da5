"""Own every write that dlwp makes to disk: atomic, synced, with modes that follow the umask; and one guarded read.

Knows nothing of what is written. Being the one door, it can be cut at any call by a test.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import shutil
import stat
import time
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_count = itertools.count()


def unique() -> str:
    """Return an ending for a temporary name that no other process, thread or earlier life of this one has used."""
    return f"{os.getpid()}-{time.time_ns():x}-{next(_count)}"


def make_folder(path: Path) -> None:
    """Make a folder that must not exist yet; its parent must.

    Raises:
        FileExistsError: somebody was faster.
    """
    os.mkdir(path)  # noqa: PTH102 (every call here goes through `os`, where a test can cut it)


def make_folders(path: Path) -> None:
    """Make a folder and those above it, where they are missing, and wait until their names are on disk."""
    if path.is_dir():
        return
    make_folders(path.parent)
    with contextlib.suppress(FileExistsError):  # somebody was faster
        make_folder(path)
    fsync_folder(path.parent)


def write_synced(path: Path, data: bytes | Iterable[bytes | memoryview]) -> None:
    """Write a new file, all at once or piece by piece, and wait until it is on disk."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        for piece in [data] if isinstance(data, bytes) else data:
            _write_all(descriptor, piece)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomic(path: Path, data: bytes | str) -> None:
    """Put `data` in place of the file at `path`: after a cut there is the old one or the new one, whole.

    Raises:
        OSError: the disk is full, read-only or gone; the old file is untouched and nothing is left behind.
    """
    temporary = path.parent / f".tmp-{path.name}-{unique()}"
    try:
        write_synced(temporary, data.encode() if isinstance(data, str) else data)
        os.replace(temporary, path)  # noqa: PTH105
    except OSError:
        remove(temporary)
        raise
    fsync_folder(path.parent)


def append_line(path: Path, text: str, at: int | None = None) -> int:
    """Append `text` and a newline as `append` does, so that a reader meets no broken complete line."""
    return append(path, text.encode() + b"\n", at)


def append(path: Path, data: bytes, at: int | None = None) -> int:
    """Append `data` in one write, and return the new size.

    The data is not waited for; the name of a new file is.

    Args:
        path: the file. data: what is appended.
        at: where the file must end; what stands behind it is of a call that failed after its write, and is cut off.

    Raises:
        OSError: the disk is full, read-only or gone; what was written of the data is taken back.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        size = os.fstat(descriptor).st_size
        if size == 0:
            fsync_folder(path.parent)
        if at is not None and size > at:
            os.ftruncate(descriptor, at)
            size = at
        written = os.write(descriptor, data)
        if written < len(data):
            os.ftruncate(descriptor, size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return size + written
    finally:
        os.close(descriptor)


def read_regular(path: Path, limit: int) -> bytes:
    """Return what a file holds that anybody may have made: no pipe or device that never ends, and not too much.

    Raises:
        OSError: it is not there, no regular file, or has more than `limit` bytes.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # of a pipe it would wait for a writer
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", str(path))
        if status.st_size > limit:
            raise OSError(errno.EFBIG, f"it has {status.st_size:,} bytes, at most {limit:,} are expected", str(path))
        return file.read(min(limit, status.st_size + 1))


def open_part(path: Path, offset: int) -> BinaryIO:
    """Open a file to be written from `offset` on; what stood behind it is cut off."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o666)
    os.ftruncate(descriptor, offset)
    os.lseek(descriptor, offset, os.SEEK_SET)
    return os.fdopen(descriptor, "wb")


def write_over(path: Path, data: bytes) -> None:
    """Write over the first bytes of a file, and wait until that is on disk."""
    descriptor = os.open(path, os.O_WRONLY)
    try:
        _write_all(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def cut(path: Path, offset: int, kept: Path) -> None:
    """Cut a file of lines at a byte offset; what is cut off is appended to the file `kept` first.

    A file that is shorter than the offset loses only a torn last line.
    """
    if not path.exists():
        return
    data = path.read_bytes()
    offset = min(offset, len(data))
    if offset == len(data):
        offset = data.rfind(b"\n") + 1
    if offset == len(data):
        return
    descriptor = os.open(kept, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        _write_all(descriptor, data[offset:] if data.endswith(b"\n") else data[offset:] + b"\n")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    write_atomic(path, data[:offset])


def replace_link(link: Path, target: str) -> None:
    """Make `link` a symbolic link to `target`, in place of the one that was there."""
    temporary = link.parent / f".tmp-{link.name}-{unique()}"
    os.symlink(target, temporary)  # noqa: PTH211
    try:
        os.replace(temporary, link)  # noqa: PTH105
    except OSError:
        remove(temporary)
        raise


def rename(source: Path, target: Path) -> None:
    """Rename within one folder or file system, and wait until that is on disk."""
    os.rename(source, target)  # noqa: PTH104
    fsync_folder(target.parent)


def remove(path: Path) -> None:
    """Remove a file if it is there and can be removed."""
    try:
        os.unlink(path)  # noqa: PTH108
    except OSError:
        return


def remove_tree(path: Path) -> None:
    """Remove a folder as far as possible; what stays is swept away by the next run in its place."""
    try:
        for entry in path.iterdir():
            remove_tree(entry) if entry.is_dir() and not entry.is_symlink() else remove(entry)
        os.rmdir(path)  # noqa: PTH106
    except OSError:
        return


def sweep(folder: Path) -> None:
    """Remove what an earlier, killed process left half-written or half-deleted; only under the run's lock."""
    for pattern in (".tmp-*", ".trash-*", ".probe-*"):
        for left in folder.glob(pattern):
            remove_tree(left) if left.is_dir() and not left.is_symlink() else remove(left)


def probe(folder: Path) -> None:
    """Create, sync, rename and delete a file in `folder`.

    Raises:
        OSError: the folder cannot be written.
    """
    path = folder / f".probe-{unique()}"
    write_atomic(path, b"")
    os.unlink(path)  # noqa: PTH108


def fsync_file(path: Path) -> None:
    """Wait until a file is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_folder(path: Path) -> None:
    """Wait until a folder's names are on disk, where it can be opened: one that may be written need not be readable."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except PermissionError:
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems sync no folders
            raise
    finally:
        os.close(descriptor)


def fault(error: OSError, path: Path, needed: int = 0) -> str:
    """Word a failed write for a person: the disk that is full with what is free and needed, else the system's reason.

    Args:
        error: what the write raised.
        path: what was to be written; it need not exist.
        needed: bytes that were to be written, 0 if unknown.
    """
    if error.errno not in _FULL:
        return f"cannot write to '{path}' ({(error.strerror or str(error)).lower()})"
    place = path
    while not place.exists() and place != place.parent:
        place = place.parent
    text = f"disk of '{path}' has {shutil.disk_usage(place).free / 1e9:.3g} GB"
    if error.errno == errno.EDQUOT:
        text = f"the quota on the disk of '{path}' is used up"
    return text + (f", {needed / 1e9:.3g} GB are needed" if needed else " free")


def _write_all(descriptor: int, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
