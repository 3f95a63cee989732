"""Thresholds: chosen on validation, kept in a file of one number."""

from pathlib import Path

import numpy as np

from evaluation import conformal, figures_of_merit
from utils import files
from utils.mistake import Mistake


def choose_threshold(label, prob, by: str, alpha: float, delta: float) -> tuple[float, str]:
    """(t, what it promises on these rows, in words): by "youden", or "conformal",
    which keeps 1 - alpha of new lenses.
    """
    label, prob = figures_of_merit.checked(label, prob)
    if by == "youden":
        t, j = figures_of_merit.youden(label, prob)
        return t, f"Youden's J = {j:.4f} on {len(label)} rows of --val"
    t = conformal.completeness_threshold(prob[label == 1], alpha, delta)
    lenses = int(label.sum())
    sure = f", with confidence {1 - delta:g}" if delta else ""
    here = figures_of_merit.rates(**figures_of_merit.counts(label, prob, t))
    return t, (
        f"keeps at least {1 - alpha:g} of new lenses{sure}: rank {conformal.rank(lenses, alpha, delta)} of "
        f"{lenses} lenses of --val; on {len(label)} rows completeness {here['recall']:.4f}, false positive "
        f"rate {1 - here['specificity']:.4f}"
    )


def write_threshold(threshold: float, path: Path) -> None:
    with files.whole(path) as temporary:
        temporary.write_text(f"{threshold!r}\n")


def read_threshold(path: str) -> float:
    """The number in a threshold file. Raises Mistake if there is none."""
    try:
        threshold = float(Path(path).read_text())
    except (OSError, ValueError) as error:
        if files.is_trouble(error):
            raise
        raise Mistake(
            f"--threshold_file {path!r}: expected a file that holds one number, as ensemble.py writes it"
        ) from error
    if not np.isfinite(threshold):
        raise Mistake(f"--threshold_file {path!r}: holds {threshold}, expected a finite number")
    return threshold
