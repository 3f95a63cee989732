"""How strange a curve is for its brightness: scores beside those of training curves, and of steady sources,
that are as bright and were observed as long.

A bright curve has more to be described, so that nats and deviances grow with its counts, whatever it does.
Scores are therefore counted from the median of curves that are as bright, in units of their spread.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from contract import Batch, Columns, concatenated
from data.light_curves.packed import LightCurves
from losses import vae
from physics import count_rates
from physics.cash_statistic import cash_moments
from tasks.light_curve import scores
from tasks.light_curve.scores import Noise

# scores of each curve as `embed` gives them, beside those that are counted from others'
SCORES = ("shortfall", "deviance", "excess", "constant_deviance", "constant_excess")
COMPARED = 2048  # training curves at most that scores are counted from, and as many steady ones
AT_ONCE = 128
OF_A_NODE = 40  # curves of like brightness whose median is one node
NODES = 12  # at most
MAD = 1.4826  # of the median absolute deviation: the standard deviation of a normal


def embed(network: nn.Module, batch: Batch, noise: Noise) -> Columns:
    """What is known of each curve: the posterior, the scores of its description, its rates."""
    observed = batch["observed"]
    reconstruction = scores.describe(network, batch, observed)
    misfit = scores.misfit(reconstruction, batch, noise)
    cost = vae.sum_observed(misfit - scores.least(batch, noise, reconstruction.freedom), observed)
    steady = scores.constant(batch, observed, noise.kind)
    values = observed.sum((1, 2)).clamp(min=1)
    mean_rate = torch.where(observed, batch["rate"], 0).sum(1) / observed.sum(1).clamp(min=1)
    deviance, expected, spread = deviance_and_expectation(reconstruction.rate, batch, noise.kind)
    of_steady, expected_of_steady, spread_of_steady = deviance_and_expectation(steady, batch, noise.kind)
    fitted = observed.any(1).sum(1)  # a constant in each band
    return dict(
        mean=reconstruction.mean,
        std=(reconstruction.logvar / 2).exp(),
        points=batch["length"],
        rate=steady[:, 0] if noise.counted else mean_rate,
        signal=signal_of(batch, noise),
        shortfall=(cost + vae.kl_gaussian(reconstruction.mean, reconstruction.logvar)) / values,
        deviance=deviance,
        excess=(deviance - expected) / spread,
        unexplained=(deviance - expected) / spread / values.sqrt(),
        constant_deviance=of_steady,
        constant_excess=(of_steady - expected_of_steady + fitted) / spread_of_steady,
    )


def signal_of(batch: Batch, noise: Noise) -> Tensor:
    """[B]: counts above the background, or those that rates are equivalent to: how much a curve can tell."""
    if noise.kind in ("counts", "rates"):
        counts, background, _ = scores.counts_of(batch, noise.kind)
        return vae.sum_observed(counts - background, batch["observed"]).clamp(min=0)
    error = (batch["error_low"] + batch["error_up"]) / 2
    ratio = batch["rate"] / torch.where(error > 0, error, 1)
    return vae.sum_observed(ratio.square(), batch["observed"])


def deviance_and_expectation(rate: Tensor, batch: Batch, kind: str) -> tuple[Tensor, Tensor, Tensor]:
    """[B] each: a description's deviance, what it would be if `rate` [B, T or 1, C] were true, and by how
    much that varies.
    """
    observed = batch["observed"]
    deviance = vae.sum_observed(scores.deviance(rate, batch, kind), observed)
    if kind not in ("counts", "rates"):
        number = observed.sum((1, 2)).to(deviance.dtype)
        return deviance, number, (2 * number).sqrt().clamp(min=1)
    _, background, exposure = scores.counts_of(batch, kind)
    mean, variance = cash_moments(torch.where(observed, rate * exposure + background, 0))
    total = vae.sum_observed(variance, observed)
    spread = torch.where(total > 0, total, 1).sqrt()
    return deviance, vae.sum_observed(mean, observed).float(), spread.float()


def steady_curves(batch: Batch, noise: Noise, generator: torch.Generator) -> Batch:
    """The batch (on the CPU) as it might have been, had each source kept its mean rate in every band."""
    observed = batch["observed"]
    level = scores.constant(batch, observed, noise.kind)
    if noise.kind not in ("counts", "rates"):
        stray = torch.randn(batch["rate"].shape, generator=generator)
        error = torch.where(stray > 0, batch["error_up"], batch["error_low"])
        return batch | dict(rate=torch.where(observed, level + stray * error, 0))
    _, background, exposure = scores.counts_of(batch, noise.kind)
    expected = torch.where(observed, level * exposure + background, 0)
    counts = torch.poisson(expected, generator=generator)
    rate, low, up = count_rates.thinned(counts, background, exposure, torch.ones(()))
    if bool((batch["error_low"] == batch["error_up"]).all()):
        low = up = (low + up) / 2
    drawn = dict(rate=rate, error_low=low, error_up=up)
    drawn = {name: torch.where(observed, values, 0) for name, values in drawn.items()}
    return batch | drawn | (dict(counts=counts) if noise.counted else {})


@torch.no_grad()
def calibration(network: nn.Module, data: LightCurves, noise: Noise) -> dict[str, dict[str, list[float]]]:
    """What scores are counted from: their course with the signal over (at most 2,048) curves, and over as
    many simulated steady ones. Plain numbers.
    """
    device = next(network.parameters()).device
    generator = torch.Generator().manual_seed(0)
    training = network.training
    network.eval()
    real, steady = [], []
    chosen = np.unique(np.linspace(0, len(data) - 1, min(len(data), COMPARED)).astype(np.int64))
    for start in range(0, len(chosen), AT_ONCE):
        batch = data.__getitems__(chosen[start : start + AT_ONCE])
        for columns, curves in ((real, batch), (steady, steady_curves(batch, noise, generator))):
            moved = {name: values.to(device) for name, values in curves.items()}
            found = embed(network, moved, noise)
            columns.append({name: found[name].cpu() for name in ("signal", "unexplained")})
    network.train(training)
    return {
        name: course_with_signal(*(columns[key].numpy() for key in ("signal", "unexplained")))
        for name, columns in (("training", concatenated(real)), ("steady", concatenated(steady)))
    }


def course_with_signal(signal: np.ndarray, score: np.ndarray) -> dict[str, list[float]]:
    """Median and spread [nodes] of scores [N] where curves are as bright; `signal`, ln(1 + signal), rises."""
    place = np.log1p(signal.astype(np.float64))
    turn = np.argsort(place, kind="stable")
    groups = np.array_split(turn, min(max(1, len(turn) // OF_A_NODE), NODES))
    medians = [float(np.median(score[group])) for group in groups]
    spreads = [
        MAD * float(np.median(np.abs(score[group] - median))) for group, median in zip(groups, medians)
    ]
    least = max(1e-3 * max(spreads), 1e-9)
    return dict(
        signal=[float(np.median(place[group])) for group in groups],
        median=medians,
        spread=[max(spread, least) for spread in spreads],
    )


def counted_from(course: Mapping[str, Sequence[float]], signal: np.ndarray, score: np.ndarray) -> np.ndarray:
    """[N] float32: scores less the median of curves that are as bright, in units of their spread."""
    place = np.log1p(signal.astype(np.float64))
    # between nodes both grow like powers of the signal
    median = np.sinh(np.interp(place, course["signal"], np.arcsinh(course["median"])))
    spread = np.exp(np.interp(place, course["signal"], np.log(course["spread"])))
    return ((score - median) / spread).astype(np.float32)
