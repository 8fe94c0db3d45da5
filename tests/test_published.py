"""A published network is measured on pictures in folders that have the names or WordNet ids of its categories."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any

import pytest
import sklearn
from torch import nn

import dlwp
from dlwp.data.datasets import Facts
from dlwp.errors import ConfigError, DataError
from dlwp.inference.networks import Network
from dlwp.models.pretrained import imagenet_ids
from dlwp.published import places_of

PHOTOS = Path(sklearn.__file__).parent / "datasets" / "images"  # flower.jpg is a daisy, china.jpg a palace
WORDS = ["model=efficientnet_lite", "data=imagefolder", "data.root=mine", "trainer.precision=fp32"]


def put(source: Path, folder: str) -> None:
    Path(folder).mkdir(parents=True, exist_ok=True)
    shutil.copy(source, folder)


def measured(*words: str, **options: Any) -> dict[str, Any]:
    return dlwp.evaluate(None, words=[*WORDS, *words], **options)


@pytest.mark.parametrize(("daisy", "palace"), [("Daisy", "n03877845"), ("n11939491", "palace")])
def test_folders_named_by_category_or_id_are_measured_as_the_predictor_sees_them(daisy: str, palace: str) -> None:
    put(PHOTOS / "flower.jpg", f"mine/{daisy}")
    put(PHOTOS / "china.jpg", f"mine/{palace}")
    found = measured()
    assert (found["checkpoint"], found["step"], found["split"]) == ("EfficientNet-Lite0, ImageNet", None, "test")
    assert (found["num_samples"], found["values"]["accuracy"], found["worst"]) == (2, 1.0, [])
    assert [(one["class"], one["index"], one["samples"]) for one in found["by_class"]] == [
        ("palace", 698, 1), ("daisy", 985, 1),
    ]  # fmt: skip
    assert found["confusion"] == [[1, 0], [0, 1]]
    sure = [one[0].probability for one in dlwp.load()([PHOTOS / "flower.jpg", PHOTOS / "china.jpg"])]
    assert found["calibration"]["confidence"] == pytest.approx(sum(sure) / 2, abs=1e-5)
    assert found["line"].endswith("by EfficientNet-Lite0, ImageNet")
    [folder] = Path("outputs/eval/imagefolder-efficientnet_lite").iterdir()
    assert found["files"] == {kind: f"{folder}/eval-test-{kind}.png" for kind in ("confusion", "reliability")}
    assert all(Path(path).is_file() for path in found["files"].values())


def test_a_picture_in_a_wrong_folder_is_a_mistake_of_which_both_classes_are_told() -> None:
    put(PHOTOS / "flower.jpg", "mine/val/tabby")
    put(PHOTOS / "china.jpg", "mine/val/palace")
    shutil.copytree("mine/val", "mine/train")
    found = measured(output="report")
    assert (found["split"], found["num_samples"], found["values"]["accuracy"]) == ("val", 2, 0.5)
    assert [one["class"] for one in found["by_class"]] == ["tabby", "palace", "daisy"]
    assert found["confusion"] == [[0, 0, 1], [0, 1, 0], [0, 0, 0]]
    [worst] = found["worst"]
    assert (worst["true"], worst["predicted"], worst["file"]) == ("tabby", "daisy", "mine/val/tabby/flower.jpg")
    assert sorted(found["files"]) == ["confusion", "mistakes", "reliability"] and not Path("outputs").exists()


def test_the_twelve_photographs_in_folders_are_right(data_root) -> None:  # type: ignore[no-untyped-def]
    folder = data_root("photos") / "photos"
    with (folder / "labels.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for number, row in enumerate(rows):
        name = row["imagenet_name"].replace(" ", "_").upper()
        put(folder / row["file"], f"mine/{name if number % 2 else imagenet_ids()[int(row['imagenet_index'])]}")
    found = measured("data.loader=workers", "data.num_workers=0", plots=False)
    assert (found["values"]["accuracy"], found["values"]["top5"], found["num_samples"]) == (1.0, 1.0, 12)
    assert sorted(one["index"] for one in found["by_class"]) == sorted(int(row["imagenet_index"]) for row in rows)


def of_classes(*names: str, ids: list[str] | None = None) -> Network:
    return Network(nn.Identity(), Facts(classes=list(names) or None), {}, "NET", Path("net"), ids)


def test_a_class_is_known_by_its_name_a_synonym_or_its_id() -> None:
    network = of_classes("tench, Tinca tinca", "crane, bird", "crane, machine", ids=["n1", "n2", "n3"])
    names = ["Tinca_tinca", "tench", "n3", "machine", "crane,_bird", "TENCH, tinca tinca"]
    assert places_of(names, network) == [0, 0, 2, 2, 1, 0]


@pytest.mark.parametrize(
    ("network", "name", "told"),
    [
        (of_classes("tench", "cock", ids=["n1", "n2"]), "Tenth",
         "class 'Tenth' of the data is no category of NET. Did you mean 'tench'? Name the folder after a category, or "
         "its WordNet id such as n1"),
        (of_classes("crane, bird", "crane, machine"), "crane",
         "class 'crane' of the data may be several of NET: crane, bird, crane, machine. Name it so"),
        (of_classes(), "crane", "the classes of NET have no names, so those of the data are not known in it"),
    ],
    ids=["misspelt", "ambiguous", "no names"],
)  # fmt: skip
def test_a_class_that_is_not_known_is_told_with_what_is(network: Network, name: str, told: str) -> None:
    with pytest.raises((ConfigError, DataError)) as error:
        places_of([name], network)
    assert str(error.value) == told


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["model=efficientnet_lite"], r"^without checkpoint= a .* is evaluated on data: data=imagefolder"),
        (["data=digits"], r"^without checkpoint= .*: model=efficientnet_lite$"),
        (["model=resnet", "data=digits"], r"^no weights of ResNet are published"),
    ],
)
def test_what_is_lacking_is_named(words: list[str], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        dlwp.evaluate(None, words=words)
