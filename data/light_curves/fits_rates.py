"""Light curves in FITS tables of counts or rates: eROSITA's srctool, xronos' lcurve."""

import os

import numpy as np
from astropy.io import fits

from data.cutouts.fits import BadFile
from data.light_curves.curve import DAY, Found, Reading, counted, rated
from data.light_curves.file_names import EROSITA, EROSITA_BANDS, source_of

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


def from_rates(hdu: fits.BinTableHDU, path: str | os.PathLike, reading: Reading) -> Found:
    columns = {name.upper(): name for name in hdu.columns.names}

    def column(name: str) -> np.ndarray | None:
        """[T] or [T, C] float64 in native byte order, a time in s by the unit of the column,
        else of the header.
        """
        if name not in columns:
            return None
        values = np.asarray(hdu.data[columns[name]]).astype(np.float64)
        return values * seconds(hdu, name) if name in ("TIME", "TIMEDEL", "XAX_E") else values

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
        return counted(
            source,
            band_names(hdu.header, path, counts.shape[1]),
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
        rated(source, band_names(hdu.header, path, rate.shape[1]), time, width, rate, low, up, enough)
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
        return np.full(hdu.header["NAXIS2"], float(hdu.header["TIMEDEL"]) * seconds(hdu))
    return None


def seconds(hdu: fits.BinTableHDU, column: str | None = None) -> float:
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


def band_names(header: fits.Header, path: str | os.PathLike, count: int) -> tuple[str, ...]:
    """Of the header's energies, else of the digit in eROSITA's file names, else their numbers."""
    edges = [(header.get(f"E_MIN{n}"), header.get(f"E_MAX{n}")) for n in range(1, count + 1)]
    if all(isinstance(edge, (int, float)) for pair in edges for edge in pair):
        return tuple(f"{low:g}-{high:g}" for low, high in edges)
    found = EROSITA.fullmatch(os.path.basename(path))
    named = EROSITA_BANDS.get(found[2], ()) if found else ()
    return named if len(named) == count else tuple(str(n) for n in range(1, count + 1))
