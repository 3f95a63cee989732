"""data/balance.py: both classes as often, the same for any number of ranks, a pure function of the step."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from data.balance import Balanced
from data.order import lanes_of
from tests.toys import Clouds, Config
from utils.ledger import Ledger
from utils.mistake import Mistake


def balanced(first: np.ndarray) -> Balanced:
    return Balanced(Clouds(Config(examples=len(first)), "train"), first)


def epoch_of(order, epoch: int) -> np.ndarray:
    steps = range(epoch * order.steps_per_epoch, (epoch + 1) * order.steps_per_epoch)
    return np.concatenate([order(step) for step in steps])


@given(st.integers(1, 40), st.integers(1, 90), st.integers(1, 30), st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_each_epoch_has_both_classes_as_often_and_a_run_each_example_of_a_class(few, many, batch_size, seed):
    first = np.random.default_rng(seed).permutation(np.arange(few + many) < few)
    data = balanced(first)
    order = data.epochs(batch_size, seed, 1)
    larger = max(few, many)
    total = np.zeros(few + many, dtype=int)
    for epoch in range(4):
        drawn = epoch_of(order, epoch)
        times = np.bincount(drawn, minlength=few + many)
        assert times[first].sum() == times[~first].sum() == larger
        np.testing.assert_array_equal(times, data.times(epoch))
        account = Ledger()
        account.note(drawn)
        assert "as often as it was due" in account.checked(few + many, epoch + 1, data.times(epoch))
        total += times
    for kind in (first, ~first):
        assert np.ptp(total[kind]) <= 1


def test_epochs_seeds_and_steps():
    data = balanced(np.arange(50) < 7)
    order, other = data.epochs(8, 1, 1), data.epochs(8, 2, 1)
    again = data.epochs(8, 1, 1)
    for step in (40, 3, 0, 25):  # whatever was asked before
        np.testing.assert_array_equal(order(step), again(step))
    assert not np.array_equal(epoch_of(order, 0), epoch_of(order, 1))
    assert not np.array_equal(epoch_of(order, 0), epoch_of(other, 0))
    assert list(lanes_of(1)) == [0] and len(order(0)[0::2]) + len(order(0)[1::2]) == len(order(0))


def test_an_example_too_many_or_too_few_ends_the_run():
    data = balanced(np.arange(50) < 7)
    drawn = epoch_of(data.epochs(8, 1, 1), 0)
    account = Ledger()
    account.note(np.append(drawn[:-1], drawn[0]))
    with pytest.raises(RuntimeError, match="has not seen each of the 50 training examples as often"):
        account.checked(50, 1, data.times(0))


def test_one_class_cannot_be_balanced():
    with pytest.raises(Mistake, match="--balance: the training split holds 5 examples of one class"):
        balanced(np.ones(5, dtype=bool))
