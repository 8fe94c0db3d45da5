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

import hashlib
import json
import re
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import safetensors.torch
from torch import Tensor

from dlwp import __version__
from dlwp.errors import DataError, MachineError
from dlwp.runs import files

FORMAT_VERSION = 1
"""Of state.json; a rise needs a migration."""

_TENSOR = "$tensor"
_MANIFEST = "MANIFEST.json"


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


def save(parent: Path, step: int, state: Survivor, config_text: str) -> Path:
    """Write `parent`/step-XXXXXXXX whole or not at all, and return its path.

    Written under a temporary name, each file synced and the manifest last, then renamed; a complete one of the same
    step is kept as it is.

    Raises:
        OSError: the disk is full, read-only, or gone; nothing is left behind.
    """
    final = parent / name_of(step)
    if final.exists():
        if is_complete(final):
            return final
        files.rename(final, parent / f".broken-{final.name}-{files.unique()}")
    contents = _contents(state, config_text)
    entries = {name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in contents.items()}
    contents[_MANIFEST] = _with_own_hash({"files": entries})
    temporary = parent / f".tmp-{final.name}-{files.unique()}"
    files.make_folder(temporary)
    try:
        for name, data in contents.items():
            files.write_synced(temporary / name, data)
        files.fsync_folder(temporary)
        files.rename(temporary, final)
    except OSError:
        files.remove_tree(temporary)
        raise
    return final


def _contents(state: Survivor, config_text: str) -> dict[str, bytes]:
    contents, skeletons, aliases = {}, {}, {}
    for group, nested in state.tensors().items():
        tensors: dict[str, Tensor] = {}
        skeletons[group] = _flatten(nested, "", tensors)
        aliases[group] = _take_aliases(tensors)
        plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        contents[f"{group}.safetensors"] = safetensors.torch.save(plain, metadata={"format": "pt"})
    record = {
        "format_version": FORMAT_VERSION,
        "dlwp": __version__,
        "torch": metadata.version("torch"),
        **state.record(),
        "structure": skeletons,
        "aliases": {group: found for group, found in aliases.items() if found},
    }
    contents["state.json"] = (json.dumps(record, indent=1, allow_nan=False) + "\n").encode()
    contents["config.yaml"] = config_text.encode()
    return contents


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


def load(folder: Path, groups: Sequence[str] | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read a checkpoint and return (group -> nested tensors, record), every byte read checked against the manifest.

    Args:
        folder: the checkpoint.
        groups: the groups of tensors to read, such as ["model"]; None reads all.

    Raises:
        DataError: a file is missing, changed, cut or lengthened; it is named.
        MachineError: it was made by a newer dlwp.
    """
    manifest = read_manifest(folder)
    record = json.loads(_verified(folder, "state.json", manifest))
    if record["format_version"] > FORMAT_VERSION:
        raise MachineError(
            f"{folder} was made by dlwp {record['dlwp']} (format {record['format_version']}), this is {__version__} "
            f"(reads up to {FORMAT_VERSION}). pip install 'dlwp>={record['dlwp']}'"
        )
    structure, aliases = record.pop("structure"), record.pop("aliases")
    found = {}
    for group in structure if groups is None else groups:
        if group not in structure:
            raise DataError(f"{folder} holds no {group}. It holds: {', '.join(structure)}")
        tensors = safetensors.torch.load(_verified(folder, f"{group}.safetensors", manifest))
        tensors |= {name: tensors[kept] for name, kept in aliases.get(group, {}).items()}
        found[group] = _unflatten(structure[group], tensors)
    if groups is None:
        _verified(folder, "config.yaml", manifest)
    return found, record


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return name -> {"size", "sha256"} of a checkpoint's files.

    Raises:
        DataError: there is none, or it is damaged.
    """
    try:
        data = (folder / _MANIFEST).read_bytes()
        manifest = json.loads(data)
        if _with_own_hash({"files": manifest["files"]}) != data:
            raise ValueError("its own sha256 differs")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder / _MANIFEST} is damaged ({error}).{_way_out(folder)}") from error
    return manifest["files"]


def is_complete(folder: Path) -> bool:
    """Return whether every file that the manifest names is there with its size and SHA-256."""
    try:
        manifest = read_manifest(folder)
        for name in manifest:
            _verified(folder, name, manifest)
    except DataError:
        return False
    return True


def _verified(folder: Path, name: str, manifest: dict[str, Any]) -> bytes:
    if name not in manifest or Path(name).name != name:
        raise DataError(f"{folder} holds no {name}")
    try:
        data = (folder / name).read_bytes()
    except OSError as error:
        raise DataError(f"{folder / name} cannot be read ({error.strerror}).{_way_out(folder)}") from error
    if len(data) != manifest[name]["size"]:
        raise DataError(
            f"{folder / name} is damaged ({len(data):,} bytes, expected {manifest[name]['size']:,}).{_way_out(folder)}"
        )
    if hashlib.sha256(data).hexdigest() != manifest[name]["sha256"]:
        raise DataError(f"{folder / name} is damaged (sha256 differs).{_way_out(folder)}")
    return data


def _way_out(folder: Path) -> str:
    others = sorted((other.name for other in folder.parent.glob("step-*") if other.name != folder.name), reverse=True)
    return f" Another: resume={folder.parent / others[0]}" if others else " No other checkpoint is there"


def _with_own_hash(body: dict[str, Any]) -> bytes:
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
    text = json.dumps({**body, "sha256": hashlib.sha256(canonical).hexdigest()}, indent=1)
    return (text + "\n").encode()
