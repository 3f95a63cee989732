"""A recurrent variational autoencoder of light curves in several energy bands,
unevenly sampled and of any length.

The encoder, a GRU over the points, gives a Gaussian of the latent vector; the decoder, a GRU that is told the
latent vector and the sampling at every step, gives the rate in each band at each point. Standardisation is
inside: rates go in and come out in the units of the files, whatever these are.
B curve, T point (padded), C energy band, L latent unit.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.layers.gru import PaddedGRU

PROJECTED = 16  # features of the encoder whose course over a curve is summed up, harmonic by harmonic
# degrees of freedom of the tails: at first, and the bounds between which they are learnt
FREEDOM, FEWEST, MOST = 8.0, 1.0, 1e3
STEEPEST = 12.0  # largest |ln| of a decoded rate over its scale, so that none overflows


class Reconstruction(NamedTuple):
    """What holds beyond a curve's length means nothing."""

    rate: Tensor  # [B, T, C], in the units of the input; > 0 but of a signed network
    # [B, T, C] >= 0: standard deviation of the true rate about `rate`, in units of `spread` or, without it,
    # of `rate`
    scatter: Tensor
    mean: Tensor  # [B, L] of the posterior
    logvar: Tensor  # [B, L] log of its variance
    spread: Tensor | None = None  # [B, 1, C] of a signed network: what the curve's rates deviate by
    freedom: Tensor | None = None  # [C] degrees of freedom of the errors' tails, where they are learnt

    @property
    def stray(self) -> Tensor:
        """[B, T, C]: the scatter in the units of the input."""
        return self.scatter * (self.rate if self.spread is None else self.spread)


class RecurrentVAE(nn.Module):
    """Curves -> `Reconstruction`: in training or with `noise` of a drawn latent vector,
    else of the posterior's mean.

    bands, hidden, latent, layers, dropout     the defaults are the request's, with 9 inputs a point:
                     rate, lower and upper error in three bands
    bidirectional    the encoder also reads the curve backwards
    time_inputs      the encoder is also told gaps, places and which bands were observed
    curve_scale      rates are in units of the curve's own mean in each band, which is a further input,
                     instead of the whole sample's: the latent vector need not spend itself on brightness
    harmonics        above 1, the encoder's states are also pooled (mean, largest, and weighted by so many
                     cosines over the curve), and the latent vector is told as the coefficients of those
                     cosines: both ends need not carry a whole curve through one state
    scatter          the decoder also says how far the rate strays from what it can say, so that a flickering
                     source is described as such and not as steady
    signed           rates may be below zero (differences of images): they are described about the curve's own
                     mean in units of how much it deviates, and as a sinh and not an exponential of the output
    tails            the degrees of freedom of the errors' tails are learnt, in each band
    """

    def __init__(
        self,
        bands: int = 3,
        hidden: int = 64,
        latent: int = 40,
        layers: int = 2,
        dropout: float = 0.2,
        bidirectional: bool = False,
        time_inputs: bool = False,
        curve_scale: bool = False,
        harmonics: int = 1,
        scatter: bool = False,
        signed: bool = False,
        tails: bool = False,
    ):
        super().__init__()
        self.bands, self.hidden, self.harmonics = bands, hidden, harmonics
        self.feature_dim = latent
        self.time_inputs, self.curve_scale, self.scatter = time_inputs, curve_scale, scatter
        self.signed = signed
        told = (bands if curve_scale else 0) + (bands if signed else 0)
        inputs = 3 * bands + (2 + bands if time_inputs else 0) + told
        # it is between the layers; torch warns where there is nothing between
        dropout = dropout if layers > 1 else 0.0
        self.encoder = PaddedGRU(inputs, hidden, layers, dropout, bidirectional)
        summary = states = hidden * (2 if bidirectional else 1)
        if harmonics > 1:
            self.project = nn.Linear(states, PROJECTED)
            summary = 3 * states + harmonics * PROJECTED
        self.posterior = nn.Linear(summary, 2 * latent)
        self.spread = nn.Linear(latent, harmonics * hidden)
        self.decoder = PaddedGRU(hidden + 2 + harmonics, hidden, layers, dropout)
        self.out = nn.Linear(2 * hidden, bands * (2 if scatter else 1))
        with torch.no_grad():  # at first: the scale itself, and little scatter
            self.out.weight.mul_(0.1)
            self.out.bias.copy_(torch.tensor([0.0] * bands + [-3.0] * (len(self.out.bias) - bands)))
        if tails:
            self.log_freedom = nn.Parameter(torch.full((bands,), math.log(FREEDOM)))
        self.register_buffer("typical_rate", torch.ones(bands))  # of the training curves, in each band
        self.register_buffer("cadence", torch.ones(()))  # typical time from point to point, s

    def forward(
        self,
        rate: Tensor,
        error_low: Tensor,
        error_up: Tensor,
        observed: Tensor,
        time: Tensor,
        length: Tensor,
        noise: Tensor | None = None,
    ) -> Reconstruction:
        """rate, error_low, error_up [B, T, C] per second; observed [B, T, C] bool, what the encoder may see;
        time [B, T] s since the first point; length [B] int64, points before the padding. `noise` [B, L] or
        [1, L], standard normal, says which latent vector to draw.
        """
        offset = self.offset(rate, observed)
        scale = self.scale(rate - offset[:, None] if self.signed else rate, error_up, observed)
        sampling, waves = self.sampling(time, length)
        mean, logvar = self.encode(
            rate, error_low, error_up, observed, length, offset, scale, sampling, waves
        )
        if noise is None and self.training:
            noise = torch.randn_like(mean)
        latent = mean if noise is None else mean + noise * (logvar / 2).exp()
        decoded = self.decode(latent, length, scale, sampling, waves, offset)
        return Reconstruction(*decoded, mean, logvar, scale[:, None] if self.signed else None, self.freedom)

    @property
    def freedom(self) -> Tensor | None:
        """[C]: degrees of freedom of the errors' tails."""
        if not hasattr(self, "log_freedom"):
            return None
        return self.log_freedom.exp().clamp(FEWEST, MOST)

    def offset(self, rate: Tensor, observed: Tensor) -> Tensor:
        """[B, C]: what a signed network describes a curve about, its mean; else zero."""
        if not (self.signed and self.curve_scale):
            return torch.zeros_like(rate[:, 0])
        return torch.where(observed, rate, 0).sum(1) / observed.sum(1).clamp(min=1)

    def scale(self, rate: Tensor, error_up: Tensor, observed: Tensor) -> Tensor:
        """[B, C]: the rate that counts as one; above zero also for a curve of upper limits.

        Of a signed network, whose `rate` is that less its mean, the mean deviation.
        """
        if not self.curve_scale:
            return self.typical_rate.expand(len(rate), -1)
        count = observed.sum(1).clamp(min=1)
        rate = rate.abs() if self.signed else rate
        total = torch.where(observed, rate, 0).sum(1) + torch.where(observed, error_up, 0).sum(1) / count
        return torch.where(observed.any(1), total / count, self.typical_rate).clamp(
            min=1e-6 * self.typical_rate
        )

    def sampling(self, time: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        """[B, T, 2] ln(1 + gap since the last point / cadence) and place, 0 to 1;
        [B, T, harmonics] cosines of the place, the first 1.
        """
        # padding has no time
        time = torch.where(torch.arange(time.shape[1], device=time.device) < length[:, None], time, 0)
        gap = time.diff(dim=1, prepend=time[:, :1]).clamp(min=0)
        end = time.gather(1, (length - 1)[:, None]).clamp(min=1e-3 * self.cadence)
        place = time / end
        waves = (math.pi * place[..., None] * torch.arange(self.harmonics, device=time.device)).cos()
        return torch.stack([(gap / self.cadence).log1p(), place], -1), waves

    def encode(
        self, rate, error_low, error_up, observed, length, offset, scale, sampling, waves
    ) -> tuple[Tensor, Tensor]:
        unit = scale[:, None]
        seen = [
            torch.asinh((rate - offset[:, None]) / unit if self.signed else rate / unit),
            torch.asinh(error_low / unit),
            (error_up / unit).clamp(min=1e-6).log() / 2,
        ]
        inputs = [torch.where(observed, values, 0) for values in seen]
        if self.time_inputs:
            inputs += [sampling, observed.to(rate.dtype)]
        if self.curve_scale:
            inputs.append((scale / self.typical_rate).log()[:, None].expand_as(rate))
        if self.signed:
            inputs.append(torch.asinh(offset / self.typical_rate)[:, None].expand_as(rate))
        states, summary = self.encoder(torch.cat(inputs, -1), length)
        if self.harmonics > 1:
            there = (torch.arange(states.shape[1], device=length.device) < length[:, None])[..., None]
            count = length[:, None].to(states.dtype)
            waved = torch.einsum("btk,btp->bkp", torch.where(there, waves, 0), self.project(states)).flatten(
                1
            )
            summary = torch.cat(
                [summary, states.sum(1) / count, torch.where(there, states, -1).amax(1), waved / count], -1
            )
        mean, logvar = self.posterior(summary).chunk(2, -1)
        return mean, logvar.clamp(-14, 6)

    def decode(
        self,
        latent: Tensor,
        length: Tensor,
        scale: Tensor,
        sampling: Tensor,
        waves: Tensor,
        offset: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """[B, T, C] rates and their scatter, of latent [B, L]: each curve is told its own, at every step."""
        coefficients = self.spread(latent).view(len(latent), self.harmonics, self.hidden)
        told = waves @ coefficients
        states, _ = self.decoder(torch.cat([told, sampling, waves], -1), length)
        outputs = self.out(torch.cat([states, told], -1)).clamp(-STEEPEST, STEEPEST)
        if self.signed and offset is not None:
            rate = offset[:, None] + outputs[..., : self.bands].sinh() * scale[:, None]
        else:
            rate = outputs[..., : self.bands].exp() * scale[:, None]
        return rate, outputs[..., self.bands :].exp() if self.scatter else torch.zeros_like(rate)
