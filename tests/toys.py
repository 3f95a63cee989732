"""A small task to test the loop with: two Gaussian clouds in the plane. Run it as train.py:

python tests/toys.py --task toy --save_dir RUN --epochs 3
"""

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch  # noqa: E402  the path above comes first
import torch.nn.functional as F  # noqa: E402
from torch import nn  # noqa: E402

from contract import Batch, Examples, Loss, Task  # noqa: E402
from utils.config import free  # noqa: E402
from utils.seeding import seed_from  # noqa: E402


@dataclass(frozen=True)
class Config:
    width: int = 16  # of the hidden layer
    dropout: float = 0.1  # of the hidden layer
    examples: int = 200  # in each split
    norm: str = "layer"  # layer, batch, or none
    pause: float = free(0.0)  # seconds that each batch takes, so that a test can interrupt it
    poison: int = -1  # this example is not a number
    learnt: bool = False  # the weights of the two parts of the loss are learnt (Kendall et al. 2018)


class Clouds(Examples):
    """Example i: x [2], y [] in {0, 1}."""

    def __init__(self, config: Config, split: str):
        generator = torch.Generator().manual_seed(seed_from("clouds", split))
        self.y = (torch.arange(config.examples) % 2).float()
        self.x = torch.randn(config.examples, 2, generator=generator) + 2.0 * self.y[:, None]
        self.pause = config.pause
        if config.poison >= 0 and split == "train":
            self.x[config.poison] = float("nan")

    def __len__(self) -> int:
        return len(self.y)

    def __getitems__(self, indices) -> Batch:
        time.sleep(self.pause)
        indices = torch.as_tensor(indices, dtype=torch.int64)
        return dict(x=self.x[indices], y=self.y[indices], index=indices)

    def names(self, indices) -> list[str]:
        return [f"cloud_{i}" for i in indices]


class Classifier(nn.Module):
    """[B, 2] -> [B]; its augmentation and dropout draw from the step's seed."""

    def __init__(self, config: Config):
        super().__init__()
        norms = dict(layer=nn.LayerNorm(config.width), batch=nn.BatchNorm1d(config.width), none=nn.Identity())
        self.body = nn.Sequential(
            nn.Linear(2, config.width), norms[config.norm], nn.GELU(), nn.Dropout(config.dropout)
        )
        self.head = nn.Linear(config.width, 1)

    def forward(self, x):
        if self.training and self.body[3].p > 0:
            x = x + 0.01 * torch.randn_like(x)
        return self.head(self.body(x)).squeeze(1)


def loss(model: nn.Module, batch: Batch, step: int) -> Loss:
    logit = model(batch["x"])
    value = F.binary_cross_entropy_with_logits(logit, batch["y"], reduction="none")
    return Loss(value, {"acc": ((logit > 0) == (batch["y"] > 0)).float()})


class Kendall(nn.Module):
    """Two parts of a loss, each with a weight that is learnt: exp(-s) L + s (Kendall et al. 2018, eq. 10)."""

    def __init__(self):
        super().__init__()
        self.log_var = nn.Parameter(torch.zeros(2))

    def forward(self, model: nn.Module, batch: Batch, step: int) -> Loss:
        plain = loss(model, batch, step)
        small = model(batch["x"]).square()
        parts = {}
        for name, value, log_var in zip(("label", "size"), (plain.value, small), self.log_var):
            parts[name] = torch.exp(-log_var) * value + log_var
        return Loss(parts["label"] + parts["size"], plain.terms, parts)


def measure(model: nn.Module, batch: Batch):
    value, terms, _ = loss(model, batch, 0)
    return dict(loss=value, acc=terms["acc"], index=batch["index"].float())


def build(config: Config, run_dir: Path, workers: int) -> Task:
    data = {split: Clouds(config, split) for split in ("train", "val", "test")}
    return Task(
        Classifier(config),
        data,
        Kendall() if config.learnt else loss,
        measure,
        {"loss": "min", "acc": "max"},
        record=dict(width=config.width),
    )


def main(argv: list[str]) -> None:
    import train

    train.TASKS["toy"] = sys.modules[__name__]
    torch.set_num_threads(1)
    train.main(argv)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from utils.config import run_script

    run_script(main)
