"""A heartbeat stands in for a lock: one holder, renewed while it lives, free when it is old."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from dlwp.runs import heartbeat
from dlwp.runs.heartbeat import Heartbeat


def test_a_living_holder_is_named_and_an_old_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / ".heartbeat"
    held = Heartbeat.take(path, "host a, process 1")
    assert isinstance(held, Heartbeat)
    assert Heartbeat.take(path, "host b, process 2") == heartbeat.holder(path) == "host a, process 1"
    old = time.time() - heartbeat.FREE_AFTER_S - 1
    os.utime(path, (old, old))
    assert heartbeat.holder(path) is None
    taken = Heartbeat.take(path, "host b, process 2")
    assert isinstance(taken, Heartbeat)
    held.release()  # it is no longer its own, so it stays
    assert heartbeat.holder(path) == "host b, process 2"
    taken.release()
    assert list(tmp_path.iterdir()) == []


def test_the_holder_renews_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "RENEW_S", 0.01)
    path = tmp_path / ".heartbeat"
    held = Heartbeat.take(path, "host a, process 1")
    assert isinstance(held, Heartbeat)
    os.utime(path, (0, 0))
    end = time.monotonic() + 10
    while heartbeat.holder(path) is None and time.monotonic() < end:
        time.sleep(0.01)
    assert heartbeat.holder(path) == "host a, process 1"
    held.release()
