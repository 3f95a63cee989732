"""Conformal thresholds: coverage against its exact distribution, least numbers against brute force, ties."""

import numpy as np
import pytest
from scipy import stats

from evaluation import conformal
from utils.mistake import Mistake


@pytest.mark.parametrize("n, alpha", [(9, 0.1), (50, 0.1), (100, 0.05), (137, 0.29), (20, 0.5)])
def test_completeness_of_many_calibration_sets_is_beta(n, alpha):
    """Scores are uniform, so the completeness at t is 1 - t; of n calibration lenses it is Beta(n + 1 - k,
    k).
    """
    random, sets = np.random.default_rng(n), 20000
    completeness = 1 - np.array(
        [conformal.completeness_threshold(prob, alpha) for prob in random.random((sets, n))]
    )
    k = conformal.rank(n, alpha)
    exact = stats.beta(n + 1 - k, k)
    assert exact.mean() == pytest.approx((n + 1 - k) / (n + 1)) and exact.mean() >= 1 - alpha
    assert completeness.mean() == pytest.approx(exact.mean(), abs=4 * exact.std() / np.sqrt(sets))
    assert stats.kstest(completeness, exact.cdf).pvalue > 1e-3
    assert k + 1 > (n + 1) * alpha * (1 - 1e-9)  # and no larger k would do


@pytest.mark.parametrize(
    "n, alpha, delta", [(60, 0.1, 0.05), (29, 0.1, 0.05), (400, 0.05, 0.01), (100, 0.5, 0.1)]
)
def test_delta_is_how_many_calibration_sets_fail(n, alpha, delta):
    random, sets = np.random.default_rng(n), 4000
    completeness = 1 - np.array(
        [conformal.completeness_threshold(prob, alpha, delta) for prob in random.random((sets, n))]
    )
    k = conformal.rank(n, alpha, delta)
    exact = stats.beta(n + 1 - k, k).cdf(1 - alpha)
    assert exact <= delta < stats.beta(n - k, k + 1).cdf(1 - alpha)  # k is the largest that keeps the promise
    assert (completeness < 1 - alpha).mean() == pytest.approx(exact, abs=4 * np.sqrt(delta / sets))


def test_delta_is_the_bound_of_clopper_and_pearson():
    """If k - 1 of n lenses fall below t, the one-sided upper limit of what falls below is at most alpha."""
    for n, alpha, delta in [(60, 0.1, 0.05), (400, 0.05, 0.01), (1000, 0.2, 0.1)]:
        k = conformal.rank(n, alpha, delta)
        upper = [
            stats.binomtest(missed, n).proportion_ci(1 - 2 * delta, "exact").high for missed in (k - 1, k)
        ]
        assert upper[0] <= alpha + 1e-12 and upper[1] > alpha


def test_sets_hold_the_true_class_of_each_class():
    """Rare lenses: marginal coverage could be met by non-lenses alone; here each class has its own."""
    random, held = np.random.default_rng(0), {0: [], 1: []}
    for _ in range(400):
        label = (random.random(600) < 0.1).astype(int)
        prob = 1 / (1 + np.exp(-random.normal(2 * label - 2, 1.0)))
        fitted = conformal.fit_conformal(label[:400], prob[:400], 0.1)
        answers, truth = conformal.conformal_sets(fitted, prob[400:]), label[400:]
        held[1].extend(np.isin(answers[truth == 1], ["lens", "both"]))
        held[0].extend(np.isin(answers[truth == 0], ["non-lens", "both"]))
    for value in (0, 1):
        assert np.mean(held[value]) > 0.9 - 0.01  # the spread of 400 means is 0.002
        assert np.mean(held[value]) < 0.94


def test_the_four_sets():
    assert conformal.conformal_sets(conformal.Thresholds(0.4, 0.5), [0.1, 0.45, 0.9, np.nan]).tolist() == [
        "non-lens",
        "both",
        "lens",
        "",
    ]
    assert conformal.conformal_sets(conformal.Thresholds(0.8, 0.7), [0.5, 0.8, 0.3]).tolist() == [
        "none",
        "lens",
        "non-lens",
    ]


def test_ties_are_kept_so_the_guarantee_holds():
    """Three values only: a new lens at or above the threshold is at least as frequent as promised."""
    random, held = np.random.default_rng(1), []
    for _ in range(4000):
        prob = random.choice([0.1, 0.5, 0.9], 41, p=[0.05, 0.25, 0.7])
        held.append(prob[-1] >= conformal.completeness_threshold(prob[:-1], 0.1))
    assert np.mean(held) > 0.9
    assert conformal.completeness_threshold([0.5] * 30, 0.1) == 0.5


@pytest.mark.parametrize(
    "alpha, delta",
    [(0.1, 0), (0.05, 0), (0.3, 0), (0.29, 0), (0.5, 0), (0.01, 0), (0.1, 0.05), (0.05, 0.1), (0.3, 0.001)],
)
def test_the_least_number_is_named(alpha, delta):
    least = next(
        n
        for n in range(1, 2000)
        if (1 - alpha) ** n <= delta * (1 + 1e-9) or not delta and (n + 1) * alpha >= 1 - 1e-9
    )
    assert conformal.least_objects(alpha, delta) == least and conformal.rank(least, alpha, delta) == 1
    with pytest.raises(Mistake, match=f"{least - 1} objects are too few .* at least {least} of the class"):
        conformal.rank(least - 1, alpha, delta)


def test_rounding_costs_no_rank():
    assert conformal.rank(99, 0.29) == 29 and conformal.rank(9, 0.7) == 7 and conformal.rank(999, 0.001) == 1


@pytest.mark.parametrize(
    "alpha, delta", [(0, 0), (1, 0), (-0.1, 0), (0.1, 1), (0.1, -0.1), (float("nan"), 0)]
)
def test_what_alpha_can_be(alpha, delta):
    with pytest.raises(Mistake, match="expected 0 < alpha < 1"):
        conformal.rank(100, alpha, delta)
