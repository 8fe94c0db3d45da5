"""Own the translation of what Hydra, OmegaConf and YAML raise into one line with the nearest names.

Knows nothing of how a config is composed: it gets the exception, the words, and the config without the single keys.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import (
    ConfigKeyError,
    InterpolationKeyError,
    InterpolationResolutionError,
    OmegaConfBaseException,
    UnsupportedInterpolationType,
    ValidationError,
)

from dlwp.config import check, schema
from dlwp.config.catalog import Catalog, read_page, shown
from dlwp.errors import ConfigError, did_you_mean

FAULTS = (HydraException, OmegaConfBaseException, yaml.YAMLError, RecursionError, ValueError, UnicodeDecodeError)
"""What composing raises at a person's mistake; ValueError where a group's option is not a text."""


def of_files(error: BaseException, primary: str, catalog: Catalog) -> ConfigError:
    """Return the fault of the files: YAML, the defaults lists, and keys set by a file."""
    text = str(error)
    for found in _chain(error):
        if isinstance(found, yaml.MarkedYAMLError):
            return _of_yaml(found)
        if isinstance(found, RecursionError):
            cycle = _cycle(primary, catalog)
            return ConfigError(f"{' and '.join(cycle) or 'configs'} include each other (defaults)")
        if isinstance(found, MissingConfigException) and found.missing_cfg_file:
            return _of_missing(found, catalog)
    named = re.search(r"In '([^']+)'", text)
    file = f"{shown(path)}: " if named and (path := catalog.find(named[1])) else ""
    nomatch = re.search(r"(?:Could not override|No earlier Group Default for) '([^']+)'", text)
    if nomatch and "defaults list" in text.lower():
        group = nomatch[1].split("@")[0].rpartition("/")[2]
        return ConfigError(
            f"{file}defaults: 'override {nomatch[1]}' matches nothing. "
            f"Write 'override /{group}: OPTION' (with the slash), below '# @package _global_'"
        )
    chain = _chain(error)
    inner = next((found for found in chain if isinstance(found, OmegaConfBaseException)), None)
    return _of_key(inner, file, catalog) if inner is not None else ConfigError(f"{file}{one_line(chain[-1])}")


def _chain(error: BaseException) -> list[BaseException]:
    found = [error]
    while (inner := found[-1].__cause__ or found[-1].__context__) is not None and inner not in found:
        found.append(inner)
    return found


def one_line(error: BaseException) -> str:
    """Return the first line of an exception's text, without Hydra's advice to set HYDRA_FULL_ERROR."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and "HYDRA_FULL_ERROR" not in line]
    return " ".join(lines[:2]) if lines else type(error).__name__


def _of_yaml(error: yaml.MarkedYAMLError) -> ConfigError:
    mark = error.problem_mark or error.context_mark
    problem = str(error.problem)
    if mark is None:
        return ConfigError(f"not YAML: {problem}")
    path = Path(mark.name)
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    line = lines[mark.line] if mark.line < len(lines) else ""
    if "mapping values are not allowed" in problem:
        problem = "a second ':' in one line; check the indent"
    elif "cannot start any token" in problem and line[mark.column : mark.column + 1] == "\t":
        problem = "tab used to indent; use spaces"
    elif "found duplicate key" in problem:
        key = problem.rpartition("duplicate key ")[2]
        same = re.compile(rf"\s*['\"]?{re.escape(key)}['\"]?\s*:")
        first = next((number for number, text in enumerate(lines, 1) if same.match(text)), 0)
        problem = f"'{key}' is already set on line {first}"
    elif "could not determine a constructor for the tag" in problem:
        tag = re.search(r"tag '?(?:tag:yaml\.org,2002:)?([^']*)'", problem)
        problem = f"tag '!!{tag[1] if tag else ''}' is not allowed"
    return ConfigError(f"{shown(path)}:{mark.line + 1}:{mark.column + 1}: {problem}", [line] if line.strip() else [])


def _of_missing(error: MissingConfigException, catalog: Catalog) -> ConfigError:
    group, _, option = str(error.missing_cfg_file).rpartition("/")
    if group.split("/")[0] == "hydra":
        there = ", ".join(error.options or ())
        return ConfigError(f"no {group} '{option}'.{did_you_mean(option, error.options or ())} Options: {there}")
    file = _naming(group, option, catalog)
    if group in catalog.groups():
        return ConfigError(f"{file}{check.no_option(group, option, catalog)}")
    return ConfigError(f"{file}no config '{error.missing_cfg_file}'.{did_you_mean(option, catalog.names())}")


def _naming(group: str, option: str, catalog: Catalog) -> str:
    """Return the file whose defaults name the option, for the front of a message; "" where none does."""
    for folder in catalog.folders:
        for path in sorted([*folder.glob("*.yaml"), *folder.glob("*/*.yaml")]):
            if any((default.group, default.option) == (group, option) for default in read_page(path).defaults):
                return f"{shown(path)}: "
    return ""


def _of_key(error: OmegaConfBaseException, file: str, catalog: Catalog) -> ConfigError:
    key = str(error.full_key or error.key or "")
    if isinstance(error, ConfigKeyError) or type(error).__name__ == "ConfigAttributeError":
        return ConfigError(f"{file}{check.unknown_key(key, 'VALUE', schema.key_types(), catalog)}")
    if isinstance(error, ValidationError):
        value = re.search(r"[Vv]alue '([^']*)'", str(error))
        try:
            schema.convert(key, value[1] if value else None)
        except ConfigError as fault:
            return ConfigError(f"{file}{fault.message}")
    return ConfigError(f"{file}{f'{key}: ' if key and key not in str(error) else ''}{one_line(error)}")


def _cycle(primary: str, catalog: Catalog) -> list[str]:
    """Return the files that include each other, found by following the defaults lists."""

    def follow(name: str, trail: list[str]) -> list[str]:
        path = catalog.find(name)
        if path is None:
            return []
        if name in trail:
            return [f"{one}.yaml" for one in trail[trail.index(name) :]]
        folder = name.rpartition("/")[0]
        for default in read_page(path).defaults:
            inner = f"{default.group}/{default.option}" if default.group else default.option.split("@")[0]
            candidates = [inner.lstrip("/"), f"{folder}/{inner}" if folder and not inner.startswith("/") else ""]
            for candidate in candidates:
                found = follow(candidate, [*trail, name]) if candidate and not candidate.endswith("_self_") else []
                if found:
                    return found
        return []

    groups = [f"{group}/{option}" for group in catalog.groups() for option in catalog.options(group)]
    return next((found for name in [primary, *groups] if (found := follow(name, []))), [])


# ------------------------------------------------------------------------------------------ single words


def of_words(words: Sequence[check.Word], base: DictConfig, catalog: Catalog) -> list[str]:
    """Return the fault of each word that sets a single key, judged against the config composed without them."""
    keys = list(flatten(base))
    faults = []
    for word in words:
        if word.is_hydra or word.key in catalog.groups():
            continue
        exists = _exists(base, word.key)
        if word.sign == "~" and not exists:
            hint = did_you_mean(word.key, keys).replace("'", "'~", 1) or " All keys: dlwp-train --cfg job"
            faults.append(f"cannot remove '{word.key}': no such key.{hint}")
        elif word.sign == "~" and word.key.partition(".")[0] in check.TYPED_SECTIONS:
            now = check.typed(OmegaConf.select(base, word.key))
            faults.append(f"'{word.key}' cannot be removed, a run needs it; set it: {word.key}={now}")
        elif word.sign == "+" and exists:
            faults.append(f"'{word.key}' exists; write {word.key}={word.written} (+ is for new keys)")
        elif word.sign == "" and not exists and not schema.reads(word.key):
            faults.append(check.unknown_key(word.key, word.written, keys, catalog))
        elif word.sign != "~" and not word.several:
            try:
                schema.convert(word.key, _plain(word))
            except ConfigError as fault:
                faults.append(fault.message)
    return faults


def _plain(word: check.Word) -> Any:
    """Return the value, as typed where it is an odd number such as 1e3, so that the message shows what was typed."""
    odd = isinstance(word.value, float) and "int" in str(schema.key_types().get(word.key))
    return word.written if odd else word.value


def flatten(config: Any, prefix: str = "") -> list[str]:
    """Return the dotted names of all keys of a config, sections included."""
    if not isinstance(config, DictConfig) or config._is_none() or config._is_missing() or config._is_interpolation():
        return []
    found = []
    for key in config:
        name = f"{prefix}{key!s}"
        found.append(name)
        found += flatten(config._get_node(key), f"{name}.")
    return found


def _exists(config: Any, key: str) -> bool:
    for part in key.split("."):
        if isinstance(config, ListConfig):
            return part.isdigit() and int(part) < len(config)
        if not isinstance(config, DictConfig) or config._is_none() or part not in config._content:  # type: ignore[operator]
            return False
        config = config._get_node(part)
    return True


# --------------------------------------------------------------------------------------- interpolations


def of_references(config: DictConfig) -> list[str]:
    """Return the faults of values that must still be given, and of references that lead nowhere."""
    leaves = list(_leaves(config))
    missing = sorted(name for holder, key, name in leaves if OmegaConf.is_missing(holder, key))
    faults = []
    if missing:
        examples = " ".join(f"{key}={_placeholder(key)}" for key in missing)
        faults.append(f"{' and '.join(missing)} must be given: {examples}")
    circular: set[str] = set()
    keys = flatten(config)
    for holder, key, name in leaves:
        if name in missing:
            continue
        try:
            holder[key]
        except (OmegaConfBaseException, RecursionError) as error:
            fault = _of_reference(error, holder, key, name, keys, circular)
            faults += [fault] if fault else []
    if circular:
        faults.append(f"{' and '.join(sorted(circular))} refer to each other")
    return faults


def _leaves(config: Any, prefix: str = "") -> list[tuple[Any, Any, str]]:
    found: list[tuple[Any, Any, str]] = []
    keys: list[Any] = list(config.keys()) if isinstance(config, DictConfig) else list(range(len(config)))
    for key in keys:
        node = config._get_node(key)
        full = f"{prefix}[{key}]" if isinstance(config, ListConfig) else f"{prefix}.{key}" if prefix else str(key)
        if node._is_interpolation() or node._is_missing():
            found.append((config, key, full))
        elif isinstance(node, DictConfig | ListConfig) and not node._is_none():
            found += _leaves(node, full)
    return found


def _of_reference(
    error: BaseException, holder: Any, key: Any, name: str, keys: list[str], circular: set[str]
) -> str | None:
    text = str(error)
    written = str(holder._get_node(key)._value())
    if isinstance(error, RecursionError) or "Recursive interpolation" in text or "recursion" in text:
        circular.add(name)
        return None
    if isinstance(error, UnsupportedInterpolationType):
        return f"{name}: unknown resolver '{text.splitlines()[0].rpartition(' ')[2]}' in {written}"
    variable = re.search(r"Environment variable '([^']+)' not found", text)
    if variable:
        return f"{name} needs the environment variable {variable[1]}; it is not set"
    target = re.search(r"Interpolation key '([^']+)' not found", text)
    if isinstance(error, InterpolationKeyError) and target:
        return f"{name} refers to '{target[1]}', which does not exist.{did_you_mean(target[1], keys)}"
    if isinstance(error, InterpolationResolutionError | ValidationError):
        return f"{name}: {one_line(error)}"
    return f"{name}: {type(error).__name__}: {one_line(error)}"


def _placeholder(key: str) -> str:
    leaf = key.rpartition(".")[2]
    if leaf in ("root", "folder", "dir") or leaf.endswith("_dir"):
        return "FOLDER"
    return "FILE" if leaf in ("file", "path") else "VALUE"
