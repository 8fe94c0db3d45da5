"""Own the stand-in for a lock where the file system has none: a file that its holder renews while it lives.

Knows nothing of runs. It is weaker than a lock: after a crash it holds for `FREE_AFTER_S`, and it trusts one clock.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from pathlib import Path

from dlwp.runs import files

RENEW_S = 5.0
FREE_AFTER_S = 60.0
"""A heartbeat that is older than this is that of a dead process."""

_SETTLE_S = 0.5


class Heartbeat:
    """A held file; a daemon thread renews its time until `release`. Worker processes, being forks, do not renew it."""

    def __init__(self, path: Path, owner: str) -> None:
        self._path = path
        self._token = f"{owner} {files.unique()}"
        self._over = threading.Event()

    @classmethod
    def take(cls, path: Path, owner: str) -> Heartbeat | str:
        """Take hold of `path` for `owner`; return the name of its holder instead, where it has a living one.

        Of several that find it free at the same time, the last to write it has it: each looks again after a moment.
        """
        self = cls(path, owner)
        own = path.with_name(f".tmp-{path.name}-{files.unique()}")
        files.write_synced(own, self._token.encode())  # its time is "now" by the clock of the file's own server
        try:
            if (holder := _living(path, own.stat().st_mtime)) is not None:
                return holder
            os.replace(own, path)  # noqa: PTH105
        finally:
            files.remove(own)
        time.sleep(_SETTLE_S)
        if (found := _read(path)) != self._token:
            return _owner(found)
        threading.Thread(target=self._renew, daemon=True, name="heartbeat").start()
        return self

    def release(self) -> None:
        """Let go."""
        self._over.set()
        if _read(self._path) == self._token:
            files.remove(self._path)

    def _renew(self) -> None:
        with contextlib.suppress(OSError):  # the folder is gone, or the disk: the run itself will say so
            while not self._over.wait(RENEW_S):
                os.utime(self._path)


def holder(path: Path) -> str | None:
    """Return the owner of a heartbeat that is being renewed, None where nobody renews it."""
    return _living(path, time.time())


def _living(path: Path, now: float) -> str | None:
    try:
        age = now - path.stat().st_mtime
    except OSError:
        return None
    return _owner(_read(path)) if age < FREE_AFTER_S else None


def _owner(token: str) -> str:
    return token.rpartition(" ")[0] or "another process"


def _read(path: Path) -> str:
    try:
        return files.read_regular(path, 1000).decode(errors="replace")
    except OSError:
        return ""
