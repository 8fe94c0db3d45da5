"""Each job from end to end, on small true data."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import dlwp
from dlwp.errors import ConfigError, MachineError, RunError

SMALL = [
    "data=synthetic", "data.num_train=60", "data.num_val=20", "data.num_test=30", "data.shape=[1,8,8]",
    "data.num_classes=3", "data.batch_size=20", "model=linear", "trainer.epochs=2", "logger.tensorboard=false",
    "logger.plots=false",
]  # fmt: skip

OWN = """
import torch
from torch import nn
from torch.utils.data import Dataset

class Blobs(Dataset):
    def __init__(self, size=60):
        generator = torch.Generator().manual_seed(0)
        self.labels = torch.randint(0, 3, (size,), generator=generator)
        self.points = torch.randn(size, 2, generator=generator) + 4 * torch.eye(3)[self.labels, :2]
    def __len__(self):
        return len(self.points)
    def __getitem__(self, index):
        return self.points[index], int(self.labels[index])

class Small(nn.Module):
    def __init__(self, in_features, num_classes, hidden=8):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(in_features, hidden), nn.ReLU(), nn.Linear(hidden, num_classes))
    def forward(self, points):
        return self.layers(points)

class Hungry(Small):
    def forward(self, points):
        if self.training and len(points) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")
        return self.layers(points)

class Broken(Small):
    def forward(self, points):
        if self.training and len(points) > 4:
            raise KeyError("my own mistake")
        return self.layers(points)
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def own(here: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> list[str]:
    name = f"own_{abs(hash(request.node.name))}"  # a module of its own for each test: Python keeps what it imported
    (here / f"{name}.py").write_text(OWN)
    (here / "my_configs" / "model").mkdir(parents=True)
    for model in ("small", "hungry", "broken"):
        (here / "my_configs" / "model" / f"{model}.yaml").write_text(
            f"# A model of my own.\n_target_: {name}.{model.title()}\nin_features: auto\nnum_classes: auto\n"
        )
    monkeypatch.syspath_prepend(here)
    return ["data=dataset", f"data._target_={name}.Blobs", "data.batch_size=16", "trainer.epochs=2", *SMALL[-2:]]


def test_run_folder_holds_what_is_promised(here: Path) -> None:
    run = dlwp.train(*SMALL[:-2], "tags=[a]", "notes=why")
    names = {path.name for path in run.folder.iterdir() if not path.name.startswith(".")}
    assert names == {
        "config.yaml", "overrides.yaml", "environment.json", "metrics.jsonl", "summary.json", "run.log", "tensorboard",
        "plots", "checkpoints", "audit.jsonl",
    }  # fmt: skip
    assert {path.name for path in (run.folder / "plots").iterdir()} == {"curves.png", "confusion.png"}
    assert (here / "outputs" / "latest").resolve() == run.folder.resolve()
    assert run.exit == "done" and run.exit_code == 0
    assert run.summary["step"] == 6 and run.summary["test"]["step"] == run.summary["best"]["step"]
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["split"] for line in lines].count("test") == 1


def test_evaluation_equals_the_line_that_was_logged() -> None:
    run = dlwp.train(*SMALL, "trainer.ema_decay=0.5")
    for split in ("val", "test"):
        found = dlwp.evaluate(str(run.folder), split=split)
        logged = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
        same = next(line for line in logged if line["split"] == split and line["step"] == found["step"])
        assert found["values"] == {name: same[name] for name in found["values"]}
    with pytest.raises(ConfigError, match=r"has no split 'tset'\. It has: train, val, test"):
        dlwp.evaluate(str(run.folder), split="tset")


def test_an_evaluation_says_whether_its_weights_are_the_best() -> None:
    words = [word for word in SMALL if "epochs" not in word]
    run = dlwp.train(*words, "trainer.epochs=4", "optimizer.lr=50", "trainer.monitor=val/loss", "scheduler=constant")
    steps = sorted((run.folder / "checkpoints").glob("step-*"))
    best = run.folder / "checkpoints" / (run.folder / "checkpoints" / "best").read_text().strip()
    assert best != steps[-1]
    assert dlwp.evaluate(str(best))["line"].endswith("(best val/loss)")
    (run.folder / "checkpoints" / "best").unlink()
    assert dlwp.evaluate(str(run.folder))["line"].endswith(f"step {int(steps[-1].name[5:])} (best val/loss: step 3)")


def test_replay_of_the_config_ends_with_the_same_weights() -> None:
    first = dlwp.train(*SMALL)
    from dlwp.api import train_config
    from dlwp.config.compose import compose

    second = train_config(compose([], config_dir=first.folder, config_name="config"))
    hashes = [
        json.loads((run.folder / "checkpoints" / "step-00000006" / "MANIFEST.json").read_text())["files"][
            "model.safetensors"
        ]["sha256"]
        for run in (first, second)
    ]
    assert hashes[0] == hashes[1] and first.folder != second.folder


def test_own_model_and_data_need_no_base_class(own: list[str], here: Path) -> None:
    run = dlwp.train("model=small", *own, config_dir="my_configs")
    config = (run.folder / "config.yaml").read_text()
    assert "in_features: 2" in config and "num_classes: 3" in config
    resumed = dlwp.train(f"resume={run.folder}", "trainer.epochs=3")
    assert resumed.summary["epoch"] == 3
    assert dlwp.evaluate(str(run.folder))["split"] == "val"  # this data has no test split


def test_an_own_augmentation_is_named_by_its_target(here: Path) -> None:
    (here / "own_change.py").write_text("class Dim:\n    def __init__(self, by): self.by = by\n"
                                        "    def __call__(self, inputs): return inputs * self.by\n")  # fmt: skip
    dim = "data.augment=[flip,{_target_: own_change.Dim, by: 0}]"
    dark, plain = (dlwp.train(*SMALL, *words) for words in ([dim], ["data.augment=flip"]))
    assert dlwp.evaluate(str(dark.folder))["values"] != dlwp.evaluate(str(plain.folder))["values"]
    with pytest.raises(ConfigError, match=r"data\.augment\[1\].*Dim has no argument 'bye'"):
        dlwp.train(*SMALL, dim.replace("by", "bye"))


def test_foreign_run_may_not_run_code_unless_trusted(own: list[str], here: Path) -> None:
    run = dlwp.train("model=small", *own, config_dir="my_configs")
    foreign = here / "from_elsewhere"
    shutil.copytree(run.folder, foreign)
    with pytest.raises(ConfigError, match=r"wants to run 'own_\d+\..*trust=\[own_\d+\]"):
        dlwp.evaluate(str(foreign))
    package = own[1].partition("=")[2].partition(".")[0]
    assert dlwp.evaluate(str(foreign), words=[f"trust=[{package}]"], split="val")["values"]


def test_out_of_memory_says_what_to_change_and_the_run_is_marked_failed(own: list[str]) -> None:
    way_out = r"trainer\.accumulate=2 \(pieces of \d+\).* data\.batch_size="
    with pytest.raises(RunError, match=rf"out of memory \(CUDA out of memory.*{way_out}"):
        dlwp.train("model=hungry", *own, "run_dir=run", config_dir="my_configs")
    summary = json.loads(Path("run/summary.json").read_text())
    assert summary["exit"] == "failed" and "out of memory" in summary["error"]


def test_failure_in_own_code_keeps_its_traceback_in_the_log(own: list[str]) -> None:
    with pytest.raises(KeyError):
        dlwp.train("model=broken", *own, "run_dir=run", config_dir="my_configs")
    assert json.loads(Path("run/summary.json").read_text())["exit"] == "failed"
    assert "my own mistake" in Path("run/run.log").read_text()


def test_dry_run_tells_all_and_writes_nothing(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dlwp.train(*SMALL, "dry_run=true")
    said = capsys.readouterr().out
    assert all(word in said for word in ("machine", "data", "model", "train", "forecast", "memory", "disk"))
    assert list(here.iterdir()) == []


def test_overfit_says_whether_it_succeeded(capsys: pytest.CaptureFixture[str]) -> None:
    words = [word for word in SMALL if not word.startswith(("model", "trainer"))]
    run = dlwp.train(*words, "model=mlp", "experiment=overfit", "optimizer.lr=0.01")
    assert run.exit == "overfitted" and "overfit  succeeded" in capsys.readouterr().out
    run = dlwp.train(*words, "model=mlp", "experiment=overfit", "optimizer.lr=1e-9", "trainer.epochs=5")
    assert run.exit == "done" and any(text.startswith("overfit failed") for text in run.summary["warnings"])


def test_finished_run_is_not_begun_again(capsys: pytest.CaptureFixture[str]) -> None:
    run = dlwp.train(*SMALL)
    again = dlwp.train(f"resume={run.folder}")
    assert again.summary["step"] == run.summary["step"]
    assert "is finished (2 epochs, 6 steps). To go on" in capsys.readouterr().out


def test_early_stopping_and_max_steps_end_the_run_and_it_is_tested() -> None:
    small = [word for word in SMALL if word != "trainer.epochs=2"]
    stopped = dlwp.train(*small, "trainer.epochs=50", "trainer.patience=1", "optimizer.lr=1e-12")
    assert stopped.exit == "early_stopped" and stopped.summary["epoch"] < 50 and stopped.summary["test"]
    short = dlwp.train(*SMALL, "trainer.max_steps=4")
    assert short.summary["step"] == 4 and short.exit == "done"


WATCH = """
class Watch:
    def on_evaluation(self, event):
        if event.split == "test":
            grads = sum(one.grad is not None for one in event.trainer.model.parameters())
            print(f"held {grads} {len(event.trainer.optimizer.state)}")
"""


def test_earlier_weights_are_tested_in_the_memory_of_the_optimizer(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "watch_held.py").write_text(WATCH)
    # the first evaluation has the largest loss, so that test takes the weights of step 3
    run = dlwp.train(*SMALL, "trainer.monitor=val/loss", "trainer.monitor_mode=max", "optimizer=adam",
                     "+callbacks.watch._target_=watch_held.Watch")  # fmt: skip
    assert run.summary["test"]["step"] == 3
    assert "held 0 0" in capsys.readouterr().out


def test_device_that_is_not_there_is_told() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(MachineError, match="no CUDA device"):
        dlwp.train(*SMALL, "device=cuda")


@pytest.mark.parametrize(
    "words",
    [
        ["trainer.precision=fp64"],
        ["trainer.precision=bf16"],
        ["trainer.precision=fp16"],
        ["trainer.deterministic=true", "trainer.detect_anomaly=true"],
        ["trainer.accumulate=3", "trainer.clip_norm=0.1", "trainer.ema_decay=0.9"],
        ["trainer.on_nonfinite=skip"],
        ["trainer.on_nonfinite=rollback", "trainer.checkpoint_every=1 steps"],
        ["trainer.eval_every=1 steps", "trainer.keep_last=2", "trainer.monitor=val/loss", "trainer.log_every=1"],
        ["trainer.max_time=1 s", "trainer.checkpoint_every=0.001 s", "trainer.keep_best=false"],
        ["trainer.limit_batches=1", "trainer.progress=true", "trainer.channels_last=true"],
        ["scheduler=plateau", "optimizer=adamw"],
        [
            "scheduler._target_=torch.optim.lr_scheduler.OneCycleLR",
            "++scheduler.max_lr=0.1",
            "++scheduler.total_steps=20",
        ],
        ["scheduler._target_=torch.optim.lr_scheduler.ReduceLROnPlateau", "++scheduler.patience=1"],
        ["optimizer=sgd", "optimizer._target_=torch.optim.NAdam"],
        ["optimizer._target_=torch.optim.SGD", "++optimizer.momentum=0.5"],
        ["+metrics.f1._target_=torchmetrics.F1Score", "+metrics.f1.task=multiclass", "+metrics.f1.num_classes=3"],
    ],
    ids=" ".join,
)
def test_every_way_to_train_works_and_resumes(words: list[str]) -> None:
    import torch

    try:
        run = dlwp.train(*[word for word in SMALL if word != "trainer.epochs=2"], "trainer.epochs=2", *words)
        assert run.exit in ("done", "max_time") and run.summary["test"]["loss"] > 0
        more = dlwp.train(f"resume={run.folder}", "trainer.epochs=3", "trainer.max_time=null", "trainer.max_steps=9")
        assert more.summary["step"] > run.summary["step"]
    finally:
        torch.use_deterministic_algorithms(False)


def test_profile_is_a_trace_and_a_table() -> None:
    run = dlwp.train(*SMALL[:-3], *SMALL[-2:], "trainer.epochs=5", "trainer.profile=true")
    assert json.loads((run.folder / "profile" / "trace.json").read_text())["traceEvents"]
    assert "aten::" in (run.folder / "profile" / "operations.txt").read_text()
