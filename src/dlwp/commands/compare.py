"""`dlwp-compare`: what several runs say together: who is better, by how much, and how sure that is.

Knows nothing of how that is found: `dlwp.comparing` does it, without torch.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from dlwp import __version__
from dlwp.commands import entry
from dlwp.errors import ConfigError, MachineError, did_you_mean

if TYPE_CHECKING:
    from dlwp.comparing.groups import Groups
    from dlwp.comparing.verdict import Pair, Scale

_DESCRIPTION = """Compare runs: those that differ only in the seed are one setting, and each is held against the
first, with the 95% interval of the difference and a verdict in words. A page of HTML has the curves too.

  dlwp-compare outputs/sweeps/2026-11-23_20-15-03          the settings of a sweep
  dlwp-compare RUN RUN RUN                                 some runs
  dlwp-compare FOLDER metric=test/loss baseline=lr=0.1     another metric, another setting to hold the others against

keys:
  metric    SPLIT/NAME; auto: the monitored one, on test where all have it, else the best of val (auto)
  mode      whether more of it is better: max, min; auto: as the runs were told, or by its name (auto)
  baseline  name of the setting that the others are held against, or a part of it (the first)
  output    the page, or null (FOLDER/compare.html; of several places outputs/compare-TIME.html; of json and csv null)
  format    text, json or csv (text)
"""
_CHOICES = {"mode": ("auto", "max", "min"), "format": ("text", "json", "csv")}


def main() -> int:
    """Run the command; return the exit status."""
    return entry.run(_compare)


def _compare() -> None:
    parser = argparse.ArgumentParser(
        prog="dlwp-compare", description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"dlwp {__version__}")
    parser.add_argument("words", nargs="*", metavar="RUN FOLDER key=value", help="what to compare, and keys as above")
    places, own = _read(parser.parse_intermixed_args().words)
    from dlwp.comparing import groups, listing, verdict

    found = groups.read(places, own["metric"], own["mode"], own["baseline"] or None)
    pairs = verdict.pairs_of(found)
    scale = verdict.scale_of(found, pairs)
    page = _write_page(found, pairs, scale, places, own)  # before a word is said: a reader may leave (`| head`)
    if own["format"] != "text":
        print(listing.as_json(found, pairs, scale) if own["format"] == "json" else listing.as_csv(found, pairs), end="")
        return
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    lines = listing.text(found, pairs, scale, width)
    lines += [f"{'page':<8} {page}"] * (page is not None)
    print(*lines, *_next(found, pairs), sep="\n")


def _read(words: Sequence[str]) -> tuple[list[Path], dict[str, str]]:
    """Return the places and the command's own keys, checked."""
    own = {"metric": "auto", "mode": "auto", "baseline": "", "output": "", "format": "text"}
    places: list[Path] = []
    for word in words:
        key, separator, value = word.partition("=")
        if Path(word).expanduser().exists() or not separator:
            places.append(_place(word))
        elif key in own:
            own[key] = value
        else:
            raise ConfigError(f"unknown key '{key}'.{did_you_mean(key, own)} There are: {', '.join(own)}")
    if not places:
        raise ConfigError("nothing to compare. dlwp-compare RUN RUN..., or a folder of runs")
    for key, choices in _CHOICES.items():
        if own[key] not in choices:
            raise ConfigError(f"{key} must be {' or '.join(choices)}, got '{own[key]}'")
    return places, own


def _place(word: str) -> Path:
    """Return a folder of runs, or a run as other commands take it ("last").

    Raises:
        ConfigError: there is none.
    """
    from dlwp.runs.folder import find_run

    path = Path(word).expanduser()
    return path if path.is_dir() and word != "last" else find_run(word)[0]


def _write_page(
    found: Groups, pairs: Sequence[Pair], scale: Scale, places: Sequence[Path], own: dict[str, str]
) -> Path | None:
    """Write the page, and return where it is; None where none is wanted.

    Raises:
        MachineError: it cannot be written.
    """
    output = own["output"] or ("" if own["format"] == "text" else "null")
    if output == "null":
        return None
    from dlwp.comparing import page
    from dlwp.runs import files
    from dlwp.runs.folder import is_run

    now = datetime.now()
    path = Path("outputs") / f"compare-{now:%Y-%m-%d_%H-%M-%S}.html"
    if output:
        path = Path(output).expanduser()
    elif len(places) == 1 and not is_run(places[0]):
        path = places[0] / "compare.html"
    try:
        files.make_folders(path.parent)
        files.write_atomic(path, page.html(found, pairs, scale, path.parent, now))
    except OSError as error:
        raise MachineError(f"{files.fault(error, path)}. output=FILE.html, or output=null") from error
    return path


def _next(found: Groups, pairs: Sequence[Pair]) -> list[str]:
    """Return the commands that make the seeds which would tell more, where a difference is not shown."""
    from dlwp.comparing.verdict import next_seeds

    open_pairs = [pair for pair in pairs if not pair.shown and pair.difference.low != pair.difference.high]
    if len(pairs) > 1 or not open_pairs:
        return []
    seeds = ",".join(map(str, next_seeds(open_pairs[0])))
    lines: list[str] = []
    for setting in (open_pairs[0].baseline, open_pairs[0].other):
        run = os.fspath(setting.trials[0].run)
        words = ["dlwp-train", "-m", "--config-dir", run, "--config-name", "config", f"seed={seeds}"]
        lines.append(f"{'' if lines else 'next':<8} {shlex.join(words)}")
    return lines
