"""`dlwp-train`: one run, a sweep, or an answer to a question about the config.

Knows nothing of how a run is done: `dlwp.api.train_config` does it.
"""

from __future__ import annotations

import io
import os
import re
import shlex
import sys
from contextlib import redirect_stderr
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlwp import __version__
from dlwp.commands import entry
from dlwp.commands.entry import Flags
from dlwp.errors import ConfigError

if TYPE_CHECKING:
    from omegaconf import DictConfig

_QUIET = [
    "hydra/job_logging=none", "hydra/hydra_logging=none", "hydra.output_subdir=null", "hydra.run.dir=.",
    "hydra.sweep.subdir=.",
]  # fmt: skip
"""Words that keep Hydra from writing folders and logs of its own; first, so that typed ones win."""


def main() -> int:
    """Run the command; return the exit status."""
    return entry.run(lambda: _train(sys.argv[1:]))


def _train(argv: list[str]) -> int:
    flags = entry.read(argv)
    if flags.version:
        print(f"dlwp {__version__}")
        return 0
    if flags.doctor:
        return _doctor(flags)
    if flags.help:
        from dlwp.config import help

        print(help.text(flags.words, config_dir=flags.config_dir, config_name=flags.config_name))
        return 0
    if flags.is_completion:
        return _complete(flags)
    if flags.handed_over:
        return _hand_over(flags)
    from dlwp import joining
    from dlwp.config.compose import composed, refuse_alone
    from dlwp.sweeping import sweep

    if joining.is_one_of_many():
        return _together(flags)
    folder = sweep.named(flags.words) if flags.multirun else None
    if folder is not None:
        words, config_dir, config_name = sweep.taken_up(folder, flags.words, flags.config_dir, flags.config_name)
        flags = replace(flags, words=words, config_dir=config_dir, config_name=config_name)
    config, own = composed(
        flags.words, config_dir=flags.config_dir, config_name=flags.config_name, sweep=flags.multirun
    )
    if flags.multirun or str(own["mode"]).endswith("MULTIRUN"):

        def call(words: list[str], before: list[str], check: Any) -> int:
            return _hydra(replace(flags, words=words), ["--multirun"], before, check)

        return sweep.run(flags.words, (flags.config_dir, flags.config_name), (config, own), folder, call)
    refuse_alone(config.values)
    if config.values["verify_resume"]:
        if config.values["devices"] != 1:
            raise ConfigError("verify_resume=true is done by one process. devices=1")
        from dlwp.verify import verify_resume

        print(f"verify   {verify_resume(flags.words, flags.config_dir, flags.config_name)}")
        return 0
    from dlwp import api

    return api.train_config(config).exit_code


def _together(flags: Flags) -> int:
    """Train as one of several processes that somebody has started: the first composes, the others get it from there."""
    from dlwp import joining
    from dlwp.config.compose import compose

    if flags.multirun:
        raise ConfigError("-m is for one process, this is one of several. Leave out -m, or do not start it by torchrun")
    with joining.joined():
        from dlwp import api, distributed  # not before torch has been told how much to say

        config = distributed.from_first(
            lambda: compose(flags.words, config_dir=flags.config_dir, config_name=flags.config_name)
        )
        return api.train_config(config).exit_code


def _doctor(flags: Flags) -> int:
    if flags.words:
        raise ConfigError(f"--doctor takes no settings, got '{flags.words[0]}'. Write dlwp-train --doctor")
    from dlwp.commands import doctor

    print(doctor.report())
    return 0


# ------------------------------------------------------------------------------------------- questions to Hydra


def _hand_over(flags: Flags) -> int:
    """Let Hydra answer --cfg, --info and --hydra-help."""
    from dlwp.config.compose import composed

    def check() -> DictConfig:
        return composed(flags.words, config_dir=flags.config_dir, config_name=flags.config_name, sweep=flags.multirun)[
            1
        ]

    if flags.package:
        _refuse_package(flags)
    return _hydra(flags, [*flags.handed_over, *(["--multirun"] if flags.multirun else [])], [], check)


def _refuse_package(flags: Flags) -> None:
    from omegaconf import OmegaConf

    from dlwp.config.compose import composed
    from dlwp.errors import did_you_mean

    config, _ = composed(flags.words, config_dir=flags.config_dir, config_name=flags.config_name, sweep=True)
    package = str(flags.package)
    if OmegaConf.select(OmegaConf.create(config.stored), package) is None and package.split(".")[0] != "hydra":
        raise ConfigError(f"no package '{package}' (-p).{did_you_mean(package, config.values)}")


def _complete(flags: Flags) -> int:
    """Answer the shell's question, with the user's own folder that the line to be completed names."""
    line = shlex.split(os.environ.get("COMP_LINE", ""), posix=False)
    named = re.search(r"(?:--config-dir|-cd)[ =](\S+)", " ".join(line))
    folder = Path(named[1].strip("'\"")).expanduser() if named else None
    flags = Flags(**{**vars(flags), "config_dir": folder if folder and folder.is_dir() else None})
    query = any(word.startswith("query") for word in flags.handed_over)
    with redirect_stderr(io.StringIO() if query else sys.stderr):
        return _hydra(flags, list(flags.handed_over), [], lambda: None)


def _hydra(flags: Flags, options: list[str], before: list[str], check: Any) -> int:
    """Call `hydra.main` with an argument list of its own; `check` raises what explains a fault in the words."""
    import hydra

    from dlwp.config import compose, faults

    place = compose.locate(flags.words, config_dir=flags.config_dir, config_name=flags.config_name)
    words = [compose.for_hydra(word) for word in place.words]
    argv = [sys.argv[0], *options, "--config-name", place.primary]
    if "-sc" not in options:
        argv[1:1] = [*_QUIET, *before, *words]
    from dlwp.config.catalog import own_folder
    from dlwp.sweeping.jobs import sweep_job

    try:
        with entry.replaced(argv, HYDRA_FULL_ERROR="1"), compose.prepared(place.catalog):
            hydra.main(config_path=str(own_folder()), config_name=place.primary, **compose.VERSION_BASE)(sweep_job)()
    except SystemExit as leaving:
        return 143 if leaving.code == 143 else 2 if leaving.code else 0
    except faults.FAULTS as error:
        check()
        raise faults.of_files(error, place.primary, place.catalog) from error
    return 0
