"""A store as WebDataset shards and back: tar files that other codes read,
from which the same store is made to the last bit.

    shard-000000.tar     samples, one an object: <number>.json (data/tar_shards/records.py) and <number>.npy,
                         float32 [C, H, W], physical units
    samples.parquet      one row a sample: object, domain, label, good (its good bands, a JSON list);
                         for choosing without reading shards
    manifest.json        counts, geometry, column types, size and sha256 of each file; written last

The same store gives the same bytes. Writing goes shard by shard under partial_<digest>/, each durable before
it is called done: after kill -9 the same command goes on where it was. Quarantined images are written too, as
zeros with their reason.

Shards of others: `open_source` takes any tar files of .npy, .json and .cls, .label or .txt members
(data/tar_shards/source.py).
"""

import io
import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b, sha256
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data.cutouts import store as stores
from data.packing import locked_for_writing, parquet_bytes, publish_pack, remove_partials
from data.tar_shards.manifest import FORMAT, VERSION, open_manifest
from data.tar_shards.records import json_values
from data.tar_shards.tar import ending, header, padding
from utils.files import flush_to_disk, write_durably
from utils.messages import say
from utils.mistake import Mistake

PART_BYTES = 2**24  # of images that a thread holds at once


@dataclass(frozen=True, eq=False)
class Plan:
    """Which images and which row of the metadata are of which sample."""

    store: stores.Store
    per_shard: int
    rows: np.ndarray  # [N] rows of the index, those of a sample side by side
    cuts: np.ndarray  # [samples + 1] where in `rows` each sample begins
    metadata_row: np.ndarray  # [samples], -1: nothing is known
    digest: str  # of all that follows from it

    def __len__(self) -> int:
        return len(self.cuts) - 1

    def shard(self, number: int) -> range:
        return range(number * self.per_shard, min((number + 1) * self.per_shard, len(self)))


def write_shards(
    store: stores.Store,
    directory: str | os.PathLike,
    per_shard: int = 10_000,
    workers: int = 1,
    say: Callable[[str], None] = say,
) -> dict[str, Any]:
    """Write the objects of a store as shards, or find that done; interrupted anywhere, the same call goes on.

    per_shard: objects a shard. workers: threads. say: where lines for people go. Returns: the manifest.
    Raises: Mistake if the store is damaged, the folder holds other shards or cannot be written,
        or the disk is full.
    """
    if per_shard < 1:
        raise Mistake(f"per_shard {per_shard}: expected at least 1 object a shard")
    directory = Path(directory)
    plan = _plan(store, per_shard)
    # locked also where all is done: only who looks at every shard knows that it is
    with locked_for_writing(directory, "shards", say, "writing"):
        return _write(plan, directory, max(1, workers), say)


def _plan(store: stores.Store, per_shard: int) -> Plan:
    index, table = store.index, store.metadata
    number = index.groupby(["domain", "label", "object"], sort=False, dropna=False).ngroup().to_numpy()
    rows = np.argsort(number, kind="stable")
    first = np.flatnonzero(np.diff(number[rows], prepend=-1))
    metadata_row = np.full(len(first), -1)
    if table is not None:
        json_values(table["object"])
        sample = index.iloc[rows[first]]
        metadata_row = _first_match(table["object"], sample["object"])
        # ids are unique in a catalogue alone
        if "source_catalog" in table and table["object"].duplicated().any():
            pairs = (table["source_catalog"], table["object"]), (sample["domain"], sample["object"])
            exact = _first_match(*(pd.MultiIndex.from_arrays(columns) for columns in pairs))
            metadata_row = np.where(exact >= 0, exact, metadata_row)
    packed = [store.manifest.get(key) for key in ("shape", "dtype", "block", "crc32", "metadata")]
    digest = blake2b(repr((VERSION, per_shard, packed)).encode(), digest_size=16)
    digest.update(pd.util.hash_pandas_object(index, index=False).to_numpy().tobytes())
    return Plan(store, per_shard, rows, np.append(first, len(rows)), metadata_row, digest.hexdigest())


def _first_match(there, wanted) -> np.ndarray:
    """[wanted] the first place of each among `there`, -1 where it is not."""
    unique = ~pd.Index(there).duplicated()
    found = pd.Index(there)[unique].get_indexer(pd.Index(wanted))
    return np.where(found >= 0, np.flatnonzero(unique)[found], -1)


def _write(plan: Plan, directory: Path, workers: int, say: Callable[[str], None]) -> dict[str, Any]:
    before = open_manifest(directory)
    if before and before["digest"] != plan.digest:
        raise Mistake(
            f"{str(directory)!r} holds the shards of another store, or others of this: choose another "
            "folder, or remove it"
        )
    partial = directory / f"partial_{plan.digest[:16]}"
    names = [f"shard-{number:06d}.tar" for number in range(-(-len(plan) // plan.per_shard))]
    records = (
        {record["name"]: record for record in before["shards"]}
        if before
        else {
            record["name"]: record
            for record in (json.loads(path.read_bytes()) for path in partial.glob("shard-*.json"))
        }
    )
    if strays := sorted({path.name for path in directory.glob("shard-*.tar")} - records.keys()):
        raise Mistake(
            f"{str(directory)!r} holds {strays[0]}, which is not of this store: choose another folder, or "
            "remove it"
        )
    remove_partials(directory, but=partial)

    def whole(name: str) -> bool:
        return any(
            path.is_file() and path.stat().st_size == records[name]["size"]
            for path in (directory / name, partial / name)
        )

    missing = [number for number, name in enumerate(names) if name not in records or not whole(name)]
    if before and not missing and (directory / "samples.parquet").exists():
        return before
    partial.mkdir(exist_ok=True)
    say(f"writing {len(missing):,} of {len(names):,} shards, {len(plan):,} objects, into {directory}")
    # threads, not processes: reading, hashing and writing need no interpreter, and all share the metadata
    with ThreadPoolExecutor(workers) as threads:
        try:
            for record in threads.map(
                lambda number: _write_shard(plan, number, partial / names[number]), missing
            ):
                records[record["name"]] = record
        except BaseException:
            threads.shutdown(cancel_futures=True)
            raise
    table = parquet_bytes(_samples(plan))
    write_durably(partial / "samples.parquet", table)
    manifest = _manifest(plan, [records[name] for name in names], table)
    there = [name for name in (*names, "samples.parquet") if (partial / name).exists()]
    publish_pack(partial, there, manifest)
    return manifest


def _write_shard(plan: Plan, number: int, path: Path) -> dict[str, Any]:
    """Writes a shard, then the record that says that it is on disk."""
    samples = plan.shard(number)
    digest = sha256()
    size = 0
    rows = plan.rows[plan.cuts[samples.start] : plan.cuts[samples.stop]]
    row_bytes = int(np.prod(plan.store.manifest["shape"])) * 4
    at_once = max(1, PART_BYTES * len(samples) // (len(rows) * row_bytes))
    with open(f"{path}.tmp", "wb") as file:
        for first in range(samples.start, samples.stop, at_once):
            content = b"".join(_pieces(plan, range(first, min(first + at_once, samples.stop))))
            digest.update(content)
            size += file.write(content)
        digest.update(ending(size))
        size += file.write(ending(size))
        flush_to_disk(file)
    os.replace(f"{path}.tmp", path)
    record = dict(
        name=path.name,
        samples=len(samples),
        images=len(rows),
        rows=[int(rows.min()), int(rows.max())],
        size=size,
        sha256=digest.hexdigest(),
    )
    write_durably(path.with_suffix(".json"), json.dumps(record).encode())
    return record


def _pieces(plan: Plan, samples: range) -> Iterator[bytes]:
    """The bytes of some samples, header by header and content by content."""
    cuts = plan.cuts[samples.start : samples.stop + 1]
    rows = plan.rows[cuts[0] : cuts[-1]]
    cuts = (cuts - cuts[0]).tolist()
    images = np.ascontiguousarray(plan.store.read(rows), dtype="<f4")
    index = {name: plan.store.index[name].iloc[rows].tolist() for name in (*stores.COLUMNS, "reason")}
    metadata_rows = plan.metadata_row[samples.start : samples.stop].tolist()
    known = _metadata_records(plan.store.metadata, [row for row in metadata_rows if row >= 0])
    numbers = rows.tolist()
    for number, metadata_row, first, last in zip(samples, metadata_rows, cuts, cuts[1:]):
        record = dict(
            object=index["object"][first],
            domain=index["domain"][first],
            label=index["label"][first],
            bands=index["band"][first:last],
            paths=index["path"][first:last],
            reasons=index["reason"][first:last],
            rows=numbers[first:last],
        )
        if metadata_row >= 0:
            record |= dict(metadata=next(known), metadata_row=metadata_row)
        npy = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            npy, {"descr": "<f4", "fortran_order": False, "shape": images[first:last].shape}
        )
        text = json.dumps(record, allow_nan=False, separators=(",", ":")).encode()
        size = npy.tell() + images[first:last].nbytes
        yield from (header(f"{number:09d}.json", len(text)), text, padding(len(text)))
        yield from (
            header(f"{number:09d}.npy", size),
            npy.getvalue(),
            images[first:last].tobytes(),
            padding(size),
        )


def _metadata_records(table: pd.DataFrame | None, rows: list[int]) -> Iterator[dict[str, Any]]:
    if rows:
        part = table.iloc[rows]
        for values in zip(*(json_values(part[name]) for name in part)):
            yield dict(zip(part.columns, values))


def _samples(plan: Plan) -> pd.DataFrame:
    index = plan.store.index
    texts = {}
    good = []
    bands = index["band"].to_numpy(dtype=object)[plan.rows]
    sound = plan.store.good[plan.rows]
    cuts = plan.cuts.tolist()
    for first, last in zip(cuts, cuts[1:]):
        those = tuple(bands[first:last][sound[first:last]])
        good.append(texts.setdefault(those, json.dumps(those)))
    return (
        index[["object", "domain", "label"]]
        .iloc[plan.rows[plan.cuts[:-1]]]
        .reset_index(drop=True)
        .assign(good=pd.array(good, dtype="str"))
    )


def _manifest(plan: Plan, shards: list[dict], table: bytes) -> dict[str, Any]:
    index, metadata = plan.store.index, plan.store.metadata
    known = None
    if metadata is not None:
        rest = np.setdiff1d(np.arange(len(metadata)), plan.metadata_row).tolist()
        known = dict(
            dtypes={name: str(metadata[name].dtype) for name in metadata},
            rows=len(metadata),
            without_images=dict(zip(map(str, rest), _metadata_records(metadata, rest))),
        )
    return dict(
        format=FORMAT,
        version=VERSION,
        digest=plan.digest,
        samples=len(plan),
        images=len(index),
        shape=list(plan.store.manifest["shape"]),
        dtypes={name: str(index[name].dtype) for name in stores.COLUMNS},
        metadata=known,
        table=dict(size=len(table), sha256=sha256(table).hexdigest()),
        shards=shards,
    )
