"""evaluation/prior_shift.py: against Bayes' rule on two Gaussians, and an independent purity."""

import numpy as np
import pytest
from scipy.stats import binomtest, norm

from evaluation.prior_shift import PriorShift, prior_shift, purity_line
from utils.mistake import Mistake


def posterior(x, rate):
    lens, other = norm.pdf(x, 1.0), norm.pdf(x, -0.5, 1.3)
    return rate * lens / (rate * lens + (1 - rate) * other)


@pytest.mark.parametrize("before, after", [(0.5, 1e-4), (0.05, 0.3), (0.2, 0.2), (1e-3, 0.999)])
def test_a_posterior_at_another_rate(before, after):
    """What is known of x does not change, its prior does: Saerens et al. 2002, eq. 1 and 4."""
    x = np.linspace(-4, 4, 81)
    found = PriorShift(before, after)(posterior(x, before))
    np.testing.assert_allclose(found, posterior(x, after), rtol=1e-9)
    np.testing.assert_allclose(PriorShift(after, before)(found), posterior(x, before), rtol=1e-9)


def test_the_order_and_the_decision_stay():
    prob = np.random.default_rng(0).random(1000)
    shift, threshold = PriorShift(0.3, 1e-5), 0.37
    assert np.array_equal(shift(prob) >= shift(threshold), prob >= threshold)
    assert np.array_equal(np.argsort(shift(prob)), np.argsort(prob))


def test_the_rate_is_that_of_the_labels_or_as_it_is_stated():
    label = np.array([1, 0, 0, 0])
    assert prior_shift(1e-4, 0.0, label) == (0.25, 1e-4) and prior_shift(1e-4, 0.5, label) == (0.5, 1e-4)
    for lacking in (None, np.ones(3), np.zeros(3), np.zeros(0)):
        with pytest.raises(Mistake, match="--lens_rate 0.0001: the rate .* give --training_rate"):
            prior_shift(1e-4, 0.0, lacking)


@pytest.mark.parametrize("wrong", [0, 4])
def test_purity_at_a_rate(wrong):
    label = np.repeat([1, 0], [50, 400])
    prob = np.concatenate([np.linspace(0.3, 0.9, 50), np.full(wrong, 0.8), np.full(400 - wrong, 0.1)])
    found = purity_line(label, prob, 0.6, 1e-3)
    tpr = (prob[:50] >= 0.6).mean()
    most = binomtest(wrong, 400, alternative="less").proportion_ci(0.95, "exact").high
    purities = [1e-3 * tpr / (1e-3 * tpr + (1 - 1e-3) * rate) for rate in (wrong / 400, most)]
    assert found.startswith(
        f"purity at a lens rate of 0.001: {purities[0]:.3g} (25 of 50 lenses and {wrong} of 400"
    )
    assert f"at least {purities[1]:.3g} with 95 % confidence" in found
