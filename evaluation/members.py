"""Predictions of the same files by the members of an ensemble, and the objects that these files belong to."""

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd

from evaluation import identity, predictions
from evaluation.submission import unharmed
from utils.mistake import Mistake

# what is judged: what is submitted, an id; lenses and others of one id stay apart, as in training
ROW = ["id", "apart"]
# fewer labelled objects of a domain tell t* little, where it is used for, or outvoted by, so many times more
FEW, MANY = 10, 8
UNKNOWN = ("", "unknown")  # domains that are none


class Members(NamedTuple):
    # one row a file (path) or an object: domain, label, and what it belongs to: object, band,
    # id (object or stem), apart (identity.judged_apart)
    table: pd.DataFrame
    probs: np.ndarray  # [members, N], NaN where a member has none
    level: str  # "object" or "stem": what an id is
    paths: list[str]  # of the members' tables
    place: pd.DataFrame | None  # ra, dec in deg by id, of those that are known

    @property
    def of_files(self) -> bool:
        return "path" in self.table

    def fused(self, prob: np.ndarray, fusion: str, keys=ROW) -> pd.DataFrame:
        """One row for each of `keys`, of prob [N]:
        the mean over its files, of logits if fusion is "logit".
        """
        return predictions.fuse_predictions(self.table.assign(prob=prob), keys, fusion)

    def by_row(self, fusion: str) -> np.ndarray:
        """[members, rows] the members' own probabilities of what is judged."""
        return np.stack([self.fused(prob, fusion)["prob"].to_numpy() for prob in self.probs])

    def objects(self) -> np.ndarray:
        """[rows] the object of each row that is judged."""
        return self.table.drop_duplicates(ROW)["object"].to_numpy()


def read_members(
    paths: list[str], match: str, level: str, warn: Callable[[str], None], escape: bool = False
) -> Members:
    """The members' tables in one order. match: see predictions.align_predictions; level: "object", "stem", or
    "auto": object, unless files of others are not its bands; escape: see submission.unharmed.
    """
    table, probs, matched = predictions.align_predictions(paths, match)
    if match == "auto" and matched == "name":
        print(f"{paths[0]} and others: paths differ, so files are matched by name")
    for path, prob in zip(paths[1:], probs[1:]):
        if np.array_equal(prob, probs[0], equal_nan=True):
            warn(f"{path} and {paths[0]} hold the same probabilities: is it the same seed?")
    if some := int((np.isnan(probs).any(0) & ~np.isnan(probs).all(0)).sum()):
        warn(f"{some} files have no probability in some members: the others decide")
    known = "object" in table
    if not known:
        table = identity.parsed_rows(table, paths[0], warn)
    if level == "stem" and "path" not in table:
        raise Mistake(f"--id stem: a row of {paths[0]} is an object, not a file; leave it out")
    if level == "auto":
        banded = table["object"][table["band"] != ""]
        level = "object" if known or banded.duplicated().any() else "stem"
    place = next(filter(lambda found: found is not None, map(identity.known_places, paths)), None)
    if place is not None:
        place = place.set_index("object").reindex(table["object"])
    for name in ("object", "band", "domain", "path"):
        if name in table:
            table = table.assign(**{name: unharmed(table[name], name, escape, warn)})
    stems = ids_of(table, "stem")
    if "path" in table and (twice := stems.duplicated()).any():
        warn(
            f"{twice.sum()} files have a name that occurs before, first {stems[int(twice.argmax())]!r}; the "
            f"challenge has such ids: they are one {level} in the submission"
        )
    table = table.assign(id=ids_of(table, level))
    if place is not None:
        place = place.set_axis(table["id"]).dropna()
        place = place[~place.index.duplicated()]
    table = table.assign(apart=identity.judged_apart(table, "id", warn))
    return Members(table, probs, level, paths, place)


def ids_of(table: pd.DataFrame, level: str) -> pd.Series:
    """The id of each row: its object, or with level "stem" its object and band."""
    if level == "object":
        return table["object"]
    return table["object"].where(table["band"] == "", table["object"] + "_" + table["band"])


def say_domains(val: pd.DataFrame, test: pd.DataFrame | None, warn: Callable[[str], None]) -> None:
    """Warn where t*, chosen on the rows `val`, follows from few or no objects of a domain."""
    judged = objects_by_domain(val[val["label"].notna() & val["prob"].notna()])
    used = judged if test is None else objects_by_domain(test)
    for name in (name for name in used if name not in UNKNOWN):
        there = judged[name]
        others = max(judged.values(), default=0) if test is None else used[name]
        if there < FEW and others > MANY * there:
            text = "" if test is None else f" ({used[name]} of --test are)"
            warn(
                f"domain {name}: {there} of the {len(val)} objects of --val that t* is chosen on are of "
                f"it{text}: t* says little about it"
            )


def objects_by_domain(rows: pd.DataFrame) -> Counter[str]:
    """How many rows are of each domain; those of two count in both."""
    return Counter(name for names in rows["domain"] for name in names.split("+"))


def compare_members(val: Members, test: Members, warn: Callable[[str], None]) -> None:
    """Warn where t*, chosen on `val`, may not suit `test`."""
    if len(val.paths) != len(test.paths):
        warn(
            f"t* is chosen with {len(val.paths)} members and used for {len(test.paths)}: a mean of fewer "
            "spreads wider"
        )
    if val.level != test.level:
        warn(
            f"t* is chosen on one row per {val.level} and used on one row per {test.level}: give both sets "
            "with the same bands, or --id"
        )
    if shared := len(set(val.table["id"]) & set(test.table["id"])):
        warn(f"{shared} ids are in --val and in --test: figures of test are optimistic for them")
