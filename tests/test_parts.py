"""A target becomes an object, or one line that names the key."""

from __future__ import annotations

import re
import sys
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


FOREIGN = Trust(everything=False)


@pytest.mark.parametrize(
    "target",
    [
        "os.system", "builtins.eval", "torch.load", "torch.hub.load", "torch.serialization.os.system",
        "pathlib.Path.unlink", "torch.utils.collect_env.run", "torch.utils.cpp_extension.load_inline",
        "subprocess.Popen", "torch.jit.ScriptModule", "torch.fx.GraphModule", "torch.distributed.nn.RemoteModule",
        "torch.package.PackageImporter", "torch.nn.Module.load_state_dict", "dlwp.checkpoint.load",
        "torch.utils.data.datapipes.iter.FileLister",
        "torchvision.datasets.LSUN", "torchvision.datasets.utils.download_url", "torchvision.models.get_model",
        "dlwp.runs.files.remove_tree", "dlwp.runs.folder.RunFolder", "dlwp.commands.train.main", "dlwp.api.train",
        "dlwp.train", "dlwp.parts.Trust", "dlwp.observers.saving.Saving", "dlwp.data.images.pictures.read_splits",
        "dlwp.data.streaming.StreamingLoader",
    ],
)  # fmt: skip
def test_foreign_config_may_not_run_code(target: str) -> None:
    with pytest.raises(ConfigError, match=r"^model\._target_ wants to run .*\. If you trust its maker: trust=\[\w+\]$"):
        locate(target, "model._target_", FOREIGN)


@pytest.mark.parametrize(
    "target",
    [
        "torch.nn.Linear", "torch.nn.CrossEntropyLoss", "torch.optim.SGD", "torch.optim.lr_scheduler.OneCycleLR",
        "torch.utils.data.TensorDataset", "torch.utils.data.RandomSampler", "torchvision.models.resnet18",
        "torchvision.models.ResNet", "torchvision.datasets.FakeData", "torchvision.transforms.ToTensor",
        "torchvision.transforms.v2.RandomCrop", "dlwp.models.resnet.ResNet", "dlwp.data.images.digits",
        "dlwp.data.synthetic.synthetic", "dlwp.metrics.Accuracy", "dlwp.schedules.OneCycle", "dlwp.optimizers.Muon",
        "dlwp.observers.overfit.Overfit",
    ],
)  # fmt: skip
def test_foreign_config_may_build_parts_of_trusted_packages(target: str) -> None:
    locate(target, "model._target_", FOREIGN)


def test_every_target_of_our_own_configs_is_a_part(checkout: Path) -> None:
    written = [
        re.findall(r"^[^#\n]*_target_: ([\w.]+)", path.read_text(), re.MULTILINE)
        for path in (checkout / "configs").rglob("*.yaml")
        if path.parent.parent.name != "hydra"  # Hydra's own plugins are no parts
    ]
    targets = {target for found in written for target in found}
    assert len(targets) > 30
    for target in targets:
        locate(target, "x", FOREIGN)


def test_trust_is_given_to_what_a_name_resolves_to() -> None:
    assert locate("os.system", "x", Trust(everything=False, packages=["os", "posix"])) is not None
    with pytest.raises(ConfigError, match=r"trust=\[posix\]"):
        locate("os.system", "x", Trust(everything=False, packages=["os"]))


def test_foreign_config_imports_nothing_of_the_folder_where_the_person_stands(own_place: Path, monkeypatch) -> None:
    (own_place / "evil.py").write_text("from pathlib import Path\nPath('evil-ran').touch()\n")
    (own_place / "timm").mkdir()
    (own_place / "timm" / "__init__.py").write_text("from pathlib import Path\nPath('evil-ran').touch()\n")
    monkeypatch.syspath_prepend(own_place)
    monkeypatch.delitem(sys.modules, "timm", raising=False)  # an installed one, that another test imported
    for target in ("evil.Model", "timm.create_model"):
        with pytest.raises(ConfigError, match="wants to run"):
            locate(target, "model._target_", FOREIGN)
    assert not Path("evil-ran").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        {"model_name": "hf_hub:someone/evil"},
        {"model_name": "local-dir:evil"},
        {"model_name": "resnet18", "checkpoint_path": "evil.pt"},
    ],
)
def test_foreign_config_may_not_let_timm_fetch_or_read_weights(arguments: dict[str, str]) -> None:
    def create_model(**options: str) -> None: ...

    create_model.__module__ = "timm.models._factory"  # timm need not be installed
    with pytest.raises(ConfigError, match=r"^model wants to run 'timm\..*create_model'"):
        FOREIGN.check_call("model", create_model, arguments)
    FOREIGN.check_call("model", create_model, {"model_name": "resnet18", "pretrained": True})
