"""Figures show what they are given, leave no global state, and can be written."""

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from evaluation import figures_of_merit
from evaluation.plots import (
    POINTS,
    count_table,
    curve_table,
    figure_confusion,
    figure_precision_recall,
    figure_purity_completeness,
    figure_reliability,
    figure_roc,
    figure_scores,
)
from utils import plots


@pytest.fixture
def curves():
    random = np.random.default_rng(0)
    label = random.integers(0, 2, 4000)
    prob = 1 / (1 + np.exp(-random.normal(2.0 * label - 1, 1.0)))
    return (
        {
            "global": figures_of_merit.curve(label, prob),
            "domain::hsc": figures_of_merit.curve(label[::2], prob[::2]),
        },
        label,
        prob,
    )


def test_every_figure_can_be_written(curves, tmp_path):
    both, label, prob = curves
    sheet = {scope: figures_of_merit.all_figures(label, prob, 0.5) for scope in both}
    figures = dict(
        roc=figure_roc(both),
        precision_recall=figure_precision_recall(both),
        confusion=figure_confusion(sheet),
        reliability=figure_reliability({scope: figures_of_merit.reliability(label, prob) for scope in both}),
        score_histogram=figure_scores(
            {"hsc lenses": prob[label == 1], "hsc non-lenses": prob[label == 0]}, 0.5
        ),
        purity_completeness=figure_purity_completeness(both["global"], 0.5),
        mosaic=plots.mosaic(np.zeros((3, 5, 5)), ["a"] * 3),
        curves=plots.figure_training(
            pd.DataFrame(dict(epoch=[1, 2], train_loss=[1.0, 0.5], val_loss=[1.0, 0.7], lr=[1e-3, 1e-4]))
        ),
    )
    for name, figure in figures.items():
        assert isinstance(figure, Figure)
        plots.save_figure(figure, tmp_path, name)
        assert (tmp_path / f"{name}.pdf").read_bytes().startswith(b"%PDF")
        with Image.open(tmp_path / f"{name}.png") as image:
            assert min(image.size) > 200
    assert not list(tmp_path.glob(".*"))
    assert matplotlib._pylab_helpers.Gcf.get_num_fig_managers() == 0


def test_the_same_figure_is_the_same_file(curves, tmp_path):
    for name in "ab":
        plots.save_figure(figure_roc(curves[0]), tmp_path, name)
    for kind in ("png", "pdf"):
        assert (tmp_path / f"a.{kind}").read_bytes() == (tmp_path / f"b.{kind}").read_bytes()


def test_thinned_curves_keep_their_area(curves):
    """Numbers behind a figure are few, hold both ends, every one of the first false positives,
    and the same area.
    """
    random = np.random.default_rng(1)
    label = random.integers(0, 2, 100_000)
    points = figures_of_merit.curve(label, random.normal(1.5 * label))
    table = curve_table({"global": points})
    assert len(table) < 3 * POINTS
    assert np.trapezoid(table["tpr"], table["fpr"]) == pytest.approx(
        figures_of_merit.area_under_roc(points.tp, points.fp), abs=1e-5
    )
    assert table["tpr"].iloc[-1] == 1 and set(range(20)) <= set(table["fp"])
    for fp in range(20):  # and the highest rate at each
        assert table["tp"][table["fp"] == fp].max() == figures_of_merit.found(points.tp, points.fp, fp)


def test_roc_reaches_the_tpr_at_one_false_positive(curves):
    line = figure_roc(curves[0]).axes[0].get_lines()[0]
    x, y = line.get_data()
    points = curves[0]["global"]
    figures = figures_of_merit.tpr_at_fpr(points.tp, points.fp, 1e-2)
    assert y[x <= 1e-2].max() == pytest.approx(figures, abs=1e-12)


def test_histogram_counts_everything():
    table = count_table({"lenses": np.array([0.0, 0.5, 1.0]), "non-lenses": np.array([])})
    assert table["lenses"].sum() == 3 and table["non-lenses"].sum() == 0 and len(table) == 50


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4)),
        np.full((4, 4), np.nan),
        np.full((4, 4), -3.0),
        np.arange(16.0).reshape(4, 4) * 1e-20,
        np.where(np.eye(4) > 0, np.nan, 1e30),
    ],
)
def test_any_image_can_be_stretched(image):
    shown = plots.stretched(image)
    assert np.isfinite(shown).all() and shown.min() >= 0 and shown.max() <= 1


def test_stretch_keeps_order():
    image = np.random.default_rng(0).normal(size=(20, 20)) + 50 * np.eye(20)
    order = np.argsort(image.ravel())
    assert (np.diff(plots.stretched(image).ravel()[order]) >= 0).all()
