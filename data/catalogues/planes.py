"""What is in a FITS file, learnt from its headers alone, and the pixels of one HDU of it.

The care is that of data/cutouts/fits.py: sizes are compared with the file before anything of the declared
size is read, and whatever is wrong with a file is a BadFile that says what. Beside it:
the geometry that images are given.
"""

import io
import math
import os
import stat
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO, NamedTuple

import numpy as np
from astropy.io import fits

from data.catalogues.resample import cropped, resampled, shape_text
from data.catalogues.sky import card_value
from data.cutouts.fits import (
    LARGEST_CUTOUT,
    MACHINE_TROUBLE,
    OPENING,
    START,
    BadFile,
    by_astropy,
    check_counts,
    check_tiles,
    fits_bytes,
    tiled_shape,
)
from data.cutouts.fits_layout import shows_sky
from data.cutouts.metadata import LETTERS
from data.listing import skipped_files, walk_folders
from data.names import NOT_CUTOUTS, SUFFIXES
from utils.mistake import Mistake

BLOCK = 2880
LARGEST_UNPACKED = 2**25  # bytes of a gzip or bzip2: more is to be unpacked first
MOST_BLOCKS = 400  # of a header: 14,400 cards; those of drizzled mosaics have some hundreds
MOST_HDUS = 1000  # of a file: GalSim keeps 1000 galaxies in one
BY_LENGTH = sorted(SUFFIXES, key=len, reverse=True)
END = b"END".ljust(80)
EMPTY_PRIMARY = b"".join(
    line.ljust(80)
    for line in (
        b"SIMPLE  =                    T",
        b"BITPIX  =                    8",
        b"NAXIS   =                    0",
        b"END",
    )
).ljust(BLOCK)


class Hdu(NamedTuple):
    """One HDU: where its header and its data begin in the file, and how long the data are."""

    number: int
    header: fits.Header
    # of an image, also one that is compressed by tiles, slowest axis first; () of anything else
    shape: tuple[int, ...]
    start: int
    data: int
    size: int
    type: str  # of the pixels as they lie in the file, ">f4"; "" where they are scaled or may be blank

    @property
    def name(self) -> str:
        return "PRIMARY" if self.number == 0 else str(card_value(self.header, "EXTNAME")).upper()

    @property
    def version(self) -> int:
        version = card_value(self.header, "EXTVER", 1)
        return version if isinstance(version, int) else 1

    @property
    def plane_shape(self) -> tuple[int, int]:
        """(H, W). Raises: BadFile for what is no image."""
        if len(self.shape) < 2:
            raise BadFile(
                f"wrong geometry: HDU {self.number} is {shape_text(self.shape) or 'empty'}, expected H x W"
            )
        return self.shape[-2:]

    @property
    def shows_sky(self) -> bool:
        """Whether its EXTNAME is not that of a mask, a weight, an error, a point spread."""
        return shows_sky(str(card_value(self.header, "EXTNAME")))

    @property
    def is_table(self) -> bool:
        return str(card_value(self.header, "XTENSION")) == "BINTABLE"


def read_hdus(path: str | os.PathLike, most: int = MOST_HDUS) -> list[Hdu]:
    """All HDUs of a file (of a gzip: of what is in it). Raises: BadFile, also for more than `most`;
    OSError for trouble of the machine.
    """
    with _opened(path) as file:
        return list(_walk(file, most))


def image_of(path: str | os.PathLike) -> tuple[fits.Header, Hdu]:
    """(the primary header, the HDU that data/cutouts/fits.py reads:
    the first with pixels of the sky, in an image or in a table); no header after it is read.

    Raises: BadFile; OSError for trouble of the machine.
    """
    primary, reason = None, ""
    with _opened(path) as file:
        for hdu in _walk(file):
            primary = primary if primary is not None else hdu.header
            if not hdu.shows_sky and (hdu.shape or hdu.is_table):
                reason = reason or f"no image of the sky: HDU {hdu.number} is called {hdu.name}"
                continue
            if hdu.shape:
                return primary, hdu
            if hdu.is_table:
                try:
                    return primary, hdu._replace(shape=read_plane(path, hdu).shape)
                except BadFile as error:  # a table of something else, or its image is damaged
                    reason = reason or str(error)
    raise BadFile(reason or "no image: every HDU is empty")


def read_plane(path: str | os.PathLike, hdu: Hdu, limit: int = LARGEST_CUTOUT) -> np.ndarray:
    """The physical values of an HDU as the file has them, non-finite ones too: float32, C-contiguous.

    limit: bytes of data that are taken for an image.
    Raises: BadFile; OSError for trouble of the machine.
    """
    if max(hdu.size, 4 * math.prod(hdu.shape)) > limit:
        raise BadFile(f"HDU {hdu.number} has {hdu.size} bytes: too large for its kind")
    with _opened(path) as file:
        if hdu.type:  # headers have been compared with the file: the bytes are the pixels
            file.seek(hdu.data)
            found = np.frombuffer(file.read(hdu.size), dtype=hdu.type)
            if found.nbytes != hdu.size:
                raise BadFile(f"truncated: HDU {hdu.number} ends early")
            return _float32(found.reshape(hdu.shape))
        file.seek(hdu.start)
        raw = file.read(hdu.data - hdu.start + hdu.size)
    raw += bytes(-len(raw) % BLOCK)  # the last block of a file may be cut short
    return _float32(by_astropy(raw if hdu.number == 0 else EMPTY_PRIMARY + raw, None, of_sky=False))


def _float32(pixels: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore"):
        return np.ascontiguousarray(pixels, dtype=np.float32)


def check_finite(images: np.ndarray) -> None:
    """Raises: BadFile if any pixel is NaN or infinite."""
    if bad := images.size - int(np.count_nonzero(np.isfinite(images))):
        raise BadFile(
            f"{bad} of {images.size} pixels are not finite (NaN, infinite, blank or beyond float32)"
        )


def _opened(path: str | os.PathLike) -> BinaryIO:
    try:
        file = os.open(path, OPENING)
        try:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                raise BadFile("not a regular file")
            begin = os.pread(file, len(START), 0)
            if begin == START:
                return os.fdopen(os.dup(file), "rb")
        finally:
            os.close(file)
    except OSError as error:
        if error.errno in MACHINE_TROUBLE:
            raise
        raise BadFile(f"cannot be opened: {error.strerror}") from error
    if begin and not begin.startswith((b"\x1f\x8b", b"BZh")):
        raise BadFile("not a FITS file (does not begin with SIMPLE)")
    return io.BytesIO(fits_bytes(path, LARGEST_UNPACKED))


def _walk(file: BinaryIO, most: int = MOST_HDUS) -> Iterator[Hdu]:
    end = file.seek(0, os.SEEK_END)
    start = 0
    for number in range(most + 1):
        if start >= end:
            return
        file.seek(start)
        raw = _header(file, number)
        if raw is None:
            return
        if number == most:
            raise BadFile(f"more than {most} HDUs")
        check_counts(raw)
        try:
            with warnings.catch_warnings():
                # of cards that astropy mends: a million files would bury the log
                warnings.simplefilter("ignore")
                header = fits.Header.fromstring(raw.decode("ascii", "replace").replace("\ufffd", "?"))
            shape, size = _extent(header)
            plain = (
                _plain_type(header) if shape and size == abs(header["BITPIX"]) // 8 * math.prod(shape) else ""
            )
            if not shape and header.get("ZIMAGE") is True:
                check_tiles(header, None, f"HDU {number}")
                shape = tiled_shape(header)
        except BadFile:
            raise
        except Exception as error:  # a hostile header can raise nearly anything out of astropy
            raise BadFile(f"corrupt header of HDU {number} ({type(error).__name__})") from error
        data = start + len(raw)
        if data + size > end:
            raise BadFile(f"truncated: {end} bytes, its headers declare {data + size}")
        yield Hdu(number, header, shape, start, data, size, plain)
        start = data + -(-size // BLOCK) * BLOCK


def _header(file: BinaryIO, number: int) -> bytes | None:
    """Of the HDU that begins here; None where what follows is no extension (records that the standard lets
    anyone add).
    """
    blocks = []
    while len(blocks) < MOST_BLOCKS:
        block = file.read(BLOCK)
        if number and not blocks and not block.startswith(b"XTENSION"):
            return None
        if len(block) < BLOCK:
            raise BadFile(f"truncated: the header of HDU {number} has no end")
        blocks.append(block)
        if END in block and any(block[at : at + 80] == END for at in range(0, BLOCK, 80)):
            return b"".join(blocks)
    raise BadFile(
        f"corrupt header: none of the first {MOST_BLOCKS * BLOCK // 80} cards of HDU {number} is END"
    )


def _extent(header: fits.Header) -> tuple[tuple[int, ...], int]:
    """(shape of an image, bytes of the data)."""
    axes = [header[f"NAXIS{axis}"] for axis in range(1, header.get("NAXIS", 0) + 1)]
    counts = [header["BITPIX"], header.get("PCOUNT", 0), header.get("GCOUNT", 1), *axes]
    if (
        not all(type(count) is int for count in counts)
        or min(counts[1:]) < 0
        or abs(counts[0]) not in (8, 16, 32, 64)
    ):
        raise BadFile(f"corrupt header: BITPIX, PCOUNT, GCOUNT, NAXISn = {counts}")
    groups = bool(axes) and axes[0] == 0 and header.get("GROUPS", False) is True
    pixels = math.prod(axes[1:] if groups else axes) if axes else 0
    is_image = "SIMPLE" in header or str(header.get("XTENSION", "")).strip() == "IMAGE"
    return tuple(axes[::-1]) if is_image and pixels and not groups else (), abs(counts[0]) // 8 * counts[
        2
    ] * (counts[1] + pixels)


def _plain_type(header: fits.Header) -> str:
    """The numpy type of pixels that are physical values as they are, else ""."""
    bits = header["BITPIX"]
    scaled = (header.get("BSCALE", 1), header.get("BZERO", 0)) != (1, 0) or bits > 0 and "BLANK" in header
    return "" if scaled else {8: "u1", 16: ">i2", 32: ">i4", 64: ">i8", -32: ">f4", -64: ">f8"}.get(bits, "")


# ---- files and geometry


def fits_files(folder: str, flag: str = "--input", report: list[str] | None = None) -> list[str]:
    """The FITS files of a folder and those below it, folder after folder, each sorted; to `report` goes a
    line on the others.

    Raises: Mistake if there is none.
    """
    if not os.path.isdir(folder):
        raise Mistake(f"{flag} {folder!r} is not a folder: expected the folder of the FITS files")
    folders = list(walk_folders(os.path.abspath(folder), SUFFIXES, NOT_CUTOUTS))
    paths = [path for found in folders for path in found.paths]
    others = skipped_files(folders)
    if not paths:
        raise Mistake(
            f"{flag} {folder!r} holds no FITS file (.fits, .fit, .fts, each also .gz, .bz2 or .fz): give the "
            f"folder of the images{f' ({others})' if others else ''}"
        )
    if others and report is not None:
        report.append(others)
    return paths


def file_stem(path: str) -> str:
    """J100620.35+101629.1.fits.gz -> J100620.35+101629.1"""
    name = os.path.basename(path)
    lower = name.lower()
    for suffix in BY_LENGTH:
        if lower.endswith(suffix):
            return name[: -len(suffix)]
    return name


def check_geometry(image_size: int, crop: int) -> None:
    """Raises: Mistake for an impossible --image_size or --crop (0: none)."""
    for flag, value in (("--image_size", image_size), ("--crop", crop)):
        if not (type(value) is int and 0 <= value <= 4096):
            raise Mistake(
                f"{flag} {value!r}: expected pixels, 1 to 4096, or 0 to leave the images as they are"
            )


def fitted_shape(shape: tuple[int, ...], image_size: int, crop: int) -> tuple[int, int]:
    """(H, W) of images of `shape` (..., H, W) after `fitted_images`."""
    side = image_size or crop
    return (side, side) if side else (shape[-2], shape[-1])


def geometries(images: Iterable[tuple[str, Callable[[], tuple[int, int]]]], what: str) -> Counter:
    """How many of the images have each (H, W): by the name of each and what reads its geometry. Raises:
    Mistake if none can be read.
    """
    shapes: Counter = Counter()
    refused = ""
    for name, shape_of in images:
        try:
            shapes[shape_of()] += 1
        except BadFile as error:
            refused = refused or f"{name}: {error}"
    if not shapes:
        raise Mistake(f"none of the {what} can be read, the first is {refused}")
    return shapes


def common_shape(shapes: Counter, image_size: int, crop: int) -> tuple[int, int]:
    """(H, W) of all images after `fitted_images`. Raises: Mistake that lists the geometries (their counts)
    if they stay different.
    """
    if len(shapes) > 1 and not (image_size or crop):
        many = ", ".join(f"{shape_text(shape)} ({count})" for shape, count in shapes.most_common(8)) + (
            ", ..." if len(shapes) > 8 else ""
        )
        raise Mistake(
            f"the images are of {len(shapes)} geometries, {many}: give --image_size (resampled, flux "
            "conserved) or --crop"
        )
    return fitted_shape(shapes.most_common(1)[0][0], image_size, crop)


def central_pixels(images: np.ndarray, crop: int) -> np.ndarray:
    """The central crop x crop pixels of images [..., H, W]; all of them if it is 0. Raises:
    BadFile if they are smaller.
    """
    if not crop:
        return images
    if min(images.shape[-2:]) < crop:
        raise BadFile(f"{shape_text(images.shape[-2:])} pixels, smaller than --crop {crop}")
    return cropped(images, crop)


def fitted_images(images: np.ndarray, image_size: int, crop: int) -> np.ndarray:
    """Images [B, H, W], their middle cut out if `crop`, then on image_size^2 pixels with their flux kept if
    that is given.

    Raises: BadFile if they are smaller than `crop`.
    """
    images = central_pixels(images, crop)
    if image_size and images.shape[-2:] != (image_size, image_size):
        flat = (images == images[..., :1, :1]).all((-2, -1))
        images = resampled(images, (image_size, image_size))
        # what is one value everywhere stays so: a mark of nothing (data/cutouts/blank.py) is not rounded off
        images[flat] = images[flat][..., :1, :1]
    return images


def check_shape(images: np.ndarray, shape: tuple[int, int]) -> None:
    """Raises: BadFile if images are not of the shape that the source has."""
    if images.shape[-2:] != tuple(shape):
        raise BadFile(
            f"wrong geometry: {shape_text(images.shape[-2:])}, expected {shape_text(shape)} (--image_size or "
            "--crop makes them alike)"
        )


def joined_bands(bands: Iterable[str]) -> str:
    """What the metadata say of the bands of an object: grz, or names set apart by blanks: f555w f814w."""
    bands = list(bands)
    letters = all(len(band) == 1 for band in bands) and LETTERS.fullmatch("".join(bands))
    return ("" if letters else " ").join(bands)
