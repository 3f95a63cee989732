"""The Bayesian ensemble: closed forms of dropout, members that learn alone, and a prior that is SciPy's."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import special, stats
from torch import nn

from evaluation.uncertainty import predictive_parts
from models.bayesian_ensemble import BayesianEnsemble, mixed

FIELDS = ("redshift", "ra", "dec")


@pytest.mark.parametrize("channels, side", [(1, (32, 32)), (5, (41, 41)), (1, (45, 64)), (5, (101, 101))])
def test_any_bands_and_any_size(channels, side):
    network = BayesianEnsemble("small", channels, 3).eval()
    x = torch.randn(2, channels, *side)
    features = network.features(x)
    assert features.shape == (2, network.feature_dim) == (2, 320)
    assert network(x).shape == (2, 3) and torch.equal(network(x), network.classify(features))


def test_the_base_size_has_640_features():
    with torch.device("meta"):
        assert BayesianEnsemble("base").feature_dim == 640


def test_logit_of_the_mean_probability():
    logit = torch.randn(50, 2, 3, dtype=torch.float64) * 5
    assert np.allclose(mixed(logit).numpy(), special.logit(special.expit(logit.numpy()).mean(1)), atol=1e-10)
    # expit has no digits left there
    extreme = torch.tensor([[[80.0], [90.0]], [[-200.0], [-300.0]]], dtype=torch.float64)
    expected = np.array([80 + np.log(2), -200 - np.log(2)])  # the less sure, the surer of two
    assert np.allclose(mixed(extreme)[:, 0].numpy(), expected, atol=1e-4)


def test_posterior_samples_differ_and_follow_the_seed():
    network, x = (
        BayesianEnsemble("small", 5, dropout=0.2, drop_path_rate=0.5).train(),
        torch.randn(3, 5, 41, 41),
    )
    before = [module.training for module in network.modules()]
    draws = []
    for _ in range(2):
        torch.manual_seed(3)
        draws.append(network.posterior(x, 4))
    assert draws[0].shape == (4, 2, 3) and torch.equal(*draws) and not draws[0].requires_grad
    assert (draws[0].std(0) > 0).all()
    assert [module.training for module in network.modules()] == before


def test_without_dropout_the_posterior_is_a_point_also_for_a_network_in_training():
    network, x = (
        BayesianEnsemble("small", 1, dropout=0.0, drop_path_rate=0.5).train(),
        torch.randn(3, 1, 41, 41),
    )
    draws = network.posterior(x, 3)
    network.eval()
    assert torch.equal(draws[0], draws[2])
    assert torch.allclose(draws[0].T, network.inferred(x)[1]["member_logit"], atol=1e-6)
    parts = predictive_parts(draws[:, 0])
    assert parts["epistemic"].max() < 1e-12


def test_dropout_before_a_classifier_has_the_variance_of_its_closed_form():
    """sum_i w_i f_i d_i / (1 - p) with d_i Bernoulli(1 - p): mean of the logit without dropout,
    variance p / (1 - p) sum (w_i f_i)^2.
    """
    network, x, p = BayesianEnsemble("small", 1, dropout=0.3).eval(), torch.randn(1, 1, 32, 32), 0.3
    for module in network.modules():
        if isinstance(module, (nn.Dropout, nn.Dropout2d)) and module is not network.head.drop:
            module.p = 0.0
    with torch.no_grad():
        features = network.features(x)
        draws = network.head.train().each(features.expand(20000, -1))[:, :, 0]
        # 800 draws: 5 standard errors
        samples = network.posterior(x.expand(400, -1, -1, -1), 2)[:, 0].flatten()
        variances = []
        for member, (head, part) in enumerate(
            zip(network.head.members, features.split(network.head.widths, 1))
        ):
            variances.append((p / (1 - p) * (head.weight * part) ** 2).sum())
            assert abs(draws[:, member].mean() - head(part)) < 5 * (variances[-1] / 20000).sqrt()
            assert draws[:, member].var().item() == pytest.approx(variances[-1].item(), rel=0.06)
        assert samples.var().item() == pytest.approx(variances[0].item(), rel=0.25)


def test_the_mean_of_the_members_losses_trains_each_alone():
    """A member beside another has the gradient that it has alone, with its own classifier."""
    network, x, label = (
        BayesianEnsemble("small", 1, dropout=0.0).train(),
        torch.randn(4, 1, 41, 41),
        torch.tensor([0.0, 1, 1, 0]),
    )
    logit = network.inferred(x)[1]["member_logit"]
    assert logit.shape == (4, 2)
    F.binary_cross_entropy_with_logits(logit, label[:, None].expand(4, 2), reduction="none").mean(
        1
    ).sum().backward()
    for member, head in zip((network.resnet, network.vit), network.head.members):
        ours = [*member.parameters(), *head.parameters()]
        alone = (
            F.binary_cross_entropy_with_logits(head(member.features(x)).squeeze(1), label, reduction="sum")
            / 2
        )
        for parameter, expected in zip(ours, torch.autograd.grad(alone, ours)):
            assert torch.allclose(parameter.grad, expected, atol=1e-5)


def test_the_prior_is_scipys_normal_density():
    network = BayesianEnsemble("small", prior_deviation=0.3)
    weights = [w for w in network.parameters() if w.ndim > 1]
    density = stats.norm(scale=0.3)
    expected = -sum(
        density.logpdf(w.detach().double().numpy()).sum() - w.numel() * density.logpdf(0) for w in weights
    )
    energy = network.prior_energy()
    assert energy.item() == pytest.approx(expected, rel=1e-5)
    energy.backward()
    assert all(torch.allclose(w.grad, w / 0.09) for w in weights)
    assert all(p.grad is None for p in network.parameters() if p.ndim <= 1)
    x = torch.randn(3, 1, 32, 32)
    said = network.train().inferred(x)[1]
    assert (
        torch.allclose(said["prior"], energy.expand(3))
        and "prior" not in BayesianEnsemble(prior_deviation=float("inf")).inferred(x)[1]
    )
    assert "prior" not in network.eval().inferred(x)[1] and torch.equal(
        network.inferred(x)[1]["logit"], network(x)[:, 0]
    )


def test_examples_are_apart_and_permute():
    network = BayesianEnsemble("small", fields=FIELDS).eval()
    nn.init.normal_(network.vit.metadata.linear.weight, std=0.3)
    x, values, present = torch.randn(4, 1, 41, 41), torch.rand(4, 3), torch.rand(4, 3) < 0.7
    whole, order = network(x, values, present), torch.tensor([2, 0, 3, 1])
    assert torch.allclose(network(x[order], values[order], present[order]), whole[order], atol=1e-5)
    assert torch.allclose(network(x[1:2], values[1:2], present[1:2]), whole[1:2], atol=1e-5)
    assert not torch.allclose(network(x, values + 1, present), whole)


def test_state_dict_round_trip():
    first, second = (
        BayesianEnsemble("small", fields=FIELDS).eval(),
        BayesianEnsemble("small", fields=FIELDS).eval(),
    )
    first.fit(np.random.default_rng(0).random((20, 3)), np.ones((20, 3), bool))
    second.load_state_dict(first.state_dict())
    batch = torch.randn(2, 1, 41, 41), torch.rand(2, 3), torch.ones(2, 3, dtype=torch.bool)
    assert torch.equal(second(*batch), first(*batch))


def test_every_parameter_gets_a_gradient():
    network = BayesianEnsemble("small", fields=FIELDS, drop_path_rate=0.5).train()
    for answer in (
        lambda *batch: network(*batch),
        lambda *batch: network.inferred(*batch)[1]["member_logit"],
    ):
        network.zero_grad(set_to_none=True)
        answer(
            torch.randn(2, 1, 41, 41), torch.rand(2, 3), torch.ones(2, 3, dtype=torch.bool)
        ).sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize("fields", [(), FIELDS])
def test_per_example_gradients_are_those_of_single_examples(fields):
    opacus = pytest.importorskip("opacus")
    network = BayesianEnsemble("small", fields=fields, dropout=0.0).train()
    x, extra = (
        torch.randn(3, 1, 41, 41),
        (torch.rand(3, 3), torch.tensor([[True] * 3, [False] * 3, [True, False, True]])) if fields else (),
    )
    singles = [
        torch.autograd.grad(network(*(t[i : i + 1] for t in (x, *extra))).sum(), list(network.parameters()))
        for i in range(3)
    ]
    wrapped = opacus.GradSampleModule(copy.deepcopy(network), force_functorch=True, loss_reduction="sum")
    wrapped(x, *extra).sum().backward()
    for number, (name, parameter) in enumerate(wrapped.named_parameters()):
        for i in range(3):
            difference = (parameter.grad_sample[i] - singles[i][number]).norm()
            assert difference <= 1e-4 * singles[i][number].norm() + 1e-7, name


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="'smal'.*nearest: small"):
        BayesianEnsemble("smal")
    with pytest.raises(ValueError, match="prior_deviation 0"):
        BayesianEnsemble(prior_deviation=0)
    with pytest.raises(ValueError, match=r"expected \[B, 1, H, W\]"):
        BayesianEnsemble()(torch.zeros(1, 2, 41, 41))
