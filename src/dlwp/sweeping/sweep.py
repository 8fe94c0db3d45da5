"""Own a sweep from its words to its table: the folder, what is checked before, its end, and going on with one.

Knows nothing of Hydra's entry: it is given a function that hands words to it.
"""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlwp import settings
from dlwp.config import check, compose, schema
from dlwp.errors import ConfigError, RunError, nearest
from dlwp.runs import files, locks, table
from dlwp.sweeping import jobs, space

if TYPE_CHECKING:
    from dlwp.config.compose import Config, Place

FREE = ("jobs", "hydra.sweeper.n_trials", "hydra.sweeper.timeout", "hydra.launcher")
"""Keys that a sweep may change when it goes on, each with what is below it."""

_SWEEPS = Path("outputs") / "sweeps"
_OURS = ("jobs", "sweep_resume")
_LOCK = ".lock"

Call = Callable[[list[str], list[str], Callable[[], None]], int]
"""Takes the words that do not vary here, words before them, and what explains a fault in them; returns a status."""


def named(words: list[str]) -> Path | None:
    """Return the folder that `sweep_resume=` names, None where it is not typed.

    Raises:
        ConfigError: it is no sweep's.
    """
    typed = [word.partition("=")[2].strip("'\"") for word in words if check.split(word)[1] == "sweep_resume"]
    if not typed or typed[-1] in ("", "null"):
        return None
    folder = Path(typed[-1]).expanduser()
    if not (folder / jobs.PLAN).is_file():
        there = sorted(str(path.parent) for path in _SWEEPS.glob(f"*/{jobs.PLAN}"))
        hint = f" Did you mean '{(nearest(str(folder), there, 1) or there[-1:])[0]}'?" if there else ""
        raise ConfigError(f"'{folder}' is no sweep: it has no {jobs.PLAN}.{hint}")
    return folder


def taken_up(
    folder: Path, words: list[str], config_dir: Path | None, config_name: str
) -> tuple[list[str], Path | None, str]:
    """Return the words of a sweep that goes on, with its config folder and name.

    Raises:
        ConfigError: a word typed now differs from its own, and may not.
    """
    plan = jobs.read_plan(folder)
    typed: list[str] = plan["typed"]
    free = [word for word in words if settings.is_within(check.split(word)[1], FREE)]
    for word in words:
        if word not in free and word not in typed and check.split(word)[1] != "sweep_resume":
            raise ConfigError(
                f"'{word}' is not of the sweep in '{folder}', which goes on with its own words. "
                f"Leave it out (may change: {', '.join(FREE)}), or start anew without sweep_resume="
            )
    own_dir = Path(plan["config_dir"]) if plan.get("config_dir") else None
    own_name = plan.get("config_name", "train")
    if (config_dir is not None and config_dir.resolve() != own_dir) or config_name not in ("train", own_name):
        raise ConfigError(f"the sweep in '{folder}' has its own config folder and name. Leave out --config-dir and -cn")
    changed = {check.split(word)[1] for word in free}
    kept = [word for word in typed if check.split(word)[1] not in changed]
    if plan.get("jobs") is not None and "jobs" not in changed:
        free.append(f"jobs={plan['jobs']}")  # another number of threads would change the last digits
    return [*kept, *free], own_dir, own_name


def run(
    typed: list[str], names: tuple[Path | None, str], composed: tuple[Config, Mapping[str, Any]], resumed: Path | None,
    call: Call,
) -> int:  # fmt: skip
    """Run every job of a sweep that is not done, one folder each; print the table at the end, whatever happens.

    Args:
        typed: the words. names: the user's config folder, and the config to begin with.
        composed: of the words that do not vary, and Hydra's own part of it.
        resumed: the folder of the sweep to go on with.
        call: hands words to Hydra.

    Returns:
        The status: 0, that of the jobs where all failed alike, else 5.
    """
    config, own = composed
    words = [word for word in typed if check.split(word)[1] not in _OURS]
    place = compose.locate(words, config_dir=names[0], config_name=names[1])
    if place.resume is not None:
        raise ConfigError("resume= goes on with one run; leave out -m")
    is_search = own["sweeper"].get("_target_") == settings.SearchSettings._target_
    plan, total = (_plan_search if is_search else _plan)(place, config, own)
    before = _launching(place, config, is_search)
    folder = resumed or _make_folder(words)
    lock = None if is_search else locks.Lock.take(folder / _LOCK)
    if lock is None and not is_search:
        raise ConfigError(f"the sweep in '{folder}' is running on {locks.holder(folder / _LOCK)}")
    plan |= {"typed": words, "jobs": config.values["jobs"]}
    plan |= {"config_dir": str(names[0].resolve()) if names[0] else None, "config_name": names[1]}
    files.write_atomic(folder / jobs.PLAN, json.dumps(plan) + "\n")
    print(f"sweep    {folder}{_facts(folder, total, config, bool(before), resumed)}", flush=True)
    try:
        parsed = check.parse(words, place.catalog, sweep=True)
        handed = [word.text for word in parsed if not (is_search and word.several)]
        status = call(handed, [f"hydra.sweep.dir='{folder}'", *before], lambda: compose.check_choices(place))
    except Exception as error:  # any error: of submitit's those that say of a job that it is gone without a result
        if not type(error).__module__.startswith("submitit."):
            raise
        raise RunError(
            f"a job of the queue ended without a word (killed, or out of time): {folder}/.submitit/*/*_log.err. "
            f"The others go on; once they are done: dlwp-runs {folder}"
        ) from error
    finally:
        _show(folder, is_search)
        if lock is not None:
            lock.release()
    return status if status == 143 else _outcome(folder, is_search)


def _plan(place: Place, config: Config, own: Mapping[str, Any]) -> tuple[dict[str, Any], int | None]:
    """Return what sweep.json says of a sweep over all combinations, and the number of its jobs where it is known."""
    for word in check.parse(place.words, place.catalog, sweep=True):
        if word.several and re.search(r"\binterval\(", word.written):
            raise ConfigError(f"'{word.text}' has no list of values; a search draws from it: add hydra/sweeper=optuna")
    varying, total = compose.check_sweep(place)
    by_config = [str(key) for key in own["sweeper"].get("params") or {}]  # of an experiment
    if not varying + by_config:
        raise ConfigError("-m but nothing varies; e.g. seed=1,2,3")
    return {"varying": varying + by_config}, None if by_config else total


def _plan_search(place: Place, config: Config, own: Mapping[str, Any]) -> tuple[dict[str, Any], int | None]:
    """Return what sweep.json says of a search, and the number of its trials."""
    from dlwp.sweeping import search

    found = schema.search_settings(own["sweeper"])
    search.require(found.sampler)
    by_config = [f"{key}={value}" for key, value in (own["sweeper"].get("params") or {}).items()]
    typed = check.parse(place.words, place.catalog, sweep=True)
    keys = {word.key for word in typed}
    listed = [word for word in by_config if word.partition("=")[0] not in keys]
    several = [word for word in [*typed, *check.parse(listed, place.catalog, sweep=True)] if word.several]
    if not several:
        raise ConfigError("hydra/sweeper=optuna but nothing varies; e.g. 'optimizer.lr=tag(log,interval(1e-4,1))'")
    dimensions = [space.read(word) for word in several]
    compose.check_sweep(place, [one.ends() for one in dimensions])
    monitor, mode = _goal(config)
    total = found.n_trials
    if found.sampler == "grid":  # and the default
        total = min(total, 1 + math.prod(len(one.listed()) for one in dimensions))
    keys_of_search = {key: value for key, value in asdict(found).items() if key not in ("params", "_target_")}
    fixed = [compose.for_hydra(word.text) for word in typed if not word.several and not word.is_hydra]
    plan = {"settings": keys_of_search, "space": [one.as_json() for one in dimensions], "fixed": fixed}
    return {"varying": [one.key for one in dimensions], "search": plan | {"monitor": monitor, "mode": mode}}, total


def _goal(config: Config) -> tuple[str, str]:
    """Return the metric that the runs are judged by, and whether its "max" or "min" is wanted.

    It is what `dlwp.metrics.monitored` says of the metrics themselves; a run that says otherwise is refused.
    """
    from dlwp.parts import locate

    trainer = config.values["trainer"]
    sections = config.values.get("metrics") or {}
    name = next(iter(sections), "loss") if trainer["monitor"] == "auto" else trainer["monitor"].removeprefix("val/")
    if trainer["monitor"] == "auto" and "only" in (sections.get(name) or {}):
        there = ", ".join(f"trainer.monitor=val/{one}" for one in sections)
        raise ConfigError(f"a search needs to know before the data is read what is wanted. One of: {there}")
    mode = trainer["monitor_mode"]
    if mode == "auto":
        target = (sections.get(name) or {}).get("_target_")
        higher = target is not None and getattr(locate(target, f"metrics.{name}"), "higher_is_better", False)
        mode = "max" if higher else "min"
    return f"val/{name}", mode


def _launching(place: Place, config: Config, is_search: bool) -> list[str]:
    """Return the words that let several jobs run at once."""
    count, typed = config.values["jobs"], any(check.split(word)[1] == "hydra/launcher" for word in place.words)
    if typed and count is not None and not is_search:
        raise ConfigError(f"jobs={count} is for processes of this machine, hydra/launcher= for others. Leave out one")
    if typed or count in (None, 1):
        return []
    cards = str(_deals_cards(config)).lower()
    return ["hydra/launcher=processes", f"hydra.launcher.jobs={count}", f"hydra.launcher.cards={cards}"]


def _deals_cards(config: Config) -> bool:
    return str(config.values["device"]) in ("auto", "cuda")


def _facts(folder: Path, total: int | None, config: Config, is_pool: bool, resumed: Path | None) -> str:
    """Return what the first line says behind the folder."""
    plan = jobs.read_plan(folder)
    facts = [f"{total} jobs"] if total else []
    if "search" in plan:
        chosen = plan["search"]["settings"]
        facts = [f"{total} trials by {chosen['sampler']}"]
        facts += [f"pruned by {chosen['pruner']}"] if chosen["pruner"] != "none" else []
    if resumed is not None:
        begun = {line["number"]: jobs.recorded(folder, line) for line in jobs.records(folder)}
        done = sum(job.is_finished for job in begun.values())
        facts.append(f"{done} are done")
    if is_pool:
        from dlwp.sweeping import pool

        count = config.values["jobs"]
        threads, cards = pool.share(count, _deals_cards(config))
        facts.append(f"{count} at once, {threads} thread{'s' * (threads > 1)} each")
        facts += [f"{len(cards)} cards dealt"] if cards else []
    return "".join(f" · {fact}" for fact in facts)


def _make_folder(words: list[str]) -> Path:
    """Make the sweep's folder: run_dir where it is given, else outputs/sweeps/<date>_<time>."""
    given = [word.partition("=")[2].strip("'\"") for word in words if re.match(r"\+{0,2}run_dir=", word)]
    if given:
        path = Path(given[-1]).expanduser()
        if path.is_dir() and any(path.iterdir()):
            go_on = f"sweep_resume={path}, or another" if (path / jobs.PLAN).is_file() else "Another"
            raise ConfigError(f"'{path}' exists and is not empty. {go_on} run_dir=")
        path.mkdir(parents=True, exist_ok=True)
        return path
    base = _SWEEPS / f"{datetime.now():%Y-%m-%d_%H-%M-%S}"
    base.parent.mkdir(parents=True, exist_ok=True)
    for number in range(1, 10_000):
        path = base if number == 1 else base.with_name(f"{base.name}-{number}")
        try:
            files.make_folder(path)
        except FileExistsError:
            continue
        return path
    raise ConfigError(f"too many sweeps named '{base}'")


def _show(folder: Path, is_search: bool) -> None:
    """Print the table of a sweep that has ended, or was ended, and write it into its folder."""
    rows = table.read_runs([folder])
    if rows:
        table.write(folder, rows)
        print(f"\n{table.render(rows)}\n\ntable    {folder / 'table.md'}, {folder / 'table.csv'}", flush=True)
    if is_search:
        from dlwp.sweeping import result

        print(*result.lines(folder), sep="\n", flush=True)
    ends = jobs.ends(folder)
    numbers = {line["number"] for line in jobs.records(folder)}
    cut = [number for number in numbers if ends.get(number, {}).get("exit_code", 130) in (130, 143)]
    if cut or (isinstance(sys.exc_info()[1], KeyboardInterrupt) and numbers):
        print(f"go on    dlwp-train -m sweep_resume={shlex.quote(os.fspath(folder))}", flush=True)


def _outcome(folder: Path, is_search: bool) -> int:
    """Say which jobs failed, and return the status of the sweep: theirs where all failed alike."""
    ends = jobs.ends(folder)
    failed = [line for _, line in sorted(ends.items()) if line["exit_code"]]
    if not failed:
        return 0
    named = {one["number"]: jobs.shortened(one["name"]) for one in failed}
    said = [
        f"#{one['number']} {named[one['number']]} (exit {one['exit_code']}: {one['error']}, {_log(one)})"
        for one in failed
    ]
    what = "trials" if is_search else "jobs"
    print(f"dlwp: error: {len(failed)} of {len(ends)} {what} failed: {said[0]}", file=sys.stderr)
    for line in said[1:]:
        print(f"    {line}", file=sys.stderr)
    if is_search and len(failed) < len(ends):
        return 0  # values at which training fails are an answer too
    statuses = {one["exit_code"] for one in ends.values()}
    return int(statuses.pop()) if len(statuses) == 1 else 5


def _log(job: dict[str, Any]) -> str:
    log = Path(job["folder"]) / "run.log"
    return str(log if log.is_file() else Path(job["folder"]))
