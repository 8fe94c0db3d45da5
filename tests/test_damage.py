"""Valid commands and data that a seeded program damages are refused in one line; the full form is in scripts/."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


def script(checkout: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, checkout / "scripts" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("seed", [11])
def test_25_damaged_commands_are_refused_with_status_2_in_one_line(checkout: Path, seed: int) -> None:
    words = script(checkout, "damage_words")
    told = list(words.mistakes(25, seed))
    faults = [(one.words, text) for one in told if (text := words.fault(one)) and "told after" not in text]
    assert len(told) == 25
    assert faults == []


def test_runs_on_12_damaged_data_sets_end_with_status_3_in_one_line_that_names_the_file(checkout: Path) -> None:
    data = script(checkout, "damage_data")
    told = list(data.damaged(12, 0, []))
    assert [(one.kind, one.damage, text) for one in told if (text := data.fault(one))] == []
    assert len(told) == 12
