"""Resampling against integrals in closed form, scipy and astropy.wcs: flux, positions, missing pixels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import dblquad
from scipy.ndimage import center_of_mass
from scipy.special import erf

from data.catalogues.resample import (
    cropped,
    overlaps,
    rescaled_pixel_scale,
    resampled,
)
from utils.mistake import Mistake

RNG = np.random.default_rng(0)
SIDES = st.integers(1, 40)


def by_loops(image, shape):
    """The integral over each footprint, pixel by pixel, in float64."""
    (height, width), new = image.shape, np.zeros(shape)
    for y, x in np.ndindex(*shape):
        for v, u in np.ndindex(height, width):
            tall = min((y + 1) * height / shape[0], v + 1) - max(y * height / shape[0], v)
            wide = min((x + 1) * width / shape[1], u + 1) - max(x * width / shape[1], u)
            new[y, x] += max(tall, 0) * max(wide, 0) * float(image[v, u])
    return new


@pytest.mark.parametrize(
    "old, new", [((5, 7), (3, 4)), ((3, 4), (5, 7)), ((6, 5), (4, 8)), ((1, 6), (3, 1)), ((4, 4), (4, 7))]
)
def test_is_the_integral_over_each_footprint(old, new):
    image = RNG.normal(size=old).astype(np.float32)
    assert np.allclose(resampled(image, new), by_loops(image, new), rtol=0, atol=1e-6)


@settings(deadline=None, max_examples=200)
@given(st.tuples(SIDES, SIDES), st.tuples(SIDES, SIDES), st.integers(0, 2**32 - 1))
def test_flux_stays_for_any_ratio(old, new, seed):
    images = np.random.default_rng(seed).exponential(size=(3, *old)).astype(np.float32)
    after = resampled(images, new)
    assert after.shape == (3, *new) and after.dtype == np.float32
    before = images.sum(axis=(1, 2), dtype=np.float64)
    assert np.allclose(after.sum(axis=(1, 2), dtype=np.float64), before, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    "old, new", [(64, 224), (127, 224), (127, 64), (64, 41), (41, 64), (101, 1), (1, 9), (4096, 63)]
)
def test_every_old_pixel_goes_somewhere_once(old, new):
    parts = overlaps(old, new)
    assert np.abs(parts.sum(axis=0, dtype=np.float64) - 1).max() < 1e-6
    assert np.allclose(parts.sum(axis=1), old / new, rtol=1e-6)


def test_whole_factors_are_sums_and_shares():
    images = RNG.integers(0, 1000, (2, 12, 8)).astype(np.float32)
    assert np.array_equal(resampled(images, (4, 4)), images.reshape(2, 4, 3, 4, 2).sum(axis=(2, 4)))
    assert np.array_equal(resampled(images, (24, 32)), np.repeat(np.repeat(images, 2, 1), 4, 2) / 8)


@pytest.mark.parametrize("new", [(64, 64), (20, 31), (7, 90)])
def test_a_constant_image_stays_one(new):
    assert np.allclose(
        resampled(np.full((41, 53), 3.0, np.float32), new), 3 * 41 * 53 / (new[0] * new[1]), rtol=1e-6
    )


@pytest.mark.parametrize("shape", [(41, 41), (64, 64)])
def test_nothing_changes_to_the_bit(shape):
    images = RNG.normal(size=(3, *shape)).astype(np.float32)
    images[0, 0, 0], images[1, 2, 3] = -0.0, np.nan
    assert resampled(images, shape) is images
    assert (
        np.shares_memory(cropped(images, shape[0]), images)
        and cropped(images, shape[0]).tobytes() == images.tobytes()
    )


def test_a_gaussian_agrees_with_its_integral():
    sigma, side, new = 2.5, 32, 12

    def image(count, size):
        edges = erf((np.arange(count + 1) * size - side / 2) / (sigma * 2**0.5)) / 2
        return np.outer(np.diff(edges), np.diff(edges)).astype(np.float32)

    fine, coarse = image(side, 1.0), image(new, side / new)
    in_a_pixel = dblquad(
        lambda y, x: np.exp(-(x * x + y * y) / (2 * sigma**2)) / (2 * np.pi * sigma**2), 0, 1, 0, 1
    )[0]
    assert in_a_pixel == pytest.approx(fine[16, 16], rel=1e-5)
    # the source is not constant within a pixel
    assert np.abs(resampled(fine, (new, new)) - coarse).max() < 0.03 * coarse.max()
    assert np.abs(resampled(fine, (16, 16)) - image(16, 2.0)).max() < 1e-7  # exact where edges meet


@pytest.mark.parametrize("new", [(20, 20), (33, 57), (128, 90)])
def test_a_point_source_keeps_flux_and_place(new):
    image = np.zeros((41, 41), np.float32)
    image[12, 30] = 5
    after = resampled(image, new)
    where = (np.array([12, 30]) + 0.5) * np.array(new) / 41 - 0.5
    assert after.sum(dtype=np.float64) == pytest.approx(5, rel=1e-6)
    tolerance = np.maximum(0.5, np.array(new) / 82)  # half of the larger pixel
    assert (np.abs(np.array(center_of_mass(after)) - where) <= tolerance).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("new", [(3, 3), (9, 10), (12, 12), (6, 8)])
def test_what_a_missing_pixel_touches_is_missing(bad, new):
    images = RNG.normal(size=(3, 6, 6)).astype(np.float32)
    images[1, 2, 4] = bad
    after, whole = resampled(images, new), resampled(np.where(np.isfinite(images), images, 0), new)
    touched = np.outer(overlaps(6, new[0])[:, 2] > 0, overlaps(6, new[1])[:, 4] > 0)
    assert np.array_equal(np.isnan(after[1]), touched) and not np.isnan(after[[0, 2]]).any()
    assert np.array_equal(after[1][~touched], whole[1][~touched]) and np.array_equal(
        after[[0, 2]], whole[[0, 2]]
    )


def test_any_leading_axes():
    images = RNG.normal(size=(2, 5, 9, 7)).astype(np.float32)
    after = resampled(images, (4, 5))
    assert after.shape == (2, 5, 4, 5) and np.array_equal(after[1, 3], resampled(images[1, 3], (4, 5)))


@pytest.mark.parametrize(
    "size, side, first",
    [(64, 64, 0), (64, 32, 16), (127, 41, 43), (64, 41, 11), (127, 64, 31), (5, 1, 2), (4, 1, 1)],
)
def test_crop_is_central(size, side, first):
    images = RNG.normal(size=(2, size, size)).astype(np.float32)
    assert np.array_equal(cropped(images, side), images[:, first : first + side, first : first + side])
    centre, old = first + (side - 1) / 2, (size - 1) / 2
    assert old - centre == (0 if (size - side) % 2 == 0 else 0.5)


@pytest.mark.parametrize("side", [0, -3, 42])
def test_crop_of_what_is_not_there(side):
    with pytest.raises(Mistake, match=f"to {side}x{side}: expected a side of 1 to 41"):
        cropped(np.zeros((2, 41, 50), np.float32), side)
    with pytest.raises(Mistake, match="at least one"):
        resampled(np.zeros((2, 41, 50), np.float32), (0, 3))


@pytest.mark.parametrize(
    "old, new", [((41, 41), (64, 64)), ((64, 64), (41, 41)), ((127, 99), (63, 200)), ((64, 64), (224, 224))]
)
def test_a_source_keeps_its_place(old, new):
    """Its distance from the image's edges, in widths and heights of the image."""
    height, width = np.indices(old)
    # wide: the centroid is exact
    image = np.exp(-((width - 21.4) ** 2 + (height - 18.7) ** 2) / (2 * 3.0**2)).astype(np.float32)
    before = np.array(center_of_mass(image.astype(np.float64)))
    after = np.array(center_of_mass(resampled(image, new).astype(np.float64)))
    pixels = (before + 0.5) / old * new - 0.5 - after
    assert np.hypot(*(pixels * old / new)) < 0.01


def test_pixel_scale_follows_the_area_of_a_pixel():
    cd = np.array([[-4.6e-5, 3e-6], [2e-6, 5.1e-5]])  # not square, rotated
    finer = cd / [33 / 50, 64 / 41]
    before, after = (3600 * abs(np.linalg.det(matrix)) ** 0.5 for matrix in (cd, finer))
    assert rescaled_pixel_scale(before, (41, 50), (64, 33)) == pytest.approx(after)
