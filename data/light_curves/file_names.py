"""What the name of a file says of the curve in it: whose it is, and eROSITA's energy bands."""

import os
import re

SUFFIX = re.compile(r"(\.(fits?|evt|lc|csv))?(\.gz)?$", re.IGNORECASE)
EROSITA = re.compile(r"[a-z]{2}\d{2}_(\d{6})_\d{2}(\d)_LightCurve_([^_.]+).*", re.IGNORECASE)
# Energy bands by the last digit of the processing, eROSITA-DE DR1 file naming;
# 0 holds three of them side by side.
EROSITA_BANDS = {
    "0": ("0.2-0.6", "0.6-2.3", "2.3-5"),
    "1": ("0.2-0.6",),
    "2": ("0.6-2.3",),
    "3": ("2.3-5",),
    "4": ("0.2-2.3",),
}


def source_of(path: str | os.PathLike) -> str:
    """Whose curve a file holds: TILE_SRC of em01_TILE_020_LightCurve_SRC_...,
    so that its surveys and bands go together; else the stem.
    """
    stem = SUFFIX.sub("", os.path.basename(path))
    found = EROSITA.fullmatch(stem)
    return f"{found[1]}_{found[3]}" if found else stem
