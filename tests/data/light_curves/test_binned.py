"""Long light curves made shorter: nothing is lost, gaps stay gaps, and the rates are those of the sums."""

import numpy as np
import pytest
import torch

from data.light_curves.binned import binned_curve, starts_of_bins
from physics.count_rates import source_rate, total_rate

DTYPES = dict(time="f8", width="f4", counts="f4", background="f4", exposure="f4", rate="f4", error_low="f4")
DTYPES |= dict(error_up="f4", observed="?")


def curve(points: int, time: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Counts in two bands, one of which is observed half of the time."""
    draw = np.random.default_rng(0)
    observed = np.stack([np.ones(points, bool), np.arange(points) % 2 == 0], 1)
    exposure = np.where(observed, draw.uniform(5, 10, (points, 2)), 0)
    background = 0.2 * exposure
    counts = draw.poisson(2 * exposure + background)
    rate, low, up = (
        x.numpy()
        for x in source_rate(
            *map(torch.from_numpy, (counts, 0.0 * counts, 0.0 * counts)),
            torch.from_numpy(np.where(observed, exposure, 1.0)),
        )
    )
    fields = dict(time=10.0 * np.arange(points) + 5e8 if time is None else time, width=np.full(points, 10.0))
    fields |= dict(counts=counts, background=background, exposure=exposure, observed=observed)
    fields |= {
        name: np.where(observed, x, 0) for name, x in (("rate", rate), ("error_low", low), ("error_up", up))
    }
    return {name: fields[name].astype(kind) for name, kind in DTYPES.items()}


def test_every_photon_of_a_long_curve_is_there():
    fields = curve(1000)
    short = binned_curve(fields, True, 100)
    assert len(short["time"]) == 100 and all(short[name].dtype == kind for name, kind in DTYPES.items())
    for name in ("counts", "background", "exposure"):
        np.testing.assert_allclose(short[name].sum(0), fields[name].sum(0), rtol=1e-6)
    assert short["time"][0] == 5e8 + 45 and (short["width"] == 100).all() and short["observed"].all()
    for c in range(2):
        expected = total_rate(
            torch.from_numpy(short["counts"][:, c]), torch.from_numpy(short["exposure"][:, c])
        )
        above = expected[0].numpy() - short["background"][:, c] / short["exposure"][:, c]
        np.testing.assert_allclose(short["rate"][:, c], above, rtol=2e-3)  # of a background that is known
        np.testing.assert_allclose(short["error_up"][:, c], expected[2], rtol=2e-3)


def test_rates_without_counts_are_means_with_their_errors_in_quadrature():
    fields = curve(60)
    fields["counts"][:] = 0
    fields["exposure"] = fields["observed"].astype("f4")
    for unit in (1.0, 2.0**-110):  # of whatever unit
        scaled = fields | {
            name: fields[name] * np.float32(unit) for name in ("rate", "error_low", "error_up")
        }
        short = binned_curve(scaled, False, 15)
        assert len(short["time"]) == 15 and (short["exposure"] == 1).all()
        mean = fields["rate"][:, 0].reshape(15, 4).mean(1)
        error = np.sqrt((fields["error_up"][:, 0].reshape(15, 4) ** 2).sum(1)) / 4
        np.testing.assert_allclose(short["rate"][:, 0] / unit, mean, rtol=1e-6)
        np.testing.assert_allclose(short["error_up"][:, 0] / unit, error, rtol=1e-6)
        other = fields["rate"][::2, 1].reshape(15, 2).mean(1)
        np.testing.assert_allclose(short["rate"][:, 1] / unit, other, rtol=1e-6)


def test_a_mean_of_upper_limits_is_one():
    fields = curve(20)
    fields["rate"][:10] = fields["error_low"][:10] = 0
    short = binned_curve(fields, False, 4)
    assert (short["error_low"][:2] == short["rate"][:2]).all() and (short["error_up"] > 0).all()
    assert (short["error_low"][2:] < short["rate"][2:]).all()


def test_no_point_lies_across_a_gap():
    """Forty visits of 20 points, a day apart."""
    time = (86400.0 * np.arange(40)[:, None] + 10.0 * np.arange(20)).ravel()
    start = starts_of_bins(time, 200)
    assert len(start) <= 200 and set(range(0, 800, 20)) <= set(start)
    short = binned_curve(curve(800, time), True, 200)
    assert short["width"].max() < 100


@pytest.mark.parametrize("points, most", [(7, 6), (1000, 2), (100_000, 1024), (5, 5), (3000, 1000)])
def test_there_are_never_more_than_asked_for(points, most):
    draw = np.random.default_rng(points)
    for gaps in (np.ones(points), draw.lognormal(0, 3, points)):
        start = starts_of_bins(np.cumsum(gaps), most)
        assert start[0] == 0 and (np.diff(start) > 0).all() and most / 3 < len(start) <= most
