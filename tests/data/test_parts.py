"""Predictions in parts: sized by bytes, resumed, read one after another."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from contract import Examples
from data import parts
from data.parts import Parts, predict_parts
from tests.conftest import ROOT
from utils.mistake import Mistake

CPU = torch.device("cpu")


class Numbers(Examples):
    def __init__(self, count: int):
        self.count = count

    def __len__(self):
        return self.count

    def __getitems__(self, indices):
        index = torch.as_tensor(np.asarray(indices))
        return dict(x=index.float(), index=index)


def fields(batch):
    """A large answer: a field of 1,000 numbers an example."""
    return dict(field=batch["x"][:, None] + torch.arange(1000.0), x=batch["x"])


def predicted(folder, count=100, **options) -> Parts:
    folder.mkdir(exist_ok=True)
    return predict_parts(Numbers(count), fields, 7, 0, CPU, folder, count, **options)


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(parts, "PART_BYTES", 4 * 1001 * 12)  # twelve examples


def test_a_part_holds_so_many_bytes(small, tmp_path):
    found = predicted(tmp_path / "p")
    assert found.size == 12 and len(list((tmp_path / "p").glob("*.npz"))) == 9
    assert predict_parts(Numbers(20), lambda b: dict(x=b["x"]), 7, 0, CPU, tmp_path, 20).size == parts.PART


def test_they_are_read_in_order_and_by_number(small, tmp_path):
    found = predicted(tmp_path / "p")
    assert [len(part["x"]) for part in found] == [12] * 8 + [4] and len(found) == 100
    np.testing.assert_array_equal(np.concatenate([part["x"] for part in found]), np.arange(100))
    wanted = np.array([99, 0, 13, 13, 57, 12, 11])
    taken = found.take(wanted)
    np.testing.assert_array_equal(taken["x"], wanted)
    np.testing.assert_array_equal(taken["field"][:, 1], wanted + 1.0)
    assert found.take(wanted, "x").keys() == {"x"} and found.take(np.zeros(0, int))["field"].shape == (
        0,
        1000,
    )
    np.testing.assert_array_equal(found.columns()["x"], np.arange(100))


def test_ranks_share_the_parts_and_what_is_there_is_not_asked_again(small, tmp_path):
    for rank in (0, 1):
        predicted(tmp_path / "p", rank=rank, ranks=2)
    whole = predicted(tmp_path / "q")
    np.testing.assert_array_equal(Parts(tmp_path / "p", 100, 12).columns()["field"], whole.columns()["field"])
    asked = []

    def ask(batch):
        asked.extend(batch["index"].tolist())
        return fields(batch)

    (tmp_path / "p" / "000000000024.npz").unlink()
    predict_parts(Numbers(100), ask, 7, 0, CPU, tmp_path / "p", 100)
    assert asked == [*range(24, 36)]  # the part that was gone


def test_nothing_is_predicted_of_nothing(tmp_path):
    assert predict_parts(Numbers(0), fields, 7, 0, CPU, tmp_path, 0).columns() == {}


@pytest.mark.parametrize(
    "harm, message",
    [
        (lambda path: path.unlink(), "parts are gone from .*: run the same command again"),
        (lambda path: path.write_bytes(path.read_bytes()[:-9]), "is damaged .*: remove it and run the same"),
        (lambda path: np.savez(path, x=np.zeros(3)), "is of another prediction: remove it"),
    ],
)
def test_a_part_that_the_disk_does_not_give_back_is_named(harm, message, small, tmp_path):
    found = predicted(tmp_path / "p")
    harm(tmp_path / "p" / "000000000012.npz")
    with pytest.raises(Mistake, match=message):
        list(found)


STREAM = """
import resource, sys
sys.path.insert(0, {root!r})
from pathlib import Path
import torch
from tests.data.test_parts import Numbers, fields
from data import parts
from data.parts import predict_parts

folder = Path({folder!r})
parts.PART_BYTES = 2**21
predict_parts(Numbers(500), fields, 50, 0, torch.device("cpu"), folder, 500)     # what the libraries need
warm = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in folder.glob("*.npz"):
    path.unlink()
count = 40_000
found = predict_parts(Numbers(count), fields, 50, 0, torch.device("cpu"), folder, count)
total = sum(part["field"].sum() for part in found)
used = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - warm) / 1024
print(used, sum(path.stat().st_size for path in folder.glob("*.npz")) / 2**20, float(total))
"""


def test_an_answer_of_ten_times_the_memory_streams(tmp_path):
    """160 MB are predicted, written and read; the process grows by less than a tenth of that."""
    script = STREAM.format(root=str(ROOT), folder=str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    used, written, total = map(float, done.stdout.split())
    assert written > 150 and used < written / 10
    assert total == pytest.approx(1000 * sum(range(40_000)) + 40_000 * sum(range(1000)), rel=1e-5)
