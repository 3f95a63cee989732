"""Which column of a table is what: by `--columns`, by the survey, by the names in use."""

from typing import NamedTuple

import numpy as np

from data.cutouts.fits import BadFile
from data.light_curves.curve import Reading, columns_given
from data.light_curves.tables import surveys
from data.light_curves.tables.cells import Cells, codes
from data.light_curves.tables.surveys import SURVEYS, Survey, plain_name

MOST_BANDS = 256
FEWEST_ROWS = 5  # with as many values as rows an id numbers these


class Chosen(NamedTuple):
    """Numbers of columns, None for what is not there."""

    time: int
    value: int
    is_magnitude: bool
    error: int | None
    id: int | None
    band: int | None
    zero_point: int | None
    sign: int | None
    limit: int | None
    is_limit: int | None
    survey: Survey | None
    plain: list[str]  # the names of all columns, as surveys.py writes them


def choose_columns(cells: Cells, reading: Reading) -> Chosen:
    """Raises: BadFile where there is no time or no value, or a name
    is given that is not there.
    """
    plain = [plain_name(name) for name in cells.names]
    there = set(plain)
    given = {ours: _given(cells.names, plain, theirs) for ours, theirs in columns_given(reading).items()}
    survey = next((survey for survey in SURVEYS if survey.known_by <= there), None)
    known = {ours: theirs for ours, theirs in (survey.columns if survey else {}).items() if theirs in there}

    def pick(ours: str, names) -> int | None:
        if ours in given:
            return given[ours]
        wanted = [known[ours]] if ours in known else [name for name in names if name in there]
        return _place(cells.names, plain, wanted[0]) if wanted else None

    time = pick("time", surveys.TIME)
    if time is not None and "time" not in given:
        time = _filled_time(cells, plain, time)
    value, is_magnitude = _value(cells, plain, given, known)
    if time is None or value is None:
        shown = " ".join(cells.names)[:80]
        if plain[:1] == ["1"]:
            raise BadFile(
                f"expected a header line: there are {len(plain)} columns without names; say which is which, "
                "as --columns time=1 mag=2 (or rate=2) error=3"
            )
        raise BadFile(
            "expected columns time (days), and mag and magerr or flux and fluxerr: there are "
            f"{shown}; --columns time=... mag=... (or rate=...) error=... says which are they"
        )
    chosen = Chosen(
        time,
        value,
        is_magnitude,
        _error(cells.names, plain, given, known, value, is_magnitude),
        _object(cells, plain, pick, given),
        pick("band", surveys.BAND),
        pick("zero_point", surveys.ZERO_POINT),
        pick("sign", surveys.SIGN),
        pick("limit", surveys.LIMIT),
        pick("is_limit", surveys.IS_LIMIT),
        survey,
        plain,
    )
    chosen = _truths_apart(cells, chosen)
    if chosen.band is None and "band" not in given:
        chosen = chosen._replace(band=_unknown_band(cells, plain, chosen))
    _name_the_rest(cells, chosen, given)
    return chosen


def _filled_time(cells: Cells, plain: list[str], first: int) -> int:
    """The first column of times that is not empty: AAVSO has HJD, which few fill in, beside JD."""
    for place in (first, *(_place(cells.names, plain, name) for name in surveys.TIME if name in plain)):
        if codes(cells.columns[place])[1]:
            if place != first:
                cells.told.of_table(f"column {cells.names[first]} is empty")
            return place
    return first


def _truths_apart(cells: Cells, chosen: Chosen) -> Chosen:
    """A column called limit may say whether a row is one, and one called upper_limit how bright it is."""
    for ours, other in (("limit", "is_limit"), ("is_limit", "limit")):
        place = getattr(chosen, ours)
        if place is None:
            continue
        _, values = codes(cells.columns[place])
        truths = {value.lower() for value in values} <= {*surveys.TRUTHS, *surveys.FALSEHOODS}
        if truths != (ours == "is_limit"):
            return chosen._replace(**{ours: None, other: place})
    return chosen


def _place(names: list[str], plain: list[str], name: str) -> int:
    places = [number for number, other in enumerate(plain) if other == name]
    if len(places) > 1:
        raise BadFile(f"column {names[places[0]]!r} is there {len(places)} times")
    return places[0]


def _given(names: list[str], plain: list[str], name: str) -> int | None:
    """The column that `--columns` names, as the file spells it or in any case."""
    if name.lower() == "none":
        return None
    exact = [number for number, other in enumerate(names) if other == name]
    if len(exact) == 1:
        return exact[0]
    if plain_name(name) in plain:
        return _place(names, plain, plain_name(name))
    raise BadFile(f"no column {name!r}, which --columns names: there are {' '.join(names)[:80]}")


def _value(cells: Cells, plain: list[str], given: dict, known: dict[str, str]) -> tuple[int | None, bool]:
    """(column of the magnitude or flux, whether it is a magnitude): one that has an error before one that
    has none, magnitudes before fluxes.
    """
    if given.get("mag") is not None:
        return given["mag"], True
    if given.get("flux") is not None:
        return given["flux"], "mag" in plain[given["flux"]]
    for ours in ("mag", "flux"):
        if ours in known:
            return _place(cells.names, plain, known[ours]), ours == "mag"
    there = [(name, True) for name in surveys.MAGNITUDE if name in plain]
    there += [(name, False) for name in surveys.FLUX if name in plain]
    for name, is_magnitude in there:
        place = _place(cells.names, plain, name)
        if "error" in given or _error(cells.names, plain, given, known, place, is_magnitude) is not None:
            return place, is_magnitude
    return (_place(cells.names, plain, there[0][0]), there[0][1]) if there else (None, False)


def _error(
    names: list[str], plain: list[str], given: dict, known: dict[str, str], value: int, is_magnitude: bool
) -> int | None:
    if "error" in given:
        return given["error"]
    own = [known["error"]] if "error" in known else []
    own += [pattern.format(plain[value]) for pattern in surveys.ERRORS]
    other = surveys.OF_MAGNITUDE if is_magnitude else surveys.OF_FLUX
    for name in (*own, *other, *surveys.OF_ANY):
        if name in plain and plain.index(name) != value:
            return _place(names, plain, name)
    return None


def _object(cells: Cells, plain: list[str], pick, given: dict) -> int | None:
    """The column of the object: an id that numbers the rows is none."""
    if "id" in given:
        return given["id"]
    first = pick("id", surveys.OBJECT)
    places = [] if first is None else [first]
    places += [_place(cells.names, plain, name) for name in surveys.OBJECT if name in plain]
    for place in dict.fromkeys(places):
        _, values = codes(cells.columns[place])
        rows = len(cells.columns[place])
        if rows < FEWEST_ROWS or len(values) < rows:
            return place
        cells.told.of_table(f"column {cells.names[place]} numbers the rows: not taken for the object")
    return None


def _unknown_band(cells: Cells, plain: list[str], chosen: Chosen) -> int | None:
    """A column that is called like one of bands, and has a few values that repeat."""
    for place, name in enumerate(plain):
        if place in _used(chosen) or not surveys.COULD_BE_BAND.fullmatch(name):
            continue
        of_row, values = codes(cells.columns[place])
        if 1 < len(values) <= min(MOST_BANDS, max(2, len(of_row) // 2)):
            cells.told.of_table(f"column {cells.names[place]} taken for the band")
            return place
    return None


def _used(chosen: Chosen) -> set[int]:
    return {place for place in chosen if type(place) is int}


def _name_the_rest(cells: Cells, chosen: Chosen, given: dict) -> None:
    """Say which columns could be an object or a band, or a second measurement, and are not used."""
    used = _used(chosen)
    idle = []
    for place, name in enumerate(chosen.plain):
        is_object = surveys.COULD_BE_ID.fullmatch(name) and not surveys.NO_OBJECT.fullmatch(name)
        is_band = surveys.COULD_BE_BAND.fullmatch(name)
        if place in used or not (is_object or is_band or name in surveys.OBJECT or name in surveys.BAND):
            continue
        of_row, values = codes(cells.columns[place])
        if len(values) > 1 and (len(of_row) < FEWEST_ROWS or len(values) < len(of_row)):
            idle.append(cells.names[place])
    if idle:
        cells.told.of_table(f"columns that could be an id or a band and are not used: {' '.join(idle)}")
    times = [cells.names[place] for place, name in enumerate(chosen.plain) if name in surveys.TIME]
    if len(times) > 1 and "time" not in given:
        others = " ".join(name for name in times if name != cells.names[chosen.time])
        cells.told.of_table(f"{cells.names[chosen.time]} is the time, not {others}")
    measured = {*surveys.FLUX, *surveys.MAGNITUDE}
    other = [
        cells.names[place]
        for place, name in enumerate(chosen.plain)
        if name in measured and place not in (chosen.value, chosen.error)
    ]
    if other and not given.keys() & {"mag", "flux"}:
        cells.told.of_table(f"{cells.names[chosen.value]} is used, not {' '.join(other)}")


def levels_of(values: np.ndarray, of_row: np.ndarray, count: int) -> np.ndarray:
    """[count] medians of the values of each group, NaN for a group without any."""
    return np.array(
        [np.median(values[of_row == group]) if (of_row == group).any() else np.nan for group in range(count)]
    )
