"""Confidence intervals by the bootstrap, quick also for millions of examples.

Every replicate needs only how many lenses and others fall between neighbouring thresholds, so these counts
are drawn, not the examples. Up to EXACT distinct probabilities that is the ordinary bootstrap. Beyond,
thresholds are merged: none among the first FINE false positives and the last FINE missed lenses, then steps
of 0.1 % (1 %) of their number, which moves a replicate's AUC by less than 1e-5. tpr0, tpr10 and ece get no
interval: a resample cannot hold a non-lens that scores above the highest one seen, and resampling noise adds
to a calibration error, so the bootstrap is wrong for them.
"""

import numpy as np

from evaluation import figures_of_merit

EXACT, FINE = 8192, 1024
CHUNK = 64  # replicates in memory at once
LEVEL = 95.0  # per cent of the replicates within the interval
RATES = ("accuracy", "precision", "recall", "f1", "balanced_accuracy", "specificity", "mcc")


def intervals(
    label, prob, threshold: float, replicates: int, seed: int, objects=None
) -> dict[str, tuple[float, float]]:
    """The 95 % percentile interval of each figure of merit, by name; {} if there is one class only.

    objects: None, the examples are independent: lenses and others are resampled separately, each to its
        number (multinomial). Or [N] any, what belongs together (bands of an object): whole objects are
        resampled, each Poisson(1) times.
    """
    label, prob = figures_of_merit.checked(label, prob)
    points = figures_of_merit.curve(label, prob)
    if not points.tp[-1] or not points.fp[-1] or replicates < 1:
        return {}
    ends = merged(points, threshold)
    low = points.threshold[ends]  # [K] the lowest probability of each bin
    groups = np.unique(np.asarray(objects), return_inverse=True)[1] if objects is not None else None
    at = 2 * np.searchsorted(-low, -prob) + label  # [N] bin and class of each example
    size = np.bincount(at, minlength=2 * len(low)).reshape(-1, 2)  # [K, 2] others, lenses
    # mean; 0 of nobody
    error = np.bincount(at, (prob - label) ** 2, size.size).reshape(-1, 2) / np.maximum(size, 1)
    random = np.random.default_rng(seed)
    parts = []
    for start in range(0, replicates, CHUNK):
        chunk = min(CHUNK, replicates - start)
        if groups is None:
            drawn = [
                random.multinomial(total, share / total, chunk) for share, total in zip(size.T, size.sum(0))
            ]
        else:
            weights = random.poisson(1.0, (chunk, groups.max() + 1))
            both = np.stack([np.bincount(at, weight[groups], size.size) for weight in weights]).reshape(
                chunk, -1, 2
            )
            drawn = [both[..., 0], both[..., 1]]
        parts.append(figures(*drawn, error, int((low >= threshold).sum())))
    tails = (50 - LEVEL / 2, 50 + LEVEL / 2)
    return {
        name: tuple(np.nanpercentile(values, tails).tolist())
        for name in parts[0]
        if np.isfinite(values := np.concatenate([part[name] for part in parts])).any()
    }


def merged(points: figures_of_merit.Curve, threshold: float) -> np.ndarray:
    """[K] indices of the thresholds that are kept, the last one and the one that bounds prob >= threshold
    among them.
    """
    if len(points.threshold) <= EXACT:
        return np.arange(len(points.threshold))
    lenses, others = points.tp[-1], points.fp[-1]
    cuts = [
        np.searchsorted(points.fp, levels(others, 1.001), side="right") - 1,
        np.searchsorted(points.tp, lenses - levels(lenses, 1.01)),
        [int((points.threshold >= threshold).sum()) - 1, len(points.threshold) - 1],
    ]
    ends = np.unique(np.concatenate(cuts))
    return ends[ends >= 0]


def levels(most: int, growth: float) -> np.ndarray:
    """0, 1, 2 ... FINE, then growing by a factor, up to `most`."""
    steps = int(np.log(max(most / FINE, 1)) / np.log(growth)) + 1
    return np.minimum(
        np.append(np.arange(FINE), np.floor(FINE * growth ** np.arange(steps)).astype(np.int64)), most
    )


def figures(others, lenses, error, selected: int) -> dict[str, np.ndarray]:
    """Figures of merit [R] of R replicates.

    others, lenses: [R, K] counts between thresholds, from the highest; error:
        [K, 2] their mean squared errors;
    selected: how many of the K bins lie at or above the threshold.
    """
    fp, tp = np.cumsum(others, -1, dtype=np.int64), np.cumsum(lenses, -1, dtype=np.int64)
    at = (
        {"tp": tp[:, selected - 1], "fp": fp[:, selected - 1]}
        if selected
        else {"tp": 0 * tp[:, 0], "fp": 0 * fp[:, 0]}
    )
    rates = figures_of_merit.rates(fp[:, -1] - at["fp"], at["fp"], tp[:, -1] - at["tp"], at["tp"])
    return {name: rates[name] for name in RATES} | dict(
        brier=(others @ error[:, 0] + lenses @ error[:, 1]) / (fp[:, -1] + tp[:, -1]),
        roc_auc=figures_of_merit.area_under_roc(tp, fp),
        pr_auc=figures_of_merit.average_precision(tp, fp),
        **{f"tpr_at_fpr_1e-{k}": figures_of_merit.tpr_at_fpr(tp, fp, 10.0**-k) for k in (2, 3)},
    )
