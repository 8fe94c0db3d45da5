"""What docs/own-data.md shows runs: its files are written, its commands are given."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import dlwp

QUIET = ["logger.tensorboard=false", "logger.plots=false"]


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_every_snippet_and_command_of_the_page_runs(checkout: Path) -> None:
    text = (checkout / "docs" / "own-data.md").read_text(encoding="utf-8")
    for code in blocks(text, "python"):
        if named := re.match(r"# (\w+\.py)\n", code):
            Path(named[1]).write_text(code, encoding="utf-8")
        else:
            exec(compile(code, "own-data.md", "exec"), {})  # it makes the files that a command reads
    commands = [line for block in blocks(text, "sh") for line in block.splitlines()]
    assert len(commands) == 8
    for number, command in enumerate(commands):
        word, *words = shlex.split(command)
        assert word == "dlwp-train"
        run = dlwp.train(
            *(one for one in words if "progress" not in one), *QUIET, "trainer.progress=false", f"run_dir={number}"
        )
        assert run.exit == "done" and run.summary["step"] > 0
