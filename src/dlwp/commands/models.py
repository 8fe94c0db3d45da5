"""Own `dlwp-models`: print the published networks for pictures, by name, size or accuracy, and how one is used.

Knows nothing of where they are listed or looked for: `dlwp.zoo` does that.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from dlwp import __version__, zoo
from dlwp.commands import entry
from dlwp.errors import ConfigError, did_you_mean
from dlwp.zoo import Network

_DESCRIPTION = """List the published networks for pictures of torchvision and timm, and the one that comes with dlwp.

  dlwp-models                                  all
  dlwp-models 'resnet*'                        names that begin so (?, [] as in a shell)
  dlwp-models dino clip sort=parameters        names or weights that hold one of these words, the smallest first
  dlwp-models source=timm sort=accuracy format=json

The table comes with dlwp: nothing is imported or fetched for it. Accuracy is top-1 on ImageNet as published (blank:
not). Classes are told where they are not ImageNet's 1,000 (none: a network without a head of classes). In a narrow
terminal columns are left out and long names shortened; piped (| less -S) the table is whole.

keys:
  sort     name, parameters (the fewest first), accuracy (the best first) (name)
  source   dlwp, torchvision or timm alone
  on_disk  true: networks alone whose weights lie on this disk already; false: the others
  format   table, json, csv: these with the settings that use each, accuracy as a fraction (table)
"""
_CHOICES = {
    "sort": ("name", "parameters", "accuracy"),
    "source": zoo.SOURCES,
    "on_disk": ("true", "false"),
    "format": ("table", "json", "csv"),
}


def main() -> int:
    """Run the command; return the exit status."""
    return entry.run(lambda: show_models(sys.argv[1:]))


def show_models(words: list[str]) -> None:
    """Print the networks that match one of the patterns (none: all) and every key given.

    Raises:
        ConfigError: an unknown key or choice, or a pattern that nothing matches.
    """
    parser = argparse.ArgumentParser(
        prog="dlwp-models", description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"dlwp {__version__}")
    parser.add_argument("words", nargs="*", metavar="PATTERN key=value", help="patterns and keys in any order")
    parser.error = _refuse  # type: ignore[method-assign]
    patterns, settings = _read(parser.parse_intermixed_args(words).words)
    here = zoo.on_disk()
    found = zoo.ordered(_selected(patterns, settings, here), settings.get("sort", "name"))
    form = settings.get("format", "table")
    if form == "json":
        print(json.dumps([_record(one, here) for one in found], indent=1))
    elif form == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        records = [_record(one, here) for one in found]
        writer.writerow(records[0])
        writer.writerows({**record, "on_disk": _word(record["on_disk"])}.values() for record in records)
    else:
        print(render(found, here, shutil.get_terminal_size().columns if sys.stdout.isatty() else None))
        names = len({(one.source, one.name) for one in found})
        versions = ", ".join(f"{library} {version}" for library, version in zoo.made_from().items())
        print(f"found    {len(found):,} weights of {names:,} network{'s' * (names > 1)} ({versions})")
        print(f"next     {found[0].use}")


def _refuse(message: str) -> NoReturn:
    raise ConfigError(f"{message}. All keys: dlwp-models --help")


def _read(words: list[str]) -> tuple[list[str], dict[str, str]]:
    """Return the patterns, and the keys with their values."""
    patterns: list[str] = []
    settings: dict[str, str] = {}
    for word in words:
        key, separator, value = word.partition("=")
        if not separator:
            patterns.append(word)
        elif key not in _CHOICES:
            raise ConfigError(f"unknown key '{key}'.{did_you_mean(key, _CHOICES)} All keys: dlwp-models --help")
        elif value not in _CHOICES[key]:
            raise ConfigError(f"{key} must be {', '.join(_CHOICES[key])}, got '{value}'")
        else:
            settings[key] = value
    return patterns, settings


def _selected(patterns: Sequence[str], settings: dict[str, str], here: set[str]) -> list[Network]:
    networks = zoo.read()
    found: dict[Network, None] = {}
    for pattern in patterns or ["*"]:
        matching = [one for one in networks if zoo.is_match(one, pattern)]
        if not matching:
            names = {one.full_name if "." in pattern else one.name for one in networks}
            raise ConfigError(f"no network matches '{pattern}'.{did_you_mean(pattern, sorted(names))} All: dlwp-models")
        found |= dict.fromkeys(matching)
    kept = [
        one
        for one in found
        if settings.get("source", one.source) == one.source
        and settings.get("on_disk", _word(one.file in here)) == _word(one.file in here)
    ]
    if not kept:
        narrowing = " ".join(f"{key}={settings[key]}" for key in ("source", "on_disk") if key in settings)
        raise ConfigError(f"{len(found):,} found match, but none with {narrowing}. Leave that out to see them")
    return kept


def _word(value: bool) -> str:
    return "true" if value else "false"


def _record(network: Network, here: set[str]) -> dict[str, Any]:
    """Return a network as a machine reads it."""
    return {
        "source": network.source,
        "name": network.name,
        "weights": network.weights,
        "parameters": network.parameters,
        "image_size": network.image_size,
        "accuracy": None if network.accuracy is None else round(network.accuracy / 100, 5),
        "num_classes": network.num_classes,
        "on_disk": network.file in here,
        "settings": network.settings,
    }


# ---- the table ------------------------------------------------------------------------------------------------------

_COLUMNS: dict[str, Callable[[Network, set[str]], str]] = {
    "name": lambda one, _: one.name,
    "weights": lambda one, _: one.weights,
    "source": lambda one, _: one.source,
    "parameters": lambda one, _: _millions(one.parameters),
    "size": lambda one, _: one.image_size,
    "accuracy": lambda one, _: "" if one.accuracy is None else f"{one.accuracy:.2f}%",
    "classes": lambda one, _: {1000: "", 0: "none"}.get(one.num_classes, f"{one.num_classes:,}"),
    "disk": lambda one, here: "yes" if one.file in here else "",
}
_NUMBERS = ("parameters", "size", "accuracy", "classes")
_GIVE_WAY = ("source", "classes", "disk")  # the first of them first, where a terminal is too narrow


def render(networks: Sequence[Network], here: set[str], width: int | None = None) -> str:
    """Return the table as text, no wider than `width` characters (None: as wide as it is).

    Where it is wider, columns go; name, parameters, size and accuracy never do: long names are shortened at last.
    """
    cells = {title: [title, *(cell(one, here) for one in networks)] for title, cell in _COLUMNS.items()}
    if not any(cells["classes"][1:]):
        del cells["classes"]
    widths = {title: max(map(len, column)) for title, column in cells.items()}
    _narrow(widths, width)
    lines = []
    for row in zip(*(cells[title] for title in widths)):
        fitted = [_fit(cell, size, title in _NUMBERS) for cell, (title, size) in zip(row, widths.items())]
        lines.append("  ".join(fitted).rstrip())
    return "\n".join(lines)


def _narrow(widths: dict[str, int], width: int | None) -> None:
    """Shorten weights, leave columns out and shorten names, in this order, until the table fits."""

    def excess() -> int:
        return 0 if width is None else sum(widths.values()) + 2 * (len(widths) - 1) - width

    def shorten(title: str, least: int) -> None:
        widths[title] = max(min(least, widths[title]), widths[title] - max(0, excess()))

    def leave_out(title: str) -> None:
        if excess() > 0:
            widths.pop(title, None)

    shorten("weights", 13)  # IMAGENET1K_V2
    for title in _GIVE_WAY:
        leave_out(title)
    shorten("name", 24)
    leave_out("weights")
    shorten("name", 8)


def _fit(cell: str, size: int, is_number: bool) -> str:
    """Return a cell of this size; a name too long for it loses its middle: what tells it from others is at its ends."""
    if len(cell) > size:
        end = (size - 1) // 2
        cell = f"{cell[: size - 1 - end]}…{cell[-end:]}"
    return cell.rjust(size) if is_number else cell.ljust(size)


def _millions(count: int) -> str:
    """Return a number to three digits in millions: "4.65 M", "25.6 M", "1,013 M"."""
    millions = count / 1e6
    return f"{millions:,.{2 if millions < 10 else 1 if millions < 100 else 0}f} M"
