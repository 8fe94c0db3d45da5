"""What the reasons to stop promise: patience survives a cut, a signal saves, a second Ctrl-C leaves at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dlwp.errors import ConfigError
from dlwp.observers.saving import Saving
from dlwp.observers.stopping import MaxTime, Patience, Signals
from dlwp.runs.folder import RunFolder
from dlwp.settings import Duration
from dlwp.training.events import Evaluated, StepEnded, Stop


def evaluated(trainer: Any, value: float, split: str = "val") -> Evaluated:
    return Evaluated(trainer, 1, 1, split, {"accuracy": value}, 10, 0.1)


def exits(patience: Patience, trainer: Any, values: list[float]) -> list[bool]:
    return [patience.on_evaluation(evaluated(trainer, value)) == Stop("early_stopped") for value in values]


def test_patience_counts_evaluations_without_betterment(make_trainer: Any) -> None:
    assert exits(Patience(2), make_trainer([]), [0.5, 0.4, 0.6, 0.6, 0.5]) == [False, False, False, False, True]
    smaller = make_trainer([], monitor="val/accuracy", monitor_mode="min")
    assert exits(Patience(2), smaller, [0.5, 0.4, 0.6, 0.6]) == [False, False, False, True]


def test_a_value_that_is_not_finite_is_worse_than_any(make_trainer: Any) -> None:
    nan, inf = float("nan"), float("inf")
    assert exits(Patience(2), make_trainer([]), [nan, 0.1, inf, nan]) == [False, False, False, True]


def test_patience_survives_a_cut(make_trainer: Any) -> None:
    trainer, first, second = make_trainer([]), Patience(3), Patience(3)
    exits(first, trainer, [0.5, 0.4, 0.4])
    second.load_state_dict(first.state_dict())
    assert exits(second, trainer, [0.5]) == [True]
    third = Patience(3)
    third.load_state_dict(second.state_dict())
    assert third.on_start(SimpleNamespace()) == Stop("early_stopped")  # type: ignore[arg-type]


def test_patience_looks_at_the_monitored_split_alone_and_names_what_is_measured(make_trainer: Any) -> None:
    patience, trainer = Patience(1), make_trainer([], monitor="val/acuracy", monitor_mode="max")
    assert patience.on_evaluation(evaluated(trainer, 0.1, "test")) is None
    with pytest.raises(ConfigError, match=r"'val/acuracy' is not measured. Did you mean 'val/accuracy'"):
        patience.on_evaluation(evaluated(trainer, 0.1))


def test_early_stopping_ends_the_run(make_trainer: Any, batches: Any) -> None:
    outcome = make_trainer([Patience(2)], epochs=50, monitor="val/accuracy", monitor_mode="min").fit(*batches)
    assert outcome.exit == "early_stopped"
    assert outcome.epoch < 50


def test_max_time_counts_over_all_processes_of_a_run(make_trainer: Any, batches: Any) -> None:
    assert make_trainer([MaxTime(1e-6)]).fit(*batches).exit == "max_time"
    assert make_trainer([MaxTime(3600)]).fit(*batches).exit == "done"
    trainer = make_trainer([MaxTime(3600)])
    trainer.state.progress.elapsed_s = 3600.0
    outcome = trainer.fit(*batches)
    assert (outcome.exit, outcome.step) == ("max_time", 0)


class SendAt:
    def __init__(self, step: int, number: int) -> None:
        self.step, self.number, self.said = step, number, []

    def on_step(self, event: StepEnded) -> None:
        if event.step == self.step:
            os.kill(os.getpid(), self.number)

    def say(self, text: str) -> None:
        self.said.append(text)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP"])
def test_a_signal_stops_after_the_step_with_everything_saved(
    name: str, tmp_path: Path, make_trainer: Any, batches: Any
) -> None:
    run = RunFolder.create(tmp_path / "run")
    number = getattr(signal, name)
    former = signal.getsignal(number)
    with Signals("GO ON") as signals:
        send = SendAt(5, number)
        saving = Saving(run, every=Duration.parse("1 epoch"), keep_last=1, keep_best=True, config_text="")
        outcome = make_trainer([send, signals, saving]).fit(*batches)
    assert (outcome.exit, outcome.step) == (f"stopped:{name}", 5)
    assert run.pointed("last") == run.checkpoints / "step-00000005"
    assert signal.getsignal(number) == former
    if name == "SIGINT":
        assert send.said == [
            "stopping: saving step 5 (again Ctrl-C: leave at once)",
            "saved. Go on: GO ON",
        ]
    else:
        assert len(send.said) == 1
        assert send.said[0].startswith(f"asked to stop ({name}): saved step 5 in 0.")


def test_a_signal_in_an_evaluation_breaks_it_off(tmp_path: Path, make_trainer: Any, batches: Any) -> None:
    class Send:
        def on_evaluation_step(self, event: Any) -> None:
            if event.done == 28:
                os.kill(os.getpid(), signal.SIGTERM)

    run = RunFolder.create(tmp_path / "run")
    with Signals("GO ON") as signals:
        saving = Saving(run, every=Duration.parse("1 epoch"), keep_last=1, keep_best=True, config_text="")
        trainer = make_trainer([Send(), signals, saving])
        assert trainer.fit(*batches).exit == "stopped:SIGTERM"
    assert "evaluate" in trainer.state.progress.pending
    assert run.pointed("last") == run.checkpoints / "step-00000007"


def test_a_hang_up_is_left_alone_where_it_is_ignored() -> None:
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Signals("GO ON"):
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, former)


def test_outside_of_the_main_thread_there_are_no_handlers() -> None:
    found: list[Any] = []

    def enter() -> None:
        with Signals("GO ON"):
            found.append(signal.getsignal(signal.SIGINT))

    former = signal.getsignal(signal.SIGINT)  # ignored where the tests run in a shell's background
    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert found == [former]


def test_a_second_ctrl_c_leaves_at_once() -> None:
    program = """
        import os, signal, time
        from dlwp.observers.stopping import Signals
        with Signals("GO ON"):
            os.kill(os.getpid(), signal.SIGINT)
            print("first", flush=True)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(60)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "first\n", "")
