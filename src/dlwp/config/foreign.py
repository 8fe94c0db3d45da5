"""Own what the config of a run that somebody else made may hold, judged on its text before anything is composed.

Knows nothing of parts: which of them such a config may build is `parts.Trust`'s business.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dlwp.errors import ConfigError
from dlwp.runs import plain
from dlwp.runs.folder import is_own, is_run

DEFAULTS = ["train_schema", "trainer_schema@trainer", "logger_schema@logger", "_self_"]
"""The defaults of every run's config.yaml."""

_OWN_FILES = ("config.yaml", "overrides.yaml")
_FORBIDDEN = ("hydra", "run_dir", "resume")


def is_foreign(folder: Path) -> bool:
    """Return whether a folder is a run, or a checkpoint of one, that this account did not begin with this config."""
    return (is_run(folder) or (folder / "MANIFEST.json").exists()) and not is_own(folder)


def check(folder: Path, trusted: Sequence[str] = ()) -> None:
    """Refuse a foreign run's config.yaml where it is not plain values, as dlwp writes them.

    Refused are: links and pipes anywhere in the run; what Hydra itself would read (its own section, other defaults,
    other YAML files beside it); tags, aliases (they multiply), deep nesting, sizes beyond any config; and references,
    the environment's among them.

    Args:
        folder: the run, or the checkpoint.
        trusted: what the person trusts (`trust=[oc.env]` lets it read the environment).

    Raises:
        ConfigError: with what was found.
    """
    import yaml

    path = folder / "config.yaml"
    run = folder.resolve().parents[1] if (folder / "MANIFEST.json").exists() else folder
    for inside, mode in _modes(run):
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            kind = "a link" if stat.S_ISLNK(mode) else "no regular file"
            raise ConfigError(f"'{inside}' is {kind}: what is written there would not stay in the run. Remove it")
    for other in (*folder.glob("*.yaml"), *folder.glob("*/*.yaml")):
        if other.parent != folder or other.name not in _OWN_FILES:
            raise ConfigError(f"{folder} holds '{other.relative_to(folder)}', which is no file of a run. Remove it")
    try:
        text = plain.text_of(path)
        _check_references(text, trusted)
        values = plain.values_of(text)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} is not the config of a run: {' '.join(str(error).split())[:120]}") from error
    _check_head(path, values)


def _check_references(text: str, trusted: Sequence[str]) -> None:
    for event in plain.events(text):
        if "${" in (getattr(event, "value", None) or ""):
            _check_reference(event.value, event.start_mark.line + 1, trusted)
    if re.search(r"^\s*#\s*@package", text, re.MULTILINE):
        raise ValueError("it names a @package")


def _check_reference(value: str, line: int, trusted: Sequence[str]) -> None:
    rest = re.sub(r"\$\{\s*oc\.env\s*:[^${}]*\}", "", value)
    if "${" in rest:
        raise ValueError(f"line {line} holds the reference {value[:60]!r}")
    if "oc.env" not in trusted:
        raise ConfigError(f"line {line} of config.yaml reads {value[:60]}. If you trust its maker: trust=[oc.env]")


def _check_head(path: Path, values: Any) -> None:
    if not isinstance(values, dict) or values.get("defaults") != DEFAULTS:
        raise ConfigError(f"{path} is not the config of a run: its defaults are others")
    for name in _FORBIDDEN:
        if name in values:
            raise ConfigError(f"{path} is not the config of a run: it sets '{name}'")


def _modes(folder: Path) -> Iterator[tuple[Path, int]]:
    """Yield all that lies in a folder, and its mode; what another process removes meanwhile is left out."""
    for parent, folders, names in os.walk(folder):
        for name in (*folders, *names):
            inside = Path(parent, name)
            with contextlib.suppress(FileNotFoundError):
                yield inside, inside.lstat().st_mode
