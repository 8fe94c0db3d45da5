"""Own who hears an event, what an observer may answer, and what becomes of one that fails.

Knows nothing of the loop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from dlwp import frames
from dlwp.errors import CallbackError
from dlwp.training import events

_OFF_AFTER = 3


class Dispatch:
    """Gives each record to the observers that have its hook.

    A watcher cannot stop the run; one that fails is told of, and switched off once a hook of it failed three times in a
    row. A keeper of dlwp's own that fails, or a callback of the user's, ends the run.

    Args:
        observers: in the order in which they hear.
        warn: called with (text) when a watcher fails.
    """

    def __init__(self, observers: Sequence[Any], warn: Callable[[str], None]) -> None:
        self._warn = warn
        self._failures: dict[tuple[int, str], int] = {}
        self._hooks: dict[str, list[tuple[Any, Any]]] = {
            name: [(part, hook) for part in observers if callable(hook := getattr(part, name, None))]
            for name in events.HOOKS
        }

    def is_heard(self, hook: str) -> bool:
        """Return whether any observer has this hook."""
        return bool(self._hooks[hook])

    def emit(self, record: Any, step: int) -> events.Stop | None:
        """Give a record to all who hear it, and return the first `Stop` that one of them answered.

        Raises:
            CallbackError: a callback of the user's own failed. Other errors are those of dlwp's keepers. At the end of
                a run all hear of it before the first error is raised.
        """
        stop: events.Stop | None = None
        first: BaseException | None = None
        for part, hook in self._hooks[record.hook]:
            try:
                answer = hook(record)
            except (Exception, SystemExit) as error:  # any error: a watcher must not end the run, a callback is told
                failure = self._failure(part, record.hook, error, step)
                if failure is not None and not isinstance(record, events.Ended):
                    raise failure from (error if failure is not error else error.__cause__)
                first = first or failure
                continue
            if self._failures:
                self._failures.pop((id(part), record.hook), None)
            if answer is not None and stop is None and isinstance(answer, events.Stop):
                stop = None if getattr(part, "watcher", False) else answer
        if first is not None:
            raise first
        return stop

    def _failure(self, part: Any, hook: str, error: BaseException, step: int) -> BaseException | None:
        """Return what is to be raised for an observer that failed; None where the run goes on."""
        name = type(part).__name__
        if getattr(part, "watcher", False):
            count = self._failures[id(part), hook] = self._failures.get((id(part), hook), 0) + 1
            if count == 1:
                self._warn(f"{name} failed at step {step}: {type(error).__name__}: {error}; training goes on")
            if count == _OFF_AFTER:
                self._warn(f"{name} failed {count} times in a row and was switched off (at step {step})")
                for hook_name, hooks in self._hooks.items():  # new lists: of the old one some may still hear
                    self._hooks[hook_name] = [entry for entry in hooks if entry[0] is not part]
            return None
        if type(part).__module__.partition(".")[0] == "dlwp":
            return error
        where = f" at {place}" if (place := frames.place(error)) else ""
        text = f"callback {name}.{hook} failed{where}: {frames.text_of(error)}"
        failure = CallbackError(text, frames.lines(error))
        failure.__cause__ = error
        return failure
