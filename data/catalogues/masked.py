"""Pixels that an image has but that were not measured: not finite, fill values, or so marked by an HDU
beside it.

A mask is known by the name of its HDU: MASK, DQ, BPM, FLAGS and the like hold flags, not zero where a pixel
is spoilt; INVVAR, IVAR, WHT and WEIGHT hold weights, not above zero there. One whose name names an image of
the file (INVVAR_G, of G) is of that image, and so is one of the same EXTVER; others are of all images of
their geometry. Of flags whose header says what the bits mean (MP_CR = 3, as the Rubin and HSC pipelines
write) those of SPOILT count, as others mark what was detected.
"""

from collections.abc import Sequence

import numpy as np

from data.catalogues.planes import Hdu
from data.catalogues.sky import card_value
from data.cutouts.blank import fill_mask
from data.cutouts.fits import BadFile
from data.cutouts.fits_layout import PARTS
from utils.mistake import Mistake


FLAGS = {"MASK", "MASKS", "MSK", "BPM", "BADPIX", "DQ", "DQF", "FLAG", "FLAGS", "MASKBITS", "MASKEDBITS"}
WEIGHTS = {"INVVAR", "IVAR", "WHT", "WT", "WGT", "WEIGHT", "WEIGHTS"}
SPOILT = {"BAD", "NO_DATA", "CR", "SAT", "EDGE", "SENSOR_EDGE", "UNMASKEDNAN", "VIGNETTED"}
NO_MASK = "none"


def masks_beside(hdus: Sequence[Hdu], image: Hdu, wanted: str = "") -> list[Hdu]:
    """The HDUs of a file that say which pixels of an image of it were not measured.

    wanted: the EXTNAME or the number of the one to use; "": those known by their names; "none": none.
    Raises: BadFile where it is not there, or of another geometry.
    """
    if wanted.lower() == NO_MASK:
        return []
    if wanted:
        named = [hdu for hdu in hdus if wanted in (str(hdu.number), hdu.name) or wanted.upper() == hdu.name]
        named = [hdu for hdu in named if hdu.version == image.version] or named[:1]
        if not named:
            raise BadFile(f"no HDU {wanted} (--mask_hdu): it has {', '.join(hdu.name for hdu in hdus[:8])}")
        if not _is_over(named[0], image):
            raise BadFile(f"HDU {wanted} (--mask_hdu) is not of the geometry of the image")
        return named[:1]
    images = {hdu.name for hdu in hdus if hdu.shape and hdu.shows_sky} - {""}
    found = []
    for hdu in hdus:
        parts = _parts(hdu.name)
        if not (hdu.number != image.number and parts & (FLAGS | WEIGHTS) and _is_over(hdu, image)):
            continue
        others = {name for name in images if _parts(name) <= parts}
        of_other = others and image.name not in others
        versions = {one.version for one in hdus if one.name == image.name}
        of_other = of_other or len(versions) > 1 and hdu.version != image.version
        if not of_other:
            found.append(hdu)
    return found


def mask_of(hdu: Hdu, plane: np.ndarray, good_bits: int = 0) -> np.ndarray:
    """bool, where an HDU of `masks_beside` with these values says that nothing was measured.

    good_bits: the sum of the bits of flags that do not spoil a pixel.
    """
    if _parts(hdu.name) & WEIGHTS:
        return ~(plane > 0)
    meant = {
        name.removeprefix("MP_"): card_value(hdu.header, name)
        for name in hdu.header
        if name.startswith("MP_")
    }
    bits = [bit for name, bit in meant.items() if name in SPOILT and type(bit) is int and 0 <= bit < 62]
    counted = sum(1 << bit for bit in bits) if meant else -1
    flags = np.where(np.isfinite(plane), plane, 1).astype(np.int64)
    return (flags & counted & ~good_bits) != 0


def _parts(name: str) -> set[str]:
    return {part for part in PARTS.split(name.upper()) if part}


def _is_over(mask: Hdu, image: Hdu) -> bool:
    """Whether a mask has a pixel for each of an image, or of each of its planes."""
    return bool(mask.shape) and mask.shape in (image.shape, image.shape[-2:])


def check_max_masked(share: float) -> None:
    """Raises: Mistake for a --max_masked that is no share."""
    if not (isinstance(share, (int, float)) and 0 <= share < 1):
        raise Mistake(f"--max_masked {share!r}: expected a share of the pixels, 0 or more and below 1")


def unmeasured(image: np.ndarray) -> np.ndarray:
    """bool, where an image has no finite value, or a fill value (data/cutouts/blank.py)."""
    mask = ~np.isfinite(image)
    fills = fill_mask(image)
    return mask if fills is None else mask | fills


def masked_share(mask: np.ndarray, most: float) -> float:
    """The share of masked pixels (bool). Raises: BadFile if it is above `most`, or all are."""
    share = float(mask.mean())
    if share > most or share == 1:
        raise BadFile(f"{share:.1%} of the pixels are masked or not finite, more than --max_masked {most:g}")
    return share


def filled_pixels(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A copy of an image [H, W] in which a masked pixel is the mean of its measured neighbours (of 8);
    in a hole, of those filled before it.

    Hot pixels and cosmic rays on a galaxy are so bridged by the galaxy's light,
    where a background value would punch holes.
    mask: bool [H, W], True where nothing was measured; not everywhere.
    """
    assert not mask.all()
    image = np.where(mask, 0, image).astype(np.float32)
    missing = mask.copy()
    height, width = image.shape
    for _ in range(height + width):  # a ring of the hole in each pass
        rows, columns = np.nonzero(missing)
        if not len(rows):
            break
        total, count = np.zeros(len(rows), dtype=np.float64), np.zeros(len(rows), dtype=np.int64)
        for down in (-1, 0, 1):
            for right in (-1, 0, 1):
                y, x = rows + down, columns + right
                inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
                y, x = np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)
                good = inside & ~missing[y, x]
                total += np.where(good, image[y, x], 0)
                count += good
        reached = count > 0
        image[rows[reached], columns[reached]] = total[reached] / count[reached]
        missing[rows[reached], columns[reached]] = False
    return image
