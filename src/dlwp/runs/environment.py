"""Own the report of where a run ran: versions, machine, commit.

Knows nothing of torch: what only torch can tell is given by the caller.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterable
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "dlwp", "torch", "torchvision", "numpy", "hydra-core", "omegaconf", "safetensors", "tensorboard", "tqdm",
    "matplotlib", "scikit-learn", "timm", "torchmetrics",
)  # fmt: skip
"""The packages whose versions bear on a result."""

VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "SLURM_JOB_ID", "DLWP_DATA_ROOT")
"""The variables that bear on a result; their values are no secrets."""


def collect(**facts: Any) -> dict[str, Any]:
    """Return what environment.json holds: packages, python, platform, processor, git commit, and `facts` as given."""
    return {
        "time": datetime.now().astimezone().isoformat(timespec="seconds"),
        "host": platform.node(),
        "process": os.getpid(),
        "platform": platform.platform(),
        "processor": processor(),
        "processors": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "python": platform.python_version(),
        "executable": sys.executable,
        "packages": versions(),
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
        "git": git_state(Path.cwd()),
        **facts,
    }


def versions(names: Iterable[str] = PACKAGES) -> dict[str, str]:
    """Return name -> version of the packages that are installed, from their metadata: nothing is imported."""
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def processor() -> str:
    """Return the processor's name as it calls itself."""
    try:
        for text in Path("/proc/cpuinfo").read_text().splitlines():
            if text.startswith("model name"):
                return text.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()


class OtherWork:
    """Tells how many processors work other than this process's keeps busy, from when it is made on."""

    def __init__(self) -> None:
        self._before = self._read()

    def busy(self) -> float:
        """Return their mean number since; 0 where the system does not tell, or after less than 0.3 s."""
        (began, machine, own), (now, machine_now, own_now) = self._before, self._read()
        return max(0.0, machine_now - machine - (own_now - own)) / (now - began) if now - began >= 0.3 else 0.0

    def _read(self) -> tuple[float, float, float]:
        """Return the time, and the seconds for which all processors, and this process, have been busy."""
        try:
            ticks = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        except (OSError, ValueError):  # not Linux
            return time.monotonic(), 0.0, 0.0
        idle = ticks[3] + ticks[4]
        return time.monotonic(), (sum(ticks) - idle) / os.sysconf("SC_CLK_TCK"), time.process_time()


def git_state(folder: Path) -> dict[str, Any] | None:
    """Return the commit of the repository that `folder` lies in and whether its tree is clean, None outside of one."""
    commit = _git(folder, "rev-parse", "HEAD")
    if not commit:
        return None
    changes = _git(folder, "status", "--porcelain")
    return {"commit": commit, "clean": None if changes is None else not changes}


def _git(folder: Path, *words: str) -> str | None:
    command = ["git", "-c", "core.fsmonitor=false", "--no-optional-locks", *words]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=5, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        return None  # no git, or a tree too large to ask about
    return done.stdout.strip() if done.returncode == 0 else None
