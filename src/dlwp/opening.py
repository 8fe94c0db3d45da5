"""Own how a run's folder is opened: made, or taken up again; described; and marked where the run fails.

Knows nothing of how a run is trained. Torch is imported inside the functions.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlwp import launching, resuming, telling
from dlwp.errors import ConfigError, DlwpError, RunError
from dlwp.runs import environment, files
from dlwp.runs.folder import RunFolder, default_path, find_run, is_run, note_own

if TYPE_CHECKING:
    from dlwp.build import Parts
    from dlwp.config.compose import Config
    from dlwp.observers.console import Console


def folder_of(config: Config, run_dir: Path | None) -> tuple[RunFolder, Path | None]:
    """Return the run folder, which the first process locks, and the checkpoint that was named, if one was."""
    from dlwp import distributed

    found = _locked_folder(config, run_dir) if distributed.is_main() else None
    path, named = distributed.from_first(lambda: (found[0].path, found[1]))  # type: ignore[index]
    launching.note_run(path)
    return found or (RunFolder(path), named)


def _locked_folder(config: Config, run_dir: Path | None) -> tuple[RunFolder, Path | None]:
    if config.resume is not None:
        path, checkpoint = find_run(str(config.resume))
        if not is_run(path):
            raise ConfigError(f"'{checkpoint}' lies in no run (RUN/checkpoints/...), so it cannot be gone on with")
        return RunFolder.open(path), checkpoint
    given = run_dir or config.values.get("run_dir")
    if given:
        return RunFolder.create(Path(given).expanduser(), given=run_dir is None), None
    return RunFolder.create(usual_place(config)), None


def usual_place(config: Config) -> Path:
    """Return where a run that begins now has its folder, if nothing else is said."""
    data, model = (telling.name_of(config, group) for group in ("data", "model"))
    return default_path(Path("outputs"), data, model, datetime.now())


def whence(run: RunFolder, named: Path | None, config: Config) -> tuple[Path | None, list[str], str | None, Any, bool]:
    """Return where a run goes on from, what to warn of, how it died, on which machine it was, whether it is done."""
    checkpoint, notes, died, before = None, list(config.warnings), None, resuming.machine_of(run)
    if config.resume is not None:
        checkpoint, found = resuming.find_checkpoint(run, named, fallback=config.values["resume_fallback"])
        notes, died = [*notes, *found], resuming.word_of_death(run)
    is_finished = checkpoint is not None and named is None and run.read_summary().get("exit") == "done"
    return checkpoint, notes, died, before, is_finished


def describe(run: RunFolder, config: Config, parts: Parts, config_text: str) -> None:
    """Write config.yaml, overrides.yaml and environment.json."""
    import torch

    from dlwp import devices, torchvision_ops
    from dlwp.data.fingerprint import fingerprint

    if not config.foreign:
        note_own(run.path, config_text)  # first: killed between the two, the run would be a stranger's
    files.write_atomic(run.config, config_text)
    if config.resume is None:
        files.write_atomic(run.overrides, "".join(f"- {json.dumps(word)}\n" for word in config.words) or "[]\n")
    typed = {word.lstrip("+~").partition("=")[0] for word in config.typed}
    decided = {one.key: {"value": one.value, "reason": one.reason} for one in parts.decisions}
    decided = {key: one for key, one in _decided(run).items() if key not in typed} | decided
    facts = environment.collect(
        device=devices.describe(parts.device), threads=torch.get_num_threads(),
        cpu_capability=torch.backends.cpu.get_cpu_capability(),
        torchvision_operators=torchvision_ops.ensure_importable(), decided=decided,
        data=fingerprint(parts.data),
    )  # fmt: skip
    files.write_atomic(run.environment, json.dumps(facts, indent=1, default=str) + "\n")


def _decided(run: RunFolder) -> dict[str, Any]:
    """Return what a run has decided before: in the config that it is resumed from that stands as if it were typed."""
    try:
        return dict(json.loads(run.environment.read_bytes())["decided"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}


@contextlib.contextmanager
def failures_noted(run: RunFolder, console: Console, config: Config, *, fresh: bool) -> Iterator[None]:
    """Turn running out of memory into its one line; note that a run failed, and discard one that never began.

    A resume that was refused leaves what the run says of itself as it was.
    """
    from dlwp import distributed

    before = run.read_summary()
    try:
        yield
    except BaseException as error:  # any error: the summary must not say "running" of a run that is over
        told = resuming.explained(error, run, config.values, config.trusted)
        if not distributed.is_main():
            raise told from (error if told is not error else error.__cause__)
        if fresh and isinstance(told, DlwpError) and told.exit_code != RunError.exit_code and not run.metrics.exists():
            run.discard()
            raise told from (error if told is not error else error.__cause__)
        if config.resume is None or run.read_summary() != before:
            with contextlib.suppress(OSError):
                run.update_summary(exit="failed", error=str(told))
        console.log_error(told)
        if not isinstance(told, DlwpError) or isinstance(told, RunError):
            told.add_note(f"details: {run.log}")
        if told is error:
            raise
        raise told from error
