"""What a run says before it begins is true, and only what matters here."""

from __future__ import annotations

import os

import pytest
import torch

from dlwp import devices, report


@pytest.mark.parametrize(
    ("threads", "busy", "told"), [(2, 0.2, False), (2, 0.6, True), (1, 1.2, False), (1, 1.9, True)]
)
def test_a_run_says_that_its_threads_outnumber_the_free_processors(
    threads: int, busy: float, told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dlwp.api import _build
    from dlwp.config.compose import compose

    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(devices, "usable_processors", lambda: 2)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    lines = report.crowding_lines(_build(compose(["data=digits", "model=linear", "device=cpu"])), busy)
    assert [line.partition(":")[0] for line in lines] == [f"other work keeps {busy} of 2 processors busy"] * told
