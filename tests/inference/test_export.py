"""Hold that what is exported is what was trained: run elsewhere, on any batch, with what its metadata say."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy
import pytest
import safetensors
import torch
from torch import Tensor, nn

import dlwp
from dlwp import api
from dlwp.data.datasets import Facts
from dlwp.errors import ConfigError, DataError, MachineError, RunError
from dlwp.inference import export as exporting
from dlwp.inference import formats, networks
from dlwp.inference.networks import Network

pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

TRAINED = ["data=synthetic", "data.num_train=64", "data.num_test=8", "data.batch_size=8", "trainer.max_steps=1"]
TRAINED += ["trainer.limit_batches=1", "trainer.progress=false", "logger.plots=false", "logger.tensorboard=false"]
PICTURES = "data.shape=[3,16,16]"
FAMILIES = {
    "resnet": [PICTURES],
    "cnn": [PICTURES],
    "mlp": ["model.hidden=[8]", "data.shape=[5]"],
    "linear": ["data.shape=[1,8,8]"],
    "vit": [PICTURES, "model.width=24", "model.num_heads=2", "model.depth=2", "model.pool=class"],
    "airbench": [PICTURES, "model.channels=[16,16]"],
    "autoencoder": ["model.channels=[8]", PICTURES],
}


@pytest.fixture(scope="module")
def run_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function from a family to the folder of a run of one step, trained when it is first asked for."""
    home, runs = tmp_path_factory.mktemp("runs"), {}

    def find(family: str) -> Path:
        if family not in runs:
            words = [f"model={family}", *TRAINED, *FAMILIES[family], f"run_dir={home / family}"]
            runs[family] = dlwp.train(*words).folder
        return runs[family]

    return find


def network_of(model: nn.Module, *, shape: Sequence[int] = (3, 8, 8), **facts: Any) -> Network:
    """Return a network of a small model whose logits are far from one another."""
    known = {"task": "classification", "num_classes": 3, "classes": ["cat", "dog", "fox"], "mean": [0.4, 0.5, 0.6]}
    known |= {"std": [0.2, 0.25, 0.3], **facts}
    section = {"_target_": "torch.nn.Identity"}
    return Network(model.eval(), Facts(input_shape=tuple(shape), **known), section, "a network", Path("model"))


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))


def lines_of(network: Any, **options: Any) -> dict[str, str]:
    """Export, and return what was said by the first word of each line; the snippet is under "run"."""
    lines: list[str] = []
    exporting.export(network, say=lines.append, **options)
    return said(lines)


def said(lines: list[str]) -> dict[str, str]:
    begin = next(number for number, line in enumerate(lines) if line.startswith("run it"))
    found = {line.split()[0]: line[9:] for line in lines[:begin]}
    return found | {"run": "\n".join(line[9:] for line in lines[begin:])}


def left(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# ---- every family, every format -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "preprocessing"), [*((name, True) for name in FAMILIES), ("linear", False), ("mlp", False)]
)
def test_onnxruntime_gives_the_networks_outputs_of_any_batch(
    family: str, preprocessing: bool, run_of: Callable[[str], Path]
) -> None:
    path = dlwp.export(run_of(family), preprocessing=preprocessing)
    assert path == run_of(family) / "export" / "model.onnx"
    network, _ = api._network(run_of(family), [])
    session = onnxruntime.InferenceSession(str(path))
    for size in (1, 3, 7):  # other sizes than those of the exporter's own check
        batch, normalised = drawn(network.facts, size)
        (found,) = session.run(None, {"input": (batch if preprocessing else normalised).numpy()})
        with torch.inference_mode():
            expected = network.model(normalised)
        assert exporting.difference([torch.from_numpy(found)], [expected]) <= 1e-5


def drawn(facts: Facts, size: int) -> tuple[Tensor, Tensor]:
    """Return noise as the data has it, and that normalised by the formula itself."""
    generator = torch.Generator().manual_seed(size)
    shape = (1, -1) + (1,) * (len(facts.input_shape) - 1)
    mean, std = (torch.tensor(values).view(shape) for values in (facts.mean, facts.std))
    if len(facts.input_shape) == 3:
        batch = torch.randint(0, 256, (size, *facts.input_shape), generator=generator, dtype=torch.uint8)
        return batch, (batch / 255 - mean) / std
    batch = torch.randn(size, *facts.input_shape, generator=generator)
    return batch, (batch - mean) / std


@pytest.mark.parametrize("family", ["resnet", "mlp", "vit", "autoencoder"])  # four seconds each; ONNX has all
def test_torch_runs_the_program_without_the_models_code(family: str, run_of: Callable[[str], Path]) -> None:
    path = dlwp.export(run_of(family), format="torch_export", preprocessing=family != "resnet")
    assert path == run_of(family) / "export" / "model.pt2"
    network, _ = api._network(run_of(family), [])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, of its own code
        model = torch.export.load(path).module()
    batch, normalised = drawn(network.facts, 3)
    with torch.inference_mode():
        found, expected = model(normalised if family == "resnet" else batch), network.model(normalised)
    assert exporting.difference([found], [expected]) <= 1e-5


@pytest.mark.parametrize("family", ["resnet", "mlp", "vit", "airbench", "autoencoder"])
def test_a_file_of_weights_is_enough_to_build_the_network_again(family: str, run_of: Callable[[str], Path]) -> None:
    path = dlwp.export(run_of(family), format="safetensors")
    network, _ = api._network(run_of(family), [])
    rebuilt = networks.of_file(path)
    assert rebuilt.facts.record() == {**network.facts.record(), "input_shape": list(network.facts.input_shape)}
    batch = drawn(network.facts, 2)[1]
    with torch.inference_mode():
        assert torch.equal(rebuilt.model(batch), network.model(batch))


def test_a_published_network_with_its_own_weights_is_exported() -> None:
    lines: list[str] = []
    path = dlwp.export(words=["model=efficientnet_lite"], preprocessing=True, softmax=True, say=lines.append)
    assert path == Path("efficientnet_lite.onnx") and path.stat().st_size > 18e6
    assert "tench, goldfish, great white shark, … (1,000 classes)" in said(lines)["output"]
    session = onnxruntime.InferenceSession(str(path))
    picture = numpy.full((1, 3, 224, 224), 128, numpy.uint8)
    (found,) = session.run(None, {"input": picture})
    assert found.sum() == pytest.approx(1, abs=1e-5)  # float32
    expected = dlwp.load().probabilities(torch.from_numpy(picture))
    assert exporting.difference([torch.from_numpy(found)], [expected]) <= 1e-4  # channels_last sums otherwise


def test_a_torchvision_network_with_weights_of_a_file_is_exported() -> None:
    from dlwp.models.torchvision import torchvision_network

    safetensors.torch.save_file(torchvision_network("resnet18").state_dict(), "own.safetensors")
    words = ["model=torchvision", "model.name=resnet18", "model.weights=own.safetensors"]
    assert dlwp.export(words=words) == Path("resnet18.onnx")
    assert Path("resnet18.onnx").is_file()


# ---- what is refused, and leaves nothing ----------------------------------------------------------------------------


def test_a_wrong_normalisation_inside_the_file_is_found_and_nothing_is_left(
    monkeypatch: pytest.MonkeyPatch, own_place: Path
) -> None:
    right = formats.constants
    monkeypatch.setattr(formats, "constants", lambda facts: (right(facts)[0], right(facts)[1] + 0.01))
    Path("model.onnx").write_text("an earlier one")
    with pytest.raises(RunError, match=r"the file gives other outputs than the network: they differ by \d\.\de-\d"):
        exporting.export(network_of(small()), "onnx", preprocessing=True)
    assert left(own_place) == ["model.onnx"]
    assert Path("model.onnx").read_text() == "an earlier one"


@pytest.mark.parametrize("format", ["onnx", "safetensors"])
def test_a_wrong_normalisation_in_the_metadata_is_found_and_nothing_is_left(
    format: str, monkeypatch: pytest.MonkeyPatch, own_place: Path
) -> None:
    right = exporting._metadata
    monkeypatch.setattr(exporting, "_metadata", lambda *given: {**right(*given), "mean": [0.41, 0.5, 0.6]})
    with pytest.raises(RunError, match="other outputs"):
        exporting.export(linear_network(), format)
    assert left(own_place) == []


def linear_network() -> Network:
    """Return a network whose section builds it."""
    from dlwp.models.linear import Linear

    section = {"_target_": "dlwp.models.linear.Linear", "in_features": 192, "out_features": 3}
    made = network_of(Linear(in_features=192, out_features=3))
    torch.nn.init.normal_(made.model.head.weight, generator=torch.Generator().manual_seed(0))  # it begins with zeros
    return Network(made.model, made.facts, section, made.name, made.stem)


def test_changed_weights_are_found(monkeypatch: pytest.MonkeyPatch, own_place: Path) -> None:
    right = formats.tensor_file.pieces
    monkeypatch.setattr(
        formats.tensor_file, "pieces", lambda tensors, said: right({k: v + 0.01 for k, v in tensors.items()}, said)
    )
    with pytest.raises(RunError, match="other outputs"):
        exporting.export(linear_network(), "safetensors")
    assert left(own_place) == []


class OfTwo(nn.Module):
    """A model that takes batches of two alone."""

    def forward(self, pictures: Tensor) -> Tensor:
        return pictures.reshape(2, 192)[:, :3]


class Tuple(nn.Module):
    """A model of two outputs."""

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        return pictures, pictures


class Branching(nn.Module):
    """A model whose way depends on the numbers that it gets."""

    def forward(self, pictures: Tensor) -> Tensor:
        flat = pictures.flatten(1)[:, :3]
        return flat if float(pictures.sum()) > 0 else -flat


class Fixing(nn.Module):
    """A model that takes any batch, and whose trace takes but one."""

    def forward(self, pictures: Tensor) -> Tensor:
        return pictures.flatten(1)[:, :3] + torch.ones(1, 3).expand(len(pictures), 3)


@pytest.mark.parametrize(
    ("model", "kind", "why"),
    [
        (OfTwo(), ConfigError, r"a network does not take one tensor of numbers \[3, 8, 8\]"),
        (Fixing(), RunError, "the file does not run in a new process .*Got: 1 Expected: 2"),
        (Tuple(), ConfigError, "gives tuple; only a model of one tensor"),
        (Branching(), RunError, "format=onnx: torch cannot export Branching with a batch of any size"),
        (nn.Sequential(nn.Flatten(), nn.Linear(9, 3)), ConfigError, "does not take one tensor"),
    ],
    ids=["fixed batch", "fixed in the file", "two outputs", "branch", "other shape"],
)
def test_a_model_that_cannot_be_exported_is_told_in_one_line(
    model: nn.Module, kind: type[Exception], why: str, own_place: Path
) -> None:
    with pytest.raises(kind, match=why) as told:
        exporting.export(network_of(model))
    assert "\n" not in str(told.value)
    assert left(own_place) == []


def test_outputs_that_are_no_logits_have_no_softmax(own_place: Path) -> None:
    with pytest.raises(ConfigError, match=r"softmax=true is for networks that classify; a network does not"):
        exporting.export(network_of(nn.Conv2d(3, 3, 1)), softmax=True)
    assert left(own_place) == []


def test_a_network_that_takes_no_notice_of_its_inputs_is_said_to_prove_little(own_place: Path) -> None:
    network = linear_network()
    nn.init.zeros_(network.model.head.weight)
    assert lines_of(network, format="safetensors")["checked"].endswith("the same for all inputs: that proves little")
    assert "proves" not in lines_of(linear_network(), format="safetensors")["checked"]


def test_outputs_that_are_not_numbers_are_no_proof(own_place: Path) -> None:
    model = small()
    nn.init.constant_(model[3].bias, float("nan"))
    with pytest.raises(RunError, match="itself gives NaN"):
        exporting.export(network_of(model))
    assert not exporting.difference([torch.tensor([float("nan")])], [torch.ones(1)]) <= exporting.LIMIT
    assert exporting.difference([torch.ones(2)], [torch.ones(1)]) == float("inf")


@pytest.mark.parametrize("missing", ["onnx", "onnxruntime", "onnxscript"])
def test_a_missing_package_is_named_with_the_way_to_have_it(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(
        MachineError, match=r"needs the packages onnx, onnxruntime and onnxscript: pip install 'dlwp\[on"
    ):
        exporting.export(network_of(small()))


def test_a_full_disk_is_told_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch, own_place: Path) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(exporting.files, "rename", full)
    with pytest.raises(MachineError, match=r"disk of 'x/model.safetensors' has .* GB free"):
        exporting.export(linear_network(), "safetensors", "x/model.safetensors")
    assert left(own_place) == []


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"format": "onxx"}, "no format 'onxx'. Did you mean 'onnx'?"),
        ({"format": "safetensors", "softmax": True}, "softmax=true has no effect on format=safetensors"),
        ({"format": "safetensors", "preprocessing": True}, "preprocessing=true has no effect"),
        ({"output": "."}, "output=. is a folder. output=model.onnx"),
        ({"inputs": ["nowhere.jpg"]}, "no file 'nowhere.jpg'"),
    ],
    ids=str,
)
def test_options_that_cannot_work_are_refused(options: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError) as told:
        exporting.export(network_of(small()), **options)
    assert str(told.value).startswith(why)


# ---- what the file says of itself -----------------------------------------------------------------------------------

EXPECTED = {
    "task": "classification",
    "input": "uint8",
    "output": "logits",
    "preprocessing": True,
    "input_shape": [3, 8, 8],
    "classes": ["cat", "dog", "fox"],
    "mean": [0.4, 0.5, 0.6],
    "std": [0.2, 0.25, 0.3],
    "form": {"height": 8, "width": 8, "fit": "crop", "resize": 9, "interpolation": "bicubic"},
    "dlwp": dlwp.__version__,
    "name": "a network",
}


def test_an_onnx_file_says_all_that_is_needed_to_use_it(own_place: Path) -> None:
    form = {"fit": "crop", "resize": 9, "interpolation": "bicubic"}
    lines = lines_of(network_of(small(), form=form), preprocessing=True)
    session = onnxruntime.InferenceSession("model.onnx")
    found = session.get_modelmeta().custom_metadata_map
    texts = ("dlwp", "name", "task", "input", "output")
    assert {key: value if key in texts else json.loads(value) for key, value in found.items()} == EXPECTED
    (into,), (out,) = session.get_inputs(), session.get_outputs()
    assert (into.name, into.type, into.shape) == ("input", "tensor(uint8)", ["batch", 3, 8, 8])
    assert (out.name, out.type, out.shape) == ("logits", "tensor(float)", ["batch", 3])
    assert lines["exported"].startswith("model.onnx · 0.0")
    assert lines["exported"].endswith("ONNX opset 20")
    assert (
        lines["input"] == "input: uint8 (batch, 3, 8, 8), pictures as they are, scaled to [0, 1] and normalised inside"
    )
    assert lines["output"] == "logits: float32 (batch, 3), of cat, dog, fox"
    assert "in a new process, on batches of 1, 2 and 5: largest difference" in lines["checked"]
    assert left(own_place) == ["model.onnx"]


def test_a_program_of_torch_holds_the_same(own_place: Path) -> None:
    form = {"fit": "crop", "resize": 9, "interpolation": "bicubic"}
    exporting.export(network_of(small(), form=form), "torch_export", preprocessing=True)
    extra = {"dlwp.json": ""}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.load("model.pt2", extra_files=extra)
    assert json.loads(extra["dlwp.json"]) == EXPECTED


def test_a_file_of_weights_names_what_builds_it_and_is_read_without_trust(own_place: Path) -> None:
    exporting.export(linear_network(), "safetensors")
    with safetensors.safe_open("model.safetensors", framework="numpy") as file:
        found = file.metadata()
    assert json.loads(found["model"])["_target_"] == "dlwp.models.linear.Linear"
    assert json.loads(found["classes"]) == ["cat", "dog", "fox"]
    strange = {**found, "model": json.dumps({"_target_": "os.system", "command": "touch was_run"})}
    safetensors.torch.save_file(
        networks.of_file("model.safetensors").model.state_dict(), "strange.safetensors", strange
    )
    with pytest.raises(ConfigError, match=r"model\._target_ wants to run 'os\.system'"):
        networks.of_file("strange.safetensors")
    assert not Path("was_run").exists()
    safetensors.torch.save_file({"weight": torch.ones(2)}, "plain.safetensors")
    with pytest.raises(DataError, match="does not say what network it is of"):
        networks.of_file("plain.safetensors")
    Path("cut.safetensors").write_bytes(Path("model.safetensors").read_bytes()[:-5])
    with pytest.raises(DataError, match=r"is no whole \.safetensors file"):
        networks.of_file("cut.safetensors")


@pytest.mark.parametrize("format", [one for one in exporting.SUFFIXES if one != "python"])
def test_the_lines_that_say_how_it_is_run_run_as_they_stand(format: str, own_place: Path) -> None:
    text = lines_of(linear_network(), format=format, output="näme of it" + exporting.SUFFIXES[format])["run"]
    assert 3 <= len(text.splitlines()) <= 4
    done = subprocess.run([sys.executable, "-c", f"{text}\nprint(logits.shape)"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "1, 3" in done.stdout


def test_photographs_that_are_given_are_what_is_compared_on(own_place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    draw = numpy.random.default_rng(0)
    for number in range(2):
        Image.fromarray(draw.integers(0, 256, (20, 30, 3), numpy.uint8)).save(f"{number}.png")
    seen: list[Tensor] = []
    right = exporting._rerun
    monkeypatch.setattr(exporting, "_rerun", lambda file, format, batches, said: seen.extend(batches) or right(
        file, format, batches, said
    ))  # fmt: skip
    exporting.export(linear_network(), "safetensors", inputs=["*.png"])
    assert [len(batch) for batch in seen] == [1, 2, 5]
    whole = torch.cat(seen)
    assert len(whole.unique(dim=0)) == 2 and whole.dtype == torch.uint8
    assert left(own_place) == ["0.png", "1.png", "model.safetensors"]


def test_nothing_of_what_torch_says_reaches_a_person(own_place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    exporting.export(network_of(small()))
    assert capfd.readouterr() == ("", "")
