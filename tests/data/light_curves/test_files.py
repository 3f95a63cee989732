"""Readers of light curves: files made here by astropy, real files where they are at hand,
and everything that can be wrong with one.
"""

import gzip

import numpy as np
import pytest
import torch
from astropy.io import fits

from data.cutouts.fits import BadFile
from data.light_curves.curve import Reading, with_rates
from data.light_curves.file_names import EROSITA_BANDS, source_of
from data.light_curves.files import find_light_curves, read_light_curves
from physics.count_rates import source_rate, srctool_rate, total_rate
from utils.config import read_options
from utils.mistake import Mistake

NAME = "em01_123456_020_LightCurve_00042_c010_rebinned.fits"


def srctool(points: int = 6, bands: int = 3, seed: int = 0, energies: bool = True) -> fits.BinTableHDU:
    """A RATE table like srctool's; one band has scalar columns."""
    random = np.random.default_rng(seed)
    shape, kind = ((points, bands), str(bands)) if bands > 1 else ((points,), "")
    fracexp = random.uniform(0.2, 0.9, shape).astype("f4")
    counts, background = random.poisson(3, shape), random.poisson(100, shape)
    ratio = np.full(points, 0.012)
    exposure = 40.0 * fracexp
    rate = (counts - background * (ratio[:, None] if bands > 1 else ratio)) / exposure
    columns = dict(
        TIME=("D", 6e8 + 14400.0 * np.arange(points), "s"),
        TIMEDEL=("D", np.full(points, 40.0), "s"),
        COUNTS=(f"{kind}J", counts, "count"),
        RATE=(f"{kind}E", rate, "ct/s"),
        RATE_ERR=(f"{kind}E", np.ones(shape), "ct/s"),
        BACK_COUNTS=(f"{kind}E", background, "count"),
        FRACEXP=(f"{kind}E", fracexp, "ratio"),
        BACKRATIO=("D", ratio, "ratio"),
    )
    hdu = table("RATE", **columns)
    if energies:
        for number, (low, high) in enumerate([(0.2, 0.6), (0.6, 2.3), (2.3, 5.0)][:bands], 1):
            hdu.header[f"E_MIN{number}"], hdu.header[f"E_MAX{number}"] = low, high
    return hdu


def table(name: str, **columns) -> fits.BinTableHDU:
    return fits.BinTableHDU.from_columns(
        [fits.Column(key, form, array=array, unit=unit) for key, (form, array, unit) in columns.items()],
        name=name,
    )


def rates(points: int = 5, **more) -> fits.BinTableHDU:
    """A RATE table without counts."""
    random = np.random.default_rng(1)
    columns = dict(TIME=("D", 100.0 * np.arange(points), "s"), TIMEDEL=("D", np.full(points, 40.0), "s"))
    columns |= {
        key: ("3E", random.uniform(0.5, 1, (points, 3)), "ct/s") for key in ("RATE", "RATE_ERRM", "RATE_ERRP")
    }
    return table("RATE", **columns | more)


def written(path, *hdus):
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(path)
    return path


def one(path, **options):
    curves = read_light_curves(path, Reading(**options))
    assert len(curves) == 1
    check(curves[0])
    return curves[0]


def check(curve):
    """What is true of every curve."""
    points, bands = len(curve.time), len(curve.bands)
    assert (
        curve.time.shape == curve.width.shape == (points,)
        and curve.time.dtype == np.float64
        and curve.width.dtype == np.float32
    )
    assert (np.diff(curve.time) > 0).all() and curve.observed.any(1).all() and curve.observed.dtype == bool
    for name in ("counts", "background", "exposure", "rate", "error_low", "error_up"):
        field = getattr(curve, name)
        if field is not None:
            assert (
                field.shape == (points, bands)
                and field.dtype == np.float32
                and field.dtype.isnative
                and np.isfinite(field).all()
            )
            assert (field[~curve.observed] == 0).all()
    assert (curve.error_up[curve.observed] > 0).all() and (curve.exposure[curve.observed] > 0).all()


def test_srctool_counts_become_rates(tmp_path):
    hdu = srctool()
    curve = one(written(tmp_path / NAME, hdu))
    assert curve.source == "123456_00042" and curve.bands == ("0.2-0.6", "0.6-2.3", "2.3-5")
    assert np.array_equal(curve.time, hdu.data["TIME"]) and np.array_equal(curve.counts, hdu.data["COUNTS"])
    np.testing.assert_allclose(curve.background, hdu.data["BACK_COUNTS"] * 0.012, rtol=1e-6)
    np.testing.assert_allclose(curve.exposure, 40 * hdu.data["FRACEXP"], rtol=1e-6)
    counts, background, exposure = (
        torch.from_numpy(np.asarray(hdu.data[name], dtype=np.float64))
        for name in ("COUNTS", "BACK_COUNTS", "FRACEXP")
    )
    expected = source_rate(counts, background, 0.012, 40 * exposure)
    for ours, theirs in zip((curve.rate, curve.error_low, curve.error_up), expected):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)


def test_negative_rates_and_symmetric_errors_of_srctool_are_no_inputs(tmp_path):
    hdu = srctool(20)
    hdu.data["COUNTS"][:5] = 0
    hdu.data["RATE"][:] = -1e3
    hdu.data["RATE_ERR"][:] = np.nan
    assert (one(written(tmp_path / NAME, hdu)).rate >= 0).all()


def test_slivers_and_unobserved_rows_are_dropped(tmp_path):
    hdu = srctool()
    hdu.data["FRACEXP"][1] = 0
    hdu.data["FRACEXP"][3, 0], hdu.data["FRACEXP"][4, 1] = 0.05, np.nan
    path = written(tmp_path / NAME, hdu)
    curve = one(path)
    assert len(curve.time) == 5 and curve.observed.sum() == 13
    assert not curve.observed[2, 0] and not curve.observed[3, 1]
    assert one(path, min_fracexp=0.01).observed[2, 0]
    with pytest.raises(BadFile, match="no point left: none of 6 rows"):
        read_light_curves(path, Reading(min_fracexp=0.95))


def test_rates_without_counts_are_taken_as_they_are(tmp_path):
    hdu = rates()
    hdu.data["RATE"][2, 1] = np.nan
    hdu.data["RATE"][1], hdu.data["RATE_ERRM"][1] = 0, 0
    curve = one(written(tmp_path / NAME, hdu))
    assert curve.counts is None and (curve.background == 0).all() and (curve.exposure == curve.observed).all()
    assert curve.observed.sum() == 14 and np.array_equal(
        curve.rate[curve.observed], hdu.data["RATE"][curve.observed]
    )
    assert np.array_equal(curve.error_low[0], hdu.data["RATE_ERRM"][0]) and np.array_equal(
        curve.error_up[0], hdu.data["RATE_ERRP"][0]
    )
    assert (curve.error_low[1] == curve.rate[1]).all() and (curve.width == 40).all()
    assert curve.bands == EROSITA_BANDS["0"]


def test_counts_without_a_background_region(tmp_path):
    hdu = table("RATE", TIME=("D", np.arange(3.0), "s"), COUNTS=("J", [0, 4, 9], "count"))
    # the keyword is in the header's unit, the column in its own
    hdu.header["TIMEDEL"], hdu.header["TIMEUNIT"] = 0.5 / 86400, "d"
    curve = one(written(tmp_path / "a.lc", hdu))
    np.testing.assert_allclose(curve.width, 0.5)
    np.testing.assert_allclose(curve.rate[:, 0], total_rate(torch.tensor([0, 4.0, 9]), 0.5)[0])
    assert (curve.background == 0).all() and curve.bands == ("1",)


@pytest.mark.parametrize(
    "unit, seconds", [("s", 1), ("d", 86400), ("day", 86400), ("ks", 1000), (None, 86400)]
)
def test_units_of_time(tmp_path, unit, seconds):
    hdu = rates(TIME=("D", np.arange(5.0), unit), TIMEDEL=("D", np.full(5, 0.5), unit))
    hdu.header["TIMEUNIT"] = "d"
    curve = one(written(tmp_path / "a.fits", hdu))
    np.testing.assert_allclose(curve.time, seconds * np.arange(5.0))
    np.testing.assert_allclose(curve.width, 0.5 * seconds)


def test_columns_are_found_whatever_their_case_and_scaling(tmp_path):
    hdu = srctool()
    plain = one(written(tmp_path / "a.fits", hdu))
    lower = fits.BinTableHDU.from_columns(
        [
            fits.Column(
                c.name.lower(),
                c.format,
                array=c.array,
                unit=c.unit,
                **(dict(bscale=0.5, bzero=10) if c.name == "BACK_COUNTS" else {}),
            )
            for c in hdu.columns
        ],
        name="RATE",
    )
    other = one(written(tmp_path / "b.fits", lower))
    np.testing.assert_allclose(other.rate, plain.rate, rtol=1e-6, atol=1e-9)


def test_defect_07_big_endian_columns_on_numpy_2(tmp_path):
    """FITS is big-endian; `.byteswap().newbyteorder()` fails on numpy 2. All that comes out is native."""
    path = written(tmp_path / NAME, srctool())
    with fits.open(path) as hdus:
        assert hdus[1].data["COUNTS"].dtype.byteorder == ">"
    curve = one(path)
    assert all(field.dtype.isnative for field in curve[2:-1])
    assert torch.from_numpy(curve.counts).sum() == fits.getdata(path, 1)["COUNTS"].sum()


@pytest.mark.parametrize("digit, band", [("1", "0.2-0.6"), ("2", "0.6-2.3"), ("3", "2.3-5")])
@pytest.mark.parametrize("energies", [True, False])
def test_defect_09_every_band_is_read(tmp_path, digit, band, energies):
    """Each band's own file is a curve of that band, with its own counts:
    no list of another band, no NameError.
    """
    hdu = srctool(bands=1, seed=int(digit), energies=False)
    if energies:
        hdu.header["E_MIN1"], hdu.header["E_MAX1"] = map(float, band.split("-"))
    curve = one(written(tmp_path / f"em01_123456_02{digit}_LightCurve_00042_c010_rebinned.fits", hdu))
    assert (
        curve.bands == (band,)
        and np.array_equal(curve.counts[:, 0], hdu.data["COUNTS"])
        and curve.source == "123456_00042"
    )


def test_defect_10_upper_limits_are_known(tmp_path):
    """A bin without counts is known as an upper limit: its lower error equals its rate."""
    hdu = srctool(12)
    hdu.data["COUNTS"][:] = 40
    hdu.data["COUNTS"][3] = 0
    curve = one(written(tmp_path / NAME, hdu))
    limit = curve.observed & (curve.error_low == curve.rate)
    assert limit[3].all() and limit.sum() == 3 and (curve.rate[3] == 0).all()
    np.testing.assert_allclose(curve.error_up[3], 0.5 / curve.exposure[3], rtol=1e-6)


def test_rates_of_many_files_at_once_are_those_of_each(tmp_path):
    paths = [written(tmp_path / f"{n}.fits", srctool(4 + n, seed=n)) for n in range(3)] + [
        written(tmp_path / "r.fits", rates())
    ]
    together = with_rates([found for path in paths for found in find_light_curves(path, Reading())])
    for path, curve in zip(paths, together):
        alone = one(path)
        for name in ("rate", "error_low", "error_up"):
            np.testing.assert_allclose(getattr(curve, name), getattr(alone, name), rtol=1e-6)


# event lists ------------------------------------------------------------------------------------------------


def events(time, good=((0, 400),), unit="keV", energy=None, more=()) -> list[fits.BinTableHDU]:
    energy = np.ones(len(time)) if energy is None else np.asarray(energy)
    lists = [table("EVENTS", TIME=("D", np.asarray(time, float), "s"), ENERGY=("E", energy, unit))]
    return lists + [
        table("GTI", START=("D", [a for a, _ in part], "s"), STOP=("D", [b for _, b in part], "s"))
        for part in (good, *more)
    ]


def test_events_are_counted_in_good_time(tmp_path):
    """Against a slow loop: bins, gaps in the good time, energies at and beyond the edges."""
    random = np.random.default_rng(0)
    time, energy = np.sort(random.uniform(-50, 700, 3000)), random.uniform(0.1, 6, 3000).astype("f4")
    good = [(5.0, 120.0), (130.0, 131.0), (300.0, 655.0)]
    curve = one(written(tmp_path / "a.evt", *events(time, good, energy=energy)), bin_time=50.0)
    kept = 0
    for begin in np.arange(5.0, 655.0, 50.0):
        exposure = sum(max(0.0, min(b, begin + 50) - max(a, begin)) for a, b in good)
        if exposure < 5:
            continue
        inside = (
            (time >= begin)
            & (time < begin + 50)
            & np.any([(time >= a) & (time <= b) for a, b in good], axis=0)
        )
        counts = [
            np.sum(inside & (energy >= low) & (energy < high))
            for low, high in ((0.2, 0.6), (0.6, 2.3), (2.3, 5.0))
        ]
        assert (
            curve.time[kept] == begin + 25
            and curve.exposure[kept].tolist() == pytest.approx([exposure] * 3)
            and curve.counts[kept].tolist() == counts
        )
        kept += 1
    assert kept == len(curve.time) == 11 and (curve.width == 50).all() and (curve.background == 0).all()
    np.testing.assert_allclose(curve.rate, curve.counts / curve.exposure, rtol=1e-5)


def test_gti_tables_are_intersected_and_sorted(tmp_path):
    time = np.arange(400) + 0.5
    path = written(tmp_path / "a.evt", *events(time, [(200, 300), (0, 100), (90, 150)], more=[[(50, 250)]]))
    curve = one(path, bin_time=10.0)
    assert curve.exposure[:, 0].sum() == 150 and curve.counts[:, 1].sum() == 150  # 50-150 and 200-250
    with pytest.raises(BadFile, match="do not overlap"):
        read_light_curves(
            written(tmp_path / "b.evt", *events(time, [(0, 100)], more=[[(100, 250)]])), Reading()
        )


def test_energies_in_ev_are_the_same(tmp_path):
    energy = np.linspace(0.1, 6, 200)
    both = [
        one(written(tmp_path / f"{unit}.evt", *events(np.arange(200.0), unit=unit, energy=energy * scale)))
        for unit, scale in (("keV", 1), ("eV", 1e3))
    ]
    assert np.array_equal(both[0].counts, both[1].counts) and both[0].bands == both[1].bands == (
        "0.2-0.6",
        "0.6-2.3",
        "2.3-5",
    )


def test_events_without_energies_go_by_channel(tmp_path):
    hdus = events(np.arange(6.0))
    hdus[0] = table("EVENTS", TIME=("D", np.arange(6.0), "s"), PHA=("B", [0, 13, 14, 35, 36, 255], "chan"))
    curve = one(written(tmp_path / "a.evt", *hdus))
    assert curve.bands == ("PHA:0-14", "PHA:14-36", "PHA:36-256") and curve.counts[0].tolist() == [2, 2, 2]


def test_a_short_last_bin_keeps_its_exposure(tmp_path):
    curve = one(written(tmp_path / "a.evt", *events([1.0, 105, 119, 120], [(0, 120)])))
    assert curve.exposure[:, 1].tolist() == [100, 20] and curve.counts[:, 1].tolist() == [1, 3]
    # 5 s of 100 are too few
    assert len(one(written(tmp_path / "b.evt", *events([1.0, 104], [(0, 105)]))).time) == 1


# tables -----------------------------------------------------------------------------------------------------


def test_tables_make_epochs_of_bands(tmp_path):
    (tmp_path / "a.csv").write_text(
        "time,mag,magerr,band,id\n"
        "2.0,20.0,0.1,g,A\n1.0,22.5,0.1,r,A\n1.001,22.5,0.2,g,A\n1.019,20.0,0.1,i,A\n1.021,20.0,0.1,z,A\n"
        "1.0,-999,0.1,g,B\n1.5,21,nan,g,B\n1.6,21,0.1,g,B\n1.605,21,0.1,g,B\n"
        "1.0,-999,0.1,g,C\n"
    )
    a, b = read_light_curves(tmp_path / "a.csv", Reading())
    for curve in (a, b):
        check(curve)
    assert (a.source, b.source) == ("A", "B") and a.bands == b.bands == ("g", "r", "i", "z")
    np.testing.assert_allclose(a.time / 86400, [(1 + 1.001 + 1.019) / 3, 1.021, 2.0])
    assert a.observed.tolist() == [
        [True, True, True, False],
        [False, False, False, True],
        [True, False, False, False],
    ]
    np.testing.assert_allclose(a.rate[0], [1, 1, 10, 0], rtol=1e-6)
    np.testing.assert_allclose(
        a.error_up[0], [0.2 * np.log(10) / 2.5, 0.1 * np.log(10) / 2.5, np.log(10) / 2.5, 0], rtol=1e-6
    )
    assert a.counts is None and (a.width == 0).all() and (a.error_low == a.error_up).all()
    # the same band twice is two points, however close
    np.testing.assert_allclose(b.time / 86400, [1.6, 1.605])
    assert len(read_light_curves(tmp_path / "a.csv", Reading(epoch_gap=0.03))[0].time) == 2


def test_fluxes_one_band_one_source(tmp_path):
    (tmp_path / "star.csv").write_text("mjd, flux, flux_err\n1, 3, 0.5\n2, -1, 0.5\n3, , 0.5\n")
    curve = one(tmp_path / "star.csv")
    assert (
        curve.source == "star"
        and curve.rate[:, 0].tolist() == [3, -1]
        and curve.error_low[:, 0].tolist() == [0.5, 0.5]
    )


# what can be wrong ------------------------------------------------------------------------------------------


def without(hdu, name):
    return fits.BinTableHDU.from_columns(
        [column for column in hdu.columns if column.name != name], name=hdu.name
    )


def spoiled(hdu, name, row, value):
    hdu.data[name][row] = value
    return hdu


@pytest.mark.parametrize(
    "hdu, reason",
    [
        (lambda: without(srctool(), "TIME"), "no light curve.*HDU 1 'RATE' has columns"),
        (lambda: without(srctool(), "BACKRATIO"), "no column BACKRATIO"),
        (lambda: without(srctool(), "TIMEDEL"), "TIMEDEL.*exposure"),
        (lambda: without(rates(), "RATE_ERRP"), "no column RATE_ERRP"),
        (lambda: without(without(rates(), "RATE_ERRP"), "RATE_ERRM"), "no column RATE_ERR"),
        (lambda: spoiled(srctool(), "TIME", slice(None), np.nan), "none of 6 times is finite"),
        (lambda: spoiled(rates(), "RATE", slice(None), np.nan), "no point left: none of 5 rows"),
        (lambda: rates(TIME=("D", np.arange(5.0), "parsec")), "unknown unit of time 'parsec'"),
        (lambda: rates(0), "no point left: none of 0"),
        (lambda: fits.ImageHDU(np.zeros((3, 3))), "there is no table"),
        (lambda: events([1.0])[0], "no good time intervals"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_bad_tables_are_refused_with_a_reason(tmp_path, hdu, reason):
    with pytest.raises(BadFile, match=reason) as error:
        read_light_curves(written(tmp_path / NAME, hdu()), Reading())
    assert "\n" not in str(error.value)


def test_bad_files_are_refused_with_a_reason(tmp_path):
    good = written(tmp_path / NAME, srctool(400)).read_bytes()
    zipped = gzip.compress(good)
    bad = {
        "truncated.fits": (good[:-5760], "truncated"),
        "header.fits": (good[:3000], "truncated|unreadable|no table"),
        "cut.fits.gz": (zipped[:-100], "gzip"),
        "bit.fits.gz": (zipped[:500] + b"\0\0\0" + zipped[503:], "gzip"),
        "empty.fits": (b"", "empty"),
        "text.fits": (b"hello", "not a FITS file"),
        "cut.csv.gz": (gzip.compress(b"time,mag,magerr\n" * 999)[:-20], "unreadable"),
        "no.csv.gz": (b"time", "cannot be read|unreadable"),
        "empty.csv": (b"", "unreadable"),
        "binary.csv": (bytes(range(256)), "unreadable|expected"),
        "columns.csv": (b"Num,Type\n1,ab\n", "expected columns time.*there are Num Type"),
        "time.csv": (b"time,mag,magerr\nx,1,1\n", "1 of 1 rows have no time"),
        "nothing.csv": (b"time,mag,magerr\n1,-999,1\n", "no point left"),
    }
    for name, (content, reason) in bad.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BadFile, match=reason) as error:
            read_light_curves(tmp_path / name, Reading())
        assert "\n" not in str(error.value), name
    (tmp_path / "folder.fits").mkdir()
    (tmp_path / "folder.csv").mkdir()
    for name in ("folder.fits", "folder.csv", "absent.fits", "absent.csv"):
        with pytest.raises(BadFile):
            read_light_curves(tmp_path / name, Reading())


def test_too_many_bins_are_refused(tmp_path):
    with pytest.raises(BadFile, match="larger --bin_time"):
        read_light_curves(written(tmp_path / "a.evt", *events([1.0], [(0, 1e9)])), Reading(bin_time=1.0))


# names, flags -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, source",
    [
        ("em01_123456_020_LightCurve_00042_c010_rebinned.fits", "123456_00042"),
        ("em04_123456_023_LightCurve_00042_c010.fits.gz", "123456_00042"),
        ("em01_123456_020_LightCurve_00043_c010.fits", "123456_00043"),
        ("some/where/star.evt.gz", "star"),
        ("a.b.csv", "a.b"),
        ("x.lc", "x"),
        ("constant_020_LightCurve_00001.fits.gz", "constant_020_LightCurve_00001"),
    ],
)
def test_source_of(name, source):
    assert source_of(name) == source


def test_reading_is_read_from_the_command_line():
    (reading,) = read_options(["--bin_time", "10", "--energy_bands", "0.5", "2", "7"], Reading)
    assert (
        reading.bin_time == 10
        and reading.energy_bands == [0.5, 2, 7]
        and reading.channel_bands == [0, 14, 36, 256]
    )
    for wrong in (
        ["--bin_time", "0"],
        ["--min_fracexp", "2"],
        ["--energy_bands", "2", "1"],
        ["--channel_bands", "3"],
        ["--epoch_gap", "-1"],
    ):
        with pytest.raises(Mistake, match=wrong[0]):
            read_options(wrong, Reading)


# real files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["constant_020_LightCurve_00001", "loggauss_020_LightCurve_00001", "red_020_LightCurve_00022"]
)
def test_real_srctool_files(shared_data, name):
    path = shared_data(f"light_curves/erosita_format/{name}.fits.gz")
    curve, raw = one(path), fits.getdata(path, 1)
    wanted = (raw["FRACEXP"] >= 0.1).any(1)
    assert len(curve.time) == wanted.sum() >= 17 and curve.bands == ("0.2-5", "0.2-2.3", "2.3-5")
    assert (
        np.array_equal(curve.time, raw["TIME"][wanted])
        and curve.counts.sum() == raw["COUNTS"][raw["FRACEXP"] >= 0.1].sum()
    )
    theirs = raw["RATE"][wanted]
    seen = curve.observed & (curve.rate > 0)
    # the mode is near the difference of counts
    np.testing.assert_allclose(curve.rate[seen], theirs[seen], atol=2e-3, rtol=2e-3)
    difference = srctool_rate(
        torch.from_numpy(curve.counts),
        torch.from_numpy(curve.background),
        torch.tensor(1.0),
        torch.from_numpy(curve.exposure),
    )
    np.testing.assert_allclose(
        difference[torch.from_numpy(curve.observed)], theirs[curve.observed], rtol=1e-4, atol=1e-6
    )


def test_real_chandra_events(shared_data):
    """M82 in three bands: nothing in the good time is lost but what is beyond the bands; the exposure is
    without the dead time, as its header's.
    """
    path = shared_data("light_curves/chandra_rxte/chandra_test.fits")
    curve = one(path, bin_time=10.0, min_fracexp=0.0, energy_bands=[0.2, 0.6, 2.3, 5.0])
    raw, good = fits.getdata(path, 1), fits.getdata(path, 2)
    energy = raw["energy"] / 1000
    assert curve.counts.sum(0).tolist() == [
        np.sum((energy >= low) & (energy < high)) for low, high in ((0.2, 0.6), (0.6, 2.3), (2.3, 5.0))
    ]
    live = float(np.sum(good["STOP"] - good["START"])) * fits.getheader(path, 1)["DTCOR"]
    assert curve.exposure[:, 0].sum() == pytest.approx(live, rel=1e-6)


def test_real_rxte_events(shared_data):
    """Two GTI tables, no energies, columns named Start and Stop."""
    curve = one(shared_data("light_curves/chandra_rxte/xte_gx_test.evt.gz"), bin_time=1.0)
    assert curve.bands == ("PHA:0-14", "PHA:14-36", "PHA:36-256") and len(curve.time) == 99
    assert curve.counts.sum() == pytest.approx(3415, abs=3) and curve.exposure[:, 0].sum() == pytest.approx(
        99, abs=0.1
    )


def test_real_xronos_curve(shared_data):
    """TIMEUNIT says d where the column is in s; NaN is unobserved;
    bins without a count have no error there and are upper limits.
    """
    path = shared_data("light_curves/chandra_rxte/lcurveA.fits")
    curve, raw = one(path), fits.getdata(path, 1)
    assert curve.counts is None and np.median(np.diff(curve.time)) == 1 and (curve.width == 1).all()
    assert len(curve.time) == np.isfinite(raw["RATE1"]).sum() == 1025
    empty = curve.rate[:, 0] == 0
    assert empty.sum() == 382 and (curve.error_low[empty] == 0).all()
    np.testing.assert_allclose(curve.error_up[empty], 0.5, rtol=1e-5)


def test_real_rr_lyrae(shared_data):
    """483 stars of Stripe 82 in ugriz; every magnitude that is one is kept."""
    path = shared_data("light_curves/rr_lyrae/light_curves.csv.gz")
    import pandas as pd

    raw, curves = pd.read_csv(path), read_light_curves(path, Reading())
    for curve in curves:
        check(curve)
        assert curve.bands == tuple("ugriz") and curve.counts is None
    good = raw[(raw["mag"].abs() < 90) & np.isfinite(raw["magerr"]) & (raw["magerr"] > 0)]
    assert len(curves) == 483 and {curve.source for curve in curves} == set(raw["id"].astype(str))
    assert sum(curve.observed.sum() for curve in curves) == pytest.approx(len(good), abs=5)
    star = next(curve for curve in curves if curve.source == "1013184")
    mine = good[(good["id"] == 1013184) & (good["band"] == "g")].sort_values("time")
    np.testing.assert_allclose(
        star.rate[star.observed[:, 1], 1], 10 ** (-0.4 * (mine["mag"] - 22.5)), rtol=1e-5
    )
    several = np.mean([curve.observed.sum(1).mean() for curve in curves])
    assert several > 4.5  # an epoch holds nearly all five bands
