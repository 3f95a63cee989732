"""What a file name says: the object, the band, whether it is a cutout."""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from data.bands import AT_END, band_called
from utils.mistake import Mistake

BARE_SUFFIXES = (".fits", ".fit", ".fts")
SUFFIXES = (*(bare + packed for bare in BARE_SUFFIXES for packed in ("", ".gz", ".bz2", ".fz")), ".fz")
NOT_CUTOUTS = {"parameters.fits"}  # the truth table that the challenge puts beside the cutouts
SUFFIX = r"(?i:\.f(?:its?|ts)(?:\.gz|\.bz2|\.fz)?|\.fz)?"
BLIND = re.compile(r"object_\d+")


def parse_name(path: str | os.PathLike, known: Iterable[str] = ()) -> tuple[str, str]:
    """(object id, band) of a file, the band as it is written: D1_L_00000000_g.fits -> ("D1_L_00000000", "g"),
    X_HSC-G.fits -> ("X", "HSC-G"). No usual name of a band (data/bands.py) at the end: band "".

    known: bands besides the usual ones.
    """
    found = name_pattern(tuple(known)).fullmatch(os.path.basename(path))
    return found[1], found[2] or ""


@lru_cache(maxsize=64)
def name_pattern(known: tuple[str, ...]) -> re.Pattern[str]:
    """(object id)(_band)(suffix) of a file's name."""
    bands = "|".join([*map(re.escape, sorted(known, key=len, reverse=True)), AT_END])
    return re.compile(rf"(.+?)(?:_({bands}))?{SUFFIX}", re.DOTALL)


class Named(NamedTuple):
    """What the names of some files say, N each."""

    objects: list[str]
    bands: list[str]  # as they are called here
    written: list[str]  # as the names write them


def named_files(paths: Sequence[str], aliases: Mapping[str, str]) -> Named:
    """The objects and bands of files; aliases: of --band_alias, what the table of bands does not know."""
    found = [parse_name(path, aliases) for path in paths]
    written = [band for _, band in found]
    called = {text: band_called(text, aliases) for text in set(written)}
    return Named([name for name, _ in found], [called[text] for text in written], written)


def written_bands(paths: Iterable[str], bands: Iterable[str], aliases: Mapping[str, str]) -> list[str]:
    """`written` of `named_files`, whose `bands` are known: few names are parsed again."""
    return [
        band if path.endswith(f"_{band}.fits") else parse_name(path, aliases)[1]
        for path, band in zip(paths, bands)
    ]


def is_blind(object_id: str) -> bool:
    """Whether the id is of the challenge's blind test, whose labels nobody has,
    whatever folder the file is in.
    """
    return BLIND.fullmatch(object_id) is not None


def check_utf8(paths: list[str]) -> None:
    try:
        "".join(paths).encode()
    except UnicodeEncodeError:
        name = next(path for path in paths if path.encode(errors="replace").decode() != path)
        raise Mistake(f"the file name {name!r} is not UTF-8: rename the file") from None
