"""Exponential moving average of the weights."""

import copy

import torch
from torch import Tensor, nn


class Ema:
    """Holds `model`, an averaged copy of `source` in eval mode.

    The decay warms up as (1 + t) / (10 + t) over the updates t and is capped at `decay`; 0 makes the copy
    follow the weights exactly. Buffers of floating point are averaged like parameters, the others are copied.
    """

    def __init__(self, source: nn.Module, decay: float):
        self.model = copy.deepcopy(source).eval().requires_grad_(False)
        self.decay = decay
        self.floating, self.others = places_of(source, self.model)

    def decay_at(self, updates: int) -> float:
        return min(self.decay, (1 + updates) / (10 + updates))

    @torch.no_grad()
    def update(self, updates: int, moves: Tensor | None = None) -> None:
        """Follow the weights by one update; where the device says that they did not move (`moves` is 0,
        not 1), by none.
        """
        theirs, mine = tensors_at(self.floating)
        weight = 1 - self.decay_at(updates)
        torch._foreach_lerp_(
            mine, theirs, weight if moves is None else [(weight * moves).to(t.dtype) for t in mine]
        )
        if self.others:
            theirs, mine = tensors_at(self.others)
            torch._foreach_copy_(mine, theirs)

    def state_dict(self) -> dict:
        return self.model.state_dict()

    def load_state_dict(self, state: dict) -> None:
        self.model.load_state_dict(state)


def places_of(source: nn.Module, average: nn.Module) -> tuple[list, list]:
    """Where the tensors of both are kept, (theirs, mine, name) each: those of floating point, and the others.

    A place and not the tensor itself, as a forward pass may put a new tensor in a buffer's place; found once,
    as the walk over the modules takes longer than the average of a small network.
    """
    floating, others = [], []
    for theirs, mine in zip(source.modules(), average.modules(), strict=True):
        for ours, copies in ((theirs._parameters, mine._parameters), (theirs._buffers, mine._buffers)):
            for name, tensor in ours.items():
                if tensor is not None:
                    (floating if tensor.is_floating_point() else others).append((ours, copies, name))
    return floating, others


def tensors_at(places: list) -> tuple[list[Tensor], list[Tensor]]:
    return [theirs[name] for theirs, _, name in places], [mine[name] for _, mine, name in places]
