"""What the columns of known surveys and brokers are called, and which of their rows count."""

import re
from typing import NamedTuple

from data.formats import Format

# names as `plain_name` gives them, the first that is there wins
TIME = (
    "time mjd bjd hjd jd hmjd bmjd obsmjd mjd_obs obs_mjd mjdobs midpointmjdtai expmidptmjd midpointtai "
    "ant_mjd time_mjd mjd_tdb btjd bkjd time_bjd bjd_tdb time_bjd_tdb barytime obs_time obstime time_jd "
    "jd_obs obs_jd observation_time timestamp datetime date_obs date"
).split()
MAGNITUDE = (
    "mag magnitude magpsf psfmag psf_mag mag_psf ant_mag mag_cal calmag magcal mag_auto mag_aper magap "
    "magpsf_corr tmag kpmag"
).split()
FLUX = (
    "flux psfflux psflux forcediffimflux pdcsap_flux kspsap_flux corr_flux det_flux sap_flux raw_flux "
    "fluxcal ujy flux_psf psf_flux psfdiffflux difflux diff_flux flux_auto rate count_rate"
).split()
ERRORS = (
    "{}err {}_err {}_error {}error e_{} {}unc {}_unc {}_uncertainty {}sigma {}_sigma sigma_{} d{} err_{}"
).split()
OF_MAGNITUDE = (
    "magerr mag_err mag_error e_mag sigmapsf uncertainty sigmag sigma_mag dmag merr emag err_mag mag_unc "
    "ant_magerr"
).split()
OF_FLUX = ("fluxerr flux_err flux_error e_flux flux_unc sigma_flux fluxcalerr flux_uncertainty").split()
OF_ANY = ("error err sigma unc uncertainty err1 std").split()
BAND = (
    "band filter passband filtercode fid filterid filter_id phot_filter filtername filter_name filt bandpass "
    "ant_passband photometric_band band_name bandname flt pb"
).split()
# those of a detection, which number the rows, are passed over by their values
OBJECT = (
    "id source object object_id source_id oid objectid diaobjectid sourceid asas_sn_id masterid objid obj_id "
    "object_name objname star star_id starid star_name target target_name targetname tic_id ticid tic kic "
    "kepid kic_id epic gaia_id ztf_id ztfid snid source_name sourcename lc_id lightcurve_id name"
).split()
ZERO_POINT = ("zp zeropoint zero_point zpt fluxzp zpdiff magzp mag_zp zeropt magzpsci").split()
SIGN = ("isdiffpos is_diff_pos isdiffpositive").split()
LIMIT = (
    "diffmaglim limit limitmag limiting_mag limiting_magnitude maglim mag_lim ant_maglim upper_limit_mag"
).split()
IS_LIMIT = ("upper_limit upperlimit is_upper_limit is_limit islimit ul l_mag limit_flag").split()

COULD_BE_ID = re.compile(r".*id|.*name|(.*_)?(obj|object|star|source|target)(_.*)?")
# what numbers exposures, images, fields and rows, not objects
NO_OBJECT = re.compile(
    r"(cand|exp|exposure|ccd|amp|q|rc|p|n|prv_?cand|image|img|field|program|programme|transit|solution|diasource|"
    r"visit|detector|night|run|frame|detect|row|index|parent_?cand|rf|ffi|camera|observer|obs|filter|f|sector).{0,2}"
    r"(id|name|uid|no|num)?"
)
COULD_BE_BAND = re.compile(r".*(filt|band|pass|colou?r|lambda|wave).*")
COULD_BE_FLAG = re.compile(
    r"(.*_)?(flags?|quality|qual|reject\w*|bad|mask|dubious|procstatus|blend\w*|saturated)(_.*)?"
)

# -999, 99 and the like stand for what is not known
UNKNOWN_MAGNITUDE = 90.0
FILLED = (-99.0, -999.0, -9999.0, -99999.0, 1e20, 1e30)

TRUTHS = {"t": 1, "true": 1, "1": 1, "+": 1, "1.0": 1, "yes": 1, "y": 1, ">": 1, "<": 1}
FALSEHOODS = {"f": 0, "false": 0, "0": 0, "-1": 0, "-": 0, "0.0": 0, "-1.0": 0, "no": 0, "n": 0}

ZTF = {"1": "g", "2": "r", "3": "i"}
PAN_STARRS = {"1": "g", "2": "r", "3": "i", "4": "z", "5": "y"}
PLASTICC = {"0": "u", "1": "g", "2": "r", "3": "i", "4": "z", "5": "y"}
LETTERS = {
    f"{survey}{mark}{band}": band for survey in ("z", "ztf", "ZTF") for mark in ("", "_") for band in "gri"
}
# AB magnitude of a flux of one
OF_UNIT = {
    "ujy": 23.9,
    "mjy": 16.4,
    "njy": 31.4,
    "jy": 8.9,
    "nmgy": 22.5,
    "nanomaggy": 22.5,
    "mgy": 0.0,
    "maggy": 0.0,
}


class Quality(NamedTuple):
    """Rows that count by default, where a table has the column and its companions."""

    column: str
    kept: str  # as `--quality` writes it after the name
    beside: frozenset[str]
    what: str


def _rule(column: str, kept: str, what: str, *beside: str) -> Quality:
    return Quality(column, kept, frozenset(beside), what)


QUALITY = (
    _rule("catflags", "=0..32767", "ZTF: bit 32768 is bad or unusable"),
    _rule("infobitssci", "=0..33554431", "ZTF forced photometry: bit 33554432 is a failed image"),
    _rule("infobits", "=0..33554431", "ZTF: bit 33554432 is a failed image"),
    _rule("procstatus", "=0", "ZTF forced photometry: processed without a warning"),
    _rule("quality", "=G", "ASAS-SN Sky Patrol: good", "limit", "fwhm"),
    _rule("quality", "=G", "ASAS-SN Sky Patrol: good", "asas_sn_id"),
    # as the FITS files of both are read; the defaults of lightkurve
    _rule("quality", "~175", "TESS", "cadenceno"),
    _rule("sap_quality", "~1130799", "Kepler"),
    _rule("err", "=0", "ATLAS: the fit did not fail", "ujy", "dujy"),
    _rule("rejected_by_photometry", "=false", "Gaia"),
    _rule("rejected_by_variability", "=false", "Gaia"),
    _rule("blend", "=0", "CRTS: not blended"),
    _rule("data_flag", "=0", "Swift BAT monitor: good", "timedel_expo"),
    _rule("psfflux_flag", "=false", "LSST: the fit did not fail"),
)


class Survey(NamedTuple):
    """A table whose columns mean more, or something else, than their names say."""

    name: str
    known_by: frozenset[str]  # all of them
    columns: dict[str, str]  # time, mag, flux, error, id, band -> column
    bands: dict[str, str] = {}  # value in the band column -> band
    zero_point: float | None = None  # AB magnitude of a flux of one
    unit: str = ""


SURVEYS = (
    Survey(
        "ATLAS forced photometry",
        frozenset({"ujy", "dujy", "f"}),
        dict(time="mjd", flux="ujy", error="dujy", band="f"),
        zero_point=23.9,
        unit="uJy",
    ),
    Survey(
        "ZTF forced photometry",
        frozenset({"forcediffimflux", "forcediffimfluxunc"}),
        dict(flux="forcediffimflux", error="forcediffimfluxunc", zero_point="zpdiff"),
    ),
    Survey("ZTF alerts", frozenset({"magpsf", "sigmapsf"}), dict(mag="magpsf", error="sigmapsf"), ZTF),
    Survey("ZTF light curves", frozenset({"hmjd", "filterid"}), dict(time="hmjd", band="filterid"), ZTF),
    Survey(
        "Pan-STARRS detections",
        frozenset({"obstime", "filterid", "psfflux", "psffluxerr"}),
        dict(time="obstime", band="filterid", id="objid"),
        PAN_STARRS,
        8.9,
        "Jy",
    ),
    Survey(
        "LSST sources",
        frozenset({"midpointmjdtai", "psfflux", "psffluxerr"}),
        dict(flux="psfflux", error="psffluxerr", id="diaobjectid"),
        zero_point=31.4,
        unit="nJy",
    ),
    Survey(
        "LSST sources of DP0.2",
        frozenset({"midpointtai", "psflux", "psfluxerr"}),
        dict(flux="psflux", error="psfluxerr", id="diaobjectid"),
        zero_point=31.4,
        unit="nJy",
    ),
    Survey(
        "ASAS-SN Sky Patrol",
        frozenset({"flux", "limit", "fwhm", "mag"}),
        dict(flux="flux"),
        zero_point=16.4,
        unit="mJy",
    ),
    Survey(
        "ASAS-SN photometry",
        frozenset({"hjd", "camera", "mag", "mag_err", "flux", "flux_err"}),
        dict(flux="flux"),
        zero_point=16.4,
        unit="mJy",
    ),
    Survey(
        "Gaia epoch photometry",
        frozenset({"transit_id", "band", "time", "flux", "flux_error"}),
        dict(flux="flux", error="flux_error"),
    ),
    Survey(
        "PLAsTiCC",
        frozenset({"object_id", "passband", "flux", "flux_err"}),
        dict(band="passband", id="object_id"),
        PLASTICC,
    ),
)


def plain_name(name: str) -> str:
    """A column's name in lower case, without blanks, unit and a broker's prefix: `i:magpsf`, `flux(mJy)`."""
    name = name.strip().strip("#").strip().lower()
    name = re.sub(r"[ _]*[(\[][^()\[\]]*[)\]]", "", name) or name
    name = re.sub(r"^[idvb]:", "", name)
    return re.sub(r"[ .\-]+", "_", name.strip())


FORMATS = (
    Format(
        "Table of text",
        ".csv .tsv .txt .dat .tbl, also .gz and .bz2; fields between commas, tabs, semicolons, bars or "
        "blanks; the header is the first line or the last comment; columns go by their names or `--columns`",
        "time (days, or `--time_unit`; JD becomes MJD), magnitude or flux with its error, band, object; a "
        "row an observation, or a column a band (mag_g magerr_g ...)",
        "rows without time, value, error, band or object, rows with too few or too many fields, rows that a "
        "quality flag excludes: left out and counted; columns without names (until `--columns` gives their "
        "numbers), times that span 200,000 days, JD beside MJD, bands in one curve: refused",
    ),
    Format(
        "ECSV, VOTable, IPAC table",
        "the first lines: %ECSV, VOTABLE, bars",
        "as a table of text, with the units of its columns; times of astropy; arrays in cells",
        "as a table of text",
    ),
    Format(
        "Parquet",
        ".parquet",
        "a row an observation, or a row a source with lists or lists of records",
        "lists of one row that differ in length",
    ),
    Format(
        "ZTF",
        "filtercode and catflags (IRSA); hmjd and filterid (bulk); magpsf, sigmapsf and fid (ALeRCE, Lasair, "
        "Fink); forcediffimflux (forced photometry)",
        "magnitudes as calibrated; isdiffpos f is a negative flux; diffmaglim is an upper limit; zpdiff of "
        "each row",
        "catflags from 32768; procstatus other than 0; infobitssci from 33554432",
    ),
    Format(
        "ASAS-SN",
        "flux(mJy), Limit, FWHM, mag (web); JD, Flux, Limit, Quality, or asas_sn_id, phot_filter (Sky Patrol "
        "v2)",
        "flux in mJy, brought to `--zero_point`; without a flux, `>17.5` is an upper limit",
        "quality other than G",
    ),
    Format(
        "ATLAS forced photometry", "###MJD, uJy, duJy, F", "flux in uJy, bands c and o", "err other than 0"
    ),
    Format("PLAsTiCC", "object_id, passband, flux, flux_err", "passband 0-5 is u g r i z y", "nothing"),
    Format(
        "TESS and Kepler as CSV",
        "PDCSAP_FLUX or SAP_FLUX with CADENCENO",
        "PDCSAP before SAP; time in days as it stands",
        "QUALITY & 175, SAP_QUALITY & 1130799",
    ),
    Format(
        "Gaia epoch photometry",
        "transit_id, band, time, flux; g_transit_time, bp_obs_time, rp_obs_time",
        "fluxes in electrons/s, bands G BP RP, each at its own time",
        "rejected_by_photometry, rejected_by_variability, variability_flag_*_reject",
    ),
    Format(
        "MAXI",
        "a range of energy and its error in turn (2-4keV err 4-10keV err ...), or files of MAXI's names "
        "without a header",
        "photons/cm2/s in each band",
        "2-20 keV beside its parts",
    ),
    Format("OGLE", "OGLE-*.dat without a header", "HJD, magnitude, error", "nothing"),
    Format("Swift BAT monitor", "DATA_FLAG with TIMEDEL_EXPO", "rate of the day", "DATA_FLAG other than 0"),
)
