"""timm's networks get pictures as timm's own transform makes them, and their outputs have the names that timm knows."""

from __future__ import annotations

from pathlib import Path

import pytest
import sklearn
import torch
from PIL import Image

from dlwp import torchvision_ops
from dlwp.data import pictures
from dlwp.models.timm import timm_network

torchvision_ops.ensure_importable()
timm = pytest.importorskip("timm")
PHOTOS = Path(sklearn.__file__).parent / "datasets" / "images"


@pytest.mark.parametrize("photo", ["china.jpg", "flower.jpg"])
@pytest.mark.parametrize(
    "name",
    [
        "resnet50.a1_in1k", "tf_efficientnet_lite0.in1k", "tresnet_m.miil_in1k", "inception_v3.tv_in1k",
        "eva02_base_patch14_448.mim_in22k_ft_in22k_in1k",
    ],
)  # fmt: skip
def test_pictures_come_as_timm_makes_them(name: str, photo: str) -> None:
    weights = timm_network.pretrained(name=name)  # type: ignore[attr-defined]
    said = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    assert (weights.mean, weights.std) == (tuple(said["mean"]), tuple(said["std"]))
    transform = timm.data.create_transform(**{**said, "mean": (0.0,) * 3, "std": (1.0,) * 3})
    form = pictures.Form(
        weights.image_size, weights.image_size, weights.answers()["fit"], weights.resize, weights.interpolation
    )
    ours = torch.from_numpy(pictures.decode(PHOTOS / photo, 0, form).copy()).permute(2, 0, 1) / 255
    theirs = transform(Image.open(PHOTOS / photo))
    # Pillow and torch round each pass of a resize in their own way: a step or two of 255
    assert (ours - theirs).abs().max().item() < 2.5 / 255


def test_outputs_have_the_names_and_ids_that_timm_knows() -> None:
    for name, count in (("convnext_tiny.in12k", 11821), ("beit_base_patch16_224.in22k_ft_in22k", 21841)):
        weights = timm_network.pretrained(name=name)  # type: ignore[attr-defined]
        found = dict(zip(weights.ids, weights.classes, strict=True))
        assert (len(found), found["n02123045"]) == (count, "tabby, tabby cat")
    assert timm_network.pretrained(name="resnet50.a1_in1k").classes[281] == "tabby"  # type: ignore[attr-defined]
    assert timm_network.pretrained(name="hiera_tiny_224.mae").classes is None  # type: ignore[attr-defined]
