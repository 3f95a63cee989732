"""Losses of light curves: against scipy, their integrals and limits, and at points that are not there."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from losses.vae import (
    kl_gaussian,
    kl_weight,
    poisson_deviance,
    poisson_nll,
    scattered_poisson_nll,
    split_normal_nll,
    squared_error,
    student_t_nll,
    sum_observed,
)


def f64(x):
    return torch.as_tensor(x, dtype=torch.float64)


def slope(loss, at):
    at = f64(at).requires_grad_()
    return torch.autograd.grad(loss(at).sum(), at)[0]


def test_kl_against_torch():
    mean, logvar = torch.randn(5, 7), torch.randn(5, 7)
    theirs = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, (logvar / 2).exp()), torch.distributions.Normal(0, 1)
    )
    assert torch.allclose(kl_gaussian(mean, logvar), theirs.sum(1), rtol=1e-5)
    assert kl_gaussian(torch.zeros(2, 3), torch.zeros(2, 3)).tolist() == [0, 0]
    assert kl_gaussian(mean.bfloat16(), logvar.bfloat16()).dtype == torch.float32


def test_kl_near_the_prior_is_not_rounded_away():
    mean, logvar = torch.full((1, 1), 1e-4), torch.full((1, 1), 1e-3)
    assert kl_gaussian(mean, logvar).item() == pytest.approx(0.5 * (1e-8 + 1e-6 / 2 + 1e-9 / 6), rel=1e-3)


def test_defect_04_kl_has_its_half():
    """A formula without the half is twice the integral of q ln(q / p)."""
    mu, s = 0.7, 1.6
    q, p = stats.norm(mu, s), stats.norm(0, 1)
    true = integrate.quad(lambda x: q.pdf(x) * (q.logpdf(x) - p.logpdf(x)), -15, 15)[0]
    assert kl_gaussian(f64([[mu]]), f64([[2 * math.log(s)]])).item() == pytest.approx(true, rel=1e-7)


def test_free_nats_are_a_floor_for_each_latent():
    mean = torch.tensor([[0.1, 2.0], [0.0, 0.0]], requires_grad=True)
    value = kl_gaussian(mean, torch.zeros(2, 2), free_nats=0.5)
    assert value.tolist() == pytest.approx([0.5 + 2.0, 1.0])
    value.sum().backward()
    assert mean.grad.tolist() == [[0, 2], [0, 0]]  # a latent with nats to spare is not pulled to the prior


def test_kl_weight():
    assert [kl_weight(step, 10, 0.5) for step in (0, 1, 5, 10, 1000)] == pytest.approx(
        [0, 0.05, 0.25, 0.5, 0.5]
    )
    assert kl_weight(0, 0) == 1.0


def test_poisson_against_scipy():
    counts, expected = np.meshgrid([0, 1, 2, 10, 1e3, 1e5], [1e-9, 0.3, 1, 9.5, 1e3, 1.003e5])
    ours = poisson_nll(f64(counts), f64(expected))
    assert np.allclose(ours, -stats.poisson.logpmf(counts, expected), rtol=1e-10, atol=1e-9)
    single = poisson_nll(torch.tensor(1e5), torch.tensor(1.003e5))  # its terms are of order 1e6
    assert single.dtype == torch.float32
    assert single.item() == pytest.approx(-stats.poisson.logpmf(1e5, float(np.float32(1.003e5))), rel=1e-6)


@given(st.floats(1e-3, 50))
@settings(max_examples=20, deadline=None)
def test_poisson_sums_to_one(expected):
    assert torch.exp(-poisson_nll(f64(np.arange(300)), f64(expected))).sum().item() == pytest.approx(
        1, rel=1e-9
    )


@given(st.integers(0, 10**6), st.floats(1e-12, 1e7))
@settings(max_examples=100, deadline=None)
def test_deviance_is_twice_the_distance_to_the_saturated_model(counts, expected):
    counts, expected = f64(float(counts)), f64(expected)
    deviance = poisson_deviance(counts, expected)
    assert deviance >= 0
    assert poisson_deviance(counts, counts) == 0
    nll = poisson_nll(counts, expected)
    assert torch.allclose(deviance, 2 * (nll - poisson_nll(counts, counts)), rtol=1e-9, atol=1e-8)


def test_zeros_are_welcome():
    zero, three = f64(0.0), f64(3.0)
    assert poisson_nll(zero, zero) == 0 and poisson_deviance(zero, zero) == 0
    assert poisson_nll(zero, three) == 3 and poisson_deviance(zero, three) == 6
    assert slope(lambda mu: poisson_nll(zero, mu), 0.0) == 1
    assert poisson_nll(three, zero) == math.inf and poisson_nll(f64(-1.0), three) == math.inf


def test_deviance_of_a_true_model_is_about_one():
    counts = torch.poisson(torch.full((20000,), 200.0))
    assert poisson_deviance(counts, torch.tensor(200.0)).mean().item() == pytest.approx(1, abs=0.04)


def test_defect_05_poisson_takes_counts_and_exposure_once():
    """The minimum over the rate is where exposure * rate + background are the counts:
    nothing is exponentiated on the way.
    """
    counts, exposure, background = f64([0.0, 3, 17, 1000]), f64([10.0, 2, 0.5, 100]), f64([0.0, 1, 2, 30])
    rate = ((counts - background) / exposure).requires_grad_()
    poisson_nll(counts, exposure * rate + background).sum().backward()
    assert torch.allclose(rate.grad[1:], f64(0.0), atol=1e-12)
    assert rate.grad[0] == 10  # no counts: the best rate is 0, at the border
    for factor in (0.99, 1.01):
        away = poisson_nll(counts, exposure * rate * factor + background)
        assert (away >= poisson_nll(counts, exposure * rate + background)).all() and (away[1:] > 0).all()


@pytest.mark.parametrize("expected, stray", [(0.3, 0.5), (4.0, 0.2), (4.0, 4.0), (30.0, 12.0), (200.0, 1e-3)])
def test_scattered_poisson_sums_to_one_and_has_its_mean_and_variance(expected, stray):
    counts = torch.arange(20_000, dtype=torch.float64)
    chance = scattered_poisson_nll(counts, f64(expected), f64(stray)).neg().exp()
    mean = (chance * counts).sum()
    assert chance.sum().item() == pytest.approx(1, abs=3e-6) and mean.item() == pytest.approx(
        expected, rel=3e-6
    )
    assert (chance * (counts - mean) ** 2).sum().item() == pytest.approx(expected + stray**2, rel=1e-5)


def test_scattered_poisson_against_scipy():
    counts, expected, relative = np.meshgrid(
        [0, 1, 2, 10, 1e3, 1e5], [1e-3, 0.3, 1, 9.5, 1e3, 1.003e5], [0.01, 0.3, 1, 3]
    )
    ours = scattered_poisson_nll(f64(counts), f64(expected), f64(relative * expected))
    shape = relative**-2
    assert np.allclose(
        ours, -stats.nbinom.logpmf(counts, shape, shape / (shape + expected)), rtol=1e-6, atol=1e-6
    )
    # a rate of 1.5 that strays by half of it
    drawn = integrate.quad(lambda r: stats.gamma.pdf(r, 4, scale=1.5 / 4) * stats.poisson.pmf(3, r), 0, 30)[0]
    assert math.exp(-scattered_poisson_nll(f64(3), f64(1.5), f64(0.75))) == pytest.approx(drawn, rel=1e-8)


def test_scattered_poisson_without_scatter_is_poisson():
    counts, expected = (
        f64(x) for x in np.meshgrid([0, 1, 2, 10, 1e3, 1e5], [0, 1e-9, 0.3, 1, 9.5, 1e3, 1.003e5])
    )
    for stray in (0.0, 1e-12):
        # elsewhere a model is so wrong that nats do not matter
        near = (counts - expected).abs() < 20 * expected.sqrt() + 3
        ours, theirs = scattered_poisson_nll(counts, expected, f64(stray)), poisson_nll(counts, expected)
        assert torch.allclose(ours[near], theirs[near], rtol=1e-6, atol=2e-3) and torch.equal(
            ours.isinf(), theirs.isinf()
        )


def test_scattered_poisson_slopes():
    """Against finite differences; finite, and none towards the scatter, where there is no scatter;
    what cannot be costs inf.
    """
    counts = f64([0, 1, 4, 30])
    expected, stray = f64([0.2, 1.5, 3.0, 31.0]).requires_grad_(), f64([0.1, 2.0, 0.5, 8.0]).requires_grad_()
    assert torch.autograd.gradcheck(lambda mu, s: scattered_poisson_nll(counts, mu, s), (expected, stray))
    to_expected, to_stray = torch.autograd.grad(
        scattered_poisson_nll(counts, expected, 0 * stray).sum(), (expected, stray)
    )
    assert (to_stray == 0).all() and torch.allclose(to_expected, 1 - counts / expected.detach(), rtol=1e-5)
    one = f64(1.0)
    for wrong in (
        (-one, one, one),
        (one, -one, one),
        (one, one, -one),
        (one, one, one * math.nan),
        (one, 0 * one, one),
    ):
        assert scattered_poisson_nll(*wrong).isinf()
    assert scattered_poisson_nll(0 * one, 0 * one, 0 * one) == 0
    assert scattered_poisson_nll(one.float(), one.float(), one.float()).dtype == torch.float32


def split(rate, datum=2.0, low=0.5, up=1.5, limit=False):
    return split_normal_nll(f64(rate), f64(datum), f64(low), f64(up), torch.tensor(limit))


def test_split_normal_integrates_to_one_and_is_lowest_at_the_datum():
    mass = (
        integrate.quad(lambda m: math.exp(-split(m).item()), -8, 2)[0]
        + integrate.quad(lambda m: math.exp(-split(m).item()), 2, 20)[0]
    )
    assert mass == pytest.approx(1, abs=1e-8)
    rates = torch.linspace(0, 5, 5001, dtype=torch.float64)
    assert rates[split(rates).argmin()].item() == pytest.approx(2)


def test_split_normal_drops_by_half_at_its_error_bars():
    """error_up is where the model is above the datum, error_low where it is below."""
    assert split(2 + 1.5) - split(2.0) == pytest.approx(0.5)
    assert split(2 - 0.5) - split(2.0) == pytest.approx(0.5)


def test_split_normal_with_equal_errors_is_the_normal():
    rates = torch.linspace(-3, 6, 50, dtype=torch.float64)
    assert np.allclose(split(rates, low=0.8, up=0.8), -stats.norm(2, 0.8).logpdf(rates))


def test_upper_limit():
    rates = np.linspace(0, 80, 50)
    assert np.allclose(
        split(rates, datum=0.0, low=0.0, up=1.5, limit=True), -stats.norm.logcdf((1.5 - rates) / 1.5)
    )
    assert split(-1e3, limit=True) == pytest.approx(0)
    assert split(1.5, 0.0, 0.0, 1.5, True) - split(0.0, 0.0, 0.0, 1.5, True) == pytest.approx(0.5, abs=0.03)
    far = slope(lambda m: split_normal_nll(m, f64(0.0), f64(0.0), f64(1.0), torch.tensor(True)), 1e6)
    assert far.item() == pytest.approx(1e6, rel=1e-3)


def test_slopes_against_finite_differences():
    counts, rate = f64([0, 1, 4, 30]), f64([0.2, 1.5, 3.0, 31.0]).requires_grad_()
    assert torch.autograd.gradcheck(lambda m: poisson_nll(counts, m), rate)
    assert torch.autograd.gradcheck(lambda m: poisson_deviance(counts, m), rate)
    for limit in (False, True):

        def nll(m, upper_limit=torch.tensor(limit)):  # noqa: B008  each turn of the loop has its own
            return split_normal_nll(m, counts, f64(0.4), f64(0.9), upper_limit)

        assert torch.autograd.gradcheck(nll, rate)
    assert torch.autograd.gradcheck(lambda m: squared_error(m, counts), rate)
    mean, logvar = (
        torch.randn(2, 3, dtype=torch.float64, requires_grad=True),
        torch.randn(2, 3, dtype=torch.float64, requires_grad=True),
    )
    assert torch.autograd.gradcheck(kl_gaussian, (mean, logvar))


def losses_of(rate, datum, low, up, exposure):
    yield poisson_nll(datum, rate * exposure)
    yield poisson_deviance(datum, rate * exposure)
    yield scattered_poisson_nll(datum, rate * exposure, 0.3 * rate * exposure)
    yield split_normal_nll(rate, datum, low, up, low == 0)
    yield squared_error(rate, datum)


@pytest.mark.parametrize("filler", [0.0, -1.0, 7.0, 1e30, math.inf, math.nan])
def test_defect_03_padding_is_masked(filler):
    """Whatever stands beyond the end of a curve, or in a band not observed,
    changes neither the loss nor the slope.
    """
    B, T, C = 3, 6, 2
    observed = (torch.arange(T) < torch.tensor([6, 4, 1])[:, None])[:, :, None].repeat(1, 1, C)
    observed[0, 2, 1] = False
    data = [torch.rand(B, T, C) + 0.5 for _ in range(3)]
    spoiled = [torch.where(observed, x, filler) for x in data]
    true, rate = torch.rand(B, T, C) + 0.5, torch.rand(B, T, C) + 0.5
    for k in range(5):
        results = []
        for datum, low, up in (data, spoiled):
            at = rate.clone().requires_grad_()
            value = sum_observed(list(losses_of(at, datum, low, up, true))[k], observed)
            results.append((value, torch.autograd.grad(value.sum(), at)[0]))
        assert value.shape == (B,) and value.dtype == torch.float32
        assert torch.equal(results[0][0], results[1][0]) and torch.equal(results[0][1], results[1][1])
        assert (results[1][1][~observed] == 0).all() and (results[1][1][observed] != 0).all()


def test_what_cannot_be_is_seen_where_it_is_observed():
    one, observed = torch.ones(1, 1, 1), torch.ones(1, 1, 1, dtype=torch.bool)
    for loss in losses_of(one, one * math.nan, one, one, one):
        assert sum_observed(loss, observed).isinf()
    assert split_normal_nll(one, one, one, 0 * one, ~observed).isinf()


def test_a_mask_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"\[2, 3, 1\]"):
        sum_observed(torch.zeros(2, 3, 4), torch.ones(2, 3, 1, dtype=torch.bool))


def test_student_t_is_scipys_and_tends_to_the_normal():
    rates = torch.linspace(-3, 6, 50, dtype=torch.float64)
    no = torch.tensor(False)

    def nll(freedom, low=0.8, up=0.8, limit=no):
        return student_t_nll(rates, f64(2.0), f64(low), f64(up), limit, f64(freedom))

    assert np.allclose(nll(3.0), -stats.t.logpdf(rates, 3, 2, 0.8))
    assert np.allclose(nll(1e9, 0.5, 1.5), split(rates), atol=1e-6)
    assert torch.equal(nll(3.0, limit=~no), split(rates, low=0.8, up=0.8, limit=True))
    density = integrate.quad(
        lambda m: math.exp(-student_t_nll(f64(m), f64(2.0), f64(0.5), f64(1.5), no, f64(4.0)).item()), -90, 90
    )
    assert density[0] == pytest.approx(1, abs=1e-4)
    freedom = f64(5.0).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda m, nu: student_t_nll(m, f64(2.0), f64(0.5), f64(1.5), no, nu),
        (f64([0.3, 4.0]).requires_grad_(), freedom),
    )
