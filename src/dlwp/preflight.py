"""Own `check=true`: everything that can be found out before a long run is looked for, and told together.

Knows nothing of how a sample is looked at (`data.survey`), parts are rehearsed or a run is forecast. Torch is imported
inside the functions.
"""

from __future__ import annotations

import copy
import dataclasses
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlwp import frames
from dlwp.errors import DataError, DlwpError, NonFiniteError
from dlwp.runs import environment
from dlwp.runs.folder import RunFolder

if TYPE_CHECKING:
    from dlwp.build import Parts
    from dlwp.config.compose import Config
    from dlwp.data.datasets import Splits
    from dlwp.data.survey import Seen
    from dlwp.observers.console import Console
    from dlwp.settings import DataKeys

_SHOWN = 5
_BUDGET_S = 8.0
_TOLD_HERE = re.compile(r"stand in more than one split|has no picture of|are also in train")
"""Warnings of data sets about what is found here too, in more of them."""
_GROUPS = (
    "unreadable", "fails", "labels", "classes", "duplicates", "alike", "columns", "not finite", "shapes", "fit",
    "memory", "disk", "data",
)  # fmt: skip


@dataclass
class Finding:
    """One thing that is wrong (`is_error`) or doubtful; `details` are further lines."""

    group: str
    text: str
    is_error: bool = True
    details: Sequence[str] = ()


def check(config: Config, build: Callable[[Config], Parts]) -> str:
    """Look at all data and take all parts for a trial; print the findings, one line each.

    Args:
        config: as it would be trained. build: makes its parts.

    Returns:
        "checked", or "faults" where something is an error: the `exit` of a run.
    """
    from dlwp.observers.console import Console

    console, others = Console(None, progress=config.values["trainer"]["progress"]), environment.OtherWork()
    findings = _of_data(config, console)
    findings += _of_parts(config, build, console, others, findings)
    findings.sort(key=lambda one: (_GROUPS.index(one.group), not one.is_error))
    for one in findings:
        console.say(f"{'error' if one.is_error else 'warning':<9}{one.group}: {one.text}")
        for line in one.details:
            console.say(f"             {line}")
    errors = sum(one.is_error for one in findings)
    if not findings:
        console.say("check    nothing found")
    else:
        console.say(f"check    {_count(errors, 'error')}, {_count(len(findings) - errors, 'warning')}")
    return "faults" if errors else "checked"


# ---- the data -------------------------------------------------------------------------------------------------------


def _of_data(config: Config, console: Console) -> list[Finding]:
    """Return what is found by looking at every sample of every split."""
    try:
        data, keys, found = _read(config)
    except DlwpError as error:
        return [Finding("data", error.message, details=error.details)]
    from tqdm import tqdm

    from dlwp.data import survey
    from dlwp.data.streaming import default_workers

    workers = default_workers()[0] if keys.num_workers == "auto" else int(keys.num_workers)
    total = sum(map(survey.number_of, data.present().values()))
    seen = {}
    with tqdm(total=total, desc="looking", unit=" samples", leave=False, disable=None) as bar:
        for name, dataset in data.present().items():
            seen[name] = survey.look(dataset, seed=config.values["seed"], num_workers=workers, bar=bar)
    counts = " · ".join(f"{name} {one.count:,}" for name, one in seen.items())
    console.say(f"looked   at every sample: {counts}")
    found += _of_samples(seen, keys)
    found += _of_labels(seen, data, keys)
    found += _of_twins(seen)
    found += _of_columns(seen["train"], data)
    found += [Finding("data", text, False) for text in data.warnings if not _TOLD_HERE.search(text)]
    return found


def _read(config: Config) -> tuple[Splits, DataKeys, list[Finding]]:
    """Return the data, read so leniently that one fault does not hide another, and the faults met already.

    Raises:
        DlwpError: there is no such data.
    """
    from dlwp.build import Builder
    from dlwp.parts import Trust

    typed = [word.lstrip("+~").partition("=")[0] for word in config.typed]
    values = copy.deepcopy(config.values)
    values["data"]["loader"] = "workers"  # files are opened one by one here

    def read() -> tuple[Splits, DataKeys]:
        return Builder(values, Trust(not config.foreign, config.trusted), typed).read_data()

    try:
        return *read(), []
    except DataError as error:
        if values["data"].get("on_nan") != "error" or "on_nan" not in error.message:
            raise
        values["data"]["on_nan"] = "drop"
        return *read(), [Finding("not finite", error.message)]


def _of_samples(seen: dict[str, Seen], keys: DataKeys) -> Iterator[Finding]:
    from dlwp.data import survey

    for name, one in seen.items():
        files = [fault for fault in one.faults if not fault[3]]
        if files:
            text = f"{name}: {_count(len(files), 'sample')} of {one.count:,} cannot be read"
            yield Finding(
                "unreadable", text, keys.on_error != "skip", [f"{at} ({where}): {why}" for at, where, why, _ in files]
            )
        by_place: dict[str, list[Any]] = {}
        for fault in one.faults:
            if fault[3]:
                by_place.setdefault(fault[3], []).append(fault)
        for place, faults in by_place.items():
            text = f"{name}: your code fails at {place} for {_count(len(faults), 'sample')}: {faults[0][2]}"
            yield Finding("fails", f"{text}; {_some([str(fault[0]) for fault in faults])}", keys.on_error != "skip")
        usual, odd = survey.odd_shapes(one)
        for shape, indices in odd if keys.collate is None else ():
            samples = _some([one.named(index) for index in indices])
            yield Finding(
                "shapes", f"{name}: {_count(len(indices), 'input')} of {shape} where most are {usual}: {samples}"
            )
        for what, indices in (("input", one.wrong_inputs), ("target", one.wrong_targets)):
            if indices:
                samples = _some([one.named(index) for index in indices])
                text = f"{name}: {_count(len(indices), what)} of {one.count:,} with NaN or infinities: {samples}"
                yield Finding("not finite", text)


def _of_labels(seen: dict[str, Seen], data: Splits, keys: DataKeys) -> Iterator[Finding]:
    from dlwp.data import survey
    from dlwp.data.facts import names_of_classes

    task = data.facts.task if keys.task == "auto" else keys.task
    if task not in ("other", "classification", "segmentation"):
        return
    names = keys.classes if isinstance(keys.classes, list) else data.facts.classes or names_of_classes(data.train)
    number = keys.classes if isinstance(keys.classes, int) else len(names) if names else data.facts.num_classes
    largest = max((bounds[1] for one in seen.values() for bounds in one.bounds.values()), default=-1)
    number = largest + 1 if number is None else number
    for name, one in seen.items():
        wrong = survey.out_of_range(one, number, skips_negative=task == "segmentation")
        if wrong:
            shown = _some([f"{one.bounds[index][one.bounds[index][0] >= 0]} at {one.named(index)}" for index in wrong])
            text = f"{name}: {_count(len(wrong), 'sample')} with labels outside of 0 to {number - 1}: {shown}"
            yield Finding("labels", text)
        lacking = [at for at in range(number) if not one.counts[at]] if one.counts else []
        if lacking:
            shown = _some([str(names[at]) if names else str(at) for at in lacking])
            yield Finding("classes", f"{name} has no sample of {len(lacking)} of {number} classes: {shown}", False)


def _of_twins(seen: dict[str, Seen]) -> Iterator[Finding]:
    from dlwp.data import survey

    splits = list(seen.items())
    for at, (name, one) in enumerate(splits):
        for other_name, other in splits[at + 1 :]:
            same = survey.same(one, other)
            close = survey.alike(one, other, same)
            for group, pairs, what in (
                ("duplicates", same, f"are also in {name}, bit for bit"),
                ("alike", close, f"look like one of {name} (difference hash, at most {survey.MOST_BITS} of 64 bits)"),
            ):
                if pairs:
                    shown = _some([f"{other.named(second)} = {one.named(first)}" for first, second in pairs])
                    verb = what if len(pairs) > 1 else what.replace("are", "is", 1).replace("look", "looks", 1)
                    text = f"{other_name}: {_count(len(pairs), 'sample')} of {other.count:,} {verb}: {shown}"
                    yield Finding(group, text, False)


def _of_columns(train: Seen, data: Splits) -> Iterator[Finding]:
    from dlwp.data import survey

    names = data.facts.inputs
    constant = [names[at] if names and at < len(names) else str(at) for at in survey.constant_columns(train)]
    empty = []
    for name, why in getattr(data.guesses, "reasons", {}).items():
        if why.startswith("always "):
            constant.append(f"{name} ({why})")
        elif why == "empty":
            empty.append(name)
    if constant:
        text = f"{_count(len(constant), 'column')} of the inputs the same in every sample of train: {_some(constant)}"
        yield Finding("columns", text, False)
    if empty:
        yield Finding("columns", f"{_count(len(empty), 'column')} without any value: {_some(empty)}", False)
    inputs = getattr(data.train, "inputs", None)
    for at, name in enumerate(names or ()):
        if name.endswith(".missing") and inputs is not None and (share := float(inputs[:, at].float().mean())) >= 0.5:
            column = name.removesuffix(".missing")
            yield Finding("columns", f"'{column}' has no value in {share:.0%} of the rows of train", False)


# ---- the parts ------------------------------------------------------------------------------------------------------


def _of_parts(
    config: Config, build: Callable[[Config], Parts], console: Console, others: environment.OtherWork,
    known: Sequence[Finding],
) -> list[Finding]:  # fmt: skip
    """Build, rehearse and forecast; an error that is told of the data already is not told again."""
    from dlwp import telling

    groups = {one.group for one in known if one.is_error}
    values = copy.deepcopy(config.values)
    if "unreadable" in groups:
        values["data"]["on_error"] = "skip"
    if "not finite" in groups and "on_nan" in values["data"]:
        values["data"]["on_nan"] = "drop"
    lenient = dataclasses.replace(config, values=values)
    nowhere = RunFolder(Path(config.values.get("run_dir") or "(none: check)"))
    began = time.perf_counter()
    try:
        parts = build(lenient)
        telling.summary(nowhere, lenient, parts, console, others)
        found = [Finding("fit", text, False) for text in config.warnings]
        found += [Finding("fit", text, False) for text in parts.warnings if text not in parts.data.warnings]
        return found + _of_trial(lenient, parts, console, began)
    except DlwpError as error:
        console.say_table({"forecast": [f"none: {_first_words(error.message)}"]})
        if (isinstance(error, DataError) and groups) or (isinstance(error, NonFiniteError) and "not finite" in groups):
            return []  # told above, with all its samples
        return [Finding("fit", error.message, details=error.details)]
    except Exception as error:  # any error: of the user's own code, told with all else
        from dlwp.data.facts import one_line

        console.say_table({"forecast": [f"none: {_first_words(one_line(error))}"]})
        if "fails" in groups:
            return []
        if not (place := frames.place(error)):
            raise
        return [Finding("fails", f"your code fails at {place}: {one_line(error)}")]


def _of_trial(config: Config, parts: Parts, console: Console, began: float) -> list[Finding]:
    from dlwp.audience import hearers
    from dlwp.fitting.least_squares import LeastSquares
    from dlwp.forecast import disk_warnings, forecast
    from dlwp.observers.console import Console as Silent

    if isinstance(parts.optimizer, LeastSquares):
        console.say_table({"forecast": ["none: how many steps a fit takes is not known before"]})
        return []
    parts.settings = dataclasses.replace(parts.settings, patience=None, max_time=None, profile=False)
    config = dataclasses.replace(config, values={**config.values, "callbacks": {}})  # they may write where they like
    with tempfile.TemporaryDirectory(prefix="dlwp-check-") as place, Path(place, "said").open("w") as nobody:
        run = RunFolder.create(Path(place) / "run")
        try:
            silent = Silent(run.log, progress=False, stream=nobody)
            heard = hearers(run, config, parts, silent, object(), "")
            start_s = time.perf_counter() - began
            told = forecast(parts, heard, _BUDGET_S)
            told.seconds += start_s
        finally:
            run.close()
    console.say_table(
        {"forecast": [*told.lines(), "callbacks and the start of the command (its imports) are not counted"]}
    )
    found = [Finding("disk", text) for text in disk_warnings(parts, _existing(config.values.get("run_dir")))]
    return found + [Finding("memory", text, False) for text in told.warnings()]


def _first_words(text: str) -> str:
    """Return the first sentence of what went wrong."""
    return re.split(r"\. |: ", text)[0][:120] if len(text) > 120 else text


def _existing(run_dir: str | None) -> Path:
    """Return the folder nearest to that of the run that is there."""
    path = Path(run_dir or "outputs").expanduser().absolute()
    return next(one for one in (path, *path.parents) if one.is_dir())


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _some(shown: Sequence[str]) -> str:
    more = f" and {len(shown) - _SHOWN:,} more" if len(shown) > _SHOWN else ""
    return ", ".join(shown[:_SHOWN]) + more
