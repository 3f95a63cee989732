"""Optimisers: torch's own and those of kept libraries, behind one promise.

    optimizer = build(config, objective.named_parameters(), lr=3e-4, batch_size=128)
    optimizer.skips = skips          # a tensor on the device: 1 where the gradient is not finite, else 0
    scaler.step(optimizer)           # moves nothing where `skips` is 1: no weight, no moment, no counter
    optimizer.settle(moved)          # once the host knows, and before the next step

The device decides at once whether a step moves anything, so that the host need not wait for it; what an
optimiser counts on the host is put right when the host learns of it, before the next step.
"""

import importlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from utils.config import Options, option, several
from utils.mistake import Mistake

EVERY = 10  # sophia: steps between two estimates of the curvature (Liu et al. 2023, section 2.3)


@dataclass(frozen=True)
class OptimizerConfig(Options):
    # adamw, sgd, adafactor and muon are torch's; for the others pip install -r requirements-optimizers.txt
    optimizer: Literal["adamw", "sgd", "lion", "adafactor", "muon", "schedulefree", "sophia"] = "adamw"
    # of matrices and convolutions; biases, norms and scales do not decay
    weight_decay: float = option(0.05, least=0)
    # decay of the first and second moment; none given: the optimiser's own
    betas: list[float] = several(least=0, below=1)
    momentum: float = option(0.9, least=0, below=1)  # sgd: of the gradient (Nesterov's); 0 = none
    # factors on the rate of weights whose name begins so, such as network.body=0.1
    lr_scale: list[str] = several()

    def __post_init__(self):
        super().__post_init__()
        if len(self.betas) not in (0, 2):
            given = " ".join(f"{beta:g}" for beta in self.betas)
            raise Mistake(f"--betas: got {given}, expected two numbers")
        scales_by_prefix(self.lr_scale)


def scales_by_prefix(pairs: list[str]) -> dict[str, float]:
    """`["body=0.1"]` -> {"body": 0.1}. Raises Mistake for what is no factor above 0."""
    scales = {}
    for pair in pairs:
        prefix, _, text = pair.rpartition("=")
        try:
            scales[prefix] = float(text)
        except ValueError:
            scales[prefix] = 0.0
        if not prefix or not 0 < scales[prefix] < float("inf"):
            raise Mistake(f"--lr_scale: got {pair!r}, expected prefix=factor, such as network.body=0.1")
    return scales


class Optimizer:
    """One optimiser, or several that each have their own weights, as the loop uses it."""

    # GradScaler reads this: it then leaves to the optimiser whether a step moves,
    # and does not ask the device.
    _step_supports_amp_scaling = True

    def __init__(self, members: list[torch.optim.Optimizer], batch_size: int):
        self.members = members
        self.batch_size = batch_size
        self.skips: Tensor | None = None
        self.unsettled: list[HostState] = []
        for member in members:
            if hasattr(member, "train"):  # schedule-free has two places; training is at the one
                member.train()

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return [group for member in self.members for group in member.param_groups]

    @property
    def weights(self) -> list[Tensor]:
        return [weight for group in self.param_groups for weight in group["params"]]

    @property
    def averages_itself(self) -> bool:
        """Whether the weights to judge are others than those that are trained: `averaged`."""
        return any(hasattr(member, "eval") for member in self.members)

    def zero_grad(self) -> None:
        for member in self.members:
            member.zero_grad(set_to_none=True)

    def set_rate(self, lr: float) -> None:
        for group in self.param_groups:
            group["lr"] = lr * group["lr_scale"]

    def rates(self) -> dict[str, float]:
        """name -> rate in force, where groups have different ones."""
        rates = {f"lr_x{group['lr_scale']:g}": group["lr"] for group in self.param_groups if group["params"]}
        return rates if len(rates) > 1 else {}

    def step(self) -> None:
        """Move the weights by `p.grad`, or nothing at all where `skips` says so."""
        for member in self.members:
            if member.defaults.get("fused"):
                member.found_inf = self.skips
                member.step()
            else:
                self.step_or_stay(member)

    def step_or_stay(self, member: torch.optim.Optimizer) -> None:
        """A step of an optimiser that knows nothing of `skips`: what it moved is put back on the device."""
        if self.skips is None:
            self.move(member)
            return
        host = HostState(member, self.skips.device)
        places = list(places_of_tensors(member, self.skips.device))
        before = [holder[name].detach().clone() for holder, name in places]
        self.move(member)
        skipped = self.skips.bool()
        with torch.no_grad():
            for (holder, name), old in zip(places, before, strict=True):
                holder[name].copy_(torch.where(skipped, old, holder[name]))
        self.unsettled.append(host)

    def move(self, member: torch.optim.Optimizer) -> None:
        if type(member).__name__ != "SophiaH":
            member.step()
            return
        counted = member.param_groups[0].get("step", 0)
        if counted % EVERY:
            member.step()
            return
        # The Gauss-Newton-Bartlett estimate (Liu et al. 2023, algorithm 2), with the labels of the data
        # instead of drawn ones: the square of the mean gradient, times the examples of that mean.
        weights = [weight for group in member.param_groups for weight in group["params"]]
        gradients = [torch.zeros_like(w) if w.grad is None else w.grad for w in weights]
        member.step(hessian=[self.batch_size * gradient.square() for gradient in gradients])

    def settle(self, moved: bool) -> None:
        """Take back what the last step has counted on the host, unless it has moved the weights."""
        if not moved:
            for host in self.unsettled:
                host.restore()
        self.unsettled.clear()

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within, the weights are those to judge; after it, to the bit, those that are trained."""
        trained = [weight.detach().clone() for weight in self.weights]
        for member in self.members:
            if hasattr(member, "eval"):
                member.eval()
        try:
            yield
        finally:
            for member in self.members:
                if hasattr(member, "train"):
                    member.train()
            with torch.no_grad():
                torch._foreach_copy_(self.weights, trained)

    def state_dict(self) -> dict[str, Any]:
        states = [member.state_dict() for member in self.members]
        return states[0] if len(states) == 1 else dict(enumerate(states))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        states = [state] if len(self.members) == 1 else [state[number] for number in range(len(self.members))]
        for member, its_state in zip(self.members, states, strict=True):
            scales = [group["lr_scale"] for group in member.param_groups]
            member.load_state_dict(its_state)
            for group, scale in zip(member.param_groups, scales, strict=True):
                group["lr_scale"] = scale


class HostState:
    """What an optimiser keeps on the host: numbers of its groups, counters, and which moments there are."""

    def __init__(self, member: torch.optim.Optimizer, device: torch.device):
        self.member = member
        self.groups = [{n: v for n, v in group.items() if n != "params"} for group in member.param_groups]
        self.state = {}
        for weight, holder in member.state.items():
            on_host = {n: v for n, v in holder.items() if not isinstance(v, Tensor) or v.device != device}
            on_host = {n: v.clone() if isinstance(v, Tensor) else v for n, v in on_host.items()}
            self.state[weight] = set(holder), on_host

    def restore(self) -> None:
        for group, before in zip(self.member.param_groups, self.groups, strict=True):
            group.update(before)
            for name in group.keys() - before.keys() - {"params"}:
                del group[name]
        for weight, holder in list(self.member.state.items()):
            names, on_host = self.state.get(weight, (set(), {}))
            for name in holder.keys() - names:
                del holder[name]
            holder.update(on_host)
            if not holder:
                del self.member.state[weight]


def places_of_tensors(member: torch.optim.Optimizer, device: torch.device) -> Iterator[tuple[Any, Any]]:
    """(holder, name) of each weight with a gradient and each moment on the device."""
    for group in member.param_groups:
        for number, weight in enumerate(group["params"]):
            if weight.grad is None:
                continue
            yield group["params"], number
            holder = member.state.get(weight, {})
            for name, tensor in holder.items():
                if isinstance(tensor, Tensor) and tensor.device == device:
                    yield holder, name


def parameter_groups(
    named: Iterable[tuple[str, nn.Parameter]],
    weight_decay: float,
    lr_scale: Callable[[str], float] = lambda name: 1.0,
) -> list[dict[str, Any]]:
    """Groups of trainable weights, those that decay and those that do not, for each factor on the rate.

    Matrices and kernels decay; biases, norms and other per-channel scales (one axis longer than 1) do not.
    """
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, weight in named:
        if not weight.requires_grad:
            continue
        scale = lr_scale(name)
        groups.setdefault((scale, True), [])
        groups.setdefault((scale, False), [])
        decays = sum(length > 1 for length in weight.shape) > 1
        groups[scale, decays].append(weight)
    return [
        dict(params=weights, weight_decay=weight_decay if decays else 0.0, lr_scale=scale)
        for (scale, decays), weights in groups.items()
    ]


def build_optimizer(
    config: OptimizerConfig,
    named: Iterable[tuple[str, nn.Parameter]],
    lr: float,
    batch_size: int,
    lr_scale: Callable[[str], float] = lambda name: 1.0,
) -> Optimizer:
    """The optimiser of `config` for the trainable ones of `named` parameters.

    batch_size: examples that a gradient is the mean of.
    lr_scale: factor on the rate of the parameter of a name; `config.lr_scale` goes over it.
    Raises: Mistake for a prefix that no parameter has, or a package that is not installed.
    """
    named = list(named)
    prefixes = scales_by_prefix(config.lr_scale)
    for prefix in prefixes:
        if not any(name.startswith(prefix) for name, _ in named):
            raise Mistake(f"--lr_scale: no weight's name begins with {prefix!r}; there is {named[0][0]!r}")

    def scale_of(name: str) -> float:
        fitting = [prefix for prefix in prefixes if name.startswith(prefix)]
        return prefixes[max(fitting, key=len)] if fitting else lr_scale(name)

    groups = parameter_groups(named, config.weight_decay, scale_of)
    betas = dict(betas=tuple(config.betas)) if config.betas else {}
    if config.betas and config.optimizer in ("sgd", "adafactor"):
        raise Mistake(f"--betas: --optimizer {config.optimizer} has none; leave them out")
    members: list[torch.optim.Optimizer]
    if config.optimizer == "adamw":
        members = [torch.optim.AdamW(groups, lr=lr, fused=True, **betas)]
    elif config.optimizer == "sgd":
        members = [torch.optim.SGD(groups, lr=lr, momentum=config.momentum, nesterov=config.momentum > 0)]
    elif config.optimizer == "adafactor":
        members = [torch.optim.Adafactor(groups, lr=lr)]
    elif config.optimizer == "muon":
        members = muon_beside_adamw(groups, lr, betas)
    elif config.optimizer == "lion":
        members = [extra("pytorch_optimizer", "lion").Lion(groups, lr=lr, **betas)]
    elif config.optimizer == "schedulefree":
        members = [extra("schedulefree", "schedulefree").AdamWScheduleFree(groups, lr=lr, **betas)]
    else:
        members = [extra("pytorch_optimizer", "sophia").SophiaH(groups, lr=lr, update_period=EVERY, **betas)]
    return Optimizer(members, batch_size)


def refuse_conflicts(config: OptimizerConfig, scheduler: str, ema_decay: float) -> None:
    """Raises Mistake for an average or schedule beside an optimiser with its own (Defazio et al. 2024)."""
    if config.optimizer != "schedulefree":
        return
    if scheduler != "constant":
        raise Mistake(f"--scheduler: got {scheduler!r} with --optimizer schedulefree, expected constant")
    if ema_decay:
        raise Mistake(
            f"--ema_decay: got {ema_decay:g} with --optimizer schedulefree, which averages itself: expected 0"
        )


def muon_beside_adamw(
    groups: list[dict[str, Any]], lr: float, betas: dict[str, Any]
) -> list[torch.optim.Optimizer]:
    """Muon (Jordan et al. 2024) for matrices, at AdamW's scale of a step (Liu et al. 2025);
    AdamW for all else.
    """
    matrices, others = [], []
    for group in groups:
        flat = [weight for weight in group["params"] if weight.ndim == 2 and min(weight.shape) > 1]
        rest = [weight for weight in group["params"] if not (weight.ndim == 2 and min(weight.shape) > 1)]
        matrices += [group | dict(params=flat)] if flat else []
        others += [group | dict(params=rest)] if rest else []
    members: list[torch.optim.Optimizer] = []
    if matrices:
        members.append(torch.optim.Muon(matrices, lr=lr, adjust_lr_fn="match_rms_adamw"))
    if others:
        members.append(torch.optim.AdamW(others, lr=lr, fused=True, **betas))
    return members


def extra(package: str, optimizer: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise Mistake(
            f"--optimizer {optimizer}: needs {package}; pip install -r requirements-optimizers.txt"
        ) from error
