"""Promise 6: a folder that cannot be written is refused first; lost later, it is as a full disk; umask rules the modes.

Faults are raised at dlwp's own calls, and made by true disks that are, or become, read-only.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from torture import mounts
from torture.commands import fail, records, succeed
from torture.disk import RUN, During, control, ended, failing, last_chance, patched, three_in_a_row
from torture.kit import Promise, Scale, Skipped, Trial, require, require_equal
from torture.small_run import clean_weights, forked, require_nothing_left, require_whole

LOST = ("EROFS", "EACCES", "ESTALE", "EIO")


def modes(umask: int, fresh: bool = False) -> Trial:
    """Return the try of all that a run and an evaluation make, under a umask; another of the group reads it at 002."""

    def do(folder: Path) -> int:
        os.umask(umask)
        succeed(*RUN, "run_dir=run", fresh=fresh)
        succeed("resume=run", "trainer.epochs=6", fresh=fresh)
        for found in [folder / "run", *(folder / "run").rglob("*")]:
            wanted = (0o777 if found.is_dir() else 0o666) & ~umask
            require_equal(oct(found.stat().st_mode & 0o777), oct(wanted), f"the mode of {found.relative_to(folder)}")
        if os.geteuid() == 0 and umask == 0o002:
            _require_read_by_group(folder)
        return 1

    return Trial(f"modes under umask {umask:03o}", do)


def _require_read_by_group(folder: Path) -> None:
    group = 4711
    for found in [folder / "run", *(folder / "run").rglob("*")]:
        os.chown(found, 4712, group)

    def read() -> None:
        os.chdir(folder / "run")
        os.setgroups([])
        os.setgid(group)
        os.setuid(4713)
        for found in Path.cwd().rglob("*"):
            _ = found.read_bytes() if found.is_file() else list(found.iterdir())

    for parent in folder.parents:
        if parent.name.startswith("torture-") or "torture-" in str(parent):
            parent.chmod(0o755)
    folder.chmod(0o755)
    require(forked(read) == 0, "another of the group cannot read it")


def refused(how: str, fresh: bool = False) -> Trial:
    """Return the try of a run folder that cannot be written: refused in a line, before the data is touched."""

    def do(folder: Path) -> int:
        place = folder / "place"
        place.mkdir()
        options: dict[str, Any] = {"fresh": True} if fresh else {}
        succeed(*RUN, f"run_dir={place}/run")
        if how == "mode":
            mounts.obey_modes()
            for one in (place, *(path for path in (place / "run", place / "run" / "plots") if path.exists())):
                one.chmod(0o555)
        else:
            mounts.own_mounts()
            mounts.set_read_only(place)
        no_data = ("data=cifar10", f"data.root={folder}/nowhere", "data.download=false")
        for words in ((*no_data, f"run_dir={place}/new"), (*no_data, f"run_dir={place}/far/new")):
            said = fail(4, *words, **options)
            require(str(place) in said and "run_dir=" in said, f"the folder is not named: {said}")
        said = fail(4, f"resume={place}/run", "trainer.epochs=6", **options)
        require(f"'{place}/run' (" in said and "run_dir=" in said, f"found out only when something was written: {said}")
        before = _listing(place)
        said = succeed(f"checkpoint={place}/run", name="evaluate", **options)
        require("accuracy" in said, f"nothing was measured: {said}")
        require_equal(_listing(place), before, "a read-only run")
        return 4

    return Trial(f"a run folder that cannot be written ({how})", do)


def _listing(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*"))


def read_only_data(fresh: bool = False) -> Trial:
    """Return the try of real data in a read-only folder: trained on and measured, with nothing laid beside it."""

    def do(folder: Path) -> int:
        root = os.environ.get("DLWP_DATA_ROOT")
        if not root or not (Path(root) / "cifar10").exists():
            raise Skipped("no CIFAR-10 (DLWP_DATA_ROOT)")
        mounts.own_mounts()
        mounts.set_read_only(Path(root))
        words = ("data=cifar10", "model=linear", "trainer.limit_batches=2", "trainer.epochs=1")
        succeed(*words, "run_dir=run", fresh=fresh)
        mounts.set_read_only(folder / "run")
        succeed("checkpoint=run", "split=val", "trainer.limit_batches=2", name="evaluate", fresh=fresh)
        return 2

    return Trial("read-only data", do, 400)


def lost_in_between(how: str, first: int, last: int) -> Trial:
    """Return the try of a run folder that becomes read-only, or of mode 0, from step `first` to step `last`."""

    def do(folder: Path) -> int:
        expected = clean_weights(folder, epochs=5)
        path = folder / "run"
        if how == "mode":
            mounts.obey_modes()
            during = During(path, first, last, lambda: _shut(path), lambda: _open(path))
        else:
            mounts.own_mounts()
            during = During(
                path, first, last, lambda: mounts.set_read_only(path), lambda: mounts.set_writable(path)
            )  # fmt: skip
        status, said, saved = ended(folder, path, [_Shy(during)], epochs=5)
        require(saved < 5, "every save succeeded: nothing is shown")
        require(status == 0, f"the run ended with {status}: {said}")
        require("not saved" in said and str(path) in said, f"not named: {said}")
        require_whole(path, expected, 10)
        require_nothing_left(path)
        steps = [record["step"] for record in records(path / "metrics.jsonl")]
        require_equal(steps, list(range(1, 11)), "steps in metrics.jsonl")
        return 1

    return Trial(f"the run folder is lost ({how}) from step {first} to {last}", do)


class _Shy:
    """A `During` that does not look at metrics.jsonl where the folder cannot be entered."""

    def __init__(self, during: During) -> None:
        self._during = during
        self.on_epoch = during.on_epoch

    def on_step(self, event: Any) -> None:
        try:
            self._during.on_step(event)
        except PermissionError:
            return


def _shut(path: Path) -> None:
    path.chmod(0)


def _open(path: Path) -> None:
    path.chmod(0o755)


def private() -> None:
    """Break dlwp: files are made for their owner alone, as by mkstemp."""
    from dlwp.runs import files

    class Private:
        def __getattr__(self, name: str) -> Any:
            return getattr(os, name)

        def open(self, path: Any, flags: int, mode: int = 0o600) -> int:
            return os.open(path, flags, 0o600)

    files.os = Private()  # type: ignore[assignment]


def unprobed() -> None:
    """Break dlwp: nobody tries the folder before the data is read."""
    from dlwp.runs import files

    files.probe = lambda folder: None


def _lost_trials(scale: Scale) -> list[Trial]:
    if scale.is_fast:
        tries = [failing("EROFS", lasting=False, start=2, stride=15), failing("EIO", lasting=True, stride=15)]
        return [*tries, modes(0o027), refused("mode"), lost_in_between("read-only", 3, 6)]
    stride = 1 if scale.is_full else 8
    tries = [failing(how, lasting=lasting, stride=stride) for how in LOST for lasting in (False, True)]
    tries += [*map(three_in_a_row, LOST), modes(0o027), modes(0o002), modes(0o077), modes(0o002, fresh=True)]
    tries += [refused("mode"), refused("read-only"), refused("read-only", fresh=True), read_only_data()]
    chance = scale.random("lost-permission")
    for how in ("read-only", "mode"):
        for _ in range(scale.count(1, 2, 10)):
            tries.append(lost_in_between(how, chance.choice((2, 3, 4)), 6))
    return tries


def _lost_controls(scale: Scale) -> list[Trial]:
    return [
        patched(modes(0o027), "files for their owner alone", private, "the mode of .* is '0o600', expected '0o640'"),
        patched(refused("mode"), "nobody tries the folder", unprobed, "found out only when something"),
        control("one failed save ends the run", last_chance, "the run ended with 5: ", "EROFS", start=12, stride=3),
    ]


PROMISES = [
    Promise(
        6,
        "lost-permission",
        "A folder that cannot be written is refused first; lost later, it is as a full disk; umask rules the modes.",
        _lost_trials,
        _lost_controls,
    ),
]
