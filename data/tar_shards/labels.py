"""A table of labels, and of what else is known, laid over the objects of shards."""

import os
import re

import numpy as np
import pandas as pd

from data.catalogues.tables import MISSING, numeric_column, read_table
from data.cutouts.metadata import field_of, typed_metadata
from data.tar_shards.tar import clean
from utils.messages import first_of
from utils.mistake import Mistake

IDS = (
    "object",
    "object_id",
    "id",
    "iauname",
    "id_str",
    "objid",
    "source_id",
    "key",
    "name",
    "file",
    "filename",
)
SUFFIX = re.compile(r"\.(npy|png|jpe?g|json|cls)$", re.IGNORECASE)
WORDS = {"true": "1", "lens": "1", "false": "0", "nonlens": "0", "unknown": "-1"}


def with_labels(
    index: pd.DataFrame, metadata: pd.DataFrame | None, path: str, id_column: str
) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """(index, metadata, lines for the log), with the labels and fields of a table where it says something.

    path: CSV, FITS or Parquet with a column of ids (id_column, else the one of IDS that names most objects),
        label, and any fields of data/cutouts/metadata.py.
    Raises: Mistake for a table of other objects, or other labels than 1, 0 and -1.
    """
    there: list[str] = []  # all its columns, also those that are no numbers or texts
    table = read_table(path, "--labels", lambda name: not there.append(name))
    objects = pd.Index(index["object"].unique())
    ids = _id_column(table, id_column, objects, path)
    fields = [name for name in table.columns if field_of(name.lower()) and name not in (ids, "object")]
    label = next((name for name in table.columns if name.lower() == "label"), None)
    if label is None and not fields:
        raise Mistake(
            f"--labels {path!r} has no column label, and no field of docs/catalogues.md: it has "
            f"{first_of(list(table.columns), 6)}"
        )
    labels = _labels(table[label]) if label else np.full(len(table), -1, np.int8)
    row_of_object = objects.get_indexer(table[ids])
    lines = [f"{os.path.basename(path)}: {len(table):,} rows, ids in column {ids}"]
    kept = {ids, label, *fields}
    if unused := [name for name in there if name not in kept]:
        lines.append(f"columns of {os.path.basename(path)}, not used: {len(unused):,} ({first_of(unused)})")
    if (without := row_of_object < 0).any():
        names = list(map(clean, table[ids][without]))
        lines.append(f"rows without a sample: {len(names):,} ({first_of(names)})")
    of_object, differing = _one_each(row_of_object, labels, len(objects))
    if len(differing):
        names = list(map(clean, objects[differing]))
        lines.append(
            f"objects with rows of different labels, taken for unknown: {len(names):,} ({first_of(names)})"
        )
    told = pd.Series(row_of_object[~without]).unique()
    if label:
        counts = [int((of_object == value).sum()) for value in (1, 0)]
        lines.append(
            f"labels of the table: {counts[0]:,} lenses, {counts[1]:,} none, of {len(objects):,} objects; "
            f"{len(objects) - len(told):,} have no row and keep what their shard says"
        )
    at = objects.get_indexer(index["object"])
    chosen = of_object[at]
    chosen = np.where(chosen >= 0, chosen, index["label"].to_numpy())
    chosen[np.isin(at, differing)] = -1
    index = index.assign(label=chosen.astype(np.int8))
    if metadata is None:
        first = index.drop_duplicates("object")
        metadata = pd.DataFrame(
            {"object": first["object"].to_numpy(), "source_catalog": first["domain"].to_numpy()}
        )
    said = pd.DataFrame({name.lower(): table[name] for name in fields})
    said["object"] = table[ids]
    said = typed_metadata(said[~without].drop_duplicates("object"))[["object", *map(str.lower, fields)]]
    if label:
        known = pd.Series(objects[of_object >= 0])
        sources = pd.DataFrame({"object": known, "label_source": f"table:{os.path.basename(path)}"})
        said = sources.merge(said, how="outer", on="object", suffixes=("", "_of_table"))
        if "label_source_of_table" in said:
            said["label_source"] = said.pop("label_source_of_table").fillna(said["label_source"])
    return index, _laid_over(metadata, said.set_index("object")), lines


def _id_column(table: pd.DataFrame, id_column: str, objects: pd.Index, path: str) -> str:
    names = [id_column] if id_column else [name for name in table.columns if name.lower() in IDS]
    if not names or names[0] not in table.columns:
        what = f"no column {id_column!r}" if id_column else "no column of ids"
        raise Mistake(f"--labels {path!r} has {what}: expected object, id or another by --id_column NAME")
    for name in names:  # of 000123.npy the key
        table[name] = table[name].str.replace(SUFFIX, "", regex=True)
    best = max(names, key=lambda name: table[name].isin(objects).sum())  # the first of equals
    if not table[best].isin(objects).any():
        raise Mistake(
            f"--labels {path!r}: none of its {len(table):,} rows names one of {len(objects):,} objects; "
            f"{best!r} begins with {table[best].iloc[0]!r}, the objects with {clean(objects[0])}: give the "
            "table of these shards, or --id_column NAME"
        )
    return best


def _labels(texts: pd.Series) -> np.ndarray:
    """int8 [rows]: 1, 0, or -1 for unknown. Raises: Mistake for another."""
    plain = texts.str.strip().str.lower().replace(WORDS)
    values = numeric_column(pd.DataFrame({"label": plain}), "label", "--labels")
    wrong = np.isfinite(values) & ~np.isin(values, (-1, 0, 1))
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise Mistake(
            f"--labels: label {texts.iloc[row][:60]!r} in row {row + 1}, expected 1 (lens), 0, or -1 or "
            "nothing (unknown)"
        )
    return np.where(np.isfinite(values), values, -1).astype(np.int8)


def _one_each(row_of_object: np.ndarray, labels: np.ndarray, objects: int) -> tuple[np.ndarray, np.ndarray]:
    """(int8 [objects] label, -1 where none is said or rows differ; the objects whose rows differ)."""
    has = np.zeros((2, objects), dtype=bool)
    for value in (0, 1):
        rows = row_of_object[labels == value]
        has[value, rows[rows >= 0]] = True
    differing = np.flatnonzero(has.all(0))
    found = np.where(has[1], 1, np.where(has[0], 0, -1)).astype(np.int8)
    found[differing] = -1
    return found, differing


def _laid_over(metadata: pd.DataFrame, said: pd.DataFrame) -> pd.DataFrame:
    """The metadata, with what a table says of an object in place of what they said."""
    rows = said.index.get_indexer(metadata["object"])
    columns = {name: metadata[name] for name in metadata}
    for name in said:
        values = said[name].reindex(metadata["object"]).reset_index(drop=True)
        missing = values.isna() | (values.astype(str).str.lower().isin(MISSING)) | (rows < 0)
        before = metadata[name].reset_index(drop=True) if name in metadata else pd.Series(index=values.index)
        merged = values.where(~missing, before)
        columns[name] = merged.fillna("") if field_of(name).type is str else merged.astype(np.float64)
    return pd.DataFrame({name: pd.Series(np.asarray(column)) for name, column in columns.items()})
