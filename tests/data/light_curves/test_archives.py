"""Light curves as archives give them out: Kepler and TESS, Swift's QDP, XMM's .FTZ."""

import gzip

import numpy as np
import pytest
from astropy.io import ascii as tables
from astropy.io import fits

from data.cutouts.fits import BadFile
from data.light_curves.curve import Reading
from data.light_curves.file_names import source_of
from data.light_curves.files import read_light_curves
from data.light_curves.packed import list_light_curves
from data.light_curves.time_system import seconds_in
from data.light_curves.units import unit_of_rate
from tests.data.light_curves.test_exposure import gti, notes_of
from tests.data.light_curves.test_files import one, table, written

# Kepler and TESS --------------------------------------------------------------------------------------------


def archived(telescope: str, flags: str, quality, **more) -> list:
    rows = len(quality)
    zero = 2454833 if telescope == "Kepler" else 2457000
    columns = dict(
        TIME=("D", 100 + np.arange(rows) / 720, f"BJD - {zero}, days"),
        TIMECORR=("E", np.zeros(rows), "d"),
        SAP_FLUX=("E", np.full(rows, 900.0), "e-/s"),
        SAP_FLUX_ERR=("E", np.full(rows, 2.0), "e-/s"),
        PDCSAP_FLUX=("E", 1000 + np.arange(rows), "e-/s"),
        PDCSAP_FLUX_ERR=("E", np.full(rows, 3.0), "e-/s"),
    )
    hdu = table("LIGHTCURVE", **columns, **{flags: ("J", quality, None)}, **more)
    hdu.header.update(TELESCOP=telescope, TIMEDEL=1 / 720, TIMEUNIT="d")
    primary = fits.PrimaryHDU()
    primary.header.update(TELESCOP=telescope, OBJECT="a star")
    return [primary, hdu]


@pytest.mark.parametrize(
    "telescope, flags, bad, kept, card, source",
    [
        (
            "Kepler",
            "SAP_QUALITY",
            [1, 2, 4, 8, 32, 256, 16384, 65536, 1048576],
            128,
            "KEPLERID",
            "KIC 757076",
        ),
        ("TESS", "QUALITY", [1, 2, 4, 8, 32, 128], 4096, "TICID", "TIC 757076"),
    ],
)
def test_kepler_and_tess(tmp_path, telescope, flags, bad, kept, card, source):
    """The corrected flux in electrons/s; rows with a flag of the stated mask are left out and counted."""
    quality = np.array([0, *bad, kept, 0, 0])
    hdus = archived(telescope, flags, quality)
    hdus[0].header[card] = 757076
    hdus[1].data["TIME"][-1] = np.nan
    hdus[1].data["PDCSAP_FLUX"][-2] = np.nan
    path = tmp_path / "tess2018206045859-s0001-0000000000757076-0120-s_lc.fits"
    fits.HDUList(hdus).writeto(path)
    curve = one(path)
    assert curve.source == source and curve.bands == (telescope,) and curve.counts is None
    assert curve.rate[:, 0].tolist() == [1000, 1000 + 1 + len(bad)]
    np.testing.assert_allclose(curve.time, [8.64e6, 8.64e6 + 120 * (1 + len(bad))])
    np.testing.assert_allclose(curve.width, 120, rtol=1e-6)
    said = notes_of(path)
    (text,) = [text for text in said if "flags" in text]
    assert str(sum(bad)) in text and said[text] == (len(bad), len(quality))
    assert said["rows without a time, left out"] == (1, len(quality))
    assert said["values without a finite rate and error, not observed"] == (1, len(quality))
    assert "PDCSAP_FLUX is the flux" in said and "SAP_FLUX not used" in said
    assert len(one(path, quality=["none"]).time) == len(quality) - 2


def test_other_fluxes_of_tess(tmp_path):
    hdus = archived("TESS", "QUALITY", np.zeros(4))
    columns = [column for column in hdus[1].columns if "PDCSAP" not in column.name]
    hdus[1] = fits.BinTableHDU.from_columns(columns, name="LIGHTCURVE")
    hdus[0].header["OBJECT"] = "TIC 5"
    fits.HDUList(hdus).writeto(tmp_path / "sap.fits")
    curve = one(tmp_path / "sap.fits")
    assert (curve.rate == 900).all() and curve.source == "TIC 5" and curve.bands == ("TESS",)
    assert "SAP_FLUX is the flux" in notes_of(tmp_path / "sap.fits")


def test_curves_that_lightkurve_writes(tmp_path):
    """FLUX by days in its own unit; a cube of target pixels under the same names is no curve."""
    hdu = table(
        "LIGHTCURVE",
        TIME=("D", [100.0, 100.5, 101], "btjd"),
        FLUX=("D", [5.0, 6, 7], "electron / s"),
        FLUX_ERR=("D", [1.0, 1, 0], "electron / s"),
        QUALITY=("J", [0, 1, 0], None),
    )
    hdu.header["FILTER"] = "g"
    curve = one(written(tmp_path / "a.fits", hdu))
    assert curve.rate[:, 0].tolist() == [5, 6] and curve.time.tolist() == [100 * 86400, 100.5 * 86400]
    assert curve.bands == ("g",) and "QUALITY is not used (unknown mission, or --quality none)" in notes_of(
        tmp_path / "a.fits"
    )
    pixels = table(
        "PIXELS", TIME=("D", [1.0], "d"), FLUX=("4E", [[1] * 4], ""), FLUX_ERR=("4E", [[1] * 4], "")
    )
    with pytest.raises(BadFile, match="more than one value a row, as target pixels"):
        read_light_curves(written(tmp_path / "b.fits", pixels), Reading())


# XMM --------------------------------------------------------------------------------------------------------


def test_a_gzipped_product_of_xmm(tmp_path):
    """P...SRCTSR8001.FTZ: RATE net of BACKV, ERROR, the time of a frame as TIMEDEL, a GTI table."""
    rows = 8
    hdu = table(
        "RATE",
        RATE=("E", np.linspace(0.1, 0.8, rows), "count/s"),
        ERROR=("E", np.full(rows, 0.05), "count/s"),
        TIME=("D", 7e8 + 10 * np.arange(rows), "s"),
        FRACEXP=("E", [0, 1, 1, 1, 1, 0.04, 1, 1], None),
        BACKV=("E", np.full(rows, 0.01), "count/s"),
    )
    hdu.header.update(TELESCOP="XMM", INSTRUME="EPN", TIMEDEL=0.0734, HDUCLAS1="LIGHTCURVE")
    plain = written(tmp_path / "a.fits", hdu, gti((7e8, 7e8 + 100), name="SRC_GTIS"))
    path = tmp_path / "P0123456789PNS001SRCTSR8001.FTZ"
    path.write_bytes(gzip.compress(plain.read_bytes()))
    plain.unlink()
    assert list_light_curves(str(tmp_path)) == [str(path)]
    curve = one(path)
    assert len(curve.time) == 6 and (curve.width == 10).all() and curve.source == path.name.split(".")[0]
    said = notes_of(path)
    assert "column BACKV is not used" in said
    assert "TIMEDEL is the time of a frame: bins as wide as they are apart" in said


# QDP --------------------------------------------------------------------------------------------------------

QDP = """! Swift/XRT light curve of a burst
READ TERR 1
READ SERR 2
! WT data
!Time   T_+ve   T_-ve   Rate    Error
100     10      -10     50      5
130     20      -10     40      4
NO NO NO NO NO
! PC data
!Time   T_+ve   T_-ve   Rate    Error
5000    100     -100    1.5     0.2
200     50      -50     20      2
NO NO NO NO NO
! PC upper limits
90000   1000    -1000   0.03    0
"""


def test_swift_qdp(tmp_path):
    """Groups of one instrument are one curve, in order of time; an upper limit is one."""
    path = tmp_path / "curve.qdp"
    path.write_text(QDP)
    curve = one(path)
    assert curve.bands == ("0.3-10",) and curve.time.tolist() == [100, 135, 200, 5000, 90000]
    assert curve.width.tolist() == [20, 30, 100, 200, 2000]
    np.testing.assert_allclose(curve.rate[:, 0], [50, 40, 20, 1.5, 0])
    np.testing.assert_allclose(curve.error_up[:, 0], [5, 4, 2, 0.2, 0.01], rtol=1e-6)
    assert curve.error_low[-1, 0] == curve.rate[-1, 0] == 0
    said = notes_of(path)
    assert said["rows earlier than the one before, sorted by time"] == (1, 5)
    assert said["QDP: upper limits, taken as 3 sigma above zero"] == (1, 5)
    theirs = tables.read(QDP, format="qdp", table_id=0, names=["time", "rate"])
    assert np.array_equal(theirs["rate"], curve.rate[:2, 0])
    assert np.array_equal(theirs["rate_err"], curve.error_up[:2, 0])
    (tmp_path / "zipped.qdp.gz").write_bytes(gzip.compress(QDP.encode()))
    assert len(list_light_curves(str(tmp_path))) == 2 and len(one(tmp_path / "zipped.qdp.gz").time) == 5


def test_soft_and_hard_data_are_two_bands(tmp_path):
    """And the ratio of the two is no rate."""
    path = tmp_path / "hardness.qdp"
    path.write_text(
        "! Swift/XRT hardness ratio of trigger 1\nREAD TERR 1 2\n! WT -- hard data\n"
        "!MJD Err Err Rate Err Err\n53000.5 0.1 -0.1 4 1 -2\n53001.5 0.1 -0.1 5 1 -2\nNO NO NO NO NO NO\n"
        "! WT -- soft data\n53000.5 0.1 -0.1 8 1 -2\n53002.5 0.1 -0.1 9 NO NO\nNO NO NO NO NO NO\n"
        "! WT -- hardness ratio\n53000.5 0.1 -0.1 0.5 0.1 -0.1\n"
    )
    curve = one(path)
    assert curve.bands == ("0.3-1.5", "1.5-10")
    np.testing.assert_allclose(curve.time / 86400, [53000.5, 53001.5])
    assert curve.rate.tolist() == [[8, 4], [0, 5]]
    assert curve.error_low[0].tolist() == [2, 2] and curve.error_up[0].tolist() == [1, 1]
    said = notes_of(path)
    assert said["QDP: rows of a hardness ratio, left out"] == (1, 5)
    assert "QDP: first column taken as the time, in days, by its comments, second as the rate" in said


def test_incomplete_positions_of_qdp_are_not_counted_twice(tmp_path):
    path = tmp_path / "a.qdp"
    path.write_text(
        "read serr 1 2\n!PC\n1 0.1 5 1\n2 0.1 6 1\nno no no no\n!PC_incbad\n1 0.1 5 1\n2 0.1 6 1\n3 0.1 7 1\n"
    )
    assert one(path).rate[:, 0].tolist() == [5, 6]
    assert notes_of(path)["QDP: rows of PC_incbad, left out"] == (3, 5)


def test_qdp_goes_on_over_lines_and_has_commands(tmp_path):
    path = tmp_path / "a.qdp"
    path.write_text("SKIP SINGLE\nLOG X ON\nREAD SERR 2\n!--- - ---\n1 5 -\n1\n2 6 1 9\n2.5 6 1\n")
    with pytest.raises(BadFile, match="rows of 3 and 4 columns"):
        read_light_curves(path, Reading())
    path.write_text("LOG X ON\nREAD SERR 2\n! -\n1 5 -\n1\n2 6 1\n")
    assert one(path).rate[:, 0].tolist() == [5, 6] and one(path).bands == ("1",)


@pytest.mark.parametrize(
    "text, reason",
    [
        ("1 2\n3 4\n", "no errors of the second column"),
        ("READ SERR 2\n! nothing\n", "no rows of numbers"),
        ("READ SERR 2\n1 2 x\n", "row 2 is not of numbers"),
        ("READ SERR 2\n1 2\n", "rows of 2 columns, expected 3 or more"),
        ("READ SERR 2\n!hardness ratio\n1 2 3\n", "no group of rows is a rate"),
        ("READ SERR 2\n1 NO NO\n", "no point left"),
    ],
)
def test_bad_qdp_is_refused_with_a_reason(tmp_path, text, reason):
    (tmp_path / "a.qdp").write_text(text)
    with pytest.raises(BadFile, match=reason):
        read_light_curves(tmp_path / "a.qdp", Reading())
    (tmp_path / "b.qdp").write_bytes(bytes(range(256)))
    (tmp_path / "c.qdp.gz").write_bytes(gzip.compress(b"READ SERR 2\n" * 99)[:-9])
    for name in ("b.qdp", "c.qdp.gz", "absent.qdp"):
        with pytest.raises(BadFile):
            read_light_curves(tmp_path / name, Reading())


# units ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, factor, name",
    [
        ("count/s", 1, "count/s"),
        ("counts s**-1", 1, "count/s"),
        ("cts/s", 1, "count/s"),
        ("erg/s/cm**2", 1, "erg/cm2/s"),
        ("erg cm^-2 s^-1", 1, "erg/cm2/s"),
        ("ergs/cm^2/s", 1, "erg/cm2/s"),
        ("electrons/second", 1, "electron/s"),
        ("W/m2", 1000, "erg/cm2/s"),
        ("1e-12 erg/s/cm2", 1e-12, "erg/cm2/s"),
        ("mJy", 1e-3, "Jy"),
        ("e-/s", 1, "electron/s"),
        ("ph/cm2/s", 1, "photon/cm2/s"),
        ("", 1, ""),
        ("Crab", 1, "Crab"),
    ],
)
def test_units_have_one_spelling(text, factor, name):
    assert unit_of_rate(text) == (pytest.approx(factor), name)


@pytest.mark.parametrize("size", [1e-42, 1e-60, 1e40])
def test_rates_in_fits_that_32_bits_do_not_hold_are_raised_and_said(tmp_path, size):
    """Not 0 with an error of 0 that counts as observed."""
    time = 50 + 100.0 * np.arange(5)
    columns = dict(TIME=("D", time, "s"), RATE=("D", (5 + time) * size, "erg/s/cm**2"))
    hdu = table("RATE", **columns, ERROR=("D", np.full(5, size), "erg/s/cm**2"))
    hdu.header["TIMEDEL"] = 100.0
    curve = one(written(tmp_path / "a.fits", hdu))
    np.testing.assert_allclose(curve.rate[:, 0] / curve.error_up[:, 0], 5 + time, rtol=1e-5)
    assert curve.unit in ("1e-36 erg/cm2/s", "1e+36 erg/cm2/s") and (curve.error_up > 0).all()
    assert any("rates in units of 1e" in note for note in notes_of(tmp_path / "a.fits"))


def test_values_that_32_bits_do_not_hold_are_not_observed(tmp_path):
    time = 50 + 100.0 * np.arange(3)
    hdu = table(
        "RATE", TIME=("D", time, "s"), RATE=("D", [1, 1e-42, 2], None), ERROR=("D", [1, 1e-44, 1], None)
    )
    hdu.header["TIMEDEL"] = 100.0
    assert one(written(tmp_path / "a.fits", hdu)).rate[:, 0].tolist() == [1, 2]
    assert any("32-bit numbers do not hold" in note for note in notes_of(tmp_path / "a.fits"))


def test_keplers_own_unit_of_time_is_days(tmp_path):
    assert seconds_in("BJD - 2454833") == seconds_in("BJD - 2457000, days") == 86400
    with pytest.raises(BadFile, match="unknown unit"):
        seconds_in("BJD - 2454833 fortnights")


def test_aperture_photometry_of_fermi(tmp_path):
    """gtbin and gtexposure: counts, and an exposure in cm2 s: rates are photons/cm2/s."""
    counts, exposure = np.array([20, 0, 35]), np.array([2e7, 0.0, 3e7])
    columns = dict(TIME=("D", 2.4e8 + 86400.0 * np.arange(3), "s"), TIMEDEL=("D", np.full(3, 86400.0), "s"))
    columns |= dict(COUNTS=("J", counts, "counts"), EXPOSURE=("E", exposure, "cm**2 s"))
    curve = one(written(tmp_path / "lat.lc", table("RATE", **columns)))
    assert curve.exposure[:, 0].tolist() == [2e7, 3e7] and curve.unit == "photon/cm2/s"
    np.testing.assert_allclose(curve.rate[:, 0], [20 / 2e7, 35 / 3e7], rtol=1e-3)


def test_rows_that_the_bat_monitor_flags(tmp_path):
    columns = dict(TIME=("D", 53414.0 + np.arange(4), "d"), RATE=("D", np.ones(4), "count/cm^2/s"))
    columns |= dict(ERROR=("D", np.ones(4), None), DATA_FLAG=("I", [0, 2, 0, 0], None))
    hdu = table("RATE", **columns, TIMEDEL_EXPO=("J", np.full(4, 5000), "s"))
    path = written(tmp_path / "a.lc.fits", hdu)
    assert len(one(path).time) == 3 and one(path).unit == "photon/cm2/s"
    assert notes_of(path)["rows against DATA_FLAG=0 (Swift BAT monitor: good), left out"] == (1, 4)
    assert len(notes_of(path, quality=["none"])) and len(one(path, quality=["none"]).time) == 4


def test_both_telescopes_of_nustar_are_one_source():
    names = ["nu60001043002A01_sr.lc", "nu60001043002B01_cl.evt", "nu60001043002A01.lc"]
    assert {source_of(name) for name in names} == {"nu60001043002"}
    assert source_of("nugget.lc") == "nugget"
