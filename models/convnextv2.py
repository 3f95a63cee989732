"""ConvNeXt V2: depthwise 7x7, LayerNorm, and an inverted bottleneck with global response normalisation.

Names and shapes of the weights are those of timm's `convnextv2_*`, so that its weights load as they are.
Inside, all maps are [B, H, W, C]: a 1x1 convolution is then one matrix product, and a norm reads one
contiguous row a position. Every parameter is used by the forward of its own module only, as per-example
gradients need it.

Source: Woo et al. 2023, arXiv:2301.00808, section 3.
"""

from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers.recompute import chain


@dataclass(frozen=True)
class Size:
    """Blocks and channels of each of the four stages."""

    depths: tuple[int, int, int, int]
    widths: tuple[int, int, int, int]
    convolutional: bool  # the published weights of the bottleneck are 1x1 convolutions [O, I, 1, 1]


SIZES = {
    "atto": Size((2, 2, 6, 2), (40, 80, 160, 320), True),
    "femto": Size((2, 2, 6, 2), (48, 96, 192, 384), True),
    "pico": Size((2, 2, 6, 2), (64, 128, 256, 512), True),
    "nano": Size((2, 2, 8, 2), (80, 160, 320, 640), True),
    "tiny": Size((3, 3, 9, 3), (96, 192, 384, 768), False),
    "base": Size((3, 3, 27, 3), (128, 256, 512, 1024), False),
    "large": Size((3, 3, 27, 3), (192, 384, 768, 1536), False),
    "huge": Size((3, 3, 27, 3), (352, 704, 1408, 2816), False),
}
STRIDE = 32  # pixels to a position of the last map: 4 in the stem, 2 before stages 2 to 4
CACHE = 2**19  # numbers of one tensor that are worked on at a time, so that they stay in the cache
ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def by_hand(*tensors: Tensor) -> bool:
    """Whether the layers below take their own road for these tensors:
    in float32 on a CPU, and nothing looks inside.

    Autocast, torch.compile, torch.export, tracing and torch.func (so Opacus) see the plain operators instead.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or torch._C._are_functorch_transforms_active():
        return False
    return (
        ONEDNN
        and torch.backends.mkldnn.enabled
        and not torch.is_autocast_enabled("cpu")
        and all(t.device.type == "cpu" and t.dtype == torch.float32 and t.numel() for t in tensors)
    )


def twice(
    formula, inputs: tuple[Tensor, ...], needed: tuple[bool, ...], slope: Tensor
) -> tuple[Tensor | None, ...]:
    """The derivative of `formula` by autograd, for who wants to differentiate it again."""
    wanted = [t for t, need in zip(inputs, needed) if need]
    slopes = iter(torch.autograd.grad(formula(*inputs), wanted, slope, create_graph=True))
    return tuple(next(slopes) if need else None for need in needed)


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None, then: str = "none") -> Tensor:
    """x weight^T + bias by oneDNN, which has no derivative of its own;
    `then` "gelu", by the error function.
    """
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, then, [], "none")


class Product(torch.autograd.Function):
    """F.linear by oneDNN, forward and backward: twice as fast as by MKL on AMD,
    where MKL does without AVX-512.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight, bias)
        return product(x, weight, bias)

    @staticmethod
    def backward(ctx, slope: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias = ctx.saved_tensors
        if torch.is_grad_enabled():
            return twice(F.linear, (x, weight, bias), ctx.needs_input_grad, slope)
        of_x = product(slope, weight.t()) if ctx.needs_input_grad[0] else None
        x = x.flatten(0, -2).t()
        slope = slope.flatten(0, -2).t()
        of_weight = None
        if ctx.needs_input_grad[1]:  # oneDNN copies its first operand, and autograd a turned result
            turned = slope.numel() > x.numel() + weight.numel()
            of_weight = product(x, slope).t() if turned else product(slope, x)
        return of_x, of_weight, slope.sum(1)


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """F.linear of [..., I], by the faster library."""
    return Product.apply(x, weight, bias) if by_hand(x, weight) else F.linear(x, weight, bias)


class PatchConv(nn.Conv2d):
    """Convolution of disjoint square patches, [B, H, W, I] -> [B, H // k, W // k, O];
    pixels left over are dropped.
    """

    def __init__(self, in_channels: int, out_channels: int, patch: int):
        super().__init__(in_channels, out_channels, patch, stride=patch)

    def forward(self, x: Tensor) -> Tensor:
        k, (B, H, W, C) = self.stride[0], x.shape
        h, w = H // k, W // k
        patches = x[:, : h * k, : w * k].reshape(B, h, k, w, k, C).transpose(2, 3).reshape(B, h, w, k * k * C)
        return linear(patches, self.weight.permute(0, 2, 3, 1).flatten(1), self.bias)


class Pointwise(nn.Conv2d):
    """1x1 convolution of [B, H, W, I]."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight.flatten(1), self.bias)


class Linear(nn.Linear):
    """nn.Linear by the faster library."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Convolution of each channel of [B, H, W, C] by itself, zeros beyond the edge."""
    return F.conv2d(
        x.permute(0, 3, 1, 2), weight, bias, padding=weight.shape[-1] // 2, groups=len(weight)
    ).permute(0, 2, 3, 1)


@lru_cache
def taps(H: int, W: int, k: int) -> Tensor:
    """[k k, H W H W]: 1 where the second position of a map lies under this tap of a kernel that is centred on
    the first.
    """
    # [second, tap, first]
    under = F.unfold(torch.eye(H * W, device="cpu").view(H * W, 1, H, W), k, padding=k // 2)
    return under.permute(1, 2, 0).flatten(1).contiguous()


class Convolve(torch.autograd.Function):
    """`convolve`; the derivative to the weight by one matrix product a channel,
    of all positions with all positions.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight, bias)
        return convolve(x, weight, bias)

    @staticmethod
    def backward(ctx, slope: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias = ctx.saved_tensors
        if torch.is_grad_enabled():
            return twice(convolve, (x, weight, bias), ctx.needs_input_grad, slope)
        of_x = convolve(slope, weight.flip(2, 3), None) if ctx.needs_input_grad[0] else None
        B, H, W, C = x.shape
        pairs = torch.bmm(
            *(
                t.reshape(B, H * W, C).permute(2, *order).contiguous()
                for t, order in ((slope, (1, 0)), (x, (0, 1)))
            )
        )
        of_weight = product(pairs.flatten(1), taps(H, W, weight.shape[-1])).view_as(weight)
        return of_x, of_weight, slope.sum((0, 1, 2))


class Depthwise(nn.Conv2d):
    """7x7 convolution of each channel by itself, zeros beyond the edge, of [B, H, W, C]."""

    def __init__(self, channels: int):
        super().__init__(channels, channels, 7, padding=3, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        # the pairs of positions of a larger map would take too much room
        small = x.shape[1] * x.shape[2] <= 128
        return (Convolve.apply if small and by_hand(x, self.weight) else convolve)(x, self.weight, self.bias)


def norms(y: Tensor) -> Tensor:
    """The norm over the map of each channel of [B, H, W, C]: [B, 1, 1, C]."""
    # A channel that is zero everywhere (GELU far below zero) has no slope at 0: the floor keeps 0 * inf out.
    return (y * y).sum((1, 2), keepdim=True).add(1e-30).sqrt()


def scale(
    y: Tensor, norm: Tensor, weight: Tensor, bias: Tensor, eps: float, out: Tensor | None = None
) -> Tensor:
    """Global response norm of y [B, H, W, C], whose channels have these norms [B, 1, 1, C]."""
    return torch.addcmul(bias, y, 1 + weight * (norm / (norm.mean(-1, keepdim=True) + eps)), out=out)


def activate(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Global response norm of gelu(x), [B, H, W, C]."""
    y = F.gelu(x)
    y = y.to(torch.promote_types(y.dtype, torch.float32))  # squares of half precision overflow
    return scale(y, norms(y), weight, bias, eps).to(x.dtype)


class Activate(torch.autograd.Function):
    """`activate`, a few examples at a time, so that what lies between two operators never leaves the cache.

    It keeps its input alone, where autograd would keep five maps of that size.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        result = torch.empty_like(x)
        norm = x.new_empty(len(x), 1, 1, x.shape[-1])
        ctx.eps = eps
        for part, out, of_part in zip(*(t.split(examples(x)) for t in (x, result, norm))):
            y = F.gelu(part)
            scale(y, of_part.copy_(norms(y)), weight, bias, eps, out=out)
        ctx.save_for_backward(x, weight, bias, norm)
        return result

    @staticmethod
    def backward(ctx, slope: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, norms = ctx.saved_tensors
        if torch.is_grad_enabled():
            return *twice(
                partial(activate, eps=ctx.eps), (x, weight, bias), ctx.needs_input_grad[:3], slope
            ), None
        of_x = torch.empty_like(x)
        of_weight = torch.zeros_like(weight)
        of_bias = torch.zeros_like(weight)
        for part, up, norm, out in zip(*(t.split(examples(x)) for t in (x, slope, norms, of_x))):
            y = F.gelu(part)
            mean = norm.mean(-1, keepdim=True) + ctx.eps
            relative = norm / mean
            of_scale = torch.mul(up, y, out=out).sum((1, 2), keepdim=True)
            of_weight += (of_scale * relative).sum((0, 1, 2))
            of_bias += up.sum((0, 1, 2))
            of_relative = of_scale * weight
            of_norm = (of_relative - (of_relative * relative).mean(-1, keepdim=True)) / mean
            y.mul_(of_norm / norm).addcmul_(up, 1 + weight * relative)
            torch.ops.aten.gelu_backward.grad_input(y, part, approximate="none", grad_input=out)
        return of_x, of_weight, of_bias, None


def examples(x: Tensor, times: int = 1) -> int:
    """How many of x [B, H, W, C] to work on at a time, where each makes `times` as many numbers."""
    return max(1, CACHE // (times * x[:1].numel()))


class GlobalResponseNorm(nn.Module):
    """GELU, then scales each channel of [B, H, W, C] by its norm over the map,
    relative to the mean norm of all channels.

    Source: Woo et al. 2023, section 3.2, with the mean of the norms where the paper has their sum, as all
    published weights were trained.
    """

    def __init__(self, channels: int, eps: float = 1e-6):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.zeros(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return (Activate.apply if by_hand(x, self.weight) else activate)(x, self.weight, self.bias, self.eps)


class DropPath(nn.Module):
    """Stochastic depth: in training, leaves out the whole branch of an example with chance `rate`.

    Source: Huang et al. 2016, arXiv:1603.09382.
    """

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        kept = x.new_empty(len(x), 1, 1, 1).bernoulli_(1 - self.rate)
        return x * (kept / (1 - self.rate))

    def extra_repr(self) -> str:
        return f"rate={self.rate:.3g}"


class Bottleneck(nn.Module):
    """Widens four times, GELU, global response normalisation, narrows; on [B, H, W, C]."""

    def __init__(self, channels: int, convolutional: bool):
        super().__init__()
        layer = Pointwise if convolutional else Linear
        self.fc1 = layer(channels, 4 * channels)
        self.grn = GlobalResponseNorm(4 * channels)
        self.fc2 = layer(4 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() or not by_hand(x, self.fc1.weight):
            return self.fc2(self.grn(self.fc1(x)))
        # Nobody needs the wide maps afterwards: in place, a few examples at a time,
        # it takes a third less time.
        result = torch.empty_like(x)
        fc1 = self.fc1.weight.flatten(1)
        fc2 = self.fc2.weight.flatten(1)
        grn = self.grn
        for part, out in zip(*(t.split(examples(x, 4)) for t in (x, result))):
            y = product(part, fc1, self.fc1.bias, then="gelu")
            out.copy_(product(scale(y, norms(y), grn.weight, grn.bias, grn.eps, out=y), fc2, self.fc2.bias))
        return result


class Block(nn.Module):
    """Depthwise convolution, norm and bottleneck, added to what came in; [B, H, W, C]."""

    def __init__(self, channels: int, drop_path: float, convolutional: bool):
        super().__init__()
        self.conv_dw = Depthwise(channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.mlp = Bottleneck(channels, convolutional)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop_path(self.mlp(self.norm(self.conv_dw(x))))


class Stage(nn.Module):
    """Halves the map (but for the first stage), then blocks; [B, H, W, I] -> [B, H // 2, W // 2, O]."""

    recompute = False  # see models/layers/recompute.py

    def __init__(self, before: int, channels: int, drop_paths: list[float], convolutional: bool):
        super().__init__()
        self.downsample = (
            nn.Identity()
            if before == channels
            else nn.Sequential(nn.LayerNorm(before, eps=1e-6), PatchConv(before, channels, 2))
        )
        self.blocks = nn.Sequential(*[Block(channels, rate, convolutional) for rate in drop_paths])

    def forward(self, x: Tensor) -> Tensor:
        return chain(self.blocks, self.downsample(x), recompute=self.recompute)


class Head(nn.Module):
    """Norm of the pooled features [B, F] (`norm`) and the classifier on top (`fc`)."""

    def __init__(self, channels: int, num_classes: int):
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, pooled: Tensor) -> Tensor:
        return self.fc(self.norm(pooled))


class ConvNeXtV2(nn.Module):
    """Images [B, in_chans, H, W], H and W at least 32 -> logits [B, num_classes].

    `drop_path_rate` is that of the last block; it rises from zero linearly over the blocks.

    Raises ValueError for a size that is not in SIZES, and for images with other channels or too few pixels.
    """

    def __init__(
        self, size: str = "nano", in_chans: int = 1, num_classes: int = 1, drop_path_rate: float = 0.0
    ):
        super().__init__()
        if size not in SIZES:
            nearest = get_close_matches(str(size), SIZES, 1, 0)[0]
            raise ValueError(
                f"ConvNeXt V2 has no size {size!r}: expected one of {', '.join(SIZES)} (nearest: {nearest})"
            )
        if in_chans < 1 or num_classes < 1 or not 0 <= drop_path_rate < 1:
            raise ValueError(
                f"ConvNeXt V2: got in_chans {in_chans}, num_classes {num_classes}, drop_path_rate "
                f"{drop_path_rate}; expected at least 1, at least 1, and a rate in [0, 1)"
            )
        depths, widths, convolutional = SIZES[size].depths, SIZES[size].widths, SIZES[size].convolutional
        self.in_chans = in_chans
        self.feature_dim = widths[-1]
        self.stem = nn.Sequential(PatchConv(in_chans, widths[0], 4), nn.LayerNorm(widths[0], eps=1e-6))
        rates = [
            rates.tolist()
            for rates in torch.linspace(0, drop_path_rate, sum(depths), device="cpu").split(depths)
        ]
        self.stages = nn.Sequential(
            *[Stage(widths[max(0, i - 1)], widths[i], rates[i], convolutional) for i in range(4)]
        )
        self.head = Head(widths[-1], num_classes)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def maps(self, x: Tensor) -> Tensor:
        """Last feature map [B, F, H // 32, W // 32] of images [B, C, H, W]."""
        if x.ndim != 4 or x.shape[1] != self.in_chans or min(x.shape[2:]) < STRIDE:
            raise ValueError(
                f"ConvNeXt V2 got images {list(x.shape)}: expected [B, {self.in_chans}, H, W], H and W at "
                f"least {STRIDE}"
            )
        return self.stages(self.stem(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)

    def features(self, x: Tensor) -> Tensor:
        """What the classifier sees of images [B, C, H, W]: [B, F], pooled and normalised."""
        return self.head.norm(self.maps(x).mean((2, 3)))

    def classify(self, features: Tensor) -> Tensor:
        return self.head.fc(features)

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.features(x))
