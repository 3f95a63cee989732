"""Light curves in tables of text: CSV of time (days), magnitude or flux with its error, band, source."""

import os
from collections.abc import Iterator

import numpy as np
import pandas as pd

from data.cutouts.fits import MACHINE_TROUBLE, BadFile, first_line
from data.light_curves.curve import DAY, LightCurve, Reading, rated
from data.light_curves.file_names import source_of

ALIASES = {
    "time": ("time", "mjd", "bjd", "hjd", "jd"),
    "mag": ("mag", "magnitude"),
    "magerr": ("magerr", "mag_err", "mag_error", "e_mag"),
    "flux": ("flux",),
    "fluxerr": ("fluxerr", "flux_err", "flux_error", "e_flux"),
    "band": ("band", "filter", "passband"),
    "id": ("id", "source", "object", "object_id", "source_id"),
}


def read_table(path: str | os.PathLike) -> pd.DataFrame:
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


def from_table(table: pd.DataFrame, path: str | os.PathLike, reading: Reading) -> Iterator[LightCurve]:
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
    return rated(source, bands, centre, None, values[0], values[1], values[1], np.ones((1, 1), dtype=bool))
