"""Own a run that is small enough to be cut at every call: 6 steps, 3 saves, 1 deletion, no command line, 20 ms.

Also when what such a cut left behind keeps the promise.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from torture.kit import require, require_equal

FILES = {"model.safetensors", "optimizer.safetensors", "state.json", "config.yaml"}


class Batches:
    """Twenty samples in two batches an epoch."""

    num_samples = 20

    def __init__(self, width: int) -> None:
        import torch

        generator = torch.Generator().manual_seed(0)
        self._inputs = torch.randn(20, width, generator=generator)
        self._targets = torch.arange(20) % 3

    def __len__(self) -> int:
        return 2

    def epoch(self, number: int = 0, start: int = 0) -> Iterator[Any]:
        for index in range(start, 2):
            yield self._inputs[index::2], self._targets[index::2]


def run(
    path: Path, observers: Sequence[Any] = (), *, width: int = 6, epochs: int = 3, keep_last: int = 2,
    log_every: int = 1,
) -> Any:  # fmt: skip
    """Train in the folder `path` (go on there, from the newest checkpoint, if it exists); return the trainer."""
    import torch

    from dlwp import checkpoint
    from dlwp.observers.recording import Recording
    from dlwp.observers.saving import Saving
    from dlwp.runs import manifest
    from dlwp.runs.folder import RunFolder
    from dlwp.settings import Duration, TrainerSettings
    from dlwp.training.trainer import Trainer

    folder = RunFolder.open(path) if path.exists() else RunFolder.create(path)
    torch.manual_seed(0)
    model = torch.nn.Linear(width, 3)
    saving = Saving(
        folder, every=Duration.parse("2 steps"), keep_last=keep_last, keep_best=False, config_text="seed: 0\n"
    )
    trainer = Trainer(
        model, torch.nn.CrossEntropyLoss(), torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
        TrainerSettings(epochs=epochs, log_every=log_every), observers=[Recording(folder), *observers, saving],
    )  # fmt: skip
    newest = folder.pointed("last") or manifest.newest_complete(folder.checkpoints)
    if newest is not None:
        trainer.state.load(*checkpoint.load(newest))
    trainer.fit(Batches(width))
    folder.close()
    return trainer


class Teller:
    """Notes each step that the run says is saved, past any fault.

    Args:
        path: of the file with the notes.

    Attributes:
        also: called with each of the steps, if set.
    """

    also: ClassVar[Callable[[int], None] | None] = None

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)

    def on_save(self, event: Any) -> None:
        with self._path.open("a") as file:
            file.write(f"{event.step}\n")
            file.flush()
            os.fsync(file.fileno())
        if Teller.also is not None:
            Teller.also(event.step)


def told(path: Path) -> int:
    """Return the last step that a `Teller` has noted, 0 if none."""
    found = path.read_text().rpartition("\n")[0] if path.exists() else ""
    return int(found.split()[-1]) if found else 0


def forked(job: Callable[[], Any]) -> int:
    """Do a job in a fork of this process; return its exit status (0, 1 where it raised, negative a signal)."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            job()
            status = 0
        except BaseException:  # any error: it is in the try's log
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def is_whole(folder: Path) -> bool:
    """Return whether a checkpoint is as its manifest says; dlwp's own verification is not asked."""
    try:
        found = json.loads((folder / "MANIFEST.json").read_bytes())["files"]
        return set(found) >= FILES and all(
            hashlib.sha256((folder / name).read_bytes()).hexdigest() == entry["sha256"] for name, entry in found.items()
        )
    except (OSError, ValueError, KeyError):
        return False


def weights(path: Path) -> dict[str, str]:
    """Return the SHA-256 of the weights of each checkpoint by its name."""
    found = sorted((path / "checkpoints").glob("step-*/model.safetensors"))
    return {file.parent.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in found}


def clean_weights(folder: Path, **options: Any) -> dict[str, str]:
    """Return the weights by step of a run of this kind that is left alone and keeps all."""
    require(forked(lambda: run(folder / "clean", **{**options, "keep_last": 100})) == 0, "the clean run failed")
    return weights(folder / "clean")


def require_whole(path: Path, expected: dict[str, str], committed: int) -> None:
    """Require that all that has a checkpoint's name is one, with the weights of its step, and that `last` names one.

    Args:
        path: of the run.
        expected: what `clean_weights` gave.
        committed: the last step that was said to be saved: `last` names this or a later one.
    """
    checkpoints = path / "checkpoints"
    for folder in checkpoints.glob("step-*"):
        require(is_whole(folder), f"{folder.name} is not whole: {sorted(found.name for found in folder.iterdir())}")
    found = weights(path)
    require_equal(found, {name: expected[name] for name in found}, "weights")
    last = checkpoints / "last"
    if last.exists() or committed:
        require(last.exists(), f"step {committed} was saved, but nothing is named by 'last'")
        name = last.read_text().strip()
        require(is_whole(checkpoints / name), f"'last' names {name!r}, which is not whole")
        require(int(name[5:]) >= committed, f"step {committed} was saved, but 'last' names {name}")


def require_resumable(path: Path, expected: dict[str, str], **options: Any) -> None:
    """Go on with a run, and require that it ends as the clean one, with nothing left behind."""
    status = forked(lambda: run(path, **options))
    log = Path(".trial.log")
    require(status == 0, f"cannot go on ({status}): {log.read_text().strip()[-300:] if log.exists() else ''}")
    last = list(expected)[-1]
    require_equal(weights(path).get(last), expected[last], "the weights at the end")
    require_nothing_left(path)
    steps = [json.loads(line)["step"] for line in (path / "metrics.jsonl").read_text().splitlines()]
    require_equal(steps, list(range(1, int(last[5:]) + 1)), "steps in metrics.jsonl")


def require_nothing_left(path: Path) -> None:
    """Require that no temporary file or folder is there."""
    left = [str(found.relative_to(path)) for found in path.rglob(".*") if found.name.startswith((".tmp", ".trash"))]
    require(not left, f"left behind: {left}")


def killed(status: int) -> bool:
    """Return whether a process died as planned; require that it ended well otherwise."""
    require(status in (0, -signal.SIGKILL), f"neither killed nor well: {status}")
    return status != 0
