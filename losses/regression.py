"""Losses of inferred numbers: one value per example."""

import torch
from torch import Tensor


def gaussian_nll(mean: Tensor, variance: Tensor, target: Tensor) -> Tensor:
    """-log of the Gaussian density of what is known of the target, in nats, a mean over its components:
    [B] float32.

    mean, variance, target [B, P]; a target that is NaN is not known and has no part;
    an example of which nothing is known costs 0.
    Source: Nix & Weigend 1994, eq. 5, without the constant.
    """
    known = target.isfinite()
    residual = torch.where(known, target - mean, 0.0)
    each = torch.where(known, 0.5 * (residual.square() / variance + variance.log()), 0.0)
    return each.sum(1) / known.sum(1).clamp(min=1)
