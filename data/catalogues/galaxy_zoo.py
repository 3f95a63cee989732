"""Galaxy Zoo: images of galaxies, FITS or pictures, and the table of what volunteers saw in them.

Images are files, one a galaxy (a cube [bands, H, W] whose planes BAND0..
or BANDS names) or one a band (`<id>_<band>.fits`);
their names are the ids of the table, in whatever folder they lie (iauname J100620.35+101629.1 is
J100/J100620.35+101629.1.fits). Where no file is FITS they are PNG or JPEG pictures (data/pictures.py), bands
red, green and blue, or one of grey.
Tables: Galaxy Zoo 2 (dr7objid, dr8objid, asset_id; columns t08_odd_feature_a20_lens_or_arc_* and their like)
    and those of
DECaLS and DESI (iauname, id_str, subject_id; columns smooth-or-featured_* and their like,
with or without a campaign, -dr5), as CSV, FITS or Parquet; zoobot's name their files in file_loc. The first
of data/catalogues/redshift.py that is there is the redshift.

A label is what a rule makes of the votes (a weak label). With y of n people who found the galaxy odd (t06), k
of whom and of m saw "lens or arc" when asked what is odd (t08):

     1   m >= min_votes, k >= min_lens_votes, the `statistic` of t06_odd_a14_yes >= gate,
         that of lens_or_arc >= lens
     0   n >= min_votes and k = 0: enough people looked at whether it is odd, and none of them saw a lens
    -1   all others, and every galaxy of a table without a lens column (DECaLS and DESI did not ask): unknown

Its confidence is the posterior mean of a share of people, from votes that are binomial and a flat prior
(Beta(1, 1)):
label 1: (k + 1) / (m + 2); label 0: 1 - (k + 1) / (n + 2) = (n + 1) / (n + 2). A label of -1 has none.
Source: Willett et al. 2013, MNRAS 435, 2835, table 2; Hart et al. 2016, MNRAS 461, 3663;
    Walmsley et al. 2022, MNRAS 509, 3966.
"""

import os
import re
from functools import cached_property, partial
from typing import Any

import numpy as np
import pandas as pd

from data.catalogues.planes import (
    check_finite,
    check_geometry,
    check_shape,
    common_shape,
    file_stem,
    fitted_images,
    geometries,
    image_of,
    joined_bands,
    read_plane,
    shape_text,
)
from data.catalogues.redshift import REDSHIFTS, redshift_column, redshift_line, sound_redshifts
from data.catalogues.sky import card_value, place_on_sky
from data.catalogues.tables import numeric_column, read_table
from data.cutouts.fits import BadFile
from data.formats import Format
from data.listing import walk_folders
from data.names import NOT_CUTOUTS, SUFFIXES as FITS_SUFFIXES, parse_name
from data.pictures import (
    NO_FLUX,
    SUFFIXES as PICTURE_SUFFIXES,
    picture_bands,
    picture_bytes,
    picture_of,
    picture_planes,
)
from utils.messages import first_of
from utils.mistake import Mistake

DOMAIN = "galaxy_zoo"
IDS = (
    "iauname",
    "dr7objid",
    "dr8objid",
    "asset_id",
    "objid",
    "object_id",
    "id_str",
    "subject_id",
    "subject_ids",
    "subject",
    "id",
    "name",
    "filename",
    "fits_loc",
    "file_loc",
    "png_loc",
)
LENS, ODD, NOT_ODD = "t08_odd_feature_a20_lens_or_arc_", "t06_odd_a14_yes_", "t06_odd_a15_no_"
ODD_FEATURE = re.compile(r"t08_odd_feature_a\d\d_\w+_count")
STATISTICS = ("debiased", "weighted_fraction", "fraction")
GZ2 = re.compile(r"t0[68]_\w+_(count|fraction|weighted_fraction|debiased|flag)")
QUESTIONS = (
    "smooth-or-featured",
    "disk-edge-on",
    "has-spiral-arms",
    "bar",
    "bulge-size",
    "how-rounded",
    "edge-on-bulge",
    "spiral-winding",
    "spiral-arm-count",
    "merging",
    "clumps",
    "problem",
)
# one campaign's answer to one question: smooth-or-featured-dr5_featured-or-disk_fraction
CAMPAIGN = re.compile(rf"({'|'.join(QUESTIONS)})(-[a-z0-9]+)?_([a-z0-9-]+)(_fraction|_debiased)?")
LOOKED_AT = 100  # files whose geometry is compared before anything is packed
NAMED = 3  # of what is told in the report
FORMATS = [
    Format(
        "Galaxy Zoo",
        "convert.py galaxy_zoo --input FOLDER --labels TABLE; files whose names are ids of the table "
        "(iauname, dr7objid, id_str, file_loc ...), the table CSV, FITS or Parquet",
        "FITS cubes and files of one band, else PNG and JPEG pictures (bands red, green, blue, or grey; no "
        "physical flux); weak labels from votes on lenses; votes, ra, dec and redshift as metadata",
        "pictures beside FITS files, other columns and ids, rows without a file: counted; several geometries "
        "without --crop or --image_size; pictures inside Parquet",
    ),
]


def open_source(
    images: str,
    labels: str = "",
    id_column: str = "",
    min_votes: int = 20,
    min_lens_votes: int = 5,
    gate: float = 0.5,
    lens: float = 0.4,
    statistic: str = "debiased",
    image_size: int = 0,
    crop: int = 0,
) -> "GalaxyZoo":
    """The galaxies of a folder. Raises: Mistake.

    labels: table of votes; "" for images alone. id_column: its column of ids; "":
        the one that most files are named by.
    min_votes, min_lens_votes, gate, lens, statistic: the rule above. image_size, crop: pixels, 0 for none.
    """
    return GalaxyZoo(
        images, labels, id_column, Rule(min_votes, min_lens_votes, gate, lens, statistic), image_size, crop
    )


class Rule:
    """When votes make a lens."""

    def __init__(self, min_votes: int, min_lens_votes: int, gate: float, lens: float, statistic: str):
        for flag, votes in (("--min_votes", min_votes), ("--min_lens_votes", min_lens_votes)):
            if not (isinstance(votes, int) and votes >= 1):
                raise Mistake(f"{flag} {votes!r}: expected a number of votes, 1 or more")
        for flag, share in (("--gate", gate), ("--lens", lens)):
            if not (isinstance(share, (int, float)) and 0 <= share <= 1):
                raise Mistake(f"{flag} {share!r}: expected a share of votes, 0 to 1")
        if statistic not in STATISTICS:
            raise Mistake(f"--statistic {statistic!r}: expected one of {', '.join(STATISTICS)}")
        self.min_votes = min_votes
        self.min_lens_votes = min_lens_votes
        self.gate = gate
        self.lens = lens
        self.statistic = statistic

    @property
    def source(self) -> str:
        votes = f"odd>={self.min_votes},lens>={self.min_lens_votes}"
        return f"galaxy_zoo:{votes},gate>={self.gate:g},{self.statistic}>={self.lens:g}"

    def needs(self) -> list[str]:
        return [LENS + "count", ODD + "count", NOT_ODD + "count", LENS + self.statistic, ODD + self.statistic]

    def apply(self, votes: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """(label int8 [rows], confidence [rows], NaN for label -1)
        of tables of numbers with the columns of `needs`.
        """
        seen, odd = votes[LENS + "count"].to_numpy(), votes[ODD + "count"].to_numpy()
        asked = odd + votes[NOT_ODD + "count"].to_numpy()
        # People who were asked what is odd: those who answered, or, of a table without the other answers,
        # who found it odd.
        answers = [name for name in votes.columns if ODD_FEATURE.fullmatch(name)]
        told = votes[answers].to_numpy().sum(axis=1) if len(answers) > 1 else odd
        is_lens = (
            (told >= self.min_votes)
            & (seen >= self.min_lens_votes)
            & (votes[ODD + self.statistic].to_numpy() >= self.gate)
            & (votes[LENS + self.statistic].to_numpy() >= self.lens)
        )
        is_none = (asked >= self.min_votes) & (seen == 0)
        confidence = np.where(
            is_lens, (seen + 1) / (told + 2), np.where(is_none, (asked + 1) / (asked + 2), np.nan)
        )
        return np.where(is_lens, 1, np.where(is_none, 0, -1)).astype(np.int8), confidence


class GalaxyZoo:
    """A Source (data/cutouts/source.py). The index follows from names and votes alone;
    headers of all files are read for `metadata`.

    report: lines for the log. without_row, without_file: files no row of the table names (packed, label -1),
        and rows that name no file.
    """

    def __init__(self, images: str, labels: str, id_column: str, rule: Rule, image_size: int, crop: int):
        check_geometry(image_size, crop)
        self.image_size, self.crop, self.rule = image_size, crop, rule
        self.recipe: dict[str, Any] = {
            "kind": "galaxy_zoo",
            "images": os.path.abspath(images),
            "labels": labels and os.path.abspath(labels),
            "id_column": id_column,
            "min_votes": rule.min_votes,
            "min_lens_votes": rule.min_lens_votes,
            "gate": rule.gate,
            "lens": rule.lens,
            "statistic": rule.statistic,
            "image_size": image_size,
            "crop": crop,
        }
        self.report: list[str] = []
        files = self._found(images)
        self.table = None
        self.redshift_column = ""
        self.without_row = []
        self.without_file = []
        names = [_stem(path) for path in files]
        if labels:
            self.table, names = self._matched(labels, id_column, files, names)
        else:
            names = [_parsed(path)[0] for path in files]
        files, names = self._each_once(files, names)
        order = sorted(range(len(files)), key=lambda number: (names[number], files[number]))
        self.files, self.names = [files[number] for number in order], [names[number] for number in order]
        # of one band, which its name says
        self.single = [name != _stem(path) for name, path in zip(self.names, self.files)]
        self.planes, self.shape = self._geometry()
        self.index = self._index()
        _ = self.redshift  # so that the report says which column it is

    # ---- names

    def _found(self, images: str) -> list[str]:
        """The FITS files of a folder, else its pictures. Raises: Mistake if there is neither."""
        if not os.path.isdir(images):
            raise Mistake(f"--input {images!r} is not a folder: expected the folder of the images")
        kinds = {"FITS": FITS_SUFFIXES, "pictures": PICTURE_SUFFIXES, "Parquet": (".parquet",)}
        found: dict[str, list[str]] = {kind: [] for kind in kinds}
        for folder in walk_folders(os.path.abspath(images), sum(kinds.values(), ()), NOT_CUTOUTS):
            for path in folder.paths:
                kind = next(kind for kind, suffixes in kinds.items() if path.lower().endswith(suffixes))
                found[kind].append(path)
        if not found["FITS"] and not found["pictures"]:
            inside = (
                "; pictures inside Parquet are not read: write them as PNG files" if found["Parquet"] else ""
            )
            raise Mistake(
                f"--input {images!r} holds no FITS file and no picture (.fits, .fit, .fits.gz, .fit.gz, "
                f".png, .jpg): give the folder of the images{inside}"
            )
        if found["FITS"] and found["pictures"]:
            self.report.append(
                f"PNG and JPEG pictures beside FITS files, not read: {len(found['pictures']):,} "
                f"({first_of(list(map(os.path.basename, found['pictures'])))})"
            )
        elif found["pictures"]:
            self.report.append(f"{len(found['pictures']):,} pictures (PNG or JPEG): {NO_FLUX}")
        return found["FITS"] or found["pictures"]

    def _each_once(self, files: list[str], names: list[str]) -> tuple[list[str], list[str]]:
        """Without the files of an object and band that an earlier file has: x.png beside x.jpg, a copied "
        "folder."""
        first: dict[tuple[str, str], int] = {}
        for number, (path, name) in enumerate(zip(files, names)):
            first.setdefault((name, _parsed(path)[1] if name != _stem(path) else ""), number)
        kept = sorted(first.values())
        if again := [files[number] for number in sorted(set(range(len(files))) - set(kept))]:
            self.report.append(
                f"files of an object and band that an earlier file has, not packed: {len(again):,} "
                f"({first_of(again)})"
            )
        return [files[number] for number in kept], [names[number] for number in kept]

    def _matched(
        self, labels: str, id_column: str, files: list[str], names: list[str]
    ) -> tuple[pd.DataFrame, list[str]]:
        """(the table, one row an id that a file has, in its index; the id of each file)."""
        there: list[str] = []  # all columns
        table = read_table(
            labels,
            "--labels",
            lambda name: not there.append(name) and (name == id_column or _is_wanted(name)),
            self.report.append,
        )
        columns = [id_column] if id_column else [name for name in table.columns if name.lower() in IDS]
        columns.sort(key=lambda name: IDS.index(name.lower()) if name.lower() in IDS else -1)
        if not columns or columns[0] not in table.columns:
            what = f"no column {id_column!r}" if id_column else "no column of ids"
            raise Mistake(
                f"--labels {labels!r} has {what}: expected one of {', '.join(IDS)}, or --id_column NAME"
            )
        bare = [_parsed(path)[0] for path in files]
        known = {*names, *bare}
        best = max(columns, key=lambda name: _ids(table[name]).isin(known).sum())  # the first of equals
        ids = _ids(table[best])
        if not (here := ids.isin(known)).any():
            raise Mistake(
                f"--labels {labels!r}: none of its {len(table):,} rows names one of {len(files):,} files; "
                f"{best!r} begins with {ids.iloc[0]!r}, the files with {names[0]!r}: give the table of these "
                "images, or --id_column NAME"
            )
        self.without_file = ids[~here].tolist()
        table = (
            table[here].drop(columns=[name for name in columns if name != best]).set_axis(ids[here], axis=0)
        )
        doubled = table.index.duplicated()
        table = table[~doubled]
        names = [name if name in table.index else short for name, short in zip(names, bare)]
        self.without_row = [path for path, name in zip(files, names) if name not in table.index]
        self.report.append(
            f"{len(files):,} files, {len(here):,} rows of {os.path.basename(labels)} (ids: column {best})"
        )
        for what, missing in (
            ("files without a row, label -1", self.without_row),
            ("rows without a file", self.without_file),
        ):
            if missing:
                more = ", ..." if len(missing) > NAMED else ""
                self.report.append(
                    f"{what}: {len(missing):,} ({', '.join(map(os.path.basename, missing[:NAMED]))}{more})"
                )
        if doubled.any():
            self.report.append(f"rows of an id that an earlier row has, not used: {doubled.sum():,}")
        self.redshift_column = redshift_column(there)
        kept = {best, self.redshift_column, *filter(_is_vote, there)}
        kept |= {name for name in there if name.lower() in ("ra", "dec")}
        if unused := [name for name in there if name not in kept]:
            self.report.append(f"columns of the table, not kept: {len(unused):,} ({first_of(unused, 6)})")
        return table, names

    def _geometry(self) -> tuple[list[str], tuple[int, int]]:
        """(bands of a cube, shape of the images) as the first readable files have them."""
        cube: list[str] = []

        def geometry(path: str, single: bool) -> tuple[int, int]:
            if _is_picture(path):
                head = picture_of(picture_bytes(path))
                cube.extend([] if cube else picture_bands(head.channels))
                return head.height, head.width
            hdu = image_of(path)[1]
            if not single and not cube:
                cube.extend(_bands(hdu))
            return hdu.plane_shape

        some = list(zip(self.files, self.single))[:: max(1, len(self.files) // LOOKED_AT)]
        shapes = geometries(((path, partial(geometry, path, single)) for path, single in some), "files")
        return cube or [""], common_shape(shapes, self.image_size, self.crop)

    def _index(self) -> pd.DataFrame:
        label = dict.fromkeys(self.names, -1)
        if self.votes is not None:
            label |= dict(zip(self.table.index, self.votes[0].tolist()))
        rows = []
        self.file_of_row, self.plane_of_row = [], []
        for number, (path, name, single) in enumerate(zip(self.files, self.names, self.single)):
            for plane, band in enumerate([_parsed(path)[1]] if single else self.planes):
                whole = single or len(self.planes) == 1
                rows.append((path if whole else f"{path}#{plane}", name, band, label[name]))
                self.file_of_row.append(number)
                self.plane_of_row.append(plane)
        index = pd.DataFrame(rows, columns=["path", "object", "band", "label"])
        return index.assign(domain=DOMAIN, label=index["label"].astype(np.int8))[
            ["path", "object", "band", "domain", "label"]
        ]

    # ---- what the table says

    @cached_property
    def votes(self) -> tuple[np.ndarray, np.ndarray] | None:
        """(label, confidence) of each row of the table; None where nothing was asked about lenses."""
        if self.table is None:
            return None
        if not any(name.startswith(LENS) for name in self.table.columns):
            self.report.append(
                "the table has no column on lenses (only Galaxy Zoo 2 asked): every label is -1"
            )
            return None
        missing = [name for name in self.rule.needs() if name not in self.table.columns]
        if missing:
            raise Mistake(
                f"--labels has no column {missing[0]!r}, which the lens rule needs: expected "
                f"{', '.join(self.rule.needs())} (the full table of Galaxy Zoo 2), or another --statistic"
            )
        needed = [
            name for name in self.table.columns if name in self.rule.needs() or ODD_FEATURE.fullmatch(name)
        ]
        return self.rule.apply(
            pd.DataFrame({name: numeric_column(self.table, name, "--labels") for name in needed})
        )

    @cached_property
    def redshift(self) -> np.ndarray | None:
        """[rows of the table], NaN where it is not known; None where no column has it."""
        name = self.redshift_column
        if self.table is None or not name:
            return None
        values, placeholders = sound_redshifts(numeric_column(self.table, name, "--labels"))
        self.report.append(redshift_line(name, values, placeholders))
        return values

    @cached_property
    def metadata(self) -> pd.DataFrame:
        # the first file of each object
        first = dict(zip(reversed(self.names), reversed(range(len(self.names)))))
        names = list(dict.fromkeys(self.names))
        of_files = [self._said_by_file(self.files[first[name]], self.single[first[name]]) for name in names]
        metadata = pd.DataFrame(of_files).assign(object=names, source_catalog=DOMAIN)
        metadata["bands"] = (
            self.index.groupby("object", sort=False)["band"]
            .agg(lambda bands: joined_bands(dict.fromkeys(bands)))
            .to_numpy()
        )
        metadata["label_source"], metadata["label_confidence"] = "", np.nan
        if self.table is None:
            return metadata
        rows = self.table.index.get_indexer(names)  # -1: a file without a row
        known = rows >= 0
        for ours in ("ra", "dec"):
            theirs = next((name for name in self.table.columns if name.lower() == ours), None)
            if theirs:  # the table knows the galaxy, the header only where the cutout was made
                values = numeric_column(self.table, theirs, "--labels")[rows]
                metadata[ours] = np.where(known & np.isfinite(values), values, metadata[ours])
        if self.redshift is not None:
            metadata["redshift"] = np.where(known, self.redshift[rows], np.nan)
        if self.votes is not None:
            metadata["label_source"] = np.where(known & (self.votes[0][rows] >= 0), self.rule.source, "")
            metadata["label_confidence"] = np.where(known, self.votes[1][rows], np.nan)
        columns = {
            f"galaxy_zoo_{name.replace('-', '_')}": np.where(
                known, numeric_column(self.table, name, "--labels")[rows], np.nan
            ).astype(np.float32)
            for name in self.table.columns
            if _is_vote(name) and not name.endswith("_flag")
        }
        return pd.concat([metadata, pd.DataFrame(columns)], axis=1)

    def _said_by_file(self, path: str, single: bool) -> dict:
        nothing = {"ra": np.nan, "dec": np.nan, "pixel_scale": np.nan, "instrument": ""}
        if _is_picture(path):
            return nothing
        try:
            primary, hdu = image_of(path)
        except BadFile:
            return nothing
        try:
            found = place_on_sky(hdu.shape, hdu.header, primary, image_size=self.image_size, crop=self.crop)
        except Mistake:  # smaller than the crop: `read` says so
            found = place_on_sky(hdu.shape, hdu.header, primary)
        named = [
            card_value(header, name)
            for name in ("INSTRUME", "TELESCOP", "SURVEY")
            for header in (hdu.header, primary)
        ]
        return {
            "ra": found.ra,
            "dec": found.dec,
            "pixel_scale": found.pixel_scale,
            "instrument": str(next(filter(None, named), "")),
        }

    # ---- pixels

    def read(self, rows: range) -> tuple[np.ndarray, dict[int, str]]:
        images = np.zeros((len(rows), *self.shape), dtype=np.float32)
        bad = {}
        at = 0
        while at < len(rows):
            number = self.file_of_row[rows[at]]
            first = at
            while at < len(rows) and self.file_of_row[rows[at]] == number:
                at += 1
            planes = [self.plane_of_row[row] for row in rows[first:at]]
            try:
                images[first:at] = self._images(number)[planes]
            except BadFile as error:
                bad |= dict.fromkeys(rows[first:at], str(error))
        return images, bad

    def _images(self, number: int) -> np.ndarray:
        """[planes, *shape] of a file."""
        path, single = self.files[number], self.single[number]
        if _is_picture(path):
            cube = picture_planes(picture_bytes(path)).astype(np.float32)
            hdu = None
        else:
            _, hdu = image_of(path)
            cube = read_plane(path, hdu)
        if cube.ndim == 2:
            cube = cube[None]
        expected = 1 if single else len(self.planes)
        if cube.ndim != 3 or len(cube) != expected:
            planes = "planes" if expected > 1 else "plane"
            raise BadFile(f"wrong geometry: {shape_text(cube.shape)}, expected {expected} {planes} of H x W")
        if hdu and expected > 1 and (bands := _bands(hdu)) != self.planes:
            raise BadFile(f"its planes are {joined_bands(bands)}, expected {joined_bands(self.planes)}")
        check_finite(cube)
        cube = fitted_images(cube, self.image_size, self.crop)
        check_shape(cube, self.shape)
        return cube


def _bands(hdu) -> list[str]:
    """The bands of the planes of a cube, as BAND0.. or BANDS say, else "0", "1" ...;
    of a single image by FILTER or BAND, else "".
    """
    if len(hdu.shape) < 3:
        named = [str(card_value(hdu.header, name)) for name in ("BAND", "FILTER", "BANDS")]
        return [next((name for name in named if name), "")]
    count = hdu.shape[0]
    if count > 64:
        raise BadFile(f"{count} planes: expected the bands of one galaxy")
    named = [str(card_value(hdu.header, f"BAND{plane}")) for plane in range(count)]
    if all(named) and len(set(named)) == count:
        return named
    together = str(card_value(hdu.header, "BANDS"))
    return (
        list(together)
        if len(together) == count == len(set(together))
        else [str(plane) for plane in range(count)]
    )


def _ids(column: pd.Series) -> pd.Series:
    """Ids as files are named: of a path its last part without the suffix,
    of 587722981742084144.0 the number.
    """
    column = column.str.replace("\\", "/", regex=False).str.rsplit("/", n=1).str[-1]
    column = column.str.replace(r"\.(fits?(\.gz)?|png|jpe?g)$", "", regex=True, flags=re.IGNORECASE)
    return column.str.replace(r"^(\d+)\.0$", r"\1", regex=True)


def _is_picture(path: str) -> bool:
    return path.lower().endswith(PICTURE_SUFFIXES)


def _stem(path: str) -> str:
    """The name of a file without its folder and suffix."""
    return os.path.splitext(os.path.basename(path))[0] if _is_picture(path) else file_stem(path)


def _parsed(path: str) -> tuple[str, str]:
    """(object, band) as the file's name has them; a picture has all its bands."""
    return (_stem(path), "") if _is_picture(path) else parse_name(path)


def _is_vote(name: str) -> bool:
    return bool(GZ2.fullmatch(name) or CAMPAIGN.fullmatch(name))


def _is_wanted(name: str) -> bool:
    return name.lower() in (*IDS, *REDSHIFTS, "ra", "dec") or _is_vote(name)
