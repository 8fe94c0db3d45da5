"""Own how a `_target_` and its arguments become an object: locating, the trust rule, the signature, the call.

Knows nothing of what the parts are for, and nothing of Hydra.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import inspect
import re
import sys
import traceback
import types
import typing
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from dlwp import frames
from dlwp.errors import ConfigError, DataError, DlwpError, MachineError, did_you_mean

TRUSTED_PACKAGES = ("dlwp", "torch", "torchvision", "timm", "torchmetrics")
"""Packages whose parts may be built from a config that is not the person's own."""

_PLACES = re.compile(
    r"dlwp\.models\.|torch\.nn\.modules\.|torch\.optim\.|torch\.utils\.data\.(dataset|sampler)$|timm\.(models|layers|optim)\."
    r"|torchvision\.(models|ops|transforms)\.|torchvision\.datasets\.(?!lsun)"  # lsun unpickles what lies beside it
    r"|torchmetrics\.(classification|regression|aggregation|segmentation|retrieval|collections|wrappers)\b"
)
"""Modules of these packages whose classes are parts: they read no pickle, start no program, import no name they get."""

_PLAIN = (
    "dlwp.metrics",
    "dlwp.schedules",
    "dlwp.optimizers",
    "dlwp.criteria",
    "dlwp.data.geometry",
    "dlwp.data.operations",
    "dlwp.observers.overfit",
    "dlwp.fitting.least_squares",
)
"""Modules of dlwp whose public classes are parts without being any of torch's kinds."""

_FUNCTIONS = {
    "dlwp.data.images": ("digits", "mnist", "fashion_mnist", "cifar10", "cifar100", "svhn"),
    "dlwp.data.imagefolder": ("imagefolder",),
    "dlwp.criteria": ("of_task",),
    "dlwp.data.arrays": ("arrays",),
    "dlwp.data.concat": ("concat",),
    "dlwp.data.huggingface": ("huggingface",),
    "dlwp.data.multilabel": ("multilabel",),
    "dlwp.data.none": ("none",),
    "dlwp.data.packed": ("packed",),
    "dlwp.data.segmentation": ("segmentation",),
    "dlwp.data.sequence": ("sequence",),
    "dlwp.data.synthetic": ("synthetic",),
    "dlwp.data.tables": ("table",),
    "dlwp.data.timeseries": ("timeseries",),
    "dlwp.models.timm": ("timm_network",),
    "dlwp.models.torchvision": ("torchvision_network",),
}
"""Module -> its functions that are parts; beside them, those that make torchvision's and timm's models."""

_OPTIONAL = {"timm": "timm", "torchmetrics": "torchmetrics"}


class Trust:
    """Which targets may be resolved.

    Args:
        everything: the config is the person's own.
        packages: further packages, typed by the person (`trust=[mine]`).
    """

    def __init__(self, everything: bool = True, packages: Collection[str] = ()) -> None:
        self._everything = everything
        self._packages = tuple(packages)

    def check_import(self, key: str, target: str) -> None:
        """Refuse a name whose import alone would run code that the rule does not allow.

        Raises:
            ConfigError: its package is neither a trusted one that is installed, nor in `trust`.
        """
        package = target.partition(".")[0]
        if not (self._everything or package in self._packages or (package in TRUSTED_PACKAGES and _installed(package))):
            raise self._refusal(key, target, package)

    def check(self, key: str, target: str, found: Any) -> None:
        """Refuse what the rule does not allow, judged by what the name resolved to, not by its spelling.

        Raises:
            ConfigError: it is not a part of a trusted package, nor of a package in `trust`.
        """
        package = (getattr(found, "__module__", None) or "").partition(".")[0]
        if not (self._everything or package in self._packages or _is_part(found)):
            raise self._refusal(key, target, package or type(found).__module__)

    def check_call(self, key: str, target: Any, arguments: Mapping[str, Any]) -> None:
        """Refuse arguments that let timm fetch a stranger's weights, or read them from a file.

        Raises:
            ConfigError: the config is not the person's own, and they are of that kind.
        """
        if self._everything or (getattr(target, "__module__", None) or "").partition(".")[0] != "timm":
            return
        doubtful = [one for one in arguments.values() if isinstance(one, str) and (":" in one or "/" in one)]
        if doubtful or any(arguments.get(name) for name in ("checkpoint_path", "pretrained_cfg", "cache_dir")):
            raise self._refusal(key, f"timm.{_name(target)}", "timm")

    @staticmethod
    def _refusal(key: str, target: str, package: str) -> ConfigError:
        return ConfigError(f"{key} wants to run '{target}'. If you trust its maker: trust=[{package}]")


def _installed(package: str) -> bool:
    """Return whether a package is an installed one: a folder of its name where the person stands is not."""
    spec = importlib.util.find_spec(package)
    places = list(spec.submodule_search_locations or ()) if spec is not None else []
    return spec is None or (bool(places) and all(Path(place).resolve().parent != Path.cwd() for place in places))


def _is_part(found: Any) -> bool:
    module, name = getattr(found, "__module__", None) or "", getattr(found, "__name__", "")
    if not inspect.isclass(found):
        if module.startswith("torchvision.models."):
            from torchvision.models._api import BUILTIN_MODELS

            return any(found is one for one in BUILTIN_MODELS.values())
        return name in _FUNCTIONS.get(module, ()) or (module, name) == ("timm.models._factory", "create_model")
    kinds = (
        torch.nn.Module, torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler, torch.utils.data.Dataset,
        torch.utils.data.Sampler,
    )  # fmt: skip
    if module in _PLAIN:
        return not name.startswith("_")
    is_transform = module.startswith("torchvision.transforms.")  # some of these are plain classes
    return bool(_PLACES.match(module)) and (issubclass(found, kinds) or is_transform)


def locate(target: Any, key: str, trust: Trust | None = None) -> Any:
    """Return what a dotted name stands for. The working directory is importable, after everything installed.

    Args:
        target: such as "torch.nn.Linear" or "my_file.MyModel".
        key: the key that holds it, for messages ("model._target_").
        trust: the rule; None trusts.

    Raises:
        ConfigError: no such module or name, or its import fails.
        MachineError: the package is an optional one that is not installed.
    """
    if not isinstance(target, str) or not target or any(not part.isidentifier() for part in target.split(".")):
        raise ConfigError(f"{key} must be the dotted name of a class or function, got {target!r}")
    trust = trust or Trust()
    trust.check_import(key, target)
    _make_working_directory_importable()
    parts = target.split(".")
    if parts[0] in ("torchvision", "timm", "torchmetrics"):
        from dlwp import torchvision_ops

        torchvision_ops.ensure_importable()
    found = _import(parts[0], key)
    if found is None:
        if parts[0] in _OPTIONAL:
            raise MachineError(f"{key} needs the package {parts[0]}: pip install '{_OPTIONAL[parts[0]]}'")
        raise ConfigError(
            f"{key}: no module '{parts[0]}'. Install it, or start from the folder that holds it (now: {Path.cwd()})"
        )
    for position, name in enumerate(parts[1:], 2):
        inner = getattr(found, name, None)
        if inner is None and isinstance(found, ModuleType):
            inner = _import(".".join(parts[:position]), key)
        if inner is None:
            where = getattr(found, "__name__", repr(found))
            raise ConfigError(f"{key}: {where} has no '{name}'.{did_you_mean(name, dir(found))}")
        found = inner
    if not callable(found):
        raise ConfigError(f"{key}: {target} is a {type(found).__name__}; a class or a function is needed")
    trust.check(key, target, found)
    return found


def _import(name: str, key: str) -> ModuleType | None:
    """Import a module; None where there is none of this name."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name == name or error.name is None:
            return None
        if "is not a package" in str(error):
            return None
        raise _import_failed(name, key, error) from error
    except DlwpError:
        raise
    except Exception as error:  # any error: it is the user's module that fails while it is imported
        raise _import_failed(name, key, error) from error


def _import_failed(name: str, key: str, error: Exception) -> ConfigError:
    found = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]
    place = frames.place(error) or (f"{found[-1].filename}:{found[-1].lineno}" if found else "")
    if isinstance(error, SyntaxError):
        place = f"{error.filename}:{error.lineno}"
    text = f"{key}: importing {name} failed{f' at {place}' if place else ''}: {type(error).__name__}: {error}"
    return ConfigError(text, frames.lines(error))


def _make_working_directory_importable() -> None:
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)  # last: a user's random.py must not shadow the library's


def takes(target: Callable[..., Any], name: str) -> bool:
    """Return whether a callable has an argument of this name (`**kwargs` does not count)."""
    parameter = _signature(target).get(name)
    return parameter is not None and parameter.kind is not parameter.VAR_KEYWORD


def _signature(target: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(target).parameters
    except (TypeError, ValueError):  # some builtins have none
        return {"kwargs": inspect.Parameter("kwargs", inspect.Parameter.VAR_KEYWORD)}


def instantiate(section: Any, key: str, trust: Trust | None = None, **given: Any) -> Any:
    """Build the object that a section describes: its `_target_`, called with the other keys.

    Sections nested in it that have a `_target_` are built first.

    Args:
        section: a plain mapping with `_target_`.
        key: its place in the config, for messages ("model").
        trust: the rule for what may be resolved.
        given: arguments that dlwp adds.

    Raises:
        ConfigError: the target cannot be found, an argument is unknown or missing, or the call fails.
    """
    target = locate(section.get("_target_"), f"{key}._target_", trust)
    arguments = {
        name: build_nested(value, f"{key}.{name}", trust) for name, value in section.items() if name != "_target_"
    }
    arguments |= given
    check_arguments(target, arguments, key)
    typed = {name: value for name, value in arguments.items() if name not in given}
    texts = {name: value for name, value in typed.items() if isinstance(value, str)}
    if wrong := _of_another_kind(target, texts, key):  # where it is true or false, any text would do for true
        raise ConfigError(wrong)
    (trust or Trust()).check_call(key, target, arguments)
    try:
        return target(**arguments)
    except (DlwpError, MemoryError, KeyboardInterrupt):
        raise
    except Exception as error:  # any error: the constructor is foreign code; it is told with the values it got
        if wrong := _of_another_kind(target, typed, key):
            raise ConfigError(wrong) from error
        shown = ", ".join(f"{name}={value!r}" for name, value in typed.items())
        if isinstance(error, OSError) and error.filename is not None:
            is_link = Path(error.filename).is_symlink() and not Path(error.filename).exists()
            why = "it is a link to what is not there" if is_link else str(error.strerror).lower()
            raise DataError(f"{key}: '{error.filename}' cannot be read: {why}") from error
        detail = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        where = f" at {frames.place(error)}" if frames.place(error) else ""
        text = f"{key}: {_name(target)}({_shorten(shown)}) failed{where}: {detail}"
        raise ConfigError(text, frames.lines(error)) from error


def _of_another_kind(target: Callable[..., Any], arguments: Mapping[str, Any], key: str) -> str:
    """Return a line on the first argument that is not of the number's kind that it is declared as, else ""."""
    try:
        hints = typing.get_type_hints(vars(target).get("__init__", target) if isinstance(target, type) else target)
    except (AttributeError, NameError, TypeError):  # builtins have none; some names are known to type checkers alone
        return ""
    words = {int: "a whole number", float: "a number", bool: "true or false", types.NoneType: "null"}
    for name, value in arguments.items():
        hint = hints.get(name)
        is_union = typing.get_origin(hint) in (types.UnionType, typing.Union)
        kinds = typing.get_args(hint) if is_union else (hint,)
        fits = isinstance(value, tuple(kind for kind in kinds if kind in words))
        if all(kind in words for kind in kinds) and not fits and not (float in kinds and isinstance(value, int)):
            return f"{key}.{name} must be {' or '.join(words[kind] for kind in kinds)}, got {value!r}"
    return ""


def build_nested(value: Any, key: str, trust: Trust | None) -> Any:
    """Return a value of the config with every section in it that has a `_target_` built, as by `instantiate`."""
    if isinstance(value, Mapping):
        if "_target_" in value:
            return instantiate(value, key, trust)
        return {name: build_nested(item, f"{key}.{name}", trust) for name, item in value.items()}
    if isinstance(value, list):
        return [build_nested(item, f"{key}[{index}]", trust) for index, item in enumerate(value)]
    return value


def take_off(
    section: Mapping[str, Any], schema: type, target: Callable[..., Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a section without the keys that dlwp reads itself, and those; a constructor's own argument stays.

    Args:
        schema: the dataclass of those keys. target: what the section's `_target_` stands for.
    """
    names = [one.name for one in dataclasses.fields(schema)]
    own = {name: section[name] for name in names if name in section}
    return {name: value for name, value in section.items() if name not in own or takes(target, name)}, own


def check_arguments(target: Callable[..., Any], arguments: Mapping[str, Any], key: str) -> None:
    """Compare arguments with the signature before the call, so that the message can name the key.

    Raises:
        ConfigError: one is unknown, or one is missing.
    """
    parameters = _signature(target)
    kinds = {parameter.kind for parameter in parameters.values()}
    named = [
        name
        for name, parameter in parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    ]
    if inspect.Parameter.VAR_KEYWORD not in kinds:
        for name in arguments:
            if name not in named:
                raise ConfigError(
                    f"{key}: {_name(target)} has no argument '{name}'.{did_you_mean(name, named)} "
                    f"It takes: {_shorten(', '.join(named)) or 'none'}"
                )
    for name in named:
        if parameters[name].default is inspect.Parameter.empty and name not in arguments:
            raise ConfigError(f"{key}: {_name(target)} needs '{name}'. Give {key}.{name}=...")


def _name(target: Any) -> str:
    return getattr(target, "__qualname__", type(target).__name__)


def _shorten(text: str, length: int = 100) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
