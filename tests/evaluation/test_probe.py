"""What a probe says of features that know the labels, of features that do not, and of too few."""

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from evaluation.probe import FOLDS, probe, probe_table


TREES = 20  # of a forest: enough here, and quick


@pytest.fixture(scope="module")
def quick_probe():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "sklearn.ensemble.RandomForestClassifier",
            lambda _trees, **options: RandomForestClassifier(TREES, **options),
        )
        yield probe


@pytest.fixture(scope="session")
def labels() -> np.ndarray:
    return np.array(["red", "red", "blue", "green"] * 30)


@pytest.fixture(scope="session")
def noise() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((120, 4))


@pytest.fixture(scope="module")
def knowing(quick_probe, labels, noise):
    """Of features that tell the classes apart, of very unlike units."""
    return quick_probe(
        (noise + 12 * (labels[:, None] == np.array(["red", "blue", "green", "x"]))) * [1, 1e6, 1e-6, 1],
        labels,
    )


@pytest.fixture(scope="module")
def ignorant(quick_probe, labels, noise):
    return quick_probe(noise, labels)


def test_separable_classes_are_told_apart(knowing):
    for kind in ("linear", "forest"):
        assert knowing[kind]["accuracy"] == 1 and knowing[kind]["error"] == 0
        assert knowing[kind]["confusion"] == [[30, 0, 0], [0, 30, 0], [0, 0, 60]]
    assert (
        knowing["n"] == 120 and knowing["classes"] == ["blue", "green", "red"] and knowing["majority"] == 0.5
    )


def test_random_features_are_no_better_than_the_majority(ignorant):
    """No example is judged by a classifier that saw it: a forest that had would be right always."""
    for kind in ("linear", "forest"):
        assert 0.3 < ignorant[kind]["accuracy"] < 0.6 and 0 < ignorant[kind]["error"] < 0.1
        assert np.array(ignorant[kind]["confusion"]).sum(1).tolist() == [30, 30, 60]
        assert np.trace(ignorant[kind]["confusion"]) / 120 == pytest.approx(ignorant[kind]["accuracy"])


def test_the_figures_are_those_of_scikit_learns_own_loop(ignorant, labels, noise):
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    classifiers = dict(
        linear=make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
        forest=RandomForestClassifier(TREES, random_state=0),
    )
    for kind, classifier in classifiers.items():
        each = cross_val_score(classifier, noise, labels, cv=folds)
        assert ignorant[kind]["accuracy"] == pytest.approx(each.mean())
        assert ignorant[kind]["error"] == pytest.approx(each.std(ddof=1) / np.sqrt(FOLDS))


def test_the_table_has_a_line_each(knowing, ignorant):
    lines = probe_table(dict(embedding=knowing, nine_statistics=ignorant)).splitlines()
    assert len(lines) == 3 and lines[0].split() == ["features", "majority", "linear", "forest"]
    assert lines[1].split()[:5] == ["embedding", "0.500", "1.000", "+-", "0.000"]
    assert (
        lines[2].startswith("nine_statistics  0.500     ")
        and f"{ignorant['forest']['accuracy']:.3f}" in lines[2]
    )
    assert lines[0].index("linear") == lines[1].index("1.000") and lines[0].index("forest") == lines[
        1
    ].rindex("1.000")


@pytest.mark.parametrize("labels", [["a"] * 20, ["a"] * 20 + ["b"] * 4, [], [1] * 3 + [2] * 3])
def test_too_few_are_refused_in_one_line_that_counts_them(labels):
    with pytest.raises(ValueError, match="two classes with at least 5 examples each") as caught:
        probe(np.zeros((len(labels), 2)), np.array(labels))
    assert "\n" not in str(caught.value) and all(
        f"{name}: {labels.count(name)}" in str(caught.value) for name in set(labels)
    )
