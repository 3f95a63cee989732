"""Exponential moving average of the weights."""
import copy

import torch
from torch import Tensor, nn


class Ema:
    """Holds `model`, an averaged copy in eval mode.

    The decay warms up as (1 + t) / (10 + t) over the updates t and is capped at `decay`; 0 makes the copy follow
    the weights exactly. Buffers of floating point are averaged like parameters, the others are copied.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay

    def decay_at(self, updates: int) -> float:
        return min(self.decay, (1 + updates) / (10 + updates))

    @torch.no_grad()
    def update(self, model: nn.Module, updates: int) -> None:
        mine, theirs = tensors_of(self.model), tensors_of(model)
        torch._foreach_lerp_(mine[True], theirs[True], 1 - self.decay_at(updates))
        torch._foreach_copy_(mine[False], theirs[False]) if mine[False] else None

    def state_dict(self) -> dict:
        return self.model.state_dict()

    def load_state_dict(self, state: dict) -> None:
        self.model.load_state_dict(state)


def tensors_of(model: nn.Module) -> dict[bool, list[Tensor]]:
    """Parameters and buffers of `model`, by whether they are of floating point."""
    tensors = [*model.parameters(), *model.buffers()]
    return {floating: [t for t in tensors if t.is_floating_point() == floating] for floating in (True, False)}
