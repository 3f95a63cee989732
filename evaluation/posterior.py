"""What the samples of a posterior say of a yes-or-no question, in parts:
noise of the data and ignorance of the model.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def predictive_parts(logit: Tensor) -> dict[str, Tensor]:
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

    Logarithms of p and of 1 - p are taken from the logits, so that no part is lost to rounding where p is
    near 0 or 1; the mutual information is a mean of divergences from the mean distribution,
    which never comes out below zero.

    Raises ValueError for samples that are not [S, B] with S at least 1.
    Source: Depeweg et al. 2018, arXiv:1710.07283; Houlsby et al. 2011, arXiv:1112.5745, eq. 2.
    """
    if logit.ndim != 2 or not len(logit):
        raise ValueError(f"got samples {list(logit.shape)}: expected [S, B], S at least 1")
    logit = logit.double()
    log_p, log_q = F.logsigmoid(logit), F.logsigmoid(-logit)
    p, q = logit.sigmoid(), (-logit).sigmoid()
    mean_p, mean_q = p.mean(0), q.mean(0)
    log_mean_p = torch.where(
        mean_p < mean_q, torch.logsumexp(log_p, 0) - math.log(len(logit)), torch.log1p(-mean_q)
    )
    log_mean_q = torch.where(
        mean_q < mean_p, torch.logsumexp(log_q, 0) - math.log(len(logit)), torch.log1p(-mean_p)
    )
    divergence = p * (log_p - log_mean_p) + q * (log_q - log_mean_q)
    return dict(
        prob=mean_p,
        total=-(mean_p * log_mean_p + mean_q * log_mean_q),
        aleatoric=-(p * log_p + q * log_q).mean(0),
        epistemic=divergence.mean(0).clamp_min(0),
        variance=mean_p * mean_q,
        variance_aleatoric=(p * q).mean(0),
        variance_epistemic=(p - mean_p).square().mean(0),
    )
