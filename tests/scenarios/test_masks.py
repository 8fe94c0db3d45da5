"""Masks are learned by the command, from any cut of the run alike; the run is evaluated, predicts and is exported."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image

import dlwp
from dlwp import checkpoint
from dlwp.commands import evaluate, predict
from dlwp.errors import ConfigError

QUIET = ("trainer.progress=false", "logger.plots=false", "logger.tensorboard=false")
UNET = ("data=segmentation", "data.root=cells", "data.image_size=32", "model=unet", "model.channels=4", "model.depth=2")
WORDS = (*UNET, "optimizer.lr=0.01", "data.augment=[{window: {size: 24}}, flip, rotate90]", *QUIET)


@pytest.fixture(autouse=True)
def cells() -> None:
    """Draw bright discs on a dark ground, wider than high, with their masks: a number for each disc."""
    generator = numpy.random.default_rng(0)
    y, x = numpy.mgrid[:36, :48]
    for number in range(30):
        mask = numpy.zeros((36, 48), numpy.uint8)
        for one in range(1, 2 + number % 3):
            top, left, radius = generator.integers(6, 30), generator.integers(6, 42), generator.integers(4, 9)
            mask[(y - top) ** 2 + (x - left) ** 2 <= radius**2] = one
        picture = numpy.clip(60 + 90 * (mask > 0) + generator.normal(0, 12, mask.shape), 0, 255)
        for name, pixels in (("images", picture), ("masks", mask)):
            Path("cells", name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(numpy.uint8)).save(Path("cells", name, f"{number:02}.png"))


def tensors_of(run: dlwp.Run) -> dict[str, torch.Tensor]:
    folder = run.folder / "checkpoints" / Path(run.folder, "checkpoints", "last").read_text().strip()
    return checkpoint.load_weights(folder)[0]


def command(module: object, *words: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["dlwp", *words])
    return module.main()  # type: ignore[attr-defined]


@pytest.mark.parametrize("loader", ["memory", "workers"])
def test_a_run_cut_in_the_middle_of_an_epoch_equals_the_uninterrupted_one(loader: str) -> None:
    words = (*WORDS, "data.mask_values=foreground", f"data.loader={loader}", "data.num_workers=1", "trainer.epochs=2")
    whole = dlwp.train(*words, "run_dir=whole")
    cut = dlwp.train(*words, "run_dir=cut", "trainer.checkpoint_every=2 steps", "trainer.keep_last=9")
    assert whole.summary["step"] == cut.summary["step"] == 6
    shutil.rmtree(cut.folder / "checkpoints" / "step-00000006")  # what a run has that was killed behind step 4 of 6
    again = dlwp.train(f"resume={cut.folder / 'checkpoints' / 'step-00000004'}")
    assert again.summary["step"] == 6
    for name, value in tensors_of(whole).items():
        assert torch.equal(value, tensors_of(again)[name]), name


def test_discs_are_learned_told_of_and_found_in_pictures_of_any_size(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = dlwp.train(*WORDS, "data.mask_values=foreground", "trainer.epochs=20", "trainer.precision=fp32")
    said = capfd.readouterr().out
    assert "masks: 0 is background, all above it foreground (as asked)" in said and "2 classes · 3x32x32" in said
    assert run.summary["best"]["val/iou"] > 0.85
    where = f"checkpoint={run.folder}"
    assert command(evaluate, where, "format=json", "output=plots", monkeypatch=monkeypatch) == 0
    found = json.loads(capfd.readouterr().out)
    rows = {row["class"]: row for row in found["by_class"]}
    assert rows["foreground"]["iou"] == pytest.approx(found["values"]["iou"], abs=1e-9)
    counts = torch.tensor(found["confusion"], dtype=torch.float64)
    assert counts.trace() / counts.sum() == pytest.approx(found["values"]["pixel_accuracy"], abs=1e-9)
    assert [one["iou"] for one in found["worst"]] == sorted(one["iou"] for one in found["worst"])
    assert found["worst"][0]["file"].startswith("cells/images/") and found["intervals"] == {}
    with Image.open(found["files"]["masks"]) as drawn:
        assert drawn.width > 800
    assert command(evaluate, where, "plots=false", monkeypatch=monkeypatch) == 0
    assert "foreground" in (told := capfd.readouterr().out) and "worst    IoU" in told and "mean of all" in told

    assert command(predict, where, "cells/images", "output=found", "plots=true", monkeypatch=monkeypatch) == 0
    told = capfd.readouterr()
    assert told.out.count("foreground") == 30 and "0 background, 1 foreground" in told.err
    right, both = 0, 0
    for path in sorted(Path("found").glob("*.png")):
        with Image.open(path) as picture, Image.open(Path("cells/masks", path.name)) as truth:
            assert picture.mode == "P" and picture.size == truth.size == (48, 36)
            one, other = numpy.asarray(picture) > 0, numpy.asarray(truth) > 0
        right, both = right + (one & other).sum(), both + (one | other).sum()
    assert right / both > 0.85
    with Image.open("found/overlays/00.png") as overlay:
        assert overlay.size == (2 * 48 + 4, 36)
    predictor = dlwp.load(run.folder)
    mask = predictor("cells/images/03.png")
    with Image.open("found/03.png") as written:
        assert mask.shape == (36, 48) and numpy.array_equal(mask, numpy.asarray(written))
    larger = Image.open("cells/images/03.png").resize((144, 108))
    assert (numpy.asarray(Image.fromarray(predictor(larger)).resize((48, 36), 0)) == mask).mean() > 0.97
    averaged, turned = dlwp.load(run.folder, words=["trainer.tta=mirror"]), Image.open("cells/images/03.png")
    mirrored = averaged(turned.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    assert (mirrored[:, ::-1] == averaged("cells/images/03.png")).mean() > 0.999
    path = dlwp.export(run.folder, words=(), format="torch_export")
    assert path.exists()


def test_classes_are_found_and_mistakes_of_a_person_told(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (*UNET, *QUIET, "trainer.max_steps=1")
    run = dlwp.train(*words, "data.classes=[ground,one,two,three]", "criterion.weight=auto")
    assert run.exit == "done" and dlwp.load(run.folder).classes == ["ground", "one", "two", "three"]
    where = f"checkpoint={run.folder}"
    for given, message in (
        ((where, "cells/images"), "output=FOLDER is needed: masks are written there, as PNG. output=masks"),
        ((where,), "no picture is given"),
        ((where, "cells/images", "output=found", "top_k=3"), "top_k=3 has no effect"),
        ((where, "cells/images", "output=cells/images/00.png"), "output must be a folder for masks"),
    ):
        assert command(predict, *given, monkeypatch=monkeypatch) == 2
        assert message in capfd.readouterr().err
    with pytest.raises(ConfigError, match=r"model=unet"):
        dlwp.train("data=segmentation", "data.root=cells", "data.image_size=32", "model=resnet", *QUIET)
    with pytest.raises(ConfigError, match=r"gives a class for each pixel, .*model=resnet, or data=segmentation"):
        dlwp.train("data=digits", "model=unet", *QUIET)
    with pytest.raises(ConfigError, match=r"mixup mixes classes"):
        dlwp.train(*words, "data.augment=[mixup]")


def test_a_run_of_several_labels_cut_in_the_middle_of_an_epoch_equals_the_uninterrupted_one() -> None:
    rows = [f"{number:02}.png,{'dark' if number % 2 else 'dark|wide'}" for number in range(30)]
    Path("labels.csv").write_text("file,labels\n" + "\n".join(rows) + "\n")
    words = ("data=multilabel", "data.root=cells/images", "data.labels=labels.csv", "data.image_size=16", "model=cnn",
             "data.batch_size=8", "data.augment=[flip]", "trainer.epochs=2", *QUIET)  # fmt: skip
    whole = dlwp.train(*words, "run_dir=whole")
    cut = dlwp.train(*words, "run_dir=cut", "trainer.checkpoint_every=2 steps", "trainer.keep_last=9")
    last = f"step-{whole.summary['step']:08d}"
    shutil.rmtree(cut.folder / "checkpoints" / last)
    again = dlwp.train(f"resume={cut.folder / 'checkpoints' / 'step-00000002'}")
    assert again.summary["step"] == whole.summary["step"] > 4
    assert again.summary["best"] == whole.summary["best"]
    for name, value in tensors_of(whole).items():
        assert torch.equal(value, tensors_of(again)[name]), name
