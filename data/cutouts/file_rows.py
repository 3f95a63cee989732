"""One row for each input file: the probabilities of examples and what they are like,
written for the files they were made of.
"""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from data.cutouts.examples import Cutouts
from utils import files

ROWS = 200_000  # rows of a table that are put into words at once


def frames_of_files(
    rows: np.ndarray,
    examples: Cutouts,
    prob_of: Callable[[np.ndarray], np.ndarray],
    predicted: int,
    threshold: float,
    refused_are_zero: bool,
) -> Iterator[pd.DataFrame]:
    """path, domain, label, prob, pred and reason of the input files, some rows at a time, in input order.

    rows       [R] int64, rows of the store's index
    prob_of    examples [n] int64 -> their probabilities [n] float32
    predicted  how many examples have one; those after them have not
    A file without a probability has a reason, and prob and pred missing, or 0 with `refused_are_zero`.
    """
    index = examples.store.index
    left_out = dict(zip(examples.left_out["row"], examples.left_out["reason"]))
    for start in range(0, len(rows), ROWS):
        some = rows[start : start + ROWS]
        files, example = index.iloc[some], examples.example_of_row[some]
        known = (example >= 0) & (example < predicted)
        prob = np.full(len(some), np.nan, np.float32)
        prob[known] = prob_of(example[known])
        reason = files["reason"].to_numpy(dtype=object).copy()
        for i in np.flatnonzero(~known & (reason == "")):
            reason[i] = left_out.get(some[i], "beyond --max_samples")
        if refused_are_zero:
            prob[~known] = 0
        label = files["label"].astype("Int8")
        pred = pd.array(prob >= threshold, "Int8")
        pred[np.isnan(prob)] = pd.NA
        yield files[["path", "domain"]].assign(
            label=label.mask(label < 0), prob=prob, pred=pred, reason=reason
        )


def write_frames_of_files(tables: Iterator[pd.DataFrame], rows: int, out: Path, which: str) -> int:
    """Write pred_<which>.csv, quarantine_<which>.csv and probs_, labels_, preds_<which>.npy;
    count files without a prob.

    In the arrays [rows] NaN, and -1 in preds, stands for what is not known. Each file appears whole or not at
    all.
    """
    kinds = {"probs": np.float32, "labels": np.float32, "preds": np.int8}
    at, refused = 0, 0
    with contextlib.ExitStack() as stack:
        arrays = {
            name: np.lib.format.open_memmap(
                stack.enter_context(files.whole(out / f"{name}_{which}.npy")), "w+", kind, (rows,)
            )
            for name, kind in kinds.items()
        }
        pred, quarantine = (
            stack.enter_context(open(stack.enter_context(files.whole(out / f"{name}_{which}.csv")), "w"))
            for name in ("pred", "quarantine")
        )
        for table in tables:
            here = slice(at, at + len(table))
            head = at == 0
            arrays["probs"][here] = table["prob"]
            arrays["labels"][here] = table["label"].to_numpy(np.float32, na_value=np.nan)
            arrays["preds"][here] = table["pred"].to_numpy(np.int8, na_value=-1)
            table[["path", "domain", "label", "prob", "pred"]].to_csv(pred, index=False, header=head)
            bad = table.loc[table["reason"] != "", ["path", "reason"]]
            bad.to_csv(quarantine, index=False, header=head)
            at, refused = at + len(table), refused + len(bad)
        for array in arrays.values():
            array.flush()
    return refused


def write_more_of_files(
    rows: np.ndarray,
    examples: Cutouts,
    table_of: Callable[[np.ndarray], pd.DataFrame],
    predicted: int,
    path: Path,
) -> None:
    """A CSV of path, then the columns of `table_of(examples [n])`, [n] rows; a row for each input file,
    empty where nothing was predicted.
    """
    with files.whole(path) as temporary, open(temporary, "w") as file:
        for start in range(0, len(rows), ROWS):
            some = rows[start : start + ROWS]
            example = examples.example_of_row[some]
            wanted, place = np.unique(example[(example >= 0) & (example < predicted)], return_inverse=True)
            at = np.full(len(some), -1)
            at[(example >= 0) & (example < predicted)] = place
            part = table_of(wanted).reindex(at).reset_index(drop=True)
            part.insert(0, "path", examples.store.index["path"].to_numpy(dtype=object)[some])
            part.to_csv(file, index=False, header=start == 0)
