"""Two bands that no column tells apart make a curve that jumps to and fro: refused, or said."""

import numpy as np
import pandas as pd
import pyarrow as pa

from data.cutouts.fits import BadFile
from data.light_curves.tables.cells import Cells, codes, numbers
from data.light_curves.tables.columns import Chosen
from data.light_curves.tables.surveys import UNKNOWN_MAGNITUDE

MOST_GROUPS = 12  # into which a column that is a band parts a curve


def check_one_band(
    cells: Cells, chosen: Chosen, time: np.ndarray, source: np.ndarray, keep: np.ndarray
) -> None:
    """Raises: BadFile where a column tells two levels apart between which the curve jumps to and fro, as
    curves of two bands in one do; said where it jumps, and no column tells why.
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
        turns = np.count_nonzero(same & (group[1:] != group[:-1]))
        if turns <= 0.2 * len(group):
            return None
        # sources have colours of their own: levels and scatter are of each
        table = pd.DataFrame(dict(source=source[rows], group=group, level=level))
        table = table[table["group"].isin(large)]
        medians = table.groupby(["source", "group"])["level"].transform("median")
        scatter = (table["level"] - medians).abs().median()
        of_source = table.groupby(["source", "group"])["level"].median().groupby("source")
        apart = float((of_source.max() - of_source.min()).median())
        return (0.0, apart) if apart > max(0.3, 5 * scatter) else None

    used = {place for place in chosen if type(place) is int}
    for place, name in enumerate(cells.names):
        if place in used or pa.types.is_floating(cells.columns[place].type):
            continue
        if len(codes(cells.columns[place][:1000])[1]) > MOST_GROUPS:
            continue
        of_row, values = codes(cells.columns[place])
        if not 2 <= len(values) <= MOST_GROUPS:
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
        found = jumps((level > ordered[at]).astype(np.int64)) if gaps[at] > 0.3 else None
        if found:
            cells.told.of_table("one curve jumps between two levels: two bands, and no column for them?")
