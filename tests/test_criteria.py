"""`batch_weight` promises that weighted sums over unequal batches are the mean in one piece."""

import pytest
import torch
from torch import Tensor, nn

from dlwp.criteria import Dice, batch_weight, batch_weights
from dlwp.errors import ConfigError


def _in_pieces(criterion: nn.Module, outputs: Tensor, targets: Tensor) -> Tensor:
    cuts = [slice(0, 3), slice(3, 4), slice(4, 11)]
    losses = [criterion(outputs[cut], targets[cut]) * batch_weight(criterion, targets[cut]) for cut in cuts]
    return torch.stack(losses).sum() / sum(batch_weight(criterion, targets[cut]) for cut in cuts)


CLASS_WEIGHTS = torch.tensor([0.2, 1.0, 3.0, 0.5])
CASES = {
    "cross_entropy": nn.CrossEntropyLoss(),
    "smoothed": nn.CrossEntropyLoss(label_smoothing=0.1),
    "weighted": nn.CrossEntropyLoss(weight=CLASS_WEIGHTS),
    "weighted and smoothed": nn.CrossEntropyLoss(weight=CLASS_WEIGHTS, label_smoothing=0.1),
    "nll": nn.NLLLoss(weight=CLASS_WEIGHTS),
}


@pytest.mark.parametrize("name", CASES)
def test_classes_in_pieces_equal_the_whole(name: str) -> None:
    torch.manual_seed(0)
    criterion, outputs, targets = CASES[name].double(), torch.randn(11, 4).double(), torch.randint(0, 4, (11,))
    torch.testing.assert_close(_in_pieces(criterion, outputs, targets), criterion(outputs, targets), rtol=1e-12, atol=0)


def _masks(classes: int) -> tuple[Tensor, Tensor]:
    """Return logits and masks of eleven pictures; of some not all pixels count, of one none."""
    torch.manual_seed(0)
    targets = torch.randint(0, classes, (11, 5, 6))
    targets[2, :, 3:], targets[3], targets[8, 0] = -100, -100, -100
    return torch.randn(11, classes, 5, 6).double(), targets


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("cross_entropy", [0.0, 1.5])
def test_dice_is_what_its_formula_says_of_each_picture(classes: int, cross_entropy: float) -> None:
    outputs, targets = _masks(classes)
    expected = 0.0
    for logits, mask in zip(outputs, targets):
        counted = mask != -100
        if counted.any():
            p, t = logits[:, counted].softmax(0), mask[counted]
            dice = [
                (2 * p[k][t == k].sum() + 0.5) / (p[k].sum() + (t == k).sum() + 0.5)
                for k in range(1 if classes == 2 else 0, classes)
            ]
            expected += float(1 - torch.stack(dice).mean() + cross_entropy * nn.functional.cross_entropy(p.log().T, t))
    assert float(Dice(cross_entropy, smooth=0.5)(outputs, targets)) == pytest.approx(expected / 11, rel=1e-12)


@pytest.mark.parametrize("classes", [2, 4])
def test_dice_in_pieces_equals_the_whole(classes: int) -> None:
    criterion, (outputs, targets) = Dice(), _masks(classes)
    torch.testing.assert_close(_in_pieces(criterion, outputs, targets), criterion(outputs, targets), rtol=1e-12, atol=0)


def test_pixels_that_are_ignored_have_no_gradient_from_dice() -> None:
    outputs, targets = _masks(3)
    Dice()(outputs.requires_grad_(), targets).backward()
    slopes = outputs.grad.abs().sum(1)  # type: ignore[union-attr]
    assert bool((slopes[targets == -100] == 0).all()) and bool((slopes[targets != -100] > 0).all())


def test_dice_computes_halves_in_single_precision() -> None:
    outputs, targets = torch.zeros(1, 2, 300, 300, dtype=torch.float16), torch.ones(1, 300, 300, dtype=torch.int64)
    assert float(Dice(cross_entropy=0.0)(outputs, targets)) == pytest.approx(1 / 3, abs=1e-4)  # of p = 1/2 everywhere


@pytest.mark.parametrize(
    ("outputs", "targets", "said"),
    [
        (torch.zeros(3, 4), torch.zeros(3).long(), r"outputs \[3, 4\] for targets \[3\]. criterion=cross_entropy"),
        (torch.zeros(3, 2, 8, 8), torch.zeros(3, 4, 4).long(), "is for a class for each pixel"),
        (torch.zeros(3, 2, 8, 8), torch.zeros(3, 8, 8), "is for a class for each pixel"),
        (torch.zeros(3, 1, 8, 8), torch.zeros(3, 8, 8).long(), "an output for each class, also the background"),
    ],
)
def test_dice_refuses_what_is_no_class_for_each_pixel(outputs: Tensor, targets: Tensor, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Dice()(outputs, targets)


@pytest.mark.parametrize("values", [{"cross_entropy": -1.0}, {"smooth": 0.0}])
def test_dice_refuses_factors_out_of_range(values: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"criterion.cross_entropy must be 0 or more and criterion.smooth above 0"):
        Dice(**values)


@pytest.mark.parametrize("weight", [None, CLASS_WEIGHTS])
def test_targets_that_are_ignored_weigh_nothing(weight: Tensor | None) -> None:
    torch.manual_seed(0)
    criterion = nn.CrossEntropyLoss(weight=weight, ignore_index=2).double()
    outputs, targets = torch.randn(11, 4, 3).double(), torch.randint(0, 4, (11, 3))  # (B, K, T), (B, T)
    torch.testing.assert_close(_in_pieces(criterion, outputs, targets), criterion(outputs, targets), rtol=1e-12, atol=0)
    assert float(batch_weight(nn.CrossEntropyLoss(), torch.full((3,), -100))) == 0


def test_probabilities_as_targets_in_pieces_equal_the_whole() -> None:
    torch.manual_seed(0)
    criterion, outputs, targets = nn.CrossEntropyLoss(), torch.randn(11, 4).double(), torch.rand(11, 4).double()
    torch.testing.assert_close(_in_pieces(criterion, outputs, targets), criterion(outputs, targets), rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    "criterion",
    [nn.MSELoss(), nn.L1Loss(), nn.SmoothL1Loss(), nn.HuberLoss(), nn.BCEWithLogitsLoss(), nn.PoissonNLLLoss(),
     nn.KLDivLoss(reduction="batchmean")],
    ids=lambda criterion: type(criterion).__name__,
)  # fmt: skip
def test_numbers_in_pieces_equal_the_whole(criterion: nn.Module) -> None:
    torch.manual_seed(0)
    outputs, targets = torch.randn(11, 4).double(), torch.rand(11, 4).double()
    torch.testing.assert_close(_in_pieces(criterion, outputs, targets), criterion(outputs, targets), rtol=1e-12, atol=0)


def test_a_criterion_of_ones_own_counts_samples_whatever_holds_the_targets() -> None:
    def own(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets).abs().mean()

    assert batch_weight(own, torch.zeros(5, 2)) == 5
    assert batch_weight(own, {"boxes": torch.zeros(5, 2)}) == 5
    assert batch_weight(own, [torch.zeros(5), torch.zeros(2)]) == 5


@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_a_criterion_that_gives_no_mean_is_refused(reduction: str) -> None:
    with pytest.raises(ConfigError, match=f"criterion.reduction={reduction} gives no mean.*criterion.reduction=mean"):
        batch_weight(nn.MSELoss(reduction=reduction), torch.zeros(3))


@pytest.mark.parametrize("weight", [None, torch.tensor([1.0, 2.0, 0.5])])
@pytest.mark.parametrize("sizes", [(4, 4, 4), (4, 4, 2)])
def test_many_batches_weigh_what_each_weighs(weight: Tensor | None, sizes: tuple[int, ...]) -> None:
    criterion = nn.CrossEntropyLoss(weight=weight)
    batches = [torch.tensor([0, -100, 2, 1][:size]) for size in sizes]
    assert batch_weights(criterion, batches) == [float(batch_weight(criterion, one)) for one in batches]
    assert batch_weights(nn.MSELoss(), [torch.zeros(3, 2), 5.0]) == [3.0, 5.0]
