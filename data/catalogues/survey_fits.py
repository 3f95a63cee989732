"""FITS images of any survey, and a table that says which they are; or without one, as their names say it.

A row of the table is an object or an image of it. Its columns are known by their names, in capitals or not,
or by a mapping `ours=theirs`:

    object (or id)      whose images; without it the file's name without its band
    file                the image, by its path below the folder or by its name alone;
                        without it all files named <object> or <object>_<band>
    hdu, plane          where in that file: the number of the HDU from 0, or its EXTNAME (SCI; SCI,2 with
                        EXTVER), of the plane of a cube from 0 (a stack of objects)
    band                of that file; without it what the name says after the object, or at its end (_g, _Ks,
                        _F814W), or else HDUs that are named by bands, or else the card FILTER or its like
    label               1 lens, 0 none (1.00, True, lens ... too), -1 or empty: unknown; of an object whose
                        rows contradict each other it is unknown
    group               whose objects are never in two splits: copies, overlaps, one galaxy under several ids
    ra, dec, redshift, magnitude_g ... every field of data/cutouts/metadata.py

A file whose images are named by bands (EXTNAME VIS, Y, J, H or SCI_g ...) gives an image a band. Bands get
their usual names (data/bands.py) where a file or header says them, and by band_alias; those of the column and
of `planes` stay as they are.

A column that is mapped and is no such field is kept as <catalog>_<ours>; all others are left out, and named.
A number that stands for none (-99, 99, -999, 9999 and the like, where the column cannot have it) is missing.
Where the table says no ra, dec or pixel_scale the headers do (data/catalogues/sky.py). With `planes` every
file is a cube of these bands. A file with pixels that are not finite, have a fill value
(data/cutouts/blank.py), or are masked by an HDU beside the image (MASK, DQ, INVVAR, WHT ..., or mask_hdu) is
refused, or, with max_masked, these are filled by the mean of their neighbours up to that share
(data/catalogues/masked.py;
<catalog>_masked_fraction says how many they were, the largest of an object's images). Rows that name no
file, and files that no row names, are counted and named in the report; neither is packed.
"""

import os
import re
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from data.bands import (
    band_called,
    check_apart,
    is_band,
    read_aliases,
    said_of_bands,
    unused_aliases,
    usual_name,
)
from data.catalogues.hdu_bands import bands_within, filter_of
from data.catalogues.headers import look_at_headers
from data.catalogues.masked import (
    check_max_masked,
    filled_pixels,
    mask_of,
    masked_share,
    masks_beside,
    unmeasured,
)
from data.catalogues.planes import (
    Hdu,
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
from data.catalogues.tables import MISSING, is_numeric, label_values, numeric_column, read_table
from data.cutouts.blank import fill_mask, reason_without_sky
from data.cutouts.fits import BadFile
from data.cutouts.metadata import FIELDS, field_of, is_placeholder, placeholder_lines
from data.formats import Format
from data.names import name_pattern
from utils.messages import first_of
from utils.mistake import Mistake

OURS = {"object", "file", "hdu", "plane", "band", "label"}
# what catalogues call the same, the likelier first: of several that are there one is taken, and that is said
CALLED = {
    "object": "id object_id objectid objid obj_id source_id sourceid coadd_object_id coadd_objects_id "
    "galaxy_id cutout_id name objname obj_name object_name target targetname target_name source iauname",
    "file": "filename file_name filepath file_path path fits fits_file image image_file cutout cutout_file",
    "ra": "raj2000 ra_j2000 ra_deg radeg right_ascension alpha_j2000 alphawin_j2000 ra_icrs ra_target",
    "dec": "dej2000 dec_j2000 dec_deg decdeg dedeg declination delta_j2000 deltawin_j2000 de_icrs dec_target",
    "redshift": "z_spec zspec z_phot zphot photo_z photoz",
    "band": "filter filter_name",
    "epoch": "ref_epoch",
}
WORDS = re.compile(r"[_\-. ]")  # between them
ALIASES = {theirs: ours for ours, names in CALLED.items() for theirs in names.split()}
MAY_BE_LABEL = re.compile(r"(?i).*(lens|label|class|grade|target|truth).*|y")
# sub-folders that say what their images are, without their blanks, _ and -
LABEL_FOLDERS = dict.fromkeys(["lens", "lenses", "stronglens", "stronglenses", "slsimlenses", "hsclenses"], 1)
LABEL_FOLDERS |= dict.fromkeys(["nonlens", "nonlenses", "notlens", "notlenses"], 0)
LABEL_FOLDERS |= dict.fromkeys(["slsimnonlenses", "hscnonlenses"], 0)
TEXTS = {field.name for field in FIELDS if field.type is str}
LOOKED_AT = 200
FORMATS = (
    Format(
        "images of any survey with a table",
        "`convert.py fits`: FITS files in a folder, and a CSV or FITS table",
        "2-D images and planes of cubes; an HDU by its number or EXTNAME; HDUs named by bands (VIS, Y, "
        "SCI_g, DECAM_G) are an image each; else the band by the column, the name, FILTER, BAND, FILTNAM, "
        "FILTER1 or 2, FILTERS",
        "an HDU that is not there: its image is quarantined; two bands of an object that have one name",
    ),
)


def open_source(
    input: str,
    table: str = "",
    columns: list[str] | tuple[str, ...] = (),
    catalog: str = "survey",
    planes: list[str] | tuple[str, ...] = (),
    label_source: str = "",
    max_masked: float = 0.0,
    mask_hdu: str = "",
    good_bits: int = 0,
    image_size: int = 0,
    crop: int = 0,
    band_alias: list[str] | tuple[str, ...] = (),
) -> "SurveyFits":
    """The images of a folder that a table names; without a table all of them. Raises: Mistake.

    columns: mapping, "ours=theirs" each. catalog: its name. planes: the bands of cubes. label_source:
        who says so, "": the catalog.
    max_masked: share of pixels that are masked or not finite and still filled.
    mask_hdu: EXTNAME or number of the mask in each file, "": by its name; "none".
    good_bits: of its flags, the sum of those that do not spoil a pixel.
    image_size, crop: pixels, 0 for none.
    band_alias: "theirs=ours" each, of bands.
    """
    return SurveyFits(
        input,
        table,
        list(columns),
        catalog,
        list(planes),
        label_source,
        max_masked,
        mask_hdu,
        good_bits,
        image_size,
        crop,
        list(band_alias),
    )


class Image(NamedTuple):
    """Where the pixels of an image are."""

    path: str
    hdu: int | str | None  # its number, or its EXTNAME; None: the first with pixels
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
        mask_hdu: str,
        good_bits: int,
        image_size: int,
        crop: int,
        band_alias: list[str],
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
        self.mask_hdu = mask_hdu
        self.good_bits = good_bits
        self.image_size = image_size
        self.crop = crop
        self.recipe: dict[str, Any] = {
            "kind": "survey_fits",
            "input": os.path.abspath(input),
            "table": os.path.abspath(table) if table else "",
            "columns": columns,
            "catalog": catalog,
            "planes": planes,
            "label_source": label_source,
            "max_masked": max_masked,
            "mask_hdu": mask_hdu,
            "good_bits": good_bits,
            "image_size": image_size,
            "crop": crop,
        }
        if band_alias:  # else the digest of a store stays what it was
            self.recipe["band_alias"] = band_alias
        self.aliases = read_aliases(band_alias)
        self.label_source = label_source or catalog
        self.report: list[str] = []
        files = fits_files(input, report=self.report)
        if table:  # a FITS table may lie among the images
            files = [path for path in files if os.path.realpath(path) != os.path.realpath(table)]
        self.apart: dict[str, dict[int, str]] = {}  # files whose HDUs are bands
        top = os.path.abspath(input)
        self.table = self._mapped(table, columns) if table else self._named_by_files(top, files, columns)
        self.numbers = self._numbers()
        rows = self._labelled_alike(self._each_image_once(self._rows(top, files)))
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
        self._report_objects(bool(table))
        self.shape = self._shape()

    def said_by_headers(self) -> tuple[list[str], list[list[float]]]:
        """Lines for the log on HDUs that are not used, masks that are, units and zero points; no pixel
        scales: the metadata have them.
        """
        images: dict[str, list[Image]] = {}
        bands: dict[str, str] = {}
        for image, band in zip(self.images, self.index["band"]):
            images.setdefault(image.path, []).append(image)
            bands.setdefault(image.path, band)
        masks: set[str] = set()

        def used(path: str, hdus: list[Hdu]) -> set[int]:
            numbers = set()
            for image in images[path]:
                hdu = self._hdu(image)[1]
                numbers.add(hdu.number)
                for mask in masks_beside(hdus, hdu, self.mask_hdu):
                    numbers.add(mask.number)
                    masks.add(mask.name)
            return numbers

        def image_of_file(path: str, hdus: list[Hdu]) -> Hdu:
            return self._hdu(images[path][0])[1]

        headers = look_at_headers(list(images), list(bands.values()), used, image_of_file, LOOKED_AT)
        lines = headers.lines()
        if masks:
            cure = "" if self.max_masked else "; --max_masked 0 refuses each image with such a pixel"
            lines.insert(0, f"masked by HDUs {', '.join(sorted(masks))}{cure}")
        return lines, []

    def _mapped(self, path: str, columns: list[str]) -> pd.DataFrame:
        """The table under our names."""
        table = read_table(path, "--table", said=self.report.append)
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
            ours = ALIASES.get(ours.lower(), ours)
            names[ours if ours in OURS or field_of(ours) else f"{self.catalog}_{ours}"] = theirs
        own = {theirs: theirs if field_of(theirs) else theirs.lower() for theirs in table.columns}
        for theirs, ours in own.items():  # bands are told apart by their case: magnitude_Y
            if ours in OURS or field_of(ours):
                names.setdefault(ours, theirs)
        lower = {theirs.lower(): theirs for theirs in table.columns[::-1]}
        taken = {}
        for ours, others in CALLED.items():
            there = [lower[name] for name in others.split() if name in lower]
            there = [name for name in there if name not in names.values()]
            if there and ours not in names:
                names[ours] = taken[ours] = there[0]
        if taken:
            self.report.append(
                "columns taken by what they are usually called: "
                + ", ".join(f"{ours}={theirs}" for ours, theirs in taken.items())
            )
        if not {"object", "file"} & names.keys():
            raise Mistake(
                f"--table {path!r} has no column that names its images, it has "
                f"{', '.join(table.columns[:12])}: expected object (or id) or file, or --columns object=NAME"
            )
        self._report_unused([name for name in table.columns if name not in names.values()], "label" in names)
        return pd.DataFrame({ours: table[theirs] for ours, theirs in names.items()})

    def _report_unused(self, unused: list[str], has_label: bool) -> None:
        if unused:
            line = f"columns of the table that are not used: {len(unused)} ({first_of(unused, 12)})"
            maybe = [name for name in unused if MAY_BE_LABEL.fullmatch(name)]
            if maybe and not has_label:
                line += f"; no label is known: is it {maybe[0]}? --columns label={maybe[0]}"
            self.report.append(line)

    def _named_by_files(self, top: str, files: list[str], columns: list[str]) -> pd.DataFrame:
        """A table of what the names of files and folders say, where there is no other."""
        if columns:
            raise Mistake(f"--columns {columns[0]!r}: names a column of --table, which is not given")
        relative = [os.path.relpath(path, top) for path in files]
        named = [self._named(path, "") for path in files]
        folders = [os.path.dirname(path) for path in relative]
        table = pd.DataFrame(named, columns=["object", "band"]).assign(file=relative, folder=folders)
        # two galaxies that were numbered alike: one folder each
        twice = table["object"].isin(table["object"][table.duplicated(["object", "band"], keep=False)])
        if twice.any():
            within = table["folder"].str.replace(os.sep, "_") + "_"
            table["object"] = np.where(
                twice & (table["folder"] != ""), within + table["object"], table["object"]
            )
            self.report.append(
                f"files that are named alike in several folders: {int(twice.sum()):,}; their objects are "
                f"called by the folder too ({first_of(table['object'][twice].unique().tolist())})"
            )
        kinds = [
            [name for name in path.split(os.sep) if _folder_word(name) in LABEL_FOLDERS] for path in folders
        ]
        table["label"] = [str(LABEL_FOLDERS[_folder_word(names[-1])]) if names else "" for names in kinds]
        taken = pd.Series([names[-1] for names in kinds if names], dtype=object).value_counts()
        said = ", ".join(
            f"{name} {LABEL_FOLDERS[_folder_word(name)]} ({count:,} files)" for name, count in taken.items()
        )
        self.report.append(f"no --table: labels by the names of folders: {said or 'none, all unknown'}")
        return table[["object", "file", "label"]]

    def _numbers(self) -> dict[str, np.ndarray]:
        """float64 [rows] of each column that holds numbers, NaN where they stand for none."""
        numbers = {}
        lost = {}
        if "epoch" in self.table:  # J2016.0
            self.table["epoch"] = self.table["epoch"].str.replace(r"^[Jj](?=\d)", "", regex=True)
        for name in self.table.columns:
            field = field_of(name)
            if name in OURS or name in TEXTS or (not field and not is_numeric(self.table[name])):
                continue
            values = numeric_column(self.table, name, "--table")
            none = is_placeholder(values, field)
            lost[name] = values[none]
            values[none] = np.nan
            numbers[name] = values
        self.report += placeholder_lines(lost)
        return numbers

    def _each_image_once(self, rows: list[tuple]) -> list[tuple]:
        """Without those that name an image again for its object. `shared` has, for an object that has an
        image of another, the first that had it.
        """
        owner: dict[Image, str] = {}
        self.shared: dict[str, str] = {}
        seen: set[tuple[str, Image]] = set()
        kept = []
        for row in rows:
            name, image = row[0], row[3]
            first = owner.setdefault(image, name)
            if first != name:
                self.shared.setdefault(name, self.shared.get(first, first))
            if (name, image) not in seen:
                kept.append(row)
            seen.add((name, image))
        if len(kept) < len(rows):
            self.report.append(
                f"rows that name an image of their object again, not used: {len(rows) - len(kept):,}"
            )
        if self.shared:
            self.report.append(
                f"objects that have an image of another object: {len(self.shared):,} "
                f"({first_of(list(self.shared))}); they are one group, in one split"
            )
        return kept

    def _labelled_alike(self, rows: list[tuple]) -> list[tuple]:
        """Each object with one label: the one that its rows state, unknown where they contradict each
        other.
        """
        stated: dict[str, set[int]] = {}
        for name, _, label, *_ in rows:
            stated.setdefault(name, set()).add(label)
        against = [name for name, labels in stated.items() if {0, 1} <= labels]
        partly = [name for name, labels in stated.items() if len(labels) == 2 and -1 in labels]
        if against:
            self.report.append(
                f"objects whose rows have different labels, taken for unknown: {len(against):,} "
                f"({first_of(against)})"
            )
        if partly:
            self.report.append(
                f"objects with a label in some of their rows, which is that of all: {len(partly):,} "
                f"({first_of(partly)})"
            )
        one = {name: -1 if {0, 1} <= labels else max(labels) for name, labels in stated.items()}
        return [(name, band, one[name], *others) for name, band, _, *others in rows]

    def _report_objects(self, has_table: bool) -> None:
        each = self.index.drop_duplicates("object")
        lenses, others = int((each["label"] == 1).sum()), int((each["label"] == 0).sum())
        self.report.append(
            f"objects: {len(each):,}; {lenses:,} lenses, {others:,} non-lenses, "
            f"{len(each) - lenses - others:,} of unknown label"
        )
        if "object" in self.table and self.table["object"].duplicated().any():
            kinds = self.table.drop(
                columns=[name for name in OURS if name in self.table and name != "object"]
            )
            several = kinds.groupby("object", sort=False).nunique()
            differ = [
                f"{name} ({(several[name] > 1).sum():,} objects)"
                for name in several
                if (several[name] > 1).any()
            ]
            if differ:
                self.report.append(
                    f"objects with several rows that differ in {', '.join(differ[:6])}: the first row counts"
                )
        if not has_table:
            bands = ", ".join(
                f"{band or 'none'} {count:,}" for band, count in self.index["band"].value_counts().items()
            )
            self.report.append(
                f"taken from the names of files: objects ({first_of(each['object'].tolist())}), bands "
                f"({bands})"
            )

    def _rows(self, top: str, files: list[str]) -> list[tuple[str, str, int, Image, int, str]]:
        """(object, band, label, image, row of the table, band as it is written) of each image."""
        by_name: dict[str, list[str]] = {}
        by_object: dict[str, list[str]] = {}
        for path in files:
            by_name.setdefault(os.path.basename(path), []).append(path)
            bare, _ = self._at_end(file_stem(path))
            for name in dict.fromkeys((file_stem(path), bare)):
                by_object.setdefault(name, []).append(path)
        if "file" not in self.table and "object" in self.table:
            self._add_by_part(by_object, files)
        by_name |= {os.path.relpath(path, top): [path] for path in files}
        labels = self._labels()
        hdu = self._hdu_column()
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
                paths = self._of_band(
                    by_object.get(known, []), known, column["band"][row] if "band" in column else ""
                )
            if not paths:
                without.append(name or known)
            used.update(paths)
            for path in paths:
                told = column["band"][row] if "band" in column else ""
                bare, tail = self._named(path, known)
                for image, written in self._images_of(path, told or tail, bool(told), hdu[row], plane[row]):
                    stated = told or self.planes  # by the user, who means just that
                    band = (
                        self.aliases.get(written, written) if stated else band_called(written, self.aliases)
                    )
                    rows.append((known or bare, band, labels[row], image, row, written))
        if not rows:
            raise Mistake(
                f"--table: none of its {len(self.table):,} rows names one of {len(files):,} files; it begins "
                f"with {without[0]!r}, the files with {os.path.basename(files[0])!r}: give the table of "
                "these images, or --columns file=NAME"
            )
        of_table = f", {len(self.table):,} rows of the table" if self.recipe["table"] else ""
        self.report.append(f"{len(rows):,} images{of_table}")
        unused = [os.path.basename(path) for path in files if path not in used]
        for what, names in (
            ("rows without a file, not packed", without),
            ("files without a row, not packed", unused),
        ):
            if names:
                self.report.append(f"{what}: {len(names):,} ({first_of(names)})")
        self._report_bands(rows)
        return rows

    def _add_by_part(self, by_object: dict[str, list[str]], files: list[str]) -> None:
        """Files of whose names an object is only a part (X_f814w_drz, cutout-HSC-G-X) are its."""
        wanted = set(self.table["object"])
        if any(name in by_object for name in wanted):
            return
        found = 0
        for path in files:
            stem = file_stem(path)
            parts = (stem[begin:end] for begin, end in _spans(stem))
            if known := sorted((part for part in parts if part in wanted), key=len):
                by_object.setdefault(known[-1], []).append(path)
                found += 1
        if found:
            self.report.append(f"files taken for an object that a part of their name is: {found:,}")

    def _report_bands(self, rows: list[tuple]) -> None:
        """Say what was taken for bands. Raises: Mistake where two of an object have become one."""
        objects, bands, _, images, _, written = zip(*rows)
        check_apart(zip(objects), written, bands)
        self.report.append(f"bands: {said_of_bands(written, bands)}")
        if unused := unused_aliases(self.aliases, written):
            self.report.append(f"--band_alias {' '.join(unused)}: no image has such a band")
        if self.apart:
            path, within = next(iter(self.apart.items()))
            each = ", ".join(f"{number} {band}" for number, band in within.items())
            name = os.path.basename(path)
            self.report.append(f"files whose HDUs are an image a band: {len(self.apart):,} ({name}: {each})")

    def _of_band(self, paths: list[str], known: str, band: str) -> list[str]:
        """The files of an object that are of the band of the row, where the row has one and their names
        do.
        """
        named = [self._named(path, known)[1] for path in paths]
        if not band or not any(named):
            return paths
        wanted = band_called(band, self.aliases)
        return [path for path, other in zip(paths, named) if band_called(other, self.aliases) == wanted]

    def _at_end(self, stem: str) -> tuple[str, str]:
        """(what stands before it, the band) of a name that ends in a band."""
        found = name_pattern(tuple(self.aliases)).fullmatch(stem)
        return found[1], found[2] or ""

    def _named(self, path: str, known: str) -> tuple[str, str]:
        """(object, band as it is written) as far as the name of the file says it."""
        bare = file_stem(path)
        if known and bare.startswith(known + "_"):
            return known, self._band_within(bare[len(known) + 1 :])
        if known and known in bare:
            before, _, after = bare.partition(known)
            return known, self._band_within(f"{before}_{after}")
        return self._at_end(bare)

    def _band_within(self, words: str) -> str:
        """The band that stands among what a name says besides its object, as it is written: all of it, or
        the one word that is a band (f814w_drz); "" where that is not clear.
        """
        bands = [span for span in _spans(words) if self._is_band(words[slice(*span)])]
        # HSC-G and not its G
        whole = [
            one for one in bands if not any(a <= one[0] and one[1] <= b for a, b in bands if (a, b) != one)
        ]
        return words[slice(*whole[0])] if len(whole) == 1 else ""

    def _images_of(
        self, path: str, named: str, told: bool, hdu: int | str | None, plane: int | None
    ) -> list[tuple[Image, str]]:
        """The images of a file that a row of the table means, and the band of each as it is written.

        named: the band, by the table (`told`) or else by the file's name.
        """
        if self.planes:
            return [(Image(path, hdu, number), band) for number, band in enumerate(self.planes)]
        says_band = not told and hdu is None and self._is_band(named)
        within = {} if says_band else _within(path, tuple(self.aliases.items()))
        if hdu is None and within and not told:
            self.apart[path] = within
            return [(Image(path, number, plane), band) for number, band in within.items()]
        if hdu is None and len(within) > 1:  # the image of the band that the table names
            wanted = band_called(named, self.aliases)
            same = [n for n, band in within.items() if band_called(band, self.aliases) == wanted]
            return [(Image(path, same[0] if same else named, plane), named)]
        image = Image(path, hdu, plane)
        if hdu is not None and not told:
            number = hdu if isinstance(hdu, int) else self._number_of(image)
            named = within.get(number, named)
        return [(image, named or self._band_of_header(image))]

    def _is_band(self, written: str) -> bool:
        return written in self.aliases or is_band(written) or is_band(usual_name(written))

    def _number_of(self, image: Image) -> int:
        """Of the HDU that is named, -1 where it is not there."""
        try:
            return self._hdu(image)[1].number
        except BadFile:  # `read` says so
            return -1

    def _band_of_header(self, image: Image) -> str:
        try:
            primary, hdu = self._hdu(image)
        except BadFile:  # `read` says so
            return ""
        return filter_of(hdu.header, primary)

    def _labels(self) -> list[int]:
        if "label" not in self.table:
            return [-1] * len(self.table)
        labels, lines = label_values(self.table["label"], "--table")
        self.report += lines
        return labels.tolist()

    def _integers(self, name: str, texts: pd.Series | None = None) -> list[int | None]:
        if name not in self.table:
            return [None] * len(self.table)
        table = self.table if texts is None else self.table.assign(**{name: texts})
        values = numeric_column(table, name, "--table")
        wrong = np.isfinite(values) & ((values < 0) | (values != np.floor(values)) | (values > 1e6))
        if wrong.any():
            raise Mistake(f"--table: {name} {values[wrong][0]:g}, expected a whole number from 0")
        return [None if np.isnan(value) else int(value) for value in values]

    def _hdu_column(self) -> list[int | str | None]:
        """Numbers, and texts where they are the names of HDUs."""
        if "hdu" not in self.table:
            return [None] * len(self.table)
        texts = self.table["hdu"]
        named = pd.to_numeric(texts, errors="coerce").isna() & ~texts.str.lower().isin(MISSING)
        numbers = self._integers("hdu", self.table["hdu"].mask(named, ""))
        return [text if is_name else number for text, is_name, number in zip(texts, named, numbers)]

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
                values = self.numbers.get(name)
                columns[name] = (self.table[name].to_numpy() if values is None else values)[rows]
        metadata = pd.DataFrame(columns)
        if self.shared:  # one image under two ids: in one split
            owner = metadata["object"].map(self.shared).fillna("")
            stated = metadata["group"] if "group" in metadata else pd.Series("", metadata.index)
            owned = owner.map(stated.set_axis(metadata["object"])).fillna("")
            metadata["group"] = stated.where(stated != "", owned.where(owned != "", owner))
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
            return float(self._unmeasured(image, self._cut(image)).mean())
        except BadFile:  # `read` says so
            return np.nan

    def _image(self, image: Image) -> np.ndarray:
        """[H, W], cropped, every pixel finite. Raises: BadFile."""
        found = self._cut(image)
        mask = self._unmeasured(image, found)
        if not mask.any():
            return found
        if not self.max_masked:
            check_finite(found)
            if fill_mask(found) is not None:
                raise BadFile(reason_without_sky(found, 1.0))
        masked_share(mask, self.max_masked)
        return filled_pixels(found, mask)

    def _unmeasured(self, image: Image, found: np.ndarray) -> np.ndarray:
        """bool [H, W] of the cropped image. Raises: BadFile."""
        mask = unmeasured(found)
        hdu = self._hdu(image)[1]
        for beside in masks_beside(_hdus(image.path), hdu, self.mask_hdu):
            plane = _pixels(image.path, beside.number)
            if plane.ndim == 3:
                plane = plane[image.plane or 0]
            mask = mask | mask_of(beside, central_pixels(plane, self.crop), self.good_bits)
        return mask

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


def _folder_word(name: str) -> str:
    return re.sub(r"[\s_-]", "", name.lower())


def _spans(text: str) -> list[tuple[int, int]]:
    """(begin, end) of each word of a name, and of each row of words."""
    ends = [0, *(at for cut in WORDS.finditer(text) for at in cut.span()), len(text)]
    return [(begin, end) for begin in ends[::2] for end in ends[1::2] if begin < end]


def _hdu(path: str, number: int | str | None) -> tuple:
    """(primary header, HDU)."""
    if number is None:
        return image_of(path)
    found = _hdus(path)
    if isinstance(number, str):
        number = _number_of_name(found, number)
    if number >= len(found):
        raise BadFile(f"no HDU {number}: it has {len(found)}, from 0")
    if not found[number].shape:
        raise BadFile(f"HDU {number} has no image")
    return found[0].header, found[number]


def _number_of_name(hdus: tuple, name: str) -> int:
    """By EXTNAME, in whatever case, or EXTNAME,EXTVER. Raises: BadFile where none is called so."""
    wanted, comma, version = name.rpartition(",")
    wanted = (wanted if comma and version.strip().isdigit() else name).strip().upper()
    called = [hdu for hdu in hdus if hdu.name == wanted or wanted == "PRIMARY" and hdu.number == 0]
    if comma and version.strip().isdigit():
        called = [hdu for hdu in called if hdu.version == int(version)]
    if not called:
        raise BadFile(f"no HDU {name!r}: it has {', '.join(hdu.name or str(hdu.number) for hdu in hdus)}")
    return called[0].number


@lru_cache(maxsize=64)
def _within(path: str, aliases: tuple[tuple[str, str], ...]) -> dict[int, str]:
    """Kept, for files of many images."""
    return bands_within(path, dict(aliases))


@lru_cache(maxsize=8)
def _hdus(path: str) -> tuple:
    """Kept, for files of many images."""
    return tuple(read_hdus(path))


@lru_cache(maxsize=12)
def _pixels(path: str, number: int | str | None) -> np.ndarray:
    """Kept, for stacks of which each object has a plane in the file of each band."""
    found = read_plane(path, _hdu(path, number)[1])
    found.flags.writeable = False
    return found
