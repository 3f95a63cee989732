"""ResNet against timm's and torchvision's, whose shapes, counts and numbers it must give."""

import pytest
import torch
from torch import nn

from models.resnet import ResNet, norm
from models.timm_door import import_torchvision


def randomised(network: nn.Module) -> nn.Module:
    """Weights of the last norms are zero at the start, and would hide a mistake there."""
    generator = torch.Generator().manual_seed(1)
    for parameter in network.parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter, 0.5, 0.3, generator=generator)
    return network


def renamed(state: dict) -> dict:
    return {name.replace("fc.", "head."): tensor for name, tensor in state.items()}


def small(**options) -> ResNet:
    return randomised(ResNet("18", **dict(in_chans=2, width=0.125) | options)).eval()


@pytest.mark.parametrize("size", ["18", "34", "50"])
def test_shapes_are_torchvisions(size, timm):
    models = import_torchvision().models
    with torch.device("meta"):
        ours = ResNet(size, 3, 1000, stem="patch")
        theirs = getattr(models, f"resnet{size}")()
        assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
        shapes = {
            name: t.shape
            for name, t in renamed(theirs.state_dict()).items()
            if "running" not in name and "num_batches" not in name
        }
    assert shapes == {name: t.shape for name, t in ours.state_dict().items()}
    stages = {}
    for name, network in (("ours", ours), ("theirs", theirs)):
        for number in range(1, 5):
            getattr(network, f"layer{number}").register_forward_hook(
                lambda _, __, out, at=(name, number): stages.__setitem__(at, out.shape)
            )
        network(torch.empty(2, 3, 101, 75, device="meta"))
    assert all(stages["ours", n] == stages["theirs", n] for n in range(1, 5))
    assert [stages["ours", n][1] for n in range(1, 5)] == list(ours.widths)


@pytest.mark.parametrize(
    "size, drop_path_rate, pixels", [("18", 0.0, 64), ("34", 0.0, 41), ("50", 0.0, 64), ("18", 0.3, 41)]
)
def test_logits_and_gradients_are_timms(timm, size, drop_path_rate, pixels):
    theirs = randomised(
        timm.create_model(
            f"resnet{size}",
            norm_layer=timm.layers.GroupNorm,
            in_chans=5,
            num_classes=3,
            drop_path_rate=drop_path_rate,
        )
    )
    ours = ResNet(size, 5, 3, drop_path_rate, stem="patch")
    ours.load_state_dict(renamed(theirs.state_dict()), strict=True)
    results = []
    for network in (ours.train(), theirs.train()):
        torch.manual_seed(3)  # the same branches are left out
        x = torch.randn(3, 5, pixels, pixels, generator=torch.Generator().manual_seed(2)).requires_grad_()
        logit = network(x)
        logit.square().sum().backward()
        results.append((logit, x.grad, network.layer2[0].conv1.weight.grad))
    for a, b in zip(*results):
        assert (a - b).norm() <= 2e-5 * b.norm()


@pytest.mark.parametrize(
    "stem, pixels, last",
    [("fine", 41, 3), ("patch", 41, 2), ("fine", 32, 2), ("patch", 32, 1), ("fine", 101, 7)],
)
def test_maps(stem, pixels, last):
    assert small(stem=stem).maps(torch.randn(1, 2, pixels, pixels)).shape == (1, 64, last, last)


@pytest.mark.parametrize("side, stem", [(41, "fine"), (95, "fine"), (96, "patch"), (224, "patch")])
def test_auto_stem(side, stem):
    with torch.device("meta"):
        assert ResNet(image_size=side).stem == stem


@pytest.mark.parametrize("in_chans", [1, 5])
@pytest.mark.parametrize("pixels", [(32, 32), (41, 41), (45, 64), (101, 101)])
@pytest.mark.parametrize("size", ["18", "50"])
def test_any_bands_and_pixels(in_chans, pixels, size):
    network = ResNet(size, in_chans, 3, width=0.125).eval()
    x = torch.randn(2, in_chans, *pixels)
    features = network.features(x)
    assert features.shape == (2, network.feature_dim) and network(x).shape == (2, 3)
    assert torch.equal(network.classify(features), network(x))


@pytest.mark.parametrize("channels, groups", [(8, 4), (16, 8), (24, 4), (64, 32), (96, 16), (2048, 32)])
def test_groups(channels, groups):
    layer = norm(channels)
    assert layer.num_groups == groups and channels // groups >= 2


def test_an_output_does_not_depend_on_its_neighbours():
    network, x, order = small(), torch.randn(5, 2, 41, 41), torch.tensor([3, 1, 4, 0, 2])
    together = network(x)
    assert torch.allclose(network(x[order]), together[order], atol=1e-5)
    assert torch.allclose(torch.cat([network(x[i : i + 1]) for i in range(5)]), together, atol=1e-5)


def test_begins_with_blocks_that_add_nothing():
    """The last norm of each block is zero: stages without a downsampling shortcut hand on what came in."""
    network, x = ResNet("34", 2, width=0.125), torch.randn(2, 8, 9, 9).relu()
    assert torch.equal(network.layer1(x), x)


def test_stochastic_depth_rises_to_the_last_block():
    rates = [
        module.rate
        for module in ResNet("18", drop_path_rate=0.7, width=0.125).modules()
        if hasattr(module, "rate")
    ]
    assert rates == pytest.approx([0.1 * i for i in range(1, 8)])


def test_one_seed_one_network_and_every_weight_learns():
    networks = []
    for _ in range(2):
        torch.manual_seed(4)
        networks.append(ResNet("50", 2, width=0.125))
    assert all(
        torch.equal(a, b)
        for a, b in zip(networks[0].state_dict().values(), networks[1].state_dict().values())
    )
    other = ResNet("50", 2, width=0.125)
    other.load_state_dict(networks[0].state_dict())
    x = torch.randn(2, 2, 41, 41)
    assert torch.equal(other.eval()(x), networks[0].eval()(x))
    randomised(other)(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in other.parameters())


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
@pytest.mark.parametrize("size, symmetric", [("18", False), ("50", False), ("18", True)])
def test_per_example_gradients(size, symmetric):
    from opacus import GradSampleModule

    network, x = (
        randomised(ResNet(size, 2, width=0.125, symmetric=symmetric)).double(),
        torch.randn(3, 2, 41, 41, dtype=torch.float64),
    )
    hooks = GradSampleModule(network, loss_reduction="sum", force_functorch=True)
    hooks(x).square().sum().backward()
    together = {name: p.grad_sample for name, p in network.named_parameters()}
    hooks.disable_hooks()
    for i in range(3):
        network.zero_grad()
        network(x[i : i + 1]).square().sum().backward()
        assert all(
            torch.allclose(together[name][i], p.grad, atol=1e-9) for name, p in network.named_parameters()
        )


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(size="101"), "no size '101'.*nearest"),
        (dict(stem="coarse"), "no stem"),
        (dict(width=0), "width 0"),
        (dict(drop_path_rate=1.0), "rate in"),
        (dict(in_chans=0), "in_chans 0"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        ResNet(**options)


@pytest.mark.parametrize("shape", [(2, 3, 41, 41), (2, 2, 31, 41), (2, 41, 41)])
def test_images_that_do_not_fit_are_named(shape):
    with pytest.raises(ValueError, match="at least 32"):
        small()(torch.zeros(shape))
