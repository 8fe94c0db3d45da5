"""Where a run goes on: the checkpoint that is named, the newest whole one where that is asked for, and what is told."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from pathlib import Path

import pytest

import dlwp
from dlwp import resuming
from dlwp.errors import ConfigError, DataError, DlwpError
from dlwp.runs import manifest
from dlwp.runs.folder import RunFolder

WORDS = [
    "data=synthetic", "data.num_train=40", "data.num_val=8", "data.num_test=8", "model=linear", "trainer.epochs=3",
    "trainer.keep_last=3", "logger.plots=false", "logger.tensorboard=false", "run_dir=run",
]  # fmt: skip


@pytest.fixture
def run() -> RunFolder:
    """Return a run that ended, with three checkpoints."""
    return RunFolder(dlwp.train(*WORDS).folder)


def spoil(checkpoint: Path, name: str = "optimizer.safetensors") -> None:
    data = bytearray((checkpoint / name).read_bytes())
    data[-3] ^= 1
    (checkpoint / name).write_bytes(data)


def test_a_damaged_checkpoint_is_refused_with_the_newest_whole_one_and_taken_in_its_place_when_asked(
    run: RunFolder,
) -> None:
    *_, before, last = run.saved()
    spoil(last)
    step = int(before.name[5:])
    with pytest.raises(DataError, match=rf"optimizer\.safetensors is damaged.*step {step}, .*resume_fallback=true"):
        dlwp.train("resume=run", "trainer.epochs=4")
    found = dlwp.train("resume=run", "trainer.epochs=4", "resume_fallback=true")
    assert found.exit == "done" and found.summary["epoch"] == 4
    assert any(f"going on from {before.name} instead" in text for text in found.summary["warnings"])


def test_a_named_checkpoint_with_a_damaged_config_is_refused_too(run: RunFolder) -> None:
    *_, last = run.saved()
    spoil(last, "config.yaml")
    with pytest.raises(DataError, match=r"config\.yaml is damaged"):
        dlwp.train(f"resume={last}", "trainer.epochs=4")
    found = dlwp.train(f"resume={last}", "trainer.epochs=4", "resume_fallback=true")
    assert any("config.yaml is damaged" in text for text in found.summary["warnings"])


def test_the_command_that_is_told_can_be_pasted_whatever_the_folder_is_called(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = tmp_path / "it's (my) first, $HOME"
    odd.mkdir()
    monkeypatch.chdir(odd)
    dlwp.train(*WORDS[:-1])
    folder = os.path.relpath(RunFolder(Path("outputs/latest").resolve()).path)
    monkeypatch.chdir(tmp_path)
    dlwp.train(f"resume={odd.name}/{folder}", "trainer.epochs=4")
    line = next(line for line in capfd.readouterr().out.splitlines()[::-1] if "dlwp-train " in line)
    program, *words = shlex.split(line)
    assert program == "dlwp-train" and words == [f"resume={odd.name}/{folder}", "trainer.epochs=8"]
    assert dlwp.train(*words).summary["epoch"] == 8


def test_the_command_repeats_what_was_trusted() -> None:
    command = resuming.command(Path("runs/a 1"), ["mylib", "oc.env"], ["trainer.epochs=20"])
    assert command == "dlwp-train 'resume=runs/a 1' 'trust=[mylib,oc.env]' trainer.epochs=20"


@pytest.mark.parametrize("pointer", [None, "step-00000099\n"])
def test_without_a_pointer_the_newest_whole_checkpoint_is_taken_and_told(run: RunFolder, pointer: str | None) -> None:
    if pointer is None:
        (run.checkpoints / "last").unlink()
    else:
        (run.checkpoints / "last").write_text(pointer)
    *_, before, last = run.saved()
    spoil(last)
    found, told = resuming.find_checkpoint(run, None, fallback=False)
    assert found == before and "names no checkpoint" in told[0]


def test_a_damaged_pointer_is_an_error_unless_asked_for(run: RunFolder) -> None:
    (run.checkpoints / "last").write_text("../../elsewhere")
    with pytest.raises(DataError, match="resume_fallback=true"):
        resuming.find_checkpoint(run, None, fallback=False)
    assert resuming.find_checkpoint(run, None, fallback=True)[0] == run.saved()[-1]


def test_where_none_is_whole_nothing_is_taken(run: RunFolder) -> None:
    for saved in run.saved():
        spoil(saved)
    for fallback in (False, True):
        with pytest.raises(DataError, match="No other whole checkpoint"):
            dlwp.train("resume=run", "trainer.epochs=4", f"resume_fallback={str(fallback).lower()}")


def test_a_process_that_died_without_a_word_is_told_of(run: RunFolder) -> None:
    assert resuming.word_of_death(run) is None
    run.update_summary(exit="running")
    step = json.loads(run.metrics.read_text().splitlines()[-1])["step"]
    assert resuming.word_of_death(run) == (
        f"the last process died without a word after step {step} (killed; often: out of memory)"
    )
    dlwp.train("resume=run", "trainer.epochs=4")
    assert "died without a word" in run.log.read_text()


def test_another_machine_is_told_of(run: RunFolder) -> None:
    facts = json.loads(run.environment.read_text())
    run.environment.write_text(json.dumps({**facts, "threads": 64}))
    found = dlwp.train("resume=run", "trainer.epochs=4")
    assert any(text.startswith("resume: not bit-identical, threads 64 → ") for text in found.summary["warnings"])


def test_a_change_that_makes_another_experiment_is_refused_or_told_of(run: RunFolder) -> None:
    with pytest.raises(ConfigError, match="resume_exact=false"):
        dlwp.train("resume=run", "trainer.epochs=4", "optimizer.lr=0.5")
    found = dlwp.train("resume=run", "trainer.epochs=4", "optimizer.lr=0.5", "resume_exact=false")
    assert any("optimizer.lr" in text and "another experiment" in text for text in found.summary["warnings"])


def test_an_audit_proves_a_run_that_was_resumed_and_finds_a_line_that_was_changed(run: RunFolder) -> None:
    from dlwp import api

    dlwp.train("resume=run", "trainer.epochs=4")
    assert "each of 40 samples exactly once in each of 4 epochs" in api.audit("run")
    audit = run.path / "audit.jsonl"
    shutil.copy(audit, "kept")
    audit.write_text(audit.read_text().replace('"seed": 0', '"seed": 1'))
    with pytest.raises(DataError, match="not those of the order"):
        api.audit("run")


SET = '''
import pathlib, torch

class Numbers(torch.utils.data.Dataset):
    """As many samples as the file says."""

    classes = ["even", "odd"]

    def __len__(self):
        return int(pathlib.Path("length").read_text())

    def __getitem__(self, index):
        return torch.randn(6, generator=torch.Generator().manual_seed(index)) + index % 2, index % 2
'''


@pytest.mark.parametrize("length", [20, 90])
def test_other_training_data_is_refused_or_begun_with_a_new_epoch(length: int) -> None:
    Path("numbers_of.py").write_text(SET)
    Path("length").write_text("64")
    words = ["data=dataset", "data._target_=numbers_of.Numbers", "data.batch_size=8"]
    words += ["data.num_workers=0", *WORDS[4:], "trainer.max_steps=12", "trainer.checkpoint_every=4 steps"]
    before = dlwp.train(*words)
    Path("length").write_text(str(length))
    with pytest.raises(DataError, match=r"not that of the run: length 58 → .*resume_exact=false"):
        dlwp.train("resume=run", "trainer.max_steps=20", "trainer.epochs=90")
    assert RunFolder(before.folder).read_summary() == before.summary  # a refused resume changes nothing
    found = dlwp.train("resume=run", "trainer.max_steps=20", "trainer.epochs=90", "resume_exact=false")
    assert (found.exit, found.summary["step"]) == ("done", 20)
    assert any("going on with a new epoch" in text for text in found.summary["warnings"])


def test_what_is_allowed_once_is_not_allowed_for_ever(run: RunFolder) -> None:
    dlwp.train("resume=run", "trainer.epochs=4", "optimizer.lr=0.5", "resume_exact=false", "resume_fallback=true")
    with pytest.raises(ConfigError, match="resume_exact=false"):
        dlwp.train("resume=run", "trainer.epochs=5", "optimizer.lr=0.1")
    spoil(run.saved()[-1])
    with pytest.raises(DataError, match="damaged"):
        dlwp.train("resume=run", "trainer.epochs=5")
    found = dlwp.train("resume=run", "trainer.epochs=5", "resume_fallback=true")
    assert any("another experiment" in text for text in found.summary["warnings"])  # of the process before: it stays


def test_a_refused_resume_leaves_the_run_as_it_was(run: RunFolder) -> None:
    before = {path: path.read_bytes() for path in (run.config, run.summary, run.metrics, run.environment)}
    for words, told in (
        (["trainer.max_steps=2"], r"is at step 3 already, past the 2 of trainer\.max_steps=2"),
        (["trainer.epochs=2"], r"past the 2 of trainer\.epochs=2"),
        (["trainer.epochs=4", "model.in_features=5", "resume_exact=false"], "3072"),
        (["trainer.epochs=4", "data.root=/nowhere"], "root"),
    ):
        with pytest.raises(DlwpError, match=told):
            dlwp.train("resume=run", *words)
        assert {path: path.read_bytes() for path in before} == before
    assert dlwp.train("resume=run", "trainer.epochs=4").exit == "done"


def test_a_resume_with_another_model_leaves_the_run_as_it_was() -> None:
    dlwp.train(*[word for word in WORDS if word != "model=linear"], "model=mlp", "model.hidden=[8]")
    with pytest.raises(ConfigError, match="the checkpoint is of another model"):
        dlwp.train("resume=run", "trainer.epochs=4", "model.hidden=[4]", "resume_exact=false")
    assert dlwp.train("resume=run", "trainer.epochs=4").exit == "done"


def test_a_config_that_was_changed_by_hand_is_another_experiment(run: RunFolder) -> None:
    run.config.write_text(run.config.read_text().replace("seed: 0", "seed: 7", 1))
    with pytest.raises(ConfigError, match=r"changed seed \(0 → 7\) is another experiment"):
        dlwp.train("resume=run", "trainer.epochs=4")


def test_a_checkpoint_that_lies_in_no_run_is_not_gone_on_with(run: RunFolder) -> None:
    place = Path("elsewhere") / "deep"
    shutil.copytree(run.saved()[-1], place / run.saved()[-1].name)
    (place.parent / ".tmp-precious").touch()
    with pytest.raises(ConfigError, match="lies in no run"):
        dlwp.train(f"resume={place / run.saved()[-1].name}", "trainer.epochs=4")
    assert sorted(path.name for path in place.parent.iterdir()) == [".tmp-precious", "deep"]


def test_a_checkpoint_can_be_named_from_inside_its_folder(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    name, place = run.saved()[-1].name, Path.cwd()
    monkeypatch.chdir(run.checkpoints)
    dlwp.train(f"resume={name}", "trainer.epochs=4")
    monkeypatch.chdir(place)
    assert run.read_summary()["epoch"] == 4 and not (run.checkpoints / "checkpoints").exists()


def test_an_abandoned_branch_is_never_gone_on_with(run: RunFolder) -> None:
    first, *later = run.saved()
    step = int(first.name[5:])
    dlwp.train(f"resume={first}", f"trainer.max_steps={step + 1}", "trainer.epochs=3", "trainer.keep_last=9")
    names = [path.name for path in run.saved()]
    assert not {path.name for path in later} & set(names) - {f"step-{step + 1:08d}"}
    spoil(run.saved()[-1])
    assert resuming.find_checkpoint(run, None, fallback=True)[0] == first


@pytest.mark.parametrize(
    ("name", "value"),
    [("position", -5), ("step", 1), ("epoch", 1e300), ("best_step", "x"), ("cycles", [[9, 12]])],
)
def test_a_record_without_sense_is_refused_before_anything_is_written(run: RunFolder, name: str, value: object) -> None:
    record = json.loads((run.saved()[-1] / "state.json").read_bytes())
    record["progress"][name] = value
    contents = {path.name: path.read_bytes() for path in run.saved()[-1].iterdir() if path.name != manifest.NAME}
    contents["state.json"] = json.dumps(record).encode()
    entries = {file: manifest.entry(data) for file, data in contents.items()}
    for file, data in {**contents, manifest.NAME: manifest.text_of(entries)}.items():
        (run.saved()[-1] / file).write_bytes(data)
    before = run.summary.read_bytes()
    with pytest.raises(DataError, match=r"state\.json does not fit the parts of its config \(ValueError: "):
        dlwp.train("resume=run", "trainer.epochs=4")
    assert run.summary.read_bytes() == before


def test_the_way_on_names_the_key_that_ended_the_run() -> None:
    settings = {"epochs": 3, "max_steps": None}
    assert resuming.longer(settings, "done", 12, 3) == ["trainer.epochs=6"]
    assert resuming.longer({**settings, "max_steps": 5}, "done", 5, 0) == ["trainer.max_steps=10"]
    assert resuming.longer(settings, "early_stopped", 12, 3) == ["trainer.patience=null"]
    assert resuming.longer(settings, "max_time", 12, 3) == ["trainer.max_time=null"]
    assert resuming.longer(settings, "stopped:SIGINT", 12, 3) == []


@pytest.mark.parametrize("notes", ["a\nb: [c", "a\u2028b: [c", 'it\'s "so"'])
def test_a_note_may_hold_anything(notes: str) -> None:
    dlwp.train(*WORDS, "notes='" + notes.replace("'", "\\'") + "'")
    assert dlwp.train("resume=run", "trainer.epochs=4").exit == "done"


def test_an_infinite_loss_of_an_evaluation_is_no_defect() -> None:
    Path("criteria_of.py").write_text(
        "import torch\n\n\nclass Strange(torch.nn.CrossEntropyLoss):\n    def forward(self, outputs, targets):\n"
        "        loss = super().forward(outputs, targets)\n        return loss if loss.requires_grad else loss / 0\n"
    )
    found = dlwp.train(*WORDS, "criterion._target_=criteria_of.Strange")
    assert found.exit == "done" and found.summary["best"] is not None


def test_an_audit_tells_of_what_was_left_out_and_of_a_damaged_line(run: RunFolder) -> None:
    from dlwp import api

    run.update_summary(left_out=2, skipped_steps=1)
    assert api.audit("run").endswith(
        "in each of 3 epochs; but 2 samples could not be read and others took their places (left_out.jsonl); "
        "but 1 steps were left out, their loss was not finite"
    )
    audit = run.path / "audit.jsonl"
    audit.write_text(audit.read_text().replace('"chain"', '"chian"'))
    with pytest.raises(DataError, match="a line of it is damaged"):
        api.audit("run")


def test_a_checkpoint_without_its_best_is_evaluated_from_the_newest_whole_one(run: RunFolder) -> None:
    from dlwp import api

    for name in ("best", "last"):
        (run.checkpoints / name).unlink()
    assert api.evaluate("run")["checkpoint"] == str(run.saved()[-1])
