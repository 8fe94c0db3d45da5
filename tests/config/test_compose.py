"""Words become one checked config, the same on every way: typed, from Python, replayed, resumed, inside another app."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import hydra
import pytest
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from dlwp import settings
from dlwp.config.catalog import own_folder, read_page
from dlwp.config.compose import VERSION_BASE, compose
from dlwp.errors import ConfigError


def write(folder: Path, **files: str) -> Path:
    """Write files named as model__x: folder/model/x.yaml."""
    for name, text in files.items():
        path = folder / f"{name.replace('__', '/')}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.mark.parametrize(
    ("name", "owner"),
    [
        ("train", settings.CommandSettings),
        ("trainer/default", settings.TrainerSettings),
        ("logger/default", settings.LoggerSettings),
    ],
)
def test_yaml_files_hold_the_defaults_of_settings_in_their_order(name: str, owner: type) -> None:
    path = own_folder() / f"{name}.yaml"
    found = OmegaConf.to_container(OmegaConf.load(path))
    assert isinstance(found, dict)
    del found["defaults"]
    expected = {key: value for key, value in vars(owner()).items() if key not in settings.GROUPS}
    assert list(found.items()) == list(expected.items())
    assert all(entry.comment for entry in read_page(path).entries)


def test_groups_are_those_of_settings() -> None:
    groups = [default.group for default in read_page(own_folder() / "train.yaml").defaults if default.group]
    assert sorted(groups) == sorted(settings.GROUPS)


def test_a_config_is_plain_containers_with_the_choices() -> None:
    config = compose(["model=linear", "trainer.epochs=3"])
    assert config.values["trainer"]["epochs"] == 3
    assert type(config.values["data"]) is dict
    assert config.choices["model"] == "linear"
    assert config.choices["data"] == "digits"
    assert config.choices["experiment"] is None
    assert config.words == ["model=linear", "trainer.epochs=3"]
    assert set(config.values) == set(vars(settings.CommandSettings()))


def test_a_users_option_comes_before_dlwps_of_the_same_name(tmp_path: Path) -> None:
    mine = write(tmp_path / "mine", model__resnet="_target_: mine.Net\n")
    assert compose([], config_dir=mine).values["model"] == {"_target_": "mine.Net"}
    assert compose([]).values["model"]["_target_"] != "mine.Net", "the folder is forgotten after use"


def test_data_names_its_criterion_and_a_typed_one_wins(tmp_path: Path) -> None:
    named = "defaults:\n- override /criterion@_global_.criterion: mse\n_target_: a.b\n"
    mine = write(tmp_path / "mine", data__x=named)
    assert compose(["data=x"], config_dir=mine).choices["criterion"] == "mse"
    assert compose(["data=x", "criterion=l1"], config_dir=mine).choices["criterion"] == "l1"


def test_an_experiment_wins_over_the_defaults_and_a_word_over_the_experiment(tmp_path: Path) -> None:
    text = "# @package _global_\ndefaults:\n- override /model: linear\nseed: 5\ntrainer:\n  epochs: 2\n"
    mine = write(tmp_path / "mine", experiment__x=text)
    config = compose(["experiment=x", "trainer.epochs=4"], config_dir=mine)
    assert (config.values["seed"], config.values["trainer"]["epochs"]) == (5, 4)
    assert (config.choices["model"], config.choices["experiment"]) == ("linear", "x")


def test_a_trainer_without_its_schema_is_filled_and_typed(tmp_path: Path) -> None:
    mine = write(tmp_path / "mine", trainer__short="epochs: 2\n")
    config = compose(["trainer=short"], config_dir=mine)
    assert config.values["trainer"] == vars(settings.TrainerSettings(epochs=2))


def test_a_key_that_dlwp_reads_may_be_missing_in_a_users_yaml(tmp_path: Path) -> None:
    mine = write(tmp_path / "mine", data__x="_target_: a.b\n")
    assert compose(["data=x"], config_dir=mine).values["data"] == {"_target_": "a.b", "batch_size": 128}
    assert compose(["data=x", "data.batch_size=7"], config_dir=mine).values["data"]["batch_size"] == 7


def test_secrets_of_the_environment_are_used_and_not_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = write(
        tmp_path / "mine", data__x="_target_: a.b\nkey: ${oc.env:DLWP_KEY}\nfolder: ${data.key}/${oc.env:NO,d}\n"
    )
    monkeypatch.setenv("DLWP_KEY", "secret")
    config = compose(["data=x"], config_dir=mine)
    assert config.values["data"]["key"] == "secret"
    assert config.values["data"]["folder"] == "secret/d"
    assert "secret" not in config.yaml({})
    assert config.stored["data"]["folder"] == "${oc.env:DLWP_KEY}/${oc.env:NO,d}"
    assert OmegaConf.create({"a": "${oc.env:DLWP_KEY}"}).a == "secret", "the resolver is put back"


def test_home_is_expanded_in_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    values = compose(["data=cifar10", "data.root='~/d'", "run_dir='~/r'"]).values
    assert (values["data"]["root"], values["run_dir"]) == ("/home/me/d", "/home/me/r")


def stored_run(folder: Path, words: list[str]) -> Path:
    """Write the config.yaml of a run, as a run does."""
    config = compose(words)
    folder.mkdir(parents=True)
    text = config.yaml({"model.num_classes": 10, "trainer.precision": "fp32"})
    (folder / "config.yaml").write_text(text)
    (folder / "summary.json").write_text("{}")
    return folder


def test_a_run_is_replayed_from_its_config(tmp_path: Path) -> None:
    words = ["model=linear", "notes='a, b: c'", "optimizer.lr=1e-05", "tags=[yes,'1e5']", "run_dir=x"]
    run = stored_run(tmp_path / "run", words)
    first, again = compose(words).values, compose([], config_dir=run, config_name="config")
    first["model"]["num_classes"], first["trainer"]["precision"], first["run_dir"] = 10, "fp32", None
    assert again.values == first
    assert again.choices["model"] == "linear"
    longer = compose(["trainer.epochs=30"], config_dir=run, config_name="config")
    assert longer.values["trainer"]["epochs"] == 30
    assert longer.typed == [*words, "trainer.epochs=30"]
    with pytest.raises(ConfigError, match=r"trainer\.epochs must be a whole number, got 'three'"):
        compose(["trainer.epochs=three"], config_dir=run, config_name="config")


@pytest.mark.parametrize("word", ["model=vit", "+model=vit", "~model", "experiment=debug"])
def test_a_group_cannot_change_in_a_replay(tmp_path: Path, word: str) -> None:
    run = stored_run(tmp_path / "run", ["model=linear", "seed=3"])
    with pytest.raises(ConfigError, match=r"cannot change in a replay; .* or start anew: dlwp-train .*seed=3"):
        compose([word, f"resume={run}"])


def test_resume_takes_the_config_of_the_run_and_the_words(tmp_path: Path) -> None:
    run = stored_run(tmp_path / "run", ["model=linear", "seed=3"])
    config = compose([f"resume={run}", "trainer.epochs=9"])
    assert config.resume == run
    assert (config.values["seed"], config.values["trainer"]["epochs"]) == (3, 9)
    assert config.values["model"]["num_classes"] == 10
    assert config.words == [f"resume={run}", "trainer.epochs=9"]
    with pytest.raises(ConfigError, match=r"changed seed \(3 → 4\) is another experiment.*resume_exact=false"):
        compose([f"resume={run}", "seed=4"])
    assert compose([f"resume={run}", "seed=4", "resume_exact=false"]).values["seed"] == 4
    with pytest.raises(ConfigError, match=r"unknown key 'trainer\.epochz'"):
        compose([f"resume={run}", "trainer.epochz=9"])
    with pytest.raises(ConfigError, match="run_dir cannot be given with resume="):
        compose([f"resume={run}", "run_dir=x"])


def test_composing_works_inside_another_hydra_application(tmp_path: Path) -> None:
    write(tmp_path, app="x: 1\n")
    with hydra.initialize_config_dir(str(tmp_path), **VERSION_BASE):
        outer = GlobalHydra.instance().hydra
        assert compose(["seed=4"]).values["seed"] == 4
        assert GlobalHydra.instance().hydra is outer
        assert hydra.compose("app").x == 1


def test_several_mistakes_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        compose(["seed=abc", "trainer.epochz=3", "optimizer.lr=-1"])
    assert "seed must be" in caught.value.message
    assert [line.split()[0] for line in caught.value.details] == ["unknown", "optimizer.lr"]


def test_a_rate_of_zero_is_a_warning() -> None:
    assert compose(["optimizer.lr=0"]).warnings == ["optimizer.lr=0, nothing will be learned"]
    assert compose(["optimizer.lr=1"]).warnings == []


def test_an_installed_package_finds_the_configs_in_it(tmp_path: Path, checkout: Path) -> None:
    site = tmp_path / "site"
    shutil.copytree(checkout / "src" / "dlwp", site / "dlwp", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(checkout / "configs", site / "dlwp" / "configs")
    code = "from dlwp.config import compose, catalog; compose.compose([]); print(catalog.own_folder())"
    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": str(site)}, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str(site / "dlwp" / "configs")


def test_a_secret_in_clear_is_warned_of_with_how_to_keep_it_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_abc")
    typed = ["+data.hf_token=hf_abc", "+data.headers={X-Api-Key: k}", "+data.tokens=4", "+model.password=''"]
    assert compose(typed).warnings == [
        "data.hf_token will stand in the run's config.yaml in clear. "
        "From the environment instead: 'data.hf_token=${oc.env:HF_TOKEN}'",
        "data.headers.X-Api-Key will stand in the run's config.yaml in clear. "
        "From the environment instead: 'data.headers.X-Api-Key=${oc.env:X_API_KEY}'",
    ]
    assert compose(["+data.hf_token=${oc.env:HF_TOKEN}"]).warnings == []
