"""Own the fetching of files over the network, and the unpacking of archives: whole and verified, or not at all.

Knows nothing of what is in them. A file in the making is NAME.part; its name comes with its checksum, never before.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import http.client
import os
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlparse
from urllib.request import Request, build_opener

from dlwp.errors import DataError
from dlwp.runs import files

_TRIES = 5
_BLOCK = 2**18
_AGAIN = (408, 425, 429, 500, 502, 503, 504)
_RATIO = 200
_MEMBERS = 100_000


@dataclass(frozen=True)
class Source:
    """A file that can be fetched.

    Args:
        path: where it belongs. urls: where it lies, the first that answers is taken.
        digest: its checksum, or how that begins, of the kind `algorithm` ("md5" or "sha256").
    """

    path: Path
    urls: tuple[str, ...]
    digest: str
    algorithm: str = "md5"

    @property
    def host(self) -> str | None:
        """The first address's host."""
        return urlparse(self.urls[0]).hostname


class UnreachableError(Exception):
    """No address of a source gave the file; the text says why, or is empty where nobody answered."""


def digest_of(path: Path, algorithm: str = "md5") -> str:
    """Return the checksum of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def is_page(path: Path) -> bool:
    """Return whether a file looks like a web page."""
    with path.open("rb") as file:
        start = file.read(256).lstrip().lower()
    return start.startswith((b"<!doctype html", b"<html"))


def fetch(source: Source, *, pause_s: float = 0.5, timeout_s: float = 30.0, progress: bool | None = None) -> None:
    """Fetch a file that is not there; of several processes that want the same, one fetches and the others wait.

    What an earlier process left half-done is gone on with, if the server says that the file is still the same. A busy
    server and a broken connection are tried again, as long as something comes.

    Args:
        source: what to fetch. pause_s: before the second try; it doubles with each. timeout_s: of a silent server.
        progress: whether to show a bar; None shows it on a terminal.

    Raises:
        UnreachableError: no address answers with it.
        DataError: what came has another checksum; it is removed.
        OSError: it cannot be written.
    """
    path = source.path
    files.make_folders(path.parent)
    with _alone(path.with_name(f"{path.name}.lock")):
        if path.exists():
            return  # somebody was faster; a file gets this name only with its checksum
        part = path.with_name(f"{path.name}.part")
        for url in source.urls:
            try:
                _complete(url, part, source, pause_s, timeout_s, progress)
                break
            except UnreachableError:
                if url == source.urls[-1]:
                    raise
        files.fsync_file(part)
        files.rename(part, path)
        files.remove(_validator_of(part))


@contextlib.contextmanager
def _alone(lock: Path) -> Iterator[None]:
    with files.open_part(lock, 0) as file:
        with contextlib.suppress(OSError):  # no locks here: two may fetch the same, and the checksum decides
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
    files.remove(lock)  # only now that the file is there: whoever still waits for this one finds it


def _complete(url: str, part: Path, source: Source, pause_s: float, timeout_s: float, progress: bool | None) -> None:
    """Fetch until the part is whole and verified; a part begun by an earlier process gets a second chance from 0."""
    went_on = part.exists() and part.stat().st_size > 0
    while True:
        _receive(url, part, source.path.name, pause_s, timeout_s, progress)
        found = digest_of(part, source.algorithm)
        if found.startswith(source.digest):
            return
        page = " (it looks like a web page)" if is_page(part) else ""
        files.remove(part)
        if not went_on:
            text = f"{source.algorithm} is {found[:8]}…, expected {source.digest[:8]}…{page}"
            raise DataError(f"{source.path.name} from {urlparse(url).hostname}: {text}. Not kept; try again")
        went_on = False


def _receive(url: str, part: Path, title: str, pause_s: float, timeout_s: float, progress: bool | None) -> None:
    failures, received = 0, False
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            _receive_once(url, part, title, timeout_s, progress)
            return
        except HTTPError as error:
            error.close()
            if error.code == 416:  # the part is longer than the file: it is of another
                files.remove(part)
            elif error.code not in _AGAIN:
                raise UnreachableError(f"HTTP {error.code}") from None
            why = f"HTTP {error.code}"
        except (TimeoutError, URLError, http.client.HTTPException, ConnectionError, EOFError) as error:
            if isinstance(error, URLError) and not received and not isinstance(error.reason, TimeoutError):
                raise UnreachableError("") from None
            why = str(error)
        grown = part.exists() and part.stat().st_size > before
        received |= grown
        failures = 0 if grown else failures + 1
        if failures >= _TRIES:
            raise UnreachableError(why)
        time.sleep(pause_s * 2 ** min(failures, 5) / 2)


def _receive_once(url: str, part: Path, title: str, timeout_s: float, progress: bool | None) -> None:
    from tqdm import tqdm

    headers = {"User-Agent": "dlwp", "Accept-Encoding": "identity"}
    validator = _validator_of(part)
    known = validator.read_text() if validator.exists() else ""
    begin = part.stat().st_size if part.exists() and known.startswith(f"{url}\n") else 0
    if begin:
        headers |= {"Range": f"bytes={begin}-", "If-Range": known.partition("\n")[2]}
    with build_opener().open(
        Request(url, headers=headers), timeout=timeout_s
    ) as answer:  # by the proxies of this moment
        if answer.status != 206 or not (answer.headers["Content-Range"] or "").startswith(f"bytes {begin}-"):
            if answer.status == 206:
                files.remove(validator)
                raise EOFError("it sent another part than was asked for")
            begin = 0
        length = answer.headers["Content-Length"]
        total = begin + int(length) if (length or "").isdigit() else None
        tag = answer.headers["ETag"] or answer.headers["Last-Modified"] or ""
        if begin == 0:
            files.remove(part)
            files.remove(validator)
            if tag and not tag.startswith("W/"):
                files.write_atomic(validator, f"{url}\n{tag}")
        bar = tqdm(total=total, initial=begin, desc=title, unit="B", unit_scale=True, disable=_hidden(progress))
        with bar, files.open_part(part, begin) as file:
            while block := answer.read(_BLOCK):
                file.write(block)
                bar.update(len(block))
            count = file.tell()
    if total is not None and count < total:
        raise EOFError(f"{count:,} of {total:,} bytes came")


def _hidden(progress: bool | None) -> bool | None:
    return None if progress is None else not progress


def _validator_of(part: Path) -> Path:
    return part.with_name(f"{part.name}.tag")


# ---- archives -------------------------------------------------------------------------------------------------------


def unpack(archive: Path, folder: Path, name: str) -> None:
    """Unpack `name`/ of a tar archive to `folder`/`name`, in one go: a folder of this name is whole.

    Raises:
        DataError: the archive is damaged, or a member is no plain file inside; it is named.
        OSError: it cannot be written.
    """
    temporary = folder / f".tmp-{name}-{files.unique()}"
    files.make_folder(temporary)
    try:
        with tarfile.open(archive) as tar:
            for member in _checked(archive, tar, name):
                tar.extract(member, temporary, filter="data")
        for file in (temporary / name).rglob("*"):
            if file.is_file():
                files.fsync_file(file)
        if (folder / name).exists():
            files.rename(folder / name, folder / f".trash-{name}-{files.unique()}")
        files.rename(temporary / name, folder / name)
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise DataError(f"{archive} cannot be unpacked ({error}). Remove it and try again") from error
    except OSError as error:
        if error.errno in (None, errno.ENOENT):  # gzip's own "not a gzipped file" has none
            raise DataError(f"{archive} cannot be unpacked ({error}). Remove it and try again") from error
        raise
    finally:
        files.remove_tree(temporary)
        for left in folder.glob(f".trash-{name}-*"):
            files.remove_tree(left)


def _checked(archive: Path, tar: tarfile.TarFile, name: str) -> list[tarfile.TarInfo]:
    """Return the members, after refusing what an honest data set does not hold."""
    limit, total = _RATIO * archive.stat().st_size, 0
    seen: set[str] = set()
    found: list[tarfile.TarInfo] = []
    for member in tar:  # one at a time: a list of all would be as long as a stranger likes
        path = os.path.normpath(member.name)
        total += member.size
        why = None
        if path.partition("/")[0] != name or member.name.startswith("/") or ".." in member.name.split("/"):
            why = f"lies outside {name}/"
        elif not (member.isreg() or member.isdir()):
            why = "is no plain file"
        elif path in seen and member.isreg():
            why = "is there twice"
        elif total > limit or len(found) >= _MEMBERS:
            why = f"makes it more than {limit:,} bytes or {_MEMBERS:,} files"
        if why is not None:
            raise DataError(f"{archive}: the member '{member.name[:100]}' {why}. Remove the archive")
        seen.add(path)
        found.append(member)
    return found


def unpack_gzip(packed: Path, path: Path, limit: int) -> None:
    """Unpack a gzip file of at most `limit` bytes to `path`, in one go.

    Raises:
        DataError: it is damaged, or holds more.
        OSError: it cannot be written.
    """
    import gzip
    import zlib

    try:
        with gzip.open(packed) as file:
            data: Any = file.read(limit + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{packed} cannot be unpacked ({error}). Remove it and try again") from error
    if len(data) > limit:
        raise DataError(f"{packed} holds more than {limit:,} bytes. Remove it and try again")
    files.write_atomic(path, data)
