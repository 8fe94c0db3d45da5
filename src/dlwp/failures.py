"""Own how an error is told to a person: one line and its details, or the user's own frames.

Knows nothing of what failed.
"""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path

from dlwp import frames
from dlwp.errors import DlwpError


def tell(error: BaseException, what: str = "") -> int:
    """Print an error as a person is told of it, on stderr, and return the exit status it means.

    A fault of `errors` is one line (and its details). Anything else is a defect, of dlwp or of the user's own code:
    then the user's frames are shown, and where the whole traceback is found. DLWP_DEBUG=1 shows it at once.

    Args:
        what: what it happened in, such as "job 2 (model=vit): ".
    """
    lines, status = words_of(error)
    print(f"dlwp: error: {what}{lines[0]}", *(f"    {line}" for line in lines[1:]), sep="\n", file=sys.stderr)
    return status


def words_of(error: BaseException) -> tuple[list[str], int]:
    """Return what a person is told of an error, a line each, and the exit status it means."""
    if os.environ.get("DLWP_DEBUG") == "1":
        traceback.print_exception(error)
    if isinstance(error, DlwpError):
        lines = [" ".join(error.message.split()), *error.details]
    else:
        lines = _defect(error)
    lines += [note for note in getattr(error, "__notes__", ()) if note not in lines]
    return lines, error.exit_code if isinstance(error, DlwpError) else 5


def _defect(error: BaseException) -> list[str]:
    text = frames.text_of(error)
    if place := frames.place(error):
        lines = [f"your code failed at {place}: {text}", *frames.lines(error)]
    else:
        found = traceback.extract_tb(error.__traceback__)
        place = f"{Path(found[-1].filename).name}:{found[-1].lineno}" if found else "?"
        lines = [f"this is a fault in dlwp, please report: {text} ({place})"]
    if not getattr(error, "__notes__", ()) and os.environ.get("DLWP_DEBUG") != "1":
        lines.append("the whole traceback: put DLWP_DEBUG=1 before the command")
    return lines
