"""How much memory there is: of the machine, or of the container that the process is in."""

from __future__ import annotations

from pathlib import Path

from dlwp import memory

MIB = 2**20


def lay(root: Path, groups: str, **files: dict[str, str]) -> None:
    """Write what Linux tells a process: /proc/meminfo, /proc/self/cgroup, and files of control groups."""
    written = {"proc/meminfo": "MemTotal: 65536 kB\nMemAvailable: 51200 kB\n", "proc/self/cgroup": groups}
    for folder, held in files.items():
        place = "sys/fs/cgroup/" + folder.replace("__", "/")
        written |= {f"{place}/{name}": text + "\n" for name, text in held.items()}
    for name, text in written.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def second(limit: str, used: int, of_files: int) -> dict[str, str]:
    return {
        "memory.max": limit, "memory.current": str(used * MIB),
        "memory.stat": f"anon 1\ninactive_file {of_files * MIB}\nactive_file 0",
    }  # fmt: skip


def test_without_limits_it_is_the_machines(tmp_path: Path) -> None:
    lay(tmp_path, "0::/a\n", a=second("max", 30, 0))
    assert memory.free(tmp_path) == 50 * MIB
    assert memory.whole(tmp_path) == memory.whole(tmp_path / "nothing")


def test_the_least_limit_counts_less_what_is_used_but_for_the_pages_of_files(tmp_path: Path) -> None:
    lay(tmp_path, "1:name=systemd:/x\n0::/a/b\n", a=second(str(40 * MIB), 25, 10), a__b=second("max", 20, 0))
    assert memory.whole(tmp_path) == 40 * MIB
    assert memory.free(tmp_path) == 25 * MIB


def test_a_container_that_sees_its_own_group_as_the_top_finds_its_limit(tmp_path: Path) -> None:
    lay(tmp_path, "0::/../..\n", **{"": second(str(40 * MIB), 25, 10)})
    assert memory.free(tmp_path) == 25 * MIB


def test_the_first_kind_of_control_groups_counts_too(tmp_path: Path) -> None:
    group = {
        "memory.limit_in_bytes": str(30 * MIB), "memory.usage_in_bytes": str(29 * MIB),
        "memory.stat": f"cache 1\ntotal_inactive_file {3 * MIB}\ntotal_active_file {MIB}",
    }  # fmt: skip
    lay(tmp_path, "4:cpuset:/\n3:memory:/docker/abc\n0::/\n", memory=group)  # the path is the machine's, not ours
    assert memory.whole(tmp_path) == 30 * MIB
    assert memory.free(tmp_path) == 5 * MIB


def test_a_group_that_is_full_has_nothing_free(tmp_path: Path) -> None:
    lay(tmp_path, "0::/a\n", a=second(str(20 * MIB), 21, 0))
    assert memory.free(tmp_path) == 0


def test_where_nothing_can_be_read_it_is_half_of_the_machine(tmp_path: Path) -> None:
    assert 0 < memory.free(tmp_path) == memory.whole(tmp_path) // 2
