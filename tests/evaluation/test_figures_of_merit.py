"""Figures of merit against scikit-learn, brute force and closed forms;
intervals against the plain bootstrap.
"""

import math

import numpy as np
import pytest
from sklearn import metrics
from sklearn.calibration import calibration_curve

from evaluation import bootstrap, figures_of_merit
from utils.mistake import Mistake


def scored(seed: int, n: int, distinct: int = 0, lenses: float = 0.4) -> tuple[np.ndarray, np.ndarray]:
    """Labels and overlapping probabilities; with `distinct`, only so many different ones."""
    random = np.random.default_rng(seed)
    label = (random.random(n) < lenses).astype(int)
    label[:2] = 0, 1
    prob = 1 / (1 + np.exp(-random.normal(1.5 * label - 0.7, 1.0)))
    return label, np.round(prob * distinct) / distinct if distinct else prob


@pytest.mark.parametrize(
    "seed, n, distinct", [(0, 2, 0), (1, 7, 3), (2, 50, 5), (3, 400, 0), (4, 1000, 11), (5, 3000, 400)]
)
def test_agrees_with_scikit_learn(seed, n, distinct):
    label, prob = scored(seed, n, distinct)
    threshold = 0.5
    ours, pred = figures_of_merit.all_figures(label, prob, threshold), prob >= threshold
    theirs = dict(
        accuracy=metrics.accuracy_score(label, pred),
        recall=metrics.recall_score(label, pred),
        precision=metrics.precision_score(label, pred, zero_division=np.nan),
        f1=metrics.f1_score(label, pred),
        precision_macro=metrics.precision_score(label, pred, average="macro", zero_division=np.nan),
        recall_macro=metrics.recall_score(label, pred, average="macro"),
        f1_macro=metrics.f1_score(label, pred, average="macro"),
        balanced_accuracy=metrics.balanced_accuracy_score(label, pred),
        specificity=metrics.recall_score(label, pred, pos_label=0),
        brier=metrics.brier_score_loss(label, prob),
        roc_auc=metrics.roc_auc_score(label, prob),
        pr_auc=metrics.average_precision_score(label, prob),
        nll=metrics.log_loss(label, prob),
    )
    if len(set(pred)) == 2:  # otherwise 0/0: scikit-learn calls it 0
        theirs["mcc"] = metrics.matthews_corrcoef(label, pred)
    for name, value in theirs.items():
        assert ours[name] == pytest.approx(value, abs=1e-12, nan_ok=True), name
    assert [ours[name] for name in ("tn", "fp", "fn", "tp")] == metrics.confusion_matrix(
        label, pred
    ).ravel().tolist()
    fpr, tpr, _ = metrics.roc_curve(label, prob, drop_intermediate=False)
    for k in (2, 3):
        assert ours[f"tpr_at_fpr_1e-{k}"] == pytest.approx(tpr[fpr <= 10.0**-k].max(), abs=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_youden_is_the_best_of_all_thresholds(seed):
    label, prob = scored(seed, 60, distinct=(0, 4, 15)[seed % 3], lenses=0.3)
    threshold, j = figures_of_merit.youden(label, prob)
    every = np.append(np.unique(prob), 2.0)
    all_j = np.array([(prob >= t)[label == 1].mean() - (prob >= t)[label == 0].mean() for t in every])
    called = prob >= threshold
    assert j == pytest.approx(all_j.max(), abs=1e-12)
    assert called[label == 1].mean() - called[label == 0].mean() == pytest.approx(j, abs=1e-12)
    best = every[np.abs(all_j - all_j.max()) < 1e-12].max()  # of equal optima the highest
    assert (called == (prob >= best)).all()


def test_youden_lies_in_the_middle_and_survives_text_and_neighbouring_floats():
    assert figures_of_merit.youden([0, 0, 1, 1], [0.1, 0.2, 0.6, 0.9]) == (0.4, 1.0)
    assert figures_of_merit.youden([0, 1], [0.7, 0.7]) == (0.7, 0.0)
    low = 0.3
    high = np.nextafter(low, 1)
    threshold, j = figures_of_merit.youden([0, 1], [low, high])
    assert j == 1 and low < threshold <= high and float(repr(threshold)) == threshold
    below = np.float32(0.3)
    threshold, j = figures_of_merit.youden([0, 1], np.array([below, np.nextafter(below, np.float32(1))]))
    assert j == 1 and float(below) < threshold


def test_equal_optima_take_the_one_with_fewest_false_positives():
    label, prob = [1, 0, 1, 0], [0.9, 0.8, 0.7, 0.1]  # J = 1/2 at 0.9 and at 0.7
    threshold, j = figures_of_merit.youden(label, prob)
    assert (threshold, j) == (pytest.approx(0.85), 0.5)


@pytest.mark.parametrize("label", [[1, 1, 1], [0, 0, 0]])
def test_one_class(label):
    prob = [0.2, 0.6, 0.9]
    with pytest.raises(Mistake, match="lenses and .* non-lenses: expected some of both"):
        figures_of_merit.youden(label, prob)
    figures = figures_of_merit.all_figures(label, prob, 0.5)
    assert math.isnan(figures["roc_auc"]) and math.isnan(figures["pr_auc"]) and math.isnan(figures["tpr0"])
    assert math.isnan(figures["tpr_at_fpr_1e-2"]) and math.isnan(figures_of_merit.roc_auc(label, prob))
    assert figures["accuracy"] == pytest.approx((np.array(label) == [0, 1, 1]).mean())
    assert bootstrap.intervals(label, prob, 0.5, 10, 0) == {}


def test_tpr0_and_tpr10_count_false_positives():
    """Metcalf et al. 2019: no, and fewer than ten, false positives; examples of equal score go together."""
    label = np.repeat([1, 0, 1, 0, 1], [30, 9, 20, 1, 50])
    prob = np.linspace(1, 0, len(label))
    figures = figures_of_merit.all_figures(label, prob, 0.5)
    assert (figures["tpr0"], figures["tpr0_count"]) == (0.3, 30)
    assert (figures["tpr10"], figures["tpr10_count"]) == (0.5, 50)
    prob[:31] = 0.99  # the first non-lens ties with every lens above it: none is found without it
    assert figures_of_merit.all_figures(label, prob, 0.5)["tpr0"] == 0
    assert math.isnan(figures_of_merit.all_figures([0, 1], [0.1, 0.9], 0.5)["tpr10"])


def test_rates_that_rounding_would_spoil():
    """0.001 * 9000 is exactly nine false positives, and nine are allowed."""
    label, prob = np.repeat([0, 1, 0], [9, 5, 8991]), np.linspace(1, 0, 9005)
    assert figures_of_merit.all_figures(label, prob, 0.5)["tpr_at_fpr_1e-3"] == 1.0


def test_calibration_error_has_its_closed_form():
    """All scores p, a share q of lenses: the error is |p - q|; a calibrated set has none;
    0 and 1 fall into bins.
    """
    assert figures_of_merit.ece([1, 0, 0, 0], [0.7] * 4) == pytest.approx(0.45)
    assert figures_of_merit.ece([1, 0, 1, 0], [0.5] * 4) == 0
    assert figures_of_merit.ece([1, 0], [1.0, 0.0]) == 0
    label, prob = scored(0, 5000)
    theirs = (
        sum(
            abs(prob[here].mean() - label[here].mean()) * here.sum()
            for k in range(15)
            if (here := (prob >= k / 15) & (prob < (k + 1) / 15)).any()
        )
        / 5000
    )
    assert figures_of_merit.ece(label, prob) == pytest.approx(theirs, abs=1e-12)


def test_log_loss_of_certain_answers_is_scikit_learns():
    """Right ones cost nothing, a wrong one what float64 can tell from 0;
    logits beyond float32 stay finite.
    """
    label, prob = [1, 0, 1, 0, 1], np.array([1.0, 0.0, 0.0, 1.0, 1e-30])
    for n in (2, 3, 5):
        assert figures_of_merit.nll(label[:n], prob[:n]) == pytest.approx(
            metrics.log_loss(label[:n], prob[:n], labels=[0, 1]), rel=1e-12, abs=1e-15
        )
    assert figures_of_merit.nll([1], [0.25]) == pytest.approx(math.log(4))


@pytest.mark.parametrize("strategy", ["uniform", "quantile"])
def test_bins_are_those_of_scikit_learns_calibration_curve(strategy):
    label, prob = scored(4, 3000, lenses=0.1)
    table = figures_of_merit.reliability(label, prob, strategy == "quantile")
    shares, means = calibration_curve(label, prob, n_bins=figures_of_merit.BINS, strategy=strategy)
    there = table["n"] > 0
    np.testing.assert_allclose(table["lenses"][there], shares, atol=1e-12)
    np.testing.assert_allclose(table["prob"][there], means, atol=1e-12)
    if strategy == "quantile":
        assert table["n"].tolist() == [200] * 15


@pytest.mark.parametrize(
    "seed, n, distinct", [(1, 7, 3), (3, 400, 0), (4, 1000, 11), (5, 3000, 400), (6, 30000, 0)]
)
def test_calibration_errors_are_those_of_netcal(seed, n, distinct):
    """Its ECE in equal and in quantile bins, and its MCE. Its ACE weighs bins, not examples, alike:
    that mean of our bins is it, too.

    Where so many probabilities tie that two quantiles coincide, netcal's quantile bins raise ValueError;
    ours have an empty bin.
    """
    netcal = pytest.importorskip("netcal.metrics", reason="netcal is not installed: pip install netcal")
    label, prob = scored(seed, n, distinct, lenses=0.2)
    bins = figures_of_merit.BINS
    assert figures_of_merit.mce(label, prob) == pytest.approx(
        netcal.MCE(bins).measure(prob, label), abs=1e-12
    )
    for equal_count in (False, True):
        table = figures_of_merit.reliability(label, prob, equal_count)
        if (np.diff(table["low"]) == 0).any():
            assert (table["n"] == 0).any()
            continue
        ace = np.nanmean(np.abs(table["prob"] - table["lenses"]))
        assert ace == pytest.approx(
            netcal.ACE(bins, equal_intervals=not equal_count).measure(prob, label), abs=1e-12
        )
        theirs = netcal.ECE(bins, equal_intervals=not equal_count).measure(prob, label)
        assert figures_of_merit.ece(label, prob, equal_count) == pytest.approx(theirs, abs=1e-12)


def test_adaptive_calibration_error_does_not_depend_on_the_order_of_ties():
    label, prob = scored(0, 300, distinct=4)
    order = np.random.default_rng(0).permutation(300)
    assert figures_of_merit.adaptive_ece(label, prob) == pytest.approx(
        figures_of_merit.adaptive_ece(label[order], prob[order]), abs=1e-15
    )
    assert (
        figures_of_merit.adaptive_ece([1, 0, 0, 0], [0.7] * 4)
        == pytest.approx(0.45)
        == figures_of_merit.mce([1, 0, 0, 0], [0.7] * 4)
    )


@pytest.mark.parametrize(
    "label, prob, text",
    [
        ([], [], "at least one"),
        ([0, 1], [0.5], "same length"),
        ([0, 2], [0.1, 0.2], "label 2"),
        ([0, -1], [0.1, 0.2], "label -1"),
        ([0, 1], [0.1, np.nan], "1 of 2 probabilities are not finite"),
    ],
)
def test_what_cannot_be_is_refused(label, prob, text):
    with pytest.raises(Mistake, match=text):
        figures_of_merit.roc_auc(label, prob)


def test_logits_are_no_probabilities():
    with pytest.raises(Mistake, match="expected 0 to 1, not logits"):
        figures_of_merit.all_figures([0, 1], [-3.0, 2.0], 0.5)
    assert figures_of_merit.roc_auc([0, 1], [-3.0, 2.0]) == 1


def resampled(label, prob, replicates: int) -> dict[str, np.ndarray]:
    """The plain bootstrap, stratified: draw examples, compute, repeat."""
    random, out = np.random.default_rng(1), []
    classes = [np.flatnonzero(label == value) for value in (0, 1)]
    for _ in range(replicates):
        drawn = np.concatenate([random.choice(members, len(members)) for members in classes])
        out.append(figures_of_merit.all_figures(label[drawn], prob[drawn], 0.5))
    return {name: np.array([figures[name] for figures in out]) for name in out[0]}


@pytest.mark.parametrize("distinct, exact", [(0, 8192), (12, 8192), (0, 100)])
def test_intervals_are_those_of_the_plain_bootstrap(monkeypatch, distinct, exact):
    """Their ends within a tenth of their width, also where thresholds are merged."""
    monkeypatch.setattr(bootstrap, "EXACT", exact)
    monkeypatch.setattr(bootstrap, "FINE", 64)
    label, prob = scored(3, 2000, distinct)
    ours, theirs = bootstrap.intervals(label, prob, 0.5, 4000, seed=0), resampled(label, prob, 1500)
    for name, (low, high) in ours.items():
        expected = np.nanpercentile(theirs[name], (2.5, 97.5))
        assert np.abs(np.array([low, high]) - expected).max() < 0.12 * (expected[1] - expected[0]) + 1e-3, (
            name
        )
    assert {"roc_auc", "accuracy", "brier", "tpr_at_fpr_1e-2"} <= ours.keys()
    assert not {"tpr0", "tpr10", "ece"} & ours.keys()


def test_intervals_cover_the_truth_as_often_as_they_say():
    """The accuracy of a coin that is right nine times of ten, 200 times over:
    95 % of intervals hold it (binomial 4 sigma).
    """
    random, held = np.random.default_rng(0), 0
    for seed in range(200):
        label = np.repeat([0, 1], 200)
        prob = np.where(random.random(400) < 0.9, label, 1 - label)
        low, high = bootstrap.intervals(label, prob, 0.5, 400, seed)["accuracy"]
        held += low <= 0.9 <= high
    assert held / 200 > 0.95 - 4 * math.sqrt(0.95 * 0.05 / 200)


def test_intervals_of_objects_do_not_shrink_when_bands_repeat_the_object():
    label, prob = scored(0, 500)
    width = np.diff(bootstrap.intervals(label, prob, 0.5, 1000, 0)["roc_auc"])[0]
    five = (np.repeat(label, 5), np.repeat(prob, 5), 0.5, 1000, 0)
    whole = np.diff(bootstrap.intervals(*five, objects=np.repeat(np.arange(500), 5))["roc_auc"])[0]
    files = np.diff(bootstrap.intervals(*five)["roc_auc"])[0]
    assert whole == pytest.approx(width, rel=0.15) and files == pytest.approx(width / math.sqrt(5), rel=0.15)


def test_intervals_repeat_with_the_seed():
    label, prob = scored(0, 300)
    assert bootstrap.intervals(label, prob, 0.5, 100, 5) == bootstrap.intervals(label, prob, 0.5, 100, 5)
    assert bootstrap.intervals(label, prob, 0.5, 100, 5) != bootstrap.intervals(label, prob, 0.5, 100, 6)
