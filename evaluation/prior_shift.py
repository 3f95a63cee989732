"""Probabilities at another rate of lenses than that they were learnt at: half of a training set are lenses,
of the sky one galaxy in thousands is.
"""

from typing import NamedTuple

import numpy as np

from evaluation import figures_of_merit
from evaluation.predictions import EDGE
from utils.mistake import Mistake


class PriorShift(NamedTuple):
    """From the rate of lenses that probabilities were learnt at to the one that they are wanted at."""

    training_rate: float
    lens_rate: float

    def __call__(self, prob) -> np.ndarray:
        """[N] probabilities at `lens_rate`, in the order in which they were.

        Source: Saerens, Latinne & Decaestecker 2002, Neural Computation 14, 21, eq. 4: each class'
        probability times the ratio of its new rate to its old one, divided by their sum; in logits an
        addition.
        """
        # float32 rounds what is nearly certain to 1, which no rate could change
        prob = np.minimum(prob, 1 - EDGE)
        lens = prob * self.lens_rate / self.training_rate
        other = (1 - prob) * (1 - self.lens_rate) / (1 - self.training_rate)
        return lens / (lens + other)


def prior_shift(lens_rate: float, training_rate: float, label: np.ndarray | None) -> PriorShift:
    """The shift to `lens_rate` from `training_rate`, or where that is 0 from the share of lenses in `label`
    [N].

    Raises: Mistake where neither tells a rate between 0 and 1.
    """
    if not training_rate and label is not None and len(label):
        training_rate = float(np.mean(label))
    if not 0 < training_rate < 1:
        raise Mistake(
            f"--lens_rate {lens_rate:g}: the rate that the probabilities were learnt at is not known; give "
            "--training_rate, or labelled --val predictions of lenses and non-lenses, whose rate is taken"
        )
    return PriorShift(training_rate, lens_rate)


def purity_line(label: np.ndarray, prob: np.ndarray, threshold: float, lens_rate: float) -> str:
    """What of those called lenses at `threshold` would be lenses, were `lens_rate` of all: in words.

    label, prob: [N], validation. The false positive rate is also taken at its upper 95 % limit (Clopper &
    Pearson 1934), as none of a few hundred is no zero.
    """
    from scipy.stats import beta  # half a second that other runs need not pay

    found = figures_of_merit.counts(label, prob, threshold)
    lenses, others = found["tp"] + found["fn"], found["fp"] + found["tn"]
    completeness = found["tp"] / lenses
    rate = found["fp"] / others
    most = float(beta.ppf(0.95, found["fp"] + 1, others - found["fp"])) if found["fp"] < others else 1.0

    def purity(false_positive_rate: float) -> float:
        called = lens_rate * completeness + (1 - lens_rate) * false_positive_rate
        return lens_rate * completeness / called if called else float("nan")

    return (
        f"purity at a lens rate of {lens_rate:g}: {purity(rate):.3g} ({found['tp']} of {lenses} lenses and "
        f"{found['fp']} of {others} others of --val are above t*), at least {purity(most):.3g} with 95 % "
        "confidence"
    )
