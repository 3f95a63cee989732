"""Light curves in FITS tables of counts or rates: srctool, xronos, xselect, dmextract, epiclccorr."""

import os
import re
from typing import NamedTuple

import numpy as np
from astropy.io import fits

from data.cutouts.fits import BadFile
from data.light_curves.bands import are_named, band_name, between
from data.light_curves.curve import Found, Note, Reading, counted, found_rates
from data.light_curves.events import live_share
from data.light_curves.file_names import EROSITA, EROSITA_BANDS, source_of
from data.light_curves.good_time import good_seconds, good_time, is_inside, span
from data.light_curves.missions import channels_of, telescope_of
from data.light_curves.time_system import clock_of, number, seconds, seconds_in
from data.light_curves.units import COUNTS, PER_AREA

LONGEST_FRAME = 10.0  # s; ACIS 3.2, EPIC 0.006 to 2.7
FULL_BIN = 0.4  # a TIMEDEL of less than this share of the bins' distance, and so short, is that of a frame
RATE_UNIT = re.compile(r"/\s*s(ec(ond)?)?\b|\bs(ec)?\s*(\*\*|\^)?\s*\(?-1\)?|\bHz\b", re.IGNORECASE)
COUNT_UNIT = re.compile(r"(counts?|cts?|photons?)", re.IGNORECASE)
TIMES = ("TIME", "TIMEDEL", "XAX_E", "TIME_MIN", "TIME_MAX")
EXPOSURES = ("LIVETIME", "EXPOSURE", "EXPOS", "ONTIME")  # of a bin; the first that is there
# effective area x time, of gtexposure (Fermi LAT): rates are of photons/cm2/s
AREA_TIME = re.compile(r"cm\s*(\*\*|\^)?\s*2[\s*.]*s(ec)?", re.IGNORECASE)
LIVE_SHARES = ("DTCOR", "DEADC", "LIVEFRAC")  # of a bin
RATES = ("RATE", "COUNT_RATE", "NET_RATE")
ERRORS = ("ERROR", "RATE_ERR", "RATE_ERROR", "COUNT_RATE_ERR", "ERR_RATE", "NET_RATE_ERR", "STAT_ERR", "ERR")
# counts in the background region, and what says how much larger that is
BACKGROUND = ("BACK_COUNTS", "BG_COUNTS", "BKG_COUNTS")
AREAS = (("AREA", "BG_AREA"), ("BACKSCAL", "BG_BACKSCAL"), ("BACKSCAL", "BACK_BACKSCAL"))
NOT_USED = ("BACKV", "QUALITY", "FLAG", "DATA_FLAG")


class Columns:
    """The columns of a table in float64 and native byte order, by their names in capitals."""

    def __init__(self, hdu: fits.BinTableHDU):
        self.hdu = hdu
        self.names = {column.name.upper(): column for column in hdu.columns}
        self.rows = len(hdu.data)

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def first(self, names: tuple[str, ...]) -> str | None:
        return next((name for name in names if name in self.names), None)

    def unit(self, name: str) -> str:
        return str(self.names[name].unit or "").strip()

    def values(self, name: str) -> np.ndarray:
        """[T] or [T, C]; a time in s by the unit of the column, else of the header."""
        values = np.asarray(self.hdu.data[self.names[name].name]).astype(np.float64)
        if (name in EXPOSURES or name.endswith("_EXPOSURE")) and not AREA_TIME.fullmatch(self.unit(name)):
            return values * seconds_in(self.unit(name) or "s")
        return values * seconds(self.hdu, name) if name in TIMES else values

    def bands(self, name: str) -> np.ndarray:
        """[T, C]. Raises: BadFile where there is no such column, or it is a cube."""
        if name not in self.names:
            raise BadFile(f"no column {name}: there are {' '.join(self.names)}")
        values = self.values(name)
        if values.ndim > 2:
            raise BadFile(f"column {name} has {values.ndim - 1} axes, expected one value or one a band")
        values = values[:, None] if values.ndim == 1 else values
        return values / 100 if self.unit(name) in ("%", "percent") else values


class Bins(NamedTuple):
    """When each row was, and how much of it was observed."""

    time: np.ndarray  # [T] s, centre
    width: np.ndarray | None  # [T] s, None where nothing tells
    fraction: np.ndarray  # [T, 1 or C] of the width that was exposed
    live: np.ndarray  # [T, 1 or C] share of that without dead time
    notes: list[Note]


def from_rates(hdus: fits.HDUList, place: int, size: int, path: str | os.PathLike, reading: Reading) -> Found:
    hdu = hdus[place]
    columns = Columns(hdu)
    bins = _bins(columns, hdus, place, size)
    enough = bins.fraction >= reading.min_fracexp
    if _is_area_time(columns):
        enough = bins.fraction > 0  # cm2, and no share of the bin
    notes = list(bins.notes)
    not_used, exposed = NOT_USED, enough
    if {"DATA_FLAG", "TIMEDEL_EXPO"} <= columns.names.keys() and "none" not in reading.quality:
        flagged = columns.values("DATA_FLAG") != 0
        exposed, enough = enough, enough & ~flagged[:, None]
        notes.append(
            Note(
                "rows against DATA_FLAG=0 (Swift BAT monitor: good), left out",
                *map(int, (flagged.sum(), flagged.size)),
            )
        )
        not_used = tuple(name for name in NOT_USED if name != "DATA_FLAG")
    source = source_of(path)
    notes += [Note(f"column {name} is not used") for name in not_used if name in columns]
    counts_are_rates = "COUNTS" in columns and bool(RATE_UNIT.search(columns.unit("COUNTS")))
    counts_are_rates = counts_are_rates and not columns.first(RATES)
    if "COUNTS" in columns and not RATE_UNIT.search(columns.unit("COUNTS")):
        return _from_counts(columns, bins, enough, source, path, notes)

    fixed_width = None if bins.width is None else bins.width[:, None] * bins.fraction
    if counts_are_rates:
        notes.append(Note("COUNTS in counts/s are rates"))
        unit = COUNTS
        rate = columns.bands("COUNTS")
        low = up = columns.bands(columns.first(("COUNTS_ERR", *ERRORS)) or "ERROR")
    elif name := columns.first(RATES):
        rate, (low, up) = columns.bands(name), _errors(columns, name)
        unit = columns.unit(name)
        if _in_counts(columns.unit(name)) and fixed_width is not None:
            notes.append(Note(f"{name} in counts: divided by the exposure of the bin"))
            with np.errstate(divide="ignore", invalid="ignore"):
                rate, low, up = rate / fixed_width, low / fixed_width, up / fixed_width
            unit = COUNTS
    else:
        series = [f"RATE{n}" for n in range(1, 1 + len(columns.names)) if f"RATE{n}" in columns]
        rate = np.concatenate([columns.bands(name) for name in series], axis=1)
        errors = [columns.bands(name.replace("RATE", "ERROR")) for name in series]
        low = up = np.concatenate(errors, axis=1)
        unit = columns.unit(series[0])
    # an empty bin, to which the root of its counts gave no error, is an upper limit: see `source_rate`
    if fixed_width is not None:
        with np.errstate(divide="ignore"):
            up = np.where((rate == 0) & (up == 0), 0.5 / fixed_width, up)
    if (live_share(hdu.header)[0] != 1) and hdu.header.get("DEADAPP") is not True:
        notes.append(Note("rates are taken as corrected for dead time (DTCOR, DEADC are not applied)"))
    notes += exposure_notes(np.broadcast_to(exposed, rate.shape))
    bands = band_names(hdu.header, path, rate.shape[1])
    notes += unnamed_notes(bands)
    return found_rates(source, bands, bins.time, bins.width, rate, low, up, enough, notes, unit)


def _from_counts(
    columns: Columns, bins: Bins, enough: np.ndarray, source: str, path: str | os.PathLike, notes: list[Note]
) -> Found:
    if bins.width is None:
        raise BadFile("no column or keyword TIMEDEL: the exposure of its counts is not known")
    counts = columns.bands("COUNTS")
    background, ratio, more = _background(columns)
    notes = notes + more
    counts, background, ratio, exposure, enough = np.broadcast_arrays(
        counts, background, ratio, bins.width[:, None] * bins.fraction * bins.live, enough
    )
    fields = ("counts", counts), ("background counts", background), ("background ratios", ratio)
    exposed = enough & (exposure > 0) & np.isfinite(exposure)
    observed = exposed
    for name, field in fields:
        sound = np.isfinite(field) & (field >= 0)
        if lost := np.count_nonzero(exposed & ~sound):
            notes.append(
                Note(f"bins with {name} that are negative or not finite, left out", lost, sound.size)
            )
        observed = observed & sound
    notes += exposure_notes(exposed)
    if broken := np.count_nonzero(observed & (counts != np.round(counts))):
        notes.append(Note("bins with counts that are no whole numbers", broken, counts.size))
    bands = band_names(columns.hdu.header, path, counts.shape[1])
    notes += unnamed_notes(bands)
    unit = PER_AREA if _is_area_time(columns) else COUNTS
    return counted(
        source, bands, bins.time, bins.width, counts, background, ratio, exposure, observed, notes, unit
    )


def _background(columns: Columns) -> tuple[np.ndarray, np.ndarray, list[Note]]:
    """Counts in the background region [T, C], the source's area (and exposure) in units of that [T, C]."""
    none = np.zeros((1, 1))
    name = columns.first(BACKGROUND)
    if name is None:
        return none, none, []
    counts = columns.bands(name)
    if "BACKRATIO" in columns:
        return counts, columns.bands("BACKRATIO"), []
    ratio, said = None, ""
    header = columns.hdu.header
    for ours, theirs in AREAS:
        mine, other = _area(columns, header, ours), _area(columns, header, theirs)
        if mine is not None and other is not None:
            ratio, said = _divided(mine, other), f"{ours} / {theirs}"
            break
    if ratio is None and "BACKSCAL" in columns:
        ratio, said = (
            columns.bands("BACKSCAL"),
            "BACKSCAL, taken as area of the source by area of the background,",
        )
    if ratio is None:
        raise BadFile(
            f"no column BACKRATIO, nor AREA and BG_AREA, nor BACKSCAL, to scale {name}: "
            f"there are {' '.join(columns.names)}"
        )
    exposure = columns.first(EXPOSURES)
    theirs = columns.first(("BG_EXPOSURE", "BACK_EXPOSURE"))
    if exposure and theirs:
        ratio = ratio * _divided(columns.bands(exposure), columns.bands(theirs))
        said += f" x {exposure} / {theirs}"
    # without counts there the ratio does not matter: a bin without exposure has 0 / 0
    ratio = np.where((counts == 0) & ~np.isfinite(ratio), 0, ratio)
    return counts, ratio, [Note(f"{name} scaled by {said}")]


def _area(columns: Columns, header: fits.Header, name: str) -> np.ndarray | None:
    if name in columns:
        return columns.bands(name)
    value = number(header, name)
    return None if value is None else np.full((1, 1), value)


def _divided(upper: np.ndarray, lower: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(lower > 0, upper / lower, np.nan)


def _errors(columns: Columns, rate: str) -> tuple[np.ndarray, np.ndarray]:
    if "RATE_ERRM" in columns or "RATE_ERRP" in columns:
        return columns.bands("RATE_ERRM"), columns.bands("RATE_ERRP")
    error = columns.bands(columns.first((f"{rate}_ERR", *ERRORS)) or "RATE_ERR")
    return error, error


def _is_area_time(columns: Columns) -> bool:
    name = columns.first(EXPOSURES)
    return name is not None and AREA_TIME.fullmatch(columns.unit(name)) is not None


def _in_counts(unit: str) -> bool:
    return bool(COUNT_UNIT.fullmatch(unit))


def _bins(columns: Columns, hdus: fits.HDUList, place: int, size: int) -> Bins:
    hdu = hdus[place]
    clock = clock_of(hdu, hdus[0].header)
    time = columns.values("TIME") + (clock.zero or 0.0)
    width, notes = _width(columns, time)
    name = columns.first(EXPOSURES)
    one = np.ones((1, 1))
    fraction, live = one, one
    if name is not None:
        exposure = columns.bands(name)
        if width is None:
            width, more = _spacing(time)
            width = exposure.max(1) if width is None else width
            notes = notes + more
        fraction = _divided(exposure, width[:, None])
        fraction = np.where(exposure > 0, fraction, 0)
        if _is_area_time(columns):
            notes.append(Note(f"{name} in {columns.unit(name)}: rates are in {PER_AREA}"))
        notes = notes + [Note(f"exposure of {name}, a bin without is not observed")]
        if "FRACEXP" in columns:
            notes.append(Note(f"FRACEXP not used beside {name}"))
    elif "FRACEXP" in columns:
        fraction = columns.bands("FRACEXP")
    written = name is not None or "FRACEXP" in columns
    if name != "LIVETIME":
        live, more = _live(columns, name, written)
        notes = notes + more
    if width is not None:
        time = time + (0.5 - _place_in_bin(columns)) * width
        fraction, more = _cut_to_good_time(hdus, place, size, time, width, fraction, not written)
        notes = notes + more
    return Bins(time, width, fraction, live, notes)


def _live(columns: Columns, exposure: str | None, written: bool) -> tuple[np.ndarray, list[Note]]:
    """[T, 1 or C] share of the exposure without dead time: a column, else the header where nothing is
    `written` of the exposure of a bin.
    """
    if name := columns.first(LIVE_SHARES):
        return columns.bands(name), [Note(f"exposures multiplied by column {name}")]
    if name := columns.first(("DEADTIME", "DEAD_TIME")):
        dead = columns.bands(name)
        if columns.unit(name) in ("s", "sec", "seconds") and exposure:
            return 1 - _divided(dead, columns.bands(exposure)), [Note(f"dead time of {name} taken off")]
        if not columns.unit(name) and np.nanmax(dead, initial=0) <= 1:
            return 1 - dead, [Note(f"dead time of {name} taken off, as a share")]
        return np.ones((1, 1)), [Note(f"dead time of {name} is not corrected")]
    share, notes = live_share(columns.hdu.header)
    if share == 1:
        return np.ones((1, 1)), notes
    if "COUNTS" not in columns or columns.hdu.header.get("DEADAPP") is True:
        return np.ones((1, 1)), []
    if written:
        return np.ones((1, 1)), [Note("dead time of the header is not taken off the exposures of the bins")]
    return np.full((1, 1), share), notes


def _place_in_bin(columns: Columns) -> float:
    """Where TIME is within its bin: TIMEPIXR, 0 its start, 0.5 (the standard's default) its centre."""
    if "TIME_MIN" in columns and "TIME_MAX" in columns:
        return 0.5
    place = number(columns.hdu.header, "TIMEPIXR")
    return place if place is not None and 0 <= place <= 1 else 0.5


def _width(columns: Columns, time: np.ndarray) -> tuple[np.ndarray | None, list[Note]]:
    """[T] s of each bin: a column, twice its half (xronos), its ends (dmextract), or a keyword, which is in
    the header's unit; a TIMEDEL that is the time of a frame is no bin.
    """
    header = columns.hdu.header
    if "TIMEDEL" in columns:
        return columns.values("TIMEDEL"), []
    if "XAX_E" in columns:
        return 2 * columns.values("XAX_E"), []
    if "TIME_MIN" in columns and "TIME_MAX" in columns:
        return columns.values("TIME_MAX") - columns.values("TIME_MIN"), []
    width = number(header, "TIMEDEL")
    spacing, notes = _spacing(time)
    if width is not None:
        width *= seconds(columns.hdu)
        apart = 0 if spacing is None else spacing[0]
        if width >= FULL_BIN * apart:
            return np.full(len(time), width), []
        if width >= LONGEST_FRAME:
            note = Note("bins are further apart than TIMEDEL, which is taken as their width")
            return np.full(len(time), width), [note]
    for name in ("TIMEBIN", "TIME_BIN", "BIN_TIME", "BINSIZE"):
        if (binned := number(header, name)) is not None:
            frame = [Note(f"TIMEDEL is the time of a frame: bins of {name}")] if width is not None else []
            return np.full(len(time), binned * seconds(columns.hdu)), frame
    if width is None:
        return None, []
    return spacing, [Note("TIMEDEL is the time of a frame: bins as wide as they are apart")]


def _spacing(time: np.ndarray) -> tuple[np.ndarray | None, list[Note]]:
    """[T] s, the usual distance of two bins as the width of all."""
    steps = np.diff(np.sort(time[np.isfinite(time)]))
    steps = steps[steps > 0]
    if not len(steps):
        return None, []
    _, of_step, counts = np.unique(np.round(np.log(steps), 3), return_inverse=True, return_counts=True)
    usual = float(np.median(steps[of_step == counts.argmax()]))
    return np.full(len(time), usual), [Note("no width of bins is written: as wide as they are apart")]


def _cut_to_good_time(
    hdus: fits.HDUList,
    place: int,
    size: int,
    time: np.ndarray,
    width: np.ndarray,
    fraction: np.ndarray,
    nothing_known: bool,
) -> tuple[np.ndarray, list[Note]]:
    """The fraction of each bin, less what is outside the good time of the file.

    nothing_known: the table itself has no exposures, so that bins partly inside get their share; else they
        keep what is written, and bins without a good second get none.
    """
    good = good_time(hdus, place, size, time, telescope_of(hdus[place].header) == "CHANDRA")
    if good is None:
        return fraction, []
    with np.errstate(invalid="ignore", divide="ignore"):
        inside = good_seconds(time - width / 2, time + width / 2, good.union)
        share = np.where(width > 0, inside / width, is_inside(time, good.union))
    share = np.where(np.isfinite(share), share, 0.0)[:, None]
    # the ends of intervals and bins are rounded apart
    share = np.where(share > 1 - 1e-6, 1.0, np.where(share < 1e-6, 0.0, share))
    if not share.any():
        timed = time[np.isfinite(time)]
        raise BadFile(
            f"0 of {len(time):,} bins are in the good time: bins {span(timed) if len(timed) else 'none'}, "
            f"good time {span(good.union)}"
        )
    outside = np.count_nonzero(share == 0)
    partly = np.count_nonzero((share > 0) & (share < 1))
    notes = list(good.notes)
    if outside:
        notes.append(Note("bins outside the good time, not observed", outside, len(time)))
    if partly and nothing_known:
        notes.append(Note("bins partly in the good time, with that share of exposure", partly, len(time)))
    return fraction * (share if nothing_known else share > 0), notes


def exposure_notes(exposed: np.ndarray) -> list[Note]:
    """exposed: [T, C] bool."""
    dark = np.count_nonzero(~exposed)
    text = "bins of too little exposure (--min_fracexp), not observed"
    return [Note(text, dark, exposed.size)] if dark else []


def unnamed_notes(bands: tuple[str, ...]) -> list[Note]:
    if are_named(bands):
        return []
    return [Note("no energies of the bands in the header (E_MIN1, E_MAX1 ...): bands are numbered from 1")]


def band_names(header: fits.Header, path: str | os.PathLike, count: int) -> tuple[str, ...]:
    """Of the header's energies, else of its channels (xselect), else of the digit in eROSITA's file names,
    else their numbers.
    """
    edges = [(header.get(f"E_MIN{n}"), header.get(f"E_MAX{n}")) for n in range(1, count + 1)]
    if count == 1 and edges == [(None, None)]:
        pairs = [("E_MIN", "E_MAX"), ("EMIN", "EMAX"), ("ENERGLO", "ENERGHI")]
        edges = [next(((number(header, a), number(header, b)) for a, b in pairs if b in header), edges[0])]
    if all(isinstance(edge, (int, float)) for pair in edges for edge in pair):
        return tuple(band_name(between(low, high)) for low, high in edges)
    channels = channels_of(header)
    low, high = number(header, "PHALCUT"), number(header, "PHAHCUT")
    if count == 1 and channels and low is not None and high is not None and low < high:
        half = channels.width / 2
        ends = (channels.first + channels.width * low - half, channels.first + channels.width * high + half)
        return (between(*(float(f"{max(end, 0):.3g}") for end in ends)),)
    found = EROSITA.fullmatch(os.path.basename(path))
    named = EROSITA_BANDS.get(found[2], ()) if found else ()
    return named if len(named) == count else tuple(str(n) for n in range(1, count + 1))
