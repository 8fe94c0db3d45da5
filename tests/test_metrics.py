"""The metrics promise to be exact over any cut into batches, and to agree with scikit-learn and torchmetrics."""

import math
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor

from dlwp import torchvision_ops
from dlwp.errors import ConfigError
from dlwp.metrics import (
    F1,
    MAE,
    R2,
    RMSE,
    Accuracy,
    BitsPerToken,
    ConfusionMatrix,
    IoU,
    MeanAveragePrecision,
    TopK,
)


def _value(metric: Any, outputs: Tensor, targets: Tensor, *cuts: int) -> Any:
    for piece in zip(outputs.tensor_split(cuts), targets.tensor_split(cuts)):
        metric.update(*piece)
    return metric.compute()


def _classes(num_classes: int = 7, count: int = 50) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn(count, num_classes, generator=generator),
        torch.randint(0, num_classes, (count,), generator=generator),
    )


def _numbers(*shape: int, mean: float = 0.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    targets = torch.randn(shape, generator=generator, dtype=torch.float64) + mean
    return targets + 0.5 * torch.randn(shape, generator=generator, dtype=torch.float64), targets


@pytest.mark.parametrize("cuts", [(), (1,), (3, 4, 40)])
def test_classes_agree_with_sklearn_however_cut(cuts: tuple[int, ...]) -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    outputs, targets = _classes()
    found = outputs.argmax(1)
    assert _value(Accuracy(), outputs, targets, *cuts) == sklearn.accuracy_score(targets, found)
    assert _value(TopK(3), outputs, targets, *cuts) == sklearn.top_k_accuracy_score(targets, outputs, k=3)
    expected = sklearn.confusion_matrix(targets, found)
    assert torch.equal(_value(ConfusionMatrix(7), outputs, targets, *cuts), torch.tensor(expected).double())


@pytest.mark.parametrize("shape", [(50,), (50, 1), (50, 3)])
@pytest.mark.parametrize("cuts", [(), (1,), (3, 4, 40)])
def test_numbers_agree_with_sklearn_however_cut(shape: tuple[int, ...], cuts: tuple[int, ...]) -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    outputs, targets = _numbers(*shape)
    assert _value(MAE(), outputs, targets, *cuts) == pytest.approx(
        sklearn.mean_absolute_error(targets, outputs), rel=1e-12
    )
    assert _value(RMSE(), outputs, targets, *cuts) == pytest.approx(
        sklearn.mean_squared_error(targets, outputs) ** 0.5, rel=1e-12
    )
    assert _value(R2(), outputs, targets, *cuts) == pytest.approx(sklearn.r2_score(targets, outputs), rel=1e-12)


@pytest.mark.parametrize("mean", [1e3, -1e6])
def test_r2_is_right_for_targets_far_from_zero(mean: float) -> None:
    outputs, targets = _numbers(1000, mean=mean)
    exact = [Fraction(value) for value in targets.tolist()]
    middle = sum(exact) / len(exact)
    spread = sum((value - middle) ** 2 for value in exact)
    errors = sum((Fraction(a) - b) ** 2 for a, b in zip(outputs.tolist(), exact))
    assert _value(R2(), outputs, targets, 10, 500) == pytest.approx(
        float(1 - errors / spread), rel=1e-9
    )  # plain sums: 1e-4


def test_r2_of_targets_that_are_all_equal_is_zero_or_one() -> None:
    same = torch.full((4,), 3.3)
    assert _value(R2(), same, same) == 1.0
    assert _value(R2(), same + 1, same) == 0.0


@pytest.mark.parametrize("make", [Accuracy, lambda: TopK(3), lambda: ConfusionMatrix(7)])
def test_sums_of_two_parts_of_classes_add_up(make: Any) -> None:
    outputs, targets = _classes()
    whole, first, second = make(), make(), make()
    whole.update(outputs, targets)
    first.update(outputs[:17], targets[:17])
    second.update(outputs[17:], targets[17:])
    assert torch.equal(first.sums + second.sums, whole.sums)
    assert whole.sums.dtype == torch.float64


@pytest.mark.parametrize("make", [MAE, RMSE, R2])
def test_sums_of_two_parts_of_numbers_add_up(make: Any) -> None:
    outputs, targets = _numbers(50, 3, mean=1e6)
    first, second = make(), make()
    first.update(outputs[:17], targets[:17])
    second.update(outputs[17:], targets[17:])
    first.sums = first.sums + second.sums
    assert first.compute() == pytest.approx(_value(make(), outputs, targets), rel=1e-9)


@pytest.mark.parametrize("make", [Accuracy, lambda: TopK(3), MAE, RMSE, R2])
def test_reset_forgets_everything(make: Any) -> None:
    metric = make()
    batch = _classes() if isinstance(metric, Accuracy | TopK) else _numbers(50, 3)
    metric.update(batch[0] * 2, batch[1])
    metric.reset()
    assert metric.compute() != metric.compute()  # NaN: nothing is counted
    metric.update(*batch)
    assert metric.compute() == _value(make(), *batch)


def test_mixed_targets_count_by_the_largest() -> None:
    outputs, targets = _classes()
    mixed = 0.7 * torch.nn.functional.one_hot(targets, 7) + 0.3 / 7
    assert _value(Accuracy(), outputs, mixed) == _value(Accuracy(), outputs, targets)
    assert _value(TopK(3), outputs, mixed) == _value(TopK(3), outputs, targets)


def test_targets_that_are_ignored_do_not_count() -> None:
    outputs, targets = _classes()
    masked = torch.where(torch.arange(50) < 20, -100, targets)
    assert _value(Accuracy(), outputs, masked) == _value(Accuracy(), outputs[20:], targets[20:])
    assert _value(TopK(3), outputs, masked) == _value(TopK(3), outputs[20:], targets[20:])
    assert torch.equal(
        _value(ConfusionMatrix(7), outputs, masked), _value(ConfusionMatrix(7), outputs[20:], targets[20:])
    )


def test_every_pixel_of_a_map_counts() -> None:
    outputs, targets = torch.randn(2, 5, 4, 4), torch.randint(0, 5, (2, 4, 4))
    expected = (outputs.argmax(1) == targets).double().mean()
    assert _value(Accuracy(), outputs, targets) == float(expected)
    assert _value(ConfusionMatrix(5), outputs, targets).sum() == 32


@pytest.mark.parametrize("shape", [(4,), (4, 1)])
def test_one_logit_is_a_binary_task(shape: tuple[int, ...]) -> None:
    outputs, targets = torch.tensor([-1.0, 2.0, 3.0, -4.0]).view(shape), torch.tensor([0.0, 1.0, 0.0, 0.0]).view(shape)
    assert _value(Accuracy(), outputs, targets) == 0.75
    assert _value(ConfusionMatrix(2), outputs, targets).tolist() == [[2, 1], [0, 1]]


def test_top_k_of_no_more_than_k_classes_is_one() -> None:
    assert _value(TopK(5), *_classes(num_classes=3)) == 1.0


def test_shapes_that_would_compare_all_with_all_are_refused() -> None:
    for metric in (MAE(), RMSE(), R2()):
        with pytest.raises(ConfigError, match=r"outputs are \[4, 1\], targets \[4\]: this would compare all with all"):
            metric.update(torch.zeros(4, 1), torch.zeros(4))


def test_values_agree_with_torchmetrics() -> None:
    torchvision_ops.ensure_importable()  # torchmetrics imports torchvision where it is installed
    theirs = pytest.importorskip("torchmetrics")
    outputs, targets = _classes()
    assert _value(Accuracy(), outputs, targets) == pytest.approx(
        float(theirs.Accuracy(task="multiclass", num_classes=7, average="micro")(outputs, targets))
    )
    predicted, wanted = _numbers(50, 3)
    assert _value(R2(), predicted, wanted) == pytest.approx(float(theirs.R2Score()(predicted, wanted)), rel=1e-6)


def test_of_equal_outputs_the_first_come_first_and_nan_before_all() -> None:
    nan = float("nan")
    outputs = torch.tensor([[1.0, 1.0, 1.0], [2.0, nan, 1.0], [2.0, nan, 1.0], [nan, nan, nan]])
    for targets, share in (([0, 1, 0, 0], 1 / 2), ([1, 0, 2, 1], 1 / 2), ([2, 2, 2, 2], 0)):
        metric = TopK(2)
        metric.update(outputs, torch.tensor(targets))
        assert metric.compute() == share, targets


def test_top_k_is_that_of_torch_where_no_outputs_are_equal() -> None:
    outputs, targets = torch.randn(500, 9, 2), torch.randint(9, (500, 2))
    metric = TopK(4)
    metric.update(outputs, targets)
    found = outputs.topk(4, dim=1).indices
    assert metric.compute() == pytest.approx(float((found == targets.unsqueeze(1)).any(1).double().mean()))


def test_bits_per_token_are_the_mean_over_all_tokens_that_count() -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(5, 7, 9), torch.randint(7, (5, 9))
    targets[3, 2:] = -100
    metric = BitsPerToken()
    for batch in (slice(0, 2), slice(2, 5)):  # of unequal counts
        metric.update(logits[batch], targets[batch])
    expected = torch.nn.functional.cross_entropy(logits.double(), targets) / math.log(2)
    assert metric.compute() == pytest.approx(float(expected), rel=1e-6)
    with pytest.raises(ConfigError, match=r"bits need logits"):
        metric.update(torch.randn(4, 1), torch.zeros(4))


# ---- masks and labels -----------------------------------------------------------------------------------------------


def drawn_masks() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    outputs = torch.randn(10, 4, 6, 5, generator=generator)
    outputs[:, 3] -= 100  # never predicted
    masks = torch.randint(0, 3, (10, 6, 5), generator=generator)
    masks[torch.rand(10, 6, 5, generator=generator) < 0.2] = -100
    return outputs, masks


def test_iou_is_that_of_all_pixels_together_whatever_the_batches() -> None:
    outputs, masks = drawn_masks()
    found, counted = outputs.argmax(1), masks != -100
    expected = [
        float(((found == k) & (masks == k)).sum() / (((found == k) & counted) | (masks == k)).sum()) for k in range(3)
    ]
    for average, value in (("classes", sum(expected) / 3), ("foreground", sum(expected[1:]) / 2)):
        for size in (1, 3, 10):
            metric = IoU(4, average)
            for batch in zip(outputs.split(size), masks.split(size)):
                metric.update(*batch)
            assert metric.compute() == pytest.approx(value, rel=1e-6)
    assert math.isnan(float(metric.by_class()[3]))
    metric.reset()
    assert math.isnan(metric.compute())


def test_iou_refuses_what_is_no_mask() -> None:
    with pytest.raises(ConfigError, match=r"outputs are \[2, 4\], masks \[2\].*model=unet"):
        IoU(4).update(torch.zeros(2, 4), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ConfigError, match="average must be foreground or classes, got 'mean'"):
        IoU(4, "mean")


def test_mean_average_precision_is_scikit_learns() -> None:
    from sklearn.metrics import average_precision_score

    generator = torch.Generator().manual_seed(1)
    outputs = torch.randn(500, 6, generator=generator).mul(2).round().div(2)  # with many equal ones
    labels = (torch.rand(500, 6, generator=generator) < 0.2 + 0.3 * outputs.sigmoid()).float()
    metric = MeanAveragePrecision()
    for batch in zip(outputs.split(64), labels.split(64)):
        metric.update(*batch)
    assert metric.compute() == pytest.approx(average_precision_score(labels.numpy(), outputs.numpy()), abs=1e-12)
    metric.reset()
    assert math.isnan(metric.compute())


def test_a_label_that_nobody_has_is_left_out_of_the_mean() -> None:
    metric = MeanAveragePrecision()
    metric.update(torch.tensor([[3.0, 1.0], [-1.0, 2.0]]), torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    assert metric.compute() == 1.0


def test_mean_average_precision_keeps_no_more_than_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    from dlwp import metrics

    monkeypatch.setattr(metrics, "_MOST_KEPT", 9)
    metric = MeanAveragePrecision()
    metric.update(torch.zeros(2, 4), torch.zeros(2, 4))
    with pytest.raises(ConfigError, match=r"metrics.mean_average_precision=null"):
        metric.update(torch.zeros(2, 4), torch.zeros(2, 4))


def test_f1_is_scikit_learns() -> None:
    from sklearn.metrics import f1_score

    generator = torch.Generator().manual_seed(1)
    outputs, labels = torch.randn(90, 5, generator=generator), (torch.rand(90, 5, generator=generator) < 0.4).float()
    for threshold in (0.5, 0.2):
        metric = F1(threshold)
        for batch in zip(outputs.split(32), labels.split(32)):
            metric.update(*batch)
        chosen = (outputs.sigmoid() > threshold).numpy()
        assert metric.compute() == pytest.approx(f1_score(labels.numpy(), chosen, average="micro"), abs=1e-12)
    with pytest.raises(ConfigError, match=r"outputs are \[2, 4\], labels \[2\]"):
        F1().update(torch.zeros(2, 4), torch.zeros(2))
