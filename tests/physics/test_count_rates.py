"""Count rates against the explicit integral (scipy), closed forms, published numbers,
and real srctool files.
"""

import numpy as np
import pytest
import torch
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, optimize, stats
from scipy.special import gammaln

from physics import count_rates
from physics.count_rates import (
    equivalent_counts,
    is_upper_limit,
    noisier,
    source_rate,
    srctool_error,
    srctool_rate,
    thinned,
    total_rate,
)


def tensor(*values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def slow_interval(counts: int, background: float, ratio: float) -> tuple[float, float, float]:
    """The same by adaptive quadrature over the background and bracketing root finders,
    in expected source counts.
    """
    prior = stats.gamma(background + 1)
    low, high = prior.ppf(1e-13), prior.isf(1e-13)

    def integral(function):
        return integrate.quad(
            lambda b: function(b) * prior.pdf(b),
            low,
            high,
            epsabs=0,
            epsrel=1e-9,
            limit=200,
            points=[prior.mean()],
        )[0]

    def likelihood(s):
        return integral(lambda b: stats.poisson.pmf(counts, s + ratio * b))

    def slope(s):
        return integral(
            lambda b: stats.poisson.pmf(counts - 1, s + ratio * b) - stats.poisson.pmf(counts, s + ratio * b)
        )

    mode = optimize.brentq(slope, 0, counts + 1, xtol=1e-13) if counts and slope(0) > 0 else 0.0
    target = likelihood(mode) * np.exp(-0.5)
    up = (
        optimize.brentq(lambda s: likelihood(s) - target, mode, counts + 5 * np.sqrt(counts) + 5, xtol=1e-12)
        - mode
    )
    limit = likelihood(0) >= target
    return (
        mode,
        mode if limit else mode - optimize.brentq(lambda s: likelihood(s) - target, 0, mode, xtol=1e-12),
        up,
    )


def log_likelihood(expected: float, counts: int, background: int, ratio: float) -> float:
    """The marginal likelihood as a finite sum over how many of the counts are background,
    up to a constant.
    """
    j = np.arange(counts + 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        source = np.where(j < counts, (counts - j) * np.log(expected), 0.0)
    terms = (
        source
        - gammaln(counts - j + 1)
        + j * np.log(ratio)
        + gammaln(background + j + 1)
        - gammaln(j + 1)
        - j * np.log1p(ratio)
    )
    return np.logaddexp.reduce(terms) - expected


@pytest.mark.filterwarnings("ignore::scipy.integrate.IntegrationWarning")
@pytest.mark.parametrize(
    "counts, background, ratio",
    [
        (0, 51, 0.003),
        (1, 55, 0.00685),
        (4, 229, 0.01214),
        (9, 198, 0.014742),
        (31, 243, 0.0118),
        (3, 0, 0.5),
        (2, 10, 1.0),
        (40, 35, 1.0),
        (5, 1000, 0.02),
        (12, 3.7, 0.1),
    ],
)
def test_equals_the_explicit_integral(counts, background, ratio):
    ours = source_rate(tensor(counts), tensor(background), tensor(ratio), tensor(1.0))
    np.testing.assert_allclose(
        torch.cat(ours), slow_interval(counts, background, ratio), rtol=2e-6, atol=2e-6
    )


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 3000), st.integers(0, 100_000), st.floats(-4, 0))
def test_satisfies_its_definition(counts, background, exponent):
    """The mode is a maximum, and ln L is 1/2 lower at the ends, by a sum that knows no quadrature."""
    ratio = 10.0**exponent
    mode, low, up = (
        x.item() for x in source_rate(tensor(counts), tensor(background), tensor(ratio), tensor(1.0))
    )
    best = log_likelihood(mode, counts, background, ratio)
    assert log_likelihood(mode + up, counts, background, ratio) == pytest.approx(best - 0.5, abs=2e-6)
    for step in (1e-3, -1e-3):
        if mode + step * up > 0:
            assert log_likelihood(mode + step * up, counts, background, ratio) <= best + 1e-8
    if low < mode:
        assert log_likelihood(mode - low, counts, background, ratio) == pytest.approx(best - 0.5, abs=2e-6)
    else:
        assert low == mode and log_likelihood(0, counts, background, ratio) >= best - 0.5 - 2e-6
    assert (mode > 0) == (counts > ratio * background)


def test_published_numbers():
    """Of the estimator that we follow; they were read off a logarithmic grid,
    whose steps of up to half a percent they show.
    """
    cases = tensor(
        (0, 51, 0.003, 40),
        (1, 55, 0.00685, 8.98),
        (4, 229, 0.01214, 26.54),
        (9, 198, 0.014742, 26.08),
        (31, 243, 0.0118, 20),
        (106, 722, 0.014742, 37.42),
    )
    expected = tensor(
        (0, 0, 0.01250),
        (0.06859, 0.06859, 0.15119),
        (0.04590, 0.04590, 0.08837),
        (0.23293, 0.10288, 0.12811),
        (1.40621, 0.26222, 0.29514),
        (2.54802, 0.26536, 0.28295),
    )
    mode, low, up = source_rate(*cases.T)
    np.testing.assert_allclose(torch.stack([mode, low, up], 1), expected, rtol=6e-3, atol=1e-9)
    np.testing.assert_allclose(mode, expected[:, 0], rtol=1e-4, atol=3.5e-4)
    assert (low == mode).tolist() == [True, True, True, False, False, False]


def test_one_count_in_closed_form():
    """Of one count L = exp(-s) (s + m) with m = ratio (B + 1) / (1 + ratio), whose mode is 1 - m."""
    background, ratio = tensor(0, 3, 55, 100), tensor(0.5, 0.1, 0.00685, 0.003)
    mode, _, _ = source_rate(tensor(1.0), background, ratio, tensor(8.98))
    np.testing.assert_allclose(mode * 8.98, 1 - ratio * (background + 1) / (1 + ratio), rtol=1e-8)


def test_pure_poisson():
    mode, low, up = total_rate(tensor(0, 1, 4, 9, 25, 100), 1.0)
    assert mode.tolist() == pytest.approx([0, 1, 4, 9, 25, 100], rel=1e-12)
    assert low.tolist() == pytest.approx([0, 0.6983, 1.6815, 2.6763, 4.6724, 9.6695], abs=5e-5)
    assert up.tolist() == pytest.approx([0.5, 1.3577, 2.3463, 3.3422, 5.3387, 10.3361], abs=5e-5)


def test_many_counts_are_gaussian():
    counts, background, ratio = tensor(1e4, 1e5), tensor(1e4, 3e6), tensor(0.1, 0.01)
    mode, low, up = source_rate(counts, background, ratio, 10.0)
    np.testing.assert_allclose(mode, (counts - ratio * background) / 10, rtol=1e-4)
    np.testing.assert_allclose((low + up) / 2, torch.sqrt(counts + ratio**2 * background) / 10, rtol=1e-3)


def test_no_background_region_is_no_background():
    """A ratio that goes to zero, or no background counts at a small ratio, is the total rate."""
    counts = tensor(0, 1, 7, 300)
    without = torch.stack(total_rate(counts, 5.0))
    np.testing.assert_allclose(
        torch.stack(source_rate(counts, 4.0, 1e-9, 5.0)), without, rtol=1e-6, atol=1e-8
    )
    mixed = torch.stack(source_rate(counts, 4.0, tensor(0, 0, 0, 0.5), 5.0))
    np.testing.assert_allclose(mixed[:, :3], without[:, :3], rtol=1e-6)


def test_broadcasts_scales_and_permutes():
    counts, ratio = torch.arange(6.0)[:, None], torch.linspace(0.001, 0.2, 4)
    rate = torch.stack(source_rate(counts, 20.0, ratio, 3.0))
    assert rate.shape == (3, 6, 4) and rate.dtype == torch.float64
    np.testing.assert_allclose(torch.stack(source_rate(counts, 20.0, ratio, 30.0)) * 10, rate, rtol=1e-12)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    np.testing.assert_allclose(
        torch.stack(source_rate(counts[order], 20.0, ratio, 3.0)), rate[:, order], rtol=1e-7
    )
    assert torch.stack(source_rate(torch.zeros(0, 3), 1.0, 0.1, 1.0)).shape == (3, 0, 3)


def test_chunks_change_nothing(monkeypatch):
    counts = torch.poisson(torch.full((100,), 5.0, dtype=torch.float64))
    whole = torch.stack(source_rate(counts, 100.0, 0.01, 1.0))
    monkeypatch.setattr(count_rates, "CHUNK", 7)
    np.testing.assert_allclose(
        torch.stack(source_rate(counts, 100.0, 0.01, 1.0)), whole, rtol=1e-7, atol=1e-12
    )


def test_a_large_spread_of_inputs_is_finite():
    exponents = torch.linspace(-2, 5, 15, dtype=torch.float64)
    counts, background, ratio = torch.meshgrid(
        (10**exponents).floor(),
        10**exponents,
        10 ** torch.linspace(-6, 1.5, 10, dtype=torch.float64),
        indexing="ij",
    )
    mode, low, up = source_rate(counts, background, ratio, 1.0)
    assert torch.isfinite(torch.stack([mode, low, up])).all()
    assert (
        (mode >= 0).all()
        and (mode <= counts + 1e-9).all()
        and (low >= 0).all()
        and (low <= mode).all()
        and (up > 0).all()
    )


@pytest.mark.parametrize(
    "wrong", [(-1.0, 1.0, 0.1), (float("nan"), 1.0, 0.1), (1.0, -1.0, 0.1), (1.0, 1.0, float("inf"))]
)
def test_impossible_counts_are_refused(wrong):
    with pytest.raises(ValueError, match="finite and not negative"):
        source_rate(*map(torch.tensor, wrong), torch.tensor(1.0))


def test_no_exposure_is_not_finite():
    assert not torch.isfinite(torch.stack(source_rate(tensor(0, 3), 1.0, 0.1, 0.0))).any()


@pytest.mark.parametrize(
    "name", ["constant_020_LightCurve_00001", "loggauss_020_LightCurve_00001", "red_020_LightCurve_00022"]
)
def test_srctool_relations_on_real_files(shared_data, name):
    table = fits.getdata(shared_data(f"light_curves/erosita_format/{name}.fits.gz"), 1)
    columns = {
        key: torch.from_numpy(np.asarray(table[key], dtype=np.float64))
        for key in ("COUNTS", "BACK_COUNTS", "FRACEXP", "RATE", "RATE_ERR")
    }
    ratio, width = (
        torch.from_numpy(np.asarray(table[key], dtype=np.float64))[:, None]
        for key in ("BACKRATIO", "TIMEDEL")
    )
    counts, exposure = (columns["COUNTS"], columns["BACK_COUNTS"], ratio), width * columns["FRACEXP"]
    known = torch.isfinite(columns["RATE"]) & (exposure > 0)
    assert known.sum() > 50
    np.testing.assert_allclose(
        srctool_rate(*counts, exposure)[known], columns["RATE"][known], rtol=1e-5, atol=1e-7
    )
    known &= torch.isfinite(columns["RATE_ERR"])
    assert (known & (columns["FRACEXP"] <= 0.1)).sum() > 5 and (known & (columns["FRACEXP"] > 0.1)).sum() > 40
    np.testing.assert_allclose(
        srctool_error(*counts, exposure, columns["FRACEXP"])[known], columns["RATE_ERR"][known], rtol=1e-4
    )


# data drawn anew, for training
# -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_thinned_counts_are_poisson_and_independent_of_the_rest(share):
    """Of 12 expected counts the kept ones are Poisson of 12 * share,
    and say nothing of those that were not kept.
    """
    counts = torch.poisson(torch.full((200_000,), 12.0))
    rate, _, _ = thinned(counts, torch.zeros(()), torch.tensor(10.0), torch.tensor(share))
    drawn = rate * 10 * share
    assert torch.allclose(drawn, drawn.round(), atol=1e-4) and (drawn <= counts + 1e-4).all()
    sigma = (12 * share / 200_000) ** 0.5
    assert drawn.mean().item() == pytest.approx(12 * share, abs=5 * sigma)
    assert drawn.var().item() == pytest.approx(12 * share, rel=0.03)
    if share < 1:
        assert abs(torch.corrcoef(torch.stack([drawn, counts - drawn]))[0, 1]) < 0.012
        expected = torch.from_numpy(stats.poisson.pmf(np.arange(25), 12 * share))
        assert (
            torch.bincount(drawn.round().long(), minlength=25)[:25] / 200_000 - expected
        ).abs().max() < 0.005
    else:
        torch.testing.assert_close(drawn, counts)


@pytest.mark.parametrize("background", [0.0, 0.4, 2.0, 5.0])
def test_thinned_intervals_are_near_those_of_the_likelihood(background):
    """Within 5 % where there are at least as many counts as background or none at all;
    an upper limit in one is one in the other.
    """
    counts = torch.tensor([0.0, 1, 2, 3, 4, 7, 12, 40, 300])
    counts = counts[(counts >= background) | (counts == 0)]
    rate, low, up = thinned(counts, torch.tensor(background), torch.tensor(20.0), torch.ones(()))
    # of a background that is as good as known
    expected = torch.stack(source_rate(counts, background * 1e4, 1e-4, 20.0))
    np.testing.assert_allclose(rate, expected[0], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(low, expected[1], rtol=0.05, atol=1e-4)
    np.testing.assert_allclose(up, expected[2], rtol=0.05)
    np.testing.assert_array_equal(low == rate, (expected[0] - expected[1]).abs() < 1e-6)


def test_thinned_upper_limits_are_too_long_rather_than_too_short():
    """With fewer counts than background the expansion's upper error is not the likelihood's:
    up to twice as long.
    """
    counts = torch.tensor([1.0, 2, 3])
    ratio = (
        thinned(counts, torch.tensor(5.0), torch.tensor(20.0), torch.ones(()))[2]
        / source_rate(counts, 5e4, 1e-4, 20.0)[2]
    )
    assert (ratio > 0.95).all() and (ratio < 2.3).all()


def test_thinning_takes_background_and_exposure_along():
    """The mean rate stays that of the source, whatever is kept, for each curve its own share [B, 1, 1]."""
    kept = torch.tensor([0.2, 0.6, 1.0])[:, None, None]
    counts = torch.poisson(torch.full((3, 20_000, 2), 50.0))
    rate, low, up = thinned(counts, torch.full_like(counts, 10.0), torch.full_like(counts, 4.0), kept)
    assert rate.shape == low.shape == up.shape == counts.shape
    np.testing.assert_allclose(rate.mean((1, 2)), 10, rtol=0.01)
    # the errors are those of the scatter
    np.testing.assert_allclose(((low + up) / 2).square().mean((1, 2)) / rate.var((1, 2)), 1, rtol=0.1)


def test_noisier_rates_scatter_as_their_errors_say():
    """Data with noise of their errors become data with noise of the larger errors that are given;
    all kept, nothing changes.
    """
    true, low, up = torch.full((200_000,), 5.0), torch.tensor(0.3), torch.tensor(0.3)
    rate = true + 0.3 * torch.randn_like(true)
    for share in (0.25, 0.8):
        again, wider_low, wider_up = noisier(rate, low, up, torch.tensor(share))
        assert wider_low.item() == wider_up.item() == pytest.approx(0.3 / share**0.5)
        assert again.mean().item() == pytest.approx(5, abs=0.01) and again.std().item() == pytest.approx(
            0.3 / share**0.5, rel=0.01
        )
    same, low, up = noisier(rate, low, up, torch.ones(()))
    assert torch.equal(same, rate) and low.item() == up.item() == pytest.approx(0.3)
    skewed, _, _ = noisier(true, torch.tensor(0.1), torch.tensor(1.0), torch.tensor(0.5))
    stray = skewed - true
    for side, error in ((stray > 0, 1.0), (stray < 0, 0.1)):
        assert stray[side].square().mean().sqrt().item() == pytest.approx(error, rel=0.02)


def test_counts_are_equivalent_to_themselves():
    """Rates and errors of counts give nearly those counts back, none too, in any unit."""
    counts = torch.tensor([0.0, 1, 3, 10, 100, 1e4], dtype=torch.float64)
    for exposure in (20.0, 1e-30, 1e30):
        rate, low, up = total_rate(counts, exposure)
        found, seconds = equivalent_counts(rate, low, up)
        torch.testing.assert_close(found[2:], counts[2:], rtol=0.07, atol=0)
        torch.testing.assert_close(seconds[2:], torch.full_like(seconds[2:], exposure), rtol=0.07, atol=0)
        assert found[0] == 0 and seconds[0].item() == pytest.approx(exposure)  # an upper limit
    found, exposure = equivalent_counts(*(torch.tensor([x]) for x in (-3.0, 1.0, 1.0)))
    assert found == 0 and exposure == 0.5  # a rate below zero counts as none
    assert [*map(float, equivalent_counts(*torch.zeros(3)))] == [0, 0]


def test_an_upper_limit_is_one_whose_error_reaches_just_to_zero():
    rate = torch.tensor([2.0, 2.0, 2.0, 0.0, -1.0, 0.0])
    low = torch.tensor([2.0, 1.0, 3.0, 0.0, 1.0, 1.0])
    assert is_upper_limit(rate, low).tolist() == [True, False, False, True, False, False]
    assert is_upper_limit(rate * 1e-35, low * 1e-35).tolist() == is_upper_limit(rate, low).tolist()
