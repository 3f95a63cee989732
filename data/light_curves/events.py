"""Light curves of event lists: counted in bins of time and bands of energy, within the good time."""

import os

import numpy as np
from astropy.io import fits

from data.cutouts.fits import BadFile, check_size
from data.light_curves.curve import Found, Reading, counted
from data.light_curves.file_names import source_of
from data.light_curves.fits_rates import seconds

MOST_BINS = 10**7  # of one event list
KEV = {"ev": 1e-3, "kev": 1.0, "mev": 1e3}


def from_events(
    hdus: fits.HDUList, number: int, size: int, path: str | os.PathLike, reading: Reading
) -> Found:
    """Counts in bins of `bin_time` from the first good second on, each with the good time that it holds;
    no background.
    """
    hdu = hdus[number]
    check_size(hdu, size)
    time = np.asarray(hdu.data["TIME"]).astype(np.float64) * seconds(hdu, "TIME")
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
    return counted(
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
                between(reading.energy_bands),
            )
    for name in ("PHA", "PI"):
        if name in columns:
            names = tuple(f"{name}:{band}" for band in between(reading.channel_bands))
            return np.asarray(hdu.data[columns[name].name]).astype(np.float64), reading.channel_bands, names
    raise BadFile(f"events without ENERGY (eV or keV), PHA or PI: there are {' '.join(columns)}")


def between(edges: list) -> tuple[str, ...]:
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
            np.asarray(hdu.data[names[name]]).astype(np.float64) * seconds(hdu, name)
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
