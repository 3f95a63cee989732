"""What an embedding knows: how well simple classifiers tell labels from it,
each example judged by one that never saw it.
"""

import warnings
from typing import Any

import numpy as np
import pandas as pd

FOLDS = 5


def probe(features: np.ndarray, labels: np.ndarray, seed: int = 0) -> dict[str, Any]:
    """Accuracy of a linear and a random-forest classifier of features [N,
    F] in stratified five-fold cross-validation.

    labels [N] of any kind. Returns n, classes, `majority` (the share of the largest class, what a constant
    answer gets), and for "linear" and "forest" the accuracy, its standard error over folds, and the confusion
    matrix (rows: the truth). Raises ValueError for fewer than two classes, or one with fewer examples than
    folds.
    """
    labels = np.asarray(labels)
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import confusion_matrix
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    classes, counts = np.unique(labels, return_counts=True)
    if len(classes) < 2 or counts.min() < FOLDS:
        raise too_few(classes, counts)
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    probes = dict(
        linear=make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
        forest=RandomForestClassifier(300, random_state=seed, n_jobs=-1),
    )
    results: dict[str, Any] = dict(
        n=len(labels), classes=[str(name) for name in classes], majority=float(counts.max() / len(labels))
    )
    for name, classifier in probes.items():
        with warnings.catch_warnings():
            # a probe that has not quite converged is a lower bound
            warnings.simplefilter("ignore", ConvergenceWarning)
            predicted = cross_val_predict(classifier, features, labels, cv=folds)
        each = [float((predicted[test] == labels[test]).mean()) for _, test in folds.split(features, labels)]
        results[name] = dict(
            accuracy=float((predicted == labels).mean()),
            error=float(np.std(each, ddof=1) / FOLDS**0.5),
            confusion=confusion_matrix(labels, predicted, labels=classes).tolist(),
        )
    return results


def too_few(classes: np.ndarray, counts: np.ndarray) -> ValueError:
    few = ", ".join(f"{name}: {count}" for name, count in zip(classes[:8], counts[:8]))
    return ValueError(f"a probe needs two classes with at least {FOLDS} examples each, got {few}")


def classes_to_probe(labels: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """[N] bool, the examples of classes that are large enough for a probe; lines that name the others.

    Raises ValueError if fewer than two classes are.
    """
    classes, which, counts = np.unique(labels, return_inverse=True, return_counts=True)
    enough = counts >= FOLDS
    if enough.sum() < 2:
        raise too_few(classes, counts)
    rare = ", ".join(f"{name} ({count})" for name, count in zip(classes[~enough], counts[~enough]))
    lines = [f"classes of fewer than {FOLDS} examples are left out: {rare}"] if rare else []
    return enough[which], lines


def varied(features: pd.DataFrame) -> tuple[np.ndarray, list[str], list[str]]:
    """Features [N, F] float64 that are fit to be compared with: those that differ between examples.

    Returns the values, their names, and lines that name what was left out, and count what was missing:
    that is filled with the feature's median.
    """
    kept, values, constant, missing = [], [], [], 0
    for name in features:
        column = features[name].to_numpy(np.float64, na_value=np.nan)
        known = column[np.isfinite(column)]
        if not len(known) or np.ptp(known) <= 1e-9 * np.abs(known).max():
            constant.append(name)
            continue
        missing += len(column) - len(known)
        values.append(np.where(np.isfinite(column), column, np.median(known)))
        kept.append(name)
    lines = []
    if constant:
        lines.append(
            f"{len(constant)} of {len(constant) + len(kept)} features are the same in all examples or known "
            f"in none, and left out: {', '.join(constant)}"
        )
    if missing:
        lines.append(f"{missing} missing values of {len(kept)} features are filled with the median")
    return (np.stack(values, 1) if kept else np.zeros((len(features), 0))), kept, lines


def probe_table(probes: dict[str, dict[str, Any]]) -> str:
    """The probes of several sets of features beside each other, one line each."""
    wide = max(map(len, probes))
    lines = [f"{'features':<{wide}}  majority  linear          forest"]
    for name, result in probes.items():
        scores = "  ".join(
            f"{result[kind]['accuracy']:.3f} +- {result[kind]['error']:.3f}" for kind in ("linear", "forest")
        )
        lines.append(f"{name:<{wide}}  {result['majority']:.3f}     {scores}")
    return "\n".join(lines)
