"""Own what is compared: runs read, those that differ only in the seed as one setting, and one metric that all have.

Knows nothing of statistics, nor of how a comparison is shown.
"""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from dlwp.errors import ConfigError, did_you_mean
from dlwp.runs import files, folder, history, table
from dlwp.settings import GROUPS

FINISHED = ("done", "early_stopped", "max_time")
MACHINE = ("device", "data.root", "data.loader", "data.num_workers", "trainer.precision", "trainer.channels_last")
"""Keys that say where and how a run was computed, not what: they tell no settings apart."""

MOST_LINES = 10_000
"""Lines of metrics.jsonl that are kept of each run, more or less: a hundred long runs must fit in memory."""

_SMALLER_IS_BETTER = ("loss", "error", "mae", "mse", "rmse", "perplexity", "bits_per_token", "bits_per_character")
_LARGEST = 2**24


@dataclass(frozen=True)
class Trial:
    """One run that counts.

    Attributes:
        run: its folder. seed: a number, or the folder's name where there is none. value: of the metric.
        row: as `table.read_runs` gives it. records: the lines of metrics.jsonl. environment: of environment.json.
    """

    run: str
    seed: Any
    value: float
    row: Mapping[str, Any]
    records: Sequence[Mapping[str, Any]]
    environment: Mapping[str, Any]


@dataclass
class Setting:
    """The runs that differ only in the seed."""

    name: str
    keys: dict[str, str]
    trials: list[Trial] = field(default_factory=list)

    @property
    def values(self) -> dict[Any, float]:
        """Seed -> value."""
        return {trial.seed: trial.value for trial in self.trials}

    @property
    def mean(self) -> float:
        """The mean over the seeds."""
        return statistics.fmean(self.values.values())

    @property
    def deviation(self) -> float | None:
        """The standard deviation over the seeds, None of one."""
        return statistics.stdev(self.values.values()) if len(self.trials) > 1 else None


@dataclass
class Groups:
    """What is compared.

    Attributes:
        metric: such as "test/accuracy". higher: whether more of it is better.
        settings: two or more, the baseline first; or one, where all runs are of one setting.
        keys: that tell the settings apart. beside: what differs too and is of the machine or the code, key -> values.
        left_out: run -> why. notes: sentences on what was done. num_samples: of the metric's split, where it is known.
    """

    metric: str
    higher: bool
    settings: list[Setting]
    keys: list[str]
    beside: dict[str, list[str]]
    left_out: dict[str, str]
    notes: list[str]
    num_samples: int | None


def read(places: Sequence[Path], metric: str = "auto", mode: str = "auto", baseline: str | None = None) -> Groups:
    """Read runs and put together what belongs together.

    Args:
        places: run folders, and folders with runs at any depth.
        metric: SPLIT/NAME; auto: the monitored one, on test where all have it, else the best val.
        mode: whether more of it is better: max, min, or auto.
        baseline: the name of the setting that the others are held against, or a part of it; None: the first.

    Raises:
        ConfigError: no runs, none that is finished, or such as cannot be compared: other data, other metrics.
    """
    rows = _renamed(table.read_runs(places))
    rows = list({str(Path(row["run"]).resolve()): row for row in rows}.values())
    if not rows:
        raise ConfigError(f"no runs in '{places[0]}'. dlwp-compare RUN RUN..., or a folder of runs")
    left_out = {row["run"]: _why_not(row) for row in rows if _why_not(row)}
    rows = [row for row in rows if row["run"] not in left_out]
    if not rows:
        raise ConfigError(
            f"none of {len(left_out)} runs is finished", [f"{run}: {why}" for run, why in left_out.items()]
        )
    records = {row["run"]: _thinned(history.read(Path(row["run"]) / "metrics.jsonl")) for row in rows}
    found = _metric(rows, records, metric)
    values = {row["run"]: _value(row, records[row["run"]], found) for row in rows}
    left_out |= {run: f"has no {found}" for run, value in values.items() if value is None}
    trials = [
        Trial(
            row["run"], row["settings"].get("seed", Path(row["run"]).name), value, row, records[row["run"]], _read(row)
        )
        for row in rows
        if (value := values[row["run"]]) is not None
    ]
    _refuse_other_data(trials, found)
    keys = table.differing([dict(trial.row) for trial in trials])
    higher = _is_higher_better(trials, found, mode)
    settings, notes = _settings(trials, keys, [{str(run) for run in folder.find_runs(place)} for place in places])
    return Groups(
        metric=found,
        higher=higher,
        settings=_ordered(settings, baseline, higher),
        keys=keys,
        beside=_beside(trials, keys),
        left_out=left_out,
        notes=notes,
        num_samples=_num_samples(trials, found),
    )


def is_share(name: str) -> bool:
    """Return whether a metric is a share of 1 that is shown as percent, and its differences as points."""
    leaf = name.rpartition("/")[2]
    return leaf.endswith("accuracy") or leaf.startswith("top")


def _why_not(row: Mapping[str, Any]) -> str:
    """Return why a run does not count, "" where it does."""
    if not row["settings"]:
        return "its config.yaml cannot be read"
    if row["exit"] not in FINISHED:
        return f"{row['exit']}{': ' + str(row['error']) if row['error'] else ''}"
    return ""


def _renamed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Drop the option of a group where not all runs have one: of a replay it is not known, and its keys tell enough."""
    for group in GROUPS:
        if not all(group in row["settings"] for row in rows if row["settings"]):
            for row in rows:
                row["settings"].pop(group, None)
    return rows


def _read(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return what environment.json holds, {} where it cannot be read."""
    try:
        found = json.loads(files.read_regular(Path(row["run"]) / "environment.json", _LARGEST))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _thinned(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a run's lines, without most of training's where there are very many; those before an evaluation stay."""
    every = 1 + len(lines) // MOST_LINES
    ends = [*(line.get("split") != "train" for line in lines[1:]), True]
    return [
        line
        for number, (line, is_end) in enumerate(zip(lines, ends))
        if is_end or number % every == 0 or line.get("split") != "train"
    ]


# ---- the metric -----------------------------------------------------------------------------------------------------


def _metric(rows: Sequence[Mapping[str, Any]], records: Mapping[str, Sequence[Mapping[str, Any]]], wanted: str) -> str:
    """Return the metric to compare, SPLIT/NAME.

    Raises:
        ConfigError: no run has what is wanted, or the runs chose their best step by different metrics.
    """
    has = {row["run"]: _names(row, records[row["run"]]) for row in rows}
    all_have = sorted(set.intersection(*has.values()), key=lambda name: (not name.startswith("test/"), name))
    if wanted != "auto":
        known = sorted(set.union(*has.values()))
        if wanted not in known:
            there = ", ".join(known) or "none"
            raise ConfigError(
                f"metric={wanted} is in none of the runs.{did_you_mean(wanted, known)} There are: {there}"
            )
        return wanted
    monitors = Counter(str(row["monitor"]) for row in rows)
    if len(monitors) > 1:
        told = ", ".join(f"{name}: {_runs(count)}" for name, count in monitors.most_common())
        way = f"metric={all_have[0]} compares what all have" if all_have else "They have no metric in common"
        raise ConfigError(f"the runs are judged by different metrics ({told}), so they are not compared. {way}")
    monitor = next(iter(monitors))
    on_test = f"test/{monitor.partition('/')[2]}"
    if on_test in all_have or not all_have:
        return on_test
    return monitor if monitor in all_have else all_have[0]


def _names(row: Mapping[str, Any], records: Iterable[Mapping[str, Any]]) -> set[str]:
    """Return what was measured in a run, SPLIT/NAME."""
    beside = ("step", "epoch", "split", "time", "lr", "samples_per_s")
    found = {
        f"{record['split']}/{name}"
        for record in records
        if isinstance(record.get("split"), str)
        for name in record
        if name not in beside
    }
    found |= {f"test/{name}" for name in row["test"] if name != "step"}
    return found | ({row["monitor"]} if row["monitor"] else set())


def _value(row: Mapping[str, Any], records: Sequence[Mapping[str, Any]], metric: str) -> float | None:
    """Return a run's value: on test as it ended, else that of the best step; None where it is not a finite number."""
    split, _, name = metric.partition("/")
    if split == "test" and name in row["test"]:
        found = row["test"][name]
    elif metric == row["monitor"]:
        found = row["best"]
    else:
        steps, values = history.series([dict(record) for record in records], split, name)
        until = row["best_step"] if isinstance(row["best_step"], int) else math.inf
        before = [value for step, value in zip(steps, values) if step <= until] or values
        found = before[-1] if before else None
    is_number = isinstance(found, int | float) and not isinstance(found, bool) and math.isfinite(found)
    return float(found) if is_number else None


def _is_higher_better(trials: Sequence[Trial], metric: str, mode: str) -> bool:
    """Return whether more of a metric is better: as typed, as the runs were told, as they chose, or by its name."""
    name = metric.partition("/")[2]
    if mode != "auto":
        return mode == "max"
    for trial in trials:
        monitor = str(trial.row["monitor"])
        if monitor.partition("/")[2] != name:
            continue
        if trial.row["mode"] in ("min", "max"):
            return bool(trial.row["mode"] == "max")
        _, values = history.series([dict(one) for one in trial.records], *monitor.split("/", 1))
        if values and min(values) < max(values) and trial.row["best"] in (min(values), max(values)):
            return bool(trial.row["best"] == max(values))
    return not name.lower().endswith(_SMALLER_IS_BETTER)


# ---- the data -------------------------------------------------------------------------------------------------------


def _refuse_other_data(trials: Sequence[Trial], metric: str) -> None:
    """Refuse to compare what was measured on other samples.

    Raises:
        ConfigError: with what differs.
    """
    names = Counter(str(trial.row["settings"].get("data")) for trial in trials)
    split = metric.partition("/")[0]
    digests = [_data(trial).get(split, {}).get("digest") for trial in trials]
    if len(names) > 1 and not (None not in digests and len(set(digests)) == 1):
        told = ", ".join(f"{name}: {_runs(count)}" for name, count in names.most_common())
        raise ConfigError(f"the runs are of different data ({told}), so they are not compared. Name runs of one")
    for key in ("data.path", "data.test_path", "data.target"):
        given = Counter(str(trial.row["settings"].get(key)) for trial in trials)
        if len(given) > 1 and None in digests:
            told = ", ".join(f"{value}: {_runs(count)}" for value, count in given.most_common())
            raise ConfigError(f"the runs are of different data ({key}: {told}), so they are not compared")
    seen: dict[Any, tuple[str, str]] = {}
    for trial, digest in zip(trials, digests):
        if digest is not None:
            before = seen.setdefault(trial.seed, (digest, trial.run))
            if before[0] != digest:
                _refuse(split, before[1], trial.run)
    kinds = dict(seen.values())
    if 1 < len(kinds) < len(seen):  # a split that the seed cuts is another for each seed
        _refuse(split, *list(kinds.values())[:2])


def _refuse(split: str, *runs: str) -> NoReturn:
    raise ConfigError(f"{split} holds other samples in {runs[1]} than in {runs[0]}, so they are not compared")


def _data(trial: Trial) -> dict[str, Any]:
    found = trial.environment.get("data")
    return {k: v for k, v in found.items() if isinstance(v, dict)} if isinstance(found, dict) else {}


def _num_samples(trials: Sequence[Trial], metric: str) -> int | None:
    counts = {_data(trial).get(metric.partition("/")[0], {}).get("samples") for trial in trials}
    found = next(iter(counts)) if len(counts) == 1 else None
    return found if isinstance(found, int) and found > 0 else None


# ---- the settings ---------------------------------------------------------------------------------------------------


def _settings(
    trials: Sequence[Trial], keys: Sequence[str], places: Sequence[set[str]]
) -> tuple[list[Setting], list[str]]:
    """Return the trials by setting, the newest of each seed, and what to know of that.

    Where all are of one setting, the places that were named are what is compared, if each seed is in each of them, or
    each holds several runs.
    """
    notes = []
    if not keys and len(places) > 1 and _stand_apart(trials, places):
        names = _unique([_place_name(trials, place) for place in places])
        members = [[trial for trial in trials if trial.run in place] for place in places]
        settings = [Setting(name, {}, some) for name, some in zip(names, members) if some]
        notes.append("the configs are the same, so what is compared are the folders as they were named")
    else:
        found: dict[tuple[str, ...], Setting] = {}
        for trial in trials:
            texts = {key: text_of(trial.row["settings"].get(key)) for key in keys}
            found.setdefault(tuple(texts.values()), Setting("", texts)).trials.append(trial)
        settings = list(found.values())
        names = _names_of(settings, {key for trial in trials for key in trial.row["typed"]})
        for setting, name in zip(settings, names):
            setting.name = name
    for setting in settings:
        newest = {trial.seed: trial for trial in setting.trials}
        if (more := len(setting.trials) - len(newest)) > 0:
            notes.append(f"{setting.name}: {_runs(more)} of a seed that a newer one has too, not counted")
        setting.trials = sorted(newest.values(), key=lambda trial: (str(type(trial.seed)), trial.seed))
    return settings, notes


def _stand_apart(trials: Sequence[Trial], places: Sequence[set[str]]) -> bool:
    """Return whether folders of one setting are two sides of a comparison, not one side that lies in several."""
    seeds = Counter(trial.seed for trial in trials)
    held = [sum(trial.run in place for trial in trials) for place in places]
    return max(seeds.values()) > 1 or min(held) > 1


def _place_name(trials: Sequence[Trial], place: set[str]) -> str:
    runs = [Path(trial.run) for trial in trials if trial.run in place]
    if len(runs) == 1:
        return str(runs[0])
    return str(runs[0].parent) if runs else "?"


def _names_of(settings: Sequence[Setting], typed: Set[str]) -> list[str]:
    """Return a name for each setting: of the keys that were typed, where these tell them apart, else of all."""
    short = [label({key: value for key, value in setting.keys.items() if key in typed}) for setting in settings]
    return short if len(set(short)) == len(short) else _unique([label(setting.keys) for setting in settings])


def label(keys: Mapping[str, str]) -> str:
    """Return a setting's name: key=value, the key's last part where it stands for one key alone.

    >>> label({"model": "mlp", "optimizer.lr": "0.1"})
    'model=mlp lr=0.1'
    """
    leaves = Counter(key.rpartition(".")[2] for key in keys)
    shown = [(leaf if leaves[leaf := key.rpartition(".")[2]] == 1 else key, value) for key, value in keys.items()]
    return " ".join(f"{key}={value if len(value) <= 40 else value[:39] + '…'}" for key, value in shown) or "all runs"


def text_of(value: Any) -> str:
    """Return a value as it is typed."""
    if value is None:
        return "null"
    return json.dumps(value) if isinstance(value, bool | dict | list) else str(value)


def _unique(names: Sequence[str]) -> list[str]:
    counts, seen = Counter(names), Counter[str]()
    found = []
    for name in names:
        seen[name] += 1
        found.append(f"{name} ({seen[name]})" if counts[name] > 1 else name)
    return found


def _ordered(settings: list[Setting], baseline: str | None, higher: bool) -> list[Setting]:
    """Return the settings, the baseline first and then the best first.

    Raises:
        ConfigError: no setting, or several, have that name.
    """
    names = [setting.name for setting in settings]
    fitting = settings[:1]
    if baseline is not None:
        fitting = [one for one in settings if one.name == baseline] or [one for one in settings if baseline in one.name]
    if len(fitting) != 1:
        said = "fits several settings" if fitting else f"is no setting.{did_you_mean(str(baseline), names)}"
        raise ConfigError(f"baseline={baseline} {said}", [f"there are: {', '.join(names)}"])
    others = [setting for setting in settings if setting is not fitting[0]]
    return [fitting[0], *sorted(others, key=lambda setting: setting.mean, reverse=higher)]


def _beside(trials: Sequence[Trial], keys: Sequence[str]) -> dict[str, list[str]]:
    """Return what differs among the runs besides their settings: of the machine, the packages and the code."""
    found: dict[str, list[str]] = {}

    def note(name: str, values: Iterable[Any]) -> None:
        texts = list(dict.fromkeys(text_of(value) for value in values if value is not None))
        if len(texts) > 1:
            found[name] = texts

    for key in (key for key in MACHINE if key not in keys):
        note(key, [trial.row["settings"].get(key) for trial in trials])
    for name in ("processor", "device", "threads"):
        note(name, [trial.environment.get(name) for trial in trials])
    for name in ("dlwp", "torch"):
        packages = [trial.environment.get("packages") for trial in trials]
        note(name, [some.get(name) for some in packages if isinstance(some, dict)])
    git = [trial.environment.get("git") for trial in trials]
    note("git commit", [str(some.get("commit"))[:10] for some in git if isinstance(some, dict)])
    return found


def _runs(count: int) -> str:
    return f"{count:,} run{'' if count == 1 else 's'}"
