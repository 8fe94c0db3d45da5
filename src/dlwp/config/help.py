"""Own the text of `--help`: everything in it comes from the comments in the YAML files.

Knows nothing of Hydra or torch, so that help is there at once.
"""

from __future__ import annotations

import os
import shutil
import textwrap
from collections.abc import Sequence
from pathlib import Path

from dlwp.config import check
from dlwp.config.catalog import Catalog, Page, option_sentence, read_page
from dlwp.errors import ConfigError

_INTRODUCTION = """Train a PyTorch model on data. Configs choose the parts, settings change single keys:
    dlwp-train [GROUP=OPTION ...] [KEY=VALUE ...] [options]
"""

_EXAMPLES = (
    ("dlwp-train", "the embedded digits with a small ResNet: under a minute"),
    ("dlwp-train model=resnet data=cifar10 trainer.epochs=15", "parts by their groups, keys by their names"),
    ("dlwp-train -m optimizer.lr=0.1,0.01 seed=1,2,3", "a sweep: six runs and a table"),
)

_OPTIONS = (
    ("-m, --multirun", "a run for each combination of the values: seed=1,2,3"),
    ("-cd, --config-dir FOLDER", "a folder with configs of your own, searched first"),
    ("-cn, --config-name NAME", "the config to begin with (train)"),
    ("-c, --cfg job", "print the composed config and leave; -p PACKAGE for a part of it, --resolve"),
    ("-i, --info", "where the configs come from: all, defaults, defaults-tree, searchpath, ..."),
    ("-sc install=bash", 'shell completion: eval "$(dlwp-train -sc install=bash)" (zsh, fish)'),
    ("-h, --help", "this text; with GROUP=OPTION also the keys of that option"),
    ("--doctor", "a report of this machine, to be pasted into a report of a fault"),
    ("--hydra-help, --version", "Hydra's own flags; the version of dlwp"),
)

_MOST_USED = (
    "data.root", "data.batch_size", "data.augment", "optimizer.lr", "optimizer.weight_decay", "trainer.epochs",
    "trainer.max_time", "trainer.precision", "trainer.accumulate", "trainer.ema_decay", "trainer.patience",
    "trainer.checkpoint_every",
)  # fmt: skip


def text(words: Sequence[str], *, config_dir: Path | None = None, config_name: str = "train") -> str:
    """Return the help for a command line.

    Args:
        words: settings as typed; of each option typed, its own keys are listed too.

    Raises:
        ConfigError: no such option, config or folder.
    """
    catalog = Catalog(config_dir)
    primary = _read(catalog.primary(config_name))
    typed = _typed_options(words, catalog)
    chosen = _chosen(primary, typed, catalog)
    pages = {group: _read(path) for group, option in chosen.items() if (path := catalog.find(f"{group}/{option}"))}
    entries = {f"{group}.{entry.key}": entry for group, page in pages.items() for entry in page.entries}
    width = _width()
    blocks = [_INTRODUCTION, _table("examples", [*_EXAMPLES], width)]
    for group in typed:
        blocks.append(_keys_of(group, chosen[group], pages[group], width))
    blocks.append(_groups(primary, chosen, catalog, width))
    own = [(f"{entry.key}={entry.value}", entry.comment) for entry in primary.entries]
    used = [(f"{key}={entries[key].value}", entries[key].comment) for key in _MOST_USED if key in entries]
    blocks.append(_table("keys used most, with their defaults", [*own, *used], width))
    blocks.append("all keys of an option: dlwp-train trainer=default --help · all there are: dlwp-train --cfg job\n")
    blocks.append(_table("options", [*_OPTIONS], width))
    return "\n".join(blocks)


def _read(path: Path) -> Page:
    import yaml

    try:
        return read_page(path)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise ConfigError(f"{path}{place}: {error.problem}") from error


def _typed_options(words: Sequence[str], catalog: Catalog) -> dict[str, str]:
    """Return the options typed, by group; a word that is no setting, or names no option, is refused as in a run."""
    groups = catalog.groups()
    found = {}
    for word in words:
        sign, key, written = check.split(word)
        group = key.split("@")[0]
        if group not in groups or sign == "~":
            continue
        if not written:
            raise ConfigError(f"'{word}' has no value. Options: {', '.join(catalog.options(group))}")
        for option in written.split(","):
            if catalog.find(f"{group}/{option}") is None:
                raise ConfigError(check.no_option(group, option, catalog))
            found[group] = option
    return found


def _chosen(primary: Page, typed: dict[str, str], catalog: Catalog) -> dict[str, str]:
    """Return the option of each group: typed, else named by the data or model chosen, else the default."""
    chosen = {default.group: default.option for default in primary.defaults if default.group and default.option} | typed
    for group in ("data", "model", "experiment"):
        path = catalog.find(f"{group}/{chosen.get(group)}")
        for default in _read(path).defaults if path else ():
            if default.group in chosen and default.option and default.group not in typed:
                chosen[default.group] = default.option
    return chosen


def _keys_of(group: str, option: str, page: Page, width: int) -> str:
    rows = [(f"{group}.{entry.key}={entry.value}", entry.comment) for entry in page.entries if entry.key != "_target_"]
    title = f"keys of {group}={option}: {page.sentence}" if page.sentence else f"keys of {group}={option}"
    return _table(title, rows or [("(none)", "")], width)


def _groups(primary: Page, chosen: dict[str, str], catalog: Catalog, width: int) -> str:
    said = {default.group: default.comment for default in primary.defaults}
    lines = ["groups: GROUP=OPTION (* is chosen when nothing is typed, or by what is typed)"]
    for group in catalog.groups():
        options = catalog.options(group)
        if not options:
            continue
        lines += [f"  {group}" + (f": {said[group]}" if said.get(group) else "")]
        rows = [
            (f"{'*' if chosen.get(group) == option else ' '} {option}", option_sentence(path))
            for option, path in options.items()
        ]
        lines += _rows(rows, width, indent=4, column=22)
    return "\n".join(lines) + "\n"


def _table(title: str, rows: list[tuple[str, str]], width: int) -> str:
    longest = max(len(left) for left, _ in rows)
    return "\n".join([title, *_rows(rows, width, indent=2, column=min(longest + 4, 34))]) + "\n"


def _rows(rows: Sequence[tuple[str, str]], width: int, *, indent: int, column: int) -> list[str]:
    lines = []
    for left, right in rows:
        head = " " * indent + left
        if len(head) > column - 2 and right:
            lines.append(head)
            head = ""
        wrapped = textwrap.wrap(right, max(width - column, 30)) or [""]
        lines.append(f"{head:<{column}}{wrapped[0]}".rstrip())
        lines += [" " * column + line for line in wrapped[1:]]
    return lines


def _width() -> int:
    columns = shutil.get_terminal_size().columns if "COLUMNS" in os.environ or os.isatty(1) else 110
    return max(60, min(columns, 120))
