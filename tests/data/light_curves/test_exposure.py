"""Exposures of bins as tables write them: by column, unit, dead time, good time and background area."""

import numpy as np
import pytest
import torch
from astropy.io import fits

from data.cutouts.fits import BadFile
from data.light_curves.curve import Reading
from data.light_curves.files import find_light_curves, read_light_curves
from physics.count_rates import source_rate
from tests.data.light_curves.test_files import one, srctool, table, written


def notes_of(path, **options) -> dict[str, tuple[int, int]]:
    """Text -> (count, total) of all that is said of a file."""
    (found,) = find_light_curves(path, Reading(**options))
    return {note.text: (note.count, note.total) for note in found.notes}


def dmextract(seed: int = 0, **more) -> fits.BinTableHDU:
    """A light curve as Chandra's dmextract makes it: 176 bins of 200 s, 25 of them without exposure, and the
    time of a frame as TIMEDEL.
    """
    random = np.random.default_rng(seed)
    bins = 176
    start = 3.4e8 + 200.0 * np.arange(bins)
    exposure = np.full(bins, 197.2)
    exposure[60:85] = 0
    exposure[85] = 90
    columns = dict(
        TIME_BIN=("J", np.arange(1, bins + 1), "channel"),
        TIME_MIN=("D", start, "s"),
        TIME=("D", start + 100, "s"),
        TIME_MAX=("D", start + 200, "s"),
        COUNTS=("J", random.poisson(0.1 * exposure), "count"),
        STAT_ERR=("D", np.ones(bins), "count"),
        AREA=("D", np.full(bins, 300.0), "pixel**2"),
        EXPOSURE=("D", exposure, "s"),
        COUNT_RATE=("D", np.zeros(bins), "count/s"),
        BG_COUNTS=("J", random.poisson(0.02 * exposure), "count"),
        BG_AREA=("D", np.full(bins, 1200.0), "pixel**2"),
        BG_EXPOSURE=("D", exposure * 2, "s"),
    )
    hdu = table("LIGHTCURVE", **columns | more)
    hdu.header.update({"TELESCOP": "CHANDRA", "INSTRUME": "ACIS", "TIMEDEL": 3.14104, "TIMEPIXR": 0.5})
    return hdu


def test_a_bin_without_exposure_is_unobserved(tmp_path):
    """Not a rate of zero, which would be an eclipse; the rates are those of counts by exposure and areas."""
    hdu = dmextract()
    path = written(tmp_path / "a.fits", hdu)
    curve = one(path)
    raw = hdu.data[hdu.data["EXPOSURE"] > 0]
    assert len(curve.time) == 151 and np.array_equal(curve.time, raw["TIME"]) and (curve.width == 200).all()
    np.testing.assert_allclose(curve.exposure[:, 0], raw["EXPOSURE"], rtol=1e-6)
    np.testing.assert_allclose(curve.background[:, 0], raw["BG_COUNTS"] * 300 / 1200 / 2, rtol=1e-6)
    fields = (torch.from_numpy(raw[name].astype(float)) for name in ("COUNTS", "BG_COUNTS"))
    rate, low, up = source_rate(*fields, 0.125, torch.from_numpy(raw["EXPOSURE"].astype(float)))
    np.testing.assert_allclose(curve.rate[:, 0], rate, rtol=1e-5, atol=1e-8)
    said = notes_of(path)
    assert said["bins of too little exposure (--min_fracexp), not observed"] == (25, 176)
    assert "BG_COUNTS scaled by AREA / BG_AREA x EXPOSURE / BG_EXPOSURE" in said


@pytest.mark.parametrize("unit, scale", [("s", 1.0), ("ks", 1e-3), ("min", 1 / 60)])
@pytest.mark.parametrize("name", ["EXPOSURE", "LIVETIME", "ONTIME"])
def test_the_unit_of_an_exposure_is_the_one_written(tmp_path, name, unit, scale):
    hdu = dmextract(
        EXPOSURE=("D", np.linspace(50, 190, 176), "s"), BG_EXPOSURE=("D", np.full(176, 190.0), "s")
    )
    columns = [column for column in hdu.columns if column.name not in ("EXPOSURE", "BG_EXPOSURE")]
    exposure = hdu.data["EXPOSURE"]
    columns.append(fits.Column(name, "D", array=exposure * scale, unit=unit))
    curve = one(written(tmp_path / "a.fits", fits.BinTableHDU.from_columns(columns, name="LIGHTCURVE")))
    np.testing.assert_allclose(curve.exposure[:, 0], exposure, rtol=1e-6)


def test_a_share_of_exposure_may_be_in_percent(tmp_path):
    hdu = srctool()
    plain = one(written(tmp_path / "a.fits", hdu))
    hdu.data["FRACEXP"] *= 100
    hdu.columns["FRACEXP"].unit = "%"
    np.testing.assert_allclose(one(written(tmp_path / "b.fits", hdu)).exposure, plain.exposure, rtol=1e-5)


def counts_table(counts, time=None, header=(), **more) -> fits.BinTableHDU:
    time = 100.0 * np.arange(len(counts)) if time is None else time
    columns = dict(TIME=("D", time, "s"), COUNTS=("J", counts, "count"))
    hdu = table("RATE", **columns | more)
    hdu.header.update(dict(header))
    return hdu


@pytest.mark.parametrize(
    "header, width, said",
    [
        ({"TIMEDEL": 100.0}, 100, None),
        ({"TIMEDEL": 0.0734}, 100, "TIMEDEL is the time of a frame: bins as wide as they are apart"),
        ({"TIMEDEL": 3.2, "TIMEBIN": 80.0}, 80, "TIMEDEL is the time of a frame: bins of TIMEBIN"),
        ({"TIMEDEL": 25.0}, 25, "bins are further apart than TIMEDEL, which is taken as their width"),
    ],
)
def test_the_time_of_a_frame_is_no_bin(tmp_path, header, width, said):
    path = written(tmp_path / "a.lc", counts_table([3, 0, 5, 2], header=header))
    curve = one(path)
    assert (curve.width == width).all() and (curve.exposure == width).all()
    assert said is None or said in notes_of(path)


def test_bins_without_a_width_are_as_wide_as_they_usually_are_apart(tmp_path):
    """Not as the two that a merger left close together."""
    time = np.r_[100.0 * np.arange(5), 433, 1000, 1100]
    path = written(tmp_path / "a.lc", counts_table([3] * 8, time=time, header={"TIMEDEL": 0.0734}))
    assert (one(path).width == 100).all()
    assert notes_of(path)["bins that overlap the one before, kept"] == (1, 8)


def test_times_are_of_the_place_in_the_bin_that_is_written(tmp_path):
    header = {"TIMEDEL": 100.0, "TIMEPIXR": 0.0, "TIMEZERO": 5000.0}
    curve = one(written(tmp_path / "a.lc", counts_table([3, 1, 5], header=header)))
    assert curve.time.tolist() == [5050, 5150, 5250]


@pytest.mark.parametrize(
    "columns, header, live",
    [
        (dict(DTCOR=("D", [0.5, 0.9, 1.0], "")), {}, [0.5, 0.9, 1.0]),
        (dict(DEADTIME=("D", [0.1, 0.0, 0.3], "")), {}, [0.9, 1.0, 0.7]),
        ({}, {"DEADC": 0.8}, [0.8, 0.8, 0.8]),
        ({}, {"DEADC": 0.8, "DEADAPP": True}, [1, 1, 1]),
        ({}, {"LIVETIME": 900.0, "ONTIME": 1000.0}, [0.9, 0.9, 0.9]),
        ({}, {"DTCOR": 1.3}, [1, 1, 1]),
    ],
)
def test_dead_time_is_taken_off_or_named(tmp_path, columns, header, live):
    path = written(
        tmp_path / "a.lc", counts_table([30, 10, 50], header={"TIMEDEL": 100.0} | header, **columns)
    )
    np.testing.assert_allclose(one(path).exposure[:, 0], 100 * np.array(live), rtol=1e-6)
    spoken = [text for text in notes_of(path) if "dead time" in text or "multiplied" in text]
    assert len(spoken) == (header.get("DEADAPP") is None)


def gti(*intervals, name: str = "GTI", **header) -> fits.BinTableHDU:
    starts, stops = zip(*intervals)
    hdu = table(name, START=("D", starts, "s"), STOP=("D", stops, "s"))
    hdu.header.update(header)
    return hdu


def test_good_time_beside_a_curve_cuts_it(tmp_path):
    """A bin partly inside has that share of exposure; outside it is not observed."""
    hdu = counts_table([10] * 6, time=50 + 100.0 * np.arange(6), header={"TIMEDEL": 100.0})
    path = written(tmp_path / "a.lc", hdu, gti((0, 200), (230, 300), (395, 600)))
    curve = one(path)
    assert curve.time.tolist() == [50, 150, 250, 450, 550]  # 5 s of 100 are below --min_fracexp
    assert curve.exposure[:, 0].tolist() == pytest.approx([100, 100, 70, 100, 100])
    assert notes_of(path)["bins partly in the good time, with that share of exposure"] == (2, 6)
    rates = table(
        "RATE",
        TIME=("D", 50 + 100.0 * np.arange(6), "s"),
        RATE=("E", np.ones(6), "count/s"),
        ERROR=("E", np.full(6, 0.1), "count/s"),
    )
    rates.header["TIMEDEL"] = 100.0
    path = written(tmp_path / "b.lc", rates, gti((0, 200), (300, 600)))
    assert one(path).time.tolist() == [50, 150, 350, 450, 550]
    assert notes_of(path)["bins outside the good time, not observed"] == (1, 6)


def test_written_exposures_are_not_cut_twice(tmp_path):
    hdu = dmextract()
    good = gti((3.4e8, 3.4e8 + 1000), (3.4e8 + 1100, 3.4e8 + 176 * 200))
    curve = one(written(tmp_path / "a.fits", hdu, good))
    assert len(curve.time) == 151 and curve.exposure[5, 0] == np.float32(197.2)


def test_a_curve_outside_its_good_time_is_refused_with_both_ranges(tmp_path):
    hdu = counts_table([1, 2, 3], header={"TIMEDEL": 100.0})
    with pytest.raises(BadFile, match="0 of 3 bins are in the good time: bins 0 to 200 s, good time 5000 to"):
        read_light_curves(written(tmp_path / "a.lc", hdu, gti((5000, 6000))), Reading())


@pytest.mark.parametrize("unit", ["count/s", "ct/s", "counts s-1", "count s**-1", "cts/sec", "ct s^-1"])
def test_counts_per_second_are_rates(tmp_path, unit):
    hdu = table(
        "RATE",
        TIME=("D", 100.0 * np.arange(3), "s"),
        COUNTS=("E", [0.5, 0.25, 1.5], unit),
        ERROR=("E", [0.1, 0.1, 0.1], unit),
    )
    hdu.header["TIMEDEL"] = 100.0
    path = written(tmp_path / "a.lc", hdu)
    curve = one(path)
    assert curve.counts is None and curve.rate[:, 0].tolist() == [0.5, 0.25, 1.5]
    assert "COUNTS in counts/s are rates" in notes_of(path)


def test_rates_in_counts_are_divided_by_the_exposure(tmp_path):
    hdu = table(
        "RATE",
        TIME=("D", 100.0 * np.arange(3), "s"),
        RATE=("E", [50.0, 25, 150], "count"),
        ERROR=("E", [7.0, 5, 12], "count"),
    )
    hdu.header["TIMEDEL"] = 100.0
    curve = one(written(tmp_path / "a.lc", hdu))
    np.testing.assert_allclose(curve.rate[:, 0], [0.5, 0.25, 1.5])
    np.testing.assert_allclose(curve.error_up[:, 0], [0.07, 0.05, 0.12], rtol=1e-6)


def test_background_by_backscal(tmp_path):
    """As ratio of the two regions' BACKSCAL, or of one as that ratio, which is said; else refused."""
    common = dict(TIMEDEL=("D", [100.0, 100], "s"), BACK_COUNTS=("J", [40, 80], "count"))
    two = dict(BACKSCAL=("D", [1.0, 1], ""), BG_BACKSCAL=("D", [20.0, 10], ""))
    curve = one(written(tmp_path / "a.lc", counts_table([9, 9], **common, **two)))
    assert curve.background[:, 0].tolist() == pytest.approx([2, 8])
    path = written(tmp_path / "b.lc", counts_table([9, 9], **common, BACKSCAL=("D", [0.05, 0.1], "")))
    assert one(path).background[:, 0].tolist() == pytest.approx([2, 8])
    assert any("BACKSCAL, taken as area" in text for text in notes_of(path))
    with pytest.raises(BadFile, match="no column BACKRATIO, nor AREA and BG_AREA"):
        read_light_curves(written(tmp_path / "c.lc", counts_table([9, 9], **common)), Reading())


def test_negative_and_broken_counts_are_counted(tmp_path):
    hdu = table(
        "RATE",
        TIME=("D", 100.0 * np.arange(4), "s"),
        TIMEDEL=("D", np.full(4, 100.0), "s"),
        COUNTS=("E", [3.5, -2, 4, 0], "count"),
    )
    path = written(tmp_path / "a.lc", hdu)
    assert one(path).counts[:, 0].tolist() == [3.5, 4, 0]
    said = notes_of(path)
    assert said["bins with counts that are negative or not finite, left out"] == (1, 4)
    assert said["bins with counts that are no whole numbers"] == (1, 4)


# order ------------------------------------------------------------------------------------------------------


def test_rows_out_of_order_are_sorted_and_rows_without_time_are_counted(tmp_path):
    hdu = srctool(8)
    straight = one(written(tmp_path / "a.fits", hdu))
    order = np.array([4, 5, 6, 7, 0, 1, 2, 3, 2])
    mixed = fits.BinTableHDU(hdu.data[order], header=hdu.header)
    mixed.data["TIME"][1] = np.nan
    path = written(tmp_path / "b.fits", mixed)
    curve = one(path)
    left = [0, 1, 2, 3, 4, 6, 7]
    for ours, theirs in zip(curve, straight):
        if isinstance(ours, np.ndarray):
            assert np.array_equal(ours, theirs[left])
    said = notes_of(path)
    assert said["rows without a time, left out"] == (1, 9)
    assert said["rows earlier than the one before, sorted by time"] == (2, 9)
    assert said["rows at the time of another: the first of them is kept"] == (1, 9)


def test_tables_that_are_not_read_and_bins_that_overlap_are_named(tmp_path):
    path = written(tmp_path / "a.fits", srctool(4), srctool(5), srctool(6))
    assert len(one(path).time) == 4 and notes_of(path)["further tables of curves in a file, not read"] == (
        2,
        0,
    )
    hdu = counts_table([1, 2, 3, 4], time=[0.0, 60, 160, 260], TIMEDEL=("D", [100.0, 100, 100, 100], "s"))
    path = written(tmp_path / "b.fits", hdu)
    assert notes_of(path)["bins that overlap the one before, kept"] == (1, 4)
