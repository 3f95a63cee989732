"""Elliptical power-law lenses. Conventions (arcsec, radians, axis ratio, broadcasting, core):
see physics/lensing.py.

The convergence falls with the power `slope` = t of the elliptical radius, 0 < t < 2; t = gamma - 1, where
gamma is the slope of the density in space, and t = 1 is the isothermal lens of `lensing.deflection_sie`.

The core softens the elliptical radius. That is not the gradient of a potential: half the divergence of the
deflection is the convergence, and the gradient of the potential the deflection, up to (core / radius)^2,
1e-6 at half an LSST pixel.
"""

import torch
from torch import Tensor

from physics.lensing import CORE, ellipse_axes, rotate_back

# Of the series below. In float64 the deflection is then right to 1e-12 for q >= 0.2, 1e-8 for 0.1 and 4e-6
# for 0.05; in float32 to rounding for q >= 0.2, 5e-5 for 0.1 and 2e-3 for 0.05.
TERMS, TERMS_SINGLE = 24, 14


def deflection_epl(
    x: Tensor,
    y: Tensor,
    x0: Tensor | float,
    y0: Tensor | float,
    einstein_radius: Tensor | float,
    axis_ratio: Tensor | float,
    angle: Tensor | float,
    slope: Tensor | float,
    core: float = CORE,
) -> tuple[Tensor, Tensor]:
    """Deflection (alpha_x, alpha_y), arcsec, of an elliptical power law.

    x, y, x0, y0, einstein_radius, core in arcsec; axis_ratio in (0, 1]; angle of the major axis in radians;
    slope in (0, 2).
    The ellipse sqrt(q a^2 + b^2 / q) = einstein_radius encloses mean convergence 1, whatever the slope:
    lenstronomy's theta_E of EPL (gamma = slope + 1), caustics' Rein.
    Raises ValueError for a core that is not positive.
    Source: Tessore & Metcalf 2015, A&A 580, A79, eqs. 13 and 23.
    """
    along, across, radius, scale, q, t = _power_law(
        x, y, x0, y0, einstein_radius, axis_ratio, angle, slope, core
    )
    return rotate_back(*_deflection(along, across, radius, scale, q, t), angle)


def convergence_epl(
    x: Tensor,
    y: Tensor,
    x0: Tensor | float,
    y0: Tensor | float,
    einstein_radius: Tensor | float,
    axis_ratio: Tensor | float,
    angle: Tensor | float,
    slope: Tensor | float,
    core: float = CORE,
) -> Tensor:
    """Convergence (no unit) of `deflection_epl`'s lens. Source: Tessore & Metcalf 2015, eq. 2."""
    _, _, radius, scale, _, t = _power_law(x, y, x0, y0, einstein_radius, axis_ratio, angle, slope, core)
    return (1 - t / 2) * (scale / radius) ** t


def potential_epl(
    x: Tensor,
    y: Tensor,
    x0: Tensor | float,
    y0: Tensor | float,
    einstein_radius: Tensor | float,
    axis_ratio: Tensor | float,
    angle: Tensor | float,
    slope: Tensor | float,
    core: float = CORE,
) -> Tensor:
    """Lensing potential (arcsec squared) whose gradient is `deflection_epl`. Source:
    Tessore & Metcalf 2015, eq. 15.
    """
    along, across, radius, scale, q, t = _power_law(
        x, y, x0, y0, einstein_radius, axis_ratio, angle, slope, core
    )
    alpha_along, alpha_across = _deflection(along, across, radius, scale, q, t)
    return (along * alpha_along + across * alpha_across) / (2 - t)


def _power_law(x, y, x0, y0, einstein_radius, axis_ratio, angle, slope, core):
    """Coordinates along the axes, softened elliptical radius, its value where the mean convergence is 1,
    q and t as tensors.
    """
    if core <= 0:
        raise ValueError(
            f"core is {core}: a power-law lens has no deflection at its centre; give a core > 0 (arcsec), "
            f"for example {CORE}"
        )
    q, t = (torch.as_tensor(value, dtype=x.dtype, device=x.device) for value in (axis_ratio, slope))
    along, across = ellipse_axes(x, y, x0, y0, angle)
    radius = torch.sqrt(q * q * (along * along + core * core) + across * across)
    return along, across, radius, einstein_radius * torch.sqrt(q), q, t


def _deflection(along, across, radius, scale, q, t):
    """Deflection along the axes: 2 / (1 + q) (b / R)^t zeta F(-f zeta^2 / R^2),
    with zeta = q a + i b and f = (1 - q) / (1 + q).
    """
    stretched = q * along
    f = (1 - q) / (1 + q) / radius**2
    real, imaginary = _angular(f * (across * across - stretched * stretched), -2 * f * stretched * across, t)
    amplitude = 2 / (1 + q) * (scale / radius) ** t
    return amplitude * (stretched * real - across * imaginary), amplitude * (
        stretched * imaginary + across * real
    )


def _angular(real: Tensor, imaginary: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Hypergeometric F(1, t / 2; 2 - t / 2; z) of z = real + i imaginary, |z| < 1:
    its real and imaginary part.

    In z the series converges as f^n. The map z = 4 w / (1 + w)^2 takes the plane without F's cut from 1 to
    infinity to the unit disc, so the series in w converges faster: at q = 0.2 the terms fall by 0.27 each
    instead of 0.67. Its coefficients c_k follow from z (1 - z) F' + (s - (1 - s) z) F = s,
    with s = 1 - t / 2, and depend on the slope alone.
    """
    # w = z / (1 + sqrt(1 - z))^2; the real part of 1 - z is positive, so the root has no cut nearby.
    root = torch.sqrt(0.5 * (torch.sqrt((1 - real) ** 2 + imaginary**2) + 1 - real))
    u = 1 + root
    v = -0.5 * imaginary / root
    square = u * u - v * v
    cross = 2 * u * v
    norm = (u * u + v * v) ** 2
    w, w_imaginary = (real * square + imaginary * cross) / norm, (imaginary * square - real * cross) / norm

    s = 1 - t / 2
    coefficients = [torch.ones_like(s), 4 * (1 - s) / (1 + s)]
    for k in range(2, TERMS if t.dtype == torch.float64 else TERMS_SINGLE):
        inhomogeneous = s if k == 2 else 0
        coefficients.append(
            ((4 - 6 * s) * coefficients[-1] + (k - 2 - s) * coefficients[-2] + inhomogeneous) / (k + s)
        )

    # The polynomial's remainder after division by (X - w)(X - conjugate of w):
    # Horner's scheme without complex numbers.
    twice = 2 * w
    square = w * w + w_imaginary * w_imaginary
    first = coefficients[-1]
    second = torch.zeros_like(s)
    for coefficient in reversed(coefficients[:-1]):
        first, second = coefficient + twice * first - square * second, first
    return first - w * second, w_imaginary * second
