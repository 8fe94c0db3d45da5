"""Own what is asked or guessed of a table's file, as a small YAML file that a person can edit and give again.

Knows nothing of how any of it is found out.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dlwp.errors import ConfigError, DataError, MachineError, did_you_mean


@dataclass
class Schema:
    """Which column is what, and how the file is written; "auto", or nothing, is to be guessed.

    Attributes:
        target: columns to be learned. types: column -> number, category, date, ignore.
        missing, delimiter, header, encoding, decimal: as the keys of data=csv.
        path: the file that it is of. reasons: why a column is left out, for those that read it.
    """

    target: list[str] = field(default_factory=list)
    types: dict[str, Any] = field(default_factory=dict)
    missing: Any = "auto"
    delimiter: Any = "auto"
    header: Any = "auto"
    encoding: str = "auto"
    decimal: str = "auto"
    path: str = ""
    reasons: dict[str, str] = field(default_factory=dict)

    def form(self) -> dict[str, Any]:
        """Return what reading the file needs to know."""
        return {"delimiter": self.delimiter, "header": self.header, "encoding": self.encoding}

    def completed(self, other: dict[str, Any]) -> Schema:
        """Return this with what is to be guessed taken from the content of a file."""
        mine = {name: getattr(self, name) for name in other}
        taken = {name: other[name] if value in ("auto", [], {}, None) else value for name, value in mine.items()}
        if "types" in other:
            taken["types"] = {**other["types"], **self.types}
        if self.target:  # what was another target before is an input again, of the kind that is written
            taken["target"] = self.target
        return dataclasses.replace(self, **taken)

    def written(self) -> str:
        """Return this as YAML, with a word on each key."""
        quoted = json.dumps
        lines = [
            f"# What dlwp-train found out about {self.path}. Edit it and give it again: data.schema=THIS_FILE",
            f"target: {quoted(self.target)} # columns to be learned",
            f"delimiter: {quoted(self.delimiter)} # between two fields; auto: guess",
            f"header: {quoted(self.header)} # whether the first line has the names: true, false, auto",
            f"encoding: {quoted(self.encoding)} # utf-8, utf-8-sig, cp1252, latin-1, ...; auto: guess",
            f"decimal: {quoted(self.decimal)} # sign before the fraction of a number: '.' or ','",
            f"missing: {quoted(self.missing, ensure_ascii=False)} # texts that stand for a missing value",
            "types: # number, category, date, or ignore (left out)",
        ]
        for name, kind in self.types.items():
            why = f" # {self.reasons[name]}" if name in self.reasons else ""
            lines.append(f"  {quoted(name, ensure_ascii=False)}: {kind}{' '.join(why.splitlines())}")
        return "\n".join(lines) + "\n"

    def write(self) -> str:
        """Write the file into the working directory, unless another is there; return what was done, for a person."""
        from dlwp.runs import files

        place = Path(f"{Path(self.path).stem}.schema.yaml")
        text = self.written()
        if place.exists():
            same = place.read_text(encoding="utf-8") == text
            return f"{place} is there already{'' if same else ', with other content, and left as it is'}"
        try:
            files.write_atomic(place, text)
        except OSError as error:
            raise MachineError(files.fault(error, place)) from None
        return f"{place} has what was guessed. Edit it, then: data.schema={place}"


def read_schema(path: str) -> dict[str, Any]:
    """Return the content of a schema's file.

    Raises:
        DataError: it is not there, or no YAML. ConfigError: a key is unknown, or of another kind.
    """
    import yaml

    place = Path(path).expanduser()
    try:
        found = yaml.safe_load(place.read_text(encoding="utf-8"))
    except FileNotFoundError:
        near = [one.name for one in place.parent.iterdir()] if place.parent.is_dir() else []
        raise DataError(f"no file '{path}' (data.schema).{did_you_mean(place.name, near)}") from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise DataError(f"'{path}' (data.schema) is no YAML: {' '.join(str(error).split())[:150]}") from None
    known = [one.name for one in dataclasses.fields(Schema) if one.name not in ("path", "reasons")]
    if not isinstance(found, dict):
        raise ConfigError(f"'{path}' (data.schema) must hold keys: {', '.join(known)}")
    for name in found:
        if name not in known:
            raise ConfigError(f"'{path}' (data.schema): no key '{name}'.{did_you_mean(str(name), known)}")
    if not isinstance(found.get("types", {}), dict):
        raise ConfigError(f"'{path}' (data.schema): types must be column: kind, a line each")
    return found
