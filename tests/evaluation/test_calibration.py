"""Calibration maps against scikit-learn, torch and SciPy: fitted values, order kept, plain numbers,
what cannot be fitted.
"""

import json

import numpy as np
import pytest
import torch
from scipy import optimize
from scipy.special import expit
from sklearn import metrics
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from evaluation import calibration, figures_of_merit
from evaluation.folds import deal_folds
from utils.mistake import Mistake

KINDS = ["temperature", "vector", "isotonic"]


def overconfident(
    seed: int, n: int, factor: float = 2.5, shift: float = 0.8, lenses: float = 0.3
) -> tuple[np.ndarray, np.ndarray]:
    """(logit, label): logits that are `factor` too large, after a shift."""
    random = np.random.default_rng(seed)
    true = random.normal(np.log(lenses / (1 - lenses)), 1.5, n)
    label = (random.random(n) < expit(true)).astype(int)
    return factor * true + shift, label


def nll(prob, label) -> float:
    return metrics.log_loss(label, prob)


@pytest.mark.parametrize("seed, n, factor", [(0, 40, 1.0), (1, 500, 2.5), (2, 5000, 0.2), (3, 5000, 8.0)])
def test_temperature_is_the_minimum_that_scipy_and_torch_find(seed, n, factor):
    logit, label = overconfident(seed, n, factor, shift=0)
    ours = calibration.fit_calibration("temperature", logit, label)["temperature"]
    theirs = optimize.minimize_scalar(
        lambda a: np.mean(np.logaddexp(0, a * logit) - a * label * logit),
        bounds=(1e-3, 50),
        method="bounded",
        options=dict(xatol=1e-12),
    )
    assert 1 / ours == pytest.approx(theirs.x, rel=1e-6)
    slope = torch.ones(1, dtype=torch.float64, requires_grad=True)
    descent = torch.optim.LBFGS(
        [slope], max_iter=200, tolerance_grad=1e-12, tolerance_change=1e-15, line_search_fn="strong_wolfe"
    )

    def closure():
        descent.zero_grad()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(
            slope * torch.from_numpy(logit), torch.from_numpy(label).double()
        )
        loss.backward()
        return loss

    descent.step(closure)
    assert 1 / ours == pytest.approx(slope.item(), rel=1e-6)


@pytest.mark.parametrize(
    "seed, n, factor, lenses",
    [(0, 40, 1.0, 0.5), (1, 500, 2.5, 0.3), (2, 5000, 0.2, 0.05), (3, 5000, 8.0, 0.3)],
)
def test_vector_is_unpenalised_logistic_regression(seed, n, factor, lenses):
    logit, label = overconfident(seed, n, factor, lenses=lenses)
    ours = calibration.fit_calibration("vector", logit, label)
    theirs = LogisticRegression(C=np.inf, tol=1e-12, solver="newton-cholesky", max_iter=1000).fit(
        logit[:, None], label
    )
    assert ours["slope"] == pytest.approx(theirs.coef_[0, 0], rel=1e-6) and ours["offset"] == pytest.approx(
        theirs.intercept_[0], rel=1e-6
    )
    np.testing.assert_allclose(
        calibration.apply_calibration(ours, logit), theirs.predict_proba(logit[:, None])[:, 1], rtol=1e-6
    )


def test_temperature_is_that_of_scikit_learns_calibrated_classifier():
    """Their TemperatureScaling on the decision function of a frozen classifier."""
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.frozen import FrozenEstimator

    class Network(ClassifierMixin, BaseEstimator):
        classes_ = np.array([0, 1])

        def fit(self, x, y):
            return self

        def decision_function(self, x):
            return x[:, 0]

        def predict(self, x):
            return (x[:, 0] > 0).astype(int)

        def __sklearn_is_fitted__(self):
            return True

    logit, label = overconfident(5, 2000, shift=0)
    theirs = CalibratedClassifierCV(FrozenEstimator(Network()), method="temperature").fit(
        logit[:, None], label
    )
    ours = calibration.apply_calibration(calibration.fit_calibration("temperature", logit, label), logit)
    # theirs stops at a tolerance
    np.testing.assert_allclose(ours, theirs.predict_proba(logit[:, None])[:, 1], atol=1e-4)


@pytest.mark.parametrize("seed, n, decimals", [(0, 30, 12), (1, 400, 12), (2, 3000, 1), (3, 3000, 12)])
def test_isotonic_is_scikit_learns_within_its_bounds(seed, n, decimals):
    logit, label = overconfident(seed, n)
    logit = logit.round(decimals)
    ours = calibration.apply_calibration(calibration.fit_calibration("isotonic", logit, label), logit)
    theirs = np.clip(
        IsotonicRegression(out_of_bounds="clip").fit(logit, label).predict(logit),
        1 / (n + 2),
        1 - 1 / (n + 2),
    )
    np.testing.assert_allclose(ours, theirs, atol=5e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [30, 3000])
def test_order_and_auc_are_kept_and_probabilities_lie_inside(kind, n):
    logit, label = overconfident(1, n)
    prob = calibration.apply_calibration(calibration.fit_calibration(kind, logit, label), logit)
    order = np.argsort(logit)
    assert (np.diff(prob[order]) > 0).all() and 0 < prob.min() and prob.max() < 1
    assert figures_of_merit.roc_auc(label, prob) == figures_of_merit.roc_auc(label, logit)
    beyond = calibration.apply_calibration(
        calibration.fit_calibration(kind, logit, label), np.array([-17.0, 17.0, np.nan])
    )
    assert 0 < beyond[0] < beyond[1] < 1 and np.isnan(beyond[2])


@pytest.mark.parametrize("kind", KINDS)
def test_unseen_objects_are_better_calibrated(kind):
    (logit, label), (new, truth) = overconfident(0, 4000), overconfident(1, 4000)
    saved = json.loads(json.dumps(calibration.fit_calibration(kind, logit, label)))
    prob = calibration.apply_calibration(saved, new)
    assert figures_of_merit.ece(truth, prob) < 0.5 * figures_of_merit.ece(truth, expit(new))
    assert nll(prob, truth) < nll(expit(new), truth)
    fold = deal_folds(np.arange(4000), label, seed=0)
    crossed = calibration.out_of_fold(kind, logit, label, fold)
    assert nll(crossed, label) == pytest.approx(nll(prob, truth), abs=0.03)
    changed = np.where(fold == 2, 1 - label, label)  # labels of a fold have no say in its own probabilities
    np.testing.assert_array_equal(
        calibration.out_of_fold(kind, logit, changed, fold)[fold == 2], crossed[fold == 2]
    )


def test_calibrated_logits_stay_as_they_are():
    logit, label = overconfident(0, 40000, factor=1, shift=0)
    assert calibration.fit_calibration("temperature", logit, label)["temperature"] == pytest.approx(
        1, abs=0.05
    )
    fitted = calibration.fit_calibration("vector", logit, label)
    assert fitted["slope"] == pytest.approx(1, abs=0.05) and fitted["offset"] == pytest.approx(0, abs=0.05)


def test_a_checkpoint_holds_it(tmp_path):
    logit, label = overconfident(0, 300)
    for kind in KINDS:
        saved = calibration.fit_calibration(kind, logit, label)
        torch.save(dict(calibration=saved), tmp_path / "c.pt")
        again = torch.load(tmp_path / "c.pt", weights_only=True)["calibration"]
        np.testing.assert_array_equal(
            calibration.apply_calibration(again, logit), calibration.apply_calibration(saved, logit)
        )


@pytest.mark.parametrize("gap", [0.0, 0.1, 5.0])
def test_separated_classes_get_platts_bounded_answer(gap):
    """20 objects of each class that do not overlap: nobody is surer than (20 + 1) / (20 + 2) on average."""
    logit = np.concatenate([np.linspace(-3, -gap, 20), np.linspace(gap, 3 + gap, 20)])
    label = np.repeat([0, 1], 20)
    for kind in ("temperature", "vector"):
        saved = calibration.fit_calibration(kind, logit, label)
        prob = calibration.apply_calibration(saved, logit)
        assert all(np.isfinite(value) for value in saved.values() if not isinstance(value, str))
        target = np.where(label == 1, 21 / 22, 1 / 22)
        assert np.dot(prob - target, logit) == pytest.approx(0, abs=1e-9)  # the condition of the maximum
        if kind == "vector":
            assert prob[label == 1].mean() + prob[label == 0].mean() == pytest.approx(1, abs=1e-9)
    assert calibration.apply_calibration(calibration.fit_calibration("isotonic", logit, label), [9.0])[
        0
    ] == pytest.approx(41 / 42, abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [0, 1])
def test_one_class_is_refused(kind, value):
    with pytest.raises(Mistake, match="expected some of both"):
        calibration.fit_calibration(kind, [1.0, 2.0, -1.0], [value] * 3)


@pytest.mark.parametrize("kind", ["temperature", "vector"])
def test_a_network_that_is_worse_than_chance_is_refused(kind):
    logit, label = overconfident(0, 300, shift=0)
    with pytest.raises(Mistake, match="would turn the order of objects round"):
        calibration.fit_calibration(kind, -logit, label)


def test_logits_that_need_an_offset_have_no_temperature():
    """Rare lenses, and a network that calls most objects one:
    it ranks well, but no T > 0 is better than 1/2 for all.
    """
    logit, label = overconfident(2, 5000, factor=0.2, shift=0.8, lenses=0.05)
    assert figures_of_merit.roc_auc(label, logit) > 0.7
    assert (LogisticRegression(C=np.inf, fit_intercept=False).fit(logit[:, None], label).coef_ < 0).all()
    with pytest.raises(Mistake, match="no temperature fits: .* use vector"):
        calibration.fit_calibration("temperature", logit, label)
    assert calibration.fit_calibration("vector", logit, label)["slope"] > 0


@pytest.mark.parametrize(
    "saved",
    [
        {},
        dict(kind="magic"),
        dict(kind="temperature"),
        dict(kind="temperature", temperature=0.0),
        dict(kind="temperature", temperature="hot"),
        dict(kind="vector", slope=-1.0, offset=0.0),
        dict(kind="vector", slope=1.0, offset=float("nan")),
        dict(kind="isotonic", logit=[], prob=[]),
        dict(kind="isotonic", logit=[0.0, 1.0], prob=[0.9, 0.1]),
        dict(kind="isotonic", logit=[0.0, 1.0], prob=[0.0, 0.5]),
        dict(kind="isotonic", logit=[1.0, 1.0], prob=[0.2, 0.5]),
        dict(kind="isotonic", logit=[0.0, 1.0], prob=[0.2]),
    ],
)
def test_numbers_that_are_no_calibration(saved):
    with pytest.raises(Mistake):
        calibration.apply_calibration(saved, [0.0])
