"""Own what a person may type and set: each word, the name of each key, its type and its limits, and the text of each fault.

Knows nothing of torch; Hydra's grammar is used where a word is parsed, and nowhere else.
"""

from __future__ import annotations

import functools
import math
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dlwp import settings
from dlwp.config.catalog import Catalog, read_page, shown
from dlwp.errors import ConfigError, did_you_mean, nearest

SECTIONS = {"trainer": settings.TrainerSettings, "logger": settings.LoggerSettings}
"""Sections that hold nothing but the keys of a dataclass."""

PART_KEYS = {"data": settings.DataKeys, "optimizer": settings.OptimizerKeys, "scheduler": settings.SchedulerKeys}
"""Parts of which dlwp reads some keys itself; the rest is the class's business."""

NEEDED = ("data", "model", "optimizer", "trainer", "logger")
"""Groups without which nothing runs."""

DEVICES = ("auto", "cpu", "cuda", "mps")

_ABOVE_ZERO = ("optimizer.lr", "trainer.clip_norm")
_BELOW_ONE = ("trainer.ema_decay", "data.val_fraction")


@dataclass(frozen=True)
class Word:
    """One setting as typed.

    Attributes:
        text: the whole word.
        sign: "", "+", "++" or "~".
        key: the key or group, without sign and package.
        written: what stands behind the "=".
        value: what that means; for several values, the first of them.
        sweep: the single values of a sweep, each as a word; None where it is one value or cannot be listed.
        several: whether it is a sweep.
    """

    text: str
    sign: str
    key: str
    written: str
    value: Any
    sweep: tuple[str, ...] | None
    several: bool

    @property
    def is_hydra(self) -> bool:
        """Whether the word is for Hydra itself."""
        return re.match(r"hydra[./@]", self.key) is not None


def parse(words: Sequence[str], catalog: Catalog, *, sweep: bool = False) -> list[Word]:
    """Parse words and refuse what can be refused without composing.

    Raises:
        ConfigError: with every fault found, the first as its message.
    """
    found: list[Word] = []
    faults: list[str] = []
    for index, text in enumerate(words):
        try:
            word = _parse(text, words[index + 1 :], catalog)
            _refuse_shape(word, catalog, sweep)
        except ConfigError as fault:
            faults.append(fault.message)
            if "without spaces" in fault.message and words[index + 1 : index + 2] == ["="]:
                break  # the words behind it are its debris
        else:
            faults += _twice(word, found)
            found.append(word)
    raise_all(faults)
    return found


def raise_all(faults: Sequence[str]) -> None:
    """Raise the faults, if any, as one error."""
    if faults:
        raise ConfigError(faults[0], list(dict.fromkeys(faults))[1:])


def _twice(word: Word, before: Iterable[Word]) -> list[str]:
    same = [other for other in before if other.key == word.key and "~" not in (other.sign, word.sign)]
    return [f"'{word.key}' is given twice ({same[-1].written}, {word.written})"] if same else []


def _parse(text: str, behind: Sequence[str], catalog: Catalog) -> Word:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import OverrideParseException

    sign, key, written = split(text)
    if written is None and sign != "~":
        raise ConfigError(_not_a_setting(text, behind, catalog))
    if not key:
        raise ConfigError(f"'{text}' has no key before the '='. Write key=value, such as seed=3")
    try:
        override = OverridesParser.create().parse_override(text)
    except OverrideParseException as error:
        raise ConfigError(_unparsed(text, key, written or "")) from error
    several = override.is_sweep_override()
    sweep = None
    if several and (override.is_choice_sweep() or override.is_range_sweep()):
        sweep = tuple(f"{sign}{text[len(sign):].split('=')[0]}={one}" for one in override.sweep_string_iterator())
    return Word(
        text=text,
        sign=sign,
        key=key.split("@")[0],
        written=written or "",
        value=None if several else override.value(),
        sweep=sweep,
        several=several,
    )


def split(text: str) -> tuple[str, str, str | None]:
    """Cut a word into its sign, its key, and what stands behind the "=" (None where there is none)."""
    sign = next((mark for mark in ("++", "+", "~") if text.startswith(mark)), "")
    key, equal, written = text[len(sign) :].partition("=")
    return sign, key, written if equal else None


def _not_a_setting(text: str, behind: Sequence[str], catalog: Catalog) -> str:
    if behind and behind[0] == "=":
        return f"'{text}' is not key=value. Write {text}={behind[1] if len(behind) > 1 else 'VALUE'}, without spaces"
    match = re.fullmatch(r"([\w.]+)[/:](\S+)", text)
    if match:
        return f"'{text}' is not key=value. Write {match[1]}={match[2]}"
    of = [group for group in catalog.groups() if text in catalog.options(group)]
    example = f"{of[0]}={text}" if of else f"{text}={'3' if text == 'seed' else 'VALUE'}, without spaces"
    return f"'{text}' is not key=value. Write {example}"


def _unparsed(text: str, key: str, written: str) -> str:
    opened = {"[": "]", "{": "}"}.get(written[:1])
    if opened and written.count(written[0]) != written.count(opened):
        whole = f"{key}={written}{opened}"
        return f"unclosed '{written[0]}' in {text}. In zsh/bash quote it: '{whole}'"
    bad = next((sign for sign in written if not re.match(r"[\w.,/:+%*@?|\- \\$]", sign)), None)
    if bad is None:
        return f"'{text}' cannot be read as key=value; quote the value: \"{key}='{written}'\""
    quoted = f"\"{key}='{written}'\"" if "'" not in written else f"'{key}=\"{written}\"'"
    if "'" in written:
        quoted = f'"{key}=\\"{written}\\""'
    return f"{bad!r} in {text} needs quotes: {quoted}" if bad != "'" else f'"\'" in {text} needs quotes: {quoted}'


def _refuse_shape(word: Word, catalog: Catalog, sweep: bool) -> None:
    """Refuse several values without -m, and values where a group wants an option."""
    key, written = word.key, word.written
    if word.several and not sweep:
        if not word.sweep or "(" in written:
            raise ConfigError(f"'{word.text}' is several values. Sweep: add -m")
        values = f'"{key}=\'{written}\'"'
        raise ConfigError(
            f"'{word.text}' is several values. Sweep: add -m. List: {key}=[{written}]. A comma in the name: {values}"
        )
    if word.is_hydra or key not in catalog.groups():
        return
    options = _options(catalog, key)
    if word.sign == "~":
        if key in NEEDED:
            raise ConfigError(f"'{key}' cannot be removed, a run needs it; choose another: {options}")
        return
    if word.sign and key in settings.GROUPS and key != "experiment":
        raise ConfigError(f"'{key}' exists; write {key}={written} (+ is for new keys)")
    values = [split(one)[2] for one in word.sweep] if word.sweep else [] if word.several else [word.value]
    for value in values:
        _refuse_option(key, value, catalog)


def _refuse_option(group: str, value: Any, catalog: Catalog) -> None:
    if value == "":
        raise ConfigError(f"'{group}=' has no value. Options: {_options(catalog, group)}")
    if value is None and group == "experiment":
        return
    for one in value if isinstance(value, list) else [value]:
        if not isinstance(one, str):
            raise ConfigError(_section_not_value(group, one, catalog))
        if catalog.find(f"{group}/{one}") is None:
            raise ConfigError(no_option(group, one, catalog))


def _section_not_value(group: str, value: Any, catalog: Catalog) -> str:
    if str(value) in catalog.options(group):
        return f"'{value}' is read as a number; write \"{group}='{value}'\""
    keys = _section_keys(group, catalog)
    first = value.items() if isinstance(value, dict) else [(keys[0] if keys else "KEY", value)]
    advice = " ".join(f"{group}.{key}={_typed(inner)}" for key, inner in first)
    return f"'{group}' is a section ({', '.join([*keys[:2], '…'])}), not a value; set {advice}?"


def _section_keys(group: str, catalog: Catalog) -> list[str]:
    default = next((entry.option for entry in _primary_defaults(catalog) if entry.group == group), "")
    path = catalog.find(f"{group}/{default}") if default else None
    keys = [entry.key for entry in read_page(path).entries] if path else []
    return [key for key in keys if key != "_target_" and "." not in key]


def _primary_defaults(catalog: Catalog) -> Sequence[Any]:
    path = catalog.find("train")
    return read_page(path).defaults if path else ()


def no_option(group: str, option: str, catalog: Catalog) -> str:
    """Return the text of "there is no such option", with the nearest names and the options."""
    options = list(catalog.options(group))
    if not options:
        where = "experiment" if group == "experiment" else group
        return f"no {group} '{option}'; there are no options. Put yours in FOLDER/{where}/NAME.yaml, --config-dir=FOLDER"
    others = [other for other in catalog.groups() if other != group and option in catalog.options(other)]
    if others:
        article = "an" if others[0][0] in "aeiou" else "a"
        return (
            f"no {group} '{option}'; '{option}' is {article} {others[0]}: {others[0]}={option}. "
            f"{group.capitalize()} options: {_options(catalog, group)}"
        )
    hint = did_you_mean(option, options)
    if not hint:
        near = [f"{other}={name}" for other in catalog.groups() for name in nearest(option, catalog.options(other), 1)]
        hint = f" Did you mean {near[0]}?" if near else ""
    return f"no {group} '{option}'.{hint} Options: {_options(catalog, group)}"


def _options(catalog: Catalog, group: str) -> str:
    return ", ".join(catalog.options(group))


def _typed(value: Any) -> str:
    """Write a value as one would type it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"[{','.join(_typed(one) for one in value)}]" if isinstance(value, list) else str(value)


def unknown_key(key: str, written: str, keys: Iterable[str], catalog: Catalog) -> str:
    """Return the text of "there is no such key", with the nearest of `keys` (full names), leaves and groups."""
    keys = list(keys)
    section, _, leaf = key.rpartition(".")
    groups = catalog.groups()
    if not section:
        group = nearest(key, groups, 1)
        exact = [other for other in keys if other.rpartition(".")[2] == key]
        top = nearest(key, [other for other in keys if "." not in other], 1)
        if not exact and not top and group:
            example = f" ({group[0]}={written})" if written in catalog.options(group[0]) else ""
            return f"unknown key '{key}'. Did you mean the group '{group[0]}'?{example}"
        if not exact and top and top[0] in groups:
            example = f" ({top[0]}={written})" if written in catalog.options(top[0]) else ""
            return f"unknown key '{key}'. Did you mean the group '{top[0]}'?{example}"
        if exact:
            return f"unknown key '{key}'. Did you mean {' or '.join(repr(other) for other in exact[:2])}?"
    inside = {other.rpartition(".")[2]: other for other in keys if section and other.rpartition(".")[0] == section}
    near = [inside[name] for name in nearest(leaf, inside)]
    if not near and section in groups:
        owner = _option_with(section, key, catalog)
        if owner:
            return f"unknown key '{key}'; {section}={owner} has it"
    near = near or nearest(key, keys)
    if not near:
        leaves = {other.rpartition(".")[2]: other for other in keys}
        near = [leaves[name] for name in nearest(leaf, leaves)]
    text = f"unknown key '{key}'."
    if near:
        return f"{text} Did you mean {' or '.join(repr(other) for other in near)}?"
    if section in groups and section not in SECTIONS:
        return f"{text} If the class of {section} takes it: +{key}={written}"
    if inside:
        return f"{text} In '{section}' there are: {', '.join(inside)}"
    return f"{text} All keys: dlwp-train --cfg job"


def _option_with(group: str, key: str, catalog: Catalog) -> str | None:
    leaf = key.partition(".")[2]
    for option, path in catalog.options(group).items():
        if leaf in [entry.key for entry in read_page(path).entries]:
            return option
    return None


# ---------------------------------------------------------------------------------------------- values


@functools.cache
def annotations() -> dict[str, Any]:
    """Return the type of every key that has one, by its full name."""
    found = {key: kind for key, kind in typing.get_type_hints(settings.CommandSettings).items() if kind is not Any}
    for section, owner in (*SECTIONS.items(), *PART_KEYS.items()):
        found |= {f"{section}.{key}": kind for key, kind in typing.get_type_hints(owner).items()}
    return found


def convert(key: str, value: Any) -> Any:
    """Return the value as the type of its key; texts such as "5" (from the environment) become numbers.

    Raises:
        ConfigError: it is of another type, not among the choices, or beyond its limits. Keys without a type pass.
    """
    kind = float if key == "optimizer.lr" and value != "auto" else annotations().get(key, Any)
    if kind is Any:
        return value
    kinds = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    found = _convert(value, kinds)
    if found is _NO or (isinstance(found, str) and str in kinds and _refuses_text(key, found, kinds)):
        raise ConfigError(_wrong(key, value, kinds))
    _refuse_limits(key, found)
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
        return [_typed(one) for one in value]
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
        number = _NO if isinstance(value, bool) or not isinstance(value, int | float | str) else float(value)
    except ValueError:
        return _NO
    return number if number is not _NO and math.isfinite(number) else _NO


def _str(value: Any) -> Any:
    return _typed(value) if isinstance(value, str | int | float) else _NO


_CONVERT: dict[Any, Any] = {bool: _bool, int: _int, float: _float, str: _str}


def _choices(key: str, kinds: Sequence[Any]) -> tuple[str, ...]:
    return settings.CHOICES.get(key) or (("auto",) if int in kinds else ())


def _refuses_text(key: str, value: str, kinds: Sequence[Any]) -> bool:
    return bool(_choices(key, kinds)) and value not in _choices(key, kinds)


def _wrong(key: str, value: Any, kinds: Sequence[Any]) -> str:
    names = {int: "a whole number", float: "a number", bool: "true or false"}
    wanted = [names[kind] for kind in kinds if kind in names]
    choices = _choices(key, kinds)
    if choices:
        wanted = [*([] if bool in kinds else wanted), *choices]
    elif list[str] in kinds:
        wanted = [f"a list ({key}=[{_typed(value)}])"]
    elif str in kinds:
        wanted.append("a text")
    if key in _ABOVE_ZERO:
        wanted = ["a number > 0"]
    if types.NoneType in kinds:
        wanted.append("null")
    hint = did_you_mean(str(value), choices)
    return f"{key} must be {_or(wanted)}, got '{_typed(value)}'{'.' if hint else ''}{hint}"


def _or(words: Sequence[str]) -> str:
    return " or ".join(words) if len(words) < 3 else f"{', '.join(words[:-1])} or {words[-1]}"


def _refuse_limits(key: str, value: Any) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    least = settings.MINIMUM.get(key)
    if number and least is not None and value < least:
        raise ConfigError(f"{key} must be ≥ {least:g}, got {value}")
    if number and key in _BELOW_ONE and value >= 1:
        raise ConfigError(f"{key} must be < 1, got {value}")
    if number and key in _ABOVE_ZERO and (value < 0 or (value == 0 and key != "optimizer.lr")):
        raise ConfigError(f"{key} must be a number > 0, got '{_typed(value)}'")
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


def check_values(values: dict[str, Any], catalog: Catalog) -> tuple[list[str], list[str]]:
    """Check the typed keys of a composed config and convert them in place; fill sections from their defaults.

    Returns:
        The faults and the warnings.
    """
    faults: list[str] = []
    known = typing.get_type_hints(settings.CommandSettings)
    keys = [*known, *(f"{part}.{key}" for part in (*SECTIONS, *PART_KEYS) for key in values.get(part) or ())]
    faults += [unknown_key(key, _typed(value), keys, catalog) for key, value in values.items() if key not in known]
    for section, owner in SECTIONS.items():
        given = values.get(section)
        if not isinstance(given, Mapping):
            faults.append(f"'{section}' must be a section of keys, got '{_typed(given)}'")
            continue
        full = vars(owner())
        names = [f"{section}.{key}" for key in full]
        strange = [key for key in given if key not in full]
        faults += [unknown_key(f"{section}.{key}", _typed(given[key]), names, catalog) for key in strange]
        values[section] = full | {key: value for key, value in given.items() if key in full}
    for holder, key, name in _typed_keys(values):
        try:
            holder[key] = convert(name, holder[key])
        except ConfigError as fault:
            faults.append(fault.message)
    warnings = []
    optimizer = values.get("optimizer")
    if isinstance(optimizer, dict) and optimizer.get("lr") == 0 and not isinstance(optimizer["lr"], bool):
        warnings.append("optimizer.lr=0, nothing will be learned")
    return faults, warnings


def _typed_keys(values: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str, str]]:
    for name in (*annotations(), "optimizer.lr"):
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
    written = next((re.findall(r"[^\s,\[\]-][^\s,\[\]]*", entry.value) for entry in entries if entry.key == "classes"), [])
    where = f"{shown(path)}: " if path and written else ""
    faults = []
    for index, value in enumerate(classes):
        text = written[index] if len(written) == len(classes) else _typed(value)
        if isinstance(value, bool) or (isinstance(value, int | float) and str(value) != text):
            kind = "boolean" if isinstance(value, bool) else "number"
            faults.append(f"{where}classes[{index}] is the {kind} {value}; write '{text}' in quotes")
    values["data"]["classes"] = [_typed(value) for value in classes]
    return faults
