"""One file -> its light curves, in physical units, or the reason why it cannot be used.

    eROSITA      srctool's RATE tables and their rebinned kind (COUNTS, BACK_COUNTS, BACKRATIO, FRACEXP;
                 or RATE, RATE_ERRM, RATE_ERRP)
    xronos       lcurve's RATE1, ERROR1, XAX_E
    event lists  EVENTS or XTE_SE with good time intervals, binned here
    tables       text, ECSV, Parquet of time (days), magnitude or flux with its error, band, source

Where a file has counts, they are what is used: rates and asymmetric errors are estimated from them, since the
symmetric errors and negative rates that such files hold as well say little of a bin with few photons.
"""

import os

from astropy.io import fits

from data.cutouts.fits import BadFile, check_size, fits_bytes, opened_fits
from data.light_curves.curve import Found, LightCurve, Reading, with_rates
from data.light_curves.events import from_events
from data.light_curves.fits_rates import from_rates
from data.light_curves.tables.curves import curves_of_table

LARGEST = 2**31  # bytes of a file, unpacked
# a text of these names may also be a manifest or a note: see tables/listing.py
TEXTS = (".txt", ".dat")
TABLES = tuple(
    ending + packed
    for ending in (".csv", ".tsv", ".ecsv", ".tbl", ".vot", ".parquet", *TEXTS)
    for packed in ("", ".gz", ".bz2")
)


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
    if os.fspath(path).lower().endswith(TABLES):
        return curves_of_table(path, reading)
    raw = fits_bytes(path, LARGEST)
    with opened_fits(raw) as hdus:
        return [from_fits(hdus, len(raw), path, reading)]


def from_fits(hdus: fits.HDUList, size: int, path: str | os.PathLike, reading: Reading) -> Found:
    """Stops at the first table that holds a light curve or events."""
    seen = []
    for number, hdu in enumerate(hdus):
        if not isinstance(hdu, fits.BinTableHDU):
            continue
        names = {name.upper() for name in hdu.columns.names}
        events = hdu.name in ("EVENTS", "XTE_SE") or str(hdu.header.get("HDUCLAS1", "")).upper().startswith(
            "EVENT"
        )
        if "TIME" in names and events:
            return from_events(hdus, number, size, path, reading)
        if "TIME" in names and names & {"COUNTS", "RATE", "RATE1"}:
            check_size(hdu, size)
            return from_rates(hdu, path, reading)
        seen.append(f"HDU {number} {hdu.name!r} has columns {' '.join(sorted(names)[:6])}")
    raise BadFile(
        "no light curve: expected a table with TIME and COUNTS, RATE or RATE1, or an event list; "
        + ("; ".join(seen) or "there is no table")
    )
