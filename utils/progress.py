"""Where a run is, and whether it still gets better."""
import torch
from torch import Tensor

from utils import distributed


class Progress:
    """Where a run is: steps taken, updates made, the history of its epochs, and sums over the running epoch.

    The sums stay on the device until an epoch ends or a checkpoint asks for them.
    """

    def __init__(self):
        self.step = self.updates = 0
        self.history: list[dict[str, float]] = []
        self.sums: dict[str, Tensor | float] = {}        # this rank's share, float64: name -> sum over examples
        self.examples = 0.0                              # this rank's share of their number

    @torch.no_grad()
    def add(self, means: dict[str, Tensor], size: int) -> None:
        self.examples += size / distributed.world_size()
        for name, mean in means.items():
            if not isinstance(self.sums.get(name), Tensor):
                self.sums[name] = torch.full((), self.sums.get(name, 0.0), dtype=torch.float64, device=mean.device)
        if means:
            torch._foreach_add_([self.sums[name] for name in means], list(means.values()), alpha=size)

    def close_epoch(self) -> dict[str, float]:
        """Means over the epoch and over all ranks; the sums begin anew."""
        totals = distributed.sums(self.mine())
        self.sums, self.examples = {}, 0.0
        return {name: total / totals["examples"] for name, total in totals.items() if name != "examples"}

    def mine(self) -> dict[str, float]:
        return {name: float(total) for name, total in self.sums.items()} | dict(examples=self.examples)

    def state_dict(self) -> dict:
        sums = distributed.gather(self.mine())
        return dict(step=self.step, updates=self.updates, history=[dict(row) for row in self.history], sums=sums)

    def load_state_dict(self, state: dict) -> None:
        self.step, self.updates, self.history = state["step"], state["updates"], state["history"]
        self.sums = dict(state["sums"][distributed.rank()]) if distributed.rank() < len(state["sums"]) else {}
        self.examples = self.sums.pop("examples", 0.0)


def best_epoch(history: list[dict[str, float]], monitor: str, sign: float, min_delta: float) -> int:
    """The epoch of the best `val_<monitor>`, 0 before the first; `sign` makes smaller better.

    An improvement of less than `min_delta` is none.
    """
    best, epoch = float("inf"), 0
    for row in history:
        value = sign * row[f"val_{monitor}"]
        if value < best - min_delta or not epoch:
            best, epoch = value, int(row["epoch"])
    return epoch


def without_improvement(history: list[dict[str, float]], monitor: str, sign: float, min_delta: float) -> int:
    """Epochs since the best one."""
    return len(history) - best_epoch(history, monitor, sign, min_delta)
