"""What `scores` promises, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from dlwp.inference import scores
from dlwp.inference.samples import ClassCollector, Classified, ErrorCollector


def classified(confidences: list[float], right: list[int]) -> Classified:
    labels, count = torch.tensor(right), len(right)
    real = torch.tensor(confidences, dtype=torch.float64)
    return Classified(torch.arange(count), labels, torch.ones(count).long(), real, real, -real.log(), 2)


def test_calibration_error_is_that_of_a_calculation_by_hand() -> None:
    # bins of a half; 0.5 is in the lower one. n: 2 and 3; |accuracy - confidence|: |1/2 - 0.45| and |1/3 - 0.8|
    found = scores.calibration(classified([0.4, 0.5, 0.7, 0.8, 0.9], [1, 0, 0, 1, 0]), 2)
    assert found["error"] == pytest.approx(2 / 5 * 0.05 + 3 / 5 * (0.8 - 1 / 3), abs=1e-12)
    assert [one["count"] for one in found["bins"]] == [2, 3]
    assert [one["accuracy"] for one in found["bins"]] == pytest.approx([1 / 2, 1 / 3])
    assert [one["confidence"] for one in found["bins"]] == pytest.approx([0.45, 0.8])
    assert found["accuracy"] == 0.4 and found["confidence"] == pytest.approx(0.66)


def test_calibration_has_15_bins_of_which_the_last_holds_1() -> None:
    found = scores.calibration(classified([1.0, 1.0], [1, 1]))
    assert [one["count"] for one in found["bins"]] == [0] * 14 + [2]
    assert found["error"] == 0 and found["bins"][0]["accuracy"] is None


def test_of_outputs_that_are_no_numbers_there_is_no_calibration_error() -> None:
    found = scores.calibration(classified([math.nan, 0.9], [0, 1]))
    assert found["error"] is None and sum(one["count"] for one in found["bins"]) == 1


def test_what_is_not_there_is_none_and_not_zero() -> None:
    # two of class 0, right; one of class 1, taken for 0; class 2 neither there nor predicted
    found = scores.by_class(torch.tensor([[2, 0, 0], [1, 0, 0], [0, 0, 0]]), ["a", "b", "c"])
    assert [one["precision"] for one in found] == [2 / 3, None, None]
    assert [one["recall"] for one in found] == [1, 0, None]
    assert [one["f1"] for one in found] == [4 / 5, 0, None]
    assert scores.macro_f1(found) == 2 / 5
    assert found[2]["recall_interval"] is None
    assert found[0]["recall_interval"] == pytest.approx([0.342, 1.0], abs=1e-3)  # 2 of 2: 1 / (1 + z² / 2)


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
def test_one_logit_a_sample_is_two_classes(shape: tuple[int, ...]) -> None:
    collector = ClassCollector()
    logits = torch.tensor([2.0, -1.0, 0.0]).reshape(shape)
    assert collector.add(logits, torch.tensor([1.0, 1.0, 0.0]).reshape(shape), torch.arange(3))
    found = collector.finish()
    assert found.num_classes == 2 and found.predictions.tolist() == [1, 0, 0]
    sigmoid = torch.tensor([2.0, 1.0, 0.0], dtype=torch.float64).sigmoid()
    assert found.confidences.tolist() == pytest.approx(sigmoid.tolist())
    assert found.losses[1] == pytest.approx(-math.log(1 - float(sigmoid[1])))


def test_samples_come_in_the_order_of_their_indices_without_those_ignored() -> None:
    collector = ClassCollector()
    outputs = torch.eye(4)
    assert collector.add(outputs[:3], torch.tensor([0, -100, 1]), torch.tensor([7, 2, 5]))
    assert collector.add(outputs[3:], torch.tensor([3]), torch.tensor([1]))
    found = collector.finish()
    assert found.indices.tolist() == [1, 5, 7] and found.labels.tolist() == [3, 1, 0]
    assert found.predictions.tolist() == [3, 2, 0]


def test_a_loss_does_not_end_where_the_probability_is_0() -> None:
    collector = ClassCollector()
    collector.add(torch.tensor([[2000.0, 0.0], [3000.0, 0.0]]), torch.tensor([1, 1]), torch.arange(2))
    found = collector.finish()
    assert found.chances.tolist() == [0, 0] and found.losses.tolist() == [2000, 3000]
    assert [one["sample"] for one in scores.worst(found, ["a", "b"], 1)] == [1]


def test_what_is_not_one_class_or_no_number_is_not_taken() -> None:
    assert not ClassCollector().add(torch.zeros(2, 3, 4, 4), torch.zeros(2, 4, 4).long(), torch.arange(2))
    errors = ErrorCollector(torch.device("cpu"), 3)
    assert not errors.add(torch.zeros(4, 1), torch.zeros(4), torch.arange(4))
