"""In which order examples are seen: a pure function of (seed, step), so a resume at any step costs nothing."""
import signal
from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import DataLoader

from contract import Batch, Examples
from utils import distributed
from utils.mistake import Mistake
from utils.seeding import seed_from

ROUNDS = 8
BLOCK = 4096             # examples whose places are worked out at once


class ShuffledEpochs:
    """Each example once an epoch, in a new order each epoch.

    `size` examples fall into steps of at most `batch_size`, all of nearly the same size (they differ by one), so
    that no short batch ends the epoch. `order(step)` gives the indices of one step, over all ranks.
    """

    def __init__(self, size: int, batch_size: int, seed: int):
        if size == 0:
            raise Mistake("the training split is empty: give more data or a larger --train_frac")
        self.size, self.seed, self.block = size, seed, {}
        self.steps_per_epoch = -(-size // batch_size)
        if size // self.steps_per_epoch < distributed.world_size():
            raise Mistake(f"--batch_size: {batch_size} examples a step cannot be shared by "
                          f"{distributed.world_size()} ranks; give at least one example a rank")

    def __call__(self, step: int) -> np.ndarray:
        if step not in self.block:                        # many steps at once cost little more than one
            epoch, part = divmod(step, self.steps_per_epoch)
            parts = range(part, min(part + max(1, BLOCK * self.steps_per_epoch // self.size), self.steps_per_epoch) + 1)
            cuts = [self.size * p // self.steps_per_epoch for p in parts]
            indices = permuted(np.arange(cuts[0], cuts[-1]), self.size, seed_from(self.seed, "epoch", epoch))
            self.block = {step + i: indices[a - cuts[0]:b - cuts[0]] for i, (a, b) in enumerate(zip(cuts, cuts[1:]))}
        return self.block[step]


def permuted(positions: np.ndarray, size: int, key: int) -> np.ndarray:
    """Where a keyed pseudorandom permutation of range(size) sends `positions`: O(1) memory at any size.

    A Feistel network over the next even power of two, walked along its cycles until it is inside the range
    (Black & Rogaway 2002, "Ciphers with arbitrary finite domains", method 2); the round function is the
    finaliser of MurmurHash3.
    """
    half = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
    mask = (np.uint64(1) << half) - np.uint64(1)
    keys = [np.uint64(seed_from(key, turn)) for turn in range(ROUNDS)]
    values = np.asarray(positions).astype(np.uint64)
    outside = np.ones(len(values), bool)
    while outside.any():
        left, right = values[outside] >> half, values[outside] & mask
        for turn in keys:
            mixed = right + turn                          # unsigned arithmetic wraps, as intended
            mixed ^= mixed >> np.uint64(33)
            mixed *= np.uint64(0xFF51AFD7ED558CCD)
            mixed ^= mixed >> np.uint64(33)
            mixed *= np.uint64(0xC4CEB9FE1A85EC53)
            mixed ^= mixed >> np.uint64(33)
            left, right = right, (left ^ mixed) & mask
        values[outside] = (left << half) | right
        outside = values >= np.uint64(size)
    return values.astype(np.int64)


def batches(data: Examples, order, steps: range, workers: int, device: torch.device) -> Iterator[tuple[Batch, int]]:
    """(this rank's share of the batch, size of the whole batch) for each of `steps`."""
    rank, ranks = distributed.rank(), distributed.world_size()

    def shares() -> Iterator[list[int]]:
        for step in steps:
            indices = order(step)
            sizes.append(len(indices))
            yield indices[rank::ranks].tolist()

    sizes: list[int] = []            # filled by the sampler, which runs ahead of the batches by the prefetch
    for batch in loader(data, shares(), workers, device):
        yield to_device(batch, device), sizes.pop(0)


def in_turn(data: Examples, batch_size: int, workers: int, device: torch.device) -> Iterator[Batch]:
    """Every example once over all ranks, in order: rank r has the r-th of every `world_size`."""
    mine = list(range(distributed.rank(), len(data), distributed.world_size()))
    shares = (mine[start:start + batch_size] for start in range(0, len(mine), batch_size))
    return (to_device(batch, device) for batch in loader(data, shares, workers, device))


def loader(data: Examples, shares: Iterator[list[int]], workers: int, device: torch.device) -> DataLoader:
    return DataLoader(data, batch_sampler=shares, collate_fn=as_it_is, num_workers=workers,
                      pin_memory=device.type == "cuda", worker_init_fn=leave_signals_to_the_parent)


def as_it_is(batch: Batch) -> Batch:
    """The data set has made the batch already."""
    return batch


def leave_signals_to_the_parent(_worker: int) -> None:
    """A forked worker inherits the run's handlers; it must not answer a signal meant for the run."""
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def to_device(batch: Batch, device: torch.device) -> Batch:
    return {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
