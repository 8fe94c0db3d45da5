"""A predictor sees pictures as training did, whatever form they come in, and says what it cannot read."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy
import pytest
import sklearn
import torch
from PIL import Image
from torch import nn

import dlwp
from dlwp.data.datasets import Facts
from dlwp.errors import ConfigError, DataError
from dlwp.inference.predictor import Predictor

SMALL = ["trainer.epochs=1", "trainer.progress=false", "logger.plots=false", "logger.tensorboard=false"]
PHOTOS = Path(sklearn.__file__).parent / "datasets" / "images"  # two photographs come with scikit-learn


@pytest.fixture(scope="module")
def embedded() -> Predictor:
    return dlwp.load()


def test_subjects_of_photographs_are_recognised(embedded: Predictor) -> None:
    flower, china = embedded([PHOTOS / "flower.jpg", PHOTOS / "china.jpg"])
    assert (flower[0].label, china[0].label) == ("daisy", "palace")
    assert flower[0].probability > flower[1].probability > flower[4].probability > 0
    assert embedded.classes[flower[0].index] == "daisy"


def test_the_twelve_photographs_are_recognised(embedded: Predictor, data_root) -> None:  # type: ignore[no-untyped-def]
    folder = data_root("photos") / "photos"
    with (folder / "labels.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    found = embedded([folder / row["file"] for row in rows], top_k=1)
    assert [one[0].index for one in found] == [int(row["imagenet_index"]) for row in rows]
    assert len(rows) == 12


def test_in_bf16_the_photographs_are_recognised_with_nearly_the_same_probabilities(
    embedded: Predictor, data_root
) -> None:  # type: ignore[no-untyped-def]
    folder = data_root("photos") / "photos"
    with (folder / "labels.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    half = Predictor(embedded.model, embedded.facts, precision="bf16")
    seen: list[torch.dtype] = []
    head = half.model.head.register_forward_hook(lambda _, given, output: seen.append(output.dtype))  # type: ignore[operator, union-attr]
    paths = [folder / row["file"] for row in rows]
    found, expected = half(paths, top_k=1000), embedded(paths, top_k=1000)
    head.remove()
    assert seen[0] == torch.bfloat16 and seen[-1] == torch.float32
    assert [one[0].index for one in found] == [int(row["imagenet_index"]) for row in rows]
    for ours, theirs in zip(found, expected, strict=True):
        exact = {one.index: one.probability for one in theirs}
        assert max(abs(one.probability - exact[one.index]) for one in ours) < 0.02


def test_preprocessing_is_that_of_the_published_network(embedded: Predictor) -> None:
    """Compare with Pillow's bicubic resize to 256, the middle 224 and mean = std = 0.5, which timm does."""
    picture = Image.open(PHOTOS / "flower.jpg")
    width, height = (round(256 * side / min(picture.size)) for side in picture.size)
    resized = picture.resize((int(256 * picture.width / picture.height), 256), Image.Resampling.BICUBIC)
    left = round((width - 224) / 2)
    pixels = numpy.asarray(resized.crop((left, 16, left + 224, 240)), dtype=numpy.float32) / 255
    assert height == 256
    with torch.no_grad():
        outputs = embedded.model(torch.from_numpy((pixels - 0.5) / 0.5).permute(2, 0, 1).unsqueeze(0))
    expected = outputs.softmax(1)[0]
    for one in embedded(PHOTOS / "flower.jpg", top_k=5):
        assert one.probability == pytest.approx(float(expected[one.index]), abs=0.01)


def test_every_form_of_a_picture_gives_the_same(embedded: Predictor) -> None:
    path = PHOTOS / "china.jpg"
    picture = Image.open(path)
    array = numpy.asarray(picture)
    forms = [path, str(path), path.read_bytes(), picture, array, torch.from_numpy(array.copy()).permute(2, 0, 1)]
    found = [embedded(one) for one in forms]
    assert all(one == found[0] for one in found[1:])
    assert [one[0].label for one in embedded(forms)] == [found[0][0].label] * len(forms)


def test_a_picture_that_cannot_be_read_is_told_and_the_others_are_predicted(embedded: Predictor) -> None:
    Path("bad.jpg").write_text("no picture")
    sources = [PHOTOS / "flower.jpg", "bad.jpg", PHOTOS / "china.jpg"]
    first, bad, last = embedded.predict(sources, top_k=1, batch_size=2)
    assert (first.predictions[0].label, last.predictions[0].label) == ("daisy", "palace")
    assert bad.predictions == [] and bad.fault is not None and "bad.jpg (sample 1) is not a picture" in bad.fault
    with pytest.raises(DataError, match=r"bad\.jpg"):
        embedded("bad.jpg")
    with pytest.raises(DataError, match=r"a picture is float64 of shape \[3, 4, 4\]; uint8"):
        embedded(numpy.zeros((3, 4, 4)))


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_order_and_result_do_not_depend_on_the_batches(embedded: Predictor, batch_size: int) -> None:
    sources = [PHOTOS / name for name in ("flower.jpg", "china.jpg", "china.jpg", "flower.jpg")]
    found = list(embedded.predict(sources, top_k=2, batch_size=batch_size))
    assert [one.source for one in found] == sources
    assert [one.predictions[0].label for one in found] == ["daisy", "palace", "palace", "daisy"]


def test_features_are_what_the_head_is_given(embedded: Predictor) -> None:
    [found] = embedded.predict([PHOTOS / "flower.jpg"], features=True, keep_pictures=True)
    assert found.features is not None and found.features.shape == (1280,)
    assert found.picture is not None and found.picture.shape == (3, 224, 224)
    with torch.no_grad():
        logits = embedded.model.head(found.features)  # type: ignore[operator]
    best = int(logits.argmax())
    assert embedded.classes[best] == "daisy"
    assert float(logits.softmax(0)[best]) == pytest.approx(found.predictions[0].probability, abs=1e-4)


def test_a_run_on_grey_digits_predicts_its_own_pictures() -> None:
    from dlwp.data.images import digits

    run = dlwp.train("data=digits", "model=cnn", "trainer.epochs=3", *SMALL[1:])
    test = digits().test
    assert test is not None
    predictor = dlwp.load(run.folder)
    pairs = [test[index] for index in range(100)]
    pictures = [pixels.expand(3, 8, 8).permute(1, 2, 0).numpy() for pixels, _ in pairs]
    found = predictor(pictures, top_k=1)
    right = sum(one[0].label == str(int(target)) for one, (_, target) in zip(found, pairs, strict=True))
    assert right / 100 == pytest.approx(run.summary["test"]["accuracy"], abs=0.1)
    loaded = dlwp.load("last")
    assert loaded(pictures, top_k=1) == found


def test_runs_that_do_not_classify_pictures_are_refused_in_a_line() -> None:
    run = dlwp.train("data=synthetic", "data.shape=[5]", "data.num_train=64", "data.num_test=8", "model=mlp", *SMALL)
    with pytest.raises(ConfigError, match=r"takes inputs of shape \[5\] for classification"):
        dlwp.load(run.folder)


def test_a_picture_of_one_pixel_and_a_class_without_a_name_are_no_trouble() -> None:
    class Means(nn.Module):
        def forward(self, pictures: torch.Tensor) -> torch.Tensor:
            return pictures.mean((2, 3))

    facts = Facts(task="classification", input_shape=(3, 4, 4), num_classes=3)
    predictor = Predictor(Means(), facts)
    [best, *_] = predictor(numpy.array([[[0, 255, 0]]], dtype=numpy.uint8))
    assert (best.label, best.index) == ("1", 1)
    assert len(predictor(numpy.zeros((2, 2, 3), numpy.uint8), top_k=99)) == 3
