"""Own the manifest of a checkpoint: size and SHA-256 of each of its files, by which damage is found and named.

Knows nothing of what is in them.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from dlwp.errors import DataError
from dlwp.runs import files

NAME = "MANIFEST.json"
_LARGEST = 32 * 2**20
_STEP = re.compile(r"step-(\d{8,})")


class _Damage(Exception):
    """What is wrong with a file, before the way out is known."""


def noted(pieces: Iterable[bytes | memoryview], name: str, entries: dict[str, Any]) -> Iterator[bytes | memoryview]:
    """Pass the pieces of a file on, and note in `entries` what the manifest says of it once all have gone through."""
    size, digest = 0, hashlib.sha256()
    for piece in pieces:
        size += len(piece)
        digest.update(piece)
        yield piece
    entries[name] = {"size": size, "sha256": digest.hexdigest()}


def text_of(entries: Mapping[str, Any]) -> bytes:
    """Return the manifest of files, name -> {"size", "sha256"}, with a SHA-256 of its own body."""
    return _with_own_hash({"files": dict(entries)})


def verified(folder: Path, name: str, manifest: Mapping[str, Any] | None = None) -> bytes:
    """Return the bytes of one file, read once and compared with the manifest.

    Args:
        folder: the checkpoint. name: of the file.
        manifest: what `read` gave; None reads it.

    Raises:
        DataError: it is missing, changed, cut or lengthened; it is named, and the newest checkpoint that is whole.
    """
    manifest = read(folder) if manifest is None else manifest
    try:
        return _bytes(folder, name, manifest)
    except _Damage as damage:
        raise DataError(f"{damage}.{_way_out(folder)}") from damage


def read(folder: Path) -> dict[str, Any]:
    """Return name -> {"size", "sha256"} of a checkpoint's files.

    Raises:
        DataError: there is none, or it is damaged.
    """
    try:
        return _entries(folder)
    except _Damage as damage:
        raise DataError(f"{damage}.{_way_out(folder)}") from damage


def is_complete(folder: Path) -> bool:
    """Return whether every file that the manifest names is there with its size and SHA-256."""
    try:
        entries = _entries(folder)
        for name in sorted(entries, key=lambda name: int(entries[name]["size"])):
            _bytes(folder, name, entries)
    except _Damage:
        return False
    return True


def newest_complete(parent: Path, without: Path | None = None) -> Path | None:
    """Return the checkpoint in `parent` with the highest step of which every byte is as written, None if none is."""
    found = [path for path in parent.glob("step-*") if _STEP.fullmatch(path.name) and path != without]
    newest_first = sorted(found, key=lambda path: -int(path.name[5:]))
    return next((path for path in newest_first if is_complete(path)), None)


def instead_of(checkpoint: Path) -> tuple[Path, list[str]]:
    """Return the checkpoint itself where it is whole, else the newest whole one beside it, and a warning that says so.

    Raises:
        DataError: it is damaged, and no other is whole.
    """
    try:
        entries = _entries(checkpoint)
        for name in entries:
            _bytes(checkpoint, name, entries)
    except _Damage as damage:
        whole = newest_complete(checkpoint.parent, checkpoint)
        if whole is None:
            raise DataError(f"{damage}.{_way_out(checkpoint)}") from damage
        return whole, [f"{damage}: going on from {whole.name} instead (resume_fallback=true)"]
    return checkpoint, []


def _entries(folder: Path) -> dict[str, Any]:
    try:
        data = files.read_regular(folder / NAME, _LARGEST)
        entries = json.loads(data)["files"]
        if _with_own_hash({"files": entries}) != data:
            raise ValueError("its own sha256 differs")
        return {str(name): {"size": int(found["size"]), "sha256": found["sha256"]} for name, found in entries.items()}
    except OSError as error:
        raise _Damage(f"{folder / NAME} cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _Damage(f"{folder / NAME} is damaged ({error})") from error


def _bytes(folder: Path, name: str, entries: Mapping[str, Any]) -> bytes:
    if name not in entries or Path(name).name != name:
        raise _Damage(f"{folder} holds no {name}")
    if entries[name]["size"] > _LARGEST and not name.endswith(".safetensors"):
        raise _Damage(f"{folder / name} has more than {_LARGEST:,} bytes")
    try:
        data = files.read_regular(folder / name, max(entries[name]["size"], _LARGEST))
    except OSError as error:
        raise _Damage(f"{folder / name} cannot be read ({error.strerror})") from error
    if len(data) != entries[name]["size"]:
        raise _Damage(f"{folder / name} is damaged ({len(data):,} bytes, expected {entries[name]['size']:,})")
    if entry(data) != entries[name]:
        raise _Damage(f"{folder / name} is damaged (sha256 differs)")
    return data


def entry(data: bytes) -> dict[str, Any]:
    """Return what the manifest says of a file with these bytes."""
    return {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _way_out(folder: Path) -> str:
    whole = newest_complete(folder.parent, folder)
    if whole is None:
        return " No other whole checkpoint is there"
    word = shlex.quote(f"resume={whole}")
    return f" Newest whole one: step {int(whole.name[5:]):,}, taken by resume_fallback=true or {word}"


def _with_own_hash(body: dict[str, Any]) -> bytes:
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
    text = json.dumps({**body, "sha256": hashlib.sha256(canonical).hexdigest()}, indent=1)
    return (text + "\n").encode()
