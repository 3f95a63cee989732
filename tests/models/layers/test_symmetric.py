"""Symmetric layers against kernels turned one by one with torch.rot90,
and networks of them against images turned.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models.bayesian_ensemble import BayesianEnsemble
from models.film_conditioned import FiLMConditioned
from models.layers.augment import dihedral
from models.layers.symmetric import (
    ORDER,
    SymmetricConv2d,
    SymmetricMaxPool2d,
    SymmetricNorm,
    after,
    each_channel,
    places,
    turned,
    unturned,
)
from models.pinn_lens import PinnLens
from models.resnet import ResNet
from physics.lens_parameters import GEOMETRY, turn


def moved(network: nn.Module) -> nn.Module:
    """With weights that hide nothing: the last norm of a block begins at zero."""
    generator = torch.Generator().manual_seed(1)
    for parameter in network.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return network.eval()


def turned_maps(x: torch.Tensor, k: int) -> torch.Tensor:
    """Maps [B, 8 F, H, H] of the image turned by k: each field's channels in their new places,
    and their pixels too.
    """
    fields = dihedral(x.flatten(0, 1)[:, None], k).view(len(x), -1, ORDER, *x.shape[2:])
    return torch.stack([fields[:, :, after()[k].index(g)] for g in range(ORDER)], 2).flatten(1, 2)


def test_symmetries_follow_each_other():
    x = torch.randn(1, 1, 5, 5)
    for a in range(ORDER):
        assert sorted(after()[a]) == list(range(ORDER))
        for b in range(ORDER):
            assert torch.equal(dihedral(dihedral(x, b), a), dihedral(x, after()[a][b]))


def test_first_kernels_are_those_of_the_image_turned():
    """All eight, as torch turns and mirrors them."""
    layer, x = SymmetricConv2d(2, 8, 3, first=True), torch.randn(3, 2, 9, 9)
    kernel, out = layer.weight.view(1, 2, 3, 3), layer(x)
    expected = [
        F.conv2d(x, torch.rot90(mirrored, quarter, (2, 3)), padding=1)
        for mirrored in (kernel, kernel.flip(3))
        for quarter in range(4)
    ]
    found = {
        next(n for n, y in enumerate(expected) if torch.allclose(out[:, g : g + 1], y, atol=1e-6))
        for g in range(ORDER)
    }
    assert found == set(range(8))


@pytest.mark.parametrize("stride, side", [(1, 9), (2, 9), (2, 12), (2, 6)])
@pytest.mark.parametrize("kernel", [1, 3, 7])
@pytest.mark.parametrize("first", [True, False])
def test_maps_turn_with_the_image(first, kernel, stride, side):
    layer = SymmetricConv2d(3 if first else 24, 16, kernel, stride, first)
    x = torch.randn(2, 3 if first else 24, side, side)
    y = layer(x)
    assert y.shape == (2, 16, -(-side // stride), -(-side // stride))
    for k in range(ORDER):
        assert torch.allclose(
            layer(dihedral(x, k) if first else turned_maps(x, k)), turned_maps(y, k), atol=1e-5
        )


@pytest.mark.parametrize("side", [7, 8])
def test_norm_and_pool_turn_with_the_image(side):
    x, pool, norm = torch.randn(2, 16, side, side), SymmetricMaxPool2d(), moved(SymmetricNorm(16))
    for k in range(ORDER):
        assert torch.equal(pool(turned_maps(x, k)), turned_maps(pool(x), k))
        assert torch.allclose(norm(turned_maps(x, k)), turned_maps(norm(x), k), atol=1e-5)
        assert torch.allclose(unturned(turned_maps(x, k).mean((2, 3))), unturned(x.mean((2, 3))), atol=1e-6)


def test_norm_is_group_norm():
    """Of whole fields: torch's own, were each channel's scale and offset its field's."""
    norm = moved(SymmetricNorm(48))
    theirs = nn.GroupNorm(2, 48)
    theirs.load_state_dict(dict(weight=each_channel(norm.weight), bias=each_channel(norm.bias)))
    x = torch.randn(2, 48, 5, 5)
    assert norm.groups == 2 and torch.allclose(norm(x), theirs(x), atol=1e-6)


@pytest.mark.parametrize("side, channels", [(3, ORDER), (3, 1), (1, ORDER)])
def test_gradient_of_turning(side, channels):
    x = torch.randn(2, channels * side**2, dtype=torch.float64, requires_grad=True)
    assert turned(x, side, channels).shape == (2, ORDER, channels * side**2)
    assert torch.autograd.gradcheck(lambda x: turned(x, side, channels), x)
    weight = torch.randn(2, ORDER, channels * side**2, dtype=torch.float64)
    (ours,) = torch.autograd.grad((turned(x, side, channels) * weight).sum(), x)
    # that of indexing
    (theirs,) = torch.autograd.grad((x[..., places(side, channels, x.device)[0]] * weight).sum(), x)
    assert torch.allclose(ours, theirs, atol=1e-14)


@pytest.mark.parametrize("size, stem", [("18", "fine"), ("50", "patch")])
@pytest.mark.parametrize("side", [41, 48, 64])
def test_logits_of_a_resnet_stay_and_its_maps_turn(size, stem, side):
    network, x = (
        moved(ResNet(size, 2, 3, width=0.25, stem=stem, symmetric=True)).double(),
        torch.randn(2, 2, side, side, dtype=torch.float64),
    )
    logit, maps = network(x), network.maps(x)
    plain = ResNet(size, 2, 3, width=0.25, stem=stem)
    assert maps.shape == plain.maps(x.float()).shape and network.feature_dim == plain.feature_dim
    assert logit.std() > 1e-3
    for k in range(ORDER):
        assert torch.allclose(network(dihedral(x, k)), logit, atol=1e-12)
        assert torch.allclose(network.maps(dihedral(x, k)), turned_maps(maps, k), atol=1e-12)
    assert not torch.allclose(plain.double()(dihedral(x, 1)), plain(x), atol=1e-6)


def test_a_side_that_differs_from_the_other():
    network, x = moved(ResNet("18", 2, width=0.25, symmetric=True)), torch.randn(2, 2, 45, 64)
    for same in (x.flip(2), x.flip(3), x.transpose(2, 3)):
        assert torch.allclose(network(same), network(x), atol=1e-5)


def test_an_eighth_of_the_weights_that_begin_as_wide():
    def kernels(network):
        return [p for name, p in network.named_parameters() if "conv" in name]

    symmetric, plain = (kernels(ResNet("18", 2, width=0.5, symmetric=each)) for each in (True, False))
    assert [ORDER * a.numel() for a in symmetric] == [b.numel() for b in plain]
    assert all(
        a.std().item() == pytest.approx(b.std().item(), rel=0.15)
        for a, b in zip(symmetric, plain)
        if a.numel() > 500
    )


def test_metadata_change_all_channels_of_a_field_alike():
    network = moved(FiLMConditioned("18", 2, width=0.25, symmetric=True, fields=("redshift", "seeing")))
    x, values, present = torch.randn(3, 2, 41, 41), torch.randn(3, 2), torch.ones(3, 2, dtype=torch.bool)
    logit = network(x, values, present)
    assert not torch.allclose(logit, network(x), atol=1e-4)
    assert all(
        torch.allclose(network(dihedral(x, k), values, present), logit, atol=1e-5) for k in range(ORDER)
    )


def test_dropout_takes_whole_fields():
    network = BayesianEnsemble("small", 2, symmetric=True, dropout=0.5).resnet
    x = torch.ones(32, 16, 3, 3)  # 64 fields, so that some stay and some go
    dropped = network.train().dropped(x)
    assert set(dropped.unique().tolist()) == {0.0, 2.0}
    assert (dropped.view(32, 2, -1).std(2) == 0).all()
    network, image = moved(network), torch.randn(2, 2, 41, 41)
    assert all(
        torch.allclose(network.features(dihedral(image, k)), network.features(image), atol=1e-5)
        for k in range(ORDER)
    )


@pytest.mark.parametrize("side", [41, 48])
def test_geometry_turns_and_the_decision_of_pinn_lens_stays(side):
    network, x = moved(PinnLens("small", 2)), torch.randn(2, 2, side, side)
    with torch.no_grad():
        features, said = network.inferred(x)
        assert (said["mean"] - network.quantity_head.centre).abs().max() > 0.01
        for k in range(1, ORDER):
            also, then = network.inferred(dihedral(x, k))
            assert torch.allclose(also, features, atol=1e-4)
            for name in ("mean", "variance"):
                assert torch.allclose(
                    then[name],
                    turn(GEOMETRY, said[name], torch.full((2,), k), signed=name == "mean"),
                    atol=1e-5,
                )
            assert torch.allclose(then["arcs"], dihedral(said["arcs"], k), atol=1e-4)


def test_channels_that_are_no_whole_fields_are_named():
    with pytest.raises(ValueError, match="multiples of 8"):
        SymmetricConv2d(8, 12, 3)
