"""Times of a table in seconds: units, dates, Julian dates, and what cannot be days."""

import numpy as np
import pandas as pd
import pyarrow as pa

from data.cutouts.fits import BadFile
from data.light_curves.curve import DAY, TIME_UNITS, Reading
from data.light_curves.tables.cells import Cells, is_text, numbers, texts
from data.light_curves.tables.columns import Chosen
from data.light_curves.tables.surveys import FILLED

TO_MJD = 2_400_000.5
JULIAN = (2_300_000.0, 2_600_000.0)  # days from 1584 to 2406
LONGEST = 200_000.0  # days, 548 years: no telescope has looked for longer
LONG = 20_000.0  # days, 55 years: said
UNIT_NAMES = {"day": "d", "days": "d", "mjd": "d", "jd": "d", "bjd": "d"}
UNIT_NAMES |= {"sec": "s", "second": "s", "seconds": "s", "hour": "h", "year": "yr"}


def times_of(cells: Cells, chosen: Chosen, reading: Reading) -> np.ndarray:
    """[R] s, NaN where there is none. Julian dates become modified ones.

    Raises: BadFile for times that no unit makes plausible, with the readings that there are.
    """
    column = cells.columns[chosen.time]
    name = cells.names[chosen.time]
    time = numbers(column)
    written = cells.units.get(name, "").strip().lower()
    unit = UNIT_NAMES.get(written, written)
    stated = reading.time_unit != "auto" or unit in TIME_UNITS
    unit = reading.time_unit if reading.time_unit != "auto" else unit if unit in TIME_UNITS else "d"
    if not np.isfinite(time).any() and len(time):
        dates = column if pa.types.is_temporal(column.type) else texts(column)
        stamps = pd.to_datetime(dates.to_pandas(), errors="coerce", utc=True, format=_date_format(dates))
        time = ((stamps - pd.Timestamp("1858-11-17", tz="UTC")) / pd.Timedelta(days=1)).to_numpy(np.float64)
        if np.isfinite(time).any():
            cells.told.of_table(f"{name} holds dates: taken as UTC, to MJD")
        return time * DAY
    there = time[np.isfinite(time)]
    if len(there) and np.median(there) > 1e4:
        # -999 among dates says that there is none, and so do a few zeros
        time[np.isin(time, FILLED) | ((time <= 0) & (np.mean(there <= 0) < 0.2))] = np.nan
        there = time[np.isfinite(time)]
    if unit != "d" or not len(there):
        return time * TIME_UNITS[unit]
    julian = (there >= JULIAN[0]) & (there < JULIAN[1])
    if julian.all():
        cells.told.of_table("times are Julian dates: 2,400,000.5 d taken off, to MJD")
        return (time - TO_MJD) * DAY
    if julian.any() and (there < JULIAN[0]).any():
        first = there[~julian][0]
        raise BadFile(
            f"column {name}: {np.count_nonzero(julian)} times are Julian dates ({there[julian][0]:.5f}) and "
            f"{np.count_nonzero(~julian)} are not ({first:.5f}; as a modified Julian date it would be "
            f"{first + TO_MJD:.5f}): write all of them in one scale"
        )
    span = float(np.ptp(there))
    if not stated and (span > LONGEST or np.abs(there).max() > 1e7):
        other = "ns" if np.abs(there).max() > 1e15 else "s"
        in_days = span * TIME_UNITS[other] / DAY
        raise BadFile(
            f"column {name}: times from {there.min():.10g} to {there.max():.10g} are {span:,.0f} d "
            f"({span / 365.25:,.0f} years) if they are days, {in_days:.4g} d if they are {other}: say which, "
            f"--time_unit d or --time_unit {other}"
        )
    if not stated and span > LONG:
        cells.told.of_table(
            "times span more than 55 years, read as days (--time_unit s, if they are seconds)"
        )
    return time * DAY


def _date_format(dates: pa.Array) -> str | None:
    return "ISO8601" if is_text(dates) else None
