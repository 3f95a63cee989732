"""Event lists of many missions: energies of channels, good time by module and kind, clocks that agree."""

import numpy as np
import pytest
from astropy.io import fits

from data.cutouts.fits import BadFile
from data.light_curves.curve import Reading
from data.light_curves.files import read_light_curves
from data.light_curves.good_time import intersection, merged, without
from tests.data.light_curves.test_exposure import gti, notes_of
from tests.data.light_curves.test_files import one, table, written


def events(time, telescope="", instrument="", header=(), **columns) -> fits.BinTableHDU:
    """Columns: name -> (form, values, unit)."""
    hdu = table("EVENTS", TIME=("D", np.asarray(time, float), "s"), **columns)
    hdu.header.update({"TELESCOP": telescope, "INSTRUME": instrument} | dict(header))
    return hdu


# Channel and keV of its middle, and the first and last channel of a well-known band: NICER 0.3-2 (30 to 199),
# NuSTAR 3-79 (35 to 1934), XMM 0.2-12 (200 to 11999), XRT 0.3-10 (30 to 999), IXPE 2-8 (50 to 199).
SCALES = [
    ("NICER", "XTI", 30, 199, 0.3, 2.0),
    ("NUSTAR", "FPMA", 35, 1934, 3.0, 79.0),
    ("XMM", "EPN", 200, 11999, 0.2, 12.0),
    ("SWIFT", "XRT", 30, 999, 0.3, 10.0),
    ("IXPE", "DU1", 50, 199, 2.0, 8.0),
    ("eROSITA", "TM1", 201, 4999, 0.2, 5.0),
]


@pytest.mark.parametrize("telescope, instrument, first, last, low, high", SCALES)
def test_channels_are_energies_by_mission(tmp_path, telescope, instrument, first, last, low, high):
    channels = [first - 1, first, last, last + 1]
    if telescope == "eROSITA":
        channels = [first - 2, first, last, last + 1]
    hdu = events([1, 2, 3, 4], telescope, instrument, PI=("J", channels, "chan"))
    path = written(tmp_path / "a.evt", hdu, gti((0, 100)))
    curve = one(path, energy_bands=[low, high])
    assert curve.bands == (f"{low:g}-{high:g}",) and curve.counts.tolist() == [[2]]
    text = f"events outside the bands ({low:g} to {high:g}), left out"
    assert notes_of(path, energy_bands=[low, high])[text] == (2, 4)


def test_chandra_channels_are_its_energies(tmp_path, shared_data):
    """PI of a real list against its ENERGY: bands by either differ only by events within a channel."""
    raw = fits.open(shared_data("light_curves/chandra_rxte/chandra_test.fits"))
    raw[1].columns.del_col("energy")
    raw.writeto(tmp_path / "pi.fits")
    ours = one(tmp_path / "pi.fits").counts.sum(0)
    theirs = one(shared_data("light_curves/chandra_rxte/chandra_test.fits")).counts.sum(0)
    assert one(tmp_path / "pi.fits").bands == ("0.5-1.2", "1.2-2", "2-7")
    np.testing.assert_allclose(ours, theirs, rtol=0.01)


@pytest.mark.parametrize(
    "telescope, instrument, bands",
    [
        ("NUSTAR", "FPMB", ("3-10", "10-79")),
        ("XMM", "EMOS1", ("0.2-0.5", "0.5-1", "1-2", "2-4.5", "4.5-12")),
        ("SWIFT", "XRT", ("0.3-1", "1-2", "2-10")),
        ("NICER", "XTI", ("0.3-2", "2-4", "4-10")),
        ("IXPE", "DU2", ("2-4", "4-8")),
        ("SWIFT", "BAT", ("PI:0-14", "PI:14-36", "PI:36-256")),
        ("XTE", "PCA", ("PI:0-14", "PI:14-36", "PI:36-256")),
        ("XMM", "RGS1", ("PI:0-14", "PI:14-36", "PI:36-256")),
        ("", "", ("PI:0-14", "PI:14-36", "PI:36-256")),
    ],
)
def test_bands_of_a_mission_are_its_own(tmp_path, telescope, instrument, bands):
    hdu = events([1, 2, 3], telescope, instrument, PI=("J", [40, 100, 150], ""))
    assert one(written(tmp_path / "a.evt", hdu, gti((0, 100)))).bands == bands


def test_an_energy_without_a_unit_is_guessed_and_said(tmp_path):
    for scale, unit in ((1.0, "keV"), (1e3, "eV")):
        hdu = events([1, 2, 3], ENERGY=("E", np.array([0.3, 1.0, 3.0]) * scale, None))
        path = written(tmp_path / f"{unit}.evt", hdu, gti((0, 100)))
        assert one(path).counts.tolist() == [[1, 1, 1]]
        assert f"ENERGY without a unit: taken as {unit}, by its median" in notes_of(path)


# good time --------------------------------------------------------------------------------------------------


def on_grid(intervals, size: int = 400) -> np.ndarray:
    """[size] bool, the seconds of whole-numbered intervals, painted one by one."""
    seconds = np.zeros(size, dtype=bool)
    for start, stop in intervals:
        seconds[int(start) : int(stop)] = True
    return seconds


def test_intervals_against_painted_seconds():
    random = np.random.default_rng(0)
    for _ in range(30):
        parts = [np.sort(random.integers(0, 400, (random.integers(1, 9), 2)), 1) for _ in range(3)]
        a, b, bad = (merged(part.astype(float)) for part in parts)
        assert np.array_equal(on_grid(a), on_grid(parts[0]))
        assert np.array_equal(on_grid(intersection([a, b])), on_grid(a) & on_grid(b))
        assert np.array_equal(on_grid(without(a, [bad])), on_grid(a) & ~on_grid(bad))


def test_good_time_is_the_union_over_modules(tmp_path):
    """Seven telescope modules, one of them off for half of the time, one event a module and second: the rate
    is that of all modules together, and does not dip when one is off.
    """
    good = {module: [(0, 400)] for module in range(1, 8)}
    good[3] = [(0, 100), (300, 400)]
    time = np.concatenate([np.flatnonzero(on_grid(part)) + 0.5 for part in good.values()])
    module = np.concatenate([np.full(int(on_grid(part).sum()), n) for n, part in good.items()])
    hdu = events(
        time,
        "eROSITA",
        "MERGED",
        PI=("E", np.full(len(time), 1000.0), "eV"),
        TM_NR=("I", module, ""),
    )
    tables = [gti(*part, name=f"GTI{n}") for n, part in good.items()]
    path = written(tmp_path / "a.evt", hdu, *tables)
    curve = one(path)
    assert curve.exposure[:, 0].tolist() == pytest.approx([100, 600 / 7, 600 / 7, 100])
    np.testing.assert_allclose(curve.rate[:, 1], 7, rtol=0.01)
    assert "good time of GTI (union of 7 modules)" in notes_of(path)
    cut = written(
        tmp_path / "b.evt", hdu, *tables, gti((0, 250), name="FLAREGTI"), gti((0, 50), name="BADGTI")
    )
    curve = one(cut, bin_time=50.0)
    assert curve.time[0] == 75 and curve.time[-1] == 225
    assert curve.exposure[:, 0].tolist() == pytest.approx([50, 300 / 7, 300 / 7, 300 / 7])
    said = notes_of(cut)
    assert "good time of GTI (union of 7 modules) and FLAREGTI" in said
    assert "bad time of BADGTI cut out of the good time" in said


def test_ccds_side_by_side_count_by_their_events(tmp_path):
    """STDGTI01, STDGTI04 of EPIC: a source on CCD 4 has the exposure of CCD 4, whatever CCD 1 did."""
    time = np.arange(0, 200) + 0.5
    hdu = events(time, "XMM", "EPN", PI=("J", np.full(200, 1500), "eV"), CCDNR=("B", np.full(200, 4), ""))
    tables = [gti((0, 200), name="STDGTI04"), gti((150, 400), name="STDGTI01")]
    curve = one(written(tmp_path / "a.evt", hdu, *tables))
    assert curve.time.tolist() == [50, 150] and curve.exposure[:, 0].tolist() == [100, 100]


@pytest.mark.parametrize("how", ["EXTVER", "CCD_ID"])
def test_tables_of_one_name_by_ccd_are_united(tmp_path, how):
    """Chandra writes a GTI for each CCD; an event counts by that of its own."""
    time = [10.0, 110, 210, 10, 110, 210]
    hdu = events(
        time, "CHANDRA", "ACIS", energy=("E", np.full(6, 1500.0), "eV"), ccd_id=("I", [6, 6, 6, 7, 7, 7], "")
    )
    hdus = [gti((0, 200)), gti((100, 300))]
    for number, part in zip((6, 7), hdus):
        part.header[how] = number
    path = written(tmp_path / "a.evt", hdu, *hdus)
    curve = one(path)
    assert curve.counts[:, 1].tolist() == [1, 2, 1] and curve.exposure[:, 0].tolist() == [50, 100, 50]
    assert notes_of(path)["events outside the good time, left out"] == (2, 6)


def test_without_modules_the_exposure_is_that_of_the_union(tmp_path):
    hdu = events(np.arange(0.5, 400), ENERGY=("E", np.ones(400), "keV"))
    path = written(tmp_path / "a.evt", hdu, gti((0, 250), name="GTI1"), gti((150, 400), name="GTI2"))
    curve = one(path)
    assert (curve.exposure == 100).all() and (curve.counts[:, 1] == 100).all()
    assert "events do not name their module: the exposure is that of the union" in notes_of(path)


def test_only_bad_time_is_no_good_time(tmp_path):
    hdu = events([1.0, 2], ENERGY=("E", [1.0, 1], "keV"))
    timeless = events([np.nan, np.nan], ENERGY=("E", [1.0, 1], "keV"))
    with pytest.raises(BadFile, match="none of 2 events has a time"):
        read_light_curves(written(tmp_path / "b.evt", timeless, gti((0, 9))), Reading())
    with pytest.raises(BadFile, match="no good time intervals"):
        read_light_curves(written(tmp_path / "a.evt", hdu, gti((0, 9), name="BADGTI")), Reading())


# clocks -----------------------------------------------------------------------------------------------------

DAYS = {"MJDREFI": 50000, "MJDREFF": 0.25}


@pytest.mark.parametrize(
    "of_events, of_gti, shift",
    [
        ({"TIMEZERO": 1000.0}, {"TIMEZERO": 0.0}, 1000),
        ({"TIMEZERO": 0.0}, {"TIMEZERO": -500.0}, 500),
        ({"MJDREF": 50000.25}, DAYS, 0),
        ({"MJDREFI": 50001, "MJDREFF": 0.25}, DAYS, 86400),
        ({"MJDREFI": 50000, "MJDREFF": 0.25 + 64.184 / 86400}, DAYS, 64.184),
        ({"TIMEZERO": 700.0}, {}, 0),
        ({"TIMEZERO": 7e5}, {}, 7e5),
        (DAYS, {}, 0),
    ],
)
def test_events_and_good_time_are_of_one_clock(tmp_path, of_events, of_gti, shift):
    """The same seconds told by two clocks; `shift` is what the clock of the events is later by. A table
    without TIMEZERO has that of the events if their times meet, else none.
    """
    time = np.arange(1, 400, 2.0)
    hdu = events(time, header=of_events, ENERGY=("E", np.ones(200), "keV"))
    good = gti((100 + shift, 300 + shift), **of_gti)
    path = written(tmp_path / "a.evt", hdu, good)
    curve = one(path)
    assert curve.counts.sum() == 100 and curve.exposure[:, 0].tolist() == pytest.approx([100, 100])
    assert curve.time[0] == pytest.approx(150 + of_events.get("TIMEZERO", 0))
    moved = any("moved to the clock" in text for text in notes_of(path))
    assert moved == (shift != 0)


def test_no_event_in_the_good_time_is_a_refusal(tmp_path):
    """Not a source of zero counts."""
    hdu = events(np.linspace(0, 400, 4000), ENERGY=("E", np.ones(4000), "keV"))
    with pytest.raises(BadFile, match="0 of 4,000 events.*events 0 to 400 s, good time 7e8 to 7.001e8|7000"):
        read_light_curves(written(tmp_path / "a.evt", hdu, gti((7e8, 7.001e8))), Reading())


def test_events_that_are_left_out_are_counted(tmp_path):
    time = [np.nan, -5.0, 10, 20, 30, 104]
    hdu = events(time, ENERGY=("E", [1.0, 1, 1, 9, np.nan, 1], "keV"), PATTERN=("B", np.zeros(6), ""))
    path = written(tmp_path / "a.evt", hdu, gti((0, 105)))
    assert one(path).counts.sum() == 1
    said = notes_of(path)
    assert said["events outside the good time, left out"] == (2, 6)
    assert said["events outside the bands (0.2 to 5), left out"] == (2, 6)
    assert said["events in bins of too little exposure (--min_fracexp), left out"] == (1, 6)
    assert "event lists: no event is rejected by PATTERN" in said


def test_real_lists_against_histograms(shared_data):
    """Counts and exposure by numpy alone, of the files as astropy has them."""
    for name, place, bands in (
        ("chandra_test.fits", 1, [0.5, 1.2, 2, 7]),
        ("xte_gx_test.evt.gz", 1, [0, 14, 36, 256]),
    ):
        path = shared_data(f"light_curves/chandra_rxte/{name}")
        with fits.open(path) as hdus:
            raw, good = hdus[place].data, [hdu.data for hdu in hdus[place + 1 :]]
            begin, end = max(part["START"][0] for part in good), min(part["STOP"][0] for part in good)
            value = raw["energy"] / 1000 if place == 1 and "energy" in raw.names else raw["PHA"]
            live = hdus[place].header.get("DTCOR", 1.0)
        border = np.arange(begin, end, 20.0)
        border = np.append(border, border[-1] + 20)
        kept = (raw["time"] >= begin) & (raw["time"] <= end)
        counts, *_ = np.histogram2d(raw["time"][kept], value[kept], [border, bands])
        exposure = live * (np.minimum(border[1:], end) - border[:-1])
        curve = one(path, bin_time=20.0, min_fracexp=0.0)
        assert np.array_equal(curve.counts, counts), name
        np.testing.assert_allclose(curve.exposure[:, 0], exposure, rtol=1e-6)
