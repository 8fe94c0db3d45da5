"""A network is fine-tuned on pictures of one's own: by its features once, or whole; it resumes, and predicts alone."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image

import dlwp
from dlwp import checkpoint
from dlwp.errors import ConfigError

QUIET = ("trainer.progress=false", "logger.plots=false", "logger.tensorboard=false")
FROZEN = ("experiment=transfer", "data.root=set", "data.image_size=32", "data.batch_size=8", *QUIET)


@pytest.fixture(autouse=True)
def pictures() -> None:
    """Draw stripes that lie and stripes that stand, in noise."""
    generator = numpy.random.default_rng(0)
    for split, count in (("train", 16), ("val", 8)):
        for name in ("lying", "standing"):
            for number in range(count):
                field = 128 + 60 * numpy.sign(numpy.sin(numpy.arange(48) / 2 + number))
                field = numpy.tile(field, (48, 1)) if name == "standing" else numpy.tile(field[:, None], (1, 48))
                pixels = numpy.clip(field[..., None] + generator.normal(0, 30, (48, 48, 3)), 0, 255)
                file = Path("set", split, name, f"{number}.png")
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels.astype(numpy.uint8)).save(file)


def tensors_of(run: dlwp.Run) -> dict[str, torch.Tensor]:
    folder = run.folder / "checkpoints" / Path(run.folder, "checkpoints", "last").read_text().strip()
    return checkpoint.load_weights(folder)[0]


def test_features_once_train_the_head_alone_and_learn(capfd: pytest.CaptureFixture[str]) -> None:
    from dlwp.models.efficientnet_lite import EfficientNetLite

    run = dlwp.train(*FROZEN, "trainer.epochs=6")
    said = capfd.readouterr().out
    assert "features of 48 samples computed once" in said
    assert "2,562 of them trained (backbone frozen)" in said
    assert "294 of 296 tensors · head.weight, head.bias of another shape, so new" in said
    assert run.summary["best"]["val/accuracy"] >= 0.9
    published = EfficientNetLite.pretrained().load()
    changed = [
        name for name, value in tensors_of(run).items() if name in published and not torch.equal(value, published[name])
    ]
    assert changed == ["head.weight", "head.bias"]


def test_a_head_on_features_is_what_a_head_on_pictures_is() -> None:
    once = dlwp.train(*FROZEN, "trainer.epochs=2", "trainer.precision=fp32", "model.dropout=0.0")
    assert_same(once, dlwp.train(*FROZEN, "trainer.epochs=2", "trainer.precision=fp32", "model.dropout=0.0",
                                 "trainer.step=plain.step"))  # fmt: skip


def assert_same(one: dlwp.Run, other: dlwp.Run) -> None:
    """Hold that two runs ended with the same weights, but for the rounding of batches of another size."""
    mine, theirs = tensors_of(one), tensors_of(other)
    for name, value in mine.items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-3, atol=2e-4)


@pytest.fixture(autouse=True)
def plain_step(pictures: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write a step that is the usual one, by which features are not computed once."""
    Path("plain.py").write_text(
        "def step(model, batch, criterion):\n"
        "    model.eval()\n"
        "    outputs = model(batch[0])\n"
        "    return criterion(outputs, batch[1]), outputs\n"
    )
    monkeypatch.syspath_prepend(Path.cwd())
    sys.modules.pop("plain", None)


def test_a_killed_run_on_features_goes_on_bit_for_bit() -> None:
    words = [*FROZEN, "trainer.epochs=3", "trainer.checkpoint_every=3 steps", "trainer.keep_last=9"]
    whole = dlwp.train(*words, "run_dir=whole")
    shutil.copytree("whole", "cut")
    for name in sorted(one.name for one in Path("cut/checkpoints").glob("step-*"))[2:]:
        shutil.rmtree(Path("cut/checkpoints", name))
    kept = sorted(one.name for one in Path("cut/checkpoints").glob("step-*"))[-1]
    run = dlwp.train(f"resume=cut/checkpoints/{kept}", "trainer.progress=false")
    assert run.summary["step"] == whole.summary["step"]
    assert all(torch.equal(value, tensors_of(run)[name]) for name, value in tensors_of(whole).items())


def test_thawed_in_the_middle_the_backbone_learns_from_there_and_resumes_so() -> None:
    words = [
        *FROZEN,
        "trainer.epochs=2",
        "trainer.unfreeze_at=1 epoch",
        "trainer.precision=fp32",
        "trainer.keep_last=9",
    ]
    whole = dlwp.train(*words, "run_dir=whole")
    first, last = (checkpoint.load_weights(one)[0] for one in sorted(Path("whole/checkpoints").glob("step-*")))
    from dlwp.models.efficientnet_lite import EfficientNetLite

    published = EfficientNetLite.pretrained().load()
    assert torch.equal(first["conv_stem.weight"], published["conv_stem.weight"])
    assert torch.equal(first["bn1.running_mean"], published["bn1.running_mean"])
    assert not torch.equal(last["conv_stem.weight"], published["conv_stem.weight"])
    assert not torch.equal(last["bn1.running_mean"], published["bn1.running_mean"])
    shutil.copytree("whole", "cut")
    shutil.rmtree(sorted(Path("cut/checkpoints").glob("step-*"))[1])
    begin = next(Path("cut/checkpoints").glob("step-*"))
    run = dlwp.train(f"resume={begin}", "trainer.progress=false")
    assert all(torch.equal(value, tensors_of(run)[name]) for name, value in tensors_of(whole).items())


def test_a_run_begins_with_the_weights_of_another_and_needs_neither_to_resume() -> None:
    first = dlwp.train(*FROZEN, "trainer.epochs=1", "run_dir=first")
    words = ("trainer.epochs=2", "model.weights=first", "model.pretrained=false", "run_dir=second")
    second = dlwp.train(*FROZEN, *words, "trainer.max_steps=4")
    shutil.rmtree("first")
    again = dlwp.train("resume=second", "trainer.max_steps=null")
    assert again.summary["step"] == 8
    assert torch.equal(tensors_of(again)["conv_stem.weight"], tensors_of(second)["conv_stem.weight"])
    assert first.exit == "done"


def test_a_checkpoint_predicts_without_its_data_set() -> None:
    run = dlwp.train(*FROZEN, "trainer.epochs=6")
    shutil.move("set/val", "kept")
    shutil.rmtree("set")
    predictor = dlwp.load(run.folder)
    assert predictor.classes == ["lying", "standing"]
    right = [predictor(str(file))[0].label == file.parent.name for file in sorted(Path("kept").rglob("*.png"))]
    assert sum(right) / len(right) == pytest.approx(run.summary["best"]["val/accuracy"], abs=0.07)  # bf16 there


def test_rates_of_the_backbone_are_lower_stage_by_stage() -> None:
    from dlwp.build import Builder
    from dlwp.config.compose import compose

    words = ["data=synthetic", "model=resnet", "optimizer=sgd", "optimizer.lr=1.0", "optimizer.backbone_lr_scale=0.5"]
    parts = Builder(compose([*words, "optimizer.layer_decay=0.1"]).values).build()
    names = {id(one): name for name, one in parts.model.named_parameters()}
    assert parts.optimizer is not None
    rates = {names[id(one)]: group["lr"] for group in parts.optimizer.param_groups for one in group["params"]}
    decays = {
        names[id(one)]: group["weight_decay"] for group in parts.optimizer.param_groups for one in group["params"]
    }
    assert rates.keys() == dict(parts.model.named_parameters()).keys()
    assert rates["head.weight"] == rates["head.bias"] == 1.0
    assert rates["stages.2.0.conv1.weight"] == pytest.approx(0.05)
    assert rates["conv1.weight"] == rates["bn1.bias"] == pytest.approx(0.5e-4)
    assert decays["bn1.bias"] == decays["head.bias"] == 0 and decays["conv1.weight"] == 5e-4


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("model=resnet", "model.pretrained=true"), "no weights of ResNet are published.*model.weights=FILE"),
        (("model=resnet", "model.weights=none.pth"), "no file 'none.pth'"),
        (("model=resnet", "model.freeze=9"), "model.freeze=9, but the backbone has 4 stages"),
        (("model=resnet", "optimizer.backbone_lr_scale=0.1", "optimizer.groups=[{parameters: head.*, lr: 1}]"),
         "leave backbone_lr_scale and layer_decay out"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_one_line(words: tuple[str, ...], line: str) -> None:
    with pytest.raises(ConfigError, match=line):
        dlwp.train("data=digits", *words, *QUIET)


def test_the_command_of_the_readme_is_the_whole_of_it() -> None:
    command = [sys.executable, "-c", "from dlwp.commands.train import main; raise SystemExit(main())"]
    words = ["experiment=transfer", "data.root=set", "trainer.epochs=1", "data.image_size=32"]
    done = subprocess.run([*command, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
