"""The vision transformer against timm's, its lensing bias against a formula in polar coordinates,
and its symmetries.
"""

import copy
import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models.enhanced_vit import (
    SIZES,
    Block,
    Convolutions,
    EnhancedViT,
    LensingBias,
    Patches,
    Size,
    cached_positions,
)
from models.layers.sky_position import SkyPosition

FIELDS = ("redshift", "ra", "seeing", "dec")


def randomised(network: nn.Module) -> nn.Module:
    """What begins at zero would hide a mistake."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in network.named_parameters():
        if "bias.weight" in name or "metadata" in name:
            nn.init.normal_(parameter, std=0.3, generator=generator)
    return network


def metadata(B: int):
    values = torch.stack(
        [torch.rand(B), 360 * torch.rand(B), 0.5 + torch.rand(B), 180 * torch.rand(B) - 90], 1
    )
    present = torch.rand(B, 4) < 0.6
    return torch.where(present, values, torch.nan), present


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).norm() / b.norm().clamp_min(1e-20)).item()


@pytest.mark.parametrize("channels, side", [(1, (32, 32)), (5, (41, 41)), (1, (45, 64)), (5, (101, 101))])
def test_any_bands_and_any_size(channels, side):
    network = EnhancedViT("small", channels, 3)
    x = torch.randn(2, channels, *side)
    features = network.features(x)
    assert features.shape == (2, network.feature_dim) == (2, 128)
    assert network(x).shape == (2, 3) and torch.equal(network(x), network.classify(features))


def test_base_is_vit_base_but_for_its_tokens(timm):
    with torch.device("meta"):
        ours = EnhancedViT("base", 3, 1000, lensing_bias=False)
        theirs = timm.create_model(
            "vit_base_patch16_224", class_token=False, global_pool="avg", pos_embed="none"
        )
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())
    assert ours.feature_dim == 768


@pytest.mark.parametrize("grid, extra", [((3, 5), 0), ((4, 4), 1)])
def test_a_block_without_bias_is_timms(timm, grid, extra):
    from timm.models.vision_transformer import Block as Theirs

    theirs = Theirs(48, 4, qkv_bias=True, norm_layer=partial(nn.LayerNorm, eps=1e-6))
    ours = Block(48, 4)
    wrong = ours.load_state_dict(theirs.state_dict(), strict=False)
    assert wrong.missing_keys == ["bias.weight"] and not wrong.unexpected_keys
    x, slopes = torch.randn(3, math.prod(grid) + extra, 48), []
    for block in (lambda x: ours(x, grid), theirs):
        leaf = x.clone().requires_grad_()
        y = block(leaf)
        slopes.append((y, *torch.autograd.grad(y.square().sum(), leaf)))
    assert all(relative(a, b) < 1e-5 for a, b in zip(*slopes))


@pytest.fixture
def little(monkeypatch):
    """A size with disjoint patches, as "base", that is fast."""
    monkeypatch.setitem(SIZES, "little", Size(64, 3, 4, 4, False))


def test_the_whole_is_timms_with_the_same_positions(timm, little):
    theirs = timm.models.vision_transformer.VisionTransformer(
        img_size=(36, 44),
        patch_size=4,
        in_chans=2,
        num_classes=3,
        embed_dim=64,
        depth=3,
        num_heads=4,
        class_token=False,
        global_pool="avg",
    )
    ours = EnhancedViT("little", 2, 3)
    state = {
        name.replace("patch_embed.proj", "stem").replace("fc_norm", "norm"): value
        for name, value in theirs.state_dict().items()
    }
    with torch.no_grad():
        theirs.pos_embed.copy_(cached_positions(9, 11, 64, torch.device("cpu")))
    wrong = ours.load_state_dict(
        {name: value for name, value in state.items() if name != "pos_embed"}, strict=False
    )
    assert not wrong.unexpected_keys and all(name.endswith("bias.weight") for name in wrong.missing_keys)
    x = torch.randn(3, 2, 36, 44)
    assert relative(ours(x), theirs(x)) < 1e-5
    narrow = torch.randn(3, 2, 35, 41)  # the odd pixel of padding is right and below
    assert relative(ours(narrow), theirs(F.pad(narrow, (1, 2, 0, 1)))) < 1e-5


@pytest.mark.parametrize(
    "stem, side, patch, grid",
    [
        (Patches, 41, 4, 11),
        (Patches, 40, 4, 10),
        (Convolutions, 41, 4, 11),
        (Convolutions, 40, 4, 11),
        (Convolutions, 101, 8, 14),
        (Patches, 224, 16, 14),
    ],
)
def test_tokens_are_centred(stem, side, patch, grid):
    """The pixels that the tokens in the middle see lie around the centre of the image,
    at most half a pixel off.
    """
    layer = stem(1, 8, patch)
    for place, module in enumerate(layer.children()):
        if isinstance(module, nn.GroupNorm):
            layer[place] = nn.Identity()  # through it every token sees all pixels
    x = torch.zeros(1, 1, side, side, requires_grad=True)
    tokens = layer(x)
    assert tokens.shape == (1, grid, grid, 8)
    middle = slice((grid - 1) // 2, grid // 2 + 1)
    (seen,) = torch.autograd.grad(tokens[0, middle, middle].sum(), x)
    for axis in (0, 1):
        pixels = seen[0, 0].abs().sum(axis).nonzero().double()
        assert abs(pixels.mean().item() - (side - 1) / 2) <= 0.5 and len(pixels) < side / 2


def test_the_bias_is_its_formula_in_polar_coordinates():
    layer, rows, columns = randomised(nn.ModuleDict({"bias": LensingBias(2)}))["bias"], 3, 4
    bias = layer(torch.zeros(5, rows, columns))

    def ring(radius, number):
        return math.exp(-0.5 * ((math.log(1 + radius) - 0.4 * number) / 0.4) ** 2)

    assert bias.shape == (5, 2, 12, 12) and torch.equal(bias[0], bias[4])
    for i, j in ((0, 0), (0, 11), (5, 6), (2, 9), (9, 2)):
        (ri, fi), (rj, fj) = (
            math.sqrt(x * x + y * y) and (math.hypot(x, y), math.atan2(y, x))
            for x, y in ((k % columns - 1.5, k // columns - 1.0) for k in (i, j))
        )
        for head in range(2):
            expected = sum(
                layer.weight[head, m, k, n].item()
                * ring(ri, k)
                * ring(rj, n)
                * (ri * rj / math.sqrt((ri**2 + 1) * (rj**2 + 1))) ** m
                * math.cos(m * (fi - fj))
                for m in range(5)
                for k in range(8)
                for n in range(8)
            )
            assert bias[0, head, i, j].item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("side", [5, 6])
def test_the_bias_does_not_see_rotations_and_reflections(side):
    """Permuting both axes of the bias by a symmetry of the square grid changes nothing;
    a shift, which is none, does.
    """
    layer = randomised(nn.ModuleDict({"bias": LensingBias(3)}))["bias"]
    bias = layer(torch.zeros(1, side, side))[0]
    number = torch.arange(side * side).view(side, side)
    for turns in range(4):
        for moved in (number.rot90(turns), number.rot90(turns).flip(0)):
            order = moved.flatten()
            assert torch.allclose(bias[:, order][:, :, order], bias, atol=1e-5)
    order = number.roll(1, 1).flatten()
    assert not torch.allclose(bias[:, order][:, :, order], bias, atol=0.1)


def test_at_the_centre_no_azimuth_is_left():
    """The patch in the middle sees all patches of one radius alike, whatever their azimuth."""
    bias = randomised(nn.ModuleDict({"bias": LensingBias(1)}))["bias"](torch.zeros(1, 5, 5))[0, 0].view(
        5, 5, 5, 5
    )
    around = bias[2, 2]
    assert torch.allclose(around[2, 0], around[0, 2]) and torch.allclose(around[1, 1], around[3, 1])
    assert torch.allclose(bias[2, 0, 1, 4], bias[2, 0, 3, 4], atol=1e-5)  # even in the difference of azimuth
    assert not torch.allclose(bias[2, 0, 2, 4], bias[2, 0, 0, 2], atol=0.1)  # opposite is not beside


def test_without_positions_the_network_is_blind_to_turns(monkeypatch, little):
    """The bias is all that tells patches apart then, so turning the order of patches leaves the features;
    positions end that.
    """
    network = randomised(EnhancedViT("little")).eval()
    x, number = torch.randn(2, 1, 40, 40), torch.arange(100).view(10, 10)
    patches = x.unflatten(2, (10, 4)).unflatten(4, (10, 4)).permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
    turned = (
        patches[:, number.rot90(1).flatten()]
        .unflatten(1, (10, 10))
        .permute(0, 3, 1, 4, 2, 5)
        .flatten(4, 5)
        .flatten(2, 3)
    )
    assert relative(network(turned), network(x)) > 1e-3
    monkeypatch.setattr(
        "models.enhanced_vit.cached_positions",
        lambda rows, columns, width, device: torch.zeros(rows * columns, width),
    )
    assert relative(network.features(turned), network.features(x)) < 1e-5


def test_the_bias_begins_at_zero_and_learns():
    network = EnhancedViT("small")
    plain = EnhancedViT("small", lensing_bias=False)
    plain.load_state_dict({name: t for name, t in network.state_dict().items() if "bias.weight" not in name})
    x = torch.randn(2, 1, 41, 41)
    assert torch.allclose(network(x), plain(x), atol=1e-6)
    network(x).sum().backward()
    assert all(block.bias.weight.grad.abs().max() > 0 for block in network.blocks)


def test_examples_are_apart_and_permute():
    network = randomised(EnhancedViT("tiny", fields=FIELDS)).eval()
    x, (values, present) = torch.randn(5, 1, 41, 41), metadata(5)
    whole = network(x, values, present)
    order = torch.tensor([3, 0, 4, 1, 2])
    assert torch.allclose(network(x[order], values[order], present[order]), whole[order], atol=1e-5)
    assert torch.allclose(network(x[1:2], values[1:2], present[1:2]), whole[1:2], atol=1e-5)


def test_a_seed_fixes_weights_and_dropped_branches():
    results = []
    for _ in range(2):
        torch.manual_seed(7)
        network = EnhancedViT("small", drop_path_rate=0.3, dropout=0.1).train()
        results.append(network(torch.randn(4, 1, 32, 32)))
    assert torch.equal(*results)


def test_state_dict_round_trip_on_another_grid():
    """A network that has seen one size of image gives its weights to one that sees another:
    nothing of the grid is kept.
    """
    first, second = (
        randomised(EnhancedViT("tiny", fields=FIELDS)).eval(),
        EnhancedViT("tiny", fields=FIELDS).eval(),
    )
    first.fit(*(t.numpy() for t in metadata(50)))
    first(torch.randn(1, 1, 41, 41))
    second.load_state_dict(first.state_dict())
    x, extra = torch.randn(2, 1, 48, 40), metadata(2)
    assert torch.equal(second(x, *extra), first(x, *extra))


def test_every_parameter_gets_a_gradient():
    network = EnhancedViT("tiny", fields=FIELDS, drop_path_rate=0.9, dropout=0.1).train()
    network(torch.randn(2, 1, 41, 41), *metadata(2)).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_stochastic_depth_keeps_the_mean():
    block = Block(16, 2, drop_path=0.25).train()
    kept = block.branch(torch.ones(20000, 1, 1)).flatten()
    assert set(kept.tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    assert kept.mean().item() == pytest.approx(1, abs=5 * math.sqrt(0.25 / 0.75 / 20000))


def test_metadata_begin_without_influence_and_may_be_missing():
    network = EnhancedViT("tiny", fields=FIELDS).eval()
    x, (values, present) = torch.randn(3, 1, 41, 41), metadata(3)
    assert torch.equal(network(x, values, present), network(x))
    network = randomised(network)
    unknown = torch.full((3, 4), torch.nan), torch.zeros(3, 4, dtype=torch.bool)
    assert torch.equal(network(x, *unknown), network(x)) and network(x).isfinite().all()
    known = torch.where(present, values, 0.0), torch.ones_like(present)
    assert not torch.allclose(network(x, *known), network(x))


def test_metadata_are_standardised_and_placed_on_the_sky():
    token = randomised(EnhancedViT("tiny", fields=FIELDS)).metadata
    network = EnhancedViT("tiny", fields=FIELDS)
    values, present = metadata(200)
    network.fit(values.numpy(), present.numpy())
    z = values[present[:, 0], 0]
    assert network.metadata.standardise.mean[0] == pytest.approx(z.mean().item(), rel=1e-5)
    # the same direction, a full turn away; and half a position is none
    whole, there = (
        torch.tensor([[0.5, 10.0, 1.0, -20.0], [0.5, 370.0, 1.0, -20.0]]),
        torch.ones(2, 4, dtype=torch.bool),
    )
    assert torch.allclose(*token(whole, there), atol=1e-4)
    half = there.clone()
    half[:, 3] = False
    none = half.clone()
    none[:, 1] = False
    assert torch.equal(token(whole, half), token(whole, none))
    weight = token.linear.weight[:, 4:]  # two values, two masks, then the harmonics
    expected = SkyPosition(6)(torch.tensor([10.0]), torch.tensor([-20.0]), torch.tensor([True])) @ weight.T
    assert torch.allclose(token(whole, there)[0] - token(whole, none)[0], expected[0], atol=1e-4)


@pytest.mark.parametrize("side, fields", [(41, ()), (36, FIELDS)])
def test_per_example_gradients_are_those_of_single_examples(side, fields):
    opacus = pytest.importorskip("opacus")
    network = randomised(EnhancedViT("tiny", fields=fields))
    x, label = torch.randn(3, 1, side, side), torch.tensor([1.0, 0.0, 1.0])
    extra = metadata(3) if fields else ()

    def loss(net, x, label, *extra):
        return F.binary_cross_entropy_with_logits(net(x, *extra).squeeze(1), label, reduction="sum")

    singles = [
        torch.autograd.grad(
            loss(network, *(t[i : i + 1] for t in (x, label, *extra))), list(network.parameters())
        )
        for i in range(3)
    ]
    wrapped = opacus.GradSampleModule(copy.deepcopy(network), force_functorch=True, loss_reduction="sum")
    loss(wrapped, x, label, *extra).backward()
    for number, (name, parameter) in enumerate(wrapped.named_parameters()):
        for i in range(3):
            assert relative(parameter.grad_sample[i], singles[i][number]) < 1e-4, name


def test_one_graph_for_the_compiler_and_gradients_after_inference():
    network = randomised(EnhancedViT("tiny", drop_path_rate=0.2)).eval()
    x = torch.randn(2, 1, 37, 37)
    with torch.inference_mode():
        network(x)  # what is kept of the grid must serve training too
    network(x).sum().backward()
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    assert torch.allclose(compiled(x), network(x), atol=1e-5)


def test_half_precision():
    network = randomised(EnhancedViT("tiny", fields=FIELDS))
    x, extra = torch.randn(4, 1, 41, 41), metadata(4)
    exact = network(x, *extra)
    with torch.autocast("cpu", torch.bfloat16):
        half = network(x, *extra)
        half.float().sum().backward()
    assert (half - exact).abs().max() < 0.05 * exact.abs().max().clamp_min(1)
    assert all(p.grad.isfinite().all() and p.grad.dtype == torch.float32 for p in network.parameters())


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="'smal'.*nearest: small"):
        EnhancedViT("smal")
    with pytest.raises(ValueError, match="both ra and dec"):
        EnhancedViT("small", fields=("redshift", "ra"))
    with pytest.raises(ValueError, match="dropout 1.5"):
        EnhancedViT("small", dropout=1.5)
    with pytest.raises(ValueError, match="patch_size 5"):
        EnhancedViT("small", patch_size=5)
    network = EnhancedViT("small", 2, fields=FIELDS)
    with pytest.raises(ValueError, match=r"expected \[B, 2, H, W\]"):
        network(torch.zeros(1, 2, 31, 41))
    with pytest.raises(ValueError, match=r"expected both \[B, 4\]"):
        network(torch.zeros(2, 2, 41, 41), torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.bool))
