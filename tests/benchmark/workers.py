"""The workers: JPEG photographs by a StreamingLoader, against the same decoding alone in as many bare processes."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmark.rounds import Claim, compare, in_process

BATCH_SIZE, PROCESSES, PICTURES, SIZE = 64, 2, 9000, 224
FOLDERS = {"photos": "12 photographs of 0.5 Mpx", "transfer": "397 pictures of 0.09 Mpx"}


def _paths(folder: str) -> list[str]:
    """Return the JPEGs of a folder, as often as makes `PICTURES`."""
    found = sorted(str(path) for path in Path(folder).rglob("*.jpg"))
    return (found * -(-PICTURES // len(found)))[:PICTURES]


def ours(folder: str) -> dict[str, float]:
    """Return pictures a second of an epoch in a random order."""
    import torch
    from torch.utils.data import Dataset

    from dlwp.data import pictures
    from dlwp.data.streaming import StreamingLoader

    paths, form = _paths(folder), pictures.Form(SIZE, SIZE)

    class Photographs(Dataset[Any]):
        def __len__(self) -> int:
            return len(paths)

        def __getitem__(self, index: int) -> Any:
            return torch.from_numpy(pictures.decode(paths[index], index, form)), 0

    loader = StreamingLoader(Photographs(), BATCH_SIZE, shuffle=True, num_workers=PROCESSES)
    return {"per_s": _rate(len(targets) for _, targets in loader.epoch())}


def bare(folder: str) -> dict[str, float]:
    """Return pictures a second that two processes decode which take the next batch and hand nothing back."""
    chosen = [_paths(folder)[begin : begin + BATCH_SIZE] for begin in range(0, PICTURES, BATCH_SIZE)]
    with multiprocessing.Pool(PROCESSES, _begin) as pool:
        return {"per_s": _rate(pool.imap_unordered(_decode, chosen))}


def _rate(counts: Iterable[int]) -> float:
    """Return pictures a second of batches of so many, once each process has brought five: by then it has its memory."""
    count, began = 0, 0.0
    for number, each in enumerate(counts):
        if number < 5 * PROCESSES:
            began = time.perf_counter()
        else:
            count += each
    return count / (time.perf_counter() - began)


def _begin() -> None:
    import torch

    from dlwp.devices import keep_freed_memory

    torch.set_num_threads(1)
    keep_freed_memory(2**27)  # the best that is known, on both sides


def _decode(paths: list[str]) -> int:
    from dlwp.data import pictures

    for sample, path in enumerate(paths):
        pictures.decode(path, sample, pictures.Form(SIZE, SIZE))
    return len(paths)


def claims(rounds: int) -> list[Claim]:
    """Measure in turn."""
    return [_claim(name, what, rounds) for name, what in FOLDERS.items()]


def _claim(name: str, what: str, rounds: int) -> Claim:
    folder = str(Path(os.environ.get("DLWP_DATA_ROOT", "data")).absolute() / name)
    sides = {side: (lambda side=side: in_process("workers", side, folder)["per_s"]) for side in ("ours", "bare")}
    found = compare(sides, rounds)
    ratio, least, most = found.ratio("ours", "bare")
    return Claim(
        "workers", f"{what} to {SIZE} px: {PROCESSES} workers {found.median('ours'):,.0f} pictures/s / {PROCESSES} "
        f"processes that only decode {found.median('bare'):,.0f}", f"{ratio:.3f} ({least:.3f} to {most:.3f})",
        "at least 0.95", ratio >= 0.95, rounds,
    )  # fmt: skip


if __name__ == "__main__":
    print(json.dumps({"ours": ours, "bare": bare}[sys.argv[1]](*sys.argv[2:])))
