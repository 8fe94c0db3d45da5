"""What of the benchmark can be held without timing: every side does its work, and nothing that is missing passes."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmark import peers
from benchmark.__main__ import main
from benchmark.peers import work
from benchmark.rounds import Comparison, compare, in_process, steady

NO_PACKAGE = "dlwp-benchmark-has-no-such-peer"


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch, checkout: Path) -> None:
    """Let processes find the benchmark, as scripts/benchmark does."""
    monkeypatch.setenv("PYTHONPATH", str(checkout / "tests"))


@pytest.fixture(params=list(peers.PEERS))
def peer(request: pytest.FixtureRequest) -> str:
    name = str(request.param)
    if peers.PEERS[name].package in peers.missing():
        pytest.skip(f"needs {peers.PEERS[name].package}: scripts/install benchmark")
    return name


def test_each_peer_trains_on_vectors(peer: str) -> None:
    found = in_process(f"peers.{peer}", "vectors", "100", "0")
    assert math.isfinite(found["step_us"]) and found["step_us"] > 0


def test_each_peer_trains_on_pictures(peer: str, data_root: Callable[[str], Path]) -> None:
    data_root("cifar10")
    found = in_process(f"peers.{peer}", "pictures", "20", "0")
    assert math.isfinite(found["per_s"]) and found["per_s"] > 0


def test_an_epoch_of_scale_is_timed() -> None:
    assert in_process("scale", "epoch", "1000")["ns"] > 0


def test_a_side_that_fails_ends_the_benchmark() -> None:
    with pytest.raises(RuntimeError, match="no-such-side"):
        compare({"ours": lambda: in_process("step", "no-such-side")["step_us"]}, 1)


def test_a_peer_that_stopped_early_has_no_rate() -> None:
    watch = work.Watch(steps=4, window=1)
    assert [watch.step() for _ in range(3)] == [False, False, False]
    with pytest.raises(RuntimeError, match="3 steps were taken, not 4"):
        watch.found()
    assert watch.step()
    assert watch.found()["per_s"] > 0


def test_the_first_window_warms_up_and_the_others_count_by_their_time() -> None:
    assert steady([1.0, 100.0, 300.0]) == pytest.approx(150.0)


@pytest.mark.parametrize(("rate", "holds"), [(1000.0, True), (10_000.0, False), (math.nan, False)])
def test_a_claim_holds_only_where_the_ratio_does(rate: float, holds: bool) -> None:
    names = ["dlwp", "bare", *peers.PEERS]
    pictures = Comparison({name: [2000.0 if name in names[:2] else rate] for name in names})
    ones = Comparison({name: [1.0] for name in names})
    assert [peers.claim(name, 0, pictures, ones, ones, 1).holds for name in peers.PEERS] == [holds] * len(peers.PEERS)


def test_a_missing_peer_is_named_with_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(peers.PEERS, "absent", peers.Peer(NO_PACKAGE, "absent"))
    with pytest.raises(SystemExit, match="2"):
        main(["peers"])
    assert f"{NO_PACKAGE}: scripts/install benchmark" in capsys.readouterr().err
