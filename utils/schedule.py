"""The learning rate: a function of the configuration, the updates so far and the validation history."""

import math
from dataclasses import dataclass
from typing import Literal

from utils.config import Options, option
from utils.mistake import Mistake


@dataclass(frozen=True)
class ScheduleConfig(Options):
    lr: float = option(3e-4, above=0)  # peak learning rate
    # its shape after the warm-up; onecycle rises by itself
    scheduler: Literal["cosine", "step", "exp", "plateau", "onecycle", "cosine_restarts", "constant"] = (
        "cosine"
    )
    warmup_epochs: float = option(2, least=0)  # epochs of linear rise to the peak
    min_lr: float = option(1e-6, least=0)  # no schedule goes below
    step_size: float = option(20, above=0)  # step: epochs between two reductions
    # step: the factor of a reduction; exp: the factor of an epoch
    gamma: float = option(0.5, above=0, most=1)
    plateau_factor: float = option(0.5, above=0, most=1)  # plateau: the factor of a reduction
    plateau_patience: int = option(3, least=0)  # plateau: epochs without improvement before a reduction
    plateau_cooldown: int = option(0, least=0)  # plateau: epochs after a reduction that are not counted
    plateau_monitor: str = ""  # plateau: the validation figure to watch; empty: the one of --monitor
    # onecycle: share of the run in which the rate rises to its peak
    onecycle_rise: float = option(0.3, above=0, below=1)
    onecycle_start: float = option(25, least=1)  # onecycle: the peak over the rate of the first step
    # cosine_restarts: epochs of the first cycle after the warm-up
    restart_epochs: float = option(10, above=0)
    # cosine_restarts: how many times longer each cycle is than the one before
    restart_growth: float = option(2, least=1)

    def __post_init__(self):
        super().__post_init__()
        if self.min_lr > self.lr:
            raise Mistake(f"--min_lr: got {self.min_lr:g}, expected at most --lr {self.lr:g}")


def learning_rate(
    config: ScheduleConfig, updates: int, epoch_steps: int, total_steps: int, watched: list[float]
) -> float:
    """The learning rate of the next update.

    updates      optimiser updates so far (a step that the GradScaler skipped is none)
    epoch_steps  steps in an epoch; total_steps in the whole run
    watched      the watched validation figure of each epoch so far, turned so that smaller is better
    """
    if config.scheduler == "onecycle":
        return one_cycle(config, updates, total_steps)
    warmup = round(config.warmup_epochs * epoch_steps)
    if updates < warmup:
        return max(config.min_lr, config.lr * (updates + 1) / warmup)
    epochs = updates / epoch_steps
    if config.scheduler == "cosine":
        part = min(1.0, (updates - warmup) / max(1, total_steps - warmup))
        return config.min_lr + (config.lr - config.min_lr) * 0.5 * (1 + math.cos(math.pi * part))
    if config.scheduler == "cosine_restarts":
        since, cycle = in_cycle(updates - warmup, config.restart_epochs * epoch_steps, config.restart_growth)
        return half_cosine(config.lr, config.min_lr, since / cycle)
    if config.scheduler == "constant":
        return config.lr
    if config.scheduler == "step":
        factor = config.gamma ** int(epochs / config.step_size)
    elif config.scheduler == "exp":
        factor = config.gamma**epochs
    else:
        factor = config.plateau_factor ** reductions(
            watched, config.plateau_patience, config.plateau_cooldown
        )
    return max(config.min_lr, config.lr * factor)


def half_cosine(begin: float, end: float, part: float) -> float:
    """From `begin` at part 0 to `end` at part 1."""
    return end + (begin - end) * 0.5 * (1 + math.cos(math.pi * min(1.0, part)))


def one_cycle(config: ScheduleConfig, updates: int, total_steps: int) -> float:
    """Up to the peak and down to min_lr, each along half a cosine,
    as torch's OneCycleLR (Smith & Topin 2018).
    """
    peak = config.onecycle_rise * total_steps - 1
    first = max(config.min_lr, config.lr / config.onecycle_start)
    if updates < peak:
        return half_cosine(first, config.lr, updates / peak)
    return half_cosine(config.lr, config.min_lr, (updates - peak) / max(1.0, total_steps - 1 - peak))


def in_cycle(updates: int, first: float, growth: float) -> tuple[float, float]:
    """(updates since the last restart, length of its cycle): cycles grow by a factor from `first` on."""
    since = float(updates)
    cycle = first
    while since >= cycle:
        since -= cycle
        cycle *= growth
    return since, cycle


def reductions(watched: list[float], patience: int, cooldown: int) -> int:
    """How often the rate has been reduced on a plateau, as torch's ReduceLROnPlateau counts (threshold 0)."""
    best, bad, rest, count = math.inf, 0, 0, 0
    for value in watched:
        best, bad = (value, 0) if value < best else (best, bad + 1)
        if rest > 0:
            rest = rest - 1
            bad = 0
        if bad > patience:
            count = count + 1
            rest = cooldown
            bad = 0
    return count
