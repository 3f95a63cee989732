"""What a deflection does to an image: Jacobian, magnification, critical curves and caustics,
enclosed convergence.

Each takes a lens as a function: `deflection` (x, y) -> (alpha_x, alpha_y) or `convergence` (x, y) -> kappa,
of coordinates in arcsec, point by point; for example lambda x, y: deflection_sie(x, y, ...) with the lenses'
quantities as [B, 1, 1]. Sums of lenses are sums of functions. Conventions: physics/lensing.py.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from physics.cosmology import gauss_legendre
from physics.lensing import rotate_back, shoot_rays

Deflection = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
# steps of regula falsi that bring a point of a critical curve from the chord of its pixel onto the curve
REFINE = 8
RADII, ANGLES = 32, 64  # nodes of the integral over a disc

# The sides of a grid cell: 0 top, 1 right, 2 bottom, 3 left, from corner to corner. For each of the 16
# patterns of corners that are inside (bit 0: top left, then clockwise),
# the sides that up to two segments join, with the inside at one hand always.
SIDES = ((0, 1), (1, 2), (2, 3), (3, 0))
NONE = (-1, -1)
CASES = (
    (NONE, NONE),
    ((0, 3), NONE),
    ((1, 0), NONE),
    ((1, 3), NONE),
    ((2, 1), NONE),
    ((0, 3), (2, 1)),
    ((2, 0), NONE),
    ((2, 3), NONE),
    ((3, 2), NONE),
    ((0, 2), NONE),
    ((1, 0), (3, 2)),
    ((1, 2), NONE),
    ((3, 1), NONE),
    ((0, 1), NONE),
    ((3, 0), NONE),
    (NONE, NONE),
)


def jacobian(deflection: Deflection, x: Tensor, y: Tensor) -> Tensor:
    """Jacobian of the lens mapping, d beta_i / d theta_j, [..., 2, 2] without unit, at the points x,
    y [...] (arcsec).

    Exact, by forward-mode differentiation: two evaluations for all points; it works without gradients and
    under them.
    """
    # a mesh's are views whose elements share memory, which duals may not
    x, y = x.contiguous(), y.contiguous()
    one = torch.ones_like(x)
    zero = torch.zeros_like(x)
    along_x = torch.func.jvp(deflection, (x, y), (one, zero))[1]
    along_y = torch.func.jvp(deflection, (x, y), (zero, one))[1]
    rows = [torch.stack([first, second], -1) for first, second in zip(along_x, along_y)]
    return torch.eye(2, dtype=x.dtype, device=x.device) - torch.stack(rows, -2)


def convergence_and_shear(mapping: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Convergence and the two components of the shear [...] (no unit) of a `jacobian` [..., 2, 2].

    Source: Schneider, Kochanek & Wambsganss 2006, part 1, eqs. 55 and 56.
    """
    xx, xy, yx, yy = mapping.flatten(-2).unbind(-1)
    return 1 - 0.5 * (xx + yy), 0.5 * (yy - xx), -0.5 * (xy + yx)


def magnification(mapping: Tensor) -> Tensor:
    """Signed magnification [...] of a `jacobian` [..., 2, 2]:
    negative where the parity is, infinite on critical curves.
    """
    return 1 / determinant(mapping)


def determinant(mapping: Tensor) -> Tensor:
    """det A [...], the inverse magnification."""
    xx, xy, yx, yy = mapping.flatten(-2).unbind(-1)
    return xx * yy - xy * yx


def stretch(mapping: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues 1 - kappa - gamma and 1 - kappa + gamma [...]:
    zero on the tangential and on the radial critical curve.
    """
    kappa, shear_1, shear_2 = convergence_and_shear(mapping)
    # The tiny number keeps the gradient finite where there is no shear.
    shear = torch.sqrt(shear_1**2 + shear_2**2 + 1e-24)
    return 1 - kappa - shear, 1 - kappa + shear


def contour(values: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Where `values` [B, H, W] on the grid x, y [H, W] are zero:
    segments [B, S, 2, 2] and which of them there are, [B, S] bool.

    A segment is (start, end) with (x, y) in the grid's unit; the negative side is at the same hand all along
    a curve. S is that of the longest curve; what is not there is zero. Linear between grid points,
    differentiable in values. Source: marching squares.
    """
    sides, there = _crossings(values, x, y)
    return _zero(sides, there), there


def critical_curves(
    deflection: Deflection, x: Tensor, y: Tensor, refine: int = REFINE
) -> tuple[Tensor, Tensor]:
    """Critical curves, det A = 0, of a batch of lenses on the grid x, y [H, W] in arcsec:
    segments [B, S, 2, 2] and [B, S] bool.

    As `contour`, whose points are then moved along the grid's lines onto the curve (`refine` steps). What is
    smaller than a cell is missed: the radial curve of a singular lens, which is at its core, should be.
    """
    sides, there = _crossings(determinant(jacobian(deflection, x, y)), x, y)
    before = None
    for _ in range(refine):
        point = _zero(sides, there)
        value = determinant(jacobian(deflection, point[..., 0], point[..., 1]))[..., None]
        new, (low, high) = torch.cat([point, value], -1), sides.unbind(-2)
        first = (value > 0) == (low[..., 2:] > 0)
        # Where the same corner moves twice, the other's value is halved (the Illinois rule),
        # so that both close in.
        again = torch.zeros_like(first) if before is None else first == before
        half = torch.where(again, torch.tensor([1, 1, 0.5], dtype=x.dtype, device=x.device), 1)
        sides = torch.stack([torch.where(first, new, low * half), torch.where(first, high * half, new)], -2)
        before = first
    return _zero(sides, there), there


def caustics(deflection: Deflection, segments: Tensor) -> Tensor:
    """The critical curves' `segments` [B, S, 2, 2] traced to the source plane, arcsec, in the same order."""
    x, y = segments.unbind(-1)
    return torch.stack(shoot_rays(x, y, deflection(x, y)), -1)


def einstein_radius_effective(deflection: Deflection, x: Tensor, y: Tensor) -> Tensor:
    """sqrt(A / pi) in arcsec, [B], of the area A inside the tangential critical curve on the grid x, y [H,
    W] (arcsec).

    Zero where there is none, NaN where the curve leaves the grid. The curve is linear between the grid's
    lines: the radius is off by about (step / radius)^2 / 30 of itself. Differentiable in the lens.
    """
    tangential = stretch(jacobian(deflection, x, y))[0]
    segments, _ = contour(tangential, x, y)
    (x1, y1), (x2, y2) = (end.unbind(-1) for end in segments.unbind(2))
    area = 0.5 * (x1 * y2 - x2 * y1).sum(1).abs()
    edge = torch.cat([tangential[:, 0], tangential[:, -1], tangential[:, :, 0], tangential[:, :, -1]], 1)
    return torch.where(
        (edge < 0).any(1), math.nan, torch.sqrt(torch.where(area > 0, area, 1) / math.pi) * (area > 0)
    )


def mean_convergence(
    convergence: Callable[[Tensor, Tensor], Tensor],
    radius: Tensor,
    x0: Tensor | float = 0.0,
    y0: Tensor | float = 0.0,
    axis_ratio: Tensor | float = 1.0,
    angle: Tensor | float = 0.0,
) -> Tensor:
    """Mean convergence [...] (no unit) inside a circle, or an ellipse of the same area, about (x0, y0).

    radius (that of the circle of equal area), x0, y0 in arcsec and [..., 1, 1], as the lenses' quantities;
    angle in radians. The nodes crowd towards the centre, so that convergences as steep as r^-1.6 are
    integrated to 1e-6.
    """
    nodes, weights = (part.to(radius) for part in gauss_legendre(RADII))
    share = 0.5 * (nodes + 1)
    around = torch.arange(ANGLES, dtype=radius.dtype, device=radius.device) * (2 * math.pi / ANGLES)
    # radius * share^4 takes out the cusp: 2 r dr / R^2 = 8 share^7 d(share).
    r = radius * share[:, None] ** 4
    along = r * torch.cos(around) / axis_ratio**0.5
    across = r * torch.sin(around) * axis_ratio**0.5
    dx, dy = rotate_back(along, across, angle)
    kappa = convergence(x0 + dx, y0 + dy).mean(-1)
    return (4 * weights * share**7 * kappa).sum(-1)


def _corners(values: Tensor) -> Tensor:
    """The four corners of each cell, clockwise from the top left: [..., H, W] -> [..., (H - 1)(W - 1), 4]."""
    corners = [values[..., :-1, :-1], values[..., :-1, 1:], values[..., 1:, 1:], values[..., 1:, :-1]]
    return torch.stack(corners, -1).flatten(-3, -2)


def _crossings(values: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The sides of cells that a contour crosses, [B, S, 2, 2, 3]:
    start and end of a segment, each side's two corners, (x, y, value).

    And which of them there are, [B, S] bool; S is that of the lens that has the most.
    """
    count = len(values)
    device = values.device
    corners = torch.stack(
        [_corners(x).expand(count, -1, -1), _corners(y).expand(count, -1, -1), _corners(values)], -1
    )
    case = ((corners[..., 2] < 0) * torch.tensor([1, 2, 4, 8], device=device)).sum(-1)
    ends = torch.tensor(CASES, device=device)[case]
    lens, cell, which = torch.nonzero(ends[..., 0] >= 0, as_tuple=True)
    side = torch.tensor(SIDES, device=device)[ends[lens, cell, which]]
    found = corners[lens[:, None, None], cell[:, None, None], side]

    numbers = torch.bincount(lens, minlength=count)
    longest = int(numbers.max()) if count else 0
    place = torch.arange(len(lens), device=device) - (numbers.cumsum(0) - numbers)[lens]
    packed = found.new_zeros(count * longest, 2, 2, 3).index_copy(0, lens * longest + place, found)
    return packed.reshape(count, longest, 2, 2, 3), torch.arange(longest, device=device) < numbers[:, None]


def _zero(sides: Tensor, there: Tensor) -> Tensor:
    """Where the value, linear between the corners of `sides` [B, S, 2, 2, 3], is zero: [B, S, 2, 2]."""
    low, high = sides.unbind(-2)
    share = low[..., 2:] / torch.where(there[..., None, None], low[..., 2:] - high[..., 2:], 1)
    return low[..., :2] + share * (high[..., :2] - low[..., :2])
