"""What `TensorBoard` promises: the numbers of metrics.jsonl once each, on shared charts, with pictures and settings."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata as hparams_metadata
from tensorboard.plugins.hparams import plugin_data_pb2

from dlwp import checkpoint
from dlwp.observers.recording import Recording
from dlwp.observers.tensorboard import TensorBoard, flatten, picture_grid
from dlwp.runs import history
from dlwp.runs.folder import RunFolder
from dlwp.training.events import Logged, Settled, Stop

HPARAMS = {"seed": 0, "optimizer": {"lr": 0.02, "nesterov": True}, "model": {"norm": None}}


class Broken:
    """Breaks the first evaluation off."""

    def on_evaluation_step(self, event: Any) -> Stop:
        return Stop("stopped:SIGTERM")


def make(run: RunFolder) -> TensorBoard:
    return TensorBoard(run, images=8, hparams=HPARAMS, classes=["a", "b", "c"])


def read(folder: Path) -> EventAccumulator:
    found = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0, "tensors": 0})
    return found.Reload()


def scalars(run: RunFolder, split: str, tag: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in read(run.tensorboard / split).Scalars(tag)]


def recorded(run: RunFolder, split: str, name: str) -> list[tuple[int, Any]]:
    steps, values = history.series(history.read(run.metrics), split, name)
    return [(step, pytest.approx(value, rel=1e-6)) for step, value in zip(steps, values)]


def assert_equal_to_metrics(run: RunFolder) -> None:
    for split, names in {"train": ["loss", "accuracy"], "val": ["loss", "accuracy"]}.items():
        for name in names:
            assert scalars(run, split, name) == recorded(run, split, name)
    assert scalars(run, "train", "learning_rate") == recorded(run, "train", "lr")


def test_train_and_val_share_their_charts_and_equal_metrics_jsonl(
    tmp_path: Path, make_trainer: Any, batches: Any
) -> None:
    run = RunFolder.create(tmp_path / "run")
    trainer = make_trainer([Recording(run), make(run)])
    trainer.fit(*batches)
    trainer.evaluate(batches[1], "test")
    assert trainer.warnings == []
    assert_equal_to_metrics(run)
    assert scalars(run, "test", "accuracy") == recorded(run, "test", "accuracy")
    assert len(scalars(run, "train", "samples_per_s")) == 9


class CutAt:
    """Saves at one step and breaks off, without a word to the others, at a later one."""

    def __init__(self, run: RunFolder, saved: int, cut: int) -> None:
        self.run, self.saved, self.cut = run, saved, cut

    def on_settled(self, event: Settled) -> Stop | None:
        if event.step == self.saved:
            checkpoint.save(self.run.checkpoints, event.step, event.trainer.state, "")
        return Stop("max_time") if event.step == self.cut else None


@pytest.mark.parametrize(("saved", "cut"), [(4, 11), (7, 14)])
def test_after_a_cut_and_a_resume_each_step_is_there_once(
    saved: int, cut: int, tmp_path: Path, make_trainer: Any, batches: Any
) -> None:
    run = RunFolder.create(tmp_path / "run")
    make_trainer([Recording(run), make(run), CutAt(run, saved, cut)]).fit(*batches)
    trainer = make_trainer([Recording(run), make(run)])
    trainer.state.load(*checkpoint.load(run.checkpoints / checkpoint.name_of(saved)))
    trainer.fit(*batches)
    assert_equal_to_metrics(run)


def test_what_follows_the_last_step_is_there_once_after_a_cut_behind_it(
    tmp_path: Path, make_trainer: Any, batches: Any
) -> None:
    run = RunFolder.create(tmp_path / "run")
    for _ in range(2):  # killed after the test split was recorded, and resumed from the last step's checkpoint
        trainer = make_trainer([Recording(run), make(run), CutAt(run, 21, 99)])
        if run.pointed("last") is not None:
            trainer.state.load(*checkpoint.load(run.checkpoints / checkpoint.name_of(21)))
        trainer.fit(*batches)
        run.point("last", checkpoint.name_of(21))
        trainer.evaluate(batches[1], "test")
    assert [step for step, _ in scalars(run, "test", "accuracy")] == [21]
    assert_equal_to_metrics(run)


def test_an_evaluation_that_a_cut_left_undone_is_there_once(tmp_path: Path, make_trainer: Any, batches: Any) -> None:
    run = RunFolder.create(tmp_path / "run")
    stop = Broken()
    first = make_trainer([Recording(run), stop])
    first.fit(*batches)
    assert first.state.progress.pending[0] == "evaluate"
    checkpoint.write(run.checkpoints, checkpoint.snapshot(7, first.state, ""))
    for _ in range(2):  # both go on from there: a complete checkpoint of a step is never replaced
        trainer = make_trainer([Recording(run), make(run)])
        trainer.state.load(*checkpoint.load(run.checkpoints / checkpoint.name_of(7)))
        trainer.fit(*batches)
    assert [step for step, _ in scalars(run, "val", "accuracy")] == [7, 14, 21]


def test_a_resume_within_the_same_second_is_read_in_order(tmp_path: Path, make_trainer: Any, batches: Any) -> None:
    run = RunFolder.create(tmp_path / "run")
    make_trainer([Recording(run), make(run), CutAt(run, 4, 16)]).fit(*batches)
    for path in run.tensorboard.rglob("events.*"):  # as a process with a high number would have named it, just now
        parts = path.name.split(".")
        path.rename(path.with_name(".".join([*parts[:3], str(int(time.time())), *parts[4:-2], "99999999", parts[-1]])))
    trainer = make_trainer([Recording(run), make(run)])
    trainer.state.load(*checkpoint.load(run.checkpoints / checkpoint.name_of(4)))
    trainer.fit(*batches)
    assert_equal_to_metrics(run)


def test_what_a_checkpoint_has_seen_is_on_disk_when_the_process_is_killed(tmp_path: Path, make_trainer: Any) -> None:
    run, trainer = RunFolder.create(tmp_path / "run"), make_trainer([])
    child = os.fork()
    if child == 0:
        written = make(run)
        for step in range(1, 101):
            written.on_log(Logged(trainer, step, 1, {"loss": 1.0, "accuracy": 0.5}))
        os._exit(137)
    os.waitpid(child, 0)
    assert [step for step, _ in scalars(run, "train", "accuracy")] == list(range(1, 101))


def test_shows_pictures_the_confusion_matrix_and_the_settings_with_the_final_metrics(
    tmp_path: Path, make_trainer: Any, batches: Any
) -> None:
    run = RunFolder.create(tmp_path / "run")
    trainer = make_trainer([Recording(run), make(run)])
    trainer.fit(*batches)
    trainer.evaluate(batches[1], "test")
    found = read(run.tensorboard)
    assert set(found.Tags()["images"]) == {"training pictures", "confusion/val", "confusion/test"}
    picture = found.Images("training pictures")[0]
    assert (picture.step, picture.width, picture.height) == (3, 4 * 66 - 2, 2 * 66 - 2)
    content = found.SummaryMetadata(hparams_metadata.SESSION_START_INFO_TAG).plugin_data.content
    start = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info
    assert start.hparams["optimizer.lr"].number_value == 0.02
    assert start.hparams["optimizer.nesterov"].string_value == "true"
    content = found.SummaryMetadata(hparams_metadata.EXPERIMENT_TAG).plugin_data.content
    experiment = plugin_data_pb2.HParamsPluginData.FromString(content).experiment
    names = {metric.name.tag for metric in experiment.metric_infos}
    assert names == {f"final/{split}/{name}" for split in ("val", "test") for name in ("loss", "accuracy")}
    summary = run.read_summary()
    assert found.Scalars("final/test/accuracy")[0].value == pytest.approx(summary["test"]["accuracy"])
    assert found.Scalars("final/val/accuracy")[0].value == pytest.approx(summary["best"]["val/accuracy"])


def test_pictures_are_shown_as_they_were_before_normalisation() -> None:
    shown = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 255
    pictures = shown.round() / 255
    mean, std = [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]
    normalised = (pictures - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(std).view(-1, 1, 1)
    grid = picture_grid(normalised, mean, std)
    for index in range(3):
        assert torch.equal(grid[:, :, index * 66 : index * 66 + 64].float(), shown[index].round())


def test_pictures_of_any_range_and_channels_are_stretched_and_enlarged() -> None:
    for channels, expected in {1: 1, 2: 1, 3: 3, 4: 3}.items():
        inputs = torch.arange(2 * channels * 64.0).reshape(2, channels, 8, 8) * 10 - 300
        grid = picture_grid(inputs)
        assert grid.shape == (expected, 64, 2 * 64 + 2)
        assert grid.dtype == torch.uint8
        assert int(grid[:, :, :64].min()) == 0
    assert picture_grid(torch.zeros(1, 1, 8, 8)).max() == 0


def test_hyperparameters_are_flat_and_plain() -> None:
    assert flatten(HPARAMS | {"betas": [0.9, 0.99]}) == {
        "seed": 0, "optimizer.lr": 0.02, "optimizer.nesterov": "true", "model.norm": "null", "betas": "[0.9, 0.99]",
    }  # fmt: skip
