"""Which examples an epoch has seen, in three numbers that do not depend on their order:
count, sum and exclusive or of their ids.
"""

from collections.abc import Iterable
from functools import reduce
from operator import xor

import numpy as np


class Ledger:
    """The ids of a rank so far. What is lost, or read twice, changes at least one of the numbers."""

    def __init__(self, count: int = 0, total: int = 0, exclusive_or: int = 0):
        self.numbers = count, total, exclusive_or

    def note(self, ids: np.ndarray) -> None:
        """ids: [B] int64."""
        count, total, exclusive_or = self.numbers
        self.numbers = (
            count + len(ids),
            total + int(np.add.reduce(ids)),
            exclusive_or ^ int(np.bitwise_xor.reduce(ids)),
        )

    def checked(self, size: int, epoch: int) -> str:
        """A line for the log. Raises RuntimeError unless the ids are those of a data set of this size,
        0 to size - 1, once each.
        """
        last = size - 1
        expected = size, size * last // 2, (last, 1, size, 0)[last % 4]
        if self.numbers != expected:
            raise RuntimeError(
                f"epoch {epoch} has not seen each of the {size} training examples once: count, sum and xor "
                "of their ids are "
                f"{self.numbers}, expected {expected}; does the data set's `index` say which examples were "
                "asked for?"
            )
        return "epoch {} saw each example once: {} ids, their sum {}, their xor {}".format(
            epoch, *self.numbers
        )


def together(ledgers: Iterable[tuple[int, int, int]]) -> Ledger:
    """The ledger of several ranks."""
    counts, totals, exclusive_ors = zip(*ledgers)
    return Ledger(sum(counts), sum(totals), reduce(xor, exclusive_ors))
