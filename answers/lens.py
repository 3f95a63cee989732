"""The probability of a strong lens for each input file."""
import mmap
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from contract import Answer, Batch, Columns
from data import buckets, cutouts, predicted, split, store
from models.augment import dihedral
from tasks import lens, lens_inputs
from utils.mistake import Mistake


@dataclass(frozen=True)
class Config:
    images: str = ""                 # folder or manifest of unlabelled cutouts, instead of buckets
    tta: bool = False                # mean of the probability over the eight symmetries of the square
    threshold: float = 0.5           # pred = 1 where prob >= threshold
    quarantined: Literal["empty", "nonlens"] = "empty"     # what a file that cannot be read gets: nothing, or prob 0


def build(options: Any, own: Config, task: lens.Config, saved: dict[str, Any]) -> Answer:
    packed, rows = read_index(options, own, task)
    examples = lens_inputs.known(cutouts.examples(packed, rows, saved["record"]["data"]["bands"], task.band_mode), replace(task, quality_weight=False))
    if not len(examples):
        raise Mistake(f"none of the {len(rows)} files can be predicted: {packed.directory}/quarantine.csv names the reasons")
    channels = len(saved["record"]["data"]["bands"]) if task.band_mode == "stack" else 1

    def ask(network: nn.Module, batch: Batch) -> Columns:
        packed.pixels.base.madvise(mmap.MADV_DONTNEED)       # what is read once need not stay in this process's memory
        return dict(prob=probability(network, batch, own.tta))

    def write(columns: dict[str, np.ndarray], out: Path) -> str:
        prob = columns["prob"]
        frames = predicted.frames(rows, examples, prob, own.threshold, own.quarantined == "nonlens")
        without = predicted.write(frames, len(rows), out, options.which)
        note = f", {without} without a probability (see quarantine_{options.which}.csv)" if without else ""
        return f"{out}/pred_{options.which}.csv: {len(rows)} files, {len(prob)} examples{note}"

    return Answer(lens.network(task, channels), examples, ask, write,
                  key=[packed.manifest["index"], own.tta], notes=examples.report)


def read_index(options: Any, own: Config, task: lens.Config) -> tuple[store.Store, np.ndarray]:
    """The packed inputs, and which rows of their index are to be predicted."""
    if task.stream:
        raise Mistake("--stream: a prediction needs the files in their order; pack the shards into a store (convert.py shards --from), give --store")
    if own.images and (task.sources() or task.store):
        raise Mistake(f"--images {own.images!r}: give it, or buckets or a store, not both")
    packed = lens_inputs.pack(buckets.images_inventory(own.images), task, options.num_workers) if own.images else lens_inputs.opened(task, options.num_workers)
    index = lens_inputs.split_index(packed.index, task)
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


def probability(network: nn.Module, batch: Batch, tta: bool) -> torch.Tensor:
    """[B] float32: the probability of a lens, with `tta` its mean over the eight symmetries of the square."""
    views = [dihedral(batch["image"], k) for k in range(8)] if tta else [batch["image"]]
    return torch.stack([lens.logit_of(network, batch | dict(image=view)).sigmoid() for view in views]).mean(0)
