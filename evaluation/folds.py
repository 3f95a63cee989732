"""Folds of a cross-validation: whole objects, lenses and others spread evenly."""

import numpy as np

from utils.mistake import Mistake

FOLDS = 5


def deal_folds(objects, label, seed: int, count: int = FOLDS) -> np.ndarray:
    """[N] int in 0..count-1: rows of one object (objects [N] any, say its bands) share a fold,
    lenses and others are dealt in turn.

    An object with a lens among its rows counts as one. Raises Mistake if there are not two objects of each
    class.
    """
    _, at = np.unique(np.asarray(objects, dtype=str), return_inverse=True)
    is_lens = np.bincount(at, np.asarray(label, np.float64)) > 0
    random = np.random.default_rng(seed)
    fold = np.empty(len(is_lens), np.int64)
    dealt = 0
    for members in (np.flatnonzero(is_lens), np.flatnonzero(~is_lens)):
        if len(members) < 2:
            raise Mistake(
                f"{is_lens.sum()} lenses and {(~is_lens).sum()} non-lenses (objects with labels): a "
                "cross-validation needs two of each"
            )
        fold[random.permutation(members)] = (dealt + np.arange(len(members))) % count
        dealt += len(members)
    return fold[at]
