"""Hold that a model cut over processes (`strategy=fsdp2`) trains as a whole one does and leaves the same run."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from dlwp import api, sharding
from dlwp.errors import ConfigError
from dlwp.optimizers import Muon
from dlwp.settings import TrainerSettings

QUIET = (
    "trainer.precision=fp64", "trainer.log_every=1", "logger.tensorboard=false", "logger.plots=false",
    "trainer.progress=false", "device=cpu",
)  # fmt: skip
DIGITS = ("data=digits", "model=mlp", "scheduler=constant")
MLP = (*DIGITS, "data.max_samples=200", "data.batch_size=33")
CASES = {
    "mlp": (*MLP, "trainer.epochs=2", "trainer.clip_norm=1", "trainer.accumulate=3", "trainer.ema_decay=0.9"),
    "few": (*DIGITS, "data.max_samples=3", "data.batch_size=2", "data.eval_batch_size=7", "trainer.epochs=2"),
    "text": (
        "data=sequence", "data.path=text.txt", "data.length=16", "data.batch_size=8", "model=transformer",
        "model.depth=2", "model.num_heads=2", "trainer.epochs=1", "trainer.limit_batches=5",
    ),
    "ahead": (*MLP, "optimizer=sgd", "optimizer.lookahead={every: 2}", "trainer.epochs=1"),
}  # fmt: skip
RESNET = ("data=digits", "data.max_samples=100", "model=resnet", "model.depth=20", "trainer.max_steps=2")
HELD = """
import json, torch
class Held:
    "Notes the bytes of weights and moments that this process holds, and of the whole model."
    def on_step(self, event):
        state = event.trainer.optimizer.state
        cut = [*event.trainer.model.parameters(), *(value["exp_avg"] for value in state.values())]
        own = sum(value.to_local().nbytes for value in cut)
        whole = sum(value.nbytes for value in cut)
        with open(f"held-{torch.distributed.get_rank()}.json", "w") as file:
            json.dump([own, whole], file)
"""


def together(processes: int, jobs: Sequence[Sequence[str]]) -> None:
    """Train each job, one after the other, in several processes of one group."""
    Path("jobs.json").write_text(json.dumps([list(job) for job in jobs]))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    words = [sys.executable, str(Path(__file__).with_name("together.py")), "jobs.json"]
    common = {**os.environ, "WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    started = [
        subprocess.Popen(
            words, env={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)}, stderr=subprocess.PIPE, text=True
        )
        for rank in range(processes)
    ]
    try:
        said = [one.communicate(timeout=250)[1] for one in started]
    finally:
        for one in started:
            one.kill()
    assert [one.returncode for one in started] == [0] * processes, "\n".join(said)


def final(run: str) -> dict[str, dict[str, torch.Tensor]]:
    folder = Path(run, "checkpoints", Path(run, "checkpoints", "last").read_text().strip())
    return {path.name: load_file(path) for path in sorted(folder.glob("*.safetensors"))}


def assert_same(run: str, other: str) -> None:
    """Require the same files with the same tensors, and the same metrics at the same steps."""
    one, two = final(run), final(other)
    assert one.keys() == two.keys()
    for file, tensors in one.items():
        torch.testing.assert_close(two[file], tensors, rtol=0, atol=1e-10)
    assert Path(run, "audit.jsonl").read_text() == Path(other, "audit.jsonl").read_text()
    lines = [[json.loads(line) for line in Path(one, "metrics.jsonl").read_text().splitlines()] for one in (run, other)]
    for first, second in zip(*lines, strict=True):
        assert first.keys() == second.keys()
        for key in first.keys() - {"time", "samples_per_s", "split"}:
            single = key == "bits_per_character"  # summed in single precision
            assert second[key] == pytest.approx(first[key], rel=0, abs=1e-6 if single else 1e-10)


def test_a_model_in_shards_trains_evaluates_and_is_saved_as_a_whole_one(own_place: Path) -> None:
    Path("text.txt").write_text("the quick brown fox jumps over the lazy dog. " * 40)
    for name, words in CASES.items():
        api.train(*QUIET, *words, f"run_dir=whole/{name}")
    for processes in (2, 3):  # with 3, some have no sample of the last batches, and no row of a small weight
        jobs = [[*QUIET, *words, "strategy=fsdp2", f"run_dir={processes}/{name}"] for name, words in CASES.items()]
        together(processes, jobs)
        for name in CASES:
            assert_same(f"whole/{name}", f"{processes}/{name}")
    assert "fsdp2: 2 blocks sharded over 3 processes" in Path("3/mlp/run.log").read_text()


def test_batch_norm_in_shards_does_what_it_does_in_whole_copies() -> None:
    together(2, [[*QUIET, *RESNET, f"strategy={name}", f"run_dir={name}"] for name in ("ddp", "fsdp2")])
    assert_same("ddp", "fsdp2")


def test_a_cut_run_goes_on_whole_or_in_other_shards_to_the_same_end_and_each_process_holds_its_part(
    own_place: Path,
) -> None:
    Path("held.py").write_text(HELD)
    length, words = "trainer.max_steps=9", [*QUIET, *MLP, "trainer.epochs=9", "trainer.ema_decay=0.9"]
    watch = "+callbacks.held._target_=held.Held"
    api.train(*words, length, "run_dir=whole")
    cut = [*words, "strategy=fsdp2", "trainer.max_steps=4"]
    together(2, [[*cut, watch, "run_dir=alone"], [*cut, "run_dir=three"]])
    for rank in range(2):
        own, whole = json.loads(Path(f"held-{rank}.json").read_text())
        assert own < 0.51 * whole
    api.train("resume=alone", "strategy=ddp", length, "~callbacks.held")
    together(3, [["resume=three", length]])
    for name in ("alone", "three"):
        for file, tensors in final("whole").items():
            torch.testing.assert_close(final(name)[file], tensors, rtol=0, atol=1e-10)
        assert Path(name, "summary.json").exists()


def test_blocks_are_children_of_containers_and_what_is_tied_belongs_to_the_whole() -> None:
    tied = nn.Linear(4, 4)
    layers = nn.ModuleList([nn.Linear(4, 4), nn.LayerNorm(4), nn.Sequential(nn.Linear(4, 4), nn.ReLU()), tied])
    model = nn.ModuleDict({"inside": nn.ModuleDict({"layers": layers})})
    assert sharding.blocks(model) == [layers[0], layers[2][0], tied]
    model.add_module("head", nn.Sequential())
    head = nn.Bilinear(1, 1, 1)
    head.weight = tied.weight
    outer = nn.Module()
    outer.layers, outer.head = layers, head
    assert sharding.blocks(outer) == [layers[0], layers[2][0]]


def test_rows_are_cut_as_torch_cuts_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharding.distributed, "world_size", lambda: 4)
    for count in (0, 1, 3, 5, 8, 9):
        whole = torch.arange(count)
        chunks = [one.tolist() for one in whole.chunk(4)] if count else []
        found = [whole[sharding.rows_of(rank, count)].tolist() for rank in range(4)]
        assert found == chunks + [[]] * (4 - len(chunks))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"compile": True}, "trainer.compile=false, or strategy=ddp"),
        ({"accumulate": "auto"}, "trainer.accumulate=2, or strategy=ddp"),
        ({"precision": "fp16"}, "trainer.precision=bf16, or strategy=ddp"),
        ({"unfreeze_at": "2 epochs"}, "trainer.unfreeze_at=null, or strategy=ddp"),
    ],
)
def test_what_needs_whole_weights_is_refused_in_one_line(settings: dict[str, object], told: str) -> None:
    model = nn.Linear(2, 2)
    with pytest.raises(ConfigError, match=told):
        sharding.refuse(TrainerSettings(**settings), torch.optim.SGD(model.parameters()), model)  # type: ignore[arg-type]


def test_optimizers_of_whole_weights_and_weights_without_rows_are_refused() -> None:
    model = nn.Linear(2, 2)
    for optimizer in (torch.optim.LBFGS(model.parameters()), Muon(model.parameters())):
        with pytest.raises(ConfigError, match=f"{type(optimizer).__name__} needs whole weights.*optimizer=adamw"):
            sharding.refuse(TrainerSettings(), optimizer, model)
    model.scale = nn.Parameter(torch.ones(()))
    with pytest.raises(ConfigError, match=r"'scale' has none. Shape \(1,\)"):
        sharding.refuse(TrainerSettings(), torch.optim.SGD(model.parameters()), model)


def test_with_one_process_nothing_is_cut_and_it_is_said() -> None:
    run = api.train(*QUIET, *MLP, "strategy=fsdp2", "trainer.max_steps=1", "run_dir=one")
    assert run.summary["warnings"] == ["strategy=fsdp2 has no effect with one process. devices=2 or more"]
