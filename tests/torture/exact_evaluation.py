"""Promise 18: a metric equals the value in one piece, for any batch size and number of processes; so do gradients."""

from __future__ import annotations

import json
import math
import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from torture.commands import outcome, records, succeed
from torture.kit import Promise, Scale, Trial, require

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
            trainer._forward_and_backward(batch)
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


def _trials(scale: Scale) -> list[Trial]:
    sizes = (1, 5, 7) if scale.is_fast else (1, 2, 3, 5, 31, 67)
    batches = (2, 3) if scale.is_fast else (1, 2, 7, 16, 64, 100)
    trials = [Trial("one process", lambda _: _one_process(sizes, batches))]
    for count in (2,) if scale.is_fast else (2, 3):
        trials.append(Trial(f"{count} processes", lambda folder, n=count: _several(folder, n, sizes, batches)))
    pieces = (3,) if scale.is_fast else (1, 2, 3, 4, 5)
    for size in (7,) if scale.is_fast else (5, 7, 31):
        trials.append(Trial(f"gradients of {size} in pieces", lambda _, n=size: _gradients(n, pieces)))
    return [*trials, Trial("dlwp-eval", _command)]


def _unweighted(job: Callable[[], Any]) -> Callable[[Path], None]:
    """Let each batch, or piece, count the same, as a mean of means does."""

    def do(folder: Path) -> None:
        from dlwp.training import evaluation, trainer

        evaluation.weight_of = lambda criterion, batch: 1.0  # type: ignore[assignment]
        trainer.weight_of = lambda criterion, batch: 1.0 if len(batch[0]) == 7 else 1 / 3  # type: ignore[assignment]
        job()

    return do


def _unreduced(folder: Path) -> None:
    from dlwp import distributed

    distributed.sum_ = lambda tensor: tensor
    _several(folder, 2, (5, 7), (2,))


def _controls(scale: Scale) -> list[Trial]:
    return [
        Trial("means of means", _unweighted(lambda: _one_process((7,), (2, 3)))),
        Trial("pieces that count the same", _unweighted(lambda: _gradients(7, (3,)))),
        Trial("sums of one process alone", _unreduced),
    ]


PROMISES = [
    Promise(
        18, "exact-evaluation", "Metrics and gradients are those of the whole in one piece.", _trials, _controls,
    )
]  # fmt: skip
