"""GalaxiesML: HSC galaxies with spectroscopic redshifts, five bands each, in one HDF5 file of up to 50 GB.

    image [N, 5, H, W] float32 (H = W = 64 or 127), bands g, r, i, z, y at 0.168 arcsec a pixel; beside it a
    column [N] for each quantity. All that is known of it (SCALARS, OF_A_BAND) becomes metadata,
    one row an object:

    object                 object_id
    ra, dec                degrees
    redshift               specz_redshift; 9.99 and more is a failure: missing
    magnitude_<b>          <b>_cmodel_mag, AB; missing unless between 0 and 50
    snr_<b>                2.5 / ln 10 / <b>_cmodel_magsigma
    sersic_index           i_sersic_index
    half_light_radius      i_half_light_radius * 0.168, arcsec
    ellipticity            i_ellipticity, 1 - B/A
    pixel_scale            0.168 arcsec, of the resampled image
    galaxiesml_<key>       every other column as it is, in the unit of the catalogue:
                           radii and axes in its pixels

    The i band, which HSC observes in its best seeing, is the reference of the shapes. A number that is not
    finite is missing (NaN), a column that is not there too. `y_coord`, `y_coord_x` and `y_coord_y` are
    positions, not band y: names are looked up whole. There is no lens label: it is -1, unknown.

Files as the request for this converter imagined them are read as well: `images` for image, channels also last
([N, H, W, 5], if the shape leaves no doubt), `redshift`, `sersic_n` (or `sersic_index`), `half_light_radius`
(in pixels), `ellipticity`, `label` or `labels` (1, 0, -1). A name of the catalogue, where it is there, comes
first. Without object_id an object is <name of the file>_<its row>.

An object_id that comes a second time is quarantined there, as object <id>#<row>: two names would fall into
two splits. Only what is in the file itself is read (no links, external storage, virtual data sets)
and sizes are compared with what is stored before memory is taken.
Source: Do et al. 2024, arXiv 2410.00271; Zenodo 10.5281/zenodo.11117528.
"""

import math
import os
import re
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import h5py
import numpy as np
import pandas as pd

from data.catalogues import hdf5
from data.catalogues.resample import crop_start, cropped, resampled, rescaled_pixel_scale
from data.cutouts.fits import first_line
from utils.mistake import Mistake

BANDS, REFERENCE = "grizy", "i"
PIXEL_SCALE = 0.168  # arcsec
SNR_TIMES_ERROR = 2.5 / math.log(10)  # magnitude error = 2.5 / ln 10 / snr
FAILED_REDSHIFT, FAINTEST = 9.99, 50.0
# Unit and meaning: the README of the data set.
SCALARS = (
    "coord",
    "ra",
    "dec",
    "skymap_id",
    "specz_name",
    "specz_ra",
    "specz_dec",
    "specz_redshift",
    "specz_redshift_err",
    "specz_mag_i",
    "specz_flag_homogeneous",
    "x_coord",
    "y_coord",
    "x_coord_x",
    "x_coord_y",
    "y_coord_x",
    "y_coord_y",
)
OF_A_BAND = (
    "cmodel_mag",
    "cmodel_magsigma",
    "sersic_index",
    "half_light_radius",
    "ellipticity",
    "major_axis",
    "minor_axis",
    "isophotal_area",
    "petro_rad",
    "peak_surface_brightness",
    "pos_angle",
    "central_image_pop_5px_rad",
    "central_image_pop_10px_rad",
    "central_image_pop_15px_rad",
)
IMAGES, LABELS = ("image", "images"), ("label", "labels")

MOST_OBJECTS, LARGEST_SIDE = 2_000_000, 4096
LARGEST_CACHE = 2**29  # bytes of unpacked chunks that are kept for the next objects
LONGEST_VECTOR = 8
STEP = 2**25  # bytes of the file that are held while a block is cropped or resampled


class GalaxiesML:
    """A Source (data/cutouts/source.py) whose rows go object by object, band by band.
    It keeps the file open.
    """

    def __init__(self, path: str | os.PathLike, image_size: int = 0, crop: int = 0, split: str = ""):
        self.path = os.path.abspath(path)
        named = re.search(r"training|validation|testing", os.path.basename(self.path))
        self.split = split or (named[0] if named else "")
        self.file = hdf5.opened_hdf5(self.path)
        try:
            self.image, self.channels_last = _image(self.path, self.file)
        except BaseException:
            # HDF5 knows a file by its inode: one that is mended would be taken for this one
            self.file.close()
            raise
        self.objects = self.image.shape[0]
        self.stored = self.image.shape[1:3] if self.channels_last else self.image.shape[2:]
        if crop:
            crop_start(self.stored, crop)  # raises where it is too large
        if not 0 <= image_size <= LARGEST_SIDE:
            raise Mistake(
                f"image_size {image_size} is not a number of pixels: expected 1 to {LARGEST_SIDE}, or 0 for "
                "the size of the file"
            )
        self.crop = crop
        kept = (crop, crop) if crop else self.stored
        self.shape = (image_size, image_size) if image_size else kept
        self.pixel_scale = rescaled_pixel_scale(PIXEL_SCALE, kept, self.shape)
        self.recipe = {
            "kind": "galaxiesml",
            "path": self.path,
            "image_size": image_size,
            "crop": crop,
            "split": self.split,
        }

    @cached_property
    def index(self) -> pd.DataFrame:
        row = np.repeat(np.arange(self.objects), len(BANDS))
        path = pd.array([f"{self.path}#{number}" for number in range(self.objects)], dtype="str")
        return pd.DataFrame(
            {
                "path": path.take(row),
                "object": pd.array(self.names, dtype="str").take(row),
                "band": pd.array(list(BANDS), dtype="str").take(np.tile(np.arange(len(BANDS)), self.objects)),
                "domain": "galaxiesml",
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
        ids = self._column("object_id")
        if ids is not None and (ids == "").any():
            raise Mistake(f"{self.path!r}: object_id of row {np.flatnonzero(ids == '')[0]} is empty")
        return ids

    @cached_property
    def seen_before(self) -> np.ndarray:
        """[objects] bool, true where an earlier object has the same object_id."""
        first = np.ones(self.objects, dtype=bool)
        if self.ids is not None:
            first[:] = False
            first[np.unique(self.ids, return_index=True)[1]] = True
        return ~first

    @cached_property
    def labels(self) -> tuple[np.ndarray, str]:
        """int8 [objects], and where they are from: "" if the file has none, as the catalogue has not."""
        name = next((name for name in LABELS if self._has(name)), "")
        values = self._column(name) if name else np.full(self.objects, -1)
        if values.dtype == object or not np.isin(values, (-1, 0, 1)).all():
            raise Mistake(f"{self.path!r}: {name} holds other values than 1, 0 and -1 (unknown)")
        return values.astype(np.int8), "file:galaxiesml" if name else ""

    @cached_property
    def metadata(self) -> pd.DataFrame:
        known: dict[str, Any] = dict(
            object=self.names,
            source_catalog="GalaxiesML",
            instrument="HSC",
            bands=BANDS,
            ra=self._number("ra"),
            dec=self._number("dec"),
            redshift=self._number("specz_redshift", "redshift"),
        )
        known["redshift"][~(known["redshift"] < FAILED_REDSHIFT)] = np.nan
        known["pixel_scale"] = self.pixel_scale
        for band in BANDS:
            magnitude, error = self._number(f"{band}_cmodel_mag"), self._number(f"{band}_cmodel_magsigma")
            known[f"magnitude_{band}"] = np.where((magnitude > 0) & (magnitude < FAINTEST), magnitude, np.nan)
            known[f"snr_{band}"] = SNR_TIMES_ERROR / np.where(error > 0, error, np.nan)
        known["sersic_index"] = self._number(f"{REFERENCE}_sersic_index", "sersic_index", "sersic_n")
        known["half_light_radius"] = (
            self._number(f"{REFERENCE}_half_light_radius", "half_light_radius") * PIXEL_SCALE
        )
        known["ellipticity"] = self._number(f"{REFERENCE}_ellipticity", "ellipticity")
        known["label_source"] = self.labels[1]
        known["galaxiesml_split"] = self.split
        return pd.DataFrame(known | dict(self._own_columns()), copy=False)

    def _own_columns(self) -> Iterator[tuple[str, np.ndarray]]:
        """What the catalogue has beyond the schema; a vector as columns of their own, numbered."""
        mapped = {"ra", "dec", "specz_redshift", *(f"{band}_cmodel_mag" for band in BANDS)}
        for key in (*SCALARS, *(f"{band}_{name}" for band in BANDS for name in OF_A_BAND)):
            values = self._column(key) if key not in mapped else None
            if values is not None and values.ndim == 1:
                yield f"galaxiesml_{key}", values
            elif values is not None:
                yield from ((f"galaxiesml_{key}_{number}", column) for number, column in enumerate(values.T))

    def _number(self, *names: str) -> np.ndarray:
        """float64 [objects], of the first of these columns that the file has; missing if it has none."""
        name = next((name for name in names if self._has(name)), "")
        if not name:
            return np.full(self.objects, np.nan)
        values = self._column(name)
        if values.dtype == object or values.ndim > 1:
            raise Mistake(f"{self.path!r}: {name} is not a column of numbers")
        return values.astype(np.float64)

    def _has(self, name: str) -> bool:
        with hdf5.reading_hdf5(self.path, name):
            return self.file.id.links.exists(name.encode())

    def _column(self, name: str) -> np.ndarray | None:
        if not self._has(name):
            return None
        with hdf5.reading_hdf5(self.path, name):
            return _column(
                self.path,
                name,
                hdf5.hdf5_dataset(self.path, self.file, name),
                self.objects,
                whole=name == "object_id",
            )

    def read(self, rows: range) -> tuple[np.ndarray, dict[int, str]]:
        """(float32 [n, H, W], {row: reason}) of rows of the index, see data/cutouts/source.py."""
        first, end = rows.start // len(BANDS), -(-rows.stop // len(BANDS))
        parts = []
        reasons = {}
        for start in range(first - first % self.step, end, self.step):
            start, stop = max(start, first), min(start + self.step, end)
            pixels, unread = self._objects(start, stop)
            if self.crop:
                pixels = np.ascontiguousarray(cropped(pixels, self.crop))
            for row, count in _not_finite(pixels):
                reasons[start * len(BANDS) + row] = (
                    f"{count} of {pixels[0].size} pixels are not finite (NaN, infinite or beyond float32)"
                )
                pixels[row] = 0
            reasons |= {
                number * len(BANDS) + band: reason
                for number, reason in unread.items()
                for band in range(len(BANDS))
            }
            parts.append(resampled(pixels, self.shape))
        images = parts[0] if len(parts) == 1 else np.concatenate(parts)
        for number in (first + np.flatnonzero(self.seen_before[first:end])).tolist():
            its = range(number * len(BANDS), (number + 1) * len(BANDS))
            images[its.start - first * len(BANDS) : its.stop - first * len(BANDS)] = 0
            reasons |= dict.fromkeys(its, f"object_id {self.ids[number]} is doubled, an earlier row has it")
        return images[rows.start - first * len(BANDS) : rows.stop - first * len(BANDS)], {
            row: reasons[row] for row in sorted(reasons) if row in rows
        }

    @cached_property
    def step(self) -> int:
        """Objects that are read at once: what STEP holds, in whole chunks of the file."""
        held = max(1, STEP // (len(BANDS) * math.prod(self.stored) * 4))
        chunk = (self.image.chunks or (1,))[0]
        return max(chunk, held // chunk * chunk)

    def _objects(self, start: int, stop: int) -> tuple[np.ndarray, dict[int, str]]:
        """float32 [5 (stop - start), H, W] in one slice of the file; {object:
        reason} of those that HDF5 cannot read, zero there.
        """
        pixels = np.empty((stop - start, *self.image.shape[1:]), np.float32)
        unread = {}
        try:
            self.image.read_direct(pixels, np.s_[start:stop])
        except (OSError, RuntimeError) as error:
            hdf5.raise_trouble(error, self.path)
            if stop - start > 1:  # halves, until those are found that are damaged
                middle = (start + stop) // 2
                halves, reasons = zip(self._objects(start, middle), self._objects(middle, stop))
                return np.concatenate(halves), {**reasons[0], **reasons[1]}
            pixels[:], unread = 0, {start: f"unreadable ({first_line(error)})"}
        if self.channels_last:
            pixels = np.ascontiguousarray(np.moveaxis(pixels, 3, 1))
        return pixels.reshape(-1, *self.stored), unread


def open_source(path: str | os.PathLike, image_size: int = 0, crop: int = 0, split: str = "") -> GalaxiesML:
    """The images and objects of a GalaxiesML file; nothing but its structure is read yet.

    split: of the catalogue's own, kept as galaxiesml_split; "": what the file's name says.
    crop: side in pixels of the centre that is kept, 0: all. image_size:
        side to which that is resampled, flux conserved, 0: as it is.
    Raises: Mistake if it is no such file; OSError for trouble of the machine.
    """
    return GalaxiesML(path, image_size, crop, split)


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


def _image(path: str, file: h5py.File) -> tuple[h5py.Dataset, bool]:
    """The images, checked, and whether their channels come last."""
    with hdf5.reading_hdf5(path, "its list of data sets"):
        name = next((name for name in IMAGES if file.id.links.exists(name.encode())), None)
    if name is None:
        raise Mistake(
            f"{path!r} has no data set {' or '.join(IMAGES)}: expected a GalaxiesML file, image [N, 5, H, W]"
        )
    with hdf5.reading_hdf5(path, name):
        image = hdf5.hdf5_dataset(path, file, name)
        shape, kind = image.shape, image.dtype
        if kind.kind not in "fiu" or kind.itemsize > 8:
            raise Mistake(f"{path!r}: {name} is of type {kind}, expected float32")
        if shape is None or len(shape) != 4 or (shape[1] == len(BANDS)) == (shape[3] == len(BANDS)):
            raise Mistake(f"{path!r}: {name} has shape {shape}, expected [N, 5, H, W] (or [N, H, W, 5])")
        sides = shape[2:] if shape[1] == len(BANDS) else shape[1:3]
        if not (1 <= shape[0] <= MOST_OBJECTS and all(1 <= side <= LARGEST_SIDE for side in sides)):
            raise Mistake(
                f"{path!r}: {name} has shape {shape}, expected 1 to {MOST_OBJECTS:,} objects of at most "
                f"{LARGEST_SIDE} pixels a side"
            )
        hdf5.check_stored(path, name, image)
        return _with_cache(file, name, image), shape[1] != len(BANDS)


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


def _column(path: str, name: str, data: h5py.Dataset, objects: int, whole: bool) -> np.ndarray:
    """[objects] or [objects, k] numbers, those that are not finite NaN; or [objects] texts. whole:
    identifiers, not fractions.
    """
    shape, kind = data.shape, data.dtype
    text = h5py.check_string_dtype(kind)
    if not (text or (kind.kind in "fiub" and kind.itemsize <= 8)) or (whole and kind.kind in "fb"):
        expected = "whole numbers: others have too few digits" if whole else "numbers or text"
        raise Mistake(f"{path!r}: {name} is of type {kind}, expected {expected}")
    vector = (
        shape is not None and len(shape) == 2 and 1 <= shape[1] <= LONGEST_VECTOR and not text and not whole
    )
    if shape is None or shape[:1] != (objects,) or not (len(shape) == 1 or vector):
        raise Mistake(f"{path!r}: {name} has shape {shape}, expected one value for each of {objects} objects")
    if text:
        return np.array(hdf5.texts_of(path, name, data), dtype=object)
    hdf5.check_stored(path, name, data)
    values = data[()]
    if kind.kind == "f" and not (finite := np.isfinite(values)).all():
        values[~finite] = np.nan
    return values
