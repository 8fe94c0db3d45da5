"""A file that was fetched is whole and verified, and an archive unpacks whole, inside its folder, or not at all."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dlwp import downloads
from dlwp.downloads import Source, UnreachableError, fetch, unpack, unpack_gzip
from dlwp.errors import DataError
from torture.downloads import HostileServer

BODY = bytes(range(256)) * 4000


@contextmanager
def serving(server: HostileServer) -> Iterator[HostileServer]:
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def source(server: HostileServer, folder: Path, *before: str) -> Source:
    digest = hashlib.md5(server.body).hexdigest()
    return Source(folder / "new" / "set.bin", (*before, server.url), digest)


def take(one: Source) -> None:
    fetch(one, pause_s=0.01, timeout_s=5.0, progress=False)


def test_a_broken_download_is_gone_on_with(tmp_path: Path) -> None:
    with serving(HostileServer(BODY, cuts=[300_000, 300_000])) as server:
        one = source(server, tmp_path)
        take(one)
        assert one.path.read_bytes() == BODY
        assert [path.name for path in one.path.parent.iterdir()] == ["set.bin"]
        assert server.asked == 3 and server.sent == len(BODY)
        take(one)
        assert server.asked == 3


@pytest.mark.parametrize(
    ("fault", "cuts"),
    [
        ("503 then fine", []),
        ("changed between", []),
        ("longer than it says", []),
        ("no ranges", [100_000]),
        ("another part", [100_000]),
    ],
)
def test_a_fault_that_passes_is_gone_through(fault: str, cuts: list[int], tmp_path: Path) -> None:
    with serving(HostileServer(BODY, cuts, fault)) as server:
        one = source(server, tmp_path)
        take(one)
        assert one.path.read_bytes() == BODY


@pytest.mark.parametrize(("fault", "page"), [("a page", r" \(it looks like a web page\)"), ("wrong bytes", "")])
def test_what_has_another_checksum_is_not_kept(fault: str, page: str, tmp_path: Path) -> None:
    with serving(HostileServer(BODY, fault=fault)) as server:
        one = source(server, tmp_path)
        told = rf"^set\.bin from 127\.0\.0\.1: md5 is \w{{8}}…, expected {one.digest[:8]}…{page}\. Not kept; try again$"
        with pytest.raises(DataError, match=told):
            take(one)
        assert not one.path.exists() and not one.path.with_name("set.bin.part").exists()


def test_a_part_that_somebody_left_is_not_believed(tmp_path: Path) -> None:
    with serving(HostileServer(BODY)) as server:
        one = source(server, tmp_path)
        one.path.parent.mkdir()
        part = one.path.with_name("set.bin.part")
        part.write_bytes(b"rubbish")
        part.with_name("set.bin.part.tag").write_text(f'{server.url}\n"{one.digest}"')
        take(one)
        assert one.path.read_bytes() == BODY


def test_the_next_address_is_asked_and_who_answers_nothing_is_told(tmp_path: Path) -> None:
    with serving(HostileServer(BODY)) as server:
        one = source(server, tmp_path, "http://127.0.0.1:9/set.bin")
        take(one)
        assert one.path.read_bytes() == BODY
    with pytest.raises(UnreachableError, match=r"^$"):
        take(Source(tmp_path / "x", ("http://127.0.0.1:9/x",), "0"))


def pack(path: Path, *members: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for member in members:
            archive.addfile(member, io.BytesIO(b"x" * member.size))
    return path


def member(name: str, size: int = 3, **fields: object) -> tarfile.TarInfo:
    found = tarfile.TarInfo(name)
    found.size = size
    for field, value in fields.items():
        setattr(found, field, value)
    return found


def test_an_archive_takes_the_place_of_a_half_one(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "half").touch()
    archive = pack(tmp_path / "set.tar.gz", member("set/a"), member("set/deep/b", 5))
    unpack(archive, tmp_path, "set")
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()) == [
        "set.tar.gz", "set/a", "set/deep/b",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("one", "why"),
    [
        (member("set/../../evil"), "lies outside set/"),
        (member("/tmp/evil"), "lies outside set/"),
        (member("other/a"), "lies outside set/"),
        (member("set/c", 0, type=tarfile.SYMTYPE, linkname="/etc"), "is no plain file"),
        (member("set/c", 0, type=tarfile.LNKTYPE, linkname="../x"), "is no plain file"),
        (member("set/c", 0, type=tarfile.CHRTYPE), "is no plain file"),
        (member("set/a"), "is there twice"),
        (member("set/c", 3_000_000), "makes it more than"),
    ],
)
def test_a_member_that_no_honest_archive_has_is_named(one: tarfile.TarInfo, why: str, tmp_path: Path) -> None:
    archive = pack(tmp_path / "set.tar.gz", member("set/a"), one)
    with pytest.raises(DataError, match=rf"the member '{one.name}' {why}"):
        unpack(archive, tmp_path, "set")
    assert [path.name for path in tmp_path.iterdir()] == ["set.tar.gz"]


def test_a_damaged_archive_leaves_nothing(tmp_path: Path) -> None:
    archive = pack(tmp_path / "set.tar.gz", member("set/a", 10_000))
    for data in (archive.read_bytes()[:-20], b"<html>"):
        archive.write_bytes(data)
        with pytest.raises(DataError, match="cannot be unpacked"):
            unpack(archive, tmp_path, "set")
        assert [path.name for path in tmp_path.iterdir()] == ["set.tar.gz"]


def test_a_packed_file_is_unpacked_up_to_its_size(tmp_path: Path) -> None:
    packed = tmp_path / "a.gz"
    packed.write_bytes(gzip.compress(bytes(1000)))
    unpack_gzip(packed, tmp_path / "a", 1000)
    assert (tmp_path / "a").read_bytes() == bytes(1000)
    with pytest.raises(DataError, match="more than 999 bytes"):
        unpack_gzip(packed, tmp_path / "b", 999)
    packed.write_bytes(packed.read_bytes()[:-9])
    with pytest.raises(DataError, match="cannot be unpacked"):
        unpack_gzip(packed, tmp_path / "b", 1000)
    assert not (tmp_path / "b").exists() and downloads.is_page(packed) is False
