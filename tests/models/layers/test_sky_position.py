"""The sky-position encoding against SciPy's harmonics, the addition theorem, and what a sphere asks for."""

import math

import numpy as np
import pytest
import torch
from scipy.special import eval_legendre, sph_harm_y

from models.layers.sky_position import SkyPosition, spherical_harmonics, unit_vector


def positions(dtype=torch.float64, count: int = 300):
    """Directions even over the sphere, both poles and the seam of right ascension among them, in degrees."""
    z, ra = torch.rand(count, dtype=torch.float64) * 2 - 1, torch.rand(count, dtype=torch.float64) * 360
    dec = torch.rad2deg(torch.asin(z))
    ra[:6], dec[:6] = torch.tensor([0.0, 17, 0, 360, 359.999, 180]), torch.tensor([90.0, 90, -90, 0, 12, 45])
    return ra.to(dtype), dec.to(dtype)


@pytest.mark.parametrize(
    "dtype, degree, tolerance",
    [(torch.float64, 6, 1e-12), (torch.float64, 30, 1e-12), (torch.float32, 6, 2e-6)],
)
def test_harmonics_are_scipys(dtype, degree, tolerance):
    ra, dec = positions(dtype)
    ours = spherical_harmonics(*unit_vector(ra, dec), degree)
    assert ours.shape == (len(ra), (degree + 1) ** 2) and ours.dtype == dtype
    theta, phi = np.deg2rad(90 - dec.double().numpy()), np.deg2rad(ra.double().numpy())
    for l in range(degree + 1):  # noqa: E741
        for m in range(-l, l + 1):
            theirs = sph_harm_y(l, abs(m), theta, phi) * (-1) ** m  # theirs has the Condon-Shortley phase
            theirs = theirs.real if m == 0 else math.sqrt(2) * (theirs.real if m > 0 else theirs.imag)
            assert np.abs(ours[:, l * (l + 1) + m].double().numpy() - theirs).max() < tolerance, (l, m)


def test_addition_theorem():
    """Sum over m of Y_lm(a) Y_lm(b) = (2 l + 1) / (4 pi) P_l(a . b):
    it holds for every orthonormal basis, and for no other.
    """
    a, b = (torch.stack(unit_vector(*positions())) for _ in range(2))
    b = b[:, torch.randperm(b.shape[1])]
    products = spherical_harmonics(*a, 12) * spherical_harmonics(*b, 12)
    for l in range(13):  # noqa: E741
        expected = (2 * l + 1) / (4 * math.pi) * eval_legendre(l, (a * b).sum(0).numpy())
        assert np.abs(products[:, l * l : (l + 1) ** 2].sum(1).numpy() - expected).max() < 1e-12


def test_orthonormal_over_the_sphere():
    """By Gauss-Legendre quadrature in sin(Dec) and equal steps in RA, exact for these polynomials."""
    z, weight = (torch.from_numpy(t) for t in np.polynomial.legendre.leggauss(8))
    ra = torch.arange(16, dtype=torch.float64) * 22.5
    y = spherical_harmonics(
        *unit_vector(ra[None].expand(8, 16), torch.rad2deg(torch.asin(z))[:, None].expand(8, 16)), 6
    )
    gram = torch.einsum("tpi,tpj,t->ij", y, y, weight) * (2 * math.pi / 16)
    assert torch.allclose(gram, torch.eye(49, dtype=torch.float64), atol=1e-12)


def test_no_seam_in_right_ascension_and_none_at_the_poles():
    encode, there = SkyPosition(6), torch.ones(1, dtype=torch.bool)

    def at(ra, dec):
        return encode(torch.tensor([ra]), torch.tensor([dec]), there)

    assert torch.equal(at(0.0, -30.0), at(360.0, -30.0))
    assert (at(359.9999, -30.0) - at(0.0001, -30.0)).abs().max() < 1e-4  # 0.7 arcsec apart
    for pole in (90.0, -90.0):
        assert (at(0.0, pole) - at(137.0, pole)).abs().max() < 1e-5


def test_slopes_at_the_poles_are_finite():
    ra, dec = torch.tensor([10.0, 0.0], requires_grad=True), torch.tensor([90.0, -90.0], requires_grad=True)
    spherical_harmonics(*unit_vector(ra, dec), 6).square().sum().backward()
    assert ra.grad.isfinite().all() and dec.grad.isfinite().all()


def test_a_missing_position_is_zeros_whatever_stands_there():
    ra, dec = torch.tensor([10.0, float("nan"), 5.0]), torch.tensor([1.0, 1.0, float("inf")])
    code = SkyPosition(3)(ra, dec, torch.tensor([True, False, False]))
    assert (
        code.shape == (3, 16) and torch.equal(code[1:], torch.zeros(2, 16)) and code[0, 0] == pytest.approx(1)
    )
    assert code[0].square().sum() == pytest.approx(16, rel=1e-5)  # the same length everywhere on the sky


def test_degrees_that_cannot_be():
    with pytest.raises(ValueError, match="degree -1, expected 0 to 64"):
        SkyPosition(-1)
