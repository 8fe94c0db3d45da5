"""Own what a key may hold: the type of each typed key, its choices and limits, and the text of each fault.

Knows nothing of Hydra: it judges plain values, whoever set them.
"""

from __future__ import annotations

import functools
import math
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dlwp import settings
from dlwp.config import check
from dlwp.config.catalog import Catalog, read_page, shown
from dlwp.errors import ConfigError, did_you_mean

SECTIONS = {"trainer": settings.TrainerSettings, "logger": settings.LoggerSettings}
"""Sections that hold nothing but the keys of a dataclass."""

PART_KEYS = {
    "data": settings.DataKeys, "model": settings.ModelKeys, "optimizer": settings.OptimizerKeys,
    "scheduler": settings.SchedulerKeys,
}  # fmt: skip
"""Parts of which dlwp reads some keys itself; the rest is the class's business."""

DEVICES = ("auto", "cpu", "cuda", "mps")

_ABOVE_ZERO = ("optimizer.lr", "trainer.clip_norm")
_SECRET = re.compile(r"(.+[_-])?(token|passw(or)?d|secret|api[_-]?key|access[_-]?key|credentials?)", re.IGNORECASE)
"""Names of keys whose values are nobody's business."""
_BELOW_ONE = ("trainer.ema_decay", "data.val_fraction")


def reads(key: str) -> bool:
    """Return whether a key may be set that the part's YAML has not: dlwp reads it, or it is a person's own name."""
    is_known = key in key_types() and key.partition(".")[0] in PART_KEYS
    return is_known or any(key.startswith(f"{section}.") for section in settings.OPEN)


@functools.cache
def key_types() -> dict[str, Any]:
    """Return the type of every key that has one, by its full name."""
    found = {key: kind for key, kind in typing.get_type_hints(settings.CommandSettings).items() if kind is not Any}
    for section, owner in (*SECTIONS.items(), *PART_KEYS.items()):
        found |= {f"{section}.{key}": kind for key, kind in typing.get_type_hints(owner).items()}
    return found


def convert(key: str, value: Any, kind: Any = None) -> Any:
    """Return the value as the type of its key; texts such as "5" (from the environment) become numbers.

    Args:
        key, value: what is set. kind: its type, where the key is none of a run.

    Raises:
        ConfigError: it is of another type, not among the choices, or beyond its limits. Keys without a type pass.
    """
    kind = kind or (float if key == "optimizer.lr" and value != "auto" else key_types().get(key, Any))
    if kind is Any:
        return value
    kinds = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    found = _convert(value, kinds)
    if found is _NO or (isinstance(found, str) and str in kinds and _refuses_text(key, found, kinds)):
        raise ConfigError(_wrong(key, value, kinds))
    _refuse_limits(key, found, value)
    return found


_NO = object()


def _convert(value: Any, kinds: Sequence[Any]) -> Any:
    if value is None:
        return None if types.NoneType in kinds else _NO
    for kind in (bool, int, float, str):
        found = _CONVERT[kind](value) if kind in kinds else _NO
        if found is not _NO:
            return found
    if list[str] in kinds and isinstance(value, list) and not any(isinstance(one, list | dict) for one in value):
        return [check.typed(one) for one in value]
    return _NO


def _bool(value: Any) -> Any:
    text = str(value).lower()
    return text == "true" if isinstance(value, bool | str) and text in ("true", "false") else _NO


def _int(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | str) or not re.fullmatch(r"[+-]?\d+", str(value)):
        return _NO
    return int(value)


def _float(value: Any) -> Any:
    try:
        number = math.nan if isinstance(value, bool) or not isinstance(value, int | float | str) else float(value)
    except ValueError:
        return _NO
    return number if math.isfinite(number) else _NO


def _str(value: Any) -> Any:
    return check.typed(value) if isinstance(value, str | int | float) else _NO


_CONVERT: dict[Any, Any] = {bool: _bool, int: _int, float: _float, str: _str}


def _choices(key: str, kinds: Sequence[Any]) -> tuple[str, ...]:
    return settings.CHOICES.get(key) or (("auto",) if str in kinds and (int in kinds or float in kinds) else ())


def _refuses_text(key: str, value: str, kinds: Sequence[Any]) -> bool:
    return bool(_choices(key, kinds)) and value not in _choices(key, kinds)


def _wrong(key: str, value: Any, kinds: Sequence[Any]) -> str:
    names = {int: "a whole number", float: "a number", bool: "true or false"}
    wanted = [names[kind] for kind in kinds if kind in names]
    choices = _choices(key, kinds)
    if choices:
        wanted = [*([] if bool in kinds else wanted), *choices]
    elif list[str] in kinds:
        wanted = [f"a list ({key}=[{check.typed(value)}])"]
    elif str in kinds:
        wanted.append("a text")
    if key in _ABOVE_ZERO:
        wanted = ["a number > 0"]
    if types.NoneType in kinds:
        wanted.append("null")
    hint = did_you_mean(str(value), choices)
    return f"{key} must be {_or(wanted)}, got '{check.typed(value)}'{'.' if hint else ''}{hint}"


def _or(words: Sequence[str]) -> str:
    return " or ".join(words) if len(words) < 3 else f"{', '.join(words[:-1])} or {words[-1]}"


def _refuse_limits(key: str, value: Any, given: Any) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    least = settings.MINIMUM.get(key)
    if number and least is not None and value < least:
        raise ConfigError(f"{key} must be ≥ {least:g}, got {given}")
    if number and key in _BELOW_ONE and value >= 1:
        raise ConfigError(f"{key} must be < 1, got {given}")
    if number and key in _ABOVE_ZERO and (value < 0 or (value == 0 and key != "optimizer.lr")):
        raise ConfigError(f"{key} must be a number > 0, got '{check.typed(given)}'")
    if key in settings.DURATIONS and value is not None:
        _refuse_duration(key, str(value))
    if key == "device":
        kind, colon, index = str(value).partition(":")
        if kind not in DEVICES or (colon and (kind != "cuda" or not index.isdigit())):
            hint = did_you_mean(kind, DEVICES) if kind not in DEVICES else ""
            raise ConfigError(f"unknown device '{value}'.{hint or ' There are: auto, cpu, cuda, cuda:N, mps'}")


def _refuse_duration(key: str, text: str) -> None:
    units = settings.DURATIONS[key]
    examples = {"epoch": "'1 epoch'", "step": "'500 steps'", "time": "'10 min'"}
    wanted = _or([examples[unit] for unit in units])
    try:
        duration = settings.Duration.parse(text)
    except ValueError as error:
        if "duration" in str(error):
            raise ConfigError(f"{key} must be a number and a unit, such as {wanted}, got '{text}'") from None
        raise ConfigError(f"{key}: {error}") from None
    if duration.unit not in units:
        raise ConfigError(f"{key} must be such as {wanted}, got '{text}'")


def search_settings(given: Mapping[str, Any]) -> settings.SearchSettings:
    """Return the keys of `hydra/sweeper=optuna`.

    Raises:
        ConfigError: with every mistake found.
    """
    known = typing.get_type_hints(settings.SearchSettings)
    found, faults = {}, []
    for key in known:
        try:
            found[key] = convert(f"hydra.sweeper.{key}", given.get(key), known[key])
        except ConfigError as fault:
            faults.append(fault.message)
    check.raise_all(faults)
    return settings.SearchSettings(**found)


def check_values(values: dict[str, Any], catalog: Catalog) -> tuple[list[str], list[str]]:
    """Check the typed keys of a composed config and convert them in place; fill sections from their defaults.

    Returns:
        The faults and the warnings.
    """
    faults: list[str] = []
    known = typing.get_type_hints(settings.CommandSettings)
    keys = [*known, *(f"{part}.{key}" for part in (*SECTIONS, *PART_KEYS) for key in values.get(part) or ())]
    strange = [key for key in values if key not in known]
    faults += [check.unknown_key(key, check.typed(values[key]), keys, catalog) for key in strange]
    for section, owner in SECTIONS.items():
        given = values.get(section)
        if not isinstance(given, Mapping):
            faults.append(f"'{section}' must be a section of keys, got '{check.typed(given)}'")
            continue
        full = vars(owner())
        names = [f"{section}.{key}" for key in full]
        strange = [key for key in given if key not in full]
        faults += [check.unknown_key(f"{section}.{key}", check.typed(given[key]), names, catalog) for key in strange]
        values[section] = full | {key: value for key, value in given.items() if key in full}
    for holder, key, name in _typed_keys(values):
        try:
            holder[key] = convert(name, holder[key])
        except ConfigError as fault:
            faults.append(fault.message)
    trainer = values.get("trainer")
    if isinstance(trainer, dict) and trainer.get("cuda_graphs") is True:
        beside = [key for key in settings.NOT_WITH_GRAPHS if trainer.get(key)]
        faults += [
            f"trainer.cuda_graphs does not work beside trainer.{key}. trainer.cuda_graphs=false" for key in beside
        ]
    warnings = []
    optimizer = values.get("optimizer")
    if isinstance(optimizer, dict) and optimizer.get("lr") == 0 and not isinstance(optimizer["lr"], bool):
        warnings.append("optimizer.lr=0, nothing will be learned")
    return faults, warnings


def secrets(stored: Any, prefix: str = "") -> list[str]:
    """Return a warning for each key whose value looks like a secret and is written into the run's folder as it is.

    Args:
        stored: what is written, in which `${oc.env:NAME}` stands as it was typed. prefix: of its keys.
    """
    items = stored.items() if isinstance(stored, dict) else enumerate(stored) if isinstance(stored, list) else ()
    found = []
    for name, value in items:
        key = f"{prefix}{name}"
        if isinstance(value, dict | list):
            found += secrets(value, f"{key}.")
        elif isinstance(value, str) and value and _SECRET.fullmatch(str(name)) and "${oc.env:" not in value:
            way_out = f"'{key}=${{oc.env:{str(name).upper().replace('-', '_')}}}'"
            found.append(f"{key} will stand in the run's config.yaml in clear. From the environment instead: {way_out}")
    return found


def _typed_keys(values: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str, str]]:
    for name in (*key_types(), "optimizer.lr"):
        section, _, key = name.rpartition(".")
        holder = values.get(section) if section else values
        if isinstance(holder, dict) and key in holder:
            yield holder, key, name


def check_classes(values: dict[str, Any], choices: Mapping[str, str | None], catalog: Catalog) -> list[str]:
    """Return the faults of class names that YAML reads as something else (yes, 010), and make texts of the others."""
    classes = (values.get("data") or {}).get("classes") if isinstance(values.get("data"), dict) else None
    if not isinstance(classes, list):
        return []
    path = catalog.find(f"data/{choices.get('data')}")
    entries = read_page(path).entries if path else ()
    source = next((entry.value for entry in entries if entry.key == "classes"), "")
    written = re.findall(r"[^\s,\[\]-][^\s,\[\]]*", source)
    where = f"{shown(path)}: " if path and len(written) == len(classes) else "data."
    faults = []
    for index, value in enumerate(classes):
        text = written[index] if len(written) == len(classes) else check.typed(value)
        if isinstance(value, bool) or (isinstance(value, int | float) and str(value) != text):
            kind = "boolean" if isinstance(value, bool) else "number"
            faults.append(f"{where}classes[{index}] is the {kind} {value}; write '{text}' in quotes")
    values["data"]["classes"] = [check.typed(value) for value in classes]
    return faults
