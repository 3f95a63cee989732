"""FiLM: nothing known is the plain ResNet to the bit, what is known is used,
and an example is judged by itself.
"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models.film_conditioned import FiLMConditioned, HideFields
from models.resnet import ResNet

FIELDS = ("redshift", "seeing", "ra")


def conditioned(**options) -> FiLMConditioned:
    """As after training: nothing is zero."""
    network = FiLMConditioned("18", **dict(in_chans=2, width=0.125, fields=FIELDS, hidden=8) | options)
    for parameter in network.parameters():
        if parameter.ndim == 1 or not parameter.any():
            nn.init.normal_(parameter, 0.2, 0.3)
    return network.eval()


def inputs(B=4, pixels=(41, 41)):
    return torch.randn(B, 2, *pixels), torch.randn(B, 3), torch.rand(B, 3) < 0.7


def plain_of(network: FiLMConditioned) -> ResNet:
    plain = ResNet("18", 2, width=0.125)
    plain.load_state_dict(
        {name: t for name, t in network.state_dict().items() if not name.startswith(("film", "standardise"))},
        strict=True,
    )
    return plain.eval()


def test_nothing_known_is_the_plain_network_to_the_bit():
    network, (x, values, present) = conditioned(), inputs()
    plain = plain_of(network)(x)
    nothing = torch.zeros_like(present)
    for absent in (values, torch.full_like(values, float("nan")), torch.full_like(values, 1e30)):
        assert torch.equal(network(x, absent, nothing), plain)
    assert torch.equal(network(x), plain)
    present[:] = True
    present[1] = False  # one example of a batch
    mixed = network(x, values, present)
    assert (
        torch.allclose(mixed[1], plain[1], atol=1e-6)
        and (mixed[[0, 2, 3]] - plain[[0, 2, 3]]).abs().min() > 1e-4
    )


def test_without_fields_and_without_stages():
    x, values, present = inputs()
    for options in (dict(fields=()), dict(film_stages=())):
        network = conditioned(**options)
        assert torch.equal(network(x, values, present), plain_of(network)(x))
    assert not [
        name for name in conditioned(fields=()).state_dict() if "film" in name or "standardise" in name
    ]
    conditioned(fields=()).fit(np.zeros((3, 0)), np.zeros((3, 0), bool))


def test_begins_as_the_plain_network_and_gamma_and_beta_learn():
    network, (x, values, present) = (
        FiLMConditioned("18", 2, width=0.125, fields=FIELDS, metadata_dropout=0).eval(),
        inputs(),
    )
    assert torch.equal(network(x, values, present), plain_of(network)(x))
    network(x, values, present).square().sum().backward()
    assert all(layer.weight.grad.any() and layer.bias.grad.any() for layer in network.film.values())


def test_equation_on_one_stage():
    """With the last stage alone, features are (1 + gamma) times the plain ones plus beta."""
    network, (x, values, _) = conditioned(film_stages=(4,)), inputs()
    with torch.no_grad():
        network.film["4"].weight.zero_()
    gamma, beta = network.film["4"].bias.chunk(2)
    expected = (1 + gamma) * plain_of(network).features(x) + beta
    assert torch.allclose(
        network.features(x, values, torch.ones(4, 3, dtype=torch.bool)), expected, atol=1e-5
    )


@pytest.mark.parametrize("stages", [(1,), (2, 4), (2, 3, 4)])
def test_only_the_stages_that_are_asked_for(stages):
    network, (x, values, _) = conditioned(film_stages=stages), inputs()
    plain, seen, there = plain_of(network), {}, torch.ones(4, 3, dtype=torch.bool)
    for name, n in (("plain", plain), ("film", network)):
        for number in range(1, 5):
            getattr(n, f"layer{number}").register_forward_hook(
                lambda _, __, out, at=(name, number): seen.__setitem__(at, out)
            )
    plain(x), network(x, values, there)
    for number in range(1, 5):
        assert torch.equal(seen["plain", number], seen["film", number]) == (number <= stages[0])


def test_units_do_not_matter_after_fit():
    network, (x, values, present) = conditioned(), inputs(200, (32, 32))
    scale, zero = torch.tensor([1000.0, 0.01, 360.0]), torch.tensor([-5.0, 3.0, 180.0])
    network.fit(values.numpy(), present.numpy())
    one = network(x[:8], values[:8], present[:8])
    other_units = torch.where(present, values * scale + zero, float("nan"))
    network.fit(other_units.numpy(), present.numpy())
    assert torch.allclose(network(x[:8], other_units[:8], present[:8]), one, atol=1e-4)
    again = conditioned()
    again.load_state_dict(network.state_dict())
    assert torch.equal(
        again(x[:8], other_units[:8], present[:8]), network(x[:8], other_units[:8], present[:8])
    )


def test_metadata_are_hidden_as_often_as_asked():
    hide, present = HideFields(0.2).train(), torch.ones(20000, 3, dtype=torch.bool)
    present[:, 2] = False
    kept = hide(present)
    assert kept[:, :2].float().mean().item() == pytest.approx(0.64, abs=0.01) and not kept[:, 2].any()
    # nothing left: all at once, or both fields by themselves
    assert (~kept.any(1)).float().mean().item() == pytest.approx(0.2 + 0.8 * 0.04, abs=0.01)
    assert torch.equal(hide.eval()(present), present) and torch.equal(HideFields(0).train()(present), present)


def test_metadata_that_decide_are_learnt_and_their_absence_is_borne():
    """The label is the sign of the image's mean times that of a metadatum,
    which a term of the logit could not learn.
    """
    torch.manual_seed(1)
    sign, field = torch.randint(2, (256,)) * 2.0 - 1, torch.randint(2, (256,)) * 2.0 - 1
    x = torch.randn(256, 1, 32, 32) + 0.5 * sign[:, None, None, None]
    values, present, label = (
        3 * field[:, None] + 100,
        torch.ones(256, 1, dtype=torch.bool),
        (sign * field > 0).float(),
    )
    network = FiLMConditioned("18", 1, width=0.125, fields=("redshift",))
    network.fit(values.numpy(), present.numpy())
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    for _ in range(60):
        batch = torch.randint(256, (64,))
        optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(
            network(x[batch], values[batch], present[batch]).squeeze(1), label[batch]
        ).backward()
        optimizer.step()
    network.eval()
    with torch.no_grad():
        known, unknown = network(x, values, present).squeeze(1), network(x, values, ~present).squeeze(1)
    assert ((known > 0) == (label > 0.5)).float().mean() > 0.95
    assert F.binary_cross_entropy_with_logits(unknown, label) < 0.8  # log 2 is the best without the field


def test_an_output_does_not_depend_on_its_neighbours():
    network, (x, values, present), order = conditioned(), inputs(5), torch.tensor([3, 1, 4, 0, 2])
    together = network(x, values, present)
    assert torch.allclose(network(x[order], values[order], present[order]), together[order], atol=1e-5)


@pytest.mark.parametrize("size", ["18", "34"])
@pytest.mark.parametrize("pixels", [(32, 32), (45, 64), (101, 101)])
def test_any_pixels(size, pixels):
    network, (x, values, present) = (
        FiLMConditioned(size, 2, 3, width=0.125, fields=FIELDS).eval(),
        inputs(2, pixels),
    )
    features = network.features(x, values, present)
    assert features.shape == (2, network.feature_dim) and torch.equal(
        network.classify(features), network(x, values, present)
    )


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
def test_per_example_gradients():
    from opacus import GradSampleModule

    # Opacus looks in training only
    network, (x, values, present) = conditioned(metadata_dropout=0).double().train(), inputs()
    present[0] = False
    x, values = x.double(), values.double()
    hooks = GradSampleModule(network, loss_reduction="sum", force_functorch=True)
    hooks(x, values, present).square().sum().backward()
    together = {name: p.grad_sample for name, p in network.named_parameters()}
    hooks.disable_hooks()
    for i in range(4):
        network.zero_grad()
        network(x[i : i + 1], values[i : i + 1], present[i : i + 1]).square().sum().backward()
        assert all(
            torch.allclose(together[name][i], p.grad, atol=1e-9) for name, p in network.named_parameters()
        )


def test_mistakes_are_named():
    for options, message in (
        (dict(film_stages=(5,)), "stages"),
        (dict(metadata_dropout=1.0), "rate"),
        (dict(size="99"), "no size"),
        (dict(hidden=0), "width of at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            FiLMConditioned(**options)
    x, values, present = inputs()
    with pytest.raises(ValueError, match="redshift, seeing, ra"):
        conditioned()(x, values[:, :2], present[:, :2])
