"""What an ensemble does not know: the entropy of its mean, and which part of it comes from members that
disagree.
"""

from typing import NamedTuple

import numpy as np
from scipy.special import entr

from evaluation.figures_of_merit import ratio


class Parts(NamedTuple):
    """All in nats, 0 to log 2; NaN where no member has a probability. total = aleatoric + epistemic."""

    total: np.ndarray  # [N] entropy of the mean probability
    aleatoric: np.ndarray  # [N] mean entropy of the members: what each of them finds ambiguous
    epistemic: np.ndarray  # [N] mutual information of answer and member: what more training data would settle
    # [N] int64, how many have a probability; with one the epistemic part is 0, for want of others
    members: np.ndarray


def entropy(prob) -> np.ndarray:
    """Of a coin that shows a lens with probability prob, in nats."""
    return entr(prob) + entr(1 - np.asarray(prob))


def parts(probs, weights=None) -> Parts:
    """The parts for probs [members, N] (NaN: has none), members counted by weights [members],
    equally by default.

    Source: Depeweg et al. 2018, arXiv:1710.07283, section 3; Lakshminarayanan et al.
        2017, arXiv:1612.01474 (deep ensembles).
    """
    probs = np.asarray(probs, np.float64)
    there = ~np.isnan(probs)
    share = there * (np.ones(len(probs)) if weights is None else np.asarray(weights))[:, None]
    share = np.where(share.sum(0) > 0, share, there)
    share = ratio(share, share.sum(0))
    filled = np.where(there, probs, 0.5)
    total, aleatoric = entropy(np.clip((share * filled).sum(0), 0, 1)), (share * entropy(filled)).sum(0)
    return Parts(total, aleatoric, np.maximum(total - aleatoric, 0), there.sum(0))
