"""The table of what is known of each object besides its pixels:
fields with units and ranges, checks, and matches on the sky.

One row an object. A missing number is NaN, a missing text is "". A label has a source ("obs:castles",
"weak:galaxy_zoo") and a confidence.
"""

import re
import warnings
from difflib import get_close_matches
from typing import NamedTuple

import numpy as np
import pandas as pd
from astropy import units
from astropy.coordinates import SkyCoord
from astropy.time import Time

from utils.mistake import Mistake

ANY = (-np.inf, np.inf)
POSITIVE = (np.nextafter(0, 1), np.inf)
# a text of these is one band a letter; "VIS", "Ks" and "F814W" are names
LETTERS = re.compile(r"[ugrizyYZUBVRIJHK]+")
BAND = r"[A-Za-z0-9]+"
COLUMNS = ["object", "field", "value", "problem"]


class Field(NamedTuple):
    name: str
    unit: str
    type: type  # str or float
    possible: tuple[float, float]  # outside, inclusive, the value contradicts its own definition
    # outside, the value is suspect: a placeholder such as 99, a wrong unit, a failed fit
    expected: tuple[float, float]
    per_band: bool  # the column is name_<band>
    meaning: str


FIELDS = (
    Field(
        "object",
        "",
        str,
        ANY,
        ANY,
        False,
        "id, unique in its catalogue; the same as in the index of the store",
    ),
    Field("source_catalog", "", str, ANY, ANY, False, "catalogue that the object was taken from"),
    Field(
        "instrument", "", str, ANY, ANY, False, "camera, with its telescope where the name alone is not clear"
    ),
    Field(
        "bands",
        "",
        str,
        ANY,
        ANY,
        False,
        "bands of its images: grizy, or names separated by spaces: F555W F814W",
    ),
    Field("ra", "deg", float, (0, 360), (0, 360), False, "right ascension, ICRS"),
    Field("dec", "deg", float, (-90, 90), (-90, 90), False, "declination, ICRS"),
    Field(
        "redshift",
        "",
        float,
        (-1, np.inf),
        (-0.01, 15),
        False,
        "redshift of the object, of the lens where it is one",
    ),
    Field(
        "seeing",
        "arcsec",
        float,
        POSITIVE,
        (0.01, 5),
        False,
        "full width at half maximum of the point spread function",
    ),
    Field("pixel_scale", "arcsec", float, POSITIVE, (0.005, 10), False, "side of a pixel of the images"),
    Field("magnitude", "mag", float, ANY, (0, 35), True, "total magnitude, AB"),
    Field("snr", "", float, ANY, (-10, 1e6), True, "flux over its error, as the catalogue gives it"),
    Field("sersic_index", "", float, POSITIVE, (0.05, 20), False, "Sersic index of the light profile"),
    Field("half_light_radius", "arcsec", float, POSITIVE, (0.005, 120), False, "radius of half of the light"),
    Field("ellipticity", "", float, (0, 1), (0, 1), False, "1 - B/A"),
    Field(
        "completeness",
        "",
        float,
        (0, 1),
        (0, 1),
        False,
        "fraction of such objects that the catalogue contains",
    ),
    Field("label_source", "", str, ANY, ANY, False, "who says that it is a lens or none: kind:catalogue"),
    Field("label_confidence", "", float, (0, 1), (0, 1), False, "probability that the label is right"),
    Field(
        "group",
        "",
        str,
        ANY,
        ANY,
        False,
        "objects of one group are in one split: copies, overlaps, one galaxy under several ids",
    ),
    Field("pmra", "mas/yr", float, ANY, (-15000, 15000), False, "proper motion in RA times cos(Dec)"),
    Field("pmdec", "mas/yr", float, ANY, (-15000, 15000), False, "proper motion in Dec"),
    Field("epoch", "yr", float, ANY, (1850, 2150), False, "Julian year of ra and dec"),
)
# what tables write for a number that nobody knows
PLACEHOLDERS = (-99.0, -999.0, -9999.0, -99.9, -99.99, -999.9, 99.0, 999.0, 9999.0, 99.9, 99.99, 999.9)


def field_of(column: str) -> Field | None:
    """The field that a column holds, "magnitude" for "magnitude_g";
    None for a column of a catalogue's own.
    """
    for field in FIELDS:
        if (
            column == field.name
            and not field.per_band
            or field.per_band
            and re.fullmatch(f"{field.name}_{BAND}", column)
        ):
            return field
    return None


def band_names(bands: str) -> list[str]:
    """The bands of an object: "grizy" has five, "F814W" one, "F555W F814W" two."""
    return list(bands) if LETTERS.fullmatch(bands) else re.findall(BAND, bands)


def is_placeholder(values: np.ndarray, field: Field | None) -> np.ndarray:
    """[N] bool: the numbers -99, 99, 999 and their like, where they can be no value of this column.

    Of a field: outside the range that is expected of it (an RA of 99 degrees is one). Of a column of a
    catalogue's own (None): where no other number there is half as large.
    """
    values = np.asarray(values, dtype=np.float64)
    found = np.isin(values, PLACEHOLDERS)
    if not found.any():
        return found
    if field:
        low, high = field.expected
        return found & ~((values >= low) & (values <= high))
    others = np.abs(values[np.isfinite(values) & ~found])
    return found & (np.abs(values) > 2 * others.max()) if len(others) else np.zeros(len(values), dtype=bool)


def placeholder_lines(counts: dict[str, np.ndarray]) -> list[str]:
    """One line for the log, of the placeholders that each column had."""
    each = []
    for name, values in counts.items():
        if len(values):
            kinds = ", ".join(f"{value:g}" for value in np.unique(values)[:3])
            each.append(f"{name} {len(values):,} ({kinds})")
    return [f"taken for missing: {'; '.join(each)}"] if each else []


def typed_metadata(frame: pd.DataFrame) -> pd.DataFrame:
    """A table of objects with every field as a column of its type:
    float64 or str, then the catalogue's own columns.

    frame: any columns of FIELDS, at least object; ids may be integers. magnitude_<b> and snr_<b> are there
        for each band that `bands` or another column of the two names.
    Raises: Mistake for a value that is no number where one is expected, or no text, with its column and row.
    """
    if "object" not in frame:
        raise Mistake(
            f"a table of objects has the columns {', '.join(map(str, frame.columns)) or 'none'}: expected "
            "also object, their id"
        )
    if twice := sorted(set(map(str, frame.columns[frame.columns.duplicated()]))):
        raise Mistake(f"column {twice[0]!r} is there twice: expected each column once")
    columns = {}
    bands = _bands(frame)
    for field in FIELDS:
        for name in [f"{field.name}_{band}" for band in bands] if field.per_band else [field.name]:
            convert, missing = (_texts, "") if field.type is str else (_numbers, np.nan)
            columns[name] = (
                convert(name, frame[name])
                if name in frame
                else pd.Series([missing] * len(frame), dtype=field.type)
            )
    for name in frame.columns.difference(list(columns), sort=False):
        own = frame[name]
        # numbers of a FITS table are big-endian, which pandas cannot group or sort
        native = (
            own.dtype.newbyteorder("=")
            if isinstance(own.dtype, np.dtype) and own.dtype.kind in "iufb"
            else own.dtype
        )
        columns[name] = (
            _texts(name, own)
            if pd.api.types.is_string_dtype(own.dtype) or own.dtype == object
            else own.astype(native)
        )
    return pd.DataFrame({name: column.array for name, column in columns.items()})


def validate_metadata(table: pd.DataFrame) -> pd.DataFrame:
    """What is wrong with a table of objects.

    Returns: one row a problem: object, field (the column), value (as text), problem, which begins with its
        kind: missing, not finite, impossible, out of range, duplicated id,
            duplicated position (nearest other object within 1 arcsec).
    """
    table = typed_metadata(table)
    found = []

    def report(rows: np.ndarray, field: str, problem: str | list[str]) -> None:
        if len(rows):
            values = [str(value) for value in table[field].iloc[rows].tolist()]
            found.append(
                pd.DataFrame(
                    {
                        "object": table["object"].to_numpy()[rows],
                        "field": field,
                        "value": values,
                        "problem": problem,
                    }
                )
            )

    ids = table["object"]
    report(np.flatnonzero(ids == ""), "object", "missing: every object needs an id")
    report(np.flatnonzero(ids.duplicated(keep=False) & (ids != "")), "object", "duplicated id")
    for column in table.columns:
        field = field_of(column)
        if field is None or field.type is str:
            continue
        values = table[column].to_numpy()
        finite = np.isfinite(values)
        (lowest, highest), (low, high) = field.possible, field.expected
        possible = (values >= lowest) & (values <= highest)
        report(np.flatnonzero(np.isinf(values)), column, "not finite")
        report(
            np.flatnonzero(finite & ~possible),
            column,
            f"impossible: must be {_interval(field.possible)} {field.unit}".rstrip(),
        )
        unlikely = finite & possible & ~((values >= low) & (values <= high))
        report(
            np.flatnonzero(unlikely),
            column,
            f"out of range: expected {_interval(field.expected)} {field.unit}".rstrip(),
        )
    for given, absent in (("ra", "dec"), ("dec", "ra")):
        report(
            np.flatnonzero(table[given].notna() & table[absent].isna()),
            given,
            f"missing: {given} without {absent}",
        )
    report(
        np.flatnonzero(table["label_confidence"].notna() & (table["label_source"] == "")),
        "label_confidence",
        "missing: a confidence without a label_source",
    )
    rows, others, separation = _neighbours(table)
    report(
        rows,
        "ra",
        [
            f"duplicated position: {distance:.3f} arcsec from {other}"
            for distance, other in zip(separation, ids.iloc[others])
        ],
    )
    return (
        pd.concat(found, ignore_index=True)
        if found
        else pd.DataFrame({name: pd.Series(dtype=str) for name in COLUMNS})
    )


def match_positions(left: pd.DataFrame, right: pd.DataFrame, radius: float = 1.0) -> pd.DataFrame:
    """The objects of one catalogue that another has too: for each of the left its nearest of the right.

    left, right: tables with object, ra, dec in deg, as `at_one_epoch` gives them where things move. radius:
        arcsec, inclusive.
    Returns: object_left, object_right, separation in arcsec; only those within the radius,
        in the order of the left.
    Raises: Mistake for a radius that is not positive.
    """
    if not radius > 0:
        raise Mistake(f"radius {radius}: expected a positive number of arcsec")
    (rows, here), (others, there) = _positions(left), _positions(right)
    if len(rows) == 0 or len(others) == 0:
        return pd.DataFrame(
            {
                "object_left": pd.Series(dtype=str),
                "object_right": pd.Series(dtype=str),
                "separation": pd.Series(dtype=float),
            }
        )
    first, _ = _distinct(there)  # a tree of many equal points would be searched point by point
    nearest, separation, _ = here.match_to_catalog_sky(there[first])
    near = separation.arcsec <= radius
    return pd.DataFrame(
        {
            "object_left": left["object"].to_numpy()[rows[near]],
            "object_right": right["object"].to_numpy()[others[first[nearest[near]]]],
            "separation": separation.arcsec[near],
        }
    )


def at_one_epoch(
    left: pd.DataFrame, right: pd.DataFrame, names: tuple[str, str] = ("left", "right")
) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """Two catalogues with the places that their objects had at one time, and lines for the log.

    left, right: as `typed_metadata` gives them; pmra (times cos Dec) and pmdec in mas/yr and epoch in years
        are used where an object has all three. The time is the median epoch of the catalogue that has no
        motions, else of the right one: there the other is moved to. names: of both, for the lines.
    """
    tables = (left, right)
    years = field_of("epoch").expected
    dated = [table["epoch"].between(*years).to_numpy() for table in tables]
    with_motion = [table[["ra", "dec", "pmra", "pmdec"]].notna().all(axis=1).to_numpy() for table in tables]
    moving = [motion & year for motion, year in zip(with_motion, dated)]
    lines = []
    for table, motion, year, moves, name in zip(tables, with_motion, dated, moving, names):
        if wrong := int((table["epoch"].notna() & ~year).sum()):
            worst = table["epoch"][table["epoch"].notna() & ~year].iloc[0]
            lines.append(f"{name}: epochs that are no year ({worst:g}), not used: {wrong:,}")
        if lost := int((motion & ~moves).sum()):
            lines.append(f"{name}: pmra and pmdec of {lost:,} objects not used: their epoch is not known")
        if year.any() and not moves.any():
            lines.append(
                f"{name}: epoch {table['epoch'][year].median():g} of {int(year.sum()):,} objects, without "
                "proper motions: places taken as they are"
            )
    if not (moving[0].any() or moving[1].any()):
        return left, right, lines
    target = 1 if not moving[1].any() or moving[0].any() else 0
    if not dated[target].any():
        lines.append(
            f"{names[1 - target]}: pmra, pmdec and epoch not used: {names[target]} does not tell its epoch "
            "(a column `epoch`, in years)"
        )
        return left, right, lines
    year = float(tables[target]["epoch"][dated[target]].median())
    moved = []
    for table, moves, name in zip(tables, moving, names):
        if moves.any():
            table = _moved_to(table, np.flatnonzero(moves), year)
            lines.append(f"{name}: {int(moves.sum()):,} of {len(table):,} objects moved to epoch {year:g}")
        moved.append(table)
    return moved[0], moved[1], lines


def _moved_to(table: pd.DataFrame, rows: np.ndarray, year: float) -> pd.DataFrame:
    some = table.iloc[rows]
    before = SkyCoord(
        some["ra"].to_numpy(),
        some["dec"].to_numpy(),
        unit="deg",
        pm_ra_cosdec=some["pmra"].to_numpy() * units.mas / units.yr,
        pm_dec=some["pmdec"].to_numpy() * units.mas / units.yr,
        obstime=Time(some["epoch"].to_numpy(), format="jyear"),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that no distance is known: at these separations none is needed
        after = before.apply_space_motion(Time(np.full(len(rows), year), format="jyear"))
    table = table.copy()
    table.loc[table.index[rows], "ra"] = after.ra.deg
    table.loc[table.index[rows], "dec"] = after.dec.deg
    return table


def metadata_summary(table: pd.DataFrame, problems: pd.DataFrame) -> list[str]:
    """Lines for the log: how many objects, of which catalogues, what is known of them,
    and the problems of each kind with the first one.
    """
    table = typed_metadata(table)
    catalogues = ", ".join(
        f"{name or 'no catalogue'} {count:,}"
        for name, count in table["source_catalog"].value_counts().items()
    )
    labels = ", ".join(
        f"{name} {count:,}" for name, count in table["label_source"].value_counts().items() if name
    )
    lines = [
        f"{len(table):,} objects"
        + (f" ({catalogues})" if catalogues else "")
        + f"; labels: {labels or 'none'}"
    ]
    for column in table.columns:
        field = field_of(column)
        if (
            field
            and field.type is float
            and len(known := table[column].to_numpy()[np.isfinite(table[column])])
        ):
            share = f"{len(known) / len(table):.1%}"
            lines.append(
                f"  {column}: known of {share}, {known.min():.5g} to {known.max():.5g}, median "
                f"{np.median(known):.5g} {field.unit}".rstrip()
            )
    own = sum(field_of(column) is None for column in table.columns)
    lines += [f"  {own} further columns of the catalogue"] if own else []
    lines.append(f"{len(problems):,} problems" if len(problems) else "no problems found")
    for (field, kind), rows in problems.groupby(
        ["field", problems["problem"].str.split(":").str[0]], sort=False
    ):
        first = rows.iloc[0]
        lines.append(
            f"  {kind}, {field}: {len(rows):,}, the first {first['object']!r} with {first['value']} "
            f"({first['problem']})"
        )
    return lines


def metadata_arrays(table: pd.DataFrame, columns: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Columns as a network takes them: (values [N, M] float32 in the units of the fields, 0 where missing;
    present [N, M] bool).

    Raises: Mistake for a column that is not there or holds text.
    """
    numbers = [name for name in table.columns if pd.api.types.is_numeric_dtype(table[name].dtype)]
    values = np.empty((len(table), len(columns)), dtype=np.float32)
    for number, name in enumerate(columns):
        if name not in numbers:
            near = get_close_matches(name, numbers, 1)
            why = (
                "holds text"
                if name in table
                else "is not there" + (f", did you mean {near[0]!r}?" if near else "")
            )
            raise Mistake(f"metadata column {name!r} {why}: expected one of {', '.join(numbers)}")
        with np.errstate(over="ignore"):
            values[:, number] = table[name].to_numpy(dtype=np.float64, na_value=np.nan)
    present = np.isfinite(values)
    values[~present] = 0
    return values, present


def _bands(frame: pd.DataFrame) -> list[str]:
    """In the order in which `bands` names them, then those that only a column names."""
    texts = _texts("bands", frame["bands"]).unique().tolist() if "bands" in frame else []
    named = [band for text in texts for band in band_names(text)]
    per_band = "|".join(field.name for field in FIELDS if field.per_band)
    found = [re.fullmatch(f"(?:{per_band})_({BAND})", str(column)) for column in frame.columns]
    return list(dict.fromkeys(named + [match[1] for match in found if match]))


def _texts(name: str, column: pd.Series) -> pd.Series:
    if isinstance(column.dtype, pd.StringDtype):
        return column.fillna("").astype(str)
    texts = []
    for row, (value, missing) in enumerate(zip(column.tolist(), column.isna().tolist())):
        try:
            texts.append("" if missing else _text(value))
        except ValueError as error:
            raise Mistake(
                f"column {name!r} holds {value!r:.80} in row {row}: expected a text, {error}"
            ) from error
    return pd.Series(texts, dtype=str)


def _text(value) -> str:
    if isinstance(value, bytes):
        value = value.rstrip(b"\0").decode()
    if isinstance(value, str):
        value.encode()  # half a surrogate pair cannot be stored
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, float) and value.is_integer():
        # a column of ids with a missing one becomes float64 on its way, and long ids lose their last digits
        if abs(value) < 2**53:
            return str(int(value))
        raise ValueError("not a number whose last digits are lost; read the column as text")
    raise ValueError(f"not {type(value).__name__}")


def _numbers(name: str, column: pd.Series) -> pd.Series:
    if column.dtype == object or pd.api.types.is_string_dtype(column.dtype):
        values = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
        given = column.notna() & ~column.astype(str).str.strip().str.lower().isin(["", "nan"])
        wrong = np.flatnonzero(np.isnan(values) & given.to_numpy())
    elif pd.api.types.is_bool_dtype(column.dtype) or column.dtype.kind not in "iuf":
        values = None
        wrong = np.arange(min(1, len(column)))
    else:
        values = column.to_numpy(dtype=np.float64, na_value=np.nan)
        wrong = []
    if len(wrong):
        raise Mistake(
            f"column {name!r} holds {column.iloc[wrong[0]]!r:.80} in row {wrong[0]}: expected a number, or "
            "nothing where it is missing"
        )
    return pd.Series(values, dtype=np.float64)


def _positions(table: pd.DataFrame) -> tuple[np.ndarray, SkyCoord]:
    """The rows that have a position, and it."""
    ra, dec = (table[name].to_numpy(dtype=np.float64) for name in ("ra", "dec"))
    rows = np.flatnonzero(np.isfinite(ra) & (np.abs(dec) <= 90))
    return rows, SkyCoord(ra[rows] % 360, dec[rows], unit="deg")


def _distinct(position: SkyCoord) -> tuple[np.ndarray, np.ndarray]:
    """(the first of each group of exactly equal positions, [N] the number of its group)."""
    group, _ = pd.factorize(pd.MultiIndex.from_arrays([position.ra.deg, position.dec.deg]))
    _, first = np.unique(group, return_index=True)
    return first, group


def _neighbours(table: pd.DataFrame, radius: float = 1.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(rows with another object within the radius, the row of the nearest other, separation), arcsec.

    The nearest alone, not all pairs: a catalogue that puts 300,000 objects at 0, 0 has 10^11 of these.
    """
    rows, position = _positions(table)
    first, group = _distinct(position)
    other, separation = np.full(len(rows), -1), np.full(len(rows), np.inf)
    if len(first) > 1:
        distinct = position[first]
        numbers = np.arange(len(first))
        nearest, distance, _ = distinct.match_to_catalog_sky(distinct, nthneighbor=2)
        itself = nearest == numbers  # of two at no distance either comes first
        if itself.any():
            nearest[itself], distance[itself], _ = distinct[itself].match_to_catalog_sky(
                distinct, nthneighbor=1
            )
        other, separation = first[nearest][group], distance.arcsec[group]
    # of exactly equal ones the first has the second for a neighbour, the others have the first
    order = np.argsort(group, kind="stable")
    again = np.flatnonzero(np.diff(group[order]) == 0) + 1
    equal, leader = order[again], first[group[order[again]]]
    other[leader[::-1]] = equal[::-1]
    other[equal] = leader
    separation[equal] = separation[leader] = 0
    near = separation <= radius
    return rows[near], rows[other[near]], separation[near]


def _interval(limits: tuple[float, float]) -> str:
    low, high = limits
    if limits == POSITIVE:
        return "positive"
    return f"{low:g} to {high:g}" if np.isfinite(high) else f"at least {low:g}"
