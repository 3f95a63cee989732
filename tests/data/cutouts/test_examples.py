"""data/cutouts/examples.py: examples of one band and of many, against a loop over single files."""

import zlib

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import DataLoader

from data.cutouts import examples as cutouts
from data.cutouts.store import Store

FILES = [  # object, band, domain, label, reason
    ("a", "g", "slsim", 1, ""),
    ("a", "r", "slsim", 1, ""),
    ("a", "i", "slsim", 1, ""),
    ("b", "r", "hsc", 0, ""),
    ("b", "g", "hsc", 0, "truncated"),
    ("b", "i", "hsc", 0, ""),
    ("c", "g", "hsc", 1, "empty file"),
    ("c", "r", "hsc", 1, "empty file"),
    ("d", "", "slsim", 0, ""),
    ("e", "y", "slsim", 0, ""),
    ("a", "g", "slsim", 1, ""),  # a duplicate, in another folder
    ("a", "g", "hsc", 1, ""),  # the same id in another bucket is another object
    ("object_1", "i", "unknown", -1, ""),
    ("object_1", "g", "unknown", -1, ""),
]


class Packed(Store):
    """A store in memory."""

    pixels = None


@pytest.fixture
def packed(monkeypatch):
    index = pd.DataFrame(FILES, columns=["object", "band", "domain", "label", "reason"])
    index.insert(0, "path", [f"/d/{number}.fits" for number in range(len(index))])
    pixels = np.random.default_rng(0).normal(size=(len(index), 5, 6)).astype("f4")
    pixels[index["reason"] != ""] = 0
    pixels.flags.writeable = False
    monkeypatch.setattr(Packed, "pixels", pixels)
    manifest = dict(
        block=4,
        crc32=[
            zlib.crc32(np.ascontiguousarray(pixels[first : first + 4])) for first in range(0, len(pixels), 4)
        ],
    )
    return Packed(None, manifest, index)


ALL = np.ones(len(FILES), dtype=bool)


def by_hand(examples, numbers):
    """The batch as a loop over single files would make it."""
    index, pixels = examples.store.index, examples.store.pixels
    batch = {"image": [], "present": [], "label": [], "domain": [], "index": []}
    for number in numbers:
        rows = [int(row) for row in examples.rows[number]]
        batch["image"].append(np.stack([pixels[row] if row >= 0 else np.zeros((5, 6)) for row in rows]))
        batch["present"].append([row >= 0 for row in rows])
        one = index.iloc[max(rows)]
        batch["label"].append(one["label"])
        batch["domain"].append({"slsim": 0, "hsc": 1, "unknown": -1}[one["domain"]])
        batch["index"].append(number)
    types = {
        "image": torch.float32,
        "present": torch.bool,
        "label": torch.float32,
        "domain": torch.int64,
        "index": torch.int64,
    }
    return {name: torch.tensor(np.array(values)).to(types[name]) for name, values in batch.items()}


@pytest.mark.parametrize("mode", cutouts.BAND_MODES)
def test_a_batch_is_what_a_loop_over_files_gives(packed, mode):
    examples = cutouts.make_examples(packed, ALL, ["g", "r", "i"], mode)
    numbers = [2, 0, 3, 3, 1]
    batch, expected = examples.__getitems__(numbers), by_hand(examples, numbers)
    assert batch.keys() == expected.keys()
    for name in batch:
        torch.testing.assert_close(batch[name], expected[name], rtol=0, atol=0)
    batch["image"] += 1  # a copy: the store is untouched, and may be mapped read-only
    assert not np.shares_memory(batch["image"].numpy(), packed.pixels)
    for name, value in examples[3].items():
        torch.testing.assert_close(value, examples.__getitems__([3])[name])
    with pytest.raises(IndexError):
        examples[len(examples)]


def test_single_mode_makes_an_example_of_each_good_file(packed):
    examples = cutouts.make_examples(packed, ALL, ["g", "r", "i"], "single")
    assert examples.rows[:, 0].tolist() == [
        0,
        1,
        2,
        3,
        5,
        8,
        10,
        11,
        12,
        13,
    ]  # 8 names no band, so it is of no other band either
    assert examples.label.tolist() == [1, 1, 1, 0, 0, 0, 1, 1, -1, -1] and examples.domain.tolist() == [
        0,
        0,
        0,
        1,
        1,
        0,
        0,
        1,
        -1,
        -1,
    ]
    assert examples.example_of_row.tolist() == [0, 1, 2, 3, -1, 4, -1, -1, 5, -1, 6, 7, 8, 9]
    assert list(examples.object) == ["a", "a", "a", "b", "b", "d", "a", "a", "object_1", "object_1"]
    assert examples.names([0, 4, 5]) == ["a_g", "b_i", "d"]
    assert examples.left_out.to_dict("list") == {"row": [9], "reason": ["band y is not among g r i"]}
    assert examples.report == (
        "10 examples of 1 channel from 10 of 14 files",
        "files in no example: 1 (band y is not among g r i)",
    )


def test_stack_mode_makes_an_example_of_each_object(packed):
    examples = cutouts.make_examples(packed, ALL, ["r", "g", "i"], "stack")  # channels in the order asked for
    assert examples.rows.tolist() == [[1, 0, 2], [3, -1, 5], [-1, 11, -1], [-1, 13, 12]]
    assert examples.label.tolist() == [1, 0, 1, -1] and examples.domain.tolist() == [0, 1, 1, -1]
    assert list(examples.object) == ["a", "b", "a", "object_1"] == examples.names([0, 1, 2, 3])
    assert examples.example_of_row.tolist() == [0, 0, 0, 1, -1, 1, -1, -1, -1, -1, 0, 2, 3, 3]
    assert examples.files(0).tolist() == [0, 1, 2, 10] and examples.files(1).tolist() == [3, 5]
    assert examples.left_out.to_dict("list") == {
        "row": [8, 9],
        "reason": ["no band in the file name", "band y is not among r g i"],
    }
    assert examples.report == (
        "4 examples of 3 channels from 9 of 14 files",
        "files in no example: 2 (no band in the file name; band y is not among r g i)",
        "bands missing and masked: r 2, g 1, i 1 (of 4 objects, 3 are incomplete)",
        "files of a band that their object has already: 1 (the first is used)",
        "objects left out, without a good file of the bands r g i: 3",
    )


@pytest.mark.parametrize("mode", cutouts.BAND_MODES)
def test_only_the_rows_of_a_split_are_used(packed, mode):
    rows = np.array([3, 5, 1])
    examples = cutouts.make_examples(packed, rows, ["g", "r", "i"], mode)
    as_mask = cutouts.make_examples(packed, np.isin(np.arange(len(FILES)), rows), ["g", "r", "i"], mode)
    assert set(examples.rows[examples.rows >= 0]) == set(as_mask.rows[as_mask.rows >= 0]) == {1, 3, 5}
    assert np.flatnonzero(examples.example_of_row >= 0).tolist() == [1, 3, 5]
    assert examples.rows[0].max() == 5 or mode == "single"


@pytest.mark.parametrize("mode", cutouts.BAND_MODES)
def test_predictions_go_back_to_their_files_at_once(packed, mode):
    examples = cutouts.make_examples(packed, ALL, ["g", "r", "i"], mode)
    prob = np.arange(len(examples)) / 10
    of_file = np.where(examples.example_of_row >= 0, prob[examples.example_of_row], np.nan)
    for row in range(len(FILES)):
        mine = [number for number in range(len(examples)) if row in examples.files(number)]
        assert len(mine) <= 1
        np.testing.assert_equal(of_file[row], prob[mine[0]] if mine else np.nan)


@pytest.mark.parametrize("mode", cutouts.BAND_MODES)
def test_no_example_is_no_trouble(packed, mode):
    examples = cutouts.make_examples(packed, np.array([], dtype=np.int64), ["g", "r"], mode)
    batch = examples.__getitems__([])
    assert len(examples) == 0 and examples.object.shape == (0,) and batch["label"].shape == (0,)
    assert batch["image"].shape == (0, 2 if mode == "stack" else 1, 5, 6)


def test_a_loader_reads_a_batch_at_a_time(packed):
    examples = cutouts.make_examples(packed, ALL, ["g", "r", "i"], "stack")
    batches = list(DataLoader(examples, batch_size=3, collate_fn=lambda batch: batch))
    assert [batch["index"].tolist() for batch in batches] == [[0, 1, 2], [3]]


def test_an_unknown_band_mode_is_refused(packed):
    with pytest.raises(ValueError, match="band_mode 'both': expected one of"):
        cutouts.make_examples(packed, ALL, ["g"], "both")
