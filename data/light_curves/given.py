"""Light curves that are in memory already, as the pack that files would make."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from data.light_curves.bands import band_name
from data.light_curves.curve import LightCurve
from data.light_curves.packed import FIELDS, OF_BAND, OF_CURVE, OF_POINT, Packed
from utils.mistake import Mistake


def pack_of_curves(curves: Sequence[LightCurve], bands: Sequence[str]) -> Packed:
    """A pack of `curves`, a row each in their order, in the bands `bands`; a band that a curve lacks is
    unobserved there.

    Raises: Mistake for a curve with a band that is not among these, fields of other shapes, times that do not
        rise, or an observed point without a finite rate and an error above zero.
    """
    bands = tuple(bands)
    columns: dict[str, list[np.ndarray]] = {name: [] for name in FIELDS}
    for number, curve in enumerate(curves):
        for name, values in fields_of_curve(curve, bands, f"light curve {number} ({curve.source})").items():
            columns[name].append(values)
    empty = dict.fromkeys(OF_POINT, (0,)) | dict.fromkeys(OF_BAND, (0, len(bands)))
    table = pd.DataFrame(
        dict(
            path=["" for _ in curves],
            source=[str(curve.source) for curve in curves],
            points=[len(curve.time) for curve in curves],
            counts=[curve.counts is not None for curve in curves],
            bands=[" ".join(curve.bands) for curve in curves],
            unit=[curve.unit for curve in curves],
            reason=["" if len(curve.time) else "no point" for curve in curves],
        )
    )
    manifest = dict(bands=list(bands), lacking={}, unnamed=0, notes=[])
    packed = Packed(Path("memory"), manifest, table.astype(OF_CURVE))
    # what a pack on a disk maps when it is first asked for
    packed.__dict__["fields"] = {
        name: np.concatenate([np.zeros(empty[name]), *parts]).astype(FIELDS[name])
        for name, parts in columns.items()
    }
    return packed


def fields_of_curve(curve: LightCurve, bands: tuple[str, ...], what: str) -> dict[str, np.ndarray]:
    """Name -> [T] or [T, C] of one curve, its columns at the places of `bands`, zero where not observed."""
    names = [band_name(band) for band in curve.bands]
    if unknown := [band for band in names if band not in bands]:
        raise Mistake(f"{what}: has the band {unknown[0]}, expected some of {' '.join(bands)}")
    if len(set(names)) < len(names):
        raise Mistake(f"{what}: has the bands {' '.join(names)}, expected each once")
    T = len(curve.time)
    places = [bands.index(band) for band in names]
    given = {name: getattr(curve, name) for name in FIELDS}
    if given["counts"] is None:
        given["counts"] = np.zeros((T, len(names)))
    wrong = {
        name: np.shape(values)
        for name, values in given.items()
        if np.shape(values) != ((T,) if name in OF_POINT else (T, len(names)))
    }
    if wrong:
        name, shape = next(iter(wrong.items()))
        expected = [T] if name in OF_POINT else [T, len(names)]
        raise Mistake(f"{what}: {name} has the shape {list(shape)}, expected {expected}")
    observed = np.asarray(given["observed"], dtype=bool)
    fields = {name: np.asarray(given[name], dtype=np.float64) for name in OF_POINT}
    if not np.isfinite(fields["time"]).all() or (np.diff(fields["time"]) <= 0).any():
        raise Mistake(f"{what}: expected finite times (s) that rise")
    for name in OF_BAND:
        placed = np.zeros((T, len(bands)), dtype=FIELDS[name])
        placed[:, places] = np.where(observed, given[name], 0)
        fields[name] = placed
    there = fields["observed"]
    usable = np.isfinite(fields["rate"]) & np.isfinite(fields["error_low"]) & (fields["error_up"] > 0)
    if (without := there & ~usable).any():
        raise Mistake(
            f"{what}: {int(without.sum())} of {int(there.sum())} observed values have no finite rate with "
            "errors above zero; observed is False where there is none"
        )
    return fields
