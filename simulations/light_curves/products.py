"""The files of simulated light curves, of the forms of eROSITA's:
srctool products, and the same rebinned by eRebin.

D/000000/em01_000000_020_LightCurve_00001_c010_rebinned.fits is curve 0: a tile holds a thousand, and is a
number, not a place on the sky. A file's bytes are a function of (seed, number) and the survey's options:
neither the count nor the workers change them.
"""

import os
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache

import numpy as np
import torch
from astropy.io import fits

from physics.count_rates import srctool_error, srctool_rate
from simulations.light_curves.survey import BANDS, BATCH, Bins, Curve, Survey, simulate, source_rates

BLOCK = 2880  # bytes of a FITS block
TILE = 1000  # curves in a tile
EDGE_ROWS = 3  # srctool: rows without exposure before the first visit and after the last
REFERENCE = datetime(1999, 12, 31, 21)  # MJD 51543.875
LEAP = 69.184  # s, TT - UTC since 2017
# Column, FITS form and unit. srctool: as the public eFEDS curves; rebinned: what eRebin leaves of them.
SRCTOOL = (
    ("TIME", "D", "s"),
    ("TIMEDEL", "D", "s"),
    ("COUNTS", "3J", "count"),
    ("RATE", "3E", "ct/s"),
    ("RATE_ERR", "3E", "ct/s"),
    ("BACK_COUNTS", "3E", "count"),
    ("FRACAREA", "3E", "ratio"),
    ("FRACTIME", "E", "ratio"),
    ("FRACEXP", "3E", "ratio"),
    ("OFFAXIS", "E", "deg"),
    ("BACKRATIO", "D", "ratio"),
)
REBINNED = (
    ("TIME", "D", "s"),
    ("TIMEDEL", "D", "s"),
    ("COUNTS", "3J", "count"),
    ("RATE", "3E", "ct/s"),
    ("RATE_ERRM", "3E", "ct/s"),
    ("RATE_ERRP", "3E", "ct/s"),
    ("BACK_COUNTS", "3E", "count"),
    ("FRACEXP", "3E", "ratio"),
    ("BACKRATIO", "D", "ratio"),
)
COLUMNS = {"srctool": SRCTOOL, "rebinned": REBINNED}
NUMPY = {"D": ">f8", "E": ">f4", "J": ">i4"}
LABELS = [
    "source",
    "path",
    "process",
    "total_counts",
    "points",
    "colour_0",
    "colour_1",
    "colour_2",
    "factor_0",
    "factor_1",
    "factor_2",
    "sigma",
    "damping_time",
    "peak",
    "peak_time",
    "rise_time",
    "decay_time",
    "period",
    "duration",
    "ingress",
    "depth",
    "dip_time",
    "recurrence",
    "scatter",
    "fwhm",
    "first_burst",
]


@dataclass(frozen=True)
class Batch:
    """The curves `first` to `first + count`: what one worker does at a time."""

    root: str
    seed: int
    first: int
    count: int  # files of as many curves are written; BATCH are simulated
    survey: Survey


def batches(root, seed: int, curves: int, survey: Survey) -> list[Batch]:
    return [
        Batch(str(root), seed, first, min(BATCH, curves - first), survey) for first in range(0, curves, BATCH)
    ]


def file_name(number: int, form: str) -> str:
    """The path of curve `number` within the simulation's directory."""
    tile, source = place(number)
    ending = "_rebinned.fits" if form == "rebinned" else ".fits"
    return f"{tile}/em01_{tile}_020_LightCurve_{source}_c010{ending}"


def place(number: int) -> tuple[str, str]:
    """Tile and source of a curve, as they stand in its file's name."""
    return f"{number // TILE:06d}", f"{number % TILE + 1:05d}"


def write_batch(batch: Batch) -> list[dict]:
    """Write the batch's files; the row of each for labels.csv. Files already whole are left as they are."""
    torch.set_num_threads(1)
    survey, form = batch.survey, batch.survey.format
    curves = [simulate(batch.seed, number, survey) for number in range(batch.first, batch.first + BATCH)]
    names = [file_name(curve.number, form) for curve in curves[: batch.count]]
    paths = [os.path.join(batch.root, name) for name in names]
    if not all(
        os.path.exists(path) and os.path.getsize(path) == size(curve, form)
        for path, curve in zip(paths, curves)
    ):
        estimates = source_rates(curves, survey.rates) if form == "rebinned" else [None] * BATCH
        for path, curve, estimate in zip(paths, curves, estimates):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb") as file:
                file.write(encode(curve, form, estimate))
    return [
        {"source": "_".join(place(curve.number)), "path": name} | curve.truth
        for name, curve in zip(names, curves)
    ]


def encode(curve: Curve, form: str, estimate=None) -> bytes:
    """The bytes of one FITS file; `estimate` is the (rate, error_low, error_up)
    of `source_rates` for a rebinned one.
    """
    bins = curve.bins
    if form == "rebinned":
        table = np.zeros(len(bins.time), row_type(form))
        table["RATE"], table["RATE_ERRM"], table["RATE_ERRP"] = estimate
        fill(table, curve)
    else:
        table = empty_rows(row_count(bins))
        rows = table[row_numbers(bins)]
        fill(rows, curve)
        rows["FRACTIME"], rows["OFFAXIS"] = bins.fractime, bins.offaxis
        rows["FRACAREA"] = bins.fracexp / bins.fractime[:, None]
        rows["RATE"], rows["RATE_ERR"] = difference_rates(curve)
        table["TIME"] = bins.time[0] + (np.arange(len(table)) - EDGE_ROWS) * bins.width[0]
        table["TIMEDEL"] = bins.width[0]
        table[row_numbers(bins)] = rows
    data = table.tobytes()
    return header(curve, form, table) + data.ljust(-(-len(data) // BLOCK) * BLOCK, b"\0")


def fill(table: np.ndarray, curve: Curve) -> None:
    """The columns that both forms have."""
    bins = curve.bins
    for name, value in (
        ("TIME", bins.time),
        ("TIMEDEL", bins.width),
        ("COUNTS", curve.counts),
        ("BACK_COUNTS", curve.back_counts),
        ("FRACEXP", bins.fracexp),
        ("BACKRATIO", bins.backratio),
    ):
        table[name] = value


def difference_rates(curve: Curve) -> tuple[np.ndarray, np.ndarray]:
    """RATE and RATE_ERR [K, C] by srctool's formulas; in slivers it gives no error to no counts over fewer
    than 25 of background.
    """
    bins = curve.bins
    counts, back, ratio, exposure, fracexp = (
        torch.from_numpy(np.asarray(x, float))
        for x in (curve.counts, curve.back_counts, bins.backratio[:, None], bins.exposure, bins.fracexp)
    )
    error = srctool_error(counts, back, ratio, exposure, fracexp).numpy()
    unknown = (bins.fracexp <= 0.1) & (curve.counts == 0) & (curve.back_counts < 25)
    return srctool_rate(counts, back, ratio, exposure).numpy(), np.where(unknown, np.nan, error)


def row_numbers(bins: Bins) -> np.ndarray:
    """[K] the row of each bin on the full grid of bins."""
    return np.rint((bins.time - bins.time[0]) / bins.width[0]).astype(np.int64) + EDGE_ROWS


def row_count(bins: Bins) -> int:
    return int(row_numbers(bins)[-1]) + 1 + EDGE_ROWS


def empty_rows(count: int) -> np.ndarray:
    """Rows of bins without exposure, as srctool writes them."""
    table = np.zeros(count, row_type("srctool"))
    for name in ("RATE", "RATE_ERR", "BACKRATIO"):
        table[name] = np.nan
    return table


@lru_cache
def row_type(form: str) -> np.dtype:
    return np.dtype(
        [
            (name, NUMPY[kind[-1]], len(BANDS)) if len(kind) > 1 else (name, NUMPY[kind])
            for name, kind, _ in COLUMNS[form]
        ]
    )


def size(curve: Curve, form: str) -> int:
    """Bytes of the curve's file."""
    rows = len(curve.bins.time) if form == "rebinned" else row_count(curve.bins)
    return len("".join(header_cards(form))) + -(-rows * row_type(form).itemsize // BLOCK) * BLOCK


def header(curve: Curve, form: str, table: np.ndarray) -> bytes:
    """Primary and table header: the cards of `header_cards` with this curve's values in place."""
    start = table["TIME"][0] - table["TIMEDEL"][0] / 2
    stop = table["TIME"][-1] + table["TIMEDEL"][-1] / 2
    values = {
        "NAXIS2": len(table),
        "TSTART": f"{start:.4f}",
        "TSTOP": f"{stop:.4f}",
        "OBJECT": f"'{place(curve.number)[1]:<8}'".ljust(20),
        "DATE-OBS": date(start),
        "DATE-END": date(stop),
    }
    for band, (source, background) in enumerate(zip(curve.counts.sum(0), curve.back_counts.sum(0)), 1):
        values |= {f"CTS_SC{band}": source, f"CTS_BK{band}": background}
    return "".join(with_value(card, values) for card in header_cards(form)).encode()


def with_value(card: str, values: dict) -> str:
    key = card[:8].rstrip()
    if key not in values:
        return card
    value = f"{values[key]:>20}"
    return f"{card[:10]}{value}{card[10 + len(value) :]}"


def date(moment: float) -> str:
    """A FITS string of 21 characters: UTC of a time in s since MJDREF."""
    return f"'{(REFERENCE + timedelta(seconds=moment - LEAP)).isoformat(timespec='seconds')}'"


@lru_cache
def header_cards(form: str) -> tuple[str, ...]:
    """Cards of 80 characters, both headers with their padding;
    keywords and comments as srctool's, with placeholders for the values that vary.
    """
    kind = row_type(form)
    columns = COLUMNS[form]
    primary = fits.Header(
        [
            ("SIMPLE", True, "file does conform to FITS standard"),
            ("BITPIX", 16, "number of bits per data pixel"),
            ("NAXIS", 0, "number of data axes"),
            ("EXTEND", True, "FITS dataset may contain extensions"),
        ]
    )
    table = fits.Header(
        [
            ("XTENSION", "BINTABLE", "binary table extension"),
            ("BITPIX", 8, "array data type"),
            ("NAXIS", 2, "number of array dimensions"),
            ("NAXIS1", kind.itemsize, "length of dimension 1"),
            ("NAXIS2", 0, "length of dimension 2"),
            ("PCOUNT", 0, "number of group parameters"),
            ("GCOUNT", 1, "number of groups"),
            ("TFIELDS", len(columns), "number of table fields"),
            ("EXTNAME", "RATE", "name of this binary table extension"),
            ("HDUCLASS", "OGIP", "Conforms to HEASARC/OGIP conventions"),
            ("HDUCLAS1", "LIGHTCURVE", "Standard OGIP keyword. Sub-class of format"),
            ("HDUCLAS2", "TOTAL", "Standard OGIP keyword. Sub-class of format"),
            ("HDUCLAS3", "COUNT", "Standard OGIP keyword. Sub-class of format"),
            ("HDUVERS", "1994Nov30", "version of format"),
            ("ORIGIN", "Starloop", "Origin of FITS file"),
            ("CREATOR", "simulate.py light_curves", "simulated, not observed"),
            ("MISSION", "SRG", "Mission or test environment"),
            ("TELESCOP", "eROSITA", "Telescope / camera"),
            ("INSTRUME", "MERGED", "Instrument"),
            ("OBS_MODE", "SURVEY", "SURVEY, POINTING, or SLEW"),
            ("OBJECT", "00000", "number of the source in its tile"),
            ("DATE-OBS", "1999-12-31T21:00:00", "Start Time (UTC) of exposure"),
            ("DATE-END", "1999-12-31T21:00:00", "End Time (UTC) of exposure"),
            ("TSTART", 0.0, "Start time of exp. in units of TIME col"),
            ("TSTOP", 0.0, "End time of exp. in units of TIME col"),
            ("MJDREF", 51543.875, "[d] reference of TIME"),
            ("TIMEZERO", 0.0, "[s] Clock correction"),
            ("TIMEUNIT", "s", "Time unit"),
            ("TIMESYS", "TT", "Time system (TT=Terrestial Time)"),
            ("RADECSYS", "ICRS", "Astrometric reference frame"),
            ("EQUINOX", 2000.0),
            ("NINST", 7, "Number of instruments that were merged"),
            ("DSTYPE", "LightCurve", "Dataset type: EventFile, Image, etc."),
            ("TIMEDEL", 100.0 if form == "srctool" else 10.0, "[s] width of a bin, before rebinning"),
            ("BACKAPP", False, "True if background was subtracted"),
            ("DEADAPP", False, "True if deadtime correction was applied"),
            ("VIGNAPP", False, "True if vignetting correction was applied"),
        ]
    )
    for number, band in enumerate(BANDS, 1):
        low, high = band.split("-")
        table.extend(
            [
                (f"E_MIN{number}", float(low), "[keV] Minimum energy bound"),
                (f"E_MAX{number}", float(high), "[keV] Maximum energy bound"),
                (f"CTS_SC{number}", 0, f"Cts in source region,band {number}"),
                (f"CTS_BK{number}", 0, f"Cts in bkgnd region,band {number}"),
            ]
        )
    for number, (name, kind, unit) in enumerate(columns, 1):
        table.extend([(f"TTYPE{number}", name), (f"TFORM{number}", kind), (f"TUNIT{number}", unit)])
    text = primary.tostring() + table.tostring()
    return tuple(text[k : k + 80] for k in range(0, len(text), 80))
