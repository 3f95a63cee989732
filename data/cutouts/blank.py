"""What shows no sky: images of nothing, and values that stand for pixels that were not measured.

An image is of nothing where all of its pixels are one value (zero, a fill value, the highest that the
instrument counts), or more than a share `max_blank` of them are, and lie together. A value that many pixels
share by themselves is spared: the sky of coarsely counted images, whose pixels are strewn over the image, or
have neighbours in value.

A fill value is a number that no image would have there: -999 and its like far below all other pixels, or a
magnitude of 1e15 and more that is ten decades above all others. Images of any unit pass:
both are relative to the image's own pixels.
"""

import math

import numpy as np

from data.formats import Format
from utils.mistake import Mistake

MAX_BLANK = 0.5
NEARLY_ALL = 0.98  # of the pixels: then where the others lie tells nothing
TOGETHER = 0.75  # between pixels that are strewn (0) and those of one patch (1)
BESIDE = 0.03  # of an image's commonest value: so many pixels have the values next to it where it is counted
# what writers of images put where nothing was measured
FILLS = (-99.0, -999.0, -9999.0, -99999.0, -999999.0, -32768.0, -2147483648.0)
IMMENSE, DECADES = 1e15, 1e10  # such a pixel is none where it is so many times larger than all others
ALONE, SEVERAL, MANY = (
    10.0,
    1.0,
    5,
)  # a fill value is so many spreads below the others; the latter if so many pixels have it

FORMATS = [
    Format(
        "pixels without sky",
        "all pixels one value; more than --max_blank of them one value, together; -99, -999, -9999 and "
        "the like far below all others; beyond 1e15 and 1e10 times all others",
        "fill values in part of the pixels, with `convert.py ... --max_masked`: filled from their neighbours",
        "the file is quarantined with the value and the count: a band that is missing, no probability",
    )
]


def check_max_blank(share: float) -> None:
    """Raises: Mistake for a --max_blank that is no share."""
    if not (isinstance(share, (int, float)) and 0 < share <= 1):
        raise Mistake(f"--max_blank {share!r}: expected a share of the pixels, above 0 and at most 1")


def refuse_blank(images: np.ndarray, max_blank: float, bad: dict[int, str], first: int = 0) -> None:
    """Adds to `bad` the images [n, H, W] that show no sky, as {first + n: the reason}, and makes them zero.

    images: float32, finite. Those that are in `bad` already are left.
    """
    if not images.size:
        return
    rows = images.reshape(len(images), -1)
    suspects = np.flatnonzero(_suspects(rows, max_blank))
    for row in suspects.tolist():
        if first + row not in bad and (reason := reason_without_sky(images[row], max_blank)):
            bad[first + row] = reason
            images[row] = 0


def reason_without_sky(image: np.ndarray, max_blank: float) -> str:
    """Why an image [H, W] shows no sky, "" if it does."""
    values, counts = np.unique(image, return_counts=True)
    at = int(counts.argmax())
    value, count = values[at], int(counts[at])
    if count == image.size:
        return f"shows no sky: all {count} pixels are {value:g}"
    if count > max_blank * image.size and not _is_sky(image, values, counts, at):
        return (
            f"shows no sky: {count} of {image.size} pixels are {value:g}, more than the share {max_blank:g} "
            "of --max_blank"
        )
    mask = _filled(image, values, counts)
    if mask is None:
        return ""
    fills = ", ".join(f"{fill:g}" for fill in np.unique(image[mask])[:3])
    return (
        f"{np.count_nonzero(mask)} of {image.size} pixels have a fill value ({fills}); "
        "convert.py fits --max_masked fills them"
    )


def fill_mask(image: np.ndarray) -> np.ndarray | None:
    """bool [H, W] where the pixels are fill values, None if none is; some may be not finite."""
    shown = image[np.isfinite(image)]
    if not (shown.size and _extreme(shown[None])[0]):
        return None
    mask = _filled(image, *np.unique(shown, return_counts=True))
    return mask


def _suspects(rows: np.ndarray, max_blank: float) -> np.ndarray:
    """bool [n]: all of these may show no sky, and few that do; pixels [n, H W]."""
    # Where more than the share of all are equal, two of some ceil(1 / share) + 1 pixels in a row are.
    equal = np.zeros(len(rows), bool)
    for lag in range(1, min(math.ceil(1 / max_blank) + 1, rows.shape[1])):
        equal |= (rows[:, lag:] == rows[:, :-lag]).any(1)
    if rows.shape[1] == 1:
        return np.ones(len(rows), bool)
    many = np.flatnonzero(equal)
    if len(many):
        ordered = np.sort(rows[many], axis=1)
        most = min(math.floor(max_blank * rows.shape[1]), rows.shape[1] - 1)
        equal[many] = (ordered[:, most:] == ordered[:, : rows.shape[1] - most]).any(1)
    return equal | _extreme(rows)


def _extreme(rows: np.ndarray) -> np.ndarray:
    """bool [n]: the lowest pixel is a fill value, or one is immense."""
    low, high = rows.min(1), rows.max(1)
    return (low <= -IMMENSE) | (high >= IMMENSE) | np.isin(low, np.array(FILLS, np.float32))


def _is_sky(image: np.ndarray, values: np.ndarray, counts: np.ndarray, at: int) -> bool:
    """Whether pixels that share the value number `at` of all may be an image of counts."""
    step = np.diff(values).min()
    near = np.abs(values - values[at]) < 1.5 * step
    beside = counts[near].sum() - counts[at]
    if beside >= BESIDE * counts[at]:
        return True
    share = counts[at] / image.size
    if share >= NEARLY_ALL or min(image.shape) < 2:
        return False
    same = image == values[at]
    pairs = [same[1:] & same[:-1], same[:, 1:] & same[:, :-1]]
    both = sum(np.count_nonzero(pair) for pair in pairs) / sum(pair.size for pair in pairs)
    return bool(both < TOGETHER * share + (1 - TOGETHER) * share**2)


def _filled(image: np.ndarray, values: np.ndarray, counts: np.ndarray) -> np.ndarray | None:
    """bool [H, W], None where there is no fill value; values: the finite ones, in order, and how often."""
    size = np.abs(values)
    immense = size >= IMMENSE
    fills = np.zeros(len(values), bool)
    if immense.any() and not immense.all() and size[immense].min() > DECADES * size[~immense].max():
        fills |= immense
    # one after the other from below: what is left decides whether the next is one
    for at in range(len(values) - 1):
        if fills[at]:
            continue
        if values[at] not in FILLS:
            break
        others = np.repeat(values[at + 1 :], np.where(fills[at + 1 :], 0, counts[at + 1 :]))
        if not len(others):
            break
        spread = np.median(others) - others[0]
        if others[0] - values[at] > (SEVERAL if counts[at] >= MANY else ALONE) * spread:
            fills[at] = True
    return np.isin(image, values[fills]) if fills.any() else None
