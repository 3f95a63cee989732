"""Ask a trained network: a checkpoint and data give one row for each input.

    python predict.py --model_path runs/nano_s42/best.pt --data D --which val --output_dir runs/nano_s42/pred_val
    python predict.py --model_path runs/nano_s42/best.pt --images UNLABELLED --which test --output_dir runs/nano_s42/pred_test
    python predict.py --model_path runs/nano_s42/best.pt --help

Lenses: pred_<which>.csv (path,domain,label,prob,pred), probs_, labels_ and preds_<which>.npy, and quarantine_<which>.csv,
which names each file that has no probability, with the reason. Light curves: embedding_<which>.parquet.
The task, its network, split and preprocessing come from the checkpoint; answers/<task>.py says what is asked and written.
Interrupted, the same command goes on where it was; under torchrun the ranks share the work.
"""
import utils  # noqa: F401  first, before torch: it says how threads wait

import os
import shutil
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from answers import ANSWERS
from contract import DTYPES, Batch, Columns, Examples, InPrecision
from data.order import read
from tasks import TASKS
from utils import checkpoint, config, distributed, files
from utils.mistake import Mistake
from utils.transfer import beside

PART = 8192              # examples that are written at once: what an interruption can cost, and what ranks share


@dataclass(frozen=True)
class Compute:
    """How a network is run, whatever it is asked; survey.py has these options too."""
    batch_size: int = 128            # examples at once on a rank
    num_workers: int = 0             # processes that read data, besides this one
    device: str = "auto"             # auto, cpu, cuda or cuda:N
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"    # auto: what the network was trained in
    compile: bool = False            # torch.compile the network: a minute at the start, for many examples on a GPU

    def __post_init__(self):
        if self.batch_size < 1 or self.num_workers < 0:
            raise Mistake(f"--batch_size {self.batch_size}, --num_workers {self.num_workers}: expected at least 1, 0")


@dataclass(frozen=True)
class Config(Compute):
    model_path: str = ""             # best.pt (or last.pt) of a run directory
    output_dir: str = "pred_outputs"     # where the predictions go
    which: Literal["train", "val", "test", "all", "blind"] = "test"    # the split to predict; blind: files without a label
    max_samples: int = 0             # predict only the first so many examples; 0 = all

    def __post_init__(self):
        super().__post_init__()
        if not self.model_path:
            raise Mistake("--model_path: expected a checkpoint, such as runs/nano_s42/best.pt")
        if self.max_samples < 0:
            raise Mistake(f"--max_samples: got {self.max_samples}, expected at least 0")


def read_options(argv: list[str]) -> tuple[Config, Any, Any, dict[str, Any]]:
    """The options, those of the answer, the task's configuration as it was trained (inputs as given here), the checkpoint.

    Raises Mistake for a flag that contradicts the checkpoint's record, naming both values.
    """
    path = config.peek(argv, "model_path", "")
    saved = read_checkpoint(path) if path else None
    task = saved["record"]["options"]["task"] if saved else "lens"     # without a checkpoint there is only --help to show
    question = config.pick("task", task, ANSWERS)
    options, own, given = config.read(argv, Config, question.Config, TASKS[task].Config)
    trained = config.recorded(TASKS[task].Config, saved["record"]["options"])
    inputs = {field.name: getattr(given, field.name) for field in fields(TASKS[task].Inputs)}
    known = config.fields_of(TASKS[task].Config)
    for name in sorted(config.given(argv, TASKS[task].Config) - inputs.keys()):
        ours, theirs = getattr(given, name), getattr(trained, name)
        if ours != theirs and not known[name].metadata.get("free"):
            raise Mistake(f"--{name}: got {ours!r}, but the network was trained with {theirs!r}; leave the flag out, "
                          "the checkpoint knows it")
    return options, own, replace(trained, **inputs), saved


def read_checkpoint(path: str) -> dict[str, Any]:
    try:
        return checkpoint.load(Path(path))
    except FileNotFoundError as error:
        raise Mistake(f"--model_path: there is no file {path!r}") from error
    except checkpoint.Damaged as error:
        raise Mistake(str(error)) from error


def weights_of(saved: dict[str, Any]) -> dict[str, Any]:
    """The averaged weights of best.pt, or those of last.pt."""
    return saved["model"] if "model" in saved else saved["state"]["ema"]


def load_weights(model: nn.Module, saved: dict[str, Any], device: torch.device) -> nn.Module:
    """`model` in eval mode with the weights of a checkpoint."""
    model.load_state_dict(weights_of(saved))
    return model.to(device).eval()


def as_asked(model: nn.Module, precision: str, options: Compute) -> InPrecision:
    """`model`, which stays as it is, in this precision, and compiled where that is wished."""
    network = InPrecision(model, DTYPES[precision])
    if options.compile:
        network.compile()
    return network


@torch.no_grad()
def predict_parts(data: Examples, ask: Callable[[Batch], Columns], options: Compute, device: torch.device, folder: Path, total: int,
                  rank: int = 0, ranks: int = 1) -> None:
    """Write `ask(batch)` of every part of the first `total` examples that is not there yet; rank r does the r-th of every `ranks` parts."""
    with tqdm(total=total, unit="example", disable=rank > 0 or not sys.stderr.isatty()) as bar:
        for start in range(rank * PART, total, PART * ranks):
            path, stop = folder / f"{start:012d}.npz", min(start + PART, total)
            if not path.exists():
                shares = (np.arange(at, min(at + options.batch_size, stop)) for at in range(start, stop, options.batch_size))
                rows = [ask(batch) for batch, _ in beside(read(data, shares, options.num_workers, device), device)]
                with files.whole(path) as temporary, open(temporary, "wb") as file:
                    np.savez(file, **{name: torch.cat([row[name] for row in rows]).cpu().numpy() for name in rows[0]})
                    file.flush()
                    os.fsync(file.fileno())          # its name must not outlive a power failure that its bytes do not
            bar.update(min(total - bar.n, (stop - start) * ranks))


def gather_parts(folder: Path, total: int) -> dict[str, np.ndarray]:
    """The columns that `predict_parts` wrote, [total, ...] each. Raises Mistake for a part that the disk does not give back."""
    parts = []
    for path in sorted(folder.glob("*.npz")):
        try:
            with np.load(path) as part:
                parts.append(dict(part))
        except (zipfile.BadZipFile, ValueError, EOFError, KeyError) as error:
            raise Mistake(f"{path} is damaged ({error}): remove it and run the same command again") from error
    columns = {name: np.concatenate([part[name] for part in parts]) for name in (parts[0] if parts else ())}
    if any(len(column) != total for column in columns.values()):
        raise Mistake(f"parts are gone from {folder}: run the same command again")
    return columns


def main(argv: list[str]) -> None:
    options, own, task, saved = read_options(argv)
    device, warning = distributed.device_for(options.device)
    precision = saved["record"]["options"]["precision"] if options.precision == "auto" else options.precision
    options = replace(options, precision=precision)
    with distributed.session(device):
        answer = ANSWERS[saved["record"]["options"]["task"]].build(options, own, task, saved)
        model = load_weights(answer.model, saved, device)
        total = min(len(answer.data), options.max_samples or len(answer.data))
        same = checkpoint.digest([model.state_dict(), answer.key, precision, options.compile, options.which, options.max_samples, PART])
        out = Path(options.output_dir)
        folder = out / f"parts_{same[:16]}"              # what an interrupted prediction of just this has done
        folder.mkdir(parents=True, exist_ok=True)
        if distributed.rank() == 0:
            for line in [*filter(None, [warning]), *answer.notes]:
                print(f"predict.py: {line}", file=sys.stderr)
        predict_parts(answer.data, partial(answer.predict, as_asked(model, precision, options)), options, device, folder, total,
                      distributed.rank(), distributed.world_size())
        distributed.barrier()
        if distributed.rank() == 0:
            said = answer.write(gather_parts(folder, total), out)
            shutil.rmtree(folder)
            print(said)


if __name__ == "__main__":
    config.run(main)
