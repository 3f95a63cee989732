"""The moving average against torch's own, and its warm-up."""

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from utils.ema import Ema


def network():
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))


def test_it_is_torchs_average_once_the_warm_up_is_over():
    model = network()
    ours, theirs = (
        Ema(model, 0.9),
        AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True),
    )
    theirs.update_parameters(model)  # torch's first call copies
    for step in range(20):
        model(torch.randn(8, 3))  # moves the buffers of BatchNorm
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn_like(p))
        ours.update(1000 + step)
        theirs.update_parameters(model)
    for name, tensor in ours.model.state_dict().items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor, theirs.module.state_dict()[name], rtol=1e-5, atol=1e-6)
        else:
            assert torch.equal(tensor, model.state_dict()[name])


def test_the_decay_warms_up():
    ema = Ema(network(), 0.999)
    assert [round(ema.decay_at(t), 4) for t in (0, 10, 100, 10**6)] == [0.1, 0.55, 0.9182, 0.999]


def test_without_decay_it_follows_the_weights_to_the_bit():
    model = network()
    ema = Ema(model, 0.0)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn_like(p) * 1e3)
    ema.update(5)
    for ours, theirs in zip(ema.model.parameters(), model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert not ema.model.training and not any(p.requires_grad for p in ema.model.parameters())
