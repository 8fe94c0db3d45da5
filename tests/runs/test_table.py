"""What the table of runs promises: best first, only keys that differ, seeds together, and no run too broken for it."""

from __future__ import annotations

import csv
import io
import sys
from pathlib import Path
from typing import Any

import pytest

from dlwp.commands import runs as command
from dlwp.runs import table
from dlwp.runs.folder import RunFolder

CONFIG = """
defaults: [train_schema]
seed: {seed}
trainer: {{epochs: 2, monitor_mode: {mode}}}
data: {{_target_: dlwp.data.datasets.digits, batch_size: 64}}
model: {{_target_: {model}, num_classes: 10{extra}}}
optimizer: {{_target_: torch.optim.SGD, lr: {lr}}}
"""


def make(path: Path, *, seed: int = 0, lr: float = 0.1, model: str = "my.Net", extra: str = "", **summary: Any) -> Path:
    mode = summary.pop("mode", "auto")
    typed = summary.pop("typed", [f"optimizer.lr={lr}", f"seed={seed}"])
    run = RunFolder.create(path)
    run.config.write_text(CONFIG.format(seed=seed, lr=lr, model=model, extra=extra, mode=mode))
    run.overrides.write_text("".join(f"- '{word}'\n" for word in typed) or "[]\n")
    run.update_summary(**{"exit": "done", "elapsed_s": 62.0, **summary})
    run.close()
    return run.path


def of(value: float, name: str = "val/accuracy") -> dict[str, Any]:
    return {"best": {"step": 7, name: value}, "test": {"accuracy": value - 0.1, "loss": 1 - value, "step": 7}}


def cells(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def test_seeds_of_one_setting_are_one_line_with_mean_and_deviation_and_the_best_comes_first(tmp_path: Path) -> None:
    for seed, value in enumerate((0.5, 0.6, 0.7)):
        make(tmp_path / f"a{seed}", seed=seed, lr=0.1, **of(value))
        make(tmp_path / f"b{seed}", seed=seed, lr=0.2, **of(value + 0.2))
    rows = table.read_runs([tmp_path])
    assert len(rows) == 6
    columns, lines = table.grouped(rows)
    assert columns == ["optimizer.lr", "n", "exit", "val/accuracy", "test/accuracy", "test/loss", "time", "run"]
    assert [line["optimizer.lr"] for line in lines] == ["0.2", "0.1"]
    assert [line["n"] for line in lines] == [3, 3]
    assert lines[1]["val/accuracy"] == (pytest.approx(0.6), pytest.approx(0.1))
    assert lines[0]["run"].endswith("b2")
    assert "80.0% ± 10.0" in table.render(rows)


def test_what_an_auto_was_answered_with_does_not_tell_seeds_apart(tmp_path: Path) -> None:
    for seed in range(2):
        run = make(tmp_path / str(seed), seed=seed, extra=f", width: {seed}", typed=[f"seed={seed}"], **of(0.5))
        RunFolder(run).environment.write_text('{"decided": {"model.width": {"value": 1, "reason": "the data"}}}')
    columns, lines = table.grouped(table.read_runs([tmp_path]))
    assert "model.width" not in columns and [line["n"] for line in lines] == [2]


@pytest.mark.parametrize(
    ("mode", "name", "first"), [("auto", "val/loss", "0.1"), ("max", "val/loss", "0.9"), ("min", "val/f", "0.1")]
)
def test_best_is_what_the_monitor_says(mode: str, name: str, first: str, tmp_path: Path) -> None:
    for value in (0.5, 0.9, 0.1):
        make(tmp_path / str(value), lr=value, mode=mode, **of(value, name))
    _, lines = table.grouped(table.read_runs([tmp_path]))
    assert lines[0]["optimizer.lr"] == first


def test_of_other_parts_only_their_names_and_what_was_typed_are_told(tmp_path: Path) -> None:
    make(tmp_path / "a", model="my.Net", extra=", depth: 20", typed=["model=net"], **of(0.9))
    make(tmp_path / "b", model="my.ViT", extra=", patch: 4, heads: 3", typed=["model=vit", "model.patch=4"], **of(0.8))
    columns, lines = table.grouped(table.read_runs([tmp_path]))
    assert columns[:2] == ["model", "model.patch"]
    assert [(line["model"], line["model.patch"]) for line in lines] == [("net", "null"), ("vit", "4")]


def test_a_key_that_differs_though_nobody_typed_it_is_told(tmp_path: Path) -> None:
    make(tmp_path / "a", lr=0.1, typed=[], **of(0.9))
    make(tmp_path / "b", lr=0.2, typed=[], **of(0.8))
    assert table.grouped(table.read_runs([tmp_path]))[0][0] == "optimizer.lr"


def test_half_written_runs_are_told_as_far_as_they_go(tmp_path: Path) -> None:
    make(tmp_path / "good", **of(0.9))
    failed = make(tmp_path / "failed", lr=0.2, exit="failed", error="out of memory")
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "summary.json").write_text('{"exit": "do')
    (tmp_path / "torn" / "config.yaml").write_text("a: [1")
    (tmp_path / "empty").mkdir()
    killed = make(tmp_path / "killed", lr=0.3, exit="running", **of(float("nan")))
    running = RunFolder.create(tmp_path / "running")
    rows = {Path(row["run"]).name: row for row in table.read_runs([tmp_path])}
    assert {name: row["exit"] for name, row in rows.items()} == {
        "good": "done", "failed": "failed", "torn": "unknown", "killed": "killed", "running": "running",
    }  # fmt: skip
    text = table.render(list(rows.values()))
    assert text.splitlines()[1].split()[1] == "done"
    assert "out of memory" in text
    assert str(failed) in text
    assert str(killed) in text
    running.close()


def test_the_table_fits_the_terminal(tmp_path: Path) -> None:
    for lr in (0.1, 0.2):
        make(tmp_path / ("long" * 20) / f"run{lr}", lr=lr, **of(0.9))
    rows = table.read_runs([tmp_path])
    lines = table.render(rows, 80).splitlines()
    assert max(map(len, lines)) == 80
    assert [line[-6:] for line in lines[1:]] == ["run0.1", "run0.2"]
    assert "90.0%" in lines[1]
    assert table.render([]) == "no runs"


def test_csv_and_markdown_hold_the_same_table(tmp_path: Path) -> None:
    for seed in (0, 1):
        make(tmp_path / f"a{seed}", seed=seed, **of(0.5 + seed / 10))
    make(tmp_path / "b", lr=0.3, typed=["optimizer.lr=0.3", "+notes=a|b"], **of(0.1))
    table.write(tmp_path, table.read_runs([tmp_path]))
    rows = list(csv.DictReader(io.StringIO((tmp_path / "table.csv").read_text())))
    assert [row["optimizer.lr"] for row in rows] == ["0.1", "0.3"]
    assert float(rows[0]["val/accuracy"]) == pytest.approx(0.55)
    assert float(rows[0]["val/accuracy sd"]) == pytest.approx(0.0707, abs=1e-4)
    assert (rows[1]["n"], rows[1]["val/accuracy sd"]) == ("1", "")
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert lines[0].startswith("| optimizer.lr | n | exit | val/accuracy |")
    assert lines[2].startswith("| 0.1 | 2 | done | 55.0% ± 7.1 |")


def test_the_command_prints_the_table_or_one_line(
    own_place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["dlwp-runs", *words])
        status = command.main()
        return (status, *capsys.readouterr())

    assert run() == (2, "", "dlwp: error: no folder 'outputs'. dlwp-runs FOLDER, or start a run: dlwp-train\n")
    Path("outputs").mkdir()
    assert run() == (2, "", "dlwp: error: no runs in 'outputs'. Start one: dlwp-train\n")
    make(Path("outputs/digits-net/a"), lr=0.1, **of(0.9))
    make(Path("outputs/digits-net/b"), lr=0.2, **of(0.8))
    status, out, err = run()
    assert (status, err) == (0, "")
    assert [line[:2] for line in cells(out)] == [["optimizer.lr", "exit"], ["0.1", "done"], ["0.2", "done"]]
    assert run("outputs", "--format", "csv")[1].startswith("optimizer.lr,exit,val/accuracy,val/accuracy sd")
    assert run("outputs", "--format", "md")[1].startswith("| optimizer.lr | exit")
    status, _, err = run("--formt")
    assert (status, err) == (2, "dlwp: error: unrecognized arguments: --formt. All options: dlwp-runs --help\n")
