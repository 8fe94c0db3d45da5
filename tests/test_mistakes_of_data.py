"""Mistakes that need data, code of one's own or a run to be made: one line, the file or key, the exit status.

`ERRORS` of the design numbers them, as in test_mistakes.py; the rows there need no more than the command line.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy
import pytest
import torch
from PIL import Image

from dlwp.commands import train
from test_damage import script

FAST = "trainer.epochs=1 logger.tensorboard=false logger.plots=false trainer.progress=false "
ROOT = Path(__file__).resolve().parent.parent
sound = script(ROOT, "damage_data")

PICTURES = FAST + "data=imagefolder data.root=set data.image_size=8 data.augment=null data.batch_size=4 model=linear"
TABLE = FAST + "data=csv data.path=set/t.csv model=mlp "
ARRAYS = FAST + "data=arrays data.path=set model=linear "
OWN = FAST + "--config-dir own data=mine model=linear"
NOISE = FAST + "data=synthetic data.num_train=32 data.num_test=0 "


class Row(NamedTuple):
    """A mistake: its number, what is typed, the status, a pattern for the line, what lays the files."""

    number: int | None
    name: str
    words: str
    code: int
    pattern: str
    lay: Callable[[], None]


def pictures(*further: Callable[[], object]) -> Callable[[], None]:
    return after("imagefolder", *further)


def after(kind: str, *further: Callable[[], object]) -> Callable[[], None]:
    """Return what lays a sound set of a kind, and then does something to it."""

    def lay() -> None:
        sound.lay(kind)
        for one in further:
            one()

    return lay


def write(path: str, text: str) -> Callable[[], None]:
    def lay() -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(text)

    return lay


def samples(value: str) -> Callable[[], None]:
    """Return what lays a data set of one's own, each sample of which is `value`."""
    code = "import torch\nfrom torch.utils.data import Dataset\n\n\nclass Mine(Dataset):\n"
    code += f"    def __len__(self): return 20\n    def __getitem__(self, index): return {value}\n"
    return lambda: (write("own_data.py", code)(), write("own/data/mine.yaml", "_target_: own_data.Mine\n")())[0]


def model(layers: str) -> Callable[[], None]:
    """Return what lays a model of one's own."""
    code = f"from torch import nn\n\n\ndef net(): return nn.Sequential({layers})\n"
    return lambda: (write("own_net.py", code)(), write("own/model/m.yaml", "_target_: own_net.net\n")())[0]


class Evil:
    """What starts a program when it is unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("true",)


def huge() -> None:
    Image.new("L", (9_500, 9_500)).save("set/train/ant/9.png")


ROWS = [
    Row(35, "import fails", FAST + "model._target_=own_net.Net", 2,
        r"model\._target_: importing own_net failed at .*own_net\.py:1: NameError: name 'nn'",
        write("own_net.py", "x = nn.Linear\n")),
    Row(35, "syntax", FAST + "model._target_=own_net.Net", 2, r"importing own_net failed at .*\.py:1: SyntaxError",
        write("own_net.py", "def f(:\n")),
    Row(38, "a text for true or false", FAST + "model.zero_init_residual=abc", 2,
        r"model\.zero_init_residual must be true or false, got 'abc'", lambda: None),
    Row(38, "a text for a number", FAST + "optimizer.momentum=1e3x", 2,
        r"optimizer\.momentum must be a number, got '1e3x'", lambda: None),
    Row(42, "no folder", PICTURES, 3, r"no data folder 'set' \(data\.root\)\. Near it: 'sets'",
        lambda: Path("sets").mkdir()),
    Row(43, "empty folder", PICTURES, 3, r"'set' has no class folders\. Expected set/CLASS/\*\.jpg",
        lambda: Path("set").mkdir()),
    Row(44, "class folder without pictures", PICTURES, 3,
        r"class folder 'set/train/dog' has no pictures \(\.jpg.*\); it holds 1 \.txt\. Remove it, or data\.allow_empty",
        pictures(write("set/train/dog/a.txt", "x"))),
    Row(44, "no class has pictures", PICTURES + " data.allow_empty=true", 3,
        r"'set/train' has no picture in any of its class folders",
        pictures(lambda: [file.unlink() for file in Path("set/train").glob("*/*.png")])),
    Row(45, "one class", PICTURES, 3, r"only one class, 'ant', in 'set/train'",
        pictures(lambda: shutil.rmtree("set/train/bee"))),
    Row(45, "one level too high", PICTURES.replace("data.root=set", "data.root=."), 3,
        r"only one class, 'set', in '\.'\. Did you mean data\.root=set\?",
        pictures(lambda: shutil.rmtree("set/val"), write("outputs/a-b/2026/run.log", ""))),
    Row(45, "one level too high, beside a folder of texts", PICTURES.replace("data.root=set", "data.root=."), 3,
        r"class folder 'notes' has no pictures \(.*\); it holds 1 \.txt\. Did you mean data\.root=set\?",
        pictures(lambda: shutil.rmtree("set/val"), write("notes/a.txt", ""))),
    Row(46, "text named .png", PICTURES, 3, r"set/train/ant/0\.png \(sample 0\) is not a picture",
        pictures(write("set/train/ant/0.png", "<html>"))),
    Row(46, "cut off", PICTURES, 3, r"set/train/ant/0\.png \(sample 0\) (is cut off|cannot be decoded)",
        pictures(lambda: Path("set/train/ant/0.png").write_bytes(Path("set/train/ant/1.png").read_bytes()[:90]))),
    Row(46, "link to nowhere", PICTURES, 3, r"'set/train/ant/9\.png' cannot be read: it is a link to what is not there",
        pictures(lambda: Path("set/train/ant/9.png").symlink_to("nowhere"))),
    Row(47, "huge picture", PICTURES, 3, r"set/train/ant/9\.png \(sample 4\) has more than 89,478,485 pixels",
        pictures(huge)),
    Row(48, "samples of several sizes", OWN, 3,
        r"samples of Mine differ: sample \d+ is [12]×3, int, sample \d+ is [12]×3, int\. Give them one shape",
        samples("(torch.zeros(1 + index % 2, 3), index % 2)")),
    Row(49, "label out of range", ARRAYS + "data.classes=2", 3,
        r"label 2 in train \(sample \d+\) but there are 2 classes \(0–1\)\. data\.classes=3", after("arrays")),
    Row(49, "label below 0", ARRAYS, 3, r"label -1 in train \(sample \d+\) .* Labels count from 0",
        after("arrays", lambda: numpy.save("set/y.npy", numpy.arange(40) % 3 - 1))),
    Row(50, "numbers into cross-entropy", ARRAYS + "criterion=cross_entropy metrics=none", 2,
        r"labels are \[4, 1\], float32, CrossEntropyLoss wants whole numbers; for numbers use criterion=mse",
        after("arrays", lambda: numpy.save("set/y.npy", numpy.linspace(0, 1, 40).astype("float32")))),
    Row(52, "text in a number column", TABLE + "data.target=kind data.types={height:number}", 3,
        r"set/t\.csv: column 'height' is 'tall' in row \d+, a number is needed\. data\.missing=\['tall'\]",
        after("csv", lambda: Path("set/t.csv").write_text(Path("set/t.csv").read_text().replace("\n8.5,", "\ntall,")))),
    Row(52, "zero bytes", TABLE + "data.target=kind", 3, r"set/t\.csv:1 holds zero bytes: it is no text, or damaged",
        after("csv", lambda: Path("set/t.csv").write_bytes(bytes(500)))),
    Row(53, "target", TABLE + "data.target=kindd", 3,
        r"set/t\.csv has no column 'kindd' \(data\.target\)\. Did you mean 'kind'\? Columns: height", after("csv")),
    Row(54, "class that train has not", PICTURES, 3, r"val has class 'fox', train does not \(train: ant, bee\)",
        pictures(lambda: sound.picture(Path("set/val/fox/0.png")))),
    Row(56, "fractions", TABLE + "data.target=kind data.val_fraction=0.8 data.test_fraction=0.3", 3,
        r"data\.val_fraction \+ data\.test_fraction = 1\.1: nothing is left to train", after("csv")),
    Row(56, "empty split", PICTURES + " data.val_fraction=0.01", 3,
        r"val would be empty \(0 of 8 samples\)\. A larger data\.val_fraction",
        pictures(lambda: shutil.rmtree("set/val"))),
    Row(57, "more than the memory", PICTURES.replace("size=8", "size=200000") + " data.loader=memory", 4,
        r"16 pictures take 1788\.1 GiB, [\d.]+ are free\. data\.loader=workers", after("imagefolder")),
    Row(58, "not downloaded", FAST + "data=mnist data.root=. data.download=false", 3,
        r"mnist is not in '\.', or not whole there\. Add data\.download=true", lambda: None),
    Row(62, "None", OWN, 3, r"sample 0 of Mine is None; it must give \(input, target\)", samples("None")),
    Row(62, "None within", OWN, 3, r"sample 0 of Mine is \(NoneType, int\); it must give", samples("(None, 1)")),
    Row(62, "a text", OWN, 3, r"sample 0 of Mine is a str; it must give \(input, target\)", samples("'abc'")),
    Row(62, "an object", OWN, 3, r"sample 0 of Mine is \(object\); it must give", samples("object()")),
    Row(65, "pictures too small", NOISE + "model=cnn data.shape=[3,2,2]", 2,
        r"pictures of \[2, 2\] are too small for 'stages\.1\.1' \(kernel 2\)", lambda: None),
    Row(None, "layers without a size", NOISE + "--config-dir own model=m data.shape=[4]", 2,
        r"model: '0\.weight' has no size before a first batch", model("nn.LazyLinear(10)")),
    Row(67, "no such weights", FAST + "model=linear model.weights=nothere.safetensors", 2,
        r"no file 'nothere\.safetensors' \(model\.weights\)", lambda: None),
    Row(96, "weights that need code", FAST + "model=linear model.weights=old.pt", 3,
        r"old\.pt cannot be read as weights without trusting it \(more than tensors: it needs \w+\.system\)",
        lambda: torch.save({"a": Evil()}, "old.pt")),
    Row(100, "callback that hears nothing", FAST + "model=linear +callbacks.mine._target_=own_net.Mine", 2,
        r"callbacks\.mine: Mine has no method that is called\. Did you mean 'on_step'\? There are: on_start",
        write("own_net.py", "class Mine:\n    def on_steps(self, record): ...\n")),
    Row(68, "no such network", FAST + "model=torchvision model.name=resnet81", 2,
        r"torchvision has no network 'resnet81'\. Did you mean 'resnet18'", lambda: None),
    Row(69, "freeze", FAST + "model=linear model.freeze=all", 2,
        r"model\.freeze must be none, backbone or a number of stages, got 'all'", lambda: None),
    Row(70, "batch of one", FAST + "--config-dir own model=m data=synthetic data.shape=[4] data.num_train=9 "
        "data.num_val=4 data.num_test=0 data.batch_size=8", 2,
        r"the last batch has 1 sample \(9 of 8\) and the model uses batch norm\. data\.drop_last=true",
        model("nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 10)")),
    Row(71, "criterion without a number", FAST + "model=linear +criterion.reduction=none", 2,
        r"the criterion gives \[4\], one number is needed: criterion\.reduction=mean", lambda: None),
    Row(71, "shapes of the criterion", FAST + "model=linear criterion=bce_with_logits", 2,
        r"BCEWithLogitsLoss does not fit: targets are \[4\], int64", lambda: None),
    Row(75, "schedule too short", FAST + "--config-dir own scheduler=s model=linear", 2,
        r"scheduler\.total_steps=3 but the run has 21",
        write("own/scheduler/s.yaml", "_target_: torch.optim.lr_scheduler.OneCycleLR\nmax_lr: 0.1\ntotal_steps: 3\n")),
    Row(78, "loss becomes nan", FAST + "model=linear optimizer.lr=1e30", 5,
        r"loss is (nan|inf) at step \d+ \(epoch 1, samples .*\); first in 'head'\. Try optimizer\.lr=1e\+29",
        lambda: None),
    Row(89, "no run", "resume=run", 2, r"no run 'run', and none in 'outputs'", lambda: Path("run").mkdir()),
    Row(97, "not writable", FAST + "run_dir=/proc/x model=linear", 4,
        r"cannot write to '/proc/x' \(.*\)\. run_dir=FOLDER", lambda: None),
]  # fmt: skip


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="this machine has MPS")
def test_82_no_mps(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["dlwp-train", "device=mps"])
    assert train.main() == 4
    assert "dlwp: error: no MPS on this machine. device=cpu or device=auto" in capsys.readouterr().err


def test_87_a_package_that_is_not_installed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    monkeypatch.setattr(sys, "argv", ["dlwp-train", "data=huggingface", "data.path=x"])
    assert train.main() == 4
    assert re.search(r"needs the package datasets: pip install 'dlwp\[hf\]'\n", capsys.readouterr().err)


@pytest.mark.parametrize("mistake", ROWS, ids=lambda mistake: f"{mistake.number} {mistake.name}")
def test_a_mistake_is_one_line(
    mistake: Row, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mistake.lay()
    for name in ("own_net", "own_data"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if "pytest-of" not in place])
    monkeypatch.setattr(sys, "argv", ["dlwp-train", *mistake.words.split()])
    assert train.main() == mistake.code, capsys.readouterr().err
    out, err = capsys.readouterr()
    lines = [line for line in err.rstrip("\n").split("\n") if not line.startswith("dlwp: warning: ")]
    assert lines[0].startswith("dlwp: error: "), err
    assert re.search(mistake.pattern, lines[0]), err
    assert all(line.startswith("    ") for line in lines[1:]), err
    assert "Traceback" not in err + out and "fault in dlwp" not in err
    assert len(lines[0]) < 320


def test_55_the_same_pictures_in_two_splits_are_warned_of(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures(lambda: shutil.rmtree("set/val"), lambda: shutil.copytree("set/train", "set/val"))()
    monkeypatch.setattr(sys, "argv", ["dlwp-train", *PICTURES.split()])
    assert train.main() == 0
    assert re.search(r"dlwp: warning: 8 pictures stand in more than one split, .*: set/train/ant/0\.png = set/val/ant",
                     capsys.readouterr().err)  # fmt: skip
