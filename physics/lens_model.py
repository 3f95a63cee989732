"""The image of a lens system from its parameters, and the fluxes that fit it to a cutout best.

Conventions: physics/lensing.py. The image is linear in the fluxes of the lens and of the source in each band,
    so these are solved for, not
guessed: what has to be inferred is geometry alone, shared by all bands (variable projection,
    Golub & Pereyra 1973).
"""

import math

import torch
from torch import Tensor

from physics import lensing, light

LENS, SOURCE, SKY = range(3)  # the components of an image
ROUND = 1e-3  # ellipticity below which an ellipse is round


def observing_matrix(size: int, pixel_scale: float, seeing: float, supersample: int) -> Tensor:
    """[size, size * supersample] float32: brightness at sub-pixel centres along one axis -> flux in pixels
    behind a Gaussian seeing.

    pixel_scale and seeing (FWHM) in arcsec. A Gaussian is separable: an image is matrix @ brightness @
    matrix.mT. Its integral over a pixel is exact; light from beyond the edge is not in it.
    """
    sigma = seeing / math.sqrt(8 * math.log(2)) / pixel_scale
    pixel = torch.arange(size, dtype=torch.float64)[:, None]
    at = (torch.arange(size * supersample, dtype=torch.float64) + 0.5) / supersample - 0.5
    low, high = (pixel - 0.5 - at) / (sigma * math.sqrt(2)), (pixel + 0.5 - at) / (sigma * math.sqrt(2))
    return ((torch.erf(high) - torch.erf(low)) / 2 * pixel_scale / supersample).float()


def components(
    parameters: dict[str, Tensor], x: Tensor, y: Tensor, rows: Tensor, columns: Tensor
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Images [B, 3, H, W] of the lens, the lensed source (each of unlensed flux 1) and the sky (1),
    and the rays' ends (arcsec).

    parameters: [B, 1 or 2] each, as components of physics/lens_parameters.py: those of GEOMETRY.
    x, y: [H s, W s] arcsec, sub-pixel centres; rows [H, H s] and columns [W, W s]: observing_matrix.
    """
    p = {name: value[:, :, None, None].unbind(1) for name, value in parameters.items()}
    x0, y0 = p["x_l"]
    q_mass, angle_mass = ellipse(*p["ell_m"])
    ends = lensing.shoot_rays(
        x,
        y,
        lensing.deflection_sie(x, y, x0, y0, p["Rein"][0].exp(), q_mass, angle_mass, core=1e-3),
        lensing.deflection_shear(x - x0, y - y0, *p["sh"]),
    )
    ends = ends[0] - x0, ends[1] - y0
    q, angle = ellipse(*p["ell_s"])
    source = light.brightness_sersic(
        *ends, *p["srcx"], 1.0, p["Reff_s"][0].exp(), p["n_s_sers"][0].exp(), q, angle
    )
    q, angle = ellipse(*p["ell_l"])
    lens = light.brightness_sersic(x, y, x0, y0, 1.0, p["Reff_l"][0].exp(), p["n_l_sers"][0].exp(), q, angle)
    image = rows @ torch.stack([lens, source], 1) @ columns.mT
    return torch.cat([image, torch.ones_like(image[:, :1])], 1), ends


def ellipse(along: Tensor, diagonal: Tensor) -> tuple[Tensor, Tensor]:
    """(axis ratio, position angle in radians) of an ellipticity with these components;
    the axis ratio stays above 0.1, smoothly.

    Near a round ellipse, which has no angle, the axis ratio departs from 1 as the square:
    the image is smooth there.
    """
    size = torch.sqrt(along**2 + diagonal**2 + ROUND**2) - ROUND
    is_round = (along == 0) & (diagonal == 0)
    return 1 - 0.9 * torch.tanh(size / 0.9), 0.5 * torch.atan2(diagonal, torch.where(is_round, 1.0, along))


def solve_fluxes(image: Tensor, weight: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    """Fluxes [B, C, 3] that make basis [B, 3, H, W] fit the image [B, C, H, W] best, and their covariance [B,
    C, 3, 3].

    weight [B, C, H, W]: inverse variance of the pixels, 0 where there is none;
    a band without any gets fluxes 0.
    """
    flat, w, a = image.flatten(2), weight.flatten(2), basis.flatten(2)
    # components of like size make a well-conditioned matrix
    norm = a.square().sum(-1).sqrt().clamp(min=1e-12)
    a = a / norm[..., None]
    matrix = torch.einsum("bcn,bin,bjn->bcij", w, a, a)
    right = torch.einsum("bcn,bin,bcn->bci", w, a, flat)
    scale = matrix.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
    matrix = matrix + torch.eye(len(a[0]), dtype=a.dtype, device=a.device) * (1e-4 * scale + (scale == 0))
    # the ridge makes it regular; inv would wait for the device to ask
    covariance = torch.linalg.inv_ex(matrix).inverse
    flux = (covariance @ right[..., None])[..., 0]
    return flux / norm[:, None], covariance / (norm[:, None, :, None] * norm[:, None, None, :])
