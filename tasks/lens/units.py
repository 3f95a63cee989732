"""Units of the data: how large a pixel is on the sky, and how large its values are.

A network that measures angles (its option `pixel_scale`, or --use_physics) takes the pixel scale from
--pixel_scale, else from the store or its headers, else ASSUMED; predict compares it with the data that it
is given. A network that sees pixels as they are, not normalised, depends on their unit: it is refused where
single precision, and what it begins with, cannot serve that, and later on pixels of another unit.
"""

from typing import Any

import numpy as np

from data.cutouts.pixel_scales import is_same_scale
from data.cutouts.store import Store
from model import MODELS
from utils.mistake import Mistake

ASSUMED = 0.2  # arcsec, of the challenge
SAMPLED = 256  # images
# Typical spread of pixels that a network can be given as they are: the noise of its augmentation is 0.01
FAINTEST, BRIGHTEST = 1e-3, 1e6
OTHER, FAR = 30.0, 1000.0  # factors between two spreads: said, and refused


def measures_angles(config: Any) -> bool:
    """Whether the network of these options depends on the pixel scale."""
    spec = MODELS.get(config.model)
    return config.use_physics or bool(spec and "pixel_scale" in spec.options)


def depends_on_unit(config: Any) -> bool:
    """Whether a factor on all pixels changes the network's answer."""
    spec = MODELS.get(config.model)
    return config.smoothing_mode == "guided" or not (config.apply_normalization or spec and spec.any_unit)


def scale_words(scales: dict[float, int]) -> str:
    return ", ".join(f"{scale:g} arcsec ({count:,})" for scale, count in list(scales.items())[:6])


def pixel_scale_of(config: Any, scales: dict[float, int], what: str) -> tuple[float, list[str]]:
    """(arcsec, lines for the log) of the network's pixel scale.

    scales: of the data, the commonest first. what: they are.
    Raises: Mistake where --pixel_scale is given and the data have another.
    """
    if not measures_angles(config):
        return config.pixel_scale or ASSUMED, []
    several = (
        [f"warning: {what} has pixels of several scales: {scale_words(scales)}"] if len(scales) > 1 else []
    )
    if config.pixel_scale:
        if scales and not any(is_same_scale(config.pixel_scale, scale) for scale in scales):
            raise Mistake(
                f"--pixel_scale {config.pixel_scale:g}: {what} says {scale_words(scales)}; leave the option "
                "out, and the data's own is used"
            )
        return config.pixel_scale, several
    if scales:
        found = next(iter(scales))
        return found, [*several, f"pixel scale: {found:g} arcsec, as {what} says"]
    return ASSUMED, [f"pixel scale: {ASSUMED:g} arcsec is assumed, as {what} does not say it (--pixel_scale)"]


def compare_pixel_scale(config: Any, trained: float, scales: dict[float, int], what: str) -> list[str]:
    """Lines for the log. Raises: Mistake where a network that measures angles is asked of other pixels."""
    if not measures_angles(config) or not scales:
        return []
    strange = {scale: count for scale, count in scales.items() if not is_same_scale(trained, scale)}
    if len(strange) == len(scales):
        raise Mistake(
            f"{what} has pixels of {scale_words(scales)}, but the network {config.model} measures angles and "
            f"was trained with {trained:g} arcsec: give images of that scale (convert.py resamples with "
            "--image_size and --crop)"
        )
    if strange:
        return [f"warning: trained with pixels of {trained:g} arcsec, {what} also has {scale_words(strange)}"]
    return []


def typical_spread(packed: Store, rows: np.ndarray) -> float:
    """Median over some of these rows that are good of the deviation of an image's pixels; NaN without any."""
    good = rows[packed.good[rows]]
    if not len(good):
        return float("nan")
    some = np.sort(good[np.unique(np.linspace(0, len(good) - 1, min(len(good), SAMPLED)).astype(int))])
    images = np.asarray(packed.pixels[some])  # mapped: of each block a row, without its checksum
    return float(np.median(images.reshape(len(images), -1).std(axis=1, dtype=np.float64)))


def refuse_unit(config: Any, spread: float) -> None:
    """Raises: Mistake where a network cannot learn from pixels of this spread as they are."""
    if depends_on_unit(config) and np.isfinite(spread) and not FAINTEST <= spread <= BRIGHTEST:
        raise Mistake(
            f"the pixels of an image typically spread by {spread:.3g}, and {why(config)}: expected "
            f"{FAINTEST:g} to {BRIGHTEST:g}; {cure(config)}"
        )


def compare_unit(config: Any, trained: float | None, spread: float, what: str) -> list[str]:
    """Lines for the log. Raises: Mistake where pixels are far from those of the training (None: unknown)."""
    if not (depends_on_unit(config) and trained and spread > 0):
        return []
    factor = max(trained / spread, spread / trained)
    values = f"the pixels of {what} typically spread by {spread:.3g}, in training by {trained:.3g}"
    if factor > FAR:
        raise Mistake(
            f"{values}, and {why(config)}: give them in the unit of the training, or train with a network "
            f"that knows none; {cure(config)}"
        )
    return [f"warning: {values}, and {why(config)}"] if factor > OTHER else []


def why(config: Any) -> str:
    if config.smoothing_mode == "guided":
        return f"--guided_eps {config.guided_eps:g} is in their unit"
    return f"the network {config.model} sees them as they are"


def cure(config: Any) -> str:
    return (
        "choose --smoothing_mode gaussian or psf"
        if config.smoothing_mode == "guided"
        else "--apply_normalization makes it see each image in its own unit"
    )


def trained_pixel_scale(config: Any, data: dict[str, Any]) -> float:
    """arcsec, of a network whose options may have left it open; data: what its training knew of them."""
    return data.get("pixel_scale") or config.pixel_scale or ASSUMED
