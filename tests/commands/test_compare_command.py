"""What `dlwp-compare` prints, writes and refuses, of real runs."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dlwp.commands import compare, train

WORDS = [
    "data=digits", "model=linear", "trainer.epochs=2", "optimizer.lr=0.001,0.01", "seed=0,1,2",
    "logger.tensorboard=false", "logger.plots=false", "run_dir=sweep",
]  # fmt: skip


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a sweep over two rates and three seeds."""
    place = tmp_path_factory.mktemp("sweep")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(place / "state"))
        patch.chdir(place)
        patch.setattr(sys, "argv", ["dlwp-train", "-m", *WORDS])
        assert train.main() == 0
    return place / "sweep"


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Return a function from words to (exit status, standard output, standard error) of dlwp-compare."""

    def run(*words: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["dlwp-compare", *map(str, words)])
        capsys.readouterr()
        return compare.main(), *capsys.readouterr()

    return run


def test_a_sweep_is_compared_by_its_settings_and_the_page_lies_in_it(sweep: Path, typed: Any) -> None:
    code, said, _ = typed(sweep)
    lines = said.splitlines()
    assert code == 0 and lines[0] == "compared test/accuracy on 359 samples: 2 settings, 6 runs"
    assert lines[1].startswith("verdict  lr=0.01 is better than lr=0.001 by ") and "3 seeds each, paired" in lines[1]
    assert [line.split()[:2] for line in lines[4:6]] == [["lr=0.001", "3"], ["lr=0.01", "3"]]
    assert lines[7:] == ["differs  optimizer.lr", f"page     {sweep / 'compare.html'}"]
    assert "lr=0.01 is better than lr=0.001" in (sweep / "compare.html").read_text(encoding="utf-8")


def test_json_and_csv_hold_the_numbers_and_write_no_page_unless_asked(sweep: Path, typed: Any) -> None:
    code, said, _ = typed(sweep, "format=json", "metric=test/loss", "baseline=0.01")
    found = json.loads(said)
    assert code == 0 and found["metric"] == "test/loss" and found["better"] == "lower"
    (pair,) = found["comparisons"]
    values = [[run["value"] for run in setting["runs"]] for setting in found["settings"]]
    assert pair["baseline"] == "lr=0.01" and pair["method"] == "paired" and pair["shown"] is True
    assert pair["difference"] == pytest.approx(sum(values[1]) / 3 - sum(values[0]) / 3)
    _, said, _ = typed(sweep, "format=csv", "output=here/page.html")
    rows = list(csv.DictReader(io.StringIO(said)))
    assert [row["optimizer.lr"] for row in rows] == ["0.001", "0.01"] and rows[1]["shown"] == "true"
    assert Path("here/page.html").is_file() and not Path("outputs").exists()


def test_runs_of_one_seed_each_leave_it_open_and_the_next_command_is_told(sweep: Path, typed: Any) -> None:
    runs = sorted(path for path in sweep.iterdir() if path.name.endswith("seed-0"))
    assert len(runs) == 2
    code, said, _ = typed(*runs)
    page = next(line[9:] for line in said.splitlines() if line.startswith("page"))
    assert code == 0 and Path(page).parent == Path("outputs") and Path(page).is_file()
    assert "one seed each, so nothing can be said beyond the numbers" in said and "the 359 test samples leave" in said
    assert f"next     dlwp-train -m --config-dir {runs[0]} --config-name config seed=1,2,3,4" in said


def test_a_run_that_broke_off_is_named_and_left_out(sweep: Path, typed: Any) -> None:
    Path("mine").mkdir()
    for run in (path for path in sweep.iterdir() if path.is_dir()):
        Path("mine", run.name).symlink_to(run)
    Path("mine/broken").mkdir()
    summary = {"exit": "failed", "error": "loss is nan at step 3"}
    Path("mine/broken/summary.json").write_text(json.dumps(summary))
    Path("mine/broken/config.yaml").write_text("seed: 1\n")
    _, said, _ = typed(*(path for path in Path("mine").iterdir()), "output=null")
    assert "left out mine/broken: failed: loss is nan at step 3" in said and "6 runs" in said and "page" not in said


def test_a_comparison_needs_neither_torch_nor_matplotlib(sweep: Path) -> None:
    program = "import sys; from dlwp.commands.compare import main; code = main(); print(*sys.modules); sys.exit(code)"
    command = [sys.executable, "-c", program, str(sweep), "output=page.html"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    modules = {name.partition(".")[0] for name in done.stdout.splitlines()[-1].split()}
    assert "scipy" in modules and not modules & {"torch", "torchvision", "matplotlib", "hydra", "omegaconf", "sklearn"}


def test_a_page_is_there_before_its_reader_leaves(sweep: Path) -> None:
    program = "from dlwp.commands.compare import main; raise SystemExit(main())"
    command = [sys.executable, "-c", program, str(sweep), "output=page.html"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        told = process.stderr.read()
    assert Path("page.html").is_file() and b"Traceback" not in told


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        ([], 2, "nothing to compare. dlwp-compare RUN RUN..., or a folder of runs"),
        (["nowhere"], 2, "no run 'nowhere'"),
        (["empty"], 2, "no runs in 'empty'. dlwp-compare RUN RUN..., or a folder of runs"),
        (["empty", "metrik=x"], 2, "unknown key 'metrik'. Did you mean 'metric'?"),
        (["empty", "format=xml"], 2, "format must be text or json or csv, got 'xml'"),
        (["SWEEP", "metric=test/acuracy"], 2, "Did you mean 'test/accuracy'"),
        (["SWEEP", "baseline=lr=1"], 2, "baseline=lr=1 is no setting."),
        (["SWEEP", "output=/dev/null/x.html"], 4, "output=FILE.html, or output=null"),
    ],
    ids=lambda words: str(words)[:20],
)
def test_a_mistake_is_one_line(words: list[str], status: int, told: str, sweep: Path, typed: Any) -> None:
    Path("empty").mkdir()
    code, said, error = typed(*(str(sweep) if word == "SWEEP" else word for word in words))
    assert code == status and said == ""
    assert error.startswith("dlwp: error: ") and told in error.splitlines()[0]
