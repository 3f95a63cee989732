"""Tables of light curves as surveys, brokers and people write them: each rebuilt here in a few lines."""

import bz2
import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.table import Column, MaskedColumn, Table
from astropy.time import Time

from data.cutouts.fits import BadFile
from data.light_curves.curve import DAY, Reading
from data.light_curves.file_names import source_of
from data.light_curves.files import find_light_curves
from data.light_curves.packed import list_light_curves, pack_light_curves
from data.light_curves.tables.curves import epochs
from data.light_curves.tables.surveys import SURVEYS, plain_name
from utils.config import read_options
from utils.mistake import Mistake


def found_in(folder: Path, text: str | bytes, name: str = "star.csv", **options) -> list:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return find_light_curves(path, Reading(**options))


def one(folder: Path, text: str | bytes, name: str = "star.csv", **options):
    """(the curve, its notes)"""
    found = found_in(folder, text, name, **options)
    assert len(found) == 1, [each.curve.source for each in found]
    return found[0].curve, texts_of(found)


def texts_of(found: list) -> str:
    return "\n".join(note if isinstance(note, str) else note.text for each in found for note in each.notes)


def count_of(found: list, what: str) -> int:
    return sum(note.count for each in found for note in each.notes if what in note.text)


def magnitude(curve, band: str) -> np.ndarray:
    """Magnitudes of a band where it was observed."""
    at = curve.bands.index(band)
    return 22.5 - 2.5 * np.log10(curve.rate[curve.observed[:, at], at])


def days(curve) -> list[float]:
    return (curve.time / DAY).round(6).tolist()


# surveys ----------------------------------------------------------------------------------------------------

IRSA = (
    "oid,expid,hjd,mjd,mag,magerr,catflags,filtercode,ra,dec,chi,sharp,filefracday,field,ccdid,qid,limitmag,magzp,"
    "magzprms,clrcoeff,clrcounc,exptime,airmass,programid\n"
)


def irsa_row(oid, mjd, mag, flags, band) -> str:
    rest = "1.0,2.0,1,0,2018,600,1,1,20.8,26.3,0.03,0,0,30,1,1"
    return f"{oid},1,{mjd + 2400000.5},{mjd},{mag},0.02,{flags},{band},{rest}\n"


def test_ztf_from_irsa_knows_objects_bands_and_flags(tmp_path):
    rows = [irsa_row(11, 58000 + n, 16.0 + 0.1 * n, 0, "zg") for n in range(4)]
    rows += [irsa_row(12, 58000.3 + n, 18.0, 0, "zr") for n in range(3)]
    rows += [irsa_row(12, 58009, 12.0, 32768, "zr"), irsa_row(12, 58008, 18.0, 4096, "zr")]
    found = found_in(tmp_path, IRSA + "".join(rows))
    g, r = (each.curve for each in found)
    assert (g.source, r.source) == ("11", "12") and g.bands == r.bands == ("g", "r")
    np.testing.assert_allclose(magnitude(g, "g"), [16, 16.1, 16.2, 16.3], atol=1e-5)
    np.testing.assert_allclose(magnitude(r, "r"), [18] * 4, atol=1e-5)
    assert days(g) == [58000, 58001, 58002, 58003]
    notes = texts_of(found)
    assert "mjd is the time, not hjd" in notes
    assert "catflags=0..32767" in notes and "magzp not used" in notes and "each oid has one band" in notes
    (joined,) = found_in(tmp_path, IRSA + "".join(rows), columns=["id=none"])
    assert joined.curve.source == "star" and len(joined.curve.time) == 8
    every = found_in(tmp_path, IRSA + "".join(rows), quality=["none"])
    assert sum(len(each.curve.time) for each in every) == 9


def test_ztf_alerts_have_signs_and_limits(tmp_path):
    """ALeRCE's columns; Fink's are the same behind a prefix."""
    text = (
        "oid,candid,mjd,fid,diffmaglim,magpsf,sigmapsf,isdiffpos\n"
        "ZTF18a,901,58001,1,20.5,19.0,0.1,t\nZTF18a,902,58002,2,20.5,19.0,0.1,f\n"
        "ZTF18a,903,58003,1,20.5,,,\nZTF18a,904,58004,1,20.5,18.0,0.1,1\nZTF18a,905,58005,1,20.5,18.0,0.1,-1\n"
        "ZTF18b,906,58005,2,20.0,17.0,0.1,true\n"
    )
    found = found_in(tmp_path, text)
    a, b = (each.curve for each in found)
    assert (a.source, b.source) == ("ZTF18a", "ZTF18b") and a.bands == ("g", "r")
    signs = np.sign(a.rate.sum(1)).tolist()
    assert signs == [1, -1, 0, 1, -1]
    np.testing.assert_allclose(np.abs(a.rate[0, 0]), 10 ** (0.4 * 3.5), rtol=1e-6)
    # five standard deviations, as an upper limit is known: nothing below it is excluded
    np.testing.assert_allclose(a.error_up[2, 0], 10 ** (0.4 * 2.0) / 5, rtol=1e-6)
    assert a.observed[2, 0] and a.rate[2, 0] == a.error_low[2, 0] == 0
    assert (a.error_low[1] != a.rate[1]).any()
    notes = texts_of(found)
    assert "isdiffpos false" in notes and "upper limits" in notes and "fid taken as 1=g 2=r 3=i" in notes
    fink = text.replace("oid,candid,mjd", "i:objectId,i:candid,i:jd").replace(",fid", ",i:fid")
    fink = fink.replace("magpsf,sigmapsf,isdiffpos", "i:magpsf,i:sigmapsf,i:isdiffpos")
    again = found_in(tmp_path, fink)
    assert np.array_equal(again[0].curve.rate, a.rate) and again[0].curve.source == "ZTF18a"


def test_an_id_that_numbers_the_rows_is_no_object(tmp_path):
    rows = "".join(f"{n},{58000 + n},17,0.1\n" for n in range(9))
    curve, notes = one(tmp_path, "id,mjd,mag,magerr\n" + rows)
    assert curve.source == "star" and len(curve.time) == 9 and "id numbers the rows" in notes


def test_ztf_forced_photometry(tmp_path):
    """Header between commas, rows between blanks, a zero point in each row."""
    text = (
        "# Requested input R.A. = 1.0 degrees\n#\n"
        "index, field, filter, infobitssci, diffmaglim, zpdiff, jd, forcediffimflux, forcediffimfluxunc, "
        "procstatus\n"
        " 0 600 ZTF_g 0 20.0 26.0 2458200.5 100.0 10.0 0\n 1 600 ZTF_r 0 20.0 27.0 2458201.5 -50.0 10.0 0\n"
        " 2 600 ZTF_g 67108864 20.0 26.0 2458202.5 100.0 10.0 0\n"
        " 3 600 ZTF_g 0 20.0 26.0 2458203.5 100.0 10.0 61\n"
    )
    curve, notes = one(tmp_path, text, "ZTF19x.txt")
    assert curve.source == "ZTF19x" and curve.bands == ("g", "r") and days(curve) == [58200, 58201]
    np.testing.assert_allclose(curve.rate[0, 0], 100 * 10 ** (-0.4 * 3.5), rtol=1e-6)
    np.testing.assert_allclose(curve.rate[1, 1], -50 * 10 ** (-0.4 * 4.5), rtol=1e-6)
    assert "several zero points (zpdiff)" in notes and "Julian dates" in notes and "procstatus" in notes


def test_asas_sn_web_has_fluxes_below_its_limits(tmp_path):
    text = (
        "HJD,UT Date,Camera,FWHM,Limit,mag,mag_err,flux(mJy),flux_err,Filter\n"
        "2458000.47009,2017-09-03.9710173,be,1.77,15.518,14.839,0.117,4.448,0.477,V\n"
        "2458002.51020,2017-09-06.0112978,be,2.03,14.814,>14.814,99.990,4.020,0.911,V\n"
        "2458003.51020,2017-09-07.0112978,bA,2.03,14.814,>14.814,99.990,,,g\n"
    )
    curve, notes = one(tmp_path, text)
    assert curve.bands == ("g", "V")[::-1] and len(curve.time) == 3
    to_ours = 10 ** (0.4 * (22.5 - 16.4))
    np.testing.assert_allclose(curve.rate[:2, 0], np.array([4.448, 4.020]) * to_ours, rtol=1e-6)
    np.testing.assert_allclose(curve.error_up[2, 1], 10 ** (0.4 * (22.5 - 14.814)) / 5, rtol=1e-6)
    assert curve.rate[2, 1] == 0 and "flux in mJy" in notes and "is used, not mag" in notes


@pytest.mark.parametrize(
    "header",
    [
        "JD,Flux,Flux Error,Mag,Mag Error,Limit,FWHM,Filter,Quality,Camera",
        "jd,flux,flux_err,mag,mag_err,limit,fwhm,phot_filter,quality,camera",
    ],
)
def test_sky_patrol_takes_good_rows(tmp_path, header):
    text = (
        "# ASAS-SN Sky Patrol v2.0\n# position\n\n"
        + header
        + "\n2457148.5,26.0455,0.13,12.92,0.005,16.9,1.7,V,G,bb\n"
        "2457164.5,27.0177,0.07,12.88,0.003,17.6,1.98,V,B,bb\n2457275.5,22.4170,0.11,13.08,0.005,17.1,2.06,g,G,bc\n"
    )
    curve, notes = one(tmp_path, text)
    assert days(curve) == [57148, 57275] and curve.bands == ("g", "V")[::-1] and "quality" in notes.lower()
    np.testing.assert_allclose(curve.rate[0, 0], 26.0455 * 10 ** (0.4 * (22.5 - 16.4)), rtol=1e-6)
    assert len(one(tmp_path, text, quality=["none"])[0].time) == 3
    assert len(one(tmp_path, text, quality=["none", "quality=B"])[0].time) == 1


ATLAS = (
    "###MJD          m      dm   uJy   duJy F err chi/N     RA       Dec        x        y     maj  min   "
    "phi  apfit mag5sig Sky   Obs\n"
    "57232.6 18.1  0.1   210   17 o  0   1.05 161.19 53.66 356.2 1198.4 6.3 6.3 0.0 -0.2 18.9 20.1 01a\n"
    "57233.6 -19.9 0.9   -40   40 c  0   1.05 161.19 53.66 356.2 1198.4 6.3 6.3 0.0 -0.2 18.9 20.1 01a\n"
    "57234.6 20.1  0.9    33   33 c  0   1.05 161.19 53.66 356.2 1198.4 6.3 6.3 0.0 -0.2 18.9 20.1 01a\n"
    "57235.6 20.1  0.9   999   33 c  1   1.05 161.19 53.66 356.2 1198.4 6.3 6.3 0.0 -0.2 18.9 20.1 01a\n"
)


def test_atlas_forced_photometry(tmp_path):
    curve, notes = one(tmp_path, ATLAS, "a.txt")
    assert curve.bands == ("c", "o") and len(curve.time) == 3 and "err=0" in notes
    scale = 10 ** (-0.4 * (23.9 - 22.5))
    np.testing.assert_allclose(curve.rate.sum(1), np.array([210, -40, 33]) * scale, rtol=1e-6)
    np.testing.assert_allclose(curve.error_up.sum(1), np.array([17, 40, 33]) * scale, rtol=1e-6)
    # whole numbers: a flux that happens to equal its error is no upper limit
    assert (np.abs(curve.error_low - curve.rate) > 5e-5 * np.abs(curve.rate))[curve.observed].all()


def test_plasticc(tmp_path):
    text = "object_id,mjd,passband,flux,flux_err,detected_bool\n" + "".join(
        f"615,{59750 + n},{n % 6},{-500.0 + n},{3.0},1\n" for n in range(12)
    )
    curve, notes = one(tmp_path, text)
    assert curve.source == "615" and curve.bands == ("u", "g", "r", "i", "z", "y") and "0=u 1=g" in notes
    np.testing.assert_allclose(curve.rate.sum(1), -500.0 + np.arange(12))


@pytest.mark.parametrize("quality, bit", [("QUALITY", 128), ("SAP_QUALITY", 256)])
def test_tess_and_kepler_tables(tmp_path, quality, bit):
    text = (
        f"TIME,TIMECORR,CADENCENO,SAP_FLUX,SAP_FLUX_ERR,PDCSAP_FLUX,PDCSAP_FLUX_ERR,{quality}\n"
        f"1325.1,0.001,1,900,9,1000,10,0\n1325.2,0.001,2,900,9,1001,10,{bit}\n1325.3,0.001,3,900,9,,,0\n"
        "1325.4,0.001,4,900,9,1003,10,0\n"
    )
    curve, notes = one(tmp_path, text, "tic149603524.csv")
    assert curve.source == "tic149603524" and curve.rate[:, 0].tolist() == [1000, 1003] and quality in notes
    assert "as they stand, in a unit that is not written" in notes
    assert curve.error_up[:, 0].tolist() == [10, 10] and days(curve) == [1325.1, 1325.4]
    assert one(tmp_path, text, quality=["none", f"{quality}~64"])[0].rate[:, 0].tolist() == [1000, 1001, 1003]


def test_gaia_in_both_of_its_forms(tmp_path):
    long = (
        "source_id,transit_id,band,time,mag,flux,flux_error,flux_over_error,rejected_by_photometry,"
        "rejected_by_variability,other_flags,solution_id\n"
        "77,1,G,1705.1,15.0,1000,2,500,false,false,1,3\n77,1,BP,1705.1001,15.2,700,3,200,false,false,0,3\n"
        "77,2,G,1706.1,15.0,1010,2,500,true,false,1,3\n77,3,G,1707.1,15.0,1020,2,500,False,False,1,3\n"
    )
    curve, notes = one(tmp_path, long)
    assert (
        curve.source == "77"
        and curve.bands == ("BP", "G")
        and curve.rate.tolist() == [[700, 1000], [0, 1020]]
    )
    assert "rejected_by_photometry" in notes and "flux is used, not mag" in notes
    wide = (
        "solution_id,source_id,transit_id,g_transit_time,g_transit_flux,g_transit_flux_error,"
        "g_transit_flux_over_error,g_transit_mag,bp_obs_time,bp_flux,bp_flux_error,bp_flux_over_error,bp_mag,"
        "rp_obs_time,rp_flux,rp_flux_error,rp_flux_over_error,rp_mag,variability_flag_g_reject,"
        "variability_flag_bp_reject,variability_flag_rp_reject\n"
        "3,77,1,1756.8137,61379.6,66.4,924,13.71,1756.81399,38115.5,95.0,401,13.88,1756.81408,33731.7,88.0,382,13.4,"
        "false,false,false\n3,77,2,1808.3702,85639.9,111.8,765,13.35,,,,,,,,,,,false,true,true\n"
        "3,77,3,1820.0,85639.9,111.8,765,13.35,1820.0,1,1,1,1,1820.0,5,1,5,1,true,false,true\n"
    )
    curve, notes = one(tmp_path, wide)
    assert curve.bands == ("BP", "G", "RP") and len(curve.time) == 3 and "columns of a band each" in notes
    assert curve.observed.tolist() == [[True] * 3, [False, True, False], [True, False, False]]
    np.testing.assert_allclose(curve.rate[0], [38115.5, 61379.6, 33731.7], rtol=1e-6)


@pytest.mark.parametrize(
    "header", ["mjd,mag_g,magerr_g,mag_r,magerr_r", "mjd,g,g_err,r,r_err", "mjd,gmag,gmagerr,rmag,rmagerr"]
)
def test_a_column_for_each_band(tmp_path, header):
    curve, notes = one(tmp_path, header + "\n58000,16,0.1,18,0.1\n58001,16,0.1,,\n58002,,,18,0.2\n")
    assert curve.bands == ("g", "r") and curve.observed.tolist() == [[1, 1], [1, 0], [0, 1]]
    np.testing.assert_allclose(magnitude(curve, "r"), [18, 18], atol=1e-5)


def test_crts_lsst_pan_starrs_antares_aavso(tmp_path):
    crts = "MasterID,Mag,Magerr,RA,Dec,MJD,Blend\n1012,15.1,0.1,1,2,53500,0\n1012,15.2,0.1,1,2,53501,1\n"
    curve, notes = one(tmp_path, crts)
    assert curve.source == "1012" and len(curve.time) == 1 and "Blend=0" in notes
    lsst = "diaObjectId,diaSourceId,midpointMjdTai,band,psfFlux,psfFluxErr\n"
    lsst += "9,1,60000,g,-100,10\n9,2,60001,r,50,10\n"
    curve, notes = one(tmp_path, lsst)
    np.testing.assert_allclose(curve.rate.sum(1), np.array([-100, 50]) * 10 ** (-0.4 * 8.9), rtol=1e-6)
    assert curve.source == "9" and "nJy" in notes
    stars = (
        "objID,detectID,filterID,obsTime,psfFlux,psfFluxErr\n9,1,1,56000,1e-3,1e-5\n9,2,5,56001,1e-3,1e-5\n"
    )
    assert one(tmp_path, stars)[0].bands == ("g", "y")
    antares = "ant_mjd,ant_survey,ant_mag,ant_magerr,ant_passband,ant_maglim\n"
    antares += "59000,1,18,0.1,g,20\n59001,2,,,R,20.5\n"
    curve, notes = one(tmp_path, antares)
    assert curve.bands == ("R", "g") and curve.rate[1, 0] == 0 and "upper limits" in notes
    aavso = "JD,Magnitude,Uncertainty,Band,Observer Code,Star Name\n"
    aavso += "2458000.5,11.2,0.1,V,X,R Leo\n2458001.5,<12.5,,V,X,R Leo\n"
    curve, notes = one(tmp_path, aavso)
    assert (
        curve.source == "R Leo"
        and curve.bands == ("V",)
        and curve.error_up[1, 0] > 0
        and curve.rate[1, 0] == 0
    )


def test_one_column_of_one_band(tmp_path):
    curve, _ = one(tmp_path, "HJD,Vmag,e_Vmag\n2458000.5,15,0.1\n2458001.5,16,0.1\n")
    assert curve.bands == ("V",)
    np.testing.assert_allclose(magnitude(curve, "V"), [15, 16], atol=1e-5)


def test_whole_numbers_with_a_point_are_whole(tmp_path):
    """As pandas writes a column of whole numbers with a blank in it."""
    text = "oid,mjd,fid,magpsf,sigmapsf\n7.0,1,1.0,17,0.1\n7.0,2,2.0,17,0.1\n,3,,17,0.1\n"
    curve, _ = one(tmp_path, text)
    assert curve.source == "7" and curve.bands == ("g", "r")
    _, notes = one(tmp_path, "oid,mjd,mag,magerr\n1.02e+18,1,17,0.1\n1.02e+18,2,17,0.1\n")
    assert "digits are lost" in notes


def test_filled_fluxes_are_no_measurements(tmp_path):
    curve, notes = one(tmp_path, "mjd,flux,fluxerr\n1,-99,-99\n2,5.5,1\n3,-999,1\n4,inf,1\n5,-3.5,1\n")
    assert curve.rate[:, 0].tolist() == [5.5, -3.5] and "without a finite value" in notes


def test_survey_names_are_plain():
    for survey in SURVEYS:
        for name in (*survey.known_by, *survey.columns.values()):
            assert plain_name(name) == name, (survey.name, name)


# containers and dialects ------------------------------------------------------------------------------------

PLAIN = "mjd,mag,magerr\n58000,17.0,0.1\n58001,17.5,0.1\n"


@pytest.mark.parametrize(
    "name, text",
    [
        ("a.csv", PLAIN),
        ("a.tsv", PLAIN.replace(",", "\t")),
        ("a.csv", PLAIN.replace(",", ";")),
        ("a.csv", PLAIN.replace(",", " | ")),
        ("a.dat", PLAIN.replace(",", "   ")),
        ("a.dat", "#" + PLAIN.replace(",", " ")),
        ("a.txt", "# by us\n# " + PLAIN.replace(",", ", ")),
        ("a.csv", PLAIN.replace("\n", "\r\n")),
        ("a.csv", "\ufeff" + PLAIN),
        ("a.csv", PLAIN.encode("utf-16")),
        ("a.csv", PLAIN.replace("magerr", "magerr,note").replace("0.1\n", '0.1,"5, or so"\n')),
        (
            "a.csv",
            PLAIN.replace("mjd", "mjd,remark \u03bc")
            .replace("\n5", "\n5")
            .replace("58001,", "58001,\xb5,")
            .replace("58000,", "58000,x,")
            .replace("\u03bc", "\xb5")
            .encode("latin-1"),
        ),
        ("a.csv", PLAIN.replace(",", ";").replace(".", ",")),
        ("a.csv", '"mjd","mag","magerr"\n"58000","17.0","0.1"\n"58001","17.5","0.1"\n'),
        ("a.csv", ",mjd,mag,magerr\n0,58000,17.0,0.1\n1,58001,17.5,0.1\n"),
        ("a.csv.gz", gzip.compress(PLAIN.encode(), mtime=0)),
        ("a.csv.bz2", bz2.compress(PLAIN.encode())),
        ("a.csv", PLAIN.replace("58001", "# a remark\n58001")),
        ("a.csv", PLAIN.replace("\n", ",\n")),  # the header has the comma too
        ("a.csv", PLAIN.replace("0.1\n", "0.1,\n")),  # it has none
        ("a.csv", PLAIN.replace("17.0,0.1\n", "17.0,0.1,\n")),  # one row has
        ("a.csv", "MJD (d),Mag [mag],Mag_Err\n58000,17.0,0.1\n58001,17.5,0.1"),
    ],
)
def test_dialects_of_text(tmp_path, name, text):
    curve, notes = one(tmp_path, text, name)
    assert days(curve) == [58000, 58001] and "left out" not in notes, notes
    np.testing.assert_allclose(magnitude(curve, "1"), [17, 17.5], atol=1e-5)


def test_ragged_rows_are_counted(tmp_path):
    curve, notes = one(tmp_path, PLAIN + "58002,17\n58003,17,0.1,9,9\n58004,17,0.1\n")
    assert days(curve) == [58000, 58001, 58004] and "another number of fields" in notes


def test_a_table_without_a_header(tmp_path):
    """Julian date, magnitude, error."""
    text = "2455000.5 17.0 0.1\n2455001.5 17.5 0.1\n"
    with pytest.raises(BadFile, match=r"--columns time=1 mag=2 \(or rate=2\) error=3"):
        found_in(tmp_path, text, "star-1.dat")
    curve, _ = one(tmp_path, text, "star-1.dat", columns=["time=1", "mag=2", "error=3"])
    assert curve.source == "star-1" and days(curve) == [55000, 55001]


def test_ecsv_with_units_masks_and_times(tmp_path):
    table = Table()
    table["time"] = Time([58000.0, 58001.0, 58002.0], format="mjd", scale="utc")
    table["flux"] = MaskedColumn([1.0, 2.0, 3.0], mask=[False, True, False], unit="uJy")
    table["flux_err"] = Column([0.1, 0.1, 0.1], unit="uJy")
    table["band"] = ["g", "g", "r"]
    table.write(tmp_path / "a.ecsv", format="ascii.ecsv")
    (found,) = find_light_curves(tmp_path / "a.ecsv", Reading())
    assert days(found.curve) == [58000, 58002] and found.curve.bands == ("g", "r")
    np.testing.assert_allclose(found.curve.rate.sum(1), np.array([1, 3]) * 10 ** (-0.4 * 1.4), rtol=1e-6)
    assert "flux in uJy" in texts_of([found])
    seconds = Table({"time": Column([1e5, 2e5], unit="s"), "flux": [1.0, 2.0], "flux_err": [0.1, 0.1]})
    for name, kind in (("b.ecsv", "ascii.ecsv"), ("b.vot", "votable"), ("b.tbl", "ascii.ipac")):
        seconds.write(tmp_path / name, format=kind)
        (found,) = find_light_curves(tmp_path / name, Reading())
        assert found.curve.time.tolist() == [1e5, 2e5], name


def test_parquet_flat_and_nested(tmp_path):
    flat = pd.DataFrame(
        {
            "objectId": [1, 1, 2, 2],
            "mjd": [58000.0, 58001, 58000, 58001],
            "flux": np.float32([1, 2, 3, 4]),
            "fluxerr": np.float32([0.1] * 4),
            "band": pd.Categorical(["g", "r", "g", "r"]),
        }
    )
    flat.to_parquet(tmp_path / "flat.parquet")
    lists = flat.groupby("objectId").agg(list).reset_index()
    pq.write_table(pa.Table.from_pandas(lists, preserve_index=False), tmp_path / "lists.parquet")
    records = [
        {"objectId": name, "lc": group[["mjd", "flux", "fluxerr", "band"]].to_dict("records")}
        for name, group in flat.groupby("objectId")
    ]
    pq.write_table(pa.Table.from_pylist([*records, {"objectId": 3, "lc": []}]), tmp_path / "records.parquet")
    columns = [
        {"objectId": name, "lc": {key: group[key].tolist() for key in ("mjd", "flux", "fluxerr", "band")}}
        for name, group in flat.groupby("objectId")
    ]
    pq.write_table(pa.Table.from_pylist(columns), tmp_path / "columns.parquet")
    expected = find_light_curves(tmp_path / "flat.parquet", Reading())
    assert [each.curve.source for each in expected] == ["1", "2"]
    assert expected[1].curve.rate.tolist() == [[3, 0], [0, 4]]
    for name in ("lists", "records", "columns"):
        found = find_light_curves(tmp_path / f"{name}.parquet", Reading())
        assert len(found) == 2
        for each, other in zip(found, expected):
            assert each.curve.source == other.curve.source and np.array_equal(
                each.curve.rate, other.curve.rate
            )
            assert np.array_equal(each.curve.time, other.curve.time)
        assert ("list of observations is empty" in texts_of(found)) == (name == "records")
    ragged = pa.Table.from_pylist([{"id": 1, "mjd": [1.0, 2.0], "mag": [17.0], "magerr": [0.1, 0.1]}])
    pq.write_table(ragged, tmp_path / "ragged.parquet")
    with pytest.raises(BadFile, match="in row 1 the list mag has 1 items and mjd 2"):
        find_light_curves(tmp_path / "ragged.parquet", Reading())


def test_ztf_bulk_parquet(tmp_path):
    row = dict(
        objectid=5, filterid=2, hmjd=[58000.0, 58001], mag=[17.0, 18], magerr=[0.1, 0.1], catflags=[0, 32768]
    )
    pq.write_table(pa.Table.from_pylist([row, row | dict(objectid=6, filterid=1)]), tmp_path / "a.parquet")
    found = find_light_curves(tmp_path / "a.parquet", Reading())
    assert [each.curve.bands for each in found] == [("g", "r")] * 2
    assert [each.curve.observed.tolist() for each in found] == [[[False, True]], [[True, False]]]


# what a text is ---------------------------------------------------------------------------------------------


def test_a_text_light_curve_is_not_taken_for_a_manifest(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    files = {"a.txt": ATLAS, "b.dat": "2455000.5 17.0 0.1\n2455001.5 17.5 0.1\n", "c.csv": PLAIN}
    for name, text in {
        **files,
        "notes.txt": "we saw 17 stars\non 3 nights\n",
        "list.txt": "a.txt\nb.dat\n",
    }.items():
        (tmp_path / "in" / name).write_text(text)
    found = list_light_curves(str(tmp_path / "in"))
    assert [Path(path).name for path in found] == ["a.txt", "b.dat", "c.csv"]
    assert "no tables, left out: 2, first list.txt notes.txt" in capsys.readouterr().err
    for name in ("x.json", "y.json", "z.xlsx"):
        (tmp_path / "in" / name).touch()
    assert list_light_curves(str(tmp_path / "in")) == found
    assert "that are not read as light curves: .json 2, .xlsx 1" in capsys.readouterr().err
    assert list_light_curves(str(tmp_path / "in/a.txt")) == [str(tmp_path / "in/a.txt")]
    assert list_light_curves(str(tmp_path / "in/list.txt")) == found[:2]
    (tmp_path / "in/odd.txt").write_text("1 2 3.csv\n4 5 6.csv\n")  # names of numbers and blanks
    assert len(list_light_curves(str(tmp_path / "in/odd.txt"))) == 2
    (tmp_path / "in/packed.txt.gz").write_bytes(gzip.compress(ATLAS.encode()))
    assert list_light_curves(str(tmp_path / "in/packed.txt.gz")) == [str(tmp_path / "in/packed.txt.gz")]


def test_a_web_page_is_named(tmp_path):
    with pytest.raises(BadFile, match="a web page"):
        found_in(tmp_path, "<!DOCTYPE html>\n<html><body>log in, please</body></html>")


# columns ----------------------------------------------------------------------------------------------------


def test_columns_say_which_is_which(tmp_path):
    text = "day,brightness,plus_minus,colour_filter,who\n1,16,0.1,g,A\n2,18,0.1,r,A\n1,16,0.1,g,B\n"
    with pytest.raises(BadFile, match="there are day brightness.*--columns time="):
        found_in(tmp_path, text)
    say = ["time=day", "mag=brightness", "error=plus_minus", "id=who"]
    found = found_in(tmp_path, text, columns=[*say, "band=colour_filter"])
    assert [each.curve.source for each in found] == ["A", "B"] and found[0].curve.bands == ("g", "r")
    np.testing.assert_allclose(magnitude(found[0].curve, "r"), [18], atol=1e-5)
    # a column that can only be a band is taken, and said
    again = found_in(tmp_path, text, columns=say)
    assert again[0].curve.bands == ("g", "r") and "colour_filter taken for the band" in texts_of(again)
    (flux,) = found_in(tmp_path, "t,f,e\n1,5,1\n2,6,1\n", columns=["time=t", "rate=f", "error=e"])
    assert flux.curve.rate[:, 0].tolist() == [5, 6]
    with pytest.raises(BadFile, match="no column 'nothing'"):
        found_in(tmp_path, text, columns=[*say, "band=nothing"])


def test_columns_that_could_be_an_id_or_a_band_are_named(tmp_path):
    text = "mjd,mag,magerr,band,alt_filter,host_id\n1,16,0.1,g,G,5\n2,16,0.1,g,G,5\n3,16,0.1,g,R,6\n"
    _, notes = one(tmp_path, text)
    assert "not used: alt_filter host_id" in notes


def test_two_bands_are_never_one_curve_in_silence(tmp_path):
    """16 and 18 magnitudes in turn: a column that tells them apart is asked for; without one it is said."""
    random = np.random.default_rng(0)
    rows = [(58000 + n, 16 + 2 * (n % 2) + random.normal(0, 0.05), "AB"[n % 2]) for n in range(40)]
    text = "mjd,mag,magerr,camera\n" + "".join(f"{t},{m:.3f},0.05,{c}\n" for t, m, c in rows)
    with pytest.raises(BadFile, match="column camera .A B. tells two levels.*2.0.*--columns band=camera"):
        found_in(tmp_path, text)
    assert one(tmp_path, text, columns=["band=camera"])[0].bands == ("A", "B")
    assert one(tmp_path, text, columns=["band=none"])[0].bands == ("1",)
    _, notes = one(tmp_path, "mjd,mag,magerr\n" + "".join(f"{t},{m:.3f},0.05\n" for t, m, _ in rows))
    assert "jumps between two levels" in notes


@pytest.mark.parametrize("kind", ["sine", "eclipse", "supernova", "two cameras"])
def test_true_variables_are_not_taken_for_two_bands(tmp_path, kind):
    random = np.random.default_rng(1)
    t = np.sort(random.uniform(0, 300, 300))
    mag = {
        "sine": 16 + np.sin(2 * np.pi * t / 0.57),
        "eclipse": 16 + 1.5 * (t % 2.3 < 0.3),
        "supernova": 20 - 4 * np.exp(-0.5 * ((t - 100) / 30) ** 2),
        "two cameras": 16 + np.zeros(300),
    }[kind] + random.normal(0, 0.02, 300)
    camera = np.where(t > 150, "B", "A") if kind == "supernova" else random.choice(["A", "B"], 300)
    rows = "".join(f"{a:.5f},{b:.4f},0.02,{c}\n" for a, b, c in zip(t, mag, camera))
    _, notes = one(tmp_path, "mjd,mag,magerr,camera\n" + rows)
    assert "jumps" not in notes


@pytest.mark.parametrize(
    "words",
    [
        ["--columns", "hour=mjd"],
        ["--columns", "time"],
        ["--time_unit", "fortnight"],
        ["--quality", "flags"],
        ["--assumed_error", "-1"],
        ["--limit_sigma", "0"],
    ],
)
def test_options_of_tables_are_checked(words):
    with pytest.raises(Mistake, match=words[0]):
        read_options(words, Reading)


def test_options_of_tables_are_read():
    (reading,) = read_options(
        ["--columns", "time=mjd", "rate=f", "--quality", "none", "flags~175", "--time_unit", "s"], Reading
    )
    assert reading.columns == ["time=mjd", "rate=f"] and reading.quality == ["none", "flags~175"]


# rows -------------------------------------------------------------------------------------------------------


def test_a_row_without_time_is_one_row(tmp_path):
    """Not all the sources of its file."""
    rows = "".join(f"s{n % 500},{58000 + n},17,0.1\n" for n in range(1500))
    found = found_in(tmp_path, "id,mjd,mag,magerr\n" + rows + "s7,,17,0.1\n,58000,17,0.1\ns8,-999,17,0.1\n")
    assert len(found) == 500 and sum(len(each.curve.time) for each in found) == 1500
    notes = texts_of(found)
    assert "rows without a time, left out" in notes and "rows without an object, left out" in notes


def test_unsorted_and_doubled_rows_are_said(tmp_path):
    text = "mjd,mag,magerr\n3,17,0.1\n1,15,0.1\n2,16,0.1\n2,99,0.1\n2,19,0.1\n"
    curve, notes = one(tmp_path, text)
    np.testing.assert_allclose(magnitude(curve, "1"), [15, 16, 17], atol=1e-5)
    assert "not in order of time, sorted" in notes and "at the time and in the band of another" in notes
    assert "without a finite value" in notes


@pytest.mark.parametrize(
    "name", ["lightcurve.csv", "lc.csv.gz", "light_curve.parquet", "g.csv", "ztf_r.dat", "data.fits"]
)
def test_a_general_name_is_that_of_its_folder(name):
    assert source_of(f"sample/SN2011fe/{name}") == "SN2011fe" and source_of(name) != ""


def test_objects_in_their_own_folders(tmp_path):
    names = [found_in(tmp_path, PLAIN, f"{name}/lightcurve.csv")[0].curve.source for name in ("A", "B")]
    assert names == ["A", "B"]
    _, notes = one(tmp_path, PLAIN, "A/lightcurve.csv")
    assert "named after their folder" in notes


def test_zero_points_of_rows(tmp_path):
    text = "mjd,band,flux,fluxerr,zp,zpsys\n1,g,100,10,25,ab\n2,g,1000,10,27.5,ab\n"
    curve, notes = one(tmp_path, text)
    np.testing.assert_allclose(curve.rate[:, 0], [10.0, 10.0], rtol=1e-6)
    assert "several zero points (zp)" in notes and "zpsys" not in notes
    assert "zpsys vega" in one(tmp_path, text.replace("ab", "vega"))[1]
    # magnitudes are calibrated, until it is said that they are not
    text = "mjd,mag,magerr,magzp\n1,-8,0.1,25\n2,-8,0.1,26\n"
    curve, notes = one(tmp_path, text)
    np.testing.assert_allclose(magnitude(curve, "1"), [-8, -8], atol=1e-5)
    assert "magzp not used" in notes
    curve, notes = one(tmp_path, text, columns=["zero_point=magzp"])
    np.testing.assert_allclose(magnitude(curve, "1"), [17, 18], atol=1e-5)


def test_flags_of_unknown_meaning_are_named(tmp_path):
    text = "mjd,mag,magerr,flags\n1,17,0.1,0\n2,17,0.1,4\n3,17,0.1,0\n"
    curve, notes = one(tmp_path, text)
    assert len(curve.time) == 3 and "flags that are not used: flags" in notes
    assert len(one(tmp_path, text, quality=["flags=0"])[0].time) == 2
    assert len(one(tmp_path, text, quality=["flags~3"])[0].time) == 3
    assert "says nothing here" in one(tmp_path, text, quality=["blend=0"])[1]
    with pytest.raises(BadFile, match="no point left: rows against --quality flags=8"):
        found_in(tmp_path, text, quality=["flags=8"])


@pytest.mark.parametrize(
    "text, words",
    [
        ("mjd,mag,magerr\n2458000.5,17,0.1\n58001,17,0.1\n", "are Julian dates.*58001.*2458001.5"),
        (
            "time,mag,magerr\n0,17,0.1\n1000000,17,0.1\n",
            "1,000,000 d .2,738 years. if they are days, 11.57 d if.* s",
        ),
        ("time,mag,magerr\n1500000000000000000,17,0.1\n1500086400000000000,17,0.1\n", "1 d if they are ns"),
        ("time,rate,error\n500000000,17,0.1\n500001000,17,0.1\n", "if they are s: say which"),
    ],
)
def test_times_that_cannot_be_days_are_refused_with_both_readings(tmp_path, text, words):
    with pytest.raises(BadFile, match=words):
        found_in(tmp_path, text)


def test_units_of_time(tmp_path):
    text = "time,rate,error\n500000000,17,0.1\n500001000,17,0.1\n"
    assert one(tmp_path, text, time_unit="s")[0].time.tolist() == [5e8, 5e8 + 1000]
    text = "time,mag,magerr\n1500000000000000000,17,0.1\n1500086400000000000,17,0.1\n"
    assert np.diff(one(tmp_path, text, time_unit="ns")[0].time).tolist() == [86400]
    assert one(tmp_path, "time (s),rate,error\n5,17,0.1\n6,17,0.1\n")[0].time.tolist() == [5, 6]
    curve, notes = one(tmp_path, "JD,mag,magerr\n2458000.5,17,0.1\n2458001.5,17,0.1\n")
    assert days(curve) == [58000, 58001] and "Julian dates" in notes
    curve, notes = one(
        tmp_path, "obs_time,mag,magerr\n2017-09-04T00:00:00,17,0.1\n2017-09-05 12:00:00,17,0.1\n"
    )
    assert days(curve) == [Time("2017-09-04").mjd, 58001.5] and "dates: taken as UTC" in notes


def test_tables_without_errors_need_a_stated_model(tmp_path):
    random = np.random.default_rng(2)
    flux = 100 + random.normal(0, 3, 400)
    text = "mjd,flux\n" + "".join(f"{n},{value:.5f}\n" for n, value in enumerate(flux))
    with pytest.raises(BadFile, match="no errors beside flux.*--assumed_error"):
        found_in(tmp_path, text)
    curve, notes = one(tmp_path, text, assumed_error="0.02")
    np.testing.assert_allclose(curve.error_up, 0.02 * np.median(flux), rtol=1e-5)
    assert "errors assumed: 0.02 of the median flux" in notes
    curve, notes = one(tmp_path, text, assumed_error="scatter")
    assert curve.error_up[0, 0] == pytest.approx(3, rel=0.15) and "scatter from point to point" in notes
    curve, notes = one(tmp_path, "mjd,mag\n1,17\n2,18\n", assumed_error="0.1")
    np.testing.assert_allclose(curve.error_up / curve.rate, 0.1 * 0.4 * np.log(10), rtol=1e-5)
    # errors that are there stay
    curve, _ = one(tmp_path, "mjd,mag,magerr\n1,17,0.5\n2,18,\n", assumed_error="0.1")
    np.testing.assert_allclose((curve.error_up / curve.rate)[:, 0], [0.5 * 0.921034, 0.0921034], rtol=1e-5)


@pytest.mark.parametrize("unit", [1e-42, 1e-60, 1e40])
def test_fluxes_that_32_bits_do_not_hold(tmp_path, unit):
    """Not rates of 0 with errors of 0 that count as observed."""
    text = "mjd,flux,fluxerr\n" + "".join(f"{n},{(5 + n) * unit},{unit}\n" for n in range(3))
    curve, notes = one(tmp_path, text)
    np.testing.assert_allclose(curve.rate[:, 0] / curve.error_up[:, 0], [5, 6, 7], rtol=1e-5)
    assert "rates in units of 1e" in notes and np.isfinite(curve.rate).all() and (curve.rate > 0).all()


@pytest.mark.parametrize("name, rows", [("upper_limit", "01"), ("limit", "FT"), ("limit", ["19.5", "18"])])
def test_limits_marked_in_a_column_of_their_own(tmp_path, name, rows):
    value = "" if len(rows[1]) > 1 else "18"
    text = f"mjd,mag,magerr,{name}\n1,17,0.1,{rows[0]}\n2,{value},,{rows[1]}\n"
    curve, notes = one(tmp_path, text, limit_sigma=3.0)
    np.testing.assert_allclose(curve.error_up[1, 0], 10 ** (0.4 * 4.5) / 3, rtol=1e-6)
    assert curve.rate[1, 0] == 0 and "limit / 3" in notes


# epochs -----------------------------------------------------------------------------------------------------


def slow_epochs(time, band, source, gap) -> list[int]:
    """Row by row."""
    first, seen, began = [], set(), None
    for row, (now, this) in enumerate(zip(time, band)):
        new = row == 0 or source[row] != source[row - 1]
        if new or now - began > gap or this in seen:
            first.append(row)
            began = now
            seen = set()
        seen.add(this)
    return first


@pytest.mark.parametrize("seed", range(5))
def test_epochs_against_a_slow_loop(seed):
    random = np.random.default_rng(seed)
    source = np.sort(random.integers(0, 20, 600))
    time = random.uniform(0, 3e5, 600).round(-3) + 5e9 * random.integers(1, 2)
    order = np.lexsort((time, source))
    time, band = time[order], random.integers(0, 4, 600)
    begins = np.flatnonzero(np.r_[True, source[1:] != source[:-1]])
    assert epochs(time, band, begins, 2000.0).tolist() == slow_epochs(time, band, source, 2000.0)


def test_real_stars_are_as_they_are_written(shared_data):
    """SDSS Stripe 82: no note but of rows without a value, each good row in its place."""
    path = shared_data("light_curves/rr_lyrae/light_curves.csv.gz")
    found = find_light_curves(path, Reading())
    table = pd.read_csv(path)
    good = table[(table["mag"].abs() < 90) & (table["magerr"] > 0) & (table["magerr"] < 90)]
    assert sum(int(each.curve.observed.sum()) for each in found) == len(good)
    assert texts_of(found) == "rows without a finite value and an error above 0, left out"
    curve = found[0].curve
    star = good[good["id"].astype(str) == curve.source].sort_values("time")
    for band in curve.bands:
        np.testing.assert_allclose(magnitude(curve, band), star[star["band"] == band]["mag"], atol=2e-5)


def test_a_set_in_several_scales_is_brought_to_one(tmp_path):
    """Julian dates beside modified ones, microjansky beside magnitudes."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.csv").write_text("mjd,mag,magerr\n58000,18.9,0.1\n58001,18.9,0.1\n")
    (tmp_path / "in/b.csv").write_text("jd,flux(uJy),flux_err\n2458001.5,100,9\n2458000.5,100,9\n")
    packed = pack_light_curves(list_light_curves(str(tmp_path / "in")), Reading(), tmp_path / "store")
    assert packed.fields["time"].tolist() == [58000 * DAY, 58001 * DAY] * 2
    np.testing.assert_allclose(packed.fields["rate"][:, 0], 10 ** (0.4 * 3.6), rtol=1e-5)


# as observatories give them out -----------------------------------------------------------------------------


def test_an_empty_column_of_times_is_passed_over(tmp_path):
    """AAVSO has HJD beside JD, and few fill it in."""
    text = "JD,Magnitude,Uncertainty,HQuncertainty,Band,HJD,Star Name\n"
    text += "".join(f"{2458000.5 + n},{12 + 0.1 * n},0.02,,V,,SS CYG\n" for n in range(6))
    curve, notes = one(tmp_path, text)
    assert curve.time.tolist() == [86400.0 * (58000 + n) for n in range(6)] and curve.source == "SS CYG"
    assert "column HJD is empty" in notes


@pytest.mark.parametrize("header", [True, False])
def test_energies_of_maxi(tmp_path, header):
    """The whole range beside its parts is no band of its own."""
    names = [f"{band}keV[ph/s/cm2]" for band in ("2-20", "2-4", "4-10", "10-20")]
    text = ",".join(["MJD", *(name for band in names for name in (band, "err"))]) + "\n" if header else ""
    text += "".join(f"{55058.5 + n},1.0,.1,0.{n}1,.01,0.5,.02,0.25,.03\n" for n in range(5))
    path = tmp_path / ("a.csv" if header else "J0534+220_g_lc_1day_all.csv")
    path.write_text(text)
    (found,) = find_light_curves(path, Reading())
    place = [found.curve.bands.index(band) for band in ("2-4", "4-10", "10-20")]
    assert len(found.curve.bands) == 3 and found.curve.unit == "photon/cm2/s"
    np.testing.assert_allclose(found.curve.rate[3, place], [0.31, 0.5, 0.25], rtol=1e-6)
    np.testing.assert_allclose(found.curve.error_up[3, place], [0.01, 0.02, 0.03], rtol=1e-6)
    assert any("2-20 keV is left out" in note.text for note in found.notes)


def test_ogle_without_a_header(tmp_path):
    path = tmp_path / "OGLE-BLG-RRLYR-00001.dat"
    path.write_text("".join(f"{2455000.25 + n} {15 + 0.1 * n} 0.01\n" for n in range(4)))
    (found,) = find_light_curves(path, Reading())
    assert found.curve.time[0] == 86400 * 54999.75 and any("OGLE" in note.text for note in found.notes)
    np.testing.assert_allclose(found.curve.rate[1, 0], 10 ** (0.4 * (22.5 - 15.1)), rtol=1e-6)


def test_flags_of_the_bat_monitor(tmp_path):
    text = "# TIME RATE ERROR YEAR DATA_FLAG TIMEDEL_EXPO\n"
    text += "".join(f"{53414 + n} 0.01 0.003 2005 {2 * (n == 1)} 5000\n" for n in range(4))
    curve, notes = one(tmp_path, text)
    assert len(curve.time) == 3 and "Swift BAT monitor: good" in notes


def test_two_bands_are_told_apart_whatever_the_colours_of_the_sources(tmp_path):
    draw = np.random.default_rng(2)
    text = "name,mjd,mag,err,obs\n"
    for star in range(12):
        colour = draw.normal(1.5, 0.7)
        for n in range(20):
            mag = 16 + colour * (n % 2) + draw.normal(0, 0.05)
            text += f"s{star},{n + draw.random()},{mag},0.05,{'gr'[n % 2]}\n"
    with pytest.raises(BadFile, match=r"column obs \(g r\) tells two levels"):
        one(tmp_path, text)


def test_rows_without_an_error_are_told_the_cure(tmp_path):
    text = "mjd,mag,magerr\n" + "".join(f"{n},17,{'' if n == 2 else 0.1}\n" for n in range(5))
    assert "rows without an error (--assumed_error sets one), left out" in one(tmp_path, text)[1]
