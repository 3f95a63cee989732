"""Images of one HDF5 file, [N, C, H, W] or [N, H, W, C], and the columns of their objects.

The images are the data set `image` or `images` (or cutouts, data, x), else the only one of four axes; whether
their bands come before or after the pixels their shape says (data/channel_order.py), or --channels. Columns
are data sets of N values, fields of compound tables of N rows and pandas' blocks, wherever they are
(data/catalogues/hdf5/columns.py):

    object                 the first of IDS that is there, else <name of the file>_<row>
    ra, dec, pixel_scale   by the names in PLACES, in degrees and arcsec
    redshift               the first name of data/catalogues/redshift.py; -99 and the like are missing
    label                  label, labels or is_lens, where all values are 1, 0, -1 or missing; other classes
                           are kept as <catalog>_label, and every label is -1
    others                 a field of data/cutouts/metadata.py under its name, else <catalog>_<name>

Galaxy10 is known by its names (data/catalogues/galaxy10.py). Pixels of type uint8 are a picture's and said to
be no physical flux.

An id that comes a second time is quarantined there, as object <id>#<row>: two names would fall into two
splits. Only what is in the file itself is read (no links, external storage, virtual data sets) and sizes are
compared with what is stored before memory is taken.
"""

import math
import os
import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import h5py
import numpy as np
import pandas as pd

from data.catalogues import galaxy10
from data.catalogues.hdf5 import datasets
from data.catalogues.hdf5.columns import Hdf5Columns, datasets_of
from data.catalogues.planes import joined_bands
from data.catalogues.redshift import redshift_column, redshift_line, sound_redshifts
from data.catalogues.resample import crop_start, cropped, resampled, rescaled_pixel_scale, shape_text
from data.channel_order import both_readings, channel_order, checked_order, order_line
from data.cutouts.fits import first_line
from data.cutouts.metadata import field_of
from data.formats import Format
from data.pictures import COLOURS, NO_FLUX
from utils.messages import first_of
from utils.mistake import Mistake

FORMATS = [
    Format(
        "HDF5 images with their columns",
        "convert.py hdf5; one data set of images [N, C, H, W], [N, H, W, C] or [N, H, W] (image, images "
        "..., or --images)",
        "any real numbers as float32; columns from data sets, compound tables (astropy, h5py, PyTables), "
        "groups and pandas' fixed blocks; ids, ra, dec, redshift, pixel scale and labels by their names; "
        "masks and _FillValue are missing",
        "links, external and virtual data sets, filters that h5py does not bring, bands first of all [C, "
        "N, H, W], shapes that may be either order; columns that are not used are named",
    ),
]
IMAGES = ("image", "images", "cutouts", "cutout", "data", "x")
IDS = (
    "object_id",
    "object",
    "objid",
    "id_str",
    "iauname",
    "source_id",
    "sourceid",
    "dr7objid",
    "dr8objid",
    "targetid",
    "id",
    "name",
)
GENERIC = {"object", "id", "name"}
LABELS = ("label", "labels", "is_lens")
COULD_BE_LABELS = {"y", "y_train", "target", "targets", "class", "classes", "is_lensed", "lens", "truth"}
PLACES = {
    "ra": ("ra", "ra_deg", "raj2000", "alpha_j2000", "right_ascension"),
    "dec": ("dec", "dec_deg", "dej2000", "decj2000", "delta_j2000", "decl", "declination"),
    "pixel_scale": ("pixel_scale", "pxscale", "pixscale"),
}
MOST_OBJECTS, LARGEST_SIDE, MOST_BANDS = 2_000_000, 4096, 1000
LARGEST_CACHE = 2**29  # bytes of unpacked chunks that are kept for the next objects
STEP = 2**25  # bytes of the file that are held while a block is cropped or resampled
WORDS = {"lens": 1.0, "nonlens": 0.0, "true": 1.0, "false": 0.0, "": np.nan, "unknown": np.nan}


class Hdf5Images:
    """A Source (data/cutouts/source.py) whose rows go object by object, band by band.
    It keeps the file open. report: lines for the log.
    """

    kind = "hdf5"

    def __init__(
        self,
        path: str | os.PathLike,
        image_size: int = 0,
        crop: int = 0,
        channels: str = "auto",
        images: str = "",
        bands: Sequence[str] = (),
        catalog: str = "",
        id_column: str = "",
        label_column: str = "",
    ):
        self.path = os.path.abspath(path)
        checked_order(channels)
        self.channels = channels
        self.notes: list[str] = []
        self.file = datasets.opened_hdf5(self.path)
        try:
            self.image_name = self._find(images)
            self.bands = list(bands)
            self.image, self.order = self._open()
            self.columns = Hdf5Columns(self.path, self.file, self.image.shape[0], self.image_name)
            self._check_axes()
        except BaseException:
            # HDF5 knows a file by its inode: one that is mended would be taken for this one
            self.file.close()
            raise
        self.objects = self.image.shape[0]
        self.catalog = catalog or self._catalog()
        self.id_column = id_column
        self.label_column = label_column
        shape = self.image.shape
        self.stored = shape[1:3] if self.order == "last" else shape[-2:]
        count = 1 if len(shape) == 3 else shape[3] if self.order == "last" else shape[1]
        self._name_bands(count)
        if crop:
            crop_start(self.stored, crop)  # raises where it is too large
        if not 0 <= image_size <= LARGEST_SIDE:
            raise Mistake(
                f"image_size {image_size} is not a number of pixels: expected 1 to {LARGEST_SIDE}, or 0 for "
                "the size of the file"
            )
        self.crop = crop
        self.kept = (crop, crop) if crop else self.stored
        self.shape = (image_size, image_size) if image_size else self.kept
        self.recipe: dict[str, Any] = {
            "kind": self.kind,
            "path": self.path,
            "image_size": image_size,
            "crop": crop,
            "channels": channels,
            "images": images,
            "bands": list(bands),
            "catalog": catalog,
            "id_column": id_column,
            "label_column": label_column,
        }

    # ---- what the file is

    def _find(self, images: str) -> str:
        """The path of the data set of images."""
        with datasets.reading_hdf5(self.path, "its list of data sets"):
            if images:
                if not _is_there(self.file, images):
                    raise Mistake(f"{self.path!r} has no data set {images!r} (--images)")
                return images
            lower = {raw.decode("utf-8", "replace").lower(): raw for raw in list(self.file.id)}
            for name in IMAGES:
                if name in lower and self._axes(lower[name].decode("utf-8", "replace")) in (3, 4):
                    return lower[name].decode("utf-8", "replace")
            names = sorted(datasets_of(self.path, self.file, {}))
            of_axes = {axes: [name for name in names if self._axes(name) == axes] for axes in (3, 4)}
        if len(of_axes[4]) == 1:
            return of_axes[4][0]
        there = "there is none of four axes"
        cure = "say which one holds the images by --images NAME"
        if of_axes[4]:
            there = f"there are {len(of_axes[4])} of four axes ({first_of(of_axes[4])})"
        elif of_axes[3]:
            there += f", {len(of_axes[3])} of three ({first_of(of_axes[3])})"
            cure = "expected all objects and bands in one [N, C, H, W], or one band by --images NAME"
        raise Mistake(f"{self.path!r} has no data set {' or '.join(IMAGES[:2])}, and {there}: {cure}")

    def _axes(self, name: str) -> int:
        try:
            found = h5py.h5o.open(self.file.id, name.encode())
            return found.rank if isinstance(found, h5py.h5d.DatasetID) else 0
        except (KeyError, ValueError, RuntimeError):
            return 0

    def expected_bands(self) -> int:
        """How many bands there are, 0 where nobody says it."""
        return len(self.bands) or (len(COLOURS) if self._is_galaxy10() else 0)

    def _is_galaxy10(self) -> bool:
        return self.image_name == galaxy10.IMAGES and _is_there(self.file, galaxy10.CLASS)

    def _catalog(self) -> str:
        return galaxy10.CATALOG if self._is_galaxy10() else "hdf5"

    def _open(self) -> tuple[h5py.Dataset, str]:
        """(the images, checked; where their bands are: "first", "last", or "" of one band)."""
        path, name = self.path, self.image_name
        with datasets.reading_hdf5(path, name):
            image = datasets.hdf5_dataset(path, self.file, name)
            shape, kind = image.shape, image.dtype
            if kind.kind not in "fiu" or kind.itemsize > 8:
                raise Mistake(f"{path!r}: {name} is of type {kind}, expected float32")
            order = self._order(shape)
            sides = shape[1:3] if order == "last" else shape[-2:]
            bands = shape[3] if order == "last" else shape[1] if order else 1
            if not (1 <= shape[0] <= MOST_OBJECTS and all(1 <= side <= LARGEST_SIDE for side in sides)):
                raise Mistake(
                    f"{path!r}: {name} has shape {shape}, expected 1 to {MOST_OBJECTS:,} objects of at most "
                    f"{LARGEST_SIDE} pixels a side"
                )
            if not 1 <= bands <= MOST_BANDS:
                raise Mistake(f"{path!r}: {name} has {bands} bands, expected 1 to {MOST_BANDS:,}")
            if scaled := [name for name in ("scale_factor", "add_offset") if name in image.attrs]:
                raise Mistake(
                    f"{path!r}: {self.image_name} has an attribute {scaled[0]}, which is not applied"
                )
            datasets.check_stored(path, name, image)
            return _with_cache(self.file, name, image), order

    def _order(self, shape: tuple[int, ...] | None) -> str:
        if shape is None or len(shape) not in (3, 4):
            raise Mistake(
                f"{self.path!r}: {self.image_name} has shape {shape}, expected [N, C, H, W], [N, H, W, C] or "
                "[N, H, W]"
            )
        if len(shape) == 3:
            return ""
        order = self.channels
        if order == "auto":
            order = channel_order(shape[1:], self.expected_bands())
            if not order:
                raise Mistake(
                    f"{self.path!r}: {self.image_name} has shape {shape}, an image is "
                    f"{both_readings(shape[1:])}"
                )
            self.notes.append(order_line(shape[1:], order, f"{self.image_name}: {shape[0]:,} images"))
        return order

    def _check_axes(self) -> None:
        """Raises: Mistake where the columns have as many rows as another axis of the images has."""
        shape = self.image.shape
        lengths = self.columns.lengths
        if lengths[shape[0]] or not lengths:
            return
        likely = [axis for axis, side in enumerate(shape) if axis and lengths[side] > 1]
        if likely:
            raise Mistake(
                f"{self.path!r}: {self.image_name} has shape {shape}, and {lengths[shape[likely[0]]]} "
                f"columns have {shape[likely[0]]} rows, the length of its axis {likely[0]}: expected the "
                f"objects on the first axis; write it as numpy.moveaxis({self.image_name}, {likely[0]}, 0)"
            )

    def _name_bands(self, count: int) -> None:
        if self.bands and len(self.bands) != count:
            raise Mistake(
                f"--bands {' '.join(self.bands)}: {len(self.bands)} names, the images have {count} bands"
            )
        if len(set(self.bands)) < len(self.bands):
            raise Mistake(f"--bands {' '.join(self.bands)}: expected a name each, none twice")
        if not self.bands:
            is_picture = count == 3 and self.image.dtype == np.uint8
            self.bands = COLOURS if is_picture else [""] if count == 1 else [str(n) for n in range(count)]
            if not is_picture and count > 1:
                self.notes.append(
                    f"the bands have no names: {first_of(self.bands)} (--bands g r i names them)"
                )
        if self.image.dtype == np.uint8:
            what = (
                f"pixels are uint8 (0 to 255), bands {' '.join(self.bands)}"
                if count > 1
                else "pixels are uint8"
            )
            self.notes.append(f"{what}: {NO_FLUX}")

    # ---- tables

    @property
    def report(self) -> list[str]:
        _ = self.index, self.metadata
        columns = self.columns
        lines = [f"{self.objects:,} objects of {len(self.bands)} bands, {shape_text(self.stored)} pixels"]
        lines += self.notes
        for table, fields in columns.tables.items():
            lines.append(f"table {table} (compound): {fields:,} columns")
        if columns.filled:
            named = [f"{name} {count:,}" for name, count in columns.filled.items()]
            lines.append(f"masked or filled values, taken for missing: {first_of(named, 6)}")
        if unused := {**columns.unused, **self.unused_columns()}:
            named = [f"{name} ({why})" for name, why in unused.items()]
            lines.append(f"not used: {len(named):,} ({first_of(named, 6)})")
        return lines

    def unused_columns(self) -> dict[str, str]:
        """{column: why} of those that could be used and are not."""
        return {}

    @cached_property
    def index(self) -> pd.DataFrame:
        row = np.repeat(np.arange(self.objects), len(self.bands))
        path = pd.array([f"{self.path}#{number}" for number in range(self.objects)], dtype="str")
        number = np.tile(np.arange(len(self.bands)), self.objects)
        return pd.DataFrame(
            {
                "path": path.take(row),
                "object": pd.array(self.names, dtype="str").take(row),
                "band": pd.array(list(self.bands), dtype="str").take(number),
                "domain": self.catalog.lower(),
                "label": self.labels[0][row],
            }
        )

    @cached_property
    def names(self) -> list[str]:
        """Of the objects, each another."""
        if self.ids is None:
            stem = os.path.splitext(os.path.basename(self.path))[0]
            return [f"{stem}_{number:06d}" for number in range(self.objects)]
        return [
            f"{name}#{number}" if again else str(name)
            for number, (name, again) in enumerate(zip(self.ids.tolist(), self.seen_before.tolist()))
        ]

    @cached_property
    def ids(self) -> np.ndarray | None:
        name = self.id_name
        if not name:
            self.notes.append(
                f"no column of ids ({first_of(IDS)}): objects are named by the file and their row, from "
                f"{os.path.splitext(os.path.basename(self.path))[0]}_000000 on"
            )
            return None
        ids = self.columns.column(name, whole=True, needed=True)
        if ids.ndim > 1 or ids.dtype.kind == "b":
            raise Mistake(f"{self.path!r}: {name} is no column of ids: expected one number or text an object")
        if (ids == "").any():
            raise Mistake(f"{self.path!r}: {name} of row {np.flatnonzero(ids == '')[0]} is empty")
        place = self.columns.places.get(name)
        table = f" of table {place.dataset}" if place and place.field else ""
        others = [other for other in self.columns.names() if other.lower() in IDS and other != name]
        more = f"; other columns that could be: {first_of(others)} (--id_column)" if others else ""
        self.notes.append(f"objects are named by column {name}{table}{more}")
        return ids

    @cached_property
    def id_name(self) -> str:
        if self.id_column:
            if not self.columns.has(self.id_column, needed=True):
                raise Mistake(
                    f"{self.path!r} has no column {self.id_column!r} (--id_column): there are "
                    f"{first_of(self.columns.names(), 6)}"
                )
            return self.id_column
        if name := self._by_lower(IDS):
            return name
        # refused by `ids`: it is no column, or of another length; `id` or `name` may be of something else
        refused = [name for name in IDS if name in self.columns.of_other_rows and name not in GENERIC]
        refused += [name for name in IDS if name in self.columns.refused]
        if self.columns.has("object_id", needed=True):
            return "object_id"
        return refused[0] if refused else ""

    def _by_lower(self, names: Sequence[str]) -> str:
        """The first of `names` that a column has, in capitals or not; "" without one."""
        lower = {name.lower(): name for name in reversed(self.columns.names())}
        return next((lower[name] for name in names if name in lower), "")

    @cached_property
    def seen_before(self) -> np.ndarray:
        """[objects] bool, true where an earlier object has the same id."""
        first = np.ones(self.objects, dtype=bool)
        if self.ids is not None:
            first[:] = False
            first[np.unique(self.ids, return_index=True)[1]] = True
        if not first.all():
            self.notes.append(f"ids that an earlier row has, quarantined: {int((~first).sum()):,}")
        return ~first

    @cached_property
    def label_name(self) -> str:
        """The column of labels, "" without one."""
        if self.label_column and not self.columns.has(self.label_column, needed=True):
            raise Mistake(
                f"{self.path!r} has no column {self.label_column!r} (--label_column): there are "
                f"{first_of(self.columns.names(), 6)}"
            )
        names = [self.label_column] if self.label_column else LABELS
        return next((name for name in names if self.columns.has(name, needed=True)), "")

    @cached_property
    def labels(self) -> tuple[np.ndarray, str]:
        """int8 [objects], and where they are from: "" if the file has none."""
        unknown = np.full(self.objects, -1, dtype=np.int8)
        name = self.label_name
        if not name:
            likely = [column for column in self.columns.names() if column.lower() in COULD_BE_LABELS]
            more = f"; columns that could be: {first_of(likely)} (--label_column)" if likely else ""
            self.notes.append(f"no lens labels ({', '.join(LABELS)}): every label is -1, unknown{more}")
            return unknown, ""
        values = self.columns.column(name, needed=True)
        if values.ndim > 1:
            raise Mistake(f"{self.path!r}: {name} has {values.shape[1]} values an object, expected one label")
        if values.dtype == object:
            texts = [str(text).lower() for text in values.tolist()]
            if not set(texts) <= WORDS.keys():
                return unknown, self._classes(name, sorted(set(values.tolist())))
            values = np.array([WORDS[text] for text in texts])
        known = np.isfinite(values)
        if not np.isin(values[known], (-1, 0, 1)).all():
            classes = np.unique(values[known])
            if (classes != np.floor(classes)).any():
                raise Mistake(f"{self.path!r}: {name} holds other values than 1, 0 and -1 (unknown)")
            return unknown, self._classes(name, [f"{value:g}" for value in classes.tolist()])
        found = np.where(known, values, -1).astype(np.int8)
        self.notes.append(
            f"labels of column {name}: {int((found == 1).sum()):,} lenses, {int((found == 0).sum()):,} none, "
            f"{int((found == -1).sum()):,} unknown"
        )
        return found, f"file:{self.catalog.lower()}"

    def _classes(self, name: str, classes: list[str]) -> str:
        """Says that labels are no lens labels; they are kept under another name."""
        self.notes.append(
            f"column {name} has {len(classes):,} classes ({first_of(classes, 4)}), no lens labels: kept as "
            f"{self.catalog.lower()}_{name}, every label is -1"
        )
        self.class_column = name
        return ""

    class_column = ""

    @cached_property
    def metadata(self) -> pd.DataFrame:
        used = {self.id_name, self.label_name} - {self.class_column}
        known: dict[str, Any] = dict(
            object=self.names, source_catalog=self.catalog, bands=joined_bands(self.bands)
        )
        for field, names in PLACES.items():
            if name := self._by_lower(names):
                known[field] = self.number(name)
                used.add(name)
        known["pixel_scale"] = known.get("pixel_scale", np.full(self.objects, np.nan))
        known["pixel_scale"] = rescaled_pixel_scale(known["pixel_scale"], self.kept, self.shape)
        if name := redshift_column(self.columns.names()):
            known["redshift"], placeholders = sound_redshifts(self.number(name))
            self.notes.append(redshift_line(name, known["redshift"], placeholders))
            used.add(name)
        known["label_source"] = self.labels[1]
        if self._is_galaxy10():
            columns, line = galaxy10.class_columns(self.columns.column(galaxy10.CLASS), self.stored[0])
            known |= columns
            self.notes.append(line)
        for name in self.columns.names():
            if name not in used:
                for key, values in self._own(name):
                    known[key if key not in known else f"{self.catalog.lower()}_{key}"] = values
        return pd.DataFrame(known, copy=False)

    def _own(self, name: str) -> Iterator[tuple[str, np.ndarray]]:
        """A column under its name in the metadata; a vector as columns of their own, numbered."""
        values = self.columns.column(name)
        field = field_of(name.lower())
        clean = re.sub(r"\W", "_", name)
        if field and values.ndim == 1 and (values.dtype == object) == (field.type is str):
            yield name.lower(), values
        elif values.ndim == 1:
            yield f"{self.catalog.lower()}_{clean}", values
        else:
            for number, column in enumerate(values.T):
                yield f"{self.catalog.lower()}_{clean}_{number}", column

    def number(self, *names: str) -> np.ndarray:
        """float64 [objects], of the first of these columns that the file has; missing if it has none."""
        name = next((name for name in names if self.columns.has(name)), "")
        if not name:
            return np.full(self.objects, np.nan)
        values = self.columns.column(name)
        if values.dtype == object or values.ndim > 1:
            raise Mistake(f"{self.path!r}: {name} is not a column of numbers")
        return values.astype(np.float64)

    # ---- pixels

    def read(self, rows: range) -> tuple[np.ndarray, dict[int, str]]:
        """(float32 [n, H, W], {row: reason}) of rows of the index, see data/cutouts/source.py."""
        bands = len(self.bands)
        first, end = rows.start // bands, -(-rows.stop // bands)
        parts = []
        reasons = {}
        for start in range(first - first % self.step, end, self.step):
            start, stop = max(start, first), min(start + self.step, end)
            pixels, unread = self._objects(start, stop)
            if self.crop:
                pixels = np.ascontiguousarray(cropped(pixels, self.crop))
            for row, count in _not_finite(pixels):
                reasons[start * bands + row] = (
                    f"{count} of {pixels[0].size} pixels are not finite (NaN, infinite or beyond float32)"
                )
                pixels[row] = 0
            reasons |= {
                number * bands + band: reason for number, reason in unread.items() for band in range(bands)
            }
            parts.append(resampled(pixels, self.shape))
        images = parts[0] if len(parts) == 1 else np.concatenate(parts)
        for number in (first + np.flatnonzero(self.seen_before[first:end])).tolist():
            its = range(number * bands, (number + 1) * bands)
            images[its.start - first * bands : its.stop - first * bands] = 0
            reasons |= dict.fromkeys(
                its, f"{self.id_name} {self.ids[number]} is doubled, an earlier row has it"
            )
        return images[rows.start - first * bands : rows.stop - first * bands], {
            row: reasons[row] for row in sorted(reasons) if row in rows
        }

    @cached_property
    def step(self) -> int:
        """Objects that are read at once: what STEP holds, in whole chunks of the file."""
        held = max(1, STEP // (len(self.bands) * math.prod(self.stored) * 4))
        chunk = (self.image.chunks or (1,))[0]
        return max(chunk, held // chunk * chunk)

    def _objects(self, start: int, stop: int) -> tuple[np.ndarray, dict[int, str]]:
        """float32 [bands * (stop - start), H, W] in one slice of the file; {object:
        reason} of those that HDF5 cannot read, zero there.
        """
        pixels = np.empty((stop - start, *self.image.shape[1:]), np.float32)
        unread = {}
        try:
            self.image.read_direct(pixels, np.s_[start:stop])
        except (OSError, RuntimeError) as error:
            datasets.raise_trouble(error, self.path)
            if stop - start > 1:  # halves, until those are found that are damaged
                middle = (start + stop) // 2
                halves, reasons = zip(self._objects(start, middle), self._objects(middle, stop))
                return np.concatenate(halves), {**reasons[0], **reasons[1]}
            pixels[:], unread = 0, {start: f"unreadable ({first_line(error)})"}
        if self.order == "last":
            pixels = np.ascontiguousarray(np.moveaxis(pixels, 3, 1))
        return pixels.reshape(-1, *self.stored), unread


def open_source(path: str | os.PathLike, **options: Any) -> Hdf5Images:
    """The images and objects of an HDF5 file; nothing but its structure is read yet.

    options: of Hdf5Images. image_size, crop: pixels on a side, 0 for all. channels: "auto", "first" or
        "last". images: path of their data set, "" by its name. bands: their names. id_column: of the objects,
        "" by its name. label_column: of lens labels, "" by its name. catalog: name of the catalogue, ""
        by the layout.
    Raises: Mistake if it is no such file; OSError for trouble of the machine.
    """
    return Hdf5Images(path, **options)


def _is_there(file: h5py.File, name: str) -> bool:
    parts = name.split("/")
    return all(
        file.id.links.exists("/".join(parts[:depth]).encode())
        for depth in range(1, len(parts) + 1)
        if parts[0]
    )


def _not_finite(images: np.ndarray) -> list[tuple[int, int]]:
    """(row, how many pixels) of the images [n, H, W] with pixels that are not finite."""
    flat = images.reshape(len(images), -1)
    # the sum of squares is the quickest look at every pixel
    with np.errstate(over="ignore", invalid="ignore"):
        suspects = np.flatnonzero(~(np.einsum("ij,ij->i", flat, flat) < np.inf))
    counts = [
        (row, flat.shape[1] - int(np.count_nonzero(np.isfinite(flat[row])))) for row in suspects.tolist()
    ]
    return [(row, count) for row, count in counts if count]


def _with_cache(file: h5py.File, name: str, image: h5py.Dataset) -> h5py.Dataset:
    """The same; if packed, with room for all chunks that its next objects share,
    or each block of a store would unpack them again.
    """
    if not image.chunks:
        return image
    across = math.prod(-(-size // chunk) for size, chunk in zip(image.shape[1:], image.chunks[1:]))
    packed = image.id.get_create_plist().get_nfilters()
    # 0: no more is read than is asked for
    room = min(across * math.prod(image.chunks) * image.dtype.itemsize, LARGEST_CACHE) if packed else 0
    access = h5py.h5p.create(h5py.h5p.DATASET_ACCESS)
    access.set_chunk_cache(100 * across + 1, room, 0.75)
    image.id.close()
    return h5py.Dataset(h5py.h5d.open(file.id, name.encode(), access))
