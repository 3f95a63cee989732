"""Weights of members against grids and scikit-learn, folds of whole objects,
parts of the uncertainty in closed form.
"""

import itertools
import json

import numpy as np
import pytest
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from evaluation import stacking, uncertainty
from evaluation.folds import deal_folds
from evaluation.predictions import logit
from utils.mistake import Mistake


def members(seed: int, n: int, skills=(1.5, 1.0, 0.0)) -> tuple[np.ndarray, np.ndarray]:
    """(label [n], probs [members, n]): the better member is the one with the larger skill; 0 guesses."""
    random = np.random.default_rng(seed)
    label = random.integers(0, 2, n)
    label[:2] = 0, 1
    return label, expit(np.stack([random.normal(skill * (2 * label - 1), 1.2) for skill in skills]))


def log_loss(label, prob) -> float:
    return -np.log(np.where(label == 1, prob, 1 - prob)).mean()


@pytest.mark.parametrize("seed, n", [(0, 30), (1, 400), (2, 5000)])
def test_no_mixture_of_a_fine_grid_is_better(seed, n):
    label, probs = members(seed, n)
    weights = np.array(stacking.fit_stack("stack", label, probs)["weights"])
    assert (weights >= 0).all() and weights.sum() == pytest.approx(1, abs=1e-15)
    grid = np.array([w for w in itertools.product(range(61), repeat=3) if sum(w) == 60]) / 60
    assert log_loss(label, weights @ probs) <= min(log_loss(label, w @ probs) for w in grid) + 1e-9
    slack = (
        np.where(label == 1, probs, 1 - probs) / np.where(label == 1, weights @ probs, 1 - weights @ probs)
    ).mean(1)
    # the conditions of Kuhn and Tucker
    assert slack.max() < 1 + 1e-8 and np.abs(slack[weights > 1e-3] - 1).max() < 1e-5


def test_eight_members_one_of_them_useless_and_two_the_same():
    label, probs = members(3, 3000, (1.2, 1.2, 1.0, 0.9, 0.5, 0.3, 0.0))
    probs = np.concatenate([probs, probs[:1]])
    weights = np.array(stacking.fit_stack("stack", label, probs)["weights"])
    slack = (
        np.where(label == 1, probs, 1 - probs) / np.where(label == 1, weights @ probs, 1 - weights @ probs)
    ).mean(1)
    assert slack.max() < 1 + 1e-8 and weights[6] < 0.02 and weights[0] == pytest.approx(weights[7], abs=1e-6)


@pytest.mark.parametrize("seed, n", [(1, 400), (2, 5000)])
def test_logistic_stacking_is_logistic_regression_where_no_slope_is_negative(seed, n):
    label, probs = members(seed, n, (1.5, 1.0, 0.4))
    ours = stacking.fit_stack("stack_logit", label, probs)
    theirs = LogisticRegression(C=np.inf, tol=1e-12, solver="newton-cholesky").fit(logit(probs).T, label)
    assert (theirs.coef_ > 0).all()
    np.testing.assert_allclose(ours["weights"], theirs.coef_[0], rtol=1e-5)
    assert ours["offset"] == pytest.approx(theirs.intercept_[0], abs=1e-5)
    np.testing.assert_allclose(
        stacking.apply_stack(ours, probs), theirs.predict_proba(logit(probs).T)[:, 1], rtol=1e-5
    )


def test_a_member_that_errs_gets_no_negative_slope():
    label, probs = members(4, 2000, (1.5, 1.0, -0.8))
    full = LogisticRegression(C=np.inf, tol=1e-12, solver="newton-cholesky").fit(logit(probs).T, label)
    rest = LogisticRegression(C=np.inf, tol=1e-12, solver="newton-cholesky").fit(logit(probs[:2]).T, label)
    assert full.coef_[0, 2] < 0
    np.testing.assert_allclose(
        stacking.fit_stack("stack_logit", label, probs)["weights"], [*rest.coef_[0], 0], rtol=1e-5
    )


def test_separated_members_get_bounded_slopes():
    label = np.repeat([0, 1], 20)
    probs = np.stack([np.linspace(0.1, 0.9, 40), np.linspace(0.3, 0.6, 40)])
    for how in ("stack", "stack_logit"):
        fitted = stacking.fit_stack(how, label, probs)
        assert (
            np.isfinite(fitted["weights"] + [fitted["offset"]]).all()
            and max(fitted["weights"]) <= stacking.STEEPEST
        )
        assert np.isfinite(stacking.apply_stack(fitted, probs)).all()


def test_a_row_that_some_members_lack():
    probs = np.array([[0.2, np.nan, np.nan, np.nan], [0.6, 0.6, np.nan, np.nan], [0.9, 0.9, 0.9, np.nan]])
    mixed = stacking.apply_stack(dict(combine="stack", weights=[0.5, 0.5, 0.0], offset=0.0), probs)
    np.testing.assert_allclose(mixed, [0.4, 0.6, 0.9, np.nan])
    slopes = stacking.apply_stack(dict(combine="stack_logit", weights=[1.0, 1.0, 0.0], offset=0.3), probs)
    np.testing.assert_allclose(slopes[1:], [expit(2 * logit(0.6) + 0.3), expit(2 * logit(0.9) + 0.3), np.nan])
    label, whole = members(0, 200)
    holes = whole.copy()
    holes[1, 50:60] = np.nan
    kept = np.r_[0:50, 60:200]
    assert stacking.fit_stack("stack", label, holes) == stacking.fit_stack(
        "stack", label[kept], whole[:, kept]
    )


def test_comparison_finds_out_who_is_better():
    """One good member among four that guess: the stack wins by many standard errors. Equal members:
    nobody does.
    """
    label, probs = members(0, 1500, (2.0, 0.0, 0.0, 0.0))
    told = stacking.compare_stacks("stack", label, probs, probs.mean(0), np.arange(1500), 0)
    assert (
        told["log_loss_gain"] > 5 * told["log_loss_gain_error"]
        and told["auc_stack"] > told["auc_mean"] + 0.02
    )
    assert told["accuracy_stack"] > told["accuracy_mean"] and told["folds"] == 5
    label, probs = members(1, 1500, (1.0, 1.0, 1.0))
    told = stacking.compare_stacks("stack", label, probs, probs.mean(0), np.arange(1500), 0)
    assert abs(told["log_loss_gain"]) < 0.01 and json.loads(json.dumps(told)) == told
    five = stacking.compare_stacks(
        "stack",
        np.repeat(label, 5),
        np.repeat(probs, 5, 1),
        np.repeat(probs.mean(0), 5),
        np.repeat(np.arange(1500), 5),
        0,
    )
    # bands are no more objects
    assert five["log_loss_gain_error"] == pytest.approx(told["log_loss_gain_error"], rel=0.1)


@pytest.mark.parametrize("lenses, others", [(2, 2), (7, 40), (200, 301)])
def test_folds_hold_whole_objects_and_both_classes(lenses, others):
    objects = np.repeat([f"o{i}" for i in range(lenses + others)], 5)
    label = np.repeat([1] * lenses + [0] * others, 5)
    order = np.random.default_rng(0).permutation(len(label))
    fold = deal_folds(objects[order], label[order], seed=1)
    assert all(len(set(fold[objects[order] == name])) == 1 for name in set(objects))
    for k in set(fold):
        rest = label[order][fold != k]
        assert 0 < rest.sum() < len(rest)
    sizes = np.bincount(fold)
    assert sizes.max() - sizes[sizes > 0].min() <= 10
    assert (fold == deal_folds(objects[order], label[order], 1)).all()


def test_what_cannot_be_weighed():
    with pytest.raises(Mistake, match="2 lenses and 0 non-lenses"):
        stacking.fit_stack("stack", [1, 1], [[0.1, 0.2]])
    with pytest.raises(Mistake, match="a cross-validation needs two of each"):
        deal_folds(["a", "b", "c"], [1, 0, 0], 0)
    good = dict(combine="stack", members=["a", "b"], weights=[0.5, 0.5], offset=0.0)
    assert stacking.checked(good, "stack", "w.json") is good
    for change in (
        dict(weights=[0.5, 0.6]),
        dict(weights=[1.5, -0.5]),
        dict(weights=[1.0]),
        dict(weights="x"),
        dict(offset=float("nan")),
        dict(combine="stack_logit"),
        dict(members=None),
    ):
        with pytest.raises(Mistake, match="w.json: expected weights"):
            stacking.checked(good | change, "stack", "w.json")


def test_parts_of_the_uncertainty():
    """Members that agree on a coin: all of it aleatoric. Members that are certain of opposite things:
    all epistemic.
    """
    parts = uncertainty.ensemble_parts([[0.5, 1.0, 1.0, 0.3, np.nan], [0.5, 0.0, 1.0, np.nan, np.nan]])
    log2, entropy = np.log(2), -0.3 * np.log(0.3) - 0.7 * np.log(0.7)
    np.testing.assert_allclose(parts.total, [log2, log2, 0, entropy, np.nan], atol=1e-15)
    np.testing.assert_allclose(parts.aleatoric, [log2, 0, 0, entropy, np.nan], atol=1e-15)
    np.testing.assert_allclose(parts.epistemic, [0, log2, 0, 0, np.nan], atol=1e-15)
    assert parts.members.tolist() == [2, 2, 2, 1, 0]


def test_the_epistemic_part_is_the_mean_divergence_from_the_mixture():
    probs, weights = np.random.default_rng(0).random((4, 50)), np.array([0.1, 0.2, 0.3, 0.4])
    mean = weights @ probs
    divergence = weights @ (probs * np.log(probs / mean) + (1 - probs) * np.log((1 - probs) / (1 - mean)))
    parts = uncertainty.ensemble_parts(probs, weights)
    np.testing.assert_allclose(parts.epistemic, divergence, atol=1e-12)
    np.testing.assert_allclose(parts.total, parts.aleatoric + parts.epistemic, atol=1e-12)
