"""What `Console` promises: bars for eyes, plain lines for files, and never the end of a run."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from dlwp.observers import console as module
from dlwp.observers.console import Console, Nowhere
from dlwp.training.events import Settled, StepEnded

EPOCH_LINE = re.compile(
    r"epoch (\d)/3  train +\d\.\d+ +\d+\.\d%  val +\d\.\d+ +\d+\.\d% +[\d,]+/s +[\d.:]+( s)?(  left [\d.:]+( s)?)?"
)


class Terminal(io.StringIO):
    encoding = "utf-8"  # type: ignore[assignment]

    def isatty(self) -> bool:
        return True


def test_each_epoch_leaves_a_line_with_aligned_columns(make_trainer: Any, batches: Any) -> None:
    stream = io.StringIO()
    make_trainer([Console(stream=stream)]).fit(*batches)
    lines = stream.getvalue().splitlines()
    assert [EPOCH_LINE.fullmatch(line)[1] for line in lines[:3]] == ["1", "2", "3"]  # type: ignore[index]
    assert len({line.index("val") for line in lines[:3]}) == 1
    assert lines[3].startswith("best     val/accuracy ")
    assert "left" in lines[0]
    assert "left" not in lines[2]


def test_without_a_terminal_there_are_no_control_characters_and_progress_comes_at_a_bounded_rate(
    make_trainer: Any, batches: Any
) -> None:
    now = [0.0]

    class Clock:
        def on_step(self, event: StepEnded) -> None:
            now[0] += 7

    stream = io.StringIO()
    make_trainer([Clock(), Console(stream=stream, clock=lambda: now[0])], epochs=2).fit(*batches)
    text = stream.getvalue()
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", text)
    steps = [int(found) for found in re.findall(r"step (\d+)/14  loss", text)]
    assert steps == [5, 12]  # the first after 30 s, then 30 s after the epoch's line
    assert re.search(r"  epoch 1/2  step 5/14  loss [\d.]+  accuracy [\d.]+%  \d+/s  left 1:03", text)


@pytest.mark.parametrize("progress", [False, "false"])
def test_progress_false_leaves_the_epochs_alone(progress: Any, make_trainer: Any, batches: Any) -> None:
    stream = Terminal()
    make_trainer([Console(stream=stream, progress=progress, clock=fast_clock())]).fit(*batches)
    assert "\r" not in stream.getvalue()
    assert len(stream.getvalue().splitlines()) == 4


def fast_clock() -> Any:
    now = [0.0]

    def clock() -> float:
        now[0] += 100
        return now[0]

    return clock


def test_a_terminal_shows_bars_for_training_and_evaluation_that_leave_no_trace(
    make_trainer: Any, batches: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    make_trainer([Console(stream=stream, clock=fast_clock())]).fit(*batches)
    text = stream.getvalue()
    assert re.search(r"\repoch 2/3 +\d+%.* \d/7  loss [\d.]+  accuracy [\d.]+%  [\d,.]+/s  left", text)
    assert re.search(r"\rval +\d+%.* \d\d/97", text)
    assert [EPOCH_LINE.fullmatch(line) is not None for line in shown(text)][:3] == [True] * 3


def test_a_terminal_that_can_do_nothing_gets_lines(make_trainer: Any, batches: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("TERM", "dumb")
    stream = Terminal()
    make_trainer([Console(stream=stream)]).fit(*batches)
    assert "\r" not in stream.getvalue()


def shown(text: str) -> list[str]:
    """Return the lines that stay on a terminal: what follows the last carriage return of each."""
    return [line.rpartition("\r")[2].replace("\x1b[A", "") for line in text.split("\n")]


def test_an_evaluation_within_an_epoch_has_a_line_of_its_own(make_trainer: Any, batches: Any) -> None:
    stream = io.StringIO()
    make_trainer([Console(stream=stream)], eval_every="5 steps", epochs=1).fit(*batches)
    first, second, _ = stream.getvalue().splitlines()
    assert re.fullmatch(r"step 5  val +\d\.\d+ +\d+\.\d%", first)
    assert second.startswith("epoch 1/1")


def test_warnings_are_told_at_once_once_and_again_at_the_end(make_trainer: Any, batches: Any, tmp_path: Path) -> None:
    stream = io.StringIO()
    console = Console(tmp_path / "run.log", stream=stream)
    console.warn("before the run")

    class Warn:
        def on_settled(self, event: Settled) -> None:
            if event.step in (2, 4):
                event.trainer.warn("no room")
                assert stream.getvalue().endswith("dlwp: warning: no room\n")

    trainer = make_trainer([console, Warn()], epochs=1)
    trainer.fit(*batches)
    assert trainer.warnings == ["before the run", "no room", "no room"]
    console.repeat_warnings()
    text = stream.getvalue()
    assert text.count("dlwp: warning: no room") == 1
    assert text.endswith("warning  before the run\nwarning  no room (2 times)\n")
    log = (tmp_path / "run.log").read_text()
    assert re.search(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  warning: no room$", log, re.M)


def test_run_log_holds_every_line_with_its_time_and_is_set_aside_when_it_is_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LOG_BYTES", 100)
    console = Console(tmp_path / "run.log", stream=io.StringIO())
    for number in range(7):
        console.say(f"line {number}\nand")
    lines = [line for name in ("run.log.1", "run.log") for line in (tmp_path / name).read_text().splitlines()]
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  (line \d|and)$", line) for line in lines)
    assert [line[21:] for line in lines[-3:]] == ["and", "line 6", "and"]
    assert sum((tmp_path / name).stat().st_size for name in ("run.log", "run.log.1")) < 300


def test_an_error_goes_to_run_log_with_its_traceback(tmp_path: Path) -> None:
    stream = io.StringIO()
    console = Console(tmp_path / "run.log", stream=stream)
    try:
        raise KeyError("acc")
    except KeyError as error:
        console.log_error(error)
    assert "Traceback" in (tmp_path / "run.log").read_text()
    assert stream.getvalue() == ""


def test_a_closed_output_is_given_up_without_a_word(make_trainer: Any, batches: Any, tmp_path: Path) -> None:
    stream = io.StringIO()
    console = Console(tmp_path / "run.log", stream=stream)

    class Close:
        def on_step(self, event: StepEnded) -> None:
            stream.close()

    trainer = make_trainer([console, Close()])
    assert trainer.fit(*batches).exit == "done"
    assert trainer.warnings == []
    assert len((tmp_path / "run.log").read_text().splitlines()) == 4


def test_a_reader_that_leaves_early_ends_nothing(tmp_path: Path) -> None:
    program = """
        from pathlib import Path
        from dlwp.observers.console import Console
        console = Console(Path("run.log"))
        for number in range(20000):
            console.say(f"line {number}")
    """
    done = subprocess.run(
        ["bash", "-c", '"$0" -c "$1" | head -1; exit ${PIPESTATUS[0]}', sys.executable, textwrap.dedent(program)],
        capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "line 0\n", "")
    assert (tmp_path / "run.log").read_text().endswith("line 19999\n")


def test_a_log_that_cannot_be_written_is_told_once(tmp_path: Path) -> None:
    stream = io.StringIO()
    console = Console(tmp_path / "gone" / "run.log", stream=stream)
    console.say("one")
    console.say("two")
    assert stream.getvalue().splitlines()[::2] == ["one", "two"]
    assert stream.getvalue().count("dlwp: warning: cannot write to") == 1


def test_an_output_that_knows_no_middle_dot_gets_a_question_mark() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    Console(stream=stream).say("a · b")
    assert raw.getvalue() == b"a ? b\n"


def test_bars_are_seen_on_a_real_terminal() -> None:
    program = """
        from dlwp.observers.console import Console
        assert Console()._bars
    """
    parent, child = pty.openpty()
    environment = {**os.environ, "TERM": "xterm"}
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], stdout=child, env=environment, check=False)
    os.close(parent), os.close(child)
    assert done.returncode == 0


def test_what_is_said_in_a_process_that_is_not_to_be_heard_is_not_kept() -> None:
    stream = Nowhere()
    Console(progress=False, stream=stream).say("said")
    assert stream.getvalue() == ""
