"""Magnitudes and fluxes of a table as rates of one zero point, with their errors, signs and limits."""

from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from data.cutouts.fits import BadFile
from data.light_curves.curve import Reading, columns_given
from data.light_curves.tables import surveys
from data.light_curves.tables.cells import Cells, codes, is_text, numbers
from data.light_curves.tables.columns import Chosen
from data.light_curves.tables.surveys import FILLED, UNKNOWN_MAGNITUDE
from data.light_curves.units import unit_of_rate


class Places(NamedTuple):
    """Where and when the R rows of a table are."""

    source: np.ndarray  # [R] int64
    band: np.ndarray  # [R] int64
    time: np.ndarray  # [R] float64 s
    keep: np.ndarray  # [R] bool, the rows that count; those without a sign are taken out here


class Written(NamedTuple):
    """R rows as the table has them, NaN for what is not there."""

    value: np.ndarray  # [R] float64, magnitude or flux
    error: np.ndarray  # [R] float64, of the same unit
    bound: np.ndarray  # [R] float64, an upper limit in the place of the value
    faintest: np.ndarray  # [R] float64, limiting magnitude of the exposure


def rates_of(
    cells: Cells, chosen: Chosen, reading: Reading, places: Places
) -> tuple[np.ndarray, np.ndarray, np.ndarray, str]:
    """(rate, error, upper limit of the rate, each [R] float64, NaN where it is not known; their unit).

    Raises: BadFile where no measurement has an error, and none is to be assumed.
    """
    written = _written(cells, chosen)
    of_zero_point = f"zero point {reading.zero_point:g}"
    measured = places.keep & np.isfinite(written.value)
    if (
        measured.any()
        and not np.isfinite(written.error[measured]).any()
        and reading.assumed_error == "refuse"
    ):
        raise BadFile(
            f"no errors beside {cells.names[chosen.value]} (there are "
            f"{' '.join(cells.names)[:80]}): --columns error=... names it, or --assumed_error 0.02 "
            "(magnitudes, or a share of the flux) or scatter says how large they are"
        )
    if chosen.is_magnitude:
        return *_from_magnitudes(cells, chosen, reading, written, places), of_zero_point
    scale, of_magnitude, unit = _flux_scale(cells, chosen, reading, places.keep)
    filled = _filled(written)
    rate = np.where(filled, np.nan, written.value) * scale
    if chosen.sign is not None and not (written.value < 0).any():
        rate = _signed(cells, chosen, rate, places.keep)
    lacks = ~np.isfinite(written.error)
    error = _with_assumed(cells, reading, rate, written.error * scale, lacks, False, places)
    limit = written.bound * scale
    # a flux has a value where a magnitude has none: only rows without one are limits
    of_faintest = 10 ** (-0.4 * (written.faintest - reading.zero_point)) if of_magnitude else np.nan
    return (
        rate,
        error,
        np.where(np.isfinite(limit), limit, of_faintest),
        of_zero_point if of_magnitude else unit,
    )


def _written(cells: Cells, chosen: Chosen) -> Written:
    column = cells.columns[chosen.value]
    value = numbers(column)
    unknown = np.full(len(value), np.nan)
    bound = unknown
    if is_text(column):
        # >17.5: fainter than that, as observers of variable stars write <17.5
        text = pc.utf8_trim_whitespace(column)
        bare = pc.utf8_ltrim(text, "<>")
        marked = pc.not_equal(bare, text).to_numpy(zero_copy_only=False)
        if marked.any():
            bound = np.where(marked, numbers(bare), np.nan)
            value[marked] = np.nan
    error = unknown if chosen.error is None else numbers(cells.columns[chosen.error])
    if chosen.is_limit is not None:
        marked = _truths(cells.columns[chosen.is_limit]) == 1
        bound = np.where(marked & ~np.isfinite(bound), value, bound)
        value = np.where(marked, np.nan, value)
    faintest = unknown
    if chosen.limit is not None:
        faintest = numbers(cells.columns[chosen.limit])
        faintest[np.abs(faintest) >= UNKNOWN_MAGNITUDE] = np.nan
    return Written(value, error, bound, faintest)


def _truths(column: pa.Array) -> np.ndarray:
    """[R] float: 1, 0, NaN for what is neither."""
    of_row, values = codes(column)
    meaning = {**surveys.TRUTHS, **surveys.FALSEHOODS}
    return np.array([*(meaning.get(value.lower(), np.nan) for value in values), np.nan])[of_row]


def _filled(written: Written) -> np.ndarray:
    """[R] bool, the fluxes that say that there is none; among whole numbers only by their errors."""
    value = written.value[np.isfinite(written.value)]
    is_whole = len(value) > 0 and (value == np.round(value)).all()
    return np.isin(written.value, FILLED) & (~(written.error > 0) | (not is_whole))


def _from_magnitudes(
    cells: Cells, chosen: Chosen, reading: Reading, written: Written, places: Places
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    zero_point = reading.zero_point
    value, error = written.value, written.error
    # an error of 99.99 alone makes no limit of its magnitude: SDSS writes it beside meaningless ones
    unknown = (np.abs(value) >= UNKNOWN_MAGNITUDE) | (error >= UNKNOWN_MAGNITUDE)
    value = np.where(unknown, np.nan, value)
    lacks = ~np.isfinite(error) & ~unknown
    bound = np.where(np.isfinite(written.bound), written.bound, written.faintest)
    if chosen.zero_point is not None:
        name = cells.names[chosen.zero_point]
        offset = numbers(cells.columns[chosen.zero_point])
        if "zero_point" in columns_given(reading):
            value = value + offset
            bound = bound + offset
            cells.told.of_table(f"{name} added to the magnitudes")
        elif np.isfinite(offset[places.keep]).any():
            cure = f"--columns zero_point={name} adds it"
            cells.told.of_table(f"{name} not used: magnitudes are taken as calibrated ({cure})")
    rate = 10 ** (-0.4 * (value - zero_point))
    error = rate * error * 0.4 * np.log(10)
    error = _with_assumed(cells, reading, rate, error, lacks, True, places)
    if chosen.sign is not None and not chosen.plain[chosen.value].endswith("_corr"):
        rate = _signed(cells, chosen, rate, places.keep)
    return rate, error, 10 ** (-0.4 * (bound - zero_point))


def _signed(cells: Cells, chosen: Chosen, rate: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """Difference images: where the source is fainter than in the reference, the flux is negative."""
    truth = _truths(cells.columns[chosen.sign])
    name = cells.names[chosen.sign]
    negative = (truth == 0) & np.isfinite(rate)
    cells.told.of_rows(f"rows with {name} false, taken as negative flux", np.count_nonzero(negative & keep))
    unsaid = ~np.isfinite(truth) & np.isfinite(rate)
    cells.told.of_rows(f"rows without {name}, left out", np.count_nonzero(unsaid & keep))
    keep[unsaid] = False
    return np.where(negative, -rate, rate)


def _flux_scale(
    cells: Cells, chosen: Chosen, reading: Reading, keep: np.ndarray
) -> tuple[np.ndarray | float, bool, str]:
    """(what brings fluxes to the zero point of the reading, or to a usual unit; whether their zero point is
    known; their unit where it is not).
    """
    name = cells.names[chosen.value]
    if chosen.zero_point is not None:
        zero_point = numbers(cells.columns[chosen.zero_point])
        known = np.unique(zero_point[keep & np.isfinite(zero_point)])
        if len(known):
            shown = f"zero point {known[0]:g}" if len(known) == 1 else "several zero points"
            shown = f"{shown} ({cells.names[chosen.zero_point]})"
            cells.told.of_table(f"fluxes of {shown} brought to {reading.zero_point:g} (--zero_point)")
            if "zpsys" in chosen.plain:
                _, systems = codes(cells.columns[chosen.plain.index("zpsys")])
                if {system.lower() for system in systems} - {"ab"}:
                    cells.told.of_table(f"zpsys {' '.join(sorted(systems))}: not brought to one system")
            return 10 ** (-0.4 * (zero_point - reading.zero_point)), True, ""
    unit = cells.units.get(name, "")
    zero_point = surveys.OF_UNIT.get(unit.strip().lower())
    if (
        zero_point is None
        and chosen.survey
        and chosen.survey.columns.get("flux") == chosen.plain[chosen.value]
    ):
        zero_point = chosen.survey.zero_point
        unit = chosen.survey.unit
    if zero_point is None:
        factor, usual = unit_of_rate(unit)
        cells.told.of_table(
            f"fluxes as they stand, in {unit or 'a unit that is not written'}"
            if factor == 1
            else f"fluxes in {unit} brought to {usual}"
        )
        return factor, False, usual
    cells.told.of_table(
        f"flux in {unit} (AB {zero_point:g}) brought to {reading.zero_point:g} (--zero_point)"
    )
    return 10 ** (-0.4 * (zero_point - reading.zero_point)), True, ""


def _with_assumed(
    cells: Cells,
    reading: Reading,
    rate: np.ndarray,
    error: np.ndarray,
    lacks: np.ndarray,
    is_magnitude: bool,
    places: Places,
) -> np.ndarray:
    """The errors, with those that the table lacks as `--assumed_error` has them."""
    lacks = lacks & np.isfinite(rate)
    if reading.assumed_error == "refuse" or not (lacks & places.keep).any():
        return error
    there = places.keep & np.isfinite(rate)
    columns = dict(source=places.source, band=places.band, time=places.time, rate=rate)
    table = pd.DataFrame({name: values[there] for name, values in columns.items()})
    table = table.sort_values(["source", "band", "time"], kind="stable")
    groups = table.groupby(["source", "band"])["rate"]
    if reading.assumed_error == "scatter":
        # the median of |a - b| of two normal draws is 0.6745 * 2^(1/2) deviations
        steps = groups.diff().abs().groupby([table["source"], table["band"]]).transform("median") / 0.9539
        assumed = pd.Series(steps, index=table.index)
        what = "errors assumed: the scatter from point to point (--assumed_error scatter)"
    elif is_magnitude:
        assumed = table["rate"].abs() * float(reading.assumed_error) * 0.4 * np.log(10)
        what = f"errors assumed: {reading.assumed_error} mag (--assumed_error)"
    else:
        assumed = table["rate"].abs().groupby([table["source"], table["band"]]).transform("median")
        assumed = assumed * float(reading.assumed_error)
        what = f"errors assumed: {reading.assumed_error} of the median flux (--assumed_error)"
    of_row = np.full(len(rate), np.nan)
    of_row[np.flatnonzero(there)[assumed.index]] = assumed
    cells.told.of_rows(what, np.count_nonzero(lacks & places.keep))
    return np.where(lacks, of_row, error)
