"""Own `dlwp-pack`: put a folder of pictures into one file that is read faster than pictures are decoded.

Knows nothing of how that is done: `dlwp.data.packing` does it.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Any

from dlwp import __version__
from dlwp.commands import entry
from dlwp.errors import ConfigError, did_you_mean

_DESCRIPTION = """Put a folder of pictures into one file of fixed size, which data=packed reads memory-mapped.

  dlwp-pack photos packed image_size=64                    photos/CLASS/*.jpg, or photos/{train,val,test}/CLASS/*.jpg
  dlwp-pack photos packed image_size=224x160 fit=stretch   height x width, all of each picture
  dlwp-train data=packed data.path=packed model=resnet

A pack is a folder: pictures.npy, uint8 of (N, H, W, 3), and pack.json with classes, splits and its SHA-256.
A command that was stopped, in whatever way, goes on where it was when it is given again.

keys:
  image_size  pixels of height and width, 64 or 48x64; auto: as they are, which must be one size (auto)
  fit         crop (scaled until the shorter side fits, the middle kept), stretch (both sides scaled as needed) (crop)
  on_error    a picture that cannot be read: error (ends it), skip (left out, told and counted, up to 1% or 100) (error)
  num_workers processes that decode; 0: this one, auto: as many as cores, at most 9 (auto)
  progress    whether a bar is shown: true, false, auto: on a terminal (auto)
"""
_CHOICES = {"fit": ("crop", "stretch"), "on_error": ("error", "skip"), "progress": ("auto", "true", "false")}


def main() -> int:
    """Run the command; return the exit status."""
    return entry.run(_pack)


def _pack() -> int:
    parser = argparse.ArgumentParser(
        prog="dlwp-pack", description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"dlwp {__version__}")
    parser.add_argument("words", nargs="*", metavar="SOURCE DEST key=value", help="folders, and settings in any order")
    places, settings = _read(parser.parse_intermixed_args().words)
    from dlwp.data import packing

    try:
        contents, was_there = packing.pack(*places, **settings)
    except KeyboardInterrupt:
        print("dlwp: stopped; the same command goes on from here", file=sys.stderr)
        return 130
    _tell(places[1], contents, was_there)
    return 0


def _read(words: list[str]) -> tuple[list[Path], dict[str, Any]]:
    """Return SOURCE and DEST, and the settings as `packing.pack` takes them."""
    found: dict[str, str] = {"image_size": "auto", "fit": "crop", "on_error": "error"}
    found |= {"num_workers": "auto", "progress": "auto"}
    places: list[Path] = []
    for word in words:
        key, separator, value = word.partition("=")
        if not separator:
            places.append(Path(word).expanduser())
        elif key not in found:
            raise ConfigError(f"unknown key '{key}'.{did_you_mean(key, found)} All keys: dlwp-pack --help")
        else:
            found[key] = value
    if len(places) != 2:
        raise ConfigError(f"two folders are needed, got {len(places)}. dlwp-pack SOURCE DEST image_size=64")
    for key, choices in _CHOICES.items():
        if found[key] not in choices:
            raise ConfigError(f"{key} must be {', '.join(choices)}, got '{found[key]}'")
    size = re.fullmatch(r"auto|(?:([1-9]\d*)x)?([1-9]\d*)", found["image_size"])
    if size is None:
        raise ConfigError(f"image_size must be a number, HEIGHTxWIDTH or auto, got '{found['image_size']}'")
    if found["image_size"] == "auto" and found["fit"] != "crop":
        raise ConfigError(f"fit={found['fit']} has no effect without image_size. image_size=64")
    if not re.fullmatch(r"auto|\d+", found["num_workers"]):
        raise ConfigError(f"num_workers must be a whole number >= 0 or auto, got '{found['num_workers']}'")
    return places, {
        "image_size": (int(size[1] or size[2]), int(size[2])) if size[2] else None,
        "fit": found["fit"],
        "on_error": found["on_error"],
        "num_workers": None if found["num_workers"] == "auto" else int(found["num_workers"]),
        "progress": {"auto": None, "true": True, "false": False}[found["progress"]],
    }


def _tell(destination: Path, contents: Any, was_there: bool) -> None:
    """Print what the pack holds and how it is used."""
    pieces = [f"{split} {sum(counts):,}" for split, counts in contents.splits.items()]
    pieces += [f"{len(contents.classes)} classes", f"{'x'.join(map(str, contents.image_size))} ({contents.fit})"]
    print(f"{'packed':<8} {' · '.join(pieces)}{' · was there' if was_there else ''}")
    print(f"         {contents.nbytes / 1e6:,.1f} MB in {destination}, sha256 {contents.sha256[:12]}…")
    for one in contents.left_out[:10]:
        print(f"left out {one['reason']}")
    if len(contents.left_out) > 10:
        print(f"         and {len(contents.left_out) - 10:,} more (pack.json has all)")
    print(f"next     dlwp-train data=packed data.path={destination}")
