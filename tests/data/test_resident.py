"""--resident: the same batches from the device as from the store, and the same run."""

import numpy as np
import pytest
import torch

import train
from data.resident import Resident, resident
from tests import toys
from utils import checkpoint
from utils.mistake import Mistake

CPU = torch.device("cpu")


class Uniform(toys.Clouds):
    uniform = True


def clouds(kind=Uniform, examples=10_000):
    return kind(toys.Config(examples=examples), "train")


def test_batches_are_those_of_the_data():
    """More examples than are read at once."""
    data = clouds()
    held, indices = Resident(data, CPU), np.random.default_rng(0).integers(0, len(data), 300)
    ours, theirs = held.__getitems__(indices), data.__getitems__(indices)
    assert ours.keys() == theirs.keys() and len(held) == len(data) and held.names([3]) == data.names([3])
    for name, tensor in theirs.items():
        assert torch.equal(ours[name], tensor) and ours[name].dtype == tensor.dtype


def test_who_is_held():
    assert resident(clouds(), "auto", CPU).__class__ is Uniform  # the memory of a CPU is the page cache's
    assert resident(clouds(), "no", CPU).__class__ is Uniform
    assert resident(clouds(), "yes", CPU).__class__ is Resident
    with pytest.raises(Mistake, match="examples of this task are of many shapes"):
        resident(clouds(toys.Clouds), "yes", CPU)
    assert resident(clouds(toys.Clouds), "auto", CPU).__class__ is toys.Clouds


@pytest.mark.parametrize("free,held", [(10 * 10_000 * 20, True), (1.5 * 10_000 * 20, False)])
def test_auto_asks_the_gpu_for_room(free, held, monkeypatch):
    """An example is x [2] and y in float32 and an int64: 20 bytes."""
    asked = []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(free), 0))
    monkeypatch.setattr("data.resident.Resident", lambda data, device: asked.append(device) or "held")
    found = resident(clouds(), "auto", torch.device("cuda", 0))
    assert (found == "held") is held and bool(asked) is held


def test_a_run_has_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.setitem(train.TASKS, "toy", toys)
    monkeypatch.setattr(toys.Clouds, "uniform", True, raising=False)
    for wish in ("yes", "no"):
        train.main(
            [
                "--task",
                "toy",
                "--epochs",
                "2",
                "--device",
                "cpu",
                "--resident",
                wish,
                "--save_dir",
                str(tmp_path / wish),
            ]
        )
    ours, theirs = (checkpoint.load(tmp_path / wish / "last.pt")["state"] for wish in ("yes", "no"))
    assert checkpoint.digest(ours) == checkpoint.digest(theirs)
