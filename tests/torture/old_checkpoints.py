"""Promise 16: a checkpoint of any released version loads in every later one; one that is too new is refused.

Each format has a frozen fixture (tests/fixtures/format-N), made by the release that brought it and never changed:

    run/                   a run that was cut at step 8 of 20
    next_steps.jsonl       what the next ten steps recorded when it was not cut
    outputs.safetensors    inputs, and what the model and its averaged weights make of them
    evaluation.json        its test split, measured
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from torture.commands import fail, records, succeed
from torture.kit import Promise, Scale, Trial, require

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
STEP = Path("run") / "checkpoints" / "step-00000008"


def fixtures() -> dict[int, Path]:
    """Return format -> the folder of its fixture."""
    return {int(path.name.partition("-")[2]): path for path in sorted(FIXTURES.glob("format-*"))}


def _copied(number: int, folder: Path) -> Path:
    for path in fixtures()[number].iterdir():
        (shutil.copytree if path.is_dir() else shutil.copyfile)(path, folder / path.name)
    return folder / STEP


def _near(found: Any, expected: Any, tolerance: float, what: str) -> None:
    require(math.isclose(found, expected, rel_tol=tolerance, abs_tol=tolerance), f"{what}: {found}, was {expected}")


def resumes(number: int, before: Any = None) -> Trial:
    """Return the try that the fixture is gone on with, and its next ten steps record what they did then."""

    def do(folder: Path) -> None:
        stored = {path: path.read_bytes() for path in sorted(_copied(number, folder).iterdir())}
        succeed("resume=run", "trainer.keep_last=99", before=before)
        found = [line for line in records(folder / "run" / "metrics.jsonl") if 8 < line["step"] <= 18]
        expected = records(folder / "next_steps.jsonl")
        require(len(expected) >= 10 and len(found) == len(expected), f"{len(found)} lines, were {len(expected)}")
        for line, was in zip(found, expected, strict=True):
            for name, value in was.items():
                what = f"step {was['step']} {was['split']}/{name}"
                if isinstance(value, str):
                    require(line.get(name) == value, f"{what} is {line.get(name)}, was {value}")
                else:
                    _near(line.get(name, math.nan), value, 1e-5, what)
        for path, data in stored.items():
            require(path.read_bytes() == data, f"{path.name} was written again")

    return Trial(f"format {number}: resume", do)


def evaluates(number: int) -> Trial:
    """Return the try that its test split measures what it did."""

    def do(folder: Path) -> None:
        _copied(number, folder)
        found = json.loads(succeed(f"checkpoint={STEP}", "split=test", "format=json", name="evaluate"))
        expected = json.loads((folder / "evaluation.json").read_text())
        for name in ("split", "step", "num_samples"):
            require(found[name] == expected[name], f"{name} is {found[name]}, was {expected[name]}")
        for name, value in expected["values"].items():
            _near(found["values"][name], value, 1e-5, name)

    return Trial(f"format {number}: evaluate", do)


def gives_the_outputs(number: int) -> Trial:
    """Return the try that its model, rebuilt and loaded, gives the outputs that it gave."""

    def do(folder: Path) -> None:
        import torch
        from safetensors.torch import load_file

        from dlwp import checkpoint
        from dlwp.build import Builder
        from dlwp.config.compose import compose
        from dlwp.parts import Trust
        from dlwp.training.state import load_weights

        place = _copied(number, folder)
        expected = load_file(folder / "outputs.safetensors")
        config = compose([f"resume={place}"])
        model = Builder(config.values, Trust(not config.foreign, config.trusted)).build_for_evaluation().model.eval()
        tensors, _ = checkpoint.load(place)
        for group in ("model", "ema"):
            load_weights(model, tensors[group])
            with torch.no_grad():
                difference = (model(expected["inputs"]) - expected[f"outputs_{group}"]).abs().max().item()
            require(difference <= 1e-6, f"outputs of {group} differ by {difference:g}")

    return Trial(f"format {number}: outputs", do)


def refuses_a_newer(before: Any = None) -> Trial:
    """Return the try that a checkpoint of the next format is refused, with the version to install."""

    def do(folder: Path) -> None:
        from dlwp.checkpoint import FORMAT_VERSION

        place = _copied(max(fixtures()), folder)
        _rewrite(place, format_version=FORMAT_VERSION + 1, dlwp="9.9.9")
        for words, name in ((("resume=run",), "train"), (("checkpoint=run",), "evaluate")):
            said = fail(4, *words, name=name, before=before)
            require("pip install 'dlwp>=9.9.9'" in said, f"no way out is named: {said}")

    return Trial("a newer format", do)


def _rewrite(checkpoint: Path, **values: Any) -> None:
    from dlwp.runs import manifest

    record = json.loads((checkpoint / "state.json").read_text()) | values
    (checkpoint / "state.json").write_text(json.dumps(record))
    files = [path for path in checkpoint.iterdir() if path.name != manifest.NAME]
    entries = {path.name: manifest.entry(path.read_bytes()) for path in files}
    (checkpoint / manifest.NAME).write_bytes(manifest.text_of(entries))


def every_format_has_a_fixture(change: Callable[[], None] | None = None) -> Trial:
    """Return the try that each format up to today's has a frozen, small fixture and a migration to the next."""

    def do(folder: Path) -> None:
        from dlwp import checkpoint

        if change is not None:
            change()
        for number in range(1, checkpoint.FORMAT_VERSION + 1):
            require(number in fixtures(), f"format {number} has no fixture")
            size = sum(path.stat().st_size for path in fixtures()[number].rglob("*") if path.is_file())
            require(size <= 50_000, f"the fixture of format {number} has {size:,} bytes")
            state = json.loads((fixtures()[number] / STEP / "state.json").read_text())
            require(state["format_version"] == number, f"the fixture of format {number} is of another")
            migrates = number == checkpoint.FORMAT_VERSION or number in checkpoint.MIGRATIONS
            require(migrates, f"no migration leads from format {number}")

    return Trial("each format has a fixture and a migration", do)


def migrates_step_by_step() -> Trial:
    """Return the try that a record goes through each migration once, in order, and the stored file stays."""

    def do(folder: Path) -> None:
        from dlwp import checkpoint

        place = _copied(1, folder)
        before = (place / "state.json").read_bytes()
        checkpoint.FORMAT_VERSION = 3
        checkpoint.MIGRATIONS.update({
            1: lambda record: {**record, "way": [1]}, 2: lambda record: {**record, "way": [*record["way"], 2]},
        })  # fmt: skip
        _, record = checkpoint.load_weights(place)
        require(record.get("way") == [1, 2], f"migrations done: {record.get('way')}")
        require((place / "state.json").read_bytes() == before, "the stored file was written again")

    return Trial("migrations", do)


def _trials(scale: Scale) -> list[Trial]:
    found = [every_format_has_a_fixture(), migrates_step_by_step(), refuses_a_newer()]
    for number in fixtures():
        found += [resumes(number), evaluates(number), gives_the_outputs(number)]
    return found


def _without_the_check() -> None:
    from dlwp import checkpoint

    checkpoint.MIGRATIONS[checkpoint.FORMAT_VERSION] = lambda record: record
    checkpoint.FORMAT_VERSION += 1


def _with_another_momentum() -> None:
    from dlwp.training.state import TrainState

    TrainState._load_optimizer = lambda self, saved: None  # type: ignore[method-assign]


def _rise() -> None:
    from dlwp import checkpoint

    checkpoint.FORMAT_VERSION += 1


def _controls(scale: Scale) -> list[Trial]:
    return [
        replace(every_format_has_a_fixture(_rise), breaks="no migration leads from format"),
        replace(resumes(1, _with_another_momentum), breaks=r"step \d+ train/"),
        replace(refuses_a_newer(_without_the_check), breaks="ended with 0, expected 4"),
    ]


PROMISES = [Promise(16, "old-checkpoints", "A checkpoint of any released version loads.", _trials, _controls)]
