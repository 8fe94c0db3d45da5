"""`verify_resume=true` finds what a resume would lose, and names it; a model that loses nothing passes."""

from __future__ import annotations

from pathlib import Path

import pytest

from dlwp.errors import ConfigError, RunError
from dlwp.verify import verify_resume

OWN = '''
import random
from torch import nn

class Counting(nn.Module):
    """Keeps a number that no checkpoint holds."""

    def __init__(self, in_features, out_features):
        super().__init__()
        self.head = nn.Linear(in_features, out_features)
        self.calls = 0

    def forward(self, inputs):
        self.calls += self.training
        return self.head(inputs.flatten(1)) * (1 + 0.01 * self.calls)

class Drawing(nn.Module):
    """Draws from Python's generator."""

    def __init__(self, in_features, out_features):
        super().__init__()
        self.head = nn.Linear(in_features, out_features)

    def forward(self, inputs):
        return self.head(inputs.flatten(1)) * (1 + random.random() * self.training)
'''
WORDS = ["data=synthetic", "data.num_train=64", "data.num_val=8", "data.num_test=8", "data.batch_size=8"]


def test_a_model_with_dropout_and_batch_norm_passes(own_place: Path) -> None:
    found = verify_resume([*WORDS, "model=cnn", "trainer.ema_decay=0.9", "trainer.epochs=30"])
    assert found.startswith("7 steps in one process equal 3 and 4 in two, bit for bit")
    assert not list(own_place.iterdir())


@pytest.mark.parametrize(
    ("model", "named"), [("Counting", "'calls' differs"), ("Drawing", "Python's random was drawn from")]
)
def test_what_a_resume_loses_is_named(own_place: Path, model: str, named: str) -> None:
    (own_place / "mine.py").write_text(OWN)
    with pytest.raises(RunError, match=r"stopped after step 3, it differs at step 4 in the forward pass") as caught:
        verify_resume([*WORDS, "model=linear", f"model._target_=mine.{model}"])
    assert any(named in detail for detail in caught.value.details)


def test_a_run_that_fails_is_told_in_its_own_words_and_resume_is_refused() -> None:
    with pytest.raises(RunError, match=r"the run itself fails: .*no module 'no_such'"):
        verify_resume([*WORDS, "model=linear", "model._target_=no_such.Model"])
    with pytest.raises(ConfigError, match="leave out resume="):
        verify_resume(["resume=last"])
