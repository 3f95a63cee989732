"""Gravitational lensing by thin lenses: deflections, potentials, ray shooting.

Conventions, the same in all of physics/: angles on the sky in arcsec, x along the columns and y along the
rows of an image, position angles in radians from +x towards +y, axis ratio q = minor / major in (0, 1]. All
arguments broadcast against each other: a quantity of a batch of B lenses seen on an image plane has the shape
[B, 1, 1], coordinates have [B, H, W] or [H, W]. Everything is differentiable in every argument,
in the dtype of the inputs.

The softening `core` keeps value and gradient finite at the lens centre, where the singular profile has
neither.
"""

import torch
from torch import Tensor

CORE = 1e-4  # arcsec: 1/2000 of an LSST pixel; it moves a deflection by less than 1e-4 arcsec


def ellipse_axes(
    x: Tensor, y: Tensor, x0: Tensor | float, y0: Tensor | float, angle: Tensor | float
) -> tuple[Tensor, Tensor]:
    """Coordinates along the major and the minor axis of an ellipse at (x0, y0) turned by `angle`.

    x, y, x0, y0 in arcsec, angle in radians; returns two tensors of the broadcast shape in arcsec.
    """
    angle = torch.as_tensor(angle, dtype=x.dtype, device=x.device)
    cosine = torch.cos(angle)
    sine = torch.sin(angle)
    x, y = x - x0, y - y0
    return cosine * x + sine * y, cosine * y - sine * x


def rotate_back(along: Tensor, across: Tensor, angle: Tensor | float) -> tuple[Tensor, Tensor]:
    """A vector given along the axes of an ellipse turned by `angle` (radians), in x and y."""
    angle = torch.as_tensor(angle, dtype=along.dtype, device=along.device)
    cosine = torch.cos(angle)
    sine = torch.sin(angle)
    return cosine * along - sine * across, sine * along + cosine * across


def deflection_sie(
    x: Tensor,
    y: Tensor,
    x0: Tensor | float,
    y0: Tensor | float,
    einstein_radius: Tensor | float,
    axis_ratio: Tensor,
    angle: Tensor | float,
    core: float = CORE,
) -> tuple[Tensor, Tensor]:
    """Deflection (alpha_x, alpha_y) of a singular isothermal ellipsoid.

    x, y, x0, y0, einstein_radius, core in arcsec; axis_ratio in (0, 1]; angle of the major axis in radians.
    The ellipse sqrt(q a^2 + b^2 / q) = einstein_radius, the critical curve, encloses mean convergence 1
    (lenstronomy's theta_E, caustics' Rein); the circle of that radius does for q = 1.
    Raises ValueError for a core that is not positive.
    Source: Kormann, Schneider & Bartelmann 1994, A&A 284, 285;
        softened as in Keeton 2001, astro-ph/0102341, eq. 34.
    """
    q, along, across, psi = _isothermal(x, y, x0, y0, axis_ratio, angle, core)
    flattening = 1 - q * q
    scale = einstein_radius * torch.sqrt(q)
    alpha_along = scale * _arc(along / (psi + core), flattening, -1.0)
    alpha_across = scale * _arc(across / (psi + q * q * core), flattening, 1.0)
    return rotate_back(alpha_along, alpha_across, angle)


def convergence_sie(
    x: Tensor,
    y: Tensor,
    x0: Tensor | float,
    y0: Tensor | float,
    einstein_radius: Tensor | float,
    axis_ratio: Tensor,
    angle: Tensor | float,
    core: float = CORE,
) -> Tensor:
    """Convergence (surface density in critical units, no unit) of `deflection_sie`'s lens. Source: there."""
    q, _, _, psi = _isothermal(x, y, x0, y0, axis_ratio, angle, core)
    return einstein_radius * torch.sqrt(q) / (2 * psi)


def potential_sie(
    x: Tensor,
    y: Tensor,
    x0: Tensor | float,
    y0: Tensor | float,
    einstein_radius: Tensor | float,
    axis_ratio: Tensor,
    angle: Tensor | float,
    core: float = CORE,
) -> Tensor:
    """Lensing potential (arcsec squared) whose gradient is `deflection_sie`. Source: Keeton 2001, eq. 33."""
    q, along, across, psi = _isothermal(x, y, x0, y0, axis_ratio, angle, core)
    flattening = 1 - q * q
    scale = einstein_radius * torch.sqrt(q)
    linear = along * _arc(along / (psi + core), flattening, -1.0)
    linear = linear + across * _arc(across / (psi + q * q * core), flattening, 1.0)
    softening = 0.5 * torch.log((psi + core) ** 2 + flattening * along**2) - torch.log((1 + q) * core)
    return scale * (linear - core * softening)


def deflection_shear(
    x: Tensor, y: Tensor, shear_1: Tensor | float, shear_2: Tensor | float
) -> tuple[Tensor, Tensor]:
    """Deflection of an external shear about the origin: shear_1 stretches along x,
    shear_2 along the diagonal x = y.

    x, y in arcsec, shears without unit; returns two tensors in arcsec. Source: Schneider, Kochanek &
    Wambsganss 2006.
    """
    return shear_1 * x + shear_2 * y, shear_2 * x - shear_1 * y


def potential_shear(x: Tensor, y: Tensor, shear_1: Tensor | float, shear_2: Tensor | float) -> Tensor:
    """Lensing potential (arcsec squared) whose gradient is `deflection_shear`."""
    return 0.5 * shear_1 * (x * x - y * y) + shear_2 * x * y


def shoot_rays(x: Tensor, y: Tensor, *deflections: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Source-plane coordinates (arcsec) of the image-plane points (x, y):
    the lens equation beta = theta - alpha.
    """
    for alpha_x, alpha_y in deflections:
        x, y = x - alpha_x, y - alpha_y
    return x, y


def _isothermal(x, y, x0, y0, axis_ratio, angle, core):
    """Axis ratio as a tensor, coordinates along the axes, and the softened elliptical radius psi."""
    if core <= 0:
        raise ValueError(
            f"core is {core}: a singular isothermal lens has no deflection at its centre; give a core > 0 "
            f"(arcsec), for example {CORE}"
        )
    q = torch.as_tensor(axis_ratio, dtype=x.dtype, device=x.device)
    along, across = ellipse_axes(x, y, x0, y0, angle)
    return q, along, across, torch.sqrt(q * q * (along * along + core * core) + across * across)


def _arc(u: Tensor, flattening: Tensor, sign: float) -> Tensor:
    """atan(f u) / f for sign -1 and atanh(f u) / f for sign +1, with f^2 = flattening,
    smooth through f = 0.
    """
    # A round lens is the 0/0 limit; below 1e-3 four terms of the series are exact to 1e-13 for |u| <= 1.
    is_round = flattening < 1e-3
    f = torch.sqrt(torch.where(is_round, torch.full_like(flattening, 0.5), flattening))
    exact = (torch.atan(f * u) if sign < 0 else torch.atanh(f * u)) / f
    t = sign * flattening * u * u
    return torch.where(is_round, u * (1 + t * (1 / 3 + t * (1 / 5 + t / 7))), exact)
