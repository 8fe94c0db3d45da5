"""Promise 17: the result is a function of code, config, data and seed; not of workers, logs, saves or evaluations."""

from __future__ import annotations

import hashlib
import itertools
import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torture import kit
from torture.commands import Command, succeed
from torture.kit import Promise, Scale, Trial, require, require_equal

_NOISY = '''
import random, numpy, torch

class Noisy(torch.utils.data.Dataset):
    """67 pictures with noise of Python's, NumPy's and torch's generators."""

    classes = ["even", "odd"]

    def __len__(self):
        return 67

    def __getitem__(self, index):
        picture = torch.full((3, 8, 8), float(index % 2)) + torch.randn(3, 8, 8)
        return picture + random.random() + float(numpy.random.rand()), index % 2
'''
_WORDS = {
    "data.augment": "[crop,flip]", "data.batch_size": "9", "model": "cnn", "trainer.epochs": "2", "run_dir": "run",
    "logger.plots": "false", "logger.tensorboard": "false", "trainer.keep_best": "false",
    "trainer.eval_every": "100 epochs", "trainer.checkpoint_every": "100 epochs", "trainer.progress": "false",
}  # fmt: skip
_DATA = {
    "pictures": {"data": "synthetic", "data.num_train": "67", "data.num_val": "13", "data.num_test": "7",
                 "data.shape": "[3,8,8]"},
    "noisy samples": {"data": "dataset", "data._target_": "noisy.Noisy"},
}  # fmt: skip
_LOGGING = {"logger.plots": "true", "logger.tensorboard": "true", "trainer.log_every": "1"}
_SAVES = {"trainer.checkpoint_every": "7 steps", "trainer.keep_best": "true"}
_VALIDATION = {"trainer.eval_every": "5 steps"}


def _fed(workers: int | None) -> dict[str, str]:
    if workers is None:
        return {"data.loader": "memory"}
    return {"data.loader": "workers", "data.num_workers": str(workers)}


def _words(data: str, changes: dict[str, str]) -> list[str]:
    return [f"{key}={value}" for key, value in {**_WORDS, **_DATA[data], **changes}.items()]


def _weights(run: Path) -> str:
    last = (run / "checkpoints" / "last").read_text().strip()
    return hashlib.sha256((run / "checkpoints" / last / "model.safetensors").read_bytes()).hexdigest()


def _expected(data: str) -> str:
    def make(folder: Path) -> None:
        (folder / "noisy.py").write_text(_NOISY)
        succeed(*_words(data, _fed(0)), folder=folder)

    return _weights(kit.once(f"same-seed-{data.partition(' ')[0]}", make) / "run")


def same(data: str, changes: dict[str, str], start: str | None = None, before: Callable[[], None] | None = None,
         ) -> Trial:  # fmt: skip
    """Return the try of a run that is fed, logged, saved or validated otherwise, and must end with the same weights."""

    def set_up() -> None:
        if start is not None:
            multiprocessing.set_start_method(start, force=True)
        if before is not None:
            before()

    def do(folder: Path) -> None:
        expected = _expected(data)
        (folder / "noisy.py").write_text(_NOISY)
        command = Command(*_words(data, changes), folder=folder, before=set_up)
        if command.finish() != 0:
            raise RuntimeError(f"the run fails: {command.output}")
        require_equal(_weights(folder / "run"), expected, f"{data}: weights with {changes}")

    how = ", ".join(f"{key}={value}" for key, value in changes.items())
    return Trial(f"{data}: {how}" + (f", {start}" if start else ""), do, 300.0)


def _draws(workers: int) -> dict[tuple[int, int], tuple[float, ...]]:
    """Return (epoch, sample) -> what each of the three generators gave, through the loader."""
    import random

    import numpy
    import torch

    from dlwp.data.streaming import StreamingLoader

    class Drawing(torch.utils.data.Dataset):  # type: ignore[type-arg]
        def __len__(self) -> int:
            return 23

        def __getitem__(self, index: int) -> Any:
            drawn = [random.random(), float(numpy.random.rand()), float(torch.rand((), dtype=torch.float64))]
            return torch.tensor(drawn, dtype=torch.float64), index

    loader = StreamingLoader(Drawing(), 4, seed=0, shuffle=True, num_workers=workers)
    return {
        (epoch, int(index)): tuple(values.tolist())
        for epoch in range(3)
        for drawn, indices in loader.epoch(epoch)
        for values, index in zip(drawn, indices, strict=True)
    }


def _hold_draws(folder: Path) -> int:
    """Hold that no two samples or epochs get the same draw, and that the number of workers changes none."""
    expected = _draws(0)
    for number, generator in enumerate(("Python's", "NumPy's", "torch's")):
        values = [drawn[number] for drawn in expected.values()]
        require(len(set(values)) == 3 * 23, f"{generator} generator gives two samples the same draw")
    for workers in (1, 2, 5):
        found = _draws(workers)
        require(found == expected, f"{workers} workers draw otherwise than none")
    return 4


def _unseeded(folder: Path) -> None:
    from dlwp import randomness

    randomness.seed_sample = lambda seed, epoch, index: None
    _hold_draws(folder)


def _hold_threads(folder: Path) -> int:
    """Hold that picture operations give the same bits with 1 and with 2 threads."""
    import torch
    from torch.nn import functional

    pictures = torch.rand(3, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    kernel = torch.ones(3, 1, 5, 5) / 25
    operations: dict[str, Callable[[], Any]] = {
        "resize": lambda: functional.interpolate(pictures, 160, mode="bilinear", antialias=True),
        "blur": lambda: functional.conv2d(pictures, kernel, groups=3),
        "normalise": lambda: (pictures - 0.45) / 0.22,
        "FFT": lambda: torch.fft.fft2(pictures).abs(),
    }
    for name, operation in operations.items():
        found = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(operation())
        require(torch.equal(*found), f"{name} differs between 1 and 2 threads")
    return len(operations)


def _trials(scale: Scale) -> list[Trial]:
    in_process = [Trial("draws", _hold_draws), Trial("1 and 2 threads", _hold_threads)]
    if scale.is_fast:
        return [
            *in_process,
            same("pictures", {**_fed(None), **_SAVES, **_VALIDATION}),
            same("pictures", {**_fed(2), **_LOGGING}),
            same("noisy samples", {**_fed(1), **_VALIDATION}),
            same("noisy samples", {**_fed(2), **_SAVES}),
        ]
    feeds: list[tuple[int | None, str | None]] = [(None, None), (0, None), (1, "fork"), (2, "fork"), (5, "fork")]
    if scale.is_full:
        feeds += [(1, "spawn"), (2, "spawn"), (5, "spawn")]
    else:
        feeds.append((1, "spawn"))
    combinations = list(itertools.product(feeds, ({}, _LOGGING), ({}, _SAVES), ({}, _VALIDATION)))
    found = [
        same(data, {**_fed(workers), **logging, **saves, **validation}, start)
        for (workers, start), logging, saves, validation in combinations
        for data in _DATA
        if not (data == "noisy samples" and workers is None)
    ]
    scale.random("same-seed").shuffle(found)
    return [*in_process, *found[: scale.count(4, 24, len(found))]]


def _controls(scale: Scale) -> list[Trial]:
    return [
        same("pictures", {**_fed(0), "seed": "1"}),
        Trial("samples not seeded", _unseeded),
    ]


PROMISES = [Promise(17, "same-seed", "The result depends on code, config, data and seed alone.", _trials, _controls)]
