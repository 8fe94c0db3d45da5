"""A stranger's run: what its config may hold, and whose word trust is."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from dlwp import api
from dlwp.config import foreign
from dlwp.config.compose import compose
from dlwp.errors import ConfigError
from dlwp.runs.folder import is_own

WORDS = (
    "data=synthetic", "data.num_train=20", "data.num_val=5", "data.num_test=5", "data.shape=[3,8,8]", "model=linear",
    "trainer.epochs=1", "logger.tensorboard=false", "logger.plots=false", "run_dir=run",
)  # fmt: skip


@pytest.fixture
def run(own_place: Path) -> Path:
    """Return a run that this account began, under another name: so it is a stranger's."""
    api.train(*WORDS)
    return Path("run").rename("foreign")


def test_an_honest_run_of_a_stranger_needs_no_trust(run: Path) -> None:
    config = compose(["resume=foreign"])
    assert config.foreign and config.trusted == []
    assert api.evaluate("foreign")["num_samples"] == 5
    assert compose(["resume=foreign", "trust=[mine,oc.env]"]).trusted == ["mine", "oc.env"]
    run.rename("run")
    assert not compose(["resume=run"]).foreign


def add(text: str) -> Callable[[Path], object]:
    return lambda run: (run / "config.yaml").write_text((run / "config.yaml").read_text() + text)


def replace(before: str, after: str) -> Callable[[Path], object]:
    def change(run: Path) -> None:
        text = (run / "config.yaml").read_text()
        assert before in text
        (run / "config.yaml").write_text(text.replace(before, after))

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (replace("notes: ''", "notes: ${oc.env:HOME}"), r"reads \$\{oc.env:HOME\}. If you trust its maker: trust=\[oc"),
        (replace("notes: ''", "notes: ${tags}"), "holds the reference '\\${tags}'"),
        (add("x: !!python/object/apply:os.system [id]\n"), "holds tag:yaml.org,2002:python/object/apply:os.system"),
        (add("x: &a [1]\ny: *a\n"), "holds an alias"),
        (add("x: " + "[" * 1000 + "]" * 1000), "nested deeper than 40"),
        (add("#" + "x" * 2**20), "at most 1,048,576 are expected"),
        (add("hydra: {searchpath: [pkg://evil]}\n"), "it sets 'hydra'"),
        (add("run_dir: /tmp/x\n"), "it sets 'run_dir'"),
        (replace("_self_]", "_self_, evil]"), "its defaults are others"),
        (lambda run: (run / "train_schema.yaml").write_text("seed: 1\n"), "holds 'train_schema.yaml'"),
        (lambda run: (run / "hydra").mkdir() or (run / "hydra" / "config.yaml").touch(), "holds 'hydra/config.yaml'"),
        (lambda run: (run / "metrics.jsonl").unlink() or os.mkfifo(run / "metrics.jsonl"), "is no regular file"),
        (lambda run: (run / "tensorboard").symlink_to("/tmp"), "is a link"),
    ],
)
def test_what_is_no_config_of_a_run_is_refused(run: Path, change: Callable[[Path], object], message: str) -> None:
    change(run)
    for words, folder in ((["resume=foreign"], None), ([], run)):
        with pytest.raises(ConfigError, match=message) as caught:
            compose(words, config_dir=folder, config_name="config" if folder else "train")
        assert "\n" not in str(caught.value)


def test_the_environment_is_read_once_the_person_trusts(run: Path) -> None:
    replace("notes: ''", "notes: ${oc.env:HOME}")(run)
    assert compose(["resume=foreign", "trust=[oc.env]"]).values["notes"] == os.environ["HOME"]


def test_trust_in_the_file_is_nobodys_word(run: Path) -> None:
    add("trust: [posix, os]\n")(run)
    replace("_target_: dlwp.models.linear.Linear", "_target_: os.system")(run)
    with pytest.raises(ConfigError, match=r"model\._target_ wants to run 'os\.system'. If you trust its maker: trust="):
        api.train("resume=foreign", "trainer.epochs=2", "resume_exact=false")


def test_a_strangers_callback_is_refused_each_time_and_the_run_does_not_become_ones_own(run: Path) -> None:
    replace("callbacks: {}", "callbacks: {x: {_target_: dlwp.runs.files.remove_tree, path: keep}}")(run)
    Path("keep").mkdir()
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"callbacks\.x\._target_ wants to run"):
            api.train("resume=foreign", "trainer.epochs=2")
    assert Path("keep").is_dir() and not is_own(run)


def test_a_strangers_checkpoint_in_ones_own_run_is_a_strangers(own_place: Path) -> None:
    api.train(*WORDS)
    (checkpoint,) = Path("run/checkpoints").glob("step-*")
    assert is_own(checkpoint)
    (checkpoint / "config.yaml").write_text((checkpoint / "config.yaml").read_text() + "# changed\n")
    assert is_own(Path("run")) and not is_own(checkpoint)
    assert foreign.is_foreign(checkpoint)


def test_what_another_process_removes_while_it_is_looked_at_is_no_fault(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lstat = Path.lstat

    def gone_when_looked_at(path: Path) -> os.stat_result:
        if path.name.startswith(".tmp-"):
            path.rmdir()
        return lstat(path)

    (run / "checkpoints" / ".tmp-step-00000009").mkdir()
    monkeypatch.setattr(Path, "lstat", gone_when_looked_at)
    assert compose(["resume=foreign"]).foreign
