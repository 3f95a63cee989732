"""Tables that astronomers have beside images, whatever they are written in: CSV and its cousins, ECSV, IPAC,
machine-readable tables of the journals, SExtractor catalogues, VOTable, FITS, Parquet; every cell a text, so
that no id loses a digit.

dr7objid 588017703996096547 is above 2^53: read as a number it would be another galaxy's.
"""

import csv
import gzip
import io
import math
import os
import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as arrow_csv
from astropy.io import fits

from data.catalogues.parquet_table import MAGIC, parquet_texts
from data.cutouts.fits import LARGEST, START, BadFile, check_counts, first_line, fits_bytes
from data.formats import Format
from utils.files import is_trouble
from utils.mistake import Mistake

MOST_COLUMNS = 5000
LONGEST_LINE = 2**20  # of a header
LOOKED_AT = 50  # lines behind the header that say what separates its columns
MISSING = {"", "nan", "na", "n/a", "null", "none", "--", "-", "nat", "masked"}
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars", " ": "blanks"}
SEXTRACTOR = re.compile(rb"#\s+1\s+[A-Za-z]\w*(\s|$)")
KINDS = "CSV, ECSV, a text with ; | tabs or blanks, IPAC, MRT, VOTable, Parquet, or a FITS table"
LENS = {"1", "true", "t", "yes", "y", "lens", "lenses"}
NO_LENS = {"0", "false", "f", "no", "n", "nonlens", "nonlenses", "notlens", "notalens"}
UNKNOWN_LABELS = (-1, -99, -999, -9999, 99, 999, 9999)

FORMATS = (
    Format(
        "CSV and its cousins",
        "text with one header line (its # is taken off); .gz",
        "separated by commas, semicolons, tabs, bars or blanks, whichever gives all rows as many fields; "
        "# comments and a trailing separator are skipped; every cell a text",
        "a row with another number of fields, a column that is there twice, no header",
    ),
    Format("ECSV", "first line # %ECSV", "as CSV; empty and masked cells are missing", "as CSV"),
    Format(
        "IPAC, MRT (AAS journals, CDS), SExtractor",
        "lines that begin with | or \\; Title:; # 1 NAME",
        "through astropy.io.ascii, every cell a text",
        "what astropy cannot read",
    ),
    Format("VOTable", "XML", "the first table, through astropy", "a document without a table"),
    Format(
        "FITS table",
        "SIMPLE in the first bytes",
        "the first binary table; scalar columns of numbers, texts and truth values; TNULL is missing",
        "vector columns (left out), a file that is cut short",
    ),
)


def read_table(
    path: str | os.PathLike,
    flag: str,
    wanted: Callable[[str], bool] = lambda name: True,
    said: Callable[[str], object] = lambda line: None,
) -> pd.DataFrame:
    """The wanted columns of a table, as texts without blanks around them.

    path: one of FORMATS. flag: the option that named it, for messages. said: where lines about what was taken
        or skipped go.
    Raises: Mistake for whatever is wrong with it.
    """
    path = os.fspath(path)
    try:
        if not os.path.isfile(path):
            raise Mistake(f"{flag} {path!r} is no file: expected a table ({KINDS})")
        table = _stripped(_table_of(path, wanted, said))
    except Mistake:
        raise
    except (OSError, BadFile, EOFError, UnicodeDecodeError, ValueError, csv.Error, OverflowError) as error:
        if is_trouble(error):
            raise
        raise Mistake(f"{flag} {path!r} cannot be read as a table ({KINDS}): {first_line(error)}") from None
    if not len(table):
        raise Mistake(f"{flag} {path!r} has no rows: expected one a galaxy below the header line")
    return table


def _table_of(path: str, wanted: Callable[[str], bool], said: Callable[[str], object]) -> pd.DataFrame:
    with open(path, "rb") as file:
        begin = file.read(len(START))
    if begin == START:
        return _fits_table(path, wanted)
    if begin.startswith(MAGIC):
        return parquet_texts(path, wanted)
    with _opened(path) as file:
        begin = file.read(512).removeprefix(b"\xef\xbb\xbf").lstrip()
    if begin.startswith((b"<?xml", b"<VOTABLE", b"<!DOCTYPE VOTABLE")):
        return _by_astropy(path, "votable", wanted, said)
    for kind, marks in (("ipac", (b"\\", b"|")), ("mrt", (b"Title:",))):
        if begin.startswith(marks):
            return _by_astropy(path, kind, wanted, said)
    if SEXTRACTOR.match(begin):
        return _by_astropy(path, "sextractor", wanted, said)
    return _text_table(path, wanted, said)


def _opened(path: str):
    return gzip.open(path, "rb") if path.lower().endswith(".gz") else open(path, "rb")


def _by_astropy(
    path: str, kind: str, wanted: Callable[[str], bool], said: Callable[[str], object]
) -> pd.DataFrame:
    from astropy.io import ascii as ascii_tables, votable  # which other tables need not wait for

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what astropy mends
            if kind == "votable":
                with _opened(path) as file:
                    found = votable.parse_single_table(io.BytesIO(file.read()), verify="ignore")
                table = found.to_table(use_names_over_ids=True)
            else:
                with _opened(path) as file:
                    text = file.read().decode("utf-8-sig")
                # whatever type the header states: an id of digits alone keeps its zeros
                types = (ascii_tables.StrType, ascii_tables.IntType, ascii_tables.FloatType)
                as_texts = {"*": [(_as_array_of_texts, each) for each in types]}
                table = ascii_tables.read(text, format=kind, converters=as_texts, guess=False)
    except (OSError, MemoryError, UnicodeDecodeError):
        raise
    except Exception as error:  # what is no such file can raise nearly anything out of astropy
        raise ValueError(f"not a whole {kind} table: {first_line(error)}") from error
    said(f"{os.path.basename(path)}: read as {kind} by astropy")
    return _texts_of(table, wanted)


def _as_array_of_texts(cells: list[str]) -> np.ndarray:
    return np.array(cells, dtype=str)


def _texts_of(table: Any, wanted: Callable[[str], bool]) -> pd.DataFrame:
    """The scalar columns of an astropy table, "" where a cell is masked."""
    columns = {}
    for name in table.colnames:
        column = table[name]
        if not (name and wanted(name)) or column.ndim > 1:
            continue
        mask = np.asarray(getattr(column, "mask", np.zeros(len(column), dtype=bool)))
        values = np.asarray(column.filled() if hasattr(column, "filled") else column)
        if values.dtype.kind == "O":
            if any(isinstance(value, np.ndarray) for value in values):
                continue
            values = np.array([v.decode() if isinstance(v, bytes) else v for v in values], dtype=object)
        elif values.dtype.kind == "S":
            values = np.char.decode(values, "utf-8")
        elif values.dtype.kind not in "biufU":
            continue
        columns[name] = pd.Series(np.where(mask, "", values.astype(str)), dtype="str")
    return pd.DataFrame(columns)


# ---- texts with a separator


def _text_table(path: str, wanted: Callable[[str], bool], said: Callable[[str], object]) -> pd.DataFrame:
    with _opened(path) as file:
        skipped, header, some = _header(file)
    if b"\0" in header:
        raise ValueError("not a text (it holds zero bytes)")
    separator = _separator(header, some)
    names = [name.strip() for name in _fields(header.lstrip(b"# "), separator)]
    if separator != ",":
        said(f"{os.path.basename(path)}: its columns are separated by {SEPARATORS[separator]}")
    if len(names) > MOST_COLUMNS:
        raise ValueError(f"{len(names)} columns, more than {MOST_COLUMNS}")
    if twice := sorted({name for name in names if name and names.count(name) > 1}):
        raise ValueError(f"column {twice[0]!r} is there twice")
    kept = [number for number, name in enumerate(names) if name and wanted(name)]
    plain = separator != " " and not _has_comments(path, skipped)
    found = _by_arrow(path, skipped, names, kept, separator) if plain else None
    if found is None:
        found = _by_lines(path, skipped, names, kept, separator, said)
    if not kept:
        return pd.DataFrame(index=range(len(found)))
    return found


def _header(file) -> tuple[int, bytes, list[bytes]]:
    """(lines before it, the header line, some lines behind it): the first that is no comment, or the last
    comment where data follow that have as many fields.
    """
    skipped, before = 0, b""
    while True:
        line = file.readline(LONGEST_LINE)
        if len(line) == LONGEST_LINE:
            raise ValueError(f"a line of more than {LONGEST_LINE} bytes")
        if line.strip() and not line.lstrip().startswith(b"#"):
            break
        if not line:
            raise ValueError("it is empty" if not skipped else "it holds comments alone")
        skipped = skipped + 1
        before = line if line.strip() else before
    more = [file.readline(LONGEST_LINE) for _ in range(LOOKED_AT)]
    some = [other for other in more if other.strip() and not other.lstrip().startswith(b"#")]
    if before and b"\0" not in before + line:
        separator = _separator(before, [line, *some])
        names = _fields(before.lstrip(b"# "), separator)
        first = _fields(line, separator)
        of_data = any(map(_is_number, first)) and not any(map(_is_number, names))
        if len(names) > 1 and len(names) == len(first) and of_data:
            return skipped - 1, before, [line, *some]
    return skipped, line, some


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _separator(header: bytes, some: list[bytes]) -> str:
    """What separates the columns: of those that give the header more than one field the one with which most
    rows have as many, and of these the one with most fields; commas where the header has one name.
    """
    best = (0.0, 0, ",")
    for separator in SEPARATORS:
        names = len(_fields(header.lstrip(b"# "), separator))
        if names < 2:
            continue
        fits = [len(_fields(line, separator)) in (names, names + 1) for line in some]
        score = (float(np.mean(fits)) if fits else 1.0, names, separator)
        # a comma is what a table says of itself; blanks may be in a name
        weaker = separator == " " and best[1] and best[0] >= 0.5
        if not weaker and score[0] > 0 and score[:2] > best[:2]:
            best = score
    return best[2]


def _fields(line: bytes, separator: str) -> list[str]:
    text = line.decode("utf-8-sig").rstrip("\r\n")
    if separator == " ":
        text = text.replace("\t", " ").strip()
    return next(csv.reader([text], delimiter=separator, skipinitialspace=separator == " "), [""])


def _has_comments(path: str, skipped: int) -> bool:
    """Whether a line below the header begins with #."""
    last = b""
    with _opened(path) as file:
        for _ in range(skipped + 1):
            last = file.readline()
        tail = last[-1:]
        while block := file.read(2**22):
            if b"\n#" in tail + block:
                return True
            tail = block[-1:]
    return False


def _by_arrow(
    path: str, skipped: int, names: list[str], kept: list[int], separator: str
) -> pd.DataFrame | None:
    """arrow's reader: it refuses a row with other than so many fields, where pandas' would shift or cut it.
    None where it refuses: `_by_lines` says why, or mends it.
    """
    read = [str(number) for number in kept or [0]]
    lines = arrow_csv.ReadOptions(
        use_threads=False, skip_rows=skipped + 1, column_names=list(map(str, range(len(names))))
    )
    texts = arrow_csv.ConvertOptions(include_columns=read, column_types=dict.fromkeys(read, pa.string()))
    parse = arrow_csv.ParseOptions(delimiter=separator, newlines_in_values=True)
    try:
        with _opened(path) as file:
            found = arrow_csv.read_csv(file, lines, parse, texts)
    except pa.ArrowInvalid:
        return None
    columns = {names[number]: pd.Series(found[str(number)].to_pandas(), dtype="str") for number in kept}
    return pd.DataFrame(columns, index=range(len(found)))


def _by_lines(
    path: str,
    skipped: int,
    names: list[str],
    kept: list[int],
    separator: str,
    said: Callable[[str], object],
) -> pd.DataFrame:
    """Row by row: comments are left out, and empty fields that a row has too many at its end."""
    comments = 0

    def lines() -> Iterator[str]:
        nonlocal comments
        with _opened(path) as file:
            for number, raw in enumerate(file):
                if number <= skipped or not raw.strip():
                    continue
                if raw.lstrip().startswith(b"#"):
                    comments += 1
                    continue
                text = raw.decode("utf-8-sig")
                yield text.replace("\t", " ").strip() + "\n" if separator == " " else text

    columns: list[list[str]] = [[] for _ in kept]
    trailing = 0
    count = 0
    for row in csv.reader(lines(), delimiter=separator, skipinitialspace=separator == " ", strict=True):
        count += 1
        if len(row) > len(names) and not any(map(str.strip, row[len(names) :])):
            trailing += 1
        elif len(row) != len(names):
            raise ValueError(
                f"row {count} has {len(row)} fields, the header {len(names)}; it begins with {row[0][:40]!r}"
            )
        for column, number in zip(columns, kept):
            column.append(row[number])
    name = os.path.basename(path)
    if comments:
        said(f"{name}: comments below the header, skipped: {comments:,}")
    if trailing:
        said(f"{name}: rows with empty fields behind the last column, cut: {trailing:,}")
    table = {names[number]: pd.Series(column, dtype="str") for number, column in zip(kept, columns)}
    return pd.DataFrame(table, index=range(count))


def _stripped(table: pd.DataFrame) -> pd.DataFrame:
    for name in table.columns:
        table[name] = table[name].str.strip()
    return table


def _fits_table(path: str, wanted: Callable[[str], bool]) -> pd.DataFrame:
    raw = fits_bytes(path, LARGEST)
    check_counts(raw)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what astropy mends; what is cut short is refused here
            with fits.open(io.BytesIO(raw), memmap=False, disable_image_compression=True) as hdus:
                table = next((hdu for hdu in hdus if isinstance(hdu, fits.BinTableHDU)), None)
                if table is None:
                    raise ValueError("it holds no binary table")
                if table.fileinfo()["datLoc"] + table.size > len(raw):
                    raise ValueError("truncated: its headers declare more")
                columns = {}
                for name in filter(None, table.columns.names):
                    if wanted(name):
                        values = np.asarray(table.data[name])
                        columns[name] = values, null_cells(table.columns[name], values)
    except (OSError, ValueError, MemoryError):
        raise
    except Exception as error:  # a hostile header can raise nearly anything out of astropy
        raise ValueError(f"{type(error).__name__}: {first_line(error)}") from error
    return pd.DataFrame(
        {
            name: pd.Series(
                np.where(null, "", values.astype(str)) if null.any() else values.astype(str), dtype="str"
            )
            for name, (values, null) in columns.items()
            if values.ndim == 1 and values.dtype.kind in "biufSU"
        }
    )


def null_cells(column: fits.Column, values: np.ndarray) -> np.ndarray:
    """[rows] bool: the cells of a FITS column of integers that TNULL declares undefined (standard 4.0,
    7.3.2).
    """
    null = column.null
    if not isinstance(null, (int, np.integer)) or values.dtype.kind not in "iuf":
        return np.zeros(len(values), dtype=bool)
    # it is the number in the file, before TSCAL and TZERO
    meant = null if column.bzero in ("", None) and column.bscale in ("", None) else None
    if meant is None:
        meant = null * (column.bscale or 1) + (column.bzero or 0)
    return (values == meant) if values.ndim == 1 else (values == meant).any(axis=tuple(range(1, values.ndim)))


# ---- cells


def label_values(texts: pd.Series, flag: str) -> tuple[np.ndarray, list[str]]:
    """(int8 [rows] labels: 1 lens, 0 none, -1 unknown; lines for the log), however a table spells them:
    1.00, True, lens.

    Raises: Mistake for one that is none of these.
    """
    kinds, unique = pd.factorize(texts.str.lower().str.replace(r"[\s_-]+(?=[a-z])", "", regex=True))
    values = np.full(len(unique), -1, dtype=np.int8)
    placeholder = np.zeros(len(unique), dtype=bool)
    for number, text in enumerate(unique.tolist()):
        if text in LENS or text in NO_LENS:
            values[number] = text in LENS
        elif text not in MISSING:
            value = float(text) if _is_number(text) else math.nan
            if value in (0, 1):
                values[number] = value
            elif value in UNKNOWN_LABELS:
                placeholder[number] = value != -1
            else:
                row = int(np.flatnonzero(kinds == number)[0])
                raise Mistake(
                    f"{flag}: label {texts.iloc[row][:60]!r} in row {row + 1}, expected 1 (lens), 0, or -1 "
                    "or nothing (unknown)"
                )
    labels = values[kinds]
    lines = []
    if found := int(placeholder[kinds].sum()):
        shown = ", ".join(unique[placeholder][:3].tolist())
        lines.append(f"labels taken for unknown: {found:,} ({shown})")
    return labels, lines


def is_numeric(column: pd.Series) -> bool:
    """Whether the cells that say something are numbers, and there is one."""
    stated = column[~column.str.lower().isin(MISSING)]
    return len(stated) > 0 and bool(pd.to_numeric(stated, errors="coerce").notna().all())


def numeric_column(table: pd.DataFrame, name: str, flag: str) -> np.ndarray:
    """float64 [rows] of a column, NaN where nothing is said. Raises:
    Mistake that names the first text that is no number.
    """
    texts = table[name]
    found = pd.to_numeric(texts, errors="coerce").to_numpy(dtype=np.float64).copy()
    for row in np.flatnonzero(np.isnan(found)).tolist():
        if texts.iloc[row].lower() not in MISSING:
            raise Mistake(
                f"{flag}: column {name!r} has {texts.iloc[row][:60]!r} in row {row + 1}, expected a number "
                "(empty: missing)"
            )
    found[np.isinf(found)] = math.nan
    return found
