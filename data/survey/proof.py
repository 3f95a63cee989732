"""The proof that a survey has exactly one row for each of its files, and what the rows say.
One shard is in memory at a time.
"""

import contextlib
import gzip
import json
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import csv

from data.survey import predictions
from data.survey.plan import Survey
from utils import files
from utils.files import write_durably
from utils.ledger import Ledger
from utils.mistake import Mistake

BINS = 100  # of the histogram of prob, from 0 to 1
CLASSES = 100  # of reasons; what is beyond is counted together


@dataclass
class Totals:
    files: int = 0
    with_prob: int = 0
    positive: int = 0
    incomplete: int = 0  # examples of stacked bands that lack one
    reasons: Counter = field(default_factory=Counter)
    seconds: float = 0
    histogram: np.ndarray = field(default_factory=lambda: np.zeros(BINS, np.int64))

    def add(self, rows: pa.Table, record: dict) -> None:
        prob = rows["prob"].drop_null().to_numpy()
        self.files += len(rows)
        self.with_prob += len(prob)
        self.positive += int((rows["pred"].drop_null().to_numpy() == 1).sum())
        self.incomplete += record["incomplete"]
        self.seconds += record["seconds"]
        self.histogram += np.histogram(prob, BINS, (0, 1))[0]
        for each in rows["reason"].value_counts().to_pylist():
            kind = re.sub(r"\d+", "N", each["values"].partition(":")[0])
            if kind:
                self.reasons[kind if kind in self.reasons or len(self.reasons) < CLASSES else "other"] += (
                    each["counts"]
                )

    def summary(self) -> dict:
        return dict(
            files=self.files,
            with_probability=self.with_prob,
            without_probability=dict(self.reasons),
            positive=self.positive,
            incomplete_examples=self.incomplete,
            seconds=round(self.seconds, 1),
            histogram=self.histogram.tolist(),
        )


def prove_survey(survey: Survey, folder: Path, networks: int, parts: int, with_csv: bool) -> dict:
    """What the predictions of a whole survey say, once each file has one row; on the way, if wished,
    pred.csv.gz, one row a file, and objects.csv.gz, one row an object of a shard.

    Raises: Mistake that names the shards that are missing or damaged (these are moved aside)
        and the parts to run again.
    """
    if not (folder / "settings.json").exists():
        raise Mistake(
            f"nothing of {survey.directory} is predicted yet with this network ({folder} is not there)"
        )
    settings = json.loads((folder / "settings.json").read_bytes())
    listed = Ledger()
    found = Ledger()
    totals = Totals()
    wrong = {}
    known = {predictions.prediction_path(folder, shard).name for shard in range(len(survey))}
    if strangers := sorted(path.name for path in folder.glob("*.parquet") if path.name not in known):
        raise Mistake(f"{folder} holds {strangers[0]}, which is no shard of this plan: remove it")
    of_objects = 0
    for old in (
        "summary.json",
        "pred.csv.gz",
        "objects.csv.gz",
    ):  # what they say must not outlive what they say it of
        (folder / old).unlink(missing_ok=True)
    with contextlib.ExitStack() as stack:
        if with_csv:
            stream, objects = (
                stack.enter_context(gzip.open(stack.enter_context(files.whole(folder / name)), "wb", 1))
                for name in ("pred.csv.gz", "objects.csv.gz")
            )
            table = stack.enter_context(csv.CSVWriter(stream, predictions.prediction_schema(networks)))
        for shard in range(len(survey)):
            listed.note(expected := hashes_of_paths(survey.paths(shard)))
            path = predictions.prediction_path(folder, shard)
            try:
                rows, record = predictions.read_predictions(path, networks)
                check_predictions(
                    rows, record, expected, dict(list=survey.plan["shards"][shard][1], settings=settings)
                )
            except FileNotFoundError:
                wrong[shard] = "missing"
            except predictions.Damaged as error:
                path.replace(path.with_suffix(".damaged"))
                wrong[shard] = f"damaged: {error}"
            else:
                found.note(hashes_of_paths(rows["path"]))
                totals.add(rows, record)
                if with_csv:
                    table.write(rows)
                    fused = predictions.object_rows(rows, settings["threshold"])
                    fused.to_csv(objects, index=False, header=of_objects == 0)
                    of_objects += len(fused)
        if wrong:
            first = "; ".join(f"{shard:06d} {what}" for shard, what in list(wrong.items())[:5])
            raise Mistake(
                f"{folder}: of {len(survey):,} shards {len(wrong):,} are missing or damaged ({first}): run "
                f"predict again, --parts {parts} and --part "
                f"{ranges(sorted({shard % parts for shard in wrong}))}"
            )
    assert found == listed and found.count == survey.plan["files"]
    for left in folder.glob("*.tmp"):  # of tasks that were killed
        left.unlink(missing_ok=True)
    account = dict(count=found.count, sum=f"{found.sum:016x}", xor=f"{found.xor:016x}")
    summary = totals.summary() | dict(shards=len(survey), settings=settings, paths=account)
    summary |= dict(objects=of_objects) if with_csv else {}
    write_durably(folder / "summary.json", json.dumps(summary, indent=1).encode())
    return summary


def check_predictions(rows: pa.Table, record: dict, expected: np.ndarray, stated: dict) -> None:
    """Raises: Damaged where the rows of a shard are not those of its list, of hashes `expected` [n]
    uint64.
    """
    got = Ledger()
    wanted = Ledger()
    found = hashes_of_paths(rows["path"])
    got.note(found)
    wanted.note(expected)
    if got != wanted:
        raise predictions.Damaged(
            f"its {got.count:,} paths (sum {got.sum:016x}, xor {got.xor:016x}) are not the {wanted.count:,} "
            f"(sum {wanted.sum:016x}, xor {wanted.xor:016x}) of its list"
        )
    if len(other := np.flatnonzero(found != expected)):
        raise predictions.Damaged(f"row {other[0]} is not the file of line {other[0] + 1} of its list")
    if wrong := [name for name, value in stated.items() if record[name] != value]:
        raise predictions.Damaged(f"its {wrong[0]} is {record[wrong[0]]!r}, not {stated[wrong[0]]!r}")
    prob = rows["prob"].to_numpy()
    if len(wrong := np.flatnonzero(np.isnan(prob) == (rows["reason"].to_numpy() == "")) if len(prob) else ()):
        raise predictions.Damaged(f"row {wrong[0]} must have a probability or a reason")


def hashes_of_paths(paths) -> np.ndarray:
    """[n] uint64, the SipHash of each path."""
    return pd.util.hash_array(np.asarray(paths, dtype=object), categorize=False)


def account_for_stores(survey: Survey, parts: int) -> dict:
    """What the stores of a whole survey hold, written to stores.json. Raises:
    Mistake that names the parts to pack again.
    """
    manifests = [survey.manifest(shard) for shard in range(len(survey))]
    if missing := [shard for shard, manifest in enumerate(manifests) if not manifest]:
        raise Mistake(
            f"{survey.directory}: of {len(survey):,} shards {len(missing):,} are not packed (first "
            f"{missing[0]:06d}): run pack again, --parts {parts} and --part "
            f"{ranges(sorted({shard % parts for shard in missing}))}"
        )
    totals = {
        name: sum(manifest[name] for manifest in manifests) for name in ("files", "good", "quarantined")
    }
    shards = [[manifest["files"], manifest["quarantined"], manifest["index"]] for manifest in manifests]
    write_durably(
        survey.directory / "stores.json",
        json.dumps(totals | dict(shape=survey.shape, shards=shards), indent=1).encode(),
    )
    return totals


def ranges(numbers: list[int]) -> str:
    """[1, 2, 3, 7] -> "1-3,7", as schedulers write arrays."""
    starts = [i for i, number in enumerate(numbers) if i == 0 or number != numbers[i - 1] + 1]
    runs = [(numbers[a], numbers[b - 1]) for a, b in zip(starts, [*starts[1:], len(numbers)])]
    return ",".join(f"{first}" if first == last else f"{first}-{last}" for first, last in runs)
