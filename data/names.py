"""What a file name says: the object, the band, whether it is a cutout."""

import os
import re
from collections.abc import Iterable

from utils.mistake import Mistake

SUFFIXES = (".fits", ".fit", ".fits.gz", ".fit.gz")
NOT_CUTOUTS = {"parameters.fits"}  # the truth table that the challenge puts beside the cutouts
NAME = re.compile(r"(.+?)(?:_([ugrizy]))?(?i:\.fits?(?:\.gz)?)?", re.DOTALL)
BLIND = re.compile(r"object_\d+")


def parse_name(path: str | os.PathLike) -> tuple[str, str]:
    """(object id, band) of a file: D1_L_00000000_g.fits -> ("D1_L_00000000", "g"); no _[ugrizy] at the end:
    band "".
    """
    found = NAME.fullmatch(os.path.basename(path))
    return found[1], found[2] or ""


def in_order(bands: Iterable[str]) -> list[str]:
    """Names of bands: u g r i z y first, then others by name, "" last."""
    named = set(bands)
    return (
        [band for band in "ugrizy" if band in named] + sorted(named - {*"ugrizy", ""}) + [""] * ("" in named)
    )


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
