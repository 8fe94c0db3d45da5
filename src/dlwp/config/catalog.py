"""Own where the YAML files lie and what they say of themselves: groups, options, keys and the comments on them.

Knows nothing of Hydra: how files become one config is `compose`'s business.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlwp.errors import ConfigError
from dlwp.settings import GROUPS

if TYPE_CHECKING:
    import yaml


@dataclass(frozen=True)
class Entry:
    """One key of a YAML file: its dotted name, its value as written, its comment, and where it stands (from 1)."""

    key: str
    value: str
    comment: str
    line: int
    column: int
    section: bool


@dataclass(frozen=True)
class Default:
    """One line of a defaults list that chooses an option of a group."""

    group: str
    option: str
    comment: str


@dataclass(frozen=True)
class Page:
    """What one YAML file says: its first comment, its defaults list, its keys."""

    path: Path
    header: str
    defaults: tuple[Default, ...]
    entries: tuple[Entry, ...]

    @property
    def sentence(self) -> str:
        """The header without the command that it ends with."""
        return re.split(r"[:;,.]?\s*\(?[`']?dlwp-\w+ ", self.header)[0].strip().rstrip(":.")


@functools.cache
def own_folder() -> Path:
    """Return the folder of dlwp's own configs: the checkout's, else the one in the installed package."""
    package = Path(__file__).resolve().parents[1]
    checkout = package.parents[1] / "configs"  # an editable install keeps a stale copy in the package
    return checkout if package.parent.name == "src" and (checkout / "train.yaml").is_file() else package / "configs"


class Catalog:
    """The config folders in the order in which they are searched.

    Args:
        config_dir: the user's own folder, searched before dlwp's.

    Raises:
        ConfigError: there is no such folder.
    """

    def __init__(self, config_dir: Path | None = None) -> None:
        if config_dir is not None and not config_dir.is_dir():
            raise ConfigError(f"no folder '{config_dir}' (--config-dir)")
        own = [config_dir.resolve()] if config_dir is not None else []
        self.folders = (*own, own_folder())

    def groups(self) -> list[str]:
        """Return the groups, dlwp's first, then the user's own."""
        found = {path.parent.name for folder in self.folders for path in folder.glob("[!._]*/*.yaml")}
        return [*GROUPS, *sorted(found - {*GROUPS, "hydra", "hydra_plugins"})]

    def options(self, group: str) -> dict[str, Path]:
        """Return the options of a group and their files; a user's file hides dlwp's of that name."""
        found: dict[str, Path] = {}
        for folder in self.folders:
            for path in sorted((folder / group).glob("*.yaml")):
                found.setdefault(path.stem, path)
        return dict(sorted(found.items()))

    def names(self) -> list[str]:
        """Return the names of the configs that a run can begin with (--config-name)."""
        return sorted({path.stem for folder in self.folders for path in folder.glob("*.yaml")})

    def find(self, name: str) -> Path | None:
        """Return the file of "train" or "model/resnet", or None."""
        name = name.removesuffix(".yaml")
        paths = (folder / f"{name}.yaml" for folder in self.folders)
        return next((path for path in paths if path.is_file()), None)

    def primary(self, name: str) -> Path:
        """Return the file of the config that a run begins with.

        Raises:
            ConfigError: there is none of that name.
        """
        path = self.find(name)
        if path is None:
            there = ", ".join(self.names())
            raise ConfigError(f"no config '{name}' in {self.folders[0]}. There are: {there}")
        return path


def shown(path: Path) -> str:
    """Return a path as a person would type it here."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def read_page(path: Path) -> Page:
    """Read what a YAML file says of itself.

    Raises:
        yaml.YAMLError: it is not YAML.
    """
    import yaml

    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    header = _header(lines)
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    entries: list[Entry] = []
    defaults: tuple[Default, ...] = ()
    for key, value in root.value if isinstance(root, yaml.MappingNode) else ():
        if key.value == "defaults":
            defaults = tuple(_defaults(value, lines))
        else:
            entries += _entries(key, value, "", lines, text, len(header))
    words = " ".join(line.lstrip("# ").rstrip() for line in header if not line.startswith("# @package"))
    return Page(path, words, defaults, tuple(entries))


def option_sentence(path: Path) -> str:
    """Return what an option's first comment says, without parsing the file."""
    lines = _header(path.read_text(encoding="utf-8").splitlines())
    first = next((line.lstrip("# ").rstrip() for line in lines if not line.startswith("# @package")), "")
    return Page(path, first, (), ()).sentence


def _header(lines: list[str]) -> list[str]:
    header = []
    for line in lines:
        if not line.startswith("#"):
            break
        header.append(line)
    return header


def _entries(key: yaml.Node, value: yaml.Node, prefix: str, lines: list[str], text: str, header: int) -> list[Entry]:
    import yaml

    name = f"{prefix}{key.value}"
    block = isinstance(value, yaml.CollectionNode) and not value.flow_style
    mark = key.end_mark if block or getattr(value, "style", None) in ("|", ">") else value.end_mark
    inner = value.value if isinstance(value, yaml.MappingNode) and block else []
    source = text[value.start_mark.index : value.end_mark.index].strip()
    written = "" if isinstance(value, yaml.MappingNode) and block else source
    start = key.start_mark
    entry = Entry(
        name, written, _comment(lines, mark, start.line, header), start.line + 1, start.column + 1, bool(inner)
    )
    found = [entry]
    for inner_key, inner_value in inner:
        found += _entries(inner_key, inner_value, f"{name}.", lines, text, header)
    return found


def _comment(lines: list[str], mark: Any, first: int, header: int) -> str:
    """Return the comment behind the mark on its line, else the comment lines above the line `first`."""
    rest = lines[mark.line][mark.column :] if mark.line < len(lines) else ""
    match = re.search(r"(?:^|\s)#\s*(.*)$", rest)
    if match:
        return match[1].strip()
    above: list[str] = []
    while first - len(above) - 1 >= header and lines[first - len(above) - 1].lstrip().startswith("#"):
        above.insert(0, lines[first - len(above) - 1].lstrip("# ").rstrip())
    return " ".join(above)


def _defaults(node: yaml.Node, lines: list[str]) -> list[Default]:
    import yaml

    found = []
    for item in node.value if isinstance(node, yaml.SequenceNode) else ():
        if isinstance(item, yaml.ScalarNode):
            found.append(Default("", str(item.value), ""))
        elif isinstance(item, yaml.MappingNode) and item.value:
            key, value = item.value[0]
            words = [word for word in str(key.value).split() if word not in ("optional", "override")]
            group = words[-1].split("@")[0].lstrip("/") if words else ""
            option = "" if value.value == "null" or not isinstance(value, yaml.ScalarNode) else str(value.value)
            found.append(Default(group, option, _comment(lines, value.end_mark, 0, 0)))
    return found
