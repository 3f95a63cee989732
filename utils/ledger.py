"""Which numbers were seen, in three numbers that do not depend on their order:
their count, their sum and their exclusive or.

An epoch keeps account of the ids of its examples, the proof of a survey of the hashes of its paths.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

WORDS = 2**64  # sums are taken modulo this, as unsigned integers of 64 bits add


@dataclass
class Ledger:
    """An account of 64-bit integers. What is lost, or there twice, changes at least one of the numbers."""

    count: int = 0
    sum: int = 0  # modulo 2^64
    xor: int = 0

    @property
    def numbers(self) -> tuple[int, int, int]:
        return self.count, self.sum, self.xor

    def note(self, values: np.ndarray) -> None:
        """values: [N] uint64, or int64 from 0."""
        words = np.ascontiguousarray(values).view(np.uint64)
        self.count += len(words)
        self.sum = (self.sum + int(np.add.reduce(words))) % WORDS
        self.xor ^= int(np.bitwise_xor.reduce(words))

    def checked(self, size: int, epoch: int, times: np.ndarray | None = None) -> str:
        """A line for the log. Raises RuntimeError unless the ids are those of a data set of this size,
        0 to size - 1, once each, or so often as `times` [size] says.
        """
        last = size - 1
        expected = size, size * last // 2 % WORDS, (last, 1, size, 0)[last % 4]
        often = "once"
        if times is not None:
            due = Ledger()
            due.note(np.repeat(np.arange(size), times))
            expected = due.numbers
            often = "as often as it was due"
        if self.numbers != expected:
            raise RuntimeError(
                f"epoch {epoch} has not seen each of the {size} training examples {often}: count, sum and "
                f"xor of their ids are {self.numbers}, expected {expected}; does the data set's `index` say "
                "which examples were asked for?"
            )
        return (
            f"epoch {epoch} saw each example {often}: {self.count} ids, their sum {self.sum}, their xor "
            f"{self.xor}"
        )


def joined_ledger(shares: Iterable[tuple[int, int, int]]) -> Ledger:
    """The account of several ranks, from the numbers of each."""
    joined = Ledger()
    for count, total, exclusive_or in shares:
        joined.count += count
        joined.sum = (joined.sum + total) % WORDS
        joined.xor ^= exclusive_or
    return joined
