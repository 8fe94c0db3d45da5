"""EfficientNet-Lite promises to be timm's network, number for number, and to find its embedded weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dlwp import torchvision_ops
from dlwp.errors import ConfigError
from dlwp.models.efficientnet_lite import EfficientNetLite, _Conv
from dlwp.models.pretrained import load_into


@pytest.fixture(scope="module")
def timm() -> Any:
    torchvision_ops.ensure_importable()
    return pytest.importorskip("timm", exc_type=ImportError)


@pytest.mark.parametrize("variant", range(5))
def test_equals_the_network_of_timm(variant: int, timm: Any) -> None:
    theirs = timm.create_model(f"tf_efficientnet_lite{variant}").eval()
    ours = EfficientNetLite(variant=variant).eval()
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
    for size in (97, 128):  # padding falls otherwise for odd sizes
        pictures = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(size))
        with torch.no_grad():
            torch.testing.assert_close(ours(pictures), theirs(pictures), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("variant", "count"), [(0, 4_652_008), (1, 5_416_680), (2, 6_092_072), (3, 8_197_096), (4, 13_006_568)]
)
def test_has_the_parameters_that_are_published(variant: int, count: int) -> None:
    assert sum(parameter.numel() for parameter in EfficientNetLite(variant=variant).parameters()) == count


def test_embedded_weights_fill_the_network_whole() -> None:
    model, weights = EfficientNetLite(), EfficientNetLite.pretrained()
    loaded = load_into(model, weights.load(), weights.name)
    assert (len(loaded.loaded), loaded.new, loaded.left) == (296, [], [])
    assert weights.classes is not None and len(weights.classes) == 1000


def test_other_variants_have_no_embedded_weights_and_say_where_some_are() -> None:
    assert EfficientNetLite.pretrained(variant=0).away is None
    away = EfficientNetLite.pretrained(variant=3).away
    assert away is not None and away.startswith("weights of efficientnet_lite variant 3 do not come with dlwp")
    assert away.endswith("or model=timm model.name=tf_efficientnet_lite3")
    with pytest.raises(ConfigError, match="no variant 5"):
        EfficientNetLite.pretrained(variant=5)
    with pytest.raises(ConfigError, match="no variant 5"):
        EfficientNetLite(variant=5)


def test_begins_with_outputs_of_usual_size() -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        outputs = EfficientNetLite(num_classes=2).eval()(torch.randn(8, 3, 64, 64))
    assert outputs.abs().max() < 3


def test_filters_of_one_channel_are_trained_in_fp32_on_a_processor() -> None:
    torch.manual_seed(0)
    for stride in (1, 2):
        conv, pictures = _Conv(8, 8, 5, stride, groups=8), torch.randn(2, 8, 12, 12).bfloat16()
        with torch.autocast("cpu", torch.bfloat16):
            outputs = conv(pictures)
        assert outputs.dtype is torch.bfloat16
        outputs.sum().backward()
        found, conv.weight.grad = conv.weight.grad, None
        conv(pictures.float()).sum().backward()
        assert found is not None and conv.weight.grad is not None
        torch.testing.assert_close(found, conv.weight.grad, rtol=1e-5, atol=1e-5)
