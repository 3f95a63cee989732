"""What is on the sky of the simulated lens challenge: lenses, look-alikes and their neighbours.

A look-alike starts from a lens too: the same galaxy, and the flux and colour of the same arcs given to arms,
rings or companions. So brightness and colour tell the classes apart no better than they do on the sky after a
target selection.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from simulations.challenge.lenses import (
    PIXEL_SCALE,
    ZERO_POINT,
    blue_colours,
    counts,
    draw_lenses,
    magnitudes,
    passive_colours,
)

SIZE = 41  # pixels of an image's side

STAR_COLOUR = (0.55, 0.25, 0.12, 0.07)
STAR_SPREAD = (0.40, 0.40, 0.20, 0.10)  # along the stellar locus: one number moves all four

# Look-alikes: shares of the kinds in each domain. hsc follows the challenge's note (33 % spirals, 30 %
# luminous red galaxies with or without companions, 5 % rings and mergers, the rest a random field);
# slsim has no published mix.
KINDS = ("elliptical", "companions", "spiral", "ring", "edge_on", "merger", "star")
SHARES = {
    "slsim": (0.20, 0.27, 0.22, 0.09, 0.09, 0.10, 0.03),
    "hsc": (0.18, 0.27, 0.33, 0.06, 0.07, 0.07, 0.02),
}

# RA and Dec ranges in degrees
FOOTPRINT = {"slsim": (50.0, 74.0, -45.0, -27.0), "hsc": (30.0, 39.0, -6.5, -1.5)}


@dataclass(frozen=True)
class Component:
    """One patch of light. Lengths in arcsec, angles in radians;
    `ring_width` > 0 makes `radius` that of a ring.
    """

    flux: np.ndarray  # [5] counts
    x: float
    y: float
    radius: float
    index: float
    axis_ratio: float
    angle: float
    lensed: bool = False
    ring_width: float = 0.0
    arms: tuple[float, float, float, float, float] | None = None  # number, sharpness, pitch, phase, scale


@dataclass(frozen=True)
class Scene:
    """One object on the sky: its light, the lens (None:
    nothing is lensed), the row for the parameter table.
    """

    domain: str
    label: int
    kind: str
    row: dict[str, float]
    lens: dict[str, float] | None
    components: list[Component]


def draw_scenes(
    generators: list[np.random.Generator], domains: list[str], labels: list[int], pixel_noise: Tensor
) -> list[Scene]:
    """One Scene for each generator, a function of that generator's stream, domain and label alone.

    pixel_noise: of an empty pixel in counts, [5]; it decides which arcs are detectable.
    """
    lenses = draw_lenses(generators, pixel_noise)
    return [
        draw_scene(
            rng,
            domain,
            label,
            {
                name: value[i].item() if value.ndim == 1 else value[i].numpy()
                for name, value in lenses.items()
            },
        )
        for i, (rng, domain, label) in enumerate(zip(generators, domains, labels))
    ]


def draw_scene(rng: np.random.Generator, domain: str, label: int, lens: dict) -> Scene:
    """The scene of one object: this lens, or a look-alike made of the same galaxy and as much blue light."""
    body = counts(lens["mag_lens"])
    low, high, south, north = FOOTPRINT[domain]
    place = {"RA": rng.uniform(low, high), "Dec": rng.uniform(south, north)}
    arcs = counts(lens["mag_src"]) * lens["magnification"]
    if label == 1:
        kind = "lens"
        row = place | lens
        parts = [centre(lens, body)] + source(rng, lens)
    else:
        kind = KINDS[int(np.searchsorted(np.cumsum(SHARES[domain])[:-1], rng.random(), side="right"))]
        parts = LOOK_ALIKES[kind](rng, lens, body, arcs)
        row = place | {"z_central": lens["zlens"] if kind != "star" else 0.0, "mag_lens": lens["mag_lens"]}
    return Scene(domain, label, kind, row, lens if label else None, parts + neighbours(rng))


def centre(lens: dict, flux: np.ndarray) -> Component:
    return Component(
        flux, 0.0, 0.0, lens["Reff_l"], lens["n_l_sers"], 1 - lens["ell_l"], np.deg2rad(lens["ell_l_PA"])
    )


def source(rng: np.random.Generator, lens: dict) -> list[Component]:
    """The lensed galaxy: a disc and, in most, up to three knots of young stars, behind the same lens."""
    flux = counts(lens["mag_src"])
    q = 1 - lens["ell_s"]
    angle = np.deg2rad(lens["ell_s_PA"])
    radius = lens["Reff_s"]
    share = rng.uniform(0, 0.4)
    parts = [
        Component(
            flux * (1 - share), lens["srcx"], lens["srcy"], radius, lens["n_s_sers"], q, angle, lensed=True
        )
    ]
    count = int(rng.integers(1, 4))
    for _ in range(count):
        along, across = rng.normal(0, radius, 2) * (1 / np.sqrt(q), np.sqrt(q))
        x = lens["srcx"] + along * np.cos(angle) - across * np.sin(angle)
        y = lens["srcy"] + along * np.sin(angle) + across * np.cos(angle)
        parts.append(
            Component(flux * share / count, x, y, max(0.03, 0.3 * radius), 1.0, 0.9, 0.0, lensed=True)
        )
    return parts


def elliptical(rng, lens, body, arcs):
    """A plain early-type galaxy; a third has an extended halo besides."""
    if rng.random() < 0.67:
        return [centre(lens, body)]
    halo = Component(
        0.3 * body, 0.0, 0.0, 2.5 * lens["Reff_l"], 1.2, 1 - 0.8 * lens["ell_l"], np.deg2rad(lens["ell_l_PA"])
    )
    return [centre(lens, 0.7 * body), halo]


def companions(rng, lens, body, arcs):
    """An early-type galaxy with one to four companions at the radii of arcs;
    some stretched along the tangent.
    """
    parts = [centre(lens, body)]
    count = int(rng.choice(4, p=(0.35, 0.35, 0.2, 0.1))) + 1
    budget = arcs * np.exp(rng.normal(0, 0.4)) * rng.dirichlet(np.full(count, 1.5))[:, None]
    for flux in budget:
        radius = lens["Rein"] * rng.uniform(0.8, 2.0)
        phase = rng.uniform(0, 2 * np.pi)
        tangential = rng.random() < 0.35
        angle = phase + np.pi / 2 + rng.normal(0, 0.25) if tangential else rng.uniform(0, np.pi)
        q = rng.uniform(0.2, 0.5) if tangential else rng.uniform(0.3, 1.0)
        if rng.random() < 0.25:  # a red satellite instead of a blue one
            flux = body * (flux[2] / body[2])
        parts.append(
            Component(
                flux,
                radius * np.cos(phase),
                radius * np.sin(phase),
                rng.uniform(0.08, 0.35),
                rng.uniform(0.7, 2.0),
                q,
                angle,
            )
        )
    return parts


def spiral(rng, lens, body, arcs):
    """A red bulge, a disc of intermediate colour and blue arms of two to four windings' pitch."""
    q, angle = rng.uniform(0.35, 1.0), rng.uniform(0, np.pi)
    bulge = rng.uniform(0.25, 0.75)
    size = max(0.45, lens["Reff_l"]) * rng.uniform(1.0, 2.0)
    arms = (
        float(rng.choice((1, 2, 2, 2, 3, 4))),
        rng.uniform(1.0, 6.0),
        np.deg2rad(rng.uniform(10, 35)) * rng.choice((-1, 1)),
        rng.uniform(0, 2 * np.pi),
        0.4 * size,
    )
    faint = arms[:1] + (0.3 * arms[1],) + arms[2:]
    young = arcs * np.exp(rng.normal(0.4, 0.5))
    return [
        Component(bulge * body, 0.0, 0.0, 0.6 * lens["Reff_l"], rng.uniform(1.5, 4.0), max(q, 0.7), angle),
        Component((1 - bulge) * body, 0.0, 0.0, size, 1.0, q, angle, arms=faint),
        Component(young, 0.0, 0.0, 1.15 * size, rng.uniform(0.5, 1.0), q, angle, arms=arms),
    ]


def ring(rng, lens, body, arcs):
    """An early-type galaxy in a blue ring, often knotted or open:
    rings of star formation, shells, polar rings.
    """
    radius = max(0.5, lens["Rein"]) * rng.uniform(0.8, 1.5)
    knots = (
        float(rng.choice((1, 1, 2, 2, 3, 5))),
        rng.uniform(0.0, 3.0),
        np.pi / 2,
        rng.uniform(0, 2 * np.pi),
        0.05,
    )
    parts = [centre(lens, body)]
    parts.append(
        Component(
            arcs * np.exp(rng.normal(0.1, 0.4)),
            rng.normal(0, 0.06),
            rng.normal(0, 0.06),
            radius,
            1.0,
            rng.uniform(0.35, 1.0),
            rng.uniform(0, np.pi),
            ring_width=radius * rng.uniform(0.06, 0.2),
            arms=knots,
        )
    )
    return parts


def edge_on(rng, lens, body, arcs):
    """A disc seen edge-on, blue outside, with a bulge."""
    angle, bulge = rng.uniform(0, np.pi), rng.uniform(0.1, 0.6)
    q = rng.uniform(0.12, 0.28)
    size = lens["Reff_l"] * rng.uniform(0.8, 1.3)
    return [
        Component(bulge * body, 0.0, 0.0, 0.5 * lens["Reff_l"], rng.uniform(1.5, 4.0), 0.75, angle),
        Component((1 - bulge) * body, 0.0, 0.0, size, 1.0, q, angle),
        Component(arcs * np.exp(rng.normal(0.2, 0.4)), 0.0, 0.0, 1.4 * size, 0.8, 0.8 * q, angle),
    ]


def merger(rng, lens, body, arcs):
    """Two nuclei and one or two blue tidal tails."""
    share, phase = rng.uniform(0.5, 0.85), rng.uniform(0, 2 * np.pi)
    apart = rng.uniform(0.5, 1.8)
    second = (apart * np.cos(phase), apart * np.sin(phase))
    tail = (
        float(rng.choice((1, 2))),
        rng.uniform(2.0, 6.0),
        np.deg2rad(rng.uniform(20, 50)) * rng.choice((-1, 1)),
        rng.uniform(0, 2 * np.pi),
        0.5,
    )
    parts = [centre(lens, share * body)]
    parts.append(
        Component(
            (1 - share) * body,
            *second,
            lens["Reff_l"] * rng.uniform(0.4, 0.9),
            rng.uniform(1.0, 4.0),
            rng.uniform(0.4, 1.0),
            rng.uniform(0, np.pi),
        )
    )
    parts.append(
        Component(
            arcs * np.exp(rng.normal(0.2, 0.5)),
            0.3 * second[0],
            0.3 * second[1],
            rng.uniform(0.8, 1.5),
            0.7,
            rng.uniform(0.4, 0.9),
            rng.uniform(0, np.pi),
            arms=tail,
        )
    )
    return parts


def star(rng, lens, body, arcs):
    """One star as bright as the galaxy; every third has a second one near it."""
    parts = [point(stellar(rng, body[2]), 0.0, 0.0)]
    if rng.random() < 0.33:
        radius, phase = rng.uniform(0.6, 2.0), rng.uniform(0, 2 * np.pi)
        parts.append(
            point(
                stellar(rng, body[2] * rng.uniform(0.05, 0.8)), radius * np.cos(phase), radius * np.sin(phase)
            )
        )
    return parts


LOOK_ALIKES = dict(zip(KINDS, (elliptical, companions, spiral, ring, edge_on, merger, star)))


def neighbours(rng: np.random.Generator) -> list[Component]:
    """Unrelated galaxies and stars in and around the frame, the same for all classes.

    110 galaxies per square arcmin to i = 26 with counts rising as 10^(0.33 i): about HSC's deep counts.
    """
    half = SIZE * PIXEL_SCALE / 2 + 1.0
    area = (2 * half / 60) ** 2
    parts = []
    for _ in range(min(int(rng.poisson(110 * area)), 10)):
        mag = max(18.0, 26.0 + np.log10(1 - rng.random()) / 0.33)
        x, y = rng.uniform(-half, half, 2)
        if mag < 24 and np.hypot(x, y) < 2.0:  # it would be the central object, or part of it
            continue
        if rng.random() < 0.12 and mag < 24:
            parts.append(point(stellar(rng, counts(mag)), x, y))
            continue
        red = rng.random() < 0.25
        colour = (
            passive_colours(torch.tensor(rng.uniform(0.1, 1.2)))
            if red
            else blue_colours(torch.tensor(rng.uniform(0.2, 2.5)), torch.tensor(rng.normal(1.0, 1.2)))
        )
        size = min(1.2, 0.25 * 10 ** (-0.1 * (mag - 24)) * np.exp(rng.normal(0, 0.3)))
        parts.append(
            Component(
                counts(magnitudes(torch.tensor(mag), colour).numpy()),
                x,
                y,
                size,
                rng.uniform(2, 4) if red else rng.uniform(0.7, 1.5),
                rng.uniform(0.25, 1.0),
                rng.uniform(0, np.pi),
            )
        )
    return parts


def point(flux: np.ndarray, x: float, y: float) -> Component:
    """A star: a Gaussian far narrower than the seeing, so that the grid of sub-pixels holds it."""
    return Component(flux, x, y, 0.06, 0.5, 1.0, 0.0)


def stellar(rng: np.random.Generator, flux_i: float) -> np.ndarray:
    """Counts [5] of a star with flux_i counts in i."""
    colour = torch.tensor(STAR_COLOUR) + torch.tensor(STAR_SPREAD) * float(np.clip(rng.normal(), -1, 2.5))
    return flux_i * counts(magnitudes(torch.tensor(ZERO_POINT), colour).numpy())
