"""The light-curve task: the promises of every task, the split of the request, both published configurations,
the figures.
"""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from astropy.io import fits

import simulate
import train
from contract import InPrecision, Objective
from data.light_curves.packed import LightCurves
from losses import vae
from tasks import light_curve
from tasks.light_curve import plots
from tasks.light_curve.inputs import split_curves
from tasks.light_curve.task import redrawn
from tests.conftest import ROOT
from utils import checkpoint, config
from utils.mistake import Mistake

SHEETS = ROOT / "run_sheets"
SMALL = dict(
    hidden=8,
    latent=3,
    layers=1,
    dropout=0.0,
    harmonics=4,
    train_frac=0.7,
    val_frac=0.15,
    test_frac=0.15,
    kl_warm_up=0,
    plot_every=0,
)
REQUEST = dict(
    bidirectional=False,
    time_inputs=False,
    curve_scale=False,
    harmonics=1,
    scatter=False,
    likelihood="squared_error",
    kl_weight=0.001,
)
EXACT = dict(hide=0.0)  # the encoder sees every point, so that nothing is drawn but the latent vector


@pytest.fixture(scope="session")
def survey(tmp_path_factory) -> Path:
    """96 simulated curves of 8 to 16 points."""
    root = tmp_path_factory.mktemp("survey") / "D"
    simulate.main(
        [
            "light_curves",
            "--out",
            str(root),
            "--curves",
            "96",
            "--points_low",
            "8",
            "--points_high",
            "16",
            "--workers",
            "1",
        ]
    )
    return root


@pytest.fixture(scope="session")
def stars(tmp_path_factory) -> Path:
    """Forty optical curves in two bands: rates without counts."""
    draw, rows = np.random.default_rng(0), []
    for star in range(40):
        for time in np.sort(draw.uniform(0, 30, 9)):
            rows += [
                (f"star_{star}", time, 20 + np.sin(time + star) + 0.1 * draw.standard_normal(), 0.1, band)
                for band in "gr"
            ]
    path = tmp_path_factory.mktemp("stars") / "stars.csv"
    pd.DataFrame(rows, columns=["id", "time", "mag", "magerr", "band"]).to_csv(path, index=False)
    return path


@pytest.fixture(scope="session")
def stores(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("stores")


@pytest.fixture
def build(survey, stores, tmp_path):
    def build(**options):
        return light_curve.build(
            light_curve.Config(**dict(data=str(survey), store_dir=str(stores)) | SMALL | options), tmp_path, 1
        )

    return build


@pytest.fixture
def run(survey, stores, monkeypatch):
    monkeypatch.setattr("utils.stop.signal.signal", lambda *_: None)

    def run(folder, *options):
        flags = [part for name, value in SMALL.items() for part in (f"--{name}", str(value))]
        train.main(
            [
                "--task",
                "light_curve",
                "--data",
                str(survey),
                "--store_dir",
                str(stores),
                "--save_dir",
                str(folder),
                *flags,
                "--batch_size",
                "16",
                "--device",
                "cpu",
                *map(str, options),
            ]
        )
        return checkpoint.load(folder / "last.pt")

    return run


def slopes(task, batch) -> list[torch.Tensor]:
    task.loss(task.model, batch, 1000).value.sum().backward()
    return [p.grad for p in task.model.parameters()]


# the promises of every task
# ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [EXACT, EXACT | REQUEST, EXACT | dict(likelihood="split_normal"), EXACT | dict(free_nats=0.5)],
    ids=["poisson", "request", "split_normal", "free_nats"],
)
def test_the_loss_is_one_finite_value_per_example_and_moves_with_it(build, options):
    task = build(**options)
    batch = task.data["train"].__getitems__(list(range(12)))
    task.model.eval()
    value, terms, _ = Objective(task.model, task.loss, torch.float32)(batch, 1000)
    assert (
        value.shape == (12,)
        and value.isfinite().all()
        and value.dtype == torch.float32
        and terms.keys() == {"misfit", "kl"}
    )
    turned = torch.randperm(12)
    again = task.loss(task.model, {name: t[turned] for name, t in batch.items()}, 1000).value
    torch.testing.assert_close(again, value[turned], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        dict(),
        dict(redraw=0.5),
        REQUEST,
        dict(likelihood="split_normal"),
        dict(likelihood="split_normal", redraw=0.5),
        dict(likelihood="split_normal", scatter=False),
    ],
    ids=lambda options: " ".join(map(str, options.values())),
)
def test_a_step_of_training_has_finite_slopes(build, options):
    task = build(**options)
    assert all(
        slope is not None and slope.isfinite().all()
        for slope in slopes(task, task.data["train"].__getitems__(range(32)))
    )


def test_the_loss_is_the_evidence_bound(build):
    """Misfit plus the weight of the divergence, which rises; both are logged."""
    task = build(**EXACT, kl_warm_up=100, kl_weight=0.5)
    batch = task.data["train"].__getitems__(range(8))
    task.model.eval()
    for step, weight in ((0, 0), (50, 0.25), (100, 0.5), (5000, 0.5)):
        value, terms, _ = task.loss(task.model, batch, step)
        torch.testing.assert_close(value, terms["misfit"] + weight * terms["kl"])


def test_the_encoder_sees_a_part_and_is_judged_on_all(build, monkeypatch):
    """A point is hidden in all bands; the share hidden is another one in each curve, 30 % on average."""
    shown, judged, described, summed = [], [], light_curve.scores.describe, vae.sum_observed
    monkeypatch.setattr(
        light_curve.scores,
        "describe",
        lambda model, batch, seen, *rest: shown.append(seen) or described(model, batch, seen, *rest),
    )
    monkeypatch.setattr(
        vae,
        "sum_observed",
        lambda values, observed: judged.append(observed) or summed(values, observed),
    )
    task = build(hide=0.3)
    batch = task.data["train"].__getitems__(range(len(task.data["train"])))
    for step in range(20):
        task.loss(task.model, batch, step)
    observed = batch["observed"]
    seen = torch.stack(shown)
    assert all(torch.equal(one, observed) for one in judged) and not (seen & ~observed).any()
    hidden = (observed & ~seen).any(-1)
    assert torch.equal(hidden, (observed & ~seen).all(-1) | (hidden & ~observed.all(-1)))
    assert hidden.sum().item() / (20 * observed.any(-1).sum().item()) == pytest.approx(0.3, abs=0.02)
    each = hidden.sum(2) / observed.any(-1).sum(1)
    assert each.min() < 0.05 and each.max() > 0.5


def test_redrawing_keeps_what_is_compared_with_and_what_is_observed(build):
    task = build()
    batch = task.data["train"].__getitems__(range(16))
    again = redrawn(batch, 0.5)
    assert again.keys() == batch.keys()
    assert all(
        torch.equal(again[name], batch[name])
        for name in batch
        if name not in ("rate", "error_low", "error_up")
    )
    observed = batch["observed"]
    for name in ("rate", "error_low", "error_up"):
        assert (
            (again[name][~observed] == 0).all()
            and (again[name] >= 0).all()
            and not torch.equal(again[name], batch[name])
        )
    assert (again["error_up"][observed] > 0).all() and (
        again["error_low"] <= again["rate"] * (1 + 1e-6)
    ).all()
    # the total rate is that of before, within its noise; twelve sigma of a curve's would be seen
    assert again["rate"].sum() / batch["rate"].sum() == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(
    "options", [dict(), REQUEST, dict(likelihood="split_normal")], ids=["poisson", "request", "split_normal"]
)
def test_measures_do_not_depend_on_the_batch_size(build, options):
    task = build(**options)
    data = task.data["test"]
    task.model.eval()
    with torch.no_grad():
        whole = task.measure(task.model, data.__getitems__(range(len(data))))
        alone = [task.measure(task.model, data.__getitems__([i])) for i in range(len(data))]
    for name, column in whole.items():
        assert len(column) == len(data) and column.isfinite().all()
        torch.testing.assert_close(column, torch.cat([one[name] for one in alone]), rtol=1e-4, atol=1e-4)
    assert whole["row"].tolist() == data.rows.tolist() and whole["deviance"].shape == (len(data), 3)


def test_what_is_summarised_is_what_is_monitored_and_reported(build):
    task = build()
    task.model.eval()
    with torch.no_grad():
        columns = task.measure(task.model, task.data["val"].__getitems__(range(len(task.data["val"]))))
    summary, report = task.summarise(columns), task.report(columns)
    assert (
        task.monitors.keys()
        <= summary.keys()
        == {"loss", "kl", "deviance", "gain", "gain_hidden", "active_units", "active_axes"}
    )
    assert report.keys() - summary.keys() == {
        "gain_log_normal",
        "gain::0.2-0.6",
        "gain::0.6-2.3",
        "gain::2.3-5",
    }
    assert (
        all(np.isfinite(value) for value in report.values())
        and {name: report[name] for name in summary} == summary
    )
    assert summary["loss"] == pytest.approx((columns["misfit"] + columns["kl"]).mean().item(), rel=1e-5)
    gains = [
        1 - columns["deviance"][:, c].sum().item() / columns["constant"][:, c].sum().item() for c in range(3)
    ]
    assert [report[f"gain::{band}"] for band in task.data["val"].bands] == pytest.approx(gains, rel=1e-5)


def test_the_constant_rate_is_the_baseline(build):
    """A network that says the best constant rate has no gain, and one that says the data has all of it."""
    task = build(likelihood="poisson")
    batch = task.data["val"].__getitems__(range(len(task.data["val"])))

    def said(rate):
        class Says(torch.nn.Module):
            def forward(self, r, low, up, seen, time, length, noise=None):
                mean = torch.zeros(len(r), 3)
                where = rate(seen).expand_as(r)
                return light_curve.scores.Reconstruction(where, 0 * where, mean, mean)

        with torch.no_grad():
            return task.summarise(task.measure(Says(), batch))

    constant = said(lambda seen: light_curve.scores.constant(batch, seen, "counts"))
    assert constant["gain"] == pytest.approx(0, abs=1e-6) and constant["gain_hidden"] == pytest.approx(
        0, abs=1e-6
    )
    perfect = said(
        lambda seen: (batch["counts"] - batch["background"]).clamp(min=0) / batch["exposure"].clamp(min=1e-9)
    )
    assert perfect["gain"] > 0.98 and perfect["gain_hidden"] > 0.98 and perfect["deviance"] < 0.2


def test_scores_in_bfloat16_are_near_those_in_full_precision(build):
    task = build()
    task.model.eval()
    batch = task.data["val"].__getitems__(range(len(task.data["val"])))
    with torch.no_grad():
        full, half = (
            task.measure(InPrecision(task.model, dtype), batch) for dtype in (torch.float32, torch.bfloat16)
        )
    assert half["loss"].dtype == torch.float32 and half["loss"].isfinite().all()
    torch.testing.assert_close(half["mean"], full["mean"], rtol=0.05, atol=0.02)


def test_training_lowers_the_loss(run, tmp_path):
    history = run(tmp_path, "--epochs", 15, "--lr", 0.02, "--ema_decay", 0.8)["state"]["progress"]["history"]
    assert (
        history[-1]["train_loss"] < 0.8 * history[0]["train_loss"]
        and history[-1]["val_loss"] < 0.8 * history[0]["val_loss"]
    )
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["test"].keys() == results["val"].keys() and "gain_log_normal" in results["test"]
    assert not list((tmp_path / "figures").glob("reconstructions*"))  # --plot_every 0


class Died(Exception):
    """The process is gone."""


def test_a_killed_run_resumes_to_the_same_bits(run, tmp_path, monkeypatch):
    """With all that is drawn: dropout, hidden points, counts, latent vectors."""
    options = [
        "--epochs",
        2,
        "--save_every",
        2,
        "--layers",
        2,
        "--dropout",
        0.2,
        "--hide",
        0.3,
        "--redraw",
        0.3,
    ]
    whole = run(tmp_path / "whole", *options)
    real, calls = LightCurves.__getitems__, []

    def dying(self, indices):
        calls.append(1)
        if len(calls) > 4:  # one to standardise, three of training
            raise Died
        return real(self, indices)

    with monkeypatch.context() as patch:
        patch.setattr(LightCurves, "__getitems__", dying)
        with pytest.raises(Died):
            run(tmp_path / "broken", *options)
    assert checkpoint.load(tmp_path / "broken" / "last.pt")["state"]["progress"]["step"] == 2
    again = run(tmp_path / "broken", *options)
    for part, state in whole["state"].items():
        assert checkpoint.digest(again["state"][part]) == checkpoint.digest(state), part
    assert (tmp_path / "broken" / "training_log.csv").read_bytes() == (
        tmp_path / "whole" / "training_log.csv"
    ).read_bytes()


def test_the_order_in_which_ranks_give_their_curves_does_not_matter(build):
    """Each score travels with the row of the curve that it is of."""
    task = build(likelihood="poisson")
    task.model.eval()
    with torch.no_grad():
        parts = [
            task.measure(task.model, task.data["test"].__getitems__(range(r, len(task.data["test"]), 2)))
            for r in (0, 1)
        ]
        whole = task.measure(task.model, task.data["test"].__getitems__(range(len(task.data["test"]))))
    gathered = {name: torch.cat([part[name] for part in parts]) for name in whole}
    assert gathered["row"].tolist() != whole["row"].tolist() and task.report(gathered) == pytest.approx(
        task.report(whole), rel=1e-5
    )


# the split --------------------------------------------------------------------------------------------------


def test_defect_08_split_is_85_5_10(build):
    """Of sources, by default; the validation share is not taken from what the test share leaves over."""
    settings = light_curve.Config()
    assert (settings.train_frac, settings.val_frac, settings.test_frac) == (0.85, 0.05, 0.10)
    count = 6000
    packed = build().data["train"].packed
    sources = [f"{n // 100:06d}_{n % 100:05d}" for n in range(count)]
    table = pd.DataFrame(
        dict(
            path=[f"{s}.fits" for s in sources],
            source=sources,
            points=9,
            counts=True,
            bands="a b c",
            reason="",
        )
    )
    # two curves of each source
    twice = replace(packed, curves=pd.concat([table, table.assign(path="again")], ignore_index=True))
    splits = split_curves(twice, settings)
    for name, share in (("train", 0.85), ("val", 0.05), ("test", 0.10)):
        found = (splits[:count] == name).sum()
        assert abs(found - share * count) < 4 * np.sqrt(count * share * (1 - share)), (name, found)
    assert (splits[:count] == splits[count:]).all()  # a source is never in two splits
    assert (
        split_curves(replace(packed, curves=table.iloc[::-1].iloc[:500]), settings)
        == splits[:count][::-1][:500]
    ).all()
    assert (split_curves(twice, replace(settings, split_seed=1)) != splits).mean() > 0.1


def test_every_seed_shares_the_split_and_short_curves_are_in_none(build, tmp_path):
    tables = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        task = build(min_points=10)
        tables.append(pd.read_parquet(tmp_path / "split.parquet"))
    assert tables[0].equals(tables[1]) and len(tables[0]) == 96
    table = tables[0]
    assert ((table["split"] == "") == (table["points"] < 10)).all() and 0 < (table["split"] == "").sum() < 60
    for name in ("train", "val", "test"):
        assert task.data[name].source.tolist() == table["source"][table["split"] == name].tolist()


def test_long_curves_are_joined_and_not_cut(build, capsys):
    """Neighbouring points are one point, and every photon is there."""
    whole, short = (build(max_points=most).data["train"].__getitems__(range(20)) for most in (1024, 5))
    assert short["length"].max() <= 5 and whole["length"].min() >= 8
    for name in ("counts", "background", "exposure"):
        torch.testing.assert_close(short[name].sum(1), whole[name].sum(1), rtol=1e-5, atol=1e-4)
    said = capsys.readouterr().out
    assert "96 of 96 curves have more than 5 points (up to 16): neighbouring points are joined" in said


# what a person can get wrong
# ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(data=""), "--data is missing"),
        (dict(data="nowhere"), "'nowhere' does not exist"),
        (dict(train_frac=0.9), "the sum must not exceed 1"),
        (dict(val_frac=-0.1), "--val_frac"),
        (dict(min_points=1), "--min_points: got 1, expected at least 2"),
        (dict(hidden=0), "--hidden: got 0"),
        (dict(latent=0), "--latent: got 0"),
        (dict(layers=0), "--layers: got 0"),
        (dict(harmonics=0), "--harmonics: got 0"),
        (dict(dropout=1.0), "--dropout: got 1, expected at least 0 and below 1"),
        (dict(hide=0.5), "--hide: got 0.5"),
        (dict(redraw=1.5), "--redraw: got 1.5"),
        (dict(kl_weight=-1.0), "--kl_weight: got -1"),
        (dict(kl_weight=float("nan")), "--kl_weight: got nan"),
        (dict(free_nats=-0.1), "--free_nats"),
        (dict(kl_warm_up=-1), "--kl_warm_up"),
        (dict(plot_every=-1), "--plot_every"),
        (dict(min_points=500), "no curve to train on"),
        (dict(train_frac=0.0), "no curve to train on"),
        (dict(energy_bands=[2.0]), "--energy_bands"),
        (dict(min_fracexp=-1.0), "--min_fracexp"),
    ],
)
def test_mistakes_are_one_line(build, options, message):
    with pytest.raises(Mistake, match=message) as caught:
        build(**options)
    assert "\n" not in str(caught.value)


def test_an_unknown_likelihood_is_refused_by_name(run, tmp_path):
    with pytest.raises(
        Mistake,
        match="--likelihood: got 'gauss', expected one of auto, poisson, scaled_poisson, student_t",
    ):
        run(tmp_path, "--likelihood", "gauss")


def test_an_empty_folder_and_files_that_are_all_bad(build, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(Mistake, match="holds no light curve"):
        build(data=str(tmp_path / "empty"))
    (tmp_path / "bad").mkdir()
    for n in range(3):
        (tmp_path / "bad" / f"{n}.fits").write_bytes(b"no FITS" * n)
    with pytest.raises(Mistake) as caught:
        build(data=str(tmp_path / "bad"))
    assert "\n" not in str(caught.value) and "3" in str(caught.value)


def test_an_empty_validation_split_is_refused(run, tmp_path):
    with pytest.raises(Mistake, match="validation split is empty"):
        run(tmp_path, "--val_frac", 0)


def test_training_goes_around_bad_files_and_names_them(survey, build, tmp_path, capsys):
    shutil.copytree(survey, tmp_path / "D")
    victims = sorted((tmp_path / "D").rglob("*.fits"))[:3]
    victims[0].write_bytes(b"")
    victims[1].write_bytes(victims[1].read_bytes()[:5000])
    fits.PrimaryHDU(np.zeros((4, 4))).writeto(victims[2], overwrite=True)
    task = build(data=str(tmp_path / "D"), store_dir=str(tmp_path / "stores"))
    table = pd.read_parquet(tmp_path / "split.parquet").set_index("path")
    assert (table["reason"] != "").sum() == 3 and all(
        table.loc[str(path), "reason"] and not table.loc[str(path), "split"] for path in victims
    )
    assert sum(len(data) for data in task.data.values()) == 93 and "3 quarantined" in capsys.readouterr().out


# data without counts ----------------------------------------------------------------------------------------


def test_rates_without_counts_have_the_scaled_poisson(build, stars):
    task = build(data=str(stars))
    assert task.record["likelihood"] == "scaled_poisson" and task.record["bands"] == ["g", "r"]
    batch = task.data["train"].__getitems__(range(10))
    assert not batch["has_counts"].any() and all(slope.isfinite().all() for slope in slopes(task, batch))
    task.model.eval()
    with torch.no_grad():
        columns = task.measure(task.model, batch)
    assert "gain_log_normal" not in task.report(columns) and all(
        np.isfinite(value) for value in task.report(columns).values()
    )
    with pytest.raises(
        Mistake, match="--likelihood poisson: 40 curves have rates and no counts; use scaled_poisson"
    ):
        build(data=str(stars), likelihood="poisson")


def test_a_few_curves_without_counts_decide_for_all(build, survey, tmp_path):
    shutil.copytree(survey, tmp_path / "D")
    for path in sorted((tmp_path / "D").rglob("*.fits"))[:2]:
        with fits.open(path) as hdus:
            kept = fits.BinTableHDU.from_columns(
                [column for column in hdus[1].columns if "COUNTS" not in column.name],
                hdus[1].header,
                name="RATE",
            )
            kept.writeto(path, overwrite=True)
    options = dict(data=str(tmp_path / "D"), store_dir=str(tmp_path / "stores"))
    task = build(**options)
    assert (
        task.record["likelihood"] == "scaled_poisson" and (~task.data["train"].packed.has_counts).sum() == 2
    )
    assert all(slope.isfinite().all() for slope in slopes(task, task.data["train"].__getitems__(range(30))))
    with pytest.raises(Mistake, match="--likelihood poisson: 2 curves have rates and no counts"):
        build(**options, likelihood="poisson")


# the published configurations
# --------------------------------------------------------------------------------------------------


def sheet(name: str, *flags: str):
    return config.read_options(
        ["--config", str(SHEETS / f"{name}.yaml"), *flags],
        *train.classes_for("light_curve", "single"),
    )


def test_the_requests_sheet_is_the_request():
    options, _, schedule, settings = sheet("light_curve_request")
    assert (settings.hidden, settings.latent, settings.layers, settings.dropout) == (64, 40, 2, 0.2)
    assert (options.epochs, options.batch_size, schedule.lr, options.clip_norm) == (12000, 32, 1e-5, 1.0)
    assert (
        settings.likelihood == "squared_error" and settings.kl_weight == 0.001 and settings.plot_every == 50
    )
    model = light_curve.build_network(settings, 3)
    assert model.encoder.input_size == 9 and model.bands == 3 and not model.scatter


@pytest.mark.parametrize("name", ["light_curve_request", "light_curve_recommended"])
def test_the_sheets_build_a_task_and_take_a_step(name, survey, stores, tmp_path, monkeypatch):
    assert yaml.safe_load((SHEETS / f"{name}.yaml").read_text())["task"] == "light_curve"
    monkeypatch.setattr("utils.stop.signal.signal", lambda *_: None)
    train.main(
        [
            "--config",
            str(SHEETS / f"{name}.yaml"),
            "--data",
            str(survey),
            "--store_dir",
            str(stores),
            "--save_dir",
            str(tmp_path),
            "--device",
            "cpu",
            "--epochs",
            "1",
            "--plot_every",
            "0",
            "--train_frac",
            "0.7",
            "--val_frac",
            "0.15",
            "--test_frac",
            "0.15",
            "--warmup_epochs",
            "0",
        ]
    )
    saved = checkpoint.load(tmp_path / "last.pt")
    fresh = light_curve.build_network(config.recorded(light_curve.Config, saved["record"]["options"]), 3)
    assert (
        saved["state"]["model"].keys() == fresh.state_dict().keys()
        and saved["state"]["progress"]["step"] >= 2
    )
    assert np.isfinite(saved["state"]["progress"]["history"][0]["train_loss"])


# the figures ------------------------------------------------------------------------------------------------


class Writer:
    def __init__(self):
        self.figures = []

    def add_figure(self, tag, figure, epoch):
        self.figures.append((epoch, tag))


def test_figures_are_written_first_and_every_so_many_epochs(build, tmp_path, monkeypatch):
    monkeypatch.setattr("tasks.light_curve.task.SHOWN", 2)
    monkeypatch.setattr("tasks.light_curve.task.SAMPLES", 5)
    task = build(plot_every=3)
    pd.DataFrame(dict(epoch=[1, 2], train_loss=[2.0, 1.5], val_loss=[2.1, 1.7], lr=[1e-3, 1e-3])).to_csv(
        tmp_path / "training_log.csv", index=False
    )
    task.model.eval()
    with torch.no_grad():
        columns = task.measure(task.model, task.data["val"].__getitems__(range(len(task.data["val"]))))
    writer = Writer()
    task.illustrate(writer, task.model, columns, 1)
    names = {"reconstructions", "latent", "curves"}
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {
        f"{name}.{kind}" for name in names for kind in ("png", "pdf")
    }
    assert all(path.stat().st_size > 2000 for path in (tmp_path / "figures").glob("*.png"))

    # which takes a second; only when is in question
    monkeypatch.setattr("utils.plots.save_figure", lambda *_: None)
    for epoch in range(2, 8):
        task.illustrate(writer, task.model, columns, epoch)
    assert writer.figures == [
        (epoch, f"val/{name}") for epoch in (1, 3, 6) for name in ("reconstructions", "latent", "curves")
    ]
    silent = Writer()
    build(plot_every=0).illustrate(silent, task.model, columns, 1)
    assert not silent.figures


def test_reconstructions_show_every_band_of_every_curve(build):
    task = build()
    batch = task.data["val"].__getitems__(range(3))
    draws = batch["rate"] + torch.rand(5, *batch["rate"].shape)
    figure = plots.reconstructions(batch, draws, task.data["val"].names([0, 1, 2]), task.data["val"].bands)
    axes = np.array(figure.axes).reshape(3, 3)
    assert [ax.get_title() for ax in axes[0]] == list(task.data["val"].bands)
    for b in range(3):
        assert task.data["val"].source[b] in axes[b, 0].get_ylabel()
        line = axes[b, 2].lines[0]
        assert len(line.get_ydata()) == batch["length"][b]
        np.testing.assert_allclose(
            line.get_ydata(), draws[:, b, : batch["length"][b], 2].median(0).values, rtol=1e-6
        )


# the data's identity ----------------------------------------------------------------------------------------


def test_the_record_knows_the_data_wherever_they_lie(build, survey, tmp_path):
    here = build().record
    shutil.copytree(survey, tmp_path / "moved")
    assert build(data=str(tmp_path / "moved"), store_dir=str(tmp_path / "stores")).record == here


def test_the_record_knows_that_the_data_have_changed(build, survey, tmp_path):
    shutil.copytree(survey, tmp_path / "D")
    options = dict(data=str(tmp_path / "D"), store_dir=str(tmp_path / "stores"))
    before = build(**options).record
    path = sorted((tmp_path / "D").rglob("*.fits"))[0]
    with fits.open(path) as hdus:
        hdus[1].data["COUNTS"][:] += 50
        content = fits.HDUList([hdu.copy() for hdu in hdus])
    content.writeto(path, overwrite=True)
    assert build(**options).record != before


def test_each_defect_of_the_earlier_attempt_has_a_test():
    """Ten of them, counted in the study of it; each came back as a named test."""
    named = {
        match
        for path in (ROOT / "tests").rglob("test_*.py")
        for match in re.findall(r"^def test_defect_(\d\d)_", path.read_text(), re.MULTILINE)
    }
    assert named == {f"{number:02d}" for number in range(1, 11)}
