"""Own who hears a run: the observers that its settings ask for, in the order in which they are told.

Knows nothing of what each does with what it hears.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from dlwp import distributed, sharding
from dlwp.errors import ConfigError, nearest
from dlwp.models.objective import Objective
from dlwp.observers.compiling import Compiling
from dlwp.observers.landscape import Landscape
from dlwp.observers.plots import Plots
from dlwp.observers.profiling import Profiling
from dlwp.observers.recording import Recording
from dlwp.observers.saving import Following, Saving
from dlwp.observers.stopping import MaxTime, Patience
from dlwp.observers.tensorboard import TensorBoard, flat
from dlwp.observers.texts import Texts
from dlwp.parts import Trust, instantiate
from dlwp.settings import Duration, TrainerSettings
from dlwp.training import events

if TYPE_CHECKING:
    from dlwp.build import Parts
    from dlwp.config.compose import Config
    from dlwp.observers.console import Console
    from dlwp.runs.folder import RunFolder


def hearers(
    run: RunFolder, config: Config, parts: Parts, console: Console, signals: Any, config_text: str
) -> list[Any]:
    """Return those who hear the run, keepers first: what is recorded is on disk before a checkpoint says so."""
    settings, logger, classes = parts.settings, config.values["logger"], parts.data.facts.classes
    if not distributed.is_main():
        return [signals, *_steering(settings), *_callbacks(config), Following()]
    observers: list[Any] = [console, signals, Recording(run, test_follows=True), *_steering(settings)]
    observers += [instantiate(section, "hearing") for section in config.hearing]
    if logger["tensorboard"]:
        hparams = {**flat(config.stored), **parts.decided(stored_only=True)}
        facts = parts.data.facts
        whole = not sharding.is_wanted(parts.strategy)  # one process alone goes through the model
        is_text = (facts.encoding or {}).get("kind") == "sequence" and hasattr(parts.model, "max_length") and whole
        observers.append(
            TensorBoard(
                run, images=logger["images"], hparams=hparams, classes=classes, mean=facts.mean, std=facts.std,
                samples=parts.data.samples,
                texts=Texts(facts.encoding or {}, parts.device) if is_text else None,
                masked=_masked(parts) if whole else None,
            )
        )  # fmt: skip
    if logger["plots"]:
        observers.append(Plots(run, classes))
    if isinstance(parts.model, Objective):
        observers.append(Landscape(run))
    if settings.compile:
        observers.append(Compiling())
    if settings.profile:
        observers.append(Profiling(run.path / "profile"))
    observers += _callbacks(config)
    every = Duration.parse(settings.checkpoint_every)
    # a roll-back is to a checkpoint of a known step, and a pool of workers is not forked beside a thread at every epoch
    background = settings.on_nonfinite != "rollback" and not hasattr(parts.data.train, "set_epoch")
    observers.append(
        Saving(
            run, every=every, keep_last=settings.keep_last, keep_best=settings.keep_best, config_text=config_text,
            background=background,
        )
    )  # fmt: skip
    return observers


def _steering(settings: TrainerSettings) -> list[Any]:
    """Return those who may end a run before its last step."""
    found: list[Any] = [] if settings.patience is None else [Patience(settings.patience)]
    return found if settings.max_time is None else [*found, MaxTime(Duration.parse(settings.max_time).value)]


def _callbacks(config: Config) -> list[Any]:
    """Return the user's own, in each process."""
    trust, found = Trust(not config.foreign, config.trusted), (config.values.get("callbacks") or {}).items()
    return [_hearing(instantiate(section, f"callbacks.{name}", trust), f"callbacks.{name}") for name, section in found]


def _hearing(callback: Any, key: str) -> Any:
    """Return a callback that has a method which is called; one that has none would do nothing, unseen."""
    if not any(callable(getattr(callback, hook, None)) for hook in events.HOOKS):
        own = [name for name in dir(type(callback)) if not name.startswith("_")]
        near = next((found[0] for name in own if (found := nearest(name, events.HOOKS, 1))), "")
        hint = f" Did you mean '{near}'?" if near else ""
        kinds = ", ".join(events.HOOKS)
        raise ConfigError(f"{key}: {type(callback).__name__} has no method that is called.{hint} There are: {kinds}")
    return callback


def _masked(parts: Parts) -> Any:
    """Return what makes the batch of pictures with masks that is shown, of val where there is one; None without."""
    if parts.data.facts.task != "segmentation":
        return None
    loader = parts.loaders.get("val") or parts.loaders["train"]
    return functools.cache(lambda: next(iter(loader.epoch(0))))
