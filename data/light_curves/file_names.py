"""What the name of a file says of the curve in it: whose it is, and eROSITA's energy bands."""

import os
import re

FITS_SUFFIXES = (".fits", ".fit", ".fts", ".ftz", ".evt", ".lc")
SUFFIX = re.compile(
    r"(\.(fits?|fts|ftz|evt|lc|csv|tsv|ecsv|txt|dat|tbl|vot|parquet|qdp))?(\.(gz|bz2|fz))?$", re.IGNORECASE
)
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
# of one observation of NuSTAR, by its two telescopes
NUSTAR = re.compile(r"(nu\d{4,})[AB]\d\d(_.*)?", re.IGNORECASE)
# what a file is called in each object's own folder: of the kind of data, or of the band
GENERAL = re.compile(
    r"((light|phase)?[_-]?curves?|lcs?|data|table|phot(ometry)?|forced(_?phot(ometry)?)?|(non)?[_-]?detections?|"
    r"measurements?|observations?|results?|output|ztf|atlas|asassn|asas-sn|gaia|tess|kepler|plasticc|lsst|events?|"
    r"src|source|(z|ztf[_-]?|lsst[_-]?|sdss[_-]?)?[ugrizy]|bp|rp)",
    re.IGNORECASE,
)


def source_of(path: str | os.PathLike) -> str:
    """Whose curve a file holds: TILE_SRC of em01_TILE_020_LightCurve_SRC_..., so that its surveys and bands
    go together; the observation of both telescopes of NuSTAR; else the stem, or the folder where the stem
    names no object.
    """
    stem = SUFFIX.sub("", os.path.basename(path))
    found = EROSITA.fullmatch(stem)
    if found:
        return f"{found[1]}_{found[3]}"
    if both := NUSTAR.fullmatch(stem):
        return both[1]
    folder = folder_of_object(path)
    return folder or stem


def folder_of_object(path: str | os.PathLike) -> str:
    """The name of the folder of `<object>/lightcurve.csv`; "" for a file that is called after its object."""
    stem = SUFFIX.sub("", os.path.basename(path))
    return os.path.basename(os.path.dirname(path)) if GENERAL.fullmatch(stem) else ""
