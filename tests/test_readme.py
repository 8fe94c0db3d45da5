"""Hold that what README.md shows can be typed.

A block of bash or Python under the comment `<!-- run -->` is run as it stands, in a folder where every block under
`<!-- file: NAME -->` was written to NAME. All other commands must compose, or be there.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>run|file: (?P<file>\S+)) -->\n+)?^```(?P<language>\w+)\n(?P<text>.*?)^```$", re.M | re.S
)
BLOCKS: list[dict[str, str]] = [
    match.groupdict("") for match in BLOCK.finditer((ROOT / "README.md").read_text(encoding="utf-8"))
]
COMMANDS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]


def commands(text: str) -> list[list[str]]:
    """Return the commands of a block, as lists of words."""
    lines = text.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


RUN = [block for block in BLOCKS if block["mark"] == "run"]
BASH = [block for block in BLOCKS if block["language"] == "bash"]
OURS = [words for block in BASH for words in commands(block["text"]) if words[0].startswith(("dlwp-", "./scripts/"))]
RUN_WORDS = [words for block in RUN if block in BASH for words in commands(block["text"])]


def settings_of(words: list[str]) -> list[str]:
    """Return the settings of a training command that compose without a run to go on with."""
    return [word for word in words[1:] if not word.startswith(("-", "resume="))]


def as_module(words: list[str]) -> list[str]:
    """Return the command line that runs a console script of this checkout, whatever is installed."""
    module, _, function = COMMANDS[words[0]].partition(":")
    return [sys.executable, "-c", f"import sys; from {module} import {function}; sys.exit({function}())", *words[1:]]


def test_the_readme_shows_commands_and_some_of_them_are_run() -> None:
    assert len(RUN_WORDS) > 1
    assert OURS[0][0] == "./scripts/quickstart"


@pytest.mark.parametrize("words", OURS, ids=" ".join)
def test_every_command_shown_is_there(words: list[str]) -> None:
    if words[0].startswith("./"):
        assert (ROOT / words[0]).stat().st_mode & 0o100
    else:
        assert words[0] in COMMANDS


TRAIN = [words for words in OURS if words[0] in ("dlwp-train", "./scripts/quickstart") and words not in RUN_WORDS]


@pytest.mark.parametrize("words", TRAIN, ids=" ".join)
def test_every_training_command_shown_composes(words: list[str]) -> None:
    from dlwp.config.compose import composed

    sweep = not {"-m", "--multirun"}.isdisjoint(words)
    composed(settings_of(words), sweep=sweep)


@pytest.mark.parametrize("block", RUN, ids=lambda block: block["text"].splitlines()[0])
def test_a_block_marked_to_be_run_succeeds_as_it_stands(block: dict[str, str], own_place: Path) -> None:
    for file in (other for other in BLOCKS if other["file"]):
        path = own_place / file["file"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(file["text"], encoding="utf-8")
    if block["language"] == "python":
        lines = [[sys.executable, "-c", block["text"]]]
    else:
        lines = [as_module(words) if words[0] in COMMANDS else words for words in commands(block["text"])]
    for line in lines:
        done = subprocess.run(line, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        assert done.returncode == 0, f"{shlex.join(line)}\n{done.stdout}{done.stderr}"
