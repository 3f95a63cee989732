"""What is on the sky of the simulated lens challenge: lenses and look-alikes, drawn from published distributions.

The published means and spreads are those of the challenge's 100,000 training lenses (parameters.fits, as summarised in
michelefogliardi/LSST-Lens-Finding-Challenge); a lens is kept if its arcs could be found (`detectable`). A look-alike
starts from such a lens too: the same galaxy, and the flux and colour of the same arcs given to arms, rings or
companions. So brightness and colour tell the classes apart no better than they do on the sky after a target selection.
"""
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from physics import cosmology, imaging, lensing, light

BANDS = ("g", "r", "i", "z", "y")
SIZE = 41                 # pixels
PIXEL_SCALE = 0.2         # arcsec
ZERO_POINT = 27.0         # AB magnitude of one count, that of Rubin's DP0 coadds
TRIES = 3                 # candidate lenses drawn at a time for one object

# Colours (g-r, r-i, i-z, z-y) of a passive galaxy by redshift: their run is that of an old population reddening as the
# 4000 A break crosses the bands, their mean over the lenses is the published one (1.22, 0.98, 0.52, 0.30).
PASSIVE_REDSHIFT = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.4)
PASSIVE_COLOUR = ((0.70, 0.30, 0.20, 0.12), (1.02, 0.40, 0.27, 0.18), (1.42, 0.62, 0.34, 0.22), (1.38, 0.95, 0.43, 0.26),
                  (1.20, 1.17, 0.62, 0.33), (1.05, 1.12, 0.82, 0.42), (0.90, 0.95, 0.90, 0.60))
BLUE_COLOUR = (0.27, 0.17, 0.12, 0.10)         # of the published sources, before the Lyman break enters g
BLUE_SPREAD = (0.19, 0.15, 0.15, 0.17)
STAR_COLOUR = (0.55, 0.25, 0.12, 0.07)
STAR_SPREAD = (0.40, 0.40, 0.20, 0.10)         # along the stellar locus: one number moves all four

# Look-alikes: shares of the kinds in each domain. hsc follows the challenge's note (33 % spirals, 30 % luminous red
# galaxies with or without companions, 5 % rings and mergers, the rest a random field); slsim has no published mix.
KINDS = ("elliptical", "companions", "spiral", "ring", "edge_on", "merger", "star")
SHARES = {"slsim": (0.20, 0.27, 0.22, 0.09, 0.09, 0.10, 0.03), "hsc": (0.18, 0.27, 0.33, 0.06, 0.07, 0.07, 0.02)}

# Selection of lenses, Collett 2015 (ApJ 811, 20), section 4: the source is multiply imaged, the Einstein radius is
# resolved, the arcs are magnified more than 3 times, and their total signal-to-noise exceeds 20 in one band.
MAGNIFICATION = 3.0
SIGNAL_TO_NOISE = 20.0
SEEING = 0.75             # arcsec, typical full width of the coadds below
FOOTPRINT = {"slsim": (50.0, 74.0, -45.0, -27.0), "hsc": (30.0, 39.0, -6.5, -1.5)}    # RA and Dec ranges in degrees


@dataclass
class Component:
    """One patch of light. Lengths in arcsec, angles in radians; `ring_width` > 0 makes `radius` that of a ring."""
    flux: np.ndarray                # [5] counts
    x: float
    y: float
    radius: float
    index: float
    axis_ratio: float
    angle: float
    lensed: bool = False
    ring_width: float = 0.0
    arms: tuple[float, float, float, float, float] | None = None    # number, sharpness, pitch, phase, scale


@dataclass
class Scene:
    """One object on the sky: its light, the lens (None: nothing is lensed), the row for the parameter table."""
    domain: str
    label: int
    kind: str
    row: dict[str, float]
    lens: dict[str, float] | None
    components: list[Component] = field(default_factory=list)


def draw_scenes(generators: list[np.random.Generator], domains: list[str], labels: list[int],
                pixel_noise: Tensor) -> list[Scene]:
    """One Scene for each generator, a function of that generator's stream, domain and label alone.

    pixel_noise: of an empty pixel in counts, [5]; it decides which arcs are detectable.
    """
    lenses = draw_lenses(generators, pixel_noise)
    return [draw_scene(rng, domain, label, {name: value[i].item() if value.ndim == 1 else value[i].numpy()
                                            for name, value in lenses.items()})
            for i, (rng, domain, label) in enumerate(zip(generators, domains, labels))]


def draw_lenses(generators: list[np.random.Generator], noise: Tensor) -> dict[str, Tensor]:
    """The first detectable lens of each generator's stream: name -> [N], magnitudes [N, 5]; noise [5] in counts."""
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
    """Lens systems before selection from uniform numbers [..., 24]: name -> [...]; units as in the challenge's note."""
    u = uniform.clamp(1e-9, 1 - 1e-9).unbind(-1)
    n = torch.special.ndtri(uniform.clamp(1e-9, 1 - 1e-9)).unbind(-1)
    zlens = truncated_normal(u[0], 0.76, 0.28, 0.12, 1.5)
    zsrc = torch.maximum(truncated_normal(u[1], 2.3, 0.85, 0.5, 5.5), zlens + 0.25)
    dispersion = truncated_normal(u[2], 215, 68, 120, 420)
    einstein = 4 * torch.pi * (dispersion / cosmology.SPEED_OF_LIGHT) ** 2 / cosmology.ARCSEC \
        * cosmology.distance_ratio(zlens, zsrc)
    # Luminosity goes as dispersion^4 (Faber & Jackson 1976), dimming with redshift as over the published range.
    mag_i = 20.95 + 2.9 * (zlens - 0.7) - 6.0 * torch.log10(dispersion / 230) + 0.7 * n[3]
    size = 0.6 * torch.exp(-0.06 * (mag_i - 20.8) + 0.27 * n[4])
    q_light = truncated_normal(u[5], 0.74, 0.16, 0.3, 1.0)
    q_mass = (q_light + 0.07 * n[6]).clamp(0.35, 1.0)
    angle = 180 * u[7]
    # Counts rise as 10^(0.55 i), with the magnification bias that a lensed sample has; the selection cuts the faint end.
    mag_src = 25.9 + torch.log10(u[8]) / 0.55 + 0.15 * n[9]
    # The source lies anywhere within the Einstein radius, Collett's first condition.
    radius, phase = einstein * torch.sqrt(u[10]), 2 * torch.pi * u[11]
    return dict(
        zlens=zlens, zsrc=zsrc, vel_disp=dispersion, Rein=einstein, Reff_l=size, n_l_sers=truncated_normal(u[12], 4.0, 0.9, 2.0, 6.5),
        ell_l=1 - q_light, ell_l_PA=angle, ell_m=1 - q_mass, ell_m_PA=(angle + 10 * n[13]) % 180,
        sh=(-0.0194 * torch.log(u[14])).clamp(max=0.15), sh_PA=180 * u[15],
        srcx=radius * torch.cos(phase), srcy=radius * torch.sin(phase), ell_s=1 - truncated_normal(u[16], 0.5, 0.22, 0.15, 1.0),
        ell_s_PA=180 * u[17], Reff_s=0.1 * torch.exp(0.45 * n[18] - 0.08 * (mag_src - 24.3)).clamp(0.3, 4),
        n_s_sers=torch.exp(0.3 * n[19]).clamp(0.5, 3.0),
        mag_lens=magnitudes(mag_i, passive_colours(zlens) + 0.06 * n[20][..., None]),
        mag_src=magnitudes(mag_src, blue_colours(zsrc, n[21])))


def detectable(lens: dict[str, Tensor], noise: Tensor) -> Tensor:
    """Which candidates [N, T] pass the selection above; adds their total magnification `magnification`.

    noise: [5] of one pixel in counts. The signal-to-noise is that of a matched filter on the arcs as seen.
    """
    # A grid that scales with the lens: 36 points over 2.4 Einstein radii to each side.
    x, y = imaging.pixel_grid(36, 4.8 / 36)
    wide = {name: value.float()[..., None, None] for name, value in lens.items() if value.ndim == 2}
    x, y = x * wide["Rein"], y * wide["Rein"]
    brightness = light.brightness_sersic(*source_plane(x, y, wide), wide["srcx"], wide["srcy"], 1.0, wide["Reff_s"],
                                         wide["n_s_sers"], 1 - wide["ell_s"], torch.deg2rad(wide["ell_s_PA"]))
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
    return resolved & (lens["magnification"] > MAGNIFICATION) & (signal > SIGNAL_TO_NOISE) & (lens["vel_disp"] > 0)


def source_plane(x: Tensor, y: Tensor, lens: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Where the rays of image-plane points (arcsec) end for lenses with the columns of the challenge's table."""
    shear_angle = 2 * torch.deg2rad(lens["sh_PA"])
    return lensing.shoot_rays(
        x, y, lensing.deflection_sie(x, y, 0.0, 0.0, lens["Rein"], 1 - lens["ell_m"], torch.deg2rad(lens["ell_m_PA"])),
        lensing.deflection_shear(x, y, lens["sh"] * torch.cos(shear_angle), lens["sh"] * torch.sin(shear_angle)))


def seeing_matrix(step: Tensor) -> Tensor:
    """The Gaussian blur by the seeing along one axis of the grids of step [..., 1, 1] arcsec, as matrices."""
    i = torch.arange(36, dtype=step.dtype)
    sigma = SEEING / 2.3548
    kernel = torch.exp(-0.5 * ((i[:, None] - i) * step / sigma) ** 2)
    return kernel * step / (sigma * (2 * torch.pi) ** 0.5)


def draw_scene(rng: np.random.Generator, domain: str, label: int, lens: dict) -> Scene:
    """The scene of one object: this lens, or a look-alike made of the same galaxy and as much blue light."""
    body = counts(lens["mag_lens"])
    low, high, south, north = FOOTPRINT[domain]
    place = {"RA": rng.uniform(low, high), "Dec": rng.uniform(south, north)}
    arcs = counts(lens["mag_src"]) * lens["magnification"]
    if label == 1:
        scene = Scene(domain, 1, "lens", lens | place, lens, [centre(lens, body)] + source(rng, lens))
    else:
        kind = KINDS[int(np.searchsorted(np.cumsum(SHARES[domain])[:-1], rng.random(), side="right"))]
        components = LOOK_ALIKES[kind](rng, lens, body, arcs)
        row = place | {"z_central": lens["zlens"] if kind != "star" else 0.0, "mag_lens": lens["mag_lens"]}
        scene = Scene(domain, 0, kind, row, None, components)
    scene.components += neighbours(rng, lens)
    return scene


def centre(lens: dict, flux: np.ndarray) -> Component:
    return Component(flux, 0.0, 0.0, lens["Reff_l"], lens["n_l_sers"], 1 - lens["ell_l"], np.deg2rad(lens["ell_l_PA"]))


def source(rng: np.random.Generator, lens: dict) -> list[Component]:
    """The lensed galaxy: a disc and, in most, up to three knots of young stars, behind the same lens."""
    flux = counts(lens["mag_src"])
    q, angle, radius = 1 - lens["ell_s"], np.deg2rad(lens["ell_s_PA"]), lens["Reff_s"]
    share = rng.uniform(0, 0.4)
    parts = [Component(flux * (1 - share), lens["srcx"], lens["srcy"], radius, lens["n_s_sers"], q, angle, lensed=True)]
    count = int(rng.integers(1, 4))
    for _ in range(count):
        along, across = rng.normal(0, radius, 2) * (1 / np.sqrt(q), np.sqrt(q))
        x = lens["srcx"] + along * np.cos(angle) - across * np.sin(angle)
        y = lens["srcy"] + along * np.sin(angle) + across * np.cos(angle)
        parts.append(Component(flux * share / count, x, y, max(0.03, 0.3 * radius), 1.0, 0.9, 0.0, lensed=True))
    return parts


def elliptical(rng, lens, body, arcs):
    """A plain early-type galaxy; a third has an extended halo besides."""
    if rng.random() < 0.67:
        return [centre(lens, body)]
    halo = Component(0.3 * body, 0.0, 0.0, 2.5 * lens["Reff_l"], 1.2, 1 - 0.8 * lens["ell_l"],
                     np.deg2rad(lens["ell_l_PA"]))
    return [centre(lens, 0.7 * body), halo]


def companions(rng, lens, body, arcs):
    """An early-type galaxy with one to four companions at the radii of arcs; some stretched along the tangent."""
    parts = [centre(lens, body)]
    count = int(rng.choice(4, p=(0.35, 0.35, 0.2, 0.1))) + 1
    budget = arcs * np.exp(rng.normal(0, 0.4)) * rng.dirichlet(np.full(count, 1.5))[:, None]
    for flux in budget:
        radius, phase = lens["Rein"] * rng.uniform(0.8, 2.0), rng.uniform(0, 2 * np.pi)
        tangential = rng.random() < 0.35
        angle = phase + np.pi / 2 + rng.normal(0, 0.25) if tangential else rng.uniform(0, np.pi)
        q = rng.uniform(0.2, 0.5) if tangential else rng.uniform(0.3, 1.0)
        if rng.random() < 0.25:      # a red satellite instead of a blue one
            flux = body * (flux[2] / body[2])
        parts.append(Component(flux, radius * np.cos(phase), radius * np.sin(phase), rng.uniform(0.08, 0.35),
                               rng.uniform(0.7, 2.0), q, angle))
    return parts


def spiral(rng, lens, body, arcs):
    """A red bulge, a disc of intermediate colour and blue arms of two to four windings' pitch."""
    q, angle = rng.uniform(0.35, 1.0), rng.uniform(0, np.pi)
    bulge = rng.uniform(0.25, 0.75)
    size = max(0.45, lens["Reff_l"]) * rng.uniform(1.0, 2.0)
    arms = (float(rng.choice((1, 2, 2, 2, 3, 4))), rng.uniform(1.0, 6.0), np.deg2rad(rng.uniform(10, 35))
            * rng.choice((-1, 1)), rng.uniform(0, 2 * np.pi), 0.4 * size)
    faint = arms[:1] + (0.3 * arms[1],) + arms[2:]
    young = arcs * np.exp(rng.normal(0.4, 0.5))
    return [Component(bulge * body, 0.0, 0.0, 0.6 * lens["Reff_l"], rng.uniform(1.5, 4.0), max(q, 0.7), angle),
            Component((1 - bulge) * body, 0.0, 0.0, size, 1.0, q, angle, arms=faint),
            Component(young, 0.0, 0.0, 1.15 * size, rng.uniform(0.5, 1.0), q, angle, arms=arms)]


def ring(rng, lens, body, arcs):
    """An early-type galaxy in a blue ring, often knotted or open: rings of star formation, shells, polar rings."""
    radius = max(0.5, lens["Rein"]) * rng.uniform(0.8, 1.5)
    knots = (float(rng.choice((1, 1, 2, 2, 3, 5))), rng.uniform(0.0, 3.0), np.pi / 2, rng.uniform(0, 2 * np.pi), 0.05)
    parts = [centre(lens, body)]
    parts.append(Component(arcs * np.exp(rng.normal(0.1, 0.4)), rng.normal(0, 0.06), rng.normal(0, 0.06), radius, 1.0,
                           rng.uniform(0.35, 1.0), rng.uniform(0, np.pi), ring_width=radius * rng.uniform(0.06, 0.2),
                           arms=knots))
    return parts


def edge_on(rng, lens, body, arcs):
    """A disc seen edge-on, blue outside, with a bulge."""
    angle, bulge = rng.uniform(0, np.pi), rng.uniform(0.1, 0.6)
    q = rng.uniform(0.12, 0.28)
    size = lens["Reff_l"] * rng.uniform(0.8, 1.3)
    return [Component(bulge * body, 0.0, 0.0, 0.5 * lens["Reff_l"], rng.uniform(1.5, 4.0), 0.75, angle),
            Component((1 - bulge) * body, 0.0, 0.0, size, 1.0, q, angle),
            Component(arcs * np.exp(rng.normal(0.2, 0.4)), 0.0, 0.0, 1.4 * size, 0.8, 0.8 * q, angle)]


def merger(rng, lens, body, arcs):
    """Two nuclei and one or two blue tidal tails."""
    share, phase = rng.uniform(0.5, 0.85), rng.uniform(0, 2 * np.pi)
    apart = rng.uniform(0.5, 1.8)
    second = (apart * np.cos(phase), apart * np.sin(phase))
    tail = (float(rng.choice((1, 2))), rng.uniform(2.0, 6.0), np.deg2rad(rng.uniform(20, 50)) * rng.choice((-1, 1)),
            rng.uniform(0, 2 * np.pi), 0.5)
    parts = [centre(lens, share * body)]
    parts.append(Component((1 - share) * body, *second, lens["Reff_l"] * rng.uniform(0.4, 0.9), rng.uniform(1.0, 4.0),
                           rng.uniform(0.4, 1.0), rng.uniform(0, np.pi)))
    parts.append(Component(arcs * np.exp(rng.normal(0.2, 0.5)), 0.3 * second[0], 0.3 * second[1],
                           rng.uniform(0.8, 1.5), 0.7, rng.uniform(0.4, 0.9), rng.uniform(0, np.pi), arms=tail))
    return parts


def star(rng, lens, body, arcs):
    """One star as bright as the galaxy; every third has a second one near it."""
    parts = [point(stellar(rng, body[2]), 0.0, 0.0)]
    if rng.random() < 0.33:
        radius, phase = rng.uniform(0.6, 2.0), rng.uniform(0, 2 * np.pi)
        parts.append(point(stellar(rng, body[2] * rng.uniform(0.05, 0.8)), radius * np.cos(phase),
                           radius * np.sin(phase)))
    return parts


LOOK_ALIKES = dict(zip(KINDS, (elliptical, companions, spiral, ring, edge_on, merger, star)))


def neighbours(rng: np.random.Generator, lens: dict) -> list[Component]:
    """Unrelated galaxies and stars in and around the frame, the same for all classes.

    110 galaxies per square arcmin to i = 26 with counts rising as 10^(0.33 i): about HSC's deep counts.
    """
    half = SIZE * PIXEL_SCALE / 2 + 1.0
    area = (2 * half / 60) ** 2
    parts = []
    for _ in range(min(int(rng.poisson(110 * area)), 10)):
        mag = max(18.0, 26.0 + np.log10(1 - rng.random()) / 0.33)
        x, y = rng.uniform(-half, half, 2)
        if mag < 24 and np.hypot(x, y) < 2.0:       # it would be the central object, or part of it
            continue
        if rng.random() < 0.12 and mag < 24:
            parts.append(point(stellar(rng, float(light.flux_from_magnitude(torch.tensor(mag), ZERO_POINT))), x, y))
            continue
        red = rng.random() < 0.25
        colour = passive_colours(torch.tensor(rng.uniform(0.1, 1.2))) if red else \
            blue_colours(torch.tensor(rng.uniform(0.2, 2.5)), torch.tensor(rng.normal(1.0, 1.2)))
        size = min(1.2, 0.25 * 10 ** (-0.1 * (mag - 24)) * np.exp(rng.normal(0, 0.3)))
        parts.append(Component(counts(magnitudes(torch.tensor(mag), colour).numpy()), x, y, size,
                               rng.uniform(2, 4) if red else rng.uniform(0.7, 1.5), rng.uniform(0.25, 1.0),
                               rng.uniform(0, np.pi)))
    return parts


def point(flux: np.ndarray, x: float, y: float) -> Component:
    """A star: a Gaussian far narrower than the seeing, so that the grid of sub-pixels holds it."""
    return Component(flux, x, y, 0.06, 0.5, 1.0, 0.0)


def stellar(rng: np.random.Generator, flux_i: float) -> np.ndarray:
    """Counts [5] of a star with flux_i counts in i."""
    colour = torch.tensor(STAR_COLOUR) + torch.tensor(STAR_SPREAD) * float(np.clip(rng.normal(), -1, 2.5))
    return flux_i * counts(magnitudes(torch.tensor(ZERO_POINT), colour).numpy())


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
    """Colours [..., 4] of a star-forming galaxy: one normal number reddens it; beyond redshift 3.1 g loses light."""
    colour = torch.tensor(BLUE_COLOUR, dtype=redshift.dtype) \
        + torch.tensor(BLUE_SPREAD, dtype=redshift.dtype) * reddening[..., None]
    dropout = torch.zeros_like(colour)
    dropout[..., 0] = ((redshift - 3.1) * 0.8).clamp(0, 2)
    return colour + dropout


def truncated_normal(uniform: Tensor, mean: float, std: float, low: float, high: float) -> Tensor:
    """A normal number within [low, high] from a uniform one, by its quantile."""
    ends = torch.special.ndtr(torch.tensor([(low - mean) / std, (high - mean) / std], dtype=uniform.dtype))
    return mean + std * torch.special.ndtri(ends[0] + (ends[1] - ends[0]) * uniform)
