"""Own what is said of torch.compile: how long the first step took, where a graph breaks, what was compiled anew.

Knows nothing of the loop; it reads the counters that torch keeps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dlwp.training.events import Evaluated, Logged, StepEnded


class Compiling:
    """Tell of compilation as it happens (`trainer.compile=true`)."""

    watcher = True

    def __init__(self) -> None:
        self._graphs = 0
        self._told: set[str] = set()

    def on_step(self, event: StepEnded) -> None:
        """Say how long the first step took, which compiles; and what broke."""
        if self._graphs:
            return
        times = event.trainer.times
        self._graphs = max(1, _graphs())
        seconds = times["forward"] + times["backward"] + times["optimizer"]
        event.trainer.say(f"compile  the first step took {seconds:.1f} s; {_count(self._graphs)}")
        self._tell_breaks(event)

    def on_log(self, event: Logged) -> None:
        """Say whether something was compiled anew since."""
        self._look(event)

    def on_evaluation(self, event: Evaluated) -> None:
        """Say whether something was compiled anew since."""
        self._look(event)

    def _look(self, event: Logged | Evaluated) -> None:
        if self._graphs and (graphs := _graphs()) > self._graphs:
            self._graphs = graphs
            event.trainer.say(
                f"compile  anew, by step {event.step:,}: {_count(graphs)} (another batch size, or evaluation)"
            )
        self._tell_breaks(event)

    def _tell_breaks(self, event: StepEnded | Logged | Evaluated) -> None:
        from torch._dynamo.utils import counters

        for reason in sorted({*counters["graph_break"], *counters["unimplemented"]} - self._told):
            self._told.add(reason)
            lines = [line.strip() for line in reason.splitlines() if line.strip()]
            event.trainer.warn(f"torch.compile: the graph breaks: {lines[0]}"[:200])


def _graphs() -> int:
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"])


def _count(graphs: int) -> str:
    return f"{graphs} graph{'s' if graphs != 1 else ''}"
