"""Magnitudes and fluxes of a table as rates of one zero point, with their errors, signs and limits."""

from collections import Counter

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


def rates_of(
    cells: Cells,
    chosen: Chosen,
    reading: Reading,
    source: np.ndarray,
    band: np.ndarray,
    time: np.ndarray,
    keep: np.ndarray,
    told: Counter,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(rate, error, upper limit of the rate), each [R] float64, NaN where it is not known."""
    column = cells.columns[chosen.value]
    value = numbers(column)
    bound = np.full(len(value), np.nan)  # of an upper limit, in the unit of the value
    if is_text(column):
        # >17.5: fainter than that, as observers of variable stars write <17.5
        stripped = pc.utf8_ltrim(pc.utf8_trim_whitespace(column), "<>")
        marked = pc.not_equal(stripped, pc.utf8_trim_whitespace(column)).to_numpy(zero_copy_only=False)
        if marked.any():
            bound = np.where(marked, numbers(stripped), np.nan)
            value[marked] = np.nan
    error = numbers(cells.columns[chosen.error]) if chosen.error is not None else np.full(len(value), np.nan)
    lacks = ~np.isfinite(error) if chosen.error is not None else np.ones(len(value), dtype=bool)
    if lacks[keep].all() and reading.assumed_error == "refuse":
        raise BadFile(
            f"no errors beside {cells.names[chosen.value]} (there are "
            f"{' '.join(cells.names)[:80]}): --columns error=... names it, or --assumed_error 0.02 "
            "(magnitudes, or a share of the flux) or scatter says how large they are"
        )
    limit_magnitude = np.full(len(value), np.nan)
    if chosen.is_limit is not None:
        value, bound = _marked_limits(cells, chosen, value, bound)
    if chosen.limit is not None:
        limit_magnitude = numbers(cells.columns[chosen.limit])
        limit_magnitude[np.abs(limit_magnitude) >= UNKNOWN_MAGNITUDE] = np.nan
    if chosen.is_magnitude:
        return _from_magnitudes(
            cells,
            chosen,
            reading,
            value,
            error,
            lacks,
            bound,
            limit_magnitude,
            source,
            band,
            time,
            keep,
            told,
        )
    scale, of_magnitude = _flux_scale(cells, chosen, reading, value, keep, told)
    filled = np.isin(value, FILLED) & ~(error > 0)
    rate = np.where(filled, np.nan, value) * scale
    error = error * scale
    if chosen.sign is not None and not (value < 0).any():
        rate = _signed(cells, chosen, rate, keep, told)
    error = _assumed(reading, rate, error, lacks, False, source, band, time, keep, told)
    limit = bound * scale
    # a flux has a value where a magnitude has none: only rows without one are limits
    by_magnitude = 10 ** (-0.4 * (limit_magnitude - reading.zero_point)) if of_magnitude else np.nan
    return rate, error, np.where(np.isfinite(limit), limit, by_magnitude)


def _marked_limits(
    cells: Cells, chosen: Chosen, value: np.ndarray, bound: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Rows that a column of truth values calls upper limits are no measurements."""
    truth = _truths(cells.columns[chosen.is_limit])
    marked = truth == 1
    return np.where(marked, np.nan, value), np.where(marked & ~np.isfinite(bound), value, bound)


def _truths(column: pa.Array) -> np.ndarray:
    """[R] float: 1, 0, NaN for what is neither."""
    of_row, values = codes(column)
    meaning = {**surveys.TRUTHS, **surveys.FALSEHOODS}
    return np.array([*(meaning.get(value.lower(), np.nan) for value in values), np.nan])[of_row]


def _from_magnitudes(
    cells, chosen, reading, value, error, lacks, bound, limit_magnitude, source, band, time, keep, told
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    zero_point = reading.zero_point
    unknown = (np.abs(value) >= UNKNOWN_MAGNITUDE) | (error >= UNKNOWN_MAGNITUDE)
    # an error of 99.99 alone makes no limit of its magnitude: SDSS writes it beside meaningless ones
    bound = np.where(np.isfinite(bound), bound, limit_magnitude)
    value = np.where(unknown, np.nan, value)
    lacks = lacks & ~unknown
    if chosen.zero_point is not None:
        name = cells.names[chosen.zero_point]
        offset = numbers(cells.columns[chosen.zero_point])
        if "zero_point" in columns_given(reading):
            value = value + offset
            bound = bound + offset
            told[f"{name} added to the magnitudes"] += 1
        else:
            known = np.unique(offset[keep & np.isfinite(offset)])
            if len(known):
                cure = f"--columns zero_point={name} adds it"
                told[f"{name} not used: magnitudes are taken as calibrated ({cure})"] += 1
    rate = 10 ** (-0.4 * (value - zero_point))
    error = rate * error * 0.4 * np.log(10)
    if chosen.error is None or lacks.any():
        error = _assumed(reading, rate, error, lacks, True, source, band, time, keep, told)
    if chosen.sign is not None and not chosen.plain[chosen.value].endswith("_corr"):
        rate = _signed(cells, chosen, rate, keep, told)
    return rate, error, 10 ** (-0.4 * (bound - zero_point))


def _signed(cells: Cells, chosen: Chosen, rate: np.ndarray, keep: np.ndarray, told: Counter) -> np.ndarray:
    """Difference images: where the source is fainter than in the reference, the flux is negative."""
    truth = _truths(cells.columns[chosen.sign])
    name = cells.names[chosen.sign]
    negative = (truth == 0) & np.isfinite(rate)
    told[f"rows with {name} false: negative flux"] += int(np.count_nonzero(negative & keep))
    unsaid = ~np.isfinite(truth) & np.isfinite(rate)
    told[f"rows without {name}: left out"] += int(np.count_nonzero(unsaid & keep))
    keep[unsaid] = False
    return np.where(negative, -rate, rate)


def _flux_scale(
    cells: Cells, chosen: Chosen, reading: Reading, value: np.ndarray, keep: np.ndarray, told: Counter
) -> tuple[np.ndarray | float, bool]:
    """(what brings fluxes to the zero point of the reading, whether their zero point is known)."""
    name = cells.names[chosen.value]
    if chosen.zero_point is not None:
        zero_point = numbers(cells.columns[chosen.zero_point])
        known = np.unique(zero_point[keep & np.isfinite(zero_point)])
        if len(known):
            shown = f"zero point {known[0]:g}" if len(known) == 1 else "several zero points"
            shown = f"{shown} ({cells.names[chosen.zero_point]})"
            told[f"fluxes of {shown} brought to {reading.zero_point:g} (--zero_point)"] += 1
            return 10 ** (-0.4 * (zero_point - reading.zero_point)), True
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
        unit = unit or "a unit that is not written"
        told[f"fluxes as they stand, in {unit}"] += 1
        return 1.0, False
    told[f"flux in {unit} (AB {zero_point:g}) brought to {reading.zero_point:g} (--zero_point)"] += 1
    return 10 ** (-0.4 * (zero_point - reading.zero_point)), True


def _assumed(
    reading: Reading,
    rate: np.ndarray,
    error: np.ndarray,
    lacks: np.ndarray,
    is_magnitude: bool,
    source: np.ndarray,
    band: np.ndarray,
    time: np.ndarray,
    keep: np.ndarray,
    told: Counter,
) -> np.ndarray:
    """The errors, with those that the table lacks as `--assumed_error` has them."""
    lacks = lacks & np.isfinite(rate)
    if reading.assumed_error == "refuse" or not (lacks & keep).any():
        return error
    there = keep & np.isfinite(rate)
    table = pd.DataFrame(
        {"source": source[there], "band": band[there], "time": time[there], "rate": rate[there]}
    ).sort_values(["source", "band", "time"], kind="stable")
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
    told[what] += int(np.count_nonzero(lacks & keep))
    return np.where(lacks, of_row, error)
