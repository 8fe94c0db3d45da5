"""Promise 18: a metric equals the value in one piece, for any batch size and number of processes; so do gradients."""

from __future__ import annotations

import json
import math
import multiprocessing
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from torture.commands import outcome, records, succeed
from torture.kit import Promise, Scale, Trial, once, require

CLASSES = 7


def _data(size: int, regression: bool) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(size)
    inputs = torch.randn(size, 5, generator=generator)
    if regression:
        return inputs, 1000 + torch.randn(size, 2, generator=generator)
    return inputs, torch.randint(CLASSES, (size,), generator=generator)


def _model(outputs: int) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, outputs))


def _criterion(kind: str) -> nn.Module:
    if kind == "weighted":
        return nn.CrossEntropyLoss(weight=torch.arange(1.0, CLASSES + 1))
    return nn.MSELoss() if kind == "regression" else nn.CrossEntropyLoss()


def _reference(kind: str, size: int) -> dict[str, float]:
    """Return loss and metrics of the whole set in one piece, in float64."""
    inputs, targets = _data(size, kind == "regression")
    model = _model(2 if kind == "regression" else CLASSES).double()
    with torch.no_grad():
        outputs = model(inputs.double())
        loss = float(_criterion(kind).double()(outputs, targets.double() if kind == "regression" else targets))
    if kind == "regression":
        error, spread = outputs - targets.double(), targets.double() - targets.double().mean(0)
        r2 = (1 - error.square().sum(0) / spread.square().sum(0)).mean()
        found = {"mae": error.abs().mean(), "rmse": error.square().mean().sqrt(), "r2": r2}
    else:
        found = {
            "accuracy": (outputs.argmax(1) == targets).double().mean(),
            "top3": (outputs.topk(3, 1).indices == targets.unsqueeze(1)).any(1).double().mean(),
        }
    return {"loss": loss, **{name: float(value) for name, value in found.items()}}


def _metrics(kind: str) -> dict[str, Any]:
    from dlwp import metrics

    if kind == "regression":
        return {"mae": metrics.MAE(), "rmse": metrics.RMSE(), "r2": metrics.R2()}
    return {"accuracy": metrics.Accuracy(), "top3": metrics.TopK(3)}


def _evaluated(kind: str, size: int, batch: int) -> dict[str, float]:
    """Return what dlwp finds over unpadded batches of this process's share."""
    from dlwp import distributed
    from dlwp.training.evaluation import evaluate

    inputs, targets = _data(size, kind == "regression")
    share = distributed.share(size)
    inputs, targets = inputs[share], targets[share]
    pairs = [(inputs[at : at + batch], targets[at : at + batch]) for at in range(0, len(inputs), batch)]
    model = _model(2 if kind == "regression" else CLASSES)
    return evaluate(model, pairs, _criterion(kind), _metrics(kind))


def _compare(found: dict[str, float], kind: str, size: int, what: str) -> None:
    for name, expected in _reference(kind, size).items():
        value = found.get(name, math.nan)
        if not math.isfinite(expected):
            continue  # R2 of one sample has no spread
        near = math.isclose(value, expected, rel_tol=1e-6, abs_tol=1e-9)
        # outputs in float32 against targets near 1000: their error is a difference of large numbers
        near |= kind == "regression" and math.isclose(value, expected, rel_tol=1e-5, abs_tol=1e-6)
        require(near, f"{name} of {size} {what}: {value!r}, expected {expected!r}")


def _one_process(sizes: tuple[int, ...], batches: tuple[int, ...]) -> int:
    count = 0
    for kind in ("plain", "weighted", "regression"):
        for size in sizes:
            for batch in batches:
                _compare(_evaluated(kind, size, batch), kind, size, f"in batches of {batch} ({kind})")
                count += 1
    return count


def _several(folder: Path, processes: int, sizes: tuple[int, ...], batches: tuple[int, ...]) -> int:
    cases = [(kind, size, batch) for kind in ("plain", "weighted", "regression") for size in sizes for batch in batches]
    context = multiprocessing.get_context("fork")
    children = [
        context.Process(target=_rank, args=(folder, rank, processes, cases), daemon=True) for rank in range(processes)
    ]
    for child in children:
        child.start()
    for child in children:
        child.join(30)
        require(child.exitcode == 0, f"a process of {processes} ended with {child.exitcode}")
    for rank in range(processes):
        for case, found in zip(cases, json.loads((folder / f"found-{rank}").read_text()), strict=True):
            kind, size, batch = case
            _compare(found, kind, size, f"in batches of {batch}, process {rank} of {processes} ({kind})")
    return len(cases)


def _rank(folder: Path, rank: int, processes: int, cases: list[tuple[str, int, int]]) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=processes
    )
    found = [_evaluated(*case) for case in cases]
    (folder / f"found-{rank}").write_text(json.dumps(found))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def _gradients(size: int, pieces: tuple[int, ...]) -> int:
    """The gradient of k pieces is that of the whole batch."""
    from dlwp.settings import TrainerSettings
    from dlwp.training.trainer import Trainer

    count = 0
    for kind in ("plain", "weighted", "regression"):
        batch = _data(size, kind == "regression")
        batch = batch[0].double(), batch[1].double() if kind == "regression" else batch[1]
        model = _model(2 if kind == "regression" else CLASSES).double()
        criterion = _criterion(kind).double()
        criterion(model(batch[0]), batch[1]).backward()
        expected = [value.grad.clone() for value in model.parameters()]
        for number in pieces:
            settings = TrainerSettings(accumulate=number)
            trainer = Trainer(model, criterion, torch.optim.SGD(model.parameters(), lr=0.1), settings)
            trainer.passes.loss(batch)
            for value, other in zip(model.parameters(), expected, strict=True):
                worst = float((value.grad - other).abs().max() / other.abs().max().clamp_min(1e-12))
                require(worst < 1e-6, f"{kind}: gradient of {number} pieces of {size} is off by {worst:.1e}")
            count += 1
    return count


def _command(folder: Path) -> None:
    """dlwp-eval gives the line that was logged at that step."""
    words = ("data=digits", "model=mlp", "trainer.epochs=2", "trainer.limit_batches=9", "run_dir=run")
    succeed(*words, "logger.tensorboard=false", "logger.plots=false")
    pointed = outcome(folder / "run")["pointers"]["best"]
    step = int(pointed.removeprefix("step-"))
    logged = next(
        line for line in records(folder / "run" / "metrics.jsonl") if (line["step"], line["split"]) == (step, "val")
    )
    from dlwp.api import evaluate

    found = evaluate("run", split="val")["values"]
    for name, value in found.items():
        require(value == logged[name], f"dlwp-eval gives {name} {value!r}, the log has {logged[name]!r}")


# ---- dlwp-eval, in any batches and by any loader --------------------------------------------------------------------

SAMPLES = '''
import torch
from torch.utils.data import TensorDataset

NUMBERS = {"train": 40, "val": 31, "test": 67}

def arrays(split, kind):
    """Inputs (N, 5), and targets near 10 (N, 2) or of 7 classes (N,)."""
    generator = torch.Generator().manual_seed(list(NUMBERS).index(split))
    inputs = torch.randn(NUMBERS[split], 5, generator=generator)
    if kind == "regression":
        return inputs, 10 + inputs[:, :2] + torch.randn(NUMBERS[split], 2, generator=generator)
    return inputs, torch.randint(7, (NUMBERS[split],), generator=generator)

def regression():
    return {split: TensorDataset(*arrays(split, "regression")) for split in NUMBERS}

def weighted():
    return {split: TensorDataset(*arrays(split, "weighted")) for split in NUMBERS}
'''
"""A user's own data, to be written beside the command as samples.py."""

LOADERS = {
    "memory": ("data.loader=memory",), "no workers": ("data.loader=workers", "data.num_workers=0"),
    "2 workers": ("data.loader=workers", "data.num_workers=2"),
}  # fmt: skip

COUNTS = ("accuracy", "top5")
"""Metrics that are a count of samples over their number: exact."""
WEIGHTS = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
"""Of the classes, in the loss."""


def _trained(kind: str) -> Path:
    """Return a folder with a run on data of this kind, made once."""

    def make(folder: Path) -> None:
        (folder / "samples.py").write_text(SAMPLES)
        task = (
            ("criterion=mse", "metrics=regression")
            if kind == "regression"
            else ("criterion=cross_entropy", f"criterion.weight={WEIGHTS}", "metrics=classification")
        )
        words = ("data=dataset", f"data._target_=samples.{kind}", "data.batch_size=9", "model=mlp", "model.hidden=[8]")
        succeed(*words, *task, "trainer.epochs=2", "logger.tensorboard=false", "logger.plots=false", "run_dir=run",
                folder=folder)  # fmt: skip

    return once(f"exact-evaluation-{kind}", make)


def _direct(kind: str, split: str) -> dict[str, float]:
    """Return what the best weights give over a split in one piece, in float64, by nothing of dlwp's."""
    folder = _trained(kind)
    names: dict[str, Any] = {}
    exec(SAMPLES, names)
    inputs, targets = names["arrays"](split, kind)
    best = folder / "run" / "checkpoints" / (folder / "run/checkpoints/best").read_text().strip()
    weights = {name: value.double() for name, value in load_file(best / "model.safetensors").items()}
    hidden = (inputs.double() @ weights["layers.0.weight"].T + weights["layers.0.bias"]).relu()
    outputs = hidden @ weights["head.weight"].T + weights["head.bias"]
    if kind == "regression":
        error, spread = outputs - targets.double(), targets.double() - targets.double().mean(0)
        squared = error.square()
        found = {"loss": squared.mean(), "mae": error.abs().mean(), "rmse": squared.mean().sqrt(),
                 "r2": (1 - squared.sum(0) / spread.square().sum(0)).mean()}  # fmt: skip
        return {name: float(value) for name, value in found.items()}
    loss = nn.functional.cross_entropy(outputs, targets, torch.tensor(WEIGHTS, dtype=torch.float64))
    top5 = int((outputs.topk(5, 1).indices == targets.unsqueeze(1)).any(1).sum())
    right = int((outputs.argmax(1) == targets).sum())
    return {"loss": float(loss), "accuracy": right / len(targets), "top5": top5 / len(targets)}


def evaluated(
    kind: str, split: str, batches: tuple[int, ...], loaders: tuple[str, ...], before: Callable[[], None] | None = None
) -> Trial:
    """Return the try of dlwp-eval on a run: in any batches and by any loader what its weights give in one piece."""

    def do(folder: Path) -> int:
        expected = _direct(kind, split)
        shutil.copytree(_trained(kind), folder, dirs_exist_ok=True)
        for batch in batches:
            for loader in loaders:
                words = (f"split={split}", f"data.eval_batch_size={batch}", *LOADERS[loader])
                told = succeed(
                    "checkpoint=run", "format=json", "trust=[samples]", *words, name="evaluate", before=before
                )
                found = json.loads(told[told.index("{") :])
                what = f"of {split} ({kind}) in batches of {batch}, {loader}"
                require(
                    found["num_samples"] == {"val": 31, "test": 67}[split], f"{found['num_samples']} samples {what}"
                )
                require(set(found["values"]) == set(expected), f"{sorted(found['values'])} {what}")
                for name, value in expected.items():
                    near = math.isclose(found["values"][name], value, rel_tol=0 if name in COUNTS else 1e-6)
                    require(near, f"{name} {what}: {found['values'][name]!r}, expected {value!r}")
        return len(batches) * len(loaders)

    return Trial(f"dlwp-eval of {split}, {kind}", do)


def _trials(scale: Scale) -> list[Trial]:
    sizes = (1, 5, 7) if scale.is_fast else (1, 2, 3, 5, 31, 67)
    batches = (2, 3) if scale.is_fast else (1, 2, 7, 16, 64, 100)
    trials = [Trial("one process", lambda _: _one_process(sizes, batches))]
    for count in (2,) if scale.is_fast else (2, 3):
        trials.append(Trial(f"{count} processes", lambda folder, n=count: _several(folder, n, sizes, batches)))
    pieces = (3,) if scale.is_fast else (1, 2, 3, 4, 5)
    for size in (7,) if scale.is_fast else (5, 7, 31):
        trials.append(Trial(f"gradients of {size} in pieces", lambda _, n=size: _gradients(n, pieces)))
    trials.append(Trial("dlwp-eval", _command))
    if scale.is_fast:
        return [
            *trials,
            evaluated("regression", "test", (7,), ("2 workers",)),
            evaluated("weighted", "test", (1000, 1), ("memory",)),
        ]
    all_of = ((1, 7, 1000), tuple(LOADERS))
    return [
        *trials,
        evaluated("regression", "test", *all_of),
        evaluated("weighted", "test", *all_of),
        evaluated("weighted", "val", (7,), ("memory",)),
    ]


def _unweighted(job: Callable[[], Any]) -> Callable[[Path], None]:
    """Let each batch, or piece, count the same, as a mean of means does."""

    def do(folder: Path) -> None:
        from dlwp.training import evaluation, passes

        evaluation.weight_of = lambda criterion, batch: 1.0  # type: ignore[assignment]
        passes.weight_of = lambda criterion, batch: 1.0 if len(batch[0]) == 7 else 1 / 3  # type: ignore[assignment]
        job()

    return do


def _unreduced(folder: Path) -> None:
    from dlwp import distributed

    distributed.sum_ = lambda tensor: tensor
    _several(folder, 2, (5, 7), (2,))


def _means_of_means() -> None:
    from dlwp.training import evaluation

    evaluation.weight_of = lambda criterion, batch: 1.0  # type: ignore[assignment]


def _filled_up() -> None:
    """Fill a smaller last batch up with samples that were counted before, as a padded split is."""
    from dlwp.data.resident import Order

    def bounds(self: Order, position: int) -> slice:
        end = min((position + 1) * self._batch_size, self._length)
        return slice(max(0, end - self._batch_size), end)

    Order.bounds = bounds  # type: ignore[method-assign]


def _controls(scale: Scale) -> list[Trial]:
    return [
        Trial("means of means", _unweighted(lambda: _one_process((7,), (2, 3))), breaks="^loss of 7 in batches of 2"),
        Trial("pieces that count the same", _unweighted(lambda: _gradients(7, (3,))), breaks="gradient of 3 pieces"),
        Trial("sums of one process alone", _unreduced, breaks="process [01] of 2"),
        replace(evaluated("weighted", "test", (7,), ("memory",), _means_of_means), breaks="^loss of test"),
        replace(evaluated("regression", "test", (7,), ("2 workers",), _filled_up), breaks="^(loss|mae) of test"),
    ]


PROMISES = [
    Promise(
        18, "exact-evaluation", "Metrics and gradients are those of the whole in one piece.", _trials, _controls,
    )
]  # fmt: skip
