"""Distances in a flat universe of matter and a cosmological constant."""

import math

import torch
from torch import Tensor

SPEED_OF_LIGHT = 299792.458  # km/s
HUBBLE = 70.0  # km/s/Mpc, the round value that lens simulations share
MATTER = 0.3  # density of matter in critical units
ARCSEC = math.pi / 180 / 3600  # radians

# Gauss-Legendre nodes on [-1, 1]: 16 give a comoving distance to 1e-9 for redshifts below 10.
_NODES = 16


def gauss_legendre(count: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights on [-1, 1] by the eigenvalues of the Jacobi matrix (Golub & Welsch 1969)."""
    k = torch.arange(1, count, dtype=torch.float64)
    off = k / torch.sqrt(4 * k * k - 1)
    nodes, vectors = torch.linalg.eigh(torch.diag(off, 1) + torch.diag(off, -1))
    return nodes, 2 * vectors[0] ** 2


_X, _W = gauss_legendre(_NODES)


def distance_comoving(redshift: Tensor, hubble: float = HUBBLE, matter: float = MATTER) -> Tensor:
    """Comoving distance in Mpc to `redshift` (any shape). Source: Hogg 1999, astro-ph/9905116, eq. 15."""
    nodes, weights = _X.to(redshift), _W.to(redshift)
    # The integrand is smoother in log(1 + z).
    top = torch.log1p(redshift)
    grow = torch.exp(0.5 * top[..., None] * (nodes + 1))
    inverse_e = grow / torch.sqrt(matter * grow**3 + 1 - matter)
    return SPEED_OF_LIGHT / hubble * 0.5 * top * (weights * inverse_e).sum(-1)


def distance_ratio(redshift_lens: Tensor, redshift_source: Tensor) -> Tensor:
    """D_ls / D_s, angular-diameter distances lens-source over observer-source,
    in a flat universe (no unit).
    """
    return 1 - distance_comoving(redshift_lens) / distance_comoving(redshift_source)


def velocity_dispersion_isothermal(
    einstein_radius: Tensor, redshift_lens: Tensor, redshift_source: Tensor
) -> Tensor:
    """Velocity dispersion (km/s) of the isothermal lens of an Einstein radius in arcsec.

    Source: Schneider, Kochanek & Wambsganss 2006: theta_E = 4 pi (sigma / c)^2 D_ls / D_s.
    """
    ratio = distance_ratio(redshift_lens, redshift_source)
    return SPEED_OF_LIGHT * torch.sqrt(einstein_radius * ARCSEC / (4 * math.pi * ratio))
