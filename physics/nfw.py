"""Spherical NFW halos. Conventions (arcsec, broadcasting): see physics/lensing.py.

`scale_radius` in arcsec; `convergence_scale` is kappa_s = rho_s r_s / Sigma_crit (no unit), lenstronomy's
rho0 Rs; from its alpha_Rs by `convergence_scale_nfw`. The core softens the radius;
the deflection stays the gradient of the potential.
"""

import math

import torch
from torch import Tensor

from physics.lensing import CORE

# Below this radius (in scale radii) the logarithm is taken out of the formulas,
# above it they are smooth through 1.
INNER = 0.5
# of the series of (atanh(sqrt v) / sqrt v - 1) / v for |v| < 0.04, exact to rounding in float64, float32
TERMS, TERMS_SINGLE = 11, 5


def convergence_scale_nfw(
    deflection_at_scale_radius: Tensor | float, scale_radius: Tensor | float
) -> Tensor | float:
    """kappa_s (no unit) from the deflection at the scale radius (arcsec, lenstronomy's alpha_Rs)
    and that radius (arcsec).
    """
    return deflection_at_scale_radius / (4 * scale_radius * (1 - math.log(2)))


def deflection_nfw(
    x: Tensor,
    y: Tensor,
    x0: Tensor | float,
    y0: Tensor | float,
    scale_radius: Tensor | float,
    convergence_scale: Tensor | float,
    core: float = CORE,
) -> tuple[Tensor, Tensor]:
    """Deflection (alpha_x, alpha_y), arcsec, of a spherical NFW halo.

    x, y, x0, y0, scale_radius, core in arcsec; convergence_scale without unit.
    Raises ValueError for a core that is not positive.
    Source: Bartelmann 1996, A&A 313, 697; Wright & Brainerd 2000, ApJ 534, 34, eqs. 11 and 13.
    """
    dx, dy, ratio = _offset(x, y, x0, y0, scale_radius, core)
    inner, outer = ratio.clamp(max=INNER), ratio.clamp(min=INNER)
    log, root, rest = _inner(inner)
    inside = (rest / (inner * inner) - log / (1 + root)) / root
    outside = (torch.log(outer / 2) + _arc(outer)[0]) / (outer * outer)
    amplitude = 4 * convergence_scale * torch.where(ratio < INNER, inside, outside)
    return amplitude * dx, amplitude * dy


def convergence_nfw(
    x: Tensor,
    y: Tensor,
    x0: Tensor | float,
    y0: Tensor | float,
    scale_radius: Tensor | float,
    convergence_scale: Tensor | float,
    core: float = CORE,
) -> Tensor:
    """Convergence (no unit) of `deflection_nfw`'s halo. Source: Wright & Brainerd 2000, eq. 11."""
    _, _, ratio = _offset(x, y, x0, y0, scale_radius, core)
    inner, outer = ratio.clamp(max=INNER), ratio.clamp(min=INNER)
    log, root, rest = _inner(inner)
    inside = ((rest - log) / root - 1) / (1 - inner * inner)
    arc, excess = _arc(outer)
    # (1 - A) / (x^2 - 1) in v: its zero at x = 1 is divided out.
    outside = (arc * (1 + outer) / 2 + excess) / (1 + outer) ** 2
    return 2 * convergence_scale * torch.where(ratio < INNER, inside, outside)


def potential_nfw(
    x: Tensor,
    y: Tensor,
    x0: Tensor | float,
    y0: Tensor | float,
    scale_radius: Tensor | float,
    convergence_scale: Tensor | float,
    core: float = CORE,
) -> Tensor:
    """Lensing potential (arcsec squared), zero at the centre, whose gradient is `deflection_nfw`.

    Source: Meneghetti, Bartelmann & Moscardini 2003, MNRAS 340, 105, eq. 7.
    """
    _, _, ratio = _offset(x, y, x0, y0, scale_radius, core)
    inner, outer = ratio.clamp(max=INNER), ratio.clamp(min=INNER)
    log, _, rest = _inner(inner)
    inside = (2 * log - rest) * rest
    outside = torch.log(outer / 2) ** 2 - (1 - outer * outer) * _arc(outer)[0] ** 2
    return 2 * convergence_scale * scale_radius**2 * torch.where(ratio < INNER, inside, outside)


def _offset(x, y, x0, y0, scale_radius, core):
    """Distances from the centre along x and y, and the softened radius in scale radii."""
    if core <= 0:
        raise ValueError(
            f"core is {core}: the gradients of an NFW halo have no value at its centre; give a core > 0 "
            f"(arcsec), for example {CORE}"
        )
    dx, dy = x - x0, y - y0
    return dx, dy, torch.sqrt(dx * dx + dy * dy + core * core) / scale_radius


def _inner(ratio: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For a ratio x <= 1/2: l = log(x / 2), sqrt(1 - x^2), and rest = arcosh(1 / x) + l,
    small and free of cancellation.
    """
    root = torch.sqrt(1 - ratio * ratio)
    return torch.log(ratio / 2), root, torch.log1p(-ratio * ratio / (2 * (1 + root)))


def _arc(ratio: Tensor) -> tuple[Tensor, Tensor]:
    """A = arcosh(1 / x) / sqrt(1 - x^2) = arccos(1 / x) / sqrt(x^2 - 1), smooth through x = 1, for x >= 1/2,
    and M below.

    With v = (1 - x) / (1 + x), A = (1 + v) L(v), L = atanh(sqrt v) / sqrt v = 1 + v M(v), analytic around 0.
    Halving the argument of atanh twice brings v within 0.04.
    """
    v = (1 - ratio) / (1 + ratio)
    half = 2 / (1 + torch.sqrt(1 - v))
    first = v * half * half / 4
    quarter = 2 / (1 + torch.sqrt(1 - first))
    second = first * quarter * quarter / 4
    terms = TERMS if v.dtype == torch.float64 else TERMS_SINGLE
    excess = second / (2 * terms + 1) + 1 / (2 * terms - 1)
    for k in range(terms - 3, -1, -1):
        excess = excess * second + 1 / (2 * k + 3)
    excess = quarter * quarter / 4 * (1 + quarter * excess)
    excess = half * half / 4 * (1 + half * excess)
    return (1 + v) * (1 + v * excess), excess
