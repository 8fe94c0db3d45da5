"""Own every random choice, as a function of (seed, purpose, counters): nothing is kept, so nothing must be saved.

Knows nothing of what the numbers are used for.

The purposes in use: "order" (epoch), "augment" (step), "step" (step, rank, piece), "sample" (epoch, index),
"split", "init", "bootstrap". Any step can therefore be replayed from its number alone.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import random
from collections.abc import Callable, Iterator

import numpy
import torch
from torch import Tensor


def derive(seed: int, purpose: str, *counters: int) -> int:
    """Return a 63-bit seed that is a function of its arguments alone (BLAKE2b).

    >>> derive(0, "order", 1) == derive(0, "order", 1) != derive(0, "order", 2)
    True
    """
    text = f"{seed}/{purpose}/{'/'.join(map(str, counters))}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1


def generator(seed: int, purpose: str, *counters: int) -> torch.Generator:
    """Return a new host generator seeded by `derive`."""
    return torch.Generator().manual_seed(derive(seed, purpose, *counters))


class _OfPart(torch.Generator):
    """A host generator of a batch of which only a part is here: samples `begin` and so on of `whole`."""

    begin: int
    whole: int


def generator_of_part(begin: int, whole: int, seed: int, purpose: str, *counters: int) -> torch.Generator:
    """Return a `generator` from which `drawn` takes, for a part of a batch, what the whole would have had there."""
    found = _OfPart()
    found.manual_seed(derive(seed, purpose, *counters))
    found.begin, found.whole = begin, whole
    return found


def drawn(make: Callable[[int], Tensor], count: int, generator: torch.Generator, axis: int = 0) -> Tensor:
    """Return what `make` draws for `count` samples along an axis; of a part of a batch, what the whole has there.

    >>> whole, part = generator(0, "augment"), generator_of_part(2, 5, 0, "augment")
    >>> both = [drawn(lambda n: torch.rand(n, generator=one), n, one) for one, n in ((whole, 5), (part, 3))]
    >>> bool((both[0][2:] == both[1]).all())
    True
    """
    if not isinstance(generator, _OfPart):
        return make(count)
    return make(generator.whole).narrow(axis, generator.begin, count)


def permutation(length: int, seed: int, purpose: str, *counters: int) -> Tensor:
    """Return a random order of `length` items, int64 of shape (length,), on the host."""
    return torch.randperm(length, generator=generator(seed, purpose, *counters))


def coins(seed: int, purpose: str, items: Tensor) -> Tensor:
    """Return a fair coin for each of `items`, int64 (N,), as booleans: a function of (seed, purpose, item) alone.

    The mixing is that of SplitMix64 (Steele, Lea, Flood 2014), in the wrapping products of int64.

    >>> coins(0, "flip", torch.tensor([5, 3, 5])).unique().numel() <= 2
    True
    """
    mixed = items + derive(seed, purpose)
    for shift, factor in ((30, -4658895280553007687), (27, -7723592293110705685)):
        mixed = (mixed ^ (mixed >> shift)) * factor
    return (mixed ^ (mixed >> 31)) & 1 == 1


def seed_step(seed: int, step: int, rank: int, piece: int, device: torch.device) -> None:
    """Seed torch's generators of host and device for one forward pass, so that dropout and the like repeat.

    `torch.default_generator.manual_seed` costs 1.4 µs where `torch.manual_seed`, which asks every backend, costs 285.
    """
    value = _step_seeds(seed, step // 64, rank, piece)[step % 64]
    torch.default_generator.manual_seed(value)
    if device.type == "cuda":
        torch.cuda.manual_seed(value)
    elif device.type == "mps":
        torch.mps.manual_seed(value)


@functools.lru_cache(maxsize=512)  # more than a step has pieces
def _step_seeds(seed: int, block: int, rank: int, piece: int) -> list[int]:
    """Return the seeds of 64 steps: together they take a quarter of the time that they take one by one."""
    return [derive(seed, "step", step, rank, piece) for step in range(64 * block, 64 * block + 64)]


def seed_sample(seed: int, epoch: int, index: int) -> None:
    """Seed Python's, NumPy's and torch's global generators for one sample in a worker process."""
    value = derive(seed, "sample", epoch, index)
    random.seed(value)
    numpy.random.seed(value & 0xFFFFFFFF)
    torch.default_generator.manual_seed(value)


@contextlib.contextmanager
def preserved() -> Iterator[None]:
    """Leave Python's, NumPy's and torch's global host generators as they were, whatever is drawn inside (25 µs)."""
    states = random.getstate(), numpy.random.get_state(), torch.default_generator.get_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        numpy.random.set_state(states[1])
        torch.default_generator.set_state(states[2])


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and torch's global generators, for what is built before the first step."""
    value = derive(seed, "init")
    random.seed(value)
    numpy.random.seed(value & 0xFFFFFFFF)
    torch.manual_seed(value)
