"""How well a network describes light curves, beside descriptions that need no network."""

from functools import lru_cache

import torch
from torch import Tensor, nn

from contract import Batch, Columns
from data.light_curves.packed import LightCurves
from losses import vae
from models.recurrent_vae import Reconstruction
from physics import variability
from utils.messages import say

# variance over curves of a latent unit's mean above which it is in use (Burda et al. 2016, section 5.2)
ACTIVE = 0.01
ENOUGH = 20  # curves to say so of a posterior that has collapsed
# of a judged curve's points one in so many is kept from the encoder, to see how it is foretold
HIDDEN_EVERY = 5
# vectors of noise that curves take in turn, so that a curve's draw depends on nothing but its number
DRAWS = 1009


def describe(model: nn.Module, batch: Batch, seen: Tensor, noise: Tensor | None = None) -> Reconstruction:
    """What the network says of a batch of which it sees the points `seen` [B, T, C]."""
    return model(
        batch["rate"], batch["error_low"], batch["error_up"], seen, batch["time"], batch["length"], noise
    )


def misfit(reconstruction: Reconstruction, batch: Batch, likelihood: str) -> Tensor:
    """[B, T, C] nats; for squared_error, rates squared."""
    if likelihood == "poisson":
        source = reconstruction.rate * batch["exposure"]
        return vae.scattered_poisson_nll(
            batch["counts"], source + batch["background"], reconstruction.scatter * source
        )
    if likelihood == "squared_error":
        return vae.squared_error(reconstruction.rate, batch["rate"])
    stray = reconstruction.scatter * reconstruction.rate
    # the slope of hypot(0, 0) is NaN
    low, up = (
        torch.where(stray > 0, torch.hypot(error, stray.clamp(min=1e-30)), error)
        for error in (batch["error_low"], batch["error_up"])
    )
    return vae.split_normal_nll(
        reconstruction.rate, batch["rate"], low, up, upper_limit=batch["error_low"] >= batch["rate"]
    )


def least(batch: Batch, likelihood: str) -> Tensor:
    """[B, T, C]: the misfit of a description that repeats the data."""
    perfect = Reconstruction(batch["rate"], torch.zeros_like(batch["rate"]), None, None)
    return (
        vae.poisson_nll(batch["counts"], batch["counts"])
        if likelihood == "poisson"
        else misfit(perfect, batch, likelihood)
    )


def deviance(rate: Tensor, batch: Batch, counted: bool) -> Tensor:
    """[B, T, C]: twice the nats by which rates fall short of the data themselves;
    for data without counts, chi^2.
    """
    if counted:
        return vae.poisson_deviance(batch["counts"], rate * batch["exposure"] + batch["background"])
    error = torch.where(rate > batch["rate"], batch["error_up"], batch["error_low"])
    return ((rate - batch["rate"]) / torch.where(error > 0, error, batch["error_up"])).square()


def constant(batch: Batch, seen: Tensor, counted: bool) -> Tensor:
    """[B, 1, C]: the constant rate that describes the points `seen` best."""
    if counted:
        return variability.constant_rate(batch["counts"], batch["background"], batch["exposure"], seen)
    return variability.constant_rate_of_errors(batch["rate"], batch["error_low"], batch["error_up"], seen)


@lru_cache
def draws(latent: int, device: torch.device) -> Tensor:
    """[DRAWS, latent] normal, the same numbers on every device, put there once."""
    return torch.randn(DRAWS, latent, generator=torch.Generator().manual_seed(0)).to(device)


def measure(model: nn.Module, batch: Batch, kl_weight: float, likelihood: str, counted: bool) -> Columns:
    """Scores of each curve [B], sums over its points and bands; in each band [B, C];
    and the posterior's mean [B, L].
    """
    observed = batch["observed"]
    reconstruction = describe(model, batch, observed)
    noise = draws(reconstruction.mean.shape[1], observed.device)[batch["index"] % DRAWS]
    cost = vae.sum_observed(misfit(describe(model, batch, observed, noise), batch, likelihood), observed)
    divergence = vae.kl_gaussian(reconstruction.mean, reconstruction.logvar)
    turn = (
        torch.arange(observed.shape[1], device=observed.device) + batch["index"][:, None]
    ) % HIDDEN_EVERY == 0
    seen, hidden = observed & ~turn[..., None], observed & turn[..., None]

    def missed(rate: Tensor, where: Tensor) -> Tensor:
        return torch.where(where, deviance(rate, batch, counted), 0).sum(1)

    return dict(
        loss=cost + kl_weight * divergence,
        misfit=cost,
        kl=divergence,
        points=observed.sum((1, 2)),
        row=batch["row"],
        index=batch["index"],
        mean=reconstruction.mean,
        deviance=missed(reconstruction.rate, observed),
        constant=missed(constant(batch, observed, counted), observed),
        hidden=missed(describe(model, batch, seen).rate, hidden),
        hidden_constant=missed(constant(batch, seen, counted), hidden),
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


def report(columns: Columns, examples: LightCurves, likelihood: str) -> dict[str, float]:
    """Also the gain in each band and, of counts, that of the evidence bound over rates that scatter
    log-normally.

    columns: as `measure` gives them; examples: the same curves. The bound counts what the latent vector
    costs; the log-normal's evidence is at its best mean and scatter in each band, which are not charged.
    """
    figures = summarise(columns)
    for c, band in enumerate(examples.bands):
        figures[f"gain::{band}"] = gain(columns["deviance"][:, c], columns["constant"][:, c])
    if likelihood == "poisson":
        short = []  # nats by which the log-normal falls short of the data themselves
        for start in range(0, len(examples), 512):
            batch = examples.__getitems__(range(start, min(start + 512, len(examples))))
            best = vae.sum_observed(least(batch, likelihood), batch["observed"])
            evidence, _, _ = variability.log_normal_evidence(
                batch["counts"], batch["background"], batch["exposure"], batch["observed"]
            )
            short.append(torch.stack([best, -evidence.sum(1) - best]))
        best, log_normal = torch.cat(short, 1)
        figures["gain_log_normal"] = gain(columns["misfit"] + columns["kl"] - best, log_normal)
    if not figures["active_units"] and len(examples) >= ENOUGH:
        say(
            "no latent unit is in use, the posterior has collapsed: try a smaller --kl_weight, a longer "
            "--kl_warm_up, or --free_nats"
        )
    return figures
