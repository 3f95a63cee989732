"""torchrun in a few small functions that also work with one process."""

import contextlib
import gc
import os
from collections.abc import Iterable
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

from utils.mistake import Mistake

HOST_GROUP: list = []  # the gloo group for decisions taken on the host, when tensors travel by nccl


@contextlib.contextmanager
def session(device: torch.device, minutes: float = 30):
    """Join the process group when torchrun started us; leave it at the end.

    `minutes` is how long a rank waits for another before it gives up.
    """
    if "RANK" not in os.environ:
        yield
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=timedelta(minutes=minutes))
    if backend == "nccl":
        HOST_GROUP.append(dist.new_group(backend="gloo"))
    try:
        yield
        gc.collect()  # what still holds the group (DDP's reducer) must go before it does
        barrier()  # no rank leaves while another still works: gloo's threads abort a rank that is left alone
    finally:
        HOST_GROUP.clear()
        dist.destroy_process_group()


def device_for(name: str) -> tuple[torch.device, str]:
    """The device of `--device` for this rank, and a warning ("" if none).

    `auto` is a GPU where one is seen; `cuda` without one falls back to the CPU, and says so.
    """
    if name not in ("auto", "cpu", "cuda", "mps") and not name.startswith("cuda:"):
        raise Mistake(f"--device: got {name!r}, expected auto, cpu, cuda, cuda:N or mps")
    if name == "mps":
        return apple_gpu(), ""
    if name == "cpu" or not torch.cuda.is_available():
        warning = (
            "" if name in ("cpu", "auto") else f"--device {name}: no GPU is visible, so this runs on the CPU"
        )
        return torch.device("cpu"), warning
    number = int(name[5:]) if ":" in name else int(os.environ.get("LOCAL_RANK", 0))
    if number >= torch.cuda.device_count():
        raise Mistake(f"--device: asked for GPU {number}, but {torch.cuda.device_count()} are visible")
    torch.cuda.set_device(number)
    return torch.device("cuda", number), ""


def apple_gpu() -> torch.device:
    """Raises Mistake where there is none, or several ranks would share it."""
    if not torch.backends.mps.is_available():
        raise Mistake("--device mps: this torch sees no Apple GPU; take --device auto or cpu")
    if world_size() > 1:
        raise Mistake(
            f"--device mps: {world_size()} ranks under torchrun, expected one process on an Apple GPU"
        )
    return torch.device("mps")


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else int(os.environ.get("RANK", 0))


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else int(os.environ.get("WORLD_SIZE", 1))


def barrier() -> None:
    if dist.is_initialized():
        dist.barrier(group=HOST_GROUP[0] if HOST_GROUP else None)


def as_on_rank_0(model: nn.Module) -> nn.Module:
    """`model`, its buffers now those of rank 0: running statistics are of what a rank has seen,
    and only rank 0's are saved.
    """
    if dist.is_initialized():
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)
    return model


def largest(value: int) -> int:
    """The largest `value` of any rank, on all; decided on the host, so that no device waits."""
    if not dist.is_initialized():
        return value
    box = torch.tensor(value)
    dist.all_reduce(box, dist.ReduceOp.MAX, group=HOST_GROUP[0] if HOST_GROUP else None)
    return int(box)


def gather(value) -> list:
    """`value` of every rank, in the order of ranks, on all."""
    if not dist.is_initialized():
        return [value]
    values = [None] * world_size()
    dist.all_gather_object(values, value, group=HOST_GROUP[0] if HOST_GROUP else None)
    return values


def sums(scalars: dict[str, float]) -> dict[str, float]:
    """The sum over ranks of each named number; a rank need not have them all."""
    total: dict[str, float] = {}
    for mine in gather(scalars):
        for name, value in mine.items():
            total[name] = total.get(name, 0.0) + value
    return total


def refuse_different(weights: Iterable[tuple[str, Tensor]], when: str) -> None:
    """Raises Mistake, naming the first of the named `weights` that has not the same bits on all ranks."""
    if world_size() == 1:
        return
    named = list(weights)
    marks = torch.stack([fingerprint(weight) for _, weight in named]).tolist()
    all_marks = gather(marks)
    for place, (name, _) in enumerate(named):
        if len({its_marks[place] for its_marks in all_marks}) > 1:
            raise Mistake(
                f"{when}: the ranks have trained different networks (first difference: {name}); a mode must "
                "leave the same gradient in p.grad on every rank"
            )


def fingerprint(weight: Tensor) -> Tensor:
    """[] int64 of the bits of a tensor and their places, exact on every device: integers do not round."""
    integers = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    bits = weight.detach().contiguous().flatten().view(integers[weight.element_size()]).long()
    places = torch.arange(1, len(bits) + 1, device=bits.device)
    return (bits * (2654435761 * places + 1)).sum()
