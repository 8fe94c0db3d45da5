"""Promise 1: a run killed at any moment, and resumed any number of times, ends with the bits of one never killed.

Promise 12 (records.py) looks at what such runs have recorded.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from torture import faults, kit
from torture.commands import Command, outcome, succeed, wait_for
from torture.kit import Promise, Scale, Skipped, Trial, require, require_equal

TINY = (
    "data=synthetic", "data.num_train=97", "data.num_val=20", "data.num_test=20", "data.shape=[3,8,8]",
    "data.batch_size=15", "data.eval_batch_size=7", "model=cnn", "trainer.epochs=3",
    "trainer.checkpoint_every=4 steps", "trainer.log_every=3", "trainer.ema_decay=0.9", "logger.plots=false",
    "logger.tensorboard=false", "+callbacks.kill._target_=kill_at.KillAt", "run_dir=run",
)  # fmt: skip
"""97 samples, a small convolutional network with batch norm and dropout, 21 steps, EMA: half a second."""

VARIANTS: dict[str, tuple[str, ...]] = {
    "memory, onecycle": (),
    "2 workers": ("data.loader=workers", "data.num_workers=2"),
    "plateau, 3 pieces": ("scheduler=plateau", "trainer.accumulate=3"),
    "4 workers, cosine, warm-up": (
        "data.loader=workers", "data.num_workers=4", "scheduler=cosine", "scheduler.warmup=1 epoch"),
    "torch's one-cycle, no averages": (
        "scheduler._target_=torch.optim.lr_scheduler.OneCycleLR", "+scheduler.max_lr=0.1", "trainer.ema_decay=null"),
    "crop, flip, colour, mixup": ("data.augment=[crop,flip,colour,{mixup: {alpha: 0.2}}]",),
    "early stopping": ("trainer.patience=2", "trainer.epochs=12", "trainer.eval_every=5 steps"),
    "steps skipped": ("data.augment=[{_target_: kill_at.PlantNaN}]", "trainer.on_nonfinite=skip"),
    "samples left out": (
        "data=dataset", "data._target_=kill_at.Unreadable", "data.val_fraction=0.2", "data.loader=workers",
        "data.num_workers=2", "data.on_error=skip", "model=mlp"),
    "bf16": ("trainer.precision=bf16", "trainer.accumulate=2"),
    "digits, resnet, all logs": (
        "data=digits", "data.max_samples=180", "data.batch_size=25", "model=resnet",
        "logger.plots=true", "logger.tensorboard=true"),
    "cifar10": (
        "data=cifar10", "data.download=false", "data.batch_size=32", "data.eval_batch_size=32", "model=cnn",
        "trainer.limit_batches=7"),
}  # fmt: skip
_OF_SYNTHETIC = ("data.num_train", "data.num_val", "data.num_test", "data.shape")


def words(variant: str, *further: str) -> tuple[str, ...]:
    """Return the words of a variant, each key once: the last counts."""
    found: dict[str, str] = {}
    for word in (*TINY, *VARIANTS[variant], *further):
        key, _, value = word.partition("=")
        found[key] = value
    if found["data"] != "synthetic":
        found = {key: value for key, value in found.items() if key not in _OF_SYNTHETIC}
    return tuple(f"{key}={value}" for key, value in found.items())


def variants() -> list[str]:
    """Return the variants that this machine has the data for."""
    root = os.environ.get("DLWP_DATA_ROOT")
    return [name for name in VARIANTS if name != "cifar10" or (root and Path(root, "cifar10").is_dir())]


def clean(variant: str) -> Path:
    """Return the folder of a run of this variant that was left alone, made once."""

    def make(folder: Path) -> None:
        faults.write_kill_at(folder)
        began = time.monotonic()
        command = Command(*words(variant), folder=folder)
        wait_for((folder / ".training").exists, command=command)
        begin_s = time.monotonic() - began
        require(command.finish() == 0, f"{variant}: the run that is left alone fails: {command.output}")
        times = {"begin_s": begin_s, "training_s": time.monotonic() - began - begin_s}
        (folder / "times.json").write_text(json.dumps(times))

    return kit.once(f"clean-{list(VARIANTS).index(variant)}", make) / "run"


def times_of(variant: str) -> tuple[float, float]:
    """Return how long the run that was left alone took to begin, and then to its end, in seconds."""
    found = json.loads((clean(variant).parent / "times.json").read_text())
    return found["begin_s"], found["training_s"]


# ---- kills at random times -------------------------------------------------------------------------------------------


def chain(
    variant: str, kills: int, random: Random, *, fresh: bool = False, further: tuple[str, ...] = (),
    look: Callable[[Path, Path], None] | None = None,
) -> Trial:  # fmt: skip
    """Return the try of `kills` kills at random times: of one run, or of further ones where one came to its end.

    Args:
        variant: of `VARIANTS`. kills: in a row. random: draws the times. fresh: new interpreters.
        further: words. look: given the run and the clean one at the end, beside the comparison of both.
    """

    def do(folder: Path) -> int:
        expected = outcome(clean(variant))
        left = kills
        for number in range(20 * kills):
            place = folder / str(number)
            place.mkdir()
            left -= _killed_at_random(place, variant, left, random, fresh, further)
            require_equal(outcome(place / "run"), expected, variant)
            if look is not None:
                look(place / "run", clean(variant))
            shutil.rmtree(place)
            if not left:
                return kills
        raise Skipped("every run was over before it could be killed")

    how = "new interpreters" if fresh else "forks"
    return Trial(f"{variant}: {kills} random kills, {how}", do, 400.0)


def _killed_at_random(
    folder: Path, variant: str, most: int, random: Random, fresh: bool, further: tuple[str, ...]
) -> int:
    """Kill a run up to `most` times at random times, resume it to its end, and return how often it was killed."""
    begin_s, training_s = times_of(variant)
    begin_s *= 8 if fresh else 1  # what a new interpreter takes to import torch
    faults.write_kill_at(folder)
    typed, killed = words(variant, *further), 0
    while killed < most:
        (folder / ".training").unlink(missing_ok=True)
        command = Command(*typed, folder=folder, fresh=fresh)
        if random.random() < 0.6:
            wait_for((folder / ".training").exists, command=command)
            time.sleep(random.uniform(0, training_s))
        else:
            time.sleep(random.uniform(0, begin_s + training_s))
        if command.poll() is not None:
            require(command.finish() == 0, f"after {killed} kills, {' '.join(typed)} failed: {command.output}")
            return killed
        command.kill()
        killed += 1
        typed = _go_on(folder, variant, random, further)
    succeed(*typed, folder=folder, fresh=fresh)
    return killed


def _go_on(folder: Path, variant: str, random: Random, further: tuple[str, ...]) -> tuple[str, ...]:
    """Return what a person types after a kill; now and then with another loader or number of workers."""
    if not (folder / "run" / "config.yaml").exists():  # nothing had begun
        shutil.rmtree(folder / "run", ignore_errors=True)
        return words(variant, *further)
    other = random.choice(["data.num_workers=0", "data.num_workers=1", "data.num_workers=3"])
    return ("resume=run", "data.loader=workers", other) if random.random() < 0.3 else ("resume=run",)


# ---- kills at chosen points ------------------------------------------------------------------------------------------

POINTS = (
    "start 0", "step 1", "step 3", "step 10", "evaluation FIRST", "evaluation LAST", "save 8", "rename 1", "rename 3",
    "pointer 1", "pointer 2", "deletion 1", "deletion 2", "deleted 1", "step LAST", "end LAST", "test LAST",
    "summary LAST",
)  # fmt: skip
"""Where to kill: before the first checkpoint, in an evaluation, before and after a checkpoint's folder gets its name,
before `last` names it, before and after an old one is taken away, in the last step, after it, before summary.json."""

_WITHOUT_TEST, _OF_TEST = "samples left out", ("test LAST", "summary LAST")

_DISK = {
    "rename": {"only": ("rename",), "within": "/checkpoints/.tmp-step"},
    "pointer": {"only": ("replace",), "within": "/checkpoints/.tmp-last"},
    "deletion": {"only": ("rename",), "within": "/checkpoints/step-"},
    "deleted": {"only": ("rename",), "within": "/checkpoints/step-", "after": True},
}


def killing(point: str, expected: dict[str, Any], number: str = "SIGKILL") -> dict[str, Any]:
    """Return the options of a `Command` that is killed at one of `POINTS`."""
    evaluated = [record["step"] for record in expected["metrics"] if record["split"] == "val"]
    last = expected["summary"]["step"]
    where, _, at = point.partition(" ")
    if where in _DISK:
        return {"before": faults.FaultyDisk(int(at), **_DISK[where]).install}  # type: ignore[arg-type]
    if where == "summary":
        return {"before": _kill_before_the_last_summary}
    at = at.replace("FIRST", str(evaluated[0])).replace("LAST", str(last))
    return {"environment": {"KILL_AT": f"{where} {at}", "KILL_WITH": number}}


def _kill_before_the_last_summary() -> None:
    from dlwp.runs.folder import RunFolder

    update = RunFolder.update_summary

    def dying(self: RunFolder, **values: Any) -> None:
        if values.get("test"):
            os.kill(os.getpid(), signal.SIGKILL)
        update(self, **values)

    RunFolder.update_summary = dying  # type: ignore[method-assign]


def killed_at(
    variant: str, points: list[str], resume_words: tuple[str, ...] = (), *, further: tuple[str, ...] = (),
    look: Callable[[Path, Path], None] | None = None,
) -> Trial:  # fmt: skip
    """Return the try of a run that is killed at `POINTS`, one a process, and compared at its end."""

    def do(folder: Path) -> int:
        expected = outcome(clean(variant))
        faults.write_kill_at(folder)
        typed = words(variant, *further)
        for point in points:
            command = Command(*typed, **killing(point, expected))
            status = command.finish()
            require(status == -signal.SIGKILL, f"not killed at {point} but ended with {status}: {command.output}")
            typed = ("resume=run", *resume_words)
        succeed(*typed)
        require_equal(outcome(folder / "run"), expected, variant)
        if look is not None:
            look(folder / "run", clean(variant))
        return len(points)

    return Trial(f"{variant}: killed at {', '.join(points)}", do)


# ---- what is tried, and the negative controls ------------------------------------------------------------------------


def _trials(scale: Scale) -> list[Trial]:
    if scale.is_fast:
        return [
            killed_at("memory, onecycle", ["step 1", "evaluation FIRST", "step 10", "test LAST"]),
            killed_at("2 workers", ["step 9"], ("data.num_workers=0",)),
            killed_at("plateau, 3 pieces", ["evaluation LAST", "end LAST"]),
            chain("crop, flip, colour, mixup", 1, scale.random("exact-resume")),
        ]
    return [*aimed(scale, scale.count(0, 20, 40)), *chains(scale, scale.count(0, 20, 200))]


def aimed(scale: Scale, count: int, **options: Any) -> list[Trial]:
    """Return `count` tries of a kill at a chosen point: every point, over the variants in turn."""
    known = variants()
    pairs = [(variant, point) for turn in range(len(known)) for number, point in enumerate(POINTS)
             if (variant := known[(number + turn) % len(known)]) != _WITHOUT_TEST or point not in _OF_TEST]  # fmt: skip
    return [killed_at(variant, [point], **options) for variant, point in pairs[:count]]


def chains(scale: Scale, count: int, **options: Any) -> list[Trial]:
    """Return tries of `count` random kills in all, in chains of 1 to 5, over the variants in turn; some run afresh."""
    known, found, left = variants(), [], count
    while left:
        random = scale.random(f"exact-resume {len(found)}")
        kills = min(left, random.randint(1, 5))
        fresh = len(found) % 3 == 2 if scale.is_full else len(found) == 2
        found.append(chain(known[len(found) % len(known)], kills, random, fresh=fresh, **options))
        left -= kills
    return found


def _begin_one_batch_early() -> None:
    from dlwp.data.resident import ResidentLoader

    epoch = ResidentLoader.epoch

    def early(self: ResidentLoader, number: int = 0, start: int = 0) -> Any:
        return epoch(self, number, max(0, start - 1))

    ResidentLoader.epoch = early  # type: ignore[method-assign]


def _order_of_epoch_0() -> None:
    from dlwp.data.resident import Order

    of = Order.of
    Order.of = lambda self, number: of(self, 0)  # type: ignore[method-assign]


def _without_the_optimizers_state() -> None:
    from dlwp.training.state import TrainState

    TrainState._load_optimizer = lambda self, saved: None  # type: ignore[method-assign]


def _without_the_sums() -> None:
    from dlwp.training.tally import Tally

    load = Tally.load_state_dict
    Tally.load_state_dict = lambda self, state: load(self, {"sums": {}, "read": {}})  # type: ignore[method-assign]


def _without_patience() -> None:
    from dlwp.observers.stopping import Patience

    Patience.load_state_dict = lambda self, state: None  # type: ignore[method-assign]


def _without_averages() -> None:
    from dlwp.averaging import AveragedWeights

    AveragedWeights.load_state_dict = lambda self, state: None  # type: ignore[method-assign]


def resumed_with(patch: Callable[[], None], variant: str, point: str) -> Trial:
    """Return the control of a run killed at a point and resumed in a process in which something is broken."""

    def do(folder: Path) -> None:
        expected = outcome(clean(variant))
        faults.write_kill_at(folder)
        Command(*words(variant), **killing(point, expected)).finish()
        command = Command("resume=run", before=patch)
        if command.finish() != 0:
            raise RuntimeError(f"the control itself fails: {command.output}")
        require_equal(outcome(folder / "run"), expected, variant)

    return Trial(f"resumed, {patch.__name__.strip('_').replace('_', ' ')}", do)


def _controls(scale: Scale) -> list[Trial]:
    some = [
        resumed_with(_begin_one_batch_early, "memory, onecycle", "save 8"),
        resumed_with(_without_the_optimizers_state, "memory, onecycle", "save 8"),
        resumed_with(_without_the_sums, "memory, onecycle", "save 8"),
    ]
    if scale.is_fast:
        return some
    return [
        *some,
        resumed_with(_order_of_epoch_0, "2 workers", "save 8"),
        resumed_with(_without_averages, "plateau, 3 pieces", "save 8"),
        resumed_with(_without_patience, "early stopping", "evaluation LAST"),
    ]


PROMISES = [Promise(1, "exact-resume", "A killed run ends with the bits of one never killed.", _trials, _controls)]
