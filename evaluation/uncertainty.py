"""What the samples of a posterior, or the members of an ensemble, say of a yes-or-no question, in parts:
noise of the data and ignorance of the model.
"""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from evaluation.figures_of_merit import ratio


def predictive_parts(logit: Tensor, share: Tensor | None = None) -> dict[str, Tensor]:
    """Parts of the predictive distribution of samples logit [S, B], S of them for each of B examples:
    name -> [B] float64.

        prob                  mean probability over the samples
        total                 entropy of that mean, in nats, at most ln 2
        aleatoric             mean entropy of the samples: what no further training data would remove
        epistemic             mutual information of label and weights, total - aleatoric:
                              how much the samples disagree
        variance              of the label, prob (1 - prob)
        variance_aleatoric    mean over the samples of p (1 - p)
        variance_epistemic    variance of p over the samples (of the S, not an estimate from them);
                              the two add up to `variance`

    share: [S, B], what each sample counts in these means, 1 in all for an example; equally by default.

    Logarithms of p and of 1 - p are taken from the logits, so that no part is lost to rounding where p is
    near 0 or 1; the mutual information is a mean of divergences from the mean distribution,
    which never comes out below zero.

    Raises ValueError for samples that are not [S, B] with S at least 1.
    Source: Depeweg et al. 2018, arXiv:1710.07283, section 3; Houlsby et al. 2011, arXiv:1112.5745, eq. 2.
    """
    if logit.ndim != 2 or not len(logit):
        raise ValueError(f"got samples {list(logit.shape)}: expected [S, B], S at least 1")
    logit = logit.double()
    share = torch.full_like(logit, 1 / len(logit)) if share is None else share
    log_p, log_q = F.logsigmoid(logit), F.logsigmoid(-logit)
    p, q = logit.sigmoid(), (-logit).sigmoid()
    mean_p, mean_q = (share * p).sum(0), (share * q).sum(0)
    log_mean_p = torch.where(mean_p < mean_q, torch.logsumexp(share.log() + log_p, 0), torch.log1p(-mean_q))
    log_mean_q = torch.where(mean_q < mean_p, torch.logsumexp(share.log() + log_q, 0), torch.log1p(-mean_p))
    divergence = weighted(p, log_p - log_mean_p) + weighted(q, log_q - log_mean_q)
    return dict(
        prob=mean_p,
        total=-(weighted(mean_p, log_mean_p) + weighted(mean_q, log_mean_q)),
        aleatoric=-weighted(share, weighted(p, log_p) + weighted(q, log_q)).sum(0),
        epistemic=weighted(share, divergence).sum(0).clamp_min(0),
        variance=mean_p * mean_q,
        variance_aleatoric=(share * p * q).sum(0),
        variance_epistemic=(share * (p - mean_p).square()).sum(0),
    )


def weighted(weight: Tensor, values: Tensor) -> Tensor:
    """weight * values, and 0 where the weight is 0, as p ln p is at p = 0."""
    return torch.where(weight == 0, 0.0, weight * values)


class Parts(NamedTuple):
    """All in nats, 0 to log 2; NaN where no member has a probability. total = aleatoric + epistemic."""

    total: np.ndarray  # [N] entropy of the mean probability
    aleatoric: np.ndarray  # [N] mean entropy of the members: what each of them finds ambiguous
    epistemic: np.ndarray  # [N] mutual information of answer and member: what more training data would settle
    # [N] int64, how many have a probability; with one the epistemic part is 0, for want of others
    members: np.ndarray


def ensemble_parts(probs, weights=None) -> Parts:
    """The parts for probs [members, N] (NaN: has none), members counted by weights [members],
    equally by default.

    Source: Lakshminarayanan et al. 2017, arXiv:1612.01474 (deep ensembles as samples of a posterior).
    """
    probs = np.asarray(probs, np.float64)
    there = ~np.isnan(probs)
    share = there * (np.ones(len(probs)) if weights is None else np.asarray(weights))[:, None]
    share = np.where(share.sum(0) > 0, share, there)
    share = ratio(share, share.sum(0))
    filled = np.where(there, probs, 0.5)
    parts = predictive_parts(torch.from_numpy(filled).logit(), torch.from_numpy(share))
    return Parts(*(parts[name].numpy() for name in Parts._fields[:3]), there.sum(0))
