"""Losses that make a network answer alike wherever an image comes from."""

import torch.nn.functional as F
from torch import Tensor


def domain_confusion(logit: Tensor, domain: Tensor) -> Tensor:
    """-log of the probability given to the domain, in nats: [B] float32; 0 for an unknown domain, -1.

    logit [B, D], domain [B] int64. Behind a reversed gradient (models/layers/domain_head.py)
    the features learn to make it large.
    Source: Ganin et al. 2016, JMLR 17, 59, eq. 9.
    """
    return F.cross_entropy(logit.float(), domain, ignore_index=-1, reduction="none")
