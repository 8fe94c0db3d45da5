"""`dlwp-train --doctor`: all that a report of a fault needs, and nothing that is not for others' eyes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from dlwp import __version__
from dlwp.commands import doctor, train

PARTS = ("dlwp", "machine", "torch", "auto", "places", "variables")


def test_the_report_has_versions_machine_choices_places_and_variables(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(sys, "argv", ["dlwp-train", "--doctor"])
    assert train.main() == 0
    out, err = capsys.readouterr()
    assert err == ""
    lines = out.splitlines()
    assert tuple(line.split()[0] for line in lines if line[0] != " ") == PARTS
    assert "cannot be told" not in out
    for said in (
        __version__, f"torch {torch.__version__}", "torchvision ", "hydra-core ", f"python {sys.version.split()[0]}",
        "processors usable", "GiB free", "device=", "trainer.precision=", "trainer.channels_last=", "data.num_workers=",
        "torchvision's operators ", "runs: ", "data: ", "decoded pictures: ", "OMP_NUM_THREADS=1",
    ):  # fmt: skip
        assert said in out, said
    assert not Path("outputs").exists()


def test_no_secret_host_or_home_is_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    home = tmp_path / "jane.doe"
    (home / "project").mkdir(parents=True)
    monkeypatch.chdir(home / "project")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("DLWP_DATA_ROOT", str(home / "pictures"))
    for name in ("HF_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "DLWP_TOKEN", "TORCH_TOKEN", "GITHUB_TOKEN"):
        monkeypatch.setenv(name, f"hunter2-{name}")
    monkeypatch.setenv("HTTPS_PROXY", "http://jane:hunter2@proxy")
    monkeypatch.setenv("TORCH_HOME", "https://jane:hunter2@store/torch")
    monkeypatch.setattr("platform.node", lambda: "secret-host")
    text = doctor.report()
    assert "hunter2" not in text
    assert "jane" not in text
    assert "secret-host" not in text
    assert "~/project/outputs" in text
    assert "DLWP_DATA_ROOT=~/pictures" in text
    assert "HF_TOKEN" in text, "that it is set is told"
    assert "WANDB_API_KEY" not in text, "dlwp does not read it"


def test_a_broken_installation_is_told_and_the_rest_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)  # its import fails
    lines = doctor.report().splitlines()
    (told,) = (line for line in lines if "the rest cannot be told: ModuleNotFoundError: " in line)
    assert lines[lines.index(told) - 1].strip().startswith("torchvision's operators ")
    assert tuple(line.split()[0] for line in lines if line[0] != " ") == PARTS


def test_settings_are_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["dlwp-train", "--doctor", "model=vit"])
    assert train.main() == 2
    assert "--doctor takes no settings, got 'model=vit'" in capsys.readouterr().err
