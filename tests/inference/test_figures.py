"""What the pictures of a report show."""

from __future__ import annotations

from typing import Any

import numpy
import pytest
import torch

from dlwp.inference.figures import as_picture, draw_mistakes, draw_reliability
from dlwp.observers.plots import png


def test_a_reliability_diagram_shows_accuracy_gap_and_count_of_each_bin() -> None:
    bins: list[dict[str, Any]] = [
        {"from": 0.0, "to": 0.5, "count": 0, "confidence": None, "accuracy": None},
        {"from": 0.5, "to": 1.0, "count": 12_345, "confidence": 0.9, "accuracy": 0.75},
    ]
    figure = draw_reliability({"error": 0.15, "bins": bins}, "val")
    upper, lower = figure.axes
    assert upper.get_title(loc="left") == "calibration (val): expected error 15.0%"
    accuracy, gap = ((bar.get_y(), bar.get_height()) for bar in upper.patches)
    assert accuracy == (0, 0.75) and gap == pytest.approx((0.75, 0.15))
    assert [text.get_text() for text in lower.texts] == ["12k"]
    assert [text.get_text() for text in upper.get_legend().texts] == ["calibrated", "accuracy", "more sure than right"]
    assert png(figure).startswith(b"\x89PNG")


def test_mistakes_are_shown_pixel_by_pixel_with_what_they_were_taken_for() -> None:
    mistake = {"sample": 1234, "file": None, "true": "cat", "predicted": "dog", "probability": 0.9}
    mistake["true_probability"] = 0.05
    named = mistake | {"file": f"/{'long/' * 9}a.jpg", "true": "c" * 40, "true_probability": 0.0004}
    picture = torch.arange(12, dtype=torch.uint8).reshape(2, 2, 3)
    figure = draw_mistakes([mistake, named], [picture, picture[..., :1]], "test")
    shown = [axis for axis in figure.axes if axis.images]
    assert len(figure.axes) == 4 and len(shown) == 2
    assert [text.get_text() for text in shown[0].texts] == ["dog: 90.0%", "is cat: 5.0%"]
    assert [text.get_text() for text in shown[1].texts] == ["dog: 90.0%", f"is {'c' * 21}…: <0.1%"]
    assert shown[0].get_xlabel() == "sample 1,234"
    assert shown[1].get_xlabel().endswith("/a.jpg") and len(shown[1].get_xlabel()) <= 30
    assert shown[0].images[0].get_interpolation() == "nearest"
    assert numpy.array_equal(shown[0].images[0].get_array(), picture.numpy())


def test_a_picture_is_taken_as_it_lies_or_stretched() -> None:
    bytes_ = torch.randint(0, 256, (3, 5, 4), dtype=torch.uint8)
    found = as_picture(bytes_)
    assert found is not None and torch.equal(found, bytes_.permute(1, 2, 0))
    found = as_picture(bytes_ / 255)
    assert found is not None and torch.equal(found, bytes_.permute(1, 2, 0))
    found = as_picture(torch.tensor([[-2.0, 2.0]]))
    assert found is not None and found.flatten().tolist() == [0, 255] and found.shape == (1, 2, 1)


@pytest.mark.parametrize("shape", [(7,), (2, 8, 8), (3, 4, 8, 8), (3, 0, 8)])
def test_what_has_another_shape_is_no_picture(shape: tuple[int, ...]) -> None:
    assert as_picture(torch.zeros(shape)) is None
