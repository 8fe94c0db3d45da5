"""Own how much of the host's memory there is, and how much of it is free: of the machine, or of the container if less.

Knows nothing of cards, nor of what is to be held in memory.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path("/")


def whole(root: Path = _ROOT) -> int:
    """Return the bytes of memory that this process may have: the machine's, or its control group's limit.

    Args:
        root: where `proc` and `sys` lie.
    """
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine, *(limit for limit, _ in _groups(root))])


def free(root: Path = _ROOT) -> int:
    """Return the bytes that this process may still take without pushing others out, or being killed by a limit.

    Args:
        root: where `proc` and `sys` lie.
    """
    return min([_available(root), *(max(0, limit - used) for limit, used in _groups(root))])


def _available(root: Path) -> int:
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):  # macOS, which keeps nearly nothing free
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _groups(root: Path) -> Iterator[tuple[int, int]]:
    """Yield (limit, used) in bytes of the control groups that this process is in and that set a limit.

    What is used counts without the pages of files, which the system takes back before it kills a process.

    Source: Linux, Documentation/admin-guide/cgroup-v2.rst (memory.max, memory.stat) and cgroup-v1/memory.rst.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0" and not controllers:
            place, names = root / "sys/fs/cgroup", ("memory.max", "memory.current", "")
        elif "memory" in controllers.split(","):
            place = root / "sys/fs/cgroup/memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
        else:
            continue
        # each group above bounds it too; a container sees its own as the top, whatever the path says
        for group in dict.fromkeys([place / path.lstrip("/"), *(place / path.lstrip("/")).parents]):
            if place in (group, *group.parents) and (found := _group(group, *names)) is not None:
                yield found


def _group(folder: Path, limit_name: str, used_name: str, prefix: str) -> tuple[int, int] | None:
    try:
        limit, used = ((folder / name).read_text().strip() for name in (limit_name, used_name))
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        of_files = sum(int(stat.get(f"{prefix}{name}_file", 0)) for name in ("inactive", "active"))
        return None if limit == "max" else (int(limit), max(0, int(used) - of_files))
    except (OSError, ValueError):  # none there, or closed to this process: it sets no limit that could be known
        return None
