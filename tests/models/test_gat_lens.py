"""The graph network against GATv2's formula, a loop over single images, and what must not matter."""

import importlib.util
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from models.convnextv2 import DropPath
from models.gat_lens import GATLens, around
from models.layers.peaks import find_peaks

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("torch_geometric") is None, reason="torch_geometric is not installed"
)


def network(**options) -> GATLens:
    torch.manual_seed(0)
    return GATLens(**dict(in_chans=5) | options).eval()


def images(B: int = 6, C: int = 5, H: int = 41, W: int = 41) -> torch.Tensor:
    """Noise, a galaxy in the middle, and 0 to 5 bright spots, more in later images."""
    generator = torch.Generator().manual_seed(B + C + H)
    y, x = torch.meshgrid(torch.arange(H), torch.arange(W), indexing="ij")
    result = torch.randn(B, C, H, W, generator=generator)
    for b in range(B):
        places = [((W - 1) / 2, (H - 1) / 2)] + [
            (W * u, H * v) for u, v in (0.1 + 0.8 * torch.rand(b % 6, 2, generator=generator)).tolist()
        ]
        for x0, y0 in places:
            result[b] += 30 * torch.exp(-((x - x0) ** 2 + (y - y0) ** 2) / 5)
    return result


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.allclose(a, b, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("C, H, W", [(1, 32, 32), (5, 41, 41), (5, 45, 64), (1, 101, 101)])
def test_shapes(C, H, W):
    net, x = network(in_chans=C, num_classes=3), images(2, C, H, W)
    assert net.feature_dim == 512 and net.features(x).shape == (2, 512)
    assert net(x).shape == (2, 3) and torch.equal(net(x), net.head(net.features(x)))
    assert network(in_chans=C, feature_dim=64, node_features=32, heads=4, layers=1).features(x).shape == (
        2,
        64,
    )


def test_an_image_does_not_depend_on_its_neighbours():
    net, x = network(), images()
    order = torch.tensor([4, 2, 0, 5, 1, 3])
    logit = net(x)
    assert close(net(x[order]), logit[order])
    assert close(torch.cat([net(x[i : i + 1]) for i in range(6)]), logit)


def test_order_of_the_objects_and_entries_that_are_not_there_do_not_matter():
    net, x = network(), images()
    peaks = find_peaks(x, 16, net.threshold)
    assert peaks.mask.sum() > 15 and not peaks.mask[:, -1].any()
    expected = net.features_of(x, peaks)
    order = torch.cat(
        [torch.zeros(1, dtype=torch.long), 1 + torch.randperm(15, generator=torch.Generator().manual_seed(1))]
    )
    assert close(
        net.features_of(x, type(peaks)(*(part[:, order] for part in peaks[:4]), peaks.noise)), expected
    )
    assert close(net.features_of(x, find_peaks(x, 32, net.threshold)), expected)
    junk = type(peaks)(
        *(
            torch.where(peaks.mask.view(*peaks.mask.shape, *[1] * (part.ndim - 2)), part, 17.0)
            for part in peaks[:3]
        ),
        peaks.mask,
        peaks.noise,
    )
    assert close(net.features_of(x, junk), expected)
    assert not close(net.features_of(x, find_peaks(x, 2, net.threshold)), expected)  # objects do matter


def gatv2(layer, nodes, edges, edge_features):
    """Equation 7 of Brody et al. 2022, node by node: from edges (from, to)."""
    heads, width = layer.att.shape[1:]
    left, right = layer.lin_l(nodes).view(-1, heads, width), layer.lin_r(nodes).view(-1, heads, width)
    result = []
    for i in range(len(nodes)):
        at = [k for k, (_, to) in enumerate(edges) if to == i]
        other = left[[edges[k][0] for k in at]]
        score = (
            F.leaky_relu(right[i] + other + layer.lin_edge(edge_features[at]).view(-1, heads, width), 0.2)
            * layer.att[0]
        ).sum(2)
        result.append((score.softmax(0)[..., None] * other).sum(0).flatten() + layer.bias)
    return torch.stack(result)


def test_messages_are_those_of_a_loop_over_images_by_the_formula():
    net, x = network(spatial_radius=3.0, pixel_scale=0.2), images()
    for p in net.layers.parameters():
        torch.nn.init.normal_(p, std=0.3)
    peaks = find_peaks(x, 16, net.threshold)
    nodes = torch.randn(6, 16, 128, generator=torch.Generator().manual_seed(3))
    ours, pairs, apart = net.exchange(nodes, peaks), 0, 0
    for b in range(6):
        count = int(peaks.mask[b].sum())
        place = peaks.position[b, :count].tolist()
        edges, features = [], []
        for i, (x_i, y_i) in enumerate(place):
            for j, (x_j, y_j) in enumerate(place):
                distance = 0.2 * math.hypot(x_i - x_j, y_i - y_j)
                apart += distance > 3
                if distance <= 3:
                    turn = math.atan2(y_i - place[0][1], x_i - place[0][0]) - math.atan2(
                        y_j - place[0][1], x_j - place[0][0]
                    )
                    edges.append((j, i))
                    features.append(
                        [distance / 3, math.cos(turn), math.sin(turn)] if i and j else [distance / 3, 0, 0]
                    )
        single, pairs = nodes[b, :count], pairs + len(edges)
        for layer in net.layers:
            single = single + F.gelu(
                gatv2(layer.attention, layer.norm(single), edges, torch.tensor(features))
            )
        assert torch.allclose(ours[b, :count], single, rtol=1e-4, atol=1e-4)
        assert (ours[b, count:] == 0).all()
    assert pairs > 30 and apart > 10  # the radius is at work


def test_edges_reach_as_far_as_the_radius_in_arcsec():
    x = images()
    for options, expected in (
        (dict(spatial_radius=1e-3), 0),
        (dict(spatial_radius=100.0), None),
        (dict(spatial_radius=5.0, pixel_scale=10.0), 0),
    ):
        net = network(**options)
        peaks = find_peaks(x, 16, net.threshold)
        place, edges, features = net.edges(peaks)
        count = peaks.mask.sum(1)
        assert len(place) == count.sum()
        assert edges.shape[1] - count.sum() == ((count * (count - 1)).sum() if expected is None else expected)
        own = edges[0] == edges[1]
        assert own.sum() == count.sum() and (features[own, 0] == 0).all()


def test_what_a_node_sees_is_grid_sample_and_the_mean_over_a_square():
    generator = torch.Generator().manual_seed(0)
    maps, position = (
        torch.randn(3, 4, 11, 21, generator=generator),
        torch.rand(3, 7, 2, generator=generator) * torch.tensor([22.0, 12.0]) - 0.5,
    )
    ours = around(maps, position, 3.5).view(3, 7, 2, 4)
    grid = (position / (torch.tensor([21.0, 11.0]) - 1) * 2 - 1)[:, None]
    theirs = F.grid_sample(maps, grid, mode="bilinear", padding_mode="border", align_corners=True)[
        :, :, 0
    ].transpose(1, 2)
    assert torch.allclose(ours[:, :, 0], theirs, atol=1e-5)
    mean = around(maps, torch.tensor([[[5.0, 6.0], [0.0, 0.0]]]).expand(3, 2, 2), 3.0).view(3, 2, 2, 4)[
        :, :, 1
    ]
    # an odd side around the middle of a pixel
    assert torch.allclose(mean[:, 0], maps[:, :, 5:8, 4:7].mean((2, 3)), atol=1e-6)
    # in a corner, the part inside
    assert torch.allclose(mean[:, 1], maps[:, :, :2, :2].mean((2, 3)), atol=1e-6)


@pytest.mark.parametrize("which, step", [(0, 2), (1, 4)])
def test_positions_on_the_maps_are_those_of_the_image(which, step):
    """What place (11, 13) of a map sees is a square around that place times its step;
    norms, which see all, are taken out.
    """
    net, x = network(), images(1, 5, 101, 101).requires_grad_()
    for module in net.trunk.modules():
        for name, child in module.named_children():
            if isinstance(child, torch.nn.GroupNorm):
                setattr(module, name, torch.nn.Identity())
    (slope,) = torch.autograd.grad(net.trunk(x)[which][0, :, 13, 11].sum(), x)
    rows, columns = (slope[0].abs().sum(0) > 0).nonzero().T.tolist()
    assert (min(rows) + max(rows), min(columns) + max(columns)) == (2 * 13 * step, 2 * 11 * step)


def test_blank_images_and_missing_bands_give_numbers_and_gradients():
    net = network()
    x = torch.cat([torch.zeros(1, 5, 41, 41), torch.full((1, 5, 41, 41), 2.0), images(1)])
    x[2, 3] = 0
    x.requires_grad_()
    logit = net(x)
    logit.sum().backward()
    assert (
        logit.isfinite().all()
        and x.grad.isfinite().all()
        and all(p.grad.isfinite().all() for p in net.parameters())
    )
    assert net(torch.zeros(0, 5, 41, 41)).shape == (0, 1)


def test_a_gradient_reaches_every_parameter():
    net = network(fields=("redshift", "seeing"), drop_path_rate=0.1)
    torch.manual_seed(1)
    net.train()(images(), torch.randn(6, 2), torch.ones(6, 2, dtype=torch.bool)).square().sum().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_gradients_of_weights_are_the_derivative_of_the_output():
    """Central differences of the sum of logits along a random direction, in double."""
    net, x = network(node_features=16, heads=2, layers=2, feature_dim=32).double(), images(3).double()
    peaks = type(peaks := find_peaks(x, 8))(
        *(part.double() if part.is_floating_point() else part for part in peaks)
    )

    def value():
        return net.head(net.features_of(x, peaks)).sum()

    slopes = torch.autograd.grad(value(), list(net.parameters()))
    generator = torch.Generator().manual_seed(0)
    directions = [torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in net.parameters()]
    sides = []
    for step in (1e-6, -2e-6):
        with torch.no_grad():
            for p, direction in zip(net.parameters(), directions, strict=True):
                p += step * direction
        sides.append(value().item())
    assert (sides[0] - sides[1]) / 2e-6 == pytest.approx(
        sum((s * d).sum().item() for s, d in zip(slopes, directions, strict=True)), rel=1e-4
    )


def test_drop_path_leaves_out_a_layer_for_a_whole_image():
    net = network(layers=1)
    net.layers[0].drop_path = DropPath(0.5)
    net.eval()
    peaks, nodes = find_peaks(images(64)), torch.randn(64, 16, 128)
    whole = net.exchange(nodes, peaks)
    torch.manual_seed(2)
    dropped = net.train().exchange(nodes, peaks)
    before = nodes * peaks.mask[..., None]
    kept = torch.tensor(
        [torch.allclose(d - b, 2 * (w - b), atol=1e-5) for d, w, b in zip(dropped, whole, before)]
    )
    left_out = torch.tensor([torch.equal(d, b) for d, b in zip(dropped, before)])
    assert (kept ^ left_out).all() and 15 < kept.sum() < 49


def test_seed_and_state_dict_give_the_same_network():
    a, b, x = network(fields=("seeing",)), network(fields=("seeing",)), images()
    assert torch.equal(a(x), b(x))
    a.fit(np.array([[0.7], [0.9]]), np.array([[True], [True]]))
    torch.manual_seed(5)
    other = GATLens(5, fields=("seeing",)).eval()
    assert not torch.equal(other(x), a(x))
    other.load_state_dict(a.state_dict())
    values, present = torch.full((6, 1), 0.75), torch.ones(6, 1, dtype=torch.bool)
    assert torch.equal(other(x, values, present), a(x, values, present))


def test_metadata_have_no_unit_and_a_missing_one_has_no_value():
    rng = np.random.default_rng(0)
    values, present, x = rng.normal(0.7, 0.1, (50, 2)), rng.random((50, 2)) < 0.8, images()
    logits = []
    for scale, shift in ((1.0, 0.0), (1000.0, 5.0)):
        net = network(fields=("redshift", "seeing"))
        net.fit(values * scale + shift, present)
        logits.append(
            net(x, torch.from_numpy(values[:6] * scale + shift).float(), torch.from_numpy(present[:6]))
        )
    assert close(*logits)
    net = network(fields=("redshift", "seeing"))
    there = torch.tensor([[True, False]]).expand(6, 2)
    a, b, c = (
        net(x, torch.tensor([[first, second]]).expand(6, 2), there)
        for first, second in ((1.0, 2.0), (1.0, float("nan")), (3.0, 2.0))
    )
    assert torch.equal(a, b) and not close(a, c)
    assert torch.equal(net(x), net(x, torch.ones(6, 2), torch.zeros(6, 2, dtype=torch.bool)))


def test_half_precision_finds_the_same_objects_and_nearly_the_same_features():
    net, x = network(), images()
    whole, peaks = net.features(x), find_peaks(x)
    with torch.autocast("cpu", torch.bfloat16):
        half = net.features(x)
        assert all(torch.equal(a, b) for a, b in zip(find_peaks(x), peaks, strict=True))
    assert (half.float() - whole).norm() < 0.05 * whole.norm()


@pytest.mark.parametrize(
    "options, words",
    [
        (dict(in_chans=0), "in_chans 0"),
        (dict(drop_path_rate=1.0), "rate in"),
        (dict(node_features=100), "multiple of heads"),
        (dict(max_nodes=1), "max_nodes 1"),
        (dict(spatial_radius=0.0), "spatial_radius 0.0 arcsec"),
        (dict(pixel_scale=-0.2), "pixel_scale -0.2"),
    ],
)
def test_impossible_numbers_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        GATLens(**options)


def test_wrong_inputs_are_named():
    net = network(fields=("seeing",))
    for shape in ((2, 4, 41, 41), (2, 5, 31, 41), (5, 41, 41)):
        with pytest.raises(ValueError, match="expected .B, 5, H, W."):
            net(torch.zeros(shape))
    with pytest.raises(ValueError, match="seeing"):
        net(images(), torch.zeros(6, 2), torch.zeros(6, 2, dtype=torch.bool))


def test_a_missing_library_is_one_line(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "torch_geometric" else find(name, *rest),
    )
    with pytest.raises(
        ValueError, match="^torch_geometric is not installed.*pip install -r requirements-graph.txt$"
    ):
        GATLens()
