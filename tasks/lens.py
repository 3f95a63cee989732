"""Is there a strong gravitational lens in the middle of this cutout? (Strong Lens Data Challenge)"""
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from torch import Tensor, nn

from contract import Batch, Columns, Loss, Task
from data import buckets, cutouts
from losses.classification import binary_cross_entropy
from model import MODELS, create_model
from models.augment import Augment
from models.metadata import MetadataTerm
from models.preprocess import Preprocess, Preprocessed
from models.pretrained import load_pretrained
from tasks.lens_inputs import METADATA, Inputs, from_store, streamed
from utils import figures_of_merit, plots
from utils.config import free, several
from utils.mistake import Mistake


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
    use_metadata: bool = False               # add a term to the logit that follows from the metadata of the object
    metadata_columns: list[str] = several()  # which of metadata.parquet; none given: redshift seeing sersic_index half_light_radius ellipticity
    quality_weight: bool = False             # training: weight each example by the quality of its images (quality.parquet)
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
        term = MetadataTerm(len(config.metadata_columns) or len(METADATA)) if config.use_metadata else None
        return Preprocessed(preprocess, Augment() if config.augment else None, create_model(config.model, **options), term)
    except ValueError as error:
        raise Mistake(f"this network cannot be built: {error}") from error


def key_values(pairs: list[str]) -> dict[str, Any]:
    """`["a=1", "b=x"]` -> {"a": 1, "b": "x"}."""
    if wrong := [pair for pair in pairs if "=" not in pair]:
        raise Mistake(f"--model_kwargs: got {wrong[0]!r}, expected key=value")
    return {key: yaml.safe_load(value) for key, _, value in (pair.partition("=") for pair in pairs)}


def build(config: Config, run_dir: Path, workers: int) -> Task:
    """Pack the cutouts, split them by object, and pose the question."""
    data, bands, record = streamed(config) if config.stream else from_store(config, run_dir, workers)
    if len(data["val"]) and len(set(data["val"].label.tolist())) < 2:
        raise Mistake(f"the validation split holds {len(data['val'])} examples of one class: give lenses and non-lenses, more "
                      "objects, or a larger --val_frac")
    model = network(config, len(bands) if config.band_mode == "stack" else 1)
    if config.use_metadata:
        model.metadata.fit(data["train"].columns["metadata"], data["train"].columns["metadata_mask"])
    if config.initial_checkpoint:
        try:
            print(load_pretrained(model.network, config.initial_checkpoint))
        except ValueError as error:
            raise Mistake(f"--initial_checkpoint: {error}") from error
    return Task(model, data, loss, measure, {"auc": "max", "loss": "min", "acc": "max"}, summarise, report,
                lambda writer, model, columns, epoch: illustrate(writer, columns, epoch, data["val"]), record)


def logit_of(model: nn.Module, batch: Batch) -> Tensor:
    """[B] float32."""
    extras = [batch[name] for name in ("metadata", "metadata_mask") if name in batch]
    return model(batch["image"], batch["present"], batch["domain"], *extras)


def loss(model: nn.Module, batch: Batch, step: int) -> Loss:
    logit = logit_of(model, batch)
    value = binary_cross_entropy(logit, batch["label"])
    return Loss(value * batch["weight"] if "weight" in batch else value, {"acc": ((logit > 0) == (batch["label"] > 0.5)).float()})


def measure(model: nn.Module, batch: Batch) -> Columns:
    """Scores of each example, [B]: loss, probability of a lens; and what it is."""
    logit = logit_of(model, batch)
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
