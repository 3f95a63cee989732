"""The options of the light-curve task."""

from dataclasses import dataclass
from typing import Literal

from data.light_curves.curve import Reading
from data.split import SplitOptions
from utils.config import Options, free, option


@dataclass(frozen=True)
class Inputs(Options):
    """Where the curves are."""

    data: str = free("")  # folder of light curves, one file, or a manifest (.txt, one path a line)
    store_dir: str = free("stores")  # where files are packed, once, for all runs


@dataclass(frozen=True)
class Lengths(Options):
    """How many points an example has."""

    min_points: int = option(3, least=2)  # shorter curves are left out
    # of longer curves neighbouring points are joined until there are at most so many
    max_points: int = option(1024, least=2)


# The order of the bases is that of the flags, from right to left.
@dataclass(frozen=True)
class Config(SplitOptions, Lengths, Inputs, Reading):
    model: Literal["recurrent_vae"] = "recurrent_vae"  # a name in model.py (python model.py lists them)
    train_frac: float = option(0.85, least=0, most=1)
    val_frac: float = option(0.05, least=0, most=1)
    test_frac: float = option(0.10, least=0, most=1)
    hidden: int = option(64, least=1)  # units of the GRUs
    latent: int = option(40, least=1)  # units of the latent vector
    layers: int = option(2, least=1)  # of each GRU
    dropout: float = option(0.2, least=0, below=1)  # between the layers
    bidirectional: bool = True  # the encoder reads curves backwards too
    time_inputs: bool = True  # the encoder is told gaps, places and which bands were observed
    curve_scale: bool = True  # rates in units of the curve's own mean instead of the sample's
    # cosines over the curve that carry the latent vector; 1: it is told as it is
    harmonics: int = option(16, least=1)
    scatter: bool = True  # the decoder also says how far rates stray from what it says
    # auto: poisson if all curves have counts, else scaled_poisson, or student_t of signed rates
    likelihood: Literal["auto", "poisson", "scaled_poisson", "student_t", "split_normal", "squared_error"] = (
        "auto"
    )
    # rates may be below zero (differences of images) and are described about the curve's mean;
    # auto: if more than 0.5 % are, by three errors
    signed: Literal["auto", "yes", "no"] = "auto"
    # of the KL divergence (with its half) beside the misfit; 1 is the evidence bound
    kl_weight: float = option(1.0, least=0)
    kl_warm_up: int = option(300, least=0)  # steps in which it rises from 0
    free_nats: float = option(0.0, least=0)  # of each latent unit, that the divergence does not count
    # training: mean share of points kept from the encoder, for the decoder to fill in
    hide: float = option(0.3, least=0, below=0.5)
    # training: counts are drawn anew, as of an exposure shorter by up to this share
    redraw: float = option(0.0, least=0, below=1)
    plot_every: int = free(50, least=0)  # epochs between two sets of figures; 0 = none
