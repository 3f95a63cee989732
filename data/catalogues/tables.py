"""Tables that astronomers have beside images: CSV as text, a FITS table or Parquet;
every cell a text, so that no id loses a digit.

dr7objid 588017703996096547 is above 2^53: read as a number it would be another galaxy's.
"""

import csv
import gzip
import io
import math
import os
import re
import warnings
from collections.abc import Callable

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as arrow_csv
from astropy.io import fits

from data.catalogues.parquet_table import MAGIC, parquet_texts
from data.cutouts.fits import LARGEST, START, BadFile, check_counts, first_line, fits_bytes
from utils.files import is_trouble
from utils.mistake import Mistake

MOST_COLUMNS = 5000
LONGEST_LINE = 2**20  # of a header
MISSING = {"", "nan", "na", "n/a", "null", "none", "--", "-", "nat", "masked"}


def read_table(
    path: str | os.PathLike, flag: str, wanted: Callable[[str], bool] = lambda name: True
) -> pd.DataFrame:
    """The wanted columns of a table, as texts without blanks around them.

    path: CSV (UTF-8; also .gz; lines before the header may begin with #, and so may the header),
        a FITS binary table, or Parquet.
    flag: the option that named it, for messages.
    Raises: Mistake for whatever is wrong with it.
    """
    path = os.fspath(path)
    try:
        if not os.path.isfile(path):
            raise Mistake(
                f"{flag} {path!r} is no file: expected a table (CSV with a header line, or a FITS table)"
            )
        with open(path, "rb") as file:
            begin = file.read(len(START))
        if begin[: len(MAGIC)] == MAGIC:
            table = _stripped(parquet_texts(path, wanted))
        else:
            table = _fits_table(path, wanted) if begin == START else _csv_table(path, wanted)
    except Mistake:
        raise
    except (OSError, BadFile, EOFError, UnicodeDecodeError, ValueError, csv.Error, OverflowError) as error:
        if is_trouble(error):
            raise
        raise Mistake(
            f"{flag} {path!r} cannot be read as a table (CSV with a header line, or a FITS table): "
            f"{first_line(error)}"
        ) from None
    if not len(table):
        raise Mistake(f"{flag} {path!r} has no rows: expected one a galaxy below the header line")
    return table


def _csv_table(path: str, wanted: Callable[[str], bool]) -> pd.DataFrame:
    packed = path.lower().endswith(".gz")
    opened = gzip.open if packed else open
    with opened(path, "rb") as file:
        skipped, header = _header(file)
    if b"\0" in header:
        raise ValueError("not a text (it holds zero bytes)")
    names = [
        name.strip() for name in next(csv.reader([header.decode("utf-8-sig").lstrip("# ").rstrip("\r\n")]))
    ]
    if len(names) > MOST_COLUMNS:
        raise ValueError(f"{len(names)} columns, more than {MOST_COLUMNS}")
    if twice := sorted({name for name in names if name and names.count(name) > 1}):
        raise ValueError(f"column {twice[0]!r} is there twice")
    kept = [number for number, name in enumerate(names) if name and wanted(name)]
    # arrow's reader: it refuses a row with other than so many fields, where pandas' would shift or cut it
    read = [str(number) for number in kept or [0]]
    lines = arrow_csv.ReadOptions(
        use_threads=False, skip_rows=skipped + 1, column_names=list(map(str, range(len(names))))
    )
    texts = arrow_csv.ConvertOptions(include_columns=read, column_types=dict.fromkeys(read, pa.string()))
    with opened(path, "rb") as file:
        found = arrow_csv.read_csv(file, lines, arrow_csv.ParseOptions(newlines_in_values=True), texts)
    if not kept:
        return pd.DataFrame(index=range(len(found)))
    return _stripped(
        pd.DataFrame(
            {names[number]: pd.Series(found[str(number)].to_pandas(), dtype="str") for number in kept}
        )
    )


def _header(file) -> tuple[int, bytes]:
    """(lines before it, the header line): the first that is no comment,
    or the last comment where data follow that have as many fields.
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
    if before.count(b",") and before.count(b",") == line.count(b",") and re.match(rb"\s*[\d.+-]+\s*,", line):
        return skipped - 1, before
    return skipped, line


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
                columns = {
                    name: np.asarray(table.data[name])
                    for name in table.columns.names
                    if name and wanted(name)
                }
    except (OSError, ValueError, MemoryError):
        raise
    except Exception as error:  # a hostile header can raise nearly anything out of astropy
        raise ValueError(f"{type(error).__name__}: {first_line(error)}") from error
    scalar = {
        name: column for name, column in columns.items() if column.ndim == 1 and column.dtype.kind in "biufSU"
    }
    return _stripped(
        pd.DataFrame({name: pd.Series(column.astype(str), dtype="str") for name, column in scalar.items()})
    )


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
