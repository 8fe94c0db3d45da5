"""Own what every command has in common: reading its flags, and turning whatever is raised into one line and a status.

Knows nothing of what a command does; imports neither Hydra nor torch.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from dlwp.errors import ConfigError, did_you_mean, nearest
from dlwp.failures import tell


@dataclass(frozen=True)
class Flags:
    """The flags of a command that takes settings, and the settings: those of every Hydra application."""

    words: list[str]
    help: bool
    version: bool
    doctor: bool
    config_dir: Path | None
    config_name: str
    multirun: bool
    handed_over: tuple[str, ...]
    package: str | None

    @property
    def is_completion(self) -> bool:
        """Whether the shell asks for completions, or for the script that makes it ask."""
        return "-sc" in self.handed_over


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        match = re.fullmatch(r"argument (\S+?)(?:/(\S+))?: (.*)", message)
        option = (match[2] or match[1]) if match else ""
        if match and "ignored explicit argument" in message:
            raise ConfigError(f"option '{option}' takes no value. Write {option}")
        text = f"option '{option}': {match[3]}" if match else f"{message[:1].lower()}{message[1:]}"
        raise ConfigError(f"{text}. All options: dlwp-train --help")


def _parser() -> _Parser:
    parser = _Parser(prog="dlwp-train", add_help=False, allow_abbrev=False)
    add = parser.add_argument
    add("words", nargs="*")
    add("-h", "--help", action="store_true")
    add("--version", action="store_true")
    add("--doctor", action="store_true")
    add("-cd", "--config-dir", type=Path)
    add("-cn", "--config-name", default="train")
    add("-m", "--multirun", action="store_true")
    add("-r", "--run", action="store_true")
    add("-c", "--cfg", choices=["job", "hydra", "all"])
    add("-p", "--package")
    add("--resolve", action="store_true")
    add("-i", "--info", nargs="?", const="all", choices=_INFO)
    add("-sc", "--shell-completion", nargs="*")
    add("--hydra-help", action="store_true")
    return parser


_INFO = ["all", "config", "defaults", "defaults-tree", "plugins", "searchpath"]


def read(argv: Sequence[str]) -> Flags:
    """Read flags, which may stand before, between and behind the settings.

    Raises:
        ConfigError: an unknown flag, or a flag without its value.
    """
    parser = _parser()
    if "-sc" in argv or "--shell-completion" in argv:  # Hydra's own script: a word such as query=bash follows
        return _flags(parser.parse_args(argv))
    found, unknown = parser.parse_known_intermixed_args(argv)
    strange = next((word for word in unknown if word.startswith("-")), None)
    if strange is not None:
        raise ConfigError(_unknown_option(strange, argv, parser))
    return _flags(found)


def _flags(found: argparse.Namespace) -> Flags:
    handed = []
    for flag, value in (("--cfg", found.cfg), ("--package", found.package), ("--info", found.info)):
        handed += [flag, value] if value else []
    handed += ["--resolve"] if found.resolve else []
    handed += ["--hydra-help"] if found.hydra_help else []
    if found.shell_completion is not None:
        handed += ["-sc", *found.shell_completion]
    return Flags(
        words=found.words,
        help=found.help,
        version=found.version,
        doctor=found.doctor,
        config_dir=found.config_dir.expanduser() if found.config_dir else None,
        config_name=found.config_name,
        multirun=found.multirun,
        handed_over=tuple(handed),
        package=found.package,
    )


def _unknown_option(strange: str, argv: Sequence[str], parser: argparse.ArgumentParser) -> str:
    name, equal, value = strange.partition("=")
    flags = [flag for action in parser._actions for flag in action.option_strings]
    if name in flags:
        return f"option '{name}' takes no value. Write {name}"
    hint = did_you_mean(name, [flag for flag in flags if flag.startswith("--")])
    if hint:
        return f"unknown option '{name}'.{hint}"
    behind = argv[list(argv).index(strange) + 1 :]
    value = value if equal else next((word for word in behind[:1] if "=" not in word and word[:1] != "-"), "VALUE")
    return f"unknown option '{name}'. Settings have no dashes: {_full_key(name.lstrip('-'))}={value}"


def _full_key(name: str) -> str:
    """Return the full name of the key that is meant by --epochs or --batch-size."""
    from dlwp.config.schema import key_types

    leaf = name.replace("-", "_")
    keys = [*key_types(), "optimizer.lr", "optimizer.weight_decay"]
    near = nearest(leaf, [key.rpartition(".")[2] for key in keys], 1)
    names = [leaf, *near]
    return next((key for name in names for key in keys if key == name or key.endswith(f".{name}")), leaf)


def take(word: str, own: dict[str, str], words: list[str], further: Sequence[str]) -> None:
    """Put a word key=value where it belongs: into a command's own keys, or among the settings of a network.

    Raises:
        ConfigError: the key is neither one of `own`, nor of `further`, nor of the model.
    """
    key, _, value = word.partition("=")
    if key in own:
        own[key] = value
    elif key in further or key.startswith("model."):
        words.append(word)
    else:
        known = [*own, *further]
        raise ConfigError(f"unknown key '{key}'.{did_you_mean(key, known)} There are: {', '.join(known)}, model.…")


# ---------------------------------------------------------------------------------------------- the outermost


def run(job: Callable[[], int | None]) -> int:
    """Do a command's job and return its exit status, whatever happens, with one line for what went wrong."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed (`>&-`): the next file that is opened would take its number
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115 (for good)
    try:
        status = job() or 0
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # the reader of our output left (`| head`): that is no fault
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("dlwp: stopped", file=sys.stderr)
        return 130
    except Exception as error:  # any error: this is the outermost place, where it becomes a line and a status
        return tell(error)


@contextmanager
def replaced(argv: list[str], **environment: str) -> Iterator[None]:
    """Replace sys.argv and some environment variables for as long as the block lasts."""
    before: dict[str, Any] = {name: os.environ.get(name) for name in environment}
    words = sys.argv
    sys.argv = argv
    os.environ.update(environment)
    try:
        yield
    finally:
        sys.argv = words
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
