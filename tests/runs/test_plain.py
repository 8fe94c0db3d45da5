"""YAML that anybody may have made: plain values are taken, what multiplies or never ends is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dlwp.runs import plain


def test_plain_values_are_what_they_say() -> None:
    assert plain.values_of("a: 1\nb: [x, {c: null}]\n") == {"a": 1, "b": ["x", {"c": None}]}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: 1\nb: !!python/name:os.system\n", "line 2 holds tag:yaml.org,2002:python/name:os.system"),
        ("a: &a 1\nb: *a\n", "line 2 holds an alias"),
        ("[" * 100_000, "line 1 is nested deeper than 40"),
    ],
)
def test_what_multiplies_or_runs_or_nests_is_refused_by_its_line(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=f"^{told}$"):
        plain.values_of(text)


def test_a_pipe_and_a_file_without_end_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(OSError, match="not a regular file"):
            plain.text_of(path)
