"""The network of the lens task, as its options describe it."""

from dataclasses import replace
from typing import Any

import torch
import yaml
from torch import nn

from data.cutouts import buckets
from model import MODELS, create_model
from models.layers.augment import Augment
from models.layers.degrade import Degrade
from models.layers.domain_head import DomainHead
from models.layers.lens_fit import LensFit
from models.layers.metadata import MetadataTerm
from models.layers.preprocess import Preprocess
from models.layers.quantity_head import QuantityHead
from models.layers.recompute import recompute
from models.layers.rotate import Rotate
from models.lens_network import LensNetwork
from tasks.lens.config import Config, inferred_quantities, metadata_columns
from tasks.lens.units import ASSUMED, trained_pixel_scale
from utils.checkpoint import bands_of
from utils.config import recorded
from utils.mistake import Mistake


def channels_of(config: Config, bands: list[str]) -> int:
    """How many channels an image has."""
    return len(bands) if config.band_mode == "stack" else 1


def rebuild(record: dict[str, Any]) -> LensNetwork:
    """The network that a checkpoint's record describes, freshly initialised."""
    config = recorded(Config, record["options"])
    config = replace(config, pixel_scale=trained_pixel_scale(config, record["data"]))
    return build_network(config, channels_of(config, bands_of(record)))


def refuse_impossible(config: Config) -> None:
    """Raises Mistake for a network that cannot be built, before any data are looked at."""
    with torch.random.fork_rng(devices=[]):
        preprocess_of(config)
        with torch.device("meta"):  # shapes without memory
            body_of(config, 1)


def preprocess_of(config: Config) -> Preprocess:
    try:
        return Preprocess(
            (config.image_size, config.image_size),
            smoothing=config.smoothing_mode,
            gaussian_sigma=config.gaussian_sigma,
            guided_radius=config.guided_radius,
            guided_eps=config.guided_eps,
            edge=config.smoothing_edge,
            psf_fwhm=(config.psf_fwhm_slsim, config.psf_fwhm_hsc),
            psf_target=config.psf_target,
            normalise=config.apply_normalization,
            clip_q=config.clip_q,
            low_clip_q=config.low_clip_q,
            use_mad=config.use_mad,
            pad_to=config.out_size_when_padded if config.apply_padding else 0,
        )
    except ValueError as error:
        raise Mistake(f"this network cannot be built: {error}") from error


def body_of(config: Config, channels: int) -> nn.Module:
    """The network of model.py that is asked for."""
    spec = MODELS.get(config.model)
    if spec and spec.task != "lens":
        raise Mistake(f"--model: {config.model} is a network of --task {spec.task}, not of the lens task")
    try:
        body = create_model(config.model, **network_options(config, channels))
        body = recompute(body) if config.recompute else body
    except ValueError as error:
        raise Mistake(f"this network cannot be built: {error}") from error
    if config.use_physics and not MODELS[config.model].physics:
        able = ", ".join(name for name in MODELS if MODELS[name].physics)
        raise Mistake(f"--use_physics: got --model {config.model}, expected one that supports it: {able}")
    return body


def build_network(config: Config, channels: int) -> LensNetwork:
    """(image [B, C, H, W] physical units, present [B, C] bool, domain [B] int64, metadata)
    -> models/lens_network.py's answers.
    """
    preprocess = preprocess_of(config)
    try:
        rotate = Rotate(config.rotate) if config.rotate else None
        worse = config.degrade_noise or config.degrade_seeing
        degrade = Degrade(config.degrade_noise, config.degrade_seeing) if worse else None
    except ValueError as error:
        raise Mistake(f"this network cannot be built: {error}") from error
    spec = MODELS.get(config.model)
    body = body_of(config, channels)
    others = tuple(name for name in inferred_quantities(config) if name not in spec.infers)
    return LensNetwork(
        preprocess,
        Augment() if config.augment else None,
        body,
        degrade,
        MetadataTerm(len(metadata_columns(config))) if config.use_metadata and not spec.metadata else None,
        QuantityHead(body.feature_dim, others) if others else None,
        LensFit(config.pixel_scale or ASSUMED, config.seeing)
        if config.use_physics and not spec.infers
        else None,
        DomainHead(body.feature_dim, len(buckets.DOMAINS)) if config.domain_adversarial else None,
        config.channels_last,
        rotate,
    )


def network_options(config: Config, channels: int) -> dict[str, Any]:
    """The options of `create_model`: those that follow from the task, as far as this network has them,
    and --model_kwargs over them.
    """
    spec = MODELS.get(config.model)
    side = config.out_size_when_padded if config.apply_padding else config.image_size
    follow = dict(
        image_size=side,
        pixel_scale=config.pixel_scale or ASSUMED,
        seeing=config.seeing,
        fields=tuple(metadata_columns(config)) if config.use_metadata else (),
    )
    options = dict(in_chans=channels, drop_path_rate=config.drop_path) | {
        name: value for name, value in follow.items() if spec and name in spec.options
    }
    if config.model_size:
        options["size"] = config.model_size
    return options | key_values(config.model_kwargs)


def key_values(pairs: list[str]) -> dict[str, Any]:
    """`["a=1", "b=x"]` -> {"a": 1, "b": "x"}."""
    if wrong := [pair for pair in pairs if "=" not in pair]:
        raise Mistake(f"--model_kwargs: got {wrong[0]!r}, expected key=value")
    return {key: yaml.safe_load(value) for key, _, value in (pair.partition("=") for pair in pairs)}
