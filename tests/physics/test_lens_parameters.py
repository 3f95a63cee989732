"""Quantities of a lens system: components, columns, and how they turn with the image."""

import math

import pytest
import torch

from models.layers.augment import dihedral
from physics.imaging import pixel_grid
from physics.lens_model import SKY, components, observing_matrix
from physics.lens_parameters import GEOMETRY, QUANTITIES, decode, encode, rotate, slices, turn

DOUBLE = torch.float64


def geometry(count: int, seed: int = 0, dtype: torch.dtype = DOUBLE) -> dict[str, torch.Tensor]:
    """Typical systems: name -> [count, 1 or 2] components."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (
            torch.tensor(QUANTITIES[name].centre, dtype=dtype)
            + 0.7
            * torch.tensor(QUANTITIES[name].spread, dtype=dtype)
            * torch.randn(count, len(QUANTITIES[name].columns), generator=generator, dtype=dtype)
        )
        for name in GEOMETRY
    }


def image_of(parts: dict[str, torch.Tensor], size: int = 41) -> torch.Tensor:
    x, y = pixel_grid(size, 0.2, 2, dtype=DOUBLE)
    matrix = observing_matrix(size, 0.2, 0.75, 2).to(DOUBLE)
    return components(parts, x, y, matrix, matrix)[0]


@pytest.mark.parametrize("name", QUANTITIES)
def test_columns_go_to_components_and_back(name):
    columns = (
        torch.rand(50, len(QUANTITIES[name].columns), dtype=DOUBLE)
        * (torch.tensor([0.6, 180.0]) if QUANTITIES[name].kind == "axis" else 3)
        + 1e-3
    )
    components_ = encode(name, columns)
    values, errors = decode(name, components_, torch.full_like(components_, 1e-6))
    torch.testing.assert_close(values, columns)
    assert values.shape == errors.shape == columns.shape and (errors > 0).all()


def test_errors_are_those_of_many_draws():
    """Against the scatter of the columns of a million draws, where the first order holds."""
    mean, variance = torch.tensor([[0.25, -0.1]], dtype=DOUBLE), torch.tensor([[4e-4, 1e-4]], dtype=DOUBLE)
    drawn = mean + variance.sqrt() * torch.randn(
        1_000_000, 2, dtype=DOUBLE, generator=torch.Generator().manual_seed(1)
    )
    _, errors = decode("ell_m", mean, variance)
    columns, _ = decode("ell_m", drawn, variance)
    torch.testing.assert_close(errors[0], columns.std(0), rtol=0.02, atol=0)
    _, error = decode("Rein", torch.tensor([[0.1]], dtype=DOUBLE), torch.tensor([[1e-4]], dtype=DOUBLE))
    assert error.item() == pytest.approx(math.exp(0.1) * 0.01)
    # of no axis at all
    assert decode("sh", torch.zeros(1, 2), torch.ones(1, 2))[1][0, 1].item() == pytest.approx(
        180 / math.sqrt(12), rel=1e-5
    )


def test_what_cannot_be_is_not_known():
    assert encode("Rein", torch.tensor([[-1.0], [0.0], [float("nan")]])).isnan().all()


@pytest.mark.parametrize("k", range(8))
def test_quantities_turn_with_the_image(k):
    """The image of turned quantities is the turned image: the renderer knows nothing of symmetries."""
    parts = geometry(4)
    row = torch.cat([parts[name] for name in GEOMETRY], 1)
    symmetry = torch.full((4,), k)
    turned = turn(GEOMETRY, row, symmetry)
    again = {name: turned[:, place] for name, place in slices(GEOMETRY).items()}
    torch.testing.assert_close(image_of(again), dihedral(image_of(parts), symmetry), rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(turn(GEOMETRY, turned, symmetry, back=True), row)


def test_variances_only_change_places():
    variance = torch.rand(8, sum(len(QUANTITIES[name].columns) for name in GEOMETRY))
    k = torch.arange(8)
    turned = turn(GEOMETRY, variance, k, back=True, signed=False)
    assert (turned > 0).all() and torch.equal(turned.sort(1).values, variance.sort(1).values)
    assert torch.equal(turned[:4], variance[:4]) and not torch.equal(turned[4:], variance[4:])


def test_quantities_rotate_with_the_image():
    """Against the renderer again, which traces rays on axes turned the other way;
    a quarter is the symmetry that swaps and mirrors.
    """
    parts, angle = geometry(4), torch.tensor([0.3, -1.1, 2.0, math.pi / 2], dtype=DOUBLE)
    row = torch.cat([parts[name] for name in GEOMETRY], 1)
    rotated = rotate(GEOMETRY, row, angle)
    again = {name: rotated[:, place] for name, place in slices(GEOMETRY).items()}
    x, y = pixel_grid(41, 0.2, 1, dtype=DOUBLE)
    identity = torch.eye(41, dtype=DOUBLE)
    for i in range(4):
        c, s = angle[i].cos(), angle[i].sin()
        one, other = ({name: part[i : i + 1] for name, part in each.items()} for each in (parts, again))
        before = components(one, c * x + s * y, c * y - s * x, identity, identity)[0]
        torch.testing.assert_close(
            components(other, x, y, identity, identity)[0], before, rtol=1e-7, atol=1e-9
        )
    torch.testing.assert_close(rotate(GEOMETRY, rotated, -angle), row)
    quarter = torch.full((1,), 6)  # mirrors rows, then swaps: (x, y) -> (-y, x)
    torch.testing.assert_close(rotated[3:], turn(GEOMETRY, row[3:], quarter))


def test_variances_rotate_as_those_of_many_draws():
    mean, variance, angle = (torch.tensor([row], dtype=DOUBLE) for row in ([0.1, -0.2], [4e-4, 1e-4], [0.4]))
    drawn = mean + variance.sqrt() * torch.randn(
        400_000, 2, dtype=DOUBLE, generator=torch.Generator().manual_seed(1)
    )
    for name in ("ell_m", "x_l"):
        scatter = rotate((name,), drawn, angle[0].expand(len(drawn))).var(0)
        torch.testing.assert_close(
            rotate((name,), variance, angle[0], signed=False)[0], scatter, rtol=0.01, atol=0
        )


def test_the_image_of_a_system_against_lenstronomy():
    """Lens and lensed source of unit flux, without seeing: light at the centres of the sub-pixels of a 41 x
    41 cutout.
    """
    from lenstronomy.LensModel.lens_model import LensModel
    from lenstronomy.LightModel.light_model import LightModel
    from lenstronomy.Util.param_util import phi_q2_ellipticity

    from physics.lens_model import ellipse

    parts = geometry(3, seed=5)
    x, y = pixel_grid(41, 0.2, dtype=DOUBLE)
    x, y = x + 0.013, y - 0.007  # no pixel on the singular centre of the other package
    identity = torch.eye(41, dtype=DOUBLE)
    ours, _ = components(parts, x, y, identity, identity)
    p = {name: value.tolist() for name, value in parts.items()}
    for i in range(3):

        def shape(name, i=i):
            q, phi = (t.item() for t in ellipse(*parts[name][i]))
            return q, dict(zip(("e1", "e2"), phi_q2_ellipticity(phi, q)))

        x0, y0 = p["x_l"][i]
        place = dict(center_x=x0, center_y=y0)
        rays = LensModel(["SIE", "SHEAR"]).ray_shooting(
            x.numpy(),
            y.numpy(),
            [
                dict(theta_E=math.exp(p["Rein"][i][0])) | shape("ell_m")[1] | place,
                dict(gamma1=p["sh"][i][0], gamma2=p["sh"][i][1], ra_0=x0, dec_0=y0),
            ],
        )
        source = dict(center_x=x0 + p["srcx"][i][0], center_y=y0 + p["srcx"][i][1])
        for at, coordinates, where, light in (
            (0, (x.numpy(), y.numpy()), place, "l"),
            (1, rays, source, "s"),
        ):
            q, ellipticity = shape(f"ell_{light}")
            sersic = (
                dict(
                    amp=1.0,
                    R_sersic=math.exp(p[f"Reff_{light}"][i][0]),
                    n_sersic=math.exp(p[f"n_{light}_sers"][i][0]),
                )
                | ellipticity
                | where
            )
            theirs = torch.tensor(LightModel(["SERSIC_ELLIPSE"]).surface_brightness(*coordinates, [sersic]))
            scale = ours[i, at].sum() / theirs.sum()  # their amplitude is not a total flux
            # the softened core moves rays near the centre of the lens; b_n differs by 1e-3 between the two
            far = (x - x0) ** 2 + (y - y0) ** 2 > 0.15
            assert ((ours[i, at] - scale * theirs).abs()[far].max() / ours[i, at].max()).item() < 0.03
    assert torch.equal(ours[:, SKY], torch.ones(3, 41, 41, dtype=DOUBLE))


def test_seeing_keeps_the_flux_and_widens_as_a_gaussian():
    """A point in the middle: total flux 1, and the variance along an axis is that of the Gaussian and of the
    pixel.
    """
    size, scale, seeing, fine = 41, 0.2, 0.75, 2
    matrix = observing_matrix(size, scale, seeing, fine).to(DOUBLE)
    point = torch.zeros(size * fine, dtype=DOUBLE)
    point[size] = 1 / (scale / fine)  # brightness of one sub-pixel that holds flux 1, along one axis
    seen = matrix @ point
    at = (torch.arange(size, dtype=DOUBLE) - (size - 1) / 2) * scale
    middle = (seen * at).sum()
    assert seen.sum().item() == pytest.approx(1, abs=1e-6)
    assert middle.item() == pytest.approx(scale / fine / 2, abs=1e-6)
    expected = (seeing / math.sqrt(8 * math.log(2))) ** 2 + scale**2 / 12
    assert (seen * (at - middle) ** 2).sum().item() == pytest.approx(expected, rel=1e-4)


def test_fluxes_are_those_of_least_squares():
    """Against torch.linalg.lstsq, with weights; a band without weight has none."""
    from physics.lens_model import solve_fluxes

    basis = image_of(geometry(2, seed=3))
    image = (
        torch.randn(2, 3, 41, 41, dtype=DOUBLE, generator=torch.Generator().manual_seed(2))
        + 40 * basis[:, :1]
        + 5 * basis[:, 1:2]
    )
    weight = torch.rand(2, 3, 41, 41, dtype=DOUBLE)
    weight[:, 2] = 0
    flux, covariance = solve_fluxes(image, weight, basis)
    for b in range(2):
        for c in range(2):
            root = weight[b, c].flatten().sqrt()
            matrix = basis[b].flatten(1).T * root[:, None]
            theirs = torch.linalg.lstsq(matrix, (image[b, c].flatten() * root)[:, None]).solution[:, 0]
            spread = torch.linalg.inv(matrix.T @ matrix)
            torch.testing.assert_close(covariance[b, c].diagonal(), spread.diagonal(), rtol=2e-3, atol=0)
            # a ridge of 1e-4 keeps it solvable
            assert ((flux[b, c] - theirs).abs() < 0.05 * spread.diagonal().sqrt()).all()
    assert (flux[:, 2] == 0).all()


def test_gradients_of_the_image_are_finite_differences():
    parts = {name: value[:1].requires_grad_() for name, value in geometry(1, seed=7).items()}
    names = list(parts)
    x, y = pixel_grid(9, 0.5, dtype=DOUBLE)
    matrix = observing_matrix(9, 0.5, 0.75, 1).to(DOUBLE)
    assert torch.autograd.gradcheck(
        lambda *values: components(dict(zip(names, values)), x, y, matrix, matrix)[0],
        tuple(parts.values()),
        atol=1e-5,
    )
    with torch.no_grad():
        for name in ("ell_m", "ell_s", "ell_l", "sh", "srcx"):
            parts[name].zero_()  # a round lens has no angle, and still a gradient
    components(parts, x, y, matrix, matrix)[0].sum().backward()
    assert all(value.grad.isfinite().all() for value in parts.values())
