"""Weights are compared over ranks by every bit and its place."""

import pytest
import torch

import train
from utils import distributed
from utils.distributed import fingerprint, refuse_different
from utils.mistake import Mistake


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.int64, torch.bool])
def test_a_fingerprint_knows_each_bit_and_its_place(dtype):
    weight = torch.randn(3, 5).to(dtype)
    same = weight.clone()
    assert fingerprint(weight) == fingerprint(same)
    assert fingerprint(weight.t()) == fingerprint(weight.t().contiguous())
    swapped = torch.arange(15).view(3, 5).to(dtype)
    other = swapped.clone()
    other[0, 0], other[2, 4] = swapped[2, 4], swapped[0, 0]
    assert fingerprint(swapped) != fingerprint(other)
    assert fingerprint(torch.zeros(0)) == 0


def test_the_last_bit_counts():
    weight = torch.randn(100)
    nudged = weight.clone()
    nudged[57] = torch.nextafter(nudged[57], torch.tensor(9.0))
    assert fingerprint(weight) != fingerprint(nudged)


def test_the_first_that_differs_is_named(monkeypatch):
    weights = [("a", torch.ones(2)), ("b", torch.ones(3)), ("c", torch.ones(4))]
    refuse_different(weights, "epoch 1")  # one rank has nobody to differ from
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(distributed, "gather", lambda mine: [mine, [mine[0], mine[1] + 1, mine[2] + 1]])
    with pytest.raises(
        Mistake, match=r"epoch 1: the ranks have trained different networks \(first difference: b\)"
    ):
        refuse_different(weights, "epoch 1")


def test_an_apple_gpu_is_asked_for_by_name(monkeypatch):
    """Where torch has one; there, half precision and several ranks are refused."""
    with pytest.raises(Mistake, match="--device mps: this torch sees no Apple GPU"):
        distributed.device_for("mps")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert distributed.device_for("mps") == (torch.device("mps"), "")
    options = train.TrainConfig(device="mps")
    assert train.as_on(options).precision == "fp32"
    with pytest.raises(Mistake, match="--precision bf16: expected fp32"):
        train.as_on(train.TrainConfig(device="mps", precision="bf16"))
    assert not torch.amp.GradScaler("mps", enabled=False).is_enabled()
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(Mistake, match="--device mps: 2 ranks"):
        distributed.device_for("mps")
    with pytest.raises(Mistake, match="expected auto, cpu, cuda, cuda:N or mps"):
        distributed.device_for("tpu")
