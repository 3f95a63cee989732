"""Surface brightness of galaxies. Conventions (arcsec, radians, axis ratio, broadcasting):
see physics/lensing.py.

Brightness is flux per square arcsec, in the unit of the total flux that is given. Every profile is normalised
to that total over the whole plane, so what falls outside of an image is lost to it, as on the sky.
"""

import math

import torch
from torch import Tensor

from physics.lensing import ellipse_axes

CORE = 1e-6  # arcsec: keeps the gradient of a cusp finite at its very centre


def flux_from_magnitude(magnitude: Tensor, zero_point: float) -> Tensor:
    """Flux in counts of an AB magnitude, where `zero_point` is the magnitude of one count."""
    return 10 ** (-0.4 * (magnitude - zero_point))


def magnitude_from_flux(flux: Tensor, zero_point: float) -> Tensor:
    """AB magnitude of a positive flux in counts, where `zero_point` is the magnitude of one count."""
    return zero_point - 2.5 * torch.log10(flux)


def radius_ellipse(
    x: Tensor,
    y: Tensor,
    x0: Tensor | float,
    y0: Tensor | float,
    axis_ratio: Tensor | float,
    angle: Tensor | float,
) -> Tensor:
    """Circularised elliptical radius sqrt(q a^2 + b^2 / q) in arcsec:
    pi times its square is the area inside.
    """
    along, across = ellipse_axes(x, y, x0, y0, angle)
    return torch.sqrt(axis_ratio * along**2 + across**2 / axis_ratio + CORE**2)


def b_sersic(index: Tensor) -> Tensor:
    """b_n such that the half-light radius encloses half of the light, to 4e-4 at Sersic index 0.5,
    1e-6 from 2.

    Source: Ciotti & Bertin 1999, A&A 352, 447, eq. 18.
    """
    n = index
    return (
        2 * n
        - 1 / 3
        + 4 / (405 * n)
        + 46 / (25515 * n**2)
        + 131 / (1148175 * n**3)
        - 2194697 / (30690717750 * n**4)
    )


def brightness_sersic(
    x: Tensor,
    y: Tensor,
    x0: Tensor | float,
    y0: Tensor | float,
    flux: Tensor | float,
    half_light_radius: Tensor | float,
    index: Tensor,
    axis_ratio: Tensor | float,
    angle: Tensor | float,
    b: Tensor | None = None,
) -> Tensor:
    """Surface brightness of a Sersic galaxy of total `flux`.

    half_light_radius (arcsec) is circularised: lenstronomy's R_sersic, sqrt(q) times caustics' major-axis Re.
    b: b_n, by default `b_sersic(index)`; lenstronomy takes Capaccioli's 1.9992 n - 0.3271 instead.
    Source: Sersic 1968; normalisation Graham & Driver 2005, PASA 22, 118, eq. 4.
    """
    b = b_sersic(index) if b is None else b
    log_total = 2 * index * torch.log(b) - b - torch.lgamma(2 * index)
    peak = flux * torch.exp(log_total) / (2 * math.pi * index * half_light_radius**2)
    ratio = radius_ellipse(x, y, x0, y0, axis_ratio, angle) / half_light_radius
    return peak * torch.exp(-b * (ratio ** (1 / index) - 1))


def brightness_ring(
    x: Tensor,
    y: Tensor,
    x0: Tensor | float,
    y0: Tensor | float,
    flux: Tensor | float,
    ring_radius: Tensor,
    width: Tensor,
    axis_ratio: Tensor | float,
    angle: Tensor | float,
) -> Tensor:
    """Surface brightness of an elliptical ring with a Gaussian profile of `width` (sigma, arcsec)
    at `ring_radius`.
    """
    radius = radius_ellipse(x, y, x0, y0, axis_ratio, angle)
    # The plane integral of exp(-(R - R0)^2 / 2 w^2), closed.
    t = ring_radius / (math.sqrt(2) * width)
    total = 2 * math.pi * width**2 * (torch.exp(-t * t) + math.sqrt(math.pi) * t * (1 + torch.erf(t)))
    return flux / total * torch.exp(-0.5 * ((radius - ring_radius) / width) ** 2)


def contrast_arms(
    x: Tensor,
    y: Tensor,
    x0: Tensor | float,
    y0: Tensor | float,
    axis_ratio: Tensor | float,
    angle: Tensor | float,
    arms: Tensor,
    sharpness: Tensor,
    pitch: Tensor,
    phase: Tensor,
    scale: Tensor,
) -> Tensor:
    """Factor, of mean 1 along every ellipse, that turns a smooth disc into one with logarithmic spiral arms.

    arms: their number; sharpness: the concentration of the von Mises profile across an arm (0: none); pitch:
    angle in radians (pi/2: straight spokes, as of clumps on a ring); phase in radians; scale (arcsec): inside
    of it arms fade.
    """
    along, across = ellipse_axes(x, y, x0, y0, angle)
    along = along * axis_ratio**0.5
    across = across / axis_ratio**0.5
    radius = torch.sqrt(along**2 + across**2 + CORE**2)
    # Close to the centre the arms wind faster than any grid resolves, so they fade there.
    kappa = sharpness * radius**2 / (radius**2 + scale**2)
    winding = torch.atan2(across, along) - torch.log(radius / scale) / torch.tan(pitch)
    return torch.exp(kappa * (torch.cos(arms * winding + phase) - 1)) / torch.special.i0e(kappa)
