"""The vision transformer promises the equations of the paper, and one line where sizes do not fit."""

import pytest
import torch
from torch import nn

from dlwp.errors import ConfigError
from dlwp.models.vit import Attention, ViT, sincos_positions

SMALL = {"width": 32, "depth": 2, "num_heads": 4, "mlp_width": 48}


@pytest.mark.parametrize("pool", ["mean", "class"])
@pytest.mark.parametrize("positions", ["sincos", "learned"])
def test_every_choice_gives_outputs_and_gradients_to_every_parameter(pool: str, positions: str) -> None:
    torch.manual_seed(0)
    model = ViT((8, 12), 3, 5, patch_size=4, pool=pool, positions=positions, **SMALL)
    nn.init.normal_(model.head.weight)  # it starts at zero, which would let no gradient through
    outputs = model(torch.randn(2, 3, 8, 12))
    outputs.square().sum().backward()
    assert outputs.shape == (2, 5)
    for name, parameter in model.named_parameters():
        if "keys.bias" not in name:  # the softmax does not see it
            assert parameter.grad is not None and parameter.grad.any(), name


def test_attention_equals_that_of_torch() -> None:
    ours, theirs = Attention(32, 4), nn.MultiheadAttention(32, 4, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([ours.queries.weight, ours.keys.weight, ours.values.weight]))
        theirs.in_proj_bias.copy_(torch.cat([ours.queries.bias, ours.keys.bias, ours.values.bias]))
        theirs.out_proj.load_state_dict(ours.out.state_dict())
    tokens = torch.randn(2, 5, 32)
    torch.testing.assert_close(
        ours(tokens), theirs(tokens, tokens, tokens, need_weights=False)[0], rtol=1e-4, atol=1e-5
    )


def test_order_of_patches_matters_through_positions_alone() -> None:
    torch.manual_seed(0)
    model = ViT(8, 1, 3, patch_size=4, **SMALL).eval()
    nn.init.normal_(model.head.weight)
    pictures = torch.randn(2, 1, 8, 8)
    swapped = torch.cat([pictures[..., 4:], pictures[..., :4]], -1)
    assert not torch.allclose(model(pictures), model(swapped))
    model.positions.zero_()
    torch.testing.assert_close(model(pictures), model(swapped))


def test_sincos_positions_are_those_of_the_paper() -> None:
    table = sincos_positions(2, 3, 8)  # frequencies 1 and 1/10,000
    column, row = 2, 1
    across, down = torch.tensor([column, column / 10_000]), torch.tensor([row, row / 10_000])
    expected = torch.cat([across.sin(), across.cos(), down.sin(), down.cos()])
    torch.testing.assert_close(table[row * 3 + column], expected)
    assert len(table.unique(dim=0)) == 6


def test_fixed_positions_are_not_saved() -> None:
    assert "positions" not in ViT(8, 1, 3, **SMALL).state_dict()
    assert "positions" in ViT(8, 1, 3, positions="learned", **SMALL).state_dict()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"image_size": 28, "patch_size": 5},
            "patch_size=5 does not divide pictures of 28x28. It may be 1, 2, 4, 7, 14",
        ),
        ({"width": 30, "num_heads": 4}, "width=30 must be a multiple of 4. model.width=32"),
        ({"width": 30, "num_heads": 3}, "width=30 must be a multiple of 12. model.width=36"),
        ({"pool": "maen"}, "pool cannot be 'maen'. Did you mean 'mean'"),
        ({"positions": "sincso"}, "positions cannot be 'sincso'. Did you mean 'sincos'"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_in_one_line(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ViT(**arguments)  # type: ignore[arg-type]
