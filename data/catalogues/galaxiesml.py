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
([N, H, W, 5], if the shape leaves no doubt, or by --channels), `redshift`, `sersic_n` (or `sersic_index`),
`half_light_radius` (in pixels), `ellipticity`, `label` or `labels` (1, 0, -1; other classes are kept as
galaxiesml_label). A name of the catalogue, where it is there, comes first. Columns may also be fields of a
compound table of a row an object (data/catalogues/hdf5/columns.py). Without object_id, or another column of
ids, an object is <name of the file>_<its row>.

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

import numpy as np
import pandas as pd

from data.catalogues.hdf5 import datasets
from data.catalogues.hdf5.images import Hdf5Images
from data.catalogues.resample import rescaled_pixel_scale
from data.formats import Format
from utils.mistake import Mistake

FORMATS = [
    Format(
        "GalaxiesML",
        "convert.py galaxiesml; image [N, 5, H, W] and a column for each quantity, in data sets or "
        "compound tables",
        "bands g, r, i, z, y; redshift, magnitudes, shapes of the i band; every other column of the "
        "catalogue as galaxiesml_<key>; label or labels where a file brings them",
        "no lens label: -1; links, external and virtual data sets, filters that h5py does not bring; "
        "columns that are not the catalogue's are named",
    ),
]
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
KEYS = (*SCALARS, *(f"{band}_{name}" for band in BANDS for name in OF_A_BAND))
IMAGINED = ("redshift", "sersic_index", "sersic_n", "half_light_radius", "ellipticity")
IMAGES = ("image", "images")


class GalaxiesML(Hdf5Images):
    """A Source (data/cutouts/source.py) whose rows go object by object, band by band.
    It keeps the file open.
    """

    kind = "galaxiesml"

    def __init__(
        self,
        path: str | os.PathLike,
        image_size: int = 0,
        crop: int = 0,
        split: str = "",
        channels: str = "auto",
    ):
        super().__init__(path, image_size, crop, channels, bands=BANDS, catalog="GalaxiesML")
        named = re.search(r"training|validation|testing", os.path.basename(self.path))
        self.split = split or (named[0] if named else "")
        self.pixel_scale = rescaled_pixel_scale(PIXEL_SCALE, self.kept, self.shape)
        self.recipe = {
            "kind": "galaxiesml",
            "path": self.path,
            "image_size": image_size,
            "crop": crop,
            "split": self.split,
        }
        if channels != "auto":  # else the digest of a store stays what it was
            self.recipe["channels"] = channels

    def _find(self, images: str) -> str:
        with datasets.reading_hdf5(self.path, "its list of data sets"):
            name = next((name for name in IMAGES if self.file.id.links.exists(name.encode())), None)
        if name is None:
            raise Mistake(
                f"{self.path!r} has no data set {' or '.join(IMAGES)}: expected a GalaxiesML file, image "
                "[N, 5, H, W]; other files are for convert.py hdf5"
            )
        return name

    def _order(self, shape: tuple[int, ...] | None) -> str:
        count = len(BANDS)
        by_shape = {"first": 1, "last": 3}
        fitting = (
            []
            if shape is None or len(shape) != 4
            else [order for order, axis in by_shape.items() if shape[axis] == count]
        )
        if self.channels != "auto":
            fitting = [order for order in fitting if order == self.channels]
        if len(fitting) == 1:
            if fitting[0] == "last":
                self.notes.append(f"{self.image_name} of shape {shape} is taken as [N, H, W, {count}]")
            return fitting[0]
        cure = "; say --channels first or --channels last" if fitting else ""
        other = "; Galaxy10 is for convert.py hdf5" if self._is_galaxy10() else ""
        raise Mistake(
            f"{self.path!r}: {self.image_name} has shape {shape}, expected [N, 5, H, W] (or [N, H, W, "
            f"5]){cure}{other}"
        )

    @cached_property
    def metadata(self) -> pd.DataFrame:
        known: dict[str, Any] = dict(
            object=self.names,
            source_catalog="GalaxiesML",
            instrument="HSC",
            bands=BANDS,
            ra=self.number("ra"),
            dec=self.number("dec"),
            redshift=self.number("specz_redshift", "redshift"),
        )
        known["redshift"][~(known["redshift"] < FAILED_REDSHIFT)] = np.nan
        known["pixel_scale"] = self.pixel_scale
        for band in BANDS:
            magnitude, error = self.number(f"{band}_cmodel_mag"), self.number(f"{band}_cmodel_magsigma")
            known[f"magnitude_{band}"] = np.where((magnitude > 0) & (magnitude < FAINTEST), magnitude, np.nan)
            known[f"snr_{band}"] = SNR_TIMES_ERROR / np.where(error > 0, error, np.nan)
        known["sersic_index"] = self.number(f"{REFERENCE}_sersic_index", "sersic_index", "sersic_n")
        known["half_light_radius"] = (
            self.number(f"{REFERENCE}_half_light_radius", "half_light_radius") * PIXEL_SCALE
        )
        known["ellipticity"] = self.number(f"{REFERENCE}_ellipticity", "ellipticity")
        known["label_source"] = self.labels[1]
        known["galaxiesml_split"] = self.split
        if self.class_column:
            known[f"galaxiesml_{self.class_column}"] = self.columns.column(self.class_column)
        return pd.DataFrame(known | dict(self._own_columns()), copy=False)

    def _own_columns(self) -> Iterator[tuple[str, np.ndarray]]:
        """What the catalogue has beyond the schema; a vector as columns of their own, numbered."""
        mapped = {"ra", "dec", "specz_redshift", *(f"{band}_cmodel_mag" for band in BANDS)}
        for key in KEYS:
            values = self.columns.column(key) if key not in mapped else None
            if values is not None and values.ndim == 1:
                yield f"galaxiesml_{key}", values
            elif values is not None:
                yield from ((f"galaxiesml_{key}_{number}", column) for number, column in enumerate(values.T))

    def unused_columns(self) -> dict[str, str]:
        known = {*KEYS, *IMAGINED, self.id_name, self.label_name}
        return {name: "not of the catalogue" for name in self.columns.names() if name not in known}


def open_source(
    path: str | os.PathLike, image_size: int = 0, crop: int = 0, split: str = "", channels: str = "auto"
) -> GalaxiesML:
    """The images and objects of a GalaxiesML file; nothing but its structure is read yet.

    split: of the catalogue's own, kept as galaxiesml_split; "": what the file's name says.
    crop: side in pixels of the centre that is kept, 0: all. image_size:
        side to which that is resampled, flux conserved, 0: as it is. channels: "auto", "first" or "last".
    Raises: Mistake if it is no such file; OSError for trouble of the machine.
    """
    return GalaxiesML(path, image_size, crop, split, channels)
