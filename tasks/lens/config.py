"""The options of the lens task: where its inputs are, what is asked of a network, what the network is."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from data.bands import read_aliases
from data.cutouts import buckets
from data.cutouts.blank import MAX_BLANK
from data.cutouts.buckets import DOMAINS
from data.split import SplitOptions
from losses.lens_constraints import TERMS
from model import MODELS
from physics.lens_parameters import GEOMETRY, QUANTITIES
from utils.config import Options, free, option, several
from utils.mistake import Mistake


@dataclass(frozen=True)
class Losses(Options):
    """Terms of the loss besides the label's, and what a class weighs."""

    # weight of lenses in the loss of the label, where non-lenses have 1: a number; balanced: both classes
    # weigh as much as a whole; none: 1. Validation is judged without weights
    class_weight: float | Literal["none", "balanced"] = "none"
    # training: lenses are drawn as often as non-lenses: each of the larger class once an epoch, those of the
    # smaller in turn, as often as that takes
    balance: bool = False
    # quantities to infer, by their first column in parameters.fits: Rein ell_m sh srcx zlens ...; all
    regression: list[str] = several()
    # of their likelihood, a mean over the quantities, in nats
    regression_weight: float = option(1.0, least=0)
    use_physics: bool = False  # fit a lens model to every image, ray by ray; adds its terms for the lenses
    physics_weight: float = option(0.1, least=0)  # of all physics terms together
    # and shear_consistency, by a second view; or with weights: lens_equation=0.5
    physics_terms: list[str] = several("lens_equation", "mass_conservation")
    domain_adversarial: bool = False  # features that do not tell the domains apart
    domain_weight: float = option(0.1, least=0)  # of that term
    domain_warmup: int = option(1000, least=1)  # steps over which its weight grows from zero
    label_domain: str = ""  # learn labels of this domain alone: slsim or hsc; empty: all
    # learn from the worst image near each image, in this norm
    adversarial: Literal["none", "linf", "l2"] = "none"
    # how near, in units of the noise of each image; of l2 rather 3
    adversarial_radius: float = option(0.1, least=0)
    adversarial_steps: int = option(5, least=1)  # of the search for it
    # weight of the worst image; the rest is the image as it is
    adversarial_share: float = option(0.5, least=0, most=1)

    def __post_init__(self):
        super().__post_init__()
        for name in self.regression:
            if name not in (*QUANTITIES, "all"):
                raise Mistake(f"--regression: got {name!r}, expected all or some of {' '.join(QUANTITIES)}")
        if self.label_domain and self.label_domain not in DOMAINS:
            raise Mistake(
                f"--label_domain: got {self.label_domain!r}, expected one of {', '.join(DOMAINS)}, or "
                "nothing for all"
            )
        term_weights(self.physics_terms)
        fixed_weight(self.class_weight)
        if self.balance and self.class_weight == "balanced":
            raise Mistake(
                "--balance and --class_weight balanced: each gives both classes one weight, give one"
            )


def fixed_weight(text: float | str) -> float | None:
    """The weight of lenses that --class_weight states; None for `balanced`."""
    if text == "balanced":
        return None
    try:
        weight = 1.0 if text == "none" else float(text)
    except ValueError:
        weight = math.nan
    if not (math.isfinite(weight) and weight > 0):
        raise Mistake(
            f"--class_weight: got {text!r}, expected none, balanced, or the weight of lenses, a number "
            "above 0"
        )
    return weight


def inferred_quantities(config: Any) -> tuple[str, ...]:
    """The quantities that the network infers, in its order: those it infers by itself,
    then what is asked for.
    """
    wanted = (
        QUANTITIES
        if "all" in config.regression
        else [*config.regression, *(GEOMETRY if config.use_physics else ())]
    )
    own = MODELS[config.model].infers if config.model in MODELS else ()
    return own + tuple(name for name in QUANTITIES if name in wanted and name not in own)


def learnt_quantities(config: Any, record: Mapping[str, Any]) -> tuple[str, ...]:
    """Those of the inferred quantities that training had something to learn from, as the record of the data
    says; all, where an older record says nothing.
    """
    return tuple(name for name in inferred_quantities(config) if name not in record.get("not_learnt", ()))


def term_weights(terms: list[str]) -> dict[str, float]:
    """`["a", "b=0.5"]` -> {"a": 1.0, "b": 0.5}."""
    weights = {}
    for term in terms:
        name, equals, weight = term.partition("=")
        try:
            weights[name] = float(weight) if equals else 1.0
        except ValueError as error:
            raise Mistake(f"--physics_terms: got {term!r}, expected a name, or name=weight") from error
        if name not in TERMS:
            raise Mistake(f"--physics_terms: got {name!r}, expected some of {', '.join(TERMS)}")
    return weights


METADATA = ["redshift", "seeing", "sersic_index", "half_light_radius", "ellipticity"]


@dataclass(frozen=True)
class Inputs(Options):
    """Where the cutouts are."""

    data: str = free("")  # folder that holds the four buckets
    slsim_lenses: str = free("")  # folder or manifest (a text file, one path a line) of simulated lenses
    slsim_nonlenses: str = free("")  # ... of non-lenses around simulations
    hsc_lenses: str = free("")  # ... of lenses in HSC
    hsc_nonlenses: str = free("")  # ... of non-lenses in HSC
    slsim_lenses_list: str = free("")  # another way to give a manifest
    slsim_nonlenses_list: str = free("")  # another way to give a manifest
    hsc_lenses_list: str = free("")  # another way to give a manifest
    hsc_nonlenses_list: str = free("")  # another way to give a manifest
    store_dir: str = free("stores")  # where FITS files are packed, once, for all runs
    store: str = free("")  # folder of a store that is packed already (convert.py), instead of FITS files
    # folder or URL of shards (convert.py shards) to train from as they are, instead of a store
    stream: str = free("")
    # bands as files or a store name them, and their names here: HSC-G=g VIS=i; the usual ones are known
    band_alias: list[str] = several(free=True)

    def __post_init__(self):
        super().__post_init__()
        read_aliases(self.band_alias)

    def sources(self) -> dict[str, str]:
        """Bucket -> folder or manifest. Raises Mistake for a bucket that is given twice."""
        sources = buckets.find_buckets(self.data) if self.data else {}
        for bucket in buckets.BUCKETS:
            given = [getattr(self, name) for name in (bucket, f"{bucket}_list") if getattr(self, name)]
            if len(given) > 1:
                raise Mistake(f"--{bucket} {given[0]!r} and --{bucket}_list {given[1]!r}: give one of them")
            sources |= {bucket: given[0]} if given else {}
        return sources


def metadata_columns(config: Any) -> list[str]:
    return list(config.metadata_columns) or METADATA


@dataclass(frozen=True)
class Images(Options):
    """What an example is."""

    bands: list[str] = several()  # bands to use, in this order; none given: all that are there
    # an example is one band file, or an object with a channel a band
    band_mode: Literal["single", "stack"] = "single"
    image_size: int = option(41, least=1)  # pixels on a side that every cutout must have
    # share of the pixels of a file that may have one value; beyond, it shows no sky and is quarantined
    max_blank: float = option(MAX_BLANK, above=0, most=1)
    # arcsec, the side of a pixel, for networks that measure angles; 0: what the store or the headers say,
    # else 0.2
    pixel_scale: float = option(0.0, least=0)
    seeing: float = 0.75  # arcsec, full width of the point spread, for those that trace rays


# The order of the bases is that of the flags, from right to left.
@dataclass(frozen=True)
class Config(SplitOptions, Images, Losses, Inputs):
    # arcsec: objects whose places lie within it of each other, under other ids, are in one split; 0: off
    match_radius: float = option(1.0, least=0)
    take_train_frac: float = option(1.0, least=0, most=1)  # use this part of the training split
    take_val_frac: float = option(1.0, least=0, most=1)  # ... of the validation split
    take_test_frac: float = option(1.0, least=0, most=1)  # ... of the test split
    smoothing_mode: Literal["none", "gaussian", "guided", "psf"] = "none"  # smoothing before the network
    gaussian_sigma: float = 0.8  # gaussian: its width, pixels
    guided_radius: int = 2  # guided: half-width of its window, pixels
    guided_eps: float = 1e-2  # guided: variance below which it smooths
    psf_fwhm_slsim: float = 0.0  # psf: seeing of the slsim domain, FWHM in pixels
    psf_fwhm_hsc: float = 0.0  # psf: seeing of the hsc domain, FWHM in pixels
    psf_target: float = 0.0  # psf: seeing that both are brought to, FWHM in pixels
    # what lies beyond the edge; zero darkens the border
    smoothing_edge: Literal["reflect", "zero"] = "reflect"
    apply_normalization: bool = False  # subtract the background, clip, scale to unit spread
    clip_q: float = 0.997  # normalisation: clip above this quantile; negative = off
    low_clip_q: float = -1.0  # normalisation: clip below this quantile; negative = off
    use_mad: bool = False  # normalisation: median and MAD instead of mean and deviation
    apply_padding: bool = False  # zeros around the cutout
    out_size_when_padded: int = 64  # pixels on a side after padding
    rotate: float = option(0.0, least=0, most=1)  # training: chance of an image to be turned by any angle
    augment: bool = True  # training: the eight symmetries of the square, and noise
    # training: white noise of up to so many times an image's own is added to half of the images
    degrade_noise: float = option(0.0, least=0)
    # training: half of the images are broadened by up to a Gaussian of this FWHM, pixels
    degrade_seeing: float = option(0.0, least=0, most=20)
    use_metadata: bool = False  # add a term to the logit that follows from the metadata of the object
    # which of metadata.parquet; none given: redshift seeing sersic_index half_light_radius ellipticity
    metadata_columns: list[str] = several()
    # training: weight each example by the quality of its images (quality.parquet)
    quality_weight: bool = False
    model: str = "convnextv2"  # a name in model.py (python model.py lists them)
    model_size: str = ""  # its size, for a family that has sizes; empty: its default (nano for convnextv2)
    model_kwargs: list[str] = several()  # its other options, key=value (timm: timm_name=resnet18)
    # stochastic depth: chance that the last block is skipped
    drop_path: float = option(0.1, least=0, below=1)
    # keep fewer activations for the gradient, compute them again: less memory, more time, same numbers
    recompute: bool = free(False)
    # images with their channels next to each other in memory: faster on some devices
    channels_last: bool = free(False)
    initial_checkpoint: str = free("")  # file of pretrained encoder weights (timm or Zoobot names)

    def __post_init__(self):
        super().__post_init__()
        if self.apply_padding and (self.use_physics or self.model in MODELS and MODELS[self.model].infers):
            raise Mistake(
                "--apply_padding: a lens model is fitted to the sky that was observed, and zeros around it "
                "are none; leave it out"
            )
        if self.apply_padding and self.out_size_when_padded < self.image_size:
            raise Mistake(
                f"--out_size_when_padded: got {self.out_size_when_padded}, expected at least --image_size "
                f"{self.image_size}"
            )
