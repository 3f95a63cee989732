"""The deviance that Poisson counts have of themselves, against sums over all counts and against a sample."""

import numpy as np
import pytest
import torch
from scipy import stats

from physics.cash_statistic import cash_moments


@pytest.mark.parametrize("expected", [1e-7, 1e-3, 0.1, 1.1, 7.3, 150.0])
def test_the_moments_are_those_of_a_sum_over_all_counts(expected):
    counts = np.arange(int(expected + 20 * expected**0.5 + 40))
    chance = stats.poisson.pmf(counts, expected)
    log = np.log(np.where(counts > 0, counts, 1) / expected)
    deviance = 2 * (counts * log * (counts > 0) - counts + expected)
    mean = (chance * deviance).sum()
    variance = (chance * (deviance - mean) ** 2).sum()
    ours = cash_moments(torch.tensor([expected]))
    assert ours[0].item() == pytest.approx(mean, rel=2e-2 if expected < 1e-5 else 1e-3)
    assert ours[1].item() == pytest.approx(variance, rel=0.2 if expected < 1e-5 else 2e-3)


def test_of_nothing_there_is_none_and_of_many_it_is_chi_square():
    mean, variance = cash_moments(torch.tensor([0.0, 1e5, 1e8]))
    assert mean.tolist() == pytest.approx([0, 1, 1], abs=1e-5)
    assert variance.tolist() == pytest.approx([0, 2, 2], abs=1e-4)
