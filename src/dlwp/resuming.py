"""Own where a run goes on: by which command, from which of its checkpoints, and what differs from where it began.

Knows nothing of how a run is trained.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_origin, get_type_hints

from dlwp.errors import CallbackError, ConfigError, DataError, DlwpError, MachineError, RunError
from dlwp.runs import files, history, manifest
from dlwp.runs.folder import RunFolder

if TYPE_CHECKING:
    from dlwp.training.batches import Loader
    from dlwp.training.state import Progress
    from dlwp.training.trainer import Trainer

_MACHINE = ("device", "threads", "cpu_capability")
"""Facts of environment.json that change the last bits of a result."""


def find_checkpoint(run: RunFolder, named: Path | None, *, fallback: bool) -> tuple[Path | None, list[str]]:
    """Return the checkpoint to go on from, None where there is none, and warnings.

    It is the one that was named, else the one that `last` names, else (that pointer is gone) the newest whole one.

    Args:
        run: the run's folder. named: a checkpoint of it, if one was named.
        fallback: where it is damaged, take the newest whole one instead.

    Raises:
        DataError: it is damaged, or none is whole.
    """
    try:
        chosen = named or run.pointed("last")
    except DataError as error:
        if not fallback:
            raise DataError(f"{error}. resume_fallback=true takes the newest whole checkpoint") from error
        chosen = None
    if chosen is not None:
        return manifest.instead_of(chosen) if fallback else (chosen, [])
    saved = run.saved()
    whole = manifest.newest_complete(run.checkpoints)
    if whole is None and saved:
        manifest.read(saved[-1])
        raise DataError(f"{run.path} has {len(saved)} checkpoints and none of them is whole. Newest: {saved[-1].name}")
    if whole is None:
        return None, []
    return whole, [f"checkpoints/last names no checkpoint: going on from {whole.name}, the newest whole one"]


def command(folder: Path, trusted: Sequence[str] = (), further: Sequence[str] = ()) -> str:
    """Return the command that goes on with a run, to be pasted into a shell.

    Args:
        folder: of the run.
        trusted: what was typed as `trust=`: it is needed again.
        further: words, such as those of `longer`.
    """
    trust = [f"trust=[{','.join(trusted)}]"] if trusted else []
    return shlex.join(["dlwp-train", f"resume={folder}", *trust, *further])


def longer(settings: Mapping[str, Any], exit: str, step: int, epoch: int) -> list[str]:
    """Return the words that let a run go on which has ended in this way: of the key that ended it.

    Args:
        settings: of the trainer. exit: of summary.json. step, epoch: that it has come to.
    """
    if exit.startswith("stopped:"):
        return []
    if exit == "early_stopped":
        return ["trainer.patience=null"]
    if exit == "max_time":
        return ["trainer.max_time=null"]
    most = settings["max_steps"]
    return [f"trainer.max_steps={2 * step}" if most is not None and step >= most else f"trainer.epochs={2 * epoch}"]


def word_of_end(run: RunFolder, settings: Mapping[str, Any], trusted: Sequence[str]) -> str:
    """Return what to tell of a run that is finished: how long it was, and the command that makes it longer."""
    summary = run.read_summary()
    step, epoch = int(summary["step"]), int(summary["epoch"])
    go_on = command(run.path, trusted, longer(settings, "done", step, epoch))
    return f"{run.path} is finished ({epoch} epochs, {step:,} steps). To go on: {go_on}"


def refuse_shorter(run: Path, step: int, total_steps: int, settings: Mapping[str, Any]) -> None:
    """Refuse a length that a run is past already.

    Args:
        run: its folder. step: of the checkpoint. total_steps: asked for. settings: of the trainer.

    Raises:
        ConfigError: it is past it.
    """
    if step > total_steps:
        most = settings["max_steps"]
        key = "epochs" if most is None or most > total_steps else "max_steps"
        raise ConfigError(
            f"{run} is at step {step:,} already, past the {total_steps:,} of trainer.{key}={settings[key]}. "
            f"A longer run, or an older checkpoint: resume={shlex.quote(str(run / 'checkpoints'))}/step-..."
        )


def word_of_death(run: RunFolder) -> str | None:
    """Return what to tell where the last process of a run ended without a word; its lock is ours by now."""
    if run.read_summary().get("exit") != "running":
        return None
    steps = [record["step"] for record in history.read(run.metrics) if "step" in record]
    if not steps:
        return "the last process died without a word before its first record"
    return f"the last process died without a word after step {steps[-1]:,} (killed; often: out of memory)"


def machine_of(run: RunFolder) -> dict[str, Any]:
    """Return the facts that environment.json tells of the machine and that bear on the last bits of a result."""
    try:
        found = json.loads(run.environment.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return {name: found.get(name) for name in _MACHINE} if isinstance(found, dict) else {}


def load(trainer: Trainer, checkpoint: Path, train: Loader, *, exact: bool) -> tuple[str, list[str]]:
    """Put a checkpoint into a trainer; nothing is written.

    Args:
        train: what the trainer is to be fed from.
        exact: refuse what would make another run of it; else begin anew what does not fit.

    Returns:
        A line on where it goes on, and what was begun anew.

    Raises:
        DataError: it is damaged, or the data is other data. ConfigError: it is of another model or optimizer.
    """
    from dlwp import checkpoint as checkpoints
    from dlwp import sharding

    tensors, record = sharding.read(lambda: checkpoints.load(checkpoint), trainer.model)
    try:
        notes = trainer.state.load(tensors, record, exact=exact)
        progress = trainer.state.progress
        _require_sense(progress, checkpoints.step_of(checkpoint))
        changed = trainer.order_changes(train)
        line = f"from {checkpoint.name}: step {progress.step:,d}, epoch {progress.epoch + 1:d}"
    except (TypeError, ValueError, LookupError, AttributeError) as error:  # of a record that this dlwp did not write
        why = f"{type(error).__name__}: {error}"
        raise DataError(f"{checkpoint / 'state.json'} does not fit the parts of its config ({why})") from error
    if changed:
        text = f"the training data is not that of the run: {', '.join(changed)}"
        if exact:
            raise DataError(f"{text}. Bring it back, or go on with a new epoch of it: resume_exact=false")
        trainer.begin_epoch_anew()
        notes.append(f"{text}: going on with a new epoch of it (resume_exact=false)")
    return line, notes


def _require_sense(progress: Progress, step: int) -> None:
    """Require that a record of progress was written at `step`, and each of its values is of its type.

    Raises:
        ValueError: it names what is not.
    """
    for name, kind in get_type_hints(type(progress)).items():
        if not _is_of(getattr(progress, name), kind):
            raise ValueError(f"{name} is {getattr(progress, name)!r}"[:100])
    starts = [start for start, _ in progress.cycles]
    if progress.step != step or min(starts, default=0) > step:
        raise ValueError(f"step is {progress.step}, cycles are {progress.cycles}"[:100])


def _is_of(value: Any, kind: Any) -> bool:
    """Return whether a JSON value is of an annotated type; a whole number is a count."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (list, dict):
        items = value.values() if isinstance(value, dict) else value
        return isinstance(value, origin) and all(_is_of(item, inner[-1]) for item in items)
    if inner:
        return any(_is_of(value, one) for one in inner)
    if kind is int:
        return isinstance(value, int) and 0 <= value < 2**63
    return kind is Any or isinstance(value, int | float if kind is float else kind)


def differences(checkpoint: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return why the result may differ in its last bits from that of a run that was never stopped.

    Args:
        checkpoint: that it goes on from.
        before, now: what `machine_of` told before this process wrote its own, and after.
    """
    import torch

    from dlwp import __version__

    record = json.loads(manifest.verified(checkpoint, "state.json"))
    changes = [
        f"{name} {was} → {is_now}"
        for name, was, is_now in (
            ("torch", record["torch"].partition("+")[0], torch.__version__.partition("+")[0]),
            ("dlwp", record["dlwp"], __version__),
            *((name.replace("_", " "), was, now.get(name)) for name, was in before.items()),
        )
        if was is not None and was != is_now
    ]
    return [f"resume: not bit-identical, {change}" for change in changes]


def explained(error: BaseException, run: RunFolder, values: Mapping[str, Any], trusted: Sequence[str]) -> BaseException:
    """Return what to raise of an error that broke a run off: where it has a way out, one line that names it."""
    from dlwp import devices, joining

    if (peer := joining.of_peer(error)) is not None:
        return peer
    if devices.is_out_of_memory(error) and not isinstance(error, DlwpError):
        why = " ".join(str(error).split())[:90]
        size, pieces = int(values["data"]["batch_size"]), values["trainer"]["accumulate"]
        if pieces == "auto":
            return RunError(f"out of memory ({why}), with the smallest pieces too. A smaller model or picture")
        return RunError(
            f"out of memory ({why}). For the same steps: trainer.accumulate={2 * pieces} (pieces of "
            f"{max(1, size // (2 * pieces))}), or auto, which finds it; else data.batch_size={max(1, size // 2)}"
        )
    if isinstance(error, CallbackError) and (saved := run.pointed("last")) is not None:
        go_on = command(run.path, trusted)
        return CallbackError(f"{error.message}. Saved at step {int(saved.name[5:]):,}; go on: {go_on}", error.details)
    if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
        from dlwp import rehearsal

        return RunError(f"torch.compile failed ({rehearsal.reason(error)}). trainer.compile=false")
    if isinstance(error, OSError) and not isinstance(error, DlwpError):
        return MachineError(files.fault(error, Path(error.filename or ".")))
    return error
