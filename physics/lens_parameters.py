"""The quantities that describe a lens system, under the strong-lens challenge's names,
and how they turn with the image.

A quantity has one or two columns in the challenge's tables, and as many components,
which are what a network infers:

    number      the column itself
    positive    its natural logarithm
    axis        (size, position angle in degrees): size cos 2 PA, size sin 2 PA,
                which are continuous through 0/180 degrees
    position    (x, y), as they are

Angles are from +x (columns of an image) towards +y (rows), lengths in arcsec,
ellipticities 1 - minor / major.
Source: Strong Lens Data Challenge, data release note of 25 August 2025, section 5.1; typical values:
    statistics of its training lenses.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

MAX_LOG = 30.0  # of the logarithm of a positive quantity, so that no inferred one overflows


class Quantity(NamedTuple):
    columns: tuple[str, ...]
    kind: str  # number, positive, axis or position
    centre: tuple[float, ...]  # typical components, until training has told
    spread: tuple[float, ...]
    meaning: str


def axis(size: str, angle: str, spread: float, meaning: str) -> Quantity:
    return Quantity((size, angle), "axis", (0.0, 0.0), (spread, spread), meaning)


def magnitudes(name: str, centre: float, spread: float, meaning: str) -> list[Quantity]:
    return [
        Quantity((f"{name}_{band}",), "number", (centre,), (spread,), f"{meaning}, AB, in {band}")
        for band in "grizy"
    ]


QUANTITIES = {
    quantity.columns[0]: quantity
    for quantity in (
        Quantity(("Rein",), "positive", (math.log(0.85),), (0.4,), "Einstein radius"),
        axis("ell_m", "ell_m_PA", 0.2, "ellipticity of the lens mass"),
        axis("sh", "sh_PA", 0.03, "external shear"),
        Quantity(
            ("srcx", "srcy"), "position", (0.0, 0.0), (0.3, 0.3), "position of the source behind the lens"
        ),
        Quantity(("Reff_s",), "positive", (math.log(0.1),), (0.5,), "half-light radius of the source"),
        Quantity(("n_s_sers",), "positive", (0.0,), (0.3,), "Sersic index of the source"),
        axis("ell_s", "ell_s_PA", 0.3, "ellipticity of the source"),
        Quantity(("Reff_l",), "positive", (math.log(0.6),), (0.35,), "half-light radius of the lens"),
        Quantity(("n_l_sers",), "positive", (math.log(4.0),), (0.3,), "Sersic index of the lens"),
        axis("ell_l", "ell_l_PA", 0.2, "ellipticity of the lens light"),
        Quantity(
            ("x_l", "y_l"),
            "position",
            (0.0, 0.0),
            (0.1, 0.1),
            "position of the lens from the middle of the image",
        ),
        Quantity(("zlens",), "number", (0.72,), (0.27,), "redshift of the lens"),
        Quantity(("zsrc",), "number", (2.4,), (0.81,), "redshift of the source"),
        Quantity(
            ("vel disp",), "positive", (math.log(235.0),), (0.23,), "velocity dispersion of the lens, km/s"
        ),
        *magnitudes("mag_lens", 21.0, 1.2, "magnitude of the lens"),
        *magnitudes("mag_src", 24.4, 0.8, "unlensed magnitude of the source"),
    )
}
# what an image needs
GEOMETRY = (
    "Rein",
    "ell_m",
    "sh",
    "srcx",
    "Reff_s",
    "n_s_sers",
    "ell_s",
    "Reff_l",
    "n_l_sers",
    "ell_l",
    "x_l",
)


def slices(names: tuple[str, ...]) -> dict[str, slice]:
    """Where the components of each quantity stand in a row of those of all `names`."""
    places = {}
    at = 0
    for name in names:
        width = len(QUANTITIES[name].columns)
        places[name] = slice(at, at + width)
        at += width
    return places


def columns_of(names: tuple[str, ...]) -> list[str]:
    """The columns of the quantities `names` in the challenge's tables, each followed by that of its error."""
    return [column for name in names for part in QUANTITIES[name].columns for column in (part, f"{part}_err")]


def encode(name: str, columns: Tensor) -> Tensor:
    """Components [..., 1 or 2] of a quantity from its columns [..., 1 or 2];
    NaN where the columns are impossible.
    """
    kind = QUANTITIES[name].kind
    if kind == "positive":
        return torch.where(columns > 0, columns, math.nan).log()
    if kind == "axis":
        size, angle = columns.unbind(-1)
        twice = 2 * torch.deg2rad(angle)
        return torch.stack([size * torch.cos(twice), size * torch.sin(twice)], -1)
    return columns


def decode(name: str, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Columns and their standard errors [..., 1 or 2] from the mean and variance of the components,
    to first order.

    Of a positive quantity the column is the median. Position angles are in [0, 180) degrees.
    """
    kind = QUANTITIES[name].kind
    error = variance.sqrt()
    if kind == "positive":
        median = mean.clamp(-MAX_LOG, MAX_LOG).exp()
        return median, median * error
    if kind == "axis":
        size = mean.square().sum(-1).sqrt()
        along = (mean.square() * variance).sum(-1).sqrt() / size.clamp(min=1e-12)
        across = torch.where(
            size > 1e-6,
            (mean.square() * variance.flip(-1)).sum(-1).sqrt() / size.clamp(min=1e-12),
            variance.mean(-1).sqrt(),
        )
        angle = torch.rad2deg(0.5 * torch.atan2(mean[..., 1], mean[..., 0])) % 180
        # no worse than knowing nothing
        angle_error = torch.rad2deg(0.5 * across / size.clamp(min=1e-12)).clamp(max=180 / math.sqrt(12))
        return torch.stack([size, angle], -1), torch.stack([along, angle_error], -1)
    return mean, error


def turn(
    names: tuple[str, ...], components: Tensor, k: Tensor, back: bool = False, signed: bool = True
) -> Tensor:
    """Components [B, P] of what is seen in images turned by symmetry `k` [B] of the square
    (models/layers/augment.py), or turned `back`.

    signed: False for variances, which only change places.
    """
    mirror_x, mirror_y, swap = ((k >> bit & 1).bool() for bit in range(3))
    parts = []
    for name, place in slices(names).items():
        part = components[:, place]
        if QUANTITIES[name].kind == "axis" and signed:
            first = torch.where(swap, -part[:, 0], part[:, 0])
            second = torch.where(mirror_x ^ mirror_y, -part[:, 1], part[:, 1])
            part = torch.stack([first, second], 1)
        if QUANTITIES[name].kind == "position":
            if back:
                part = torch.where(swap[:, None], part.flip(1), part)
            if signed:
                part = torch.where(torch.stack([mirror_x, mirror_y], 1), -part, part)
            if not back:
                part = torch.where(swap[:, None], part.flip(1), part)
        parts.append(part)
    return torch.cat(parts, 1)


def rotate(names: tuple[str, ...], components: Tensor, angle: Tensor, signed: bool = True) -> Tensor:
    """Components [B, P] of what is seen in images rotated by `angle` [B] radians, from +x towards +y.

    signed: False for variances, whose two components are taken as independent before and after.
    """
    parts = []
    for name, place in slices(names).items():
        part = components[:, place]
        kind = QUANTITIES[name].kind
        if kind in ("axis", "position"):
            by = 2 * angle if kind == "axis" else angle
            c, s, (x, y) = by.cos(), by.sin(), part.unbind(1)
            part = torch.stack(
                [c * x - s * y, s * x + c * y] if signed else [c * c * x + s * s * y, s * s * x + c * c * y],
                1,
            )
        parts.append(part)
    return torch.cat(parts, 1)
