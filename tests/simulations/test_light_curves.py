"""simulate.py light_curves: each process against its closed form, honest counts, the real files' forms,
the same bytes however made.
"""

import csv
import json
import multiprocessing
from pathlib import Path

import numpy as np
import pytest
import torch
from astropy.io import fits
from scipy import integrate, stats

import simulate
from data.light_curves.curve import Reading
from data.light_curves.file_names import source_of
from data.light_curves.files import read_light_curves
from physics import count_rates
from simulations.light_curves import processes, products, survey as simulation
from simulations.light_curves.processes import ERODAY, PROCESSES, draw
from simulations.light_curves.survey import Survey
from utils.mistake import Mistake

VISITS = 14400.0 * np.arange(40)
INSTANT = np.zeros(40)


def generator(*seed):
    return np.random.default_rng(seed)


def run(out, *flags):
    simulate.main(["light_curves", "--out", str(out), "--workers", "1", *map(str, flags)])
    return Path(out)


def contents(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()
    }


@pytest.fixture(scope="module")
def rebinned(tmp_path_factory):
    return run(tmp_path_factory.mktemp("rebinned"), "--curves", 30, "--seed", 11)


@pytest.fixture(scope="module")
def srctool(tmp_path_factory):
    return run(tmp_path_factory.mktemp("srctool"), "--curves", 12, "--seed", 11, "--format", "srctool")


def test_ornstein_uhlenbeck_has_its_covariance_at_any_times():
    time = np.cumsum(generator(0).exponential(3.0, 25))
    values = np.stack([processes.ornstein_uhlenbeck(time, 0.7, 8.0, generator(1, k)) for k in range(6000)])
    expected = 0.49 * np.exp(-np.abs(time[:, None] - time) / 8.0)
    # The error of a covariance of n Gaussian pairs is at most its variance times sqrt(2 / n).
    assert np.abs(np.cov(values.T) - expected).max() < 4.5 * 0.49 * np.sqrt(2 / 6000)
    assert np.abs(values.mean(0)).max() < 4.5 * 0.7 / np.sqrt(6000)


@pytest.mark.parametrize("process", ["red_noise", "log_normal"])
def test_stochastic_processes_are_log_normal(process):
    scaled = []
    for k in range(800):
        rate, drawn = draw(process, VISITS, INSTANT, generator(2, k))
        factor = np.array([drawn[f"factor_{band}"] for band in range(3)])
        logs = np.log(rate) / (drawn["sigma"] * factor)
        np.testing.assert_allclose(logs, logs[:, :1].repeat(3, 1), atol=1e-12)  # one variability, scaled
        scaled.append(logs[:, 0])
    scaled = np.array(scaled)
    np.testing.assert_allclose(
        [scaled.mean(), scaled.var(), stats.kurtosis(scaled[:, ::20].ravel())], [0, 1, 0], atol=0.25
    )
    neighbours = (scaled[:, 1:] * scaled[:, :-1]).mean()
    if process == "log_normal":
        assert abs(neighbours) < 0.03 and stats.kstest(scaled.ravel(), "norm").pvalue > 1e-3
    else:
        # exp(-visit / damping time) averaged over damping times log-uniform in 2 to 12 visits.
        expected = integrate.quad(lambda x: np.exp(-1 / x) / x, 2, 12)[0] / np.log(6)
        assert abs(neighbours - expected) < 0.05


def test_flare_is_a_fast_rise_and_an_exponential_decay():
    for k in range(20):
        rate, drawn = draw("flare", VISITS, INSTANT, generator(3, k))
        since = VISITS - drawn["peak_time"]
        slope = np.where(since < 0, since / drawn["rise_time"], -since / drawn["decay_time"])
        for band in range(3):
            np.testing.assert_allclose(
                rate[:, band], 1 + (drawn["peak"] - 1) * drawn[f"factor_{band}"] * np.exp(slope), rtol=1e-12
            )
        assert 3 <= drawn["peak"] <= 30 and 0 <= drawn["peak_time"] <= VISITS[-1]
        assert (
            1.5 <= drawn["decay_time"] / ERODAY <= 8
            and 0.1 <= drawn["rise_time"] / drawn["decay_time"] <= 0.5
        )


def test_eclipse_has_its_duty_cycle_and_depth():
    for k in range(20):
        rate, drawn = draw("eclipse", VISITS, INSTANT, generator(4, k))
        period, duration = drawn["period"] / ERODAY, drawn["duration"] / ERODAY
        assert 3 <= period <= 20 and 0.7 <= drawn["depth"] <= 1 and 1 <= duration <= max(1, 0.3 * period)
        time = np.linspace(0, drawn["period"], 100001)[:-1]
        covered = processes.trapezoid(
            time - drawn["dip_time"], drawn["period"], drawn["duration"], drawn["ingress"]
        )
        assert abs(covered.mean() - drawn["duration"] / drawn["period"]) < 1e-4
        assert covered.max() == 1 and covered.min() == 0 and drawn["ingress"] > 0
        depth = 1 - (1 - drawn["depth"]) ** drawn["factor_1"]
        assert rate.max() <= 1 and rate[:, 1].min() >= 1 - depth - 1e-12
        assert rate[:, 1].min() < 1 - 0.4 * depth  # a dip is seen


def test_eruptions_recur_with_their_width_and_height():
    step = 200.0
    time, width = step * np.arange(15000), np.zeros(15000)
    intervals, scatter = [], []
    for k in range(12):
        rate, drawn = draw("qpe", time, width, generator(5, k))
        assert drawn["factor_0"] < drawn["factor_1"] < drawn["factor_2"]
        shape = (rate[:, 2] - 1) / ((drawn["peak"] - 1) * drawn["factor_2"])
        tops = (
            np.flatnonzero((shape[1:-1] > shape[:-2]) & (shape[1:-1] >= shape[2:]) & (shape[1:-1] > 0.5)) + 1
        )
        assert 0.99 < np.median(shape[tops]) < 1.02
        assert abs((shape > 0.5).sum() * step / len(tops) / drawn["fwhm"] - 1) < 0.1
        between = np.diff(time[tops]) / drawn["recurrence"]
        intervals.append(between.mean())
        scatter.append(between.std() / drawn["scatter"])
        assert (
            5 <= drawn["recurrence"] / 3600 <= 20
            and 0.1 <= drawn["fwhm"] / drawn["recurrence"] <= 0.3
            and 5 <= drawn["peak"] <= 50
        )
        # No end of the span is without bursts.
        assert (
            time[tops[0]] < 1.6 * drawn["recurrence"]
            and time[-1] - time[tops[-1]] < 1.6 * drawn["recurrence"]
        )
    assert abs(np.mean(intervals) - 1) < 0.02 and abs(np.mean(scatter) - 1) < 0.15


def test_bins_hold_the_mean_rate_and_constant_is_constant():
    time, width = ERODAY * np.arange(10.0), np.full(10, 3000.0)

    def shape(t):
        return np.exp(-0.5 * (t / 2e4) ** 2)

    means = [integrate.quad(shape, t - w / 2, t + w / 2)[0] / w for t, w in zip(time, width)]
    np.testing.assert_allclose(processes.mean_over_bins(shape, time, width), means, rtol=1e-6)
    rate, drawn = draw("constant", VISITS, INSTANT, generator(0), bands=2)
    assert (rate == 1).all() and rate.shape == (40, 2) and drawn == {}
    with pytest.raises(KeyError):
        draw("steady", VISITS, INSTANT, generator(0))


def test_counts_are_poisson_about_the_truth():
    curves = [simulation.simulate(1, number, Survey()) for number in range(300)]
    for curve in curves:
        expected = curve.rate * curve.bins.exposure
        np.testing.assert_allclose(expected.sum(), curve.truth["total_counts"], rtol=1e-9)
        np.testing.assert_allclose(
            expected.sum(0) / expected.sum(), [curve.truth[f"colour_{band}"] for band in range(3)], rtol=1e-9
        )
    for counts, mean in (
        ("counts", lambda c: c.rate * c.bins.exposure + c.bins.expected * c.bins.backratio[:, None]),
        ("back_counts", lambda c: c.bins.expected),
    ):
        mean = np.concatenate([mean(curve).ravel() for curve in curves])
        excess = np.concatenate([getattr(curve, counts).ravel() for curve in curves]) - mean
        assert abs(excess.sum()) < 4 * np.sqrt(mean.sum())
        square = excess**2 / mean
        # Variance of (n - m)^2 / m is 2 + 1 / m.
        assert abs(square.mean() - 1) < 4 * np.sqrt((2 + 1 / mean).mean() / len(mean))
    totals = np.log([curve.truth["total_counts"] for curve in curves])
    assert stats.kstest(totals, "uniform", (np.log(200), np.log(100))).pvalue > 1e-3
    assert [curve.truth["process"] for curve in curves[:7]] == [*PROCESSES, "constant"]


def test_visits_and_exposures_are_those_of_a_scanning_survey():
    curves = [simulation.simulate(1, number, Survey()) for number in range(300)]
    number = np.array([len(curve.bins.time) for curve in curves])
    assert (
        number.min() >= 10
        and number.max() <= 60
        and stats.kstest(number + 0.5, "uniform", (10, 51)).pvalue > 1e-3
    )
    steps = np.rint(np.concatenate([np.diff(curve.bins.time) for curve in curves]) / ERODAY)
    assert (steps >= 1).all() and 0.03 < (steps == 2).mean() < 0.07
    breaks = [(np.diff(curve.bins.time) > 86000).any() for curve in curves]
    assert 0.1 < np.mean(breaks) < 0.3
    fracexp = np.concatenate([curve.bins.fracexp for curve in curves])
    assert (
        fracexp[:, 1].min() > 0.1
        and 0.6 < fracexp[:, 1].max() < 0.7
        and (fracexp[:, 2] < fracexp[:, 1]).all()
    )
    width = np.concatenate([curve.bins.width for curve in curves])
    assert {*width} == {10, 20, 30, 40, 50} and np.median(width) == 40
    background = np.concatenate(
        [
            (curve.bins.expected * curve.bins.backratio[:, None] / curve.bins.exposure).sum(1)
            for curve in curves
        ]
    )
    # of the public eFEDS curves
    np.testing.assert_allclose(np.quantile(background, (0.1, 0.5, 0.9)), (0.05, 0.13, 0.28), rtol=0.2)


def test_a_crossing_lasts_its_chord():
    centre, impact = ERODAY * np.arange(200.0) + simulation.GRID, np.linspace(-0.5, 0.5, 200)
    bins = simulation.bins_from_model(generator(0), centre, impact, "srctool")
    seconds = np.bincount(bins.visit, bins.width * bins.fractime)
    chord = 2 * np.sqrt(simulation.FIELD_RADIUS**2 - impact**2) / simulation.SCAN_SPEED
    assert np.abs(seconds - chord).max() <= 2 * simulation.STEP
    assert {*np.bincount(bins.visit)} <= {1, 2}
    exposure = np.bincount(bins.visit, bins.exposure[:, 0])[100]
    exact = integrate.quad(
        lambda t: 1 - 1.44 * np.hypot(impact[100], 0.025 * t), -chord[100] / 2, chord[100] / 2
    )[0]
    assert abs(exposure / exact - 1) < 0.01


def test_rebinned_files(rebinned):
    paths = sorted(rebinned.rglob("*.fits"))
    assert len(paths) == 30 and paths[4].name == "em01_000000_020_LightCurve_00005_c010_rebinned.fits"
    for number, path in enumerate(paths):
        curve = simulation.simulate(11, number, Survey())
        assert path.stat().st_size % 2880 == 0
        with fits.open(path) as hdus:
            hdus.verify("exception")
            table, header = hdus[1].data, hdus[1].header
            assert [(c.name, c.format, c.unit) for c in hdus[1].columns] == [*products.REBINNED]
            np.testing.assert_array_equal(table["COUNTS"], curve.counts)
            np.testing.assert_allclose(table["TIME"], curve.bins.time, rtol=0)
            assert header["OBJECT"] == f"{number + 1:05d}" and header["CTS_SC2"] == curve.counts[:, 1].sum()
            assert header["TSTART"] <= table["TIME"][0] and header["DATE-OBS"].startswith("20")
            counts, exposure = (
                torch.from_numpy(x.astype(float))
                for x in (table["COUNTS"], table["TIMEDEL"][:, None] * table["FRACEXP"])
            )
            for name, value in zip(
                ("RATE", "RATE_ERRM", "RATE_ERRP"), count_rates.total_rate(counts, exposure)
            ):
                np.testing.assert_allclose(table[name], value, rtol=1e-5, atol=1e-7)
            assert (table["RATE"] - table["RATE_ERRM"] >= -1e-6).all() and (table["RATE_ERRP"] > 0).all()


def test_source_rates_on_demand(tmp_path):
    run(tmp_path, "--curves", 3, "--seed", 11, "--rates", "src", "--points_high", 12)
    curve = simulation.simulate(11, 2, Survey(points_high=12))
    expected = simulation.source_rates([curve], "src")[0]
    table = fits.getdata(tmp_path / products.file_name(2, "rebinned"))
    for name, value in zip(("RATE", "RATE_ERRM", "RATE_ERRP"), expected):
        np.testing.assert_allclose(table[name], value, rtol=1e-6)


def relations(table):
    """srctool's RATE and RATE_ERR from the other columns of its table, NaN where the table must hold NaN."""
    counts, back, fracexp = (table[name].astype(float) for name in ("COUNTS", "BACK_COUNTS", "FRACEXP"))
    ratio, exposure = table["BACKRATIO"][:, None].astype(float), table["TIMEDEL"][:, None] * fracexp
    with np.errstate(divide="ignore", invalid="ignore"):
        rate = (counts - back * ratio) / exposure
        large = (
            np.sqrt((np.sqrt(counts + 0.75) + 1) ** 2 + ratio * (np.sqrt(back + 0.75) + 1) ** 2) / exposure
        )
        sliver = np.where((counts == 0) & (back < 25), np.nan, np.sqrt(counts + ratio**2 * back) / exposure)
    return rate, np.where(fracexp > 0.1, large, sliver)


def test_srctool_files_obey_srctools_relations(srctool):
    for number, path in enumerate(sorted(srctool.rglob("*.fits"))):
        curve = simulation.simulate(11, number, Survey(format="srctool"))
        with fits.open(path) as hdus:
            hdus.verify("exception")
            table = hdus["RATE"].data
            assert [(c.name, c.format, c.unit) for c in hdus[1].columns] == [*products.SRCTOOL]
        np.testing.assert_allclose(np.diff(table["TIME"]), 100, atol=1e-6)
        seen = (table["FRACEXP"] > 0).all(1)
        assert seen.sum() == len(curve.counts) and not seen[:3].any() and not seen[-3:].any()
        assert (
            (table["COUNTS"][~seen] == 0).all()
            and np.isnan(table["RATE"][~seen]).all()
            and np.isnan(table["BACKRATIO"][~seen]).all()
        )
        rate, error = relations(table[seen])
        np.testing.assert_allclose(table["RATE"][seen], rate, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(table["RATE_ERR"][seen], error, rtol=1e-5)
        np.testing.assert_allclose(
            table["FRACEXP"][seen], table["FRACAREA"][seen] * table["FRACTIME"][seen][:, None], rtol=1e-5
        )


def test_real_files_have_the_same_form_and_relations(srctool, shared_data):
    ours = fits.open(sorted(srctool.rglob("*.fits"))[0])["RATE"]
    for path in sorted(shared_data("light_curves/erosita_format").glob("*.fits.gz")):
        theirs = fits.open(path)["RATE"]
        assert [(c.name, c.format, c.unit) for c in ours.columns] == [
            (c.name, c.format, c.unit) for c in theirs.columns
        ]
        assert {*ours.header} <= {*theirs.header}
        same = (
            "HDUCLASS",
            "HDUCLAS1",
            "HDUCLAS2",
            "HDUCLAS3",
            "TELESCOP",
            "INSTRUME",
            "TIMEDEL",
            "MJDREF",
            "TIMESYS",
            "BACKAPP",
            "VIGNAPP",
            "NAXIS1",
        )
        assert all(ours.header[key] == theirs.header[key] for key in same)
        empty = theirs.data[(theirs.data["FRACEXP"] == 0).all(1)][5:6]
        for name in ours.columns.names[2:]:
            np.testing.assert_array_equal(ours.data[name][:1], empty[name])
        seen = theirs.data[(theirs.data["FRACEXP"] > 0).any(1)]
        rate, error = relations(seen)
        np.testing.assert_allclose(seen["RATE"], rate, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(seen["RATE_ERR"], error, rtol=2e-4)


@pytest.mark.parametrize("real", [False, True])
def test_exposures_of_files(real, tmp_path, shared_data, srctool):
    folder = str(shared_data("light_curves/erosita_format") if real else srctool / "000000")
    rows = np.concatenate(simulation.read_exposures(folder))
    curve = simulation.simulate(1, 8, Survey(exposures=folder))
    assert rows["fracexp"].min() > 0.1 and {*map(tuple, curve.bins.expected)} <= {
        *map(tuple, rows["expected"])
    }
    # In their order: most rows are followed by the row that follows them in a file.
    place = [int(np.flatnonzero((rows["fracexp"] == row).all(1))[0]) for row in curve.bins.fracexp]
    assert (np.diff(place) == 1).mean() > 0.6
    assert curve.truth == simulation.simulate(1, 8, Survey()).truth  # the same source
    run(tmp_path / "D", "--curves", 2, "--exposures", folder, "--format", "srctool")
    table = fits.getdata(tmp_path / "D" / products.file_name(1, "srctool"))
    np.testing.assert_allclose(table["FRACEXP"], table["FRACAREA"] * table["FRACTIME"][:, None], rtol=0.03)


@pytest.mark.filterwarnings("ignore:File may have been truncated")
def test_files_without_exposures_are_refused(tmp_path, srctool, rebinned):
    with pytest.raises(Mistake, match="no srctool light curve"):
        run(tmp_path / "D", "--exposures", tmp_path)
    with pytest.raises(Mistake, match="_rebinned.fits is not a whole"):
        run(tmp_path / "D", "--exposures", rebinned / "000000")
    (tmp_path / "cut.fits").write_bytes(sorted(srctool.rglob("*.fits"))[0].read_bytes()[:100000])
    with pytest.raises(Mistake, match="cut.fits is not a whole"):
        run(tmp_path / "D", "--exposures", tmp_path)
    assert not (tmp_path / "D").exists()


def test_vignetting_and_background_are_those_of_real_files(shared_data):
    real = np.concatenate(simulation.read_exposures(str(shared_data("light_curves/erosita_format"))))
    whole = real[(real["fractime"] > 0.9) & (np.abs(real["offaxis"]) < 0.5)]
    area = 1 - simulation.VIGNETTING * np.abs(whole["offaxis"])
    difference = whole["fracexp"] / whole["fractime"][:, None] - area[:, None] ** np.array([1, 1, 1.5])
    assert (
        len(whole) > 20
        and (np.abs(difference).max(0) < (0.04, 0.04, 0.07)).all()
        and (np.abs(difference.mean(0)) < 0.03).all()
    )
    # their first band is 0.2-5.0 keV
    level = real["expected"][:, 0] * real["backratio"] / (real["width"] * real["fractime"])
    assert simulation.BACKGROUND_LEVEL[0] < level.min() and level.max() < simulation.BACKGROUND_LEVEL[1]
    assert (
        abs(real["expected"][:, 2].sum() / real["expected"][:, 0].sum() - simulation.BACKGROUND_SHARE[2])
        < 0.02
    )


def test_truth_table(rebinned, srctool):
    with open(rebinned / "labels.csv") as file:
        rows = list(csv.DictReader(file))
    assert [*rows[0]] == products.LABELS and len(rows) == 30
    assert [row["process"] for row in rows] == [*PROCESSES] * 5 and rows[3]["source"] == "000000_00004"
    for row in rows:
        assert (rebinned / row["path"]).is_file()
        assert int(row["points"]) == len(fits.getdata(rebinned / row["path"]))
        assert bool(row["damping_time"]) == (row["process"] == "red_noise") and bool(row["fwhm"]) == (
            row["process"] == "qpe"
        )
    with open(srctool / "labels.csv") as file:
        # the same sources
        assert [row | {"path": ""} for row in csv.DictReader(file)] == [
            row | {"path": ""} for row in rows[:12]
        ]
    written = {name for number in range(12) for name in simulation.simulate(0, number, Survey()).truth}
    assert written | {"source", "path"} == {*products.LABELS}


def test_bytes_do_not_depend_on_workers_or_count(rebinned, tmp_path):
    jobs = products.batches(tmp_path, 11, 270, Survey())
    assert len(jobs) == 2
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        pool.map(products.write_batch, jobs[::-1])
    part, more = contents(rebinned), contents(tmp_path)
    files = [name for name in part if name.endswith(".fits")]
    assert len(files) == 30 and len(more) == 270 and all(part[name] == more[name] for name in files)
    run(tmp_path / "b", "--curves", 1, "--seed", 12)
    assert contents(tmp_path / "b")[files[0]] != part[files[0]]


@pytest.mark.parametrize("form", ["rebinned", "srctool"])
def test_goes_on_where_it_was_interrupted(form, request, tmp_path):
    whole = contents(request.getfixturevalue(form))
    curves = 30 if form == "rebinned" else 12
    run(tmp_path / "D", "--curves", 5, "--seed", 11, "--format", form)
    (tmp_path / "D" / products.file_name(3, form)).unlink()
    (tmp_path / "D/labels.csv").unlink()
    for _ in range(2):
        run(tmp_path / "D", "--curves", curves, "--seed", 11, "--format", form)
        assert contents(tmp_path / "D") == whole
        (tmp_path / "D" / products.file_name(1, form)).write_bytes(b"cut short")
    assert json.loads((tmp_path / "D/simulation.json").read_text())["curves"] == curves


def test_refusals(rebinned, tmp_path):
    before = contents(rebinned)
    there, new = ["--out", rebinned, "--seed", 11], ["--out", tmp_path / "new"]
    for flags, words in (
        ([*there, "--seed", 12], "seed 11"),
        ([*there, "--format", "srctool"], "format"),
        ([*there, "--counts_low", 300], "counts_low"),
        ([*there, "--curves", 3], "--curves 30"),
        ([], "--out"),
        ([*new, "--curves", 0], "--curves"),
        ([*new, "--workers", 0], "--workers"),
        ([*new, "--points_low", 70], "--points_low"),
        ([*new, "--counts_high", 10], "--counts_high"),
        ([*new, "--exposures", tmp_path / "none"], "no such folder"),
        ([*new, "--format", "csv"], "format"),
    ):
        with pytest.raises(Mistake, match=words):
            simulate.main(["light_curves", *map(str, flags)])
    with pytest.raises(Mistake, match="challenge"):
        simulate.main(["challenge", "--out", str(rebinned)])
    assert contents(rebinned) == before and not (tmp_path / "new").exists()


@pytest.mark.parametrize("form", ["rebinned", "srctool"])
def test_files_are_read_back(form, request):
    root = request.getfixturevalue(form)
    with open(root / "labels.csv") as file:
        rows = list(csv.DictReader(file))[:12]
    for number, row in enumerate(rows):
        curve = simulation.simulate(11, number, Survey(format=form))
        assert source_of(str(root / row["path"])) == row["source"]
        (read,) = read_light_curves(root / row["path"], Reading())
        kept = (curve.bins.fracexp >= 0.1).any(1)
        assert read.source == row["source"] and read.bands == simulation.BANDS
        np.testing.assert_allclose(read.time, curve.bins.time[kept], rtol=0, atol=1e-4)
        np.testing.assert_array_equal(read.observed, curve.bins.fracexp[kept] >= 0.1)
        np.testing.assert_array_equal(read.counts, np.where(read.observed, curve.counts[kept], 0))
        np.testing.assert_allclose(
            read.exposure, np.where(read.observed, curve.bins.exposure[kept], 0), rtol=1e-6
        )
        background = curve.back_counts * curve.bins.backratio[:, None]
        np.testing.assert_allclose(read.background, np.where(read.observed, background[kept], 0), rtol=1e-6)
