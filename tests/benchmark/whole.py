"""The whole: `dlwp-train data=cifar10 model=resnet` end to end against `scripts/plain_loop.py`, in seconds."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from benchmark.rounds import Claim, compare, in_process, rates, steady

STEPS = 60
PLAIN = Path(__file__).parents[2] / "scripts" / "plain_loop.py"


def ours() -> dict[str, float]:
    """Return pictures a second of dlwp's training steps, with its log, in memory."""
    import dlwp

    words = ("data=cifar10", "model=resnet", f"trainer.max_steps={STEPS}", "trainer.log_every=10", "run_dir=run")
    dlwp.train(*words)
    return {"per_s": steady([rate for _, rate in rates(Path("run"))])}


def bare() -> dict[str, float]:
    """Return pictures a second of the bare loop on the same pictures."""
    import importlib.util

    from dlwp.data import images
    from dlwp.data.splits import cut_validation

    spec = importlib.util.spec_from_file_location("plain_loop", PLAIN)
    assert spec is not None and spec.loader is not None
    plain = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(plain)
    data = cut_validation(images.cifar10(os.environ.get("DLWP_DATA_ROOT", "data")), 0.1, 0)
    found, last = [], [0, time.perf_counter()]

    def on_step(step: int) -> None:
        if step % 10 == 0:
            now = time.perf_counter()
            found.append((step - last[0]) * plain.BATCH_SIZE / (now - last[1]))
            last[:] = step, now

    plain.train(data.train, 1, 0, STEPS, on_step=on_step)
    return {"per_s": steady(found)}


def claims(rounds: int) -> list[Claim]:
    """Measure in turn."""
    sides = {name: (lambda name=name: in_process("whole", name)["per_s"]) for name in ("ours", "bare")}
    found = compare(sides, rounds)
    ratio, least, most = found.ratio("ours", "bare")
    return [
        Claim("whole", f"ResNet-20 on CIFAR-10: dlwp {found.median('ours'):.0f} pictures/s / best bare loop "
              f"{found.median('bare'):.0f}", f"{ratio:.3f} ({least:.3f} to {most:.3f})", "at least 0.97", ratio >= 0.97,
              rounds),
    ]  # fmt: skip


if __name__ == "__main__":
    print(json.dumps({"ours": ours, "bare": bare}[sys.argv[1]]()))
