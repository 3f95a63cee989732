"""The observations of a table: time in s, rate and error in one unit, band, source.

Nothing is left out, or assumed, that is not said in `cells.told`.
"""

import os
import re
from typing import NamedTuple

import numpy as np

from data.cutouts.fits import BadFile
from data.light_curves.curve import Reading, columns_given
from data.light_curves.file_names import source_of
from data.light_curves.tables import surveys
from data.light_curves.tables.cells import Cells, codes
from data.light_curves.tables.columns import MOST_BANDS, Chosen
from data.light_curves.tables.one_band import check_one_band
from data.light_curves.tables.quality import flagged_rows
from data.light_curves.tables.rates import Places, rates_of
from data.light_curves.tables.times import times_of
from data.light_curves.units import in_range, raised_note

POWER_OF_TEN = re.compile(r"\d(\.\d+)?[eE]\+\d+")


class Observations(NamedTuple):
    """R rows that count."""

    time: np.ndarray  # [R] float64 s
    rate: np.ndarray  # [R] float64, counts/s or flux
    error: np.ndarray  # [R] float64, above 0
    is_limit: np.ndarray  # [R] bool: the rate is 0, the error what an upper limit leaves of it
    band: np.ndarray  # [R] int64 place in bands
    source: np.ndarray  # [R] int64 place in sources
    bands: tuple[str, ...]
    sources: list[str]  # in the order of the file
    unit: str  # of rates and errors, as units.py writes it


def observations_of(cells: Cells, chosen: Chosen, path: str | os.PathLike, reading: Reading) -> Observations:
    """Raises: BadFile where no row is left, or its times or bands cannot be told apart."""
    rows = len(cells.columns[chosen.time])
    keep = np.ones(rows, dtype=bool)

    def leave_out(bad: np.ndarray, what: str) -> None:
        cells.told.of_rows(what, np.count_nonzero(keep & bad))
        keep[bad] = False

    time = times_of(cells, chosen, reading)
    if rows and not np.isfinite(time).any():
        raise BadFile(f"{rows} of {rows} rows have no time")
    leave_out(~np.isfinite(time), "rows without a time, left out")
    source, sources = _sources(cells, chosen, path)
    leave_out(source < 0, "rows without an object, left out")
    band, bands = _bands(cells, chosen)
    leave_out(band < 0, "rows without a band, left out")
    flagged = flagged_rows(cells, chosen, reading)
    if keep.any() and not (keep & ~np.logical_or.reduce([np.zeros(rows, bool), *flagged.values()])).any():
        raise BadFile(f"no point left: {'; '.join(flagged)}; --quality none takes them all")
    for what, bad in flagged.items():
        leave_out(bad, what)
    if chosen.band is None and "band" not in columns_given(reading):
        check_one_band(cells, chosen, time, source, keep)

    rate, error, limit, unit = rates_of(cells, chosen, reading, Places(source, band, time, keep))
    is_limit = ~(np.isfinite(rate) & np.isfinite(error) & (error > 0)) & np.isfinite(limit) & (limit > 0)
    rate = np.where(is_limit, 0.0, rate)
    error = np.where(is_limit, limit / reading.limit_sigma, error)
    limits = f"upper limits, as 0 +- limit / {reading.limit_sigma:g} (--limit_sigma)"
    cells.told.of_rows(limits, np.count_nonzero(is_limit & keep))
    usable = np.isfinite(rate) & np.isfinite(error) & (error > 0)
    if not (usable & keep).any():
        counted = f" ({cells.told})" if str(cells.told) else ""
        raise BadFile(f"no point left: none of {rows} rows has a finite value and error{counted}")
    leave_out(
        np.isfinite(rate) & ~np.isfinite(error), "rows without an error (--assumed_error sets one), left out"
    )
    leave_out(~usable, "rows without a finite value and an error above 0, left out")
    raised, (rate, error) = in_range(unit, float(np.median(error[keep])), rate, error)
    if raised != unit:
        cells.told.of_table(raised_note(raised))
    with np.errstate(over="ignore"):
        narrow = np.stack([rate, error]).astype(np.float32)
    leave_out(
        ~np.isfinite(narrow).all(0) | (narrow[1] == 0), "rows out of the range of 32-bit numbers, left out"
    )

    present = np.unique(band[keep])
    names = [bands[number] for number in present]
    order = sorted(
        range(len(names)),
        key=lambda at: ("ugrizy".find(names[at]) if len(names[at]) == 1 else -1, names[at]),
    )
    place = np.full(len(bands), -1)
    place[present[order]] = np.arange(len(order))
    return Observations(
        time[keep],
        rate[keep],
        error[keep],
        is_limit[keep],
        place[band[keep]],
        source[keep],
        tuple(names[at] for at in order),
        sources,
        raised,
    )


def _sources(cells: Cells, chosen: Chosen, path: str | os.PathLike) -> tuple[np.ndarray, list[str]]:
    if chosen.id is None:
        return np.zeros(len(cells.columns[chosen.time]), dtype=np.int64), [source_of(path)]
    source, sources = codes(cells.columns[chosen.id])
    if any(POWER_OF_TEN.fullmatch(name) for name in sources):
        name = cells.names[chosen.id]
        cells.told.of_table(
            f"column {name} has numbers in powers of ten: objects whose digits are lost are one"
        )
    return source, sources


def _bands(cells: Cells, chosen: Chosen) -> tuple[np.ndarray, list[str]]:
    """([R] place, names); the numbers that surveys give their bands become their letters."""
    if chosen.band is None:
        return np.zeros(len(cells.columns[chosen.time]), dtype=np.int64), ["1"]
    band, values = codes(cells.columns[chosen.band])
    name = cells.names[chosen.band]
    if len(values) > MOST_BANDS:
        raise BadFile(
            f"column {name} has {len(values):,} values, more than {MOST_BANDS}: no band; --columns band=... "
            "says which column is, or band=none"
        )
    plain = chosen.plain[chosen.band]
    letters = chosen.survey.bands if chosen.survey else {}
    if plain == "fid":
        letters = letters or surveys.ZTF
    elif plain == "passband":
        letters = letters or surveys.PLASTICC
    if not set(values) <= letters.keys():
        letters = surveys.LETTERS
    elif values:
        pairs = " ".join(f"{value}={letter}" for value, letter in letters.items())
        cells.told.of_table(f"{name} taken as {pairs}")
    named = [letters.get(value, value) for value in values]
    merged = list(dict.fromkeys(named))
    place = np.array([merged.index(one) for one in named], dtype=np.int64)
    return (np.where(band < 0, -1, place[band]) if values else band), merged
