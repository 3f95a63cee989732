"""Rows of the table of measured figures: ours, the peer's, their ratio, and whether both gave the same.

A benchmark makes rows and ends with `show(rows, options.json)`; run.py collects the rows of all of them.
"""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

RATES = ("/s",)  # units that end so: more is better; of all others (ms, us, s, MiB) less is


@dataclass(frozen=True)
class Row:
    """One line: a figure of ours beside a peer's, both in `unit`."""

    what: str  # "FITS primary image, 41x41"
    unit: str  # "files/s", "ms", ...
    ours: float | None  # None: not measured here (a GPU figure without a GPU)
    peer: str = ""  # whose the other figure is, with its version
    theirs: float | None = None  # None: there is no peer, or it is not installed
    aim: float | None = None  # ratio to reach
    limit: float | None = None  # or a figure of ours to keep (at most for a time, at least for a rate)
    equal: str = ""  # what was compared and how far apart the two are

    @property
    def ratio(self) -> float | None:
        """How many times better ours is."""
        if self.ours is None or self.theirs is None:
            return None
        above, below = (self.ours, self.theirs) if self.unit.endswith(RATES) else (self.theirs, self.ours)
        return above / below if below else math.inf

    @property
    def verdict(self) -> str:
        if self.ours is None or (self.aim is not None and self.ratio is None):
            return "not measured"
        if self.aim is None and self.limit is None:
            return ""
        reached = self.aim is None or self.ratio >= self.aim
        kept = self.limit is None or (
            self.ours >= self.limit if self.unit.endswith(RATES) else self.ours <= self.limit
        )
        return "met" if reached and kept else "missed"


def figure(value: float | None) -> str:
    """Three digits or more, with thousands set apart."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def markdown(rows: list[Row]) -> str:
    lines = [
        "| what | unit | ours | peer | peer's | ratio | aim | | equality |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        aim = " ".join(filter(None, [f"x{row.aim:g}" if row.aim else "", figure(row.limit)]))
        ratio = f"x{figure(row.ratio)}" if row.ratio else ""
        cells = [
            row.what,
            row.unit,
            figure(row.ours),
            row.peer,
            figure(row.theirs),
            ratio,
            aim,
            row.verdict,
            row.equal,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def show(rows: list[Row], to: str = "") -> None:
    """Print the rows, and write them to the file `to` for run.py, if it is given."""
    print(markdown(rows), flush=True)
    if to:
        Path(to).write_text(json.dumps([asdict(row) for row in rows]))


def read(path: str | Path) -> list[Row]:
    return [Row(**row) for row in json.loads(Path(path).read_text())]
