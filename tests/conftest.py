"""Own what every test stands on: one thread, an own working folder, an own account, and where the real data lies."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: on tiny models more threads only wait for one another

import logging
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def checkout() -> Path:
    """Return the folder of the checkout."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def caches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a cache folder for the whole session: decoded pictures and matplotlib's list of fonts are made once."""
    return tmp_path_factory.mktemp("caches")


@pytest.fixture(autouse=True)
def own_place(tmp_path: Path, caches: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in an empty folder, with an account of its own: nothing of the person's is read or written."""
    account = tmp_path.with_name(tmp_path.name + "-account")
    monkeypatch.setenv("XDG_STATE_HOME", str(account / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(account / "config"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(caches))
    monkeypatch.setenv("MPLCONFIGDIR", str(caches / "matplotlib"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def terminal() -> Iterator[None]:
    """Begin as in a terminal, and leave logging as it was: Hydra sets it up.

    nohup and some CI ignore a hang-up, a shell's background jobs a Ctrl-C; what they start would ignore it too.
    """
    hang_up = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    signal.signal(signal.SIGHUP, hang_up)


@pytest.fixture(scope="session")
def data_root() -> Callable[[str], Path]:
    """Return a function from a name ("cifar10", "MNIST/raw") to DLWP_DATA_ROOT, which skips where it is not there."""
    root = os.environ.get("DLWP_DATA_ROOT")

    def find(name: str) -> Path:
        if not root or not (Path(root) / name).exists():
            pytest.skip(f"needs the real data {name!r}: " + ("not in DLWP_DATA_ROOT" if root else "no DLWP_DATA_ROOT"))
        return Path(root)

    return find
