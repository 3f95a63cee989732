"""Parts of predictive uncertainty against closed forms, SciPy's entropy and quadrature."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from evaluation.uncertainty import predictive_parts


def test_samples_that_agree_leave_no_epistemic_part():
    logit = torch.linspace(-30, 30, 41)[None].expand(7, -1)
    parts = predictive_parts(logit)
    assert parts["epistemic"].abs().max() < 1e-15 and parts["variance_epistemic"].max() < 1e-30
    assert torch.allclose(parts["total"], parts["aleatoric"], rtol=1e-12, atol=0)
    assert parts["total"][20] == pytest.approx(math.log(2), abs=1e-15)


def test_certain_samples_that_contradict_each_other_are_all_epistemic():
    parts = predictive_parts(torch.tensor([[60.0], [-60.0]]))
    assert parts["prob"].item() == 0.5 and parts["epistemic"].item() == pytest.approx(math.log(2), abs=1e-15)
    assert parts["aleatoric"].item() < 1e-23 and parts["variance_aleatoric"].item() < 1e-23
    assert parts["variance"].item() == parts["variance_epistemic"].item() == 0.25


def test_entropies_are_scipys():
    logit = torch.randn(20, 50, dtype=torch.float64) * 3
    p = 1 / (1 + np.exp(-logit.numpy()))
    parts = {name: part.numpy() for name, part in predictive_parts(logit).items()}
    assert np.allclose(parts["prob"], p.mean(0), atol=1e-15)
    assert np.allclose(parts["total"], stats.entropy([p.mean(0), 1 - p.mean(0)]), atol=1e-13)
    assert np.allclose(parts["aleatoric"], stats.entropy([p, 1 - p]).mean(0), atol=1e-13)
    assert np.allclose(parts["variance_epistemic"], p.var(0), atol=1e-15)


def test_parts_add_up_and_lie_where_they_can():
    for spread in (0.01, 1, 30):
        parts = predictive_parts(torch.randn(20, 200) * spread)
        assert all(
            part.dtype == torch.float64 and part.isfinite().all() and (part >= 0).all()
            for part in parts.values()
        )
        assert torch.allclose(parts["aleatoric"] + parts["epistemic"], parts["total"], rtol=0, atol=1e-14)
        assert torch.allclose(
            parts["variance_aleatoric"] + parts["variance_epistemic"], parts["variance"], rtol=0, atol=1e-15
        )
        assert parts["total"].max() <= math.log(2) + 1e-15


def test_small_disagreement_is_the_variance_over_twice_that_of_the_label():
    """The limit of mutual information: Var(p) / (2 p (1 - p))."""
    parts = predictive_parts(0.4 + 1e-4 * torch.randn(1000, 1, dtype=torch.float64))
    assert parts["epistemic"].item() == pytest.approx(
        (parts["variance_epistemic"] / (2 * parts["variance"])).item(), rel=1e-3
    )


def test_a_normal_posterior_by_quadrature():
    """Samples at quantiles of a normal logit, against integrals over it."""
    quantiles = stats.norm.ppf((np.arange(20000) + 0.5) / 20000)
    parts = predictive_parts(torch.from_numpy(1 + 2 * quantiles)[:, None])

    def mean(of):
        return integrate.quad(lambda z: of(1 / (1 + np.exp(-1 - 2 * z))) * stats.norm.pdf(z), -12, 12)[0]

    assert parts["prob"].item() == pytest.approx(mean(lambda p: p), abs=1e-4)
    assert parts["aleatoric"].item() == pytest.approx(mean(lambda p: stats.entropy([p, 1 - p])), abs=1e-4)


def test_examples_that_are_sure_keep_their_digits():
    parts = predictive_parts(torch.tensor([[-50.0], [-52.0]]))
    p = np.array([math.exp(-50), math.exp(-52)])
    assert parts["prob"].item() == pytest.approx(p.mean(), rel=1e-12)
    # p - p ln p
    assert parts["total"].item() == pytest.approx(p.mean() * (1 - math.log(p.mean())), rel=1e-12)


def test_shares_count_as_so_many_equal_samples():
    logit = torch.randn(3, 40, dtype=torch.float64) * 5
    repeated = predictive_parts(logit[[0, 1, 1, 2, 2, 2]])
    shared = predictive_parts(logit, torch.tensor([[1.0], [2.0], [3.0]]).double().expand(3, 40) / 6)
    for name, part in repeated.items():
        assert torch.allclose(shared[name], part, rtol=0, atol=1e-15), name


def test_shapes_that_are_no_samples():
    for shape in ([5], [0, 5], [2, 3, 4]):
        with pytest.raises(ValueError, match=r"expected \[S, B\]"):
            predictive_parts(torch.zeros(shape))
