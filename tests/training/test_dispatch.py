"""Who hears an event: a watcher that fails is switched off, and cannot stop the run; a callback that fails ends it."""

from __future__ import annotations

from typing import Any

import pytest

from dlwp.errors import CallbackError
from dlwp.training import events
from dlwp.training.dispatch import Dispatch


def saved() -> Any:
    return events.Waiting(None, 1)  # type: ignore[arg-type]


def ended() -> Any:
    return events.Ended(None, 1, 1, "done")  # type: ignore[arg-type]


class Watcher:
    """One hook is sound, the other one fails."""

    watcher = True

    def __init__(self) -> None:
        self.calls = 0

    def on_wait(self, event: object) -> None:
        self.calls += 1
        raise ValueError("rubbish")

    def on_end(self, event: object) -> events.Stop:
        return events.Stop("x")


def test_a_watcher_that_fails_in_one_hook_is_switched_off_however_sound_its_others_are() -> None:
    told: list[str] = []
    watcher = Watcher()
    dispatch = Dispatch([watcher], told.append)
    for step in range(10):
        dispatch.emit(saved(), step)
        dispatch.emit(ended(), step)
    assert watcher.calls == 3
    assert told == [
        "Watcher failed at step 0: ValueError: rubbish; training goes on",
        "Watcher failed 3 times in a row and was switched off (at step 2)",
    ]


def test_a_watcher_cannot_stop_the_run() -> None:
    assert Dispatch([Watcher()], print).emit(ended(), 1) is None


def test_all_hear_of_the_end_before_an_error_is_raised() -> None:
    heard: list[str] = []

    class Callback:
        def __init__(self, name: str) -> None:
            self.name = name

        def on_end(self, event: object) -> None:
            heard.append(self.name)
            raise KeyError(self.name)

    with pytest.raises(CallbackError, match="KeyError: 'a'") as caught:
        Dispatch([Callback("a"), Callback("b")], print).emit(ended(), 1)
    assert heard == ["a", "b"]
    assert isinstance(caught.value.__cause__, KeyError)
