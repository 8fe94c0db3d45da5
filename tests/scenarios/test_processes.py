"""Several processes train as one: the same samples and steps, the same weights and metrics, one run folder."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

import dlwp
from dlwp import distributed, joining, launching
from dlwp.config.compose import compose
from dlwp.errors import ConfigError

OWN = '''
import os
import torch
from torch import nn
from torch.utils.data import Dataset, IterableDataset


def made(number, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(number))


class Odd(nn.Module):
    """Leaves a layer without a gradient, and counts its batches in a buffer."""

    def __init__(self, in_features=64, num_classes=10):
        super().__init__()
        self.used, self.unused = nn.Linear(in_features, num_classes), nn.Linear(3, 3)
        self.register_buffer("batches", torch.zeros(()))

    def forward(self, inputs):
        if self.training:
            self.batches += 1
        return self.used(inputs.flatten(1))


class Turns(nn.Module):
    """Takes another layer in each step, and all of them, or all but one, in the first."""

    def __init__(self, in_features=64, num_classes=10, first_takes_all=True):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(in_features, num_classes) for _ in range(3))
        self.steps, self.first_takes_all = -1, first_takes_all

    def forward(self, inputs):
        self.steps += self.training
        layers = list(self.layers)
        if self.training and not (self.first_takes_all and self.steps < 1):
            del layers[self.steps % 3]
        return sum(layer(inputs.flatten(1)) for layer in layers)


class Named(Dataset):
    def __len__(self):
        return 53

    def __getitem__(self, index):
        x = made(index, 5)
        return {"x": x, "y": made(99 + index, 3), "label": int(x.sum() > 0)}


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(5, 2), nn.Linear(3, 2)

    def forward(self, x, y):
        return self.first(x) + self.second(y)


class Pictures(Dataset):
    """Draws in each sample, from torch's global generator."""

    def __len__(self):
        return 77

    def __getitem__(self, index):
        return (torch.rand(3, 8, 8) + index / 77).clamp(0, 1), index % 3


class Stream(IterableDataset):
    def __len__(self):
        return 53

    def __iter__(self):
        for number in range(53):
            x = made(number, 5)
            yield x, int(x.sum() > 0)


class Fails(nn.Module):
    """Gives NaN in the second process at the sixth batch."""

    def __init__(self, in_features=64, num_classes=10):
        super().__init__()
        self.layer, self.count = nn.Linear(in_features, num_classes), 0

    def forward(self, inputs):
        self.count += self.training
        bad = self.training and self.count == 6 and os.environ.get("RANK") == "1"
        return self.layer(inputs.flatten(1)) * (float("nan") if bad else 1.0)


class Hungry(nn.Module):
    """Runs out of memory in the second process above eight samples."""

    def __init__(self, in_features=64, num_classes=10):
        super().__init__()
        self.layer = nn.Linear(in_features, num_classes)

    def forward(self, inputs):
        if self.training and len(inputs) > 8 and os.environ.get("RANK") == "1":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
        return self.layer(inputs.flatten(1))


class Raises:
    def on_step(self, event):
        if event.step == 5 and os.environ["RANK"] == "1":
            raise ValueError("no luck")


class Enough:
    def on_step(self, event):
        from dlwp.training.events import Stop

        if event.step == 5 and int(os.environ["RANK"]) == int(os.environ["WORLD_SIZE"]) - 1:
            return Stop("enough")
'''
QUIET = ["logger.tensorboard=false", "logger.plots=false", "trainer.progress=false", "trainer.log_every=1"]
EXACT = [*QUIET, "trainer.precision=fp64"]
ALL = "[crop,flip,vertical_flip,rotate90,{resized_crop: {}},colour,erasing,{cutout: {size: 3}},randaugment]"
NAMED = ["data=dataset", "data._target_=own.Named", "model._target_=own.Two", "metrics=none", "data.classes=2"]
CASES: dict[str, list[str]] = {
    "stops early": ["data=digits", "model=linear", "trainer.epochs=9", "trainer.patience=1", "data.batch_size=61"],
    "more processes than samples": ["data=digits", "model=linear", "data.max_samples=3", "data.batch_size=2"],
    "a layer unused": ["data=digits", "model._target_=own.Odd"],
    "layers in turn": ["data=digits", "model._target_=own.Turns", "trainer.find_unused_parameters=true"],
    "averaged, in pieces": ["data=digits", "model=mlp", "trainer.ema_decay=0.9", "trainer.accumulate=3"],
    "every change of pictures": ["data=digits", "model=mlp", f"data.augment={ALL}", "data.batch_size=51"],
    "pictures mixed": ["data=digits", "model=mlp", "data.augment=[crop,{mixup: {alpha: 0.2}}]"],
    "workers": ["data=dataset", "data._target_=own.Pictures", "model=mlp", "data.augment=[crop,erasing]",
                "data.batch_size=15", "data.num_workers=1", "data.classes=3", "trainer.accumulate=2"],
    "dictionaries": [*NAMED, "data.task=classification", "data.batch_size=8", "data.num_workers=0"],
    "only iterated": ["data=dataset", "data._target_=own.Stream", "model=mlp", "data.batch_size=8",
                      "data.num_workers=0", "data.classes=2", "data.val_fraction=0"],
    "classes weighed": ["data=digits", "model=linear", "criterion.weight=auto", "data.batch_size=50"],
    "clipped, skipping": ["data=digits", "model=mlp", "trainer.on_nonfinite=skip", "trainer.clip_norm=1"],
    "several evaluations a step": ["data=digits", "model=linear", "optimizer=lbfgs", "data.max_samples=200",
                                   "data.batch_size=200"],
    "a callback stops it": ["data=digits", "model=linear", "+callbacks.a._target_=own.Enough"],
}  # fmt: skip
OF_THREE = ("more processes than samples", "averaged, in pieces", "every change of pictures", "workers")


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def together(count: int, jobs: list[list[str]], place: Path) -> None:
    """Train jobs, one after the other, in a group of processes."""
    listed, port = place / f"jobs-{count}.json", free_port()
    listed.write_text(json.dumps(jobs))
    shared = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = [
        subprocess.Popen(
            [sys.executable, str(Path(__file__).parent / "together.py"), str(listed)],
            cwd=place, env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(count)
    ]  # fmt: skip
    told = [process.communicate(timeout=280)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * count, told


def _without_twins(words: list[str]) -> list[str]:
    """Return words with only the last of those that set the same key."""
    return list({word.split("=")[0]: word for word in words}.values())


def weights_of(run: Path) -> dict[str, Any]:
    last = (run / "checkpoints" / "last").read_text().strip()
    return load_file(run / "checkpoints" / last / "model.safetensors")


def lines_of(run: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / name).read_text().splitlines()]


def differences(one: Path, other: Path) -> tuple[float, float]:
    """Return the largest differences of a weight and of a recorded number; the records' steps must be the same."""
    before, after = weights_of(one), weights_of(other)
    assert before.keys() == after.keys()
    weights = max(float((before[name].double() - after[name].double()).abs().max()) for name in before)
    largest = 0.0
    pairs = list(zip(lines_of(one, "metrics.jsonl"), lines_of(other, "metrics.jsonl"), strict=True))
    for first, second in pairs:
        assert first.keys() == second.keys()
        for name in first.keys() - {"time", "samples_per_s", "split"}:
            largest = max(largest, abs(first[name] - second[name]))
    return weights, largest


def test_several_processes_take_the_samples_and_steps_of_one(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    words = {name: [*EXACT, "trainer.epochs=2", *case] for name, case in CASES.items()}
    words["five steps in fp32"] = [*QUIET, "data=digits", "model=mlp", "trainer.precision=fp32", "trainer.max_steps=5"]
    folders = {name: re.sub(r"\W+", "_", name) for name in words}
    for count in (1, 2, 3):
        chosen = words if count < 3 else {name: words[name] for name in OF_THREE}
        jobs = [[*_without_twins(one), f"run_dir={count}/{folders[name]}"] for name, one in chosen.items()]
        together(count, jobs, tmp_path)
    wrong = {}
    for name, count in [*((name, 2) for name in words), *((name, 3) for name in OF_THREE)]:
        alone, shared = tmp_path / "1" / folders[name], tmp_path / str(count) / folders[name]
        if fault := fault_of(alone, shared, 1e-5 if name == "five steps in fp32" else 1e-10):
            wrong[f"{name}, {count} processes"] = fault
    assert wrong == {}


def fault_of(alone: Path, shared: Path, tolerance: float) -> str:
    """Return in what a run by several processes differs from that by one, "" where it does not."""
    if lines_of(alone, "audit.jsonl") != lines_of(shared, "audit.jsonl"):
        return "other samples"
    weights, metrics = differences(alone, shared)
    if alone.name == "more_processes_than_samples":
        metrics = 0.0  # classes that were never seen tie, and a rounding decides
    one, other = (json.loads((run / "summary.json").read_text()) for run in (alone, shared))
    if one["exit"] != other["exit"]:
        return f"ended by {other['exit']}, not {one['exit']}"
    tests = [(summary["test"] or {}).get("loss", 0.0) for summary in (one, other)]
    largest = max(weights, metrics, abs(tests[0] - tests[1]))
    return "" if largest < tolerance else f"differs by {largest:.1e}"


def test_what_happens_in_one_process_is_agreed_on_by_all(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    short = [*EXACT, "data=digits", "trainer.epochs=1"]
    norms = ["model=resnet", "model.depth=20", "optimizer.lr=0.05", "trainer.max_steps=4"]
    together(
        2,
        [
            [*short, *norms, "run_dir=norms"],
            [*short, "model._target_=own.Fails", "trainer.on_nonfinite=skip", "run_dir=skips"],
            [*short, "model._target_=own.Hungry", "trainer.accumulate=auto", "run_dir=cuts"],
        ],
        tmp_path,
    )
    recorded = [line for line in lines_of(Path("norms"), "metrics.jsonl") if line["split"] == "val"][-1]
    found = dlwp.evaluate("norms/checkpoints/last", split="val", plots=False)["values"]  # by one process
    assert found["loss"] == pytest.approx(recorded["loss"], rel=1e-6)
    assert "batch norm over each one's own samples" in Path("norms/run.log").read_text()
    assert json.loads(Path("skips/summary.json").read_text())["skipped_steps"] == 1
    warnings = json.loads(Path("cuts/summary.json").read_text())["warnings"]
    assert any("in 4 pieces of 8 samples" in text for text in warnings)


# ---- started by the command -----------------------------------------------------------------------------------------

COMMAND = "from dlwp.commands.train import main; raise SystemExit(main())"
LONG = [
    *EXACT,
    "data=digits",
    "model=mlp",
    "trainer.epochs=4",
    "data.batch_size=16",
    "trainer.checkpoint_every=20 steps",
]


def started(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def wait_for_steps(run: Path, count: int) -> None:
    end = time.monotonic() + 120
    while time.monotonic() < end:
        if (run / "metrics.jsonl").exists() and len(lines_of_some(run)) >= count:
            return
        time.sleep(0.05)
    raise AssertionError(f"{run} did not come to {count} steps")


def lines_of_some(run: Path) -> list[str]:
    return (run / "metrics.jsonl").read_text().splitlines()


def workers_of(process: subprocess.Popen[str]) -> list[int]:
    """Return the processes that a launcher has started, in the order of their ranks."""
    found = {}
    for number in Path("/proc").glob("[0-9]*"):
        try:
            environment = (number / "environ").read_bytes().decode(errors="replace").split("\0")
            parent = int((number / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError):
            continue
        ranks = [one.partition("=")[2] for one in environment if one.startswith("RANK=")]
        if parent == process.pid and ranks:
            found[int(ranks[0])] = int(number.name)
    return [found[rank] for rank in sorted(found)]


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the processes in /proc")
def test_after_the_death_of_a_process_all_start_again_and_end_as_if_nothing_had_been(tmp_path: Path) -> None:
    dlwp.train(*LONG, "devices=2", "run_dir=whole")
    process = started(*LONG, "devices=2", "run_dir=killed")
    wait_for_steps(Path("killed"), 110)
    os.kill(workers_of(process)[1], signal.SIGKILL)
    told, _ = process.communicate(timeout=150)
    assert process.returncode == 0, told
    assert "all were started again (1 of 3 times at most)" in told
    assert differences(Path("whole"), Path("killed")) == (0.0, 0.0)
    assert lines_of(Path("whole"), "audit.jsonl") == lines_of(Path("killed"), "audit.jsonl")


def test_a_signal_saves_and_another_number_of_processes_goes_on(tmp_path: Path) -> None:
    dlwp.train(*LONG, "run_dir=alone")
    process = started(*LONG, "devices=2", "run_dir=cut")
    wait_for_steps(Path("cut"), 100)
    process.send_signal(signal.SIGINT)
    told, _ = process.communicate(timeout=100)
    assert process.returncode == 130, told
    assert "saved. Go on: dlwp-train resume=" in told
    assert dlwp.train("resume=cut", "devices=1").exit == "done"
    weights, metrics = differences(Path("alone"), Path("cut"))
    assert weights < 1e-10
    assert metrics < 1e-10


def test_a_process_that_fails_ends_all_and_is_told_of_once(tmp_path: Path) -> None:
    Path("own.py").write_text(OWN)
    words = [*QUIET, "data=digits", "model=linear", "devices=2", "+callbacks.a._target_=own.Raises", "run_dir=failed"]
    process = started(*words)
    told, _ = process.communicate(timeout=100)
    assert process.returncode == 5
    assert told.count("callback Raises.on_step failed at own.py") == 1
    assert "Traceback" not in told
    summary = json.loads(Path("failed/summary.json").read_text())
    assert (summary["exit"], summary["error"][:20]) == ("failed", "process 2: callback ")


def test_weights_that_are_left_out_in_later_steps_alone_are_told_of(tmp_path: Path) -> None:
    Path("own.py").write_text(OWN)
    process = started(*QUIET, "data=digits", "model._target_=own.Turns", "devices=2", "run_dir=turns")
    told, _ = process.communicate(timeout=100)
    assert process.returncode == 2
    assert told.count("left weights without a gradient that the first one did not. trainer.find_unused_par") == 1


def test_who_hears_a_run_for_a_search_or_a_second_run_hears_it_where_it_is_done(tmp_path: Path) -> None:
    words = [*QUIET, "data=digits", "model=linear", "trainer.max_steps=9"]
    dlwp.train(*words, "run_dir=before")
    config = compose([*words, "optimizer.lr=0.5", "devices=2", "run_dir=again"])
    config.hearing = [{"_target_": "dlwp.observers.stopping.UntilDiffers", "run": "before"}]
    run = dlwp.api.train_config(config)
    assert (run.exit, run.summary["step"]) == ("stopped:differs", 1)


# ---- what needs no processes ----------------------------------------------------------------------------------------


def test_what_is_for_one_process_is_refused_before_any_is_started() -> None:
    with pytest.raises(ConfigError, match=r"trainer.cuda_graphs is for one card. devices=1"):
        dlwp.train("data=digits", "model=mlp", "devices=2", "trainer.cuda_graphs=true")
    with pytest.raises(ConfigError, match=r"in one process. devices=1"):
        dlwp.train("trainer=least_squares", "data=digits", "model=mlp", "devices=2")


def test_a_config_is_handed_over_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = compose(["data=digits", "model=mlp", "optimizer.lr=1e-5", "tags=[a,'1']", "notes='x: y'"])
    config.hearing = [{"_target_": "dlwp.observers.stopping.UntilDiffers", "run": "before"}]
    path = tmp_path / "config.yaml"
    path.write_text(launching._text(config, Path("here")))
    monkeypatch.setenv(joining.HANDED, "")
    assert launching.handed(path) == (config, Path("here"))


def test_sums_and_words_of_one_process_are_its_own() -> None:
    assert distributed.summed({"loss": [1.0, 2.0], "matrix": [[1, 2], [3, 4]]}) == {
        "loss": [1.0, 2.0], "matrix": [[1, 2], [3, 4]]
    }  # fmt: skip
    assert distributed.any_of(None) is None
    assert distributed.any_of("stop") == "stop"
    assert distributed.from_first(lambda: 3) == 3
