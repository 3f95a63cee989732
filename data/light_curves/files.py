"""One file -> its light curves, in physical units, or the reason why it cannot be used.

    eROSITA      srctool's RATE tables and their rebinned kind (COUNTS, BACK_COUNTS, BACKRATIO, FRACEXP;
                 or RATE, RATE_ERRM, RATE_ERRP)
    xronos       lcurve's RATE1, ERROR1, XAX_E
    event lists  EVENTS or XTE_SE with good time intervals, binned here
    tables       CSV of time (days), magnitude or flux with its error, band, source

Where a file has counts, they are what is used: rates and asymmetric errors are estimated from them, since the
symmetric errors and negative rates that such files hold as well say little of a bin with few photons.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from astropy.io import fits

from data.cutouts.fits import MACHINE_TROUBLE, BadFile, check_size, first_line, fits_bytes, opened_fits
from physics.count_rates import source_rate
from utils.config import Options, option, several
from utils.mistake import Mistake

LARGEST = 2**31  # bytes of a file, unpacked
MOST_BINS = 10**7  # of one event list
DAY = 86400.0
SECONDS = {
    "s": 1.0,
    "sec": 1.0,
    "second": 1.0,
    "seconds": 1.0,
    "ms": 1e-3,
    "ks": 1e3,
    "min": 60.0,
    "h": 3600.0,
    "d": DAY,
    "day": DAY,
    "days": DAY,
}
KEV = {"ev": 1e-3, "kev": 1.0, "mev": 1e3}
TABLES = (".csv", ".csv.gz")
SUFFIX = re.compile(r"(\.(fits?|evt|lc|csv))?(\.gz)?$", re.IGNORECASE)
EROSITA = re.compile(r"[a-z]{2}\d{2}_(\d{6})_\d{2}(\d)_LightCurve_([^_.]+).*", re.IGNORECASE)
# Energy bands by the last digit of the processing, eROSITA-DE DR1 file naming;
# 0 holds three of them side by side.
EROSITA_BANDS = {
    "0": ("0.2-0.6", "0.6-2.3", "2.3-5"),
    "1": ("0.2-0.6",),
    "2": ("0.6-2.3",),
    "3": ("2.3-5",),
    "4": ("0.2-2.3",),
}
ALIASES = {
    "time": ("time", "mjd", "bjd", "hjd", "jd"),
    "mag": ("mag", "magnitude"),
    "magerr": ("magerr", "mag_err", "mag_error", "e_mag"),
    "flux": ("flux",),
    "fluxerr": ("fluxerr", "flux_err", "flux_error", "e_flux"),
    "band": ("band", "filter", "passband"),
    "id": ("id", "source", "object", "object_id", "source_id"),
}


@dataclass(frozen=True)
class Reading(Options):
    """How files become curves."""

    # points of a band with a smaller fractional exposure are dropped
    min_fracexp: float = option(0.1, least=0, most=1)
    bin_time: float = option(100.0, above=0, below=np.inf)  # event lists: width of a bin, s
    energy_bands: list[float] = several(0.2, 0.6, 2.3, 5.0)  # event lists: edges of the bands, keV
    channel_bands: list[int] = several(0, 14, 36, 256)  # event lists without energies: edges in PHA channels
    # tables: rows of different bands so close together are one point, days
    epoch_gap: float = option(0.02, least=0, below=np.inf)
    zero_point: float = 22.5  # tables: magnitude of a rate of one

    def __post_init__(self):
        super().__post_init__()
        for flag, edges in (("energy_bands", self.energy_bands), ("channel_bands", self.channel_bands)):
            if len(edges) < 2 or not all(low < high for low, high in zip(edges, edges[1:])):
                raise Mistake(f"--{flag}: got {' '.join(map(str, edges))}, expected two or more rising edges")


class LightCurve(NamedTuple):
    """What one source did. T points (time bins), C bands; what is not observed is zero in every field."""

    source: str  # whose curve it is: splits and labels go by it
    bands: tuple[str, ...]  # "0.2-0.6" (keV) or "g"
    time: np.ndarray  # [T] float64 s, centre of the bin as in the file, rising
    width: np.ndarray  # [T] float32 s, 0 where instantaneous
    counts: np.ndarray | None  # [T, C] float32 counts of source and background, None if only rates are known
    background: np.ndarray  # [T, C] float32 counts of background expected among them
    exposure: np.ndarray  # [T, C] float32 s, vignetted; 1 where only rates are known
    rate: np.ndarray  # [T, C] float32 counts/s, or flux in units of the zero point
    error_low: np.ndarray  # [T, C] float32, the same unit; equal to the rate: an upper limit
    error_up: np.ndarray  # [T, C] float32
    observed: np.ndarray  # [T, C] bool


class Found(NamedTuple):
    """A curve whose rates are still to be estimated, or are there already (`background_counts` None)."""

    curve: LightCurve
    background_counts: np.ndarray | None = None  # [T, C] counts in the background region
    background_ratio: np.ndarray | None = None  # [T, C] area of the source region in units of that


def read_light_curves(path: str | os.PathLike, reading: Reading) -> list[LightCurve]:
    """The light curves of one file: one, or one for each source of a table that has a usable point.

    Raises: BadFile for whatever is wrong with the file; OSError for trouble of the machine.
    """
    return [curve for curve in with_rates(find_light_curves(path, reading)) if len(curve.time)]


def source_of(path: str | os.PathLike) -> str:
    """Whose curve a file holds: TILE_SRC of em01_TILE_020_LightCurve_SRC_...,
    so that its surveys and bands go together; else the stem.
    """
    stem = SUFFIX.sub("", os.path.basename(path))
    found = EROSITA.fullmatch(stem)
    return f"{found[1]}_{found[3]}" if found else stem


def find_light_curves(path: str | os.PathLike, reading: Reading) -> list[Found]:
    """As `read_light_curves`, with the rates of counts left to `with_rates`,
    which does those of many files at once.

    A source of a table that has no usable point is a curve without points here, so that it can be reported.
    """
    if os.fspath(path).lower().endswith(TABLES):
        return [Found(curve) for curve in _from_table(_read_table(path), path, reading)]
    raw = fits_bytes(path, LARGEST)
    with opened_fits(raw) as hdus:
        return [_from_fits(hdus, len(raw), path, reading)]


def with_rates(found: list[Found]) -> list[LightCurve]:
    """The curves with `rate`, `error_low`, `error_up` estimated where there are counts."""
    counted = [number for number, (_, background, _) in enumerate(found) if background is not None]
    curves = [curve for curve, _, _ in found]
    if counted:
        masks = [curves[number].observed for number in counted]
        fields = [
            (
                curves[number].counts,
                found[number].background_counts,
                found[number].background_ratio,
                curves[number].exposure,
            )
            for number in counted
        ]
        flat = [
            np.concatenate([field[mask] for field, mask in zip(column, masks)]).astype(np.float64)
            for column in zip(*fields)
        ]
        estimates = torch.stack(source_rate(*map(torch.from_numpy, flat))).numpy().astype(np.float32)
        ends = np.cumsum([np.count_nonzero(mask) for mask in masks])
        for number, mask, part in zip(counted, masks, np.split(estimates, ends[:-1], axis=1)):
            filled = np.zeros((3, *mask.shape), dtype=np.float32)
            filled[:, mask] = part
            curves[number] = curves[number]._replace(rate=filled[0], error_low=filled[1], error_up=filled[2])
    return curves


def _from_fits(hdus: fits.HDUList, size: int, path: str | os.PathLike, reading: Reading) -> Found:
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
            return _from_events(hdus, number, size, path, reading)
        if "TIME" in names and names & {"COUNTS", "RATE", "RATE1"}:
            check_size(hdu, size)
            return _from_rates(hdu, path, reading)
        seen.append(f"HDU {number} {hdu.name!r} has columns {' '.join(sorted(names)[:6])}")
    raise BadFile(
        "no light curve: expected a table with TIME and COUNTS, RATE or RATE1, or an event list; "
        + ("; ".join(seen) or "there is no table")
    )


def _from_rates(hdu: fits.BinTableHDU, path: str | os.PathLike, reading: Reading) -> Found:
    columns = {name.upper(): name for name in hdu.columns.names}

    def column(name: str) -> np.ndarray | None:
        """[T] or [T, C] float64 in native byte order, a time in s by the unit of the column,
        else of the header.
        """
        if name not in columns:
            return None
        values = np.asarray(hdu.data[columns[name]]).astype(np.float64)
        return values * _seconds(hdu, name) if name in ("TIME", "TIMEDEL", "XAX_E") else values

    def bands(name: str) -> np.ndarray | None:
        values = column(name)
        return values if values is None else _matrix(values, name)

    def needed(name: str) -> np.ndarray:
        if name not in columns:
            raise BadFile(f"no column {name}: there are {' '.join(columns)}")
        return bands(name)

    time = column("TIME")
    fracexp = bands("FRACEXP")
    width = _width(hdu, column)
    fraction = np.ones((len(time), 1)) if fracexp is None else fracexp
    enough = fraction >= reading.min_fracexp
    source = source_of(path)
    if "COUNTS" in columns:
        counts = bands("COUNTS")
        background, ratio = np.zeros((1, 1)), np.zeros((1, 1))
        if "BACK_COUNTS" in columns:
            background, ratio = needed("BACK_COUNTS"), needed("BACKRATIO")
        if width is None:
            raise BadFile("no column or keyword TIMEDEL: the exposure of its counts is not known")
        counts, background, ratio, exposure, enough = np.broadcast_arrays(
            counts, background, ratio, width[:, None] * fraction, enough
        )
        sound = [np.isfinite(field) & (field >= 0) for field in (counts, background, ratio)]
        observed = enough & np.logical_and.reduce(sound) & (exposure > 0) & np.isfinite(exposure)
        return _counted(
            source,
            _band_names(hdu.header, path, counts.shape[1]),
            time,
            width,
            counts,
            background,
            ratio,
            exposure,
            observed,
        )
    if "RATE" in columns:
        rate, (low, up) = bands("RATE"), _errors(columns, needed)
    else:
        series = [f"RATE{n}" for n in range(1, 1 + len(columns)) if f"RATE{n}" in columns]
        rate = np.concatenate([needed(name) for name in series], axis=1)
        low = up = np.concatenate([needed(name.replace("RATE", "ERROR")) for name in series], axis=1)
    # an empty bin, to which the root of its counts gave no error, is an upper limit: see `source_rate`
    if width is not None:
        with np.errstate(divide="ignore"):
            up = np.where((rate == 0) & (up == 0), 0.5 / (width[:, None] * fraction), up)
    return Found(
        _rated(source, _band_names(hdu.header, path, rate.shape[1]), time, width, rate, low, up, enough)
    )


def _errors(columns: dict[str, str], needed) -> tuple[np.ndarray, np.ndarray]:
    if "RATE_ERRM" in columns or "RATE_ERRP" in columns:
        return needed("RATE_ERRM"), needed("RATE_ERRP")
    error = needed("ERROR" if "ERROR" in columns else "RATE_ERR")
    return error, error


def _width(hdu: fits.BinTableHDU, column) -> np.ndarray | None:
    """[T] s of each bin: its column, twice its half (xronos), or the keyword,
    which is in the header's unit.
    """
    if (width := column("TIMEDEL")) is not None:
        return width
    if (half := column("XAX_E")) is not None:
        return 2 * half
    if "TIMEDEL" in hdu.header:
        return np.full(hdu.header["NAXIS2"], float(hdu.header["TIMEDEL"]) * _seconds(hdu))
    return None


def _seconds(hdu: fits.BinTableHDU, column: str | None = None) -> float:
    """Seconds in the unit of a column, else of TIME, else of the header:
    xronos writes s at TIME and d in the header.
    """
    columns = {one.name.upper(): one.unit for one in hdu.columns} if column else {}
    unit = columns.get(str(column).upper()) or columns.get("TIME") or hdu.header.get("TIMEUNIT") or "s"
    if unit.strip().lower() not in SECONDS:
        raise BadFile(f"unknown unit of time {unit!r}: expected one of {' '.join(SECONDS)}")
    return SECONDS[unit.strip().lower()]


def _matrix(values: np.ndarray, name: str) -> np.ndarray:
    if values.ndim > 2:
        raise BadFile(f"column {name} has {values.ndim - 1} axes, expected one value or one for each band")
    return values[:, None] if values.ndim == 1 else values


def _band_names(header: fits.Header, path: str | os.PathLike, count: int) -> tuple[str, ...]:
    """Of the header's energies, else of the digit in eROSITA's file names, else their numbers."""
    edges = [(header.get(f"E_MIN{n}"), header.get(f"E_MAX{n}")) for n in range(1, count + 1)]
    if all(isinstance(edge, (int, float)) for pair in edges for edge in pair):
        return tuple(f"{low:g}-{high:g}" for low, high in edges)
    found = EROSITA.fullmatch(os.path.basename(path))
    named = EROSITA_BANDS.get(found[2], ()) if found else ()
    return named if len(named) == count else tuple(str(n) for n in range(1, count + 1))


def _from_events(
    hdus: fits.HDUList, number: int, size: int, path: str | os.PathLike, reading: Reading
) -> Found:
    """Counts in bins of `bin_time` from the first good second on, each with the good time that it holds;
    no background.
    """
    hdu = hdus[number]
    check_size(hdu, size)
    time = np.asarray(hdu.data["TIME"]).astype(np.float64) * _seconds(hdu, "TIME")
    if not np.isfinite(time).all():
        raise BadFile("an event has no time (NaN)")
    value, edges, bands = _spectrum(hdu, reading)
    good = _good_time(hdus, size)
    begin = good[0, 0]
    bins = int(np.ceil((good[-1, 1] - good[0, 0]) / reading.bin_time - 1e-9))
    if bins > MOST_BINS:
        raise BadFile(f"{bins:,} bins of {reading.bin_time:g} s: give a larger --bin_time")
    border = begin + reading.bin_time * np.arange(bins + 1)
    # good seconds before each start, and at the last stop
    so_far = np.concatenate([[0], np.cumsum(good[:, 1] - good[:, 0])])
    steps = np.repeat(so_far, 2)[1:-1]
    exposure = np.diff(np.interp(border, good.ravel(), steps))[:, None] * np.ones(len(bands))
    interval = np.searchsorted(good[:, 0], time, side="right") - 1
    bin_of = np.floor((time - begin) / reading.bin_time).astype(np.int64)
    band_of = np.searchsorted(edges, value, side="right") - 1
    inside = (
        (interval >= 0)
        & (time <= good[interval, 1])
        & (bin_of >= 0)
        & (band_of >= 0)
        & (band_of < len(bands))
    )
    place = bin_of[inside].clip(max=bins - 1) * len(bands) + band_of[inside]
    counts = np.bincount(place, minlength=bins * len(bands)).reshape(bins, len(bands)).astype(np.float64)
    observed = (exposure >= reading.min_fracexp * reading.bin_time) & (exposure > 0)
    width = np.full(bins, reading.bin_time)
    return _counted(
        source_of(path),
        bands,
        (border[:-1] + border[1:]) / 2,
        width,
        counts,
        0 * counts,
        0 * counts,
        exposure,
        observed,
    )


def _spectrum(hdu: fits.BinTableHDU, reading: Reading) -> tuple[np.ndarray, list[float], tuple[str, ...]]:
    """(energy or channel of each event, edges of the bands, their names)."""
    columns = {column.name.upper(): column for column in hdu.columns}
    for name in ("ENERGY", "PI"):  # eROSITA's PI is in eV
        unit = str(columns[name].unit).strip().lower() if name in columns else ""
        if unit in KEV:
            return (
                np.asarray(hdu.data[columns[name].name]).astype(np.float64) * KEV[unit],
                reading.energy_bands,
                _between(reading.energy_bands),
            )
    for name in ("PHA", "PI"):
        if name in columns:
            names = tuple(f"{name}:{band}" for band in _between(reading.channel_bands))
            return np.asarray(hdu.data[columns[name].name]).astype(np.float64), reading.channel_bands, names
    raise BadFile(f"events without ENERGY (eV or keV), PHA or PI: there are {' '.join(columns)}")


def _between(edges: list) -> tuple[str, ...]:
    return tuple(f"{low:g}-{high:g}" for low, high in zip(edges, edges[1:]))


def _good_time(hdus: fits.HDUList, size: int) -> np.ndarray:
    """[n, 2] s, good intervals in order without overlap: what all GTI tables of the file agree on."""
    tables = [hdu for hdu in hdus if isinstance(hdu, fits.BinTableHDU) and "GTI" in hdu.name]
    if not tables:
        raise BadFile("no good time intervals (an HDU named GTI): the exposure is not known")
    intervals = []
    for hdu in tables:
        check_size(hdu, size)
        names = {name.upper(): name for name in hdu.columns.names}
        if not {"START", "STOP"} <= names.keys():
            raise BadFile(f"GTI without START and STOP: there are {' '.join(names)}")
        edges = [
            np.asarray(hdu.data[names[name]]).astype(np.float64) * _seconds(hdu, name)
            for name in ("START", "STOP")
        ]
        intervals.append(_merged(np.stack(edges, 1)))
    edges = np.concatenate(intervals)
    change = np.repeat([1, -1], len(edges))
    edges = edges.T.ravel()
    order = np.argsort(edges, kind="stable")
    edges, depth = edges[order], np.cumsum(change[order])[:-1]  # of how many tables, after each edge
    common = np.stack([edges[:-1], edges[1:]], 1)[(depth == len(tables)) & (np.diff(edges) > 0)]
    if not len(common):
        raise BadFile("its good time intervals are empty, or those of its GTI tables do not overlap")
    return common


def _merged(intervals: np.ndarray) -> np.ndarray:
    """[n, 2] in order, those that touch made one."""
    intervals = intervals[intervals[:, 1] > intervals[:, 0]]  # drops NaN as well
    intervals = intervals[np.argsort(intervals[:, 0], kind="stable")]
    reached = np.maximum.accumulate(intervals[:, 1])
    first = np.flatnonzero(np.r_[True, intervals[1:, 0] > reached[:-1]][: len(intervals)])
    return np.stack([intervals[first, 0], reached[np.r_[first[1:] - 1, len(intervals) - 1][: len(first)]]], 1)


def _read_table(path: str | os.PathLike) -> pd.DataFrame:
    """Columns time, mag or flux with its error, and band and id if they are there, under these names."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise BadFile("not a regular file")
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, skipinitialspace=True)
    except MemoryError:
        raise
    except OSError as error:
        if error.errno in MACHINE_TROUBLE:
            raise
        raise BadFile(f"cannot be read: {first_line(error)}") from error
    except Exception as error:  # truncated gzip, no text, no columns, ragged rows: each has its own error
        raise BadFile(f"unreadable ({type(error).__name__} in pandas: {first_line(error)})") from error
    names = {name.strip().lower(): name for name in table.columns}
    known = {
        ours: names[theirs]
        for ours, aliases in ALIASES.items()
        for theirs in aliases[::-1]
        if theirs in names
    }
    if "time" not in known or not ({"mag", "magerr"} <= known.keys() or {"flux", "fluxerr"} <= known.keys()):
        raise BadFile(
            "expected columns time (days), and mag and magerr or flux and fluxerr: there are "
            f"{' '.join(map(str, table.columns))[:80]}"
        )
    table = pd.DataFrame({ours: table[theirs].str.strip() for ours, theirs in known.items()})
    for name in table.columns.difference(["band", "id"]):
        table[name] = pd.to_numeric(table[name], errors="coerce")
    if not np.isfinite(table["time"]).all():
        raise BadFile(f"{np.count_nonzero(~np.isfinite(table['time']))} of {len(table)} rows have no time")
    return table


def _from_table(table: pd.DataFrame, path: str | os.PathLike, reading: Reading) -> Iterator[LightCurve]:
    if {"mag", "magerr"} <= set(table.columns):
        # -999, 99 and the like stand for what is not known
        sound = (table["mag"].abs() < 90) & (table["magerr"] > 0) & (table["magerr"] < 90)
        rate = 10 ** (-0.4 * (table["mag"].where(sound) - reading.zero_point))
        error = rate * table["magerr"] * 0.4 * np.log(10)
    else:
        rate, error = table["flux"], table["fluxerr"]
    band = table["band"] if "band" in table else pd.Series("1", index=table.index)
    source = table["id"] if "id" in table else pd.Series(source_of(path), index=table.index)
    rows = pd.DataFrame(
        {"source": source, "time": table["time"] * DAY, "rate": rate, "error": error, "band": band}
    )
    usable = np.isfinite(rows["rate"]) & np.isfinite(rows["error"]) & (rows["error"] > 0)
    if not usable.any():
        raise BadFile(f"no point left: none of {len(table)} rows has a finite value and error")
    lost = set(rows["source"]) - set(rows["source"][usable])
    rows = rows[usable]
    bands = tuple(
        sorted(rows["band"].unique(), key=lambda name: ("ugrizy".find(name) if len(name) == 1 else -1, name))
    )
    rows = rows.assign(channel=pd.Index(bands).get_indexer(rows["band"])).sort_values(
        ["source", "time"], kind="stable"
    )
    for name, curve in rows.groupby("source", sort=False):
        yield _epochs(
            name,
            bands,
            *(curve[field].to_numpy() for field in ("time", "rate", "error", "channel")),
            reading.epoch_gap * DAY,
        )
    none = np.zeros((0, len(bands)), dtype=np.float32)
    for name in sorted(lost):
        yield LightCurve(
            name, bands, np.zeros(0), none[:, 0], None, none, none, none, none, none, none.astype(bool)
        )


def _epochs(
    source: str,
    bands: tuple[str, ...],
    time: np.ndarray,
    rate: np.ndarray,
    error: np.ndarray,
    channel: np.ndarray,
    gap: float,
) -> LightCurve:
    """Rows in order of time -> points: an epoch ends `gap` s after its first row,
    or where a band comes again.
    """
    epoch = -1
    first = -np.inf
    seen = set()
    of_row = np.empty(len(time), dtype=np.int64)
    for row, (now, this) in enumerate(zip(time.tolist(), channel.tolist())):
        if now - first > gap or this in seen:
            epoch = epoch + 1
            first = now
            seen = set()
        seen.add(this)
        of_row[row] = epoch
    centre = np.bincount(of_row, time - time[0]) / np.bincount(of_row) + time[0]
    values = np.full((2, epoch + 1, len(bands)), np.nan)
    values[:, of_row, channel] = rate, error
    distinct = np.r_[True, np.diff(centre) > 0]  # of two rows of one band at the same time the first stays
    values, centre = values[:, distinct], centre[distinct]
    return _rated(source, bands, centre, None, values[0], values[1], values[1], np.ones((1, 1), dtype=bool))


def _counted(
    source: str, bands: tuple[str, ...], time, width, counts, background, ratio, exposure, observed
) -> Found:
    kept = _kept(time, observed)
    observed = observed[kept]
    counts, background, ratio, exposure = (
        np.where(observed, field[kept], 0).astype(np.float32)
        for field in (counts, background, ratio, exposure)
    )
    unknown = np.zeros_like(counts)
    curve = LightCurve(
        source,
        bands,
        time[kept],
        width[kept].astype(np.float32),
        counts,
        background * ratio,
        exposure,
        unknown,
        unknown,
        unknown,
        observed,
    )
    return Found(curve, background, ratio)


def _rated(source: str, bands: tuple[str, ...], time, width, rate, low, up, enough) -> LightCurve:
    usable = (
        np.isfinite(rate)
        & np.isfinite(low)
        & np.isfinite(up)
        & (up > 0)
        & ((low > 0) | ((low == 0) & (rate == 0)))
    )
    width = np.zeros(len(time)) if width is None else width
    observed = usable & enough & (np.isfinite(width) & (width >= 0))[:, None]
    kept = _kept(time, observed)
    observed = observed[kept]
    rate, low, up = (np.where(observed, field[kept], 0).astype(np.float32) for field in (rate, low, up))
    return LightCurve(
        source,
        bands,
        time[kept],
        width[kept].astype(np.float32),
        None,
        0 * rate,
        observed.astype(np.float32),
        rate,
        low,
        up,
        observed,
    )


def _kept(time: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """[T] bool, the points with an observed band; refuses a curve without any,
    or with times that do not rise.
    """
    if not np.isfinite(time).all():
        raise BadFile(f"{np.count_nonzero(~np.isfinite(time))} of {len(time)} times are not finite")
    if not (np.diff(time) > 0).all():
        raise BadFile(
            f"times do not rise: row {int(np.argmax(np.diff(time) <= 0)) + 1} is not after the one before"
        )
    kept = observed.any(1)
    if not kept.any():
        raise BadFile(f"no point left: none of {len(time)} rows has a finite value and enough exposure")
    return kept
