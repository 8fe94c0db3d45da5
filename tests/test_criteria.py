"""`batch_weight` promises that weighted sums over unequal batches are the mean in one piece."""

import pytest
import torch
from torch import Tensor, nn

from dlwp.criteria import batch_weight, batch_weights
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
