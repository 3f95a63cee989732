"""One row for each input file, and one for each object: the probabilities of examples and what they are like,
written for the files they were made of, with the object and band that the store knows of each.
"""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

import numpy as np
import pandas as pd

from data.cutouts.examples import Cutouts
from data.bands import in_order
from utils import files

ROWS = 200_000  # rows of a table that are put into words at once
NOT_FINITE = "the network's answer is not finite"


def frames_of_files(
    rows: np.ndarray,
    examples: Cutouts,
    prob_of: Callable[[np.ndarray], np.ndarray],
    predicted: int,
    threshold: float,
    refused_are_zero: bool,
) -> Iterator[pd.DataFrame]:
    """path, object, band, domain, label, prob, pred and reason of the input files, some rows at a time,
    in input order.

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
        reason[known & np.isnan(prob)] = NOT_FINITE
        if refused_are_zero:
            prob[~known] = 0
        label = files["label"].astype("Int8")
        pred = pd.array(prob >= threshold, "Int8")
        pred[np.isnan(prob)] = pd.NA
        yield files[["path", "object", "band", "domain"]].assign(
            label=label.mask(label < 0), prob=prob, pred=pred, reason=reason
        )


class Objects:
    """The objects that some rows of a store's index are of, told apart as examples of stacked bands are: one
    for each (domain, label, object). prob is the mean over the files of an object that have one.

    index  [N] rows of the store
    rows   [R] int64, those that are predicted
    split  [N] str, that of each row of the index
    place  object (each once), ra, dec in deg: where objects are, as far as it is known; None: of none
    """

    def __init__(
        self, index: pd.DataFrame, rows: np.ndarray, split: np.ndarray, place: pd.DataFrame | None = None
    ):
        some = index.iloc[rows]
        # [R] which object each row is of, in order of appearance
        self.number = some.groupby(["domain", "label", "object"], sort=False).ngroup().to_numpy(np.int64)
        first = np.unique(self.number, return_index=True)[1]
        self.table = some.iloc[first][["object", "domain", "label"]].reset_index(drop=True)
        self.table["split"] = np.asarray(split, dtype=object)[rows[first]]
        if place is None:
            place = pd.DataFrame(dict(object=pd.Series([], dtype=str), ra=[], dec=[]))
        place = place.set_index("object").reindex(self.table["object"])
        self.table = self.table.assign(ra=place["ra"].to_numpy(), dec=place["dec"].to_numpy())
        self.bands = in_order(some["band"].unique())
        self.band = pd.Index(self.bands).get_indexer(some["band"])  # [R]
        # as far as files were noted
        self.noted = 0
        self.there = np.zeros(len(rows), bool)  # [R] has a probability, and no reason against it
        self.total = np.zeros(len(first))
        self.files = np.zeros(len(first), np.int64)
        self.reason = np.full(len(first), "", dtype=object)  # the first of its files'

    def __len__(self) -> int:
        return len(self.table)

    def note(self, table: pd.DataFrame) -> None:
        """Take in the next of the tables that `frames_of_files` yields of the same rows."""
        here = slice(self.noted, self.noted + len(table))
        number = self.number[here]
        prob = table["prob"].to_numpy(np.float64)
        reason = table["reason"].to_numpy(dtype=object)
        known = ~np.isnan(prob)
        self.there[here] = known & (reason == "")
        self.total += np.bincount(number[known], prob[known], len(self))
        self.files += np.bincount(number[known], minlength=len(self))
        # backwards, so that the first of several stays; what an earlier table said stays too
        bad = np.flatnonzero((reason != "") & (self.reason[number] == ""))[::-1]
        self.reason[number[bad]] = reason[bad]
        self.noted += len(table)

    def frames(self) -> Iterator[pd.DataFrame]:
        """object, ra, dec, domain, label, prob, bands, split and reason of the objects, some at a time, in
        the order of their first files; once all files are noted.

        bands: those of the files that have a probability, joined by spaces. reason: why there is none.
        """
        assert self.noted == len(self.number)
        prob = np.full(len(self), np.nan)
        np.divide(self.total, self.files, out=prob, where=self.files > 0)
        bands = self._bands_there()
        self.reason[self.number[self.there]] = ""
        for start in range(0, len(self), ROWS):
            here = slice(start, start + ROWS)
            table = self.table.iloc[here]
            label = table["label"].astype("Int8")
            # rounded as the files' are, so that bands of one probability have just that
            yield table[["object", "ra", "dec", "domain"]].assign(
                label=label.mask(label < 0),
                prob=prob[here].astype(np.float32),
                bands=bands[here],
                split=table["split"],
                reason=self.reason[here],
            )

    def _bands_there(self) -> np.ndarray:
        """[objects] str, band by band: each text that there is so far is made longer once, not once an
        object.
        """
        texts = [""]
        text_of = np.zeros(len(self), np.int64)
        for number, name in enumerate(self.bands):
            has = np.zeros(len(self), bool)
            has[self.number[self.there & (self.band == number)]] = True
            before, at = np.unique(text_of[has], return_inverse=True)
            text_of[has] = len(texts) + at
            texts += [f"{texts[text]} {name}".strip() for text in before]
        return np.array(texts, dtype=object)[text_of]


def write_frames_of_files(
    tables: Iterator[pd.DataFrame], rows: int, out: Path, which: str, objects: Objects | None = None
) -> int:
    """Write pred_<which>.csv, files_<which>.csv (path, object, band: what each of its rows is),
    quarantine_<which>.csv and probs_, labels_, preds_<which>.npy, and objects_<which>.csv of `objects` of the
    same rows; count files without a prob.

    In the arrays [rows] NaN, and -1 in preds, stands for what is not known. Each file appears whole or not at
    all.
    """
    kinds = {"probs": np.float32, "labels": np.float32, "preds": np.int8}
    at, refused = 0, 0
    with contextlib.ExitStack() as stack:

        def begun(name: str) -> TextIO:
            path = stack.enter_context(files.whole(out / f"{name}_{which}.csv"))
            return stack.enter_context(open(path, "w", encoding="utf-8"))

        arrays = {
            name: np.lib.format.open_memmap(
                stack.enter_context(files.whole(out / f"{name}_{which}.npy")), "w+", kind, (rows,)
            )
            for name, kind in kinds.items()
        }
        pred, identity, quarantine = map(begun, ("pred", "files", "quarantine"))
        for table in tables:
            here = slice(at, at + len(table))
            head = at == 0
            arrays["probs"][here] = table["prob"]
            arrays["labels"][here] = table["label"].to_numpy(np.float32, na_value=np.nan)
            arrays["preds"][here] = table["pred"].to_numpy(np.int8, na_value=-1)
            table[["path", "domain", "label", "prob", "pred"]].to_csv(pred, index=False, header=head)
            table[["path", "object", "band"]].to_csv(identity, index=False, header=head)
            bad = table.loc[table["reason"] != "", ["path", "reason"]]
            bad.to_csv(quarantine, index=False, header=head)
            if objects is not None:
                objects.note(table)
            at, refused = at + len(table), refused + len(bad)
        for array in arrays.values():
            array.flush()
        if objects is not None:
            written = begun("objects")
            for number, table in enumerate(objects.frames()):
                table.to_csv(written, index=False, header=number == 0)
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
