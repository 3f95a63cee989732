"""The lenses of the simulated challenge: systems drawn from published distributions and kept if they can be
found.

The published means and spreads are those of the challenge's 100,000 training lenses (parameters.fits, as
summarised in michelefogliardi/LSST-Lens-Finding-Challenge).
"""

import numpy as np
import torch
from torch import Tensor

from physics import cosmology, imaging, lensing, light

BANDS = ("g", "r", "i", "z", "y")
PIXEL_SCALE = 0.2  # arcsec
ZERO_POINT = 27.0  # AB magnitude of one count, that of Rubin's DP0 coadds
TRIES = 3  # candidate lenses drawn at a time for one object

# Colours (g-r, r-i, i-z, z-y) of a passive galaxy by redshift: their run is that of an old population
# reddening as the 4000 A break crosses the bands, their mean over the lenses is the published one (1.22,
# 0.98, 0.52, 0.30).
PASSIVE_REDSHIFT = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.4)
PASSIVE_COLOUR = (
    (0.70, 0.30, 0.20, 0.12),
    (1.02, 0.40, 0.27, 0.18),
    (1.42, 0.62, 0.34, 0.22),
    (1.38, 0.95, 0.43, 0.26),
    (1.20, 1.17, 0.62, 0.33),
    (1.05, 1.12, 0.82, 0.42),
    (0.90, 0.95, 0.90, 0.60),
)
BLUE_COLOUR = (0.27, 0.17, 0.12, 0.10)  # of the published sources, before the Lyman break enters g
BLUE_SPREAD = (0.19, 0.15, 0.15, 0.17)

# Selection of lenses, Collett 2015 (ApJ 811, 20), section 4: the source is multiply imaged, the Einstein
# radius is resolved, the arcs are magnified more than 3 times,
# and their total signal-to-noise exceeds 20 in one band.
MAGNIFICATION = 3.0
SIGNAL_TO_NOISE = 20.0
SEEING = 0.75  # arcsec, typical full width of the coadds below


def draw_lenses(generators: list[np.random.Generator], noise: Tensor) -> dict[str, Tensor]:
    """The first detectable lens of each generator's stream: name -> [N], magnitudes [N, 5];
    noise [5] in counts.
    """
    waiting = torch.arange(len(generators))
    taken: dict[str, Tensor] = {}
    while len(waiting):
        uniform = np.stack([generators[i].random((TRIES, 24)) for i in waiting])
        lens = candidates(torch.from_numpy(uniform))
        found = detectable(lens, noise)
        lucky = found.any(1)
        first = found.to(torch.int8).argmax(1)[lucky]
        for name, value in lens.items():
            chosen = value[lucky, first]
            place = taken.setdefault(name, torch.zeros(len(generators), *chosen.shape[1:], dtype=value.dtype))
            place[waiting[lucky]] = chosen
        waiting = waiting[~lucky]
    return taken


def candidates(uniform: Tensor) -> dict[str, Tensor]:
    """Lens systems before selection from uniform numbers [..., 24]: name -> [...];
    units as in the challenge's note.
    """
    u = uniform.clamp(1e-9, 1 - 1e-9).unbind(-1)
    n = torch.special.ndtri(uniform.clamp(1e-9, 1 - 1e-9)).unbind(-1)
    zlens = truncated_normal(u[0], 0.76, 0.28, 0.12, 1.5)
    zsrc = torch.maximum(truncated_normal(u[1], 2.3, 0.85, 0.5, 5.5), zlens + 0.25)
    dispersion = truncated_normal(u[2], 215, 68, 120, 420)
    einstein = (
        4
        * torch.pi
        * (dispersion / cosmology.SPEED_OF_LIGHT) ** 2
        / cosmology.ARCSEC
        * cosmology.distance_ratio(zlens, zsrc)
    )
    # Brighter lenses have larger dispersions (Faber & Jackson 1976; luminosity as the power 2.4, which their
    # scatter flattens), fainter ones lie farther; the numbers give the published mean and spread.
    mag_i = 20.95 + 2.9 * (zlens - 0.7) - 6.0 * torch.log10(dispersion / 230) + 0.7 * n[3]
    size = 0.6 * torch.exp(-0.06 * (mag_i - 20.8) + 0.27 * n[4])
    q_light = truncated_normal(u[5], 0.74, 0.16, 0.3, 1.0)
    q_mass = (q_light + 0.07 * n[6]).clamp(0.35, 1.0)
    angle = 180 * u[7]
    # Counts rise as 10^(0.55 i) from i = 22, steeper than the field's by the magnification bias; the
    # selection cuts the faint end.
    mag_src = 25.1 + torch.log10(0.02 + 0.98 * u[8]) / 0.55 + 0.2 * n[9]
    # The source lies anywhere within the Einstein radius, Collett's first condition.
    radius, phase = einstein * torch.sqrt(u[10]), 2 * torch.pi * u[11]
    return dict(
        zlens=zlens,
        zsrc=zsrc,
        vel_disp=dispersion,
        Rein=einstein,
        Reff_l=size,
        n_l_sers=truncated_normal(u[12], 4.0, 0.9, 2.0, 6.5),
        ell_l=1 - q_light,
        ell_l_PA=angle,
        ell_m=1 - q_mass,
        ell_m_PA=(angle + 10 * n[13]) % 180,
        sh=(-0.0194 * torch.log(u[14])).clamp(max=0.15),
        sh_PA=180 * u[15],
        srcx=radius * torch.cos(phase),
        srcy=radius * torch.sin(phase),
        ell_s=1 - truncated_normal(u[16], 0.5, 0.22, 0.15, 1.0),
        ell_s_PA=180 * u[17],
        Reff_s=0.1 * torch.exp(0.45 * n[18] - 0.08 * (mag_src - 24.3)).clamp(0.3, 4),
        n_s_sers=torch.exp(0.3 * n[19]).clamp(0.5, 3.0),
        mag_lens=magnitudes(mag_i, passive_colours(zlens) + 0.06 * n[20][..., None]),
        mag_src=magnitudes(mag_src, blue_colours(zsrc, n[21])),
    )


def detectable(lens: dict[str, Tensor], noise: Tensor) -> Tensor:
    """Which candidates [N, T] pass the selection above; adds their total magnification `magnification`.

    noise: [5] of one pixel in counts. The signal-to-noise is that of a matched filter on the arcs as seen.
    """
    # A grid that scales with the lens: 36 points over 2.4 Einstein radii to each side.
    x, y = imaging.pixel_grid(36, 4.8 / 36)
    wide = {name: value.float()[..., None, None] for name, value in lens.items() if value.ndim == 2}
    x, y = x * wide["Rein"], y * wide["Rein"]
    brightness = light.brightness_sersic(
        *source_plane(x, y, wide),
        wide["srcx"],
        wide["srcy"],
        1.0,
        wide["Reff_s"],
        wide["n_s_sers"],
        1 - wide["ell_s"],
        torch.deg2rad(wide["ell_s_PA"]),
    )
    step = wide["Rein"] * (4.8 / 36)
    brightness = brightness * step**2
    lens["magnification"] = brightness.sum((-2, -1)).double()
    blur = seeing_matrix(step)
    seen = blur @ brightness @ blur.mT
    # Sum of (counts per pixel)^2 over the pixels, of a source of one count.
    per_pixel = ((seen**2).sum((-2, -1)) * (PIXEL_SCALE / step[..., 0, 0]) ** 2).sqrt()
    flux = light.flux_from_magnitude(lens["mag_src"], ZERO_POINT)
    signal = (per_pixel[..., None] * flux / noise).amax(-1)
    resolved = lens["Rein"] ** 2 > lens["Reff_s"] ** 2 + (SEEING / 2) ** 2
    return (
        resolved
        & (lens["magnification"] > MAGNIFICATION)
        & (signal > SIGNAL_TO_NOISE)
        & (lens["vel_disp"] > 0)
    )


def source_plane(x: Tensor, y: Tensor, lens: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Where the rays of image-plane points (arcsec)
    end for lenses with the columns of the challenge's table.
    """
    shear_angle = 2 * torch.deg2rad(lens["sh_PA"])
    return lensing.shoot_rays(
        x,
        y,
        lensing.deflection_sie(
            x, y, 0.0, 0.0, lens["Rein"], 1 - lens["ell_m"], torch.deg2rad(lens["ell_m_PA"])
        ),
        lensing.deflection_shear(
            x, y, lens["sh"] * torch.cos(shear_angle), lens["sh"] * torch.sin(shear_angle)
        ),
    )


def seeing_matrix(step: Tensor) -> Tensor:
    """The Gaussian blur by the seeing along one axis of the grids of step [..., 1, 1] arcsec, as matrices."""
    i = torch.arange(36, dtype=step.dtype)
    sigma = SEEING / 2.3548
    kernel = torch.exp(-0.5 * ((i[:, None] - i) * step / sigma) ** 2)
    return kernel * step / (sigma * (2 * torch.pi) ** 0.5)


def counts(mag: np.ndarray) -> np.ndarray:
    return 10 ** (-0.4 * (np.asarray(mag, dtype=np.float64) - ZERO_POINT))


def magnitudes(mag_i: Tensor, colours: Tensor) -> Tensor:
    """Magnitudes [..., 5] in g r i z y from that in i [...] and g-r, r-i, i-z, z-y [..., 4]."""
    gr, ri, iz, zy = colours.unbind(-1)
    return torch.stack([mag_i + ri + gr, mag_i + ri, mag_i, mag_i - iz, mag_i - iz - zy], -1)


def passive_colours(redshift: Tensor) -> Tensor:
    """Colours [..., 4] of a passive galaxy at redshift [...]: linear between the rows of the table above."""
    knots = torch.tensor(PASSIVE_REDSHIFT, dtype=redshift.dtype)
    table = torch.tensor(PASSIVE_COLOUR, dtype=redshift.dtype)
    right = torch.searchsorted(knots, redshift.contiguous()).clamp(1, len(knots) - 1)
    t = ((redshift - knots[right - 1]) / (knots[right] - knots[right - 1])).clamp(0, 1)[..., None]
    return table[right - 1] * (1 - t) + table[right] * t


def blue_colours(redshift: Tensor, reddening: Tensor) -> Tensor:
    """Colours [..., 4] of a star-forming galaxy: one normal number reddens it;
    beyond redshift 3.1 g loses light.
    """
    colour = (
        torch.tensor(BLUE_COLOUR, dtype=redshift.dtype)
        + torch.tensor(BLUE_SPREAD, dtype=redshift.dtype) * reddening[..., None]
    )
    dropout = torch.zeros_like(colour)
    dropout[..., 0] = ((redshift - 3.1) * 0.8).clamp(0, 2)
    return colour + dropout


def truncated_normal(uniform: Tensor, mean: float, std: float, low: float, high: float) -> Tensor:
    """A normal number within [low, high] from a uniform one, by its quantile."""
    ends = torch.special.ndtr(torch.tensor([(low - mean) / std, (high - mean) / std], dtype=uniform.dtype))
    return mean + std * torch.special.ndtri(ends[0] + (ends[1] - ends[0]) * uniform)
