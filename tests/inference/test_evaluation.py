"""What `dlwp-eval` finds: the same as scikit-learn or a calculation by hand finds on the same outputs."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from sklearn import metrics
from torch import Tensor

import dlwp
from dlwp import api, checkpoint
from dlwp.config.compose import compose
from dlwp.errors import ConfigError, MachineError
from dlwp.inference import evaluation
from dlwp.training.state import load_weights

QUIET = ["logger.tensorboard=false", "logger.plots=false", "trainer.precision=fp32", "run_dir=run"]
DIGITS = ["data=digits", "model=mlp", "trainer.epochs=1", "optimizer.lr=0.001", *QUIET]
REGRESSION = [
    "data=synthetic", "data.shape=[5]", "data.num_classes=0", "data.num_train=200", "data.num_test=77", "model=linear",
    "criterion=mse", "metrics=regression", "trainer.epochs=1", *QUIET,
]  # fmt: skip
OWN = """
import torch
from torch import nn
from torch.utils.data import Dataset

class Photos(Dataset):
    classes = ["dark", "light"]
    def __init__(self, size=40, broken=None):
        generator = torch.Generator().manual_seed(0)
        self.pictures = torch.rand(size, 3, 8, 6, generator=generator)
        self.labels = torch.randint(0, 2, (size,), generator=generator)
        self.samples = [(f"/photos/{index}.jpg", int(label)) for index, label in enumerate(self.labels)]
        self.broken = broken
    def __len__(self):
        return len(self.pictures)
    def __getitem__(self, index):
        if index == self.broken:
            raise OSError("truncated")
        return self.pictures[index], int(self.labels[index])

class Own(nn.Linear):
    def __init__(self):
        super().__init__(3 * 8 * 6, 2)
    def training_step(self, batch, criterion):
        outputs = self(batch[0].flatten(1))
        return criterion(outputs, batch[1]), outputs
"""


def outputs_of(run: Path, split: str, *, mirrored: bool = False) -> tuple[Tensor, Tensor, Any]:
    """Return the outputs of a run's weights for a split, in one piece and without a loader; the targets; the splits."""
    parts = api._build(compose([f"resume={run}"]), for_training=False)
    load_weights(parts.model, checkpoint.load_weights(evaluation.find_weights(str(run))[1])[0])
    dataset, facts = getattr(parts.data, split), parts.data.facts
    inputs = dataset.inputs / 255 if dataset.inputs.dtype == torch.uint8 else dataset.inputs
    if facts.mean is not None:
        mean, std = (torch.tensor(each).view(-1, *[1] * (inputs.dim() - 2)) for each in (facts.mean, facts.std))
        inputs = (inputs - mean) / std
    model = parts.model.eval()
    with torch.no_grad():
        outputs = (model(inputs) + model(inputs.flip(-1))) / 2 if mirrored else model(inputs)
    return outputs.double(), dataset.targets, parts.data


def size_of(path: str) -> tuple[int, int]:
    data = Path(path).read_bytes()
    assert data.startswith(b"\x89PNG")
    return struct.unpack(">II", data[16:24])


@pytest.fixture
def photos(own_place: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> list[str]:
    """Return the words for pictures of which the data set knows the files."""
    name = f"own_{abs(hash(request.node.name))}"  # a module of its own for each test: Python keeps what it imported
    (own_place / f"{name}.py").write_text(OWN)
    monkeypatch.syspath_prepend(own_place)
    return ["data=dataset", f"data._target_={name}.Photos", "data.val_fraction=0.5", "data.batch_size=8",
            "data.num_workers=0", "trainer.epochs=1", *QUIET]  # fmt: skip


@pytest.mark.parametrize(("split", "batch"), [("test", 100), ("val", 7), ("train", 256)])
def test_classes_are_measured_as_scikit_learn_measures_them(split: str, batch: int) -> None:
    run = dlwp.train(*DIGITS)
    found = dlwp.evaluate("run", split=split, words=[f"data.eval_batch_size={batch}"], plots=False)
    outputs, targets, _ = outputs_of(run.folder, split)
    predicted = outputs.argmax(1)
    assert found["num_samples"] == len(targets)
    assert found["confusion"] == metrics.confusion_matrix(targets, predicted).tolist()
    assert found["values"]["accuracy"] == metrics.accuracy_score(targets, predicted) < 1
    assert found["macro_f1"] == pytest.approx(metrics.f1_score(targets, predicted, average="macro"), abs=1e-12)
    by_class = metrics.precision_recall_fscore_support(targets, predicted, labels=range(10), zero_division=numpy.nan)
    for key, expected in zip(("precision", "recall", "f1", "samples"), by_class):
        values = [numpy.nan if one[key] is None else one[key] for one in found["by_class"]]
        assert values == pytest.approx(expected.tolist(), abs=1e-12, nan_ok=True)
    assert [one["class"] for one in found["by_class"]] == list(map(str, range(10)))
    low, high = found["intervals"]["accuracy"]
    assert low < found["values"]["accuracy"] < high and set(found["intervals"]) == {"accuracy", "top5"}


def test_the_worst_are_the_wrong_samples_of_the_highest_loss() -> None:
    run = dlwp.train(*DIGITS)
    found = dlwp.evaluate("run", words=["data.eval_batch_size=50"], plots=False)["worst"]
    outputs, targets, _ = outputs_of(run.folder, "test")
    losses = torch.nn.functional.cross_entropy(outputs, targets, reduction="none")
    wrong = outputs.argmax(1) != targets
    order = torch.where(wrong, losses, -1).argsort(descending=True)[:12].tolist()
    assert int(wrong.sum()) > 12
    assert [one["sample"] for one in found] == order
    assert [one["loss"] for one in found] == pytest.approx(losses[order].tolist(), rel=1e-4)
    assert [one["true"] for one in found] == [str(int(targets[sample])) for sample in order]
    assert [one["predicted"] for one in found] == [str(int(outputs[sample].argmax())) for sample in order]
    chances = outputs.softmax(1)[order]
    assert [one["probability"] for one in found] == pytest.approx(chances.max(1).values.tolist(), rel=1e-4)
    assert [one["file"] for one in found] == [None] * 12


def test_mirrored_views_are_averaged_of_a_run_trained_without() -> None:
    run = dlwp.train(*DIGITS)
    found = dlwp.evaluate("run", words=["trainer.tta=mirror"], plots=False)
    plain, _, _ = outputs_of(run.folder, "test")
    outputs, targets, _ = outputs_of(run.folder, "test", mirrored=True)
    assert found["values"]["loss"] == pytest.approx(
        float(torch.nn.functional.cross_entropy(outputs, targets)), rel=1e-5
    )
    assert found["confusion"] == metrics.confusion_matrix(targets, outputs.argmax(1)).tolist()
    assert found["confusion"] != metrics.confusion_matrix(targets, plain.argmax(1)).tolist()


def test_a_split_is_passed_over_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from dlwp.data.resident import ResidentLoader

    dlwp.train(*DIGITS)
    epochs, epoch = [], ResidentLoader.epoch
    monkeypatch.setattr(ResidentLoader, "epoch", lambda *args: (epochs.append(args), epoch(*args))[1])
    dlwp.evaluate("run")
    assert len(epochs) == 1


def test_numbers_are_measured_as_scikit_learn_measures_them_whatever_the_metrics_are() -> None:
    run = dlwp.train(*REGRESSION)
    found = dlwp.evaluate("run", words=["data.eval_batch_size=10", "metrics.r2=null", "metrics.mae=null"])
    outputs, targets, _ = outputs_of(run.folder, "test")
    targets = targets.double()
    assert set(found["values"]) == {"loss", "rmse"}
    expected = {
        "r2": metrics.r2_score(targets, outputs),
        "mae": metrics.mean_absolute_error(targets, outputs),
        "rmse": metrics.root_mean_squared_error(targets, outputs),
    }
    assert found["regression"] == pytest.approx(expected, rel=1e-6)
    errors = (outputs - targets).abs().squeeze(1)
    order = errors.argsort(descending=True)[:12]
    assert [one["sample"] for one in found["worst"]] == order.tolist()
    assert [one["error"] for one in found["worst"]] == pytest.approx(errors[order].tolist(), rel=1e-5)
    assert [one["prediction"] for one in found["worst"]] == [pytest.approx(outputs[at].tolist()) for at in order]
    assert [one["target"] for one in found["worst"]] == [targets[at].tolist() for at in order]
    nothing = {"macro_f1": None, "by_class": [], "confusion": [], "calibration": None, "files": {}, "intervals": {}}
    assert {key: found[key] for key in nothing} == nothing


def test_classes_without_names_have_their_numbers() -> None:
    words = ["data.shape=[1,8,8]", "data.num_train=60", "data.num_test=30", "data.num_classes=3", "trainer.epochs=1"]
    dlwp.train("data=synthetic", "model=linear", *words, *QUIET)
    found = dlwp.evaluate("run", output="pictures")
    assert [one["class"] for one in found["by_class"]] == ["0", "1", "2"]
    assert {one["true"] for one in found["worst"]} <= {"0", "1", "2"}


def test_pictures_lie_in_the_run_or_where_they_are_asked_for_and_none_is_stale() -> None:
    dlwp.train(*DIGITS)
    found = dlwp.evaluate("run")
    assert found["files"] == {
        kind: f"run/plots/eval-test-{kind}.png" for kind in ("confusion", "reliability", "mistakes")
    }
    assert size_of(found["files"]["reliability"]) == (884, 936)
    assert size_of(found["files"]["mistakes"]) == (1248, 1222)
    assert min(size_of(found["files"]["confusion"])) > 400
    assert set(dlwp.evaluate("run", split="val", output="new/folder")["files"].values()) == {
        f"new/folder/eval-val-{kind}.png" for kind in ("confusion", "reliability", "mistakes")
    }
    assert dlwp.evaluate("run", split="val", plots=False)["files"] == {}
    assert not list(Path("run/plots").glob("eval-val-*"))


def test_where_nothing_is_wrong_the_picture_of_mistakes_of_before_is_removed() -> None:
    words = ["data.num_train=300", "data.num_test=30", "data.num_classes=2", "trainer.epochs=2"]
    dlwp.train("data=synthetic", "model=linear", *words, *QUIET)
    stale = Path("run/plots/eval-test-mistakes.png")
    stale.write_bytes(b"of another checkpoint")
    found = dlwp.evaluate("run")
    assert found["values"]["accuracy"] == 1 and found["worst"] == []
    assert set(found["files"]) == {"confusion", "reliability"} and not stale.exists()


def test_a_run_that_cannot_be_written_is_evaluated_and_the_note_says_so() -> None:
    dlwp.train(*DIGITS)
    Path("run/plots").rmdir()
    Path("run/plots").write_text("in the way")
    found = dlwp.evaluate("run")
    assert found["files"] == {} and found["values"]["accuracy"] > 0
    assert found["note"].startswith("none: cannot write to 'run/plots'") and "output=FOLDER" in found["note"]
    with pytest.raises(ConfigError, match=r"output must be a folder, 'run/config.yaml' is a file"):
        dlwp.evaluate("run", output="run/config.yaml")
    with pytest.raises(MachineError, match=r"output: cannot write to 'run/config.yaml/x'.*plots=false"):
        dlwp.evaluate("run", output="run/config.yaml/x")


def test_files_of_the_worst_are_named_where_the_data_set_knows_them(photos: list[str]) -> None:
    dlwp.train("model=linear", *photos)
    found = dlwp.evaluate("run")
    assert found["split"] == "val" and found["worst"]
    parts = api._build(compose(["resume=run"]), for_training=False)
    for one in found["worst"]:
        index = parts.data.val.indices[one["sample"]]
        assert one["file"] == f"/photos/{index}.jpg"
        assert one["true"] == ["dark", "light"][parts.data.val.dataset.labels[index]]


def test_samples_that_cannot_be_read_are_told_of_and_are_not_among_the_worst(photos: list[str]) -> None:
    words = ["data.on_error=skip", "+data.broken=3", "data.val_fraction=0.6", "seed=4"]
    dlwp.train("model=linear", *(word for word in photos if "val_fraction" not in word), *words)
    found = dlwp.evaluate("run")
    (left_out,) = found["left_out"]
    assert left_out["file"] == "/photos/3.jpg" and "truncated" in left_out["reason"]
    assert left_out["sample"] not in [one["sample"] for one in found["worst"]]
    wrong = found["confusion"][0][1] + found["confusion"][1][0]
    assert len(found["worst"]) == wrong - 1 == 11  # what stood in its place was taken wrongly


def test_of_a_step_of_its_own_only_what_it_measures_is_told(photos: list[str]) -> None:
    module = photos[1].partition("=")[2].partition(".")[0]
    dlwp.train(f"model._target_={module}.Own", *photos)
    found = dlwp.evaluate("run", output="pictures")
    assert found["values"]["accuracy"] > 0 and found["intervals"]["accuracy"]
    assert (found["by_class"], found["worst"], found["files"]) == ([], [], {})
    assert found["note"] == "none: there are no classes to draw"
