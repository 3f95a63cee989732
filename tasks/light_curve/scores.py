"""How well a network describes light curves, beside descriptions that need no network."""

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor, nn

from contract import Batch, Columns
from data.light_curves.packed import LightCurves
from losses import vae
from models.recurrent_vae import Reconstruction
from physics import variability
from physics.count_rates import equivalent_counts, is_upper_limit
from utils.messages import say

# variance over curves of a latent unit's mean above which it is in use (Burda et al. 2016, section 5.2)
ACTIVE = 0.01
ENOUGH = 20  # curves to say so of a posterior that has collapsed
# of a judged curve's points one in so many is kept from the encoder, to see how it is foretold
HIDDEN_EVERY = 5
VARYING = 0.6  # median deviance of a point about a constant, of curves that vary no more than errors: 0.45
# of a median deviance, how far out a point is that counts as in the tail; the share of these that is a lot
TAIL, TAILS = 100.0, 0.02
# vectors of noise that curves take in turn, so that a curve's draw depends on nothing but its number
DRAWS = 1009


class Noise(NamedTuple):
    """How the data of a survey are noisy, and by which misfit a network learns from them."""

    # counts: Poisson's; rates: of the counts that they are equivalent to; signed: normal, as rates below zero
    # are; normal: normal, by an earlier version of this code
    kind: str
    likelihood: str
    unit: tuple[float, ...] = ()  # [C] powers of two in which a squared error is counted; none: 1

    @property
    def counted(self) -> bool:
        return self.kind == "counts"


def describe(model: nn.Module, batch: Batch, seen: Tensor, noise: Tensor | None = None) -> Reconstruction:
    """What the network says of a batch of which it sees the points `seen` [B, T, C]."""
    return model(
        batch["rate"], batch["error_low"], batch["error_up"], seen, batch["time"], batch["length"], noise
    )


def counts_of(batch: Batch, kind: str) -> tuple[Tensor, Tensor, Tensor]:
    """(counts, background, exposure) [B, T, C]: as measured, or those that the rates are equivalent to."""
    if kind == "counts":
        return batch["counts"], batch["background"], batch["exposure"]
    counts, exposure = equivalent_counts(batch["rate"], batch["error_low"], batch["error_up"])
    return counts, torch.zeros_like(counts), exposure


def misfit(reconstruction: Reconstruction, batch: Batch, noise: Noise) -> Tensor:
    """[B, T, C] nats, the same in any unit of rate; for squared_error, rates squared."""
    if noise.likelihood in ("poisson", "scaled_poisson"):
        kind = "counts" if noise.likelihood == "poisson" else "rates"
        counts, background, exposure = counts_of(batch, kind)
        source = reconstruction.rate * exposure
        return vae.scattered_poisson_nll(counts, source + background, reconstruction.scatter * source)
    rate, datum = reconstruction.rate, batch["rate"]
    if noise.likelihood == "squared_error":
        if noise.unit:
            unit = torch.tensor(noise.unit, device=rate.device)
            rate, datum = rate / unit, datum / unit
        return vae.squared_error(rate, datum)
    stray = reconstruction.stray
    # the slope of hypot(0, 0) is NaN
    low, up = (
        torch.where(stray > 0, torch.hypot(error, torch.where(stray > 0, stray, error)), error)
        for error in (batch["error_low"], batch["error_up"])
    )
    limit = is_upper_limit(datum, batch["error_low"])
    # of the density in units of the datum's own errors, nearly: a power of two moves no bit; a limit has a
    # probability and no density
    errors = torch.where(batch["observed"], batch["error_low"] + batch["error_up"], 1)
    unit = torch.ldexp(torch.ones_like(errors), torch.frexp(errors).exponent)
    scaled = [values / unit for values in (rate, datum, low, up)]
    if noise.likelihood == "student_t":
        nats = vae.student_t_nll(*scaled, limit, reconstruction.freedom)
    else:
        nats = vae.split_normal_nll(*scaled, limit)
    return nats - torch.where(limit, 1, errors / unit).log()


def least(batch: Batch, noise: Noise, freedom: Tensor | None = None) -> Tensor:
    """[B, T, C]: the misfit of a description that repeats the data."""
    if noise.likelihood in ("poisson", "scaled_poisson"):
        counts, _, _ = counts_of(batch, "counts" if noise.likelihood == "poisson" else "rates")
        return vae.poisson_nll(counts, counts)
    none = torch.zeros_like(batch["rate"])
    return misfit(Reconstruction(batch["rate"], none, none, none, freedom=freedom), batch, noise)


def deviance(rate: Tensor, batch: Batch, kind: str) -> Tensor:
    """[B, T, C]: twice the nats by which rates fall short of the data themselves;
    for data that may be below zero, chi^2.
    """
    if kind in ("counts", "rates"):
        counts, background, exposure = counts_of(batch, kind)
        return vae.poisson_deviance(counts, rate * exposure + background)
    error = torch.where(rate > batch["rate"], batch["error_up"], batch["error_low"])
    return ((rate - batch["rate"]) / torch.where(error > 0, error, batch["error_up"])).square()


def constant(batch: Batch, seen: Tensor, kind: str) -> Tensor:
    """[B, 1, C]: the constant rate that describes the points `seen` best."""
    if kind in ("counts", "rates"):
        return variability.constant_rate(*counts_of(batch, kind), seen)
    return variability.constant_rate_of_errors(batch["rate"], batch["error_low"], batch["error_up"], seen)


@lru_cache
def draws(latent: int, device: torch.device) -> Tensor:
    """[DRAWS, latent] normal, the same numbers on every device, put there once."""
    return torch.randn(DRAWS, latent, generator=torch.Generator().manual_seed(0)).to(device)


def measure(model: nn.Module, batch: Batch, kl_weight: float, noise: Noise) -> Columns:
    """Scores of each curve [B], sums over its points and bands; in each band [B, C];
    and the posterior's mean [B, L].
    """
    observed = batch["observed"]
    reconstruction = describe(model, batch, observed)
    drawn = draws(reconstruction.mean.shape[1], observed.device)[batch["index"] % DRAWS]
    cost = vae.sum_observed(misfit(describe(model, batch, observed, drawn), batch, noise), observed)
    divergence = vae.kl_gaussian(reconstruction.mean, reconstruction.logvar)
    turn = (
        torch.arange(observed.shape[1], device=observed.device) + batch["index"][:, None]
    ) % HIDDEN_EVERY == 0
    seen, hidden = observed & ~turn[..., None], observed & turn[..., None]

    def missed(rate: Tensor, where: Tensor) -> Tensor:
        return torch.where(where, deviance(rate, batch, noise.kind), 0).sum(1)

    return dict(
        loss=cost + kl_weight * divergence,
        misfit=cost,
        kl=divergence,
        points=observed.sum((1, 2)),
        row=batch["row"],
        index=batch["index"],
        mean=reconstruction.mean,
        deviance=missed(reconstruction.rate, observed),
        constant=missed(constant(batch, observed, noise.kind), observed),
        hidden=missed(describe(model, batch, seen).rate, hidden),
        hidden_constant=missed(constant(batch, seen, noise.kind), hidden),
    )


def gain(of: Tensor, over: Tensor) -> float:
    """The share of a baseline's deviance that is gone, of sums over all curves."""
    return 1 - of.double().sum().item() / max(over.double().sum().item(), 1e-300)


def summarise(columns: Columns) -> dict[str, float]:
    """Means over curves, deviance over points; gains over a constant rate, at all points and at hidden ones;
    latents in use.

    Of those, units are counted as Burda et al. do, and axes, which a turn of the latent space does not
    change.
    """
    mean = columns["mean"].double()
    axes = (
        torch.linalg.eigvalsh(torch.cov(mean.T).reshape(mean.shape[1], -1))
        if len(mean) > 1
        else torch.zeros(1)
    )
    return dict(
        loss=columns["loss"].double().mean().item(),
        kl=columns["kl"].double().mean().item(),
        deviance=columns["deviance"].double().sum().item() / columns["points"].sum().item(),
        gain=gain(columns["deviance"], columns["constant"]),
        gain_hidden=gain(columns["hidden"], columns["hidden_constant"]),
        active_units=float((mean.var(0) > ACTIVE).sum()) if len(mean) > 1 else 0.0,
        active_axes=float((axes > ACTIVE).sum()),
    )


def report(columns: Columns, examples: LightCurves, noise: Noise) -> dict[str, float]:
    """Also the gain in each band and, of counts, that of the evidence bound over rates that scatter
    log-normally.

    columns: as `measure` gives them; examples: the same curves. The bound counts what the latent vector
    costs; the log-normal's evidence is at its best mean and scatter in each band, which are not charged.
    """
    figures = summarise(columns)
    for c, band in enumerate(examples.bands):
        figures[f"gain::{band}"] = gain(columns["deviance"][:, c], columns["constant"][:, c])
    if noise.likelihood == "poisson":
        short = []  # nats by which the log-normal falls short of the data themselves
        for start in range(0, len(examples), 512):
            batch = examples.__getitems__(range(start, min(start + 512, len(examples))))
            best = vae.sum_observed(least(batch, noise), batch["observed"])
            evidence, _, _ = variability.log_normal_evidence(
                batch["counts"], batch["background"], batch["exposure"], batch["observed"]
            )
            short.append(torch.stack([best, -evidence.sum(1) - best]))
        best, log_normal = torch.cat(short, 1)
        figures["gain_log_normal"] = gain(columns["misfit"] + columns["kl"] - best, log_normal)
    if figures["gain"] < 0 and len(examples):
        say(
            f"gain {figures['gain']:.3g}, below zero: a constant describes these {len(examples):,} curves "
            f"better than the network; likely cause: {cause_of_no_gain(examples, noise)}"
        )
    if not figures["active_units"] and len(examples) >= ENOUGH:
        say(
            "no latent unit is in use, the posterior has collapsed: try a smaller --kl_weight, a longer "
            "--kl_warm_up, or --free_nats"
        )
    return figures


def cause_of_no_gain(examples: LightCurves, noise: Noise) -> str:
    """What about the first curves may make a constant the better description, and what to try."""
    batch = examples.__getitems__(range(min(len(examples), 512)))
    observed = batch["observed"]
    off = deviance(constant(batch, observed, noise.kind), batch, noise.kind)[observed]
    typical = off.median().item()
    tails = (off > TAIL * max(typical, 1.0)).double().mean().item()
    causes = []
    if typical < VARYING:
        causes.append(
            f"hardly any curve varies beyond its errors (half of the points are within {typical:.2g} of a "
            "constant's deviance), so that there is nothing to gain"
        )
    if tails > TAILS:
        causes.append(
            f"heavy tails ({100 * tails:.2g} % of the points deviate {TAIL}-fold; a few decide the sum): "
            "errors too small for them, or outliers; try --likelihood student_t"
        )
    if not noise.counted:
        symmetric = bool((batch["error_low"] == batch["error_up"])[observed].all())
        errors = "with symmetric errors" if symmetric else "with two errors"
        causes.append(
            f"the data are rates {errors} and no counts, and are trained by {noise.likelihood}: give counts "
            "and exposures where there are any"
        )
    causes.append("too short a training, or too few curves")
    return "; or ".join(causes)
