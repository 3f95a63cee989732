"""Predict with a trained network: a checkpoint and cutouts give one row for each input file.

    python predict.py --model_path runs/nano_s42/best.pt --data D --which val --output_dir runs/nano_s42/pred_val
    python predict.py --model_path runs/nano_s42/best.pt --images UNLABELLED --which test --output_dir runs/nano_s42/pred_test

Writes pred_<which>.csv (path,domain,label,prob,pred), probs_, labels_ and preds_<which>.npy, and quarantine_<which>.csv,
which names each file that has no probability, with the reason. Network, bands, split and preprocessing come from the
checkpoint. Interrupted, the same command goes on where it was; under torchrun the ranks share the work.
"""
import utils  # noqa: F401  first, before torch: it says how threads wait

import os
import shutil
import sys
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from contract import DTYPES, Batch, InPrecision
from data import buckets, cutouts, predicted, split, store
from data.order import loader, to_device
from models.augment import dihedral
from tasks import lens
from utils import checkpoint, config, distributed
from utils.mistake import Mistake

PART = 8192              # examples that are written at once: what an interruption can cost, and what ranks share


@dataclass(frozen=True)
class Config:
    model_path: str = ""             # best.pt (or last.pt) of a run directory
    output_dir: str = "pred_outputs"     # where the predictions go
    which: Literal["train", "val", "test", "all", "blind"] = "test"    # the split to predict; blind: files without a label
    images: str = ""                 # folder or manifest of unlabelled cutouts, instead of buckets
    tta: bool = False                # mean of the probability over the eight symmetries of the square
    threshold: float = 0.5           # pred = 1 where prob >= threshold
    max_samples: int = 0             # predict only the first so many examples; 0 = all
    quarantined: Literal["empty", "nonlens"] = "empty"     # what a file that cannot be read gets: nothing, or prob 0
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


def read_options(argv: list[str]) -> tuple[Config, lens.Config, dict[str, Any]]:
    """The options, the task's configuration as it was trained (inputs as given here), and the checkpoint.

    Raises Mistake for a flag that contradicts the checkpoint's record, naming both values.
    """
    options, given = config.read(argv, Config, lens.Config)
    try:
        saved = checkpoint.load(Path(options.model_path))
    except FileNotFoundError as error:
        raise Mistake(f"--model_path: there is no file {options.model_path!r}") from error
    except checkpoint.Damaged as error:
        raise Mistake(str(error)) from error
    trained = lens.trained_config(saved["record"]["options"])
    inputs = {field.name: getattr(given, field.name) for field in fields(lens.Inputs)}
    known = config.fields_of(lens.Config)
    for name in sorted(config.given(argv, lens.Config) - inputs.keys()):
        ours, theirs = getattr(given, name), getattr(trained, name)
        if ours != theirs and not known[name].metadata.get("free"):
            raise Mistake(f"--{name}: got {ours!r}, but the network was trained with {theirs!r}; leave the flag out, "
                          "the checkpoint knows it")
    return options, replace(trained, **inputs), saved


def load_network(task: lens.Config, saved: dict[str, Any], device: torch.device) -> nn.Module:
    """The network of a checkpoint in eval mode: the averaged weights of best.pt, or those of last.pt."""
    channels = len(saved["record"]["data"]["bands"]) if task.band_mode == "stack" else 1
    model = lens.network(task, channels)
    model.load_state_dict(saved["model"] if "model" in saved else saved["state"]["ema"])
    return model.to(device).eval()


def read_index(options: Config, task: lens.Config) -> tuple[store.Store, np.ndarray]:
    """The packed inputs, and which rows of their index are to be predicted."""
    if options.images and task.sources():
        raise Mistake(f"--images {options.images!r}: give it, or buckets, not both")
    table = buckets.images_inventory(options.images) if options.images else buckets.inventory(task.sources())
    packed = lens.pack(table, task, options.num_workers)
    index = lens.split_index(packed.index, task)
    if options.which == "all":
        rows = np.arange(len(index))
    elif options.which == "blind":
        rows = np.flatnonzero(index["label"] < 0)
    else:
        taken = split.taken(index["object"], task.split_seed, getattr(task, f"take_{options.which}_frac"))
        rows = np.flatnonzero((index["split"] == options.which) & (taken | (index["label"] < 0)))
    if not len(rows):
        there = ", ".join(f"{count} {name or 'unused'}" for name, count in index["split"].value_counts().items())
        raise Mistake(f"--which {options.which}: no such file among the {len(index)} inputs ({there})")
    return packed, rows


@torch.no_grad()
def probability(network: nn.Module, batch: Batch, tta: bool) -> torch.Tensor:
    """[B] float32: the probability of a lens, with `tta` its mean over the eight symmetries of the square."""
    views = [dihedral(batch["image"], k) for k in range(8)] if tta else [batch["image"]]
    return torch.stack([network(view, batch["present"], batch["domain"]).sigmoid() for view in views]).mean(0)


def predict_parts(examples: cutouts.Cutouts, network: nn.Module, options: Config, device: torch.device, folder: Path) -> None:
    """Write the probabilities of every part that is not there yet; rank r does the r-th of every `world_size` parts."""
    total = min(len(examples), options.max_samples or len(examples))
    parts = range(distributed.rank() * PART, total, PART * distributed.world_size())
    with tqdm(total=total, unit="example", disable=distributed.rank() > 0 or not sys.stderr.isatty()) as bar:
        for start in parts:
            path, stop = folder / f"{start:012d}.npy", min(start + PART, total)
            if not path.exists():
                shares = (list(range(at, min(at + options.batch_size, stop))) for at in range(start, stop, options.batch_size))
                probs = []
                for batch in loader(examples, shares, options.num_workers, device):
                    probs.append(probability(network, to_device(batch, device), options.tta).cpu())
                with open(path.with_suffix(".tmp"), "wb") as file:
                    np.save(file, torch.cat(probs).numpy())
                os.replace(path.with_suffix(".tmp"), path)
            bar.update(min(total - bar.n, (stop - start) * distributed.world_size()))


def main(argv: list[str]) -> None:
    options, task, saved = read_options(argv)
    device, warning = distributed.device_for(options.device)
    precision = saved["record"]["options"]["precision"] if options.precision == "auto" else options.precision
    options = replace(options, precision=precision)
    with distributed.session(device):
        packed, rows = read_index(options, task)
        examples = cutouts.examples(packed, rows, saved["record"]["data"]["bands"], task.band_mode)
        if not len(examples):
            raise Mistake(f"none of the {len(rows)} files can be predicted: {packed.directory}/quarantine.csv names the reasons")
        model = load_network(task, saved, device)
        network = InPrecision(model, DTYPES[precision])
        same = checkpoint.digest([model.state_dict(), packed.manifest["index"], options.tta, precision, options.which, options.max_samples])
        out = Path(options.output_dir)
        folder = out / f"parts_{same[:16]}"              # what an interrupted prediction of just this has done
        folder.mkdir(parents=True, exist_ok=True)
        if distributed.rank() == 0:
            for line in [*filter(None, [warning]), *examples.report]:
                print(f"predict.py: {line}", file=sys.stderr)
        predict_parts(examples, network, options, device, folder)
        distributed.barrier()
        if distributed.rank() == 0:
            probs = np.concatenate([np.load(path) for path in sorted(folder.glob("*.npy"))])
            frames = predicted.frames(rows, examples, probs, options.threshold, options.quarantined == "nonlens")
            without = predicted.write(frames, len(rows), out, options.which)
            shutil.rmtree(folder)
            note = f", {without} without a probability (see quarantine_{options.which}.csv)" if without else ""
            print(f"{out}/pred_{options.which}.csv: {len(rows)} files, {len(probs)} examples{note}")


if __name__ == "__main__":
    config.run(main)
