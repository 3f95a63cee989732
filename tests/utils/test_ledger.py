"""The three numbers of an epoch, and that a run tells when it has not seen each example once."""

import functools
import operator

import numpy as np
import pytest

import train
from tests import toys
from utils.ledger import Ledger, joined_ledger


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 1000, 2**31 + 5])
def test_a_whole_data_set_is_known_by_its_size(size):
    """Against sums and exclusive ors over all ids; a large set without them, from its three parts."""
    ids = np.arange(min(size, 1000))
    ledger = Ledger(*(int(f(ids)) for f in (len, np.sum, np.bitwise_xor.reduce)))
    if size > 1000:
        ledger = Ledger(size, size * (size - 1) // 2, {0: size - 1, 1: 1, 2: size, 3: 0}[(size - 1) % 4])
    assert f"{size} ids" in ledger.checked(size, 1)
    with pytest.raises(RuntimeError, match="has not seen each of"):
        ledger.checked(size + 1, 1)


@pytest.mark.parametrize(
    "wrong",
    [lambda ids: ids[1:], lambda ids: np.append(ids, 7), lambda ids: np.where(ids == 3, 4, ids)],
    ids=["lost", "doubled", "another"],
)
def test_what_is_lost_or_doubled_is_told(wrong):
    ledgers = []
    for part in np.array_split(np.random.default_rng(0).permutation(wrong(np.arange(100))), 3):
        ledgers.append(Ledger())
        ledgers[-1].note(part)
    with pytest.raises(RuntimeError, match="epoch 2 has not seen each of the 100"):
        joined_ledger(ledger.numbers for ledger in ledgers).checked(100, 2)


def test_hashes_of_64_bits_add_as_unsigned_integers_do():
    hashes = np.random.default_rng(0).integers(0, 2**64, 1000, dtype=np.uint64)
    whole, parts = Ledger(), Ledger()
    whole.note(hashes)
    for part in np.array_split(hashes[::-1], [0, 1, 700]):  # the first one is empty
        parts.note(part)
    values = hashes.tolist()
    assert whole == parts and whole.count == 1000
    assert whole.sum == sum(values) % 2**64 and whole.xor == functools.reduce(operator.xor, values)
    assert joined_ledger([whole.numbers, whole.numbers]).numbers == (2000, 2 * whole.sum % 2**64, 0)


def test_each_epoch_of_a_run_is_logged(tmp_path, monkeypatch):
    monkeypatch.setitem(train.TASKS, "toy", toys)
    argv = ["--task", "toy", "--epochs", "2", "--device", "cpu", "--save_dir", str(tmp_path)]
    train.main(argv)
    told = (tmp_path / "train.log").read_text()
    assert all(
        f"epoch {epoch} saw each example once: 200 ids, their sum 19900, their xor 0" in told
        for epoch in (1, 2)
    )


def test_a_data_set_that_hands_out_others_than_asked_ends_the_run(tmp_path, monkeypatch):
    class Wrong(toys.Clouds):
        def __getitems__(self, indices):
            return super().__getitems__([min(i, 150) for i in indices])

    monkeypatch.setitem(train.TASKS, "toy", toys)
    monkeypatch.setattr(toys, "Clouds", Wrong)
    with pytest.raises(RuntimeError, match="does the data set's `index` say which examples were asked for"):
        train.main(["--task", "toy", "--epochs", "1", "--device", "cpu", "--save_dir", str(tmp_path)])
