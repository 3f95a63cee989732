"""In which order examples are seen: a pure function of (seed, step),
so a resume at any step costs nothing.
"""

import atexit
import shutil
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from contract import Batch, Examples, Order, lengths_agree, refuse_lengths
from data.resident import Resident
from data.workers import leave_signals_to_the_parent
from utils import distributed
from utils.mistake import Mistake
from utils.seeding import seed_from

ROUNDS = 8
LOOK, PATIENCE = 5, 600  # s after which waiting for data is looked at, and after which it is given up
BLOCK = 4096  # examples whose places are worked out at once


class ShuffledEpochs:
    """Each example once an epoch, in a new order each epoch.

    `size` examples fall into steps of at most `batch_size`, all of nearly the same size (they differ by one),
    so that no short batch ends the epoch. `order(step)` gives the indices of one step, over all ranks.
    """

    def __init__(self, size: int, batch_size: int, seed: int, lanes: int = 1):
        if size == 0:
            raise Mistake("the training split is empty: give more data or a larger --train_frac")
        if size > 2**32:
            raise Mistake(
                f"the training split has {size:,} examples, expected at most 2^32: give a smaller "
                "--take_train_frac"
            )
        self.size = size
        self.seed = seed
        self.block = {}
        self.steps_per_epoch = -(-size // batch_size)
        if size // self.steps_per_epoch < lanes:
            raise Mistake(
                f"--batch_size: {batch_size} examples a step cannot be shared by {lanes} ranks or lanes; "
                "give at least one example each"
            )

    def __call__(self, step: int) -> np.ndarray:
        if step not in self.block:  # many steps at once cost little more than one
            epoch, part = divmod(step, self.steps_per_epoch)
            parts = range(
                part, min(part + max(1, BLOCK * self.steps_per_epoch // self.size), self.steps_per_epoch) + 1
            )
            cuts = [self.size * p // self.steps_per_epoch for p in parts]
            indices = permuted(np.arange(cuts[0], cuts[-1]), self.size, seed_from(self.seed, "epoch", epoch))
            self.block = {
                step + i: indices[a - cuts[0] : b - cuts[0]] for i, (a, b) in enumerate(zip(cuts, cuts[1:]))
            }
        return self.block[step]


def permuted(positions: np.ndarray, size: int, key: int) -> np.ndarray:
    """Where a keyed pseudorandom permutation of range(size) sends `positions`:
    O(1) memory at any size, up to 2^32.

    A Feistel network over the next power of two, walked along its cycles until it is inside the range (Black
    & Rogaway 2002, "Ciphers with arbitrary finite domains", method 2); the round function is the finaliser of
    MurmurHash3.
    """
    bits = max(2, (size - 1).bit_length())
    shift = np.uint32(bits // 2)  # of an odd number the upper half has one bit more
    masks = np.uint32((1 << bits - bits // 2) - 1), np.uint32((1 << bits // 2) - 1)
    keys = [np.uint32(seed_from(key, turn) & 0xFFFFFFFF) for turn in range(ROUNDS)]
    values = np.asarray(positions).astype(np.uint32)
    outside = slice(None)
    walking = values
    while len(walking):
        left = walking >> shift
        right = walking & masks[1]
        for turn, addend in enumerate(keys):
            mixed = right + addend  # unsigned arithmetic wraps, as intended
            mixed ^= mixed >> np.uint32(16)
            mixed *= np.uint32(0x85EBCA6B)
            mixed ^= mixed >> np.uint32(13)
            mixed *= np.uint32(0xC2B2AE35)
            mixed ^= mixed >> np.uint32(16)
            left, right = right, (left ^ mixed) & masks[turn % 2]
        values[outside] = left << shift | right  # the halves have changed places an even number of times
        outside = np.flatnonzero(values >= size)
        walking = values[outside]
    return values.astype(np.int64)


def lanes_of(lanes: int) -> range:
    """This rank's lanes. Lane v of so many has the v-th of every `lanes` examples;
    each rank has as many lanes, mostly one.
    """
    each = lanes // distributed.world_size()
    return range(distributed.rank() * each, (distributed.rank() + 1) * each)


class Share(NamedTuple):
    """What a rank has of one step."""

    batch: Batch
    size: int  # of the whole batch, over all ranks
    ids: np.ndarray  # [B] the batch's `index`, on the host


def batches(
    data: Examples,
    order: Order,
    steps: range,
    workers: int,
    device: torch.device,
    lanes: int,
    stops: Callable[[], int] = lambda: 0,
) -> Iterator[Share]:
    """This rank's share of the batch of each of `steps`, lane by lane.

    stops: whether the run is to end; asked while data are waited for, which then end early.
    """

    def shares() -> Iterator[np.ndarray]:
        for step in steps:
            indices = order(step)
            sizes.append(len(indices))
            yield np.concatenate([indices[lane::lanes] for lane in mine])

    data.follow(order, steps.start)
    mine = lanes_of(lanes)
    sizes: list[int] = []  # filled by the sampler, which runs ahead of the batches by the prefetch
    for batch, ids in read_shares(data, shares(), workers, device, stops):
        yield Share(batch, sizes.pop(0), ids)


def each_once(
    data: Examples, batch_size: int, workers: int, device: torch.device, lanes: int
) -> Iterator[Batch]:
    """Every example once over all ranks, each lane in order; `place_each_once` puts what the ranks gather in
    the order of the data.
    """
    mine = (range(lane, len(data), lanes) for lane in lanes_of(lanes))
    shares = (
        np.asarray(lane[start : start + batch_size])
        for lane in mine
        for start in range(0, len(lane), batch_size)
    )
    return (batch for batch, _ in read_shares(data, shares, workers, device))


def place_each_once(size: int, lanes: int) -> Tensor:
    """[size] int64: where, among the rows of `each_once` of all ranks, each example is."""
    return torch.cat([torch.arange(lane, size, lanes) for lane in range(lanes)]).argsort()


def read_shares(
    data: Examples,
    shares: Iterable[np.ndarray],
    workers: int,
    device: torch.device,
    stops: Callable[[], int] = lambda: 0,
) -> Iterator[tuple[Batch, np.ndarray]]:
    """(the batch of each share, on the device; its `index`, on the host),
    by so many processes besides this one, or in this one.

    stops: as in `batches`.
    """
    if isinstance(data, Resident):
        for share in shares:
            yield data.__getitems__(share), share
        return
    if workers:
        shares = loader(data, shares, workers, device, stops)
    for share in shares:
        batch = share if workers else data.__getitems__(share)
        ids = batch["index"].numpy()
        size = len(ids) if workers else len(share)
        if not lengths_agree(batch, size):
            refuse_lengths(batch, size, data.names(ids))
        yield to_device(batch, device), ids


def loader(
    data: Examples, shares: Iterable[np.ndarray], workers: int, device: torch.device, stops: Callable[[], int]
) -> Iterator[Batch]:
    """The batches of `shares`, read by processes of a DataLoader.

    Raises Mistake as they do, in one line; and where nothing has come from them for PATIENCE seconds.
    """
    batches = iter(
        DataLoader(
            data,
            batch_sampler=shares,
            collate_fn=in_shared_memory,
            timeout=LOOK,
            num_workers=workers,
            pin_memory=device.type == "cuda",
            worker_init_fn=leave_signals_to_the_parent,  # a forked one inherits the run's handlers
        )
    )
    # Workers that mind no SIGTERM must be told to end, also where an error keeps this generator alive:
    # Python would wait for them for ever.
    atexit.register(stop := batches._shutdown_workers)
    silent = 0
    try:
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                return
            except RuntimeError as error:
                if "timed out after" not in str(error):
                    raise
                silent += LOOK
                if stops():
                    return
                if silent >= PATIENCE:
                    raise Mistake(
                        f"--num_workers {workers}: nothing has come from the reading processes for {silent} "
                        "s: is the disk or server of the data at work? --num_workers 0 shows where it waits"
                    ) from error
                continue
            silent = 0
            yield batch
    except Mistake as mistake:  # as torch retells it: the worker's whole traceback, the text last
        raise Mistake(str(mistake).strip().splitlines()[-1].split("Mistake: ", 1)[-1]) from mistake
    finally:
        stop()
        atexit.unregister(stop)


def in_shared_memory(batch: Batch) -> Batch:
    """The batch, which the data set has made already, put where the run reads it.

    torch's queue would do so in a thread, whose error nobody hears: the run would wait for ever.
    Raises Mistake where there is no room.
    """
    try:
        return {name: tensor.share_memory_() for name, tensor in batch.items()}
    except RuntimeError as error:
        needed = sum(tensor.nbytes for tensor in batch.values())
        room = shutil.disk_usage("/dev/shm")
        raise Mistake(
            f"--num_workers: a batch of {needed / 2**20:,.1f} MiB does not fit into the shared memory "
            f"(/dev/shm, {room.free / 2**20:,.1f} of {room.total / 2**20:,.1f} MiB free; "
            f"{first_line(error)}): give --num_workers 0, a smaller --batch_size, or the container more of "
            "it (--shm-size 8g)"
        ) from error


def first_line(error: Exception) -> str:
    return str(error).split("\n")[0]


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch on the device; the host does not wait, as what goes to a GPU is page-locked first."""
    if device.type != "cuda":
        return batch
    return {
        name: (tensor if tensor.is_pinned() else tensor.pin_memory()).to(device, non_blocking=True)
        for name, tensor in batch.items()
    }
