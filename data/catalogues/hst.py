"""Hubble images of lenses: CASTLES, SLACS and other sets of FITS products (_drz, _drc, _mos, _flt, _c0m,
HLSP _sci, cutouts).

What is where: TELESCOP, INSTRUME, DETECTOR, TARGNAME, RA_TARG, DEC_TARG and the filter in PRIMARY; pixels and
WCS in SCI, or in PRIMARY where the image is there; ERR, WHT and DQ after it, with the EXTVER of their SCI.
Cutouts that have lost their primary say their camera and filter in PHOTMODE. The filter is FILTER1 or FILTER2
(ACS, the one that is not CLEAR), FILTNAM1 (WFPC2) or FILTER (WFC3, NICMOS), else what the file's name says;
band is its name in lower case (f814w).

Masks: a pixel is missing where it is not finite or has a fill value, where DQ has a bit that `good_bits`
has not,
    where WHT is not above 0 or
ERR is not above 0. An image with more than `max_masked` missing ones is refused, else each is filled by the
mean of its measured neighbours (data/catalogues/masked.py). The share is hst_masked_fraction, of the part
that is stored, the largest of an object's images. ERR is one sigma a pixel:
snr_<band> is the flux above the median of all pixels brighter than 3 sigma, over its error.

Units are those of the file (hst_unit, mostly electrons/s); AB magnitude = hst_zero_point_<band> - 2.5
log10(flux in electrons/s), from PHOTFLAM and PHOTPLAM. Flux is not converted.
"""

import math
import os
import re
from collections import Counter
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from data.catalogues.masked import check_max_masked, filled_pixels, masked_share, unmeasured
from data.catalogues.planes import (
    Hdu,
    central_pixels,
    check_geometry,
    check_shape,
    common_shape,
    file_stem,
    fits_files,
    fitted_images,
    joined_bands,
    read_hdus,
    read_plane,
    shape_text,
)
from data.catalogues.sky import card_value, place_on_sky
from data.cutouts.fits import LARGEST, BadFile
from data.formats import Format
from utils.messages import first_of
from utils.mistake import Mistake

FORMATS = [
    Format(
        "Hubble products (CASTLES, SLACS)",
        "convert.py castles; _drz, _drc, _mos, _flt, _c0m, HLSP _sci and cutouts, image in SCI or PRIMARY",
        "every SCI with its ERR, WHT and DQ; band is the filter in lower case; the unit of the file, "
        "mostly electrons/s, zero point from PHOTFLAM and PHOTPLAM",
        "weights, masks, PSFs and tables by their names; an image with more than --max_masked missing pixels",
    ),
]
# Products of the archive beside the images: data quality, weights, engineering tables.
# Some are images, none of the sky.
OTHER_PRODUCTS = re.compile(
    r"(.*_)?(wht|ctx|err|rms|dq|c1m|c1f|spt|asn|trl|jif|jit|jitm|"
    r"\w*psf|tinytim\w*|hlet|mask|shm|x0m|d0m|q0m)",
    re.IGNORECASE,
)
PRODUCT = re.compile(r"(_(drz|drc|mos|flt|flc|c0m|c0f|crj|crc|ima|sci|img))+$", re.IGNORECASE)
MOST_HDUS = 200  # of a file: the 16 reads of a WFC3/IR ramp have 81
FILTER = re.compile(r"(?<![A-Za-z0-9])[FG]\d{3,4}[A-Z]{1,2}\d?(?![A-Za-z0-9])", re.IGNORECASE)
NO_FILTER = re.compile(r"(CLEAR\w*|N/A|NONE|)", re.IGNORECASE)
NO_TARGET = re.compile(r"(ANY|NONE|N/A|UNKNOWN|TARGET|DARK|BIAS|FLAT|)", re.IGNORECASE)


def open_source(
    input: str,
    catalog: str = "castles",
    label: int = 1,
    label_source: str = "",
    good_bits: int = 0,
    max_masked: float = 0.25,
    image_size: int = 0,
    crop: int = 0,
) -> "HST":
    """The images of a folder. Raises: Mistake.

    catalog: whose lenses they are. label: of all of them, 1, 0 or -1; label_source: who says so, "":
        the catalog.
    good_bits: the sum of DQ bits that do not spoil a pixel (96 for ACS, as AstroDrizzle is mostly run:
        CTE tails, warm pixels).
    max_masked: share of missing pixels that is still filled. image_size, crop: pixels, 0 for none;
        crop is about the image's centre.
    """
    return HST(input, catalog, label, label_source, good_bits, max_masked, image_size, crop)


class Image(NamedTuple):
    """An image of the index: its HDU and those that go with it; or why it cannot be used."""

    path: str
    name: str  # file#SCI
    object: str
    band: str
    sci: Hdu | None = None  # without its header: there may be many images
    planes: dict[str, Hdu] = {}  # ERR, WHT, DQ
    reason: str = ""


class HST:
    """A Source (data/cutouts/source.py). Headers are read when it is made;
    DQ, WHT and ERR of all images for `metadata`.

    report: lines for the log.
    """

    def __init__(
        self,
        input: str,
        catalog: str,
        label: int,
        label_source: str,
        good_bits: int,
        max_masked: float,
        image_size: int,
        crop: int,
    ):
        check_geometry(image_size, crop)
        if label not in (1, 0, -1) or isinstance(label, bool):
            raise Mistake(f"--label {label!r}: expected 1 (lenses), 0 (no lenses) or -1 (unknown)")
        if not (isinstance(good_bits, int) and 0 <= good_bits < 2**32):
            raise Mistake(f"--good_bits {good_bits!r}: expected a sum of DQ bits, 0 or more")
        check_max_masked(max_masked)
        self.catalog = catalog
        self.label = label
        self.label_source = label_source or (catalog if label != -1 else "")
        self.good_bits, self.max_masked, self.image_size, self.crop = good_bits, max_masked, image_size, crop
        self.recipe: dict[str, Any] = {
            "kind": "hst",
            "input": os.path.abspath(input),
            "catalog": catalog,
            "label": label,
            "label_source": label_source,
            "good_bits": good_bits,
            "max_masked": max_masked,
            "image_size": image_size,
            "crop": crop,
        }
        self.report: list[str] = []
        files = fits_files(input, report=self.report)
        used = [
            path
            for path in files
            if not (
                OTHER_PRODUCTS.fullmatch(file_stem(path))
                or os.path.basename(os.path.dirname(path)).lower() == "psf"
            )
        ]
        if not used:
            raise Mistake(
                f"--input {input!r} holds no image, only weights and tables such as "
                f"{os.path.basename(files[0])}: give the images' folder"
            )
        self.report.insert(0, f"{len(used):,} files")
        if others := sorted(set(files) - set(used)):
            named = first_of([*map(os.path.basename, others)])
            self.report.append(
                f"weights, masks, PSFs and tables by their names, not packed: {len(others):,} ({named})"
            )
        self.images = sorted(
            (image for path in used for image in _images(path)),
            key=lambda image: (image.object, image.band, image.name),
        )
        self.shape = self._shape(input)
        self.index = pd.DataFrame(
            [(image.name, image.object, image.band, catalog, label) for image in self.images],
            columns=["path", "object", "band", "domain", "label"],
        ).astype({"label": np.int8})

    def _shape(self, input: str) -> tuple[int, int]:
        shapes = Counter(image.sci.shape for image in self.images if image.sci is not None)
        if not shapes:
            raise Mistake(
                f"--input {input!r}: none of the files can be used, the first is {self.images[0].path}: "
                f"{self.images[0].reason}"
            )
        return common_shape(shapes, self.image_size, self.crop)

    # ---- metadata

    @cached_property
    def metadata(self) -> pd.DataFrame:
        rows: dict[str, dict] = {}
        for image in self.images:
            row = rows.setdefault(
                image.object,
                {
                    "object": image.object,
                    "source_catalog": self.catalog,
                    "instrument": "",
                    "bands": [],
                    "ra": math.nan,
                    "dec": math.nan,
                    "pixel_scale": math.nan,
                    "label_source": self.label_source,
                    "label_confidence": 1.0 if self.label != -1 else math.nan,
                    "hst_unit": "",
                    "hst_masked_fraction": math.nan,
                },
            )
            row["bands"].append(image.band)
            if image.sci is None:
                continue
            in_file = read_hdus(image.path)
            headers = in_file[image.sci.number].header, in_file[0].header
            try:
                found = place_on_sky(image.sci.shape, *headers, image_size=self.image_size, crop=self.crop)
                _, masked, snr = self._measured(image)
                row["hst_masked_fraction"] = np.fmax(row["hst_masked_fraction"], masked)
                if image.band and not math.isnan(snr):
                    row.setdefault(f"snr_{image.band}", snr)
            except (BadFile, Mistake):  # `read` says why
                found = place_on_sky(image.sci.shape, *headers)
            for name in ("ra", "dec", "pixel_scale"):
                if math.isnan(row[name]):
                    row[name] = getattr(found, name)
            row["instrument"] = row["instrument"] or _instrument(headers)
            row["hst_unit"] = row["hst_unit"] or str(_card(headers, "BUNIT"))
            if image.band and (zero_point := _zero_point(headers)) is not None:
                row.setdefault(f"hst_zero_point_{image.band}", zero_point)
        return pd.DataFrame(
            [row | {"bands": joined_bands(dict.fromkeys(row["bands"]))} for row in rows.values()]
        )

    # ---- pixels

    def read(self, rows: range) -> tuple[np.ndarray, dict[int, str]]:
        images = np.zeros((len(rows), *self.shape), dtype=np.float32)
        bad = {}
        for at, row in enumerate(rows):
            try:
                image = fitted_images(self._measured(self.images[row])[0][None], self.image_size, 0)
                check_shape(image, self.shape)
                images[at] = image[0]
            except BadFile as error:
                bad[row] = str(error)
        return images, bad

    def _measured(self, image: Image) -> tuple[np.ndarray, float, float]:
        """(the image, cropped, its missing pixels filled; their share; signal to noise, NaN without ERR).
        Raises: BadFile.
        """
        if image.sci is None:
            raise BadFile(image.reason)
        sci = self._plane(image, image.sci)
        planes = {}
        for name, hdu in image.planes.items():
            planes[name] = self._plane(image, hdu, integers=name == "DQ")
            if planes[name].shape != sci.shape:
                raise BadFile(
                    f"wrong geometry: {name} is {shape_text(planes[name].shape)}, SCI {shape_text(sci.shape)}"
                )
        mask = unmeasured(sci)
        if "DQ" in planes:
            mask |= (planes["DQ"] & ~self.good_bits) != 0
        for name in ("WHT", "ERR"):
            if name in planes:
                mask |= ~(planes[name] > 0)  # NaN too
        masked = masked_share(mask, self.max_masked)
        good = filled_pixels(sci, mask) if masked else sci
        return good, masked, _snr(sci, planes["ERR"], ~mask) if "ERR" in planes else math.nan

    def _plane(self, image: Image, hdu: Hdu, integers: bool = False) -> np.ndarray:
        """[H, W]; `integers`: int64, as DQ is."""
        plane = read_plane(image.path, hdu, LARGEST)
        if integers:
            # bits to 2^24 are exact in float32, HST has 16
            plane = np.where(np.isfinite(plane), plane, 2**31).astype(np.int64)
        return central_pixels(plane, self.crop)


def _images(path: str) -> list[Image]:
    """The images of a file: every SCI, or else the first image that is no weight, error or mask."""
    bare = PRODUCT.sub("", file_stem(path))
    try:
        found = read_hdus(path, MOST_HDUS)
    except BadFile as error:
        return [Image(path, path, _bare_object(bare), _band_of_name(path), reason=str(error))]
    primary = found[0].header
    target = str(card_value(primary, "TARGNAME"))
    name = _bare_object(bare) if NO_TARGET.fullmatch(target) else target
    flat = [hdu for hdu in found if len(hdu.shape) == 2]
    science = [hdu for hdu in flat if hdu.name == "SCI"] or [hdu for hdu in flat if hdu.shows_sky][:1]
    if not science:
        seen = "; ".join(
            f"HDU {hdu.number} {hdu.name} {shape_text(hdu.shape) or 'without image'}" for hdu in found[:6]
        )
        return [Image(path, path, name, _band_of_name(path), reason=f"no image [H, W]: {seen}")]
    images = []
    for sci in science:
        with_it = {
            hdu.name: hdu._replace(header=None)
            for hdu in flat
            if hdu.name in ("ERR", "WHT", "DQ") and (len(science) == 1 or hdu.version == sci.version)
        }
        where = f"{path}#{sci.name or sci.number}" + (f",{sci.version}" if sci.version != 1 else "")
        band = _band((sci.header, primary)) or _band_of_name(path)
        images.append(Image(path, where, name, band, sci._replace(header=None), with_it))
    return images


def _band(headers: tuple) -> str:
    """f814w; two filters in the beam (one is a polariser, say) as f606wpol0v:
    a band is letters and digits.
    """
    instrument = str(_card(headers, "INSTRUME")).upper()
    names = {"ACS": ("FILTER1", "FILTER2"), "WFPC2": ("FILTNAM1", "FILTNAM2")}.get(
        instrument, ("FILTER", "FILTNAM1", "FILTER1", "FILTER2")
    )
    used = [
        text
        for name in names
        if isinstance(text := _card(headers, name), str) and not NO_FILTER.fullmatch(text)
    ]
    if used:
        return re.sub(r"[^a-z0-9]", "", "".join(dict.fromkeys(used)).lower())
    found = FILTER.search(str(_card(headers, "PHOTMODE")).replace(",", " "))
    return found[0].lower() if found else ""


def _band_of_name(path: str) -> str:
    found = FILTER.search(file_stem(path).replace("_", " "))
    return found[0].lower() if found else ""


def _bare_object(bare: str) -> str:
    """The name of a file without its filter: its bands are one object."""
    return (
        re.sub(
            r"[_-]+$|^[_-]+",
            "",
            re.sub(r"[_-][FG]\d{3,4}[A-Z]{1,2}(?=[_-]|$)", "", bare, flags=re.IGNORECASE),
        )
        or bare
    )


def _instrument(headers: tuple) -> str:
    """HST ACS WFC; of PHOTMODE ACS WFC1 F814W its camera."""
    named = [str(_card(headers, name)) for name in ("TELESCOP", "INSTRUME", "DETECTOR")]
    if named[1]:
        return " ".join(filter(None, named))
    mode = str(_card(headers, "PHOTMODE")).replace(",", " ").split()
    return (
        f"HST {mode[0]}"
        if mode and mode[0].upper() in ("ACS", "WFC3", "WFPC2", "NICMOS", "STIS", "WFPC")
        else ""
    )


def _zero_point(headers: tuple) -> float | None:
    """AB magnitude of a flux of 1. Source: ACS Data Handbook, section 5.1.1:
    -2.5 log10 PHOTFLAM - 5 log10 PHOTPLAM - 2.408.
    """
    flam, pivot = _card(headers, "PHOTFLAM"), _card(headers, "PHOTPLAM")
    if not all(isinstance(value, (int, float)) and 0 < value < math.inf for value in (flam, pivot)):
        return None
    return -2.5 * math.log10(flam) - 5 * math.log10(pivot) - 2.408


def _snr(sci: np.ndarray, rms: np.ndarray, good: np.ndarray) -> float:
    flux, rms = sci[good].astype(np.float64), rms[good].astype(np.float64)
    flux = flux - np.median(flux)
    bright = flux > 3 * rms
    return float(flux[bright].sum() / math.sqrt(np.square(rms[bright]).sum())) if bright.any() else math.nan


def _card(headers: tuple, name: str):
    """Of the first header that has it."""
    return next((value for header in headers if (value := card_value(header, name)) != ""), "")
