"""Split-conformal prediction: thresholds with a guarantee that holds for any network and any distribution.

It asks for one thing, that a new object and the calibration objects are exchangeable: one population, drawn
alike, and probabilities by a network that did not see the calibration objects. Lenses and non-lenses are
calibrated apart, so the guarantee is one for each class and does not depend on how rare lenses are. If
probabilities tie, more is kept: the guarantee holds, as a bound.

    t = completeness_threshold(prob_of_lenses, alpha=0.1)            # P(a new lens has prob >= t) >= 0.9
    t = completeness_threshold(prob_of_lenses, 0.1, delta=0.05)      # with 95 % confidence,
    >= 0.9 of all new lenses have

Without delta the probability is over new lens and calibration set together: of one calibration set the
completeness is Beta(n + 1 - k, k) distributed and falls below 1 - alpha about as often as not.
With delta it does in a share delta of sets.
Source: Vovk, Gammerman & Shafer 2005, section 4.5 (by class);
    Vovk 2012, arXiv:1209.2673, proposition 2a (delta);
Angelopoulos & Bates 2021, arXiv:2107.07511, sections 1 and 3.2.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy import stats

from evaluation import figures_of_merit
from utils.mistake import Mistake


class Thresholds(NamedTuple):
    """Lens is in the prediction set of prob if prob >= lens, non-lens if 1 - prob >= other."""

    lens: float
    other: float


def least_objects(alpha: float, delta: float = 0.0) -> int:
    """The fewest calibration objects of a class that allow a threshold."""
    return (
        math.ceil(math.log(delta) / math.log1p(-alpha) * (1 - 1e-12))
        if delta
        else math.ceil(1 / alpha * (1 - 1e-12)) - 1
    )


def rank(n: int, alpha: float, delta: float = 0.0) -> int:
    """k: the k-th lowest of n probabilities is the threshold.

    k = floor((n + 1) alpha): of n + 1 exchangeable objects the new one is among the k lowest with probability
    k / (n + 1).
    With delta, the highest k with P(Binomial(n, alpha) < k) <= delta, as in the interval of Clopper &
    Pearson: the k-th lowest cuts off more than alpha of the population only if fewer than k of n fell into
        the lowest alpha.
    Raises Mistake if alpha or delta is none, and, with the least n, if n is too small.
    """
    if not 0 < alpha < 1 or not 0 <= delta < 1:
        raise Mistake(
            f"alpha {alpha:g}, delta {delta:g}: expected 0 < alpha < 1, the share that may be missed, and 0 "
            "<= delta < 1"
        )
    if delta:
        k = int(stats.binom.ppf(delta, n, alpha)) + 1
        k -= stats.binom.cdf(k - 1, n, alpha) > delta
    else:
        k = math.floor((n + 1) * alpha * (1 + 1e-12))  # 0.29 * 100 must allow 29
    if k < 1:
        at_delta = f" and delta {delta:g}" if delta else ""
        raise Mistake(
            f"{n} objects are too few for alpha {alpha:g}{at_delta}: expected at least "
            f"{least_objects(alpha, delta)} of the class with a label and a probability; give more, or a "
            "larger alpha"
        )
    return int(min(k, n))


def completeness_threshold(lens_prob, alpha: float, delta: float = 0.0) -> float:
    """t such that a new lens has prob >= t with probability at least 1 - alpha. lens_prob [n]:
    of lenses, not trained on.
    """
    prob = np.asarray(lens_prob, np.float64)
    k = rank(len(prob), alpha, delta)
    return float(np.partition(prob, k - 1)[k - 1])


def fit_conformal(label, prob, alpha: float, delta: float = 0.0) -> Thresholds:
    """The thresholds of prediction sets that hold the true class with probability at least 1 - alpha,
    for each class.
    """
    label, prob = figures_of_merit.checked(label, prob)
    return Thresholds(
        completeness_threshold(prob[label == 1], alpha, delta),
        completeness_threshold(1 - prob[label == 0], alpha, delta),
    )


def conformal_sets(thresholds: Thresholds, prob) -> np.ndarray:
    """[N] of "lens", "non-lens", "both" (the network cannot tell) and "none" (unlike either class);
    "" where prob is NaN.
    """
    prob = np.asarray(prob, np.float64)
    lens, other = prob >= thresholds.lens, 1 - prob >= thresholds.other
    return np.select([np.isnan(prob), lens & other, lens, other], ["", "both", "lens", "non-lens"], "none")
