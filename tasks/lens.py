"""Is there a strong gravitational lens in the middle of this cutout? (Strong Lens Data Challenge)"""
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
import yaml
from torch import nn

from contract import Batch, Columns, Loss, Task
from data import buckets, cutouts, split, store
from losses.classification import binary_cross_entropy
from model import MODELS, create_model
from models.augment import Augment
from models.preprocess import Preprocess, Preprocessed
from models.pretrained import load_pretrained
from utils import distributed, figures_of_merit, plots
from utils.config import free, several
from utils.mistake import Mistake


@dataclass(frozen=True)
class Inputs:
    """Where the cutouts are."""
    data: str = free("")                     # folder that holds the four buckets
    slsim_lenses: str = free("")             # folder or manifest (a text file, one path a line) of simulated lenses
    slsim_nonlenses: str = free("")          # ... of non-lenses around simulations
    hsc_lenses: str = free("")               # ... of lenses in HSC
    hsc_nonlenses: str = free("")            # ... of non-lenses in HSC
    slsim_lenses_list: str = free("")        # another way to give a manifest
    slsim_nonlenses_list: str = free("")     # another way to give a manifest
    hsc_lenses_list: str = free("")          # another way to give a manifest
    hsc_nonlenses_list: str = free("")       # another way to give a manifest
    store_dir: str = free("stores")          # where FITS files are packed, once, for all runs
    store: str = free("")                    # folder of a store that is packed already (convert.py), instead of FITS files

    def sources(self) -> dict[str, str]:
        """Bucket -> folder or manifest. Raises Mistake for a bucket that is given twice."""
        sources = buckets.find_buckets(self.data) if self.data else {}
        for bucket in buckets.BUCKETS:
            given = [getattr(self, name) for name in (bucket, f"{bucket}_list") if getattr(self, name)]
            if len(given) > 1:
                raise Mistake(f"--{bucket} {given[0]!r} and --{bucket}_list {given[1]!r}: give one of them")
            sources |= {bucket: given[0]} if given else {}
        return sources


@dataclass(frozen=True)
class Config(Inputs):
    bands: list[str] = several()             # bands to use, in this order; none given: all that are there
    band_mode: Literal["single", "stack"] = "single"    # an example is one band file, or an object with a channel a band
    image_size: int = 41                     # pixels on a side that every cutout must have
    split_seed: int = 42                     # of the split by object; the same for every --seed of an ensemble
    train_frac: float = 0.70                 # share of objects to train on
    val_frac: float = 0.15                   # share to choose the epoch and the threshold on
    test_frac: float = 0.15                  # share that is only judged
    take_train_frac: float = 1.0             # use this part of the training split
    take_val_frac: float = 1.0               # ... of the validation split
    take_test_frac: float = 1.0              # ... of the test split
    smoothing_mode: Literal["none", "gaussian", "guided", "psf"] = "none"    # smoothing before the network
    gaussian_sigma: float = 0.8              # gaussian: its width, pixels
    guided_radius: int = 2                   # guided: half-width of its window, pixels
    guided_eps: float = 1e-2                 # guided: variance below which it smooths
    psf_fwhm_slsim: float = 0.0              # psf: seeing of the slsim domain, FWHM in pixels
    psf_fwhm_hsc: float = 0.0                # psf: seeing of the hsc domain, FWHM in pixels
    psf_target: float = 0.0                  # psf: seeing that both are brought to, FWHM in pixels
    smoothing_edge: Literal["reflect", "zero"] = "reflect"    # what lies beyond the edge; zero darkens the border
    apply_normalization: bool = False        # subtract the background, clip, scale to unit spread
    clip_q: float = 0.997                    # normalisation: clip above this quantile; negative = off
    low_clip_q: float = -1.0                 # normalisation: clip below this quantile; negative = off
    use_mad: bool = False                    # normalisation: median and MAD instead of mean and deviation
    apply_padding: bool = False              # zeros around the cutout
    out_size_when_padded: int = 64           # pixels on a side after padding
    augment: bool = True                     # training: the eight symmetries of the square, and noise
    model: str = "convnextv2"                # a name in model.py (python model.py lists them)
    model_size: str = "nano"                 # its size, for a family that has sizes
    model_kwargs: list[str] = several()      # its other options, key=value (timm: timm_name=resnet18)
    drop_path: float = 0.1                   # stochastic depth: chance that the last block is skipped
    initial_checkpoint: str = free("")       # file of pretrained encoder weights (timm or Zoobot names)

    def __post_init__(self):
        if self.apply_padding and self.out_size_when_padded < self.image_size:
            raise Mistake(f"--out_size_when_padded: got {self.out_size_when_padded}, expected at least "
                          f"--image_size {self.image_size}")
        if not 0 <= self.drop_path < 1:
            raise Mistake(f"--drop_path: got {self.drop_path:g}, expected 0 <= drop_path < 1")


def network(config: Config, channels: int) -> nn.Module:
    """(image [B, C, H, W] physical units, present [B, C] bool, domain [B] int64) -> logit [B] of being a lens."""
    side = (config.image_size, config.image_size)
    options = dict(in_chans=channels, drop_path_rate=config.drop_path) | key_values(config.model_kwargs)
    if config.model in MODELS and MODELS[config.model].sizes:
        options |= dict(size=config.model_size)
    try:
        preprocess = Preprocess(
            side, smoothing=config.smoothing_mode, gaussian_sigma=config.gaussian_sigma,
            guided_radius=config.guided_radius, guided_eps=config.guided_eps, edge=config.smoothing_edge,
            psf_fwhm=(config.psf_fwhm_slsim, config.psf_fwhm_hsc), psf_target=config.psf_target,
            normalise=config.apply_normalization, clip_q=config.clip_q, low_clip_q=config.low_clip_q,
            use_mad=config.use_mad, pad_to=config.out_size_when_padded if config.apply_padding else 0)
        return Preprocessed(preprocess, Augment() if config.augment else None, create_model(config.model, **options))
    except ValueError as error:
        raise Mistake(f"this network cannot be built: {error}") from error


def key_values(pairs: list[str]) -> dict[str, Any]:
    """`["a=1", "b=x"]` -> {"a": 1, "b": "x"}."""
    if wrong := [pair for pair in pairs if "=" not in pair]:
        raise Mistake(f"--model_kwargs: got {wrong[0]!r}, expected key=value")
    return {key: yaml.safe_load(value) for key, _, value in (pair.partition("=") for pair in pairs)}


def build(config: Config, run_dir: Path, workers: int) -> Task:
    """Pack the cutouts, split them by object, and pose the question."""
    packed = opened(config, workers)
    index = split_index(packed.index, config)
    bands = used_bands(index, config.bands)
    data = {name: cutouts.examples(packed, chosen(index, name, config), bands, config.band_mode) for name in split.SPLITS}
    if len(data["val"]) and len(set(data["val"].label.tolist())) < 2:
        raise Mistake(f"the validation split holds {len(data['val'])} examples of one class: give lenses and non-lenses, more "
                      "objects, or a larger --val_frac")
    model = network(config, len(bands) if config.band_mode == "stack" else 1)
    if config.initial_checkpoint:
        try:
            print(load_pretrained(model.network, config.initial_checkpoint))
        except ValueError as error:
            raise Mistake(f"--initial_checkpoint: {error}") from error
    if distributed.rank() == 0:
        summary(index, packed, data, run_dir)
    record = dict(bands=bands, files=len(index), digest=content_digest(index))
    return Task(model, data, loss, measure, {"auc": "max", "loss": "min", "acc": "max"}, summarise, report,
                lambda writer, model, columns, epoch: illustrate(writer, columns, epoch, data["val"]), record)


def opened(config: Config, workers: int) -> store.Store:
    """The store of the labelled inputs, given as such or packed now."""
    if not config.store:
        return pack(buckets.inventory(config.sources()), config, workers)
    if sources := config.sources():
        raise Mistake(f"--store {config.store!r} and --{next(iter(sources))}: give the store or FITS files, not both")
    found = store.open_store(config.store)
    if list(found.manifest["shape"]) != [config.image_size] * 2:
        raise Mistake(f"--image_size: got {config.image_size}, but the images of --store {config.store!r} have "
                      f"{'x'.join(map(str, found.manifest['shape']))} pixels")
    return found


def pack(table: pd.DataFrame, config: Config, workers: int) -> store.Store:
    """The store of these files, packed now or earlier."""
    shape = (config.image_size, config.image_size)
    digest = store.inventory_digest(table, shape)
    return store.pack(table, store.store_directory(config.store_dir, table, shape, digest), shape, max(1, workers), digest)


def content_digest(index: pd.DataFrame) -> str:
    """What the data are, wherever they lie: the digest of all names, labels, splits and refusals."""
    table = index[["object", "band", "domain", "label", "split", "reason"]].to_csv(index=False)
    return hashlib.blake2b(table.encode(), digest_size=16).hexdigest()


def split_index(index: pd.DataFrame, config: Config) -> pd.DataFrame:
    """The index with its `split` column; an unlabelled file can only be tested."""
    splits = split.split_of(index["object"], config.split_seed, config.train_frac, config.val_frac, config.test_frac)
    return index.assign(split=np.where(index["label"].to_numpy() < 0, "test", splits))


def used_bands(index: pd.DataFrame, wanted: list[str]) -> list[str]:
    named = set(index["band"].unique())
    there = [band for band in "ugrizy" if band in named] + sorted(named - {*"ugrizy", ""}) + [""] * ("" in named)
    if missing := [band for band in wanted if band not in there]:
        raise Mistake(f"--bands: {missing[0]!r} is in no file name; there are {', '.join(filter(None, there)) or 'none'}")
    return list(wanted) or there


def chosen(index: pd.DataFrame, name: str, config: Config) -> np.ndarray:
    """Rows of the index that belong to a split and are taken; training and validation need a label."""
    rows = np.flatnonzero((index["split"] == name) & (index["label"] >= 0))
    kept = split.taken(index["object"].iloc[rows], config.split_seed, getattr(config, f"take_{name}_frac"))
    return rows[kept]


def loss(model: nn.Module, batch: Batch, step: int) -> Loss:
    logit = model(batch["image"], batch["present"], batch["domain"])
    return Loss(binary_cross_entropy(logit, batch["label"]), {"acc": ((logit > 0) == (batch["label"] > 0.5)).float()})


def measure(model: nn.Module, batch: Batch) -> Columns:
    """Scores of each example, [B]: loss, probability of a lens; and what it is."""
    logit = model(batch["image"], batch["present"], batch["domain"])
    return dict(loss=binary_cross_entropy(logit, batch["label"]), prob=logit.sigmoid(),
                **{name: batch[name] for name in ("label", "domain", "index")})


def summarise(columns: Columns) -> dict[str, float]:
    label, prob = columns["label"].numpy(), columns["prob"].numpy()
    return dict(loss=columns["loss"].double().mean().item(), acc=float(((prob >= 0.5) == (label > 0.5)).mean()),
                auc=figures_of_merit.roc_auc(label, prob))


def report(columns: Columns) -> dict[str, float | dict[str, float]]:
    """All figures of merit at threshold 0.5, over all examples and for each domain."""
    label, prob, domain = (columns[name].numpy() for name in ("label", "prob", "domain"))
    figures = summarise(columns) | figures_of_merit.all_figures(label, prob, 0.5)
    for number, name in enumerate(buckets.DOMAINS):
        if (domain == number).any():
            here = domain == number
            figures[f"domain::{name}"] = figures_of_merit.all_figures(label[here], prob[here], 0.5)
    return figures


def illustrate(writer, columns: Columns, epoch: int, data: cutouts.Cutouts) -> None:
    """TensorBoard: precision-recall curve, scores by class and domain, the worst false positives and negatives."""
    label, prob, domain = columns["label"] > 0.5, columns["prob"], columns["domain"]
    writer.add_pr_curve("val/precision_recall", label, prob, epoch)
    for number, name in enumerate(buckets.DOMAINS):
        for lens, kind in ((True, "lenses"), (False, "nonlenses")):
            if ((domain == number) & (label == lens)).any():
                writer.add_histogram(f"val/score_{name}_{kind}", prob[(domain == number) & (label == lens)], epoch)
    for lens, kind in ((False, "false_positives"), (True, "false_negatives")):
        wrong = torch.where(label == lens, (prob - 0.5) * (-1 if lens else 1), -1.0)
        worst = [i for i in wrong.argsort(descending=True)[:16].tolist() if wrong[i] > 0]
        if worst:
            images = data.__getitems__(columns["index"][worst].tolist())["image"].mean(1).numpy()
            titles = [f"{name} {prob[i]:.2f}" for name, i in zip(data.names(columns["index"][worst].tolist()), worst)]
            writer.add_figure(f"val/{kind}", plots.mosaic(images, titles), epoch)


def summary(index: pd.DataFrame, packed: store.Store, data: dict[str, cutouts.Cutouts], run_dir: Path) -> None:
    """Say what was found, what was refused and how even the split is; keep the split beside the run."""
    shares, warnings = split.stratification(index)
    twice = buckets.duplicates(index)
    lines = [f"{len(index):,} files, {index['object'].nunique():,} objects"]
    lines += [f"{name}: {line}" for name, examples in data.items() for line in examples.report] + packed.summary() + warnings
    if len(twice):
        lines.append(f"{len(twice)} files share object and band with another: see {run_dir}/duplicates.csv")
        twice.to_csv(run_dir / "duplicates.csv", index=False)
    print("\n".join(lines), flush=True)
    index[["path", "object", "band", "domain", "label", "split", "reason"]].to_parquet(run_dir / "split.parquet")
    shares.to_csv(run_dir / "split.csv", index=False)
