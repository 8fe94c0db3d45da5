"""What is said: who is better and by how much, that nothing is shown, or that nothing can be said."""

from __future__ import annotations

import random
from typing import Any

import pytest

from dlwp.comparing import verdict
from dlwp.comparing.groups import Groups, Setting, Trial


def setting(name: str, values: list[float], first_seed: int = 0) -> Setting:
    row: dict[str, Any] = {"settings": {"data": "digits"}, "epoch": 1, "step": 1, "best_step": 1, "elapsed_s": 1.0}
    trials = [Trial(f"runs/{name}-{i}", first_seed + i, value, row, [], {}) for i, value in enumerate(values)]
    return Setting(name, {"optimizer.lr": name}, trials)


def said(*settings: Setting, metric: str = "test/accuracy", higher: bool = True, samples: int | None = None) -> str:
    found = Groups(metric, higher, list(settings), ["optimizer.lr"], {}, {}, [], samples)
    pairs = verdict.pairs_of(found)
    return verdict.headline(found, pairs, verdict.scale_of(found, pairs))


LOW, HIGH = [0.70, 0.71, 0.69, 0.70, 0.72], [0.80, 0.82, 0.80, 0.79, 0.83]


def test_a_difference_is_told_with_its_interval_its_seeds_and_whether_they_are_paired() -> None:
    assert said(setting("A", LOW), setting("B", HIGH)) == (
        "B is better than A by 10.4 points (9.3 to 11.5): 5 seeds each, paired, p < 0.0001"
    )
    assert said(setting("A", HIGH), setting("B", LOW, 10)) == (
        "A is better than B by 10.4 points (8.3 to 12.5): 5 seeds each, p < 0.0001"
    )
    assert said(setting("A", LOW), setting("B", HIGH[:4])) == (
        "B is better than A by 10.3 points (8.7 to 11.8): 4 seeds that both have, paired, p 0.00022"
    )


def test_of_a_loss_the_smaller_is_better() -> None:
    assert said(setting("A", LOW), setting("B", HIGH), metric="test/loss", higher=False) == (
        "A is better than B by 0.104 (0.093 to 0.115) less test/loss: 5 seeds each, paired, p < 0.0001"
    )


def test_where_nothing_is_shown_it_says_what_more_seeds_would_show() -> None:
    assert said(setting("A", [0.90, 0.91, 0.92]), setting("B", [0.91, 0.90, 0.925])) == (
        "no difference shown between A and B: +0.2 points (-2.4 to +2.8), 3 seeds each, paired; "
        "5 more would show one of 1.2 points"
    )
    assert said(setting("A", LOW), setting("B", LOW)) == (
        "no difference between A and B: equal to the last digit, 5 seeds each, paired"
    )


def test_of_one_seed_each_it_says_that_nothing_can_be_said_and_what_the_test_split_leaves_open() -> None:
    text = "one seed each, so nothing can be said beyond the numbers: A 70.0% and B 80.0%"
    assert said(setting("A", LOW[:1]), setting("B", HIGH[:1])) == text
    assert said(setting("A", LOW[:1]), setting("B", HIGH[:1]), samples=359) == (
        f"{text} (the 359 test samples leave ± 4.7 points to each by themselves)"
    )
    assert said(setting("A", LOW[:1]), setting("B", HIGH)).startswith("one seed of A, so nothing can be said")


def test_several_are_held_against_the_first_and_corrected() -> None:
    assert said(setting("A", LOW), setting("B", HIGH), setting("C", [0.70, 0.72, 0.69, 0.71, 0.71])) == (
        "B is better than A by 10.4 points (9.3 to 11.5), the only one of 2 settings"
    )
    assert said(setting("A", HIGH), setting("B", LOW), setting("C", LOW)) == (
        "nothing is shown to be better than A; 2 of 2 settings are worse"
    )
    assert said(setting("A", LOW), *(setting(name, LOW[::-1]) for name in "BCD")) == (
        "no difference from A shown for any of 3 settings"
    )
    assert said(*(setting(name, LOW[i : i + 1]) for i, name in enumerate("ABC"))) == (
        "one seed each: nothing can be said beyond the numbers, of which B has the best (71.0%)"
    )


def test_what_would_be_a_difference_alone_is_none_among_several() -> None:
    alone = setting("A", [0.70, 0.71, 0.72, 0.73]), setting("B", [0.715, 0.72, 0.728, 0.754])
    others = [setting(name, [0.70, 0.72, 0.71, 0.73]) for name in "CDE"]
    assert said(*alone).startswith("B is better")
    found = Groups("test/accuracy", True, [*alone, *others], [], {}, {}, [], None)
    pairs = verdict.pairs_of(found)
    assert "alone it would be one, among 4 comparisons it is not (Holm, p 0.11)" in verdict.sentence(
        found, pairs[0], verdict.scale_of(found, pairs)
    )


def test_one_setting_alone_is_told_as_it_is() -> None:
    assert said(setting("A", LOW)) == (
        "one setting alone, nothing to compare it with: test/accuracy 70.4% ± 1.1 over 5 seeds"
    )


def test_of_four_settings_that_are_the_same_seldom_one_is_called_better() -> None:
    chance = random.Random(0)
    wrong = 0
    for _ in range(300):
        settings = [setting(name, [chance.gauss(0.8, 0.01) for _ in range(5)]) for name in "ABCD"]
        pairs = verdict.pairs_of(Groups("test/accuracy", True, settings, [], {}, {}, [], None))
        wrong += any(pair.shown for pair in pairs)
    assert wrong <= 21  # 7 of 100, as for one comparison


@pytest.mark.parametrize(
    ("metric", "sizes", "value", "signed"),
    [
        ("val/accuracy", [0.0123], "81.2%", "+1.2"),
        ("val/accuracy", [0.00123], "81.23%", "+1.23"),
        ("val/top5", [1e-9], "81.234%", "+1.234"),
        ("val/loss", [12.0], "1", "0"),
        ("val/loss", [0.00123], "0.8123", "+0.0123"),
        ("val/loss", [float("inf")], "0.8", "0.0"),
    ],
)
def test_numbers_have_the_digits_that_their_uncertainty_leaves(
    metric: str, sizes: list[float], value: str, signed: str
) -> None:
    scale = verdict.Scale.of(metric, sizes)
    assert (scale.value(0.81234), scale.signed(0.01234)) == (value, signed)
