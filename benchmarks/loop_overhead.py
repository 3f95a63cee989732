"""What the loop costs beside the arithmetic: microseconds a step on a tiny network, logging on,
beside Lightning's Trainer.

    python benchmarks/loop_overhead.py

The arithmetic alone (forward, backward, clip, fused AdamW; ours also the EMA) on a batch in memory is
subtracted from a step of train.py and from a step of Lightning with the same network, data set, optimiser and
clipping. CPU time of the process, one thread, blocks of 50 steps in turns, the least of the blocks; both log
every 50 steps to TensorBoard, Lightning without its progress bar and checkpoints. On cores that other work
shares, CPU time is inflated too: read the ratio, on a quiet machine.
"""

import contextlib
import logging
import os
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch  # noqa: E402  the path above comes first
from torch.nn.utils import clip_grad_norm_  # noqa: E402

import train  # noqa: E402
from models.timm_door import import_torchvision  # noqa: E402
from table import Row, show  # noqa: E402
from tests import toys  # noqa: E402
from utils import config  # noqa: E402
from utils.ema import Ema  # noqa: E402
from utils.optimizers import OptimizerConfig, parameter_groups  # noqa: E402
from utils.schedule import ScheduleConfig  # noqa: E402

BLOCK = 50


@dataclass(frozen=True)
class Config:
    steps: int = 2000  # of each in a round
    rounds: int = 5  # ours, bare and Lightning's in turns
    batch_size: int = 32  # examples a step
    json: str = ""  # also write the rows to this file


class Timed(toys.Clouds):
    """Notes the CPU time of each batch that is asked for."""

    def __init__(self, config: toys.Config, split: str):
        super().__init__(config, split)
        self.read = []

    def __getitems__(self, indices):
        self.read.append(time.process_time())
        indices = torch.as_tensor(indices)
        return dict(x=self.x[indices], y=self.y[indices], index=indices)


def blocks(times: list[float]) -> list[float]:
    """Microseconds a step in each block, the first left out."""
    marks = times[BLOCK::BLOCK]
    return [1e6 * (b - a) / BLOCK for a, b in zip(marks, marks[1:])]


def ours(options: Config, data: dict, folder: Path) -> list[float]:
    torch.manual_seed(0)
    model = toys.Classifier(toys.Config(dropout=0.0))
    task = train.Task(model, data, toys.loss, toys.measure, {"loss": "min"})
    told = train.TrainConfig(
        task="toy",
        save_dir=str(folder),
        epochs=1,
        batch_size=options.batch_size,
        device="cpu",
        precision="fp32",
        log_every=50,
    )
    configs = train.Configs(told, OptimizerConfig(), ScheduleConfig())
    with open(os.devnull, "w") as nowhere:
        with contextlib.redirect_stderr(nowhere), contextlib.redirect_stdout(nowhere):
            train.run(configs, task=task)
    return data["train"].read[: options.steps]


def bare(options: Config, data: dict, averaged: bool) -> list[float]:
    torch.manual_seed(0)
    model = toys.Classifier(toys.Config(dropout=0.0))
    optimizer, ema = (
        torch.optim.AdamW(parameter_groups(model.named_parameters(), 0.05), lr=3e-4, fused=True),
        Ema(model, 0.999),
    )
    batch, times = data["train"].__getitems__(range(options.batch_size)), []
    parameters = list(model.parameters())
    for step in range(options.steps):
        times.append(time.process_time())
        optimizer.zero_grad()
        toys.loss(model, batch, step).value.mean().backward()
        clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if averaged:
            ema.update(step)
    return times


def lightning(options: Config, data: dict, folder: Path) -> list[float]:
    import lightning
    from lightning.pytorch.loggers import TensorBoardLogger

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = toys.Classifier(toys.Config(dropout=0.0))

        def training_step(self, batch, number):
            value, terms, _ = toys.loss(self.model, batch, number)
            loss = value.mean()
            self.log("loss", loss, batch_size=options.batch_size, on_step=True, on_epoch=True)
            self.log("acc", terms["acc"].mean(), batch_size=options.batch_size, on_step=True, on_epoch=True)
            return loss

        def configure_optimizers(self):
            optimizer = torch.optim.AdamW(
                parameter_groups(self.model.named_parameters(), 0.05), lr=3e-4, fused=True
            )
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.steps)
            return dict(optimizer=optimizer, lr_scheduler=dict(scheduler=schedule, interval="step"))

    torch.manual_seed(0)
    loader = torch.utils.data.DataLoader(
        data["train"], options.batch_size, shuffle=True, collate_fn=lambda batch: batch
    )
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=TensorBoardLogger(str(folder)),
        log_every_n_steps=50,
        gradient_clip_val=1.0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Module(), loader)
    return data["train"].read[: options.steps]


def lightning_version() -> str:
    """Lightning's, or nothing where it cannot be imported."""
    try:
        # Lightning's metrics import it, and the one of PyPI may not fit a CPU build of torch
        import_torchvision()
        import lightning
    except (ImportError, ValueError) as error:
        print(
            f"loop_overhead.py: Lightning is not measured ({error}): pip install -r "
            "requirements-benchmarks.txt",
            file=sys.stderr,
        )
        return ""
    return lightning.__version__


def measure(options: Config) -> list[Row]:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    peer, least = lightning_version(), {}

    def fresh() -> dict:
        train_config = toys.Config(examples=options.steps * options.batch_size)
        return dict(
            train=Timed(train_config, "train"),
            val=toys.Clouds(toys.Config(), "val"),
            test=toys.Clouds(toys.Config(), "test"),
        )

    with tempfile.TemporaryDirectory() as folder:
        for turn in range(options.rounds):
            runs = dict(
                ours=lambda turn=turn: ours(options, fresh(), Path(folder) / f"ours{turn}"),
                bare=lambda: bare(options, fresh(), True),
                plain=lambda: bare(options, fresh(), False),
            )
            if peer:
                runs["lightning"] = lambda turn=turn: lightning(
                    options, fresh(), Path(folder) / f"peer{turn}"
                )
            for name, run in runs.items():
                least[name] = min([*blocks(run()), least.get(name, float("inf"))])
    print(
        f"arithmetic with EMA {least['bare']:.0f} us, without {least['plain']:.0f} us; a step of train.py "
        f"{least['ours']:.0f} us" + (f"; a step of Lightning {least['lightning']:.0f} us" if peer else "")
    )
    return [
        Row(
            "what the loop adds to a step, logging",
            "us",
            least["ours"] - least["bare"],
            f"Lightning {peer}".strip(),
            least["lightning"] - least["plain"] if peer else None,
            aim=10,
            limit=150,
        )
    ]


def main(argv: list[str]) -> None:
    (options,) = config.read_options(argv, Config)
    show(measure(options), options.json)


if __name__ == "__main__":
    config.run_script(main)
