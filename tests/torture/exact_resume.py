"""Promise 1: a run killed at any moment, and resumed any number of times, ends with the bits of one never killed.

Promise 12 is looked at on the same runs: records are neither lost nor repeated.
"""

from __future__ import annotations

import signal
import time
from pathlib import Path

from torture import faults, kit
from torture.commands import Command, outcome, succeed, wait_for
from torture.kit import Promise, Scale, Trial, require, require_equal

TINY = (
    "data=synthetic", "data.num_train=97", "data.num_val=20", "data.num_test=20", "data.shape=[3,8,8]",
    "data.batch_size=15", "model=cnn", "trainer.epochs=3", "trainer.checkpoint_every=4 steps", "trainer.log_every=3",
    "trainer.ema_decay=0.9", "+callbacks.kill._target_=kill_at.KillAt", "run_dir=run",
)  # fmt: skip
VARIANTS: dict[str, tuple[str, ...]] = {
    "memory, onecycle": (),
    "2 workers": ("data.loader=workers", "data.num_workers=2"),
    "plateau, 3 pieces": ("scheduler=plateau", "trainer.accumulate=3"),
    "4 workers, cosine, warm-up": (
        "data.loader=workers", "data.num_workers=4", "scheduler=cosine", "scheduler.warmup=1 epoch"),
    "torch's one-cycle, no averages": (
        "scheduler._target_=torch.optim.lr_scheduler.OneCycleLR", "scheduler.max_lr=0.1", "trainer.ema_decay=null"),
    "crop, flip, mixup": ("data.augment=[crop,flip,{mixup: 0.2}]",),
    "early stopping": ("trainer.patience=2", "trainer.epochs=12", "trainer.eval_every=5 steps"),
    "bf16": ("trainer.precision=bf16", "trainer.accumulate=2"),
}  # fmt: skip


def clean(variant: str) -> Path:
    """Return the folder of a run of this variant that was left alone, made once."""

    def make(folder: Path) -> None:
        faults.write_kill_at(folder)
        succeed(*TINY, *VARIANTS[variant], folder=folder)

    return kit.once(f"clean-{list(VARIANTS).index(variant)}", make) / "run"


def killed_at(variant: str, points: list[str], resume_words: tuple[str, ...] = (), fresh: bool = True) -> Trial:
    """Return the try of a run that is killed at points such as "step 9", one a process, and compared at its end."""

    def do(folder: Path) -> None:
        expected = outcome(clean(variant))
        faults.write_kill_at(folder)
        words = (*TINY, *VARIANTS[variant])
        for point in points:
            command = Command(*words, environment={"KILL_AT": point}, fresh=fresh)
            status = command.finish()
            require(status == -signal.SIGKILL, f"not killed at {point} but ended with {status}: {command.output}")
            words = ("resume=run", *resume_words)
        succeed(*words, fresh=fresh)
        require_equal(outcome(folder / "run"), expected, variant)

    return Trial(f"{variant}: killed at {', '.join(points)}", do)


PROMISES: list[Promise] = []


def _trials(scale: Scale) -> list[Trial]:
    return [
        killed_at("memory, onecycle", ["step 4", "step 10", "evaluation 14"], fresh=False),
        killed_at("2 workers", ["step 9"], ("data.num_workers=0",), fresh=False),
    ]


def _controls(scale: Scale) -> list[Trial]:
    return []


PROMISES = [Promise(1, "exact-resume", "A killed run ends with the bits of one never killed.", _trials, _controls)]
