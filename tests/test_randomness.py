"""Hold that randomness is counted, not kept: every choice is a function of its numbers, the same for ever."""

from __future__ import annotations

import itertools
import random

import numpy
import torch

from dlwp import randomness

CPU = torch.device("cpu")


def test_the_numbers_are_pinned_since_a_resumed_run_of_a_later_version_draws_them_again() -> None:
    assert randomness.derive(0, "order", 1) == 8024286156118006313
    assert randomness.derive(3, "step", 10, 1, 2) == 80631952679973042
    assert randomness.permutation(8, 0, "order", 0).tolist() == [2, 4, 1, 6, 5, 0, 7, 3]


def test_derived_seeds_differ_by_seed_purpose_and_counter_and_fit_63_bits() -> None:
    arguments = [
        (seed, purpose, *counters)
        for seed in range(4)
        for purpose in ("order", "augment", "step", "sample", "split", "init")
        for counters in [(), *itertools.product(range(6)), *itertools.product(range(6), range(6))]
    ]
    found = [randomness.derive(*each) for each in arguments]
    assert len(set(found)) == len(arguments)
    assert all(0 <= value < 2**63 for value in found)


def test_counters_are_told_apart_from_one_another() -> None:
    assert randomness.derive(0, "step", 1, 12) != randomness.derive(0, "step", 11, 2)
    assert randomness.derive(0, "step", 1) != randomness.derive(0, "step", 1, 0)


def test_an_epochs_order_holds_each_sample_once_and_is_another_in_each_epoch() -> None:
    orders = [randomness.permutation(1000, 0, "order", epoch) for epoch in range(3)]
    for order in orders:
        assert order.dtype == torch.int64
        assert torch.equal(order.sort().values, torch.arange(1000))
    assert not torch.equal(orders[0], orders[1]) and not torch.equal(orders[1], orders[2])


def test_a_permutation_depends_on_its_numbers_alone_and_disturbs_nobody() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = randomness.permutation(1000, 0, "order", 5)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(17)
    assert torch.equal(randomness.permutation(1000, 0, "order", 5), first)


def test_a_step_draws_the_same_again_whatever_was_drawn_before() -> None:
    def draw(step: int, rank: int = 0, piece: int = 0) -> list[float]:
        randomness.seed_step(0, step, rank, piece, CPU)
        return torch.nn.functional.dropout(torch.ones(64), 0.5).tolist()

    first = draw(7)
    torch.rand(3)
    assert draw(7) == first
    assert first not in (draw(8), draw(7, rank=1), draw(7, piece=1))


def test_a_sample_draws_the_same_again_with_any_of_the_three_generators() -> None:
    def draw(epoch: int, index: int) -> tuple[float, float, float]:
        randomness.seed_sample(0, epoch, index)
        return random.random(), float(numpy.random.rand()), torch.rand(()).item()

    first = draw(1, 2)
    draw(5, 5)
    assert draw(1, 2) == first
    assert not set(first) & {*draw(1, 3), *draw(2, 2)}


def test_what_is_built_before_the_first_step_is_a_function_of_the_seed() -> None:
    def build(seed: int) -> torch.Tensor:
        randomness.seed_everything(seed)
        return torch.nn.Linear(4, 4).weight

    assert torch.equal(build(0), build(0))
    assert not torch.equal(build(0), build(1))


def test_coins_are_fair_and_a_function_of_seed_purpose_and_item() -> None:
    items = torch.arange(100_000)
    found = randomness.coins(0, "flip", items)
    assert abs(float(found.double().mean()) - 0.5) < 0.008  # five standard deviations
    pairs = (found[1:] ^ found[:-1]).double().mean()  # neighbours are independent
    assert abs(float(pairs) - 0.5) < 0.008
    chosen = torch.tensor([70_000, 3, 9])
    assert torch.equal(randomness.coins(0, "flip", chosen), found[chosen])
    for other in (randomness.coins(1, "flip", items), randomness.coins(0, "other", items)):
        assert abs(float((found ^ other).double().mean()) - 0.5) < 0.008
