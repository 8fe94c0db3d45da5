"""What docs/search.md shows can be typed: its commands compose, and its spaces can be searched."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import yaml

from dlwp.config import check
from dlwp.config.catalog import Catalog
from dlwp.config.compose import composed
from dlwp.sweeping import space


def test_the_commands_of_the_page_compose_and_its_spaces_are_read(checkout: Path) -> None:
    text = (checkout / "docs" / "search.md").read_text(encoding="utf-8").replace("\\\n", " ")
    commands = [line for line in text.splitlines() if line.startswith("dlwp-train -m ") and "sweep_resume" not in line]
    assert len(commands) == 2
    for command in commands:
        words = shlex.split(command)[2:]
        composed(words, sweep=True)
        for word in check.parse(words, Catalog(), sweep=True):
            assert not word.several or space.read(word)
    (block,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    for key, value in yaml.safe_load(block)["hydra"]["sweeper"]["params"].items():
        space.read(check.parse([f"{key}={value}"], Catalog(), sweep=True)[0])
