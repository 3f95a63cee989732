"""Convolutions that know the eight symmetries of the square: of an image turned or mirrored they make the
same maps, turned or mirrored.

A map has 8 F channels, those of field f from 8 f on: channel 8 f + g is what f's kernel sees when it is
itself turned by symmetry g (numbers of models/layers/augment.py). Where the image is turned by k, channel g
moves to where k after g is, and its pixels with it. So what is learnt of one orientation holds for all, with
an eighth of the weights of a plain convolution at the same cost. The mean over a field's eight channels and
all pixels does not change at all when the image is turned (`unturned`).

Source: Cohen & Welling 2016, arXiv:1602.07576 (p4m).
"""

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers.augment import dihedral

ORDER = 8  # symmetries of the square


@lru_cache
def after() -> tuple[tuple[int, ...], ...]:
    """after()[a][b] is the symmetry that does b, then a."""
    probe = torch.arange(9, device="cpu").view(3, 3)
    number = {tuple(dihedral(probe, k).flatten().tolist()): k for k in range(ORDER)}
    return tuple(
        tuple(number[tuple(dihedral(dihedral(probe, b), a).flatten().tolist())] for b in range(ORDER))
        for a in range(ORDER)
    )


@lru_cache
@torch.compiler.assume_constant_result
def places(side: int, channels: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Where each number of a field, [channels, side, side] flattened,
    comes from when it is turned by each symmetry: [8, N] int64; and goes to.

    channels: ORDER, or 1 for an image, whose one channel only moves its pixels.
    """
    numbers = torch.arange(channels * side**2, device="cpu").view(channels, side, side)
    rows = []
    for k in range(ORDER):
        back = after()[k].index(0)  # what undoes k: after()[k][back] is 0
        source = [after()[back][g] for g in range(ORDER)] if channels == ORDER else [0]
        rows.append(dihedral(numbers[source], k).flatten())
    comes = torch.stack(rows)
    return comes.to(device), comes.argsort(1).to(device)


class Turn(torch.autograd.Function):
    """x [..., N] -> [..., 8, N], turned by each symmetry. The gradient gathers,
    where that of indexing would scatter in no fixed order.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, comes: Tensor, goes: Tensor) -> Tensor:
        return x[..., comes]

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.save_for_backward(inputs[2])

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        (goes,) = ctx.saved_tensors
        return gradient.gather(-1, goes.expand_as(gradient)).sum(-2), None, None


def turned(x: Tensor, side: int, channels: int = ORDER) -> Tensor:
    """Fields flattened from [..., channels, side, side] to [..., N] -> [..., 8, N]:
    turned by each symmetry of the square.
    """
    return Turn.apply(x, *places(side, channels, x.device))


class SymmetricConv2d(nn.Module):
    """[B, in_channels, H, W] -> [B, out_channels, ceil(H / stride), ceil(W / stride)], without bias,
    zeros beyond the edge; stride 1 or 2.

    in_channels are those of an image with `first`, else eight to a field, as out_channels. With a stride of 2
    the pixels of an even side are first averaged in pairs of neighbours, to an odd side: only there every
    second pixel, from the first to the last, is symmetric. Raises ValueError for channels that are not whole
    fields.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, stride: int = 1, first: bool = False
    ):
        super().__init__()
        if out_channels % ORDER or not first and in_channels % ORDER:
            raise ValueError(
                f"SymmetricConv2d: got {in_channels} channels in and {out_channels} out; expected multiples "
                f"of {ORDER}"
            )
        # of an input field
        self.channels = 1 if first else ORDER
        self.kernel = kernel
        self.stride = stride
        turning = () if first else (ORDER,)
        self.weight = nn.Parameter(
            torch.empty(out_channels // ORDER, in_channels // self.channels, *turning, kernel, kernel)
        )
        # that of the whole kernel: He et al. 2015, fan out
        nn.init.normal_(self.weight, std=math.sqrt(2 / (out_channels * kernel**2)))

    def forward(self, x: Tensor) -> Tensor:
        weight = (
            turned(self.weight.flatten(2), self.kernel, self.channels)
            .transpose(1, 2)
            .reshape(ORDER * len(self.weight), -1, self.kernel, self.kernel)
        )
        if self.stride == 2 and (pairs := tuple(2 - side % 2 for side in x.shape[2:])) != (1, 1):
            x = F.avg_pool2d(x, pairs, 1)
        return F.conv2d(x, weight, stride=self.stride, padding=self.kernel // 2)


class SymmetricNorm(nn.Module):
    """GroupNorm whose groups are whole fields, up to 32 of them, with one scale and offset a field:
    [B, channels, H, W] -> the same shape.
    """

    def __init__(self, channels: int):
        super().__init__()
        fields = channels // ORDER
        self.groups = math.gcd(32, fields)
        self.weight, self.bias = nn.Parameter(torch.ones(fields)), nn.Parameter(torch.zeros(fields))

    def forward(self, x: Tensor) -> Tensor:
        return F.group_norm(x, self.groups, each_channel(self.weight), each_channel(self.bias))


class SymmetricMaxPool2d(nn.Module):
    """The maximum of 3x3 pixels at every second one, or of 2x2 along an even side:
    H x W -> ceil(H / 2) x ceil(W / 2).
    """

    def forward(self, x: Tensor) -> Tensor:
        odd = [side % 2 for side in x.shape[2:]]
        return F.max_pool2d(x, [2 + each for each in odd], 2, odd)


def each_channel(x: Tensor) -> Tensor:
    """[..., F], a number a field -> [..., 8 F], for each of its channels."""
    return x.repeat_interleave(ORDER, -1)


def unturned(x: Tensor) -> Tensor:
    """[B, 8 F] of each channel -> [B, F], the mean over a field's channels:
    whichever way the image was turned.
    """
    return x.unflatten(1, (-1, ORDER)).mean(2)
