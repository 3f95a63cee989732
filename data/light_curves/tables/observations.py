"""The observations of a table: time in s, rate and error in one unit, band, source; what does not count left out.

Nothing is left out, or assumed, that is not counted in `told`.
"""

import os
from collections import Counter
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from data.cutouts.fits import BadFile
from data.light_curves.curve import CONDITION, DAY, TIME_UNITS, Reading, columns_given
from data.light_curves.file_names import source_of
from data.light_curves.tables import surveys
from data.light_curves.tables.cells import Cells, codes, is_text, numbers, texts
from data.light_curves.tables.columns import MOST_BANDS, Chosen
from data.light_curves.tables.surveys import plain_name

TO_MJD = 2_400_000.5
JULIAN = (2_300_000.0, 2_600_000.0)  # days from 1584 to 2406
LONGEST = 200_000.0  # days, 548 years: no telescope has looked for longer
LONG = 20_000.0  # days, 55 years: said
UNKNOWN_MAGNITUDE = 90.0  # -999, 99 and the like stand for what is not known
FILLED = (-99.0, -999.0, -9999.0, -99999.0, 1e20, 1e30)
# float32 holds what lies between; squares of it are the business of whoever squares
SMALLEST = 1e-36
LARGEST = 1e36
UNIT_NAMES = {
    "day": "d",
    "days": "d",
    "mjd": "d",
    "jd": "d",
    "bjd": "d",
    "sec": "s",
    "second": "s",
    "seconds": "s",
}
TRUTHS = {"t": 1, "true": 1, "1": 1, "+": 1, "1.0": 1, "yes": 1, "y": 1, ">": 1, "<": 1}
FALSEHOODS = {"f": 0, "false": 0, "0": 0, "-1": 0, "-": 0, "0.0": 0, "-1.0": 0, "no": 0, "n": 0}


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
    told: Counter


def observations_of(cells: Cells, chosen: Chosen, path: str | os.PathLike, reading: Reading) -> Observations:
    """Raises: BadFile where no row is left, or its times or bands cannot be told apart."""
    told: Counter = Counter()
    rows = len(cells.columns[chosen.time])
    keep = np.ones(rows, dtype=bool)

    def leave_out(bad: np.ndarray, what: str) -> None:
        told[what] += int(np.count_nonzero(keep & bad))
        keep[bad] = False

    time = _times(cells, chosen, reading, told)
    if rows and not np.isfinite(time).any():
        raise BadFile(f"{rows} of {rows} rows have no time")
    leave_out(~np.isfinite(time), "rows without a time: left out")
    source, sources = _sources(cells, chosen, path)
    leave_out(source < 0, "rows without an object: left out")
    band, bands = _bands(cells, chosen, told)
    leave_out(band < 0, "rows without a band: left out")
    flagged = _flagged(cells, chosen, reading, told)
    if keep.any() and not (keep & ~np.logical_or.reduce([np.zeros(rows, bool), *flagged.values()])).any():
        raise BadFile(f"no point left: {'; '.join(flagged)}; --quality none takes them all")
    for what, bad in flagged.items():
        leave_out(bad, what)
    if chosen.band is None and "band" not in columns_given(reading):
        _check_one_band(cells, chosen, time, source, keep, told)

    rate, error, limit = _rates(cells, chosen, reading, source, band, time, keep, told)
    is_limit = ~(np.isfinite(rate) & np.isfinite(error) & (error > 0)) & np.isfinite(limit) & (limit > 0)
    rate = np.where(is_limit, 0.0, rate)
    error = np.where(is_limit, limit / reading.limit_sigma, error)
    limits = f"upper limits, as 0 +- limit / {reading.limit_sigma:g} (--limit_sigma)"
    told[limits] += int(np.count_nonzero(is_limit & keep))
    usable = np.isfinite(rate) & np.isfinite(error) & (error > 0)
    if not (usable & keep).any():
        raise BadFile(f"no point left: none of {rows} rows has a finite value and error{_counted(told)}")
    leave_out(~usable, "rows without a finite value and an error above 0: left out")
    rate, error = _in_range(rate, error, keep, told)
    with np.errstate(over="ignore"):
        narrow = np.stack([rate, error]).astype(np.float32)
    leave_out(
        ~np.isfinite(narrow).all(0) | (narrow[1] == 0), "rows out of the range of 32-bit numbers: left out"
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
        told,
    )


def _counted(told: Counter) -> str:
    there = [f"{count} {what}" for what, count in told.items() if count]
    return f" ({'; '.join(there)[:300]})" if there else ""


def _times(cells: Cells, chosen: Chosen, reading: Reading, told: Counter) -> np.ndarray:
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
            told[f"{name} holds dates: taken as UTC, to MJD"] += 1
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
        told["times are Julian dates: 2,400,000.5 d taken off, to MJD"] += 1
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
        told["times span more than 55 years, read as days (--time_unit s, if they are seconds)"] += 1
    return time * DAY


def _date_format(dates: pa.Array) -> str | None:
    return "ISO8601" if is_text(dates) else None


def _sources(cells: Cells, chosen: Chosen, path: str | os.PathLike) -> tuple[np.ndarray, list[str]]:
    if chosen.id is None:
        return np.zeros(len(cells.columns[chosen.time]), dtype=np.int64), [source_of(path)]
    return codes(cells.columns[chosen.id])


def _bands(cells: Cells, chosen: Chosen, told: Counter) -> tuple[np.ndarray, list[str]]:
    """([R] place, names); the numbers that surveys give their bands become their letters."""
    if chosen.band is None:
        return np.zeros(len(cells.columns[chosen.time]), dtype=np.int64), ["1"]
    band, values = codes(cells.columns[chosen.band])
    name = cells.names[chosen.band]
    if len(values) > MOST_BANDS:
        raise BadFile(
            f"column {name} has {len(values):,} values, more than {MOST_BANDS}: no band; --columns band=... says "
            "which column is, or band=none"
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
        pairs = " ".join(f"{value}={letters[value]}" for value in sorted(values))
        told[f"{name} taken as {pairs}"] += 1
    named = [letters.get(value, value) for value in values]
    merged = list(dict.fromkeys(named))
    place = np.array([merged.index(one) for one in named], dtype=np.int64)
    return (np.where(band < 0, -1, place[band]) if values else band), merged


def _flagged(cells: Cells, chosen: Chosen, reading: Reading, told: Counter) -> dict[str, np.ndarray]:
    """What is said of them -> [R] bool, rows that do not count by a flag."""
    flagged = {}
    used = {place for place in chosen if type(place) is int}
    judged = set()
    if "default" in reading.quality:
        for rule in surveys.QUALITY:
            if rule.column in chosen.plain and rule.beside <= set(chosen.plain) and rule.column not in judged:
                place = chosen.plain.index(rule.column)
                if place in used:
                    continue
                judged.add(rule.column)
                what = f"rows with {cells.names[place]} other than {rule.kept} ({rule.what}): left out"
                flagged[what] = _against(cells.columns[place], f"{rule.column}={rule.kept}")
    for text in reading.quality:
        if text in ("default", "none"):
            continue
        name = plain_name(CONDITION.fullmatch(text)[1])
        if name not in chosen.plain:
            told[f"no column {name}: --quality {text} says nothing here"] += 1
            continue
        judged.add(name)
        column = cells.columns[chosen.plain.index(name)]
        flagged[f"rows against --quality {text}: left out"] = _against(column, text)
    if "none" not in reading.quality:
        idle = [
            cells.names[place]
            for place, name in enumerate(chosen.plain)
            if surveys.COULD_BE_FLAG.fullmatch(name) and name not in judged and place not in used
            if len(codes(cells.columns[place])[1]) > 1
        ]
        if idle:
            told[f"columns of flags that are not used: {' '.join(idle)} (--quality {idle[0]}=...)"] += 1
    return flagged


def _against(column: pa.Array, condition: str) -> np.ndarray:
    """[R] bool, the rows that say something and do not fulfil it."""
    _, kept, bits = CONDITION.fullmatch(condition).groups()
    if bits:
        values = numbers(column)
        known = np.isfinite(values)
        return known & (np.where(known, values, 0).astype(np.int64) & int(bits) != 0)
    low, dots, high = kept.partition("..")
    if dots:
        values = numbers(column)
        return np.isfinite(values) & ~((values >= float(low or -np.inf)) & (values <= float(high or np.inf)))
    of_row, distinct = codes(column)
    wanted = {_same(value) for value in kept.split(",")}
    bad = np.array([_same(value) not in wanted for value in distinct] + [False])
    return bad[of_row]


def _same(value: str) -> str:
    """One spelling of a truth value or a number."""
    value = value.strip().lower()
    if value in ("t", "true"):
        return "1"
    if value in ("f", "false"):
        return "0"
    try:
        return f"{float(value):g}"
    except ValueError:
        return value


def _rates(
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
    if chosen.error is None and reading.assumed_error == "refuse":
        raise BadFile(
            f"no column of errors beside {cells.names[chosen.value]} (there are {' '.join(cells.names)[:80]}): "
            "--columns error=... names it, or --assumed_error 0.02 (magnitudes, or a share of the flux) or scatter "
            "says how large they are"
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
    meaning = {**TRUTHS, **FALSEHOODS}
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
                told[
                    f"{name} not used: magnitudes are taken as calibrated (--columns zero_point={name} adds it)"
                ] += 1
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
    return np.where(unsaid, np.nan, np.where(negative, -rate, rate))


def _flux_scale(
    cells: Cells, chosen: Chosen, reading: Reading, value: np.ndarray, keep: np.ndarray, told: Counter
) -> tuple[np.ndarray | float, bool]:
    """(what brings fluxes to the zero point of the reading, whether their zero point is known)."""
    name = cells.names[chosen.value]
    if chosen.zero_point is not None:
        zero_point = numbers(cells.columns[chosen.zero_point])
        known = np.unique(zero_point[keep & np.isfinite(zero_point)])
        if len(known):
            shown = f"{known[0]:g}" if len(known) == 1 else f"{known[0]:g} to {known[-1]:g}"
            zero_name = cells.names[chosen.zero_point]
            told[
                f"fluxes of zero point {shown} ({zero_name}) brought to {reading.zero_point:g} (--zero_point)"
            ] += 1
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
        if unit:
            told[f"flux in {unit}, as it stands"] += 1
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


def _in_range(
    rate: np.ndarray, error: np.ndarray, keep: np.ndarray, told: Counter
) -> tuple[np.ndarray, np.ndarray]:
    """Fluxes that 32-bit numbers cannot hold, such as those in W/m2/Hz, in units of a power of ten."""
    typical = float(np.median(error[keep]))
    if SMALLEST < typical < LARGEST:
        return rate, error
    unit = SMALLEST if typical <= SMALLEST else LARGEST
    told[f"fluxes in units of {unit:g}, as 32-bit numbers do not hold them"] += 1
    return rate / unit, error / unit


def _check_one_band(
    cells: Cells, chosen: Chosen, time: np.ndarray, source: np.ndarray, keep: np.ndarray, told: Counter
) -> None:
    """Raises: BadFile where a column tells two levels apart between which the curve jumps to and fro, as curves
    of two bands in one do; said where it jumps, and no column tells why.
    """
    value = numbers(cells.columns[chosen.value])
    if not chosen.is_magnitude:
        with np.errstate(divide="ignore", invalid="ignore"):
            value = np.where(value > 0, -2.5 * np.log10(value), np.nan)
    rows = np.flatnonzero(keep & np.isfinite(value) & (np.abs(value) < UNKNOWN_MAGNITUDE))
    if len(rows) < 8:
        return
    rows = rows[np.lexsort((time[rows], source[rows]))]
    level = value[rows]
    level = level - pd.Series(level).groupby(source[rows]).transform("median").to_numpy()
    same = source[rows][1:] == source[rows][:-1]

    def jumps(group: np.ndarray) -> tuple[float, float] | None:
        """The levels of the lowest and the highest group, if they are apart and take turns."""
        count = np.bincount(group)
        large = np.flatnonzero(count >= max(3, len(group) // 10))
        if len(large) < 2:
            return None
        medians = np.array([np.median(level[group == one]) for one in large])
        scatter = np.median(
            np.concatenate([np.abs(level[group == one] - middle) for one, middle in zip(large, medians)])
        )
        turns = np.count_nonzero(same & (group[1:] != group[:-1]))
        apart = medians.max() - medians.min() > max(0.3, 5 * scatter)
        return (medians.min(), medians.max()) if apart and turns > 0.2 * len(group) else None

    used = {place for place in chosen if type(place) is int}
    for place, name in enumerate(cells.names):
        if place in used or pa.types.is_floating(cells.columns[place].type):
            continue
        of_row, values = codes(cells.columns[place])
        if not 2 <= len(values) <= 12:
            continue
        if found := jumps(of_row[rows] + 1):
            raise BadFile(
                f"column {name} ({' '.join(values[:6])}) tells two levels of one curve apart, "
                f"{found[1] - found[0]:.2f} mag: a band? --columns band={name}, or band=none for one curve"
            )
    ordered = np.sort(level)
    gaps = np.diff(ordered)
    inner = slice(len(ordered) // 10, len(ordered) - len(ordered) // 10)
    if len(gaps[inner]):
        at = int(np.argmax(gaps[inner])) + inner.start
        if found := jumps((level > ordered[at]).astype(np.int64)):
            if gaps[at] > 0.3:
                told[
                    f"one curve jumps between two levels ({found[1] - found[0]:.1f} mag): two bands in one? No "
                    "column tells them apart"
                ] += 1
