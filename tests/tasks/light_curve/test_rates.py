"""Curves of rates: in any unit, below zero, without counts, in bands that are observed in turn."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import LogNorm

from data.light_curves.packed import LightCurves
from losses import vae
from tasks import light_curve
from tasks.light_curve import scores
from tasks.light_curve import plots
from tasks.light_curve.inputs import line_of_another_unit, refuse_unstorable
from tasks.light_curve.scores import Noise
from utils.mistake import Mistake

SMALL = dict(hidden=6, latent=3, layers=1, dropout=0.0, harmonics=3, kl_warm_up=0, plot_every=0, hide=0.3)
SPLIT = dict(train_frac=0.6, val_frac=0.2, test_frac=0.2)
HUGE = 2.0**100


def rows_of(stars: int, points: int, level: float = 10.0, in_turn: bool = False) -> pd.DataFrame:
    """Sinusoids of a random phase in two bands, at times of their own."""
    draw = np.random.default_rng(0)
    rows = []
    for star in range(stars):
        phase = draw.uniform(0, 6)
        for t in range(points):
            for c, band in enumerate("gr"):
                if in_turn and t % 2 != c:
                    continue
                flux = level + 4 * np.sin(0.5 * t + phase) + 0.5 * draw.standard_normal()
                rows.append((f"star_{star:02d}", float(t), flux, 0.5, band))
    return pd.DataFrame(rows, columns=["id", "time", "flux", "fluxerr", "band"])


@pytest.fixture
def built(tmp_path):
    def built(table: pd.DataFrame, **options):
        path = tmp_path / f"{len(list(tmp_path.glob('*.csv')))}.csv"
        table.to_csv(path, index=False)
        torch.manual_seed(0)
        config = light_curve.Config(
            data=str(path), store_dir=str(tmp_path / "stores"), **SMALL | SPLIT | options
        )
        return light_curve.build(config, tmp_path, 1)

    return built


def scaled(table: pd.DataFrame, factor: float) -> pd.DataFrame:
    return table.assign(flux=table["flux"] * factor, fluxerr=table["fluxerr"] * factor)


def whole(task) -> dict[str, torch.Tensor]:
    return task.data["train"].__getitems__(range(len(task.data["train"])))


def after_steps(task, steps: int = 3) -> list[torch.Tensor]:
    """The weights, and the losses on the way, of a few steps of gradient descent."""
    optimizer = torch.optim.Adam(task.model.parameters(), lr=0.01)
    values = []
    for step in range(steps):
        torch.manual_seed(step)
        value = task.loss(task.model, whole(task), step).value
        optimizer.zero_grad()
        value.mean().backward()
        optimizer.step()
        values.append(value.detach())
    return values + [weight.detach() for weight in task.model.parameters()]


# units ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("likelihood", ["scaled_poisson", "student_t", "split_normal"])
def test_a_unit_of_flux_changes_no_bit_of_the_training(built, likelihood):
    table = rows_of(20, 6)
    reference = after_steps(built(table, likelihood=likelihood))
    for factor in (1 / HUGE, HUGE):
        for ours, theirs in zip(after_steps(built(scaled(table, factor), likelihood=likelihood)), reference):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_scores_and_statistics_are_those_of_any_unit(built):
    table = rows_of(20, 6)
    found = []
    for factor in (1.0, 1e-27):
        task = built(scaled(table, factor))
        task.model.eval()
        with torch.no_grad():
            found.append(task.measure(task.model, whole(task)))
    for name in ("loss", "deviance", "constant", "hidden", "mean"):
        torch.testing.assert_close(found[1][name], found[0][name], rtol=1e-3, atol=1e-4)


def test_squared_errors_are_counted_in_the_units_own(built):
    table = rows_of(20, 6)
    assert built(table, likelihood="squared_error").record["unit"] == []  # ordinary data as they are
    tiny = built(scaled(table, 1e-27), likelihood="squared_error")
    assert all(unit == 2.0 ** round(np.log2(unit)) and 1e-27 < unit < 1e-25 for unit in tiny.record["unit"])
    assert tiny.loss(tiny.model, whole(tiny), 0).terms["misfit"].min() > 1e-3


def held(factor: float, error: float = 0.1) -> SimpleNamespace:
    """What a pack of rates in that unit holds."""
    rate = (np.linspace(1, 10, 60).reshape(30, 2) * factor).astype("f4")
    fields = dict(rate=rate, error_up=(rate * np.float32(error)), observed=rate > 0)
    return SimpleNamespace(fields=fields, bands=("g", "r"))


def test_rates_that_float32_does_not_hold_are_refused_with_their_values():
    with pytest.raises(
        Mistake, match=r"about 5.5e-42 .*expected 1e-33 to 1e\+33.*: multiply rates and"
    ) as caught:
        refuse_unstorable(held(1e-42))
    assert "\n" not in str(caught.value)
    with pytest.raises(Mistake, match="60 of 60 have an error of 0"):
        refuse_unstorable(held(1e-42, 1e-6))
    for factor in (1e-32, 1e-15, 1.0, 1e32):
        refuse_unstorable(held(factor))


def test_rates_of_another_unit_than_in_training_are_said():
    assert line_of_another_unit(held(1.0), [5.0, 0.01]) == ""
    line = line_of_another_unit(held(1e-27), [5.0, 5.0])
    assert "rates in band g are of about 5.42e-27, those of training of 5" in line


# below zero -------------------------------------------------------------------------------------------------


def test_fluxes_below_zero_are_described_about_each_curves_mean(built, capsys):
    task = built(rows_of(24, 8, level=-2.0))
    assert task.record["kind"] == "signed" and task.record["likelihood"] == "student_t" and task.model.signed
    assert "student_t likelihood of rates about each curve's mean" in capsys.readouterr().out
    batch = whole(task)
    task.model.eval()
    with torch.no_grad():
        before = task.summarise(task.measure(task.model, batch))
        said = scores.describe(task.model, batch, batch["observed"])
    assert -0.5 < before["gain"] < 0.2  # untrained it says about the mean; -45 came of an exponential
    mean = batch["rate"].sum(1) / batch["observed"].sum(1)
    torch.testing.assert_close(task.model.offset(batch["rate"], batch["observed"]), mean)
    assert (said.rate < 0).any() and said.freedom.tolist() == pytest.approx([8.0, 8.0])
    assert light_curve.rebuild(dict(options=dict(), data=task.record)).signed
    after_steps(task, 120)
    task.model.eval()
    with torch.no_grad():
        after = task.summarise(task.measure(task.model, batch))
    assert after["gain"] > 0.15 and after["gain"] > before["gain"]


def test_what_cannot_be_below_zero_says_what_was_seen_and_the_cure(built):
    with pytest.raises(
        Mistake, match=r"% of the rates lie below zero .*the lowest is -.*use student_t or auto"
    ):
        built(rows_of(12, 6, level=-2.0), likelihood="scaled_poisson")
    task = built(rows_of(12, 6, level=-2.0), signed="no", likelihood="split_normal")
    assert task.record["kind"] == "rates" and not task.model.signed


def test_a_few_outliers_below_zero_are_no_sign_of_a_difference(built):
    table = rows_of(24, 8)
    table.loc[7, "flux"] = -50.0
    assert built(table).record["kind"] == "rates"


# without counts ---------------------------------------------------------------------------------------------


def test_rates_have_the_deviance_of_the_counts_that_they_come_from():
    """The same curves as counts and as rates with two errors: about the same deviance and best constant."""
    draw = torch.Generator().manual_seed(0)
    exposure = torch.full((6, 30, 1), 20.0)
    truth = 2 + 1.5 * torch.sin(torch.arange(30.0))[None, :, None]
    counts = torch.poisson((truth * exposure).expand(6, 30, 1), generator=draw)
    rate, low, up = (x.float() for x in light_curve.task.count_rates.total_rate(counts, exposure))
    batch = dict(
        counts=counts, background=0 * counts, exposure=exposure, rate=rate, error_low=low, error_up=up
    )
    observed = batch["observed"] = torch.ones_like(counts, dtype=torch.bool)
    found = {}
    for kind in ("counts", "rates", "signed"):
        level = scores.constant(batch, observed, kind)
        found[kind] = (
            level.mean().item(),
            vae.sum_observed(scores.deviance(level, batch, kind), observed).sum().item(),
        )
    assert found["rates"] == pytest.approx(found["counts"], rel=0.05)
    # chi^2 draws the constant to low rates, and had more to say of it
    assert found["signed"][0] < 0.93 * found["counts"][0]


def test_a_measurement_whose_error_reaches_below_zero_is_no_upper_limit():
    one = torch.ones(1, 1, 1)
    batch = dict(rate=one, error_low=2 * one, error_up=2 * one, observed=one > 0)
    said = light_curve.scores.Reconstruction(9 * one, 0 * one, one, one)
    nats = scores.misfit(said, batch, Noise("rates", "split_normal"))
    assert nats.item() == pytest.approx(0.5 * (8 / 2) ** 2 + 0.5 * np.log(np.pi / 2))


def test_a_gain_below_zero_says_its_likely_cause(built, capsys):
    task = built(rows_of(30, 6), likelihood="split_normal")
    columns = {name: values for name, values in measured(task).items()}
    capsys.readouterr()
    task.report(columns | dict(deviance=100 * columns["constant"]))
    said = capsys.readouterr().err
    assert "gain -99, below zero: a constant describes these" in said
    assert "rates with symmetric errors and no counts, and are trained by split_normal" in said
    task.report(columns | dict(deviance=0 * columns["constant"]))
    assert "below zero" not in capsys.readouterr().err


def measured(task):
    data: LightCurves = task.data["val"]
    task.model.eval()
    with torch.no_grad():
        return task.measure(task.model, data.__getitems__(range(len(data))))


def test_noise_alone_and_heavy_tails_are_told_apart(built):
    draw = np.random.default_rng(1)
    steady = rows_of(30, 6)
    steady["flux"] = 10 + 0.5 * draw.standard_normal(len(steady))
    task = built(steady)
    noise = Noise("rates", "scaled_poisson")
    assert "hardly any curve varies" in scores.cause_of_no_gain(task.data["train"], noise)
    wild = steady.assign(flux=steady["flux"] + 200.0 * (draw.random(len(steady)) < 0.05))
    assert "heavy tails" in scores.cause_of_no_gain(built(wild).data["train"], noise)


# observed in turn -------------------------------------------------------------------------------------------


def test_bands_observed_in_turn_are_said_and_have_statistics_of_their_own(built):
    from tasks.light_curve.inputs import bands_in_turn

    for in_turn in (False, True):
        task = built(rows_of(10, 8, in_turn=in_turn))
        packed = task.data["train"].packed
        line = bands_in_turn(packed, packed.good, light_curve.Config(**SMALL))
        assert bool(line) == in_turn
    assert "10 of 10 curves have their bands observed in turn" in line


# pictures ---------------------------------------------------------------------------------------------------


def test_a_panel_rings_few_points_names_its_band_and_shows_faint_variation():
    """Of 60 points far off 20 are ringed; 1 % about 1000 electrons/s is not drawn from zero."""
    rate = 1000 + 10 * torch.sin(torch.arange(60.0))[None, :, None]
    batch = dict(time=1e4 * torch.arange(60.0)[None], rate=rate, error_low=rate / 1e3, error_up=rate / 1e3)
    batch |= dict(observed=torch.ones(1, 60, 1, dtype=torch.bool), length=torch.tensor([60]))
    deviance = 10 + torch.arange(60.0)[None, :, None]
    figure = plots.reconstructions(
        batch, rate.repeat(3, 1, 1, 1), ["a"], ["1"], deviance, (), " (electron/s)"
    )
    (panel,) = figure.axes
    rings = next(line for line in panel.lines if line.get_markersize() == plots.RING["markersize"])
    assert len(rings.get_xdata()) == plots.RINGED and panel.get_title() == "band 1"
    assert panel.get_ylim()[0] > 900 and panel.get_ylabel() == "a\nrate (electron/s)"
    assert panel.get_xlabel() == "time since the first point (d)"


def test_rates_within_a_decade_have_an_even_scale():
    assert not isinstance(plots.rate_scale(np.linspace(190, 230, 50)), LogNorm)
    assert isinstance(plots.rate_scale(np.geomspace(1, 1e4, 50)), LogNorm)
