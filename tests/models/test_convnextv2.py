"""ConvNeXt V2 against timm's, whose weights it must read and whose numbers it must give."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models import convnextv2
from models.convnextv2 import SIZES, ConvNeXtV2, Depthwise, GlobalResponseNorm


def randomised(network: nn.Module) -> nn.Module:
    """Weights of the response norm are zero at the start, and would hide a mistake there."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in network.named_parameters():
        if "grn" in name:
            nn.init.normal_(parameter, std=0.3, generator=generator)
    return network


def pair(timm, size: str, in_chans: int, drop_path_rate: float = 0.0, num_classes: int = 1):
    theirs = randomised(
        timm.create_model(
            f"convnextv2_{size}", in_chans=in_chans, num_classes=num_classes, drop_path_rate=drop_path_rate
        )
    )
    ours = ConvNeXtV2(size, in_chans, num_classes, drop_path_rate)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return ours, theirs


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).norm() / b.norm().clamp_min(1e-20)).item()


@pytest.mark.parametrize("size, count", [("atto", 3_386_441), ("nano", 14_980_881), ("tiny", 27_864_193)])
def test_parameter_counts(size, count):
    with torch.device("meta"):
        assert sum(p.numel() for p in ConvNeXtV2(size).parameters()) == count


@pytest.mark.parametrize("size", SIZES)
def test_names_and_shapes_are_timms(timm, size):
    with torch.device("meta"):
        ours = ConvNeXtV2(size, 5, 7).state_dict()
        theirs = timm.create_model(f"convnextv2_{size}", in_chans=5, num_classes=7).state_dict()
    assert [(name, t.shape) for name, t in ours.items()] == [(name, t.shape) for name, t in theirs.items()]


@pytest.mark.parametrize(
    "size, pixels, channels, drop_path_rate",
    [
        ("atto", 41, 1, 0.0),
        ("atto", 41, 5, 0.0),
        ("atto", 64, 1, 0.0),
        ("atto", 64, 5, 0.4),
        ("atto", 41, 1, 0.4),
        ("atto", 135, 1, 0.0),
        ("nano", 41, 1, 0.0),
        ("tiny", 41, 5, 0.0),
        ("tiny", 64, 1, 0.1),
    ],
)
def test_logits_and_gradients_are_timms(timm, size, pixels, channels, drop_path_rate):
    ours, theirs = pair(timm, size, channels, drop_path_rate)
    results = []
    for network in (ours.train(), theirs.train()):
        torch.manual_seed(3)  # the same branches are left out
        x = torch.randn(
            6, channels, pixels, pixels, generator=torch.Generator().manual_seed(2)
        ).requires_grad_()
        logit = network(x)
        logit.square().sum().backward()
        results.append((logit, x.grad, {name: p.grad for name, p in network.named_parameters()}))
    (logit, x_grad, grads), (their_logit, their_x_grad, their_grads) = results
    assert (logit - their_logit).abs().max() <= 1e-5 * their_logit.abs().max().clamp_min(1)
    assert relative(x_grad, their_x_grad) < 2e-5
    assert max(relative(grads[name], their_grads[name]) for name in their_grads) < 2e-5
    whole = [torch.cat([g[name].flatten() for name in their_grads]) for g in (grads, their_grads)]
    assert relative(*whole) < 1e-5


@pytest.mark.parametrize(
    "size, pixels, trained",
    [("atto", 41, True), ("tiny", 64, True), ("atto", 100, True), ("atto", 41, False)],
)
def test_the_fast_road_is_the_plain_one(monkeypatch, size, pixels, trained):
    network = randomised(ConvNeXtV2(size))
    network.stages.requires_grad_(trained)  # also where most weights are frozen
    x, results = torch.randn(5, 1, pixels, pixels, requires_grad=True), []
    weights = [p for p in network.parameters() if p.requires_grad]
    for _ in range(2):
        logit = network(x)
        slopes = torch.autograd.grad(logit.square().sum(), [x, *weights])
        with torch.no_grad():
            assert torch.allclose(network(x), logit, rtol=1e-5, atol=1e-6)
        results.append([logit, *slopes])
        monkeypatch.setattr("models.convnextv2.by_hand", lambda *_: False)
    assert max(relative(a, b) for a, b in zip(*results)) < 2e-5


@pytest.mark.parametrize(
    "name, shapes",
    [
        ("Product", [(6, 3, 3, 4), (5, 4), (5,)]),
        ("Product", [(6, 3, 3, 4), (2, 4), (2,)]),
        ("Convolve", [(3, 4, 2, 5), (5, 1, 7, 7), (5,)]),
        ("Activate", [(3, 2, 4, 5), (5,), (5,)]),
    ],
)
def test_fast_derivatives_first_and_second(monkeypatch, name, shapes):
    """In float32, as oneDNN has no other, against autograd through the formula in float64."""
    monkeypatch.setattr("models.convnextv2.CACHE", 80)  # more than one piece
    fast = getattr(convnextv2, name).apply
    plain = dict(Product=F.linear, Convolve=convnextv2.convolve, Activate=convnextv2.activate)[name]
    inputs, more, results = [torch.randn(shape) for shape in shapes], (1e-6,) * (name == "Activate"), []
    cotangents = []
    for formula, dtype in ((fast, torch.float32), (plain, torch.float64)):
        leaves = [t.to(dtype).requires_grad_() for t in inputs]
        y = formula(*leaves, *more)
        cotangents = cotangents or [torch.randn(y.shape), *map(torch.randn_like, inputs)]
        first = torch.autograd.grad(y, leaves, cotangents[0].to(dtype), retain_graph=True)
        again = torch.autograd.grad(y, leaves, cotangents[0].to(dtype), create_graph=True)
        second = torch.autograd.grad(
            sum((a * c.to(dtype)).sum() for a, c in zip(again, cotangents[1:])), leaves, allow_unused=True
        )
        results.append([y, *first, *again, *(t for t in second if t is not None)])
    assert len(results[0]) == len(results[1])
    assert all(torch.allclose(a.double(), b, rtol=1e-4, atol=1e-4) for a, b in zip(*results))


def test_features_are_timms(timm):
    ours, theirs = pair(timm, "atto", 2, num_classes=3)
    x = torch.randn(4, 2, 50, 70)
    features = ours.eval().features(x)
    assert features.shape == (4, ours.feature_dim) and ours(x).shape == (4, 3)
    assert torch.allclose(
        features, theirs.eval().forward_head(theirs.forward_features(x), pre_logits=True), atol=1e-5
    )


def test_initial_values_are_drawn_as_timms(timm):
    ours, theirs = (
        network.state_dict()
        for network in (ConvNeXtV2("atto"), timm.create_model("convnextv2_atto", in_chans=1, num_classes=1))
    )
    for name, a in ours.items():
        b = theirs[name]
        if b.unique().numel() == 1:
            assert torch.equal(a, b), name  # constants: zeros, ones
        else:
            n = a.numel()  # five standard errors of mean and deviation
            assert abs(a.mean()) < 5 * 0.02 / n**0.5 and abs(a.std() - 0.02) < 5 * 0.02 / (2 * n) ** 0.5, name
            assert abs(b.std() - 0.02) < 5 * 0.02 / (2 * n) ** 0.5, name


def test_drop_path_rates_are_timms(timm):
    ours, theirs = pair(timm, "nano", 1, 0.3)
    rates = [
        [getattr(block.drop_path, name, 0.0) for stage in network.stages for block in stage.blocks]
        for network, name in ((ours, "rate"), (theirs, "drop_prob"))
    ]
    assert rates[0] == rates[1] and rates[0][0] == 0 and rates[0][-1] == pytest.approx(0.3)


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (2, 1), (2, 2), (1, 4), (4, 1), (3, 1), (5, 5), (3, 2)])
def test_depthwise_is_a_convolution(shape):
    layer = Depthwise(6)
    x = torch.randn(3, *shape, 6, requires_grad=True)
    y = layer(x)
    expected = F.conv2d(x.permute(0, 3, 1, 2), layer.weight, layer.bias, padding=3, groups=6).permute(
        0, 2, 3, 1
    )
    assert torch.allclose(y, expected, atol=1e-6)
    cotangent = torch.randn_like(y)
    inputs = (x, layer.weight, layer.bias)
    for a, b in zip(
        torch.autograd.grad(y, inputs, cotangent), torch.autograd.grad(expected, inputs, cotangent)
    ):
        assert torch.allclose(a, b, atol=1e-5)


def test_response_norm_gradient():
    layer = randomised(nn.ModuleDict({"grn": GlobalResponseNorm(5)}))["grn"].double()
    x = torch.randn(2, 2, 3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, x) and torch.autograd.gradgradcheck(layer, x)


def test_response_norm_of_a_dead_channel():
    layer = randomised(nn.ModuleDict({"grn": GlobalResponseNorm(5)}))["grn"]
    x = torch.randn(2, 1, 1, 5)
    x[:, ..., 2] = 0  # GELU below -6 is exactly zero, on 1x1 maps all there is
    x.requires_grad_()
    layer(x).square().sum().backward()
    assert x.grad.isfinite().all() and layer.weight.grad.isfinite().all()


@pytest.mark.parametrize("mode", ["functorch", "hooks"])
@pytest.mark.parametrize("pixels", [41, 64])
def test_per_example_gradients_are_those_of_single_examples(mode, pixels):
    opacus = pytest.importorskip("opacus")
    network = randomised(ConvNeXtV2("atto"))
    x, label = torch.randn(3, 1, pixels, pixels), torch.tensor([1.0, 0.0, 1.0])

    def loss(net, x, label):
        return F.binary_cross_entropy_with_logits(net(x).squeeze(1), label, reduction="sum")

    singles = [
        torch.autograd.grad(loss(network, x[i : i + 1], label[i : i + 1]), list(network.parameters()))
        for i in range(3)
    ]
    wrapped = opacus.GradSampleModule(
        copy.deepcopy(network), force_functorch=mode == "functorch", loss_reduction="sum"
    )
    loss(wrapped, x, label).backward()
    for number, parameter in enumerate(wrapped.parameters()):
        for i in range(3):
            assert relative(parameter.grad_sample[i], singles[i][number]) < 1e-5


def test_torch_func():
    network = randomised(ConvNeXtV2("atto"))
    parameters, x = {name: p.detach() for name, p in network.named_parameters()}, torch.randn(3, 1, 41, 41)

    def logit(parameters, image):
        return torch.func.functional_call(network, parameters, (image[None],)).squeeze()

    each = torch.func.vmap(torch.func.grad(logit), (None, 0))(parameters, x)
    assert torch.allclose(torch.func.vmap(logit, (None, 0))(parameters, x), network(x).squeeze(1), atol=1e-5)
    for i in range(3):
        single = torch.autograd.grad(network(x[i : i + 1]).squeeze(), list(network.parameters()))
        assert max(relative(each[name][i], g) for name, g in zip(parameters, single)) < 1e-5


def test_one_graph_for_the_compiler():
    network = randomised(ConvNeXtV2("atto", drop_path_rate=0.2)).eval()
    x = torch.randn(2, 1, 41, 41)
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    assert torch.allclose(compiled(x), network(x), atol=1e-6)


def test_half_precision():
    network = randomised(ConvNeXtV2("atto"))
    x = torch.randn(4, 1, 41, 41)
    exact = network(x)
    with torch.autocast("cpu", torch.bfloat16):
        half = network(x)
        half.float().sum().backward()
    assert (half - exact).abs().max() < 0.05 * exact.abs().max().clamp_min(1)
    assert all(p.grad.isfinite().all() and p.grad.dtype == torch.float32 for p in network.parameters())
    layer = randomised(nn.ModuleDict({"grn": GlobalResponseNorm(3)}))["grn"]
    large = torch.full((1, 2, 2, 3), 3e3)  # its square is beyond float16
    assert torch.allclose(layer(large.half()).float(), layer(large), rtol=2e-3)


def test_every_parameter_gets_a_gradient():
    network = randomised(ConvNeXtV2("atto", drop_path_rate=0.9)).train()
    # also where all branches are left out: DDP waits for each
    network(torch.randn(2, 1, 41, 41)).sum().backward()
    assert all(p.grad is not None for p in network.parameters())


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="'nan'.*nearest: nano"):
        ConvNeXtV2("nan")
    with pytest.raises(ValueError, match="drop_path_rate 1.5"):
        ConvNeXtV2("atto", drop_path_rate=1.5)
    network = ConvNeXtV2("atto", 2)
    for shape in ([1, 2, 31, 41], [1, 1, 41, 41], [2, 41, 41]):
        with pytest.raises(ValueError, match=r"expected \[B, 2, H, W\]"):
            network(torch.zeros(shape))
