"""Rows of a table that its flags exclude: by the rules of known surveys, and by `--quality`."""

import numpy as np
import pyarrow as pa

from data.light_curves.curve import CONDITION, Reading
from data.light_curves.tables import surveys
from data.light_curves.tables.cells import Cells, codes, numbers
from data.light_curves.tables.columns import Chosen
from data.light_curves.tables.surveys import plain_name


def flagged_rows(cells: Cells, chosen: Chosen, reading: Reading) -> dict[str, np.ndarray]:
    """What is said of them -> [R] bool, rows that do not count by a flag."""
    flagged = {}
    used = {place for place in chosen if type(place) is int}
    judged = set()
    if "default" in reading.quality:
        for rule in surveys.QUALITY:
            if rule.column in chosen.plain and rule.beside <= set(chosen.plain) and rule.column not in judged:
                place = chosen.plain.index(rule.column)
                if place in used:
                    continue
                judged.add(rule.column)
                what = f"rows against {cells.names[place]}{rule.kept} ({rule.what}), left out"
                flagged[what] = _against(cells.columns[place], f"{rule.column}{rule.kept}")
    for text in reading.quality:
        if text in ("default", "none"):
            continue
        name = plain_name(CONDITION.fullmatch(text)[1])
        if name not in chosen.plain:
            cells.told.of_table(f"no column {name}: --quality {text} says nothing here")
            continue
        judged.add(name)
        column = cells.columns[chosen.plain.index(name)]
        flagged[f"rows against --quality {text}, left out"] = _against(column, text)
    if "none" not in reading.quality:
        idle = [
            cells.names[place]
            for place, name in enumerate(chosen.plain)
            if surveys.COULD_BE_FLAG.fullmatch(name) and name not in judged and place not in used
            if len(codes(cells.columns[place])[1]) > 1
        ]
        if idle:
            cells.told.of_table(
                f"columns of flags that are not used: {' '.join(idle)} (--quality {idle[0]}=...)"
            )
    return flagged


def _against(column: pa.Array, condition: str) -> np.ndarray:
    """[R] bool, the rows that say something and do not fulfil it."""
    _, kept, bits = CONDITION.fullmatch(condition).groups()
    if bits:
        values = numbers(column)
        known = np.isfinite(values)
        return known & (np.where(known, values, 0).astype(np.int64) & int(bits) != 0)
    low, dots, high = kept.partition("..")
    if dots:
        values = numbers(column)
        return np.isfinite(values) & ~((values >= float(low or -np.inf)) & (values <= float(high or np.inf)))
    of_row, distinct = codes(column)
    wanted = {_same(value) for value in kept.split(",")}
    bad = np.array([_same(value) not in wanted for value in distinct] + [False])
    return bad[of_row]


def _same(value: str) -> str:
    """One spelling of a truth value or a number."""
    value = value.strip().lower()
    if value in ("t", "true"):
        return "1"
    if value in ("f", "false"):
        return "0"
    try:
        return f"{float(value):g}"
    except ValueError:
        return value
