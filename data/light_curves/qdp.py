"""Light curves in QDP's text: Swift's XRT products, with a separator NO NO NO between groups of rows.

Rows of one instrument in several modes (WT, PC) are one curve, groups of hard and soft data two bands; a
hardness ratio is no rate and is left out, as are PC data of a doubtful position where there are others.
"""

import gzip
import os
import re
import zlib
from typing import NamedTuple

import numpy as np

from data.cutouts.fits import MACHINE_TROUBLE, BadFile, first_line
from data.light_curves.bands import band_place
from data.light_curves.curve import DAY, Found, Note, Reading, found_rates
from data.light_curves.file_names import source_of

LIMIT_SIGMA = 3.0  # of an upper limit; Evans et al. 2009, MNRAS 397, 1177, sec. 3
# keV, of XRT's products, and of their soft and hard halves unless others were asked for; ibidem
XRT_BAND, XRT_HALVES = "0.3-10", {"soft": "0.3-1.5", "hard": "1.5-10"}
LARGEST = 2**28  # bytes
# what a comment has to say to be one on the rows that follow
TELLING = re.compile(r"\b(hard|soft|WT|PC)\b|ratio|upper ?limit|incbad|\b(bat|xrt(pc|wt))", re.IGNORECASE)
IN_DAYS = re.compile(r"(MJD|[BH]?JD)\b|time\s*[\[(]\s*(d|days?|MJD)\b", re.IGNORECASE)
CONTINUED = re.compile(r"^([^!\n]*\s)-[ \t]*\n", re.MULTILINE)


class Group(NamedTuple):
    """Rows between two separators."""

    about: str  # the last telling comment before them
    rows: list[list[float]]


class Part(NamedTuple):
    """A group as rates."""

    band: str  # "soft", "hard", "bat", else ""
    time: np.ndarray  # [T] of the middle, in the file's unit
    width: np.ndarray  # [T]
    rates: np.ndarray  # [3, T] rate, lower error, upper error


class Errors(NamedTuple):
    """Which columns are followed by their errors: READ SERR (one, symmetric), READ TERR (plus and minus)."""

    symmetric: frozenset[int]
    two_sided: frozenset[int]

    def place(self, variable: int) -> int:
        """The column of a variable, counted from 1, behind the errors of those before."""
        before = range(1, variable)
        return sum(1 + (n in self.symmetric) + 2 * (n in self.two_sided) for n in before)

    def up_and_down(self, rows: np.ndarray, variable: int) -> tuple[np.ndarray, np.ndarray]:
        """[T] each, not negative; zero where the file has no errors of it."""
        place = self.place(variable)
        if variable in self.two_sided:
            return np.abs(rows[:, place + 1]), np.abs(rows[:, place + 2])
        error = np.abs(rows[:, place + 1]) if variable in self.symmetric else np.zeros(len(rows))
        return error, error


def from_qdp(path: str | os.PathLike, reading: Reading) -> Found:
    """The curve of one file. Raises: BadFile."""
    groups, errors, comments = parse_qdp(_text(path))
    if 2 not in errors.symmetric | errors.two_sided:
        raise BadFile("no errors of the second column (READ SERR 2 or READ TERR 2): they are not known")
    in_days = any(IN_DAYS.match(comment) for comment in comments)
    unit = "days, by its comments" if in_days else "s"
    notes = [Note(f"QDP: first column taken as the time, in {unit}, second as the rate")]
    parts = [_part(group, errors, groups, notes) for group in groups]
    parts = [part for part in parts if part is not None]
    if not parts:
        raise BadFile("no point left: no group of rows is a rate")
    bands = _bands({part.band for part in parts}, comments, notes)
    scale = DAY if in_days else 1.0
    names = tuple(bands.values())
    times = np.concatenate([part.time for part in parts]) * scale
    widths = np.concatenate([part.width for part in parts]) * scale
    channels = np.concatenate([np.full(len(part.time), list(bands).index(part.band)) for part in parts])
    fields = np.full((3, len(times), len(names)), np.nan)
    fields[:, np.arange(len(times)), channels] = np.concatenate([part.rates for part in parts], axis=1)
    times, widths, fields = _joined(times, widths, fields)
    return found_rates(source_of(path), names, times, widths, *fields, np.ones((1, 1), dtype=bool), notes)


def parse_qdp(text: str) -> tuple[list[Group], Errors, list[str]]:
    """The groups of rows of numbers, NO being none; which columns have errors; all comments.

    Raises: BadFile for a row that is not of numbers.
    """
    groups = [Group("", [])]
    comments = []
    symmetric: set[int] = set()
    two_sided: set[int] = set()
    for number, line in enumerate(CONTINUED.sub(r"\1", text).splitlines(), 1):
        words = line.split("!")[0].split()
        comment = line.partition("!")[2].strip()
        comments += [comment] if comment else []
        if TELLING.search(comment):
            if groups[-1].rows and not words:
                groups.append(Group("", []))
            groups[-1] = Group(comment, groups[-1].rows)
        if not words:
            continue
        if words[0].upper() == "READ" and len(words) > 1:
            kind = symmetric if words[1].upper() == "SERR" else two_sided
            kind.update(int(word) for word in words[2:] if word.isdigit())
        elif all(word.upper() == "NO" for word in words):
            if groups[-1].rows:
                groups.append(Group("", []))
        elif re.match(r"[-+.\d]|NO$|NAN$", words[0], re.IGNORECASE):
            try:
                groups[-1].rows.append([np.nan if word.upper() == "NO" else float(word) for word in words])
            except ValueError:
                raise BadFile(f"row {number} is not of numbers: {line.strip()[:60]!r}") from None
        # all else is a command to the plotting program (LOG X ON, LAB Y ...)
    groups = [group for group in groups if group.rows]
    if not groups:
        raise BadFile("no rows of numbers")
    return groups, Errors(frozenset(symmetric), frozenset(two_sided)), comments


def _part(group: Group, errors: Errors, groups: list[Group], notes: list[Note]) -> Part | None:
    """What a group says of the rate, None if nothing."""
    about = group.about.lower()
    total = sum(len(other.rows) for other in groups)
    needed = errors.place(3)
    lengths = sorted({len(row) for row in group.rows})
    if len(lengths) > 1 or lengths[0] < needed:
        raise BadFile(
            f"rows of {' and '.join(map(str, lengths))} columns, expected {needed} or more in each: "
            "time and rate with their errors"
        )
    rows = np.array(group.rows, dtype=np.float64)
    if "ratio" in about:
        notes.append(Note("QDP: rows of a hardness ratio, left out", len(rows), total))
        return None
    if "incbad" in about and any("incbad" not in other.about.lower() for other in groups):
        notes.append(Note("QDP: rows of PC_incbad, left out", len(rows), total))
        return None
    if rows.shape[1] > needed:
        notes.append(Note("QDP: columns behind the rate are not used"))
    later, earlier = errors.up_and_down(rows, 1)
    up, low = errors.up_and_down(rows, 2)
    rate = rows[:, errors.place(2)]
    if re.search("upper ?limit", about):
        text = f"QDP: upper limits, taken as {LIMIT_SIGMA:g} sigma above zero"
        notes.append(Note(text, len(rows), total))
        up, low, rate = rate / LIMIT_SIGMA, 0 * rate, 0 * rate
    found = re.search(r"\b(hard\b|soft\b|bat)", about)
    band = found[1] if found else ""
    return Part(band, rows[:, 0] + (later - earlier) / 2, later + earlier, np.stack([rate, low, up]))


def _joined(
    time: np.ndarray, width: np.ndarray, fields: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of different bands at the same time made one; fields [3, T, C], NaN where there is nothing."""
    moments, row = np.unique(time, return_inverse=True)
    known, channel = np.nonzero(np.isfinite(fields[0]))
    places = np.stack([row[known], channel])
    if fields.shape[2] == 1 or len(np.unique(places, axis=1).T) < len(known):
        return time, width, fields  # the same band twice at one time: said by whoever sorts them
    joined = np.full((3, len(moments), fields.shape[2]), np.nan)
    joined[:, places[0], places[1]] = fields[:, known, channel]
    widths = np.zeros(len(moments))
    np.maximum.at(widths, row, width)
    return moments, widths, joined


def _bands(kinds: set[str], comments: list[str], notes: list[Note]) -> dict[str, str]:
    """The name of the band of each kind of group, in order."""
    if kinds == {""}:
        if not any(re.search(r"\b(XRT|Swift|WT|PC)\b", comment) for comment in comments):
            return {"": "1"}
        notes.append(Note(f"QDP: band of Swift's XRT, {XRT_BAND} keV, by its comments"))
        return {"": XRT_BAND}
    if kinds & XRT_HALVES.keys():
        halves = f"soft {XRT_HALVES['soft']}, hard {XRT_HALVES['hard']} keV"
        notes.append(Note(f"QDP: soft and hard taken as those of Swift's XRT: {halves}"))
    names = XRT_HALVES | {"": XRT_BAND, "bat": "BAT"}
    return {kind: names[kind] for kind in sorted(kinds, key=lambda kind: band_place(names[kind]))}


def _text(path: str | os.PathLike) -> str:
    try:
        if os.path.exists(path) and not os.path.isfile(path):
            raise BadFile("not a regular file")
        packed = os.fspath(path).lower().endswith(".gz")
        with gzip.open(path) if packed else open(path, "rb") as file:
            content = file.read(LARGEST + 1)
    except (OSError, EOFError, zlib.error) as error:
        if isinstance(error, OSError) and error.errno in MACHINE_TROUBLE:
            raise
        raise BadFile(f"cannot be read: {first_line(error)}") from error
    if len(content) > LARGEST:
        raise BadFile(f"more than {LARGEST} bytes: too large for its kind")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise BadFile("not a text file") from None
