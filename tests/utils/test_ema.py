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


class Tied(nn.Module):
    """Two names for one weight, as of an embedding and the layer that undoes it."""

    def __init__(self):
        super().__init__()
        self.embed, self.undo = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
        self.undo.weight = self.embed.weight


def test_a_tied_weight_is_averaged_once_and_stays_tied():
    """A move of 1 seen with weight 0.1 is one of 0.1; twice it would be 0.19."""
    model = Tied()
    with torch.no_grad():
        model.embed.weight.zero_()
    ema = Ema(model, 0.9)
    with torch.no_grad():
        model.embed.weight.fill_(1.0)
    ema.update(10**6)
    torch.testing.assert_close(ema.model.embed.weight, torch.full((3, 3), 0.1))
    assert ema.model.undo.weight is ema.model.embed.weight


def test_a_module_that_is_used_twice_is_averaged_once():
    shared = nn.BatchNorm1d(2)
    model = nn.Sequential(shared, nn.Linear(2, 2), shared)
    ema = Ema(model, 0.9)
    model(torch.randn(4, 2))
    before, now = ema.model[0].running_mean.clone(), model[0].running_mean
    ema.update(10**6)
    torch.testing.assert_close(ema.model[0].running_mean, before.lerp(now, 0.1))


def test_what_is_frozen_is_shared_and_not_copied():
    """A latent autoencoder beside a network that is trained: its gigabytes are there once."""
    frozen = network().requires_grad_(False)
    model = nn.ModuleDict(dict(autoencoder=frozen, denoiser=network()))
    model["denoiser"][0].bias.requires_grad_(False)
    ema = Ema(model, 0.9)
    for ours, theirs in zip(ema.model["autoencoder"].parameters(), frozen.parameters(), strict=True):
        assert ours is theirs
    assert ema.model["autoencoder"][1].running_mean is frozen[1].running_mean
    assert ema.model["denoiser"][0].bias is model["denoiser"][0].bias
    assert ema.model["denoiser"][0].weight is not model["denoiser"][0].weight
    assert frozen.training and not ema.model.training
    kept = frozen[0].weight.clone()
    ema.update(10**6)
    assert torch.equal(frozen[0].weight, kept)


def test_a_loss_with_weights_is_averaged_beside_the_network():
    loss = nn.Linear(2, 1)
    ema = Ema(network(), 0.9, loss)
    with torch.no_grad():
        before = loss.weight.clone()
        loss.weight.add_(1.0)
    ema.update(10**6)
    torch.testing.assert_close(ema.loss.weight, before + 0.1)
