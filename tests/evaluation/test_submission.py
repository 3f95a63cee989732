"""Inferred parameters as mixtures of Gaussians, and what of them is submitted."""

import numpy as np
import pandas as pd
import pytest

from evaluation import inferred as parameters, submission
from utils.mistake import Mistake


def table(path, **columns) -> pd.DataFrame:
    return pd.DataFrame(
        dict(path=path) | {name: np.asarray(values, float) for name, values in columns.items()}
    )


def test_a_mixture_has_the_moments_of_draws_from_it():
    random = np.random.default_rng(0)
    mean, error = np.array([1.0, 1.6, 0.7]), np.array([0.1, 0.3, 0.2])
    mixed = parameters.mixture(table(["a"] * 3, Rein=mean, Rein_err=error), ["a"] * 3)
    draws = random.normal(mean, error, (400_000, 3)).ravel()
    assert mixed["Rein"][0] == pytest.approx(draws.mean(), abs=2e-3) and mixed["Rein_err"][
        0
    ] == pytest.approx(draws.std(), abs=2e-3)


def test_position_angles_are_turned_before_they_are_averaged():
    mixed = parameters.mixture(
        table(list("aabb"), sh_PA=[179, 3, 90, 90], sh_PA_err=[2, 2, 5, 5]), list("aabb")
    )
    np.testing.assert_allclose(mixed["sh_PA"], [1, 90])
    np.testing.assert_allclose(mixed["sh_PA_err"], [np.sqrt(4 + 4), 5])
    angles = np.array([170.0, 178.0, 5.0])
    for turn in (0.0, 40.0, 93.0, 180.0):  # turned sky, turned answer, the same error
        mixed = parameters.mixture(
            table(["a"] * 3, sh_PA=(angles + turn) % 180, sh_PA_err=[1, 2, 3]), ["a"] * 3
        )
        straight = np.array([-10.0, -2.0, 5.0])
        assert (mixed["sh_PA"][0] - turn - straight.mean() + 90) % 180 - 90 == pytest.approx(0, abs=1e-9)
        assert mixed["sh_PA_err"][0] == pytest.approx(np.sqrt(14 / 3 + straight.var()))


def test_members_count_alike_though_one_has_more_bands():
    one = table(["a_g", "a_r", "a_i"], Rein=[1, 1, 1], Rein_err=[0.1] * 3)
    other = table(["a"], Rein=[2], Rein_err=[0.1])
    mixed = parameters.together([one, other], [["a"] * 3, ["a"]])
    assert mixed["Rein"][0] == pytest.approx(1.5) and mixed["Rein_err"][0] == pytest.approx(
        np.sqrt(0.01 + 0.25)
    )
    # another network infers something else
    third = table(["a", "b"], zlens=[0.5, np.nan], zlens_err=[0.1, np.nan])
    mixed = parameters.together([one, other, third], [["a"] * 3, ["a"], ["a", "b"]])
    assert (
        mixed["zlens"][0] == 0.5
        and mixed["Rein"][0] == pytest.approx(1.5)
        and np.isnan(mixed["zlens"][1])
        and np.isnan(mixed["Rein"][1])
    )


@pytest.mark.parametrize("columns", ["request", "official"])
def test_only_lenses_get_parameters(columns):
    inferred = table(["a", "b", "d"], Rein=[1.25, 0.5, np.nan], **{"vel disp": [200, 210, 220]})
    sent = submission.submission_table(
        np.array(["d", "c", "b", "a"]), np.array([1, 1, 0, 1]), columns, -99, inferred
    )
    assert sent["Rein"].tolist() == [-99, -99, -99, 1.25] and sent["vel disp"].tolist() == [
        220,
        -99,
        -99,
        200,
    ]
    assert sent.to_csv(index=False).count("-99.0") == 0
    sent = submission.submission_table(
        np.array(["d", "c", "b", "a"]), np.array([0.2, 0.1, 0.0, 0.9]), columns, -99, inferred
    )
    assert sent["Rein"].tolist() == [-99, -99, 0.5, 1.25]


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "is not a CSV table"),
        ("path,Rein\na,1\n", "no column 'Rein_err'"),
        ("path\na\n", "no column 'Rein'"),
        ("Rein,Rein_err\n1,1\n", "no column 'path'"),
        ("path,Rein,Rein_err\na,x,1\n", "line 2 has Rein 'x'"),
        ("path,Rein,Rein_err\na,1,-1\n", "line 2 has Rein_err '-1'; expected a finite number >= 0"),
        ("path,Rein,Rein_err\na,1,1\nb,inf,1\n", "line 3 has Rein 'inf'"),
        ("path,Rein,Rein_err\na,1,\n", "line 2 has Rein 1 without an error"),
        ("path,Rein,Rein_err\na,1,1\na,1,1\n", "names 'a' twice"),
        ("path,Rein,Rein_err\n", "holds no row"),
    ],
)
def test_a_table_that_cannot_be(tmp_path, text, message):
    (tmp_path / "p.csv").write_text(text)
    with pytest.raises(Mistake, match=message):
        parameters.read_inferred(str(tmp_path / "p.csv"))


def test_what_is_not_known_is_empty(tmp_path):
    (tmp_path / "p.csv").write_text("path,Rein,Rein_err,vel disp,vel disp_err\na,1.5,0.1,,\nb,,,200,20\n")
    read = parameters.read_inferred(str(tmp_path / "p.csv"))
    assert parameters.names_of(read) == ["Rein", "vel disp"] and read["Rein"].isna().tolist() == [False, True]
    with pytest.raises(Mistake, match="there is no file"):
        parameters.read_inferred(str(tmp_path / "none.csv"))
