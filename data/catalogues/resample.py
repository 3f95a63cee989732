"""Images of another size: cropped about their centre, or resampled with their flux conserved,
and what becomes of the pixel scale.

A pixel value is a flux per pixel. A resampled pixel is the integral of the image over its footprint, the
image taken as constant within each of its pixels. So the total flux stays, for any ratio up or down, a
constant image of value v becomes one of v * (old area / new area), and magnitudes measured on it keep their
zero point.
"""

import math
from functools import lru_cache

import numpy as np

from utils.mistake import Mistake

Shape = tuple[int, int]  # (H, W)


def resampled(images: np.ndarray, shape: Shape) -> np.ndarray:
    """Images on a grid of `shape` pixels over the same field:
    the area-weighted sum of what each new pixel covers.

    images: float32 [..., H, W], flux per pixel. A pixel that is not finite is missing, and so is (NaN) each
        new one whose footprint it touches; their part of the flux is not made up.
    Returns: float32 [..., *shape]; `images` itself where the shape stays.
        The sum agrees to some 1e-7 of the sum of |values|.
    Raises: Mistake for a shape without pixels.
    """
    if min(shape) < 1:
        raise Mistake(f"cannot resample to {shape_text(shape)} pixels: expected at least one each way")
    if images.shape[-2:] == tuple(shape):
        return images
    stack = np.asarray(images, dtype=np.float32).reshape(-1, *images.shape[-2:])
    new = _product(stack, shape)
    with np.errstate(invalid="ignore", over="ignore"):
        suspects = ~np.isfinite(np.einsum("ijk->i", stack))
    for number in np.flatnonzero(suspects):  # rare: in a product even 0 * NaN is NaN
        missing = ~np.isfinite(stack[number])
        new[number] = _product(np.where(missing, np.float32(0), stack[number])[None], shape)[0]
        new[number][_product(missing.astype(np.float32)[None], shape)[0] > 0] = np.nan
    return new.reshape(*images.shape[:-2], *shape)


def _product(stack: np.ndarray, shape: Shape) -> np.ndarray:
    """[n, *shape] of [n, H, W]: rows @ image @ columns.T."""
    (count, height, width), rows = stack.shape, overlaps(stack.shape[1], shape[0])
    # The matrix of an axis repeats itself along its diagonal where edges of both grids meet:
    # 32 blocks of 7x2 from 64 to 224.
    blocks = math.gcd(height, shape[0])
    block = rows[: shape[0] // blocks, : height // blocks]
    with np.errstate(invalid="ignore", over="ignore"):
        wide = stack.reshape(-1, width) @ overlaps(width, shape[1]).T
        return (block @ wide.reshape(count, blocks, height // blocks, shape[1])).reshape(count, *shape)


@lru_cache(maxsize=16)
def overlaps(old: int, new: int) -> np.ndarray:
    """float32 [new, old], the part of each old pixel of an axis that lies in each new one;
    the parts of an old one add up to 1.
    """
    # In units in which a field is old * new long all edges are whole numbers.
    left, right = np.arange(old) * new, np.arange(new)[:, None] * old
    common = np.minimum(left + new, right + old) - np.maximum(left, right)
    matrix = (np.maximum(common, 0) / new).astype(np.float32)
    matrix.flags.writeable = False
    return matrix


def cropped(images: np.ndarray, side: int) -> np.ndarray:
    """The central side x side pixels of images [..., H, W]: a view.

    An axis of N pixels loses (N - side) // 2 at its beginning. Where N and side are both odd or both even the
    centre stays where it is; else it lies half a pixel from the old one, towards the beginning,
    because there is no pixel in the middle of an even number.
    Raises: Mistake if an image is smaller than that, or side is below 1.
    """
    top, left = crop_start(images.shape[-2:], side)
    return images[..., top : top + side, left : left + side]


def crop_start(shape: Shape, side: int) -> tuple[int, int]:
    """(top, left): the first pixel that `cropped` keeps of each axis. Raises: Mistake as it does."""
    if not 1 <= side <= min(shape):
        raise Mistake(
            f"cannot crop images of {shape_text(shape)} pixels to {side}x{side}: expected a side of 1 to "
            f"{min(shape)}"
        )
    return (shape[0] - side) // 2, (shape[1] - side) // 2


def rescaled_pixel_scale(scale: float, shape: Shape, new: Shape) -> float:
    """The pixel scale sqrt(|det CD|), in the unit of `scale`, after `resampled` from `shape` to `new`."""
    return scale * (shape[0] * shape[1] / (new[0] * new[1])) ** 0.5


def shape_text(shape: Shape) -> str:
    """41x41"""
    return "x".join(map(str, shape))
