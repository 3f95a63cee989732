"""The order of examples that lie in shards: as random as reading few shards at a time allows,
and a pure function of (counts, seed, step).
"""

from collections.abc import Iterator, Sequence

import numpy as np

from data.order import BLOCK, permuted
from utils import distributed
from utils.mistake import Mistake
from utils.seeding import seed_from

WINDOW = 4  # shards among which a lane's examples are shuffled


class ShardedEpochs:
    """Each example once an epoch, in steps of even size as ShuffledEpochs,
    each lane among few shards at a time.

    counts: examples of each shard; example i is the i-th of all shards in turn. An epoch lines up the shards
    in a new order, gives each lane an unbroken stretch of the line (two lanes share the shard that lies on
    their border), and shuffles a lane's stretch within windows of `window` shards. `order(step)` gives the
    indices of one step, over all ranks: lane v has every `lanes`-th from the v-th on.
    """

    def __init__(
        self,
        counts: Sequence[int],
        batch_size: int,
        seed: int,
        lanes: int | None = None,
        window: int = WINDOW,
    ):
        self.counts = np.asarray(counts, dtype=np.int64)
        self.size = int(self.counts.sum())
        self.seed = seed
        self.window = window
        self.lanes = lanes or distributed.world_size()
        if self.size == 0:
            raise Mistake("the training split is empty: give more data or a larger --train_frac")
        self.first = np.cumsum(self.counts) - self.counts  # example of each shard
        self.steps_per_epoch = -(-self.size // batch_size)
        if self.size // self.steps_per_epoch < self.lanes:
            raise Mistake(
                f"--batch_size: {batch_size} examples a step cannot be shared by {self.lanes} lanes; give at "
                "least one example a lane"
            )
        # of the epoch at hand and the one read ahead
        self.lines: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self.block: dict[int, np.ndarray] = {}

    def __call__(self, step: int) -> np.ndarray:
        if step not in self.block:  # many steps at once cost little more than one
            epoch, part = divmod(step, self.steps_per_epoch)
            stop = min(part + max(1, BLOCK * self.steps_per_epoch // self.size), self.steps_per_epoch)
            cuts = [self.size * p // self.steps_per_epoch for p in range(part, stop + 1)]
            steps = [np.empty(last - first, dtype=np.int64) for first, last in zip(cuts, cuts[1:])]
            for lane in range(self.lanes):
                mine = self._drawn(epoch, lane, self._done(lane, part), self._done(lane, stop))
                at = 0
                for indices in steps:
                    share = indices[lane :: self.lanes]
                    share[:] = mine[at : at + len(share)]
                    at += len(share)
            self.block = {step + number: indices for number, indices in enumerate(steps)}
        return self.block[step]

    def shards(self, step: int, lanes: Sequence[int]) -> Iterator[int]:
        """The shards that these lanes read from `step` on, for ever,
        in the order in which their windows come.
        """
        epoch, part = divmod(step, self.steps_per_epoch)
        while True:
            found = []
            for lane in lanes:
                ends = self._windows(epoch, lane)
                at = self._done(lane, part)
                for start, end in zip([0, *ends[:-1]], ends):
                    if end > at:
                        begins = self._begins(lane)
                        found += [
                            ((max(start, at) - at) / max(1, self._done(lane, self.steps_per_epoch)), shard)
                            for shard in self._shards_between(epoch, begins + start, begins + end)
                        ]
            yield from (shard for _, shard in sorted(found, key=lambda pair: pair[0]))
            epoch = epoch + 1
            part = 0

    def _done(self, lane: int, part: int) -> int:
        """How many examples a lane has had before step `part` of an epoch:
        the steps have n or n + 1 examples, of which it has a known share.
        """
        least = self.size // self.steps_per_epoch
        larger = self.size * part // self.steps_per_epoch - part * least
        share = [(count - lane + self.lanes - 1) // self.lanes for count in (least, least + 1)]
        return part * share[0] + larger * (share[1] - share[0])

    def _begins(self, lane: int) -> int:
        """Where in the line of an epoch a lane's stretch begins."""
        return sum(self._done(before, self.steps_per_epoch) for before in range(lane))

    def _lined_up(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """(the shards in the order of an epoch, the place in the line where each ends)."""
        if epoch not in self.lines:
            shards = permuted(
                np.arange(len(self.counts)), len(self.counts), seed_from(self.seed, "shards", epoch)
            )
            self.lines = {known: line for known, line in self.lines.items() if abs(known - epoch) == 1}
            self.lines[epoch] = shards, np.cumsum(self.counts[shards])
        return self.lines[epoch]

    def _windows(self, epoch: int, lane: int) -> list[int]:
        """Where in a lane's stretch its windows end."""
        begin = self._begins(lane)
        length = self._done(lane, self.steps_per_epoch)
        _, ends = self._lined_up(epoch)
        inside = (
            ends[np.searchsorted(ends, begin, side="right") : np.searchsorted(ends, begin + length)] - begin
        )
        return [*np.unique(inside)[self.window - 1 :: self.window].tolist(), length]

    def _shards_between(self, epoch: int, start: int, end: int) -> list[int]:
        shards, ends = self._lined_up(epoch)
        between = shards[
            np.searchsorted(ends, start, side="right") : np.searchsorted(ends, end - 1, side="right") + 1
        ]
        return between[self.counts[between] > 0].tolist()

    def _drawn(self, epoch: int, lane: int, first: int, last: int) -> np.ndarray:
        """The examples of a lane from its `first` to before its `last` of an epoch."""
        (shards, ends), windows, drawn, start = self._lined_up(epoch), self._windows(epoch, lane), [], 0
        for number, end in enumerate(windows):
            if start < last and end > first:
                places = np.arange(max(first, start), min(last, end)) - start
                drawn.append(
                    start + permuted(places, end - start, seed_from(self.seed, "window", epoch, lane, number))
                )
            start = end
        places = np.concatenate(drawn) + self._begins(lane)
        which = np.searchsorted(ends, places, side="right")
        return self.first[shards[which]] + places - (ends[which] - self.counts[shards[which]])
