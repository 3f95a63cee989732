"""The GRU of padded curves against torch's own with packed sequences, and what padding,
order and company must not change.
"""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from models.layers.gru import BLOCK, PaddedGRU, Points, blocks, kernel_pass, last_state

SHAPES = [
    dict(layers=1),
    dict(layers=2),
    dict(layers=1, bidirectional=True),
    dict(layers=2, bidirectional=True),
]


def curves(B=7, T=12, inputs=3, dtype=torch.float32):
    return torch.randn(B, T, inputs, dtype=dtype), torch.randint(1, T + 1, (B,))


def reference(gru: PaddedGRU) -> nn.GRU:
    theirs = nn.GRU(
        gru.input_size, gru.hidden_size, gru.num_layers, batch_first=True, bidirectional=gru.bidirectional
    )
    theirs.load_state_dict(gru.state_dict())
    return theirs.to(gru.weight_ih_l0.dtype)


def packed(theirs: nn.GRU, x, length):
    """Slow and trusted: outputs [B, T, H * directions] and the top layer's last state."""
    outputs, state = theirs(pack_padded_sequence(x, length, batch_first=True, enforce_sorted=False))
    directions = 1 + theirs.bidirectional
    return pad_packed_sequence(outputs, batch_first=True, total_length=x.shape[1])[0], torch.cat(
        state[-directions:].unbind(), -1
    )


def slopes(module, run, x, length):
    """Gradients of a sum in which each output has its own weight, by name, that of x last."""
    x = x.clone().requires_grad_()
    outputs, last = run(x, length)
    weights = torch.Generator().manual_seed(1)
    total = sum((part * torch.randn(part.shape, generator=weights)).sum() for part in (outputs, last))
    return torch.autograd.grad(total, [*module.parameters(), x])


def run_kernel(gru, x, length):
    outputs = gru.through_layers(kernel_pass, x, length)
    return outputs, last_state(outputs, length, gru.bidirectional)


@pytest.mark.parametrize("how", ["fast", "plain", "kernel"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_packed_torch(shape, how):
    """kernel_pass is what runs on a GPU; on a CPU it must give the same."""
    ours = PaddedGRU(9, 64, **shape, plain=how == "plain")
    run = ours if how != "kernel" else lambda x, length: run_kernel(ours, x, length)
    theirs = reference(ours)
    x, length = torch.randn(17, 40, 9), torch.randint(1, 41, (17,))
    for mine, true in zip(run(x, length), packed(theirs, x, length)):
        assert mine.shape == true.shape and (mine - true).abs().max() < 1e-6
    for mine, true in zip(
        slopes(ours, run, x, length), slopes(theirs, lambda *a: packed(theirs, *a), x, length)
    ):
        assert (mine - true).abs().max() < 1e-5 * true.abs().max()


@given(
    st.integers(0, 10**6),
    st.integers(1, 6),
    st.integers(1, 9),
    st.integers(1, 3),
    st.integers(1, 5),
    st.booleans(),
    st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_equals_packed_torch_at_every_shape(seed, B, T, inputs, hidden, bidirectional, plain):
    torch.manual_seed(seed)
    ours = PaddedGRU(inputs, hidden, 2, bidirectional=bidirectional, plain=plain).double()
    theirs = reference(ours)
    x, length = curves(B, T, inputs, torch.float64)
    for mine, true in zip(ours(x, length), packed(theirs, x, length)):
        assert torch.allclose(mine, true, rtol=0, atol=1e-14)
    for mine, true in zip(
        slopes(ours, ours, x, length), slopes(theirs, lambda *a: packed(theirs, *a), x, length)
    ):
        assert torch.allclose(mine, true, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_slopes_against_finite_differences(shape, monkeypatch):
    monkeypatch.setattr("models.layers.gru.BLOCK", 5)  # several blocks, also of part of a step's neighbours
    gru = PaddedGRU(3, 4, **shape).double()
    x, length = curves(4, 6, dtype=torch.float64)
    names, weights = zip(*gru.named_parameters())

    def run(x, *weights):
        return functional_call(gru, dict(zip(names, weights)), (x, length))

    assert torch.autograd.gradcheck(run, (x.requires_grad_(), *weights))


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_padding_order_and_company_do_not_matter(shape, plain):
    gru = PaddedGRU(3, 16, **shape, plain=plain)
    x, length = curves(9, 20)
    valid = (torch.arange(20) < length[:, None])[:, :, None]
    outputs, last = gru(x, length)
    assert (outputs[~valid[:, :, 0]] == 0).all()
    for filler in (0.0, 1e30, torch.nan):
        spoiled = gru(torch.where(valid, x, filler), length)
        assert torch.equal(spoiled[0], outputs) and torch.equal(spoiled[1], last)
    longer = gru(torch.cat([x, torch.randn(9, 13, 3)], 1), length)
    assert (
        torch.equal(longer[0][:, :20], outputs)
        and torch.equal(longer[1], last)
        and (longer[0][:, 20:] == 0).all()
    )
    order = torch.randperm(9)
    shuffled = gru(x[order], length[order])
    assert torch.allclose(shuffled[0], outputs[order], rtol=0, atol=1e-6) and torch.allclose(
        shuffled[1], last[order], rtol=0, atol=1e-6
    )
    for b in range(9):
        alone = gru(x[b : b + 1, : length[b]], length[b : b + 1])
        assert torch.allclose(alone[0][0], outputs[b, : length[b]], rtol=0, atol=1e-6)
        assert torch.allclose(alone[1][0], last[b], rtol=0, atol=1e-6)


@pytest.mark.parametrize("plain", [False, True])
def test_slopes_of_padding_are_zero_and_it_spoils_no_others(plain):
    gru = PaddedGRU(3, 8, 2, bidirectional=True, plain=plain)
    x, length = curves()
    valid = torch.arange(12) < length[:, None]
    found, spoiled = (
        slopes(gru, gru, x, length),
        slopes(gru, gru, torch.where(valid[:, :, None], x, torch.nan), length),
    )
    assert (found[-1][~valid] == 0).all() and (found[-1][valid] != 0).all()
    assert all(torch.equal(a, b) for a, b in zip(found, spoiled))


def test_initialisation_and_state_dict_are_those_of_torch():
    torch.manual_seed(3)
    ours = PaddedGRU(5, 8, 2, bidirectional=True)
    torch.manual_seed(3)
    theirs = nn.GRU(5, 8, 2, bidirectional=True)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(ours.state_dict().values(), theirs.state_dict().values()))
    ours.load_state_dict(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())


def test_dropout_between_layers_in_training_only():
    gru = PaddedGRU(3, 64, 2, dropout=0.5)
    x, length = curves()
    assert not torch.allclose(gru(x, length)[0], gru(x, length)[0])
    gru.eval()
    without = PaddedGRU(3, 64, 2)
    without.load_state_dict(gru.state_dict())
    assert torch.equal(gru(x, length)[0], without(x, length)[0])
    gru.train()
    mean = torch.stack(
        [gru.through_layers(lambda x, *_: x, torch.ones(2, 4, 64), length) for _ in range(200)]
    ).mean()
    assert mean.item() == pytest.approx(1, abs=0.02)  # what is left is scaled up: the mean stays


def test_no_grad_copies_and_a_second_use_before_the_backward_pass():
    gru = PaddedGRU(3, 8, 2)
    x, length = curves()
    other, other_length = curves(3, 30)
    alone = slopes(gru, gru, x, length)

    def interrupted(x, length):
        results = gru(x, length)
        with torch.no_grad():
            assert not gru(other, other_length)[0].requires_grad
        gru(other, other_length)[0].sum().backward()
        return results

    assert all(torch.equal(a, b) for a, b in zip(slopes(gru, interrupted, x, length), alone))
    twin = copy.deepcopy(gru)
    assert torch.equal(twin(x, length)[0], gru(x, length)[0])
    with torch.no_grad():
        gru.weight_hh_l0.add_(1)
    assert not torch.equal(twin(x, length)[0], gru(x, length)[0])


def test_autocast_stays_in_float32():
    gru = PaddedGRU(3, 8)
    x, length = curves()
    with torch.autocast("cpu", torch.bfloat16):
        outputs, last = gru(x.bfloat16(), length)
        (outputs.sum() + last.sum()).backward()
    assert outputs.dtype == torch.float32 and torch.equal(outputs, gru(x.bfloat16().float(), length)[0])
    assert gru.weight_hh_l0.grad.dtype == torch.float32
    plain = PaddedGRU(3, 8, plain=True)
    plain.load_state_dict(gru.state_dict())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.allclose(plain(x.bfloat16(), length)[0].float(), outputs, atol=0.05)
    half = copy.deepcopy(gru).bfloat16()
    assert torch.allclose(half(x.bfloat16(), length)[0].float(), outputs, atol=0.05)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_per_example_gradients_by_torch_func(bidirectional):
    gru = PaddedGRU(3, 8, 2, bidirectional=bidirectional)
    x, length = curves()

    def loss(weights, x, length):
        outputs, last = functional_call(gru, weights, (x[None], length[None]))
        return outputs.square().sum() + last.sum()

    weights = {name: p.detach() for name, p in gru.named_parameters()}
    each = vmap(grad(loss), (None, 0, 0))(weights, x, length)
    for b in range(len(x)):
        outputs, last = gru(x[b : b + 1], length[b : b + 1])
        alone = torch.autograd.grad(outputs.square().sum() + last.sum(), list(gru.parameters()))
        for name, true in zip(weights, alone):
            assert torch.allclose(each[name][b], true, rtol=1e-4, atol=1e-5)


def test_second_derivatives_need_the_plain_pass():
    x, length = curves(2, 3, dtype=torch.float64)
    plain = PaddedGRU(3, 2, plain=True).double()
    assert torch.autograd.gradgradcheck(lambda x: plain(x, length)[1], x.requires_grad_())
    fast = PaddedGRU(3, 2).double()
    slope = torch.autograd.grad(fast(x, length)[1].square().sum(), x, create_graph=True)[0]
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()


def test_compiled_is_the_same():
    gru = PaddedGRU(3, 8)
    compiled = torch.compile(nn.Sequential(nn.Linear(3, 3)), backend="eager")
    inside = copy.deepcopy(gru)
    inside.compile(backend="eager")
    x, length = curves()
    assert torch.equal(inside(compiled(x), length)[0], gru(compiled(x), length)[0])


def test_points_are_all_valid_ones_once():
    length = torch.tensor([2, 5, 1, 5])
    points = Points.of(length, 7)
    assert points.sizes == [4, 3, 2, 2, 2] and len(points.rows) == length.sum()
    assert sorted(points.rows.tolist()) == [b * 7 + t for b in range(4) for t in range(int(length[b]))]
    curve, step = points.rows // 7, points.rows % 7
    assert torch.equal(curve[points.mirror], curve) and torch.equal(
        step[points.mirror], length[curve] - 1 - step
    )


def test_blocks_cover_all_steps_once():
    sizes = [700, 600, 600, 100, 1, 1]
    found = blocks(sizes)
    assert [size for _, own, _ in found for size in own] == sizes and found[-1][0].stop == sum(sizes)
    assert all(
        own == sizes[first : first + len(own)] and rows.stop - rows.start == sum(own)
        for rows, own, first in found
    )
    assert len(found) > 1 and all(rows.stop - rows.start >= BLOCK for rows, _, _ in found[:-1])


@pytest.mark.parametrize(
    "length, said", [([0, 3], "from 0 to 3"), ([4, 13], "from 4 to 13"), ([3], r"length \[1\]")]
)
def test_wrong_lengths_are_named(length, said):
    with pytest.raises(ValueError, match=said):
        PaddedGRU(3, 4)(torch.zeros(2, 12, 3), torch.tensor(length))


@pytest.mark.gpu
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gpu_gives_the_same(shape):
    gru = PaddedGRU(9, 64, **shape)
    x, length = curves(17, 40, 9)
    near = gru(x, length)
    gru.cuda()
    for mine, true in zip(gru(x.cuda(), length.cuda()), near):
        assert (mine.cpu() - true).abs().max() < 1e-5
