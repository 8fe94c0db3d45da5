"""Own what a person may type: each word, the names in it, and the text of each fault with the nearest names.

Knows nothing of what a key may hold; Hydra's grammar is used where a word is parsed, and nowhere else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from dlwp import settings
from dlwp.config.catalog import Catalog, read_page
from dlwp.errors import ConfigError, did_you_mean, nearest

TYPED_SECTIONS = ("trainer", "logger")
"""Sections that hold nothing but the keys of a dataclass."""

NEEDED = ("data", "model", "optimizer", "trainer", "logger")
"""Groups without which nothing runs."""


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


def parse_each(word: Word, catalog: Catalog) -> list[Word]:
    """Return the single values of a sweep, each as a word of its own."""
    return [_parse(one, (), catalog) for one in word.sweep or ()]


def raise_all(faults: Sequence[str]) -> None:
    """Raise the faults, if any, as one error."""
    if faults:
        raise ConfigError(faults[0], list(dict.fromkeys(faults))[1:])


def _twice(word: Word, before: Iterable[Word]) -> list[str]:
    same = [other for other in before if other.key == word.key and "~" not in (other.sign, word.sign)]
    return [f"'{word.key}' is given twice ({same[-1].written}, {word.written})"] if same else []


def _parse(text: str, behind: Sequence[str], catalog: Catalog) -> Word:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    sign, key, written = split(text)
    if (written is None and sign != "~") or key != key.rstrip():
        raise ConfigError(_not_a_setting(text, behind, catalog))
    if not key:
        raise ConfigError(f"'{text}' has no key before the '='. Write key=value, such as seed=3")
    if written is not None and not re.fullmatch(r"[^\W\d][\w.@:/$-]*(\[\d+\][\w.]*)*", key):
        hint = _swapped(key, written, catalog) or did_you_mean("".join(key.split()), [*key_names(), *catalog.groups()])
        raise ConfigError(f"'{key}' is no name of a key.{hint or ' Write key=value, such as seed=3'}")
    try:
        override = OverridesParser.create().parse_override(text)
    except HydraException as error:
        raise ConfigError(_unparsed(text, key, written or "")) from error
    several = override.is_sweep_override()
    sweep = None
    is_pattern = several and not hasattr(override.value(), "tags")  # glob(*): which options fit, Hydra finds later
    if several and not is_pattern and (override.is_choice_sweep() or override.is_range_sweep()):
        sweep = tuple(f"{sign}{text[len(sign) :].split('=')[0]}={one}" for one in override.sweep_string_iterator())
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


def spelt_out(words: Sequence[str]) -> list[str]:
    """Return words with all that they stand for: `objective=FORMULA` is a model of that name with this formula."""
    found: list[str] = []
    for text in words:
        sign, key, written = split(text)
        is_objective = (sign, key) == ("", "objective") and written
        found += ["model=objective", f"model.formula={written}"] if is_objective else [text]
    for text, further in settings.STANDS_FOR.items():
        found = with_defaults(found, further) if text in found else found
    return [_as_text(word) for word in found]


def _as_text(text: str) -> str:
    """Return a word with its value quoted where that is a formula: its signs are not for Hydra."""
    sign, key, written = split(text)
    if not re.fullmatch(settings.FORMULAS, key) or not written or written == "null" or written[0] in "'\"[{":
        return text
    escaped = written.replace("\\", "\\\\").replace("'", "\\'")
    return f"{sign}{key}='{escaped}'"


def with_defaults(words: Sequence[str], defaults: Iterable[str]) -> list[str]:
    """Return words, and those defaults whose keys are not among them."""
    typed = {split(word)[1] for word in words}
    return [*words, *(word for word in defaults if split(word)[1] not in typed)]


def _swapped(key: str, written: str, catalog: Catalog) -> str:
    """Return advice where the value stands before the key, as in digits=data, else ""."""
    is_swapped = written in key_names() or (written in catalog.groups() and key in catalog.options(written))
    return f" Did you mean {written}={key}?" if is_swapped else ""


def key_names() -> list[str]:
    """Return the names of the keys that have a type."""
    from dlwp.config.schema import key_types

    return [*key_types(), "optimizer.lr"]


def _not_a_setting(text: str, behind: Sequence[str], catalog: Catalog) -> str:
    if behind and behind[0] == "=":
        return f"'{text}' is not key=value. Write {text}={behind[1] if len(behind) > 1 else 'VALUE'}, without spaces"
    spaced = re.fullmatch(r"([\w.]+)\s+=\s*(.*)", text)
    if spaced:
        return f"'{text}' is not key=value. Write {spaced[1]}={spaced[2]}, without spaces"
    match = re.fullmatch(r"([\w.]+)[/:](\S+)", text)
    if match:
        return f"'{text}' is not key=value. Write {match[1]}={match[2]}"
    for name in sorted((*key_names(), *catalog.groups()), key=len, reverse=True):  # the "=" was left out
        rest = text.removeprefix(name).lstrip("- ")
        if text.startswith(name) and (rest in catalog.options(name) or (rest[:1].isdigit() and "." in name)):
            return f"'{text}' is not key=value. Write {name}={rest}"
    of = [group for group in catalog.groups() if text in catalog.options(group)]
    example = f"{of[0]}={text}" if of else f"{text}={'3' if text == 'seed' else 'VALUE'}, without spaces"
    return f"'{text}' is not key=value. Write {example}"


def _unparsed(text: str, key: str, written: str) -> str:
    sign = '"' if '"' in written else "'"
    if written.count(sign) == 1 and (sign == '"' or written.startswith(sign)):
        clean = written.replace(sign, "")
        return f"unclosed {sign} in {text}. Write {key}={clean}, or quote it: \"{key}='{clean}'\""
    opened = {"[": "]", "{": "}"}.get(written[:1])
    if opened and written.count(written[0]) != written.count(opened):
        whole = f"{key}={written}{opened}"
        return f"unclosed '{written[0]}' in {text}. In zsh/bash quote it: '{whole}'"
    if written.startswith("=") and written.count("=") == 1:
        return f"two '=' in {text}. Write {key}{written}"
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
        name = f"\"{key}='{written}'\""
        raise ConfigError(
            f"'{word.text}' is several values. Sweep: add -m. List: {key}=[{written}]. A comma in the name: {name}"
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
    values: list[Any] = [split(one)[2] for one in word.sweep or ()] if word.several else [word.value]
    for value in values:
        _refuse_option(key, value, catalog)


def _refuse_option(group: str, value: Any, catalog: Catalog) -> None:
    if value == "":
        raise ConfigError(f"'{group}=' has no value. Options: {_options(catalog, group)}")
    if value is None and group == "experiment":
        return
    for one in value if isinstance(value, list) else [value]:
        if one is None:
            raise ConfigError(no_option(group, "null", catalog))
        if not isinstance(one, str):
            raise ConfigError(_section_not_value(group, one, catalog))
        if catalog.find(f"{group}/{one}") is None:
            raise ConfigError(no_option(group, one, catalog))


def _section_not_value(group: str, value: Any, catalog: Catalog) -> str:
    if str(value) in catalog.options(group):
        return f"'{value}' is read as a number; write \"{group}='{value}'\""
    keys = _section_keys(group, catalog)
    first = value.items() if isinstance(value, dict) else [(keys[0] if keys else "KEY", value)]
    advice = " ".join(f"{group}.{key}={typed(inner)}" for key, inner in first)
    some = f" ({', '.join([*keys[:2], '…'])})" if keys else ""
    return f"'{group}' is a section{some}, not a value; set {advice}?"


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
        yours = f"Put yours in FOLDER/{group}/NAME.yaml, --config-dir=FOLDER"
        return f"no {group} '{option}'; there are no options. {yours}"
    others = [other for other in catalog.groups() if other != group and option in catalog.options(other)]
    if others:
        article = "an " if others[0][0] in "aeiou" else "a "
        article = {"data": "", "metrics": "of "}.get(others[0], article)  # these cannot be counted
        return (
            f"no {group} '{option}'; '{option}' is {article}{others[0]}: {others[0]}={option}. "
            f"{group.capitalize()} options: {_options(catalog, group)}"
        )
    hint = did_you_mean(option, options)
    if not hint and option != "null":
        named = {name: f"{other}={name}" for other in catalog.groups() for name in catalog.options(other)}
        near = [named[name] for name in get_close_matches(option, named, n=1, cutoff=0.8)]  # in other groups: closer
        hint = f" Did you mean {near[0]}?" if near else ""
    return f"no {group} '{option}'.{hint} Options: {_options(catalog, group)}"


def _options(catalog: Catalog, group: str) -> str:
    return ", ".join(catalog.options(group))


def unknown_key(key: str, written: str, keys: Iterable[str], catalog: Catalog) -> str:
    """Return the text of "there is no such key", with the nearest of `keys` (full names), leaves and groups."""
    keys = list(keys)
    section, _, leaf = key.rpartition(".")
    groups = catalog.groups()
    if swapped := _swapped(key, written, catalog):
        return f"unknown key '{key}'.{swapped}"
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
    if not near and not inside:
        at = nearest(section, {other.rpartition(".")[0] for other in keys}, 1)
        if at and f"{at[0]}.{leaf}" in keys:
            return f"unknown key '{key}'. Did you mean '{at[0]}.{leaf}'?"
        leaves = {other.rpartition(".")[2]: other for other in keys}
        near = nearest(key, keys) or [leaves[name] for name in nearest(leaf, leaves)]
    near = near or [other for other in keys if other.rpartition(".")[2] == leaf][:2]
    text = f"unknown key '{key}'."
    if near:
        return f"{text} Did you mean {' or '.join(repr(other) for other in near)}?"
    if section in groups and section not in TYPED_SECTIONS:
        return f"{text} If the class of {section} takes it: +{key}={written}"
    if inside:
        option = next(iter(catalog.options(section)), "NAME")
        return f"{text} All keys of {section}: dlwp-train {section}={option} --help"
    return f"{text} All keys: dlwp-train --cfg job"


def _option_with(group: str, key: str, catalog: Catalog) -> str | None:
    leaf = key.partition(".")[2]
    for option, path in catalog.options(group).items():
        is_there = leaf.rpartition(".")[2] in path.read_text(encoding="utf-8")  # parsing all of them takes 0.3 s
        if is_there and leaf in [entry.key for entry in read_page(path).entries]:
            return option
    return None


def typed(value: Any) -> str:
    """Write a value as one would type it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}:{typed(one)}' for key, one in value.items())}}}"
    return f"[{','.join(typed(one) for one in value)}]" if isinstance(value, list) else str(value)
