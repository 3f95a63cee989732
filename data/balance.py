"""Training on two classes as if they were equally many: those of the smaller are drawn again and again."""

from collections.abc import Sequence

import numpy as np

from contract import Batch, Examples, Order
from data.order import ShuffledEpochs, permuted
from utils.mistake import Mistake
from utils.seeding import seed_from


class BalancedEpochs:
    """Each example of the larger class once an epoch, in a new order each, and as many draws of the smaller.

    The draws go through the smaller class in turn, and on from where the last epoch ended, so that over a
    run each of its examples is drawn as often as any other, give or take one. `order(step)` gives the
    indices of one step, over all ranks; a pure function of (seed, step).
    """

    def __init__(self, larger: np.ndarray, smaller: np.ndarray, batch_size: int, seed: int, lanes: int):
        self.larger = larger  # indices
        turn = permuted(np.arange(len(smaller)), len(smaller), seed_from(seed, "balance"))
        self.smaller = smaller[turn]
        self.places = ShuffledEpochs(2 * len(larger), batch_size, seed, lanes)
        self.steps_per_epoch = self.places.steps_per_epoch

    def __call__(self, step: int) -> np.ndarray:
        place = self.places(step)
        draw = place - len(self.larger) + len(self.larger) * (step // self.steps_per_epoch)
        return np.where(
            place < len(self.larger),
            self.larger[np.minimum(place, len(self.larger) - 1)],
            self.smaller[draw % len(self.smaller)],
        )

    def times(self, epoch: int, size: int) -> np.ndarray:
        """[size] int64, how often an epoch has each example."""
        count, rest = divmod(len(self.larger), len(self.smaller))
        times = np.zeros(size, dtype=np.int64)
        times[self.larger] = 1
        times[self.smaller] = count
        begin = len(self.larger) * epoch
        times[self.smaller[(begin + np.arange(rest)) % len(self.smaller)]] += 1
        return times


class Balanced(Examples):
    """The examples of `data`, in an order that has as many of one class as of the other.

    first: [E] bool, which are of the first class.
    Raises: Mistake where a class has none.
    """

    def __init__(self, data: Examples, first: np.ndarray):
        self.data = data
        self.uniform = data.uniform
        classes = [np.flatnonzero(first), np.flatnonzero(~np.asarray(first, dtype=bool))]
        self.smaller, self.larger = sorted(classes, key=len)
        if not len(self.smaller):
            raise Mistake(
                f"--balance: the training split holds {len(self.larger)} examples of one class, expected both"
            )
        self.order: BalancedEpochs | None = None

    def __len__(self) -> int:
        return len(self.data)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        return self.data.__getitems__(indices)

    def names(self, indices: Sequence[int]) -> list[str]:
        return self.data.names(indices)

    def epochs(self, batch_size: int, seed: int, lanes: int) -> Order:
        self.order = BalancedEpochs(self.larger, self.smaller, batch_size, seed, lanes)
        return self.order

    def times(self, epoch: int) -> np.ndarray:
        assert self.order is not None, "asked before the order was made"
        return self.order.times(epoch, len(self))
