"""Tar shards as a source of images (data/cutouts/source.py): those of data/tar_shards/writer.py,
from which the same store is made again, and any others, by the rules of data/tar_shards/foreign.py.

A table of labels may be laid over either (data/tar_shards/labels.py).
"""

import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from hashlib import file_digest
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import pandas as pd

from data.cutouts.fits import BadFile
from data.cutouts.store import COLUMNS
from data.formats import Format
from data.listing import files_of_folder
from data.pictures import Picture, picture_planes
from data.tar_shards.foreign import ForeignSamples, head, metadata_table
from data.tar_shards.labels import with_labels
from data.tar_shards.manifest import open_manifest
from data.tar_shards.members import HEAD, MOST_JSON, Layout, npy_layout, npy_planes, strict_json
from data.tar_shards.records import checked_record, column_of
from data.tar_shards.tar import Member, clean, open_plain, refused, samples
from utils.messages import first_of
from utils.mistake import Mistake

PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst", ".zip")
FORMATS = [
    Format(
        "Starloop shards",
        "convert.py shards --from FOLDER; a manifest.json of ours beside shard-000000.tar ...",
        "the store that was written, to the bit: pixels, index, metadata, quarantine; --labels lays a "
        "table over it",
        "a shard that differs from its checksum, samples that are not all there; --bands, --channels and "
        "the like, which the shards say themselves",
    ),
    Format(
        "WebDataset tar files of others",
        "convert.py shards --from FOLDER; *.tar of samples <key>.<suffix>, in folders or not",
        "<key>.npy as [H, W], [C, H, W] or [H, W, C] (--channels; auto goes by the shape and says it), "
        "else .png or .jpg; labels 1, 0, -1 of .cls, .label, .txt or .json, or a table (--labels); object, "
        "bands, domain and metadata of .json; keys that come again in another file become <file>/<key>",
        "packed tar files, links, names that leave the folder, pickles, .npz, two images in a sample, a "
        "shape that may be either order; other members are counted by suffix",
    ),
]


class Images(NamedTuple):
    """The images of a shard, in its order."""

    row: np.ndarray  # [n] of the index
    channel: np.ndarray  # [n] of its npy member
    member: np.ndarray  # [n] which of these that is:
    start: np.ndarray  # [members] byte of the file
    size: np.ndarray  # [members] bytes
    layout: list[Layout | Picture | None]  # [members], equal ones the same object; None: not readable
    reasons: dict[int, str]  # {row: why the image cannot be used}


class TarShards:
    """A source of the images in tar shards: catalogue and headers are read first, pixels by `read`."""

    def __init__(
        self,
        directory: str,
        bands: Sequence[str] = (),
        channels: str = "auto",
        labelled: bool = True,
        domain: str = "tar_shards",
        labels: str = "",
        id_column: str = "",
    ):
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
        if labels or id_column:
            self.recipe |= dict(labels=labels and os.path.abspath(labels), id_column=id_column)
        self.foreign = ForeignSamples(bands, channels, labelled, domain, "" if labels else id_column)
        self.images: dict[int, Images] = {}  # of the shards that were looked into
        self.notes: list[str] = []
        if self.manifest:
            # "first" as it was before there was "auto": the digest of a store stays
            self.recipe["channels"] = "first" if channels == "auto" else channels
            usual = dict(bands=[], channels="first", labelled=True, domain="tar_shards")
            usual |= {} if labels else dict(id_column="")
            if given := [name for name, value in usual.items() if self.recipe.get(name, "") != value]:
                raise Mistake(
                    f"--{given[0]}: {directory!r} holds shards of ours, which say it themselves: leave it "
                    "out (--labels can be given)"
                )
            self.paths = [os.path.join(directory, shard["name"]) for shard in self.manifest["shards"]]
            self.shape = tuple(self.manifest["shape"])
            self.spans = [shard["rows"] for shard in self.manifest["shards"]]
        else:
            self.shape = ()
            self.spans = []
            if packed := _packed_beside(directory):
                self.notes.append(
                    f"packed tar files, not read: {len(packed):,} ({first_of(packed)}): unpack them"
                )
            _ = self.tables  # how many images each shard has is not known before
            self.shape = self.foreign.shape

    @property
    def read_from(self) -> list[str]:
        """The files themselves, where no checksum in a manifest stands for them: the paths of the index are
        those of samples.
        """
        return [] if self.manifest else self.paths

    @property
    def report(self) -> list[str]:
        """Lines for the log."""
        _ = self.tables
        return self.notes

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
                    try:
                        planes = member_planes(content, images.layout[member])
                    except BadFile as error:
                        bad |= {row: str(error) for row in images.row[part].tolist() if row not in bad}
                        continue
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
        """(index, metadata), from the JSON of all shards, and the table of labels."""
        index, metadata = self._our_tables() if self.manifest else self._foreign_tables()
        if labels := self.recipe.get("labels"):
            index, metadata, lines = with_labels(index, metadata, labels, self.recipe["id_column"])
            self.notes += lines
        return index, metadata

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
        columns: dict[str, list] = {name: [] for name in ("path", "band", "label")}
        objects: list[dict[str, Any]] = []
        counts: list[int] = []  # images of each sample
        shard_of: list[int] = []
        named: list[bool] = []  # by its JSON
        for shard in range(len(self.paths)):
            self.spans.append([len(columns["path"]), -1])
            for record in self._records(shard, len(columns["path"])):
                columns["path"] += record["paths"]
                columns["band"] += record["bands"]
                columns["label"] += [record["label"]] * len(record["bands"])
                counts.append(len(record["bands"]))
                shard_of.append(shard)
                named.append(record["named"])
                known = dict(
                    object=record["object"],
                    source_catalog=record["domain"],
                    bands=" ".join(filter(None, record["bands"])),
                )
                if record["label"] >= 0:
                    known["label_source"] = f"file:{record['domain']}"
                objects.append(known | record["metadata"])
            self.spans[-1][1] = len(columns["path"]) - 1
        if not objects:
            raise Mistake(
                f"{self.paths[0]}: {len(self.paths)} tar files without a sample: expected .npy members"
            )
        self._tell_apart(objects, shard_of, named)
        self.notes += [
            f"{len(objects):,} samples in {len(self.paths):,} tar files, {len(columns['path']):,} images of "
            f"{self.foreign.shape[0]}x{self.foreign.shape[1]} pixels",
            *self.foreign.report(),
        ]
        sample = np.repeat(np.arange(len(objects)), counts)
        index = pd.DataFrame(
            {
                "path": columns["path"],
                "object": np.array([known["object"] for known in objects], dtype=object)[sample],
                "band": columns["band"],
                "domain": np.array([known["source_catalog"] for known in objects], dtype=object)[sample],
                "label": columns["label"],
            }
        ).astype({name: "str" for name in COLUMNS if name != "label"})
        return index[COLUMNS].astype({"label": "int8"}), metadata_table(objects)

    def _tell_apart(self, objects: list[dict[str, Any]], shard_of: list[int], named: list[bool]) -> None:
        """Keys that come again in another tar file get its name before them, all that are objects' names.
        Raises: Mistake for an object that is there twice all the same.
        """
        seen: set[tuple[str, str]] = set()
        again = [number for number, known in enumerate(objects) if _is_known(seen, known)]
        if again and not any(named[number] for number in again):
            for number, known in enumerate(objects):
                if not named[number]:
                    stem = os.path.basename(self.paths[shard_of[number]]).removesuffix(".tar")
                    known["object"] = f"{stem}/{known['object']}"
            self.notes.append(
                f"keys that came before in another tar file: {len(again):,}; every object is <tar "
                f"file>/<key>, the first again is {objects[again[0]]['object']}"
            )
            seen = set()
            again = [number for number, known in enumerate(objects) if _is_known(seen, known)]
        if again:
            raise Mistake(
                f"{self.paths[shard_of[again[0]]]}: object {clean(objects[again[0]]['object'])} was there "
                "before: expected each object once"
            )

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
            passed_over: list[str] = []
            for key, parts in samples(file, size, path, passed_over):
                if self.manifest:
                    record, member, layout = self._our_record(file, key, parts, path)
                else:
                    found = self.foreign.sample(file, key, parts, path, row)
                    record, member, layout = found.record | {"named": found.named}, found.member, found.layout
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
        if passed_over and not self.manifest:
            self.notes.append(
                f"{os.path.basename(path)}: members without a suffix, hidden ones and __meta__, not used: "
                f"{len(passed_over):,} ({first_of(list(map(clean, passed_over)))})"
            )
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
        self, file: BinaryIO, key: str, parts: dict[str, Member], path: str
    ) -> tuple[dict[str, Any], Member, Layout]:
        if missing := {"npy", "json"} - parts.keys():
            raise refused(path, key, f"has no .{min(missing)}: expected one in each sample of these shards")
        image, member = parts["npy"], parts["json"]
        layout = npy_layout(head(file, image, HEAD), image.size, path, image.name)
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
        checked = checked_record(
            record, self.manifest["images"], layout.shape[0], f"{path}: member {member.name}"
        )
        return checked, image, layout


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
        packed = _packed_beside(directory)
        cure = f", but packed ones ({first_of(packed)}): unpack them" if packed else ": expected shards"
        raise Mistake(f"{directory}: holds no .tar file{cure}")
    return paths


def member_planes(content: bytes, layout: Layout | Picture | None) -> np.ndarray:
    """[C, H, W] of the member that is an image. Raises: BadFile."""
    if layout is None:
        raise BadFile("not readable")
    return picture_planes(content) if isinstance(layout, Picture) else npy_planes(content, layout)


def _packed_beside(directory: str) -> list[str]:
    return files_of_folder(directory, PACKED).names if os.path.isdir(directory) else []


def _is_known(seen: set[tuple[str, str]], known: dict[str, Any]) -> bool:
    """Whether an object was seen before; from now on it was."""
    identity = (known["source_catalog"], known["object"])
    if identity in seen:
        return True
    seen.add(identity)
    return False
