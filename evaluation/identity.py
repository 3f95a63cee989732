"""What a row of a table of predictions is: which object, in which band, and where on the sky.

predict.py and ensemble.py say it: in files_<which>.csv (path, object, band) beside pred_<which>.csv, or in a
column `object` of tables whose rows are objects, and objects_<which>.csv has ra and dec. Only of the tables
of others are names taken apart, and what was taken for object and band is told.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from data.bands import in_order
from data.names import parse_name
from utils import files
from utils.messages import first_of
from utils.mistake import Mistake

COLUMNS = ["path", "object", "band"]
PLACE = ["object", "ra", "dec"]
KINDS = ("pred_", "parameters_", "uncertainty_")  # what stands before <which> in the names of tables
MOST_SUFFIXES = 12  # of names, that may be bands


def beside(source: str | Path, kind: str) -> Path:
    """The table of another kind ("files", "objects") that belongs to the table `source`."""
    which = Path(source).name
    for prefix in KINDS:
        which = which.removeprefix(prefix)
    return Path(source).with_name(f"{kind}_{which}")


def known_rows(table: pd.DataFrame, source: str) -> pd.DataFrame:
    """The table with `object` and `band` of each row, if its own columns or the table beside it say so;
    else as it is.

    Raises Mistake where the table beside it is of other files.
    """
    if "object" in table:
        return table if "band" in table else table.assign(band="")
    path = beside(source, "files")
    if not path.is_file():
        return table
    known = text_table(path, COLUMNS, source)
    at = pd.Index(numbered(known["path"])).get_indexer(numbered(table["path"]))
    if (absent := at < 0).any():
        raise Mistake(
            f"{path}: lacks {absent.sum()} of the {len(table)} files of {source}, first "
            f"{table['path'][absent].iloc[0]!r}, so it was not written with it: predict again, or remove it"
        )
    return table.assign(**{name: known[name].to_numpy()[at] for name in ("object", "band")})


def numbered(paths: pd.Series) -> pd.Series:
    """The paths, with a number where they were there before: a file of two objects has a row for each."""
    again = paths.groupby(paths).cumcount()
    return paths.where(again == 0, paths + "\0" + again.astype("str")) if again.any() else paths


def identified_rows(table: pd.DataFrame, source: str, tell: Callable[[str], None]) -> pd.DataFrame:
    """The table with `object` and `band` of each row: as they are known, or else as names have them."""
    table = known_rows(table, source)
    return table if "object" in table else parsed_rows(table, source, tell)


def parsed_rows(table: pd.DataFrame, source: str, tell: Callable[[str], None]) -> pd.DataFrame:
    """The table with `object` and `band` as the names of its files have them, and a line about it."""
    names = [parse_name(path) for path in table["path"]]
    table = table.assign(object=[name for name, _ in names], band=[band for _, band in names])
    tell(f"{source}: {taken(table)}")
    return table


def taken(table: pd.DataFrame) -> str:
    """What the names of files were taken for, in words."""
    banded = table["band"] != ""
    objects = f"{len(table)} files are {table['object'].nunique()} objects"
    if banded.any():
        ends = " ".join(f"_{band}" for band in in_order(table["band"][banded].unique()))
        rest = "" if banded.all() else f" ({(~banded).sum()} names have none)"
        return f"names end in {ends}: taken for bands{rest}; {objects}"
    text = f"no band in the names: each file is an object; {objects}"
    parts = table["object"].str.rpartition("_")
    ends = sorted(parts[2].unique())
    if (parts[0] != "").all() and len(ends) <= MOST_SUFFIXES and parts[0].nunique() < len(table):
        text += f"; if {first_of([f'_{end}' for end in ends])} are bands, give it a column `object`"
    return text


def known_places(source: str) -> pd.DataFrame | None:
    """object (each once), ra and dec in deg, as far as the table beside `source`, or itself, knows them;
    None where nothing is known.
    """
    for path in (beside(source, "objects"), Path(source)):
        if path.is_file() and set(PLACE) <= set(pd.read_csv(path, nrows=0)):
            table = text_table(path, PLACE, source)
            table[PLACE[1:]] = table[PLACE[1:]].apply(pd.to_numeric, errors="coerce")
            table = table.dropna().drop_duplicates("object")
            return table if len(table) else None
    return None


def text_table(path: Path, columns: list[str], source: str) -> pd.DataFrame:
    """These columns of a CSV file, as texts."""
    try:
        return pd.read_csv(path, dtype="str", keep_default_na=False, usecols=columns)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError, ValueError) as error:
        raise Mistake(
            f"{path}: should say what the rows of {source} are, in the columns {', '.join(columns)} "
            f"({' '.join(str(error).split())}): predict again, or remove it"
        ) from error


def judged_apart(table: pd.DataFrame, ids: str, tell: Callable[[str], None]) -> np.ndarray:
    """[N] int64 that tells apart rows of one id (the column `ids`) that are not judged as one: 0 where they
    are, over its bands and domains; where both lenses and others are known of an id, a number for each domain
    and label, and a line about it.
    """
    torn = (table["label"].groupby(table[ids]).transform("nunique") > 1).to_numpy()
    apart = np.zeros(len(table), np.int64)
    if torn.any():
        apart[torn] = 1 + table[torn].groupby(["domain", "label"], dropna=False).ngroup()
        names = table[ids][torn].unique()
        tell(
            f"{len(names)} ids are a lens in one row and none in another ({first_of(names)}): of these each "
            "domain and label is judged alone, though one row an id is submitted"
        )
    return apart


def keys_of_rows(table: pd.DataFrame) -> pd.Series:
    """What tells the rows of a table apart: the path, or the object; where that is there twice with the
    object of the path, or the domain and label of the object.
    """
    if "path" in table:
        key = table["path"]
        if "object" in table and (twice := key.duplicated(keep=False)).any():
            key = key.where(~twice, key + " (" + table["object"] + " " + table["band"] + ")")
        return key
    key = table["object"]
    if (twice := key.duplicated(keep=False)).any():
        label = table["label"].map({0.0: "0", 1.0: "1"}).fillna("unknown")
        key = key.where(~twice, key + " (" + table["domain"] + ", label " + label + ")")
    return key


def write_identity(table: pd.DataFrame, path: Path) -> None:
    """What the rows of the table at `path` are, beside it; where its rows are files."""
    if "path" in table:
        with files.whole(beside(path, "files")) as temporary:
            table[COLUMNS].to_csv(temporary, index=False)
