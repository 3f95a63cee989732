"""From the start of train() to the first step of a run that resumes inside an epoch of a thousand million
examples.

    python benchmarks/resume_latency.py

The data set is a toy with a fake length, so that what is measured is the loop: loading the checkpoint,
finding the place in the order, the first batch. A run of 10^9 and one of 10^4 examples are killed at the same
part of their second epoch and resumed; wall time and the growth of the process, the largest of the rounds
(the growth without the first, which imports), stand beside torch.randperm of 5 10^7, which draws the order of
a twentieth of that epoch. The first batch must be the order's.
"""

import contextlib
import os
import resource
import sys
import tempfile
import time
from contract import Examples  # noqa: E402
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("OMP_NUM_THREADS", "1")

import train  # noqa: E402
import torch  # noqa: E402
from data.order import ShuffledEpochs  # noqa: E402
from table import Row, show  # noqa: E402
from tests import toys  # noqa: E402
from utils import checkpoint, config  # noqa: E402
from utils.ema import Ema  # noqa: E402
from utils.log import resident_gib  # noqa: E402
from utils.mistake import Mistake  # noqa: E402
from utils.optimizers import OptimizerConfig, parameter_groups  # noqa: E402
from utils.schedule import ScheduleConfig  # noqa: E402


@dataclass(frozen=True)
class Config:
    examples: int = 10**9  # of the training split
    batch_size: int = 128  # examples a step
    rounds: int = 5  # of each size in turns
    json: str = ""  # also write the rows to this file

    def __post_init__(self):
        if self.rounds < 2:
            raise Mistake(f"--rounds: got {self.rounds}, expected at least 2: the first warms the process up")


class Reached(Exception):
    """The first step has been taken."""


class Endless(Examples):
    """Example i is a function of i; the first read ends the clock, the third the run."""

    def __init__(self, size: int):
        self.size, self.read, self.first = size, [], 0.0

    def __len__(self) -> int:
        return self.size

    def __getitems__(self, indices):
        self.read.append(list(indices))
        if len(self.read) == 2:  # asked for once the first step is over
            self.first = time.perf_counter()
            raise Reached
        index = torch.as_tensor(indices)
        return dict(
            x=torch.stack([(index % 7).float(), (index % 5).float()], 1), y=(index % 2).float(), index=index
        )

    def names(self, indices):
        return [str(i) for i in indices]


def resume(size: int, options: Config, folder: Path) -> tuple[float, float, bool]:
    """(seconds to the end of the first step, growth in MiB, whether the batch was the order's)."""
    torch.manual_seed(0)
    told = train.TrainConfig(
        task="lens",
        save_dir=str(folder),
        epochs=3,
        batch_size=options.batch_size,
        device="cpu",
        precision="fp32",
    )
    configs = train.Configs(told, OptimizerConfig(), ScheduleConfig())
    record = dict(options=configs.flat, data={})
    order = ShuffledEpochs(size, options.batch_size, told.seed)
    step = order.steps_per_epoch + order.steps_per_epoch // 3
    folder.mkdir(parents=True)
    model = toys.Classifier(toys.Config())
    optimizer = torch.optim.AdamW(parameter_groups(model.named_parameters(), 0.05), lr=1e-3, fused=True)
    model(torch.zeros(2, 2)).sum().backward()
    optimizer.step()
    history = [dict(epoch=1, train_loss=0.7, val_loss=0.7, lr=1e-3)]
    best = dict(record=record, epoch=1, metrics=history[0], model=model.state_dict())
    checkpoint.save(folder / "best.pt", best)
    checkpoint.save(
        folder / "last.pt",
        dict(
            record=record,
            state=dict(
                model=model.state_dict(),
                ema=Ema(model, 0.999).model.state_dict(),
                optimizer=optimizer.state_dict(),
                scaler={},
                progress=dict(
                    step=step,
                    updates=step,
                    history=history,
                    ranks=[dict(sums=dict(loss=1.0), seen=(1, 0, 0))],
                ),
            ),
        ),
    )
    data = dict(train=Endless(size), val=toys.Clouds(toys.Config(), "val"))
    task = train.Task(toys.Classifier(toys.Config()), data, toys.loss, toys.measure, {"loss": "min"})
    before, began = resident_gib(), time.perf_counter()
    try:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
            train.run(configs, task=task)
    except Reached:
        pass
    return (
        data["train"].first - began,
        1024 * (resident_gib() - before),
        data["train"].read[0] == order(step).tolist(),
    )


def measure(options: Config) -> list[Row]:
    torch.set_num_threads(1)
    began = time.perf_counter()
    import_module("torch.utils.tensorboard")
    print(f"import of TensorBoard, once a process, not counted below: {time.perf_counter() - began:.2f} s")
    took: dict[int, list] = {}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(options.rounds):
            for size in (10**4, options.examples):
                took.setdefault(size, []).append(resume(size, options, Path(folder) / f"{size}_{turn}"))
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    torch.randperm(5 * 10**7)
    drawn = time.perf_counter() - began
    grew = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    peer, rows = f"torch {torch.__version__.partition('+')[0]} randperm(5e7)", []
    for size, runs in took.items():
        seconds, growth = [run[0] for run in runs], max(run[1] for run in runs[1:])
        print(
            f"{size:.0e} examples: resumed to the end of the first step in min {min(seconds):.3f}, max "
            f"{max(seconds):.3f} s"
        )
        equal = (
            f"first batch {'as the order says' if all(run[2] for run in runs) else 'DIFFERS from the order'}"
        )
        whole = size == options.examples  # the small epoch is there to show that the large one costs no more
        rows += [
            Row(
                f"resume in an epoch of {size:.0e}, to the end of the first step",
                "s",
                max(seconds),
                peer if whole else "",
                drawn if whole else None,
                limit=1,
                equal=equal,
            ),
            Row(
                f"... growth of the process, {size:.0e}",
                "MiB",
                growth,
                peer if whole else "",
                grew if whole else None,
            ),
        ]
    return rows


def main(argv: list[str]) -> None:
    (options,) = config.read_options(argv, Config)
    show(measure(options), options.json)


if __name__ == "__main__":
    config.run_script(main)
