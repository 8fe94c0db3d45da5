"""Own `dlwp-runs`: print the table of any runs, the audit of one, or the step at which one failed.

Knows nothing of how runs are read, compared or audited.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from typing import NoReturn

from dlwp.errors import ConfigError

_EPILOG = """examples:
  dlwp-runs                                      every run under outputs/
  dlwp-runs outputs/cifar10-resnet               those of one pair
  dlwp-runs outputs/sweeps/2026-11-23_20-15-03 --format csv
  dlwp-runs audit outputs/latest                 prove that each sample of each epoch was used exactly once
  dlwp-runs replay outputs/latest                take again the step at which a loss was not finite: where it arose
"""


def show_runs(words: list[str]) -> None:
    """Print the table of the runs in the folders named (default: outputs), best first, with only the keys that differ.

    Raises:
        ConfigError: a folder is not there, or holds no run.
        DataError: an audit finds samples that were skipped or repeated.
    """
    if words[:1] in (["audit"], ["replay"]):
        (_audit if words[0] == "audit" else _replay)(words[1:])
        return
    from dlwp.runs import table

    parser = argparse.ArgumentParser(
        prog="dlwp-runs",
        description="Print a table of runs: best first, only the keys that differ, seeds of one setting as one line.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folders", nargs="*", default=["outputs"], help="folders with runs at any depth (outputs)")
    parser.add_argument("--format", choices=["text", "csv", "md"], default="text", help="form of the table (text)")
    parser.error = _refuse  # type: ignore[method-assign]
    found = parser.parse_args(words)
    folders = [Path(text) for text in found.folders]
    for folder in folders:
        if not folder.is_dir():
            raise ConfigError(f"no folder '{folder}'. dlwp-runs FOLDER, or start a run: dlwp-train")
    rows = table.read_runs(folders)
    if not rows:
        raise ConfigError(f"no runs in '{folders[0]}'. Start one: dlwp-train")
    if found.format == "text":
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        print(table.render(rows, width))
    else:
        print(table.csv_text(rows) if found.format == "csv" else table.markdown(rows), end="")


def _audit(runs: list[str]) -> None:
    if not runs or any(run.startswith("-") for run in runs):
        raise ConfigError("audit needs a run: dlwp-runs audit outputs/latest")
    from dlwp import api

    for run in runs:
        print(f"{run}: {api.audit(run)}")


def _replay(words: list[str]) -> None:
    if not words or words[0].startswith("-"):
        raise ConfigError("replay needs a run: dlwp-runs replay outputs/latest")
    from dlwp.replay import replay

    print(*replay(words[0], words[1:]), sep="\n")


def _refuse(message: str) -> NoReturn:
    raise ConfigError(f"{message}. All options: dlwp-runs --help")


def main() -> int:
    """Run the command; return the exit status."""
    from dlwp.commands import entry

    return entry.run(lambda: show_runs(sys.argv[1:]))
