"""Parquet tables with every cell a text, as data/catalogues/tables.py gives CSV and FITS tables."""

import os
from collections.abc import Callable

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

MAGIC = b"PAR1"


def parquet_texts(path: str | os.PathLike, wanted: Callable[[str], bool]) -> pd.DataFrame:
    """The wanted columns as texts: whole numbers with all their digits, "" where nothing is said, booleans as
    1 and 0.

    A column of lists, structures or bytes that are no UTF-8 is left out; `wanted` is asked for its name too.
    Raises: ValueError for a file that is no Parquet.
    """
    try:
        with pq.ParquetFile(path) as file:
            names = [field.name for field in file.schema_arrow if wanted(field.name)]
            scalar = [name for name in names if not _is_nested(file.schema_arrow.field(name).type)]
            table = file.read(columns=scalar)
    except pa.ArrowException as error:
        raise ValueError(str(error)) from error
    columns = {name: _texts(table.column(name)) for name in scalar}
    frame = pd.DataFrame({name: column for name, column in columns.items() if column is not None})
    return frame if len(frame.columns) else pd.DataFrame(index=range(table.num_rows))


def _is_nested(kind: pa.DataType) -> bool:
    return pa.types.is_nested(kind) or pa.types.is_null(kind)


def _texts(column: pa.ChunkedArray) -> pd.Series | None:
    """None for bytes that are no text."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.cast(kind.value_type)
        kind = column.type
    if pa.types.is_boolean(kind):
        column = column.cast(pa.int8())
    if pa.types.is_float16(kind):
        column = column.cast(pa.float32())
    try:
        column = column.cast(pa.string())
    except pa.ArrowException:
        return None
    return pd.Series(column.to_pandas(), dtype="str").fillna("")
