"""Losses of yes-or-no questions: one value per example."""

import torch.nn.functional as F
from torch import Tensor


def binary_cross_entropy(logit: Tensor, label: Tensor, smoothing: float = 0.0) -> Tensor:
    """-log of the probability given to the label, in nats: [B] float32, finite for every finite logit.

    logit [B], label [B] in [0, 1]; `smoothing` draws labels to 1/2: 0 leaves them, 1 makes all of them 1/2.

    Raises ValueError where the shapes differ: [B] against [B, 1] would broadcast to B x B wrong pairs.
    """
    if logit.shape != label.shape or logit.ndim != 1:
        raise ValueError(f"got logit {list(logit.shape)} and label {list(label.shape)}: expected both [B]")
    logit = logit.float()
    label = label.float() * (1 - smoothing) + smoothing / 2
    # torch's own function rounds losses below 1e-7 to zero, and their gradients with them
    return label * F.softplus(-logit) + (1 - label) * F.softplus(logit)
