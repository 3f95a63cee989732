"""Tables with a column for each band (mag_g magerr_g mag_r ...; Gaia's transits; MAXI's energies) as rows of
one band each.
"""

import os
import re

import numpy as np
import pyarrow as pa

from data.light_curves.bands import RANGE, band_name
from data.light_curves.tables import surveys
from data.light_curves.tables.cells import UNIT_IN_NAME, Cells, numbers
from data.light_curves.tables.surveys import plain_name

BANDS = r"(?:z[gri]|[ugrizyjhkbvrw]|w[1-4]|bp|rp|fuv|nuv|f\d{3,4}[wmnlpx]\d?|i[12]?|ks|ls|vis)"
KINDS = r"(?:psf_?|ap_?|cal_?)?(?:mag|magnitude|flux|mpro)"
BAND_FIRST = re.compile(rf"(?P<band>{BANDS})_?(?:transit_|obs_)?(?P<kind>{KINDS})")
BAND_LAST = re.compile(rf"(?P<kind>{KINDS})_?(?P<band>{BANDS})")
BAND_ALONE = re.compile(rf"(?P<band>{BANDS})(?P<kind>)")
WISE = ("w1", "w2", "w3", "w4")
# of files without a header, by their names: what the columns are
MAXI = ("2-20keV[ph/s/cm2]", "2-4keV[ph/s/cm2]", "4-10keV[ph/s/cm2]", "10-20keV[ph/s/cm2]")
NAMELESS = (
    (re.compile(r"ogle[-_].*", re.IGNORECASE), "OGLE", ("HJD", "mag", "magerr")),
    (
        re.compile(r"j\d{4}[+-]\d{3}_.*_?lc_.*", re.IGNORECASE),
        "MAXI",
        ("MJD", *(name for band in MAXI for name in (band, "err"))),
    ),
)
GAIA = {"g": "G", "bp": "BP", "rp": "RP"}


def named_by_survey(cells: Cells, path: str | os.PathLike) -> Cells:
    """With the names that a survey's columns have, where a file without a header is called as its own."""
    if cells.names != [str(number) for number in range(1, len(cells.names) + 1)]:
        return cells
    for pattern, survey, names in NAMELESS:
        if pattern.fullmatch(os.path.basename(path)) and len(names) == len(cells.names):
            cells.told.of_table(f"no header, columns by the file's name those of {survey}: {' '.join(names)}")
            units = {name: found[2] for name in names if (found := UNIT_IN_NAME.fullmatch(name))}
            return cells._replace(names=list(names), units=units)
    return cells


def gathered_energies(cells: Cells) -> Cells:
    """The table with the columns time, flux, error, band in the place of those of each range of energy that
    is followed by its error (2-4keV, err); a range that is the sum of the others is left out.
    """
    plain = [plain_name(name) for name in cells.names]
    time = next((place for place, name in enumerate(plain) if name in surveys.TIME), None)
    bare = [found[1] if (found := UNIT_IN_NAME.fullmatch(name)) else name for name in cells.names]
    ranges = {
        place: band_name(name)
        for place, name in enumerate(bare[:-1])
        if (found := RANGE.fullmatch(name.strip())) and found["unit"] and plain[place + 1].startswith("err")
    }
    if time is None or len(ranges) < 2:
        return cells
    edges = {place: [float(end) for end in name.split("-")] for place, name in ranges.items()}
    whole = [min(low for low, _ in edges.values()), max(high for _, high in edges.values())]
    total = [place for place, ends in edges.items() if ends == whole]
    if total and len(ranges) > 2:
        cells.told.of_table(f"{ranges[total[0]]} keV is left out, as the other bands are its parts")
        ranges.pop(total[0])
    cells.told.of_table(f"columns of a band each, keV: {' '.join(ranges.values())}")
    values = [numbers(cells.columns[place]) for place in ranges]
    errors = [numbers(cells.columns[place + 1]) for place in ranges]
    rows = len(cells.columns[time])
    columns = [
        pa.concat_arrays([cells.columns[time]] * len(ranges)),
        pa.array(np.concatenate(values)),
        pa.array(np.concatenate(errors)),
        pa.array(np.repeat(list(ranges.values()), rows)),
    ]
    order = pa.array(np.arange(len(ranges) * rows).reshape(len(ranges), rows).T.reshape(-1))
    unit = cells.units.get(cells.names[next(iter(ranges))], "")
    names = [cells.names[time], "flux", "error", "band"]
    return Cells(names, [column.take(order) for column in columns], {"flux": unit}, cells.told)


def gathered_bands(cells: Cells) -> Cells:
    """The table with the columns time, mag or flux, error, band in the place of those of each band;
    itself where it has a column of magnitudes or fluxes already, or no band with errors.
    """
    plain = [plain_name(name) for name in cells.names]
    there = set(plain)
    if there & {*surveys.MAGNITUDE, *surveys.FLUX} or len(there) < len(plain):
        return cells
    found: dict[str, dict[str, tuple[str, str]]] = {"mag": {}, "flux": {}}
    alone = 0
    for name in plain:
        for pattern in (BAND_FIRST, BAND_LAST, BAND_ALONE):
            match = pattern.fullmatch(name)
            error = match and _error_of(name, match["kind"], match["band"], there)
            if error:
                kind = "flux" if "flux" in match["kind"] else "mag"
                found[kind].setdefault(match["band"], (name, error))
                alone += pattern is BAND_ALONE
                break
    kind = max(("mag", "flux"), key=lambda kind: len(found[kind]))
    bands = found[kind]
    if len(bands) < 2 and (alone or not bands):
        return cells
    is_gaia = "g_transit_time" in there
    column = dict(zip(plain, cells.columns))
    own = {band: _own_time(band, there) for band in bands}
    taken = {name for pair in bands.values() for name in pair} | {name for name in own.values() if name}
    flags = {band: f"variability_flag_{band}_reject" for band in bands}
    shared = [name for name in plain if name not in taken and name not in flags.values()]
    places = []  # rows of the table, to stay in their order
    parts: dict[str, list] = {
        name: [] for name in (*shared, "time", kind, "error", "band", "rejected_by_variability")
    }
    for band, (value, error) in bands.items():
        values = numbers(column[value])
        # what is blank was not observed in this band, and is no row
        rows = pa.array(np.flatnonzero(np.isfinite(values)))
        places.append(rows.to_numpy())
        for name in shared:
            parts[name].append(column[name].take(rows))
        if own[band]:
            parts["time"].append(column[own[band]].take(rows))
        parts[kind].append(pa.array(values).take(rows))
        parts["error"].append(pa.array(numbers(column[error])).take(rows))
        spelled = cells.names[plain.index(value)].lower().find(band)
        as_written = cells.names[plain.index(value)][spelled : spelled + len(band)]
        name = GAIA.get(band, band) if is_gaia else band.upper() if band in WISE else as_written
        parts["band"].append(pa.array([name] * len(rows)))
        if flags[band] in there:
            parts["rejected_by_variability"].append(column[flags[band]].take(rows))
    whole = {name: arrays for name, arrays in parts.items() if len(arrays) == len(bands)}
    spelling = dict(zip(plain, cells.names))
    names = [spelling.get(name, name) for name in whole]
    if len(bands) > 1:
        cells.told.of_table(f"columns of a band each: {' '.join(value for value, _ in bands.values())}")
    order = pa.array(np.argsort(np.concatenate(places), kind="stable"))
    return Cells(
        names, [pa.concat_arrays(arrays).take(order) for arrays in whole.values()], cells.units, cells.told
    )


def _error_of(name: str, kind: str, band: str, there: set[str]) -> str | None:
    names = [pattern.format(name) for pattern in surveys.ERRORS]
    names += [f"{pattern.format(kind)}_{band}" for pattern in surveys.ERRORS if kind]
    names += [f"{pattern.format(kind)}{band}" for pattern in surveys.ERRORS if kind]
    names += [name.replace("mpro", "sigmpro")] if "mpro" in name else []
    return next((other for other in names if other in there and other != name), None)


def _own_time(band: str, there: set[str]) -> str | None:
    names = (
        f"{band}_transit_time",
        f"{band}_obs_time",
        f"{band}_time",
        f"time_{band}",
        f"mjd_{band}",
        f"{band}_mjd",
    )
    return next((name for name in names if name in there), None)
