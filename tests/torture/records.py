"""Promise 12: after any number of kills the records hold every step once, in order, and can be read while written."""

from __future__ import annotations

import itertools
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torture import exact_resume, faults
from torture.commands import Command, outcome, records, timeless
from torture.kit import Broken, Promise, Scale, Trial, require, require_equal

_LOGGED = ("logger.tensorboard=true",)
_NAMES = {"learning_rate": "lr"}


def look(run: Path, clean: Path) -> None:
    """Hold a run's metrics.jsonl against the clean run's, and its TensorBoard against its metrics.jsonl."""
    _hold_order(run)
    _hold_to_clean(run, clean)
    require_equal(_tensorboard(run), _scalars(run), "TensorBoard")


def _hold_order(run: Path) -> None:
    data = (run / "metrics.jsonl").read_bytes()
    require(data.endswith(b"\n"), "metrics.jsonl ends within a line")
    order = {"train": 0, "val": 1, "test": 2}
    seen = [(record["step"], order[record["split"]]) for record in records(run / "metrics.jsonl")]
    for one, other in itertools.pairwise(seen):
        require(one < other, f"metrics.jsonl: {other} follows {one}")


def _hold_to_clean(run: Path, clean: Path) -> None:
    found, expected = ([timeless(line) for line in records(place / "metrics.jsonl")] for place in (run, clean))
    require_equal(found, expected, "metrics.jsonl")


def _scalars(run: Path) -> dict[str, list[list[Any]]]:
    """Return split/name -> [step, value]..., as TensorBoard's float32 would hold what metrics.jsonl holds."""
    import numpy

    found: dict[str, list[list[Any]]] = {}
    for record in records(run / "metrics.jsonl"):
        for name, value in record.items():
            if name not in ("step", "epoch", "split", "time"):
                found.setdefault(f"{record['split']}/{name}", []).append([record["step"], float(numpy.float32(value))])
    return dict(sorted(found.items()))


def _tensorboard(run: Path) -> dict[str, list[list[Any]]]:
    import logging

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    found = {}
    for split in ("train", "val", "test"):
        folder = run / "tensorboard" / split
        if not folder.exists():
            continue
        reader = EventAccumulator(str(folder), size_guidance={"scalars": 0})
        reader.Reload()
        for tag in reader.Tags()["scalars"]:
            found[f"{split}/{_NAMES.get(tag, tag)}"] = [[event.step, event.value] for event in reader.Scalars(tag)]
    return dict(sorted(found.items()))


# ---- read while written ----------------------------------------------------------------------------------------------


def polled(variant: str, points: list[str], polls: int) -> Trial:
    """Return the try of runs that are read at least `polls` times while they train, are killed and are resumed."""

    def do(folder: Path) -> int:
        expected = outcome(exact_resume.clean(variant))
        done = number = 0
        while done < polls:
            place = folder / str(number)
            place.mkdir()
            faults.write_kill_at(place)
            typed = exact_resume.words(variant, *_LOGGED)
            before = done
            for point in [*points, ""]:
                options = exact_resume.killing(point, expected) if point else {}
                command = Command(*typed, folder=place, **options)
                while command.poll() is None:
                    done += _read(place / "run")
                require(command.finish() == (-signal.SIGKILL if point else 0), command.output)
                typed = ("resume=run",)
            require(done > before, "nothing was there to be read")
            look(place / "run", exact_resume.clean(variant))
            number += 1
        return done

    return Trial(f"{variant}: read {polls:,} times while written", do, 900.0)


def _read(run: Path) -> int:
    """Read what a reader may read at any time; each complete line, and the whole summary, must be sound JSON.

    Returns:
        1 if there was a line and a summary to read, else 0.
    """
    read = 0
    for name in ("metrics.jsonl", "summary.json"):
        try:
            data = (run / name).read_bytes()
        except FileNotFoundError:
            continue
        lines = data[: data.rfind(b"\n") + 1].splitlines() if name == "metrics.jsonl" else [data]
        read += bool(lines)
        try:
            for line in lines:
                json.loads(line)
        except ValueError as error:
            raise Broken(f"a reader met a broken {name}: {error}: {data[-200:]!r}") from error
    return int(read == 2)


# ---- what is tried, and the negative controls ------------------------------------------------------------------------


def _trials(scale: Scale) -> list[Trial]:
    options: dict[str, Any] = {"further": _LOGGED, "look": look}
    if scale.is_fast:
        points = ["step 1", "evaluation FIRST", "step 10", "test LAST"]
        return [
            exact_resume.killed_at("memory, onecycle", points, **options),
            polled("2 workers", ["step 10"], 50),
        ]
    return [
        polled("memory, onecycle", ["step 10", "evaluation LAST"], scale.count(0, 2_000, 100_000)),
        *exact_resume.aimed(scale, scale.count(0, 10, 40), **options),
        *exact_resume.chains(scale, scale.count(0, 10, 200), **options),
    ]


def _in_two_writes() -> None:
    import time

    from dlwp.runs import files

    def append_line(path: Path, text: str, **options: Any) -> int:
        data = text.encode() + b"\n"
        for part in (data[:-20] + b"\n", data[-20:]):
            with path.open("ab") as stream:
                stream.write(part)
            time.sleep(0.005)
        return path.stat().st_size

    files.append_line = append_line


def _without_the_cut() -> None:
    from dlwp.runs import files

    files.cut = lambda path, offset, kept: None


def _without_purging() -> None:
    from dlwp.observers.tensorboard import EventFile

    add = EventFile.add

    def add_all_but_marks(self: EventFile, step: int, **event: Any) -> None:
        if "session_log" not in event:
            add(self, step, **event)

    EventFile.add = add_all_but_marks  # type: ignore[method-assign]


def _resumed_with(patch: Callable[[], None]) -> Trial:
    def do(folder: Path) -> None:
        expected = outcome(exact_resume.clean("memory, onecycle"))
        faults.write_kill_at(folder)
        typed = exact_resume.words("memory, onecycle", *_LOGGED)
        Command(*typed, **exact_resume.killing("evaluation LAST", expected)).finish()
        command = Command("resume=run", before=patch)
        if command.finish() != 0:
            raise RuntimeError(f"the control itself fails: {command.output}")
        look(folder / "run", exact_resume.clean("memory, onecycle"))

    return Trial(f"resumed, {patch.__name__.strip('_').replace('_', ' ')}", do)


def _read_in_two_writes(folder: Path) -> None:
    faults.write_kill_at(folder)
    command = Command(*exact_resume.words("memory, onecycle"), before=_in_two_writes)
    while command.poll() is None:
        _read(folder / "run")


def _controls(scale: Scale) -> list[Trial]:
    return [
        _resumed_with(_without_the_cut),
        _resumed_with(_without_purging),
        Trial("lines written in two parts", _read_in_two_writes),
    ]


PROMISES = [Promise(12, "records", "Records are neither lost nor repeated, and can be read at any time.",
                    _trials, _controls)]  # fmt: skip
