"""A light curve in physical units, as every reader returns it."""

import re
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from data.cutouts.fits import BadFile
from data.light_curves.units import COUNTS, in_range, raised_note, unit_of_rate
from physics.count_rates import source_rate
from utils.config import Options, option, several
from utils.mistake import Mistake

DAY = 86400.0  # s
SMALLEST_ERROR = float(np.finfo(np.float32).tiny)
TIME_UNITS = {
    "ns": 1e-9,
    "us": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "ks": 1e3,
    "min": 60.0,
    "h": 3600.0,
    "d": DAY,
    "yr": 365.25 * DAY,
}
TABLE_COLUMNS = ("time", "mag", "flux", "error", "id", "band", "zero_point", "sign", "limit")
# of `--quality`: a column, and the values, the range or the bits of it
CONDITION = re.compile(r"([^=~]+)(?:=(.+)|~(\d+))")


@dataclass(frozen=True)
class Reading(Options):
    """How files become curves."""

    # points of a band with a smaller fractional exposure are dropped
    min_fracexp: float = option(0.1, least=0, most=1)
    bin_time: float = option(100.0, above=0, below=np.inf)  # event lists: width of a bin, s
    # event lists: edges of the bands, keV; none: those of the mission (docs/light_curves.md)
    energy_bands: list[float] = several()
    channel_bands: list[int] = several(0, 14, 36, 256)  # event lists without energies: edges in channels
    # tables: rows of different bands so close together are one point, days
    epoch_gap: float = option(0.02, least=0, below=np.inf)
    zero_point: float = 22.5  # tables: magnitude of a rate of one
    # tables: which column is what, where its name does not say: time= mag= (or rate=, a flux) error= id=
    # band= zero_point= sign= limit=; a name, a number from 1 if there is no header, or none
    columns: list[str] = several()
    time_unit: str = "auto"  # tables: of the time, as s or d or ns; auto: what the table says, else days
    # rows that count: default (the flags of known surveys; of Kepler and TESS also in FITS), none, and in
    # tables conditions on columns of flags: catflags=0..32767 quality=G,B flags~175 (none of these bits)
    quality: list[str] = several("default")
    # tables without errors: refuse, scatter (from point to point), or their size: magnitudes, or a share of
    # the flux
    assumed_error: str = "refuse"
    # tables: an upper limit is so many standard deviations, and becomes 0 +- limit / this
    limit_sigma: float = option(5.0, above=0)

    def __post_init__(self):
        super().__post_init__()
        for flag, edges in (("energy_bands", self.energy_bands), ("channel_bands", self.channel_bands)):
            if flag == "energy_bands" and not edges:
                continue
            if len(edges) < 2 or not all(low < high for low, high in zip(edges, edges[1:])):
                raise Mistake(f"--{flag}: got {' '.join(map(str, edges))}, expected two or more rising edges")
        columns_given(self)
        for text in self.quality:
            if text not in ("default", "none") and not CONDITION.fullmatch(text):
                raise Mistake(
                    f"--quality: got {text!r}, expected default, none, or a condition such as "
                    "catflags=0..32767, quality=G,B or flags~175 (none of these bits)"
                )
        if self.time_unit != "auto" and self.time_unit not in TIME_UNITS:
            raise Mistake(
                f"--time_unit: got {self.time_unit!r}, expected auto or one of {' '.join(TIME_UNITS)}"
            )
        if self.assumed_error not in ("refuse", "scatter") and not _is_positive(self.assumed_error):
            raise Mistake(
                f"--assumed_error: got {self.assumed_error!r}, expected refuse, scatter, or a number above 0"
            )


def _is_positive(text: str) -> bool:
    try:
        return 0 < float(text) < np.inf
    except ValueError:
        return False


def columns_given(reading: Reading) -> dict[str, str]:
    """What `--columns` says: time, mag, flux, error, id, band, zero_point, sign, limit -> name of the column.

    Raises: Mistake for what is not of that form.
    """
    given = {}
    for text in reading.columns:
        ours, equals, theirs = text.partition("=")
        ours = "flux" if ours == "rate" else ours
        if ours not in TABLE_COLUMNS or not theirs:
            raise Mistake(
                f"--columns: got {text!r}, expected name=column with a name among "
                f"{' '.join(('rate', *TABLE_COLUMNS))}"
            )
        given[ours] = theirs
    return given


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
    unit: str = ""  # of the rate, as units.py writes it; "": not written


class Note(NamedTuple):
    """What was dropped, guessed or assumed in a file; those of one text are added up over files."""

    text: str  # the same in every file that it is true of: "events outside the bands"
    count: int = 0  # of how many this is true; 0: of the file as a whole
    total: int = 0  # out of how many


class Found(NamedTuple):
    """A curve whose rates are still to be estimated, or are there already (`background_counts` None)."""

    curve: LightCurve
    background_counts: np.ndarray | None = None  # [T, C] counts in the background region
    background_ratio: np.ndarray | None = None  # [T, C] area of the source region in units of that
    notes: tuple[Note | str, ...] = ()


def with_rates(found: list[Found]) -> list[LightCurve]:
    """The curves with `rate`, `error_low`, `error_up` estimated where there are counts."""
    counted = [number for number, one in enumerate(found) if one.background_counts is not None]
    curves = [one.curve for one in found]
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


def counted(
    source: str,
    bands: tuple[str, ...],
    time,
    width,
    counts,
    background,
    ratio,
    exposure,
    observed,
    notes=(),
    unit: str = COUNTS,
) -> Found:
    rows, more = rows_in_order(time, observed)
    observed = observed[rows]
    counts, background, ratio, exposure = (
        np.where(observed, field[rows], 0).astype(np.float32)
        for field in (counts, background, ratio, exposure)
    )
    unknown = np.zeros_like(counts)
    curve = LightCurve(
        source,
        bands,
        time[rows],
        width[rows].astype(np.float32),
        counts,
        background * ratio,
        exposure,
        unknown,
        unknown,
        unknown,
        observed,
        unit,
    )
    return Found(curve, background, ratio, (*notes, *more, *overlap_notes(curve)))


def rated(source: str, bands: tuple[str, ...], time, width, rate, low, up, enough, unit: str) -> LightCurve:
    """As `found_rates`, of rows that are in order and have a time each, in a unit as units.py writes it."""
    return _found_rates(source, bands, time, width, rate, low, up, enough, (), unit).curve


def found_rates(
    source: str, bands: tuple[str, ...], time, width, rate, low, up, enough, notes=(), unit: str = ""
) -> Found:
    """unit: of the rates, as the file writes it."""
    factor, unit = unit_of_rate(unit)
    if factor != 1:
        rate, low, up = factor * rate, factor * low, factor * up
    errors = up[np.isfinite(up) & (up > 0)]
    raised, (rate, low, up) = in_range(unit, float(np.median(errors)) if errors.size else 0.0, rate, low, up)
    if raised != unit:
        notes = (*notes, Note(raised_note(raised)))
    return _found_rates(source, bands, time, width, rate, low, up, enough, notes, raised)


def _found_rates(
    source: str, bands: tuple[str, ...], time, width, rate, low, up, enough, notes, unit: str
) -> Found:
    usable = (
        np.isfinite(rate)
        & np.isfinite(low)
        & np.isfinite(up)
        & (up > 0)
        & ((low > 0) | ((low == 0) & (rate == 0)))
    )
    width = np.zeros(len(time)) if width is None else width
    usable = usable & (np.isfinite(width) & (width >= 0))[:, None]
    with np.errstate(over="ignore", invalid="ignore"):
        held = np.isfinite(rate.astype(np.float32)) & np.isfinite(up.astype(np.float32))
        # below this float32 loses digits, and then all of them
        held &= (up >= SMALLEST_ERROR) & ((low == 0) | (low >= SMALLEST_ERROR))
    beyond = np.count_nonzero(enough & usable & ~held & np.isfinite(time)[:, None])
    usable = usable & held
    observed = usable & enough
    rows, more = rows_in_order(time, observed)
    if (unknown := np.count_nonzero(enough & ~usable & np.isfinite(time)[:, None])) > beyond:
        more.append(
            Note("values without a finite rate and error, not observed", unknown - beyond, usable.size)
        )
    if beyond:
        more.append(Note("values that 32-bit numbers do not hold, not observed", beyond, usable.size))
    observed = observed[rows]
    rate, low, up = (np.where(observed, field[rows], 0).astype(np.float32) for field in (rate, low, up))
    curve = LightCurve(
        source,
        bands,
        time[rows],
        width[rows].astype(np.float32),
        None,
        0 * rate,
        observed.astype(np.float32),
        rate,
        low,
        up,
        observed,
        unit,
    )
    return Found(curve, notes=(*notes, *more, *overlap_notes(curve)))


def overlap_notes(curve: LightCurve) -> list[Note]:
    """Bins of observations that were merged may cover the same seconds twice."""
    half = curve.width.astype(np.float64) / 2
    shared = (curve.time[:-1] + half[:-1]) - (curve.time[1:] - half[1:])
    count = np.count_nonzero(shared > 0.1 * np.minimum(half[:-1], half[1:]))
    return [Note("bins that overlap the one before, kept", count, len(curve.time))] if count else []


def rows_in_order(time: np.ndarray, observed: np.ndarray) -> tuple[np.ndarray, list[Note]]:
    """[T] the rows with a time and an observed band, by time, and what is to be said of their times.

    Raises: BadFile where none is left.
    """
    count = len(time)
    timed = np.isfinite(time)
    if count and not timed.any():
        raise BadFile(f"no point left: none of {count} times is finite")
    rows = np.flatnonzero(timed & observed.any(1))
    if not len(rows):
        raise BadFile(
            f"no point left: none of {count} rows has a finite value, its error and enough exposure"
        )
    notes = []
    if untimed := count - np.count_nonzero(timed):
        notes.append(Note("rows without a time, left out", untimed, count))
    steps = np.diff(time[rows])
    if not (steps > 0).all():
        if back := np.count_nonzero(steps < 0):
            notes.append(Note("rows earlier than the one before, sorted by time", back, count))
        rows = rows[np.argsort(time[rows], kind="stable")]
        again = np.r_[False, np.diff(time[rows]) == 0]
        if repeated := np.count_nonzero(again):
            notes.append(Note("rows at the time of another: the first of them is kept", repeated, count))
        rows = rows[~again]
    return rows, notes
