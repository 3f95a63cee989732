"""What a table says that the curves are: labels for probes and pictures."""

import csv
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from data.light_curves.packed import Packed
from utils import files
from utils.messages import first_of
from utils.mistake import Mistake

OF_CURVES = ("source", "path")  # columns that name a curve, where a table has them
OF_LABELS = ("label", "process", "type", "class")
SEPARATORS = (",", ";", "\t")
MANY = 30  # values above which a column is hardly one of classes


class Labels(NamedTuple):
    """What a table says of the curves of a pack, and what was taken from it."""

    of_curve: np.ndarray  # [N] str of each curve, "" where nothing is known
    lines: list[str]  # for the terminal


def read_labels(given: str, packed: Packed) -> Labels:
    """The labels in `given`, a table of text or TABLE:COLUMN. Labels are text: None, NA and nan are classes;
    only an empty field is no label.

    A row is matched by its source or path, else by whichever column names most curves.
    """
    path, column = split_column(given)
    table = read_table_of_labels(path)
    if column and column not in table:
        raise Mistake(f"--probe {path!r} has no column {column!r}; it has {', '.join(table.columns)}")
    key, row_of_name = matched_column(path, table, packed)
    choices = [name for name in table.columns if name != key]
    if not column:
        known = [name for name in OF_LABELS if name in choices]
        column = (known or choices[-1:] or [""])[0]
    if not column:
        raise Mistake(f"--probe {path!r} has no column of labels beside {key!r}")

    names = names_of_curves(packed, key, row_of_name)
    rows = table[[key, column]][table[column] != ""].drop_duplicates()
    unsure = set(rows[key][rows[key].duplicated()])
    label_of = dict(zip(rows[key], rows[column]))
    of_curve = np.array(["" if name in unsure else label_of.get(name, "") for name in names], dtype=object)
    return Labels(of_curve, lines_of(path, table, key, column, choices, names, of_curve, unsure))


def split_column(given: str) -> tuple[str, str]:
    """A table and the column after its last colon, if there is one."""
    path, colon, column = given.rpartition(":")
    if not colon or Path(given).is_file():
        return given, ""
    return path, column


def read_table_of_labels(path: str) -> pd.DataFrame:
    """A table of text with one row of names, separated by whichever of SEPARATORS these have most of; lines
    above it that begin with # are comments, and empty fields at the end of a row are none.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            lines = [line for line in file.read().splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        if files.is_trouble(error):
            raise
        raise Mistake(f"--probe {path!r} cannot be read as a CSV of labels: {error}") from error
    first = next((number for number, line in enumerate(lines) if not line.startswith("#")), len(lines))
    if first == len(lines):
        raise Mistake(f"--probe {path!r} cannot be read as a CSV of labels: it has no line of names")
    separator = max(SEPARATORS, key=lines[first].count)
    rows = [[field.strip() for field in row] for row in csv.reader(lines[first:], delimiter=separator)]
    names = rows[0]
    while names and not names[-1]:
        names.pop()
    if len(set(names)) < len(names):
        raise Mistake(f"--probe {path!r} has two columns of one name: {', '.join(names)}")
    for number, row in enumerate(rows[1:], start=first + 2):
        if any(row[len(names) :]):
            raise Mistake(
                f"--probe {path!r} cannot be read as a CSV of labels: row {number} has {len(row)} fields, "
                f"and {len(names)} columns have names"
            )
    values = [row[: len(names)] + [""] * (len(names) - len(row)) for row in rows[1:]]
    return pd.DataFrame(values, columns=names, dtype="str")


def matched_column(path: str, table: pd.DataFrame, packed: Packed) -> tuple[str, dict[str, str]]:
    """The column that names curves, and source or path of the pack -> how the table spells it."""
    preferred = [name for name in OF_CURVES if name in table]
    columns = preferred + [name for name in table.columns if name not in preferred]
    best, spelt, most = columns[0], {}, 0
    for column in columns:
        for field in OF_CURVES:
            found = spellings(path, table[column], packed.curves[field], field)
            if len(found) > most:
                best, spelt, most = column, found, len(found)
        if most and column in preferred:
            break
    if not most:
        theirs = "".join(table[best].head(1))
        ours = packed.curves["path" if best == "path" else "source"].iloc[0]
        raise Mistake(
            f"--probe {path!r}: none of its {len(table)} values of {best!r} (such as {theirs!r}) is among "
            f"the curves (such as {ours!r})"
        )
    return best, spelt


def spellings(path: str, theirs: pd.Series, ours: pd.Series, field: str) -> dict[str, str]:
    """Each of our names that the table has -> its spelling there; paths may be relative to the table."""
    known = set(ours)
    found = {name: name for name in theirs if name in known}
    if field == "path":
        folder = Path(path).resolve().parent
        absolute = {str(Path(name).resolve()): name for name in known if name}
        for name in set(theirs) - found.keys() - {""}:
            if (whole := str(folder / name)) in absolute:
                found[absolute[whole]] = name
    return found


def names_of_curves(packed: Packed, key: str, spelt: dict[str, str]) -> list[str]:
    """How the table would spell each curve."""
    curves = packed.curves[list(OF_CURVES)].itertuples(index=False)
    return [spelt.get(source) or spelt.get(path) or "" for source, path in curves]


def lines_of(
    path: str,
    table: pd.DataFrame,
    key: str,
    column: str,
    choices: list[str],
    names: list[str],
    of_curve: np.ndarray,
    unsure: set[str],
) -> list[str]:
    others = [name for name in choices if name != column and 1 < table[name].nunique() <= MANY]
    could = f"; it could be {', '.join(others)} ({path}:{others[0]})" if others else ""
    lines = [f"--probe {path}: labels are of column {column!r}, by {key!r}{could}"]
    labelled = int((of_curve != "").sum())
    strangers = sorted(set(table[key]) - set(names))
    rows = f"; {len(strangers):,} names match no curve ({first_of(strangers)})" if strangers else ""
    lines.append(f"{labelled:,} of {len(of_curve):,} curves have a label{rows}")
    if unsure:
        lines.append(
            f"{len(unsure):,} names have rows of different labels and count as unlabelled "
            f"({first_of(sorted(unsure))})"
        )
    return lines
