"""Good time: the union over the modules of an instrument, the intersection over the kinds of table.

A file may have a table for each CCD or telescope module (GTI1 ... GTI7, STDGTI01 ..., one GTI each with its
own CCD_ID) and tables of several kinds (STDGTI and FLAREGTI). A second is good in a module if every kind says
so; tables of one name that name no module are kinds of their own, as RXTE's are. Bad time (BADGTI, BTI) is
cut out. Where events name their module, modules that see the same sky count with equal weight: a second in
which half of them were on is half a second of exposure; else the exposure is that of the union.
"""

import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from astropy.io import fits

from data.cutouts.fits import BadFile, check_size
from data.light_curves.curve import Note
from data.light_curves.time_system import clock_notes, clock_of, number, seconds, shift_between

MODULE_CARDS = ("CCD_ID", "CCDID", "CCDNR", "TM_NR", "DET_ID", "DETID", "PCUID")
BAD = re.compile(r"BAD.*(GTI|TIME)|BTI")


class GoodTime(NamedTuple):
    """Intervals [n, 2] in s on the clock of the curve, in order without overlap."""

    modules: dict[int | None, np.ndarray]  # by module; {None: ...} where the file does not tell them apart
    notes: list[Note]

    @property
    def union(self) -> np.ndarray:
        return merged(np.concatenate(list(self.modules.values())))


class _Table(NamedTuple):
    kind: str
    module: int | None
    intervals: np.ndarray


def good_time(
    hdus: fits.HDUList, place: int, size: int, time: np.ndarray, by_version: bool = False
) -> GoodTime | None:
    """Of all tables of the file, for the curve or events in HDU `place`; None where there is no such table.

    time: [T] s of that, its TIMEZERO added; a table without TIMEZERO has the curve's where that meets these.
    by_version: the events tell modules apart, so that tables of one name differ in EXTVER by module.
    Raises: BadFile where the tables have no second in common.
    """
    primary = hdus[0].header
    events = clock_of(hdus[place], primary)
    tables: list[_Table] = []
    bad: list[np.ndarray] = []
    notes: list[Note] = []

    def intervals_of(hdu: fits.BinTableHDU, name: str) -> np.ndarray:
        clock = clock_of(hdu, primary)
        bare = merged(_intervals(hdu, size))
        if clock.zero is None and events.zero:
            with_zero = clock._replace(zero=events.zero)
            if _meets(bare + shift_between(with_zero, events), time):
                clock = with_zero
                notes.append(Note(f"{name} without TIMEZERO: that of the curve is taken"))
        notes.extend(clock_notes(name, clock, events))
        return bare + shift_between(clock, events)

    others = [hdu for hdu in hdus if hdu is not hdus[place] and isinstance(hdu, fits.BinTableHDU)]
    versions = Counter((hdu.name.upper(), hdu.header.get("EXTVER", 1)) for hdu in others)
    for hdu in others:
        name = hdu.name.upper()
        if BAD.search(name) and is_intervals(hdu):
            bad.append(intervals_of(hdu, name))
            notes.append(Note(f"bad time of {name} cut out of the good time"))
        elif "GTI" in name or str(hdu.header.get("HDUCLAS1", "")).strip().upper() == "GTI":
            same_name = [count for (other, _), count in versions.items() if other == name]
            kind, module = _kind_and_module(hdu, by_version and len(same_name) > 1 and max(same_name) == 1)
            tables.append(_Table(kind, module, intervals_of(hdu, f"{kind} tables")))
    if not tables:
        return None
    kinds = _kinds(tables)
    numbered = [by_module for by_module in kinds.values() if None not in by_module]
    modules = {}
    for module in sorted({module for by_module in numbered for module in by_module}) or [None]:
        parts = [_of_module(by_module, module) for by_module in kinds.values()]
        modules[module] = without(intersection(parts), bad)
    good = GoodTime(modules, [*dict.fromkeys(notes), Note(_told(kinds))])
    if not len(good.union):
        raise BadFile("its good time intervals are empty, or those of its GTI tables do not overlap")
    return good


def _intervals(hdu: fits.BinTableHDU, size: int) -> np.ndarray:
    """[n, 2] s as the table has them."""
    check_size(hdu, size)
    if not is_intervals(hdu):
        raise BadFile(f"{hdu.name} without START and STOP: there are {' '.join(hdu.columns.names)}")
    names = {name.upper(): name for name in hdu.columns.names}
    edges = [
        np.asarray(hdu.data[names[name]]).astype(np.float64) * seconds(hdu, name)
        for name in ("START", "STOP")
    ]
    return np.stack(edges, 1)


def _meets(intervals: np.ndarray, time: np.ndarray) -> bool:
    timed = time[np.isfinite(time)]
    if not len(intervals) or not len(timed):
        return False
    return bool(intervals[0, 0] <= timed.max() and timed.min() <= intervals[-1, 1])


def is_intervals(hdu: fits.BinTableHDU) -> bool:
    return {"START", "STOP"} <= {name.upper() for name in hdu.columns.names}


def _kind_and_module(hdu: fits.BinTableHDU, by_version: bool) -> tuple[str, int | None]:
    """STDGTI04 is of kind STDGTI and module 4, evselect's GTI00103 of GTI and module 3."""
    name = hdu.name.upper()
    found = re.fullmatch(r"(.*?)(\d+)", name)
    card = number(hdu.header, *MODULE_CARDS)
    if card is not None:
        return (found[1] if found else name), int(card)
    if found:
        return found[1], int(found[2][-2:])
    return name, int(hdu.header.get("EXTVER", 1)) if by_version else None


def _kinds(tables: Sequence[_Table]) -> dict[str, dict[int | None, np.ndarray]]:
    """Kind -> module -> intervals. Tables of one module are united, those of none are a kind each."""
    kinds: dict[str, dict[int | None, np.ndarray]] = {}
    for table in tables:
        if table.module is None:
            kinds[f"{table.kind}, {len(kinds)}"] = {None: table.intervals}
        else:
            by_module = kinds.setdefault(table.kind, {})
            both = [by_module[table.module]] if table.module in by_module else []
            by_module[table.module] = merged(np.concatenate([*both, table.intervals]))
    return kinds


def _of_module(by_module: dict[int | None, np.ndarray], module: int | None) -> np.ndarray:
    """What a kind says of a module: where it has no table for that, what it says of any."""
    for one in (module, None):
        if one in by_module:
            return by_module[one]
    return merged(np.concatenate(list(by_module.values())))


def _told(kinds: dict[str, dict[int | None, np.ndarray]]) -> str:
    names = []
    for kind, by_module in kinds.items():
        name = kind.split(", ")[0]
        several = len(by_module) > 1
        names.append(f"{name} (union of {len(by_module)} modules)" if several else name)
    return f"good time of {' and '.join(names)}"


def merged(intervals: np.ndarray) -> np.ndarray:
    """[n, 2] in order, those that touch made one."""
    intervals = intervals[intervals[:, 1] > intervals[:, 0]]  # drops NaN as well
    intervals = intervals[np.argsort(intervals[:, 0], kind="stable")]
    reached = np.maximum.accumulate(intervals[:, 1])
    first = np.flatnonzero(np.r_[True, intervals[1:, 0] > reached[:-1]][: len(intervals)])
    return np.stack([intervals[first, 0], reached[np.r_[first[1:] - 1, len(intervals) - 1][: len(first)]]], 1)


def intersection(parts: Sequence[np.ndarray]) -> np.ndarray:
    """[n, 2], where all of some merged intervals agree."""
    edges = np.concatenate(parts)
    change = np.repeat([1, -1], len(edges))
    edges = edges.T.ravel()
    order = np.argsort(edges, kind="stable")
    edges, depth = edges[order], np.cumsum(change[order])[:-1]  # of how many parts, after each edge
    return np.stack([edges[:-1], edges[1:]], 1)[(depth == len(parts)) & (np.diff(edges) > 0)]


def without(intervals: np.ndarray, bad: Sequence[np.ndarray]) -> np.ndarray:
    """[n, 2], what is left of merged intervals outside all the bad ones."""
    for part in bad:
        left = np.r_[-np.inf, part[:, 1]]
        right = np.r_[part[:, 0], np.inf]
        intervals = intersection([intervals, np.stack([left, right], 1)])
    return intervals


def good_seconds(starts: np.ndarray, stops: np.ndarray, good: np.ndarray) -> np.ndarray:
    """[T] of the good time in each bin; good [n, 2] in order."""
    if not len(good):
        return np.zeros(len(starts))
    so_far = np.concatenate([[0], np.cumsum(good[:, 1] - good[:, 0])])
    steps = np.repeat(so_far, 2)[1:-1]
    edges = good.ravel()
    return np.interp(stops, edges, steps) - np.interp(starts, edges, steps)


def is_inside(time: np.ndarray, good: np.ndarray) -> np.ndarray:
    """[T] bool, the times within good intervals [n, 2], both ends included."""
    if not len(good):
        return np.zeros(len(time), dtype=bool)
    interval = np.searchsorted(good[:, 0], time, side="right") - 1
    return (interval >= 0) & (time <= good[interval, 1])


def span(intervals: np.ndarray) -> str:
    """ "6.10e8 to 6.11e8 s", for a message."""
    return f"{intervals.min():.10g} to {intervals.max():.10g} s"
