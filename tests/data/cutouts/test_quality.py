"""data/cutouts/quality.py against images whose background, noise, width,
saturation and cosmic rays are known, astropy, scipy, and real surveys.
"""

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits
from astropy.stats import mad_std, sigma_clip, sigma_clipped_stats
from scipy import ndimage, optimize, special

from data.cutouts import quality
from data.cutouts.quality import MEASURES, measure_quality, quality_outliers, weight


def sky(count=1, shape=(41, 41), level=100.0, rms=3.0, seed=0):
    return np.random.default_rng(seed).normal(level, rms, (count, *shape)).astype(np.float32)


def star(shape, fwhm, y, x, flux=1.0):
    """A Gaussian, integrated over each pixel."""
    sigma = fwhm / np.sqrt(8 * np.log(2))
    edges = [special.ndtr((np.arange(n + 1) - 0.5 - c) / sigma) for n, c in zip(shape, (y, x))]
    return (flux * np.diff(edges[0])[:, None] * np.diff(edges[1])).astype(np.float32)


def galaxy(shape, scale, peak):
    y, x = np.ogrid[: shape[0], : shape[1]]
    return (peak * np.exp(-np.hypot(y - shape[0] / 2, x - shape[1] / 2) / scale)).astype(np.float32)


def varied(count=24, shape=(41, 37)):
    """Sky with a galaxy and a star, some with gaps, blank sides, hot pixels, flat tops."""
    rng = np.random.default_rng(5)
    images = sky(count, shape) + rng.uniform(0, 300, (count, 1, 1)).astype(np.float32) * galaxy(shape, 3, 1)
    for number, image in enumerate(images):
        image += star(shape, 3, *rng.uniform(5, 30, 2), 2000)
        if number % 3 == 0:
            image[rng.random(shape) < 0.01] += 100
        if number % 4 == 1:
            image[:, :7] = 0
        if number % 5 == 2:
            image[20:24, 10:30] = np.nan
        if number % 6 == 3:
            np.minimum(image, 150, out=image)
    return images


def border_by_astropy(image):
    """(median, rms) of the pixels within 5 of an edge"""
    border = np.ones(image.shape, dtype=bool)
    border[5:-5, 5:-5] = False
    values = image[border & np.isfinite(image)].astype(np.float64)
    clipped = sigma_clip(values, sigma=3, maxiters=5, cenfunc="median", stdfunc="mad_std").compressed()
    return np.median(clipped), mad_std(clipped)


def same(one, other, tolerance=0.0):
    for name in MEASURES:
        np.testing.assert_allclose(one[name], other[name], rtol=tolerance, atol=tolerance, err_msg=name)


@pytest.mark.parametrize(
    "shape", [(1, 1), (1, 9), (2, 2), (3, 3), (5, 5), (8, 30), (41, 41), (64, 64), (127, 127)]
)
def test_any_geometry(shape):
    found = measure_quality(sky(3, shape))
    assert list(found) == list(MEASURES)
    assert all(values.shape == (3,) and values.dtype == np.float32 for values in found.values())
    assert found["finite_fraction"].tolist() == [1, 1, 1] and (weight(found) > 0).all()
    assert all(values.shape == (0,) for values in measure_quality(sky(0, shape)).values())


def test_each_image_is_measured_for_itself(monkeypatch):
    images = varied()
    monkeypatch.setattr(quality, "CHUNK_PIXELS", 7 * images[0].size)
    together = measure_quality(images)
    alone = [measure_quality(image[None]) for image in images]
    same(together, {name: np.concatenate([one[name] for one in alone]) for name in MEASURES})
    assert len({len(np.unique(together[name])) for name in MEASURES} - {1}) > 0  # they do differ


def test_unit_and_level_of_the_sky_do_not_matter():
    images = varied()
    one, other = measure_quality(images), measure_quality(np.where(images == 0, 0, images * 64))
    for name in MEASURES:
        scale = 64 if name in ("background", "background_rms") else 1
        np.testing.assert_allclose(other[name], one[name] * scale, rtol=1e-5, err_msg=name)
    shifted = measure_quality(images - 100)  # what is blank is -100 now, and still of one value
    same({**one, "background": one["background"] - 100}, shifted, 2e-3)


@pytest.mark.parametrize("scale", [1e-44, 1e-30, 1e30, 3e37])
def test_hostile_numbers(scale):
    """Near both ends of float32: no error, no warning, a weight that can be used."""
    images = varied().astype(np.float64) * (scale / 100)
    images[0, 20, 20], images[1, 3, 3] = 3e38, -3e38
    found = measure_quality(images.astype(np.float32))
    weights = weight(found)
    assert (weights > 0).all() and (weights <= 1).all()
    assert not any(np.isinf(found[name]).any() for name in MEASURES if name != "snr")


def test_finite_fraction():
    images = sky(4)
    images[1, 3, 4] = np.nan
    images[2, :10] = np.inf
    images[3] = np.nan
    found = measure_quality(images)
    np.testing.assert_allclose(found["finite_fraction"], 1 - np.array([0, 1, 410, 1681]) / 1681, rtol=1e-6)
    assert np.isnan(
        [
            found[name][3]
            for name in ("background", "background_rms", "snr", "psf_fwhm", "cosmic_ray_fraction")
        ]
    ).all()
    assert np.isfinite(found["background_rms"][:3]).all()


def test_blank_patches_at_edges_are_counted_exactly():
    images = sky(8)
    blank = np.zeros(images.shape, dtype=bool)
    turned = ndimage.rotate(np.ones((41, 41)), 20, reshape=False, order=0, cval=0)
    blank[1] = turned == 0  # a rotated cutout, as in the first release of the challenge's blind test
    blank[2, :, 35:] = True  # beyond the detector
    blank[3, 38:, 10:20] = True  # at an edge, no corner
    blank[4, :2, :4] = True  # 8 pixels: too few
    blank[5, 10:20, 10:20] = True  # inside: no edge
    blank[6] = True
    blank[7, :5, :5] = blank[7, 36:, 36:] = True
    images[blank] = 0
    images[7, 36:, 36:] = 17.5  # of another value
    found = measure_quality(images)
    expected = blank.sum(axis=(1, 2))
    expected[[4, 5]] = 0
    np.testing.assert_array_equal(np.round(found["blank_fraction"] * 1681), expected)
    assert found["blank_corners"].tolist() == [0, 4, 2, 0, 0, 0, 4, 2]
    # the sky is measured beside them, and their edges are no cosmic rays
    np.testing.assert_allclose(found["background"][[0, 1, 2, 3, 7]], 100, atol=0.7)
    np.testing.assert_allclose(found["background_rms"][[0, 1, 2, 3, 7]], 3, rtol=0.2)
    assert found["cosmic_ray_fraction"][[0, 1, 2, 3, 7]].tolist() == [0] * 5
    assert np.isnan(found["background"][6]) and found["saturated_fraction"].tolist() == [0] * 8


def test_a_frame_of_zeros_leaves_a_background():
    padded = np.pad(sky(2, (41, 41)), ((0, 0), (11, 12), (11, 12)))
    found = measure_quality(padded)
    np.testing.assert_allclose(found["background"], 100, atol=0.5)
    np.testing.assert_allclose(found["blank_fraction"], 1 - 1681 / 4096, rtol=1e-6)


def test_saturated_pixels_are_counted_exactly():
    images = sky(5) + star((41, 41), 4, 20, 20, 30000)
    full = images[1:4].copy()
    images[1:4] = np.minimum(full, 500)
    images[2, 5, 5] = 500  # a lone pixel at the limit is no plateau
    images[4, 5, 5] = images[4, 5, 8] = images[4, 30, 3] = 1e5
    found = measure_quality(images)
    assert (full >= 500).sum() > 60
    np.testing.assert_array_equal(
        np.round(found["saturated_fraction"] * 1681), [0, *(full >= 500).sum(axis=(1, 2)), 0]
    )


def test_background_against_astropy():
    images = varied(shape=(40, 40))
    images = images[~(images == 0).any(axis=(1, 2))]
    images[0] += np.linspace(0, 30, 40, dtype=np.float32)
    found = measure_quality(images)
    for number, image in enumerate(images):
        np.testing.assert_allclose(
            [found["background"][number], found["background_rms"][number]],
            border_by_astropy(image),
            rtol=3e-6,
        )
    # of clean sky the standard deviation, which astropy reports, is the same within its error
    clean = sky(100, (40, 40))
    found = measure_quality(clean)
    _, _, deviation = sigma_clipped_stats(clean.reshape(100, -1), sigma=3, maxiters=5, axis=1)
    assert abs(np.median(found["background_rms"] / deviation) - 1) < 0.02


def test_background_of_known_images():
    found = measure_quality(sky(500, (64, 64), -0.02, 0.3) + galaxy((64, 64), 3, 20))
    assert abs(found["background"].mean() + 0.02) < 0.003
    assert abs(found["background_rms"].mean() / 0.3 - 1) < 0.02  # MAD of what 3 sigma leaves


def test_signal_to_noise_of_nothing_is_a_standard_normal():
    snr = measure_quality(sky(4000))["snr"]
    assert abs(snr.mean()) < 0.06 and abs(snr.std() - 1) < 0.05


def test_signal_to_noise_of_a_star():
    flux = 4000
    snr = measure_quality(sky(300) + star((41, 41), 3, 20, 20, flux))["snr"]
    y, x = np.ogrid[:41, :41]
    n = int(((y - 20) ** 2 + (x - 20) ** 2 < (41 / 8) ** 2).sum())
    border = 41**2 - 31**2
    assert abs(snr.mean() / (flux / 3 / np.sqrt(n + np.pi / 2 * n**2 / border)) - 1) < 0.02
    assert measure_quality(np.full((1, 9, 9), 2, np.float32) + star((9, 9), 3, 4, 4))["snr"].shape == (1,)


@pytest.mark.parametrize("fwhm", [2, 3, 4.5, 6, 8])
def test_fwhm_of_stars(fwhm):
    """Integrated over pixels, which adds their own variance of 1/12."""
    rng = np.random.default_rng(3)
    images = sky(60, (41, 41), 10, 1) + [
        star((41, 41), fwhm, *rng.uniform(18, 22, 2), 400 * fwhm**2) for _ in range(60)
    ]
    found = measure_quality(images)["psf_fwhm"]
    expected = np.sqrt(fwhm**2 + 8 * np.log(2) / 12)
    assert np.isfinite(found).all()
    assert abs(np.median(found) / expected - 1) < (0.03 if fwhm < 8 else 0.06)  # a stamp holds no more of it


def test_fwhm_against_a_fit_by_scipy():
    y, x = np.mgrid[:25, :25].astype(float)

    def model(_, height, top, left, sigma_y, sigma_x):
        return (
            height * np.exp(-0.5 * ((y - top) / sigma_y) ** 2 - 0.5 * ((x - left) / sigma_x) ** 2)
        ).ravel()

    images = np.stack([star((25, 25), 2.5 + 0.1 * number, 12.2, 11.7, 5000) for number in range(20)]) + sky(
        20, (25, 25), 0, 1
    )
    found = measure_quality(images)["psf_fwhm"]
    for image, fwhm in zip(images, found):
        (*_, sigma_y, sigma_x), _ = optimize.curve_fit(
            model, None, image.ravel(), p0=(image.max(), 12, 12, 1.5, 1.5)
        )
        assert abs(fwhm / np.sqrt(8 * np.log(2) * abs(sigma_y * sigma_x)) - 1) < 0.03


def test_fwhm_takes_the_most_compact_peak():
    wide, narrow = star((64, 64), 7, 32, 32, 40000), star((64, 64), 3, 12, 50, 5000)
    both, one, none = measure_quality(np.stack([wide + narrow, wide, 0 * wide]) + sky(3, (64, 64), 0, 1))[
        "psf_fwhm"
    ]
    assert (
        both == pytest.approx(np.sqrt(9 + 8 * np.log(2) / 12), rel=0.03)
        and one == pytest.approx(7, rel=0.03)
        and np.isnan(none)
    )
    # too wide to tell
    assert np.isnan(
        measure_quality(star((64, 64), 16, 32, 32, 100000)[None] + sky(1, (64, 64), 0, 1))["psf_fwhm"]
    )


def cosmic_rays_by_scipy(image):
    """L.A.Cosmic as van Dokkum writes it: the image really sampled twice as finely,
    all medians of all pixels.
    """
    median, noise = border_by_astropy(image)
    image = image - median
    fine = np.repeat(np.repeat(image, 2, 0), 2, 1)
    laplacian = ndimage.convolve(
        fine, np.array([[0, -1, 0], [-1, 4, -1], [0, -1, 0.0]]), mode="nearest"
    ).clip(0)
    laplacian = laplacian.reshape(image.shape[0], 2, image.shape[1], 2).mean(axis=(1, 3))
    significance = laplacian / (2 * noise)
    significance -= ndimage.median_filter(significance, 5, mode="nearest")
    smooth = ndimage.median_filter(image, 3, mode="nearest")
    structure = ((smooth - ndimage.median_filter(smooth, 7, mode="nearest")) / noise).clip(0.01)
    return (significance > 4.5) & (significance / structure > 5)


def test_cosmic_rays_against_scipy():
    rng = np.random.default_rng(9)
    shape = (48, 40)
    images = np.stack(
        [
            sky(1, shape, seed=n)[0] + galaxy(shape, 3, 50 * n) + star(shape, 2.2, 9, 9, 900 * n)
            for n in range(12)
        ]
    )
    for image in images:
        for _ in range(8):
            y, x, length = *rng.integers(1, 34, 2), rng.integers(1, 6)
            image[y, x : x + length] += rng.uniform(10, 400)
            image[y + 1, x + length] += rng.uniform(10, 200)
    expected = [cosmic_rays_by_scipy(image.astype(np.float64)).sum() for image in images]
    assert sum(expected) > 100
    np.testing.assert_array_equal(
        np.round(measure_quality(images)["cosmic_ray_fraction"] * images[0].size), expected
    )


def test_cosmic_rays_that_were_put_in():
    """Single pixels of 30 rms, apart from one another, are found one by one;
    in none of the stars and galaxies without any.
    """
    images = sky(200, (41, 41)) + galaxy((41, 41), 4, 60) + star((41, 41), 2.5, 30, 9, 3000)
    hits = np.zeros(images.shape, dtype=bool)
    for number, y, x in zip(
        np.arange(200).repeat(9), np.tile(np.repeat([4, 12, 36], 3), 200), np.tile([4, 20, 36], 600)
    ):
        hits[number, y, x] = number % 2
    images[hits] += 90
    found = np.round(measure_quality(images)["cosmic_ray_fraction"] * 1681)
    assert (found[1::2] == 9).mean() > 0.95
    assert found[::2].mean() < 0.02
    assert (measure_quality(images)["psf_fwhm"][1::2] > 2.3).all()  # a cosmic ray is no PSF


def test_outliers_are_the_ones_put_in():
    images = sky(400, (41, 41)) + galaxy((41, 41), 3, 100) + star((41, 41), 3, 30, 9, 2000)
    images[3] = np.nan
    images[5, :, :9] = 0
    images[7] = (images[7] - 100) * 4 + 100
    images[9] += 50
    images[11, ::4, ::4] += 100
    images[13] = np.minimum(images[13], 110)
    images[15] = sky(1, seed=77)[0]
    columns = measure_quality(images)
    flags = quality_outliers(columns)
    for name, row in dict(
        finite_fraction=3,
        blank_fraction=5,
        blank_corners=5,
        background_rms=7,
        background=9,
        cosmic_ray_fraction=11,
        saturated_fraction=13,
        snr=15,
    ).items():
        assert flags[name][row], name
    others = np.setdiff1d(np.arange(400), [3, 5, 7, 9, 11, 13, 15])
    assert all(flags[name][others].mean() < 0.02 for name in MEASURES)
    assert not any(flags[name][3] for name in ("background", "snr", "psf_fwhm"))  # not measured
    assert not any(
        flag.any() for flag in quality_outliers({name: np.full(5, np.nan) for name in MEASURES}).values()
    )


def test_weight():
    good = dict(
        finite_fraction=1.0,
        saturated_fraction=0,
        blank_fraction=0,
        blank_corners=0,
        background=7,
        background_rms=2,
        snr=1e4,
        psf_fwhm=4,
        cosmic_ray_fraction=0,
    )
    assert weight({name: np.array([value]) for name, value in good.items()})[0] == pytest.approx(1, abs=1e-6)
    for name, halves, grid in (
        ("finite_fraction", 0.95, np.linspace(1, 0, 200)),
        ("saturated_fraction", 0.01, np.linspace(0, 1, 200)),
        ("blank_fraction", 0.1, np.linspace(0, 1, 200)),
        ("cosmic_ray_fraction", 0.01, np.linspace(0, 1, 200)),
        ("snr", 3, np.linspace(100, -100, 400)),
    ):
        found = weight({**{other: np.full(len(grid), value) for other, value in good.items()}, name: grid})
        assert (
            found.dtype == np.float32
            and (found > 0).all()
            and (found <= 1).all()
            and (np.diff(found) <= 0).all()
        ), name
        assert weight({name: np.array([halves])})[0] == pytest.approx(0.05 + 0.95 / 2)
    # nothing is known of it, infinitely good, infinitely bad, an image without a pixel
    np.testing.assert_allclose(weight({"snr": np.array([np.nan, np.inf, -np.inf])}), [1, 1, 0.05], rtol=1e-6)
    assert 0 < weight(measure_quality(np.full((1, 41, 41), np.nan, np.float32)))[0] < 0.06
    assert 0 < weight(measure_quality(np.zeros((1, 41, 41), np.float32)))[0] < 0.1
    assert (weight(measure_quality(sky(50, (41, 41)) + galaxy((41, 41), 3, 100))) > 0.98).all()


def test_real_cosmic_rays(shared_data):
    """Single exposures of SLACS are full of them; its drizzled images and those of COSMOS are not."""
    slacs = {
        path.stem: measure_quality(fits.getdata(path, 1)[None])["cosmic_ray_fraction"][0]
        for path in sorted(shared_data("lens/slacs_hst/198x198").glob("*.fits"))
    }
    single = ["SDSSJ0737+3216", "SDSSJ0753+3416", "SDSSJ1051+4439", "SDSSJ1430+6104"]
    with fits.open(shared_data("lens/cosmos_hst_galaxies") / "real_galaxy_images_extension.fits") as hdus:
        cosmos = [measure_quality(hdu.data[None])["cosmic_ray_fraction"][0] for hdu in hdus]
    assert min(slacs[name] for name in single) > 1e-3
    assert max(slacs[name] for name in slacs.keys() - single) < 1e-4
    assert max(cosmos) < 3e-4 and np.median(cosmos) == 0


def test_real_widths_of_stars(shared_data):
    """Against the second moments that the pipeline of HSC (shape_sdss, arcsec^2) gives for the same stars,
    at 0.168 arcsec a pixel.
    """
    folder = shared_data("lens/hsc_stars")
    table = pd.read_csv(folder / "star_cat_correct.csv")
    for row in table.itertuples():
        path = folder / row.star_filename.split("/")[-1]
        sigma = (row.ishape_sdss_ixx * row.ishape_sdss_iyy) ** 0.25 / 0.168
        assert measure_quality(fits.getdata(path, 1)[None])["psf_fwhm"][0] == pytest.approx(
            np.sqrt(8 * np.log(2)) * sigma, rel=0.03
        ), path


def test_real_gaps(shared_data):
    """The z stamp of PS1 has no value for a third of its pixels."""
    found = measure_quality(fits.getdata(shared_data("lens/survey_stamps") / "PS1-test_z.fits")[None])
    assert found["finite_fraction"][0] == pytest.approx(0.6576, abs=1e-4)
    assert np.isfinite(found["background_rms"][0]) and weight(found)[0] < 0.1
