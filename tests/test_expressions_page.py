"""What docs/expressions.md shows runs: its commands compose, and its network solves its equation."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

import dlwp
from dlwp.config.compose import compose

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "expressions.md").read_text(encoding="utf-8")
COMMANDS = [
    shlex.split(text.replace("\\\n", " "))
    for text in re.findall(r"^\$ (dlwp-train (?:.*\\\n)*.*)$", PAGE, re.MULTILINE)
]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_of_the_page_composes(words: list[str]) -> None:
    compose(words[1:])


def test_the_network_of_the_page_solves_its_equation(own_place: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (own_place / "poisson.py").write_text(code, encoding="utf-8")
    (words,) = [words for words in COMMANDS if any("poisson" in word for word in words)]
    shorter = ["trainer.epochs=25", "logger.tensorboard=false", "logger.plots=false", "trainer.progress=false"]
    run = dlwp.train(*(word for word in words[1:] if not word.startswith("trainer.epochs")), *shorter)
    last = json.loads((run.folder / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["error"] < 0.02
