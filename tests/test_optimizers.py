"""Groups, first rates and Muon promise what their docstrings say."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from dlwp.errors import ConfigError
from dlwp.models.cnn import CNN
from dlwp.models.mlp import MLP
from dlwp.models.resnet import ResNet
from dlwp.models.vit import ViT
from dlwp.optimizers import Chained, Muon, assemble, default_lr, lookahead, orthogonalised, parameter_groups, take_step
from dlwp.parts import instantiate


def _names(model: nn.Module, group: dict[str, Any]) -> set[str]:
    return {name for name, value in model.named_parameters() if any(value is other for other in group["params"])}


def test_norms_and_biases_do_not_decay_where_that_is_asked() -> None:
    model = ResNet()
    decayed, exempt = parameter_groups(model, 5e-4, False)
    assert (decayed["weight_decay"], exempt["weight_decay"]) == (5e-4, 0.0)
    assert _names(model, decayed) == {name for name, value in model.named_parameters() if value.ndim > 1}
    assert len(decayed["params"]) + len(exempt["params"]) == len(list(model.parameters()))


def test_a_norm_of_several_axes_does_not_decay() -> None:
    model = nn.Sequential(nn.LayerNorm([3, 8]), nn.Flatten(), nn.Linear(24, 2))
    decayed, exempt = parameter_groups(model, 0.1, False)
    assert _names(model, decayed) == {"2.weight"}
    assert _names(model, exempt) == {"0.weight", "0.bias", "2.bias"}


def test_one_group_alone_where_all_decays() -> None:
    (group,) = parameter_groups(ResNet(), 5e-4, True)
    assert list(group) == ["params", "weight_decay"]


def test_frozen_parameters_are_left_out() -> None:
    model = CNN()
    model.stages.requires_grad_(False)
    assert sum(len(group["params"]) for group in parameter_groups(model, 0.1, False)) == 2


def test_hidden_weights_are_the_filters_and_matrices_before_the_last_layer() -> None:
    model = ViT(8, 1, 3, width=8, depth=1, num_heads=2, mlp_width=8, pool="class", positions="learned")
    groups = parameter_groups(model, 0.1, False, hidden_apart=True)
    (hidden,) = (group for group in groups if group["hidden"])
    attention = {f"blocks.0.attention.{name}.weight" for name in ("queries", "keys", "values", "out")}
    assert _names(model, hidden) == {"embed.weight", "blocks.0.mlp.0.weight", "blocks.0.mlp.2.weight"} | attention


@pytest.mark.parametrize(
    ("name", "model", "batch_size", "rate", "reason"),
    [
        ("SGD", ResNet(), 128, 0.4, "0.4 a batch of 128, with batch norm"),
        ("SGD", ResNet(), 512, 1.6, "0.4 a batch of 128, with batch norm"),
        ("SGD", MLP(4, 2), 64, 0.025, "0.05 a batch of 128, without batch norm"),
        ("AdamW", MLP(4, 2), 128, 3e-3, "0.003 a batch of 128, growing with its root, without layer norm"),
        ("Adam", ViT(8, 1, 3), 512, 2e-3, "0.001 a batch of 128, growing with its root, with layer norm"),
        ("Adagrad", MLP(4, 2), 64, 0.01, "the default of torch.optim.Adagrad"),
    ],
)
def test_first_rates_and_their_reasons(name: str, model: nn.Module, batch_size: int, rate: float, reason: str) -> None:
    assert default_lr(name, model, batch_size) == (rate, reason)


@pytest.mark.parametrize("name", ["Adam", "AdamW", "RMSprop", "Muon"])
def test_rates_of_optimizers_that_normalise_grow_with_the_root_of_the_batch(name: str) -> None:
    small, large = default_lr(name, MLP(4, 2), 32)[0], default_lr(name, MLP(4, 2), 128)[0]
    assert large == pytest.approx(2 * small)


def test_an_optimizer_of_which_nothing_is_known_needs_a_rate() -> None:
    with pytest.raises(ConfigError, match=r"knows no rate for Mine. optimizer.lr=0.001"):
        default_lr("Mine", MLP(4, 2), 32)


@pytest.mark.parametrize("shape", [(8, 32), (32, 8), (16, 16)])
def test_orthogonalised_keeps_singular_vectors_and_levels_singular_values(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    u, _, v = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    values = torch.linspace(0.1, 1, len(v))
    found = u.T @ orthogonalised(u @ values.diag() @ v) @ v.T
    levels = found.diagonal()
    assert float(levels.min()) > 0.6 and float(levels.max()) < 1.3  # the band of the paper's coefficients
    torch.testing.assert_close(found, levels.diag(), rtol=0, atol=1e-5)


def _train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> float:
    generator = torch.Generator().manual_seed(1)
    inputs, targets = torch.randn(64, 1, 8, 8, generator=generator), torch.arange(64) % 10
    loss = torch.zeros(())
    for _ in range(steps):
        loss = nn.functional.cross_entropy(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return float(loss.detach())


def test_muon_on_parameters_that_are_not_hidden_equals_adamw() -> None:
    torch.manual_seed(0)
    model = MLP(64, 10, hidden=[])  # one layer, the last
    other = copy.deepcopy(model)
    ours = Muon(parameter_groups(model, 0.1, False, hidden_apart=True), lr=0.02, adamw_lr_scale=0.1)
    theirs = torch.optim.AdamW(parameter_groups(other, 0.1, False), lr=0.002, betas=(0.9, 0.95))
    assert _train(model, ours, 5) == _train(other, theirs, 5)


def test_muon_step_of_filters_is_orthogonal_times_the_rate() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 10))
    optimizer = Muon(parameter_groups(model, 0.0, False, hidden_apart=True), lr=0.1)
    filters = model[0].weight
    before = filters.detach().clone()
    model(torch.randn(8, 2, 8, 8)).square().mean().backward()
    optimizer.step()
    levels = torch.linalg.svdvals((filters.detach() - before).flatten(1))
    assert float(levels.min()) > 0.05 and float(levels.max()) < 0.13


def test_muon_keeps_part_of_the_last_gradients() -> None:
    model = MLP(4, 2, hidden=[6], activation="tanh")
    optimizer = Muon(parameter_groups(model, 0.0, False, hidden_apart=True), momentum=0.5)
    weight = model.layers[0].weight
    for gradient in (1.0, 2.0):
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, gradient)
        optimizer.step()
    torch.testing.assert_close(optimizer.state[weight]["momentum_buffer"], torch.full((6, 4), 0.5 * 0.5 + 0.5 * 2))


def test_muon_learns() -> None:
    torch.manual_seed(0)
    model = CNN(1, 10)
    assert _train(model, Muon(parameter_groups(model, 0.0, False, hidden_apart=True)), 30) < 0.1


def test_muon_goes_on_from_its_saved_state() -> None:
    torch.manual_seed(0)
    model = CNN(1, 10, channels=[4, 8])
    optimizer = Muon(parameter_groups(model, 0.1, False, hidden_apart=True))
    _train(model, optimizer, 3)
    other = copy.deepcopy(model)
    resumed = Muon(parameter_groups(other, 0.1, False, hidden_apart=True))
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    fresh = copy.deepcopy(model)
    losses = [_train(model, optimizer, 3), _train(other, resumed, 3)]
    losses.append(_train(fresh, Muon(parameter_groups(fresh, 0.1, False, hidden_apart=True)), 3))
    assert losses[0] == losses[1] != losses[2]
    for mine, theirs in zip(model.parameters(), other.parameters()):
        assert torch.equal(mine, theirs)


def test_muon_splits_plain_parameters_by_shape() -> None:
    optimizer = Muon(MLP(4, 2, hidden=[3]).parameters())
    assert [(group["hidden"], len(group["params"])) for group in optimizer.param_groups] == [(True, 2), (False, 2)]


@pytest.mark.parametrize(("key", "value"), [("lr", 0.0), ("momentum", 1.0), ("weight_decay", -1.0)])
def test_muon_refuses_values_out_of_range(key: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"optimizer.{key} of muon is out of its range"):
        Muon(MLP(4, 2).parameters(), **{key: value})


# ---- groups, chains and lookahead -----------------------------------------------------------------------------------


def _assembled(model: nn.Module, groups: list[dict[str, Any]], **options: Any) -> torch.optim.Optimizer:
    section = {"_target_": "torch.optim.SGD", "lr": 0.1, "momentum": 0.9, "weight_decay": 0.01} | options
    return assemble(model, section, torch.optim.SGD, False, groups, instantiate)


def test_a_group_takes_what_its_patterns_match_and_no_entry_before_it_took() -> None:
    model = CNN(1, 3)
    optimizer = _assembled(model, [{"parameters": "head.bias", "lr": 1.0}, {"parameters": ["head.*"], "lr": 2.0}])
    decayed, exempt, first, second = optimizer.param_groups
    assert (first["lr"], second["lr"], decayed["lr"], exempt["weight_decay"]) == (1.0, 2.0, 0.1, 0.0)
    assert (_names(model, first), _names(model, second)) == ({"head.bias"}, {"head.weight"})
    held = [id(each) for group in optimizer.param_groups for each in group["params"]]
    assert len(held) == len(set(held)) == len(list(model.parameters()))


def test_a_group_with_a_target_has_its_own_optimizer() -> None:
    model = CNN(1, 3)
    groups = [{"parameters": "stages.*.0.weight", "_target_": "dlwp.optimizers.Muon", "lr": 0.02}]
    optimizer = _assembled(model, groups)
    assert isinstance(optimizer, Chained)
    assert [type(one).__name__ for one in optimizer.optimizers] == ["SGD", "Muon"]
    assert isinstance(_assembled(nn.Linear(4, 4, bias=False), [{**groups[0], "parameters": "*"}]), Muon)


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ({"lr": 1.0}, r"optimizer.groups\[0\] needs 'parameters'"),
        ({"parameters": "haed.*"}, r"'haed.\*' matches no trained parameter that is left"),
        ({"parameters": "head.*", "momentun": 0.5}, "SGD has no argument 'momentun'. Did you mean 'momentum'"),
        ({"parameters": "head.*", "_target_": "torch.optim.Adam", "momentum": 0.5}, "Adam has no argument 'momentum'"),
    ],
)
def test_a_group_that_means_nothing_is_refused(entry: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        _assembled(CNN(1, 3), [entry])


def _descend(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for step in range(steps):
        optimizer.zero_grad()
        model(torch.randn(4, 6, generator=torch.Generator().manual_seed(step))).square().sum().backward()
        optimizer.step()


def _chain(model: nn.Sequential) -> Chained:
    rest = torch.optim.SGD(model[1].parameters(), lr=0.01, momentum=0.9)
    return Chained([Muon(model[0].parameters(), lr=0.02), rest])


def test_a_chain_steps_as_its_optimizers_do_alone() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 2))
    other = copy.deepcopy(model)
    _descend(model, _chain(model), 4)
    apart = _chain(other).optimizers
    for step in range(4):
        other.zero_grad()
        other(torch.randn(4, 6, generator=torch.Generator().manual_seed(step))).square().sum().backward()
        for one in apart:
            one.step()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters()))


def test_a_chain_survives_a_copy_and_a_checkpoint() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 2))
    optimizer = _chain(model)
    _descend(model, optimizer, 2)
    copied, copied_optimizer = copy.deepcopy((model, optimizer))
    loaded = copy.deepcopy(model)
    fresh = _chain(loaded)
    fresh.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for group in (*optimizer.param_groups, *copied_optimizer.param_groups, *fresh.param_groups):
        group["lr"] *= 0.5  # what a schedule does must reach each of them
    for one, of in ((model, optimizer), (copied, copied_optimizer), (loaded, fresh)):
        _descend(one, of, 3)
    for other in (copied, loaded):
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters()))


def test_a_step_without_the_profilers_mark_hears_hooks_and_counters(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    weight.grad = torch.ones(3)
    with monkeypatch.context() as patch:
        patch.setattr(torch.autograd.profiler, "record_function", None)  # a step that made the mark would fail
        take_step(optimizer)
    torch.testing.assert_close(weight.detach(), torch.full((3,), 0.9))
    heard = []
    handle = optimizer.register_step_post_hook(lambda *_: heard.append("hook"))
    take_step(optimizer)
    handle.remove()
    take_step(optimizer)
    assert heard == ["hook"]
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    take_step(optimizer)
    scheduler.step()  # warns where the optimizer has not stepped, and warnings are errors here
    with torch.profiler.profile() as profiler:
        take_step(torch.optim.SGD([weight], lr=0.1))
    assert "Optimizer.step#SGD.step" in [event.key for event in profiler.key_averages()]


def test_unit_rows_scale_the_matrix_before_the_step() -> None:
    weight = nn.Parameter(3 * torch.randn(4, 9))
    before = weight.detach() * 2 / weight.detach().norm()
    weight.grad = torch.randn(4, 9)
    Muon([weight], lr=0.1, unit_rows=True).step()
    change = torch.linalg.svdvals((weight - before).detach())
    assert float(change.min()) > 0.05 and float(change.max()) < 0.13  # lr times singular values of about 0.7 to 1.2


def test_lookahead_goes_back_half_the_way_after_every_second_step() -> None:
    model = nn.Linear(6, 2, bias=False)
    plain, slow = copy.deepcopy(model), model.weight.detach().clone()
    optimizer = lookahead(torch.optim.SGD(model.parameters(), lr=0.01), {"every": 2, "alpha": 0.5})
    bare = torch.optim.SGD(plain.parameters(), lr=0.01)
    for step in range(6):
        _descend(model, optimizer, 1)
        _descend(plain, bare, 1)
        if step % 2:
            slow = (slow + plain.weight.detach()) / 2
            plain.weight.data.copy_(slow)
        torch.testing.assert_close(model.weight, plain.weight)


@pytest.mark.parametrize("cut", [0, 1, 3, 4])
@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam, Muon])
def test_lookahead_goes_on_from_a_checkpoint_bit_for_bit(kind: Any, cut: int) -> None:
    def make(model: nn.Module) -> torch.optim.Optimizer:
        return lookahead(kind(model.parameters(), lr=0.01), {"every": 3})

    torch.manual_seed(0)
    model = nn.Linear(6, 2)
    optimizer = make(model)
    _descend(model, optimizer, cut)
    other = copy.deepcopy(model)
    fresh = make(other)
    fresh.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for one, of in ((model, optimizer), (other, fresh)):
        _descend(one, of, 5)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters()))


@pytest.mark.parametrize(("settings", "told"), [({"k": 5}, "has no 'k'"), ({"every": 0}, "every >= 1")])
def test_a_lookahead_that_means_nothing_is_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        lookahead(torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1), settings)
