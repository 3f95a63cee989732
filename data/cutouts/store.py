"""The store: FITS files are read once into one flat array that training maps into memory.

    pixels.npy       float32 [N, H, W], physical values; row i belongs to row i of the index,
                     quarantined rows are zero
    index.parquet    path, object, band, domain, label, reason ("" = good, else why the file is quarantined)
    quarantine.csv   path, reason of the quarantined files
    metadata.parquet one row an object, where a catalogue was packed: data/cutouts/metadata.py
    manifest.json    version, counts, geometry, dtype, max_blank, what was seen in headers, crc32 of each
                     block, digests of inventory and index; written last

Packing goes block by block under partial_<digest>/, each durable before the next is begun: after kill -9 the
same command goes on where it was.
"""

import ctypes
import io
import json
import math
import os
import shutil
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from mmap import mmap
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from data.cutouts.blank import MAX_BLANK, check_max_blank
from data.cutouts.blocks import files_of_block, pack_block
from data.cutouts.pixel_scales import distinct_scales
from data.cutouts.source import Source
from data.packing import (
    MANIFEST,
    PackKind,
    content_digest,
    first_reasons,
    pack_once,
    parquet_bytes,
    publish_pack,
    quarantine_lines,
    statuses,
)
from data.workers import work_through
from utils.files import FULL, flush_to_disk, is_trouble, write_durably
from utils.messages import say
from utils.mistake import Mistake

VERSION = 2
STORES = PackKind(VERSION, "store", "the store {} is", "it is packed anew from the FITS files")
INDEX = "index.parquet"
METADATA = "metadata.parquet"
COLUMNS = ["path", "object", "band", "domain", "label"]
# a block is the memory of a worker, and what a kill can cost
BLOCK_ROWS = 1024
BLOCK_BYTES = 2**24


@dataclass(frozen=True, eq=False)
class Store:
    """A packed store, open for reading; cheap to send to another process, which maps the pixels anew."""

    directory: Path
    manifest: dict
    # one row an input file: path (of a FITS file the absolute one), object, band, domain, label, reason
    index: pd.DataFrame

    def __post_init__(self):
        _ = self.sound  # made now, so that processes forked later share it

    @cached_property
    def pixels(self) -> np.ndarray:
        """float32 [N, H, W], mapped read-only, physical values."""
        return np.load(self.directory / "pixels.npy", mmap_mode="r", allow_pickle=False)

    @cached_property
    def metadata(self) -> pd.DataFrame | None:
        """One row an object (data/cutouts/metadata.py); None where FITS files were packed that nothing more
        is known of.

        Raises: Mistake if it is damaged.
        """
        if "metadata" not in self.manifest:
            return None
        content = STORES.read_checked(self.directory, METADATA, self.manifest["metadata"])
        return pd.read_parquet(io.BytesIO(content))

    @cached_property
    def sound(self) -> np.ndarray:
        """[blocks] bool, those that agreed with their checksum;
        in memory that processes forked later share.
        """
        return np.frombuffer(mmap(-1, max(1, len(self.manifest["crc32"]))), dtype=bool)

    def read(self, rows: np.ndarray) -> np.ndarray:
        """float32 [*rows.shape, H, W], a copy; zeros for row -1.
        A block is compared with its checksum when it is first touched.

        Raises: Mistake that names the damaged rows.
        """
        blocks = rows // self.manifest["block"]
        if not (seen := self.sound[blocks] | (rows < 0)).all():
            for block in np.unique(blocks[~seen]).tolist():
                self._check(block)
        pixels = np.asarray(self.pixels)[rows]
        if (missing := rows < 0).any():
            pixels[missing] = 0
        return pixels

    @property
    def good(self) -> np.ndarray:
        """[N] bool, the rows that are not quarantined."""
        return (self.index["reason"] == "").to_numpy(dtype=bool)

    def summary(self, most: int = 3) -> list[str]:
        """Lines for the log: how many files, how many quarantined and why, the first of them by name."""
        files, quarantined = self.manifest["files"], self.manifest["quarantined"]
        lines = [f"{files:,} files in {self.directory}, {quarantined:,} of them quarantined (quarantine.csv)"]
        return lines + quarantine_lines(self.index[~self.good], most) + self.manifest.get("headers", [])

    @cached_property
    def pixel_scales(self) -> dict[float, int]:
        """arcsec: objects (or files that were looked at) whose pixels are so large, the commonest first;
        empty where nothing says it. Scales within 2 % of each other are one.
        """
        if self.metadata is not None and "pixel_scale" in self.metadata:
            known = pd.to_numeric(self.metadata["pixel_scale"], errors="coerce").dropna()
            return distinct_scales(Counter(float(f"{scale:.4g}") for scale in known if scale > 0))
        return {scale: count for scale, count in self.manifest.get("pixel_scales", [])}

    def verify(self) -> None:
        """Reads every block and compares its checksum. Raises: Mistake that names the first damaged rows."""
        for block in range(len(self.manifest["crc32"])):
            self._check(block)

    def _check(self, block: int) -> None:
        first = block * self.manifest["block"]
        content = np.asarray(self.pixels)[first : first + self.manifest["block"]]
        if zlib.crc32(content) != self.manifest["crc32"][block]:
            raise STORES.damaged(
                self.directory,
                f"rows {first} to {first + len(content) - 1} of pixels.npy differ from their checksum",
            )
        self.sound[block] = True

    def __getstate__(self) -> dict:
        # a pickled memmap would be all of its bytes
        return {name: value for name, value in self.__dict__.items() if name not in ("pixels", "sound")}


def inventory_digest(
    inventory: pd.DataFrame, shape: tuple[int, int] = (41, 41), max_blank: float = MAX_BLANK
) -> str:
    """What a store follows from: absolute paths, names, labels, sizes, times of change, geometry, and what
    counts as blank; one stat a file.
    """
    digest = blake2b(repr((VERSION, tuple(shape), max_blank)).encode(), digest_size=16)
    for first in range(0, len(inventory), 65536):
        part = inventory.iloc[first : first + 65536]
        paths = part["path"].tolist()
        rows = zip(
            map(os.path.abspath, paths), *(part[column].tolist() for column in COLUMNS[1:]), statuses(paths)
        )
        digest.update("\n".join(map(repr, rows)).encode())
    return digest.hexdigest()


def source_digest(source: Source, max_blank: float = MAX_BLANK) -> str:
    """What the store of a catalogue follows from: its recipe, rows and objects,
    sizes and times of change of its files.
    """
    files = source.index["path"].str.rsplit("#", n=1).str[0].unique().tolist()
    files += getattr(source, "read_from", [])  # where the paths of the index are not those that are read
    digest = blake2b(
        repr(
            (
                VERSION,
                source.shape,
                max_blank,
                json.dumps(source.recipe, sort_keys=True),
                files,
                statuses(files),
            )
        ).encode(),
        digest_size=16,
    )
    for table in (source.index[COLUMNS], source.metadata):
        if table is not None:  # shards of FITS files: nothing more is known of their objects
            digest.update(pd.util.hash_pandas_object(table, index=False).to_numpy().tobytes())
    return digest.hexdigest()


def store_directory(
    root: str | os.PathLike,
    inventory: pd.DataFrame,
    shape: tuple[int, int] = (41, 41),
    digest: str | None = None,
) -> Path:
    """The folder under `root` that belongs to an inventory:
    other files, or changed ones, are another store.
    """
    return Path(root) / f"cutouts_{(digest or inventory_digest(inventory, shape))[:16]}"


def open_store(directory: str | os.PathLike) -> Store:
    """An existing store, checked for being whole: sizes, geometry, index (the pixels themselves:
    `Store.verify`).

    Raises: Mistake if there is none, or it is damaged or of another version.
    """
    directory = Path(directory)
    manifest = STORES.open_manifest(directory)
    content = STORES.read_checked(directory, INDEX, manifest["index"])
    try:
        store = Store(directory, manifest, pd.read_parquet(io.BytesIO(content)))
        pixels = store.pixels
    except (OSError, ValueError) as error:
        if is_trouble(error):
            raise
        raise STORES.damaged(directory, str(error)) from error
    expected = len(store.index), *manifest["shape"]
    if pixels.shape != expected or pixels.dtype != np.dtype(manifest["dtype"]):
        raise STORES.damaged(
            directory, f"pixels.npy is {pixels.dtype} {pixels.shape}, not {manifest['dtype']} {expected}"
        )
    return store


def pack_cutouts(
    inventory: pd.DataFrame,
    directory: str | os.PathLike,
    shape: tuple[int, int] = (41, 41),
    workers: int = 1,
    digest: str | None = None,
    say: Callable[[str], None] = say,
    source: Source | None = None,
    max_blank: float = MAX_BLANK,
) -> Store:
    """Reads every file of an inventory into a store, or finds that done;
    interrupted anywhere, the same call goes on.

    inventory: of data/cutouts/buckets.py. shape: (H, W) that every file must have. workers: processes.
        digest: `inventory_digest`, if the caller has it. say: where lines for people go.
        source: who reads the images of the inventory, and knows their objects,
            where they are not a FITS file each.
    max_blank: share of the pixels that may have one value; beyond, an image shows no sky and is refused.
    Returns: the store, its index with the paths as spelled in `inventory`.
    Raises: Mistake if no file can be read, the disk is full, the folder cannot be written,
        or a worker is killed.
    """
    directory = Path(directory)
    digest = digest or inventory_digest(inventory, shape, max_blank)
    pack_once(
        STORES,
        directory,
        digest,
        pack=lambda: _pack(inventory, directory, tuple(shape), workers, digest, say, source, max_blank),
        what="the store",
        say=say,
        needed=f"{len(inventory) * math.prod(shape) * 4:,} bytes",
    )
    store = open_store(directory)
    as_spelled = inventory[COLUMNS].reset_index(drop=True)
    return Store(directory, store.manifest, as_spelled.assign(reason=store.index["reason"]))


def _pack(
    inventory: pd.DataFrame,
    directory: Path,
    shape: tuple,
    workers: int,
    digest: str,
    say: Callable[[str], None],
    source: Source | None,
    max_blank: float,
) -> None:
    check_max_blank(max_blank)
    lines, scales = _said_by_headers(inventory, shape, source)
    count = len(inventory)
    row_bytes = math.prod(shape) * 4
    rows = max(1, min(BLOCK_ROWS, BLOCK_BYTES // row_bytes))
    # Named by what determines every block: what an orphaned worker of a killed attempt still writes is the
    # same.
    partial = directory / f"partial_{digest[:16]}_{rows}"
    offset = _prepare_pixels(partial / "pixels.npy", (count, *shape))
    records = [partial / f"block_{first // rows:07d}.json" for first in range(0, count, rows)]
    done = {path.name for path in partial.glob("block_*.json")}
    missing = [block for block, record in enumerate(records) if record.name not in done]
    left = sum(min(rows, count - block * rows) for block in missing)
    _check_room(directory, left * row_bytes)
    say(f"packing {left:,} of {count:,} files into {directory}")

    def jobs() -> Iterator[dict]:
        for block in missing:
            first = block * rows
            paths = inventory["path"].iloc[first : first + rows].tolist()
            yield {
                "record": str(records[block]),
                "pixels": str(partial / "pixels.npy"),
                "offset": offset + first * row_bytes,
                "first": first,
                "count": len(paths),
                "shape": list(shape),
                "max_blank": max_blank,
                "source": source.recipe if source else paths,
            }

    with tqdm(total=count, initial=count - left, unit="file", desc="packing", disable=None) as bar:
        for job in work_through(pack_block, jobs(), max(1, min(workers, len(missing))), files_of_block):
            bar.update(job["count"])
    manifest = {
        "version": VERSION,
        "files": count,
        "shape": list(shape),
        "dtype": "<f4",
        "block": rows,
        "inventory": digest,
        "max_blank": max_blank,
        "headers": lines,
        "pixel_scales": scales,
    }
    _finish(
        inventory,
        partial,
        [json.loads(record.read_bytes()) for record in records],
        manifest,
        source.metadata if source else None,
    )


def _said_by_headers(
    inventory: pd.DataFrame, shape: tuple[int, int], source: Source | None
) -> tuple[list[str], list[list[float]]]:
    """Lines on what the headers of some files say, and their pixel scales [[arcsec, files]].

    Raises: Mistake where all of these files have other pixels than `shape`.
    """
    if source is not None:
        look = getattr(source, "said_by_headers", None)
        return look() if look else ([], [])
    # when it is needed: astropy's coordinates take a second to import, in every process that opens a store
    from data.catalogues.headers import look_at_headers, refuse_geometry

    headers = look_at_headers(inventory["path"].tolist(), inventory["band"].tolist())
    refuse_geometry(headers, shape)
    return headers.lines(), headers.scales_said()


def _prepare_pixels(path: Path, shape: tuple) -> int:
    """An array file of the right size with holes for pixels, made or found from before;
    the byte of its first row.
    """
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": shape})
    if not (path.exists() and path.stat().st_size == header.tell() + math.prod(shape) * 4):
        shutil.rmtree(path.parent, ignore_errors=True)  # records without their pixels
        path.parent.mkdir(parents=True)
        with open(path, "wb") as file:
            file.write(header.getvalue())
            _reserve(file.fileno(), header.tell() + math.prod(shape) * 4)
            flush_to_disk(file)
    return header.tell()


def _reserve(file: int, size: int) -> None:
    """Make a file so large, its room set aside on the disk where the file system can:
    then blocks are written in less time.

    By the system call itself: where it is not supported os.posix_fallocate writes all of the file instead.
    """
    os.truncate(file, size)
    libc = ctypes.CDLL(None, use_errno=True)
    if (
        hasattr(libc, "fallocate")
        and libc.fallocate(file, 0, ctypes.c_int64(0), ctypes.c_int64(size))
        and ctypes.get_errno() in FULL
    ):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _check_room(directory: Path, needed: int) -> None:
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise Mistake(
            f"{str(directory)!r} has {free:,} bytes free, the store needs {needed:,} more: make room or "
            "choose another folder"
        )


def _finish(
    inventory: pd.DataFrame,
    partial: Path,
    records: list[dict],
    manifest: dict,
    metadata: pd.DataFrame | None,
) -> None:
    reasons = np.full(len(inventory), "", dtype=object)
    for record in records:
        for row, reason in record["bad"].items():
            reasons[int(row)] = reason
    index = inventory[COLUMNS].reset_index(drop=True).assign(reason=pd.array(reasons, dtype="str"))
    # FITS files: what is known of their objects lies beside them, and the store may be opened from elsewhere
    if metadata is None:
        index["path"] = [os.path.abspath(path) for path in index["path"]]
    bad = index.loc[index["reason"] != "", ["path", "reason"]]
    if len(bad) == len(index):
        geometry = "x".join(map(str, manifest["shape"]))
        raise Mistake(
            f"none of {len(index):,} files can be used: {first_reasons(bad)}; expected FITS cutouts of "
            f"{geometry} pixels"
        )
    contents = {INDEX: parquet_bytes(index), "quarantine.csv": bad.to_csv(index=False).encode()}
    manifest |= {
        "good": len(index) - len(bad),
        "quarantined": len(bad),
        "index": content_digest(contents[INDEX]),
        "crc32": [record["crc32"] for record in records],
    }
    if metadata is not None:
        contents[METADATA] = parquet_bytes(metadata)
        manifest["metadata"] = content_digest(contents[METADATA])
    for name, content in contents.items():
        write_durably(partial / name, content)
    names = [*contents, "pixels.npy"]
    # without them the folder holds no store until the new one is whole
    publish_pack(partial, names, manifest, outdated=(MANIFEST, METADATA))
