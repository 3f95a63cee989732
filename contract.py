"""The shapes every part of Starloop agrees on. Imports torch and nothing of ours. Read this page first.

    Batch      dict of tensors; the first axis of each is the example axis, B.
               An example is whatever one averages over: an image, a curve, a graph, an episode, a client.
    Loss       one number per example, and named terms to log.
    Task       what a problem is: model, data, loss, and how to judge the result.
    Objective  model + loss as one module, so that DDP and autocast wrap both and the model stays bare.
    Mode       one way to turn a batch into `p.grad`: how its Gradient is built, and how it poses the task.
    Run        what a mode is built from.
    Answer     what a trained network is asked, and how that is written.

Shape letters are the same everywhere: B example, C channel, T time, H W image, N node, E edge.
What a part may leave out has a default here; nothing looks for it by name.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map
from torch.utils.data import Dataset

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
HALF = (torch.bfloat16, torch.float16)
Batch = dict[str, Tensor]
Columns = dict[str, Tensor]  # name -> [B] or [N]: one row per example


class Loss(NamedTuple):
    value: Tensor  # [B] float32, differentiable
    terms: dict[str, Tensor]  # name -> [B], logged as means, never optimised
    # name -> [B], differentiable, each with its weight in it: they add up to `value`. For modes that treat
    # the parts of a loss apart (GradNorm, PCGrad); empty where a loss has no parts.
    parts: dict[str, Tensor] = {}


class LossFn(Protocol):
    """May be an nn.Module: its parameters are trained, averaged and saved like the network's."""

    def __call__(self, model: nn.Module, batch: Batch, step: int) -> Loss:
        """Calls `model(...)` or its methods (encode, decode ...) as often as it likes; never averages."""


class Order(Protocol):
    """Which examples each step is made of."""

    steps_per_epoch: int

    def __call__(self, step: int) -> Sequence[int]:
        """The indices (numpy int64) of one step, over all ranks; a pure function of `step`."""


class Examples(Dataset):
    """A data set: deterministic, in physical units, read a batch at a time."""

    uniform = False  # all examples have tensors of one shape, so that the set can lie on the device whole

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """The examples at `indices` as one batch; `index` [B] int64 is among its tensors."""
        raise NotImplementedError

    def names(self, indices: Sequence[int]) -> list[str]:
        """What a person calls these examples; an error names them."""
        raise NotImplementedError

    def epochs(self, batch_size: int, seed: int, lanes: int) -> Order | None:
        """The order that the set must be read in, such as shard by shard; None: it is shuffled whole."""
        return None

    def times(self, epoch: int) -> Sequence[int] | None:
        """[len] how often each example is in that epoch (from 0) of its own order; None: once."""
        return None

    def follow(self, order: Order, step: int) -> None:
        """Told once what will be read, from `step` on: a set that is far away reads ahead."""


def column_means(columns: Columns) -> dict[str, float]:
    return {name: column.double().mean().item() for name, column in columns.items()}


def everywhere_one(name: str) -> float:
    return 1.0


@dataclass(frozen=True)
class Task:
    """One scientific question. It owns no optimiser, EMA, DDP, compile or checkpoint."""

    model: nn.Module
    data: Mapping[str, Examples]  # "train", "val", "test"
    loss: LossFn
    measure: Callable[[nn.Module, Batch], Columns]  # scores of each example, [B] each
    monitors: Mapping[str, str]  # name in the summary -> "min" or "max"; the first is the default
    summarise: Callable[[Columns], dict[str, float]] = column_means  # each epoch, on validation
    report: Callable[[Columns], dict[str, Any]] | None = None  # once, on val and test; None: summarise
    # once, on validation: plain numbers for predict, stored in best.pt
    calibrate: Callable[[Columns], dict[str, Any]] | None = None
    # (SummaryWriter, model, validation columns, epoch)
    illustrate: Callable[[Any, nn.Module, Columns, int], None] | None = None
    record: Mapping[str, Any] | None = None  # what predict must know of the data, stored in checkpoints
    lr_scale: Callable[[str], float] = everywhere_one  # factor on the learning rate of the parameter so named


class InPrecision(nn.Module):
    """Runs `model` under autocast and hands back float32, so that losses never see half precision.

    The methods of the model go through the same door: `InPrecision(vae, bf16).encode(x)`.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype):
        super().__init__()
        self.model = model
        self.dtype = dtype

    def forward(self, *args, **kwargs):
        model = self._modules["model"]  # as `self.model`, without asking __getattr__ below at every step
        if self.dtype == torch.float32:
            return model(*args, **kwargs)
        return self.within(model, *args, **kwargs)

    def __getattr__(self, name: str):
        """A method of the model, in precision; its other attributes are its own affair."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            method = getattr(type(self.model), name, None)
            if not callable(method):
                raise
            return partial(self.within, getattr(self.model, name))

    def within(self, call: Callable, *args, **kwargs):
        if self.dtype == torch.float32:
            return call(*args, **kwargs)
        place = next(self.model.parameters()).device
        with torch.autocast(place.type, self.dtype):
            output = call(*args, **kwargs)
        return tree_map(as_float32, output)


def as_float32(leaf: Any) -> Any:
    """A tensor of half precision in float32; all else as it is."""
    return leaf.float() if isinstance(leaf, Tensor) and leaf.dtype in HALF else leaf


class Objective(nn.Module):
    """`objective(batch, step) -> Loss`: the network in `dtype`, the loss in float32.

    All of its parameters, also those of a loss that is a module, are trained, averaged and saved.
    Raises ValueError for a loss that is not one value per example.
    """

    def __init__(self, model: nn.Module, loss: LossFn, dtype: torch.dtype):
        super().__init__()
        self.network = InPrecision(model, dtype)
        self.loss = loss

    @property
    def loss_module(self) -> nn.Module:
        """The loss, where it is a module; else a module of nothing."""
        return self.loss if isinstance(self.loss, nn.Module) else nn.Module()

    def forward(self, batch: Batch, step: int) -> Loss:
        loss = self.loss(self.network, batch, step)
        examples = size_of(batch)
        if loss.value.shape != (examples,):
            raise ValueError(
                f"a loss returns one value per example: expected shape [{examples}], got "
                f"{list(loss.value.shape)}"
            )
        return Loss(loss.value, {name: term.detach() for name, term in loss.terms.items()}, loss.parts)


class Gradient:
    """What a mode builds. A mode that only has a gradient to give writes `__call__` and no more."""

    # step -> indices over all ranks: another way to draw batches than the data's own;
    # epochs stay as long as theirs
    order: Callable[[int], Sequence[int]] | None = None

    def __call__(self, batch: Batch, size: int, step: int) -> dict[str, Tensor]:
        """Leave the gradient of the mean over all `size` examples of all ranks in `p.grad`, on every rank.

        Returns scalars to log, each this rank's share of the mean over the `size` examples: their sum over
        ranks is that mean.
        """
        raise NotImplementedError

    def report(self) -> dict[str, float]:
        """Figures of the mode's own, logged each epoch."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must remember."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        assert not state, "this gradient remembers nothing"


@dataclass(frozen=True)
class Run:
    """What a mode's `build(config, run)` may use."""

    objective: Objective
    data: Examples  # training examples
    scaler: torch.amp.GradScaler
    batch_size: int  # examples a step, over all ranks
    accumulate: int  # pieces that each rank's share is cut into
    steps: int  # planned for the whole run
    epochs: int
    seed: int  # of weights, order and augmentation

    @property
    def model(self) -> nn.Module:
        """The network, bare."""
        return self.objective.network.model

    @property
    def parameters(self) -> list[nn.Parameter]:
        """All that is trained, the loss' own among them."""
        return [p for p in self.objective.parameters() if p.requires_grad]


def as_posed(config: Any, task: Task) -> Task:
    return task


@dataclass(frozen=True)
class Mode:
    """One way to make a gradient, and the options that it has."""

    build: Callable[[Any, Run], Gradient]  # (config, run)
    config: type | None = None  # frozen dataclass, its fields are flags; None: it has none
    # (config, task) -> the task that is trained instead: episodes, clients or coupled networks as examples
    pose: Callable[[Any, Task], Task] = as_posed


@dataclass(frozen=True)
class Answer:
    """What predict.py asks of a trained network."""

    model: nn.Module  # built, its weights not loaded yet
    data: Examples
    predict: Callable[[nn.Module, Batch], Columns]  # [B, ...] each
    write: Callable[[Any, Any], str]  # (data/parts.py's Parts, folder) -> the line to print
    key: Any  # with the weights, says whether an interrupted prediction is this one
    notes: Sequence[str] = ()  # lines for the terminal


def size_of(batch: Batch) -> int:
    return len(next(iter(batch.values())))


def lengths_agree(batch: Batch, size: int) -> bool:
    """Whether all tensors of a batch have `size` examples."""
    try:
        return {len(tensor) for tensor in batch.values()} == {size}
    except TypeError:  # a tensor without axes
        return False


def refuse_lengths(batch: Batch, size: int, names: Iterable[str]) -> None:
    """Raises ValueError that names a tensor of a batch that has not `size` examples, and the examples."""
    for name, tensor in batch.items():
        if tensor.ndim == 0 or len(tensor) != size:
            lengths = ", ".join(f"{field} {list(other.shape)}" for field, other in batch.items())
            asked = ", ".join(names)
            raise ValueError(
                f"a batch of {size} examples has {name!r} of shape {list(tensor.shape)}, where the first "
                f"axis of each tensor is the examples: {lengths} (examples {asked[:200]})"
            )


def pieces(batch: Batch, count: int) -> list[Batch]:
    """`batch` cut along the example axis into at most `count` pieces, none of them empty."""
    count = max(1, min(count, size_of(batch)))
    if count == 1:
        return [batch]
    cuts = zip(*(tensor.tensor_split(count) for tensor in batch.values()), strict=True)
    return [dict(zip(batch, cut, strict=True)) for cut in cuts]


def concatenated(rows: Sequence[Columns]) -> Columns:
    """The columns of several batches as one."""
    return {name: torch.cat([*map(itemgetter(name), rows)]) for name in (rows[0] if rows else ())}
