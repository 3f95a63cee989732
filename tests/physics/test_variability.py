"""Constant rates, log-normal scatter and nine statistics, against scipy on one curve at a time."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, optimize, special, stats

from physics import variability
from physics.variability import (
    STATISTICS,
    constant_rate,
    constant_rate_of_errors,
    log_normal_evidence,
    names_by_band,
    statistics,
    statistics_by_band,
)
from simulations.light_curves.processes import PROCESSES
from simulations.light_curves.survey import Survey, simulate

SURVEY = Survey(points_low=8, points_high=14, counts_low=1000, counts_high=20000)
FAINT = Survey(points_low=10, points_high=60, counts_low=200, counts_high=2000)


def batch_of(
    curves: list[dict[str, np.ndarray]], padding: float = 0.0
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Curves of [T] or [T, C] fields, padded: fields [B, T, C] and which are observed."""
    T = max(len(curve["counts"]) for curve in curves) + 2
    fields = {name: torch.full((len(curves), T, 1), padding, dtype=torch.float64) for name in curves[0]}
    observed = torch.zeros(len(curves), T, 1, dtype=torch.bool)
    for b, curve in enumerate(curves):
        for name, values in curve.items():
            fields[name][b, : len(values), 0] = torch.as_tensor(values)
        observed[b, : len(curve["counts"])] = True
    return fields, observed


def simulated(process: str, count: int, survey: Survey = SURVEY) -> list[dict[str, np.ndarray]]:
    """So many simulated curves of a process, one band of each."""
    curves = []
    for turn in range(count):
        curve = simulate(5, PROCESSES.index(process) + len(PROCESSES) * turn, survey)
        counts, exposure = curve.counts[:, turn % 3], curve.bins.exposure[:, turn % 3]
        background = (curve.bins.expected * curve.bins.backratio[:, None])[:, turn % 3]
        curves.append(dict(counts=counts.astype(float), background=background, exposure=exposure))
    return curves


# constant rates ---------------------------------------------------------------------------------------------


def most_likely(counts, background, exposure) -> float:
    def cost(rate):
        return -stats.poisson.logpmf(counts, np.maximum(rate * exposure + background, 1e-300)).sum()

    high = counts.sum() / exposure.sum() + 1e-9
    found = optimize.minimize_scalar(
        cost, bounds=(0, high * 1.01), method="bounded", options=dict(xatol=high * 1e-10)
    ).x
    return 0.0 if cost(0.0) <= cost(found) else found


@pytest.mark.parametrize("process", ["constant", "flare", "eclipse"])
def test_the_constant_rate_is_the_most_likely_one(process):
    curves = simulated(process, 20)
    curves += [curve | dict(background=0 * curve["background"]) for curve in curves[:5]]  # without background
    curves += [curve | dict(counts=0 * curve["counts"]) for curve in curves[:2]]  # without counts
    # less than background
    curves += [
        curve | dict(counts=curve["background"].round(), background=curve["background"] + 3)
        for curve in curves[:2]
    ]
    fields, observed = batch_of(curves)
    ours = constant_rate(**fields, observed=observed)
    assert ours.shape == (29, 1, 1)
    np.testing.assert_allclose(
        ours[:, 0, 0], [most_likely(**curve) for curve in curves], rtol=1e-5, atol=1e-9
    )
    np.testing.assert_allclose(
        ours[20:25, 0, 0],
        [curve["counts"].sum() / curve["exposure"].sum() for curve in curves[20:25]],
        rtol=1e-7,
    )
    assert (ours[25:] < 1e-12).all()
    assert (constant_rate(**fields, observed=observed & False) == 0).all()


def test_padding_and_units_of_a_constant_rate():
    curves = simulated("red_noise", 6)
    fields, observed = batch_of(curves)
    strange, _ = batch_of(curves, padding=math.nan)
    assert torch.equal(
        constant_rate(**strange, observed=observed), constant_rate(**fields, observed=observed)
    )
    torch.testing.assert_close(
        constant_rate(**fields | dict(exposure=fields["exposure"] * 1e3), observed=observed) * 1e3,
        constant_rate(**fields, observed=observed),
    )
    assert (
        constant_rate(**{name: x.float() for name, x in fields.items()}, observed=observed).dtype
        == torch.float32
    )


def chi_square(level, rate, low, up):
    return (((level - rate) / np.where(level > rate, up, low)) ** 2).sum()


def test_the_constant_rate_of_errors_minimises_chi_square():
    draw = np.random.default_rng(0)
    curves = [
        dict(counts=draw.normal(5, 2, n), low=draw.uniform(0.2, 1, n), up=draw.uniform(0.2, 2, n))
        for n in (1, 2, 3, 9, 30)
    ]
    fields, observed = batch_of(curves)
    ours = constant_rate_of_errors(fields["counts"], fields["low"], fields["up"], observed)[:, 0, 0]
    for level, curve in zip(ours.tolist(), curves):
        grid = np.linspace(curve["counts"].min() - 1, curve["counts"].max() + 1, 20001)
        costs = [chi_square(x, curve["counts"], curve["low"], curve["up"]) for x in grid]
        assert chi_square(level, curve["counts"], curve["low"], curve["up"]) <= min(costs) + 1e-9
        assert level == pytest.approx(grid[int(np.argmin(costs))], abs=2 * (grid[1] - grid[0]))
    even = constant_rate_of_errors(fields["counts"], fields["up"], fields["up"], observed)[:, 0, 0]
    np.testing.assert_allclose(
        even, [np.average(curve["counts"], weights=curve["up"] ** -2.0) for curve in curves], rtol=1e-9
    )


def test_the_constant_rate_of_errors_at_padding_upper_limits_and_nothing():
    curves = [
        dict(counts=np.array([0.0, 0, 0]), low=np.zeros(3), up=np.array([0.5, 0.2, 1])),
        dict(counts=np.array([2.0, 0, 4]), low=np.array([0.5, 0, 1]), up=np.ones(3)),
    ]
    for padding in (0.0, 50.0, math.nan):
        fields, observed = batch_of(curves, padding)
        ours = constant_rate_of_errors(fields["counts"], fields["low"], fields["up"], observed)
        assert ours[0] == 0 and 0 <= ours[1] <= 4
        assert (
            constant_rate_of_errors(fields["counts"], fields["low"], fields["up"], observed & False) == 0
        ).all()


# log-normal scatter -----------------------------------------------------------------------------------------


def explicit(mean: float, scatter: float, counts, background, exposure) -> float:
    """The logarithm of the product of the integrals, by the trapezoidal rule in steps shorter than any
    integrand is wide.
    """
    step = 0.7 / np.sqrt(counts.max() + scatter**-2)
    x = np.arange(mean - 9 * scatter, mean + 9 * scatter, step)
    expected = np.exp(x) * exposure[:, None] + background[:, None]
    log = (
        special.xlogy(counts[:, None], expected)
        - expected
        - special.gammaln(counts + 1)[:, None]
        + stats.norm.logpdf(x, mean, scatter)
    )
    return (special.logsumexp(log, axis=1) + np.log(step)).sum()


def steady(counts, background, exposure) -> float:
    return stats.poisson.logpmf(
        counts, np.maximum(most_likely(counts, background, exposure) * exposure + background, 1e-300)
    ).sum()


def largest(curve: dict[str, np.ndarray], mean: float, scatter: float) -> float:
    """The largest evidence, looked for from a mean and scatter; of a constant rate where that is larger."""
    found = optimize.minimize(
        lambda p: -explicit(p[0], math.exp(np.clip(p[1], -7, 1.7)), **curve),
        (mean, math.log(scatter)),
        method="Nelder-Mead",
        options=dict(xatol=1e-3, fatol=1e-5, maxiter=200),
    )
    return max(-found.fun, steady(**curve))


def test_the_explicit_integral_is_that_of_quad():
    """The oracle of the tests below against adaptive quadrature, and against the limit of no scatter."""
    curve = dict(
        counts=np.array([0.0, 7, 900]), background=np.array([0.1, 2, 5]), exposure=np.array([10.0, 20, 30])
    )
    for mean, scatter in ((0.3, 0.8), (-1.0, 2.5)):
        parts = []
        for c, b, e in zip(*curve.values()):

            def integrand(x, c=c, b=b, e=e):
                return stats.poisson.pmf(c, math.exp(x) * e + b) * stats.norm.pdf(x, mean, scatter)  # noqa: B023

            parts.append(
                integrate.quad(
                    integrand,
                    mean - 12 * scatter,
                    mean + 12 * scatter,
                    epsabs=0,
                    epsrel=1e-10,
                    limit=500,
                    points=[math.log(max(c, 0.5) / e)],
                )[0]
            )
        assert explicit(mean, scatter, **curve) == pytest.approx(np.log(parts).sum(), abs=1e-6)
    flat = curve | dict(counts=np.array([10.0, 22, 31]))
    without = stats.poisson.logpmf(
        flat["counts"], math.exp(0.1) * flat["exposure"] + flat["background"]
    ).sum()
    assert explicit(0.1, 1e-3, **flat) == pytest.approx(without, abs=1e-3)


def shortfalls(curves: list[dict[str, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """[N] nats by which our evidence is below the largest, and below the explicit integral at our own mean
    and scatter.
    """
    fields, observed = batch_of(curves)
    found = torch.cat(log_normal_evidence(**fields, observed=observed), 1).tolist()
    below = []
    for (evidence, mean, scatter), curve in zip(found, curves):
        begin = (
            (mean, scatter)
            if scatter
            else (math.log((curve["counts"].sum() + 0.5) / curve["exposure"].sum()), 0.2)
        )
        below.append(
            (
                largest(curve, *begin) - evidence,
                explicit(mean, scatter, **curve) - evidence if scatter else 0.0,
            )
        )
    return tuple(np.array(below).T)


@pytest.mark.parametrize("process", PROCESSES)
def test_the_log_normal_evidence_is_the_largest(process):
    """Within 0.05 nat of the largest that scipy finds, and never above it."""
    short, of_quadrature = shortfalls(simulated(process, 20))
    assert short.min() > -1e-6 and short.max() < 0.05 and np.abs(of_quadrature).max() < 0.05


def test_the_log_normal_evidence_of_faint_curves_is_the_largest():
    """The same of a few counts a point, where one in fifty may lack more:
    there, expectation maximisation creeps.
    """
    short, _ = shortfalls(
        [curve for process in ("red_noise", "qpe") for curve in simulated(process, 30, FAINT)]
    )
    assert (short < 0.05).mean() > 0.98 and short.max() < 0.2


def test_constant_sources_have_no_scatter_and_log_normal_ones_theirs():
    draw = np.random.default_rng(3)
    constant, scattered, truth = [], [], np.linspace(0.2, 1.5, 40)
    for sigma in truth:
        exposure, background = draw.uniform(10, 40, 60), np.full(60, 0.5)
        constant.append(
            dict(counts=draw.poisson(5 * exposure + background), background=background, exposure=exposure)
        )
        scattered.append(
            constant[-1]
            | dict(counts=draw.poisson(np.exp(1 + sigma * draw.standard_normal(60)) * exposure + background))
        )
    fields, observed = batch_of(constant)
    evidence, mean, scatter = log_normal_evidence(**fields, observed=observed)
    assert (scatter < 0.08).all() and (scatter == 0).float().mean() > 0.3
    np.testing.assert_allclose(mean[:, 0], math.log(5), atol=0.06)
    assert (evidence[:, 0].numpy() >= np.array([steady(**curve) for curve in constant]) - 1e-9).all()
    fields, observed = batch_of(scattered)
    _, mean, scatter = log_normal_evidence(**fields, observed=observed)
    error = truth / math.sqrt(60)
    assert (np.abs(mean[:, 0].numpy() - 1) < 4 * error).all() and (
        np.abs(scatter[:, 0].numpy() - truth) < 4 * error / math.sqrt(2) + 0.02
    ).all()


def test_evidence_at_padding_bands_and_extremes():
    curves = simulated("red_noise", 5)
    fields, observed = batch_of(curves)
    whole = log_normal_evidence(**fields, observed=observed)
    for b, curve in enumerate(curves):
        alone, there = batch_of([curve], padding=math.nan)
        for ours, theirs in zip(log_normal_evidence(**alone, observed=there), whole):
            torch.testing.assert_close(ours[0], theirs[b])
    bands = {name: torch.cat([x, x.flip(0)], 2) for name, x in fields.items()}  # bands do not mix
    for both, one in zip(
        log_normal_evidence(**bands, observed=torch.cat([observed, observed.flip(0)], 2)), whole
    ):
        torch.testing.assert_close(both, torch.cat([one, one.flip(0)], 1))
    evidence, _, scatter = log_normal_evidence(**fields, observed=observed & False)
    assert (evidence == 0).all() and (scatter == 0).all()
    extreme = [
        dict(counts=np.array(c, float), background=np.full(4, b), exposure=np.full(4, e))
        for c, b, e in (
            ([0, 0, 0, 0], 0.0, 10.0),
            ([0, 0, 0, 0], 5.0, 10.0),
            ([0, 0, 0, 100000], 0.1, 10.0),
            ([1e5, 2e5, 1e5, 3e5], 0.0, 1e-3),
            ([1, 0, 2, 1], 1e3, 1e6),
        )
    ]
    fields, observed = batch_of(extreme)
    evidence, _, scatter = log_normal_evidence(**fields, observed=observed)
    assert evidence.isfinite().all() and scatter.isfinite().all() and (evidence <= 0).all()
    assert scatter[:2].tolist() == [[0.0], [0.0]] and scatter[2] > 2


def test_gauss_hermite_nodes_are_numpys():
    nodes, weights = variability.gauss_hermite(8, torch.zeros((), dtype=torch.float64))
    theirs = np.polynomial.hermite.hermgauss(8)
    np.testing.assert_allclose(nodes, theirs[0], atol=1e-13)
    np.testing.assert_allclose(weights, theirs[1], rtol=1e-11)


# statistics -------------------------------------------------------------------------------------------------


def by_hand(rate, low, up) -> dict[str, float]:
    """Of rates [T, C] of one curve, with numpy and scipy."""
    total, error = rate.sum(1), np.sqrt((((low + up) / 2) ** 2).sum(1))
    off, step = total - total.mean(), np.diff(total)
    residual = (total - np.average(total, weights=error**-2)) / error
    high, deep = total.argmax(), total.argmin()
    return dict(
        log_mean=np.log(total.mean()),
        excess_variance=(total.var(ddof=1) - (error**2).mean()) / total.mean() ** 2,
        skewness=stats.skew(total),
        kurtosis=stats.kurtosis(total, fisher=False),
        lag_1=(off[1:] * off[:-1]).sum() / (off**2).sum(),
        rise_to_fall=np.log(step[step > 0].sum() / -step[step < 0].sum()),
        stetson_k=np.abs(residual).mean() / np.sqrt((residual**2).mean()),
        amplitude=(total.max() - total.min()) / np.hypot(error[high], error[deep]),
        hardness=(rate[:, -1].mean() - rate[:, 0].mean()) / rate.mean(0).sum(),
    )


def rates(lengths=(5, 30, 12, 8), C=3, padding=0.0):
    draw, T = np.random.default_rng(1), max(lengths) + 3
    fields = [np.full((len(lengths), T, C), padding) for _ in range(3)]
    observed = np.zeros((len(lengths), T, C), bool)
    for b, length in enumerate(lengths):
        fields[0][b, :length] = draw.lognormal(b - 1, 0.8, (length, C))
        fields[1][b, :length], fields[2][b, :length] = draw.uniform(0.05, 0.3, (2, length, C)) * math.exp(
            b - 1
        )
        observed[b, :length] = True
    return [torch.as_tensor(x) for x in fields], torch.as_tensor(observed)


@pytest.mark.parametrize("bands", [1, 3])
def test_statistics_are_those_of_numpy_and_scipy(bands):
    fields, observed = rates(C=bands)
    ours = statistics(*fields, observed)
    assert ours.shape == (4, len(STATISTICS)) and ours.dtype == torch.float32
    for b in range(4):
        there = observed[b, :, 0]
        theirs = by_hand(*(x[b, there].numpy() for x in fields))
        assert tuple(theirs) == STATISTICS
        np.testing.assert_allclose(ours[b], list(theirs.values()), rtol=3e-5, atol=2e-5)


def test_statistics_see_neither_padding_nor_points_with_a_band_missing():
    fields, observed = rates()
    before = statistics(*fields, observed)
    strange, _ = rates(padding=math.nan)
    torch.testing.assert_close(statistics(*strange, observed), before)
    torch.testing.assert_close(statistics(*(x[[2], :12] for x in fields), observed[[2], :12]), before[[2]])
    end = observed.clone()
    end[1, 28:, 1] = False  # the last two points of 30 lack a band: as if the curve ended before
    shorter = statistics(*(x[[1], :28] for x in fields), observed[[1], :28])
    torch.testing.assert_close(statistics(*fields, end)[[1]], shorter)


def test_statistics_of_scaled_shifted_turned_curves():
    fields, observed = rates()
    before = dict(zip(STATISTICS, statistics(*fields, observed).T))
    scaled = dict(zip(STATISTICS, statistics(*(1000 * x for x in fields), observed).T))
    torch.testing.assert_close(scaled.pop("log_mean"), before["log_mean"] + math.log(1000))
    assert all(torch.allclose(scaled[name], before[name], rtol=1e-4, atol=1e-5) for name in scaled)
    back = dict(zip(STATISTICS, statistics(*(x[[1], :30].flip(1) for x in fields), observed[[1], :30]).T))
    assert back.pop("rise_to_fall").item() == pytest.approx(-before["rise_to_fall"][1].item(), abs=1e-5)
    assert all(
        back[name].item() == pytest.approx(before[name][1].item(), rel=1e-4, abs=1e-5) for name in back
    )


@pytest.mark.parametrize(
    "rate, points",
    [
        ([1.0, 1, 1, 1], 4),
        ([1.0, 0, 2, 0], 4),
        ([2.0, 1, 1, 1], 1),
        ([1.0, 3, 1, 1], 2),
        ([0.0, 0, 0, 0], 4),
    ],
)
def test_statistics_of_hardly_anything_are_finite(rate, points):
    """A constant rate, upper limits among it, one point, two, upper limits alone."""
    rate = torch.tensor(rate)[None, :, None].expand(1, 4, 3)
    observed = (torch.arange(4) < points)[None, :, None].expand(1, 4, 3)
    assert statistics(rate, torch.minimum(rate, torch.tensor(0.5)), 0 * rate + 0.5, observed).isfinite().all()


# bands that are observed in turn ----------------------------------------------------------------------------


def in_turn(points=40, bands=3) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]:
    """Three curves of which each point is of one band, as surveys with one filter at a time have them."""
    fields, observed = rates((points, points, points - 4), bands)
    place = torch.arange(observed.shape[1])[:, None] % bands == torch.arange(bands)
    time = torch.arange(observed.shape[1], dtype=torch.float64).expand(observed.shape[:2])
    return fields, observed & place, time


def test_without_points_of_all_bands_the_nine_are_unknown_and_not_one_value():
    fields, observed, _ = in_turn()
    assert statistics(*fields, observed).isnan().all()


def test_statistics_by_band_are_those_of_each_band_alone():
    fields, observed, time = in_turn()
    ours = statistics_by_band(*fields, observed, time)
    assert ours.shape == (3, 9 * 3 - 1) and names_by_band("gri")[0] == "log_mean_g"
    assert names_by_band("gri")[-2:] == ["hardness_g_r", "hardness_r_i"] and len(names_by_band("gri")) == 26
    for b in range(3):
        for c in range(3):
            there = observed[b, :, c]
            theirs = by_hand(*(x[b, there][:, [c]].numpy() for x in fields))
            np.testing.assert_allclose(
                ours[b, 8 * c : 8 * c + 8], list(theirs.values())[:8], rtol=3e-5, atol=2e-5
            )


def test_hardness_is_of_common_windows():
    """A source that brightens while only the second band looks is no harder for it."""
    T = 80
    rate = torch.ones(1, T, 2, dtype=torch.float64)
    rate[..., 1] = 3
    observed = torch.zeros(1, T, 2, dtype=torch.bool)
    observed[:, ::2, 0] = observed[:, 1::2, 1] = True
    observed[:, T // 2 :, 0] = False
    rate[:, T // 2 + 10 :] *= 100
    time = torch.arange(T, dtype=torch.float64)[None]
    error = 0 * rate + 0.1
    assert statistics_by_band(rate, error, error, observed, time)[0, -1].item() == pytest.approx(0.5)
    alone = observed & torch.tensor([True, False])
    found = statistics_by_band(rate, error, error, alone, time)[0]
    assert found[-1].isnan() and found[8:16].isnan().all() and found[:8].isfinite().all()


@pytest.mark.parametrize("unit", [2.0**-120, 1e-27, 1e27])
def test_statistics_do_not_know_the_unit(unit):
    fields, observed, time = in_turn()
    for of in (
        lambda *x: statistics(*x, observed | observed.any(2, keepdim=True)),
        lambda *x: statistics_by_band(*x, observed, time),
    ):
        before, after = of(*fields), of(*(x * unit for x in fields))
        move = torch.where((before - after).abs() > 1e-3, before - after, 0)
        assert ((move == 0) | torch.isclose(move, torch.tensor(-math.log(unit)), rtol=1e-4)).all()
