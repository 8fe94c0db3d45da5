"""A fault names the nearest thing that is possible, and a value is judged by its type and limits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dlwp import settings
from dlwp.config import check, schema
from dlwp.config.catalog import Catalog
from dlwp.errors import ConfigError

KEYS = [
    "seed",
    "data",
    "data.batch_size",
    "optimizer",
    "optimizer.lr",
    "trainer",
    "trainer.epochs",
    "trainer.eval_every",
]


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("lr", "Did you mean 'optimizer.lr'?"),
        ("trainer.epoch", "Did you mean 'trainer.epochs'?"),
        ("epochs", "Did you mean 'trainer.epochs'?"),
        ("optimiser", "Did you mean the group 'optimizer'?"),
        ("sed", "Did you mean 'seed'?"),
        ("optimizer.batch_size", "Did you mean 'data.batch_size'?"),
        ("model.qqq", "If the class of model takes it: +model.qqq=1"),
        ("qqqq", "All keys: dlwp-train --cfg job"),
    ],
)
def test_an_unknown_key_is_told_with_what_was_meant(key: str, meant: str) -> None:
    text = check.unknown_key(key, "1", KEYS, Catalog())
    assert text.startswith(f"unknown key '{key}'")
    assert text.endswith(meant)


def test_an_option_resembling_one_of_another_group_is_found() -> None:
    assert "Did you mean model=resnet?" in check.no_option("data", "resnett", Catalog())


def test_words_are_cut_into_sign_key_and_value() -> None:
    words = check.parse(["seed=1", "++model.depth=20", "~criterion.weight", "tags=[a,b]"], Catalog())
    assert [(word.sign, word.key, word.value) for word in words] == [
        ("", "seed", 1), ("++", "model.depth", 20), ("~", "criterion.weight", None), ("", "tags", ["a", "b"]),
    ]  # fmt: skip


def test_a_sweep_lists_its_single_values_as_words() -> None:
    word = check.parse(["trainer.eval_every=1 epoch,500 steps"], Catalog(), sweep=True)[0]
    assert word.several
    assert [one.value for one in check.parse_each(word, Catalog())] == ["1 epoch", "500 steps"]


def test_every_fault_of_the_words_is_told() -> None:
    with pytest.raises(ConfigError) as caught:
        check.parse(["model=resnett", "seed", "data.root=a", "data.root=b"], Catalog())
    assert [caught.value.message.split()[0], len(caught.value.details)] == ["no", 2]


@pytest.mark.parametrize(
    ("key", "value", "found"),
    [
        ("seed", "7", 7), ("trainer.clip_norm", 1, 1.0), ("trainer.clip_norm", None, None),
        ("trainer.progress", "TRUE", True), ("trainer.progress", "auto", "auto"), ("notes", 5, "5"),
        ("tags", [1, True], ["1", "true"]), ("data.eval_batch_size", "auto", "auto"), ("data.eval_batch_size", 4, 4),
        ("optimizer.lr", "auto", "auto"), ("optimizer.lr", 1, 1.0), ("trainer.max_time", "8 h", "8 h"),
        ("device", "cuda:1", "cuda:1"), ("model.anything", [1], [1]),
    ],
)  # fmt: skip
def test_a_value_becomes_the_type_of_its_key(key: str, value: Any, found: Any) -> None:
    assert schema.convert(key, value) == found
    assert type(schema.convert(key, value)) is type(found)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", True), ("seed", 1.0), ("seed", -1), ("trainer.epochs", None), ("trainer.clip_norm", float("inf")),
        ("trainer.clip_norm", 0), ("trainer.ema_decay", 1), ("trainer.compile", 1), ("trainer.progress", "on"),
        ("tags", ["a", ["b"]]), ("data.eval_batch_size", "all"), ("data.eval_batch_size", 0), ("notes", None),
        ("optimizer.lr", float("nan")), ("optimizer.lr", True), ("trainer.checkpoint_every", "1"), ("device", "cpu:1"),
        ("data.val_fraction", 1),
    ],
)  # fmt: skip
def test_a_value_of_another_type_or_beyond_its_limits_is_refused(key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=key.replace(".", r"\.")):
        schema.convert(key, value)


def test_every_limit_and_choice_is_of_a_typed_key() -> None:
    named = {*settings.CHOICES, *settings.MINIMUM, *settings.DURATIONS} - {"optimizer.lr"}
    of_search = {f"hydra.sweeper.{key}" for key in vars(settings.SearchSettings())}
    assert named <= {*schema.key_types(), *of_search}


def test_class_names_are_texts(tmp_path: Path) -> None:
    values = {"data": {"classes": [0, 1, "a"]}}
    assert schema.check_classes(values, {"data": "none"}, Catalog()) == []
    assert values == {"data": {"classes": ["0", "1", "a"]}}
