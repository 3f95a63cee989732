"""Maps from a logit to a calibrated probability, fitted on validation and kept as plain numbers.

    saved = calibration.fit("temperature", logit, label)     # {"kind": "temperature", "temperature": 1.7,
    "n": 900, "lenses": 300} prob = calibration.apply(saved, logit)

temperature  sigmoid(logit / T): one number for how sure the network is too sure
vector       sigmoid(slope logit + offset): what vector scaling is for two classes,
             where it is called Platt scaling
isotonic     the non-decreasing function that fits best, linear between its knots and constant outside of them

Every map rises strictly, so the order of objects, their AUC and what Youden's threshold selects stay as they
were (as far as float64 tells probabilities apart); equal logits stay equal. Isotonic regression alone would
make ties of whole ranges of logits: TILT is added to it, which moves no probability by more than 5e-6.
Source: Guo et al. 2017, arXiv:1706.04599, section 4; Zadrozny & Elkan 2002, KDD, 694 (isotonic).
"""

from typing import Literal

import numpy as np
from scipy.special import expit, logit as logit_of

from evaluation import figures_of_merit
from utils.mistake import Mistake

Calibration = dict[str, float | int | str | list[float]]  # plain numbers, for JSON and for a checkpoint
Kind = Literal["temperature", "vector", "isotonic"]
TILT = 1e-6  # slope in logits that keeps apart what isotonic regression would tie


def fit_calibration(kind: Kind, logit, label) -> Calibration:
    """The map of that kind with the highest likelihood (temperature, vector) or the least squares (isotonic).

    logit [N], label [N] 1 or 0. If lenses and others do not overlap, the likelihood of temperature and vector
    has no maximum, only a supremum at infinite slope: there Platt's targets (n1 + 1) / (n1 + 2) and 1 / (n0 +
    2) stand in for 1 and 0, which bound it. Isotonic values stay within 1 / (N + 2) of 0 and 1,
    for N examples cannot tell less.
    Raises Mistake for one class only, where higher logits do not mean more lenses,
    and where no temperature > 0 is best.
    Source: Platt 1999, Advances in Large Margin Classifiers, 61, section 2.2 (targets).
    """
    label, logit = figures_of_merit.checked(label, logit)
    lenses = int(label.sum())
    counted = dict(n=len(label), lenses=lenses)
    if not 0 < lenses < len(label):
        raise Mistake(
            f"a calibration cannot be fitted to {lenses} lenses and {len(label) - lenses} non-lenses: "
            "expected some of both"
        )
    if kind == "isotonic":
        from sklearn.isotonic import IsotonicRegression  # a second that other kinds need not pay

        least = 1 / (len(label) + 2)
        fitted = IsotonicRegression(y_min=least, y_max=1 - least).fit(logit, label)
        return (
            dict(kind=kind, logit=fitted.X_thresholds_.tolist(), prob=fitted.y_thresholds_.tolist()) | counted
        )
    is_lens = label == 1
    if kind == "temperature":
        features = logit[:, None]
        apart = (np.where(is_lens, logit, -logit) >= 0).all()
        rises = np.where(is_lens, logit, -logit).sum() > 0
    else:
        features = np.stack([logit, np.ones_like(logit)], 1)
        apart = logit[is_lens].min() >= logit[~is_lens].max()
        rises = logit[is_lens].mean() > logit[~is_lens].mean()
    if not rises and kind == "temperature" and logit[is_lens].mean() > logit[~is_lens].mean():
        raise Mistake(
            "no temperature fits: most logits lie on the wrong side of 0, so the likeliest answer is 1/2 for "
            "every object; use vector, which moves them, too"
        )
    if not rises:
        raise Mistake(
            f"a {kind} calibration would turn the order of objects round: their logits do not rise from "
            "non-lenses to lenses; is it the right network, and are the labels those of these files?"
        )
    target = np.where(is_lens, (lenses + 1) / (lenses + 2), 1 / (len(label) - lenses + 2)) if apart else label
    best = maximum_likelihood(features, target)
    if kind == "temperature":
        return dict(kind=kind, temperature=float(1 / best[0])) | counted
    return dict(kind=kind, slope=float(best[0]), offset=float(best[1])) | counted


def maximum_likelihood(features: np.ndarray, target: np.ndarray) -> np.ndarray:
    """[K] the w with the highest likelihood of target [N] in 0..1 under sigmoid(features [N, K] @ w),
    by Newton's method.

    The likelihood is concave; a step that does not raise it is halved. Ends where neither the gradient nor
    the value moves.
    """
    scale = np.abs(features).max(0)
    x = features / scale
    w = np.zeros(features.shape[1])

    def loss(w):
        z = x @ w
        return (np.logaddexp(0, z) - target * z).mean()

    for _ in range(200):
        prob = expit(x @ w)
        gradient = x.T @ (prob - target) / len(x)
        if np.abs(gradient).max() < 1e-13:
            break
        step = np.linalg.solve((x.T * (prob * (1 - prob))) @ x / len(x) + 1e-15 * np.eye(len(w)), gradient)
        before = loss(w)
        while loss(w - step) > before and np.abs(step).max() > 1e-15 * np.abs(w).max():
            step = step / 2
        w = w - step
        if np.abs(step).max() <= 1e-14 * np.abs(w).max():
            break
    return w / scale


def apply_calibration(calibration: Calibration, logit) -> np.ndarray:
    """Probabilities of logits, the same shape; NaN stays NaN.
    Raises Mistake for numbers that are no calibration.
    """
    calibration = checked(calibration)
    logit = np.asarray(logit, np.float64)
    if calibration["kind"] == "temperature":
        return expit(logit / calibration["temperature"])
    if calibration["kind"] == "vector":
        return expit(calibration["slope"] * logit + calibration["offset"])
    return expit(logit_of(np.interp(logit, calibration["logit"], calibration["prob"])) + TILT * logit)


def checked(calibration: Calibration) -> Calibration:
    """The calibration, if it is one whose map rises within 0..1; Mistake if not."""
    names = dict(temperature=["temperature"], vector=["slope", "offset"], isotonic=["logit", "prob"]).get(
        calibration.get("kind")
    )
    if names is None:
        raise Mistake(
            f"a calibration of kind {calibration.get('kind')!r}: expected temperature, vector or isotonic"
        )
    try:
        first, *rest = (np.asarray(calibration[name], np.float64) for name in names)
        if calibration["kind"] == "isotonic":
            (prob,) = rest
            good = (
                first.ndim == 1
                and first.shape == prob.shape
                and len(prob)
                and (np.diff(first) > 0).all()
                and np.isfinite(first).all()
                and (np.diff(prob) >= 0).all()
                and prob[0] > 0
                and prob[-1] < 1
            )
        else:
            good = (
                first.ndim == 0
                and 0 < first < np.inf
                and all(offset.ndim == 0 and np.isfinite(offset) for offset in rest)
            )
    except (KeyError, TypeError, ValueError):
        good = False
    if not good:
        raise Mistake(
            f"a {calibration['kind']} calibration needs {' and '.join(names)}, finite and rising; these are "
            "not: fit it again"
        )
    return calibration


def out_of_fold(kind: Kind, logit, label, fold) -> np.ndarray:
    """[N] probabilities of each fold (fold [N] int) by the map that is fitted to all others:
    what it does on unseen objects.
    """
    label, logit = figures_of_merit.checked(label, logit)
    prob = np.empty(len(logit))
    for here in (fold == k for k in np.unique(fold)):
        prob[here] = apply_calibration(fit_calibration(kind, logit[~here], label[~here]), logit[here])
    return prob


def calibration_lines(label, before, after) -> str:
    """Calibration figures of two columns of probabilities, before and after, as text."""
    rows = [("", "ECE", "adaptive ECE", "MCE", "log loss", "Brier", "AUC")]
    for name, prob in (("before", np.asarray(before)), ("after", np.asarray(after))):
        figures = (
            figures_of_merit.ece,
            figures_of_merit.adaptive_ece,
            figures_of_merit.mce,
            figures_of_merit.nll,
            lambda label, prob: np.mean((prob - np.asarray(label)) ** 2),
            figures_of_merit.roc_auc,
        )
        rows.append((name, *(f"{figure(label, prob):.4f}" for figure in figures)))
    return "\n".join(
        "  ".join(cell.ljust(6) if i == 0 else cell.rjust(12) for i, cell in enumerate(row)) for row in rows
    )
