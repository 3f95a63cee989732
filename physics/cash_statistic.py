"""What deviance Poisson counts have of themselves, so that what a source adds can be told from it."""

import math
from functools import lru_cache

import torch
from torch import Tensor

LEAST, MOST = 1e-5, 1e3  # expected counts between which the moments are tabulated
NODES = 400


def cash_moments(expected: Tensor) -> tuple[Tensor, Tensor]:
    """(mean, variance) [...] float64 of the Poisson deviance of counts about the `expected` that is true.

    expected: counts [...], at least 0. Right to 1e-3: sums over all counts, interpolated in ln(expected); the
    leading terms beyond the table. Far from a constant: 2 expected ln(1 / expected) of few counts, a maximum
    of 1.16 near 1.1 counts, 1 + 1 / (6 expected) and 2 of many.
    Source: Kaastra 2017, A&A 605, A51, sec. 3, eqs. 6-7, whose fits these sums replace.
    """
    expected = expected.double()
    table = moments_table().to(expected.device)
    inside = expected.clamp(LEAST, MOST)
    place = (inside / LEAST).log() * ((NODES - 1) / math.log(MOST / LEAST))
    left = place.floor().clamp(0, NODES - 2)
    share = place - left
    left = left.long()
    mean, variance = torch.lerp(table[:, left], table[:, left + 1], share)

    few = expected.clamp(min=1e-300, max=LEAST)
    mean_of_few = -2 * few * few.log()
    variance_of_few = 4 * few * (few.log() + 1).square()
    more = MOST / expected.clamp(min=MOST)
    mean = torch.where(expected < LEAST, mean_of_few, 1 + (mean - 1) * more)
    variance = torch.where(expected < LEAST, variance_of_few, 2 + (variance - 2) * more)
    none = expected <= 0
    return torch.where(none, 0, mean), torch.where(none, 0, variance)


@lru_cache
def moments_table() -> Tensor:
    """[2, NODES] float64: mean and variance at counts from LEAST to MOST, even in their logarithm."""
    expected = torch.logspace(math.log10(LEAST), math.log10(MOST), NODES, dtype=torch.float64)[:, None]
    counts = torch.arange(round(MOST + 12 * MOST**0.5), dtype=torch.float64)
    chance = (torch.xlogy(counts, expected) - expected - torch.lgamma(counts + 1)).exp()
    deviance = 2 * (torch.xlogy(counts, counts / expected) - counts + expected)
    mean = (chance * deviance).sum(1)
    return torch.stack([mean, (chance * (deviance - mean[:, None]).square()).sum(1)])
