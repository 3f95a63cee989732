"""Light curves of many files, read once into flat arrays of points that training maps into memory.

    time.npy            float64 [P] s; the points of one curve follow each other
    width.npy           float32 [P] s
    counts.npy ...      float32 [P, C]: counts, background, exposure, rate, error_low, error_up;
                        observed.npy bool [P, C]
    curves.parquet      path, source, points, counts (bool: has them), bands, unit (of the rate), reason;
                        quarantined files have no points
    quarantine.csv      path, reason
    manifest.json       version, counts, bands, notes, digests of inventory and index; written last

The bands are those that are asked for, or the union of those of all curves, by name, in order of energy or
wavelength; in a band that a curve lacks it is unobserved.

Reading goes block by block under partial_*/, each there whole or not at all: after kill -9 the same call goes
on.
"""

import io
import json
import os
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from contract import Batch, Examples
from data.cutouts.fits import BadFile
from data.light_curves.bands import are_named, band_name, union_of_bands
from data.light_curves.binned import binned_curve
from data.light_curves.curve import Found, Note, Reading, with_rates
from data.light_curves.files import SUFFIXES, TEXTS, find_light_curves, suffix_of
from data.light_curves.tables.cells import is_table
from data.listing import read_listing, walk_folders
from data.packing import (
    PackKind,
    content_digest,
    first_reasons,
    pack_once,
    parquet_bytes,
    publish_pack,
    quarantine_lines,
    statuses,
    write_arrays_durably,
)
from data.workers import work_through
from utils.files import flush_to_disk, is_trouble, write_durably
from utils.messages import say
from utils.mistake import Mistake

VERSION = 3
PACKS = PackKind(VERSION, "light curves", "the light curves in {} are", "they are read anew")
CURVES = "curves.parquet"
BLOCK_FILES = 2048
MOST_NOTES = 24  # kinds of notes in a summary
MOST_BANDS = 64  # of a pack: each takes room in every point of every curve
# may well hold light curves: those in a folder are counted
NOT_READ = (".json", ".h5", ".hdf5", ".zip", ".tar", ".xlsx", ".xls", ".feather", ".pkl")
KEPT_POINTS = 2**21  # of long curves, joined, that a process keeps: some 200 MB in three bands
MANIFESTS = (".txt", ".txt.gz")
# what simulate.py puts beside the curves, what each source is; and what packs and runs hold
NOT_CURVES = {"labels.csv", "curves.parquet", "split.parquet", "quarantine.csv"}
OF_POINT = {"time": "<f8", "width": "<f4"}
OF_BAND = {
    "counts": "<f4",
    "background": "<f4",
    "exposure": "<f4",
    "rate": "<f4",
    "error_low": "<f4",
    "error_up": "<f4",
    "observed": "|b1",
}
FIELDS = OF_POINT | OF_BAND
OF_CURVE = {
    "path": "str",
    "source": "str",
    "points": np.int64,
    "counts": bool,
    "bands": "str",
    "unit": "str",
    "reason": "str",
}


def list_light_curves(source: str) -> list[str]:
    """The light-curve files of a folder (and below it, sorted), of a manifest (.txt, one path a line),
    or the one file. A text is taken for a light curve if it is a table; those of a folder that are none are
    said.

    Raises: Mistake for a source that does not exist or holds none.
    """
    if os.path.isdir(source):
        folders = walk_folders(source, SUFFIXES + NOT_READ, NOT_CURVES)
        files = sorted(path for folder in folders for path in folder.paths)
        unread = Counter(ending for path in files if (ending := suffix_of(path)) in NOT_READ)
        if unread:
            kinds = ", ".join(f"{ending} {count:,}" for ending, count in sorted(unread.items()))
            say(f"files in {source} that are not read as light curves: {kinds}")
            files = [path for path in files if suffix_of(path) not in NOT_READ]
        other = {path for path in files if suffix_of(path) in TEXTS and not is_table(path)}
        files = [path for path in files if path not in other]
        if other:
            some = " ".join(os.path.basename(path) for path in sorted(other)[:3])
            say(f"texts in {source} that are no tables, left out: {len(other):,}, first {some}")
        if not files:
            plain = " ".join(ending for ending in SUFFIXES if not ending.endswith((".gz", ".bz2")))
            raise Mistake(f"--data {source!r} holds no light curve: expected files that end in {plain} (.gz)")
        return files
    if not os.path.isfile(source):
        raise Mistake(
            f"--data {source!r} does not exist: expected a folder of light curves, one file, or a manifest "
            "(.txt, one path a line)"
        )
    if not source.lower().endswith(MANIFESTS) or is_table(source):
        return [source]
    files = [path for paths in read_listing(source, "--data") for path in paths]
    if not files:
        raise Mistake(
            f"--data {source!r} lists no file: expected one path a line, relative to it or absolute"
        )
    return list(dict.fromkeys(files))


@dataclass(frozen=True, eq=False)
class Packed:
    """Light curves read once, open for reading; N rows of curves (or quarantined files), P points,
    C bands.
    """

    directory: Path
    manifest: dict
    curves: pd.DataFrame  # one row a curve: path, source, points, counts, bands, reason ("" = good)

    @property
    def bands(self) -> tuple[str, ...]:
        """[C] names, the union of those of all curves."""
        return tuple(self.manifest["bands"])

    @cached_property
    def units(self) -> list[str]:
        """The units of the rates of its curves, the most frequent first; what is not written is none."""
        known = self.curves.loc[self.good & (self.curves["unit"] != "").to_numpy(bool), "unit"]
        return [str(unit) for unit in known.value_counts().index]

    @property
    def unit(self) -> str:
        """Of all rates; "" where files do not write it, or differ."""
        return self.units[0] if len(self.units) == 1 else ""

    @property
    def good(self) -> np.ndarray:
        """[N] bool, the rows that are curves and not quarantined files."""
        return (self.curves["reason"] == "").to_numpy(dtype=bool)

    @cached_property
    def fields(self) -> dict[str, np.ndarray]:
        """Name -> [P] or [P, C], mapped read-only."""
        return {
            name: np.load(self.directory / f"{name}.npy", mmap_mode="r", allow_pickle=False)
            for name in FIELDS
        }

    @cached_property
    def points(self) -> np.ndarray:
        """[N] int64 of each curve."""
        return self.curves["points"].to_numpy(dtype=np.int64)

    @cached_property
    def has_counts(self) -> np.ndarray:
        """[N] bool, the curves of which not only rates are known."""
        return self.curves["counts"].to_numpy(dtype=bool)

    @cached_property
    def first(self) -> np.ndarray:
        """[N] int64, where the points of each curve begin."""
        return np.cumsum(self.points) - self.points

    def summary(self, most: int = 3) -> list[str]:
        """Lines for the log: how many curves and points; which bands some of them lack; what was dropped or
        assumed, a line a kind; how many files are quarantined and why, the first of them by name.
        """
        bad = self.curves[~self.good]
        lines = [
            f"{int(self.good.sum()):,} light curves of {int(self.points.sum()):,} points in bands "
            f"{' '.join(self.bands)} in {self.directory}, {len(bad):,} quarantined (quarantine.csv)"
        ]
        lacking = [f"{count:,} lack {band}" for band, count in self.manifest["lacking"].items()]
        if lacking:
            lines.append(f"  bands that some curves lack are not observed in them: {', '.join(lacking)}")
        if unnamed := self.manifest["unnamed"]:
            lines.append(f"  {unnamed:,} curves number their bands from 1: taken as {' '.join(self.bands)}")
        if len(self.units) > 1:
            lines.append(
                f"  rates in several units ({', '.join(self.units)}): their sizes are compared all the same"
            )
        notes = self.manifest["notes"]
        lines += [_note_line(note) for note in notes[:MOST_NOTES]]
        if len(notes) > MOST_NOTES:
            lines.append(f"  and {len(notes) - MOST_NOTES} more notes (manifest.json)")
        return lines + quarantine_lines(bad, most)

    def __getstate__(self) -> dict:
        # a pickled memmap would be all of its bytes
        return {name: value for name, value in self.__dict__.items() if name != "fields"}


@dataclass(frozen=True, eq=False)
class LightCurves(Examples):
    """Some curves of a pack as examples: raw, in a fixed order, a batch padded to its longest.
    B curves, T points, C bands.

    time [B, T] float32 s since the first point; width [B, T] float32 s counts, background (expected, counts),
    exposure (s), rate, error_low, error_up [B, T, C] float32; observed [B, T, C] bool length [B] int64;
    has_counts [B] bool; index [B] int64, the number of the example; row [B] int64 of the pack Padding and
    what is not observed are zero. Without counts: counts 0, background 0, exposure 1 where observed.
    """

    packed: Packed
    rows: np.ndarray  # [N] int64 rows of packed.curves, none of them quarantined
    max_points: int = 0  # of longer curves neighbouring points are joined (binned.py); 0: never
    # fields of long curves by row, which need not be joined anew each epoch
    kept: dict[int, dict[str, np.ndarray]] = field(default_factory=dict, repr=False)

    def __post_init__(self):
        assert self.packed.good[self.rows].all(), "a quarantined file has no points"

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        index = np.asarray(indices, dtype=np.int64)
        rows = self.rows[index]
        first, length = self.packed.first[rows], self.packed.points[rows]
        long = np.flatnonzero(length > self.max_points) if self.max_points else ()
        shorter = {place: self.binned(int(rows[place])) for place in long}
        for place, fields in shorter.items():
            length[place] = len(fields["time"])
        step = np.arange(length.max(initial=0))
        inside = step < length[:, None]
        at = np.where(inside, first[:, None] + step, first[:, None])
        batch = {name: np.asarray(self.packed.fields[name])[at] for name in FIELDS}
        for place, fields in shorter.items():
            for name, values in fields.items():
                batch[name][place, : length[place]] = values
        batch["time"] = (batch["time"] - batch["time"][:, :1]).astype(np.float32)
        for values in batch.values():
            values[~inside] = 0
        batch |= dict(length=length, has_counts=self.packed.has_counts[rows], index=index, row=rows)
        return {name: torch.from_numpy(array) for name, array in batch.items()}

    def __getitem__(self, example: int) -> Batch:
        if not -len(self) <= example < len(self):
            raise IndexError(f"example {example} of {len(self)}")
        return self.__getitems__([example % len(self)])

    def binned(self, row: int) -> dict[str, np.ndarray]:
        """The fields of a curve that is longer than `max_points`, its neighbouring points joined."""
        if row not in self.kept:
            points = slice(self.packed.first[row], self.packed.first[row] + self.packed.points[row])
            fields = {name: np.asarray(self.packed.fields[name][points]) for name in FIELDS}
            shorter = binned_curve(fields, bool(self.packed.has_counts[row]), self.max_points)
            if len(self.kept) * self.max_points >= KEPT_POINTS:
                return shorter
            self.kept[row] = shorter
        return self.kept[row]

    def __getstate__(self) -> dict:
        return self.__dict__ | dict(kept={})

    @property
    def bands(self) -> tuple[str, ...]:
        """[C] names of the bands."""
        return self.packed.bands

    @property
    def source(self) -> np.ndarray:
        """[N] str, whose curve each example is."""
        return self.packed.curves["source"].to_numpy(dtype=object)[self.rows]

    def names(self, indices: Sequence[int]) -> list[str]:
        """What a person calls these examples: their sources."""
        return self.source[np.asarray(indices, dtype=np.int64)].tolist()


def pack_light_curves(
    paths: Sequence[str],
    reading: Reading,
    store_dir: str | os.PathLike,
    workers: int = 1,
    bands: Sequence[str] = (),
) -> Packed:
    """Reads every file into a folder of `store_dir`, or finds that done;
    interrupted anywhere, the same call goes on.

    workers: processes, 1: this one. bands: of the pack, whatever those of the files; none: their union.
    Raises: Mistake if no file can be read, the disk is full, the folder cannot be written,
        or a worker is killed.
    """
    if not paths:
        raise Mistake("no files of light curves to read: expected at least one")
    digest = _digest(paths, reading, bands)
    directory = Path(store_dir) / f"light_curves_{digest[:16]}"

    def pack() -> None:
        partial = directory / f"partial_{BLOCK_FILES}"
        _read_blocks(paths, reading, partial, workers, bands)
        _finish(paths, partial, digest, bands)

    pack_once(PACKS, directory, digest, pack, "light curves", say)
    return open_packed(directory)


def open_packed(directory: str | os.PathLike) -> Packed:
    """An existing pack, checked for being whole. Raises: Mistake if there is none,
    or it is damaged or of another version.
    """
    directory = Path(directory)
    manifest = PACKS.open_manifest(directory)
    content = PACKS.read_checked(directory, CURVES, manifest["curves"])
    try:
        packed = Packed(directory, manifest, pd.read_parquet(io.BytesIO(content)))
        shapes = {name: (field.shape, field.dtype.str) for name, field in packed.fields.items()}
    except (OSError, ValueError) as error:
        if is_trouble(error):
            raise
        raise PACKS.damaged(directory, str(error)) from error
    expected = {
        name: (_shape(name, manifest["points"], manifest["channels"]), kind) for name, kind in FIELDS.items()
    }
    if wrong := [name for name in FIELDS if shapes[name] != expected[name]]:
        raise PACKS.damaged(directory, f"{wrong[0]}.npy is {shapes[wrong[0]]}, not {expected[wrong[0]]}")
    return packed


def _read_blocks(
    paths: Sequence[str], reading: Reading, partial: Path, workers: int, bands: Sequence[str]
) -> None:
    partial.mkdir(exist_ok=True)
    blocks = {
        _block(partial, first): list(paths[first : first + BLOCK_FILES])
        for first in range(0, len(paths), BLOCK_FILES)
    }
    missing = {block: part for block, part in blocks.items() if not _sound(block)}
    left = sum(map(len, missing.values()))
    say(f"reading {left:,} of {len(paths):,} files into {partial.parent}")
    jobs = (
        {"block": str(block), "paths": part, "reading": asdict(reading), "bands": list(bands)}
        for block, part in missing.items()
    )
    with tqdm(total=len(paths), initial=len(paths) - left, unit="file", desc="reading", disable=None) as bar:
        for job in work_through(_read_block, jobs, max(1, min(workers, len(missing))), _files_of_block):
            bar.update(len(job["paths"]))


def _files_of_block(job: dict) -> str:
    return f"files {job['paths'][0]} to {job['paths'][-1]}"


def _read_block(block: str, paths: list[str], reading: dict, bands: list[str]) -> None:
    """Reads some files and writes their curves as one .npz, whole:
    flat fields, and a table of curves as JSON.
    """
    how = Reading(**reading)
    found, table = [], []
    notes: dict[str, dict] = {}
    no_point = "no point left of this source"
    in_no_band = f"no point in a band of the network ({' '.join(bands)})"
    for path in paths:
        try:
            here = [_of_canonical_bands(one) for one in find_light_curves(path, how)]
            found_empty = [not len(one.curve.time) for one in here]
            here = [_in_bands(one, tuple(bands)) for one in here] if bands else here
        except BadFile as error:
            table.append(
                dict(path=path, source="", points=0, counts=False, bands=[], unit="", reason=str(error))
            )
            continue
        table += [
            dict(
                path=path,
                source=one.curve.source,
                points=len(one.curve.time),
                counts=one.curve.counts is not None,
                bands=list(one.curve.bands),
                unit=one.curve.unit,
                reason="" if len(one.curve.time) else no_point if empty else in_no_band,
            )
            for one, empty in zip(here, found_empty)
        ]
        found += here
        _add_notes(notes, _notes_of_file(path, here))
    curves = with_rates(found)
    columns = {name: [getattr(curve, name) for curve in curves] for name in FIELDS}
    columns["counts"] = [
        np.zeros_like(curve.rate) if curve.counts is None else curve.counts for curve in curves
    ]
    flat = {
        name: np.concatenate([values.ravel() for values in column] or [[]]).astype(FIELDS[name])
        for name, column in columns.items()
    }
    texts = {"table": table, "notes": list(notes.values())}
    texts = {name: np.frombuffer(json.dumps(text).encode(), dtype=np.uint8) for name, text in texts.items()}
    write_arrays_durably(Path(block), {**texts, **flat})


def _of_canonical_bands(found: Found) -> Found:
    """With one spelling for each band; two columns that are the same band become one, the first that was
    observed at each point.
    """
    curve = found.curve
    names = [band_name(band) for band in curve.bands]
    bands = tuple(dict.fromkeys(names))
    if bands == curve.bands:
        return found
    if len(bands) == len(names):
        return found._replace(curve=curve._replace(bands=bands))
    columns = np.zeros((len(curve.time), len(bands)), dtype=np.int64)
    for number, band in enumerate(bands):
        same = [place for place, name in enumerate(names) if name == band]
        columns[:, number] = np.asarray(same)[curve.observed[:, same].argmax(1)]
    twice = int(curve.observed.sum() - np.take_along_axis(curve.observed, columns, 1).sum())
    note = Note("values of a band that a file has twice, left out", twice, int(curve.observed.sum()))

    def chosen(field: np.ndarray | None) -> np.ndarray | None:
        if field is None or field.ndim < 2:
            return field
        return np.take_along_axis(np.broadcast_to(field, curve.observed.shape), columns, 1)

    fields = {name: chosen(getattr(curve, name)) for name in OF_BAND}
    return Found(
        curve._replace(bands=bands, **fields),
        chosen(found.background_counts),
        chosen(found.background_ratio),
        (*found.notes, note),
    )


def _in_bands(found: Found, bands: tuple[str, ...]) -> Found:
    """The curve in those of its bands that are among `bands`, in the order of these; points of others alone
    are left out. Bands that only one side names are the others in their order, if they are as many.
    """
    curve = found.curve
    shared = [band for band in bands if band in curve.bands]
    places = [curve.bands.index(band) for band in shared]
    notes = list(found.notes)
    if not shared and len(bands) == len(curve.bands) and not (are_named(bands) and are_named(curve.bands)):
        shared, places = list(bands), list(range(len(bands)))
        notes.append(Note(f"bands {' '.join(curve.bands)} taken as {' '.join(bands)}, in their order"))
    rows = curve.observed[:, places].any(1)
    if unknown := [band for band in curve.bands if band not in shared and len(shared) < len(curve.bands)]:
        lost = int(curve.observed.sum() - curve.observed[:, places].sum())
        text = f"values in bands that the network does not know ({' '.join(unknown)}), left out"
        notes.append(Note(text, lost, int(curve.observed.sum())))

    def chosen(field: np.ndarray | None) -> np.ndarray | None:
        if field is None:
            return None
        if field.ndim == 1:
            return field[rows]
        return np.broadcast_to(field, curve.observed.shape)[rows][:, places]

    fields = {name: chosen(getattr(curve, name)) for name in FIELDS}
    return Found(
        curve._replace(bands=tuple(shared) if rows.any() else curve.bands, **fields),
        chosen(found.background_counts),
        chosen(found.background_ratio),
        tuple(notes),
    )


def _notes_of_file(path: str, here: Iterable[Found]) -> list[dict]:
    """The notes of a file's curves, those of one text added up."""
    sums: dict[str, dict] = {}
    for one in here:
        for note in one.notes:
            note = Note(note) if isinstance(note, str) else note
            into = sums.setdefault(
                note.text, dict(text=note.text, count=0, total=0, files=1, first=os.fspath(path))
            )
            into["count"] += int(note.count)
            into["total"] += int(note.total)
    return list(sums.values())


def _add_notes(notes: dict[str, dict], more: Iterable[dict]) -> None:
    """Adds up counts, totals and numbers of files by text; the first file stays."""
    for note in more:
        into = notes.setdefault(note["text"], note | dict(count=0, total=0, files=0))
        for name in ("count", "total", "files"):
            into[name] += note[name]


def _note_line(note: dict) -> str:
    """ "events outside the bands, left out: 866,480 of 1,203,444 (72 %) in 40 files, first a.evt"."""
    files = f"{note['files']:,} file{'s' * (note['files'] != 1)}"
    if not note["count"]:
        return f"  {note['text']} ({files}, first {note['first']})"
    of = f" of {note['total']:,} ({100 * note['count'] / note['total']:.2g} %)" if note["total"] else ""
    return f"  {note['text']}: {note['count']:,}{of} in {files}, first {note['first']}"


def _block(partial: Path, first: int) -> Path:
    return partial / f"block_{first // BLOCK_FILES:07d}.npz"


def _load(block: Path, *names: str) -> list[np.ndarray]:
    with np.load(block, allow_pickle=False) as file:
        return [file[name] for name in names]


def _table(block: Path) -> pd.DataFrame:
    table = json.loads(_load(block, "table")[0].tobytes())
    return pd.DataFrame(table, columns=list(OF_CURVE))


def _notes(block: Path) -> list[dict]:
    return json.loads(_load(block, "notes")[0].tobytes())


def _sound(block: Path) -> bool:
    """Whether a block of an earlier attempt can be used: zip compares the checksum of each field as it is
    read.
    """
    try:
        _load(block, "table", "notes", *FIELDS)
        return True
    except (FileNotFoundError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
        return False


def _finish(paths: Sequence[str], partial: Path, digest: str, given: Sequence[str]) -> None:
    """Joins the blocks, each field into one file, each curve's columns at the places of its bands."""
    blocks = [_block(partial, first) for first in range(0, len(paths), BLOCK_FILES)]
    tables = [_table(block) for block in blocks]
    curves = pd.concat(tables, ignore_index=True)
    good = (curves["reason"] == "").to_numpy(dtype=bool)
    if not good.any():
        raise Mistake(
            f"none of {len(paths):,} files can be used: {first_reasons(curves)}; expected light curves "
            "(FITS, QDP) or tables of them (CSV)"
        )
    layouts = Counter(tuple(bands) for bands in curves.loc[good, "bands"])
    union, unnamed = (tuple(given), set()) if given else _places_of_bands(layouts)
    points = int(curves.loc[good, "points"].sum())
    files = {name: open(partial / f"{name}.npy", "wb") for name in FIELDS}
    try:
        for name, file in files.items():
            np.lib.format.write_array_header_1_0(
                file,
                {"descr": FIELDS[name], "fortran_order": False, "shape": _shape(name, points, len(union))},
            )
        for block, table in zip(blocks, tables):
            # a run of curves with the same bands at a time, which in most packs is the whole block
            flat = dict(zip(FIELDS, _load(block, *FIELDS)))
            for run in _runs_of_bands(table):
                if run.good:
                    _write_run(files, flat, run, union, run.bands in unnamed)
        for file in files.values():
            flush_to_disk(file)
    finally:
        for file in files.values():
            file.close()
    notes: dict[str, dict] = {}
    for block in blocks:
        _add_notes(notes, _notes(block))
    curves["points"] = np.where(good, curves["points"], 0)
    curves["bands"] = curves["bands"].map(" ".join)
    named = {bands: count for bands, count in layouts.items() if bands not in unnamed}
    lacking = {band: sum(count for bands, count in named.items() if band not in bands) for band in union}
    _publish(
        curves,
        partial,
        dict(
            version=VERSION,
            inventory=digest,
            files=len(paths),
            points=points,
            channels=len(union),
            good=int(good.sum()),
            bands=list(union),
            lacking={band: count for band, count in lacking.items() if count},
            unnamed=sum(layouts[bands] for bands in unnamed) if named else 0,
            notes=list(notes.values()),
        ),
    )


def _places_of_bands(layouts: Iterable[tuple[str, ...]]) -> tuple[tuple[str, ...], set[tuple[str, ...]]]:
    """The bands of the pack, and the layouts that stand for them without naming them.

    Curves that number their bands from 1 are taken as those of the named ones, if there are as many of these;
    else the numbers are bands of their own.
    """
    unnamed = {bands for bands in layouts if not are_named(bands)}
    named = [bands for bands in layouts if bands not in unnamed]
    union = union_of_bands(named)
    standing = {bands for bands in unnamed if named and len(bands) == len(union)}
    union = union_of_bands([*named, *(unnamed - standing)])
    if named and len(union) > len(union_of_bands(named)):
        standing = set()
        union = union_of_bands(layouts)
    if len(union) > MOST_BANDS:
        raise Mistake(
            f"{len(union)} different bands in these files: {' '.join(union[:5])} ...; expected at most "
            f"{MOST_BANDS}: a column that is no band may be taken for one"
        )
    return union, standing


class Run(NamedTuple):
    """Curves of a block that follow each other with the same bands, all of them good or none."""

    bands: tuple[str, ...]
    good: bool
    points: slice  # of the block
    values: slice  # of the block's flat fields


def _runs_of_bands(table: pd.DataFrame) -> Iterator[Run]:
    points = table["points"].to_numpy(dtype=np.int64)
    bands = [tuple(names) for names in table["bands"]]
    good = (table["reason"] == "").to_numpy(dtype=bool).tolist()
    sizes = points * np.array([len(names) for names in bands], dtype=np.int64)
    point_ends, value_ends = np.r_[0, np.cumsum(points)], np.r_[0, np.cumsum(sizes)]
    begin = 0
    for end in range(1, len(bands) + 1):
        if end == len(bands) or bands[end] != bands[begin] or good[end] != good[begin]:
            yield Run(
                bands[begin],
                good[begin],
                slice(int(point_ends[begin]), int(point_ends[end])),
                slice(int(value_ends[begin]), int(value_ends[end])),
            )
            begin = end


def _write_run(
    files: dict[str, BinaryIO],
    flat: dict[str, np.ndarray],
    run: Run,
    union: tuple[str, ...],
    unnamed: bool,
) -> None:
    """Appends the points of a run to the files of the pack, each column at the place of its band."""
    same = unnamed or run.bands == union
    places = [] if same else [union.index(band) for band in run.bands]
    for name, file in files.items():
        values = flat[name][run.points if name in OF_POINT else run.values]
        if name in OF_BAND and not same:
            placed = np.zeros((run.points.stop - run.points.start, len(union)), dtype=FIELDS[name])
            placed[:, places] = values.reshape(-1, len(places))
            values = placed
        file.write(values.tobytes())


def _publish(curves: pd.DataFrame, partial: Path, manifest: dict) -> None:
    content = parquet_bytes(curves.astype(OF_CURVE))
    bad = curves.loc[curves["reason"] != "", ["path", "reason"]]
    write_durably(partial / CURVES, content)
    write_durably(partial / "quarantine.csv", bad.to_csv(index=False).encode())
    manifest["curves"] = content_digest(content)
    names = [CURVES, "quarantine.csv", *(f"{name}.npy" for name in FIELDS)]
    publish_pack(partial, names, manifest)


def _shape(name: str, points: int, channels: int) -> tuple[int, ...]:
    return (points,) if name in OF_POINT else (points, channels)


def _digest(paths: Sequence[str], reading: Reading, bands: Sequence[str]) -> str:
    """What a pack follows from: absolute paths, sizes, times of change, the reading; one stat a file."""
    digest = blake2b(repr((VERSION, asdict(reading), *bands)).encode(), digest_size=16)
    for path, status in zip(paths, statuses(list(paths))):
        digest.update(repr((os.path.abspath(path), status)).encode())
    return digest.hexdigest()
