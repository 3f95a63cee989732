"""The columns of N objects in an HDF5 file: data sets of N values, fields of compound tables of N rows (as
astropy, PyTables and h5py write them), and pandas' blocks; in the group of the images, and elsewhere.

What cannot be a column is named with the reason, so that nothing of a file is passed over in silence.
"""

import re
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import h5py
import numpy as np

from data.catalogues.hdf5 import datasets
from utils.mistake import Mistake

MOST_LINKS, DEEPEST = 20_000, 5
LONGEST_VECTOR = 8
MASK = ".mask"  # astropy's companion of a masked column
NAMELESS = re.compile(r"values_block_\d+")
FILLS = ("_FillValue", "missing_value")


class Place(NamedTuple):
    """Where a column is."""

    dataset: str  # path in the file
    field: str = ""  # of a compound
    number: int = -1  # of a pandas block


class Hdf5Columns:
    """The columns by their names; what the file has beside them in `unused`, {path: why}.

    images: path of the data set of images, which is no column; columns beside it come before others.
    lengths: how many data sets have so many rows.
    """

    def __init__(self, path: str, file: h5py.File, objects: int, images: str):
        self.path = path
        self.file = file
        self.objects = objects
        self.home = images.rpartition("/")[0]
        self.places: dict[str, Place] = {}
        self.refused: dict[str, Mistake] = {}  # {name of the column: why}
        self.of_other_rows: dict[str, Mistake] = {}  # the same, of tables of another length
        self.unused: dict[str, str] = {}
        self.tables: dict[str, int] = {}  # {path: fields}
        self.lengths: Counter = Counter()
        self.filled: Counter = Counter()  # {column: values that are missing by their fill value or mask}
        with datasets.reading_hdf5(path, "its list of data sets"):
            found = sorted(datasets_of(path, file, self.unused), key=self._nearness)
        for name in found:
            if name != images:
                self._note(name)

    def _nearness(self, name: str) -> tuple:
        folder = name.rpartition("/")[0]
        return folder != self.home, not folder.startswith(self.home), name.count("/"), name

    def _note(self, name: str) -> None:
        last = name.rpartition("/")[2]
        try:
            with datasets.reading_hdf5(self.path, name):
                data = datasets.hdf5_dataset(self.path, self.file, name)
                shape, kind = data.shape, data.dtype
        except Mistake as mistake:
            self.refused.setdefault(last, mistake)
            self.unused[name] = "not readable"
            return
        if shape:
            self.lengths[shape[0]] += 1
        if kind.names:
            if shape != (self.objects,):
                self.unused[name] = f"a table of shape {list(shape or ())}"
                for field in kind.names:
                    self.of_other_rows.setdefault(
                        field,
                        Mistake(
                            f"{self.path!r}: table {name}, which has a column {field}, is of shape "
                            f"{list(shape or ())}: expected one row for each of {self.objects} objects"
                        ),
                    )
                return
            self.tables[name] = len(kind.names)
            why = datasets.unread_texts(data) if datasets.has_variable_lengths(kind) else ""
            for field in kind.names:
                self._add(name, field, kind.fields[field][0], why)
            return
        block = re.fullmatch(r"(block\d+)_values", last)
        if block and shape and len(shape) == 2 and shape[0] == self.objects:
            self._add_block(name, name.removesuffix("_values") + "_items", shape[1])
            return
        if re.fullmatch(r"block\d+_items|axis\d+", last):
            return  # names of pandas' columns and rows
        scalar = shape is not None and len(shape) == 1
        if scalar and shape != (self.objects,) and name.rpartition("/")[0] == self.home:
            self.of_other_rows.setdefault(
                last,
                Mistake(
                    f"{self.path!r}: {name} has shape {shape}, expected one value for each of "
                    f"{self.objects} objects"
                ),
            )
        vector = (
            shape is not None and len(shape) == 2 and 1 <= shape[1] <= LONGEST_VECTOR and kind.kind in "fiu"
        )
        if shape is None or shape[:1] != (self.objects,) or not (scalar or vector):
            self.unused[name] = f"of shape {list(shape or ())}"
        elif not _is_plain(kind):
            self.unused[name] = f"of type {kind}"
        else:
            self._place(last, Place(name), name)

    def _add(self, name: str, field: str, kind: np.dtype, why: str) -> None:
        """why: why no field of the table can be read, "" where they can."""
        full = f"{name}/{field}"
        if NAMELESS.fullmatch(field):
            self.unused[full] = "pandas keeps the names of these columns in a pickle, which is not opened"
            return
        base, inner = (kind.base, kind.shape) if kind.shape else (kind, ())
        if not _is_plain(base) or len(inner) > 1 or (inner and not 1 <= inner[0] <= LONGEST_VECTOR):
            self.unused[full] = f"of type {kind}"
            return
        if why:
            self.unused[full] = why
            self.refused.setdefault(
                field, Mistake(f"{self.path!r}: {name} holds {why}: repack the file with h5repack -f NONE")
            )
            return
        self._place(field, Place(name, field), full)

    def _add_block(self, name: str, items: str, count: int) -> None:
        try:
            names = datasets.texts_of(self.path, items, datasets.hdf5_dataset(self.path, self.file, items))
        except (Mistake, KeyError, OSError, RuntimeError, AttributeError):
            names = []
        if len(names) != count:
            self.unused[name] = "a block without the names of its columns"
            return
        for number, column in enumerate(names):
            self._place(column, Place(name, number=number), f"{name}[{column}]")

    def _place(self, column: str, place: Place, full: str) -> None:
        if column in self.places:
            self.unused[full] = f"{column} is there before"
        else:
            self.places[column] = place

    # ---- values

    def has(self, name: str, needed: bool = False) -> bool:
        """Whether `column` gives it or refuses it."""
        there = self.places.keys() | self.refused.keys() | (self.of_other_rows.keys() if needed else set())
        return name in there or self._beside(name)

    def _beside(self, name: str) -> bool:
        """Whether a data set of that name, or a link, is in the group of the images, whatever it holds."""
        full = (f"{self.home}/{name}" if self.home else name).encode()
        with datasets.reading_hdf5(self.path, name):
            links = self.file.id.links
            if not links.exists(full):
                return False
            is_hard = links.get_info(full).type == h5py.h5l.TYPE_HARD
            return not is_hard or isinstance(h5py.h5o.open(self.file.id, full), h5py.h5d.DatasetID)

    def names(self) -> list[str]:
        return [name for name in self.places if not name.endswith(MASK)]

    def column(self, name: str, whole: bool = False, needed: bool = False) -> np.ndarray | None:
        """[N] or [N, k] numbers, those that are missing or not finite NaN; or [N] texts; None without it.

        whole: identifiers: whole numbers or texts, none of whose digits is lost. needed: refuse a table of
            another length that has the column, too.
        Raises: Mistake for what is there and no such column.
        """
        if name not in self.places:
            for refused in (self.refused, self.of_other_rows if needed else {}):
                if name in refused:
                    raise refused[name]
        if name not in self.places and not self._beside(name):
            return None
        full = f"{self.home}/{name}" if self.home else name
        place = self.places.get(name, Place(full))
        with datasets.reading_hdf5(self.path, name):
            data = datasets.hdf5_dataset(self.path, self.file, place.dataset)
            values = self._values(name, data, place, whole)
            if values.dtype == object:
                return values
            return self._without_fills(name, values, data, whole)

    def _values(self, name: str, data: h5py.Dataset, place: Place, whole: bool) -> np.ndarray:
        if not place.field and place.number < 0:
            return whole_column(self.path, name, data, self.objects, whole)
        datasets.check_stored(self.path, place.dataset, data)
        if place.number >= 0:
            return _checked(self.path, name, data[:, place.number], whole)
        if datasets.has_variable_lengths(data.dtype):
            values = datasets.field_with_texts_beside(self.path, name, data, place.field)
        else:
            values = data.fields(place.field)[()]
        if values.dtype.kind in "SO":
            return np.array(datasets.decoded(values.tolist()), dtype=object)
        return _checked(self.path, name, values, whole)

    def _without_fills(self, name: str, values: np.ndarray, data: h5py.Dataset, whole: bool) -> np.ndarray:
        missing = np.zeros(len(values), dtype=bool)
        if name + MASK in self.places:
            mask = self.places[name + MASK]
            missing |= np.asarray(self._values(name + MASK, data, mask, False)).astype(bool)
        for fill in FILLS:
            if not data.dtype.names and fill in data.attrs:
                stated = np.asarray(data.attrs[fill]).ravel()
                if len(stated) == 1 and stated.dtype.kind in "fiu" and values.ndim == 1:
                    missing |= values == stated[0]
        if not missing.any():
            return values
        if whole:
            raise Mistake(
                f"{self.path!r}: {name} of row {np.flatnonzero(missing)[0]} is masked: expected an id"
            )
        self.filled[name] = int(missing.sum())
        values = values.astype(np.float64)
        values[missing] = np.nan
        return values


def datasets_of(path: str, file: h5py.File, unused: dict[str, str]) -> Iterator[str]:
    """Paths of all data sets that hard links lead to; `unused` gets what is not followed, and why."""
    waiting = [("", file.id)]
    seen = {_address(file.id)}
    links = 0
    while waiting:
        prefix, group = waiting.pop()
        for raw in list(group):
            name = prefix + raw.decode("utf-8", "replace")
            links += 1
            if links > MOST_LINKS:
                raise Mistake(f"{path!r} has more than {MOST_LINKS:,} links: expected a catalogue")
            if group.links.get_info(raw).type != h5py.h5l.TYPE_HARD:
                unused[name] = "a link to elsewhere"
                continue
            found = h5py.h5o.open(group, raw)
            if isinstance(found, h5py.h5d.DatasetID):
                yield name
            elif isinstance(found, h5py.h5g.GroupID) and _address(found) not in seen:
                seen.add(_address(found))
                if name.count("/") < DEEPEST:
                    waiting.append((f"{name}/", found))
                else:
                    unused[name] = f"more than {DEEPEST} groups deep"


def _address(group: h5py.h5g.GroupID) -> int:
    return h5py.h5o.get_info(group).addr


def whole_column(path: str, name: str, data: h5py.Dataset, objects: int, whole: bool) -> np.ndarray:
    """[objects] or [objects, k] numbers, those that are not finite NaN; or [objects] texts, of a data set.

    whole: identifiers, not fractions.
    """
    shape, kind = data.shape, data.dtype
    text = h5py.check_string_dtype(kind)
    if not _is_plain(kind) or (whole and kind.kind == "b"):
        expected = "whole numbers: others have too few digits" if whole else "numbers or text"
        raise Mistake(f"{path!r}: {name} is of type {kind}, expected {expected}")
    vector = (
        shape is not None and len(shape) == 2 and 1 <= shape[1] <= LONGEST_VECTOR and not text and not whole
    )
    if shape is None or shape[:1] != (objects,) or not (len(shape) == 1 or vector):
        raise Mistake(f"{path!r}: {name} has shape {shape}, expected one value for each of {objects} objects")
    if text:
        return np.array(datasets.texts_of(path, name, data), dtype=object)
    datasets.check_stored(path, name, data)
    return _checked(path, name, data[()], whole)


def _checked(path: str, name: str, values: np.ndarray, whole: bool) -> np.ndarray:
    if values.dtype.kind != "f":
        return values
    finite = np.isfinite(values)
    if whole:
        # 2^24, 2^53: the largest numbers up to which all whole ones are there
        exact = 2.0 ** (np.finfo(values.dtype).nmant + 1)
        if not finite.all() or (values != np.floor(values)).any() or (np.abs(values) > exact).any():
            raise Mistake(
                f"{path!r}: {name} is of type {values.dtype}, expected whole numbers: others have too few "
                "digits"
            )
        return values.astype(np.int64)
    if not finite.all():
        values[~finite] = np.nan
    return values


def _is_plain(kind: np.dtype) -> bool:
    return bool(h5py.check_string_dtype(kind) or (kind.kind in "fiub" and kind.itemsize <= 8))
