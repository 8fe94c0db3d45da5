"""Own what a run says of where its time went, and of what would make it faster, by how much.

Knows nothing of how the times were taken (`Trainer.spend`).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from dlwp import devices
from dlwp.data.streaming import StreamingLoader
from dlwp.settings import Duration, TrainerSettings

if TYPE_CHECKING:
    from dlwp.training.trainer import Trainer

_MODEL = ("forward", "backward", "optimizer", "solver")
_WORTH = 0.10
"""The share of the time above which there is something to say, and the gain below which there is not."""
_SHORT_S = 10.0
"""The time below which nothing is said of what comes now and then."""
_AIM = 0.05
"""The share to which an advice would bring evaluation, saving or logging."""
_CROWDING = 1.25
"""What a worker's second costs threads that share its processor: they wait for one another (measured, 1.24 to 1.31)."""
_PLACES = {"evaluation": "eval_every", "saving": "checkpoint_every"}


def lines(trainer: Trainer) -> list[str]:
    """Return the line of where the time went, and the one of advice where there is any."""
    told = advice(trainer.times, trainer.train_loader, trainer.settings)
    return [time_line(trainer.times), *([told] if told else [])]


def time_line(times: dict[str, float]) -> str:
    """Return where the time went, in percent, the largest first; forward, backward and optimizer are the model's."""
    total = sum(times.values())
    if not total:
        return "no step was taken"
    grouped = {"model": sum(times.get(name, 0.0) for name in _MODEL)}
    grouped |= {name: seconds for name, seconds in times.items() if name not in _MODEL}
    shares = sorted(grouped.items(), key=lambda entry: -entry[1])
    return " · ".join(f"{value / total:.0%} {name}" for name, value in shares if value / total >= 0.005)


def advice(times: dict[str, float], loader: Any, settings: TrainerSettings) -> str | None:
    """Return one line on what other than the model took the most, over 10% of the time, and what would change it.

    Of a run of seconds it is told of its data alone: what comes now and then is soon rare in a longer one.

    Args:
        times: seconds by name, as `Trainer.times` has them; the wait for the very first batch counts for nothing.
        loader: of the training data.
        settings: of the run.
    """
    spent = {name: seconds for name, seconds in times.items() if name != "start"}
    total = sum(spent.values())
    others = {name: seconds for name, seconds in spent.items() if name not in _MODEL}
    name = max(others, key=lambda one: others[one], default="")
    share = others[name] / total if name else 0.0
    if share <= _WORTH:
        return None
    if name == "data":
        return _of_data(spent, total, share, loader)
    if total < _SHORT_S:
        return None
    rest = total - others[name]
    fold = math.ceil(others[name] / (_AIM * rest / (1 - _AIM)))
    faster = f"about {total / (rest + others[name] / fold):.1f} times faster"
    if name in _PLACES:
        every = Duration.parse(getattr(settings, _PLACES[name]))
        return f"{share:.0%} {name}: trainer.{_PLACES[name]}='{_times(every, fold)}', {faster}"
    if name == "logging":
        return f"{share:.0%} logging: trainer.log_every={fold * settings.log_every}, {faster}"
    return f"{share:.0%} {name}: what hears each step (callbacks, trainer.progress) takes that long"


def _of_data(spent: dict[str, float], total: float, share: float, loader: Any) -> str:
    if not isinstance(loader, StreamingLoader):
        return f"{share:.0%} making batches of what is in memory: fewer or cheaper operations in data.augment"
    waited, workers = spent["data"], loader.num_workers
    rest = total - waited
    making = workers * total if workers else waited  # by one worker alone
    busy = making if workers else min(loader.cpu_s, waited)  # the rest of it waits for disk or network
    found = {count: _predicted(rest, making, busy, count) for count in range(1, devices.usable_processors() + 1)}
    best = min(found.values())
    count = next(count for count, seconds in found.items() if seconds <= 1.05 * best)
    if total / found[count] < 1 + _WORTH or count <= workers:
        each = 1e3 * making / max(1, loader.num_read)
        return f"{share:.0%} waiting for data: a sample takes {each:.2g} ms, and more workers would not help here"
    return f"{share:.0%} waiting for data: data.num_workers={count}, about {total / found[count]:.1f} times faster"


def _predicted(rest: float, making: float, busy: float, workers: int) -> float:
    """Return the seconds that the same steps take with so many workers beside the model.

    It is the longest of: the model; the workers, sharing the work; and all that keeps processors busy, shared by all.
    On a card the model keeps none of them busy.
    """
    threads = 0 if torch.cuda.is_available() else torch.get_num_threads()
    processors = devices.usable_processors()
    crowding = _CROWDING if threads > 1 and threads + workers > processors else 1.0
    return max(rest, making / workers, (rest * threads + crowding * busy) / processors)


def _times(every: Duration, fold: int) -> str:
    unit = {"epoch": "epochs", "step": "steps", "time": "s"}[every.unit]
    return f"{every.value * fold:g} {unit}"
