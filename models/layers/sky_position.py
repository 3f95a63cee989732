"""Where on the sky an object is, as smooth functions of its direction: real spherical harmonics.

Right ascension jumps from 360 to 0 degrees and means nothing at the poles; the harmonics are polynomials of
the unit vector and know of neither. A network gives them weights and so learns any smooth map of the sky,
such as depth, dust or seeing.
"""

import math

import torch
from torch import Tensor, nn


def unit_vector(ra: Tensor, dec: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The direction (x, y, z) of right ascension and declination in degrees;
    any number of full turns in `ra` is the same.
    """
    ra, dec = torch.deg2rad(torch.remainder(ra, 360)), torch.deg2rad(dec)
    return torch.cos(dec) * torch.cos(ra), torch.cos(dec) * torch.sin(ra), torch.sin(dec)


def spherical_harmonics(x: Tensor, y: Tensor, z: Tensor, degree: int) -> Tensor:
    """Real orthonormal harmonics of the unit vector (x, y, z), [...] each -> [..., (degree + 1)^2],
    without the Condon-Shortley phase.

    Y_lm is at l (l + 1) + m: sqrt(2) N_lm P_l^m(z) times cos(m RA) for m > 0 and sin(|m| RA) for m < 0.
    The Legendre functions are divided by cos(Dec)^m, which (x + i y)^m brings back:
    no division is left that a pole could spoil.

    Source: recurrence in l at fixed m, fully normalised: Holmes & Featherstone 2002, J. Geodesy 76, 279, eqs.
        11 to 13.
    """
    columns: dict[tuple[int, int], Tensor] = {}
    # of m RA, times cos(Dec)^m
    cosine = torch.ones_like(z)
    sine = torch.zeros_like(z)
    diagonal = math.sqrt(1 / (4 * math.pi))  # N_mm P_m^m / cos(Dec)^m, a constant
    for m in range(degree + 1):
        if m:
            cosine, sine = x * cosine - y * sine, x * sine + y * cosine
            diagonal *= math.sqrt((2 * m + 1) / (2 * m))
        before = torch.zeros_like(z)
        now = torch.full_like(z, diagonal)
        for l in range(m, degree + 1):  # noqa: E741  the field's letter
            if l > m:
                back = math.sqrt(((l - 1) ** 2 - m * m) / (4 * (l - 1) ** 2 - 1))
                before, now = now, math.sqrt((4 * l * l - 1) / (l * l - m * m)) * (z * now - back * before)
            columns[l, m] = math.sqrt(2) * now * cosine if m else now
            if m:
                columns[l, -m] = math.sqrt(2) * now * sine
    return torch.stack([columns[l, m] for l in range(degree + 1) for m in range(-l, l + 1)], -1)  # noqa: E741


class SkyPosition(nn.Module):
    """(ra [B], dec [B] in degrees, present [B] bool) -> [B, width]:
    harmonics up to `degree`, zeros where the position is missing.

    They are scaled to mean square 1 over the sky, as other standardised inputs are; the first, which is then
    1, says that a position is known. Details smaller than 180 / degree degrees are not resolved.

    Raises ValueError for a degree that is negative or above 64, where nothing that a survey knows of its
    fields is left to learn.
    """

    def __init__(self, degree: int = 6):
        super().__init__()
        if not 0 <= degree <= 64:
            raise ValueError(f"sky position: got degree {degree}, expected 0 to 64")
        self.degree = degree
        self.width = (degree + 1) ** 2

    def forward(self, ra: Tensor, dec: Tensor, present: Tensor) -> Tensor:
        direction = unit_vector(torch.where(present, ra, 0.0), torch.where(present, dec, 0.0))
        return math.sqrt(4 * math.pi) * spherical_harmonics(*direction, self.degree) * present[:, None]

    def extra_repr(self) -> str:
        return f"degree={self.degree}"
