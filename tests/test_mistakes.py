"""Every mistake that a person makes ends in one line that names the key or file, and in its exit status.

A row is what was typed, with the files and the environment it needs; `ERRORS` of the design numbers them. To add one,
add a line to `ROWS`.
"""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from dlwp.commands import train


@dataclass(frozen=True)
class Row:
    """One mistake: its number, what is typed, the exit status, a pattern for the line, the files that lie there."""

    number: int | None
    name: str
    words: tuple[str, ...]
    code: int
    pattern: str
    files: dict[str, str] = field(default_factory=dict)
    most_lines: int = 1


def row(
    number: int | None, name: str, words: str | tuple[str, ...], code: int, pattern: str, *, lines: int = 1,
    **files: str,
) -> Row:  # fmt: skip
    """Make a row, without a number where `ERRORS` has none.

    Words in one text are cut at spaces; files are named as model__x: mine/model/x.yaml.
    """
    typed = tuple(words.split()) if isinstance(words, str) else words
    paths = {f"mine/{name.replace('__', '/')}.yaml": text for name, text in files.items()}
    return Row(number, name, typed, code, pattern, paths, lines)


MINE = "--config-dir mine "
ROWS = [
    row(1, "unknown key", "trainer.epochz=3", 2, r"unknown key 'trainer\.epochz'\. Did you mean 'trainer\.epochs'\?"),
    row(2, "leaf without its section", "batch_size=32", 2, r"unknown key 'batch_size'\. Did you mean 'data\.batch"),
    row(2, "leaf of another section", "data.lr=1", 2, r"unknown key 'data\.lr'\. Did you mean 'optimizer\.lr'"),
    row(2, "mistyped section", "trianer.epochs=3", 2, r"unknown key 'trianer\.epochs'\. Did you mean 'trainer\.epo"),
    row(2, "key of another option", "model.patch_size=4", 2, r"unknown key 'model\.patch_size'; model=vit has it"),
    row(3, "group", "modle=resnet", 2, r"unknown key 'modle'\. Did you mean the group 'model'\? \(model=resnet\)"),
    row(4, "option", "model=resnett", 2, r"'resnett'\. Did you mean 'resnet' or .*\? Options: .*resnet, .*, vit"),
    row(4, "null for an option", "model=null", 2, r"no model 'null'\. Options: "),
    row(5, "option of another group", "data=resnet", 2, r"no data 'resnet'; 'resnet' is a model: model=resnet\. Data"),
    row(6, "no option", "model=", 2, r"'model=' has no value\. Options: .*resnet"),
    row(7, "slash", "model/resnet", 2, r"'model/resnet' is not key=value\. Write model=resnet"),
    row(7, "colon", "model:resnet", 2, r"'model:resnet' is not key=value\. Write model=resnet"),
    row(7, "bare key", "seed", 2, r"'seed' is not key=value\. Write seed=3, without spaces"),
    row(7, "bare option", "resnet", 2, r"'resnet' is not key=value\. Write model=resnet"),
    row(7, "spaces", "seed = 3", 2, r"'seed' is not key=value\. Write seed=3, without spaces"),
    row(7, "spaces in a word", ("trainer.epochs = 3",), 2, r"Write trainer\.epochs=3, without spaces"),
    row(7, "group without its sign", "modelresnet", 2, r"'modelresnet' is not key=value\. Write model=resnet"),
    row(7, "key without its sign", "trainer.epochs15", 2, r"is not key=value\. Write trainer\.epochs=15"),
    row(7, "value before the key", "15=trainer.epochs", 2, r"'15' is no name of a key\. Did you mean trainer\.ep"),
    row(7, "option before the group", "digits=data", 2, r"unknown key 'digits'\. Did you mean data=digits\?"),
    row(7, "blank in a key", ("trai er.epochs=3",), 2, r"'trai er\.epochs' is no name of a key\. Did you mean '"),
    row(7, "no key", "=3", 2, r"'=3' has no key before the '='\. Write key=value, such as seed=3"),
    row(8, "one dash", "-evice=cpu", 2, r"unknown option '-evice'\. Settings have no dashes: device=cpu"),
    row(8, "dashes", "--epochs 3", 2, r"unknown option '--epochs'\. Settings have no dashes: trainer\.epochs=3"),
    row(8, "dashes and equal", "--seed=3", 2, r"unknown option '--seed'\. Settings have no dashes: seed=3"),
    row(9, "flag between settings", "data=digits --cfg job model=vit", 0, ""),
    row(10, "several values", "data.root=a,b", 2, r"'data\.root=a,b' is several values\. Sweep: add -m\. List: data"),
    row(11, "bracket", ("data.root=[a",), 2, r"unclosed '\[' in data\.root=\[a\. In zsh/bash quote it: 'data"),
    row(11, "brace", ("data.root={a:1",), 2, r"unclosed '\{' in data\.root=\{a:1"),
    row(12, "apostrophe", ("data.root=it's",), 2, r"in data\.root=it's needs quotes: "),
    row(12, "quote", ('data.root="a',), 2, r"unclosed \" in data\.root=\"a\. Write data\.root=a"),
    row(12, "home", ("data.root=~/x",), 2, r"""'~' in data\.root=~/x needs quotes: "data\.root='~/x'\""""),
    row(12, "ampersand", ("data.root=a&b",), 2, r"'&' in data\.root=a&b needs quotes"),
    row(12, "hash", ("data.root=10#fast",), 2, r"'#' in data\.root=10#fast needs quotes"),
    row(13, "parenthesis", ("data.root=/x/y(1)",), 2, r"""'\(' in data\.root=/x/y\(1\) needs quotes: "data\.root='"""),
    row(13, "equal", ("data.root=a=b",), 2, r"'=' in data\.root=a=b needs quotes"),
    row(13, "two equals", "model==vit", 2, r"two '=' in model==vit\. Write model=vit"),
    row(10, "several values to be shown", "--cfg job seed=1,2", 2, r"'seed=1,2' is several values\. Sweep: add -m"),
    row(14, "added twice", "+seed=1", 2, r"'seed' exists; write seed=1 \(\+ is for new keys\)"),
    row(14, "added group", "+model=vit", 2, r"'model' exists; write model=vit \(\+ is for new keys\)"),
    row(15, "removed", "~foo", 2, r"cannot remove 'foo': no such key"),
    row(15, "removed, near", "~trainer.epoch", 2, r"cannot remove 'trainer\.epoch': no such key\. Did you mean '~"),
    row(15, "removed, needed", "~trainer.epochs", 2, r"'trainer\.epochs' cannot be removed, a run needs it; set it"),
    row(15, "removed section", "~trainer", 2, r"'trainer' cannot be removed, a run needs it"),
    row(16, "twice", "data.root=a data.root=b", 2, r"'data\.root' is given twice \(a, b\)"),
    row(16, "option twice", "model=vit model=cnn", 2, r"'model' is given twice \(vit, cnn\)"),
    row(17, "text for a number", "seed=abc", 2, r"seed must be a whole number, got 'abc'"),
    row(17, "fraction", "trainer.epochs=1.5", 2, r"trainer\.epochs must be a whole number, got '1\.5'"),
    row(17, "exponent", "trainer.epochs=1e3", 2, r"trainer\.epochs must be a whole number, got '1e3'"),
    row(17, "empty", "trainer.epochs=", 2, r"trainer\.epochs must be a whole number, got ''"),
    row(17, "maybe", "trainer.deterministic=maybe", 2, r"trainer\.deterministic must be true or false, got 'maybe'"),
    row(17, "choice", "trainer.precision=bf", 2, r"trainer\.precision must be auto, .* got 'bf'\. Did you mean 'bf16'"),
    row(17, "list", "tags=a", 2, r"tags must be a list \(tags=\[a\]\), got 'a'"),
    row(17, "duration", "trainer.eval_every=5", 2, r"trainer\.eval_every must be .* '1 epoch' or '500 steps', got '5'"),
    row(17, "unit", ("trainer.max_time=5 epochs",), 2, r"trainer\.max_time must be such as '10 min', got '5 epochs'"),
    row(17, "key of a part", "data.num_workers=many", 2, r"data\.num_workers must be a whole number or auto"),
    row(17, "key without effect", "data.on_error=skip", 2, r"data\.on_error=skip is for data\.loader=workers"),
    row(17, "several faults", "seed=abc trainer.epochs=1.5 foo=3", 2, r"seed must be a whole number", lines=3),
    row(18, "section", "trainer=5", 2, r"'trainer' is a section \(epochs, max_steps, …\), not a value; set trainer"),
    row(18, "section as mapping", ("data={root: x}",), 2, r"'data' is a section .* set data\.root=x\?"),
    row(19, "zero", "trainer.epochs=0", 2, r"trainer\.epochs must be ≥ 1, got 0"),
    row(19, "negative", "data.batch_size=-4", 2, r"data\.batch_size must be ≥ 1, got -4"),
    row(19, "too much", "data.val_fraction=1.5", 2, r"data\.val_fraction must be < 1, got 1\.5"),
    row(20, "option", "--halp", 2, r"unknown option '--halp'\. Did you mean '--help'"),
    row(20, "value", "--help=model", 2, r"option '--help' takes no value"),
    row(21, "help of a wrong choice", "model=resnett --help", 2, r"no model 'resnett'\. Did you mean 'resnet' or "),
    row(22, "config name", "--config-name=nothere", 2, r"no config 'nothere' in .*configs\. There are: train"),
    row(23, "config folder", "--config-dir=/nonexist", 2, r"no folder '/nonexist' \(--config-dir\)"),
    row(24, "YAML", MINE + "model=x", 2, r"mine/model/x\.yaml:2:12: a second ':'", lines=2,
        model__x="_target_: a\ndepth: 1  x: 2\n"),
    row(25, "tab", MINE + "model=x", 2, r"mine/model/x\.yaml:3:1: tab used to indent", lines=2,
        model__x="a: 1\nb:\n\tc: 1\n"),
    row(26, "key twice", MINE + "model=x", 2, r"model/x\.yaml:3:1: 'depth' is already set on line 2", lines=2,
        model__x="_target_: a\ndepth: 1\ndepth: 2\n"),
    row(27, "yes is a boolean", MINE + "data=x", 2,
        r"mine/data/x\.yaml: classes\[0\] is the boolean True; write 'yes' in quotes", lines=2,
        data__x="_target_: a.b\nclasses: [yes, no]\n"),
    row(27, "010 is 8", MINE + "data=x", 2, r"mine/data/x\.yaml: classes\[1\] is the number 8; write '010'",
        data__x="_target_: a.b\nclasses:\n- a\n- 010\n"),
    row(28, "reference", MINE + "model=x", 2,
        r"model\.width refers to 'data\.batch_sizes', which does not exist\. Did you mean 'data\.batch_size'",
        model__x="_target_: a.b\nwidth: ${data.batch_sizes}\n"),
    row(29, "circle", MINE + "model=x", 2, r"model\.a and model\.b refer to each other",
        model__x="_target_: a.b\na: ${model.b}\nb: ${model.a}\n"),
    row(30, "defaults include each other", MINE + "model=c1", 2,
        r"model/c1\.yaml and model/c2\.yaml include each other \(defaults\)",
        model__c1="defaults:\n- c2\na: 1\n", model__c2="defaults:\n- c1\nb: 1\n"),
    row(31, "environment", MINE + "data=x", 2, r"data\.root needs the environment variable DLWP_NOPE; it is not set",
        data__x="_target_: a.b\nroot: ${oc.env:DLWP_NOPE}\n"),
    row(31, "resolver", MINE + "data=x", 2, r"data\.root: unknown resolver 'foo' in \$\{foo:1\}",
        data__x="_target_: a.b\nroot: ${foo:1}\n"),
    row(32, "must be given", MINE + "data=x", 2,
        r"data\.file and data\.root must be given: data\.file=FILE data\.root=FOLDER",
        data__x="_target_: a.b\nroot: ???\nfile: ???\n"),
    row(41, "tag", MINE + "model=x", 2, r"mine/model/x\.yaml:1:4: tag '!!python/object/apply:os\.system' is not al",
        lines=2, model__x="a: !!python/object/apply:os.system ['true']\n"),
    row(41, "not YAML, with --help", MINE + "--help model=x", 2, r"mine/model/x\.yaml:2:1: ", lines=2,
        model__x="a: [1\n"),
    row(4, "in an experiment", MINE + "experiment=x", 2, r"mine/experiment/x\.yaml: no model 'vitt'\. Did you mean",
        experiment__x="# @package _global_\ndefaults:\n- override /model: vitt\n"),
    row(None, "override without slash", MINE + "experiment=x", 2, r"mine/experiment/x\.yaml: .*override /model: OPTION",
        experiment__x="# @package _global_\ndefaults:\n- override model: vit\n"),
    row(1, "in an experiment", MINE + "experiment=x", 2,
        r"mine/experiment/x\.yaml: unknown key 'trainer\.epochz'\. Did you mean 'trainer\.epochs'",
        experiment__x="# @package _global_\ntrainer:\n  epochz: 3\n"),
    row(17, "in an experiment", MINE + "experiment=x", 2,
        r"mine/experiment/x\.yaml: trainer\.epochs must be a whole number, got 'three'",
        experiment__x="# @package _global_\ntrainer:\n  epochs: three\n"),
    row(1, "in a trainer without its schema", MINE + "trainer=x", 2, r"unknown key 'trainer\.epochz'\. Did you mean",
        trainer__x="epochz: 3\n"),
    row(1, "added to the trainer", "+trainer.epochz=3", 2, r"unknown key 'trainer\.epochz'\. Did you mean"),
    row(1, "added to the top", "+nots=3", 2, r"unknown key 'nots'\. Did you mean 'notes'"),
    row(72, "rate", "optimizer.lr=1e", 2, r"optimizer\.lr must be a number > 0, got '1e'"),
    row(72, "negative rate", "optimizer.lr=-1", 2, r"optimizer\.lr must be a number > 0, got '-1'"),
    row(72, "nan rate", "optimizer.lr=nan", 2, r"optimizer\.lr must be a number > 0, got 'nan'"),
    row(81, "device", "device=cuad", 2, r"unknown device 'cuad'\. Did you mean 'cuda'"),
    row(88, "no such run", "resume=nope", 2, r"no run 'nope'"),
    # from here on with the parts: torch is imported, nothing is trained
    row(33, "no module", "model._target_=mylib.nets.Foo", 2,
        r"model\._target_: no module 'mylib'\. Install it"),
    row(34, "no class", "model._target_=torch.nn.Linearr", 2,
        r"model\._target_: torch\.nn has no 'Linearr'\. Did you"),
    row(36, "wrong argument", "+model.wdith=3", 2, r"model: ResNet has no argument 'wdith'.* It takes: in_channels, "),
    row(37, "argument missing", MINE + "model=x", 2, r"model: Linear needs 'out_features'\. Give model\.out_features=",
        model__x="_target_: torch.nn.Linear\nin_features: 3\n"),
    row(39, "no model, a class", "model._target_=torch.utils.data.TensorDataset", 2, r"is a class; a torch\.nn\.Mod"),
    row(None, "auto without an answer", MINE + "model=x", 2,
        r"model\.bias=auto: no fact of the data answers it\. Known: in_f",
        model__x="_target_: torch.nn.Linear\nin_features: auto\nout_features: auto\nbias: auto\n"),
    row(38, "constructor raises", "model.depth=21", 2, r"resnet has no depth 21\. There are: 18, 20, 32"),
    row(39, "no model", "model._target_=torch.relu", 2,
        r"torch\.relu is a function; a torch\.nn\.Module class is needed"),
    row(42, "no data folder", "data=cifar10 data.root=nowhere data.download=false", 3,
        r"no data folder 'nowhere' "),
    row(63, "channels", "model.in_channels=3", 2, r"wants \[\*, 3, \*, \*\] and gets 1 channels\. model\.in_chann"),
    row(64, "features", "model=mlp model.in_features=784", 2,
        r"wants 784 numbers a sample and gets 64"),
    row(66, "outputs", "model.num_classes=3", 2, r"data has 10 classes, model has 3 outputs\. model\.num_classes=10"),
    row(51, "labels for mse", "criterion=mse model=linear", 2,
        r"prediction is \[4, 10\], target \[4\]: this would"),
    row(74, "optimizer argument", "+optimizer.momentumm=0.9", 2,
        r"optimizer: SGD has no argument 'momentumm'\. Did"),
    row(None, "pieces with a closure", "optimizer=lbfgs trainer.accumulate=2", 2, r"LBFGS evaluates the loss several"),
    row(76, "plateau without val", "scheduler=plateau data.val_fraction=0", 2,
        r"this scheduler needs a validation"),
    row(77, "monitor", "trainer.monitor=val_acc", 2,
        r"trainer\.monitor='val_acc' is not measured\. Did you mean 'val"),
    row(None, "--doctor with settings", "--doctor model=vit", 2, r"--doctor takes no settings, got 'model=vit'"),
    row(79, "no card", "device=cuda:7", 4, r"no (CUDA device: |device cuda:7; there are)"),
    row(None, "augment", "data.augment=[crp]", 2, r"data\.augment has no 'crp'\. Did you mean 'crop'"),
    row(98, "run folder is taken", "run_dir=mine", 2, r"'mine' exists and is not empty", model__x="a: 1\n"),
    row(103, "nothing varies", "-m model=vit", 2, r"-m but nothing varies; e\.g\. seed=1,2,3"),
    row(103, "wrong option in a sweep", "-m model=vit,resnett", 2, r"no model 'resnett'\. Did you mean 'resnet'"),
    row(103, "wrong value in a sweep", "-m trainer.epochs=1,none", 2, r"trainer\.epochs must be a whole number, got"),
    row(103, "key that one option lacks", "-m model=vit,cnn model.patch_size=2", 2, r"unknown key 'model\.patch"),
    row(None, "package", "--cfg job -p optimiser", 2, r"no package 'optimiser' \(-p\)\. Did you mean 'optimizer'"),
    row(None, "unknown --cfg", "--cfg jobs", 2, r"option '--cfg': invalid choice: 'jobs'"),
]  # fmt: skip


def lay(files: dict[str, str], folder: Path) -> None:
    """Write the files of a row."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


@pytest.mark.parametrize("mistake", ROWS, ids=lambda mistake: f"{mistake.number} {mistake.name}")
def test_a_mistake_is_one_line(
    mistake: Row, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lay(mistake.files, tmp_path)
    (tmp_path / "mine").mkdir(exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["dlwp-train", *mistake.words])
    assert train.main() == mistake.code
    out, err = capsys.readouterr()
    if mistake.code == 0:
        assert err == ""
        return
    first, *others = err.rstrip("\n").split("\n")
    assert re.match(r"dlwp: error: ", first), err
    assert re.search(mistake.pattern, first), err
    assert "Traceback" not in err + out
    assert all(line.startswith("    ") for line in others), err
    assert len(others) < mistake.most_lines, err
    assert len(first) < 320, first
    assert "HYDRA_FULL_ERROR" not in err
    assert not (tmp_path / "outputs").exists(), "a refused command writes nothing"


def test_a_refusal_imports_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from dlwp.commands.train import main; status = main();"
        "slow = {'torch', 'torchvision', 'numpy', 'sklearn', 'matplotlib'} & set(sys.modules);"
        "sys.exit(f'imported: {slow}' if slow else status)"
    )
    for words in (["trainer.epochz=3"], ["model=resnett"], ["seed=abc"], ["--cfg", "job"]):
        done = subprocess.run([sys.executable, "-c", code, *words], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == (0 if "--cfg" in words else 2), done.stderr
