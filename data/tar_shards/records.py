"""What the JSON of a sample in a shard says of an object, and tables made of it again, to the last bit.

    object, domain, label      as in the index of a store (data/cutouts/store.py)
    bands, paths, reasons      of each image of the npy member, in its order;
                               a reason says why the image is quarantined (it is zero), "" = good
    rows                       the rows of the index that these are
    metadata, metadata_row     the row of metadata.parquet, where there is one, and its number

A float is written as Python does, which reads back as the same bits; NaN is null, an infinity the text
"Infinity" or "-Infinity".
"""

from typing import Any

import numpy as np
import pandas as pd

from utils.mistake import Mistake

TEXTS = {"bands", "paths", "reasons"}
INFINITY = {np.inf: "Infinity", -np.inf: "-Infinity"}
LARGEST = {"Infinity": np.inf, "-Infinity": -np.inf}


def json_values(column: pd.Series) -> list[Any]:
    """The values of a column as JSON has them. Raises: Mistake for a column of another type than number,
    boolean or text.
    """
    kind = column.dtype.kind if isinstance(column.dtype, np.dtype) else ""
    if kind == "f":
        return [None if value != value else INFINITY.get(value, value) for value in column.tolist()]
    if kind in "iub" and kind:
        return column.tolist()
    values = [None if missing else value for value, missing in zip(column.tolist(), column.isna().tolist())]
    if (kind == "O" or isinstance(column.dtype, pd.StringDtype)) and all(
        value is None or isinstance(value, str) for value in values
    ):
        return values
    raise Mistake(
        f"column {column.name!r} of the metadata is of type {column.dtype}: expected numbers, booleans or "
        "text"
    )


def column_of(
    values: list[Any], dtype: str, name: str, where: str
) -> pd.api.extensions.ExtensionArray | np.ndarray:
    """The column that `json_values` has written. Raises: Mistake for a value that is not of the type."""
    kind = "str" if dtype in ("str", "string", "object") else np.dtype(dtype).kind
    fits = {"str": (str, type(None)), "f": (float, int, type(None)), "b": (bool,)}.get(kind, (int,))
    values = [LARGEST.get(value, value) for value in values] if kind == "f" else values
    wrong = [
        value
        for value in set(map(type, values))
        if not issubclass(value, fits) or (value is bool and kind != "b")
    ]
    try:
        if wrong:
            raise ValueError(f"it holds {', '.join(kind.__name__ for kind in wrong)}")
        if dtype == "object":
            return np.array(values, dtype=object)
        if kind == "str":
            return pd.array(values, dtype=dtype)
        array = np.array([np.nan if value is None else value for value in values], dtype=dtype)
    except (ValueError, OverflowError) as error:
        raise Mistake(f"{where}: column {name!r}: expected {dtype}, but {error}") from None
    return array


def checked_dtypes(dtypes: Any, where: str) -> dict[str, str]:
    """{column: type} of a manifest. Raises: Mistake unless all are numbers, booleans or text."""
    known = {"bool", "str", "string", "object", "float16", "float32", "float64"}
    known |= {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
    wrong: Any = dtypes
    if isinstance(dtypes, dict):
        wrong = [dtype for dtype in dtypes.values() if not isinstance(dtype, str) or dtype not in known]
    if wrong or not isinstance(dtypes, dict):
        raise Mistake(f"{where}: columns of types {str(wrong)[:80]}: expected numbers, booleans or text")
    return dtypes


def checked_record(record: Any, images: int, channels: int, where: str) -> dict[str, Any]:
    """The record of a sample of `channels` images, in a set of `images`. Raises:
    Mistake that says what is not as it should be.
    """
    if not isinstance(record, dict):
        raise Mistake(
            f"{where}: expected an object of JSON with object, domain, label, bands, paths, reasons, rows"
        )
    for name in ("object", "domain"):
        if not isinstance(record.get(name), str):
            raise Mistake(f"{where}: {name} is {str(record.get(name))[:40]!r}: expected a text")
    if type(record.get("label")) is not int or not -128 <= record["label"] <= 127:
        raise Mistake(
            f"{where}: label is {str(record.get('label'))[:40]!r}: expected a whole number, 1, 0 or -1"
        )
    for name in TEXTS | {"rows"}:
        values = record.get(name)
        if not isinstance(values, list) or len(values) != channels:
            raise Mistake(
                f"{where}: {name} is {str(values)[:40]!r}: expected a list of {channels}, one an image"
            )
        if name == "rows" and not all(type(row) is int and 0 <= row < images for row in values):
            raise Mistake(f"{where}: rows are {str(values)[:40]}: expected numbers from 0 to {images - 1}")
        if name != "rows" and not all(type(value) is str for value in values):
            raise Mistake(f"{where}: {name} are {str(values)[:40]}: expected texts")
    if "metadata_row" in record and not (
        type(record["metadata_row"]) is int and isinstance(record.get("metadata"), dict)
    ):
        raise Mistake(
            f"{where}: metadata_row is {str(record['metadata_row'])[:40]}: expected a number, and metadata "
            "beside it"
        )
    return record
