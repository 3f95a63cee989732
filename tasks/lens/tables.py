"""What the lens task found of each example, as tables."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch

from physics.lens_parameters import QUANTITIES, decode, slices


def quantity_table(
    names: tuple[str, ...], mean: np.ndarray, variance: np.ndarray, factors: dict[str, float]
) -> pd.DataFrame:
    """[E] rows: the challenge's columns of each quantity and `<column>_err`, one standard error,
    from their components [E, P].

    factors: on the standard errors, by quantity, as validation gave them.
    """
    columns = {}
    for name, place in slices(names).items():
        spread = variance[:, place] * factors.get(name, 1.0) ** 2
        values, errors = (
            part.numpy() for part in decode(name, torch.from_numpy(mean[:, place]), torch.from_numpy(spread))
        )
        for i, column in enumerate(QUANTITIES[name].columns):
            columns |= {column: values[:, i], f"{column}_err": errors[:, i]}
    return pd.DataFrame(columns)


def plausibility_table(values: np.ndarray, parts: Sequence[str]) -> pd.DataFrame:
    """[E] rows: plausibility and plausibility_<part>, from the score and its parts [E,
    1 + parts] (physics/plausibility.py).
    """
    return pd.DataFrame(values, columns=["plausibility", *(f"plausibility_{part}" for part in parts)])
