"""What shapes do light curves have? A recurrent variational autoencoder of X-ray (eROSITA)
or optical curves in bands.
"""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from contract import Batch, Columns, Loss, Task
from data import split
from data.light_curves.packed import LightCurves
from losses import vae
from models.recurrent_vae import RecurrentVAE
from physics import count_rates
from tasks.light_curve import plots as curve_plots, scores
from tasks.light_curve.config import Config
from tasks.light_curve.inputs import (
    content_digest,
    counts_and_likelihood,
    make_examples,
    read_curves,
    split_curves,
)
from utils import distributed, plots
from utils.checkpoint import bands_of
from utils.config import recorded
from utils.mistake import Mistake

SHOWN, SAMPLES = 6, 64  # curves in the figure of reconstructions, and draws of their latent vectors


def rebuild(record: dict[str, Any]) -> RecurrentVAE:
    """The network that a checkpoint's record describes, freshly initialised."""
    return build_network(recorded(Config, record["options"]), len(bands_of(record)))


def build_network(config: Config, bands: int) -> RecurrentVAE:
    return RecurrentVAE(
        bands,
        config.hidden,
        config.latent,
        config.layers,
        config.dropout,
        config.bidirectional,
        config.time_inputs,
        config.curve_scale,
        config.harmonics,
        config.scatter,
    )


def build(config: Config, run_dir: Path, workers: int) -> Task:
    """Read the curves, split them by source, measure the standards of the network on the training curves."""
    packed = read_curves(config, workers)
    splits = split_curves(packed, config)
    data = {name: make_examples(packed, splits == name, config) for name in split.SPLITS}
    if not len(data["train"]):
        raise Mistake(
            f"no curve to train on among {int(packed.good.sum())}: give more data, a larger --train_frac, or "
            "a smaller --min_points"
        )
    counted, likelihood = counts_and_likelihood(config, packed)
    model = build_network(config, len(packed.bands))
    standardise(model, data["train"])
    if distributed.rank() == 0:
        table = packed.curves.assign(split=splits)
        print(
            "\n".join(
                packed.summary()
                + [
                    ", ".join(f"{len(data[name]):,} {name}" for name in split.SPLITS)
                    + f"; {likelihood} likelihood"
                ]
            ),
            flush=True,
        )
        table.to_parquet(run_dir / "split.parquet")
    record = dict(
        bands=list(packed.bands),
        curves=int(packed.good.sum()),
        likelihood=likelihood,
        digest=content_digest(packed, splits),
    )
    return Task(
        model,
        data,
        partial(loss, config=config, likelihood=likelihood),
        partial(scores.measure, kl_weight=config.kl_weight, likelihood=likelihood, counted=counted),
        {"loss": "min", "gain": "max", "deviance": "min"},
        scores.summarise,
        lambda columns: scores.report(
            columns, LightCurves(packed, columns["row"].numpy(), config.max_points), likelihood
        ),
        illustrate=partial(illustrate, data=data["val"], every=config.plot_every, run_dir=run_dir),
        record=record,
    )


def standardise(model: RecurrentVAE, data: LightCurves) -> None:
    """Set the network's typical rate in each band and its cadence to medians over (at most 4,096)
    training curves.
    """
    batch = data.__getitems__(range(min(len(data), 4096)))
    count = batch["observed"].sum(1)
    mean = (batch["rate"] + batch["error_up"] / count.clamp(min=1)[:, None]).sum(1) / count.clamp(min=1)
    gaps = batch["time"].diff(dim=1)[torch.arange(1, batch["time"].shape[1]) < batch["length"][:, None]]
    for band in range(model.bands):
        if (there := mean[:, band][count[:, band] > 0]).numel():
            model.typical_rate[band] = there.median().clamp(min=1e-12)
    model.cadence.fill_(gaps.median().clamp(min=1e-3).item())


def loss(model: nn.Module, batch: Batch, step: int, config: Config, likelihood: str) -> Loss:
    """The evidence bound of each curve, of which the encoder sees a part, and that noisier than it was."""
    shown = redrawn(batch, config.redraw) if config.redraw else batch
    share = 2 * config.hide * torch.rand(len(batch["time"]), 1, 1, device=batch["time"].device)
    seen = batch["observed"] & (torch.rand(*batch["time"].shape, 1, device=share.device) >= share)
    reconstruction = scores.describe(model, shown, seen)
    cost = vae.sum_observed(scores.misfit(reconstruction, batch, likelihood), batch["observed"])
    divergence = vae.kl_gaussian(reconstruction.mean, reconstruction.logvar, config.free_nats)
    weighted = vae.kl_weight(step, config.kl_warm_up, config.kl_weight) * divergence
    return Loss(cost + weighted, dict(misfit=cost, kl=divergence), dict(misfit=cost, kl=weighted))


def redrawn(batch: Batch, share: float) -> Batch:
    """The batch as of exposures shorter by up to `share`, drawn for each curve:
    counts thinned, or noise added to rates.
    """
    kept = 1 - share * torch.rand(len(batch["time"]), 1, 1, device=batch["time"].device)
    thinned = count_rates.thinned(batch["counts"], batch["background"], batch["exposure"], kept)
    noisy = count_rates.noisier(batch["rate"], batch["error_low"], batch["error_up"], kept)
    counted = batch["has_counts"][:, None, None]
    return batch | {
        name: torch.where(batch["observed"], torch.where(counted, a, b), 0)
        for name, a, b in zip(("rate", "error_low", "error_up"), thinned, noisy)
    }


def illustrate(
    writer, model: RecurrentVAE, columns: Columns, epoch: int, data: LightCurves, every: int, run_dir: Path
) -> None:
    """TensorBoard and figures/: reconstructions of the same curves each time, the latent plane,
    the losses.
    """
    if not every or (epoch > 1 and epoch % every):
        return
    (run_dir / "figures").mkdir(exist_ok=True)
    some = data.__getitems__(np.linspace(0, len(data) - 1, min(SHOWN, len(data))).astype(int))
    device = next(model.parameters()).device
    inputs = {name: tensor.to(device) for name, tensor in some.items()}
    with torch.no_grad():
        draws = torch.stack(
            [
                scores.describe(
                    model, inputs, inputs["observed"], torch.randn_like(columns["mean"][:1]).to(device)
                ).rate
                for _ in range(SAMPLES)
            ]
        ).cpu()
    figures = dict(
        reconstructions=curve_plots.reconstructions(
            some, draws, data.names(some["index"].tolist()), data.bands
        ),
        latent=curve_plots.latent_plane(
            columns["mean"], columns["deviance"].sum(1), columns["constant"].sum(1)
        ),
        curves=plots.figure_training(pd.read_csv(run_dir / "training_log.csv")),
    )
    for name, figure in figures.items():
        plots.save_figure(figure, run_dir / "figures", name)
        writer.add_figure(f"val/{name}", figure, epoch)
