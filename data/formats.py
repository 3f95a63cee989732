"""What each reader takes and refuses, in the reader's own words: docs/formats.md is made of these tables.

python -m data.formats > docs/formats.md
"""

import re
from collections.abc import Iterable, Iterator
from importlib import import_module
from pkgutil import walk_packages
from typing import NamedTuple

HEAD = """# What is read, what is refused

Made from the readers' own tables by `python -m data.formats > docs/formats.md`: change it there, not here.
Whatever is left out, guessed or refused in a run is said in a line of its log, with the count; a file that
cannot be used is quarantined with the reason.
"""
# what the rooms are called; one that is not named here has the name of its folder
ROOMS = {
    "cutouts": "Cutouts",
    "catalogues": "Catalogues",
    "tar_shards": "Tar shards",
    "light_curves": "Light curves",
    "listing": "Lists of files",
}
SIGNS = re.compile(r"([<*])")
COLUMNS = ("what", "known by", "read", "not read")


class Format(NamedTuple):
    """One row of the page. A reader lists its own as FORMATS, beside the code that reads them."""

    name: str  # what a user calls it: "eROSITA srctool light curve"
    known_by: str  # how a file is taken for one: suffix, HDU name, columns
    taken: str  # what is read, and in which unit
    refused: str  # what is not, or is left out and counted


def formats_of_readers() -> Iterator[tuple[str, list[Format]]]:
    """(module, its FORMATS) of every module below `data` that lists some, by name."""
    package = import_module("data")
    names = sorted(found.name for found in walk_packages(package.__path__, "data."))
    for name in names:
        if rows := getattr(import_module(name), "FORMATS", ()):
            yield name, list(rows)


def formats_page() -> str:
    """The page as Markdown: a section a room, a table a module. It follows from the modules' names, not from
    who was imported first.
    """
    of_room: dict[str, list[str]] = {}
    for module, rows in formats_of_readers():
        room = module.split(".")[1]
        table = [f"`{module.replace('.', '/')}.py`", "", _line(COLUMNS), _line(["---"] * len(COLUMNS))]
        table += [_line(row) for row in rows]
        of_room.setdefault(room, []).append("\n".join(table))
    order = [*(room for room in ROOMS if room in of_room), *sorted(of_room.keys() - ROOMS.keys())]
    parts = [HEAD]
    for room in order:
        parts += [f"## {ROOMS.get(room, room)}\n", "\n\n".join(of_room[room]) + "\n"]
    return "\n".join(parts)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(map(_cell, cells))} |"


def _cell(text: str) -> str:
    """Without what Markdown would take for its own, outside of `code`; a bar ends a cell even there."""
    parts = " ".join(text.split()).split("`")
    plain = [SIGNS.sub(r"\\\1", part) if number % 2 == 0 else part for number, part in enumerate(parts)]
    return "`".join(plain).replace("|", "\\|")


if __name__ == "__main__":
    print(formats_page(), end="")
