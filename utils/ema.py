"""Exponential moving average of the weights."""

import copy

import torch
from torch import Tensor, nn


class Ema:
    """Holds `model`, an averaged copy of a network in eval mode, and `loss`, one of a loss that has weights.

    The decay warms up as (1 + t) / (10 + t) over the updates t and is capped at `decay`; 0 makes the copy
    follow the weights exactly. Buffers of floating point are averaged like parameters, the others are copied.
    A tensor that several modules share is averaged once, and shared in the copy too; parts of which nothing
    is trained (a latent autoencoder) are not copied but shared with the network.
    """

    def __init__(self, model: nn.Module, decay: float, loss: nn.Module | None = None):
        loss = nn.Module() if loss is None else loss
        both = nn.ModuleList([model, loss])
        average = averaged_copy(both)
        self.model, self.loss = average
        self.decay = decay
        self.floating, self.others = places_of(both, average)

    def decay_at(self, updates: int) -> float:
        return min(self.decay, (1 + updates) / (10 + updates))

    @torch.no_grad()
    def update(self, updates: int, moves: Tensor | None = None) -> None:
        """Follow the weights by one update; where the device says that they did not move (`moves` is 0,
        not 1), by none.
        """
        theirs, mine = tensors_at(self.floating)
        weight = 1 - self.decay_at(updates)
        if moves is None:
            torch._foreach_lerp_(mine, theirs, weight)
        else:
            torch._foreach_lerp_(mine, theirs, [(weight * moves).to(t.dtype) for t in mine])
        if self.others:
            theirs, mine = tensors_at(self.others)
            torch._foreach_copy_(mine, theirs)


def averaged_copy(source: nn.Module) -> nn.Module:
    """A copy in eval mode without gradients, whose frozen parts are those of `source`."""
    shared = {id(tensor): tensor for tensor in frozen_tensors(source)}
    average = copy.deepcopy(source, memo=dict(shared))
    average.eval()
    for parameter in average.parameters():
        if id(parameter) not in shared:
            parameter.requires_grad_(False)
    return average


def frozen_tensors(source: nn.Module) -> list[Tensor]:
    """Parameters that are not trained, and the buffers of modules all of whose parameters are not."""
    frozen: list[Tensor] = [p for p in source.parameters() if not p.requires_grad]
    for module in source.modules():
        parameters = list(module.parameters())
        if parameters and not any(p.requires_grad for p in parameters):
            frozen += module.buffers()
    return frozen


def places_of(source: nn.Module, average: nn.Module) -> tuple[list, list]:
    """Where the tensors of both are kept, (theirs, mine, name) each: those of floating point, and the others.

    A place and not the tensor itself, as a forward pass may put a new tensor in a buffer's place; found once,
    as the walk over the modules takes longer than the average of a small network. Each tensor has one place,
    also where several modules hold it; what both share has none.
    """
    floating, others = [], []
    placed: set[int] = set()
    for theirs, mine in zip(source.modules(), average.modules(), strict=True):
        for ours, copies in ((theirs._parameters, mine._parameters), (theirs._buffers, mine._buffers)):
            for name, tensor in ours.items():
                if tensor is None or id(tensor) in placed or tensor is copies[name]:
                    continue
                placed.add(id(tensor))
                (floating if tensor.is_floating_point() else others).append((ours, copies, name))
    return floating, others


def tensors_at(places: list) -> tuple[list[Tensor], list[Tensor]]:
    return [theirs[name] for theirs, _, name in places], [mine[name] for _, mine, name in places]
