"""Optimisers, and which weights they treat alike."""

from torch import nn


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """Matrices and kernels decay; biases, norms and other per-channel scales (one axis longer than 1)
    do not.
    """
    weights = [p for p in model.parameters() if p.requires_grad]
    decays = [sum(length > 1 for length in p.shape) > 1 for p in weights]
    return [
        dict(params=[p for p, d in zip(weights, decays) if d], weight_decay=weight_decay),
        dict(params=[p for p, d in zip(weights, decays) if not d], weight_decay=0.0),
    ]
