"""Tables as light curves: one a source, rows of different bands that are close in time as one point."""

import os

import numpy as np
import pandas as pd

from data.light_curves.curve import DAY, Found, LightCurve, Note, Reading, rated
from data.light_curves.file_names import folder_of_object
from data.light_curves.tables.cells import Told, read_cells
from data.light_curves.tables.columns import choose_columns
from data.light_curves.tables.observations import Observations, observations_of
from data.light_curves.tables.wide import gathered_bands, gathered_energies, named_by_survey

ALIKE = 1e-4
ALWAYS = np.ones((1, 1), dtype=bool)


def curves_of_table(path: str | os.PathLike, reading: Reading) -> list[Found]:
    """The light curves of a table, by time of its rows; a source without a row that counts has no points.

    What was left out or assumed is with the first of them. Raises: BadFile for what is no table of light
    curves; OSError for trouble of the machine.
    """
    cells = read_cells(path)
    if not reading.columns:
        cells = gathered_bands(gathered_energies(named_by_survey(cells, path)))
    chosen = choose_columns(cells, reading)
    rows = observations_of(cells, chosen, path, reading)
    if chosen.id is None and folder_of_object(path):
        cells.told.of_table("sources named after their folder, as the file's name is a general one")
    if chosen.id is not None and _objects_have_one_band(rows):
        name = cells.names[chosen.id]
        cells.told.of_table(
            f"each {name} has one band: its curves are apart (--columns id=none joins those of a file)"
        )
    found = _curves(rows, reading.epoch_gap * DAY, cells.told)
    notes = tuple(Note(what, count) for what, count in cells.told.counts.items())
    return [found[0]._replace(notes=notes), *found[1:]]


def _objects_have_one_band(rows: Observations) -> bool:
    """Whether several sources of several bands have one each: ZTF numbers a source anew in each band."""
    pairs = pd.DataFrame({"source": rows.source, "band": rows.band}).drop_duplicates()
    return len(rows.bands) > 1 and len(pairs) == pairs["source"].nunique() > 1


def _curves(rows: Observations, gap: float, told: Told) -> list[Found]:
    same = rows.source[1:] == rows.source[:-1]
    told.of_rows("rows not in order of time, sorted", np.count_nonzero(same & (np.diff(rows.time) < 0)))
    # sources in the order of their names, as their rows were sorted by
    names = np.array(rows.sources, dtype=object)
    rank = np.empty(len(names), dtype=np.int64)
    rank[np.argsort(names, kind="stable")] = np.arange(len(names))
    order = np.lexsort((rows.time, rank[rows.source]))
    time, rate, error, is_limit, band, source = (
        field[order] for field in (rows.time, rows.rate, rows.error, rows.is_limit, rows.band, rows.source)
    )
    begins = np.flatnonzero(np.r_[True, source[1:] != source[:-1]])
    first = epochs(time, band, begins, gap)
    of_row = np.repeat(np.arange(len(first)), np.diff(np.r_[first, len(time)]))
    zero = np.repeat(time[begins], np.diff(np.r_[begins, len(time)]))
    centre = np.bincount(of_row, time - zero) / np.bincount(of_row) + zero[first]
    values = np.full((3, len(first), len(rows.bands)), np.nan)
    # an error that equals its rate says that this is a limit: of a measurement it must not, by chance
    low = np.where(np.abs(error - rate) <= ALIKE * np.abs(rate), rate * (1 - 2 * ALIKE), error)
    low = np.where(is_limit, 0.0, low)
    values[:, of_row, band] = rate, low, error
    # of two rows of one band at the same time the first stays
    starts = np.searchsorted(first, begins)
    distinct = np.r_[True, np.diff(centre) > 0]
    distinct[starts] = True
    told.of_rows("rows at the time and in the band of another, left out", np.count_nonzero(~distinct))
    found = []
    ends = np.r_[starts[1:], len(first)]
    for begin, end, number in zip(starts.tolist(), ends.tolist(), source[begins].tolist()):
        kept = slice(begin, end) if distinct[begin:end].all() else begin + np.flatnonzero(distinct[begin:end])
        rate, low, up = values[:, kept]
        found.append(
            Found(
                rated(rows.sources[number], rows.bands, centre[kept], None, rate, low, up, ALWAYS, rows.unit)
            )
        )
    none = np.zeros((0, len(rows.bands)), dtype=np.float32)
    for name in sorted(set(rows.sources) - {one.curve.source for one in found}):
        empty = LightCurve(
            name, rows.bands, np.zeros(0), none[:, 0], None, none, none, none, none, none, none.astype(bool)
        )
        found.append(Found(empty))
    return found


def epochs(time: np.ndarray, band: np.ndarray, begins: np.ndarray, gap: float) -> np.ndarray:
    """The first rows of the epochs of rows in order of source and time: an epoch ends `gap` s after its
    first row, where a band comes again, or with its source.

    time [R] float64 s; band [R] int64; begins: first row of each source.
    """
    count = len(time)
    if not band.any():
        return np.arange(count)
    last = np.repeat(np.r_[begins[1:], count], np.diff(np.r_[begins, count]))  # first row of the next source
    # where the gap ends: a search over times that go on rising from source to source
    source = np.repeat(np.arange(len(begins)), np.diff(np.r_[begins, count]))
    since = time - np.repeat(time[begins], np.diff(np.r_[begins, count]))
    stride = float(since.max()) + 2 * gap + 1.0
    rising = since + stride * source
    end = np.minimum(np.searchsorted(rising, rising + gap, "right"), last)
    while (late := (end < last) & (time[np.minimum(end, count - 1)] - time <= gap)).any():
        end[late] += 1
    while (early := (end > np.arange(1, count + 1)) & (time[end - 1] - time > gap)).any():
        end[early] -= 1
    # where a band comes again: the next row of the same band, or of any later row's
    by_band = np.lexsort((np.arange(count), band, source))
    again = np.full(count, count)
    follows = (band[by_band][1:] == band[by_band][:-1]) & (source[by_band][1:] == source[by_band][:-1])
    again[by_band[:-1][follows]] = by_band[1:][follows]
    again = np.minimum.accumulate(again[::-1])[::-1]
    following = np.minimum(end, again).tolist()
    first = []
    row = 0
    while row < count:
        first.append(row)
        row = following[row]
    return np.array(first)
