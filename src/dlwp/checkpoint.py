"""Own a checkpoint: a folder that is written whole or not at all, and read without trust.

Knows nothing of the trainer: what is saved is anything with `tensors()` and `record()`. No pickle anywhere.

    step-00001200/
      model.safetensors        weights and buffers, by name
      optimizer.safetensors    by parameter name
      ema.safetensors          where averaged weights are kept
      state.json               progress and all that is not a tensor; versions
      config.yaml              resolved; enough to rebuild the model and its preprocessing
      MANIFEST.json            size and SHA-256 of each, written last
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import safetensors.torch
import torch
from torch import Tensor

from dlwp import __version__, sharding, tensor_file
from dlwp.errors import DataError, MachineError
from dlwp.runs import files, manifest

FORMAT_VERSION = 1
"""Of state.json; a rise needs a migration."""

MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}
"""Format n -> what makes of its record, plain containers, one of n + 1; never edited once n + 1 is released."""

_TENSOR = "$tensor"


class Survivor(Protocol):
    """What can be saved: tensors in named, nested groups ("model", "optimizer", "ema") and a JSON-able record."""

    def tensors(self) -> dict[str, Any]:
        """Return group -> nested containers of tensors and JSON values."""
        ...

    def record(self) -> dict[str, Any]:
        """Return all that is not a tensor."""
        ...


def name_of(step: int) -> str:
    """Return the folder name of a step.

    >>> name_of(1200)
    'step-00001200'
    """
    return f"step-{step:08d}"


def step_of(folder: Path) -> int:
    """Return the step in a checkpoint folder's name.

    Raises:
        DataError: the name is not one of a checkpoint.
    """
    match = re.fullmatch(r"step-(\d{8,})", folder.name)
    if match is None:
        raise DataError(f"'{folder}' is not a checkpoint (a folder named step-00001200)")
    return int(match[1])


@dataclass(frozen=True)
class Snapshot:
    """A state at one step, ready to be written: tensors by file and name, and the record that goes with them."""

    step: int
    tensors: dict[str, dict[str, Tensor]]
    record: dict[str, Any]
    config_text: str

    def copy(self) -> Snapshot:
        """Return one that later steps do not change, in the host's memory."""
        groups = {group: {name: _copy(one) for name, one in found.items()} for group, found in self.tensors.items()}
        return dataclasses.replace(self, tensors=groups)


def snapshot(step: int, state: Survivor, config_text: str, *, copied: bool = False) -> Snapshot:
    """Take hold of a state.

    Args:
        step: of the state.
        state: what is saved.
        config_text: config.yaml.
        copied: copy every tensor into the host's memory, so that training may go on while it is written.
    """
    groups, skeletons, aliases = {}, {}, {}
    for group, nested in state.tensors().items():
        tensors: dict[str, Tensor] = {}
        skeletons[group] = _flatten(nested, "", tensors)
        found = sharding.to_first(tensors)
        aliases[group] = _take_aliases(found)
        copies = copied and found is tensors
        groups[group] = {name: _copy(tensor) if copies else tensor.detach() for name, tensor in found.items()}
    record = {
        "format_version": FORMAT_VERSION,
        "dlwp": __version__,
        "torch": metadata.version("torch"),
        **state.record(),
        "structure": skeletons,
        "aliases": {group: found for group, found in aliases.items() if found},
    }
    return Snapshot(step, groups, record, config_text)


def size(state: Survivor) -> int:
    """Return the bytes of a state's tensors."""
    tensors: dict[str, Tensor] = {}
    _flatten(state.tensors(), "", tensors)
    return sum(tensor.nbytes for tensor in tensors.values())


def write(parent: Path, taken: Snapshot) -> Path:
    """Write `parent`/step-XXXXXXXX whole or not at all, and return its path.

    Written under a temporary name, each file synced and the manifest last, then renamed; a complete one of the same
    step is kept as it is.

    Raises:
        OSError: the disk is full, read-only, or gone; nothing is left behind.
    """
    final = parent / name_of(taken.step)
    if final.exists():
        if manifest.is_complete(final):
            return final
        files.rename(final, parent / f".broken-{final.name}-{files.unique()}")
    temporary = parent / f".tmp-{final.name}-{files.unique()}"
    files.make_folder(temporary)
    try:
        entries: dict[str, Any] = {}
        for name, pieces in _contents(taken):
            files.write_synced(temporary / name, manifest.noted(pieces, name, entries))
        files.write_synced(temporary / manifest.NAME, manifest.text_of(entries))
        files.fsync_folder(temporary)
        files.rename(temporary, final)
    except BaseException:
        files.remove_tree(temporary)
        raise
    return final


def save(parent: Path, step: int, state: Survivor, config_text: str) -> Path:
    """Take a snapshot and write it: see `write`."""
    return write(parent, snapshot(step, state, config_text))


def _copy(tensor: Tensor) -> Tensor:
    """Return a copy on the host, contiguous, with its own memory."""
    return torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor.detach())


def _contents(taken: Snapshot) -> Iterator[tuple[str, Iterable[bytes | memoryview]]]:
    """Yield name and pieces of each file; tensors are written as they lie, one after the other, without a copy."""
    for group, tensors in taken.tensors.items():
        yield f"{group}.safetensors", tensor_file.pieces(tensors)
    yield "state.json", [(json.dumps(taken.record, indent=1, allow_nan=False) + "\n").encode()]
    yield "config.yaml", [taken.config_text.encode()]


def _flatten(nested: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """Put the tensors of nested containers into `tensors` by path, and return what is left, with their names."""
    if isinstance(nested, Tensor):
        tensors[path] = nested
        return {_TENSOR: path}
    if isinstance(nested, dict):
        return {
            str(key): _flatten(value, f"{path}/{key}" if path else str(key), tensors) for key, value in nested.items()
        }
    if isinstance(nested, list | tuple):
        return [_flatten(value, f"{path}/{index}", tensors) for index, value in enumerate(nested)]
    return nested


def _unflatten(skeleton: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(skeleton, dict):
        if set(skeleton) == {_TENSOR}:
            return tensors[skeleton[_TENSOR]]
        return {key: _unflatten(value, tensors) for key, value in skeleton.items()}
    if isinstance(skeleton, list):
        return [_unflatten(value, tensors) for value in skeleton]
    return skeleton


def _take_aliases(tensors: dict[str, Tensor]) -> dict[str, str]:
    """Take tensors that are another's memory (tied weights) out of `tensors`, and return name -> the name kept."""
    seen: dict[tuple[Any, ...], str] = {}
    aliases = {}
    for name, tensor in list(tensors.items()):
        key = (tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if tensor.numel() and key in seen:
            aliases[name] = seen[key]
            del tensors[name]
        else:
            seen[key] = name
    return aliases


def load(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read a whole checkpoint and return (group -> nested tensors, record), every byte checked against the manifest.

    Raises:
        DataError: a file is missing, changed, cut or lengthened; it is named.
        MachineError: it was made by a newer dlwp.
    """
    found = _load(folder, list)
    manifest.verified(folder, "config.yaml")
    return found


def load_weights(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read the weights that are evaluated, the averaged ones where they are kept, and the record; nothing else is read.

    Returns:
        (name -> tensor, record).

    Raises:
        As `load`, of the files that are read.
    """
    found, record = _load(folder, lambda groups: ["ema" if "ema" in groups else "model"])
    [weights] = found.values()
    return weights, record


def _load(folder: Path, choose: Callable[[Iterable[str]], list[str]]) -> tuple[dict[str, Any], dict[str, Any]]:
    entries = manifest.read(folder)
    record = _record(folder, entries)
    found = {}
    try:
        structure, aliases = record.pop("structure"), record.pop("aliases")
        for group in choose(structure):
            tensors = safetensors.torch.load(manifest.verified(folder, f"{group}.safetensors", entries))
            tensors |= {name: tensors[kept] for name, kept in aliases.get(group, {}).items()}
            found[group] = _unflatten(structure[group], tensors)
    except (safetensors.SafetensorError, LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        why = f"{type(error).__name__}: {str(error)[:100]}"
        raise DataError(f"{folder} is no checkpoint of dlwp, although its files are whole ({why})") from error
    return found, record


def _record(folder: Path, entries: dict[str, Any]) -> dict[str, Any]:
    """Return what state.json holds, brought to this format; the file stays as it is."""
    try:
        record = json.loads(manifest.verified(folder, "state.json", entries))
        version, made_by = int(record["format_version"]), str(record["dlwp"])
        if version <= FORMAT_VERSION:
            for number in range(version, FORMAT_VERSION):
                record = MIGRATIONS[number](record)
            return record
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise DataError(f"{folder / 'state.json'} is no record of a run ({type(error).__name__}: {error})") from error
    raise MachineError(
        f"{folder} was made by dlwp {made_by[:40]} (format {version}), this is {__version__} "
        f"(reads up to {FORMAT_VERSION}). pip install 'dlwp>={made_by[:40]}'"
    )
