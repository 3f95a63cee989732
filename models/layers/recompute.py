"""Less memory for more time: activations that the gradient needs are computed again instead of kept.

Source: Chen et al. 2016, arXiv:1604.06174.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def chain(blocks: Iterable[nn.Module], x: Tensor, *others, recompute: bool = False) -> Tensor:
    """x through each of `blocks`, which get `others` too; with `recompute` only what goes in between blocks
    is kept for the gradient.

    Random numbers (dropout, stochastic depth) are drawn as they were, so no bit of the result or of the
    gradient differs.
    """
    for block in blocks:
        x = (
            checkpoint(block, x, *others, use_reentrant=False)
            if recompute and torch.is_grad_enabled()
            else block(x, *others)
        )
    return x


def recompute(network: nn.Module) -> nn.Module:
    """Have `network` do so, where it has `recompute`. Raises ValueError for one that keeps all its
    activations whatever one says.
    """
    able = [module for module in network.modules() if hasattr(module, "recompute")]
    if not able:
        raise ValueError(
            f"{type(network).__name__} cannot recompute its activations; use a network of blocks "
            "(convnextv2, robust_resnet, enhanced_vit ...)"
        )
    for module in able:
        module.recompute = True
    return network
