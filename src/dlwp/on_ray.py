"""Own training on a Ray cluster: Ray Train starts the processes, and starts them again where one has died.

Knows nothing of how a cluster is started, nor of what a process does: that is `dlwp.api.train_config`, as everywhere.
Ray and torch are imported inside the functions.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dlwp import api, opening
from dlwp.config.compose import Config, compose
from dlwp.errors import ConfigError, DlwpError, MachineError, PeerError, RunError
from dlwp.runs.folder import RunFolder, is_run


def train(*words: str, config_dir: str | Path | None = None, **scaling: Any) -> api.Run:
    """Train as `dlwp.train` does, in the processes of a Ray cluster, as one run: the same samples in the same steps.

    The run's folder is written by the first of them, where it runs: over several machines `run_dir` lies on a disk that
    all have. Where a process dies, all are started again, from the last checkpoint, up to `max_restarts` times.

    Args:
        words: settings such as "model=resnet", "trainer.epochs=5".
        config_dir: a folder with configs of one's own.
        scaling: those of `ray.train.ScalingConfig`: num_workers=4, use_gpu=True, resources_per_worker={"CPU": 4}.

    Raises:
        DlwpError: what one of the processes has failed with. MachineError: Ray is not installed.

    Example:
        >>> from dlwp.on_ray import train
        >>> run = train("data=digits", "model=mlp", num_workers=2)  # doctest: +SKIP
    """
    try:
        ray, engine = importlib.import_module("ray.train"), importlib.import_module("ray.train.torch")
    except ImportError as error:
        raise MachineError("training on Ray needs the package ray: pip install 'dlwp[ray]'") from error
    config = compose(words, config_dir=Path(config_dir) if config_dir else None)
    place, most = _place(config), config.values["max_restarts"]
    given = {"config": config, "place": str(place), "origin": str(Path.cwd())}
    scale = ray.ScalingConfig(**scaling)
    backend = engine.TorchConfig(backend="cpu:gloo,cuda:nccl" if scale.use_gpu else "gloo")
    for again in range(most + 1):
        try:
            one = engine.TorchTrainer(_work, train_loop_config=given, scaling_config=scale, torch_config=backend)
            return api.Run(place, one.fit().return_value)
        except ray.WorkerGroupError as error:
            told = _told(error.worker_failures, place)
            if told is not None:
                raise told from None
            if again == most:
                way = f"Go on: the same with 'resume={place}' as the only word"
                count = f", {most + 1} times" if most else ""
                raise RunError(f"a process died without a word{count}. {way}") from error
    raise AssertionError("unreachable: the last try returns or raises")


def _place(config: Config) -> Path:
    """Return the run's folder, by a path that does not depend on where a process stands."""
    if config.resume is not None:
        return config.resume
    given = config.values["run_dir"]
    place = Path(given).expanduser() if given else opening.usual_place(config)
    if is_run(place):
        raise ConfigError(f"'{place}' is a run. Another run_dir=, or resume={place} to go on with it")
    return place.resolve()


def _work(given: dict[str, Any]) -> dict[str, Any]:
    """Do one process's part; return what summary.json holds."""
    from dlwp import distributed, joining

    if Path(given["origin"]).is_dir():
        os.chdir(given["origin"])  # Ray's own folder is not where paths begin that a person has typed
    config, place = given["config"], Path(given["place"])
    began = config.resume is None and distributed.from_first(lambda: is_run(place))
    if began:
        config = distributed.from_first(lambda: compose([f"resume={place}"]))
    with joining.joined():
        return api.train_config(config, run_dir=None if config.resume else place).summary


def _told(failures: Mapping[int, BaseException], place: Path) -> BaseException | None:
    """Return the failure to tell of, dlwp's words before others; None where processes died without a word."""
    found = [getattr(one, "_base_exc", one) for one in failures.values()]
    said = [one for one in found if not isinstance(one, PeerError) and not type(one).__module__.startswith("ray.")]
    if not said:
        return None
    told = min(said, key=lambda one: not isinstance(one, DlwpError))
    if is_run(place):  # the process that failed need not be the one that writes
        RunFolder(place).update_summary(exit="failed", error=str(told))
    return told
