"""Predictions of the same files by the members of an ensemble, and the objects that these files belong to."""

from collections.abc import Callable
from pathlib import PurePath
from typing import NamedTuple

import numpy as np
import pandas as pd

from data.names import parse_name
from evaluation import predictions

# what is judged: namesakes with another domain or label stay apart, as in training
ROW = ["id", "domain", "label"]


class Members(NamedTuple):
    # one row a file: path, domain, label, and what it belongs to: object, id (object or stem)
    table: pd.DataFrame
    probs: np.ndarray  # [members, N], NaN where a member has none
    level: str  # "object" or "stem": what an id is
    paths: list[str]  # of the members' tables

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


def read_members(paths: list[str], match: str, level: str, warn: Callable[[str], None]) -> Members:
    """The members' tables in one order. match: see predictions.aligned; level: "object", "stem", or "auto":
    object if files are its bands.
    """
    table, probs, matched = predictions.align_predictions(paths, match)
    if match == "auto" and matched == "name":
        print(f"{paths[0]} and others: paths differ, so files are matched by name")
    for path, prob in zip(paths[1:], probs[1:]):
        if np.array_equal(prob, probs[0], equal_nan=True):
            warn(f"{path} and {paths[0]} hold the same probabilities: is it the same seed?")
    if some := int((np.isnan(probs).any(0) & ~np.isnan(probs).all(0)).sum()):
        warn(f"{some} files have no probability in some members: the others decide")
    names = [parse_name(path) for path in table["path"]]
    objects = np.array([name for name, _ in names], dtype=object)
    if level == "auto":
        banded = np.array([band != "" for _, band in names])
        level = "object" if pd.Series(objects[banded]).duplicated().any() else "stem"
    stems = pd.Series([stem(*name) for name in names])
    if (twice := stems.duplicated()).any():
        warn(
            f"{twice.sum()} files have a name that occurs before, first {stems[int(twice.argmax())]!r}; the "
            f"challenge has such ids: they are one {level} in the submission"
        )
    return Members(
        table.assign(object=objects, id=objects if level == "object" else stems.to_numpy(object)),
        probs,
        level,
        paths,
    )


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


def stem(name: str, band: str) -> str:
    return f"{name}_{band}" if band else name


def id_of(path: str, level: str) -> str:
    """The id of a file, or of an object named without its band."""
    name, band = parse_name(PurePath(path).name)
    return name if level == "object" else stem(name, band)
