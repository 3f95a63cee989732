"""Gated recurrent units over curves of unequal length, exact at every valid point and fast on a CPU.

Source: Cho et al. 2014, arXiv:1406.1078, in the form of torch.nn.GRU:
    r = sigmoid(W_ir x + b_ir + W_hr h + b_hr)            reset
    z = sigmoid(W_iz x + b_iz + W_hz h + b_hz)            update
    n = tanh(W_in x + b_in + r (W_hn h + b_hn))           candidate
    h' = (1 - z) n + z h
"""

from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

sigmoid_slope, tanh_slope = torch.ops.aten.sigmoid_backward, torch.ops.aten.tanh_backward
ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
BLOCK = 1024  # points whose factors are in the cache together on the way back


@cache
def keep_uncompiled() -> None:
    """Each batch of other lengths would be compiled anew. Not a decorator:
    it imports the compiler, 1 s that lens finders need not pay.
    """
    PaddedGRU.fast = torch.compiler.disable(PaddedGRU.fast)


class PaddedGRU(nn.GRU):
    """torch.nn.GRU of padded curves x [B, T, inputs], length [B] int64 in 1 to T, in any order.

    Returns outputs [B, T, hidden * directions], zero from `length` on, and last [B, hidden * directions]: the
    top layer's state after each curve's own last point, and, where bidirectional, that of the backward
    direction after its first. What stands in the padding never matters. Parameters, initialisation and state
    dict are those of torch.nn.GRU.

    `plain` takes ordinary operations, several times slower, in place of the fast pass, which knows no second
    derivatives; under torch.func (vmap, grad: per-example gradients) they are taken without asking. The fast
    pass stays in float32 under autocast.

    Raises ValueError for another shape of x or length, and on a CPU for a length outside 1 to T.
    """

    def __init__(
        self,
        inputs: int,
        hidden: int,
        layers: int = 1,
        dropout: float = 0.0,
        bidirectional: bool = False,
        plain: bool = False,
    ):
        super().__init__(
            inputs, hidden, layers, batch_first=True, dropout=dropout, bidirectional=bidirectional
        )
        self.plain = plain
        keep_uncompiled()

    def forward(self, x: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        if x.ndim != 3 or x.shape[2] != self.input_size or length.shape != x.shape[:1]:
            raise ValueError(
                f"GRU got x {list(x.shape)} and length {list(length.shape)}: expected [B, T, "
                f"{self.input_size}] and [B]"
            )
        plain = self.plain or torch._C._are_functorch_transforms_active()
        if not plain and x.device.type == "cpu":
            outputs = self.fast(x, length)
        else:
            x = torch.where((torch.arange(x.shape[1], device=x.device) < length[:, None])[:, :, None], x, 0)
            outputs = self.through_layers(plain_pass if plain else kernel_pass, x, length)
        return outputs, last_state(outputs, length, self.bidirectional)

    def fast(self, x: Tensor, length: Tensor) -> Tensor:
        # bfloat16 is slower here, and a recurrence adds up its rounding
        with torch.autocast("cpu", enabled=False):
            points = Points.of(length, x.shape[1])
            return points.scatter(
                self.through_layers(fast_pass, points.gather(x.to(self.weight_ih_l0.dtype)), points)
            )

    def through_layers(self, one_pass, x: Tensor, curves) -> Tensor:
        for layer in range(self.num_layers):
            if layer and self.dropout:
                x = F.dropout(x, self.dropout, self.training)
            forward = one_pass(x, self.weights(layer, False), curves, False)
            x = (
                torch.cat([forward, one_pass(x, self.weights(layer, True), curves, True)], -1)
                if self.bidirectional
                else forward
            )
        return x

    def weights(self, layer: int, backward: bool) -> list[Tensor]:
        suffix = f"l{layer}_reverse" if backward else f"l{layer}"
        return [
            getattr(self, f"{name}_{suffix}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        ]


def last_state(outputs: Tensor, length: Tensor, bidirectional: bool) -> Tensor:
    """[B, hidden * directions] of outputs [B, T, hidden * directions]:
    each direction's state where it ends.
    """
    end = outputs.take_along_dim((length - 1)[:, None, None], 1)[:, 0]
    H = outputs.shape[2] // 2
    return torch.cat([end[:, :H], outputs[:, 0, H:]], 1) if bidirectional else end


class Points(NamedTuple):
    """The valid points of padded curves, all first points, then all second ones, ...,
    the longest curve ahead in each.

    So the curves that still run at a step are the first rows of the step before, and nothing is spent on
    padding.
    """

    sizes: list[int]  # [T] curves still running at each step
    rows: Tensor  # [P] where each point is in the padded curves, of B * T
    mirror: Tensor  # [P] the point of the same curve that is as far from its end
    shape: tuple[int, int]  # B, T

    @staticmethod
    def of(length: Tensor, T: int) -> "Points":
        sorted_length, order = length.sort(descending=True, stable=True)
        if not 1 <= sorted_length[-1] <= sorted_length[0] <= T:
            raise ValueError(
                f"GRU got lengths from {sorted_length[-1]} to {sorted_length[0]}: expected 1 to {T}, the "
                "padded length"
            )
        running = torch.arange(int(sorted_length[0]))[:, None] < sorted_length
        sizes = running.sum(1)
        step, rank = running.nonzero(as_tuple=True)
        mirror = (sizes.cumsum(0) - sizes)[sorted_length[rank] - 1 - step] + rank
        return Points(sizes.tolist(), order[rank] * T + step, mirror, (len(length), T))

    def gather(self, x: Tensor) -> Tensor:
        return x.flatten(0, 1).index_select(0, self.rows)

    def scatter(self, points: Tensor) -> Tensor:
        return (
            points.new_zeros(self.shape[0] * self.shape[1], points.shape[1])
            .index_copy_(0, self.rows, points)
            .unflatten(0, self.shape)
        )


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x weight^T + bias, of float32 by oneDNN, which on AMD is twice as fast as MKL."""
    if ONEDNN and x.dtype == torch.float32:
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "none")
    return F.linear(x, weight, bias)


class FastPass(torch.autograd.Function):
    """One direction of one layer over points [P, F] -> [P, H]: few, large, in-place operations a step.

    A state's slope is linear in that of the state after it, so all factors are known before the loop
    backwards, which is left with one product of matrices a step; the weights' slopes are one product for each
    block of steps.
    """

    @staticmethod
    def forward(ctx, x, w_ih, w_hh, b_ih, b_hh, sizes):
        H = w_hh.shape[1]
        to_rz = w_hh[: 2 * H].t()
        to_n = 2 * w_hh[2 * H :].t()
        rz = product(x, w_ih[: 2 * H], b_ih[: 2 * H] + b_hh[: 2 * H])
        n = product(x, 2 * w_ih[2 * H :], 2 * b_ih[2 * H :])
        n_hidden, h = torch.empty_like(n), torch.empty_like(n)
        state = x.new_zeros(sizes[0], H)
        b_n = 2 * b_hh[2 * H :]
        minus_one = -x.new_ones(())
        steps = (part.split(sizes) for part in (rz, rz[:, :H], rz[:, H:], n, n_hidden, h))
        for size, rz_t, r_t, z_t, n_t, n_hidden_t, h_t in zip(sizes, *steps):
            state = state[:size]
            rz_t.addmm_(state, to_rz).sigmoid_()
            torch.addmm(b_n, state, to_n, out=n_hidden_t)
            n_t.addcmul_(r_t, n_hidden_t).sigmoid_()
            # tanh(a) = 2 sigmoid(2a) - 1, and several times as fast
            torch.add(minus_one, n_t, alpha=2, out=n_t)
            state = torch.lerp(n_t, state, z_t, out=h_t)
        ctx.save_for_backward(x, w_ih, w_hh, rz, n, n_hidden, h)
        ctx.sizes = sizes
        return h

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, w_ih, w_hh, rz, n, n_hidden, h = ctx.saved_tensors
        sizes = ctx.sizes
        H = h.shape[1]
        grad_x = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        # transposed: the faster product
        grad_w_ih, grad_w_hh = x.new_zeros(x.shape[1], 3 * H), x.new_zeros(H, 3 * H)
        grad_b_n = x.new_zeros(H)
        grad_b_hh = x.new_zeros(3 * H)
        carry = h[:0]
        states = [h.new_zeros(sizes[0], H), *h.split(sizes)]
        for rows, own, first in reversed(blocks(sizes)):
            before = torch.cat([state[:size] for state, size in zip(states[first:], own)])
            r, z, n_rows = rz[rows, :H], rz[rows, H:], n[rows]
            to_n = tanh_slope(1 - z, n_rows)
            to_r = sigmoid_slope(to_n * n_hidden[rows], r).div_(2)
            to_z = sigmoid_slope(before - n_rows, z)
            gates = torch.stack([to_r, to_z, to_n * r], 1)
            grad_h = grad[rows].clone(memory_format=torch.contiguous_format)
            flat = gates.flatten(1)
            steps = zip(*(part.split(own) for part in (grad_h, gates, flat, z)))
            for grad_t, gates_t, flat_t, z_t in reversed(list(steps)):
                grad_t[: len(carry)].add_(carry)
                gates_t.mul_(grad_t[:, None])
                carry = (grad_t * z_t).addmm_(flat_t, w_hh)
            grad_w_hh += product(before.t(), flat.t())
            grad_b_hh += flat.sum(0)
            torch.mul(grad_h, to_n, out=gates[:, 2])  # the candidate's input is not scaled by r
            grad_w_ih += product(x[rows].t(), flat.t())
            grad_b_n += gates[:, 2].sum(0)
            if grad_x is not None:
                grad_x[rows] = product(flat, w_ih.t())
        return (
            grad_x,
            grad_w_ih.t(),
            grad_w_hh.t(),
            torch.cat([grad_b_hh[: 2 * H], grad_b_n]),
            grad_b_hh,
            None,
        )


def blocks(sizes: list[int]) -> list[tuple[slice, list[int], int]]:
    """Steps in runs of about BLOCK points, that stay in the cache:
    their points, their sizes and the first of them.
    """
    found = []
    first = 0
    start = 0
    stop = 0
    for t, size in enumerate(sizes):
        stop += size
        if stop - start >= BLOCK or t == len(sizes) - 1:
            found.append((slice(start, stop), sizes[first : t + 1], first))
            first = t + 1
            start = stop
    return found


def fast_pass(x: Tensor, weights: list[Tensor], points: Points, backward: bool) -> Tensor:
    if not backward:
        return FastPass.apply(x, *weights, points.sizes)
    return FastPass.apply(x.index_select(0, points.mirror), *weights, points.sizes).index_select(
        0, points.mirror
    )


def kernel_pass(x: Tensor, weights: list[Tensor], length: Tensor, backward: bool) -> Tensor:
    """torch's own kernel, which is the faster one on a GPU, on padded curves;
    [B, T, F] -> [B, T, H], zero from `length` on.
    """
    step = torch.arange(x.shape[1], device=x.device)
    valid = step < length[:, None]
    mirror = torch.where(valid, length[:, None] - 1 - step, step)[:, :, None]
    x = x.take_along_dim(mirror, 1) if backward else x
    start = x.new_zeros(1, len(x), weights[1].shape[1])
    # cuDNN must know of a backward pass
    h = torch._VF.gru(x, start, weights, True, 1, 0.0, torch.is_grad_enabled(), False, True)[0]
    return torch.where(valid[:, :, None], h.take_along_dim(mirror, 1) if backward else h, 0)


def plain_pass(x: Tensor, weights: list[Tensor], length: Tensor, backward: bool) -> Tensor:
    """Ordinary operations, differentiable as often as wanted;
    [B, T, F] -> [B, T, H], zero from `length` on.
    """
    w_ih, w_hh, b_ih, b_hh = weights
    x = F.linear(x, w_ih, b_ih)
    state = torch.zeros_like(x[:, 0, : w_hh.shape[1]])
    states = []
    for t in reversed(range(x.shape[1])) if backward else range(x.shape[1]):
        r, z, n = x[:, t].chunk(3, -1)
        r_hidden, z_hidden, n_hidden = F.linear(state, w_hh, b_hh).chunk(3, -1)
        z = torch.sigmoid(z + z_hidden)
        n = torch.tanh(n + torch.sigmoid(r + r_hidden) * n_hidden)
        state = torch.where((t < length)[:, None], torch.lerp(n, state, z), 0)
        states.append(state)
    return torch.stack(states[::-1] if backward else states, 1)
