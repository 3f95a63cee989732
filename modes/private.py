"""Differentially private training: clip each example's gradient, sum, add Gaussian noise.

DP-SGD of Abadi et al. 2016 (arXiv:1607.00133), algorithm 1, with Opacus for the per-example gradients, the
noise and the accountants. Batches are drawn by Poisson sampling, which the accountants assume.

The guarantee is for what leaves the run: best.pt, logs of training averages excepted. last.pt holds the
secret that seeds sampling and noise, so that a resumed run repeats its draws to the bit; do not publish it.
"""

import secrets
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from contract import Batch, Gradient, Run, pieces, size_of
from modes.per_example import hooked, refuse_unless_each_alone
from utils import distributed
from utils.config import Options, option
from utils.mistake import Mistake
from utils.seeding import seed_from


@dataclass(frozen=True)
class Config(Options):
    # noise in units of max_grad_norm; give this or target_epsilon (default 1)
    noise_multiplier: float | None = option(None, above=0)
    # find the noise that spends this by the end of the run
    target_epsilon: float | None = option(None, above=0)
    target_delta: float = option(1e-5, above=0)  # epsilon is reported at this delta; below 1 / examples
    max_grad_norm: float = option(1.0, above=0)  # the largest L2 norm that one example may contribute
    accountant: Literal["rdp", "prv"] = "rdp"  # prv is tighter and slower
    max_physical_batch: int = option(64, least=1)  # per-example gradients held in memory at once
    noise_seed: int = -1  # for tests; -1 draws it from the system, as a guarantee needs

    def __post_init__(self):
        super().__post_init__()
        if self.noise_multiplier is not None and self.target_epsilon is not None:
            raise Mistake(
                f"--noise_multiplier {self.noise_multiplier:g} and --target_epsilon {self.target_epsilon:g} "
                "each fix the noise: give one of them"
            )


def build(config: Config, run: Run) -> "PrivateGradient":
    if run.scaler.is_enabled():
        raise Mistake(
            "--precision fp16: its loss scaling would spoil the clipping of each example's gradient; "
            "customer_data mode needs --precision bf16 or fp32"
        )
    if getattr(run.model, "_compiled_call_impl", None) is not None:
        raise Mistake(
            "--compile: a compiled network hides its layers, whose per-example gradients customer_data mode "
            "needs; leave --compile out"
        )
    if any(p.requires_grad for p in run.objective.loss_module.parameters()):
        raise Mistake(
            "this loss has weights of its own, whose per-example gradients Opacus cannot give; customer_data "
            "mode needs a loss without, such as fixed weights of its terms"
        )
    if run.data.times(0) is not None:
        raise Mistake(
            "--balance: some examples would be drawn more often than others, where the guarantee of "
            "customer_data mode is for batches that each example joins with one chance; leave it out, and "
            "give --class_weight a number"
        )
    if config.target_delta >= 1 / len(run.data):
        raise Mistake(
            f"--target_delta: got {config.target_delta:g}, expected less than 1 / examples = "
            f"{1 / len(run.data):.1e}; above it a whole example may leak"
        )
    if run.batch_size > len(run.data):
        raise Mistake(
            f"--batch_size: got {run.batch_size}, expected at most the {len(run.data)} training examples"
        )
    return PrivateGradient(config, run)


class PrivateGradient(Gradient):
    """Remembers what has been spent and the secret of its draws;
    `state_dict` carries both across restarts.
    """

    def __init__(self, config: Config, run: Run):
        # imported here: the main job does not pay 2 s for it
        from opacus.accountants import create_accountant
        from opacus.accountants.utils import get_noise_multiplier
        from opacus.optimizers import DistributedDPOptimizer, DPOptimizer

        self.config, self.run = config, run
        self.rate = run.batch_size / len(run.data)
        self.noise = config.noise_multiplier or 1.0
        if config.target_epsilon is not None:
            self.noise = get_noise_multiplier(
                target_epsilon=config.target_epsilon,
                target_delta=config.target_delta,
                sample_rate=self.rate,
                steps=run.steps,
                accountant=config.accountant,
            )
        self.hooks = hooked(run.model)
        self.parameters = [p for p in run.model.parameters() if p.requires_grad]
        clipper = DistributedDPOptimizer if distributed.world_size() > 1 else DPOptimizer
        self.clipper = clipper(
            torch.optim.SGD(self.parameters),
            noise_multiplier=self.noise,
            loss_reduction="sum",
            max_grad_norm=config.max_grad_norm,
            expected_batch_size=run.batch_size,
        )
        self.accountant = create_accountant(config.accountant)
        own = config.noise_seed if config.noise_seed >= 0 else secrets.randbits(63)
        self.secret = distributed.gather(own)[0]
        self.checked = False

    def order(self, step: int) -> np.ndarray:
        """Each example joins each batch independently with probability batch_size / examples."""
        generator = np.random.Generator(np.random.Philox(seed_from(self.secret, "poisson", step)))
        return np.flatnonzero(generator.random(len(self.run.data)) < self.rate)

    def __call__(self, batch: Batch, size: int, step: int) -> dict[str, Tensor]:
        if not self.checked and size_of(batch) >= 2:
            refuse_unless_each_alone(
                self.run, self.hooks, {name: tensor[:2] for name, tensor in batch.items()}, step
            )
            self.checked = True
        means: dict[str, Tensor] = {}
        for p in self.parameters:
            p.grad_sample, p.summed_grad = None, torch.zeros_like(p)  # an empty Poisson batch is still noised
        if size_of(batch):
            count = max(self.run.accumulate, -(-size_of(batch) // self.config.max_physical_batch))
            for piece in pieces(batch, count):
                loss = self.run.objective(piece, step)
                loss.value.sum().backward()
                self.clipper.clip_and_accumulate()
                for p in self.parameters:
                    p.grad_sample = None
                for name, column in {"loss": loss.value.detach(), **loss.terms}.items():
                    means[name] = means.get(name, 0) + column.sum() / size
        self.clipper.generator = torch.Generator(self.parameters[0].device)
        self.clipper.generator.manual_seed(seed_from(self.secret, "noise", step))
        self.clipper.add_noise()  # p.grad = sum of clipped gradients + noise, on rank 0 alone
        if distributed.world_size() > 1:
            self.clipper.reduce_gradients()
        for p in self.parameters:
            p.grad /= self.run.batch_size  # the expected size, not the drawn one, which is private
            p.summed_grad = None
        self.accountant.step(noise_multiplier=self.noise, sample_rate=self.rate)
        return means

    def epsilon(self) -> float:
        return (
            float(self.accountant.get_epsilon(self.config.target_delta)) if self.accountant.history else 0.0
        )

    def report(self) -> dict[str, float]:
        return {"epsilon": self.epsilon(), "noise_multiplier": float(self.noise)}

    def state_dict(self) -> dict:
        return dict(history=[list(entry) for entry in self.accountant.history], secret=self.secret)

    def load_state_dict(self, state: dict) -> None:
        self.accountant.history = [tuple(entry) for entry in state["history"]]
        self.secret = state["secret"]
