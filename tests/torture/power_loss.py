"""Own a model of what a disk holds after the power has gone: what was synced for certain, the rest as chance has it.

A file's bytes are certain from its fsync on, a folder's names from the fsync of the folder on. What is not certain is
kept, lost, or (bytes) zero: a file system may bring a length to disk before what it is the length of.
"""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torture.faults import Call

BYTES = ("kept", "dropped", "zero")
NAMES = ("kept", "lost", "some")


@dataclass
class _File:
    now: bytearray = field(default_factory=bytearray)
    synced: bytes = b""
    is_synced: bool = True

    def content(self, what: str) -> bytes:
        if what == "kept" or self.is_synced:
            return bytes(self.now)
        if what == "dropped":
            return self.synced
        return self.synced[: len(self.now)] + bytes(max(0, len(self.now) - len(self.synced)))


@dataclass
class _Folder:
    names: dict[str, _File | _Folder] = field(default_factory=dict)
    pending: list[tuple[str, _File | _Folder | None]] = field(default_factory=list)

    def now(self) -> dict[str, _File | _Folder]:
        return _with(self.names, self.pending)


def _with(
    names: dict[str, _File | _Folder], changes: Sequence[tuple[str, _File | _Folder | None]]
) -> dict[str, _File | _Folder]:
    found = {**names}
    for name, what in changes:
        if what is None:
            found.pop(name, None)
        else:
            found[name] = what
    return found


class Disk:
    """The disk below a folder that is empty, and certain, at the beginning."""

    def __init__(self, top: Path) -> None:
        self._top = os.path.abspath(top)  # noqa: PTH100 (links are as they are written)
        self._root = _Folder()
        self._open: dict[int, _File | _Folder] = {}

    def do(self, call: Call) -> bool:
        """Follow a call that was made; return whether it changed anything."""
        name, arguments = call.name, call.arguments
        if name == "open":
            return self._opened(arguments, call.found)
        if name == "close":
            self._open.pop(arguments[0], None)
            return False
        if name in ("write", "ftruncate", "fsync"):
            return self._of_descriptor(name, arguments)
        if name == "symlink" or not self._is_inside(arguments[0]):
            return False
        folder, last = self._place(arguments[0])
        if name == "mkdir":
            folder.pending.append((last, _Folder()))
        elif name in ("unlink", "rmdir"):
            folder.pending.append((last, None))
        else:  # rename, replace: both names at once
            target, new = self._place(arguments[1])
            assert target is folder
            moved = folder.now().get(last)
            folder.pending += [(new, moved), (last, None)]
        return True

    def _is_inside(self, path: object) -> bool:
        return os.path.abspath(str(path)).startswith(self._top + os.sep)  # noqa: PTH100

    def _place(self, path: object) -> tuple[_Folder, str]:
        *between, last = Path(os.path.relpath(str(path), self._top)).parts
        folder = self._root
        for name in between:
            inner = folder.now()[name]
            assert isinstance(inner, _Folder)
            folder = inner
        return folder, last

    def _opened(self, arguments: tuple[object, ...], descriptor: int) -> bool:
        self._open.pop(descriptor, None)
        if os.path.abspath(str(arguments[0])) == self._top:  # noqa: PTH100
            self._open[descriptor] = self._root
            return False
        if not self._is_inside(arguments[0]):
            return False
        folder, last = self._place(arguments[0])
        made = last not in folder.now()
        if made:
            folder.pending.append((last, _File()))
        self._open[descriptor] = folder.now()[last]
        return made

    def _of_descriptor(self, name: str, arguments: tuple[object, ...]) -> bool:
        found = self._open.get(int(str(arguments[0])))
        if found is None:
            return False
        if isinstance(found, _Folder):
            found.names, found.pending = found.now(), []
        elif name == "fsync":
            found.synced, found.is_synced = bytes(found.now), True
        else:
            if name == "write":
                assert isinstance(arguments[1], bytes)
                found.now += arguments[1]
            else:
                del found.now[int(str(arguments[1])) :]
            found.is_synced = False
        return True

    def after_power_loss(self, what: str, names: str, chance: random.Random) -> dict[str, bytes | None]:
        """Return path -> bytes (None: a folder) of what is there.

        Args:
            what: of `BYTES`, for bytes that were not synced.
            names: of `NAMES`, for names whose folder was not synced; "some" keeps a part of them.
            chance: draws for "some".
        """
        found: dict[str, bytes | None] = {}

        def visit(folder: _Folder, path: str) -> None:
            count = {"kept": len(folder.pending), "lost": 0}.get(names, chance.randint(0, len(folder.pending)))
            if 0 < count < len(folder.pending) and folder.pending[count][1] is None:
                count += 1  # both names of a rename
            for name, inner in _with(folder.names, folder.pending[:count]).items():
                if isinstance(inner, _Folder):
                    found[path + name] = None
                    visit(inner, f"{path}{name}/")
                else:
                    found[path + name] = inner.content(what)

        visit(self._root, "")
        return found


def states(calls: Sequence[Call], top: Path, seed: int = 0) -> Iterator[tuple[int, str, dict[str, bytes | None]]]:
    """Yield every different (calls made, what was lost, what is there) after a power loss."""
    disk, chance, seen = Disk(top), random.Random(seed), set()
    for number, call in enumerate(calls, 1):
        if not disk.do(call):
            continue
        for what in BYTES:
            for names in NAMES:
                state = disk.after_power_loss(what, names, chance)
                key = hashlib.sha256(repr(sorted(state.items())).encode()).digest()
                if key not in seen:
                    seen.add(key)
                    yield number, f"bytes {what}, names {names}", state


def rebuild(state: dict[str, bytes | None], top: Path) -> None:
    """Lay what a state holds into an empty folder."""
    for name, data in state.items():
        if data is None:
            (top / name).mkdir(parents=True, exist_ok=True)
        else:
            (top / name).write_bytes(data)
