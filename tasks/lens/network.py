"""The network of the lens task, as its options describe it."""

from typing import Any

import yaml

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
from tasks.lens.config import Config, inferred, metadata_columns
from utils.mistake import Mistake


def build_network(config: Config, channels: int) -> LensNetwork:
    """(image [B, C, H, W] physical units, present [B, C] bool, domain [B] int64, metadata)
    -> models/lens_network.py's answers.
    """
    try:
        preprocess = Preprocess(
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
        rotate = Rotate(config.rotate) if config.rotate else None
        worse = config.degrade_noise or config.degrade_seeing
        degrade = Degrade(config.degrade_noise, config.degrade_seeing) if worse else None
        spec, body = MODELS.get(config.model), create_model(config.model, **network_options(config, channels))
        body = recompute(body) if config.recompute else body
    except ValueError as error:
        raise Mistake(f"this network cannot be built: {error}") from error
    if config.use_physics and not spec.physics:
        raise Mistake(
            f"--use_physics: got --model {config.model}, expected one that supports it: "
            f"{', '.join(name for name in MODELS if MODELS[name].physics)}"
        )
    others = tuple(name for name in inferred(config) if name not in spec.infers)
    return LensNetwork(
        preprocess,
        Augment() if config.augment else None,
        body,
        degrade,
        MetadataTerm(len(metadata_columns(config))) if config.use_metadata and not spec.metadata else None,
        QuantityHead(body.feature_dim, others) if others else None,
        LensFit(config.pixel_scale, config.seeing) if config.use_physics and not spec.infers else None,
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
        pixel_scale=config.pixel_scale,
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
