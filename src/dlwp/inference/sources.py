"""Own which pictures words mean: files, folders, patterns, and standard input.

Knows nothing of what is done with them.
"""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dlwp.errors import ConfigError, nearest
from dlwp.settings import PICTURE_SUFFIXES


def expand(words: Sequence[str]) -> list[Any]:
    """Return the paths that words mean, in their order, those of a folder or pattern sorted; the bytes of "-".

    A folder stands for all pictures in it and in its folders, by their endings.

    Raises:
        ConfigError: there is no such file, a folder holds no picture, or a pattern matches none.
    """
    found: list[Any] = []
    for word in words:
        path = Path(word).expanduser()
        if word == "-":
            found.append(sys.stdin.buffer.read())
        elif path.is_dir():
            found += _in_folder(path)
        elif path.exists():
            found.append(str(path))
        elif any(sign in word for sign in "*?["):
            every = glob.glob(str(path), recursive=True)  # noqa: PTH207 (of any pattern, absolute ones too)
            matched = sorted(one for one in every if Path(one).is_file())
            if not matched:
                raise ConfigError(f"no file matches '{word}'")
            found += matched
        else:
            siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
            near = nearest(path.name, siblings, 1)
            raise ConfigError(f"no file '{word}'." + (f" Near it: '{path.parent / near[0]}'" if near else ""))
    return found


def _in_folder(folder: Path) -> list[str]:
    found = [
        str(Path(parent, name))
        for parent, _, names in os.walk(folder)
        for name in names
        if name.lower().endswith(PICTURE_SUFFIXES)
    ]
    if not found:
        raise ConfigError(f"no pictures ({', '.join(PICTURE_SUFFIXES)}) in '{folder}'")
    return sorted(found)


def name_of(source: Any) -> str:
    """Return what a source is called."""
    return "standard input" if isinstance(source, bytes) else str(source)
