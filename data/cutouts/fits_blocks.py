"""A whole block of FITS cutouts: what read_cutout gives for each file, in less time.

A small file costs little but its system calls and the Python around them. Here files are read into the rows
of one buffer, and many at once are compared with headers that are known, converted and checked. Nothing is
refused here: a file that is not plainly like a known one, or has a pixel that is not finite,
goes to read_cutout.
"""

import math
import os
from collections.abc import Sequence

import numpy as np

from data.cutouts.fits import OPENING, BadFile, read_cutout
from data.cutouts.fits_layout import BLOCK, KNOWN, Layout, say_the_same

BUFFER = 2**21  # bytes: it stays in the cache, and is all that is held beside the images
CLOSED = -1  # no file: reading it is an error
HEADERS = 8 * BLOCK  # bytes of a file that there is room for beside its pixels


def read_cutouts(
    paths: Sequence[str | os.PathLike], shape: tuple[int, ...], finite: bool = True
) -> tuple[np.ndarray, dict[int, str]]:
    """The images of n FITS files, and why some have none.

    shape, finite: as for read_cutout.
    Returns: float32 [n, *shape], zero where a file is refused; {its row: the reason}.
    Raises: OSError for trouble of the machine.
    """
    shape = tuple(shape)
    images = np.empty((len(paths), *shape), np.float32)
    reasons = {}

    def read_alone(row: int) -> None:
        try:
            images[row] = read_cutout(paths[row], shape, finite)
        except BadFile as error:
            images[row], reasons[row] = 0, str(error)

    flat = images.reshape(len(paths), math.prod(shape))
    room = 8 * math.prod(shape) + HEADERS
    at_once = BUFFER // room
    if not at_once:  # so large that the system calls are nothing
        for row in range(len(paths)):
            read_alone(row)
        return images, reasons
    buffer = np.empty((min(at_once, len(paths)), room), np.uint8)
    views = [[memoryview(row)] for row in buffer]
    for start in range(0, len(paths), at_once):
        sizes = _fill(views, paths[start : start + at_once])
        for size in set(sizes):
            rows = np.flatnonzero(np.array(sizes) == size)
            tried = ()
            while len(rows):
                known = KNOWN.get((size, shape), ()) if size < room else ()
                for found in known:
                    if found not in tried and len(rows):
                        rows = _take(flat[start : start + at_once], buffer, rows, *found)
                if len(rows):  # what is learnt from one may be said of the others
                    read_alone(start + int(rows[0]))
                rows = rows[1:]
                tried = known
    return images, dict(sorted(reasons.items()))


def _fill(views: list[list[memoryview]], paths: Sequence[str | os.PathLike]) -> list[int]:
    """Reads a file into each row. Returns: their sizes; one that fills its row may be larger; 0:
    it could not be read.

    All are opened, then all read, then all closed: a kind of system call after its like takes less time.
    """
    sizes = []
    files = [_opened(path) for path in paths]
    try:
        for view, file in zip(views, files):
            try:
                sizes.append(os.readv(file, view))
            except OSError:
                sizes.append(0)  # read_cutout says why, or raises it
    finally:
        for file in files:
            if file != CLOSED:
                os.close(file)
    return sizes


def _opened(path: str | os.PathLike) -> int:
    try:
        return os.open(path, OPENING)
    except OSError:
        return CLOSED


def _take(
    images: np.ndarray, buffer: np.ndarray, rows: np.ndarray, headers: bytes, layout: Layout
) -> np.ndarray:
    """Puts into images [n, pixels] those rows of the buffer whose headers say what the known ones do.
    Returns: the other rows.
    """
    same = say_the_same(buffer[_span(rows), : len(headers)], headers)
    taken, left = rows[same], rows[~same]
    if not len(taken):
        return left
    start = len(headers) + layout.skip
    span = _span(taken)
    with np.errstate(over="ignore", invalid="ignore"):
        images[span] = buffer[span, start : start + images.shape[1] * layout.dtype.itemsize].view(
            layout.dtype
        )
        written = images[span]
        if np.vdot(written, written) < np.inf:  # the quickest look at every pixel: none is NaN or infinite
            return left
    return np.sort(np.concatenate([left, taken[~np.isfinite(written).all(axis=1)]]))


def _span(rows: np.ndarray) -> np.ndarray | slice:
    """The same rows as a slice, which copies nothing, if they follow one another."""
    first, last = int(rows[0]), int(rows[-1])
    return slice(first, last + 1) if last - first == len(rows) - 1 else rows
