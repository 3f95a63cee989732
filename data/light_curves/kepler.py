"""Light curves of stars in FITS: of Kepler, K2 and TESS as their archive has them, and lightkurve's own."""

import os
from typing import NamedTuple

import numpy as np
from astropy.io import fits

from data.cutouts.fits import BadFile
from data.light_curves.curve import Found, Note, Reading, found_rates
from data.light_curves.file_names import source_of
from data.light_curves.missions import telescope_of
from data.light_curves.time_system import number, seconds

# Fluxes with their errors, the first that is there: SPOC's corrected flux, QLP's two, what was measured, and
# what lightkurve writes.
FLUXES = (
    ("PDCSAP_FLUX", "PDCSAP_FLUX_ERR"),
    ("KSPSAP_FLUX", "KSPSAP_FLUX_ERR"),
    ("DET_FLUX", "DET_FLUX_ERR"),
    ("SAP_FLUX", "SAP_FLUX_ERR"),
    ("FLUX", "FLUX_ERR"),
)
QUALITIES = ("SAP_QUALITY", "QUALITY")


class Quality(NamedTuple):
    """A mask of quality flags: rows with one of these bits are left out."""

    mask: int
    band: str


# Flags by which a cadence is useless: attitude tweak 1, safe mode 2, coarse point 4, Earth point 8,
# desaturation 32, manual exclude (256 of Kepler, 128 of TESS), and of Kepler detector anomaly 16384, no data
# 65536, thruster firing 1048576. These are the defaults of lightkurve; the flags are those of the Kepler
# Archive Manual, table 2-3, and of the TESS Science Data Products Description, table 28.
KEPLER = Quality(1 + 2 + 4 + 8 + 32 + 256 + 16384 + 65536 + 1048576, "Kepler")
TESS = Quality(1 + 2 + 4 + 8 + 32 + 128, "TESS")
OTHER = Quality(0, "1")


def is_archived_flux(names: set[str]) -> bool:
    """Whether a table with columns of these names (in capitals) is one of theirs."""
    return "TIME" in names and any({flux, error} <= names for flux, error in FLUXES)


def from_archived_flux(hdus: fits.HDUList, place: int, path: str | os.PathLike, reading: Reading) -> Found:
    """--quality none takes rows whatever their flags."""
    hdu = hdus[place]
    columns = {name.upper(): name for name in hdu.columns.names}

    def column(name: str) -> np.ndarray:
        return np.asarray(hdu.data[columns[name]])

    flux, error = next(pair for pair in FLUXES if set(pair) <= columns.keys())
    time = column("TIME").astype(np.float64) * seconds(hdu, "TIME")
    primary = hdus[0].header
    quality = _quality(primary, hdu.header)
    if "none" in reading.quality:
        quality = quality._replace(mask=0)
    notes = [Note(f"{flux} is the flux"), *_unused(columns, flux)]
    good = np.ones(len(time), dtype=bool)
    if flags := next((name for name in QUALITIES if name in columns), None):
        good = (column(flags).astype(np.int64) & quality.mask) == 0
        if not quality.mask:
            notes.append(Note(f"{flags} is not used (unknown mission, or --quality none)"))
        lost = int(np.count_nonzero(~good & np.isfinite(time)))
        if lost:
            notes.append(Note(f"rows with flags of {flags} & {quality.mask}, left out", lost, len(time)))
    width = number(hdu.header, "TIMEDEL")
    width = 0.0 if width is None else width * seconds(hdu)
    rate, up = (column(name).astype(np.float64) for name in (flux, error))
    if rate.ndim != 1 or up.ndim != 1:
        raise BadFile(f"column {flux} holds more than one value a row, as target pixels do: expected a curve")
    return found_rates(
        _star(primary, path),
        (quality.band,),
        time,
        np.full(len(time), width),
        rate[:, None],
        up[:, None],
        up[:, None],
        good[:, None],
        notes,
        str(hdu.columns[columns[flux]].unit or ""),
    )


def _quality(*headers: fits.Header) -> Quality:
    for header in headers:
        telescope = telescope_of(header)
        if telescope == "TESS" or "TICID" in header:
            return TESS
        if telescope in ("KEPLER", "K2") or "KEPLERID" in header:
            return KEPLER
    band = next((str(header["FILTER"]).strip() for header in headers if header.get("FILTER")), "")
    return OTHER._replace(band=band or OTHER.band)


def _unused(columns: dict[str, str], taken: str) -> list[Note]:
    others = [flux for flux, _ in FLUXES if flux in columns and flux != taken]
    return [Note(f"{' '.join(others)} not used")] if others else []


def _star(primary: fits.Header, path: str | os.PathLike) -> str:
    """The star's number in its catalogue, so that its quarters or sectors go together; else the stem."""
    for card, catalogue in (("KEPLERID", "KIC"), ("TICID", "TIC")):
        if (star := number(primary, card)) is not None:
            catalogue = "EPIC" if star >= 2e8 and catalogue == "KIC" else catalogue
            return f"{catalogue} {star:.0f}"
    return str(primary.get("OBJECT") or "").strip() or source_of(path)
