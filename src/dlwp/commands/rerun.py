"""`dlwp-rerun`: do a run again, same config and seed, and tell what changed since and where the two part.

Knows nothing of how a run is done, nor of how two are held against each other: `dlwp.api` and `dlwp.comparing` do it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from dlwp import __version__
from dlwp.commands import entry
from dlwp.errors import ConfigError, RunError, nearest

_DESCRIPTION = """Do a run again in a new folder, with its config and its seed, and tell what changed since (code,
packages, machine, data) and the first step at which a recorded number differs, compared bit for bit.

  dlwp-rerun outputs/latest
  dlwp-rerun RUN until_differs=true                  ends at the first line that differs
  dlwp-rerun RUN device=cpu run_dir=/tmp/again       settings that do not change the result may follow

keys:
  until_differs  whether it ends at the first line of metrics.jsonl that differs: true, false (false)
  run_dir        the new folder (as dlwp-train names it)
  trust          what a stranger's run may build, as in dlwp-train

exit status: 0 equal in all recorded lines, 5 not, else as dlwp-train.
"""
_LENGTHS = ("trainer.epochs", "trainer.extend", "trainer.max_steps", "trainer.max_time", "trainer.patience")


def main() -> int:
    """Run the command; return the exit status."""
    return entry.run(_rerun)


def _rerun() -> int:
    parser = argparse.ArgumentParser(
        prog="dlwp-rerun", description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"dlwp {__version__}")
    parser.add_argument("words", nargs="*", metavar="RUN key=value", help="a run folder or last, and keys as above")
    name, until_differs, words = _read(parser.parse_intermixed_args().words)
    from dlwp.comparing import again
    from dlwp.runs.folder import find_run

    before = find_run(name)[0]
    if not (before / "config.yaml").is_file():
        raise ConfigError(f"'{before}' has no config.yaml, so it cannot be done again")
    from dlwp.config.compose import compose

    config = compose(words, config_dir=before, config_name="config")  # a stranger's is judged as when it is resumed
    from dlwp import api

    try:
        heard_by = {"_target_": "dlwp.observers.stopping.UntilDiffers", "run": str(before)}
        config.hearing = [heard_by] if until_differs else []
        run = api.train_config(config)
    except RunError:  # as the first did, maybe
        print(*again.report(before, find_run(config.values.get("run_dir") or "last")[0])[0], sep="\n")
        raise
    lines, is_equal = again.report(before, run.folder)
    print(*lines, sep="\n")
    if run.exit == "stopped:differs" or run.exit_code in (0, RunError.exit_code):
        return 0 if is_equal else RunError.exit_code
    return run.exit_code


def _read(words: Sequence[str]) -> tuple[str, bool, list[str]]:
    """Return the run, whether to end where it differs, and the settings, which may not make another run of it."""
    from dlwp import settings

    free = [key for key in settings.FREE_ON_RESUME if key not in (*_LENGTHS, "check", "dry_run", "resume_exact")]
    free = [*(key for key in free if not key.startswith("resume")), "run_dir", "trust"]
    names, rest, until_differs = [], [], "false"
    for word in words:
        key, separator, value = word.partition("=")
        if not separator or Path(word).exists():
            names.append(word)
        elif key == "until_differs":
            until_differs = value
        elif settings.is_within(key.lstrip("+"), free):
            rest.append(word)
        else:
            if near := nearest(key, ("until_differs", "run_dir", "trust"), 1):
                raise ConfigError(f"unknown key '{key}'. Did you mean '{near[0]}'?")
            way = f"dlwp-train --config-dir RUN --config-name config {word}"
            raise ConfigError(f"'{word}' would make another run of it. With other settings: {way}")
    if len(names) != 1:
        raise ConfigError(f"one run is needed, got {len(names) or 'none'}. dlwp-rerun outputs/latest")
    if until_differs not in ("true", "false"):
        raise ConfigError(f"until_differs must be true or false, got '{until_differs}'")
    return names[0], until_differs == "true", rest
