"""CUDA graphs for a compiled network, where they pay: tried on a batch of the run, not guessed."""

import time
from collections.abc import Callable, Iterator
from itertools import chain

import torch
from torch import Tensor, nn

from utils import distributed
from utils.transfer import Item

# Options of torch.compile without and with graphs, in which what a pass launches is recorded once and
# replayed as a whole.
WAYS = {"cuda": ({}, dict(mode="reduce-overhead"))}
WARM, TIMED = 4, 20  # steps that compile and record, and steps that count
APART = 1e-3  # of its norm, that a gradient may differ: the kernels are the same


def with_graphs(
    model: nn.Module,
    stream: Iterator[Item],
    gradient: Callable,
    seed: Callable[[int], None],
    step: int,
    say: Callable[[str], None],
) -> Iterator[Item]:
    """Compile `model` in place with CUDA graphs, if they are faster and right, else without;
    returns `stream` from where it was.

    Both are tried on its next batch as training does it: `gradient(batch, size, step)`, seeded by
    `seed(step)`. Right is who gives the same gradient, also after the weights have moved in place. Weights,
    buffers and `p.grad` are then as if nothing had been. Of several ranks all call this, and go the same way.
    Where there are no such graphs, or no batch is left, nothing is done.
    """
    device = next(model.parameters()).device.type
    share = next(stream, None) if device in WAYS else None
    if share is None:  # no such graphs, or a run that has ended
        return stream
    plain, graphs = WAYS[device]
    batch, size, _ = share
    kept = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def restore(scale: float = 1.0) -> None:
        for name, tensor in model.state_dict().items():  # in place: graphs know the weights by their address
            tensor.copy_(kept[name])
        for parameter in model.parameters():
            parameter.data.mul_(scale)

    def once() -> None:
        model.zero_grad(set_to_none=True)
        seed(step)
        gradient(batch, size, step)

    def tried(options: dict) -> tuple[float, list[Tensor]]:
        """Milliseconds of a step, of the slowest rank;
        its gradients before and after the weights have moved.
        """
        model.compile(**options)
        for _ in range(WARM):
            once()
        synchronise()
        start = time.perf_counter()
        for _ in range(TIMED):
            once()
        synchronise()
        took = distributed.largest(round((time.perf_counter() - start) / TIMED * 1e6)) / 1e3
        found = []
        for scale in (1.0, 1.1):
            restore(scale)
            once()
            found.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
        restore()
        return took, found

    without, expected = tried(plain)
    try:
        took, found = tried(graphs)
        # NaN, if one is
        apart = (
            torch.stack([(ours - theirs).norm() / theirs.norm() for ours, theirs in zip(found, expected)])
            .max()
            .item()
        )
        pays = apart <= APART and took < without
        why = f"{took:.3f} ms a step with them, {without:.3f} without; gradients {apart:.0e} apart"
    except RuntimeError as error:  # what cannot be recorded, or was overwritten while it was still needed
        pays = False
        why = f"they fail here, {str(error).splitlines()[0][:200]}"
    if distributed.largest(not pays):
        pays = False
        torch.compiler.reset()  # gives back the memory of the graphs
        model.compile(**plain)
    restore()
    model.zero_grad(set_to_none=True)
    way = "with" if pays else "without"
    say(f"compiled {way} CUDA graphs: {why}")
    return chain([share], stream)


def synchronise() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
