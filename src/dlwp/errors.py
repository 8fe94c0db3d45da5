"""Own every error that a person is told of, as one tree with an exit status each.

Knows nothing of configs, data or torch: whoever finds the fault words it.

    DlwpError                 5   the run failed, or a defect
    ├── ConfigError           2   the command line, a config, or parts that do not fit one another
    ├── DataError             3   the data, or a damaged file
    ├── MachineError          4   a device, a package, memory or disk
    └── RunError              5   the run itself failed
        ├── NonFiniteError        a loss or gradient became NaN or infinite
        ├── CallbackError         the user's own callback raised
        └── PeerError             another process of the run failed, or is gone

Status 0 is done; 130 and 143 mean stopped by a signal with everything saved.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class DlwpError(Exception):
    """A fault that is told in one line.

    Args:
        message: what is wrong with the value given, then the way out as something to type. One line.
        details: further lines (options, shapes), shown indented below the message.
    """

    exit_code = 5

    def __init__(self, message: str, details: Sequence[str] = ()) -> None:
        super().__init__(message, tuple(details))  # all arguments, so that it pickles
        self.message = message
        self.details = tuple(details)

    def __str__(self) -> str:
        return self.message


class ConfigError(DlwpError):
    """The command line or a config is wrong, or the chosen parts do not fit one another."""

    exit_code = 2


class DataError(DlwpError):
    """The data is missing, unreadable or not as declared, or a file is damaged."""

    exit_code = 3


class MachineError(DlwpError):
    """The machine or its packages cannot do what was asked."""

    exit_code = 4


class RunError(DlwpError):
    """The run failed while it trained."""


class NonFiniteError(RunError):
    """A loss or a gradient became NaN or infinite."""


class CallbackError(RunError):
    """A callback of the user's own raised."""


class PeerError(RunError):
    """Another process of the run failed, which has told of it itself, or is gone without a word."""


def nearest(name: str, options: Iterable[str], count: int = 2) -> list[str]:
    """Return up to `count` options that resemble `name`, the likeliest first.

    >>> nearest("epochz", ["epochs", "precision"])
    ['epochs']
    """
    return difflib.get_close_matches(name, list(options), n=count, cutoff=0.6)


def did_you_mean(name: str, options: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" for the nearest options, or "" when nothing is near.

    >>> did_you_mean("epochz", ["epochs", "precision"])
    " Did you mean 'epochs'?"
    """
    found = nearest(name, options)
    return f" Did you mean {' or '.join(repr(option) for option in found)}?" if found else ""
