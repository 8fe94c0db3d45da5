"""Own the verdict of `experiment=overfit`: whether a model can learn one batch by heart.

Knows nothing of how the batch was chosen.
"""

from __future__ import annotations

from dlwp.training.events import Ended, Logged, StepEnded, Stop


class Overfit:
    """Stop when the loss has fallen to a share of its first value, and say whether it ever did.

    Args:
        target: the share, above 0 and below 1.
    """

    def __init__(self, target: float = 0.02) -> None:
        self._target = target
        self._first: float | None = None
        self._last = float("inf")

    def on_step(self, event: StepEnded) -> None:
        """Note the first loss; waits for the device once."""
        if self._first is None:
            self._first = float(event.loss)

    def on_log(self, event: Logged) -> Stop | None:
        """Compare the loss since the last log with the first one."""
        self._last = event.values.get("loss", float("inf"))
        return Stop("overfitted") if self._succeeded() else None

    def on_end(self, event: Ended) -> None:
        """Say the verdict."""
        if event.error is not None or self._first is None:
            return
        text = f"loss {self._first:.4g} → {self._last:.4g} in {event.step:,} steps"
        if self._succeeded():
            event.trainer.say(f"overfit  succeeded: {text}")
        else:
            event.trainer.warn(
                f"overfit failed: {text}, above {self._target:.0%} of the first. Look at the model or the rate"
            )

    def _succeeded(self) -> bool:
        return self._first is not None and self._last <= self._target * self._first
