"""Own which frames of an error are the user's own: those neither of dlwp, nor of installed packages, nor of Python.

Knows nothing of what is told of an error. Of one that was raised in a worker process the frames are read from the text
in which torch brings it here.
"""

from __future__ import annotations

import re
import sys
import sysconfig
import traceback
from pathlib import Path
from traceback import FrameSummary

_IN_WORKER = re.compile(r"^Caught (\w+) in (?:DataLoader worker process|pin memory thread)", re.MULTILINE)
_FRAME = re.compile(r'^ *File "([^"]+)", line (\d+), in (.+)(?:\n +(\S.*))?', re.MULTILINE)


def is_users(file: str) -> bool:
    """Return whether a frame's file is neither dlwp's, nor an installed package's, nor Python's own."""
    path = Path(file)
    homes = {Path(__file__).resolve().parent, *(Path(place) for place in sysconfig.get_paths().values())}
    installed = "site-packages" in path.parts or any(home in path.parents for home in homes)
    return path.is_absolute() and not installed and path.is_file() and path.name != Path(sys.argv[0]).name


def users(error: BaseException) -> list[FrameSummary]:
    """Return the user's own frames of an error, the outermost first."""
    frames = list(traceback.extract_tb(error.__traceback__))
    if (text := _of_worker(error)) is not None:
        frames += [
            FrameSummary(file, int(line), name, line=code or "") for file, line, name, code in _FRAME.findall(text)
        ]
    return [frame for frame in frames if is_users(frame.filename)]


def text_of(error: BaseException) -> str:
    """Return kind and text of an error, in one line."""
    if (text := _of_worker(error)) is None:
        return " ".join(f"{type(error).__name__}: {error}".split())
    last = text.rfind("\n  ")  # of the last frame: what follows it is the error, and then its notes
    told = [line for line in text[last + 1 :].splitlines() if line and not line.startswith(" ")]
    return " ".join(" ".join(told).split())


def near(file: str) -> str:
    """Return a file as seen from where the user stands."""
    path = Path(file)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else file


def place(error: BaseException) -> str:
    """Return file:line of the innermost of the user's own frames, "" where there is none."""
    own = users(error)
    return f"{near(own[-1].filename)}:{own[-1].lineno}" if own else ""


def lines(error: BaseException) -> list[str]:
    """Return the user's own frames, a line each, the outermost first."""
    return [f"{near(one.filename)}:{one.lineno} in {one.name}: {one.line}" for one in users(error)]


def _of_worker(error: BaseException) -> str | None:
    """Return the text of an error that was raised in a worker process, None of any other."""
    text = str(error.args[0]) if error.args else ""
    return text if _IN_WORKER.search(text) else None
