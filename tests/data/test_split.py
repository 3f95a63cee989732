"""data/split.py: the promises of the split, as properties."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data import split
from data.split import SplitOptions
from utils.mistake import Mistake

IDS = st.lists(
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=12).filter(
        lambda name: not split.is_blind(name)
    ),
    max_size=40,
)
SEED = st.integers(0, 2**31)
FRACTIONS = (
    st.tuples(st.integers(0, 100), st.integers(0, 100), st.integers(0, 100), st.integers(0, 100))
    .filter(any)
    .map(lambda parts: tuple(part / sum(parts) for part in parts[:3]))
)
QUICK = settings(max_examples=80, deadline=None)
MANY = np.array([f"D{1 + i % 2}_L_{i:08d}" for i in range(20000)], dtype=object)


@QUICK
@given(IDS, SEED, FRACTIONS, st.randoms(use_true_random=False))
def test_bands_of_an_object_are_never_in_two_splits(ids, seed, fractions, random):
    files = [name for name in ids for _ in range(random.randint(1, 5))]
    random.shuffle(files)
    of_file = split.split_of(files, SplitOptions(seed, *fractions))
    assert set(of_file) <= {"train", "val", "test", ""}
    for name in set(files):
        assert len({of for file, of in zip(files, of_file) if file == name}) == 1


@QUICK
@given(IDS, IDS, SEED, FRACTIONS)
def test_adding_files_moves_nobody(ids, more, seed, fractions):
    alone = split.split_of(ids, SplitOptions(seed, *fractions))
    together = split.split_of(more + ids, SplitOptions(seed, *fractions))
    np.testing.assert_array_equal(together[len(more) :], alone)


@QUICK
@given(IDS, SEED, st.lists(st.floats(0, 1), min_size=2, max_size=5))
def test_taken_subsets_are_nested(ids, seed, fractions):
    kept = [split.kept_share(ids, seed, fraction) for fraction in sorted(fractions)]
    for smaller, larger in zip(kept, kept[1:]):
        assert np.all(larger[smaller])
    assert split.kept_share(ids, seed, 1.0).all() and not split.kept_share(ids, seed, 0.0).any()


@QUICK
@given(st.lists(st.from_regex(r"object_[0-9]{1,6}", fullmatch=True), max_size=10), SEED, FRACTIONS)
def test_blind_ids_are_test_whatever_the_fractions(ids, seed, fractions):
    assert set(split.split_of(ids, SplitOptions(seed, *fractions))) <= {"test"}


@QUICK
@given(IDS, SEED, st.floats(0, 0.5), st.floats(0, 0.3), st.floats(0, 0.2))
def test_a_larger_training_fraction_only_adds_to_training(ids, seed, train, more, val):
    before = split.split_of(ids, SplitOptions(seed, train, val, 0.0))
    after = split.split_of(ids, SplitOptions(seed, train + more, val, 0.0))
    assert np.all(after[before == "train"] == "train")


def test_five_training_seeds_share_one_split():
    """The split's function does not know a training seed;
    what is random in a process must not matter either.
    """
    expected = "ttttvttttttttttvtttttttvtttttttt"
    np.random.seed(1)
    first = split.split_of(MANY, SplitOptions(42, 0.7, 0.15, 0.15))
    np.random.seed(2)
    np.testing.assert_array_equal(first, split.split_of(MANY, SplitOptions(42, 0.7, 0.15, 0.15)))
    assert (first != split.split_of(MANY, SplitOptions(43, 0.7, 0.15, 0.15))).mean() > 0.3
    # Written down, so that no later version silently reshuffles everyone's test set.
    assert (
        "".join(name[:1] for name in split.split_of(MANY[:32], SplitOptions(42, 0.7, 0.15, 0.15))) == expected
    )


def test_an_independent_reading_of_the_definition():
    import hashlib

    for name in MANY[:200]:
        number = (
            int.from_bytes(hashlib.blake2b(f"split 7 {name}".encode(), digest_size=8).digest(), "big") / 2**64
        )
        expected = "train" if number < 0.5 else "val" if number < 0.75 else "test" if number < 0.9 else ""
        assert split.split_of([name], SplitOptions(7, 0.5, 0.25, 0.15))[0] == expected


@pytest.mark.parametrize(
    "fractions",
    [
        (0.7, 0.15, 0.15),
        (0.01, 0.01, 0.98),
        (1 / 3, 1 / 3, 1 / 3),
        (0.2, 0.1, 0.0),
        (0.0, 0.0, 1.0),
        (0.0, 0.0, 0.0),
    ],
)
def test_fractions_are_honoured_within_binomial_error(fractions):
    of = split.split_of(MANY, SplitOptions(42, *fractions))
    for name, fraction in zip((*split.SPLITS, ""), (*fractions, 1 - sum(fractions))):
        sigma = np.sqrt(len(MANY) * max(fraction * (1 - fraction), 0.0))
        assert abs((of == name).sum() - fraction * len(MANY)) <= 4 * sigma + 1e-6


def test_taking_a_fraction_is_independent_of_the_split():
    of, kept = split.split_of(MANY, SplitOptions(42, 0.7, 0.15, 0.15)), split.kept_share(MANY, 42, 0.1)
    for name in split.SPLITS:
        here = of == name
        assert abs(kept[here].mean() - 0.1) < 4 * np.sqrt(0.09 / here.sum())


@pytest.mark.parametrize(
    "fractions, words",
    [
        ((0.7, 0.2, 0.2), "= 1.1: the sum must not exceed 1"),
        ((-0.1, 0.5, 0.5), "--train_frac: got -0.1, expected 0 to 1"),
        ((0.5, float("nan"), 0.5), "--val_frac: got nan, expected 0 to 1"),
    ],
)
def test_impossible_fractions_are_refused(fractions, words):
    with pytest.raises(Mistake, match=words):
        split.split_of(["a"], SplitOptions(42, *fractions))


def test_no_objects_are_no_trouble():
    assert split.split_of([], SplitOptions(42, 0.7, 0.15, 0.15)).shape == (0,) and split.kept_share(
        [], 42, 0.5
    ).shape == (0,)


def groups(objects, of):
    domain = np.where(np.arange(len(objects)) % 2, "slsim", "hsc")
    label = np.where(np.arange(len(objects)) % 4 < 2, 1, 0)
    return pd.DataFrame({"object": objects, "domain": domain, "label": label, "split": of})


def test_stratification_counts_objects_and_warns_only_of_what_chance_does_not_explain():
    index = groups(MANY, split.split_of(MANY, SplitOptions(42, 0.7, 0.15, 0.15)))
    files = pd.concat([index, index, index.iloc[:5000]])  # bands: an object still counts once
    table, warnings = split.stratification(files)
    assert warnings == [] and table["objects"].sum() == len(MANY)
    assert table["sigma"].abs().max() < 4
    for (name, domain, label), row in table.set_index(["split", "domain", "label"]).iterrows():
        assert (
            row["objects"]
            == ((index["split"] == name) & (index["domain"] == domain) & (index["label"] == label)).sum()
        )
    lost = index[
        ~(
            (index["split"] == "val")
            & (index["domain"] == "hsc")
            & (index["label"] == 1)
            & (np.arange(len(index)) % 3 > 0)
        )
    ]
    table, warnings = split.stratification(lost)
    assert any("split val" in line and "hsc with label 1" in line and "-" in line for line in warnings)


def test_stratification_of_unlabelled_or_no_objects_is_empty():
    index = groups(MANY[:10], "test").assign(label=-1)
    for table, warnings in (split.stratification(index), split.stratification(index.iloc[:0])):
        assert len(table) == 0 and warnings == []


def divided(objects, label, seed, fractions=(0.7, 0.15, 0.15), reason=""):
    from tasks.lens.config import Config
    from tasks.lens.inputs import divide_index

    config = Config(split_seed=seed, train_frac=fractions[0], val_frac=fractions[1], test_frac=fractions[2])
    return divide_index(pd.DataFrame(dict(object=objects, label=label, reason=reason)), config)


FEW = np.array([f"g{number:04d}" for number in range(240)], dtype=object)
RARE = np.where(np.arange(240) < 11, 1, 0)


def test_eleven_lenses_of_240_are_in_each_split_whatever_the_seed():
    empty = 0
    for seed in range(60):
        found = divided(FEW, RARE, seed)
        by_hash = split.split_of(FEW, SplitOptions(seed))
        lenses = found.index.loc[RARE == 1, "split"]
        assert set(lenses) == set(split.SPLITS)
        empty += set(by_hash[:11]) != set(split.SPLITS)
        changed = found.index["split"].to_numpy() != by_hash
        assert changed.sum() <= 2 and not changed[11:].any()  # nobody else moves, and nobody without need
        assert changed.any() == (set(by_hash[:11]) != set(split.SPLITS)) == bool(found.lines)
        assert found.record.get("moved", {}) == dict(zip(FEW[changed], found.index["split"][changed]))
    assert 10 <= empty <= 25  # of 60 seeds: what was wrong before


@QUICK
@given(
    st.integers(1, 12),
    st.integers(1, 40),
    SEED,
    FRACTIONS.filter(lambda parts: min(parts[:2]) > 0),
    st.integers(0, 40),
)
def test_a_class_is_in_as_many_splits_as_it_can_be(lenses, others, seed, fractions, more):
    label = np.array([1] * lenses + [0] * others)
    found = divided(FEW[: lenses + others], label, seed, fractions)
    wanted = [name for name, fraction in zip(split.SPLITS, fractions) if fraction > 0]
    for value, count in ((1, lenses), (0, others)):
        there = set(found.index.loc[label == value, "split"]) - {""}
        first = wanted[: min(count, len(wanted))]
        assert set(first) <= there or count > len(first) and len(there) == len(wanted)
    # whoever is added moves only those that are lent for want of others, then or now
    again = divided(FEW[: lenses + others + more], np.append(label, [0] * more), seed, fractions)
    moved = found.index["split"].to_numpy() != again.index["split"].to_numpy()[: len(label)]
    lent = {*found.record.get("moved", {}), *again.record.get("moved", {})}
    assert moved.sum() <= 4 and set(FEW[: len(label)][moved]) <= lent


def test_what_cannot_be_read_gives_a_split_no_lens():
    found = divided(FEW, RARE, 7)
    val = found.index["object"][(found.index["split"] == "val") & (RARE == 1)]
    reason = np.where(np.isin(FEW, val), "truncated", "")
    again = divided(FEW, RARE, 7, reason=reason).index
    assert ((again["split"] == "val") & (RARE == 1) & (reason == "")).any()


def test_a_group_is_in_one_split_and_predict_finds_it_again():
    from tasks.lens.config import Config
    from tasks.lens.inputs import divide_index, split_index

    group = np.array([f"galaxy{number // 8}" for number in range(240)])
    about = pd.DataFrame(dict(object=FEW, group=group, ra=np.nan, dec=np.nan))
    index = pd.DataFrame(
        dict(object=np.repeat(FEW, 2), label=np.repeat(np.arange(240) // 8 % 2, 2), reason="")
    )
    found = divide_index(index, Config(), about, kept=True)
    assert (found.index.groupby(np.repeat(group, 2))["split"].nunique() == 1).all()
    assert "240 objects in 30 groups" in found.lines[0]
    assert split_index(index, Config(), about, found.record)["split"].equals(found.index["split"])
    # a place under two ids is known to the record alone
    places = pd.DataFrame(dict(object=FEW, ra=np.arange(240) // 2 + 1.0, dec=5.0))
    found = divide_index(index, Config(), places)
    assert (found.index.groupby(np.repeat(np.arange(120), 4))["split"].nunique() == 1).all()
    assert split_index(index, Config(), None, found.record)["split"].equals(found.index["split"])
    assert set(found.record["moved"]) <= set(FEW[1::2])  # the smallest id names a group, and stays


def test_what_is_tested_blindly_takes_its_group_with_it():
    from tasks.lens.config import Config
    from tasks.lens.inputs import divide_index

    about = pd.DataFrame(dict(object=["object_7", "a"], ra=[3.0, 3.0], dec=[1.0, 1.0]))
    for seed in range(8):
        index = pd.DataFrame(dict(object=["a", "object_7", *FEW], label=[1, -1, *RARE]))
        found = divide_index(index, Config(split_seed=seed), about).index
        assert found["split"][:2].tolist() == ["test", "test"]
