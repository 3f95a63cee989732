"""Pixels that an image has but that were not measured."""

import numpy as np

from data.cutouts.fits import BadFile
from utils.mistake import Mistake


def check_max_masked(share: float) -> None:
    """Raises: Mistake for a --max_masked that is no share."""
    if not (isinstance(share, (int, float)) and 0 <= share < 1):
        raise Mistake(f"--max_masked {share!r}: expected a share of the pixels, 0 or more and below 1")


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
