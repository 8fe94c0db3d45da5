"""Own locks on files that the system lets go when a process dies, however it dies.

Knows nothing of what they guard.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
_held: set[int] = set()


def _close_held() -> None:
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_close_held)  # else a loader's worker would hold the lock of a killed process


def take(descriptor: int) -> bool | None:
    """Take the lock of an open file; return whether it is ours, or None where the file system has no locks.

    Raises:
        OSError: anything else; the file is closed.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            os.close(descriptor)
            raise
        return None
    return True


def hold(descriptor: int) -> None:
    """Write this process into a file whose lock it took, and keep it from the processes that are forked from it."""
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"{this_process()}\n".encode())
    _held.add(descriptor)


def release(descriptor: int) -> None:
    """Let the lock go; of a forked process there is nothing to let go."""
    if descriptor in _held:
        _held.discard(descriptor)
        os.close(descriptor)


def this_process() -> str:
    """Return who this is, for whoever finds the lock taken."""
    return f"host {socket.gethostname()}, process {os.getpid()}"


class Lock:
    """A lock that was taken; `take` is the way to one."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def take(cls, path: Path) -> Lock | None:
        """Take the lock of a file, made where it is not there; None while another process holds it.

        Where the file system has no locks it is taken by all: there only one process may work.
        """
        path.parent.mkdir(exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        if take(descriptor) is False:
            os.close(descriptor)
            return None
        hold(descriptor)
        return cls(descriptor)

    def release(self) -> None:
        """Let it go."""
        release(self._descriptor)


def wait_for(path: Path, every_s: float = 0.01) -> Lock:
    """Take the lock of a file, and wait until it is free."""
    while (lock := Lock.take(path)) is None:
        time.sleep(every_s)
    return lock


@contextmanager
def waited_for(path: Path) -> Iterator[None]:
    """Hold the lock of a file for as long as the block lasts."""
    lock = wait_for(path)
    try:
        yield
    finally:
        lock.release()


def holder(path: Path) -> str:
    """Return who wrote himself into a lock's file last."""
    return path.read_text(encoding="utf-8", errors="replace").strip() or "another process"
