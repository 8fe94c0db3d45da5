"""Own `verify_resume=true`: prove with a person's own model and data that a run resumes bit for bit.

Knows nothing of how a run is trained or resumed: it calls the command itself, in processes of their own, so that
nothing that lives in a process (a module's variable, a generator) can hide a difference.

Three runs in a temporary folder: one goes through, one is stopped in the middle of the first epoch, and a third process
goes on from there. Each notes at every step what it saw (`Witness`); the first thing that differs is named.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlwp.config import check
from dlwp.errors import ConfigError, RunError
from dlwp.runs import files, history
from dlwp.training.events import Stop

if TYPE_CHECKING:
    from dlwp.training.events import StepEnded

_CUT, _BATCHES, _STEPS = 3, 4, 7  # stopped within the first epoch; an evaluation and half an epoch follow
_FIXED = {
    "trainer.epochs": str(_STEPS), "trainer.max_steps": str(_STEPS), "trainer.limit_batches": str(_BATCHES),
    "trainer.max_time": "null", "trainer.checkpoint_every": "1000 steps", "trainer.log_every": "1",
    "logger.tensorboard": "false", "logger.plots": "false", "verify_resume": "false",
}  # fmt: skip
_COMMAND = "import sys; from dlwp.commands.train import main; sys.exit(main())"
_CAUSES = {
    "samples": "the order of the data: the batch holds other samples",
    "batch": "the data: the same samples come out differently (a generator of their own, a counter, the clock)",
    "loss": "the forward pass",
    "model": "weights and buffers",
    "optimizer": "the optimizer's state",
    "ema": "the averaged weights",
}


class Witness:
    """Note at every step a digest of each thing that could differ, a JSON line each.

    Args:
        path: the file to write.
        stop_at: step after which to stop the run, as a signal would; None: never.
    """

    watcher = False

    def __init__(self, path: str, stop_at: int | None = None) -> None:
        self._path = Path(path)
        self._stop_at = stop_at
        self._before: dict[str, str] | None = None

    def on_step(self, event: StepEnded) -> Stop | None:
        """Note this step."""
        import numpy

        trainer = event.trainer
        now = {"Python's random": _digest(random.getstate()), "numpy.random": _digest(numpy.random.get_state())}
        before, self._before = self._before or now, now
        seen: dict[str, Any] = {
            "step": event.step,
            "samples": trainer.chain.read(),
            "batch": _digest(trainer.last_batch),
            "loss": float(event.loss).hex(),
            **{group: dict(_digests(nested)) for group, nested in trainer.state.tensors().items()},
            "drawn": [name for name in now if now[name] != before[name]],
            "hidden": dict(_hidden(trainer.model)),
        }
        files.append_line(self._path, json.dumps(seen))
        return Stop("stopped:SIGTERM") if event.step == self._stop_at else None


def verify_resume(words: Sequence[str], config_dir: Path | None = None, config_name: str = "train") -> str:
    """Train a few steps in one go and in two, and compare every bit.

    Args:
        words: of the command.
        config_dir, config_name: as typed.

    Returns:
        A line that says what was compared.

    Raises:
        RunError: something differs; the first step and the first thing are named. Or the run itself fails.
    """
    if any(check.split(word)[1] == "resume" for word in words):
        raise ConfigError("verify_resume begins runs of its own; leave out resume=")
    kept = [word for word in words if check.split(word)[1] not in (*_FIXED, "run_dir")]
    flags = [*(["--config-dir", str(config_dir)] if config_dir else []), "--config-name", config_name]
    fixed = [f"{key}={value}" for key, value in _FIXED.items()]
    with tempfile.TemporaryDirectory(prefix="dlwp-verify-") as place, _latest_left_alone():
        seen = {}
        for name, stop_at in (("whole", "null"), ("cut", str(_CUT))):
            seen[name], witness = Path(place) / f"{name}.jsonl", "+callbacks.witness"
            notes = [f"{witness}._target_=dlwp.verify.Witness", f"{witness}.path={_quoted(seen[name])}",
                     f"{witness}.stop_at={stop_at}"]  # fmt: skip
            run = Path(place) / name
            _train([*flags, *kept, *fixed, *notes, f"run_dir={_quoted(run)}"], place, 0 if name == "whole" else 143)
        _train([f"resume={run}", "callbacks.witness.stop_at=null"], place, 0)
        return _compare(history.read(seen["whole"]), history.read(seen["cut"]))


def _quoted(path: Path) -> str:
    """Return a path as Hydra takes any."""
    return "'" + str(path).replace("\\", "\\\\").replace("'", "\\'") + "'"


def _train(words: list[str], place: str, expected: int) -> None:
    """Run the command where the person stands, as an account of its own: its runs need not be remembered."""
    environment = {**os.environ, "XDG_STATE_HOME": str(Path(place) / "state")}
    done = subprocess.run([sys.executable, "-c", _COMMAND, *words], capture_output=True, text=True, env=environment)
    if done.returncode != expected:
        lines = [line for line in done.stderr.strip().splitlines() if line.strip()] or ["it said nothing"]
        first = next((line for line in lines if line.startswith("dlwp: error: ")), lines[-1])
        raise RunError(f"verify_resume: the run itself fails: {first.removeprefix('dlwp: error: ')}")


@contextlib.contextmanager
def _latest_left_alone() -> Iterator[None]:
    """Leave outputs/latest as it was."""
    link = Path("outputs") / "latest"
    target = str(link.readlink()) if link.is_symlink() else None
    try:
        yield
    finally:
        if target is not None:
            files.replace_link(link, target)
        else:
            files.remove(link)


def _compare(whole: list[dict[str, Any]], cut: list[dict[str, Any]]) -> str:
    for one, other in zip(whole, cut, strict=False):
        for name, cause in _CAUSES.items():
            if name in one and one[name] != other.get(name):
                raise _difference(one, other, name, cause)
    if [line["step"] for line in whole] != [line["step"] for line in cut]:
        raise RunError(f"resume is not exact: steps {[line['step'] for line in cut]} were taken")
    tensors = sum(len(whole[-1][group]) for group in _CAUSES if isinstance(whole[-1].get(group), dict))
    return (
        f"{len(whole)} steps in one process equal {_CUT} and {len(whole) - _CUT} in two, bit for bit: the samples, "
        f"batches and losses of each step, and {tensors} tensors of model and optimizer"
    )


def _difference(one: dict[str, Any], other: dict[str, Any], name: str, cause: str) -> RunError:
    step, details = one["step"], []
    if isinstance(one[name], dict):
        differing = [key for key in one[name] if one[name][key] != other[name].get(key)]
        cause += f", first '{differing[0]}'" if differing else ""
    if name in ("loss", "model", "batch"):
        hidden = [key for key in one["hidden"] if one["hidden"][key] != other["hidden"].get(key)]
        details += [f"'{key}' differs, and is saved with no checkpoint: make it a buffer" for key in hidden[:3]]
        details += [f"{name} was drawn from in this step: draw from torch's generator" for name in one["drawn"]]
    if step <= _CUT:
        text = f"two runs differ before anything was stopped, at step {step}: {cause}"
        return RunError(f"{text}. trainer.deterministic=true, or seed what is drawn", details)
    return RunError(f"resume is not exact: stopped after step {_CUT}, it differs at step {step} in {cause}", details)


def _hidden(model: Any) -> Iterator[tuple[str, str]]:
    """Yield the numbers and tensors that modules keep in plain attributes and in buffers that are not saved."""
    for name, module in model.named_modules():
        prefix = f"{name}." if name else ""
        for key in module._non_persistent_buffers_set:
            yield f"{prefix}{key}", _digest(module._buffers[key])
        for key, value in vars(module).items():
            if not key.startswith("_") and key != "training" and type(value).__name__ in _PLAIN:
                yield f"{prefix}{key}", _digest(value)


_PLAIN = ("int", "float", "Tensor", "ndarray", "Random", "Generator", "list", "dict", "deque")


def _digests(nested: Any, path: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(nested, Mapping):
        for key, value in nested.items():
            yield from _digests(value, f"{path}.{key}" if path else str(key))
    elif isinstance(nested, list | tuple):
        for index, value in enumerate(nested):
            yield from _digests(value, f"{path}.{index}" if path else str(index))
    else:
        yield path, _digest(nested)


def _digest(value: Any) -> str:
    import torch

    if isinstance(value, torch.Tensor):
        data = value.detach().cpu().contiguous()
        text = f"{data.dtype} {tuple(data.shape)}".encode() + data.view(-1).view(torch.uint8).numpy().tobytes()
    elif isinstance(value, Mapping | list | tuple) and not isinstance(value, str):
        text = repr(list(_digests(value))).encode()
    elif isinstance(value, random.Random):
        text = repr(value.getstate()).encode()
    else:
        text = repr(value).encode()
    return hashlib.sha256(text).hexdigest()[:16]
