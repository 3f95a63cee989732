"""The predictions of a survey: one Parquet file a shard, there whole or not at all;
that it is there says the shard is done.

    path     as in the shard's list, one row a line, in its order
    id       object id, as the shard's store knows it
    band     as the store knows it, "" if it has none
    prob     float32, of the example that the file is part of; null where there is none
    pred     int8, prob >= threshold
    reason   "" or why the file has no probability
    prob_0   ... float32, of each network, where there are several; prob is their mean

Every page carries a CRC-32, and the footer a record (JSON): shard, digest of its list, settings, files,
seconds.
"""

import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from data.cutouts import file_rows
from data.cutouts.examples import Cutouts
from data.packing import publish_file
from data.survey.plan import refuse_changes
from utils.files import is_trouble, write_durably

FIELDS = [
    ("path", pa.string()),
    ("id", pa.string()),
    ("band", pa.string()),
    ("prob", pa.float32()),
    ("pred", pa.int8()),
    ("reason", pa.string()),
]
ROWS = 131_072  # of a row group: what a reader needs in memory
KEY = b"starloop"


class Damaged(Exception):
    """A file that is not what was written."""


def prediction_path(folder: Path, shard: int) -> Path:
    return folder / f"{shard:06d}.parquet"


def prediction_schema(networks: int) -> pa.Schema:
    return pa.schema(
        FIELDS + [(f"prob_{number}", pa.float32()) for number in range(networks) if networks > 1]
    )


def prediction_table(
    examples: Cutouts, columns: dict[str, np.ndarray], threshold: float, networks: int
) -> pa.Table:
    """The rows of a shard. columns: prob and, of several networks, prob_0 ..., each [E] float32;
    none where there is no example.
    """
    index, example = examples.store.index, examples.example_of_row
    prob = columns.get("prob", np.zeros(0, np.float32))
    every_row = np.arange(len(index))
    rows = pd.concat(
        file_rows.frames_of_files(every_row, examples, prob.__getitem__, len(prob), threshold, False)
    )
    rows = rows.rename(columns=dict(object="id"))
    for name in prediction_schema(networks).names[len(FIELDS) :]:
        each = np.full(len(rows), np.nan, np.float32)
        each[example >= 0] = columns.get(name, prob)[example[example >= 0]]
        rows[name] = each
    return pa.Table.from_pandas(rows, prediction_schema(networks), preserve_index=False)


def object_rows(rows: pa.Table, threshold: float) -> pd.DataFrame:
    """object, prob (the mean over its files that have one), pred, bands (of these files) and reason of the
    objects of a shard, in the order of their first files.
    """
    files = rows.select(["id", "band", "prob", "reason"]).to_pandas()
    index = files[["id", "band"]].rename(columns=dict(id="object")).assign(domain="", label=-1)
    objects = file_rows.Objects(index, np.arange(len(index)), np.full(len(index), ""))
    objects.note(files)
    table = pd.concat(objects.frames())
    pred = pd.array(table["prob"] >= threshold, "Int8")
    pred[table["prob"].isna().to_numpy()] = pd.NA
    return table.assign(pred=pred)[["object", "prob", "pred", "bands", "reason"]]


def write_predictions(path: Path, rows: pa.Table, record: dict) -> None:
    """Durable when it returns: the file's bytes, and its name."""
    content = io.BytesIO()
    text = json.dumps(record, sort_keys=True)
    footer = {KEY: json.dumps([text, hashlib.sha256(text.encode()).hexdigest()])}
    pq.write_table(
        rows.replace_schema_metadata(footer),
        content,
        compression="zstd",
        row_group_size=ROWS,
        write_page_checksum=True,
        write_statistics=False,
        use_dictionary=["band", "pred", "reason"],
    )
    publish_file(path, content.getvalue())


def read_predictions(path: Path, networks: int) -> tuple[pa.Table, dict]:
    """The rows of a shard and its record. Raises: OSError if the disk does not give it; Damaged."""
    content = path.read_bytes()
    try:
        rows = pq.read_table(pa.BufferReader(content), page_checksum_verification=True)
        text, digest = json.loads(rows.schema.metadata[KEY])
        if hashlib.sha256(text.encode()).hexdigest() != digest:
            raise ValueError("its record differs from its checksum")
        record = json.loads(text)
        rows = rows.replace_schema_metadata()
        rows.validate(full=True)
        if rows.schema != prediction_schema(networks) or len(rows) != record["files"]:
            raise ValueError(f"it holds {len(rows)} rows of {', '.join(rows.schema.names)}")
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        if is_trouble(error):
            raise
        raise Damaged(str(error).splitlines()[0]) from error
    return rows, record


def claim_predictions(folder: Path, settings: dict) -> None:
    """Make the folder of these predictions, or find it made with the same settings.
    Raises Mistake that names both values.
    """
    path = folder / "settings.json"
    folder.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        write_durably(path, json.dumps(settings, indent=1).encode())
    refuse_changes(
        dict(band_alias=[]) | settings,
        json.loads(path.read_bytes()),
        f"{folder} was begun",
        f"give that, or remove {folder}",
    )
