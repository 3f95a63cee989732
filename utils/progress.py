"""Where a run is, and whether it still gets better."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from utils import config, distributed
from utils.ledger import Ledger, joined_ledger


class Progress:
    """Where a run is: steps taken, updates made, the history of its epochs;
    sums over the running epoch and what it has seen.

    The sums stay on the device until an epoch ends or a checkpoint asks for them.
    """

    def __init__(self):
        self.step = self.updates = 0
        self.history: list[dict[str, float]] = []
        # this rank's share: name -> sum over examples; those being added to are
        self.sums: dict[str, float] = {}
        # here, as a vector in float64 on the device
        self.names = ()
        self.adding = None
        self.seen = Ledger()  # this rank's share of the examples

    def add(self, means: dict[str, Tensor], size: int, ids: np.ndarray) -> None:
        """`means` over `size` examples of all ranks, of which this rank had `ids`."""
        self.seen.note(ids)
        if means and tuple(means) != self.names:  # the first step, or a loss that names other terms now
            self.sums = self.mine()
            begin = [self.sums.pop(name, 0.0) for name in means]
            self.names = tuple(means)
            self.adding = torch.tensor(begin, dtype=torch.float64, device=next(iter(means.values())).device)
        if means:
            self.adding.add_(torch.stack([*means.values()]), alpha=size)

    def close_epoch(self) -> tuple[dict[str, float], Ledger]:
        """(means over the epoch, what it has seen), over all ranks; both begin anew."""
        totals = distributed.sums(self.mine())
        seen = joined_ledger(distributed.gather(self.seen.numbers))
        self.sums = {}
        self.names = ()
        self.seen = Ledger()
        return {name: total / seen.numbers[0] for name, total in totals.items()}, seen

    def mine(self) -> dict[str, float]:
        return self.sums | dict(zip(self.names, self.adding.tolist() if self.names else ()))

    def state_dict(self) -> dict:
        ranks = distributed.gather(dict(sums=self.mine(), seen=self.seen.numbers))
        return dict(
            step=self.step, updates=self.updates, history=[dict(row) for row in self.history], ranks=ranks
        )

    def load_state_dict(self, state: dict) -> None:
        self.step, self.updates, self.history = state["step"], state["updates"], state["history"]
        ranks = state["ranks"]
        if len(ranks) != distributed.world_size():  # rank 0 takes over what all had
            totals: dict[str, float] = {}
            for name, total in ((name, total) for rank in ranks for name, total in rank["sums"].items()):
                totals[name] = totals.get(name, 0.0) + total
            ranks = [dict(sums=totals, seen=joined_ledger(rank["seen"] for rank in ranks).numbers)] + [
                dict(sums={}, seen=(0, 0, 0))
            ] * (distributed.world_size() - 1)
        mine = ranks[distributed.rank()]
        self.sums = dict(mine["sums"])
        self.names = ()
        self.seen = Ledger(*mine["seen"])


def best_epoch(history: list[dict[str, float]], monitor: str, sign: float, min_delta: float) -> int:
    """The epoch of the best `val_<monitor>`, 0 before the first; `sign` makes smaller better.

    An improvement of less than `min_delta` is none.
    """
    best = float("inf")
    epoch = 0
    for row in history:
        value = sign * row[f"val_{monitor}"]
        if value < best - min_delta or not epoch:
            best = value
            epoch = int(row["epoch"])
    return epoch


def without_improvement(history: list[dict[str, float]], monitor: str, sign: float, min_delta: float) -> int:
    """Epochs since the best one."""
    return len(history) - best_epoch(history, monitor, sign, min_delta)


def monitored(name: str, monitors: Mapping[str, str]) -> tuple[str, float]:
    """The watched figure (empty: the first of `monitors`), and the sign that makes smaller better.
    Raises Mistake for one that is not there.
    """
    name = name or next(iter(monitors))
    return name, 1.0 if config.pick("monitor", name, dict(monitors)) == "min" else -1.0
