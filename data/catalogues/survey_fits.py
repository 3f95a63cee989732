"""FITS images of any survey, and a table that says which they are.

A row of the table is an object or an image of it. Its columns are known by their names, in capitals or not,
or by a mapping `ours=theirs`:

    object (or id)      whose images; without it the file's name without its band
    file                the image, by its path below the folder or by its name alone;
                        without it all files named <object> or <object>_<band>
    hdu, plane          where in that file: the number of the HDU from 0,
                        of the plane of a cube from 0 (a stack of objects)
    band                of that file; without it what the name says after the object, or at its end (_g, _Ks,
                        _f814w), or else the card FILTER or BAND
    label               1 lens, 0 none, -1 or empty: unknown
    ra, dec, redshift, magnitude_g ... every field of data/cutouts/metadata.py

A column that is mapped and is no such field is kept as <catalog>_<ours>; all others are left out. Where the
table says no ra, dec or pixel_scale the headers do (data/catalogues/sky.py). With `planes` every file is a
cube of these bands. A file with pixels that are not finite is refused, or, with max_masked, these are filled
by the mean of their neighbours up to that share (data/catalogues/masked.py; <catalog>_masked_fraction says
how many they were, the largest of an object's images). Rows that name no file, and files that no row names,
are counted and named in the report; neither is packed.
"""

import os
import re
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from data.catalogues.masked import check_max_masked, filled_pixels, masked_share
from data.catalogues.planes import (
    central_pixels,
    check_finite,
    check_geometry,
    check_shape,
    common_shape,
    file_stem,
    fits_files,
    fitted_images,
    geometries,
    image_of,
    joined_bands,
    read_hdus,
    read_plane,
    shape_text,
)
from data.catalogues.resample import rescaled_pixel_scale
from data.catalogues.sky import card_value, place_on_sky
from data.catalogues.tables import MISSING, is_numeric, numeric_column, read_table
from data.cutouts.fits import BadFile
from data.cutouts.metadata import FIELDS, field_of
from utils.messages import first_of
from utils.mistake import Mistake

OURS = {"object", "file", "hdu", "plane", "band", "label"}
ALIASES = {"id": "object", "filename": "file"}
BAND_AT_END = re.compile(r"(.+)_([ugrizyUBVRIYJHK]|Ks|VIS|vis|[FfGg]\d{3,4}[A-Za-z]{1,2})")
TEXTS = {field.name for field in FIELDS if field.type is str}
LABELS = {
    "1": 1,
    "1.0": 1,
    "true": 1,
    "lens": 1,
    "0": 0,
    "0.0": 0,
    "false": 0,
    "nonlens": 0,
    "-1": -1,
    "-1.0": -1,
} | dict.fromkeys(MISSING, -1)
LOOKED_AT = 200


def open_source(
    input: str,
    table: str,
    columns: list[str] | tuple[str, ...] = (),
    catalog: str = "survey",
    planes: list[str] | tuple[str, ...] = (),
    label_source: str = "",
    max_masked: float = 0.0,
    image_size: int = 0,
    crop: int = 0,
) -> "SurveyFits":
    """The images of a folder that a table names. Raises: Mistake.

    columns: mapping, "ours=theirs" each. catalog: its name. planes: the bands of cubes. label_source:
        who says so, "": the catalog.
    max_masked: share of pixels that are not finite and still filled. image_size, crop: pixels, 0 for none.
    """
    return SurveyFits(
        input, table, list(columns), catalog, list(planes), label_source, max_masked, image_size, crop
    )


class Image(NamedTuple):
    """Where the pixels of an image are."""

    path: str
    hdu: int | None  # None: the first with pixels
    plane: int | None

    @property
    def name(self) -> str:
        where = [str(number) for number in (self.hdu, self.plane) if number is not None]
        return self.path + ("#" + ",".join(where) if where else "")


class SurveyFits:
    """A Source (data/cutouts/source.py); the index follows from names and the table. report:
    lines for the log.
    """

    def __init__(
        self,
        input: str,
        table: str,
        columns: list[str],
        catalog: str,
        planes: list[str],
        label_source: str,
        max_masked: float,
        image_size: int,
        crop: int,
    ):
        check_geometry(image_size, crop)
        check_max_masked(max_masked)
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", catalog):
            raise Mistake(f"--catalog {catalog!r}: expected a name of letters, digits and _")
        if len(set(planes)) < len(planes):
            raise Mistake(f"--planes {' '.join(planes)}: expected a name each, none twice")
        self.catalog = catalog
        self.planes = planes
        self.max_masked = max_masked
        self.image_size = image_size
        self.crop = crop
        self.recipe: dict[str, Any] = {
            "kind": "survey_fits",
            "input": os.path.abspath(input),
            "table": os.path.abspath(table),
            "columns": columns,
            "catalog": catalog,
            "planes": planes,
            "label_source": label_source,
            "max_masked": max_masked,
            "image_size": image_size,
            "crop": crop,
        }
        self.label_source = label_source or catalog
        files = fits_files(input)
        if os.path.realpath(table) in map(os.path.realpath, files):  # a FITS table that lies among the images
            files = [path for path in files if os.path.realpath(path) != os.path.realpath(table)]
        self.report: list[str] = []
        self.table = self._mapped(table, columns)
        rows = self._rows(os.path.abspath(input), files)
        # one object on adjacent rows, in the order of the table
        first: dict[str, int] = {}
        for number, row in enumerate(rows):
            first.setdefault(row[0], number)
        rows.sort(key=lambda row: first[row[0]])
        self.images, self.table_rows = [row[3] for row in rows], [row[4] for row in rows]
        self.index = pd.DataFrame(
            [(row[3].name, row[0], row[1], catalog, row[2]) for row in rows],
            columns=["path", "object", "band", "domain", "label"],
        ).astype({"label": np.int8})
        self.shape = self._shape()

    def _mapped(self, path: str, columns: list[str]) -> pd.DataFrame:
        """The table under our names."""
        table = read_table(path, "--table")
        names = {}
        for text in columns:
            ours, equals, theirs = (part.strip() for part in text.partition("="))
            if not (equals and re.fullmatch(r"[A-Za-z]\w*", ours) and theirs):
                raise Mistake(f"--columns {text!r}: expected ours=theirs, such as redshift=z")
            if theirs not in table.columns:
                raise Mistake(
                    f"--columns {text!r}: {path!r} has no column {theirs!r}, it has "
                    f"{', '.join(table.columns[:12])}"
                )
            names[ours if ours in OURS or field_of(ours) else f"{self.catalog}_{ours}"] = theirs
        for theirs in table.columns:
            ours = ALIASES.get(theirs.lower(), theirs.lower())
            ours = theirs if field_of(theirs) else ours  # bands are told apart by their case: magnitude_Y
            if (ours in OURS or field_of(ours)) and ours not in names:
                names[ours] = theirs
        if not {"object", "file"} & names.keys():
            raise Mistake(
                f"--table {path!r} has no column that names its images, it has "
                f"{', '.join(table.columns[:12])}: expected object (or id) or file, or --columns object=NAME"
            )
        return pd.DataFrame({ours: table[theirs] for ours, theirs in names.items()})

    def _rows(self, top: str, files: list[str]) -> list[tuple[str, str, int, Image, int]]:
        """(object, band, label, image, row of the table) of each image."""
        by_name: dict[str, list[str]] = {}
        by_object: dict[str, list[str]] = {}
        for path in files:
            by_name.setdefault(os.path.basename(path), []).append(path)
            by_name.setdefault(os.path.relpath(path, top), [path])
            found = BAND_AT_END.fullmatch(file_stem(path))
            for name in dict.fromkeys((file_stem(path), found[1] if found else file_stem(path))):
                by_object.setdefault(name, []).append(path)
        labels = self._labels()
        hdu = self._integers("hdu")
        plane = self._integers("plane")
        column = {
            name: self.table[name].tolist() for name in ("object", "file", "band") if name in self.table
        }
        rows = []
        used = set()
        without = []
        for row in range(len(self.table)):
            name = column["file"][row].replace("\\", "/") if "file" in column else ""
            known = column["object"][row] if "object" in column else ""
            if "file" in column:
                paths = by_name.get(os.path.normpath(name)) or by_name.get(os.path.basename(name), [])
                if len(paths) > 1:
                    raise Mistake(
                        f"--table: file {name!r} of row {row + 1} is there {len(paths)} times ({paths[0]}, "
                        f"{paths[1]}): give its path below the folder"
                    )
            else:
                paths = by_object.get(known, [])
            if not paths:
                without.append(name or known)
            used.update(paths)
            for path in paths:
                bare, band = self._named(path, known, column["band"][row] if "band" in column else "")
                if not (band or self.planes):
                    band = self._band_of_header(Image(path, hdu[row], None))
                for number, each in enumerate(self.planes or [band]):
                    of_plane = number if self.planes else plane[row]
                    rows.append((known or bare, each, labels[row], Image(path, hdu[row], of_plane), row))
        if not rows:
            raise Mistake(
                f"--table: none of its {len(self.table):,} rows names one of {len(files):,} files; it begins "
                f"with {without[0]!r}, the files with {os.path.basename(files[0])!r}: give the table of "
                "these images, or --columns file=NAME"
            )
        self.report.append(f"{len(rows):,} images, {len(self.table):,} rows of the table")
        unused = [os.path.basename(path) for path in files if path not in used]
        for what, names in (
            ("rows without a file, not packed", without),
            ("files without a row, not packed", unused),
        ):
            if names:
                self.report.append(f"{what}: {len(names):,} ({first_of(names)})")
        return rows

    @staticmethod
    def _named(path: str, known: str, band: str) -> tuple[str, str]:
        """(object, band) as far as the name of the file says it."""
        bare = file_stem(path)
        if not band and known and bare.startswith(known + "_"):
            return known, bare[len(known) + 1 :]
        found = BAND_AT_END.fullmatch(bare)
        return (found[1], band or found[2]) if found else (bare, band)

    def _band_of_header(self, image: Image) -> str:
        try:
            primary, hdu = self._hdu(image)
        except BadFile:  # `read` says so
            return ""
        return next(
            filter(
                None,
                (
                    str(card_value(header, name))
                    for name in ("FILTER", "BAND")
                    for header in (hdu.header, primary)
                ),
            ),
            "",
        )

    def _labels(self) -> list[int]:
        if "label" not in self.table:
            return [-1] * len(self.table)
        texts = self.table["label"].str.lower()
        if (wrong := ~texts.isin(LABELS.keys())).any():
            row = int(np.flatnonzero(wrong)[0])
            raise Mistake(
                f"--table: label {self.table['label'].iloc[row][:60]!r} in row {row + 1}, expected 1 (lens), "
                "0, or -1 or nothing (unknown)"
            )
        return texts.map(LABELS).tolist()

    def _integers(self, name: str) -> list[int | None]:
        if name not in self.table:
            return [None] * len(self.table)
        values = numeric_column(self.table, name, "--table")
        wrong = np.isfinite(values) & ((values < 0) | (values != np.floor(values)) | (values > 1e6))
        if wrong.any():
            raise Mistake(f"--table: {name} {values[wrong][0]:g}, expected a whole number from 0")
        return [None if np.isnan(value) else int(value) for value in values]

    def _shape(self) -> tuple[int, int]:
        some = self.images[:: max(1, len(self.images) // LOOKED_AT)]
        shapes = geometries(
            ((image.name, lambda image=image: self._hdu(image)[1].plane_shape) for image in some), "images"
        )
        return common_shape(shapes, self.image_size, self.crop)

    # ---- metadata

    @cached_property
    def metadata(self) -> pd.DataFrame:
        first = np.flatnonzero(~self.index["object"].duplicated().to_numpy()).tolist()
        rows = np.array(self.table_rows)[first]
        columns: dict[str, Any] = {
            "object": self.index["object"].to_numpy()[first],
            "source_catalog": self.catalog,
        }
        for name in self.table.columns:
            if name not in OURS:
                is_text = name in TEXTS or not field_of(name) and not is_numeric(self.table[name])
                columns[name] = (
                    self.table[name].to_numpy()[rows]
                    if is_text
                    else numeric_column(self.table, name, "--table")[rows]
                )
        metadata = pd.DataFrame(columns)
        metadata["bands"] = (
            self.index.groupby("object", sort=False)["band"]
            .agg(lambda bands: joined_bands(dict.fromkeys(bands)))
            .to_numpy()
        )
        labelled = self.index["label"].to_numpy()[first] >= 0
        if "label_source" not in metadata:
            metadata["label_source"] = np.where(labelled, self.label_source, "")
        of_files = pd.DataFrame([self._said_by_file(self.images[row]) for row in first])
        if self.max_masked:
            masked = (
                pd.Series([self._masked_fraction(image) for image in self.images])
                .groupby(self.index["object"], sort=False)
                .max()
            )
            metadata[f"{self.catalog}_masked_fraction"] = masked.to_numpy()
        if "pixel_scale" in metadata:  # of the files; the images may have other pixels
            metadata["pixel_scale"] *= of_files["factor"]
        for name in of_files.columns.drop("factor"):
            if name not in metadata:
                metadata[name] = of_files[name]
            elif name != "instrument":
                metadata[name] = metadata[name].fillna(of_files[name])
        return metadata

    def _said_by_file(self, image: Image) -> dict:
        try:
            primary, hdu = self._hdu(image)
        except BadFile:
            return {"ra": np.nan, "dec": np.nan, "pixel_scale": np.nan, "instrument": "", "factor": np.nan}
        kept = (self.crop, self.crop) if self.crop else hdu.shape[-2:]
        factor = rescaled_pixel_scale(1.0, kept, self.shape) if self.image_size else 1.0
        try:
            found = place_on_sky(hdu.shape, hdu.header, primary, image_size=self.image_size, crop=self.crop)
        except Mistake:  # smaller than the crop: `read` says so
            found = place_on_sky(hdu.shape, hdu.header, primary)
        named = [
            str(card_value(header, name))
            for name in ("INSTRUME", "TELESCOP")
            for header in (hdu.header, primary)
        ]
        return {
            "ra": found.ra,
            "dec": found.dec,
            "pixel_scale": found.pixel_scale,
            "instrument": next(filter(None, named), ""),
            "factor": factor,
        }

    # ---- pixels

    def read(self, rows: range) -> tuple[np.ndarray, dict[int, str]]:
        images = np.zeros((len(rows), *self.shape), dtype=np.float32)
        bad = {}
        for at, row in enumerate(rows):
            try:
                image = fitted_images(self._image(self.images[row])[None], self.image_size, 0)
                check_shape(image, self.shape)
                images[at] = image[0]
            except BadFile as error:
                bad[row] = str(error)
        return images, bad

    def _masked_fraction(self, image: Image) -> float:
        try:
            return float((~np.isfinite(self._cut(image))).mean())
        except BadFile:  # `read` says so
            return np.nan

    def _image(self, image: Image) -> np.ndarray:
        """[H, W], cropped, every pixel finite. Raises: BadFile."""
        found = self._cut(image)
        mask = ~np.isfinite(found)
        if self.max_masked and mask.any():
            masked_share(mask, self.max_masked)
            found = filled_pixels(found, mask)
        check_finite(found)
        return found

    def _cut(self, image: Image) -> np.ndarray:
        found = _pixels(image.path, image.hdu)
        if found.ndim == 3 and image.plane is not None:
            if self.planes and len(found) != len(self.planes):
                raise BadFile(f"{len(found)} planes, expected those of --planes {' '.join(self.planes)}")
            if image.plane >= len(found):
                raise BadFile(f"no plane {image.plane}: it has {len(found)}, from 0")
            found = found[image.plane]
        if found.ndim != 2:
            raise BadFile(
                f"wrong geometry: {shape_text(found.shape)}, expected H x W (a column `plane`, or --planes, "
                "for cubes)"
            )
        return central_pixels(found, self.crop)

    @staticmethod
    def _hdu(image: Image) -> tuple:
        return _hdu(image.path, image.hdu)


def _hdu(path: str, number: int | None) -> tuple:
    """(primary header, HDU)."""
    if number is None:
        return image_of(path)
    found = _hdus(path)
    if number >= len(found):
        raise BadFile(f"no HDU {number}: it has {len(found)}, from 0")
    if not found[number].shape:
        raise BadFile(f"HDU {number} has no image")
    return found[0].header, found[number]


@lru_cache(maxsize=4)
def _hdus(path: str) -> tuple:
    """Kept, for files of many images."""
    return tuple(read_hdus(path))


@lru_cache(maxsize=6)
def _pixels(path: str, number: int | None) -> np.ndarray:
    """Kept, for stacks of which each object has a plane in the file of each band."""
    found = read_plane(path, _hdu(path, number)[1])
    found.flags.writeable = False
    return found
