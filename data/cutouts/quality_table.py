"""quality.parquet: the quality of each image of a store, measured once."""

import io
from collections.abc import Callable

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from data.cutouts import quality
from data.cutouts.store import Store
from data.packing import locked
from utils.files import is_trouble, write_durably

NAME = "quality.parquet"
AT_ONCE = 4096  # images that are read and measured at once


def quality_of(store: Store, say: Callable[[str], None]) -> pd.DataFrame:
    """One row an image: the measures of data/cutouts/quality.py, `weight`, and `outlier`,
    the measures in which it is unlike its band.

    Measured now, or found from before; a quarantined image has no measures and weight 0.
    Raises: Mistake where pixels differ from their checksum.
    """
    if (found := _read(store)) is None:
        with locked(store.directory, say, "measuring"):
            if (found := _read(store)) is None:
                found = _measured(store)
                table = pa.Table.from_pandas(found, preserve_index=False)
                content = io.BytesIO()
                pq.write_table(
                    table.replace_schema_metadata(
                        {**table.schema.metadata, b"index": store.manifest["index"].encode()}
                    ),
                    content,
                )
                write_durably(store.directory / NAME, content.getvalue())
    return found


def _read(store: Store) -> pd.DataFrame | None:
    """None where it is missing, cannot be read, or belongs to another store that was here."""
    try:
        table = pq.read_table(store.directory / NAME)
    except (OSError, pa.ArrowException) as error:
        if is_trouble(error):
            raise
        return None
    return (
        table.to_pandas() if table.schema.metadata.get(b"index") == store.manifest["index"].encode() else None
    )


def _measured(store: Store) -> pd.DataFrame:
    good = np.flatnonzero(store.good)
    parts = [
        quality.measure_quality(store.read(good[start : start + AT_ONCE]))
        for start in range(0, len(good), AT_ONCE)
    ]
    table = pd.DataFrame({name: np.full(len(store.index), np.nan, np.float32) for name in quality.MEASURES})
    if parts:
        measured = {name: np.concatenate([part[name] for part in parts]) for name in quality.MEASURES}
        table.iloc[good] = np.stack(list(measured.values()), 1)
        table["weight"], table["outlier"] = np.float32(0), ""
        table.loc[good, "weight"] = quality.weight(measured)
        # units and depth differ from band to band and from survey to survey
        for _, rows in store.index.iloc[good].groupby(["domain", "band"]).groups.items():
            flags = pd.DataFrame(
                quality.quality_outliers({name: table[name].to_numpy()[rows] for name in quality.MEASURES})
            )
            table.loc[rows, "outlier"] = [" ".join(flags.columns[row]) for row in flags.to_numpy()]
    return table
