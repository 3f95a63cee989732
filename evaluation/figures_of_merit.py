"""How well probabilities tell lenses from the rest: counts, curves and the figures made of them, in NumPy.

Everywhere label is [N], 1 for a lens and 0 for none, prob is [N], and an example is called a lens if prob >=
threshold. A figure that is 0/0 (the precision of an empty selection, the AUC of one class) is NaN, never a
made-up 0 or 1.
"""

from typing import NamedTuple

import numpy as np

from utils.mistake import Mistake

BINS = 15  # of the reliability diagram and the calibration errors


class Curve(NamedTuple):
    """What each distinct threshold selects, from the highest:
    prob >= threshold[k] takes tp[k] lenses, fp[k] others.
    """

    threshold: np.ndarray  # [K] float64, falling
    tp: np.ndarray  # [K] int64, the last is the number of lenses
    fp: np.ndarray  # [K] int64, the last is the number of others


def checked(label, prob) -> tuple[np.ndarray, np.ndarray]:
    """(label [N] int64, prob [N] float64). Raises Mistake for no example, a length,
    label or number that cannot be.
    """
    label, prob = np.asarray(label), np.asarray(prob, np.float64)
    if label.shape != prob.shape or label.ndim != 1:
        raise Mistake(
            f"labels {label.shape} and probabilities {prob.shape}: expected two rows of the same length"
        )
    if not len(label):
        raise Mistake("no labelled example with a probability: expected at least one")
    if not ((label == 0) | (label == 1)).all():
        wrong = label[(label != 0) & (label != 1)][0]
        raise Mistake(f"label {wrong}: expected 1 (lens) or 0 (not); leave unlabelled examples out")
    if not np.isfinite(prob).all():
        raise Mistake(
            f"{(~np.isfinite(prob)).sum()} of {len(prob)} probabilities are not finite: leave those examples "
            "out"
        )
    return label.astype(np.int64), prob


def curve(label, prob) -> Curve:
    """All distinct thresholds and what they select; equal probabilities are taken together."""
    label, prob = checked(label, prob)
    order = np.argsort(-prob, kind="stable")
    falling = prob[order]
    last = np.flatnonzero(np.append(falling[1:] != falling[:-1], True))
    tp = np.cumsum(label[order])[last]
    return Curve(falling[last], tp, last + 1 - tp)


def counts(label, prob, threshold: float) -> dict[str, int]:
    """The confusion matrix at a threshold: tn, fp, fn, tp."""
    label, prob = checked(label, prob)
    tn, fp, fn, tp = np.bincount(2 * label + (prob >= threshold), minlength=4).tolist()
    return dict(tn=tn, fp=fp, fn=fn, tp=tp)


def ratio(part, whole):
    """part / whole; NaN where whole is 0."""
    return np.true_divide(part, np.where(np.equal(whole, 0), np.nan, whole))


def rates(tn, fp, fn, tp) -> dict[str, np.ndarray]:
    """The figures that a confusion matrix (numbers or arrays of them) fixes."""
    tn, fp, fn, tp = (np.asarray(count, np.float64) for count in (tn, fp, fn, tp))
    precision, recall, specificity = ratio(tp, tp + fp), ratio(tp, tp + fn), ratio(tn, tn + fp)
    f1, f1_others = ratio(2 * tp, 2 * tp + fp + fn), ratio(2 * tn, 2 * tn + fp + fn)
    return dict(
        accuracy=ratio(tp + tn, tn + fp + fn + tp),
        precision=precision,
        recall=recall,
        f1=f1,
        precision_macro=(precision + ratio(tn, tn + fn)) / 2,
        recall_macro=(recall + specificity) / 2,
        f1_macro=(f1 + f1_others) / 2,
        balanced_accuracy=(recall + specificity) / 2,
        specificity=specificity,
        mcc=ratio(tp * tn - fp * fn, np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))),
    )


def area_under_roc(tp, fp):
    """Area under the ROC curve, [...] from tp and fp [..., K] of a Curve:
    P(lens above other) + P(equal) / 2.
    """
    # whole numbers: exact
    twice = np.sum(np.diff(fp, prepend=0) * (2 * tp - np.diff(tp, prepend=0)), axis=-1)
    return ratio(twice, 2.0 * tp[..., -1] * fp[..., -1])


def average_precision(tp, fp):
    """Area under the precision-recall steps, sum of precision_k (recall_k - recall_k-1), [...] from [...,
    K].
    """
    steps = np.diff(tp, prepend=0) * (tp / np.maximum(tp + fp, 1))
    return ratio(steps.sum(-1), np.where(fp[..., -1] > 0, tp[..., -1], 0))


def found(tp, fp, most):
    """The most lenses that a threshold finds with at most `most` false positives, [...] from [..., K]."""
    return np.where(fp <= np.expand_dims(most, -1), tp, 0).max(-1)


def tpr_at_fpr(tp, fp, rate: float):
    """The highest true positive rate with a false positive rate <= rate, [...] from [..., K]."""
    most = np.floor(rate * fp[..., -1] * (1 + 1e-12))  # 0.001 * 9000 must allow 9
    return ratio(found(tp, fp, most), np.where(fp[..., -1] > 0, tp[..., -1], 0))


def roc_auc(label, prob) -> float:
    """Area under the ROC curve; NaN if there is one class only."""
    points = curve(label, prob)
    return float(area_under_roc(points.tp, points.fp))


def nll(label, prob) -> float:
    """Mean negative log likelihood in nats; 0 and 1 are taken as the next float64,
    so a certain answer that is wrong costs 36.
    """
    label, prob = probable(label, prob)
    tiny = np.finfo(np.float64).eps
    return float(-np.log(np.clip(np.where(label == 1, prob, 1 - prob), tiny, 1)).mean())


def probable(label, prob) -> tuple[np.ndarray, np.ndarray]:
    """What `checked` returns. Raises Mistake, too, if a probability is not from 0 to 1."""
    label, prob = checked(label, prob)
    if prob.min() < 0 or prob.max() > 1:
        raise Mistake(
            f"probabilities reach from {prob.min():g} to {prob.max():g}: expected 0 to 1, not logits"
        )
    return label, prob


def reliability(label, prob, equal_count: bool = False) -> dict[str, np.ndarray]:
    """Per probability bin, [BINS]: low and high edge, n, mean probability and share of lenses (NaN where n =
    0).

    The bins are equally wide, or with `equal_count` bounded by quantiles of prob; equal probabilities share a
    bin, so that with many of them bins may be empty.
    """
    label, prob = probable(label, prob)
    edges = np.arange(BINS + 1) / BINS
    if equal_count:
        edges[1:-1] = np.quantile(prob, np.linspace(0, 1, BINS + 1)[1:-1])
        at = np.searchsorted(edges[1:-1], prob, side="right")
    else:
        at = np.minimum((prob * BINS).astype(np.int64), BINS - 1)
    n, total, lenses = (np.bincount(at, weights, BINS) for weights in (None, prob, label))
    return dict(low=edges[:-1], high=edges[1:], n=n, prob=ratio(total, n), lenses=ratio(lenses, n))


def ece(label, prob, equal_count: bool = False) -> float:
    """Expected calibration error: mean over examples of |mean probability - share of lenses| of the example's
    bin.
    """
    table = reliability(label, prob, equal_count)
    return float(np.nansum(table["n"] * np.abs(table["prob"] - table["lenses"])) / table["n"].sum())


def adaptive_ece(label, prob) -> float:
    """The expected calibration error over bins of equal count:
    rare high probabilities get bins as fine as the many low ones.

    Source: Nguyen & O'Connor 2015, arXiv:1508.05154.
    """
    return ece(label, prob, equal_count=True)


def mce(label, prob) -> float:
    """Maximum calibration error: the largest |mean probability - share of lenses| of the equally wide bins,
    however few are in it.

    Source: Naeini, Cooper & Hauskrecht 2015, AAAI, 2901.
    """
    table = reliability(label, prob)
    return float(np.nanmax(np.abs(table["prob"] - table["lenses"])))


def youden(label, prob) -> tuple[float, float]:
    """(threshold, J): the threshold t for which "prob >= t" has the largest J = TPR - FPR, exact,
    in O(N log N).

    J is compared as whole numbers, so equal optima are found equal; of these the highest threshold is taken,
    because lenses are rare on the sky and it has the fewest false positives. Every t between the lowest
    probability selected and the next below selects the same; t is their middle,
    so that a last digit lost elsewhere moves no object.
    Raises Mistake if there is one class only.
    Source: Youden 1950, Cancer 3, 32.
    """
    threshold, tp, fp = curve(label, prob)
    if not tp[-1] or not fp[-1]:
        raise Mistake(
            f"no threshold can be chosen from {tp[-1]} lenses and {fp[-1]} non-lenses: expected some of both"
        )
    j = tp * fp[-1] - fp * tp[-1]
    best = int(j.argmax())
    high, low = threshold[best], threshold[min(best + 1, len(threshold) - 1)]
    middle = low + (high - low) / 2
    return float(middle if middle > low else high), float(j[best] / (tp[-1] * fp[-1]))


def all_figures(label, prob, threshold: float) -> dict[str, float]:
    """Every figure of merit by name, at a threshold; the counts are whole numbers.

    tpr0 and tpr10 are the highest true positive rates with no, and with fewer than ten, false positives
    (tpr0_count and tpr10_count lenses). Source: Metcalf et al. 2019, A&A 625, A119, section 4.
    """
    _, tp, fp = curve(label, prob)
    label, prob = checked(label, prob)
    both = bool(tp[-1] and fp[-1])
    none, few = int(found(tp, fp, 0)), int(found(tp, fp, 9))
    values = rates(**counts(label, prob, threshold)) | dict(
        brier=np.mean((prob - label) ** 2),
        roc_auc=area_under_roc(tp, fp),
        pr_auc=average_precision(tp, fp),
        nll=nll(label, prob),
        ece=ece(label, prob),
        adaptive_ece=adaptive_ece(label, prob),
        **{f"tpr_at_fpr_1e-{k}": tpr_at_fpr(tp, fp, 10.0**-k) for k in (2, 3)},
        tpr0=none / tp[-1] if both else np.nan,
        tpr10=few / tp[-1] if both and fp[-1] >= 10 else np.nan,
    )
    return {name: float(value) for name, value in values.items()} | dict(
        tpr0_count=none,
        tpr10_count=few,
        threshold=float(threshold),
        **counts(label, prob, threshold),
        n=len(label),
        lenses=int(tp[-1]),
    )
