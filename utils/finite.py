"""Whether a step moved the weights: the device decides at once, the host learns it a step later."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from utils.messages import first_of
from utils.transfer import Arriving


class FiniteCheck:
    """The last step's verdict, until it is read.

    A step whose gradient is not finite moves nothing: the fused optimiser is told on the device
    (`found_inf`), so that the host need not look before it. The host reads a step's verdict after it has
    launched the backward pass of the next one and before it launches that one's update:
    by then the figure has long arrived, and nothing has moved in between.
    """

    def __init__(self, names: Callable[[list[int]], list[str]], may_skip: bool):
        self.names = names  # what a person calls the examples at these indices
        self.may_skip = may_skip  # a GradScaler is at work: its scale may be to blame
        self.pending = None

    def ask(self, step: int, norm: Tensor, scale: Tensor, means: dict[str, Tensor], ids: np.ndarray) -> None:
        """`ids` [B] is what the step's batch was made of; `scale` what its loss was multiplied by."""
        self.pending = step, Arriving(torch.stack([norm, scale])), means, ids

    def read(self) -> int:
        """How many updates the pending step has made: 1, or 0 where the GradScaler skipped it or none is
        pending.

        Raises FloatingPointError, with the step and its examples, where the scale is not to blame.
        """
        if not self.pending:
            return 0
        (step, figures, means, ids), self.pending = self.pending, None
        norm, scale = figures.read()
        finite = abs(norm) < float("inf")
        if not finite and (not self.may_skip or scale < 1):  # below 1 it is not the scale's fault
            terms = ", ".join(f"{name} {value.item():g}" for name, value in means.items())
            raise FloatingPointError(
                f"step {step}: the gradient norm is {norm}; {terms}; examples of this rank: "
                f"{', '.join(self.names(ids.tolist()))}. The optimiser has not moved; try a smaller --lr or "
                "--clip_norm"
            )
        return int(finite)


def refuse_not_finite(
    columns: dict[str, Tensor], names: Callable[[list[int]], list[str]], where: str
) -> None:
    """Raises FloatingPointError where a loss is not finite: weights diverged, or fp16 cannot hold an example.

    columns: "loss" [N, ...], if there is one. names: of the examples by their number.
    """
    if "loss" not in columns:
        return
    wrong = (
        (~columns["loss"].reshape(len(columns["loss"]), -1).isfinite().all(1)).nonzero().flatten().tolist()
    )
    if wrong:
        raise FloatingPointError(
            f"{where}: the loss of {len(wrong):,} of {len(columns['loss']):,} examples is not finite "
            f"({first_of(names(wrong[:4]))}); try a smaller --lr, or bf16 or fp32 where --precision is fp16"
        )
