"""The clock of a FITS table: the unit of its times and where they count from, so that two tables agree."""

import re
from typing import NamedTuple

from astropy.io import fits

from data.cutouts.fits import BadFile
from data.light_curves.curve import DAY, Note

SECONDS = {
    "s": 1.0,
    "sec": 1.0,
    "second": 1.0,
    "seconds": 1.0,
    "us": 1e-6,
    "ms": 1e-3,
    "ks": 1e3,
    "min": 60.0,
    "h": 3600.0,
    "hr": 3600.0,
    "d": DAY,
    "day": DAY,
    "days": DAY,
    "jd": DAY,
    "mjd": DAY,
    "bjd": DAY,
    "hjd": DAY,
    "bkjd": DAY,  # lightkurve's names for the days of Kepler and TESS
    "btjd": DAY,
}


def seconds_in(unit: str) -> float:
    """Of a unit of time as files spell it; TESS' BJD - 2457000, days and Kepler's BJD - 2454833 are days."""
    name = re.sub(r"^(BJD|HJD|JD|MJD)\s*-\s*[\d.]+\s*(,\s*|$)", "", unit.strip(), flags=re.IGNORECASE)
    name = name.lower() or ("d" if unit.strip() else "")
    if name not in SECONDS:
        raise BadFile(f"unknown unit of time {unit!r}: expected one of {' '.join(SECONDS)}")
    return SECONDS[name]


def seconds(hdu: fits.BinTableHDU, column: str | None = None) -> float:
    """Seconds in the unit of a column, else of TIME, else of the header:
    xronos writes s at TIME and d in the header.
    """
    columns = {one.name.upper(): one.unit for one in hdu.columns} if column else {}
    unit = columns.get(str(column).upper()) or columns.get("TIME") or hdu.header.get("TIMEUNIT") or "s"
    return seconds_in(str(unit))


class Clock(NamedTuple):
    """Where the times of a table count from."""

    zero: float | None  # s, TIMEZERO: is added to each time
    day: float | None  # MJDREFI, or MJDREF: MJD at time zero
    part: float  # MJDREFF: of a day, kept apart since a sum would round to microseconds
    system: str  # TIMESYS: TT, UTC, ...


def clock_of(hdu: fits.BinTableHDU, primary: fits.Header) -> Clock:
    """By the cards of the table itself, else of the primary header."""
    here = hdu.header if number(hdu.header, "MJDREFI", "MJDREF") is not None else primary
    day, part = number(here, "MJDREFI"), number(here, "MJDREFF") or 0.0
    if day is None:
        day, part = number(here, "MJDREF"), 0.0
    zero = number(hdu.header, "TIMEZERO")
    if zero is None and (whole := number(hdu.header, "TIMEZERI")) is not None:
        zero = whole + (number(hdu.header, "TIMEZERF") or 0.0)
    if zero is not None:
        zero *= seconds_in(str(hdu.header.get("TIMEUNIT") or "s"))
    system = str(hdu.header.get("TIMESYS") or primary.get("TIMESYS") or "").strip().upper()
    return Clock(zero, day, part, system)


def number(header: fits.Header, *names: str) -> float | None:
    """The first of these cards that is a number."""
    for name in names:
        value = header.get(name)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and value == value:
            return float(value)
    return None


def shift_between(table: Clock, events: Clock) -> float:
    """Seconds to add to a bare time of `table` for one on the clock of `events`, whose TIMEZERO is in it."""
    shift = table.zero or 0.0
    if table.day is not None and events.day is not None:
        shift += ((table.day - events.day) + (table.part - events.part)) * DAY
    return shift


def clock_notes(name: str, table: Clock, events: Clock) -> list[Note]:
    notes = []
    if abs(shift_between(table, events) - (events.zero or 0.0)) > 1e-6:
        notes.append(Note(f"times of {name} moved to the clock of the curve (TIMEZERO, MJDREF)"))
    if table.system and events.system and table.system != events.system:
        notes.append(Note(f"{name} in TIMESYS {table.system}, the curve in {events.system}: not converted"))
    return notes
