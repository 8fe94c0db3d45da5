"""A target becomes an object, or one line that names the key."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

from dlwp.errors import ConfigError
from dlwp.parts import Trust, instantiate, locate


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"_target_": "mylib.nets.Foo"}, r"model\._target_: no module 'mylib'\. Install it, or start from the folder"),
        ({"_target_": "torch.nn.Linearr"}, r"model\._target_: torch\.nn has no 'Linearr'\. Did you mean 'Linear'"),
        ({"_target_": "broken.Net"}, r"model\._target_: importing broken failed at .*broken\.py:2: NameError"),
        (
            {"_target_": "unparsable.Net"},
            r"model\._target_: importing unparsable failed at .*unparsable\.py:1: SyntaxError",
        ),
        (
            {"_target_": "torch.nn.Linear", "in_feature": 3, "out_features": 2},
            r"model: Linear has no argument 'in_feature'\. Did you mean 'in_features'.* It takes: in_features, out",
        ),
        ({"_target_": "torch.nn.Linear", "in_features": 3}, r"model: Linear needs 'out_features'"),
        (
            {"_target_": "torch.nn.Linear", "in_features": -3, "out_features": 2},
            r"model: Linear\(in_features=-3, out_features=2\) failed: Trying to create tensor with negative dimension",
        ),
        ({"_target_": "torch.pi"}, r"model\._target_: torch\.pi is a float; a class or a function is needed"),
        ({"_target_": "not a name"}, r"model\._target_ must be the dotted name of a class or function"),
    ],
)
def test_mistake_in_a_part_is_one_line(section: dict, message: str, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "broken.py").write_text("import math\nx = nn.Linear\n")
    (tmp_path / "unparsable.py").write_text("class Net(:\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=message) as caught:
        instantiate(section, "model")
    assert "\n" not in str(caught.value)


def test_file_in_the_working_directory_is_importable_and_shadows_nothing(tmp_path: Path, monkeypatch) -> None:
    import sys

    (tmp_path / "my_own_file.py").write_text("class Thing:\n    def __init__(self, size): self.size = size\n")
    (tmp_path / "random.py").write_text("raise RuntimeError\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    assert instantiate({"_target_": "my_own_file.Thing", "size": 3}, "model").size == 3
    assert sys.path[-1] == str(tmp_path)


def test_nested_sections_are_built() -> None:
    layer = {"_target_": "torch.nn.TransformerEncoderLayer", "d_model": 8, "nhead": 2, "dim_feedforward": 16}
    built = instantiate({"_target_": "torch.nn.TransformerEncoder", "encoder_layer": layer, "num_layers": 2,
                         "enable_nested_tensor": False}, "model")  # fmt: skip
    assert isinstance(built, nn.TransformerEncoder)


@pytest.mark.parametrize(
    "target",
    [
        "os.system", "builtins.eval", "torch.load", "torch.hub.load", "torch.serialization.os.system",
        "pathlib.Path.unlink",
        "torch.utils.collect_env.run", "torch.utils.cpp_extension.load_inline", "subprocess.Popen",
    ],
)  # fmt: skip
def test_foreign_config_may_not_run_code(target: str) -> None:
    with pytest.raises(ConfigError, match=r"wants to run|no module|has no"):
        locate(target, "model._target_", Trust(everything=False))


def test_foreign_config_may_build_parts_of_trusted_packages() -> None:
    foreign = Trust(everything=False)
    assert locate("torch.nn.Linear", "model._target_", foreign) is nn.Linear
    locate("torch.optim.SGD", "optimizer._target_", foreign)
    locate("dlwp.models.resnet.ResNet", "model._target_", foreign)
    assert locate("os.system", "x", Trust(everything=False, packages=["posix"])) is not None
