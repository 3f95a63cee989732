"""What shapes do light curves have? A recurrent variational autoencoder of X-ray (eROSITA) or optical curves in bands."""
import hashlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
from torch import nn

from contract import Batch, Columns, Loss, Task
from data import split
from data.light_curve_files import Reading
from data.light_curves import LightCurves, Packed, inventory, pack
from losses import vae
from models.recurrent_vae import RecurrentVAE
from physics import count_rates
from tasks import light_curve_scores as scores
from utils import curve_plots, distributed, plots
from utils.config import free
from utils.mistake import Mistake

SHOWN, SAMPLES = 6, 64     # curves in the figure of reconstructions, and draws of their latent vectors


@dataclass(frozen=True)
class Inputs:
    """Where the curves are."""
    data: str = free("")             # folder of light curves, one file, or a manifest (.txt, one path a line)
    store_dir: str = free("stores")  # where files are packed, once, for all runs


@dataclass(frozen=True)
class Config(Inputs, Reading):
    min_points: int = 3              # shorter curves are left out
    max_points: int = 1024           # longer curves are cut to their first so many
    split_seed: int = 42             # of the split by source; the same for every --seed
    train_frac: float = 0.85         # share of sources to train on
    val_frac: float = 0.05           # share to choose the epoch on
    test_frac: float = 0.10          # share that is only judged
    hidden: int = 64                 # units of the GRUs
    latent: int = 40                 # units of the latent vector
    layers: int = 2                  # of each GRU
    dropout: float = 0.2             # between the layers
    bidirectional: bool = True       # the encoder reads curves backwards too
    time_inputs: bool = True         # the encoder is told gaps, places and which bands were observed
    curve_scale: bool = True         # rates in units of the curve's own mean instead of the sample's
    harmonics: int = 16              # cosines over the curve that carry the latent vector; 1: it is told as it is
    scatter: bool = True             # the decoder also says how far rates stray from what it says
    likelihood: Literal["auto", "poisson", "split_normal", "squared_error"] = "auto"    # auto: poisson if all curves have counts
    kl_weight: float = 1.0           # of the KL divergence (with its half) beside the misfit; 1 is the evidence bound
    kl_warm_up: int = 300            # steps in which it rises from 0
    free_nats: float = 0.0           # of each latent unit, that the divergence does not count
    hide: float = 0.3                # training: mean share of points kept from the encoder, for the decoder to fill in
    redraw: float = 0.0              # training: counts are drawn anew, as of an exposure shorter by up to this share
    plot_every: int = free(50)       # epochs between two sets of figures; 0 = none

    def __post_init__(self):
        super().__post_init__()
        for name, least in dict(min_points=2, max_points=2, hidden=1, latent=1, layers=1, harmonics=1, kl_warm_up=0, plot_every=0).items():
            if getattr(self, name) < least:
                raise Mistake(f"--{name}: got {getattr(self, name)}, expected at least {least}")
        for name, most in dict(dropout=1, hide=0.5, redraw=1).items():
            if not 0 <= getattr(self, name) < most:
                raise Mistake(f"--{name}: got {getattr(self, name):g}, expected at least 0 and below {most}")
        for name in ("kl_weight", "free_nats"):
            if not getattr(self, name) >= 0:
                raise Mistake(f"--{name}: got {getattr(self, name):g}, expected at least 0")


def network(config: Config, bands: int) -> RecurrentVAE:
    return RecurrentVAE(bands, config.hidden, config.latent, config.layers, config.dropout, config.bidirectional, config.time_inputs,
                        config.curve_scale, config.harmonics, config.scatter)


def build(config: Config, run_dir: Path, workers: int) -> Task:
    """Read the curves, split them by source, measure the standards of the network on the training curves."""
    packed = read(config, workers)
    splits = split_of(packed, config)
    data = {name: examples(packed, splits == name, config) for name in split.SPLITS}
    if not len(data["train"]):
        raise Mistake(f"no curve to train on among {int(packed.good.sum())}: give more data, a larger --train_frac, or a smaller --min_points")
    counted, likelihood = counts_and_likelihood(config, packed)
    model = network(config, len(packed.bands))
    standardise(model, data["train"])
    if distributed.rank() == 0:
        table = packed.curves.assign(split=splits)
        print("\n".join(packed.summary() + [", ".join(f"{len(data[name]):,} {name}" for name in split.SPLITS)
                                            + f"; {likelihood} likelihood"]), flush=True)
        table.to_parquet(run_dir / "split.parquet")
    record = dict(bands=list(packed.bands), curves=int(packed.good.sum()), likelihood=likelihood,
                  digest=content_digest(packed, splits))
    return Task(model, data, partial(loss, config=config, likelihood=likelihood),
                partial(scores.measure, kl_weight=config.kl_weight, likelihood=likelihood, counted=counted),
                {"loss": "min", "gain": "max", "deviance": "min"}, scores.summarise,
                lambda columns: scores.report(columns, LightCurves(packed, columns["row"].numpy(), config.max_points), likelihood),
                illustrate=partial(illustrate, data=data["val"], every=config.plot_every, run_dir=run_dir), record=record)


def read(config: Config, workers: int) -> Packed:
    if not config.data:
        raise Mistake("--data is missing: give a folder of light curves, a file, or a manifest (.txt, one path a line)")
    reading = Reading(**{name: getattr(config, name) for name in Reading.__dataclass_fields__})
    return pack(inventory(config.data), reading, config.store_dir, max(1, workers))


def split_of(packed: Packed, config: Config) -> np.ndarray:
    """[N] the split of each curve by a hash of its source; "" for those that are refused or too short."""
    splits = split.split_of(packed.curves["source"], config.split_seed, config.train_frac, config.val_frac, config.test_frac, blind=False)
    return np.where(packed.good & (packed.points >= config.min_points), splits, "")


def examples(packed: Packed, chosen: np.ndarray, config: Config) -> LightCurves:
    return LightCurves(packed, np.flatnonzero(chosen), config.max_points)


def counts_and_likelihood(config: Config, packed: Packed) -> tuple[bool, str]:
    """Whether all curves have counts, and the likelihood to use."""
    counted = bool(packed.has_counts[packed.good].all())
    if config.likelihood == "poisson" and not counted:
        raise Mistake(f"--likelihood poisson: {int((packed.good & ~packed.has_counts).sum())} curves have rates and no counts; "
                      "use split_normal, or auto")
    return counted, ("poisson" if counted else "split_normal") if config.likelihood == "auto" else config.likelihood


def standardise(model: RecurrentVAE, data: LightCurves) -> None:
    """Set the network's typical rate in each band and its cadence to medians over (at most 4,096) training curves."""
    batch = data.__getitems__(range(min(len(data), 4096)))
    count = batch["observed"].sum(1)
    mean = (batch["rate"] + batch["error_up"] / count.clamp(min=1)[:, None]).sum(1) / count.clamp(min=1)
    gaps = batch["time"].diff(dim=1)[torch.arange(1, batch["time"].shape[1]) < batch["length"][:, None]]
    for band in range(model.bands):
        if (there := mean[:, band][count[:, band] > 0]).numel():
            model.typical_rate[band] = there.median().clamp(min=1e-12)
    model.cadence.fill_(gaps.median().clamp(min=1e-3).item())


def content_digest(packed: Packed, splits: np.ndarray) -> str:
    """What the data are, wherever they lie."""
    table = packed.curves[["source", "points", "bands", "reason"]].assign(split=splits).to_csv(index=False)
    digest = hashlib.blake2b(table.encode(), digest_size=16)
    for name in ("time", "observed", "rate", "error_low", "error_up"):
        digest.update(packed.fields[name])
    return digest.hexdigest()


def loss(model: nn.Module, batch: Batch, step: int, config: Config, likelihood: str) -> Loss:
    """The evidence bound of each curve, of which the encoder sees a part, and that noisier than it was."""
    shown = redrawn(batch, config.redraw) if config.redraw else batch
    share = 2 * config.hide * torch.rand(len(batch["time"]), 1, 1, device=batch["time"].device)
    seen = batch["observed"] & (torch.rand(*batch["time"].shape, 1, device=share.device) >= share)
    said = scores.described(model, shown, seen)
    cost = vae.sum_observed(scores.misfit(said, batch, likelihood), batch["observed"])
    divergence = vae.kl_gaussian(said.mean, said.logvar, config.free_nats)
    return Loss(cost + vae.kl_weight(step, config.kl_warm_up, config.kl_weight) * divergence, dict(misfit=cost, kl=divergence))


def redrawn(batch: Batch, share: float) -> Batch:
    """The batch as of exposures shorter by up to `share`, drawn for each curve: counts thinned, or noise added to rates."""
    kept = 1 - share * torch.rand(len(batch["time"]), 1, 1, device=batch["time"].device)
    thinned = count_rates.thinned(batch["counts"], batch["background"], batch["exposure"], kept)
    noisy = count_rates.noisier(batch["rate"], batch["error_low"], batch["error_up"], kept)
    counted = batch["has_counts"][:, None, None]
    return batch | {name: torch.where(batch["observed"], torch.where(counted, a, b), 0)
                    for name, a, b in zip(("rate", "error_low", "error_up"), thinned, noisy)}


def illustrate(writer, model: RecurrentVAE, columns: Columns, epoch: int, data: LightCurves, every: int, run_dir: Path) -> None:
    """TensorBoard and figures/: reconstructions of the same curves each time, the latent plane, the losses."""
    if not every or (epoch > 1 and epoch % every):
        return
    (run_dir / "figures").mkdir(exist_ok=True)
    some = data.__getitems__(np.linspace(0, len(data) - 1, min(SHOWN, len(data))).astype(int))
    device = next(model.parameters()).device
    inputs = {name: tensor.to(device) for name, tensor in some.items()}
    with torch.no_grad():
        draws = torch.stack([scores.described(model, inputs, inputs["observed"], torch.randn_like(columns["mean"][:1]).to(device)).rate
                             for _ in range(SAMPLES)]).cpu()
    figures = dict(reconstructions=curve_plots.reconstructions(some, draws, data.names(some["index"].tolist()), data.bands),
                   latent=curve_plots.latent_plane(columns["mean"], columns["deviance"].sum(1), columns["constant"].sum(1)),
                   curves=plots.curves(pd.read_csv(run_dir / "training_log.csv")))
    for name, figure in figures.items():
        plots.save(figure, run_dir / "figures", name)
        writer.add_figure(f"val/{name}", figure, epoch)
