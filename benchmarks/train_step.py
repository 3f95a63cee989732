"""Our training step beside the one most users write: process time of one thread,
and how far the losses drift apart.

    python benchmarks/train_step.py --size atto --steps 50

Ours is what train.py does: our network, clip, fused AdamW, EMA by one foreach. The peer is timm's network,
the same clip, foreach AdamW and timm's ModelEmaV3. Both begin with the same weights, see the same batches and
take turns in one process; the fastest step of each counts, once both are warm.
"""

import sys
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import utils  # noqa: E402, F401  before torch: it says how threads wait

import torch  # noqa: E402  the path above comes first
import torch.nn.functional as F  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.nn.utils import clip_grad_norm_  # noqa: E402

from models.convnextv2 import ConvNeXtV2  # noqa: E402
from models.timm_door import build_timm, import_timm  # noqa: E402
from table import Row, show  # noqa: E402
from utils import config  # noqa: E402
from utils.ema import Ema  # noqa: E402
from utils.optimizers import parameter_groups  # noqa: E402

PARTS = ("forward", "backward", "clip", "AdamW", "EMA")


@dataclass(frozen=True)
class Config:
    size: str = "atto"  # of ConvNeXt V2
    steps: int = 50  # of each side
    batch: int = 128  # images a step
    side: int = 41  # pixels of an image
    lr: float = 3e-4  # the same at every step
    seed: int = 0  # of images and weights
    json: str = ""  # also write the rows to this file


class Side:
    """A network with its optimiser and its average."""

    def __init__(self, network: nn.Module, average, lr: float, **how):
        self.network, self.average, self.updates = network, average, 0
        self.optimizer = torch.optim.AdamW(parameter_groups(network.named_parameters(), 0.05), lr=lr, **how)

    def step(self, images: Tensor, labels: Tensor) -> tuple[float, list[float]]:
        """One step: its loss, and the process time of its parts."""
        self.optimizer.zero_grad(set_to_none=True)
        times = [time.process_time()]
        loss = F.binary_cross_entropy_with_logits(self.network(images).flatten(), labels)
        times.append(time.process_time())
        loss.backward()
        times.append(time.process_time())
        clip_grad_norm_(self.network.parameters(), 1.0)
        times.append(time.process_time())
        self.optimizer.step()
        times.append(time.process_time())
        self.average(self.updates)
        times.append(time.process_time())
        self.updates += 1
        return loss.item(), [after - before for before, after in zip(times, times[1:])]


def measure(options: Config) -> list[Row]:
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    timm = import_timm()
    from timm.utils import ModelEmaV3

    theirs, ours = build_timm(f"convnextv2_{options.size}").body.train(), ConvNeXtV2(options.size).train()
    ours.load_state_dict(theirs.state_dict())
    average = ModelEmaV3(theirs, decay=0.999)
    sides = {
        "timm": Side(theirs, lambda updates: average.update(theirs, updates), options.lr, foreach=True),
        "ours": Side(ours, Ema(ours, 0.999).update, options.lr, fused=True),
    }
    losses, times = {side: [] for side in sides}, {side: [] for side in sides}
    for _ in range(options.steps):
        labels = (torch.rand(options.batch) < 0.5).float()
        images = torch.randn(options.batch, 1, options.side, options.side) + labels.view(-1, 1, 1, 1) * 0.1
        for name, side in sides.items():
            loss, parts = side.step(images, labels)
            losses[name].append(loss)
            times[name].append(parts)
    best = {name: 1e3 * min(sum(parts) for parts in rows[2:]) for name, rows in times.items()}
    print(
        f"parts of a training step, ms, fastest of {options.steps - 2}; loss from {losses['ours'][0]:.4f} to "
        f"{losses['ours'][-1]:.4f}"
    )
    print(f"{'':6}" + "".join(f"{part:>10}" for part in PARTS))
    for name, rows in times.items():
        print(f"{name:6}" + "".join(f"{min(column) * 1e3:10.1f}" for column in zip(*rows[2:])))
    drift = max(abs(a - b) / abs(b) for a, b in zip(losses["ours"], losses["timm"]))
    return [
        Row(
            f"{options.size} training step, batch {options.batch} {options.side}x{options.side}",
            "ms",
            best["ours"],
            f"timm {timm.__version__}, foreach AdamW, ModelEmaV3",
            best["timm"],
            aim=2.5,
            equal=f"losses of {options.steps} steps differ by at most {drift:.1e} of theirs",
        )
    ]


def main(argv: list[str]) -> None:
    (options,) = config.read_options(argv, Config)
    show(measure(options), options.json)


if __name__ == "__main__":
    config.run_script(main)
