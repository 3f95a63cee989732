"""Multipoles of the mass around an isothermal lens. Conventions (arcsec, radians, broadcasting):
see physics/lensing.py.

A multipole of order m and strength a_m (arcsec) adds the convergence a_m cos(m (phi - angle)) / (2 r):
lenstronomy's circular MULTIPOLE with a_m and phi_m. Order 3 makes contours triangular; order 4, with a_m > 0,
discy along `angle`. The isodensity contours of an isothermal lens of the Einstein radius theta_E move by a_m
/ theta_E of their radius.
"""

import torch
from torch import Tensor

from physics.lensing import CORE, ellipse_axes, rotate_back


def deflection_multipole(
    x: Tensor,
    y: Tensor,
    x0: Tensor | float,
    y0: Tensor | float,
    order: int,
    strength: Tensor | float,
    angle: Tensor | float,
    core: float = CORE,
) -> tuple[Tensor, Tensor]:
    """Deflection (alpha_x, alpha_y), arcsec, of a circular multipole.

    x, y, x0, y0, strength, core in arcsec; order: a whole number from 2; angle in radians.
    Raises ValueError for another order or a core that is not positive.
    Source: Xu et al. 2015, MNRAS 447, 3189, appendix B, eq. B12.
    """
    along, across, radius, powers = _powers(x, y, x0, y0, order, angle, core)
    (cosine_before, sine_before), (cosine, _) = powers
    amplitude = strength / (1 - order**2)
    alpha_along = amplitude * (order * cosine_before + (1 - order) * cosine * along / radius)
    alpha_across = amplitude * (-order * sine_before + (1 - order) * cosine * across / radius)
    return rotate_back(alpha_along, alpha_across, angle)


def convergence_multipole(
    x: Tensor,
    y: Tensor,
    x0: Tensor | float,
    y0: Tensor | float,
    order: int,
    strength: Tensor | float,
    angle: Tensor | float,
    core: float = CORE,
) -> Tensor:
    """Convergence (no unit, of both signs) of `deflection_multipole`;
    half the divergence up to (core / radius)^2.
    """
    _, _, radius, (_, (cosine, _)) = _powers(x, y, x0, y0, order, angle, core)
    return strength * cosine / (2 * radius)


def potential_multipole(
    x: Tensor,
    y: Tensor,
    x0: Tensor | float,
    y0: Tensor | float,
    order: int,
    strength: Tensor | float,
    angle: Tensor | float,
    core: float = CORE,
) -> Tensor:
    """Lensing potential (arcsec squared) whose gradient is `deflection_multipole`."""
    _, _, radius, (_, (cosine, _)) = _powers(x, y, x0, y0, order, angle, core)
    return strength / (1 - order**2) * radius * cosine


def _powers(x, y, x0, y0, order, angle, core):
    """Coordinates along and across `angle`, softened radius, and the cosine and sine of order - 1 and of
    order times the angle.
    """
    if order < 2 or order != int(order):
        raise ValueError(f"order is {order}; a multipole has a whole order from 2, for example 3 or 4")
    if core <= 0:
        raise ValueError(
            f"core is {core}: a multipole has no direction at its centre; give a core > 0 (arcsec), for "
            f"example {CORE}"
        )
    along, across = ellipse_axes(x, y, x0, y0, angle)
    radius = torch.sqrt(along * along + across * across + core * core)
    unit = here = (along / radius, across / radius)
    # Products instead of an arc tangent: smooth through the centre.
    for _ in range(int(order) - 1):
        before = here
        here = (here[0] * unit[0] - here[1] * unit[1], here[0] * unit[1] + here[1] * unit[0])
    return along, across, radius, (before, here)
