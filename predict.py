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

import shutil
import sys
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from answers import ANSWERS
from contract import DTYPES, Answer, InPrecision
from data.order import loader, to_device
from tasks import TASKS
from utils import checkpoint, config, distributed, files
from utils.mistake import Mistake

PART = 8192              # examples that are written at once: what an interruption can cost, and what ranks share


@dataclass(frozen=True)
class Config:
    model_path: str = ""             # best.pt (or last.pt) of a run directory
    output_dir: str = "pred_outputs"     # where the predictions go
    which: Literal["train", "val", "test", "all", "blind"] = "test"    # the split to predict; blind: files without a label
    max_samples: int = 0             # predict only the first so many examples; 0 = all
    batch_size: int = 128            # examples at once on a rank
    num_workers: int = 0             # processes that read data, besides this one
    device: str = "auto"             # auto, cpu, cuda or cuda:N
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"    # auto: what the network was trained in

    def __post_init__(self):
        if not self.model_path:
            raise Mistake("--model_path: expected a checkpoint, such as runs/nano_s42/best.pt")
        if self.batch_size < 1 or self.max_samples < 0 or self.num_workers < 0:
            raise Mistake(f"--batch_size {self.batch_size}, --max_samples {self.max_samples}, --num_workers "
                          f"{self.num_workers}: expected at least 1, 0, 0")


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


def load_weights(model: nn.Module, saved: dict[str, Any], device: torch.device) -> nn.Module:
    """`model` in eval mode with the averaged weights of best.pt, or those of last.pt."""
    model.load_state_dict(saved["model"] if "model" in saved else saved["state"]["ema"])
    return model.to(device).eval()


@torch.no_grad()
def predict_parts(answer: Answer, network: nn.Module, options: Config, device: torch.device, folder: Path) -> None:
    """Write the answers of every part that is not there yet; rank r does the r-th of every `world_size` parts."""
    total = min(len(answer.data), options.max_samples or len(answer.data))
    parts = range(distributed.rank() * PART, total, PART * distributed.world_size())
    with tqdm(total=total, unit="example", disable=distributed.rank() > 0 or not sys.stderr.isatty()) as bar:
        for start in parts:
            path, stop = folder / f"{start:012d}.npz", min(start + PART, total)
            if not path.exists():
                shares = (list(range(at, min(at + options.batch_size, stop))) for at in range(start, stop, options.batch_size))
                rows = [answer.predict(network, to_device(batch, device)) for batch in loader(answer.data, shares, options.num_workers, device)]
                with files.whole(path) as temporary, open(temporary, "wb") as file:
                    np.savez(file, **{name: torch.cat([row[name] for row in rows]).cpu().numpy() for name in rows[0]})
            bar.update(min(total - bar.n, (stop - start) * distributed.world_size()))


def main(argv: list[str]) -> None:
    options, own, task, saved = read_options(argv)
    device, warning = distributed.device_for(options.device)
    precision = saved["record"]["options"]["precision"] if options.precision == "auto" else options.precision
    options = replace(options, precision=precision)
    with distributed.session(device):
        answer = ANSWERS[saved["record"]["options"]["task"]].build(options, own, task, saved)
        model = load_weights(answer.model, saved, device)
        same = checkpoint.digest([model.state_dict(), answer.key, precision, options.which, options.max_samples])
        out = Path(options.output_dir)
        folder = out / f"parts_{same[:16]}"              # what an interrupted prediction of just this has done
        folder.mkdir(parents=True, exist_ok=True)
        if distributed.rank() == 0:
            for line in [*filter(None, [warning]), *answer.notes]:
                print(f"predict.py: {line}", file=sys.stderr)
        predict_parts(answer, InPrecision(model, DTYPES[precision]), options, device, folder)
        distributed.barrier()
        if distributed.rank() == 0:
            parts = [np.load(path) for path in sorted(folder.glob("*.npz"))]
            said = answer.write({name: np.concatenate([part[name] for part in parts]) for name in parts[0].files}, out)
            shutil.rmtree(folder)
            print(said)


if __name__ == "__main__":
    config.run(main)
