"""The order of examples is a permutation, a function of (seed, step), and takes no memory."""

import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from data import order as orders
from data.order import ShuffledEpochs, batches, each_once, permuted, read_shares
from tests.toys import Clouds, Config
from utils.mistake import Mistake

CPU = torch.device("cpu")


@given(size=st.integers(1, 3000), key=st.integers(0, 2**63 - 1))
@settings(max_examples=60, deadline=None)
def test_every_position_is_met_once(size, key):
    assert np.array_equal(np.sort(permuted(np.arange(size), size, key)), np.arange(size))


def test_the_permutation_looks_random():
    size = 100_000
    first, second = (permuted(np.arange(size), size, key) for key in (1, 2))
    assert (
        abs(np.corrcoef(np.arange(size), first)[0, 1]) < 0.02 and abs(np.corrcoef(first, second)[0, 1]) < 0.02
    )
    steps = np.diff(first)
    assert abs((steps > 0).mean() - 0.5) < 0.01
    # a part of an epoch covers all evenly
    counts, _ = np.histogram(first[:10_000], bins=100, range=(0, size))
    assert ((counts - 100) ** 2 / 100).sum() < 148.2  # chi-squared, 99 degrees, 0.1 %


def test_a_far_step_of_a_billion_examples_is_at_hand():
    order = ShuffledEpochs(10**9, 256, seed=0)
    indices = order(7 * order.steps_per_epoch + 3_000_000)
    assert len(indices) in (255, 256) and indices.max() < 10**9 and len(set(indices)) == len(indices)


@given(size=st.integers(1, 500), batch_size=st.integers(1, 600))
@settings(max_examples=60, deadline=None)
def test_an_epoch_is_each_example_once_in_even_steps(size, batch_size):
    order = ShuffledEpochs(size, batch_size, seed=3)
    for epoch in range(2):
        parts = [order(epoch * order.steps_per_epoch + step) for step in range(order.steps_per_epoch)]
        assert sorted(np.concatenate(parts)) == list(range(size))
        lengths = {len(part) for part in parts}
        assert max(lengths) <= batch_size and max(lengths) - min(lengths) <= 1


def test_epochs_and_seeds_differ():
    order, other = ShuffledEpochs(100, 10, seed=0), ShuffledEpochs(100, 10, seed=1)
    assert not np.array_equal(order(0), order(10)) and not np.array_equal(order(0), other(0))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_begun_at_a_step_is_the_tail_of_the_whole(workers):
    data, order = Clouds(Config(examples=50), "train"), ShuffledEpochs(50, 8, seed=0)
    whole = [batch["index"] for batch, _, _ in batches(data, order, range(0, 14), 0, CPU, 1)]
    tail = [(batch["index"], size) for batch, size, _ in batches(data, order, range(9, 14), workers, CPU, 1)]
    assert len(tail) == 5
    for (index, size), expected in zip(tail, whole[9:], strict=True):
        assert torch.equal(index, expected) and size == len(expected)


def test_in_turn_is_every_example_in_order():
    data = Clouds(Config(examples=50), "val")
    assert torch.cat([batch["index"] for batch in each_once(data, 7, 0, CPU, 1)]).tolist() == list(range(50))


def test_an_empty_split_is_refused():
    with pytest.raises(Mistake, match="the training split is empty"):
        ShuffledEpochs(0, 8, seed=0)


def test_without_room_in_shared_memory_a_line_says_so(monkeypatch):
    """torch's own thread would fail unheard, and the run would wait for ever."""

    def full(_):
        raise RuntimeError("unable to allocate shared memory(shm): No space left on device (28)\nat ...")

    monkeypatch.setattr(torch.Tensor, "share_memory_", full)  # also in the processes, which are forked
    with pytest.raises(Mistake, match="a batch of .* MiB does not fit .* free; unable to"):
        list(read_shares(Clouds(Config(examples=50), "train"), [np.arange(4)], 2, CPU))


class Silent(Clouds):
    """A disk that answers no more."""

    def __getitems__(self, indices):
        time.sleep(8)


def test_silent_workers_are_given_up_and_a_stop_is_heard_while_waiting(monkeypatch):
    monkeypatch.setattr(orders, "LOOK", 1)
    monkeypatch.setattr(orders, "PATIENCE", 2)
    shares = [np.arange(4)]
    assert list(read_shares(Silent(Config(examples=50), "train"), shares, 1, CPU, stops=lambda: 3)) == []
    with pytest.raises(Mistake, match="--num_workers 1: nothing has come from the reading processes for 2 s"):
        list(read_shares(Silent(Config(examples=50), "train"), shares, 1, CPU))
