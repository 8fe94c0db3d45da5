"""Own disks of a try's own, in a mount namespace: small, read-only; and a process that the modes of files bind."""

from __future__ import annotations

import contextlib
import ctypes
import os
from pathlib import Path

from torture.kit import Skipped

_NEWNS, _NEWUSER = 0x00020000, 0x10000000
_RDONLY, _REMOUNT, _BIND, _REC, _PRIVATE = 1, 32, 4096, 16384, 1 << 18
_libc = ctypes.CDLL(None, use_errno=True)


def own_mounts() -> None:
    """Let this process, and all it starts, mount what nobody else sees.

    Raises:
        Skipped: it may not.
    """
    user, group = os.geteuid(), os.getegid()
    if _libc.unshare(_NEWNS if user == 0 else _NEWNS | _NEWUSER) and _libc.unshare(_NEWNS | _NEWUSER):
        raise Skipped(f"no mount namespaces here ({os.strerror(ctypes.get_errno())})")
    if Path("/proc/self/uid_map").read_text() == "":
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    _mount(None, "/", None, _REC | _PRIVATE)


def small_disk(folder: Path, size: int) -> Path:
    """Lay a disk of `size` bytes, in memory, over a new folder, and return the folder."""
    folder.mkdir()
    _mount("none", str(folder), "tmpfs", 0, f"size={size}")
    return folder


def set_read_only(folder: Path) -> None:
    """Let whoever comes to `folder` by its name find it read-only, even while a file in it is open for writing."""
    _mount(str(folder), str(folder), None, _BIND)
    _mount(None, str(folder), None, _REMOUNT | _BIND | _RDONLY)


def set_writable(folder: Path) -> None:
    """Take back what `set_read_only` did."""
    if _libc.umount2(os.fsencode(folder), 2):
        raise OSError(ctypes.get_errno(), "umount")


def fill(folder: Path, free: int) -> Path:
    """Fill the disk of `folder` until `free` bytes are left; return the file that does it."""
    path = folder / "filler"
    found = os.statvfs(folder)
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):  # others write meanwhile
        file.write(bytes(max(0, found.f_bavail * found.f_frsize - free)))
    return path


def obey_modes() -> None:
    """Let the modes of files bind this process, even that of root: it gives up the right to override them."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    data = (ctypes.c_uint32 * 6)()
    if _libc.capget(header, data):
        raise Skipped("capabilities cannot be read here")
    for index in (0, 1):  # effective, permitted
        data[index] &= ~0b110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    if _libc.capset(header, data):
        raise Skipped("capabilities cannot be given up here")


def _mount(source: str | None, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    words = [None if word is None else word.encode() for word in (source, target, kind)]
    if _libc.mount(*words, ctypes.c_ulong(flags), None if options is None else options.encode()):
        number = ctypes.get_errno()
        raise Skipped(f"nothing can be mounted here ({os.strerror(number)})")
