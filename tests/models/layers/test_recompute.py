"""Recomputed activations: the same bits, and less memory."""

import pytest
import torch

from model import MODELS, create_model
from models.layers.recompute import recompute

ABLE = [
    ("convnextv2", dict(size="atto")),
    ("robust_resnet", dict(size="18", width=0.25)),
    ("enhanced_vit", dict(size="tiny")),
    ("bayesian_ensemble", dict(size="small", prior_deviation=float("inf"))),
    ("film_conditioned", dict(size="18", width=0.25)),
]


def gradient(network, x):
    torch.manual_seed(3)
    network.zero_grad()
    network(x).square().sum().backward()
    return [p.grad.clone() for p in network.parameters()]


@pytest.mark.parametrize("name,options", ABLE)
def test_no_bit_of_the_gradient_changes(name, options):
    """Also with stochastic depth, whose draws must be the same."""
    torch.manual_seed(0)
    network, x = (
        create_model(name, in_chans=2, drop_path_rate=0.3, **options).train(),
        torch.randn(4, 2, 41, 41),
    )
    kept = gradient(network, x)
    assert all(torch.equal(*pair) for pair in zip(kept, gradient(recompute(network), x)))


@pytest.mark.parametrize("name,options", ABLE)
def test_less_is_kept(name, options):
    """Bytes that autograd saves for the backward pass."""
    network, x = create_model(name, in_chans=2, **options).train(), torch.randn(4, 2, 41, 41)

    def saved() -> int:
        kept = {}
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t: kept.update({t.data_ptr(): t.numel()}) or t, lambda t: t
        ):
            network(x)
        return sum(kept.values())

    before = saved()
    recompute(network)
    assert saved() < 0.6 * before


def test_a_network_that_cannot_says_so():
    assert "timm" in MODELS
    with pytest.raises(ValueError, match="cannot recompute"):
        recompute(torch.nn.Linear(2, 2))
