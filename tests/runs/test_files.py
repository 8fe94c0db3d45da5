"""What the one door to the disk promises: whole or not at all, in one write, with the person's umask."""

from __future__ import annotations

import errno
import os
import stat
import threading
from pathlib import Path
from typing import Any

import pytest

from dlwp.runs import files


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "summary.json"
    files.write_atomic(path, "old")

    def refuse(*arguments: Any, **keywords: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for name in ("write", "fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(files.os, name, refuse)
            with pytest.raises(OSError, match="No space"):
                files.write_atomic(path, "new" * 1000)
        assert path.read_text() == "old"
        assert [found.name for found in tmp_path.iterdir()] == ["summary.json"]
    files.write_atomic(path, b"new")
    assert path.read_text() == "new"


def test_everything_is_synced_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    real_fsync, real_replace = os.fsync, os.replace

    def fsync(descriptor: int) -> None:
        calls.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        real_fsync(descriptor)

    def replace(*names: Any) -> None:
        calls.append("replace")
        real_replace(*names)

    monkeypatch.setattr(files.os, "fsync", fsync)
    monkeypatch.setattr(files.os, "replace", replace)
    files.write_atomic(tmp_path / "a", "b")
    assert calls == ["file", "replace", "folder"]


def test_a_line_that_does_not_fit_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "metrics.jsonl"
    assert files.append_line(path, "one") == 4
    real = os.write
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "write", lambda descriptor, data: real(descriptor, data[:2]))
        with pytest.raises(OSError) as caught:
            files.append_line(path, "three")
    assert caught.value.errno == errno.ENOSPC
    assert path.read_bytes() == b"one\n"
    assert files.append_line(path, "four") == 9


def test_a_reader_never_meets_a_broken_complete_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    over, broken = threading.Event(), []

    def read() -> None:
        while not over.is_set():
            data = path.read_bytes() if path.exists() else b""
            lines = data[: data.rfind(b"\n") + 1].splitlines()
            broken.extend(line for line in lines[-3:] if len(line) != 500)

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(1000):
        files.append_line(path, "x" * 500)
    over.set()
    reader.join()
    assert broken == []


def test_cutting_keeps_what_is_cut_off(tmp_path: Path) -> None:
    path, kept = tmp_path / "metrics.jsonl", tmp_path / "metrics.cut.jsonl"
    path.write_bytes(b"one\ntwo\nthree\ntor")
    files.cut(path, 8, kept)
    assert (path.read_bytes(), kept.read_bytes()) == (b"one\ntwo\n", b"three\ntor\n")
    files.cut(path, 8, kept)
    files.cut(tmp_path / "none", 8, kept)
    assert (path.read_bytes(), kept.read_bytes()) == (b"one\ntwo\n", b"three\ntor\n")
    path.write_bytes(b"one\nt")
    files.cut(path, 100, kept)  # shorter than it was: only what is torn goes
    assert path.read_bytes() == b"one\n"


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_modes_follow_the_umask(umask: int, mode: int, tmp_path: Path) -> None:
    former = os.umask(umask)
    try:
        files.write_atomic(tmp_path / "a", "a")
        files.write_synced(tmp_path / "b", b"b")
        files.append_line(tmp_path / "c", "c")
    finally:
        os.umask(former)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {mode}


def test_a_link_is_replaced_and_leftovers_are_swept(tmp_path: Path) -> None:
    files.replace_link(tmp_path / "latest", "one")
    files.replace_link(tmp_path / "latest", "two")
    assert (tmp_path / "latest").readlink() == Path("two")
    (tmp_path / ".tmp-x").mkdir()
    (tmp_path / ".tmp-x" / "file").touch()
    (tmp_path / ".trash-y").touch()
    (tmp_path / "kept").touch()
    files.sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept", "latest"]


def test_a_full_disk_is_named_with_what_is_free_and_needed(tmp_path: Path) -> None:
    path = tmp_path / "not" / "there"
    full = files.fault(OSError(errno.ENOSPC, "No space left on device"), path, 900_000_000)
    assert full.startswith(f"disk of '{path}' has ")
    assert full.endswith(" GB, 0.9 GB are needed")
    assert "quota" in files.fault(OSError(errno.EDQUOT, "Disk quota exceeded"), path)
    read_only = files.fault(OSError(errno.EROFS, "Read-only file system"), path)
    assert read_only == f"cannot write to '{path}' (read-only file system)"


def test_missing_folders_are_made_and_their_names_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    monkeypatch.setattr(files, "fsync_folder", lambda path: synced.append(path.name))
    files.make_folders(tmp_path / "a" / "b")
    files.make_folders(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
    assert synced == [tmp_path.name, "a"]


def test_the_name_of_a_new_file_of_lines_is_synced_before_its_first_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    path = tmp_path / "metrics.jsonl"
    monkeypatch.setattr(files, "fsync_folder", lambda folder: sizes.append(path.stat().st_size))
    files.append_line(path, "one")
    files.append_line(path, "two")
    assert sizes == [0]


def test_a_folder_is_removed_through_the_one_door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    folder = tmp_path / "folder"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "file").touch()
    (folder / "link").symlink_to(outside)

    def refuse(path: Path) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "rmdir", refuse)
        files.remove_tree(folder)
    assert (folder / "inner").is_dir()  # what stays is no error
    files.remove_tree(folder)
    assert not folder.exists()
    assert (outside / "kept").exists()


def test_a_line_whose_close_failed_is_not_written_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "metrics.jsonl"
    end = files.append_line(path, "first", at=0)
    real = os.close

    def refuse(descriptor: int) -> None:
        real(descriptor)
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "close", refuse)
        with pytest.raises(OSError, match="Input/output"):
            files.append_line(path, "second", at=end)
    files.append_line(path, "second", at=end)
    assert path.read_text() == "first\nsecond\n"
