"""The one door through which pixels enter: a FITS cutout becomes an array of physical values or is refused,
with why.

Files of the plain forms are read by data/cutouts/fits_layout.py, all others by astropy; what is added here is
strictness. The geometry is declared by the caller and never made by reshaping another one, sizes are compared
with the file before anything of the declared size is allocated, and what astropy only warns of (truncation)
is refused.
"""

import bz2
import contextlib
import errno
import io
import math
import os
import re
import signal
import stat
import warnings
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.utils.exceptions import AstropyUserWarning

from data.cutouts.fits_layout import padded, plain_pixels, shows_sky
from data.formats import Format

LARGEST = 2**30  # bytes of a file, unpacked, that is still taken for an image when no geometry is declared
LARGEST_CUTOUT = 2**26  # ... and when one is: a cutout of 41x41 with all its extensions is 20 kB
START = b"SIMPLE  ="
OPENING = os.O_RDONLY | os.O_NONBLOCK  # a pipe would wait
SMALL = 2**15  # bytes of a file that may be asked for before its size is known
usual_size = 0  # of the small file that was read last: a guess, which changes nothing but the speed
NUMBERS = frozenset("BIJKED")  # TFORM letters of the columns that can be pixels
# Not the file's fault: these stop the job, where a quarantine would last.
MACHINE_TROUBLE = {
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
    errno.ESTALE,
    errno.ETIMEDOUT,
    errno.EAGAIN,
    errno.EINTR,
}
# Cards of which astropy makes sizes, in any spelling that it understands.
COUNT = re.compile(rb" *(BITPIX|NAXIS\d*|[PG]COUNT|TFIELDS) *=([^/]*)", re.IGNORECASE)
SAFE_TILES = ("RICE_1", "RICE_ONE", "GZIP_1", "GZIP_2", "NOCOMPRESS")  # spoiled ones never ended the process
LONGEST_DECODING = 60  # seconds
MOST_FLAGS = 64  # different values of an integer image that may be the flags of another
MOST = {b"NAXIS": 999, b"TFIELDS": 999}  # the standard's; astropy makes a list of as many as are declared


FORMATS = [
    Format(
        "FITS cutout",
        "begins with SIMPLE; .fits .fit .fts, each also .gz and .bz2; .fits.fz and .fz",
        "the first image of the sky in file order, or a table of one row with a column band_<name> or image; "
        "images compressed by tiles (RICE, GZIP, HCOMPRESS, PLIO) too; physical values (BSCALE, BZERO, "
        "TSCAL, TZERO), as float32",
        "another geometry, pixels that are not finite, images cut short, and what shows no sky "
        "(data/cutouts/blank.py) are quarantined with the reason; HDUs called MASK, DQ, WHT, INVVAR, "
        "ERR, PSF and the like, and integer flags before an image, are never taken for it",
    ),
    Format(
        "packed FITS",
        "begins like gzip or bzip2",
        "unpacked, all members, as far as the size of a cutout allows",
        "what unpacks to more than a cutout can be, or is damaged",
    ),
]


class BadFile(Exception):
    """A file that cannot be used; its text is the reason in words."""


def read_cutout(
    path: str | os.PathLike, shape: tuple[int, ...] | None = (41, 41), finite: bool = True
) -> np.ndarray:
    """The image of one FITS file: its first HDU that is an image, or a one-row table with an image column.

    shape: the geometry that the file must have, slowest axis first; None takes what is there.
    finite: refuse a file with a non-finite pixel; False keeps them (surveys mark with NaN what they did not
        observe).
    Returns: float32 [*shape], C-contiguous, native byte order, physical values (BSCALE, BZERO, TSCAL,
        TZERO applied).
    Raises: BadFile for whatever is wrong with the file; OSError for trouble of the machine (a stale file
        handle, say).
    Source: FITS Standard 4.0, sections 4.4.1 (image), 7.3 (binary table).
    """
    raw = fits_bytes(path, LARGEST if shape is None else max(LARGEST_CUTOUT, 64 * math.prod(shape)))
    pixels = None if shape is None else plain_pixels(raw, tuple(shape))
    if pixels is None:
        pixels = by_astropy(raw, shape)
    del raw  # before the pixels are copied
    if pixels.dtype.kind == "f":
        pixels = pixels.astype(pixels.dtype.type)  # of native byte order
        # The sum of squares is the quickest look at every pixel:
        # so small, none is NaN, infinite or beyond float32.
        if float(np.vdot(pixels, pixels)) < 1e76:
            return pixels.astype(np.float32, copy=False)
    with np.errstate(over="ignore", invalid="ignore"):
        pixels = np.ascontiguousarray(pixels, dtype=np.float32)
    if finite and (bad := pixels.size - int(np.count_nonzero(np.isfinite(pixels)))):
        raise BadFile(
            f"{bad} of {pixels.size} pixels are not finite (NaN, infinite, blank or beyond float32)"
        )
    return pixels


def by_astropy(raw: bytes, shape: tuple[int, ...] | None, of_sky: bool = True) -> np.ndarray:
    """The pixels of any file, [*shape] in whatever type they come; of_sky: those of a mask are none.
    Raises BadFile.
    """
    size = len(raw)
    # the last block may be cut short: what is in it is compared with `size`
    raw = raw.ljust(padded(size), b"\0")
    # uint: astropy otherwise forgets BLANK in unsigned integers
    with opened_fits(raw, uint=False, disable_image_compression=True) as hdus:
        found = _first_image(hdus, size, shape, of_sky)
    if isinstance(found, np.ndarray):
        return found
    number, kind = found
    if kind in SAFE_TILES:
        return _from_tiles(raw, number)
    return _in_a_child(lambda: _from_tiles(raw, number), f"{kind} tiles of HDU {number} are damaged")


def _from_tiles(raw: bytes, number: int) -> np.ndarray:
    with opened_fits(raw, uint=False) as hdus:
        return hdus[number].data


def _in_a_child(decode: Callable[[], np.ndarray], damaged: str) -> np.ndarray:
    """What `decode` gives, in a process of its own: C code that damaged files can bring to write anywhere.
    Raises: BadFile that says `damaged` where the process does not end well.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what the C library says when it gives up
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(LONGEST_DECODING)
            array = io.BytesIO()
            np.save(array, decode(), allow_pickle=False)
            with open(writing, "wb") as pipe:
                pipe.write(array.getvalue())
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    with open(reading, "rb") as pipe:
        content = pipe.read()
    if os.waitpid(child, 0)[1]:
        raise BadFile(f"unreadable: {damaged}")
    return np.load(io.BytesIO(content), allow_pickle=False)


@contextlib.contextmanager
def opened_fits(raw: bytes, **options: Any) -> Iterator[fits.HDUList]:
    """A file of these bytes by astropy; whatever astropy finds wrong, or whoever reads,
    is raised as BadFile.
    """
    check_counts(raw)
    with warnings.catch_warnings():
        # Non-standard cards and the like: astropy mends them, and a million files would bury the log.
        warnings.simplefilter("ignore")
        warnings.filterwarnings("error", message=".*truncated.*", category=AstropyUserWarning)
        try:
            with fits.open(io.BytesIO(raw), memmap=False, lazy_load_hdus=True, **options) as hdus:
                yield hdus
        except AstropyUserWarning:
            raise BadFile(f"truncated: {len(raw)} bytes are fewer than its headers declare") from None
        except (BadFile, MemoryError):
            raise
        except Exception as error:  # a hostile header can raise nearly anything out of astropy
            raise BadFile(f"unreadable ({type(error).__name__} in astropy: {first_line(error)})") from error


def check_counts(raw: bytes) -> None:
    """Before astropy multiplies them: a GCOUNT that is a text, say,
    would be repeated as often as there are pixels.
    """
    for at in range(0, len(raw), 80):
        if card := COUNT.match(raw, at, at + 80):
            name = card[1].upper()
            value = card[2].strip()
            if not re.fullmatch(rb"[+-]?\d{1,19}", value) or int(value) > MOST.get(name, 2**63):
                raise BadFile(f"corrupt header: {name.decode()} = {re.sub(rb'[^ -~]', b'?', value).decode()}")


def fits_bytes(path: str | os.PathLike, limit: int) -> bytes:
    """The bytes of a FITS file, of at most `limit`, unpacked if it is a gzip.
    Raises BadFile, or OSError for trouble of the machine.
    """
    try:
        file = os.open(path, OPENING)
        try:
            raw = _content(file, limit)
        finally:
            os.close(file)
    except OSError as error:
        if error.errno in MACHINE_TROUBLE:
            raise
        raise BadFile(f"cannot be opened: {error.strerror}") from error
    if not raw.startswith(START):
        if not raw:
            raise BadFile("empty file")
        if raw.startswith(b"\x1f\x8b"):
            raw = _unpacked(raw, limit)
        elif raw.startswith(b"BZh"):
            raw = _unpacked_bz2(raw, limit)
        if not raw.startswith(START):
            raise BadFile("not a FITS file (does not begin with SIMPLE)")
    return raw


def _content(file: int, limit: int) -> bytes:
    """Of an open file, with as few system calls as can be: they are most of the time of reading a cutout."""
    global usual_size
    guess, raw = usual_size, b""  # a copy: other threads read as well
    try:  # most files have the size of the one before: one byte more is asked for, and its absence is the end
        raw = os.read(file, guess + 1)
    except BlockingIOError:
        pass  # a pipe
    if 0 < len(raw) == guess <= limit:
        return raw
    status = os.fstat(file)
    if not stat.S_ISREG(status.st_mode):
        raise BadFile("not a regular file")
    if status.st_size > limit:
        raise BadFile(f"{status.st_size} bytes: too large for its kind")
    usual_size = status.st_size if status.st_size < SMALL else 0
    raw = os.pread(file, status.st_size, 0)
    while len(raw) < status.st_size and (more := os.pread(file, status.st_size - len(raw), len(raw))):
        raw += more
    return raw


def _unpacked(raw: bytes, limit: int) -> bytes:
    """All members of a gzip file, never more than `limit` bytes: a bomb of 1 MB unpacks to 1 GB."""
    unpacked = b""
    while raw:
        member = zlib.decompressobj(wbits=31)  # gzip, its checksum compared
        try:
            unpacked += member.decompress(raw, limit + 1 - len(unpacked))
        except zlib.error as error:
            raise BadFile(f"damaged gzip: {first_line(error)}") from error
        if len(unpacked) > limit:
            raise BadFile(f"more than {limit} bytes when unpacked: too large for its kind")
        if not member.eof:
            raise BadFile("damaged gzip: it ends too early")
        raw = member.unused_data.lstrip(b"\0")
    return unpacked


def _unpacked_bz2(raw: bytes, limit: int) -> bytes:
    """All streams of a bzip2 file, with the same care."""
    unpacked = b""
    while raw:
        stream = bz2.BZ2Decompressor()
        try:
            unpacked += stream.decompress(raw, limit + 1 - len(unpacked))
        except (OSError, ValueError) as error:
            raise BadFile(f"damaged bzip2: {first_line(error)}") from error
        if len(unpacked) > limit:
            raise BadFile(f"more than {limit} bytes when unpacked: too large for its kind")
        if not stream.eof:
            raise BadFile("damaged bzip2: it ends too early")
        raw = stream.unused_data.lstrip(b"\0")
    return unpacked


def _first_image(
    hdus: fits.HDUList, size: int, shape: tuple[int, ...] | None, of_sky: bool
) -> np.ndarray | tuple[int, str]:
    """Stops at the first cutout in file order that can be of the sky: a later one may be a PSF,
    a weight or a mask of the same geometry. (number of its HDU, ZCMPTYPE) where the image is compressed by
    tiles.
    """
    seen = []
    for number, hdu in enumerate(hdus):
        where = f"HDU {number}"
        name = str(hdu.header.get("EXTNAME", ""))
        if isinstance(hdu, fits.GroupsHDU) or not isinstance(
            hdu, (fits.PrimaryHDU, fits.ImageHDU, fits.BinTableHDU)
        ):
            seen.append(f"{where} is neither an image nor a binary table")
        elif of_sky and not shows_sky(name):
            seen.append(f"{where} is called {name}, which is no image of the sky")
        elif isinstance(hdu, fits.BinTableHDU):
            if hdu.header.get("ZIMAGE") is True:
                check_tiles(hdu.header, shape, where)
                check_size(hdu, size)
                return number, str(hdu.header.get("ZCMPTYPE", "")).strip()
            column = _image_column(hdu, shape)
            if column is not None:
                return _from_table(hdu, column, where, size, shape)
            seen.append(f"{where} is a table without an image column")
        elif hdu.shape and math.prod(hdu.shape):
            _check_geometry(hdu.shape, shape, where)
            check_size(hdu, size)
            if not _are_flags(hdu, hdus, number):
                return hdu.data
            seen.append(f"{where} holds the flags of another image")
    raise BadFile("no image: " + ("; ".join(seen) if seen else "every HDU is empty"))


def check_tiles(header: fits.Header, shape: tuple[int, ...] | None, where: str) -> None:
    """Of an image that is compressed by tiles, before anything of the declared size is allocated: its
    geometry, and tiles that are no larger. Raises BadFile.
    """
    declared = tiled_shape(header)
    _check_geometry(declared, shape, where)
    tiles = [header.get(f"ZTILE{axis}", 1) for axis in range(1, len(declared) + 1)]
    sizes = [*declared, *tiles]
    if (
        not declared
        or not all(type(side) is int and side > 0 for side in sizes)
        or math.prod(declared) * 8 > LARGEST
        or math.prod(tiles) > 64 * math.prod(declared)
    ):
        raise BadFile(f"corrupt header: {where} declares {_by(declared)} pixels in tiles of {_by(tiles)}")


def tiled_shape(header: fits.Header) -> tuple[int, ...]:
    """The geometry of an image that is compressed by tiles, slowest axis first."""
    axes = header.get("ZNAXIS", 0)
    return tuple(header.get(f"ZNAXIS{axis}", 0) for axis in range(axes, 0, -1)) if type(axes) is int else ()


def _are_flags(hdu: Any, hdus: fits.HDUList, number: int) -> bool:
    """Whether integers are the flags of pixels that come after them: few values, zero nearly everywhere,
    and then an image of the same geometry with fractions.
    """
    if hdu.header["BITPIX"] < 0 or (hdu.header.get("BSCALE", 1), hdu.header.get("BZERO", 0)) != (1, 0):
        return False
    pixels = hdu.data
    if 2 * np.count_nonzero(pixels) > pixels.size or len(np.unique(pixels)) > MOST_FLAGS:
        return False
    return any(
        isinstance(later, fits.ImageHDU)
        and later.shape == hdu.shape
        and later.header["BITPIX"] < 0
        and shows_sky(str(later.header.get("EXTNAME", "")))
        for later in hdus[number + 1 :]
    )


def _image_column(hdu: fits.BinTableHDU, shape: tuple[int, ...] | None) -> fits.Column | None:
    bands = [column for column in hdu.columns if re.fullmatch(r"band_\w+", column.name or "", re.IGNORECASE)]
    if len(bands) > 1:
        raise BadFile(f"several image columns: {', '.join(column.name for column in bands)}")
    named = bands or [column for column in hdu.columns if (column.name or "").lower() == "image"]
    numbers = [column for column in hdu.columns if _kind(column) in NUMBERS]
    sized = [c for c in numbers if (_count(c) > 1 if shape is None else _count(c) == math.prod(shape))]
    return next(iter(named + sized), None)


def _from_table(
    hdu: fits.BinTableHDU, column: fits.Column, where: str, size: int, shape: tuple[int, ...] | None
) -> np.ndarray:
    where = f"column {column.name} of {where}"
    if _kind(column) not in NUMBERS:
        raise BadFile(f"{where} has format {str(column.format)!r}, expected numbers (E, D, B, I, J or K)")
    if hdu.header["NAXIS2"] != 1:
        raise BadFile(f"{where} has {hdu.header['NAXIS2']} rows, expected one")
    # a vector without TDIM says nothing of its geometry: the challenge's own 1681E and 1681D
    flat = not column.dim
    declared = (_count(column),) if flat else tuple(int(n) for n in re.findall(r"\d+", str(column.dim)))[::-1]
    _check_geometry(declared, (math.prod(shape),) if flat and shape is not None else shape, where)
    if math.prod(declared) != _count(column):
        raise BadFile(f"{where} holds {_count(column)} values, but its TDIM says {_by(declared)}")
    check_size(hdu, size)
    # its name may be missing, or be another's too
    number = [other is column for other in hdu.columns].index(True)
    table = hdu.data
    if column.null is not None and np.any(blank := np.rec.recarray.field(table, number) == column.null):
        raise BadFile(f"{np.count_nonzero(blank)} of {blank.size} pixels are not finite (TNULL)")
    pixels = np.asarray(table.field(number)[0])
    return pixels if shape is None else pixels.reshape(shape)


def _kind(column: fits.Column) -> str:
    """The letter of a TFORM, '' for a descriptor of variable length."""
    found = re.fullmatch(r"\s*\d*([A-Z])\s*", str(column.format))
    return found[1] if found else ""


def _count(column: fits.Column) -> int:
    return int(re.match(r"\s*(\d*)", str(column.format))[1] or 1)


def _check_geometry(found: tuple[int, ...], expected: tuple[int, ...] | None, where: str) -> None:
    if expected is not None and tuple(found) != tuple(expected):
        raise BadFile(f"wrong geometry: {where} is {_by(found)}, expected {_by(expected)}")


def check_size(hdu, size: int) -> None:
    """Before .data allocates what the header declares."""
    end = hdu.fileinfo()["datLoc"] + hdu.size
    if end > size:
        raise BadFile(f"truncated: {size} bytes, its headers declare {end}")


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(str(n) for n in shape)


def first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
