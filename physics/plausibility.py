"""How plausible is a lens model, given the image it explains:
three questions, each answered by a number in (0, 1].

    fit              is what the model leaves over noise?
    ring             is the arc light, image minus lens light, at the radius at which this lens would put it?
    counter_images   are the pixels of which the lens says that they show one place of the source equally
                     bright?

Each part is 1 / (1 + excess): 1 for a perfect model, 1/2 where the excess is as large as its tolerance, never
zero, so that also a hopeless model has a gradient. The score is their product: one part that fails is enough
to doubt a lens. Where there is little arc light, nothing speaks for a lens, and the last two parts fall
towards those of a model that explains none of it.

The tolerances were set from what seeing of 0.7 arcsec does to a true lens, not fitted to a set of images. An
image is blurred and the rays are not, so that no real image reaches 1.
"""

from typing import NamedTuple

import torch
from torch import Tensor

APERTURE = 3.0  # arcsec: what is farther from the lens counts nowhere
FIT = 1.0  # tolerance of the reduced chi squared above 1
RING = 0.3  # of the distance of the arcs from where they should be, over their radius
COUNTER_IMAGES = 0.3  # of the share of the arcs' variance that one source cannot explain
CELLS = 12  # of the grid on a side of the source plane,
REACH = 1.1  # which extends so many Einstein radii from the lens
SIGNIFICANT = 2.0  # noise rms above which a pixel's light counts as an arc's


class Plausibility(NamedTuple):
    """[B] each, in (0, 1]."""

    score: Tensor  # the product of the parts
    fit: Tensor
    ring: Tensor
    counter_images: Tensor


def plausibility(
    images: Tensor,
    models: Tensor,
    lens_light: Tensor,
    noise: Tensor,
    x: Tensor,
    y: Tensor,
    beta_x: Tensor,
    beta_y: Tensor,
    einstein_radius: Tensor,
    centre: Tensor,
    aperture: float = APERTURE,
) -> Plausibility:
    """The plausibility of B lens models and its three parts; differentiable in all that the models say.

    images, models, lens_light: [B, C, H, W] in one unit; noise:
        rms in it, [B, C, 1, 1] or [B, C, H, W], 0 for a band that is not there.
    x, y: [H, W] arcsec; beta_x, beta_y: [B, H, W], where the lens sends these points in the source plane,
        arcsec.
    einstein_radius: [B] arcsec; centre: [B, 2] of the lens, arcsec; aperture: arcsec.
    """
    x0, y0 = centre[:, 0, None, None], centre[:, 1, None, None]
    dx = x - x0
    dy = y - y0
    radius = einstein_radius[:, None, None]
    inside = (dx**2 + dy**2 < aperture**2).to(images)
    precision = (noise > 0) / torch.where(noise > 0, noise, 1)
    arcs, residual = (images - lens_light) * precision, (images - models) * precision
    beta_x, beta_y = (beta_x - x0) / radius, (beta_y - y0) / radius  # from here on in Einstein radii
    parts = (
        1 / (1 + residual_fit(residual, inside) / FIT),
        1 / (1 + distance_ring(arcs, dx / radius, dy / radius, beta_x, beta_y, inside) / RING),
        1 / (1 + variance_unexplained(arcs, beta_x, beta_y, inside) / COUNTER_IMAGES),
    )
    return Plausibility(parts[0] * parts[1] * parts[2], *parts)


def bands_of(images: Tensor) -> Tensor:
    """How many of the bands of each image [B, C, H, W] are there, at least 1: [B].
    One that is not is zero everywhere.
    """
    return (images != 0).flatten(2).any(2).sum(1).clamp(min=1).to(images)


def residual_fit(residual: Tensor, inside: Tensor) -> Tensor:
    """Reduced chi squared [B] above 1 (else 0) of what a model leaves [B, C, H, W], in noise rms,
    over the pixels `inside` [B, H, W].
    """
    squared = residual.square().sum(1) / bands_of(residual)[:, None, None]
    return ((squared * inside).sum((-2, -1)) / inside.sum((-2, -1)) - 1).clamp(min=0)


def distance_ring(
    arcs: Tensor, x: Tensor, y: Tensor, beta_x: Tensor, beta_y: Tensor, inside: Tensor
) -> Tensor:
    """Mean distance [B] of the arc light from where the lens says over its mean radius,
    weighted with the light's significance.

    arcs [B, C, H, W] in noise rms; x, y, beta_x, beta_y [B, H, W] from the lens centre and inside [B, H, W],
    in Einstein radii. A source at beta has its images at the radius 1 + beta . n in the direction n (exact
    for a round isothermal lens), and only one if |beta| > 1: the arcs' mean beta is brought to 1 at most. The
    arcs' own radius is the measure, so that a large Einstein radius is no excuse.
    Where hardly any arcs are seen the distance goes to 1.
    """
    # Light summed over the bands, so that the noise of many bands does not look like arcs; squared:
    # what is clear counts most.
    significance = arcs.sum(1) / bands_of(arcs)[:, None, None].sqrt()
    weight = (significance - SIGNIFICANT).clamp(min=0).square() * inside
    total = weight.sum((-2, -1)) + SIGNIFICANT**2
    mean_x, mean_y = ((weight * beta).sum((-2, -1)) / total for beta in (beta_x, beta_y))
    shrink = torch.rsqrt((mean_x**2 + mean_y**2).clamp(min=1))[:, None, None]
    radius = torch.sqrt(x**2 + y**2 + 1e-6)
    expected = 1 + shrink * (mean_x[:, None, None] * x + mean_y[:, None, None] * y) / radius
    off, measure = (
        (weight * value).sum((-2, -1)) + SIGNIFICANT**2 for value in ((radius - expected).abs(), radius)
    )
    return off / measure


def variance_unexplained(arcs: Tensor, beta_x: Tensor, beta_y: Tensor, inside: Tensor) -> Tensor:
    """Share [B] of the variance of the arcs' light that no source can explain: 0 to about 1.

    arcs [B, C, H, W] in noise rms; beta_x, beta_y [B, H, W] from the lens centre in Einstein radii; inside
    [B, H, W]. Pixels whose rays end where a source has more than one image are spread bilinearly on a grid of
    the source plane, its cells' means are gathered back, and each pixel is compared with what the others say
    of its place, band by band. What noise alone would do is subtracted.
    """
    seen = (inside * (beta_x**2 + beta_y**2 < 1)).flatten(1).to(arcs)
    some = seen.any(0).nonzero()[:, 0]  # the others have no say: spare their sums
    # [B, P, C], [B, P, 1]
    light = arcs.flatten(2)[:, :, some].mT
    seen = seen[:, some, None]
    cell, tents = _places(*(beta.flatten(1)[:, some] for beta in (beta_x, beta_y)))
    spread = tents * seen  # [B, P, 4]
    averaged = spread / (_sums(cell, spread, CELLS**2) + 1e-6).gather(1, cell.flatten(1)).view_as(spread)
    means = torch.stack(
        [
            _sums(cell, averaged * band[..., None], CELLS**2).gather(1, cell.flatten(1)).view_as(spread)
            for band in light.unbind(2)
        ],
        2,
    )
    mean = (spread[:, :, None] * means).sum(-1)
    # Of the matrix H = spread averaged^T that takes light to its means: the diagonals of H and of H H^T.
    # A pixel shares a pair of cells.
    own = (spread * averaged).sum(-1, keepdim=True).clamp(max=0.99)
    pair = (cell[..., :, None] * CELLS**2 + cell[..., None, :]).flatten(2)
    shared = (
        _sums(pair, (spread[..., :, None] * spread[..., None, :]).flatten(2), CELLS**4)
        .gather(1, pair.flatten(1))
        .view(pair.shape)
    )
    others = ((averaged[..., :, None] * averaged[..., None, :]).flatten(2) * shared).sum(
        -1, keepdim=True
    ) - own**2
    # The means of the others differ by (light - mean) / (1 - own); 1 - own says how many others there are.
    left = ((light - mean).square() * seen / (1 - own)).sum((1, 2))
    left_noise = (((1 - own) + others / (1 - own)) * seen).sum((1, 2)) * bands_of(arcs)
    total = (light.square() * (1 - own) * seen).sum((1, 2))
    total_noise = ((1 - own) * seen).sum((1, 2)) * bands_of(arcs)
    doubt = torch.sqrt(2 * total_noise + 1)  # the scatter of either sum by noise
    return ((left - left_noise).clamp(min=0) + doubt) / ((total - total_noise).clamp(min=0) + doubt)


def _places(beta_x: Tensor, beta_y: Tensor) -> tuple[Tensor, Tensor]:
    """The four cells around each ray [B, P], int64 [B, P, 4], and their bilinear weights;
    coordinates in Einstein radii.
    """
    index, weight = [], []
    for beta in (beta_x, beta_y):
        place = ((beta + REACH) * ((CELLS - 1) / (2 * REACH))).clamp(0, CELLS - 1)
        low = place.detach().floor().clamp(max=CELLS - 2)
        index.append(torch.stack([low, low + 1], -1).long())
        weight.append(torch.stack([1 - (place - low), place - low], -1))
    return (
        (index[1][..., :, None] * CELLS + index[0][..., None, :]).flatten(2),
        (weight[1][..., :, None] * weight[0][..., None, :]).flatten(2),
    )


def _sums(cell: Tensor, values: Tensor, cells: int) -> Tensor:
    """[B, cells]: sums of the values [B, P, n] over what has the same cell [B, P, n]."""
    return values.new_zeros(len(values), cells).scatter_add(1, cell.flatten(1), values.flatten(1))
