"""The peak finder against objects at known places, scipy's maximum filter, and what Gaussian fields do."""

import math

import numpy as np
import pytest
import torch
from astropy.modeling.models import Gaussian2D, Moffat2D
from scipy import ndimage

from models.layers.peaks import CENTRAL, COARSE, FINE, WINDOW, find_peaks


def noise(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def sky(
    kind: str, places: list[tuple[float, float]], heights: list[float], H: int = 41, W: int = 41
) -> torch.Tensor:
    """[1, H, W]: objects as wide as a seeing of 0.74 arcsec, noise-free."""
    y, x = np.mgrid[:H, :W]
    image = np.zeros((H, W))
    for (x0, y0), height in zip(places, heights, strict=True):
        profile = (
            Gaussian2D(height, x0, y0, 1.57, 1.57)
            if kind == "gaussian"
            else Moffat2D(height, x0, y0, 3.7 / 2 / math.sqrt(2 ** (1 / 3) - 1), 3)
        )
        image += profile(x, y)
    return torch.from_numpy(image).float()[None]


@pytest.mark.parametrize("kind", ["gaussian", "moffat"])
def test_bright_objects_are_where_they_are(kind):
    rng = np.random.default_rng(0)
    radius, angle = rng.uniform(8, 16, 300), rng.uniform(0, 2 * np.pi, 300)  # clear of the central object
    true = np.stack([20 + radius * np.cos(angle), 20 + radius * np.sin(angle)], 1)
    central = 20 + rng.uniform(-0.5, 0.5, (300, 2))
    image = torch.stack(
        [
            sky(kind, [tuple(c), tuple(t)], [40.0, h])
            for c, t, h in zip(central, true, rng.uniform(8, 40, 300), strict=True)
        ]
    )
    peaks = find_peaks(image + noise(1, 300, 1, 41, 41))
    distance, which = (
        (peaks.position[:, 1:] - torch.from_numpy(true)[:, None])
        .norm(dim=2)
        .masked_fill(~peaks.mask[:, 1:], torch.inf)
        .min(1)
    )
    bright = peaks.snr[:, 1:].gather(1, which[:, None])[:, 0] > 20
    error = distance[bright]
    assert distance.max() < 1 and bright.float().mean() > 0.7
    assert error.quantile(0.95) < 0.2 and error.max() < 0.4 and error.median() < 0.1
    assert (peaks.position[:, 0] - torch.from_numpy(central)).norm(dim=1).quantile(0.95) < 0.2


def test_flux_is_that_under_the_smoothing_kernel():
    """A Gaussian of width s under one of width FINE is lower by s^2 / (s^2 + FINE^2)."""
    peaks = find_peaks(
        torch.stack([sky("gaussian", [(30, 12)], [height])[0] for height in (100.0, 200.0)])[None]
        + 0.01 * noise(0, 1, 2, 41, 41)
    )
    expected = 1.57**2 / (1.57**2 + FINE**2) * torch.tensor([100.0, 200.0])
    assert torch.allclose(peaks.flux[0, 1], expected, rtol=0.01)
    assert peaks.position[0, 1].tolist() == pytest.approx([30, 12], abs=0.02)


def test_peaks_are_those_of_scipy_maximum_filter():
    """Each step by scipy, in double, on an image with no two objects opposite each other."""
    places = [(8.3, 30.1), (30.4, 25.2), (20.0, 34.8), (12.5, 6.0), (20, 20)]
    image = (sky("moffat", places, [30.0, 20.0, 9.0, 60.0, 80.0]) + noise(5, 1, 41, 41)).double()[0].numpy()
    image -= np.median(image)

    def smooth(sigma):
        return ndimage.gaussian_filter(image, sigma, mode="mirror", truncate=math.ceil(3 * sigma) / sigma)

    band = smooth(FINE) - smooth(COARSE)
    band /= 1.4826 * np.median(np.abs(band))
    beside = band - np.clip(np.minimum(band, band[::-1, ::-1]), 0, None)
    y, x = np.mgrid[:41, :41]
    near = np.hypot(x - 20, y - 20) <= CENTRAL
    highest = (beside == ndimage.maximum_filter(beside, WINDOW)) & (beside > 3.5) & ~near
    highest[[0, -1]] = highest[:, [0, -1]] = False
    theirs = sorted(zip(beside[highest], x[highest], y[highest], strict=True), reverse=True)
    peaks = find_peaks(torch.from_numpy(image)[None, None])
    ours = peaks.position[0, 1:][peaks.mask[0, 1:]]
    assert len(theirs) == len(ours) >= 4
    assert peaks.snr[0, 1 : len(theirs) + 1].tolist() == pytest.approx(
        [height for height, *_ in theirs], rel=1e-4
    )
    assert ours.numpy() == pytest.approx(np.array([place for _, *place in theirs]), abs=0.5 + 1e-6)


def test_false_peaks_are_as_rare_as_said_and_as_gaussian_fields_allow():
    """Fewer than the expected Euler characteristic above u (Adler 1981):
    area l u exp(-u^2 / 2) (2 pi)^(-3/2), l = variance of the slope.

    Pixels miss some of the height of a peak, and a bright spot opposite lowers it:
    at 3.5 less than half are left.
    """
    count = (
        torch.cat([find_peaks(noise(i, 500, 2, 41, 41)).mask[:, 1:].sum(1) for i in range(4)])
        .float()
        .mean()
        .item()
    )
    offset = torch.arange(-9, 10, dtype=torch.float64)
    kernel = sum(
        sign * torch.exp(-(offset**2 + offset[:, None] ** 2) / 2 / s**2) / (2 * math.pi * s**2)
        for s, sign in ((FINE, 1), (COARSE, -1))
    )
    slope = torch.gradient(kernel, dim=1)[0].square().sum() / kernel.square().sum()
    bound = 39**2 * slope.item() * 3.5 * math.exp(-(3.5**2) / 2) * (2 * math.pi) ** -1.5
    assert count == pytest.approx(0.15, abs=0.03) and 0.2 * bound < count < bound


def test_a_factor_on_a_band_and_a_background_change_nothing():
    image = sky("gaussian", [(20, 20), (30, 11)], [50, 20])[None] * torch.tensor([1.0, 2.0, 3.0])[
        None, :, None, None
    ] + noise(2, 1, 3, 41, 41)
    a, b = find_peaks(image), find_peaks(image * torch.tensor([5.0, 0.1, 1.0])[None, :, None, None] + 7)
    assert torch.equal(a.mask, b.mask) and a.mask.sum() >= 2
    assert torch.allclose(a.position, b.position, atol=1e-3) and torch.allclose(a.snr, b.snr, rtol=1e-3)


def test_missing_bands_and_padding_have_no_say():
    image = sky("gaussian", [(20, 20), (30, 11)], [50, 20])[None] + noise(2, 1, 2, 41, 41)
    a = find_peaks(image)
    b = find_peaks(torch.cat([image[:, :1], torch.zeros(1, 2, 41, 41), image[:, 1:]], 1))
    assert (
        torch.equal(a.position, b.position) and torch.equal(a.snr, b.snr) and (b.flux[:, :, 1:3] == 0).all()
    )
    padded = find_peaks(torch.nn.functional.pad(image, (12, 12, 12, 12)))
    assert torch.allclose(padded.noise, a.noise, rtol=0.1)
    assert torch.allclose(padded.position[0, :2], a.position[0, :2] + 12, atol=0.05)


def test_a_blank_image_has_its_central_object_only():
    peaks = find_peaks(torch.zeros(2, 3, 64, 45), 8)
    assert peaks.mask.tolist() == [[True] + [False] * 7] * 2
    assert peaks.position[0, 0].tolist() == [22.0, 31.5]
    assert all(part.isfinite().all() for part in peaks[:3])
    assert find_peaks(torch.full((1, 1, 41, 41), 3.0)).mask.sum() == 1


def test_a_clipped_core_is_one_object():
    image = sky("gaussian", [(20, 20), (31, 20)], [100, 60])[None].clamp(max=20) + 1e-4 * noise(
        3, 1, 1, 41, 41
    )
    image = torch.where(image > 19.9, 20.0, image)
    peaks = find_peaks(image)
    at = (peaks.position[0] - torch.tensor([31.0, 20.0])).norm(dim=1)[peaks.mask[0]]
    assert (at < 3).sum() == 1


def test_an_arc_in_the_light_of_the_lens_is_found_by_its_asymmetry():
    y, x = np.mgrid[:41, :41]
    lens = 200 * np.exp(-np.sqrt(np.hypot(x - 20, y - 20) + 0.5))  # falls steeply and reaches far
    image = torch.from_numpy(lens).float() + sky("gaussian", [(25, 20)], [25.0]) + noise(4, 1, 41, 41)
    peaks = find_peaks(image[None])
    assert (peaks.position[0, 1:] - torch.tensor([25.0, 20.0])).norm(dim=1).min() < 1
    assert peaks.position[0, 0].tolist() == pytest.approx([20, 20], abs=0.5)


def test_an_image_does_not_depend_on_its_neighbours_nor_on_the_number_of_entries():
    image = noise(6, 6, 2, 45, 64) + sky("moffat", [(31.5, 22), (50, 10), (12, 30)], [60, 30, 20], 45, 64)
    peaks, order = find_peaks(image), torch.tensor([3, 0, 5, 1, 4, 2])
    for part, other, wide in zip(peaks, find_peaks(image[order]), find_peaks(image, 32), strict=True):
        assert torch.equal(part[order], other)
        assert torch.equal(part, wide if part is peaks.noise else wide[:, :16])
    few = find_peaks(image, 2)
    assert torch.equal(few.position, peaks.position[:, :2])
    assert (peaks.snr[:, 1:-1] >= peaks.snr[:, 2:]).all()
