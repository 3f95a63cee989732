"""One file -> its light curves, in physical units, or the reason why it cannot be used: see FORMATS.

Where a file has counts, they are what is used: rates and asymmetric errors are estimated from them, since the
symmetric errors and negative rates that such files hold as well say little of a bin with few photons.
"""

import os
from collections.abc import Callable

from astropy.io import fits

from data.cutouts.fits import BadFile, check_size, fits_bytes, opened_fits
from data.formats import Format
from data.light_curves.curve import Found, LightCurve, Note, Reading, with_rates
from data.light_curves.events import from_events
from data.light_curves.file_names import FITS_SUFFIXES
from data.light_curves.fits_rates import RATES, from_rates
from data.light_curves.kepler import from_archived_flux, is_archived_flux
from data.light_curves.qdp import from_qdp
from data.light_curves.tables.curves import curves_of_table

LARGEST = 2**31  # bytes of a file, unpacked
EVENTS = ("EVENTS", "XTE_SE")
# a text of these names may also be a manifest or a note: see tables/cells.py
TEXTS = (".txt", ".dat")
TABLES = (".csv", ".tsv", ".ecsv", ".tbl", ".vot", ".parquet", *TEXTS)


def read_light_curves(path: str | os.PathLike, reading: Reading) -> list[LightCurve]:
    """The light curves of one file: one, or one for each source of a table that has a usable point.

    Raises: BadFile for whatever is wrong with the file; OSError for trouble of the machine.
    """
    return [curve for curve in with_rates(find_light_curves(path, reading)) if len(curve.time)]


def find_light_curves(path: str | os.PathLike, reading: Reading) -> list[Found]:
    """As `read_light_curves`, with the rates of counts left to `with_rates`,
    which does those of many files at once.

    A source of a table that has no usable point is a curve without points here, so that it can be reported.
    """
    return READERS.get(suffix_of(path), _curves_of_fits)(path, reading)


def suffix_of(path: str | os.PathLike) -> str:
    """The suffix before that of the packing: .csv of x.CSV.gz."""
    return os.path.splitext(os.fspath(path).lower().removesuffix(".gz").removesuffix(".bz2"))[1]


def _curves_of_fits(path: str | os.PathLike, reading: Reading) -> list[Found]:
    raw = fits_bytes(path, LARGEST)
    with opened_fits(raw) as hdus:
        return [from_fits(hdus, len(raw), path, reading)]


def _curves_of_qdp(path: str | os.PathLike, reading: Reading) -> list[Found]:
    return [from_qdp(path, reading)]


# What is not read as FITS, by suffix.
READERS: dict[str, Callable[[str | os.PathLike, Reading], list[Found]]] = {
    **dict.fromkeys(TABLES, curves_of_table),
    ".qdp": _curves_of_qdp,
}
SUFFIXES = (
    *(suffix + packed for suffix in (*FITS_SUFFIXES, ".qdp") for packed in ("", ".gz")),
    *(suffix + packed for suffix in TABLES for packed in ("", ".gz", ".bz2")),
)


def from_fits(hdus: fits.HDUList, size: int, path: str | os.PathLike, reading: Reading) -> Found:
    """The first table that holds a light curve or events; how many others there are is said."""
    kinds = [_kind_of_curve(hdu) for hdu in hdus]
    place = next((place for place, kind in enumerate(kinds) if kind), None)
    if place is None:
        seen = [
            f"HDU {number} {hdu.name!r} has columns {' '.join(sorted(map(str.upper, hdu.columns.names))[:6])}"
            for number, hdu in enumerate(hdus)
            if isinstance(hdu, fits.BinTableHDU)
        ]
        raise BadFile(
            "no light curve: expected a table with TIME and COUNTS, RATE or RATE1, or an event list; "
            + ("; ".join(seen) or "there is no table")
        )
    check_size(hdus[place], size)
    if kinds[place] == "events":
        found = from_events(hdus, place, size, path, reading)
    elif kinds[place] == "flux":
        found = from_archived_flux(hdus, place, path, reading)
    else:
        found = from_rates(hdus, place, size, path, reading)
    others = sum(kind is not None for kind in kinds) - 1
    if not others:
        return found
    return found._replace(notes=(*found.notes, Note("further tables of curves in a file, not read", others)))


def _kind_of_curve(hdu: fits.PrimaryHDU | fits.ImageHDU | fits.BinTableHDU) -> str | None:
    """ "events", "flux" (of stars) or "rates"; None for any other HDU."""
    if not isinstance(hdu, fits.BinTableHDU):
        return None
    names = {name.upper() for name in hdu.columns.names}
    if "TIME" not in names:
        return None
    kind = str(hdu.header.get("HDUCLAS1", "")).upper()
    if hdu.name.upper() in EVENTS or kind.startswith("EVENT"):
        return "events"
    if is_archived_flux(names):
        return "flux"
    return "rates" if names & {"COUNTS", "RATE1", *RATES} else None


FORMATS = (
    Format(
        "eSASS srctool",
        "FITS, HDU RATE with COUNTS, BACK_COUNTS, BACKRATIO, FRACEXP; a value a row for each band",
        "counts, expected background, exposure = TIMEDEL x FRACEXP",
        "bins of a band with FRACEXP below --min_fracexp are not observed",
    ),
    Format(
        "rebinned (eRebin)",
        "FITS, RATE, RATE_ERRM, RATE_ERRP, with or without counts",
        "counts if there, else the rates",
        "negative errors, rates that are not finite",
    ),
    Format(
        "Chandra dmextract",
        "FITS, TIME_MIN, TIME_MAX, COUNTS, EXPOSURE, BG_COUNTS, AREA, BG_AREA",
        "counts, exposure of each bin in its unit, background scaled by areas and exposures",
        "bins without exposure are not observed; BG_COUNTS without an area or BACKRATIO refuse the file",
    ),
    Format(
        "xselect, lcurve, epiclccorr (NICER, NuSTAR, Swift, RXTE, IXPE, XMM, also .FTZ)",
        "FITS, RATE or COUNTS in counts/s with ERROR; RATE1, ERROR1, XAX_E",
        "rates; the TIME column's unit wins over TIMEUNIT; a GTI table beside cuts the bins",
        "BACKV and flags are not used, and named; a TIMEDEL that is the time of a frame is no bin",
    ),
    Format(
        "event lists",
        "FITS, EVENTS or XTE_SE with GTI tables",
        "counts in --bin_time and --energy_bands (by mission if not given), good time as exposure",
        "no GTI; no event in the good time; PHA is not energy: bands of channels",
    ),
    Format(
        "Kepler, K2, TESS, lightkurve",
        "FITS, PDCSAP_FLUX, KSPSAP_FLUX, DET_FLUX, SAP_FLUX or FLUX with its error",
        "the first of these, electrons/s; source = KIC, EPIC or TIC number",
        "rows with flags of lightkurve's default masks (Kepler 1130799, TESS 175), counted; target pixels",
    ),
    Format(
        "QDP (Swift XRT)",
        ".qdp: READ SERR or READ TERR, groups between NO NO NO",
        "first column time in s or MJD, second rate; WT and PC joined, soft and hard as bands",
        "hardness ratios and PC_incbad are left out and counted; no errors of the rate refuse the file",
    ),
)
