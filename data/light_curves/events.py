"""Light curves of event lists: counted in bins of time and bands of energy, within the good time."""

import os
from typing import NamedTuple

import numpy as np
from astropy.io import fits

from data.cutouts.fits import BadFile, check_size
from data.light_curves.bands import between
from data.light_curves.curve import Found, Note, Reading, counted
from data.light_curves.file_names import source_of
from data.light_curves.good_time import GoodTime, good_seconds, good_time, is_inside, span
from data.light_curves.missions import MISSIONS, SAME_SKY, SIDE_BY_SIDE, channels_of, telescope_of
from data.light_curves.time_system import clock_of, number, seconds

MOST_BINS = 10**7  # of one event list
KEV = {"ev": 1e-3, "kev": 1.0, "mev": 1e3}
USUAL_BANDS = MISSIONS["EROSITA", ""].bands  # of a mission that is not known here
NOT_APPLIED = ("FLAG", "STATUS", "PATTERN", "GRADE", "QUALITY")  # columns by which events are usually chosen


class Spectrum(NamedTuple):
    """What sorts the events into bands."""

    value: np.ndarray  # energy in keV, or channel, of each event
    edges: list[float]
    bands: tuple[str, ...]
    notes: list[Note]


class Modules(NamedTuple):
    """Which module saw each event, and whether all see the same sky."""

    of_event: np.ndarray | None  # [n] int64
    same_sky: bool


def from_events(
    hdus: fits.HDUList, place: int, size: int, path: str | os.PathLike, reading: Reading
) -> Found:
    """Counts in bins of `bin_time` from the first good second on, each with the good time that it holds;
    no background.
    """
    hdu = hdus[place]
    check_size(hdu, size)
    zero = clock_of(hdu, hdus[0].header).zero or 0.0
    time = np.asarray(hdu.data["TIME"]).astype(np.float64) * seconds(hdu, "TIME") + zero
    if len(time) and not np.isfinite(time).any():
        raise BadFile(f"none of {len(time):,} events has a time")
    spectrum = _spectrum(hdu, reading)
    modules = _modules(hdu)
    by_version = modules.of_event is not None and "PCUID" not in _columns(hdu)
    good = good_time(hdus, place, size, time, by_version)
    if good is None:
        raise BadFile("no good time intervals (an HDU named GTI): the exposure is not known")
    union = good.union
    notes = list(good.notes)
    if modules.of_event is None and len(good.modules) > 1:
        notes.append(Note("events do not name their module: the exposure is that of the union"))
        good = GoodTime({None: union}, notes)
    weights = _weights(good, modules)
    begin = union[0, 0]
    bins = int(np.ceil((union[-1, 1] - begin) / reading.bin_time - 1e-9))
    if bins > MOST_BINS:
        raise BadFile(f"{bins:,} bins of {reading.bin_time:g} s: give a larger --bin_time")
    border = begin + reading.bin_time * np.arange(bins + 1)
    seen = np.zeros(bins)
    for module, intervals in good.modules.items():
        seen += weights[module] * good_seconds(border[:-1], border[1:], intervals)
    live, live_notes = live_share(hdu.header)

    inside = _in_good_time(time, good, modules)
    if len(time) and not inside.any():
        raise BadFile(
            f"0 of {len(time):,} events are in the good time: events {span(time[np.isfinite(time)])}, "
            f"good time {span(union)}"
        )
    band_of = np.searchsorted(spectrum.edges, spectrum.value, side="right") - 1
    banded = (band_of >= 0) & (band_of < len(spectrum.bands))
    taken = inside & banded
    bin_of = np.floor((time[taken] - begin) / reading.bin_time).astype(np.int64).clip(0, bins - 1)
    counts = np.bincount(bin_of * len(spectrum.bands) + band_of[taken], minlength=bins * len(spectrum.bands))
    counts = counts.reshape(bins, len(spectrum.bands)).astype(np.float64)
    exposure = (seen * live)[:, None] * np.ones(len(spectrum.bands))
    observed = (seen >= reading.min_fracexp * reading.bin_time) & (seen > 0)
    notes += [
        *_outside_notes(inside, banded, observed[bin_of], spectrum),
        *spectrum.notes,
        *live_notes,
        *_choice_notes(hdu),
    ]
    return counted(
        source_of(path),
        spectrum.bands,
        (border[:-1] + border[1:]) / 2,
        np.full(bins, reading.bin_time),
        counts,
        0 * counts,
        0 * counts,
        exposure,
        observed[:, None] & np.ones(len(spectrum.bands), dtype=bool),
        notes,
    )


def _outside_notes(
    inside: np.ndarray, banded: np.ndarray, in_kept_bin: np.ndarray, spectrum: Spectrum
) -> list[Note]:
    """What became of the events that are not in the curve."""
    total = len(inside)
    bands = f"{spectrum.edges[0]:g} to {spectrum.edges[-1]:g}"
    named = [
        ("events outside the good time, left out", np.count_nonzero(~inside)),
        (f"events outside the bands ({bands}), left out", np.count_nonzero(inside & ~banded)),
        ("events in bins of too little exposure (--min_fracexp), left out", np.count_nonzero(~in_kept_bin)),
    ]
    return [Note(text, int(count), total) for text, count in named if count]


def _choice_notes(hdu: fits.BinTableHDU) -> list[Note]:
    """What could have been chosen by and was not."""
    names = _columns(hdu)
    unused = [name for name in NOT_APPLIED if name in names]
    notes = [Note("event lists: all events are taken, whatever region they cover; no background")]
    if unused:
        notes.append(Note(f"event lists: no event is rejected by {' '.join(unused)}"))
    return notes


def live_share(header: fits.Header) -> tuple[float, list[Note]]:
    """The share of the time in which the detector was live, to multiply exposures with.

    Source: OGIP 93-003 (DEADC); Chandra's DTCOR = LIVETIME / ONTIME.
    """
    for name in ("DTCOR", "DEADC"):
        share = number(header, name)
        if share is None or share == 1:
            continue
        if 0 < share < 1:
            return share, [Note(f"exposures multiplied by {name}, the share of time without dead time")]
        return 1.0, [Note(f"{name} is not between 0 and 1: dead time is not corrected")]
    live, on = number(header, "LIVETIME"), number(header, "ONTIME")
    if number(header, "DTCOR", "DEADC") is None and live and on and 0 < live < on:
        return live / on, [Note("exposures multiplied by LIVETIME / ONTIME")]
    return 1.0, []


def _columns(hdu: fits.BinTableHDU) -> dict[str, fits.Column]:
    return {column.name.upper(): column for column in hdu.columns}


def _modules(hdu: fits.BinTableHDU) -> Modules:
    columns = _columns(hdu)
    for name in (*SIDE_BY_SIDE, *SAME_SKY):
        if name in columns:
            numbers = np.asarray(hdu.data[columns[name].name]).astype(np.int64)
            if telescope_of(hdu.header) == "NICER":
                numbers = numbers // 10  # detectors 0 to 7 of each of seven units (MPU)
            return Modules(numbers, name in SAME_SKY)
    return Modules(None, True)


def _weights(good: GoodTime, modules: Modules) -> dict[int | None, float]:
    """What a second of each module counts. CCDs count by how many events a good second of them has,
    so that those on which the source is not count nothing.
    """
    names = list(good.modules)
    share = np.ones(len(names))
    if modules.of_event is not None and not modules.same_sky and names != [None]:
        seconds_on = np.array([np.sum(np.diff(good.modules[name], axis=1)) for name in names])
        events = np.array([np.count_nonzero(modules.of_event == name) for name in names])
        if (events * (seconds_on > 0)).any():
            share = np.where(seconds_on > 0, events / np.maximum(seconds_on, 1e-9), 0)
    return dict(zip(names, (share / share.sum()).tolist()))


def _in_good_time(time: np.ndarray, good: GoodTime, modules: Modules) -> np.ndarray:
    """[n] bool, by the good time of each event's own module, of the union where that is not known."""
    if modules.of_event is None or list(good.modules) == [None]:
        return is_inside(time, good.union)
    inside = is_inside(time, good.union)
    for module, intervals in good.modules.items():
        mine = modules.of_event == module
        inside[mine] = is_inside(time[mine], intervals)
    return inside


def _spectrum(hdu: fits.BinTableHDU, reading: Reading) -> Spectrum:
    """Energies where the file or its mission knows them, else channels."""
    columns = _columns(hdu)
    channels = channels_of(hdu.header)
    edges = list(reading.energy_bands or (channels.bands if channels else USUAL_BANDS))
    bands = names_between(edges)
    notes = []
    if not reading.energy_bands:
        whose = telescope_of(hdu.header) if channels else "unknown mission"
        notes.append(
            Note(f"bands of {whose}: {' '.join(f'{edge:g}' for edge in edges)} keV (--energy_bands)")
        )
    for name in ("ENERGY", "PI"):  # eROSITA's PI is in eV
        unit = str(columns[name].unit).strip().lower() if name in columns else ""
        if unit in KEV:
            return Spectrum(_values(hdu, columns[name]) * KEV[unit], edges, bands, notes)
    if "PI" in columns and channels:
        value = channels.first + channels.width * _values(hdu, columns["PI"])
        scale = f"energies from PI: {1e3 * channels.width:g} eV a channel ({telescope_of(hdu.header)})"
        return Spectrum(value, edges, bands, [*notes, Note(scale)])
    if "ENERGY" in columns:
        value = _values(hdu, columns["ENERGY"])
        in_ev = len(value) > 0 and np.nanmedian(value) > 100
        unit = "eV" if in_ev else "keV"
        notes.append(Note(f"ENERGY without a unit: taken as {unit}, by its median"))
        return Spectrum(value * KEV[unit.lower()], edges, bands, notes)
    for name in ("PHA", "PI"):
        if name in columns:
            edges = list(reading.channel_bands)
            notes = [Note(f"no energy scale is known: bands are channels of {name} (--channel_bands)")]
            if telescope_of(hdu.header) == "RXTE":
                notes = [
                    Note(f"RXTE: {name} depends on the gain epoch, bands are channels (--channel_bands)")
                ]
            names = tuple(f"{name}:{band}" for band in names_between(edges))
            return Spectrum(_values(hdu, columns[name]), edges, names, notes)
    raise BadFile(f"events without ENERGY (eV or keV), PHA or PI: there are {' '.join(columns)}")


def _values(hdu: fits.BinTableHDU, column: fits.Column) -> np.ndarray:
    return np.asarray(hdu.data[column.name]).astype(np.float64)


def names_between(edges: list) -> tuple[str, ...]:
    return tuple(between(low, high) for low, high in zip(edges, edges[1:]))
