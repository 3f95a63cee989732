"""Which features can be compared with, and which classes: what is left out is named."""

import numpy as np
import pandas as pd
import pytest

from evaluation.probe import classes_to_probe, varied


def test_constants_are_left_out_and_named_and_gaps_are_filled_and_counted():
    nan = np.nan
    frame = pd.DataFrame(
        dict(a=[1.0, 2, nan, 4], same=[3.0, 3, 3, 3], none=[nan] * 4, tiny=[1e-30, 2e-30, 0, 0])
    )
    values, kept, lines = varied(frame)
    assert kept == ["a", "tiny"] and values[:, 0].tolist() == [1, 2, 2, 4]
    assert (
        "2 of 4 features are the same in all examples or known in none, and left out: same, none" in lines[0]
    )
    assert lines[1] == "1 missing values of 2 features are filled with the median"
    assert varied(frame[["same"]])[0].shape == (4, 0)


def test_rare_classes_are_left_out_by_name():
    large, lines = classes_to_probe(np.array(["None"] * 5 + ["NA"] * 6 + ["nova"]))
    assert large.tolist() == [True] * 11 + [False] and lines == [
        "classes of fewer than 5 examples are left out: nova (1)"
    ]
    with pytest.raises(ValueError, match="two classes with at least 5 examples each, got a: 9, b: 1"):
        classes_to_probe(np.array(["a"] * 9 + ["b"]))
