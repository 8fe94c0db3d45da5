"""The machine's `auto`s are answered by what it has, each with its reason."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dlwp import devices
from dlwp.errors import ConfigError, MachineError

CPU = torch.device("cpu")
CONVOLUTION = devices.Traits(convolutions=True, attention=False)
NEITHER = devices.Traits(convolutions=False, attention=False)


def test_traits_are_read_off_the_modules() -> None:
    assert devices.Traits.of(nn.Sequential(nn.Conv2d(1, 1, 1))) == CONVOLUTION
    assert devices.Traits.of(nn.TransformerEncoderLayer(8, 2)).attention
    assert devices.Traits.of(nn.Linear(2, 2)) == NEITHER


@pytest.mark.parametrize(
    ("feature", "precision", "reason"),
    [("amx_bf16", "bf16", "AMX"), ("avx512_bf16", "bf16", "AVX512-BF16"), (None, "fp32", "without bf16 products")],
)
def test_bf16_only_where_the_processor_has_it(
    monkeypatch: pytest.MonkeyPatch, feature: str | None, precision: str, reason: str
) -> None:
    features = {"amx_bf16": False, "avx512_bf16": False} | ({feature: True} if feature else {})
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: features)
    found, why = devices.choose_precision("auto", CPU, CONVOLUTION, "classification")
    assert found == precision and reason in why


def test_fp32_where_bf16_was_not_measured() -> None:
    assert devices.choose_precision("auto", CPU, NEITHER, "classification")[0] == "fp32"
    assert devices.choose_precision("auto", CPU, CONVOLUTION, "regression") == ("fp32", "task is regression")
    assert devices.choose_precision("bf16", CPU, NEITHER, "regression") == ("bf16", "as asked")


def test_channels_last_for_convolutions_over_pictures() -> None:
    assert devices.choose_channels_last("auto", CPU, CONVOLUTION, (3, 32, 32)) == (True, "convolutions")
    assert not devices.choose_channels_last("auto", CPU, NEITHER, (3, 32, 32))[0]
    assert not devices.choose_channels_last("auto", CPU, CONVOLUTION, (7,))[0]
    assert devices.choose_channels_last(False, CPU, CONVOLUTION, (3, 32, 32)) == (False, "as asked")


def test_device_mistakes_are_one_line() -> None:
    with pytest.raises(ConfigError, match=r"unknown device 'cuad'\. Did you mean 'cuda'"):
        devices.resolve("cuad")
    if not torch.cuda.is_available():
        with pytest.raises(MachineError, match=r"no CUDA device: .*device=cpu or device=auto"):
            devices.resolve("cuda:1")
    assert devices.resolve("cpu")[0] == CPU


def test_out_of_memory_is_known_on_host_and_card() -> None:
    assert devices.is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    assert devices.is_out_of_memory(caught.value)
    assert not devices.is_out_of_memory(RuntimeError("shapes cannot be multiplied"))
