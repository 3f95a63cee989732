"""Tables of inferred parameters: the members of an ensemble and the bands of an object as one answer,
a mixture of Gaussians.

A table has one row a file (or an object): path, and for each parameter NAME its mean and NAME_err its
standard deviation, in the parameter's unit; empty where it is not known. A name that ends in _PA is a
position angle in degrees, of period 180.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from evaluation import identity
from evaluation.figures_of_merit import ratio
from evaluation.predictions import numbers, whole
from utils.mistake import Mistake

# what the name of an error ends in; degrees after which a position angle is the same
ERROR, TURN = "_err", 180.0


def read_inferred(path: str) -> pd.DataFrame:
    """The table in a CSV file, as predict.py writes parameters_<which>.csv.

    Raises Mistake for a missing file or column, a path twice, a value without an error, what is no number,
    an error < 0.
    """
    if not Path(path).is_file():
        raise Mistake(
            f"there is no file {path!r}: expected a table of parameters, such as parameters_test.csv"
        )
    try:
        text = pd.read_csv(path, dtype="str", keep_default_na=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise Mistake(f"{path}: is not a CSV table: {' '.join(str(error).split())}") from error
    names = names_of(text)
    needed = ["path", *(f"{name}{ERROR}" for name in names)]
    lacking = [name for name in needed if name not in text]
    if lacking or not names:
        raise Mistake(
            f"{path}: has no column {(lacking or ['Rein'])[0]!r}; expected path, and for each parameter NAME "
            f"and NAME{ERROR}"
        )
    table = text[["path"]]
    for name in names:
        for column in (name, f"{name}{ERROR}"):
            table = table.assign(**{column: numbers(text[column])})
            wrong = table[column].isna() & ~text[column].str.strip().str.lower().isin(["", "nan"]) | np.isinf(
                table[column]
            )
            wrong |= table[column] < 0 if column != name else False
            if wrong.any():
                raise Mistake(
                    f"{path}: line {int(np.argmax(wrong)) + 2} has {column} {text[column][wrong].iloc[0]!r}; "
                    "expected a finite number"
                    + (" >= 0" if column != name else "")
                    + ", or nothing where there is none"
                )
        if (alone := table[name].notna() & table[f"{name}{ERROR}"].isna()).any():
            raise Mistake(
                f"{path}: line {int(np.argmax(alone)) + 2} has {name} {table[name][alone].iloc[0]:g} without "
                "an error; expected both"
            )
    whole(identity.known_rows(table, path), path)
    return table


def names_of(table: pd.DataFrame) -> list[str]:
    """The parameters that a table has columns of; not plausibility and its parts,
    which judge them and have no error.
    """
    return [
        name
        for name in table
        if name != "path" and not name.endswith(ERROR) and not name.startswith("plausibility")
    ]


def mixture(table: pd.DataFrame, keys) -> pd.DataFrame:
    """One row for each distinct key (keys [N]), path = the key:
    the equal mixture of its Gaussians, as far as they are known.

    Mean: the mean of means. Variance: the mean of variances and the variance of means. Position angles are
    first turned by multiples of 180 degrees to within 90 of their circular mean; their mean is in 0..180.
    """
    at, ids = pd.factorize(np.asarray(keys, dtype=object))
    out = dict(path=ids)
    for name in names_of(table):
        mean, error = table[name].to_numpy(np.float64), table[f"{name}{ERROR}"].to_numpy(np.float64)
        there = ~np.isnan(mean)
        angle = name.endswith("_PA")

        def average(values, there=there):
            return ratio(
                np.bincount(at[there], values[there], len(ids)), np.bincount(at[there], minlength=len(ids))
            )

        if angle:
            twice = 2 * np.pi * mean / TURN
            centre = TURN * np.arctan2(average(np.sin(twice)), average(np.cos(twice))) / (2 * np.pi)
            apart = (mean - centre[at] + TURN / 2) % TURN - TURN / 2
        else:
            centre = average(mean)
            apart = mean - centre[at]
        shift = average(apart)
        variance = average(error**2) + average((apart - shift[at]) ** 2)
        out |= {
            name: (centre + shift) % TURN if angle else centre + shift,
            f"{name}{ERROR}": np.sqrt(variance),
        }
    return pd.DataFrame(out)


def together(tables: list[pd.DataFrame], ids: list) -> pd.DataFrame:
    """One row for each id: of each table its rows of that id (the bands) fused,
    then the tables (the members), which count alike.
    """
    fused = pd.concat([mixture(table, keys) for table, keys in zip(tables, ids)], ignore_index=True)
    return mixture(fused, fused["path"])


def of_ids(
    paths: list[str],
    ids_of: Callable[[pd.DataFrame, str], pd.Series],
    ids: pd.Series,
    warn: Callable[[str], None],
) -> pd.DataFrame:
    """The members' tables at these paths as one row for each of `ids` that they know.
    ids_of(table, path of the table): the id of each row.

    Raises Mistake if none of the ids is in the tables.
    """
    tables = [read_inferred(path) for path in paths]
    out = together(tables, [ids_of(table, path) for table, path in zip(tables, paths)])
    out = out[out["path"].isin(set(ids))].reset_index(drop=True)
    if not len(out):
        raise Mistake(
            f"--test_parameters {' '.join(paths)}: holds none of the {len(ids)} ids, such as "
            f"{ids.iloc[0]!r}; give those of the test files"
        )
    if len(out) < len(ids):
        warn(f"--test_parameters: {len(ids) - len(out)} of {len(ids)} ids are not in them and keep --fill")
    return out
