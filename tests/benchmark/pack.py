"""The pack: CIFAR-10 read from what dlwp-pack made of it, against the decoding of its JPEGs, in pictures a second."""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from benchmark.rounds import Claim, compare, in_process

BATCH_SIZE = 128
FOLDERS = {"cifar10/test": "auto", "transfer/train": "64"}
"""Folder of real JPEGs -> pixels of the sides that they are packed to; auto: as they are."""


def read(packed: str) -> dict[str, float]:
    """Return pictures a second of epochs in a random order from the pack, by one process."""
    import torch

    from dlwp.data.packed import packed as open_pack
    from dlwp.data.resident import ResidentLoader

    torch.set_num_threads(1)  # as decoding has
    loader = ResidentLoader(open_pack(packed).train, BATCH_SIZE, shuffle=True)  # type: ignore[arg-type]
    found, began, number = [], time.perf_counter(), 0
    while time.perf_counter() - began < 2 or number < 3:
        start = time.perf_counter()
        for _ in loader.epoch(number):
            pass
        found.append(loader.num_samples / (time.perf_counter() - start))
        number += 1
    return {"per_s": statistics.median(found)}


def decode(folder: str, size: str) -> dict[str, float]:
    """Return pictures a second of decoding the same files, in the same form, by one process."""
    import torch

    from dlwp.data import pictures

    torch.set_num_threads(1)
    form = None if size == "auto" else pictures.Form(int(size), int(size))
    paths = pictures.list_pictures(Path(folder), pictures.class_names(Path(folder))).paths[:4000]
    start = time.perf_counter()
    for sample, path in enumerate(paths):
        pictures.decode(path, sample, form)
    return {"per_s": len(paths) / (time.perf_counter() - start)}


def claims(rounds: int) -> list[Claim]:
    """Pack each folder once, then measure in turn."""
    with tempfile.TemporaryDirectory(prefix="benchmark-pack-") as place:
        return [_claim(name, size, Path(place) / f"{number}", rounds) for number, (name, size) in
                enumerate(FOLDERS.items())]  # fmt: skip


def _claim(name: str, size: str, target: Path, rounds: int) -> Claim:
    from dlwp.data import packing

    source = Path(os.environ.get("DLWP_DATA_ROOT", "data")).absolute() / name
    packing.pack(source, target, image_size=None if size == "auto" else (int(size), int(size)))
    sides = {
        "read": lambda: in_process("pack", "read", str(target))["per_s"],
        "decode": lambda: in_process("pack", "decode", str(source), size)["per_s"],
    }
    found = compare(sides, rounds)
    ratio, least, most = found.ratio("read", "decode")
    return Claim(
        "pack", f"{name}: packed {found.median('read'):,.0f} pictures/s / decoded {found.median('decode'):,.0f}",
        f"{ratio:.1f} ({least:.1f} to {most:.1f})", "over 10", ratio > 10, rounds,
    )  # fmt: skip


if __name__ == "__main__":
    print(json.dumps({"read": read, "decode": decode}[sys.argv[1]](*sys.argv[2:])))
