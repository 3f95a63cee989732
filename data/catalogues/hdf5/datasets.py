"""Data sets of an HDF5 file from anywhere: what is in the file itself, wholly,
and readable with what h5py brings; a line if it is not.

HDF5 follows links, external storage and virtual data sets to other files, loads the code of unknown filters
from wherever the environment says, and takes the memory that a file declares; all of that is refused before
anything is read. Texts of variable length are read here and not by HDF5: a damaged heap keeps it in a loop
that nothing ends.
"""

import math
import os
import re
import stat
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import h5py
import numpy as np

from data.cutouts.fits import MACHINE_TROUBLE, first_line
from utils.mistake import Mistake

LARGEST_CHUNK = 2**28  # bytes; of a packed data set HDF5 holds a whole one in memory
LONGEST_TEXT = 1024  # bytes
# bytes of a collection of texts (HDF5 makes them of 4096), and of all that a column has
LARGEST_HEAP, LARGEST_HEAPS = 2**20, 2**26
# of a text of variable length, as it is stored
REFERENCE = np.dtype([("length", "<u4"), ("heap", "<u8"), ("number", "<u4")])
FILTERS = (
    h5py.h5z.FILTER_DEFLATE,
    h5py.h5z.FILTER_SHUFFLE,
    h5py.h5z.FILTER_FLETCHER32,
    h5py.h5z.FILTER_SZIP,
    h5py.h5z.FILTER_NBIT,
    h5py.h5z.FILTER_SCALEOFFSET,
    h5py.h5z.FILTER_LZF,
)


def opened_hdf5(path: str) -> h5py.File:
    """Raises: Mistake if it is no HDF5 file or not a whole one; OSError for trouble of the machine."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise_trouble(error, path)
        raise Mistake(f"{path!r} cannot be opened: {error.strerror}") from error
    if not stat.S_ISREG(status.st_mode):
        raise Mistake(f"{path!r} is not a regular file: expected an HDF5 file")
    try:
        return h5py.File(path, "r", locking=False)  # clusters mount file systems on which locks fail
    except (OSError, RuntimeError) as error:
        raise_trouble(error, path)
        raise Mistake(
            f"{path!r} is not a whole HDF5 file ({first_line(error)}): download it again"
        ) from error


def hdf5_dataset(path: str, file: h5py.File, name: str) -> h5py.Dataset:
    """Refused unless its values are in this file, readable with what h5py brings."""
    parts = name.split("/")
    for depth in range(1, len(parts) + 1):
        part = "/".join(parts[:depth])
        if file.id.links.get_info(part.encode()).type != h5py.h5l.TYPE_HARD:
            raise Mistake(
                f"{path!r}: {part} is a link to elsewhere, which is not followed: expected the data set "
                "itself"
            )
    data = h5py.h5d.open(file.id, name.encode())
    made = data.get_create_plist()
    if made.get_layout() == h5py.h5d.VIRTUAL or made.get_external_count():
        raise Mistake(
            f"{path!r}: the values of {name} are in other files, which are not opened: expected them in this "
            "one"
        )
    filters = [made.get_filter(number) for number in range(made.get_nfilters())]
    for code, _, _, label in filters:
        if code not in FILTERS or not h5py.h5z.filter_avail(code):
            raise Mistake(
                f"{path!r}: {name} is packed with filter {code} ({label.decode(errors='replace')}), which "
                "h5py does not bring: repack the file with h5repack -f GZIP=4"
            )
    data = h5py.Dataset(data)
    if filters and (size := math.prod(data.chunks) * data.dtype.itemsize) > LARGEST_CHUNK:
        raise Mistake(
            f"{path!r}: {name} is packed in chunks of {size:,} bytes, expected at most {LARGEST_CHUNK:,}: "
            "repack it with h5repack"
        )
    return data


def check_stored(path: str, name: str, data: h5py.Dataset) -> None:
    """Before memory for the declared size is taken, or what was never written is read as zeros."""
    if data.chunks:
        declared = math.prod(-(-size // chunk) for size, chunk in zip(data.shape, data.chunks))
        stored = data.id.get_num_chunks()
        what = "chunks"
    else:
        declared = data.size * data.dtype.itemsize
        what = "bytes"
        stored = min(data.id.get_storage_size(), os.path.getsize(path))
    if stored < declared:
        raise Mistake(
            f"{path!r}: {name} declares {declared:,} {what}, the file holds {stored:,} of them: it was not "
            "written to its end"
        )


def texts_of(path: str, name: str, data: h5py.Dataset) -> list[str]:
    """A column of texts, of fixed or variable length. Raises:
    Mistake if one is longer than LONGEST_TEXT, or is not where it should be.
    """
    if data.dtype.itemsize > LONGEST_TEXT:
        raise Mistake(
            f"{path!r}: {name} holds texts of {data.dtype.itemsize} bytes, expected at most {LONGEST_TEXT}"
        )
    check_stored(path, name, data)
    values = (
        data[()].tolist() if h5py.check_string_dtype(data.dtype).length else _variable_texts(path, name, data)
    )
    return decoded(values)


def decoded(values: Iterable[bytes]) -> list[str]:
    """Texts without what fills them up: blanks, or all from the first zero byte on."""
    return [value.partition(b"\0")[0].decode(errors="replace").rstrip(" ") for value in values]


def has_variable_lengths(kind: np.dtype) -> bool:
    """Whether values of a type, or of a field of it, are of variable length, or references."""
    return kind.base.kind == "O" or any(
        has_variable_lengths(field[0]) for field in (kind.fields or {}).values()
    )


def field_with_texts_beside(path: str, name: str, data: h5py.Dataset, field: str) -> np.ndarray:
    """[N] or [N, k] a field of a compound table that `has_variable_lengths`; texts as bytes.

    Of such a table h5py reads every field, whichever is asked for, and so the heap of its texts.
    """
    kind = data.id.get_type()
    # in memory such a text is a pointer of 8 bytes, in the file a reference of 16
    longer = REFERENCE.itemsize - 8
    members = sorted((kind.get_member_offset(n), n) for n in range(kind.get_nmembers()))
    shift = at = 0
    for offset, number in members:
        member = kind.get_member_type(number)
        if kind.get_member_name(number) == field.encode():
            at = offset + shift
        if member.get_class() == h5py.h5t.STRING and member.is_variable_str():
            shift += longer
    inner = data.dtype.fields[field][0]
    is_text = h5py.check_string_dtype(inner) is not None and inner.kind == "O"
    row = np.dtype(
        {
            "names": ["value"],
            "formats": [REFERENCE if is_text else inner],
            "offsets": [at],
            "itemsize": kind.get_size() + shift,
        }
    )
    with open(path, "rb") as file:
        values = _stored_rows(path, name, data, file.fileno(), row)["value"]
    return np.array(list(_texts_at(path, name, values)), dtype=object) if is_text else values.copy()


def unread_texts(data: h5py.Dataset) -> str:
    """Why texts of variable length of a data set cannot be read, "" where they can."""
    made, whole = data.file.id.get_create_plist(), data.id.get_create_plist()
    if (
        whole.get_nfilters()
        or made.get_sizes()[0] != 8
        or made.get_userblock()
        or whole.get_layout() == h5py.h5d.COMPACT
    ):
        return "texts of variable length that are packed, which are not read"
    return ""


def _variable_texts(path: str, name: str, data: h5py.Dataset) -> Iterator[bytes]:
    with open(path, "rb") as file:
        references = _stored_rows(path, name, data, file.fileno(), REFERENCE)
    return _texts_at(path, name, references)


def _texts_at(path: str, name: str, references: np.ndarray) -> Iterator[bytes]:
    """Source: HDF5 File Format Specification 3.0, sections III.E (global heap)
    and VIII.B (references of variable length).
    """
    heaps: dict[int, dict[int, bytes]] = {}
    with open(path, "rb") as file:
        # collections that overlap could hold the file many times
        room = min(LARGEST_HEAPS, os.path.getsize(path))
        for row, (length, heap, number) in enumerate(references.tolist()):
            if length > LONGEST_TEXT:
                raise Mistake(
                    f"{path!r}: {name} of row {row} has {length} bytes, expected at most {LONGEST_TEXT}"
                )
            if length and heap not in heaps:
                content = _heap(file.fileno(), heap)
                if (room := room - len(content)) < 0:
                    raise Mistake(
                        f"{path!r}: the texts of {name} take more than {LARGEST_HEAPS:,} bytes, or overlap: "
                        "expected less"
                    )
                heaps[heap] = dict(_objects(content))
            text = heaps[heap].get(number, b"") if length else b""
            if len(text) < length:
                raise Mistake(f"{path!r}: {name} of row {row} is damaged, its text is not in the file")
            yield text[:length]


def _stored_rows(path: str, name: str, data: h5py.Dataset, file: int, row: np.dtype) -> np.ndarray:
    """[N] of a data set that is not packed, its bytes as they are in the file. Raises: Mistake."""
    if why := unread_texts(data):
        raise Mistake(f"{path!r}: {name} holds {why}: repack the file with h5repack -f NONE -l CONTI")
    if not data.chunks:
        raw = os.pread(file, len(data) * row.itemsize, data.id.get_offset())
        expected = len(data)
    else:
        firsts = range(0, len(data), data.chunks[0])
        raw = b"".join(data.id.read_direct_chunk((first,))[1] for first in firsts)
        expected = len(firsts) * data.chunks[0]
    if len(raw) != expected * row.itemsize:
        raise Mistake(
            f"{path!r}: {name} has {len(raw):,} bytes, expected {expected * row.itemsize:,}: it is damaged, "
            "or of another form"
        )
    return np.frombuffer(raw, row)[: len(data)]


def _heap(file: int, at: int) -> bytes:
    """A collection; b"" if there is none."""
    if at >= 2**62 or len(start := os.pread(file, 16, at)) < 16 or start[:5] != b"GCOL\1":
        return b""
    return os.pread(file, min(struct.unpack("<Q", start[8:])[0], LARGEST_HEAP), at)


def _objects(heap: bytes) -> Iterator[tuple[int, bytes]]:
    """Number and content of each text in a collection."""
    place = 16
    while place + 16 <= len(heap):
        number, size = struct.unpack("<H6xQ", heap[place : place + 16])
        if not number:  # what is free
            break
        yield number, heap[place + 16 : place + 16 + size]
        place += 16 + -(-size // 8) * 8


@contextmanager
def reading_hdf5(path: str, what: str) -> Iterator[None]:
    """What a hostile file can raise out of h5py, in a line."""
    try:
        yield
    except (Mistake, MemoryError):
        raise
    except Exception as error:
        raise_trouble(error, path)
        raise Mistake(
            f"{path!r}: {what} cannot be read ({type(error).__name__}: {first_line(error)})"
        ) from error


def raise_trouble(error: Exception, path: str) -> None:
    """Raises the OSError that it is if the machine is to blame; HDF5 tells its number only in its text."""
    if isinstance(error, OSError):
        stated = re.search(r"errno = (\d+)", str(error))
        number = error.errno or (int(stated[1]) if stated else 0)
        if number in MACHINE_TROUBLE:
            raise OSError(number, os.strerror(number), path) from error
