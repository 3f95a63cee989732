"""PNG and JPEG pictures as planes of numbers: what a browser shows, no physical flux.

Their planes are red, green and blue, or one of grey (band ""). Rows are in the order of the picture, its
first row first, where FITS images mostly begin at the bottom. A palette or CMYK is made red, green and blue,
an alpha plane is left out.
"""

import io
import os
import struct
import warnings
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from data.cutouts.fits import MACHINE_TROUBLE, BadFile, first_line

SUFFIXES = (".png", ".jpg", ".jpeg")
COLOURS = ["red", "green", "blue"]
GREY = {"1": "L", "L": "L", "LA": "L", "I;16": "I;16", "I;16B": "I;16B", "I": "I"}
COLOURED = {"RGB", "RGBA", "P", "PA", "CMYK", "YCbCr"}
LARGEST_SIDE, MOST_PIXELS = 2**15, 2**26
LARGEST_FILE = 2**27  # bytes
NO_FLUX = (
    "their pixels are a picture's, stretched for the eye: no physical flux, so that magnitudes, noise and "
    "colours mean nothing"
)


class Picture(NamedTuple):
    """What the head of a picture says; its planes are [channels, height, width]."""

    channels: int  # 1 or 3
    height: int
    width: int
    alpha: bool  # whether a plane of it is left out

    @property
    def planes(self) -> tuple[int, int, int]:
        """[C, H, W] of what `picture_planes` gives."""
        return self.channels, self.height, self.width


def picture_bands(channels: int) -> list[str]:
    return COLOURS if channels == 3 else [""]


def picture_of(content: bytes) -> Picture:
    """What a picture is by its head alone, no pixel is decoded. Raises: BadFile."""
    with _opened(content) as image:
        return _head(image)


def picture_planes(content: bytes) -> np.ndarray:
    """[C, H, W] uint8, or uint16 and int32 of grey ones that have so many bits. Raises: BadFile."""
    with _opened(content) as image:
        head = _head(image)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of what Pillow mends
                pixels = np.asarray(image.convert(GREY.get(image.mode, "RGB")))
        except (
            OSError,
            ValueError,
            SyntaxError,
            EOFError,
            struct.error,
            Image.DecompressionBombError,
        ) as error:
            raise BadFile(f"no whole picture: {first_line(error)}") from error
    return pixels[None] if head.channels == 1 else np.moveaxis(pixels, -1, 0)


def picture_bytes(path: str | os.PathLike) -> bytes:
    """Raises: BadFile; OSError for trouble of the machine."""
    try:
        if not os.path.isfile(path):
            raise BadFile("not a regular file")
        if (size := os.path.getsize(path)) > LARGEST_FILE:
            raise BadFile(f"{size:,} bytes: too large for a picture")
        with open(path, "rb") as file:
            return file.read(LARGEST_FILE)
    except OSError as error:
        if error.errno in MACHINE_TROUBLE:
            raise
        raise BadFile(f"cannot be opened: {error.strerror}") from error


def _opened(content: bytes) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return Image.open(io.BytesIO(content), formats=("PNG", "JPEG"))
    except UnidentifiedImageError:  # its text names an object in memory, another in each run
        raise BadFile("no PNG or JPEG, or its head is damaged") from None
    except (OSError, ValueError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError) as error:
        raise BadFile(f"no PNG or JPEG: {first_line(error)}") from error


def _head(image: Image.Image) -> Picture:
    width, height = image.size
    if not (1 <= min(width, height) and max(width, height) <= LARGEST_SIDE and width * height <= MOST_PIXELS):
        raise BadFile(f"a picture of {height}x{width} pixels: expected at most {MOST_PIXELS:,}")
    if image.mode not in GREY and image.mode not in COLOURED:
        raise BadFile(f"a picture of mode {image.mode}: expected grey or red, green, blue")
    alpha = image.mode in ("LA", "RGBA", "PA") or "transparency" in image.info
    return Picture(1 if image.mode in GREY else 3, height, width, alpha)
