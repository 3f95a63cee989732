"""The shapes every part of Starloop agrees on. Imports torch and nothing of ours. Read this page first.

    Batch      dict of tensors; the first axis of each is the example axis, B.
               An example is whatever one averages over: an image, a curve, a graph, an episode, a client.
    Loss       one number per example, and named terms to log.
    Task       what a problem is: model, data, loss, and how to judge the result.
    Objective  model + loss as one module, so that DDP and autocast wrap both and the model stays bare.
    Gradient   a mode: one way to turn a batch into `p.grad`.
    Run        what a mode is built from.
    Answer     what a trained network is asked, and how that is written.

Shape letters are the same everywhere: B example, C channel, T time, H W image, N node, E edge.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
Batch = dict[str, Tensor]
Columns = dict[str, Tensor]  # name -> [B] or [N]: one row per example


class Loss(NamedTuple):
    value: Tensor  # [B] float32, differentiable
    terms: dict[str, Tensor]  # name -> [B], logged as means, never optimised


class LossFn(Protocol):
    def __call__(self, model: nn.Module, batch: Batch, step: int) -> Loss:
        """Calls `model(...)` as often as it likes; never reaches inside it, and never averages."""


class Examples(Protocol):
    """A data set: deterministic, in physical units, read a batch at a time.

    May say `uniform = True`: all examples have tensors of one shape, so that the set can lie on the device
    whole. What is read in an order of its own has `epochs(batch_size, seed, lanes) -> order` and
    `follow(order, step)`, which reads ahead (data/tar_shards/stream.py).
    """

    def __len__(self) -> int: ...

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """The examples at `indices` as one batch; `index` [B] int64 is among its tensors."""

    def names(self, indices: Sequence[int]) -> list[str]:
        """What a person calls these examples; an error names them."""


def column_means(columns: Columns) -> dict[str, float]:
    return {name: column.double().mean().item() for name, column in columns.items()}


@dataclass(frozen=True)
class Task:
    """One scientific question. It owns no optimiser, EMA, DDP, compile or checkpoint."""

    model: nn.Module
    data: Mapping[str, Examples]  # "train", "val", "test"
    loss: LossFn
    measure: Callable[[nn.Module, Batch], Columns]  # scores of each example, [B] each
    monitors: Mapping[str, str]  # name in the summary -> "min" or "max"; the first is the default
    summarise: Callable[[Columns], dict[str, float]] = column_means  # each epoch, on validation
    report: Callable[[Columns], dict[str, Any]] | None = None  # once, on validation and test; None: summarise
    # once, on validation: plain numbers for predict, stored in best.pt
    calibrate: Callable[[Columns], dict[str, Any]] | None = None
    # (SummaryWriter, model, validation columns, epoch)
    illustrate: Callable[[Any, nn.Module, Columns, int], None] | None = None
    record: Mapping[str, Any] | None = None  # what predict must know of the data, stored in checkpoints


class InPrecision(nn.Module):
    """Runs `model` under autocast and hands back float32, so that losses never see half precision."""

    def __init__(self, model: nn.Module, dtype: torch.dtype):
        super().__init__()
        self.model, self.dtype = model, dtype

    def forward(self, *args, **kwargs):
        if self.dtype == torch.float32:
            return self.model(*args, **kwargs)
        with torch.autocast(next(self.model.parameters()).device.type, self.dtype):
            output = self.model(*args, **kwargs)
        return tree_map(lambda t: t.float() if isinstance(t, Tensor) and t.is_floating_point() else t, output)


class Objective(nn.Module):
    """`objective(batch, step) -> Loss`: the network in `dtype`, the loss in float32.

    Raises ValueError for a loss that is not one value per example.
    """

    def __init__(self, model: nn.Module, loss: LossFn, dtype: torch.dtype):
        super().__init__()
        self.network, self.loss = InPrecision(model, dtype), loss

    def forward(self, batch: Batch, step: int) -> Loss:
        value, terms = self.loss(self.network, batch, step)
        if value.shape != (size_of(batch),):
            raise ValueError(
                f"a loss returns one value per example: "
                f"expected shape [{size_of(batch)}], got {list(value.shape)}"
            )
        return Loss(value, {name: term.detach() for name, term in terms.items()})


class Gradient(Protocol):
    def __call__(self, batch: Batch, size: int, step: int) -> dict[str, Tensor]:
        """Leave the gradient of the mean over all `size` examples of all ranks in `p.grad`.

        Returns scalars to log, each this rank's share of the mean over the `size` examples: their sum over
        ranks is that mean. May also have `state_dict` and `load_state_dict` (memory), `report() -> {name:
        float}` (logged each epoch) and `order(step) -> indices` (another way to draw batches than shuffled
        epochs).
        """


@dataclass(frozen=True)
class Run:
    """What a mode's `build(config, run)` may use."""

    model: nn.Module  # bare
    objective: Objective
    data: Examples  # training examples
    scaler: torch.amp.GradScaler
    batch_size: int  # examples a step, over all ranks
    accumulate: int  # pieces that each rank's share is cut into
    steps: int  # planned for the whole run
    epochs: int
    seed: int  # of weights, order and augmentation


@dataclass(frozen=True)
class Answer:
    """What predict.py asks of a trained network."""

    model: nn.Module  # built, its weights not loaded yet
    data: Examples
    predict: Callable[[nn.Module, Batch], Columns]  # [B, ...] each
    write: Callable[[dict[str, Any], Any], str]  # (columns [N, ...] numpy, folder) -> the line to print
    key: Any  # with the weights, says whether an interrupted prediction is this one
    notes: Sequence[str] = ()  # lines for the terminal


def size_of(batch: Batch) -> int:
    return len(next(iter(batch.values())))


def pieces(batch: Batch, count: int) -> list[Batch]:
    """`batch` cut along the example axis into at most `count` pieces, none of them empty."""
    count = max(1, min(count, size_of(batch)))
    if count == 1:
        return [batch]
    cuts = {name: tensor.tensor_split(count) for name, tensor in batch.items()}
    return [{name: cut[i] for name, cut in cuts.items()} for i in range(count)]
