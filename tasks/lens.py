"""Is there a strong gravitational lens in the middle of this cutout? (Strong Lens Data Challenge)"""
import contextlib
import typing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from torch import Tensor, nn

from contract import Batch, Columns, Task
from data import buckets, cutouts
from losses.classification import binary_cross_entropy
from model import MODELS, create_model
from models.augment import Augment
from models.degrade import Degrade
from models.domain_head import DomainHead
from models.lens_fit import LensFit
from models.lens_network import LensNetwork
from models.metadata import MetadataTerm
from models.quantity_head import QuantityHead
from models.preprocess import Preprocess
from models.pretrained import load_pretrained
from models.recompute import recompute
from models.rotate import Rotate
from physics.lens_parameters import slices
from tasks import lens_losses
from tasks.lens_inputs import Inputs, from_store, metadata_columns, streamed
from tasks.lens_losses import Losses, answers_of, inferred, withstood
from utils import calibration, figures_of_merit, plots
from utils.config import free, several
from utils.mistake import Mistake


@dataclass(frozen=True)
class Config(Losses, Inputs):
    bands: list[str] = several()             # bands to use, in this order; none given: all that are there
    band_mode: Literal["single", "stack"] = "single"    # an example is one band file, or an object with a channel a band
    image_size: int = 41                     # pixels on a side that every cutout must have
    pixel_scale: float = 0.2                 # arcsec, the side of a pixel: for networks that measure angles
    seeing: float = 0.75                     # arcsec, full width of the point spread, for those that trace rays
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
    rotate: float = 0.0                      # training: chance of an image to be turned by any angle
    augment: bool = True                     # training: the eight symmetries of the square, and noise
    degrade_noise: float = 0.0               # training: white noise of up to so many times an image's own is added to half of the images
    degrade_seeing: float = 0.0              # training: half of the images are broadened by up to a Gaussian of this FWHM, pixels
    use_metadata: bool = False               # add a term to the logit that follows from the metadata of the object
    metadata_columns: list[str] = several()  # which of metadata.parquet; none given: redshift seeing sersic_index half_light_radius ellipticity
    quality_weight: bool = False             # training: weight each example by the quality of its images (quality.parquet)
    model: str = "convnextv2"                # a name in model.py (python model.py lists them)
    model_size: str = ""                     # its size, for a family that has sizes; empty: its default (nano for convnextv2)
    model_kwargs: list[str] = several()      # its other options, key=value (timm: timm_name=resnet18)
    drop_path: float = 0.1                   # stochastic depth: chance that the last block is skipped
    recompute: bool = free(False)            # keep fewer activations for the gradient, compute them again: less memory, more time, same numbers
    channels_last: bool = free(False)        # images with their channels next to each other in memory: faster on some devices
    initial_checkpoint: str = free("")       # file of pretrained encoder weights (timm or Zoobot names)

    def __post_init__(self):
        super().__post_init__()
        if self.apply_padding and (self.use_physics or self.model in MODELS and MODELS[self.model].infers):
            raise Mistake("--apply_padding: a lens model is fitted to the sky that was observed, and zeros around it are none; leave it out")
        if self.apply_padding and self.out_size_when_padded < self.image_size:
            raise Mistake(f"--out_size_when_padded: got {self.out_size_when_padded}, expected at least "
                          f"--image_size {self.image_size}")
        if not 0 <= self.drop_path < 1:
            raise Mistake(f"--drop_path: got {self.drop_path:g}, expected 0 <= drop_path < 1")


def network(config: Config, channels: int) -> LensNetwork:
    """(image [B, C, H, W] physical units, present [B, C] bool, domain [B] int64, metadata) -> models/lens_network.py's answers."""
    try:
        preprocess = Preprocess(
            (config.image_size, config.image_size), smoothing=config.smoothing_mode, gaussian_sigma=config.gaussian_sigma,
            guided_radius=config.guided_radius, guided_eps=config.guided_eps, edge=config.smoothing_edge,
            psf_fwhm=(config.psf_fwhm_slsim, config.psf_fwhm_hsc), psf_target=config.psf_target,
            normalise=config.apply_normalization, clip_q=config.clip_q, low_clip_q=config.low_clip_q,
            use_mad=config.use_mad, pad_to=config.out_size_when_padded if config.apply_padding else 0)
        rotate = Rotate(config.rotate) if config.rotate else None
        worse = config.degrade_noise or config.degrade_seeing
        degrade = Degrade(config.degrade_noise, config.degrade_seeing) if worse else None
        spec, body = MODELS.get(config.model), create_model(config.model, **network_options(config, channels))
        body = recompute(body) if config.recompute else body
    except ValueError as error:
        raise Mistake(f"this network cannot be built: {error}") from error
    if config.use_physics and not spec.physics:
        raise Mistake(f"--use_physics: got --model {config.model}, expected one that supports it: "
                      f"{', '.join(name for name in MODELS if MODELS[name].physics)}")
    others = tuple(name for name in inferred(config) if name not in spec.infers)
    return LensNetwork(
        preprocess, Augment() if config.augment else None, body, degrade,
        MetadataTerm(len(metadata_columns(config))) if config.use_metadata and not spec.metadata else None,
        QuantityHead(body.feature_dim, others) if others else None,
        LensFit(config.pixel_scale, config.seeing) if config.use_physics and not spec.infers else None,
        DomainHead(body.feature_dim, len(buckets.DOMAINS)) if config.domain_adversarial else None, config.channels_last, rotate)


def network_options(config: Config, channels: int) -> dict[str, Any]:
    """The options of `create_model`: those that follow from the task, as far as this network has them, and --model_kwargs over them."""
    spec = MODELS.get(config.model)
    side = config.out_size_when_padded if config.apply_padding else config.image_size
    follow = dict(image_size=side, pixel_scale=config.pixel_scale, seeing=config.seeing,
                  fields=tuple(metadata_columns(config)) if config.use_metadata else ())
    options = dict(in_chans=channels, drop_path_rate=config.drop_path) | {name: value for name, value in follow.items() if spec and name in spec.options}
    if config.model_size:
        options["size"] = config.model_size
    return options | key_values(config.model_kwargs)


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
    columns = getattr(data["train"], "columns", {})
    if config.use_metadata:
        (model.metadata or model.network).fit(columns["metadata"], columns["metadata_mask"])
    if "targets" in columns:
        model.fit_quantities(columns["targets"])
    if config.initial_checkpoint:
        try:
            print(load_pretrained(getattr(model.network, "body", model.network), config.initial_checkpoint))
        except ValueError as error:
            raise Mistake(f"--initial_checkpoint: {error}") from error
    return Task(model, data, lens_losses.build(config, len(data["train"])), partial(measure, config=config), {"auc": "max", "loss": "min", "acc": "max"},
                lambda columns: summarise(trusted(config, columns)), report, partial(calibrate, config),
                lambda writer, model, columns, epoch: illustrate(writer, columns, epoch, data["val"]), record)


def measure(model: nn.Module, batch: Batch, config: Config) -> Columns:
    """Scores of each example: loss, logit and probability of a lens, [B]; errors of inferred quantities in their sigmas, [B, P]; and what it is.

    With --adversarial also whether the answer withstands an attack, [B].
    """
    said = answers_of(model, batch)
    columns = dict(loss=binary_cross_entropy(said["logit"], batch["label"]), logit=said["logit"], prob=said["logit"].sigmoid())
    if "targets" in batch:
        columns["error"] = (said["mean"] - batch["targets"]) / said["variance"].sqrt()
    if config.adversarial != "none":
        columns["robust"] = withstood(config, model, batch)
    return columns | {name: batch[name] for name in ("label", "domain", "index")}


def calibrate(config: Config, columns: Columns) -> dict[str, Any]:
    """What validation says about the probabilities (utils/calibration.py) and the error bars: a factor for each quantity."""
    kept = trusted(config, columns)
    found: dict[str, Any] = dict(probability={})
    for kind in typing.get_args(calibration.Kind):
        with contextlib.suppress(Mistake):               # logits that do not rise with the label have none: predict says so when asked
            found["probability"][kind] = calibration.fit(kind, kept["logit"].numpy(), kept["label"].numpy())
    if "error" in columns:
        found["quantities"] = {name: error_factor(kept["error"][:, place]) for name, place in slices(inferred(config)).items()}
    return found


def error_factor(errors: Tensor) -> float:
    """Factor on the standard errors after which 68.3 % of these errors, in sigmas, are within one; 1 where fewer than 20 are known."""
    known = errors[errors.isfinite()].abs()
    return known.quantile(0.6827).item() if len(known) >= 20 else 1.0


def trusted(config: Config, columns: Columns) -> Columns:
    """The rows whose label may choose anything: those of --label_domain, if it is given."""
    if not config.label_domain:
        return columns
    here = columns["domain"] == buckets.DOMAINS.index(config.label_domain)
    return {name: column[here] for name, column in columns.items()}


def summarise(columns: Columns) -> dict[str, float]:
    label, prob = columns["label"].numpy(), columns["prob"].numpy()
    return dict(loss=columns["loss"].double().mean().item(), acc=float(((prob >= 0.5) == (label > 0.5)).mean()),
                auc=figures_of_merit.roc_auc(label, prob)) \
        | ({"robust_acc": columns["robust"].double().mean().item()} if "robust" in columns else {})


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
