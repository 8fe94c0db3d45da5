"""The start: from the command to the first training step, against a bare script that does the same with torch alone."""

from __future__ import annotations

import json
import sys
import time

from benchmark.rounds import Claim, compare, in_process

BEGAN = time.time()


def bare() -> dict[str, float]:
    """Import torch, build a small network and its optimizer, take a step."""
    import torch
    from torch import nn

    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    loss = nn.functional.cross_entropy(model(torch.randn(64, 1, 8, 8)), torch.randint(10, (64,)))
    loss.backward()
    optimizer.step()
    return {"s": time.time() - BEGAN}


def ours() -> dict[str, float]:
    """Return how long `dlwp-train data=digits` took to its first step."""
    import dlwp.training.trainer as trainer
    from dlwp.commands import train

    first: list[float] = []
    take = trainer.Trainer._take_step

    def noting(self: trainer.Trainer, *words: object) -> None:
        take(self, *words)  # type: ignore[arg-type]
        first.append(time.time())

    trainer.Trainer._take_step = noting  # type: ignore[method-assign]
    sys.argv = ["dlwp-train", "data=digits", "trainer.max_steps=1", "run_dir=run"]
    leave = sys.stdout
    sys.stdout = sys.stderr
    status = train.main()
    sys.stdout = leave
    assert status == 0
    return {"s": first[0] - BEGAN}


def claims(rounds: int) -> list[Claim]:
    """Measure in turn."""
    sides = {name: (lambda name=name: in_process("start", name)["s"]) for name in ("ours", "bare")}
    found = compare(sides, rounds)
    late = [one - other for one, other in zip(found.figures["ours"], found.figures["bare"], strict=True)]
    median = sorted(late)[len(late) // 2]
    return [
        Claim("start", f"first step on digits: dlwp {found.median('ours'):.2f} s - bare script "
              f"{found.median('bare'):.2f} s", f"{median:.2f} s ({min(late):.2f} to {max(late):.2f})",
              "at most 0.5 s later", median <= 0.5, rounds),
    ]  # fmt: skip


if __name__ == "__main__":
    print(json.dumps({"ours": ours, "bare": bare}[sys.argv[1]]()))
