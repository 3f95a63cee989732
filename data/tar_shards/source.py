"""Tar shards as a source of images (data/cutouts/source.py): those of data/tar_shards/writer.py,
from which the same store is made again, and any others.

Shards of others are read by these rules. A sample is a run of members of one key; of each sample

    .npy                     the image: [H, W] or [C, H, W] (or [H, W, C], channels="last")
                             of any real numbers, stored as float32
    .cls, .label, .txt       the label, a whole number: 1 lens, 0 none, -1 unknown; the first that is there;
                             labelled=False: not asked
    .json                    object, domain, label, bands (a list, or one text), and numbers or texts for the
                             metadata: of a field of data/cutouts/metadata.py under its name,
                                 else as tar_shards_<name>; lists and objects in it are passed over

and what is missing is: object the key, domain `domain`, label -1, bands `bands`, else "" for one channel,
"0", "1", ... for many. Other members are passed over, pickles refused. Images of another size than the first,
and those with pixels that are not finite, are quarantined.
"""

import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from hashlib import file_digest
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import pandas as pd

from data.cutouts.metadata import field_of
from data.cutouts.store import COLUMNS
from data.listing import files_of_folder
from data.tar_shards.manifest import open_manifest
from data.tar_shards.members import (
    HEAD,
    MOST_JSON,
    MOST_TEXT,
    Layout,
    integer,
    is_pickle,
    npy_layout,
    npy_planes,
    strict_json,
)
from data.tar_shards.records import checked_record, column_of
from data.tar_shards.tar import Member, clean, open_plain, refused, samples
from utils.mistake import Mistake

LABELS = ("cls", "label", "txt")
PREFIX = "tar_shards_"
MOST_COLUMNS = 1000


class Images(NamedTuple):
    """The images of a shard, in its order."""

    row: np.ndarray  # [n] of the index
    channel: np.ndarray  # [n] of its npy member
    member: np.ndarray  # [n] which of these that is:
    start: np.ndarray  # [members] byte of the file
    size: np.ndarray  # [members] bytes
    layout: list[Layout]  # [members], equal ones the same object
    reasons: dict[int, str]  # {row: why the image cannot be used}


class TarShards:
    """A source of the images in tar shards: catalogue and headers are read first, pixels by `read`."""

    def __init__(
        self,
        directory: str,
        bands: Sequence[str] = (),
        channels: str = "first",
        labelled: bool = True,
        domain: str = "tar_shards",
    ):
        if channels not in ("first", "last"):
            raise Mistake(f"channels {channels!r}: expected first or last")
        self.paths = tar_paths(directory)
        self.manifest = open_manifest(Path(directory)) if os.path.isdir(directory) else None
        self.recipe = dict(
            kind="tar_shards",
            directory=os.path.abspath(directory),
            bands=list(bands),
            channels=channels,
            labelled=labelled,
            domain=domain,
        )
        self.images: dict[int, Images] = {}  # of the shards that were looked into
        if self.manifest:
            self.paths = [os.path.join(directory, shard["name"]) for shard in self.manifest["shards"]]
            self.shape = tuple(self.manifest["shape"])
            self.spans = [shard["rows"] for shard in self.manifest["shards"]]
        else:
            self.shape = ()
            self.spans = []
            _ = self.tables  # how many images each shard has is not known before

    @property
    def index(self) -> pd.DataFrame:
        return self.tables[0]

    @property
    def metadata(self) -> pd.DataFrame | None:
        """One row an object; None where the store that was written had none."""
        return self.tables[1]

    def read(self, rows: range) -> tuple[np.ndarray, dict[int, str]]:
        """(float32 [n, H, W], {row: reason} of those that cannot be used, zero there). Raises:
        OSError, Mistake for a damaged shard.
        """
        pixels = np.zeros((len(rows), *self.shape), dtype=np.float32)
        bad = {}
        for shard, (first, last) in enumerate(self.spans):
            if first >= rows.stop or last < rows.start:
                continue
            if shard not in self.images:
                for _ in self._records(shard):
                    pass  # notes where they are
            images = self.images[shard]
            chosen = np.flatnonzero((images.row >= rows.start) & (images.row < rows.stop))
            bad |= {row: images.reasons[row] for row in images.row[chosen].tolist() if row in images.reasons}
            with open_plain(self.paths[shard]) as file:
                for part in (
                    np.split(chosen, np.flatnonzero(np.diff(images.member[chosen])) + 1)
                    if len(chosen)
                    else []
                ):
                    member = images.member[part[0]]
                    content = os.pread(file.fileno(), images.size[member], images.start[member])
                    if len(content) < images.size[member]:
                        raise Mistake(f"{self.paths[shard]}: became shorter while it was read: copy it again")
                    planes = npy_planes(content, images.layout[member], self.recipe["channels"] == "last")
                    if planes.shape[1:] == self.shape:
                        # a double beyond float32 becomes an infinity, refused below
                        with np.errstate(over="ignore"):
                            pixels[images.row[part] - rows.start] = planes[images.channel[part]]
        for number in np.flatnonzero(~np.isfinite(pixels).all((1, 2))).tolist():
            bad[rows[number]] = (
                f"{int((~np.isfinite(pixels[number])).sum())} of {pixels[number].size} pixels are not finite"
            )
        for row in bad:
            pixels[row - rows.start] = 0
        return pixels, bad

    @cached_property
    def tables(self) -> tuple[pd.DataFrame, pd.DataFrame | None]:
        """(index, metadata), from the JSON of all shards."""
        return self._our_tables() if self.manifest else self._foreign_tables()

    def _our_tables(self) -> tuple[pd.DataFrame, pd.DataFrame | None]:
        manifest = self.manifest
        known = self.manifest["metadata"]
        where = str(Path(self.paths[0]).parent)
        met = np.zeros(manifest["images"], dtype=np.int64)
        columns = {
            name: np.empty(manifest["images"], dtype=np.int8 if name == "label" else object)
            for name in COLUMNS
        }
        objects: dict[int, dict] = (
            {int(row): values for row, values in known["without_images"].items()} if known else {}
        )
        for shard in range(len(self.paths)):
            for record in self._records(shard):
                rows = record["rows"]
                met[rows] += 1
                for name, values in (("path", record["paths"]), ("band", record["bands"])):
                    columns[name][rows] = values
                for name in ("object", "domain", "label"):
                    columns[name][rows] = record[name]
                if known and "metadata_row" in record:
                    objects[record["metadata_row"]] = record["metadata"]
        if not (met == 1).all():
            raise Mistake(
                f"{where}: row {np.flatnonzero(met != 1)[0]} is there {met[met != 1][0]} times, expected "
                "once: shards of two stores"
            )
        index = pd.DataFrame(
            {
                name: column_of(
                    list(columns[name]) if name != "label" else columns[name].tolist(), dtype, name, where
                )
                for name, dtype in manifest["dtypes"].items()
            }
        )[COLUMNS]
        if not known:
            return index, None
        if objects.keys() != set(range(known["rows"])) or any(
            row.keys() != known["dtypes"].keys() for row in objects.values()
        ):
            raise Mistake(
                f"{where}: the metadata of {known['rows']:,} objects are not all there, or have other "
                "columns than manifest.json says"
            )
        return index, pd.DataFrame(
            {
                name: column_of([objects[row][name] for row in range(known["rows"])], dtype, name, where)
                for name, dtype in known["dtypes"].items()
            }
        )

    def _foreign_tables(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        columns = {name: [] for name in COLUMNS}
        objects = {}
        for shard in range(len(self.paths)):
            self.spans.append([len(columns["path"]), -1])
            for record in self._records(shard, len(columns["path"])):
                count = len(record["bands"])
                identity = (record["domain"], record["object"])
                for name, values in zip(
                    COLUMNS,
                    (
                        record["paths"],
                        [record["object"]] * count,
                        record["bands"],
                        [record["domain"]] * count,
                        [record["label"]] * count,
                    ),
                ):
                    columns[name] += values
                if identity in objects:
                    raise Mistake(
                        f"{self.paths[shard]}: object {clean(record['object'])} was there before: expected "
                        "each object once"
                    )
                objects[identity] = (
                    dict(
                        object=record["object"],
                        source_catalog=record["domain"],
                        bands=" ".join(filter(None, record["bands"])),
                    )
                    | record["metadata"]
                )
            self.spans[-1][1] = len(columns["path"]) - 1
        if not objects:
            raise Mistake(
                f"{self.paths[0]}: {len(self.paths)} tar files without a sample: expected .npy members"
            )
        index = pd.DataFrame({name: values for name, values in columns.items()}).astype(
            {name: "str" for name in COLUMNS if name != "label"}
        )
        return index.astype({"label": "int8"}), _table(list(objects.values()))

    def _records(self, shard: int, row: int = 0) -> Iterator[dict[str, Any]]:
        """What is said of each sample of a shard (data/tar_shards/records.py), in order;
        afterwards `images` has where its pixels are.
        """
        path = self.paths[shard]
        rows = []
        channels = []
        members = []
        starts = []
        sizes = []
        layouts = []
        reasons = {}
        with open_plain(path) as file:
            size = os.fstat(file.fileno()).st_size
            if self.manifest:
                told = self.manifest["shards"][shard]
                if size != told["size"] or file_digest(file, "sha256").hexdigest() != told["sha256"]:
                    raise Mistake(
                        f"{path}: {size:,} bytes that are not those of manifest.json ({told['size']:,}, by "
                        "sha256): copy it again"
                    )
            for key, parts in samples(file, size, path):
                member = _image_member(file, key, parts, path)
                layout = npy_layout(head(file, member, HEAD), member.size, path, member.name)
                record = (
                    self._our_record(file, key, parts, layout, path)
                    if self.manifest
                    else self._foreign_record(file, key, parts, layout, path, row)
                )
                rows += record["rows"]
                row += len(record["rows"])
                channels += range(len(record["rows"]))
                members += [len(starts)] * len(record["rows"])
                reasons |= {
                    image: reason for image, reason in zip(record["rows"], record["reasons"]) if reason
                }
                starts.append(member.start)
                sizes.append(member.size)
                layouts.append(layout)
                yield record
        self.images[shard] = Images(
            *map(np.array, (rows, channels, members, starts, sizes)), layouts, reasons
        )
        if self.manifest and (
            len(rows) != told["images"]
            or len(starts) != told["samples"]
            or [min(rows), max(rows)] != told["rows"]
        ):
            raise Mistake(
                f"{path}: has {len(starts):,} samples of {len(rows):,} images, not those of manifest.json: "
                "copy both again"
            )

    def _our_record(
        self, file: BinaryIO, key: str, parts: dict[str, Member], layout: Layout, path: str
    ) -> dict[str, Any]:
        if "json" not in parts:
            raise refused(path, key, "has no .json: expected one in each sample of these shards")
        member = parts["json"]
        if (
            layout.dtype != np.dtype("<f4")
            or layout.fortran
            or len(layout.shape) != 3
            or layout.shape[1:] != self.shape
        ):
            raise refused(
                path,
                key,
                f"is {layout.dtype} {list(layout.shape)}: expected float32 [C, {self.shape[0]}, "
                f"{self.shape[1]}]",
            )
        record = strict_json(head(file, member, MOST_JSON + 1), path, member.name)
        return checked_record(
            record, self.manifest["images"], layout.shape[0], f"{path}: member {member.name}"
        )

    def _foreign_record(
        self, file: BinaryIO, key: str, parts: dict[str, Member], layout: Layout, path: str, row: int
    ) -> dict[str, Any]:
        sides = layout.shape if len(layout.shape) == 3 else (1, *layout.shape)
        count, *shape = (
            (sides[-1], *sides[:-1])
            if self.recipe["channels"] == "last" and len(layout.shape) == 3
            else sides
        )
        self.shape = self.shape or tuple(shape)
        reason = (
            ""
            if tuple(shape) == self.shape
            else f"is {shape[0]}x{shape[1]}, expected {self.shape[0]}x{self.shape[1]}"
        )
        told = {}
        where = f"{path}: sample {clean(key)}"
        if "json" in parts:
            told = strict_json(head(file, parts["json"], MOST_JSON + 1), path, parts["json"].name)
            if not isinstance(told, dict):
                raise refused(
                    path, parts["json"].name, "is a list or a single value: expected an object of JSON"
                )
        label = told.pop("label", -1) if self.recipe["labelled"] else -1
        suffix = next((suffix for suffix in LABELS if suffix in parts), None)
        if suffix and (self.recipe["labelled"] or suffix != "txt"):
            number = integer(head(file, parts[suffix], MOST_TEXT + 1), path, parts[suffix].name)
            label, told = (number, told) if self.recipe["labelled"] else (-1, told | {"cls": number})
        if label not in (0, 1, -1):
            raise Mistake(
                f"{where}: label is {str(label)[:40]!r}: expected 1, 0 or -1; labelled=False keeps classes "
                f"as {PREFIX}cls or {PREFIX}label"
            )
        bands = told.pop(
            "bands",
            list(self.recipe["bands"]) or ([""] if count == 1 else [str(number) for number in range(count)]),
        )
        bands = (
            bands.split()
            if isinstance(bands, str) and " " in bands
            else list(bands)
            if isinstance(bands, str) and len(bands) == count
            else bands
        )
        record = dict(
            object=str(told.pop("object", key)),
            domain=told.pop("domain", self.recipe["domain"]),
            label=int(label),
            bands=[bands] if isinstance(bands, str) else bands,
            paths=[f"{os.path.basename(path)}#{key}"] * count,
            reasons=[reason] * count,
            rows=list(range(row, row + count)),
        )
        flat = {
            name: value
            for name, value in told.items()
            if value is None or isinstance(value, (int, float, str))
        }
        known = {name if field_of(name) else PREFIX + name: value for name, value in flat.items()}
        return checked_record(record, row + count, count, where) | {"metadata": known}


def open_source(**options: Any) -> TarShards:
    """The source of a folder of shards, or of one: options of TarShards. Raises:
    Mistake for what is not safe, whole and as expected.
    """
    return TarShards(**options)


def tar_paths(directory: str) -> list[str]:
    """The tar files of a folder in the order of their names, or the one file given. Raises: Mistake."""
    if not os.path.isdir(directory):
        open_plain(directory).close()
        return [directory]
    paths = files_of_folder(directory, (".tar",)).paths
    if not paths:
        raise Mistake(f"{directory}: holds no .tar file: expected shards")
    return paths


def head(file: BinaryIO, member: Member, most: int) -> bytes:
    """The first bytes of a member, at most so many."""
    file.seek(member.start)
    return file.read(min(member.size, most))


def _image_member(file: BinaryIO, key: str, parts: dict[str, Member], path: str) -> Member:
    arrays = [suffix for suffix in parts if suffix == "npy" or suffix.endswith(".npy")]
    for suffix in parts.keys() - set(arrays) - {"json", *LABELS}:
        if is_pickle(head(file, parts[suffix], 2)):
            raise refused(
                path,
                parts[suffix].name,
                "is a pickle, which can run any program: expected npy, json and text",
            )
    if "npy" not in parts and len(arrays) != 1:
        raise refused(
            path,
            key,
            f"has {len(arrays) or 'no'} .npy members ({', '.join(sorted(parts))[:80]}): expected one, or one "
            "named just .npy",
        )
    return parts["npy" if "npy" in parts else arrays[0]]


def _table(objects: list[dict[str, Any]]) -> pd.DataFrame:
    """One row an object; a column is of numbers where all that is there is one, else of text. Raises:
    Mistake for too many columns.
    """
    names = list(dict.fromkeys(name for values in objects for name in values))
    if len(names) > MOST_COLUMNS:
        raise Mistake(
            f"the JSON of the samples has {len(names):,} different fields: expected at most "
            f"{MOST_COLUMNS:,}; leave them out of it"
        )
    columns = {}
    for name in names:
        values = [values.get(name) for values in objects]
        if all(value is None or type(value) in (int, float) for value in values):
            columns[name] = np.array(
                [np.nan if value is None else value for value in values], dtype=np.float64
            )
        else:
            columns[name] = pd.array(["" if value is None else str(value) for value in values], dtype="str")
    return pd.DataFrame(columns)
