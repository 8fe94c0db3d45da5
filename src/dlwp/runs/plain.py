"""Own the reading of YAML that anybody may have made: plain values, without what multiplies or never ends.

Knows nothing of what the values mean.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dlwp.runs import files

_LIMIT = 2**20
_DEPTH = 40


def text_of(path: Path) -> str:
    """Return a file's text.

    Raises:
        OSError: as `files.read_regular`, of sizes beyond any config too. ValueError: it is no text.
    """
    return files.read_regular(path, _LIMIT).decode()


def events(text: str) -> Iterator[Any]:
    """Yield the events of a text.

    Raises:
        ValueError: a tag, an alias or deep nesting. yaml.YAMLError: it is no YAML.
    """
    import yaml

    depth = 0
    for event in yaml.parse(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        line = event.start_mark.line + 1
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEPTH:
            raise ValueError(f"line {line} is nested deeper than {_DEPTH}")
        if isinstance(event, yaml.AliasEvent) or getattr(event, "tag", None):
            raise ValueError(f"line {line} holds {'an alias' if isinstance(event, yaml.AliasEvent) else event.tag}")
        yield event


def values_of(text: str) -> Any:
    """Return what a text holds.

    Raises:
        As `events`.
    """
    import yaml

    for _ in events(text):
        pass
    return yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
