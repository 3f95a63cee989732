"""What shapes do light curves have? A recurrent variational autoencoder of X-ray (eROSITA)
or optical curves in bands.
"""

import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from contract import Batch, Columns, Loss, Task
from data import split
from data.light_curves.packed import LightCurves
from losses import vae
from models.recurrent_vae import RecurrentVAE
from physics import count_rates
from tasks.light_curve import anomaly, plots as curve_plots, scores
from tasks.light_curve.config import Config
from tasks.light_curve.inputs import (
    content_digest,
    line_of_long_curves,
    make_examples,
    noise_of,
    read_curves,
    split_curves,
)
from utils import distributed, plots
from utils.checkpoint import bands_of
from utils.config import recorded
from utils.mistake import Mistake

ORDINARY = 20  # powers of two about one, within which a typical rate is left as it is
SHOWN, SAMPLES = 6, 64  # curves in the figure of reconstructions, and draws of their latent vectors


def rebuild(record: dict[str, Any]) -> RecurrentVAE:
    """The network that a checkpoint's record describes, freshly initialised."""
    data = record["data"]
    config = recorded(Config, record["options"])
    return build_network(config, len(bands_of(record)), data.get("kind", ""), data.get("likelihood", ""))


def build_network(config: Config, bands: int, kind: str = "counts", likelihood: str = "") -> RecurrentVAE:
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
        signed=kind == "signed",
        tails=likelihood == "student_t",
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
    noise = noise_of(config, packed)
    model = build_network(config, len(packed.bands), noise.kind, noise.likelihood)
    standardise(model, data["train"])
    if noise.likelihood == "squared_error":
        noise = noise._replace(unit=unit_of(model.typical_rate))
    if distributed.rank() == 0:
        table = packed.curves.assign(split=splits)
        of_data = ", ".join(f"{len(data[name]):,} {name}" for name in split.SPLITS)
        about = " of rates about each curve's mean" if noise.kind == "signed" else ""
        lines = packed.summary()
        lines += filter(None, [line_of_long_curves(packed, splits != "", config)])
        lines.append(f"{of_data}; {noise.likelihood} likelihood{about}")
        print("\n".join(lines), flush=True)
        table.to_parquet(run_dir / "split.parquet")
    record = dict(
        bands=list(packed.bands),
        curves=int(packed.good.sum()),
        kind=noise.kind,
        likelihood=noise.likelihood,
        unit=list(noise.unit),
        rate_units=packed.units,
        digest=content_digest(packed, splits),
    )
    return Task(
        model,
        data,
        partial(loss, config=config, noise=noise),
        partial(scores.measure, kl_weight=config.kl_weight, noise=noise),
        {"loss": "min", "gain": "max", "deviance": "min"},
        scores.summarise,
        lambda columns: scores.report(
            columns, LightCurves(packed, columns["row"].numpy(), config.max_points), noise
        ),
        calibrate=lambda _: anomaly.calibration(model, data["train"], noise),
        illustrate=partial(illustrate, data=data["val"], every=config.plot_every, run_dir=run_dir),
        record=record,
    )


def standardise(model: RecurrentVAE, data: LightCurves) -> None:
    """Set the network's typical rate (of a signed one, the typical deviation) in each band and its cadence
    to medians over (at most 4,096) training curves. All floors are of the data's own, whatever their unit.
    """
    batch = data.__getitems__(range(min(len(data), 4096)))
    observed = batch["observed"]
    count = observed.sum(1)
    rate = batch["rate"]
    if model.signed:
        rate = torch.where(observed, (rate - model.offset(rate, observed)[:, None]).abs(), 0)
    mean = (rate + batch["error_up"] / count.clamp(min=1)[:, None]).sum(1) / count.clamp(min=1)
    gaps = batch["time"].diff(dim=1)[torch.arange(1, batch["time"].shape[1]) < batch["length"][:, None]]
    for band in range(model.bands):
        if (there := mean[:, band][count[:, band] > 0]).numel():
            typical = there.median()
            if not typical > 0:  # noise about zero: the size of its errors
                typical = batch["error_up"][..., band][observed[..., band]].median()
            model.typical_rate[band] = typical
    if (rising := gaps[gaps > 0]).numel():  # points too near for float32 have no gap
        model.cadence.fill_(rising.median().item())


def unit_of(typical: Tensor) -> tuple[float, ...]:
    """[C]: powers of two near typical rates [C] that are far from one, whose squares would be nothing;
    empty where all rates are ordinary.
    """
    exponents = [math.floor(math.log2(value)) for value in typical.tolist()]
    if all(abs(exponent) <= ORDINARY for exponent in exponents):
        return ()
    return tuple(2.0**exponent for exponent in exponents)


def loss(model: nn.Module, batch: Batch, step: int, config: Config, noise: scores.Noise) -> Loss:
    """The evidence bound of each curve, of which the encoder sees a part, and that noisier than it was."""
    shown = redrawn(batch, config.redraw) if config.redraw else batch
    share = 2 * config.hide * torch.rand(len(batch["time"]), 1, 1, device=batch["time"].device)
    seen = batch["observed"] & (torch.rand(*batch["time"].shape, 1, device=share.device) >= share)
    reconstruction = scores.describe(model, shown, seen)
    cost = vae.sum_observed(scores.misfit(reconstruction, batch, noise), batch["observed"])
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
            some,
            draws,
            data.names(some["index"].tolist()),
            data.bands,
            unit_of_rate=f" ({data.packed.unit})" if data.packed.unit else "",
        ),
        latent=curve_plots.latent_plane(
            columns["mean"], columns["deviance"].sum(1), columns["constant"].sum(1)
        ),
        curves=plots.figure_training(pd.read_csv(run_dir / "training_log.csv")),
    )
    for name, figure in figures.items():
        plots.save_figure(figure, run_dir / "figures", name)
        writer.add_figure(f"val/{name}", figure, epoch)
