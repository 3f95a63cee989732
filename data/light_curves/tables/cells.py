"""A table as it stands in its file, whatever its container and dialect: names, columns, units."""

import bz2
import csv
import gzip
import io
import os
import re
import warnings
import zlib
from collections import Counter
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as arrow_csv
import pyarrow.parquet as pq

from data.cutouts.fits import MACHINE_TROUBLE, BadFile, first_line

MISSING = ["", "nan", "na", "n/a", "null", "none", "--", "-", "masked", "nat", "..."]
NO_NAME = ["", "nan", "null"]  # an object may well be called None
DELIMITERS = (",", "\t", ";", "|", None)  # None: blanks
SAMPLE = 50  # lines that the dialect is told by
COMMENT = ("#", "%", "!", "//", ";")
HEAD = 2**16  # bytes of a file by which it is a table or not

NAME_OF_FILE = re.compile(r".*\.[a-z]\w{1,6}(\.(gz|bz2|fz))?", re.IGNORECASE)
WHOLE = re.compile(r"-?\d+\.0+")
UNIT_IN_NAME = re.compile(r"(.*?)[ _]*[(\[]([^()\[\]]+)[)\]]")


class Told:
    """What was left out, guessed or assumed in a table: phrases, each with the number of rows that it is true
    of; 0: of the table as a whole.
    """

    def __init__(self):
        self.counts: dict[str, int] = {}

    def of_rows(self, what: str, count: int) -> None:
        if count:
            self.counts[what] = self.counts.get(what, 0) + int(count)

    def of_table(self, what: str) -> None:
        self.counts.setdefault(what, 0)

    def __str__(self) -> str:
        return "; ".join(f"{count:,} {what}" if count else what for what, count in self.counts.items())


class Cells(NamedTuple):
    """R rows of a table. A column is a text, a number, a time or a truth value in each."""

    names: list[str]  # as in the file; numbers from 1 where it gives none
    columns: list[pa.Array]  # [R] each
    units: dict[str, str]  # of the columns whose unit is written
    told: Told


def read_cells(path: str | os.PathLike) -> Cells:
    """Raises: BadFile for what is no table; OSError for trouble of the machine."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise BadFile("not a regular file")
    try:
        raw = file_bytes(path)
        if raw.startswith(b"PAR1"):
            return parquet_cells(pq.read_table(pa.BufferReader(raw)))
        return text_cells(as_utf8(raw))
    except (MemoryError, BadFile):
        raise
    except OSError as error:
        if error.errno in MACHINE_TROUBLE:
            raise
        raise BadFile(f"cannot be read: {first_line(error)}") from error
    except Exception as error:  # truncated gzip, an ECSV without its header: each has its own error
        raise BadFile(f"unreadable ({type(error).__name__}: {first_line(error)})") from error


def file_bytes(path: str | os.PathLike, most: int = -1) -> bytes:
    """The bytes of a file, unpacked if they are gzip's or bzip2's; the first `most` of them."""
    with open(path, "rb") as file:
        start = file.read(3)
    opened = {b"\x1f\x8b": gzip.open, b"BZ": bz2.open}.get(start[:2], open)
    with opened(path, "rb") as file:
        try:
            return file.read(most)
        except (EOFError, zlib.error) as error:
            raise BadFile(f"unreadable ({first_line(error)})") from error


def as_utf8(raw: bytes) -> bytes:
    """Text in UTF-8 with lines that end in \\n. Raises: BadFile for what is no text."""
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        raw = raw.decode("utf-16").encode()
    raw = raw.removeprefix(b"\xef\xbb\xbf")
    if b"\0" in raw:
        raise BadFile("unreadable: not a text (it holds zero bytes)")
    try:
        raw.decode()
    except UnicodeDecodeError:
        raw = raw.decode("latin-1").encode()
    return raw.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if b"\r" in raw else raw


def text_cells(text: bytes) -> Cells:
    start = text[:200].lstrip().lower()
    if start.startswith(b"# %ecsv"):
        return astropy_cells(text, "ascii.ecsv")
    if start.startswith((b"\\", b"|")) and re.match(rb"\s*(\\.*\n\s*)*\|.*\|[ ]*\n\s*\|", text):
        return astropy_cells(text, "ascii.ipac")
    if b"<votable" in text[:2000].lower():
        return astropy_cells(text, "votable")
    if start.startswith((b"<!doctype html", b"<html")):
        raise BadFile("unreadable: a web page, not a table (a download that failed?)")
    dialect = find_dialect(text)
    body = text[dialect.begin :]
    if re.search(rb"(?m)^[ \t]*#", body):
        body = re.sub(rb"(?m)^[ \t]*#.*\n?", b"", body)
    told = Told()
    if dialect.delimiter != "," and has_decimal_commas(body, dialect.delimiter):
        body = body.replace(b",", b".")
        told.of_table("decimal commas, read as points")
    if dialect.delimiter is None:
        body = re.sub(rb"[ \t]+", b"\t", re.sub(rb"(?m)^[ \t]+|[ \t]+$", b"", body))
    columns, ragged = split_rows(body, len(dialect.names), dialect.delimiter or "\t", not dialect.names[-1])
    kept = [number for number, name in enumerate(dialect.names) if name]
    told.of_rows("rows with another number of fields than the header, left out", ragged)
    units = {}
    for name in dialect.names:
        if found := UNIT_IN_NAME.fullmatch(name):
            units[name] = found[2]
    return Cells(
        [dialect.names[number] for number in kept], [columns[number] for number in kept], units, told
    )


class Dialect(NamedTuple):
    names: list[str]  # "" for a field that only a trailing delimiter makes
    delimiter: str | None  # None: blanks
    begin: int  # byte of the first row


def find_dialect(text: bytes) -> Dialect:
    """Where the header is, and what separates fields.

    The header is the first line that is no comment, or the last comment above rows of numbers that has as
    many fields as they. Raises: BadFile where the fields cannot be told.
    """
    comments: list[str] = []
    lines: list[tuple[str, int, int]] = []  # line, where it begins, where it ends
    at = 0
    while at < len(text) and len(lines) <= SAMPLE:
        end = text.find(b"\n", at)
        end = len(text) if end < 0 else end
        line = text[at:end].decode()
        if line.strip() and line.lstrip().startswith(COMMENT):
            comments += [] if lines else [line.strip()]
        elif line.strip():
            lines.append((line, at, end + 1))
        at = end + 1
    if not lines:
        raise BadFile("unreadable: it is empty" if not comments else "unreadable: it holds comments alone")
    first = lines[0][0]
    for delimiter in DELIMITERS:
        fields = split_line(first, delimiter)
        if not is_row(fields):
            continue
        # rows of numbers: the header is a comment, or there is none
        header = next((line.lstrip("#%!/; \t") for line in reversed(comments)), "")
        for other in (delimiter, *DELIMITERS):
            names = split_line(header, other)
            if len(names) == len(fields) and not is_row(names):
                return Dialect(names, delimiter, lines[0][1])
        return Dialect([str(number) for number in range(1, len(fields) + 1)], delimiter, lines[0][1])
    best = None
    for delimiter in DELIMITERS:
        names = split_line(first.lstrip("#"), delimiter)
        if len(names) < 2:
            continue
        for other in (delimiter, *DELIMITERS):
            rows = [split_line(line, other) for line, _, _ in lines[1:]]
            widths = Counter(map(len, rows))
            # with a trailing delimiter that the header lacks
            wide = sum(len(row) == len(names) + 1 and not row[-1] for row in rows)
            if not rows or (widths[len(names)] + wide) * 2 > len(rows):
                padded = [""] if wide > widths[len(names)] else []
                return Dialect([*names, *padded], other, lines[0][2])
            if not names[-1] and widths[len(names) - 1] * 2 > len(lines) - 1:
                return Dialect(names[:-1], other, lines[0][2])
        width = Counter(len(split_line(line, delimiter)) for line, _, _ in lines[1:]).most_common(1)[0][0]
        best = best or f"the header has {len(names)} fields, the rows have {width}"
    raise BadFile(f"unreadable: {best or 'one column, expected several'} (header: {first.strip()[:60]})")


def is_table(path: str | os.PathLike) -> bool:
    """Whether a text has rows of two numbers and more: a manifest has paths, notes have words."""
    try:
        raw = file_bytes(path, HEAD)
        text = as_utf8(raw[: raw.rfind(b"\n") + 1] or raw)
        start = text[:2000].lstrip().lower()
        if start.startswith((b"# %ecsv", b"\\", b"|", b"<?xml", b"<votable")):
            return True
        dialect = find_dialect(text)
    except (BadFile, OSError, ValueError):
        return False
    lines = [line for line in text[dialect.begin :].decode().splitlines() if line.strip()][:SAMPLE]
    if 2 * sum(NAME_OF_FILE.fullmatch(line.strip()) is not None for line in lines) > len(lines):
        return False
    rows = [split_line(line, dialect.delimiter) for line in lines]
    numeric = sum(sum(is_number(field) for field in row if field) >= 2 for row in rows)
    return 0 < len(rows) <= 2 * numeric


def has_decimal_commas(body: bytes, delimiter: str | None) -> bool:
    lines = body[: 2**14].decode(errors="ignore").splitlines()[:SAMPLE]
    fields = [field for line in lines for field in split_line(line, delimiter)]
    commas = sum(re.fullmatch(r"[-+]?\d+,\d+", field) is not None for field in fields)
    points = sum(re.fullmatch(r"[-+]?\d+\.\d+", field) is not None for field in fields)
    return commas > points and commas >= len(lines)


def split_line(line: str, delimiter: str | None) -> list[str]:
    if delimiter is None:
        return line.split()
    fields = next(csv.reader([line], delimiter=delimiter, skipinitialspace=True), [])
    return [field.strip() for field in fields]


def is_row(fields: list[str]) -> bool:
    """Whether a line holds observations: numbers for the most part, where a header has names."""
    known = [is_number(field) for field in fields if field.lower() not in MISSING]
    return len(fields) > 1 and sum(known) >= 2 and 2 * sum(known) >= len(known)


def is_number(field: str) -> bool:
    if field.lower() in MISSING:
        return True
    try:
        float(field.lstrip("<>"))
        return True
    except ValueError:
        return False


def split_rows(body: bytes, width: int, delimiter: str, padded: bool) -> tuple[list[pa.Array], int]:
    """(the columns as texts, how many rows have another number of fields).

    A row with empty fields too many at its end is none of them, nor one without the last where that is
    empty elsewhere (padded).
    """
    mended: list[str] = []
    ragged = 0

    def judge(row) -> str:
        nonlocal ragged
        fields = split_line(row.text, delimiter) if row.text else []
        if len(fields) > width and not any(fields[width:]):
            mended.append(row.text.rstrip()[: -(len(fields) - width)].rstrip())
        elif padded and len(fields) == width - 1:
            mended.append(row.text + delimiter)
        else:
            ragged += 1
        return "skip"

    names = [str(number) for number in range(width)]
    types = dict.fromkeys(names, pa.string())

    def parse(some: bytes) -> pa.Table:
        return arrow_csv.read_csv(
            pa.BufferReader(some),
            arrow_csv.ReadOptions(use_threads=False, column_names=names, block_size=max(len(some), 2**16)),
            arrow_csv.ParseOptions(delimiter=delimiter, invalid_row_handler=judge),
            arrow_csv.ConvertOptions(column_types=types, strings_can_be_null=False),
        )

    if not body.strip():
        return [pa.array([], pa.string()) for _ in names], 0
    table = parse(body)
    if mended:
        table = pa.concat_tables([table, parse("\n".join(mended).encode())])
    return [table.column(number).combine_chunks() for number in range(width)], ragged


def astropy_cells(text: bytes, kind: str) -> Cells:
    """ECSV, IPAC and VOTable, with their units, masks, times and arrays."""
    from astropy.table import Table
    from astropy.time import Time
    from astropy.utils.masked import Masked

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of units that no standard knows
        source = io.BytesIO(text) if kind == "votable" else text.decode()
        table = Table.read(source, format=kind)
    names = []
    columns = []
    units = {}
    for name in table.colnames:
        column = table[name]
        if isinstance(column, Time):
            values = column.mjd
            values = values.filled(np.nan) if isinstance(values, np.ma.MaskedArray) else values
            values = values.filled(np.nan) if isinstance(values, Masked) else values
            units[name] = "d"
            array = pa.array(np.asarray(values, dtype=np.float64))
        else:
            if getattr(column, "unit", None) is not None:
                units[name] = str(column.unit)
            if getattr(column, "ndim", 1) != 1:
                array = pa.array([np.ma.filled(row, np.nan).tolist() for row in column.astype(float)])
            elif column.dtype == object:
                array = pa.array([as_list(value) for value in column])
            else:
                mask = np.ma.getmaskarray(column)
                array = pa.array(np.asarray(np.ma.getdata(column)), mask=mask)
        names.append(name)
        columns.append(array)
    return unnested(Cells(names, columns, units, Told()))


def as_list(value):
    """What pyarrow takes of a cell that holds an array, some of it masked perhaps."""
    if isinstance(value, np.ma.MaskedArray):
        return [None if hidden else item for item, hidden in zip(value.tolist(), np.ma.getmaskarray(value))]
    return value.tolist() if isinstance(value, np.ndarray) else value


def parquet_cells(table: pa.Table) -> Cells:
    names = [name for name in table.column_names if not name.startswith("__")]
    columns = [table.column(name).combine_chunks() for name in names]
    return unnested(Cells(names, columns, {}, Told()))


def unnested(cells: Cells) -> Cells:
    """One row an observation: lists in the cells, of numbers or of records, become rows;
    what stands once for a row is repeated. Raises: BadFile where the lists of a row are not equally long.
    """
    named = list(zip(cells.names, cells.columns))
    flat: list[tuple[str, pa.Array]] = []
    while named:
        name, column = named.pop(0)
        if isinstance(column, pa.ChunkedArray):
            column = column.combine_chunks()
        if pa.types.is_struct(column.type):
            kinds = column.type
            named = [(kinds[number].name, column.field(number)) for number in range(kinds.num_fields)] + named
        else:
            flat.append((name, column))
    nested = [
        (name, column)
        for name, column in flat
        if pa.types.is_list(column.type)
        or pa.types.is_large_list(column.type)
        or pa.types.is_fixed_size_list(column.type)
    ]
    if not nested:
        return cells._replace(names=[name for name, _ in flat], columns=[column for _, column in flat])
    lengths = [pc.fill_null(pc.list_value_length(column), 0).to_numpy() for _, column in nested]
    for (name, _), length in zip(nested, lengths):
        if not np.array_equal(length, lengths[0]):
            row = int(np.argmax(length != lengths[0]))
            raise BadFile(
                f"in row {row + 1} the list {name} has {length[row]} items and {nested[0][0]} "
                f"{lengths[0][row]}"
            )
    parent = pa.array(np.repeat(np.arange(len(lengths[0])), lengths[0]))
    inner = {name for name, _ in nested}
    names = [name for name, _ in flat]
    columns = [pc.list_flatten(column) if name in inner else column.take(parent) for name, column in flat]
    cells.told.of_rows("rows whose list of observations is empty", np.count_nonzero(lengths[0] == 0))
    return unnested(cells._replace(names=names, columns=columns))


def numbers(column: pa.Array) -> np.ndarray:
    """[R] float64 of a column, NaN where it holds none."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if is_text(column):
        column = pc.utf8_trim_whitespace(column)
        column = pc.if_else(pc.is_in(pc.utf8_lower(column), pa.array(MISSING, column.type)), None, column)
        try:
            column = pc.cast(column, pa.float64())
        except pa.ArrowInvalid:
            return pd.to_numeric(column.to_pandas(), errors="coerce").to_numpy(dtype=np.float64, copy=True)
    elif pa.types.is_null(column.type):
        return np.full(len(column), np.nan)
    elif pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        return np.full(len(column), np.nan)
    else:
        column = pc.cast(column, pa.float64(), safe=False)
    return np.array(column.to_numpy(zero_copy_only=False), dtype=np.float64)


def texts(column: pa.Array) -> pa.Array:
    """[R] of a column as trimmed text, whole numbers without a point; null where it says nothing."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_floating(column.type):
        values = np.array(column.to_numpy(zero_copy_only=False), dtype=np.float64)
        known = np.isfinite(values)
        if (values[known] == np.round(values[known])).all() and (np.abs(values[known]) < 2**53).all():
            column = pa.array(np.where(known, values, 0).astype(np.int64), mask=~known)
    if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
        column = pc.cast(column, pa.string())
    column = pc.utf8_trim_whitespace(column if is_text(column) else pc.cast(column, pa.string()))
    return pc.if_else(pc.is_in(pc.utf8_lower(column), pa.array(NO_NAME, column.type)), None, column)


def codes(column: pa.Array) -> tuple[np.ndarray, list[str]]:
    """([R] int64 place in the list, -1 where the column says nothing; the distinct texts in their order)."""
    encoded = texts(column).dictionary_encode()
    values = encoded.dictionary.to_pylist()
    if values and all(WHOLE.fullmatch(value) for value in values):  # as pandas writes them beside a blank
        values = [value.partition(".")[0] for value in values]
    return pc.fill_null(encoded.indices, -1).to_numpy().astype(np.int64), values


def is_text(column: pa.Array) -> bool:
    return pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
