"""Weights of an ensemble's members, fitted on validation, and whether they do better than the plain mean.

stack        prob = sum of w_m prob_m, w >= 0, sum w = 1: a mixture; a useless member gets weight 0
stack_logit  prob = sigmoid(sum of w_m logit_m + offset), 0 <= w <= STEEPEST:
             logistic regression, which calibrates, too

Both maximise the likelihood, which is concave. Of a row that some members lack, the weights of the others are
scaled up to the same sum.
Source: Wolpert 1992, Neural Networks 5, 241; Breiman 1996, Machine Learning 24, 49 (weights >= 0).
"""

from pathlib import PurePath
from typing import Literal

import numpy as np
from scipy import optimize
from scipy.special import expit

from evaluation import figures_of_merit
from evaluation.folds import FOLDS, deal_folds
from evaluation.predictions import EDGE, logit
from utils.mistake import Mistake

How = Literal["stack", "stack_logit"]
STEEPEST = 10.0  # bounds the slopes where members separate the classes, where likelihood has no maximum
GAP = 1e-10  # nats of mean log likelihood that mixture weights may lie below the best


def fit_stack(how: How, label, probs) -> dict:
    """{"combine", "weights" [members], "offset"} for label [N] and probs [members, N];
    rows that a member lacks have no say.
    """
    label, probs = np.asarray(label), np.asarray(probs, np.float64)
    there = ~np.isnan(probs).any(0)
    label, probs = label[there], probs[:, there]
    if not 0 < (label == 1).sum() < len(label):
        raise Mistake(
            f"members cannot be weighed on {(label == 1).sum()} lenses and {(label == 0).sum()} non-lenses "
            "that all of them predict: expected some of both"
        )
    weights, offset = (mixture(label, probs), 0.0) if how == "stack" else logistic(label, logit(probs))
    return dict(combine=how, weights=weights.tolist(), offset=float(offset))


def mixture(label: np.ndarray, probs: np.ndarray) -> np.ndarray:
    """[members] the weights of the mixture with the highest likelihood:
    SLSQP, then steps of expectation maximisation.

    With r_m the mean over examples of (what member m gives the truth) / (what the mixture gives it), the mean
    log likelihood lies at most log(max r) below the best, so it is known when to stop.
    """
    truth = np.clip(np.where(label == 1, probs, 1 - probs), EDGE, 1)  # [members, N]

    def loss(w):
        mixed = np.maximum(w @ truth, EDGE)
        return -np.log(mixed).mean(), -(truth / mixed).mean(1)

    start = np.full(len(probs), 1 / len(probs))
    found = optimize.minimize(
        loss,
        start,
        jac=True,
        method="SLSQP",
        bounds=[(0, 1)] * len(start),
        options=dict(ftol=1e-12, maxiter=300),
        constraints=dict(type="eq", fun=lambda w: w.sum() - 1, jac=np.ones_like),
    )
    weights = np.maximum(found.x, 1e-9)  # from 0 no step of expectation maximisation would come back
    weights /= weights.sum()
    for _ in range(2000):
        ratio = (truth / (weights @ truth)).mean(1)
        if np.log(ratio.max()) < GAP:
            break
        weights = weights * ratio
    weights[weights < 1e-8] = 0.0
    return weights / weights.sum()


def logistic(label: np.ndarray, logits: np.ndarray) -> tuple[np.ndarray, float]:
    """([members] slopes, offset) with the highest likelihood and slopes in 0..STEEPEST."""
    x = np.concatenate([logits, np.ones((1, len(label)))])

    def loss(w):
        z = w @ x
        return (np.logaddexp(0, z) - label * z).mean(), x @ (expit(z) - label) / len(label)

    start = np.append(np.full(len(logits), 1 / len(logits)), 0.0)
    found = optimize.minimize(
        loss,
        start,
        jac=True,
        method="L-BFGS-B",
        bounds=[(0, STEEPEST)] * len(logits) + [(None, None)],
        options=dict(ftol=0, gtol=1e-9, maxiter=5000, maxfun=20000, maxcor=30),
    )
    return found.x[:-1], found.x[-1]


def apply_stack(weights: dict, probs) -> np.ndarray:
    """[N] the combined probability of probs [members, N]; NaN where no member has one."""
    probs, each = np.asarray(probs, np.float64), np.asarray(weights["weights"], np.float64)
    there = ~np.isnan(probs)
    share = there * each[:, None]
    share = np.where(share.sum(0) > 0, share, there)  # only members of weight 0: their plain mean
    values = np.where(there, probs if weights["combine"] == "stack" else logit(probs), 0)
    mean = figures_of_merit.ratio((share * values).sum(0), share.sum(0))
    return mean if weights["combine"] == "stack" else expit(each.sum() * mean + weights["offset"])


def compare_stacks(how: How, label, probs, mean, objects, seed: int) -> dict[str, float | int]:
    """Weights against the plain mean on objects that had no say in either:
    log loss (nats), AUC, accuracy, of FOLDS folds.

    label [N], probs [members, N], mean [N] the plain mean, objects [N] what stays in one fold. Accuracy is at
    Youden's threshold of the other folds. log_loss_gain is how much lower the stack's log loss is,
    with its standard error over objects.
    """
    label, mean = np.asarray(label), np.asarray(mean)
    fold = deal_folds(objects, label, seed)
    stack = np.empty(len(label))
    right = {"stack": 0, "mean": 0}
    for here in (fold == k for k in np.unique(fold)):
        weights = fit_stack(how, label[~here], probs[:, ~here])
        prob = apply_stack(weights, probs)
        stack[here] = prob[here]
        for name, values in (("stack", prob), ("mean", mean)):
            threshold, _ = figures_of_merit.youden(label[~here], values[~here])
            right[name] += int(((values >= threshold) == label)[here].sum())
    loss = {
        name: -np.log(np.clip(np.where(label == 1, p, 1 - p), EDGE, 1))
        for name, p in (("stack", stack), ("mean", mean))
    }
    gain = loss["mean"] - loss["stack"]
    _, at = np.unique(np.asarray(objects, dtype=str), return_inverse=True)
    error = np.sqrt((np.bincount(at, gain - gain.mean()) ** 2).sum()) / len(gain)
    figures = {
        f"{figure}_{name}": float(value)
        for name, p in (("stack", stack), ("mean", mean))
        for figure, value in (
            ("log_loss", loss[name].mean()),
            ("auc", figures_of_merit.roc_auc(label, p)),
            ("accuracy", right[name] / len(label)),
        )
    }
    return figures | dict(
        log_loss_gain=float(gain.mean()),
        log_loss_gain_error=float(error),
        folds=min(FOLDS, len(np.unique(fold))),
        n=len(label),
    )


def checked(weights: dict, how: How, source: str) -> dict:
    """Weights read from a file, if they are some for `how`; Mistake if not."""
    try:
        each = np.asarray(weights["weights"], np.float64)
        good = (
            each.ndim == 1
            and len(each)
            and (each >= 0).all()
            and np.isfinite(each).all()
            and np.isfinite(weights["offset"])
            and len(weights["members"]) == len(each)
            and (how != "stack" or abs(each.sum() - 1) < 1e-9)
        )
    except (KeyError, TypeError, ValueError):
        good = False
    if not good or weights["combine"] != how:
        raise Mistake(
            f"{source}: expected weights >= 0 of members for --combine {how}, as ensemble.py --combine {how} "
            "writes them" + (f"; it holds some for {weights['combine']}" if good else "")
        )
    return weights


def names_of(paths: list[str]) -> list[str]:
    """What tells the members' files apart: the parts of their paths that not all share;
    file names without ending if none does.

    runs/s42/pred_val.csv runs/s101/pred_val.csv -> s42, s101.
    """
    parts = [PurePath(path).with_suffix("").parts for path in paths]
    shared = set(parts[0]).intersection(*parts)
    return ["/".join(part for part in own if part not in shared) or own[-1] for own in parts]


def check_members(weights: dict, paths: list[str]) -> None:
    """Raises Mistake if these files cannot be the members that the weights were fitted to,
    or stand in another order.
    """
    fitted = weights["members"]
    here = names_of(paths)
    if len(fitted) != len(here):
        raise Mistake(
            f"weights of {len(fitted)} members ({', '.join(fitted)}) for {len(here)} files: expected one of "
            "each member, in that order"
        )
    if fitted != here and sorted(fitted) == sorted(here):
        raise Mistake(
            f"weights are of {', '.join(fitted)}, the files of {', '.join(here)}: give them in the order of "
            "the weights"
        )


def stack_lines(weights: dict) -> str:
    """The weights, and the comparison on held-out objects if there is one, as text."""
    text = ", ".join(f"{name} {weight:.4f}" for name, weight in zip(weights["members"], weights["weights"]))
    text = f"weights: {text}" + (
        f", offset {weights['offset']:.4f}" if weights["combine"] == "stack_logit" else ""
    )
    if found := weights.get("cross_validated"):
        text += "\n" + "\n".join(
            f"  {name:5} log loss {found[f'log_loss_{name}']:.4f}, AUC {found[f'auc_{name}']:.4f}, accuracy "
            f"{found[f'accuracy_{name}']:.4f}"
            for name in ("stack", "mean")
        )
        text += (
            f"\n  on objects held out ({found['folds']} folds, {found['n']} rows): log loss lower by "
            f"{found['log_loss_gain']:.4f} "
            f"+- {found['log_loss_gain_error']:.4f} with weights"
        )
    return text
