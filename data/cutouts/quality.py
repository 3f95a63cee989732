"""How good images are: measures of each, outliers of a data set, and a weight for training.

Images are [B, H, W] of any geometry and unit. A batch is measured at once, some hundred images at a time, so
that the intermediate arrays stay in the processor's cache.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import ndimage

CHUNK_PIXELS = 2**18
CLIP, CLIPS = 3.0, 5  # sigma-clipping of the background
MAD_TO_RMS = 1.482602218505602  # of a normal distribution
BLANK_PIXELS = 9  # the smallest patch that is called blank
PLATEAU_PIXELS = 3  # and the smallest flat top that is called saturated
# of van Dokkum 2001: sigma_lim, and f_lim as for HST, where it spares undersampled stars
COSMIC_SIGMA, COSMIC_CONTRAST = 4.5, 5.0
# peaks an image for the FWHM, their height over the noise, half a side of a stamp
PEAKS, PEAK_SIGMA, STAMP = 3, 10.0, 6
FITS = 6  # rounds of the moments
SIGMA_TO_FWHM = 2.354820045030949
OUTLIER = 5.0  # robust sigma
LEAST_WEIGHT = 0.05


class Measure(NamedTuple):
    unit: str
    scale: Callable  # outliers are looked for in this function of it: the logarithm of what spans decades
    # least sigma of outliers, in that scale: most fractions are 0 nearly everywhere, their MAD is too
    floor: float
    # what halves the weight (of finite_fraction: what is missing); infinite where it has no bad side
    bad: float
    meaning: str


MEASURES = {
    "finite_fraction": Measure("", np.positive, 0.002, 0.05, "pixels that are neither NaN nor infinite"),
    "saturated_fraction": Measure(
        "", np.positive, 0.0005, 0.01, "pixels on a flat top: neighbours that share the highest value"
    ),
    "blank_fraction": Measure(
        "", np.positive, 0.002, 0.10, "pixels of exactly constant patches that touch an edge"
    ),
    "blank_corners": Measure("", np.positive, 0.2, np.inf, "corners, of four, in such a patch"),
    "background": Measure("of the image", np.positive, 0.0, np.inf, "clipped median of the border"),
    "background_rms": Measure(
        "of the image", np.log, 0.02, np.inf, "clipped deviation of the border, from its MAD"
    ),
    "snr": Measure("", np.arcsinh, 0.02, 3.0, "signal-to-noise of the central aperture"),
    "psf_fwhm": Measure("pixel", np.log, 0.02, np.inf, "full width at half maximum of the most compact peak"),
    "cosmic_ray_fraction": Measure(
        "", np.positive, 0.001, 0.01, "pixels sharper than a point spread function can be"
    ),
}


def measure_quality(images: np.ndarray) -> dict[str, np.ndarray]:
    """Quality of each image, what cannot be measured is NaN.

    images: [B, H, W] float32.
    Returns: [B] float32 for each name of MEASURES.
      finite_fraction, saturated_fraction, blank_fraction, cosmic_ray_fraction: pixels over all pixels.
          blank_corners: 0 to 4.
        A flat top that was scaled pixel by pixel (flat field, resampling) is flat no longer and not seen.
        An image of counts whose sky is exactly zero nearly everywhere looks blank.
      background, background_rms: in the unit of the image; median and 1.4826 MAD of the pixels within 1/8 of
          the shorter side of an edge,
        clipped up to five times at 3 sigma; of all pixels where fewer than a quarter of the border is good.
        Where an object fills the border it is counted as background.
      snr: S / (rms sqrt(n + pi/2 n^2/m)), S = sum of (pixel - background)
          of the n good pixels nearer to the centre than 1/8 of the shorter
        side (at least 1.5 pixels), m = pixels that the background is the median of. Photon noise of the
        object is not in it; correlated noise (drizzled or resampled images) makes it too large.
      psf_fwhm: pixels. A Gaussian is fitted by moments under a weight that is matched to the object
          (Bernstein & Jarvis 2002, AJ 123, 583)
        to the three highest peaks over 10 rms that touch no cosmic ray;
        the smallest geometric mean along x and y counts.
        It is the FWHM of the PSF, pixel included, if one of them is a point source; on a galaxy alone it is
        an upper limit, the size of its core. Beyond 6 pixels it is up to a tenth too small; NaN without such
        a peak, or beyond 9 pixels. A star narrower than about 2 pixels can look like a cosmic ray.
      cosmic_ray_fraction: one pass of L.A.Cosmic, without growing into neighbours,
          the noise taken as background_rms everywhere.
    Source: van Dokkum 2001, PASP 113, 1420, doi 10.1086/323894, for the cosmic rays;
        the noise there is that of sky and photons.
    """
    images = np.asarray(images, dtype=np.float32)
    assert images.ndim == 3 and images.shape[1] * images.shape[2] > 0, images.shape
    size = max(1, CHUNK_PIXELS // (images.shape[1] * images.shape[2]))
    if not len(images):
        return {name: np.zeros(0, dtype=np.float32) for name in MEASURES}
    with np.errstate(all="ignore"):  # of images near the ends of float32, and of what cannot be measured: NaN
        parts = [_measure(images[first : first + size]) for first in range(0, len(images), size)]
        return {name: np.concatenate([part[name] for part in parts]).astype(np.float32) for name in MEASURES}


def quality_outliers(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Which images of a data set are unlike the others, measure by measure.

    columns: measures of one data set (one band of one survey, as units and depth differ), [N] each.
    Returns: [N] bool for each: more than 5 robust sigma from the median, sigma = 1.4826 MAD, no less than the
        measure's floor; of the logarithm for background_rms and psf_fwhm, and of arcsinh,
        which is one where it is large, for snr. Infinite is, NaN is not flagged.
    """
    flags = {}
    for name, values in columns.items():
        with np.errstate(divide="ignore", invalid="ignore"):
            values = MEASURES[name].scale(np.asarray(values, dtype=np.float64))
        finite = values[np.isfinite(values)]
        median = np.median(finite) if len(finite) else 0.0
        sigma = max(
            MAD_TO_RMS * np.median(np.abs(finite - median)) if len(finite) else 0.0, MEASURES[name].floor
        )
        flags[name] = np.abs(values - median) > OUTLIER * sigma
    return flags


def weight(columns: dict[str, np.ndarray]) -> np.ndarray:
    """How much an image counts in training: 1 for a good one, never 0.

    w = 0.05 + 0.95 prod_k 1 / (1 + (x_k / b_k)^2), where x_k is how far measure k is from its best and b_k
    what halves the product:
        missing pixels b = 0.05, saturated 0.01, blank 0.10, like cosmic rays 0.01;
        for the signal-to-noise x = 1 / snr, b = 1/3.
    It depends on the image alone, not on the data set. A measure that is NaN says nothing.

    columns: some of MEASURES, [B] each. Returns: [B] float32, 0.05 to 1.
    """
    product = np.ones(len(next(iter(columns.values()))))
    for name, values in columns.items():
        values = np.asarray(values, dtype=np.float64)
        bad = MEASURES[name].bad
        if np.isinf(bad):
            continue
        with np.errstate(divide="ignore", over="ignore"):
            excess = (
                bad / np.maximum(values, 0)
                if name == "snr"
                else (1 - values if name == "finite_fraction" else values) / bad
            )
            product *= np.where(np.isnan(values), 1, 1 / (1 + excess**2))
    return (LEAST_WEIGHT + (1 - LEAST_WEIGHT) * product).astype(np.float32)


def _measure(images: np.ndarray) -> dict[str, np.ndarray]:
    finite = np.isfinite(images)
    blank = _blank(images)
    good = finite & ~blank
    pixels = images if good.all() else np.where(good, images, np.float32(np.nan))
    background, rms, used = _background(pixels)
    residual = pixels - background[:, None, None]
    residual[~good] = 0  # as if it were sky: an edge between sky and nothing is no cosmic ray
    around = np.pad(residual, ((0, 0), (1, 1), (1, 1)), mode="edge")
    columns = _sorted3(around[:, :-2], around[:, 1:-1], around[:, 2:])
    cosmic = _cosmic(around, columns, rms)
    corners = blank[:, [0, 0, -1, -1], [0, -1, 0, -1]]
    return {
        "finite_fraction": _fraction(finite),
        "saturated_fraction": _fraction(_saturated(images, good)),
        "blank_fraction": _fraction(blank),
        "blank_corners": corners.sum(axis=1),
        "background": background,
        "background_rms": rms,
        "snr": _snr(residual, good, rms, used),
        "psf_fwhm": _fwhm(residual, columns, cosmic, rms),
        "cosmic_ray_fraction": np.where(rms > 0, _fraction(cosmic), np.nan),
    }


def _fraction(mask: np.ndarray) -> np.ndarray:
    return np.count_nonzero(mask, axis=(1, 2)) / mask[0].size


def _blank(images: np.ndarray) -> np.ndarray:
    """[b, H, W] bool: connected 2x2 blocks of one value, some of them at an edge,
    of nine pixels or more together.
    """
    blank = np.zeros(images.shape, dtype=bool)
    edges = [images[:, :2], images[:, -2:], images[:, :, :2], images[:, :, -2:]]
    suspects = np.flatnonzero(np.any([_flat(edge).any(axis=(1, 2)) for edge in edges], axis=0))
    if len(suspects):
        flat = _flat(images[suspects])
        within_one_image = np.zeros((3, 3, 3), dtype=int)
        within_one_image[1] = 1
        blocks, patches = ndimage.label(flat, within_one_image)
        _, height, width = images.shape
        patch = np.zeros((len(suspects), height, width), dtype=blocks.dtype)
        # blocks that share a pixel are connected: they never disagree
        for y, x in ((0, 0), (0, 1), (1, 0), (1, 1)):
            part = patch[:, y : height - 1 + y, x : width - 1 + x]
            np.maximum(part, blocks, out=part)
        of_edge = np.zeros(patches + 1, dtype=bool)
        for edge in (patch[:, 0], patch[:, -1], patch[:, :, 0], patch[:, :, -1]):
            of_edge[edge] = True
        large = np.bincount(patch.ravel(), minlength=patches + 1) >= BLANK_PIXELS
        large[0] = False
        blank[suspects] = _spread(images[suspects], (of_edge & large)[patch])
    return blank


def _spread(images: np.ndarray, blank: np.ndarray) -> np.ndarray:
    """Also what is thinner than a block: the tips of a turned image's corners."""
    before = -1
    while before != (before := np.count_nonzero(blank)):
        for here, there in ((np.s_[:, 1:], np.s_[:, :-1]), (np.s_[:, :, 1:], np.s_[:, :, :-1])):
            equal = images[here] == images[there]
            blank[here] |= equal & blank[there]
            blank[there] |= equal & blank[here]
    return blank


def _flat(images: np.ndarray) -> np.ndarray:
    """[b, H - 1, W - 1] bool: a pixel, its right, lower, and lower right neighbour are equal."""
    rows = images[:, :, 1:] == images[:, :, :-1]
    return rows[:, 1:] & rows[:, :-1] & (images[:, 1:, 1:] == images[:, :-1, 1:])


def _saturated(images: np.ndarray, good: np.ndarray) -> np.ndarray:
    """[b, H, W] bool"""
    shown = images if good.all() else np.where(good, images, -np.inf)
    highest = (shown == shown.max(axis=(1, 2), keepdims=True)) & good
    suspects = np.flatnonzero(np.count_nonzero(highest, axis=(1, 2)) >= PLATEAU_PIXELS)
    saturated = np.zeros(images.shape, dtype=bool)
    if len(suspects):
        top = highest[suspects]
        beside = np.zeros_like(top)
        beside[:, 1:] |= top[:, :-1]
        beside[:, :-1] |= top[:, 1:]
        beside[:, :, 1:] |= top[:, :, :-1]
        beside[:, :, :-1] |= top[:, :, 1:]
        plateau = top & beside
        saturated[suspects] = (
            plateau & (np.count_nonzero(plateau, axis=(1, 2)) >= PLATEAU_PIXELS)[:, None, None]
        )
    return saturated


def _background(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(median, rms, how many pixels they are of), [b] each; pixels [b, H, W], NaN where they are not good."""
    count, height, width = pixels.shape
    edge = max(1, min(height, width) // 8)
    if min(height, width) <= 2 * edge:
        return _clipped(pixels.reshape(count, -1))
    sides = pixels[:, :edge], pixels[:, -edge:], pixels[:, edge:-edge, :edge], pixels[:, edge:-edge, -edge:]
    border = np.concatenate([side.reshape(count, -1) for side in sides], axis=1)
    median, rms, used = _clipped(border)
    sparse = np.count_nonzero(np.isfinite(border), axis=1) < border.shape[1] / 4
    if sparse.any():
        median[sparse], rms[sparse], used[sparse] = _clipped(
            pixels[sparse].reshape(np.count_nonzero(sparse), -1)
        )
    return median, rms, used


def _clipped(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(median, rms, used) of [b, n] without its NaN and, in turn, what is more than 3 rms from the median."""
    values = np.sort(values, axis=1)  # NaN to the end
    median, rms = np.zeros((2, len(values)), dtype=np.float32)
    used = np.count_nonzero(~np.isnan(values), axis=1)
    active = np.arange(len(values))  # the rows that still lose pixels
    for clip in range(CLIPS + 1):
        median[active] = _middle(values, used[active])
        deviation = np.abs(values - median[active, None])
        rms[active] = MAD_TO_RMS * _middle(np.sort(deviation, axis=1), used[active])
        far = deviation > CLIP * rms[active, None]
        losing = far.any(axis=1)
        if clip == CLIPS or not losing.any():
            break
        active, values = active[losing], values[losing]
        values = np.sort(np.where(far[losing], np.float32(np.nan), values), axis=1)
        used[active] = np.count_nonzero(~np.isnan(values), axis=1)
    return median, rms, used


def _middle(values: np.ndarray, count: np.ndarray) -> np.ndarray:
    """[b] the median of the first `count` of sorted values [b, n]; NaN where there are none."""
    low = np.take_along_axis(values, np.maximum(count - 1, 0)[:, None] // 2, axis=1)[:, 0]
    high = np.take_along_axis(values, count[:, None].clip(max=2 * values.shape[1] - 1) // 2, axis=1)[:, 0]
    return np.where(count > 0, low + (high - low) / 2, np.float32(np.nan))


def _snr(residual: np.ndarray, good: np.ndarray, rms: np.ndarray, used: np.ndarray) -> np.ndarray:
    count, height, width = residual.shape
    y, x = np.ogrid[:height, :width]
    radius = max(1.5, min(height, width) / 8)
    aperture = np.flatnonzero((y - (height - 1) / 2) ** 2 + (x - (width - 1) / 2) ** 2 < radius**2)
    signal = residual.reshape(count, -1)[:, aperture].sum(axis=1, dtype=np.float64)
    n = np.count_nonzero(good.reshape(count, -1)[:, aperture], axis=1)
    noise = rms * np.sqrt(n + np.pi / 2 * n**2 / used)  # the variance of a median is pi/2 of a mean's
    return np.where((n > 0) & (rms > 0), signal / noise, np.nan)


def _sorted3(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(lowest, middle, highest), pixel by pixel."""
    low = np.minimum(a, b)
    high = np.maximum(a, b)
    return np.minimum(low, c), np.maximum(low, np.minimum(high, c)), np.maximum(high, c)


def _cosmic(around: np.ndarray, columns: tuple[np.ndarray, ...], rms: np.ndarray) -> np.ndarray:
    """[b, H, W] bool; around: [b, H + 2, W + 2]. columns: its sorted columns of three, [b, H, W + 2] each."""
    down = around[:, 1:, 1:-1] - around[:, :-1, 1:-1]
    right = around[:, 1:-1, 1:] - around[:, 1:-1, :-1]
    up, down = down[:, :-1], -down[:, 1:]  # the pixel minus its neighbour above, below, left, right
    left, right = right[:, :, :-1], -right[:, :, 1:]
    # Of an image sampled twice as finely the Laplacian 4 f - (two neighbours of the same pixel + two of
    # others), its negative values clipped, is averaged over the four parts of the pixel; here in closed form.
    laplacian = (
        np.maximum(up + left, 0)
        + np.maximum(up + right, 0)
        + np.maximum(down + left, 0)
        + np.maximum(down + right, 0)
    )
    noise = np.where(rms > 0, rms, np.inf).astype(np.float32)
    # of the mean of four, over sampling factor 2 and noise
    significance = laplacian / (8 * noise[:, None, None])
    cosmic = np.zeros(significance.shape, dtype=bool)
    number, y, x = np.nonzero(significance > COSMIC_SIGMA)
    if len(number):
        # The medians of L.A.Cosmic take most of its time: they are made where a pixel can still be one.
        smooth = _median9(columns)
        without_large = significance[number, y, x] - _median(_windows(significance, number, y, x, 2))
        fine = (smooth[number, y, x] - _median(_windows(smooth, number, y, x, 3))) / noise[number]
        hit = (without_large > COSMIC_SIGMA) & (without_large > COSMIC_CONTRAST * np.maximum(fine, 0.01))
        cosmic[number[hit], y[hit], x[hit]] = True
    return cosmic


def _median9(columns: tuple[np.ndarray, ...]) -> np.ndarray:
    """Of 3x3 pixels: the middle of (highest of the lowest, middle of the middle, lowest of the highest)
    of three sorted columns.
    """
    low, middle, high = ([column[:, :, :-2], column[:, :, 1:-1], column[:, :, 2:]] for column in columns)
    return _sorted3(np.maximum.reduce(low), _sorted3(*middle)[1], np.minimum.reduce(high))[1]


def _median(windows: np.ndarray) -> np.ndarray:
    """[p] of an odd number of pixels a window"""
    flat = np.sort(windows.reshape(len(windows), -1), axis=1)
    return flat[:, flat.shape[1] // 2]


def _windows(values: np.ndarray, number: np.ndarray, y: np.ndarray, x: np.ndarray, half: int) -> np.ndarray:
    """[p, 2 half + 1, 2 half + 1] around pixels, the edge repeated."""
    span = np.arange(-half, half + 1)
    rows = (y[:, None] + span).clip(0, values.shape[1] - 1)
    columns = (x[:, None] + span).clip(0, values.shape[2] - 1)
    return values[number[:, None, None], rows[:, :, None], columns[:, None, :]]


def _fwhm(
    residual: np.ndarray, columns: tuple[np.ndarray, ...], cosmic: np.ndarray, rms: np.ndarray
) -> np.ndarray:
    high = columns[2]
    highest = np.maximum.reduce([high[:, :, :-2], high[:, :, 1:-1], high[:, :, 2:]])
    peak = (residual == highest) & (residual > PEAK_SIGMA * rms[:, None, None]) & (rms > 0)[:, None, None]
    peak[:, :2] = peak[:, -2:] = peak[:, :, :2] = peak[:, :, -2:] = False  # half of it is missing
    number, y, x = np.nonzero(peak)
    clean = ~_windows(cosmic, number, y, x, 1).any(axis=(1, 2))
    number, y, x = number[clean], y[clean], x[clean]
    order = np.lexsort((-residual[number, y, x], number))
    rank = np.arange(len(number)) - np.searchsorted(number, number)
    chosen = order[rank < PEAKS]
    number, y, x = number[chosen], y[chosen], x[chosen]
    fwhm = np.full(len(residual), np.nan)
    np.fmin.at(fwhm, number, _widths(_windows(residual, number, y, x, STAMP)))
    return fwhm


def _widths(stamps: np.ndarray) -> np.ndarray:
    """[p] FWHM in pixels of the Gaussian that fits each stamp [p, S, S] at its centre; NaN where none does.

    A Gaussian times a Gaussian weight is a Gaussian, whose inverse variance is the sum of the two: the
    object's follows from the moments of the weighted stamp, and is the next weight.
    """
    axis = np.arange(-STAMP, STAMP + 1, dtype=np.float32)
    centre = np.zeros((2, len(stamps), 1), dtype=np.float32)  # y, x
    variance = np.full_like(centre, 1.5**2)
    widest, narrowest = (0.6 * STAMP) ** 2, 0.15**2
    for _ in range(FITS):
        y, x = np.exp(-0.5 * (axis - centre) ** 2 / variance)
        profile = np.stack([np.einsum("pyx,px->py", stamps, x) * y, np.einsum("pyx,py->px", stamps, y) * x])
        total = profile.sum(axis=2, keepdims=True)
        mean = (profile * axis).sum(axis=2, keepdims=True) / total
        spread = (profile * (axis - mean) ** 2).sum(axis=2, keepdims=True) / total
        spread = np.where(spread > 0, spread, np.nan)
        unweighted = 1 / np.maximum(1 / spread - 1 / variance, 1 / widest)
        centre = (unweighted * (mean / spread - centre / variance)).clip(-2, 2)
        variance = np.maximum(unweighted, narrowest)
    fitted = ((variance > narrowest) & (variance < widest)).all(axis=0)[:, 0]
    return np.where(fitted, SIGMA_TO_FWHM * variance.prod(axis=0)[:, 0] ** 0.25, np.nan)
