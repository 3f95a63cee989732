"""A new mode: ordinary back-propagation with noise that fades (Neelakantan et al. 2015, arXiv:1511.06807)."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from contract import Batch, Gradient, Run
from utils import distributed
from utils.config import Options, option
from utils.seeding import seed_from


@dataclass(frozen=True)
class Config(Options):
    gradient_noise: float = option(0.01, least=0)  # variance of the noise at the first step


class Noisy(Gradient):
    def __init__(self, options: Config, run: Run):
        self.options, self.run = options, run
        self.ranks = distributed.world_size()
        self.objective = DistributedDataParallel(run.objective) if self.ranks > 1 else run.objective

    def __call__(self, batch: Batch, size: int, step: int) -> dict[str, Tensor]:
        loss = self.objective(batch, step)
        loss.value.backward(torch.full_like(loss.value, self.ranks / size))
        draw = torch.Generator().manual_seed(
            seed_from(self.run.seed, "noise", step)
        )  # the same on every rank
        deviation = (self.options.gradient_noise / (1 + step) ** 0.55) ** 0.5
        for weight in self.run.parameters:
            weight.grad += deviation * torch.randn(weight.shape, generator=draw).to(weight.device)
        return dict(loss=loss.value.detach().sum() / size)

    def report(self) -> dict[str, float]:
        return dict(gradient_noise=self.options.gradient_noise)
