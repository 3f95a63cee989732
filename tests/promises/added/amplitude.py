"""A new task: how large is the amplitude of a noisy sine?"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from contract import Answer, Batch, Columns, Examples, Loss, Task
from utils.config import Options, option, recorded

POINTS = 32  # of a sine


@dataclass(frozen=True)
class Inputs(Options):
    sines: int = option(60, least=3)  # examples of each split


@dataclass(frozen=True)
class Config(Inputs):
    units: int = option(16, least=1)  # of the hidden layer


@dataclass(frozen=True)
class Asked(Options):
    decimals: int = option(4, least=0)  # of the table that is written


class Sines(Examples):
    """Example i: y [T], amplitude []."""

    def __init__(self, count: int, seed: int):
        draw = torch.Generator().manual_seed(seed)
        self.amplitude = torch.rand(count, generator=draw) + 0.5
        noise = 0.1 * torch.randn(count, POINTS, generator=draw)
        self.y = self.amplitude[:, None] * torch.linspace(0, 6.28, POINTS).sin() + noise

    def __len__(self) -> int:
        return len(self.y)

    def __getitems__(self, indices) -> Batch:
        index = torch.as_tensor(np.asarray(indices))
        return dict(y=self.y[index], amplitude=self.amplitude[index], index=index)

    def names(self, indices) -> list[str]:
        return [f"sine_{i}" for i in indices]


def network(config: Config) -> nn.Module:
    return nn.Sequential(nn.Linear(POINTS, config.units), nn.ReLU(), nn.Linear(config.units, 1))


def loss(model: nn.Module, batch: Batch, step: int) -> Loss:
    error = (model(batch["y"]).squeeze(1) - batch["amplitude"]).square()
    return Loss(error, {"error": error}, {"error": error})


def measure(model: nn.Module, batch: Batch) -> Columns:
    return dict(loss=loss(model, batch, 0).value)


def splits(config: Config) -> dict[str, Sines]:
    return {name: Sines(config.sines, seed) for seed, name in enumerate(("train", "val", "test"))}


def build(config: Config, run_dir: Path, workers: int) -> Task:
    return Task(network(config), splits(config), loss, measure, {"loss": "min"})


def rebuild(record: dict[str, Any]) -> nn.Module:
    return network(recorded(Config, record["options"]))


def answer(options: Any, asked: Asked, config: Config, saved: dict[str, Any]) -> Answer:
    def write(parts, out: Path) -> str:
        found = np.concatenate([part["amplitude"] for part in parts])
        np.savetxt(out / "amplitudes.csv", found, fmt=f"%.{asked.decimals}f")
        return f"{out}/amplitudes.csv: {len(found)} amplitudes"

    def predict(model: nn.Module, batch: Batch) -> Columns:
        return dict(amplitude=model(batch["y"]).squeeze(1))

    return Answer(rebuild(saved["record"]), splits(config)[options.which], predict, write, key=config.sines)


def tiny(folder: Path) -> list[str]:
    return ["--sines", "24", "--units", "8"]
