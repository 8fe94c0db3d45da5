"""Help is made of the comments in the YAML files, without Hydra and torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dlwp import settings
from dlwp.config import help
from dlwp.config.catalog import Catalog, own_folder, read_page
from dlwp.errors import ConfigError

YAML = """\
# @package _global_
# What it is: dlwp-train model=x
# More of it.
defaults:
  - override /optimizer: adam  # why
_target_: a.B
plain: 1  # one
quoted: "x # y"  # two
glued: a#b  # three
list: [1, 2]  # four
empty:  # five
block: |  # six
  text # not a comment
# seven
above: 2
section:  # eight
  inner: 3  # nine
  # ten
  other: {a: 1}
bare: 4
"""


def test_comments_are_found_wherever_they_stand(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(YAML)
    page = read_page(tmp_path / "x.yaml")
    assert {entry.key: entry.comment for entry in page.entries} == {
        "_target_": "", "plain": "one", "quoted": "two", "glued": "three", "list": "four", "empty": "five",
        "block": "six", "above": "seven", "section": "eight", "section.inner": "nine", "section.other": "ten",
        "bare": "",
    }  # fmt: skip
    assert page.sentence == "What it is"
    assert [(default.group, default.option, default.comment) for default in page.defaults] == [
        ("optimizer", "adam", "why")
    ]
    assert {entry.key: entry.value for entry in page.entries}["quoted"] == '"x # y"'


def test_help_lists_every_group_with_every_option_and_its_sentence() -> None:
    lines = [line.strip(" *") for line in help.text([]).splitlines()]
    catalog = Catalog()
    for group in settings.GROUPS:
        assert any(line.split(":")[0] == group for line in lines), group
        for option in catalog.options(group):
            assert any(line.split()[:1] == [option] for line in lines), (group, option)


def test_help_shows_the_commands_keys_and_three_examples() -> None:
    text = help.text([])
    for entry in read_page(own_folder() / "train.yaml").entries:
        assert f"  {entry.key}=" in text
    assert text.count("  dlwp-train") >= 3
    assert "trainer.epochs=15" in text


def test_help_of_an_option_lists_its_own_keys_with_their_meaning() -> None:
    text = " ".join(help.text(["optimizer=sgd"]).split())
    entries = [entry for entry in read_page(own_folder() / "optimizer" / "sgd.yaml").entries if entry.key != "_target_"]
    assert entries
    for entry in entries:
        assert f"optimizer.{entry.key}={entry.value} {entry.comment}" in text


def test_help_stars_what_a_model_brings_along() -> None:
    lines = [line.split() for line in help.text(["model=vit"]).splitlines()]
    assert ["*", "vit"] in [line[:2] for line in lines]
    assert ["*", "adamw"] in [line[:2] for line in lines]


def test_help_knows_the_users_own_options(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text("# My own network.\n_target_: mine.Net\nwidth: 3  # units\n")
    text = help.text(["model=mine"], config_dir=tmp_path)
    assert "* mine" in text
    assert "My own network" in text
    assert "model.width=3" in text


def test_help_of_a_wrong_choice_is_a_fault() -> None:
    with pytest.raises(ConfigError, match=r"no model 'resnett'\. Did you mean 'resnet'"):
        help.text(["model=resnett"])


def test_help_imports_neither_hydra_nor_torch() -> None:
    code = (
        "import sys; from dlwp.commands.train import main;"
        "sys.argv[1:] = ['optimizer=sgd', '--help']; assert main() == 0;"
        "sys.exit(', '.join({'torch', 'hydra', 'omegaconf', 'numpy'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
