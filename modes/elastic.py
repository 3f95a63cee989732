"""The ordinary gradient with the same bits on any number of ranks: what `--deterministic elastic` builds.

A batch is dealt to a fixed number of lanes, whatever the ranks. A rank works on its lanes one after another,
each with the lane's own seed and from the same buffers, and what they give is added along one fixed binary
tree, first within the rank and then over ranks. So a run may go on with 1, 2 or 4 ranks,
also in the middle of an epoch, and end on the same bits.

The tree is over lanes and not over ranks, and each addition of floating-point numbers rounds: only a fixed
order of them gives fixed bits (Demmel & Nguyen 2013, "Fast reproducible floating-point summation"). The
price: a batch is computed in small pieces, and gradients are gathered, `ranks` times their size in memory,
    instead of reduced while the backward pass runs.
"""

import torch
import torch.distributed as dist
from torch import Tensor

from contract import Batch, Gradient, Run, pieces, size_of
from data.order import lanes_of
from utils import distributed
from utils.mistake import Mistake
from utils.seeding import seed_step


def build(run: Run, lanes: int) -> "Elastic":
    if lanes & (lanes - 1) or lanes % distributed.world_size():
        raise Mistake(
            f"--lanes: got {lanes} with {distributed.world_size()} ranks, expected a power of two that the "
            "number of ranks divides"
        )
    return Elastic(run, lanes)


class Elastic(Gradient):
    """A gradient over so many lanes, to which the loop deals batches."""

    def __init__(self, run: Run, lanes: int):
        self.run, self.lanes = run, lanes
        self.parameters = run.parameters
        # Places, as a forward pass may put a new tensor in a buffer's place.
        self.buffers = [
            (module._buffers, name)
            for module in run.objective.modules()
            for name, t in module._buffers.items()
            if t is not None
        ]

    def __call__(self, batch: Batch, size: int, step: int) -> dict[str, Tensor]:
        mine = lanes_of(self.lanes)
        lengths = [len(range(lane, size, self.lanes)) for lane in mine]
        cuts = {name: tensor.split(lengths) for name, tensor in batch.items()}
        before = [places[name].clone() for places, name in self.buffers]
        tree: list[tuple[int, Tensor]] = []  # (lanes that are added in it, their sum)
        for turn, lane in enumerate(mine):
            seed_step(self.run.seed, lane, step)
            for (places, name), content in zip(self.buffers, before):
                places[name] = content.clone()
            names, figures = self.of_lane({name: cut[turn] for name, cut in cuts.items()}, size, step)
            tree.append((1, figures))
            while len(tree) > 1 and tree[-1][0] == tree[-2][0]:
                (count, left), (_, right) = tree[-2:]
                tree[-2:] = [(2 * count, left + right)]
        return self.spread(summed_over_ranks(tree[0][1]), names)

    def of_lane(self, batch: Batch, size: int, step: int) -> tuple[list[str], Tensor]:
        """(names of the means; gradients, buffers of floating point and means of one lane as a
        flat tensor).
        """
        means: dict[str, Tensor] = {}
        for parameter in self.parameters:
            parameter.grad = None
        for part in pieces(batch, min(self.run.accumulate, size_of(batch))):
            loss = self.run.objective(part, step)
            self.run.scaler.scale(loss.value.sum() / size).backward()
            for name, column in {"loss": loss.value.detach(), **loss.terms}.items():
                means[name] = means.get(name, 0) + column.sum() / size
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        return [*means], torch.cat(
            [t.reshape(-1).float() for t in (*gradients, *self.floating(), *means.values())]
        )

    def spread(self, total: Tensor, names: list[str]) -> dict[str, Tensor]:
        """Put the sum over all lanes where it belongs; the means are rank 0's to report."""
        floating = self.floating()
        parts = total.split([t.numel() for t in (*self.parameters, *floating)] + [1] * len(names))
        for parameter, gradient in zip(self.parameters, parts):
            parameter.grad = gradient.view_as(parameter)
        for buffer, content in zip(floating, parts[len(self.parameters) :]):
            # a constant stays what it is: lanes are a power of two
            buffer.copy_((content / self.lanes).view_as(buffer))
        return (
            {name: mean.squeeze(0) for name, mean in zip(names, parts[-len(names) :])}
            if distributed.rank() == 0
            else {}
        )

    def floating(self) -> list[Tensor]:
        return [places[name] for places, name in self.buffers if places[name].is_floating_point()]


def summed_over_ranks(mine: Tensor) -> Tensor:
    """The sum of a tensor [n] of every rank, pair by pair."""
    if distributed.world_size() == 1:
        return mine
    sums = list(mine.new_empty(distributed.world_size(), len(mine)).unbind())
    dist.all_gather(sums, mine)
    while len(sums) > 1:
        sums = [left + right for left, right in zip(sums[::2], sums[1::2])]
    return sums[0]
