"""Own when a person is told what of a run: the summary before it, and what stands at its end.

Knows nothing of how the words are found: `report` and its siblings have them. Torch is imported inside the functions.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from dlwp import resuming
from dlwp.config import check
from dlwp.runs import environment
from dlwp.runs.folder import RunFolder

if TYPE_CHECKING:
    from dlwp.build import Parts
    from dlwp.config.compose import Config
    from dlwp.observers.console import Console
    from dlwp.training.trainer import Trainer


def summary(run: RunFolder, config: Config, parts: Parts, console: Console, others: environment.OtherWork) -> None:
    """Say what a run is about to do, after a few samples have gone through it."""
    from dlwp import report
    from dlwp.rehearsal import rehearse

    rehearsal = rehearse(parts)
    values = config.values
    lines = {
        "run": [str(run.path)],
        "machine": [report.machine_line(parts), *report.crowding_lines(parts, others.busy())],
        "data": report.data_lines(parts, name_of(config, "data"), values["data"]),
        "model": report.model_lines(parts, name_of(config, "model"), values["model"], rehearsal),
        "train": report.train_lines(parts, values, config.choices),
    }
    console.say_table(lines)


def dry_run(config: Config, build: Callable[[Config], Parts]) -> Path:
    """Say all that a run would say before it trains, take one batch, and forecast time, memory and disk.

    Args:
        config: as it would be trained. build: makes its parts.

    Returns:
        Where the run would be.
    """
    from dlwp.forecast import forecast_lines
    from dlwp.observers.console import Console

    console, others = Console(None, progress=config.values["trainer"]["progress"]), environment.OtherWork()
    parts = build(config)
    nowhere = RunFolder(Path(config.values.get("run_dir") or "(none: dry run)"))
    summary(nowhere, config, parts, console, others)
    for warning in (*config.warnings, *parts.warnings):
        console.warn(warning)
    console.say_table({"forecast": forecast_lines(parts)})
    if parts.data.guesses is not None:
        console.say_table({"schema": [parts.data.guesses.write()]})
    return nowhere.path


def end(run: RunFolder, trainer: Trainer, console: Console, config: Config, exit: str) -> None:
    """Say where the time of a run went, what one would type next, and its warnings again."""
    from dlwp import report, timing

    progress = trainer.state.progress
    if hasattr(trainer.model, "python") and exit == "done":
        console.say_table({"next": report.formula_lines(run.path)})
        console.repeat_warnings()
        return
    further = resuming.longer(config.values["trainer"], exit, progress.step, max(progress.epoch, 1))
    resume = resuming.command(run.path, config.trusted, further)
    following = report.next_lines(run.path, resume, watched=config.values["logger"]["tensorboard"])
    console.say_table({"time": timing.lines(trainer), "next": following})
    console.repeat_warnings()


def name_of(config: Config, group: str) -> str:
    """Return the group's chosen option, else the name of the class."""
    target = str((config.values.get(group) or {}).get("_target_", group))
    is_typed = any(check.split(word)[1] == f"{group}._target_" for word in config.typed)
    return (not is_typed and config.choices.get(group)) or target.rpartition(".")[2]
