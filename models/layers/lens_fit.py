"""A lens model of an image: ray tracing of inferred parameters, fluxes solved for, and how well it fits."""

from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from models.layers.preprocess import power_of_two
from models.layers.quantity_head import QuantityHead
from physics.imaging import pixel_grid
from physics.lens_model import LENS, SKY, SOURCE, components, observing_matrix, solve_fluxes
from physics.lens_parameters import GEOMETRY, slices

SOFT = 3.0  # spreads from the centre at which an inferred component is held back: beyond, profiles overflow
FAINT = 2.0  # signal-to-noise, over all bands, below which a pixel shows no arc
POISSON = 0.1  # error of the model in units of the brightness: seeing and profiles are only nearly right


class LensFit(nn.Module):
    """(image [B, C, H, W], noise [B, C] its rms, geometry: name -> [B, 1 or 2] components)
    -> what the lens model makes of it.

    light, arcs      [B, C, H, W] the lens galaxy (with the sky) and the lensed source in the image,
                     at the fluxes that fit best
    flux, error      [B, C, 2] of lens and source, and standard errors;
                     of the source this is the evidence for arcs
    chi2             [B, C] mean over the pixels of (residual / error)^2
    noise            [B, C] as given
    ring, ring_model [B] arcsec: mean distance from the lens of the light in the image that is not the lens
    galaxy's, near arcs, and of the
                     modelled arcs, each weighted by signal-to-noise
    and, in evaluation, for what judges and draws the lens:
    image            [B, C, H, W] as given
    pixel_error      [B, C, H, W] that of chi2: noise, and what a model is wrong by where it is bright;
                     0 in a band that is not there
    angles, rays     [B, 2, H, W] arcsec from the lens: of the pixels,
                     and of where their light comes from in the source plane, both x and y
    einstein_radius  [B] arcsec
    """

    def __init__(self, pixel_scale: float = 0.2, seeing: float = 0.75, supersample: int = 2):
        super().__init__()
        self.pixel_scale, self.seeing, self.supersample = pixel_scale, seeing, supersample

    def forward(self, image: Tensor, noise: Tensor, geometry: dict[str, Tensor]) -> dict[str, Tensor]:
        with torch.autocast(image.device.type, enabled=False):
            given, noise_given = image.float(), noise.float()[..., None, None]
            # in units near the noise, which round nothing: its square is within float32 whatever the unit is
            unit = power_of_two(noise_given)
            image, noise = given / unit, noise_given / unit
            H, W = image.shape[2:]
            rows, columns = (
                observing(size, self.pixel_scale, self.seeing, self.supersample, image.device)
                for size in (H, W)
            )
            side = max(H, W)
            x, y = (
                grid[: H * self.supersample, : W * self.supersample]
                for grid in pixel_grid(side, self.pixel_scale, self.supersample, device=image.device)
            )
            x, y = x + (side - W) * self.pixel_scale / 2, y + (side - H) * self.pixel_scale / 2
            basis, ends = components(geometry, x, y, rows, columns)
            there = noise > 0
            error2 = torch.where(there, noise, 1).square() + (POISSON * image).square()
            weight = there / error2
            flux, covariance = solve_fluxes(image, weight, basis)
            light = torch.einsum("bci,bihw->bchw", flux[..., [LENS, SKY]], basis[:, [LENS, SKY]])
            arcs = flux[..., SOURCE, None, None] * basis[:, None, SOURCE]
            error = covariance.diagonal(dim1=-2, dim2=-1)[..., [LENS, SOURCE]].clamp(min=0).sqrt()
            chi2 = ((image - light - arcs).square() * weight).mean((2, 3))
            rings = radii_of(
                image - light, arcs, there / torch.where(there, noise, 1), x, y, geometry, self.supersample
            )
            outputs = (
                dict(
                    light=light * unit,
                    arcs=arcs * unit,
                    flux=flux[..., [LENS, SOURCE]] * unit[..., 0],
                    error=error * unit[..., 0],
                    chi2=chi2,
                    noise=noise_given[..., 0, 0],
                )
                | rings
            )
            if self.training:
                return outputs
            angles, rays = (
                avg_pool2d(torch.stack(torch.broadcast_tensors(*plane), 1), self.supersample)
                for plane in (from_lens(x, y, geometry), ends)
            )
            return outputs | dict(
                image=given,
                pixel_error=there * error2.sqrt() * unit,
                angles=angles,
                rays=rays,
                einstein_radius=geometry["Rein"].exp()[:, 0],
            )


@lru_cache(16)
def observing(size: int, pixel_scale: float, seeing: float, supersample: int, device: torch.device) -> Tensor:
    """The matrix on the device, made once: it is the same in every step."""
    return observing_matrix(size, pixel_scale, seeing, supersample).to(device)


def from_lens(x: Tensor, y: Tensor, geometry: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """x and y [H, W] arcsec from the middle of the image -> [B, H, W] from the lens."""
    place = geometry["x_l"][:, :, None, None]
    return x - place[:, 0], y - place[:, 1]


def radii_of(
    left: Tensor,
    arcs: Tensor,
    precision: Tensor,
    x: Tensor,
    y: Tensor,
    geometry: dict[str, Tensor],
    supersample: int,
) -> dict[str, Tensor]:
    """`ring` of what the lens galaxy leaves of the image and `ring_model` of the modelled arcs, [B] each;
    see LensFit.

    Only light that is FAINT times the noise, and between a third and three times the inferred Einstein
    radius, has a say; the edges are soft.
    """
    radius_e = geometry["Rein"].exp()[:, :, None]
    x, y = from_lens(*(avg_pool2d(grid[None, None], supersample)[0] for grid in (x, y)), geometry)
    radius = torch.sqrt(x.square() + y.square() + 1e-6)
    window = torch.sigmoid(6 * (radius / radius_e - 1 / 3)) * torch.sigmoid(6 * (3 - radius / radius_e))

    def mean_radius(image: Tensor) -> Tensor:
        signal = (image * precision).sum(1) / (precision > 0).any(3).any(2).sum(1).clamp(min=1).sqrt()[
            :, None, None
        ]
        weight = (signal - FAINT).clamp(min=0) * window  # noise alone would spread all over the window
        return ((weight * radius).sum((1, 2)) + 1e-3 * radius_e[:, 0, 0]) / (weight.sum((1, 2)) + 1e-3)

    return dict(ring=mean_radius(left), ring_model=mean_radius(arcs))


def soft_geometry(components: Tensor, head: QuantityHead) -> dict[str, Tensor]:
    """The geometry among what `head` inferred, [B, P] components, held within a few spreads of their centre,
    by name.
    """
    held = head.centre + head.spread * SOFT * torch.tanh((components - head.centre) / head.spread / SOFT)
    places = slices(head.names)
    return {name: held[:, places[name]] for name in GEOMETRY}
