"""The options of the light-curve task."""

from dataclasses import dataclass
from typing import Literal

from data.light_curves.files import Reading
from utils.config import free
from utils.mistake import Mistake


@dataclass(frozen=True)
class Inputs:
    """Where the curves are."""

    data: str = free("")  # folder of light curves, one file, or a manifest (.txt, one path a line)
    store_dir: str = free("stores")  # where files are packed, once, for all runs


@dataclass(frozen=True)
class Config(Inputs, Reading):
    model: Literal["recurrent_vae"] = "recurrent_vae"  # a name in model.py (python model.py lists them)
    min_points: int = 3  # shorter curves are left out
    max_points: int = 1024  # longer curves are cut to their first so many
    split_seed: int = 42  # of the split by source; the same for every --seed
    train_frac: float = 0.85  # share of sources to train on
    val_frac: float = 0.05  # share to choose the epoch on
    test_frac: float = 0.10  # share that is only judged
    hidden: int = 64  # units of the GRUs
    latent: int = 40  # units of the latent vector
    layers: int = 2  # of each GRU
    dropout: float = 0.2  # between the layers
    bidirectional: bool = True  # the encoder reads curves backwards too
    time_inputs: bool = True  # the encoder is told gaps, places and which bands were observed
    curve_scale: bool = True  # rates in units of the curve's own mean instead of the sample's
    harmonics: int = 16  # cosines over the curve that carry the latent vector; 1: it is told as it is
    scatter: bool = True  # the decoder also says how far rates stray from what it says
    # auto: poisson if all curves have counts
    likelihood: Literal["auto", "poisson", "split_normal", "squared_error"] = "auto"
    kl_weight: float = 1.0  # of the KL divergence (with its half) beside the misfit; 1 is the evidence bound
    kl_warm_up: int = 300  # steps in which it rises from 0
    free_nats: float = 0.0  # of each latent unit, that the divergence does not count
    hide: float = 0.3  # training: mean share of points kept from the encoder, for the decoder to fill in
    redraw: float = 0.0  # training: counts are drawn anew, as of an exposure shorter by up to this share
    plot_every: int = free(50)  # epochs between two sets of figures; 0 = none

    def __post_init__(self):
        super().__post_init__()
        for name, least in dict(
            min_points=2, max_points=2, hidden=1, latent=1, layers=1, harmonics=1, kl_warm_up=0, plot_every=0
        ).items():
            if getattr(self, name) < least:
                raise Mistake(f"--{name}: got {getattr(self, name)}, expected at least {least}")
        for name, most in dict(dropout=1, hide=0.5, redraw=1).items():
            if not 0 <= getattr(self, name) < most:
                raise Mistake(f"--{name}: got {getattr(self, name):g}, expected at least 0 and below {most}")
        for name in ("kl_weight", "free_nats"):
            if not getattr(self, name) >= 0:
                raise Mistake(f"--{name}: got {getattr(self, name):g}, expected at least 0")
