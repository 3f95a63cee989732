"""ConvNeXt V2: depthwise 7x7, LayerNorm, and an inverted bottleneck with global response normalisation.

Names and shapes of the weights are those of timm's `convnextv2_*`, so that its weights load as they are. Inside, all
maps are [B, H, W, C]: a 1x1 convolution is then one matrix product, and a norm reads one contiguous row a position.
Every parameter is used by the forward of its own module only, as per-example gradients need it.

Source: Woo et al. 2023, arXiv:2301.00808, section 3.
"""
from dataclasses import dataclass
from difflib import get_close_matches

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Size:
    """Blocks and channels of each of the four stages."""
    depths: tuple[int, int, int, int]
    widths: tuple[int, int, int, int]
    convolutional: bool              # the published weights of the bottleneck are 1x1 convolutions [O, I, 1, 1]


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
STRIDE = 32                          # pixels to a position of the last map: 4 in the stem, 2 before stages 2 to 4


class PatchConv(nn.Conv2d):
    """Convolution of disjoint square patches, [B, H, W, I] -> [B, H // k, W // k, O]; pixels left over are dropped."""

    def __init__(self, in_channels: int, out_channels: int, patch: int):
        super().__init__(in_channels, out_channels, patch, stride=patch)

    def forward(self, x: Tensor) -> Tensor:
        k, (B, H, W, C) = self.stride[0], x.shape
        h, w = H // k, W // k
        patches = x[:, :h * k, :w * k].reshape(B, h, k, w, k, C).transpose(2, 3).reshape(B, h, w, k * k * C)
        return F.linear(patches, self.weight.permute(0, 2, 3, 1).flatten(1), self.bias)


class Pointwise(nn.Conv2d):
    """1x1 convolution of [B, H, W, I]."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.flatten(1), self.bias)


class Depthwise(nn.Conv2d):
    """7x7 convolution of each channel by itself, zeros beyond the edge, of [B, H, W, C]."""

    def __init__(self, channels: int):
        super().__init__(channels, channels, 7, padding=3, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        B, H, W, C = x.shape
        if H * W > 4:
            return F.conv2d(x.permute(0, 3, 1, 2), self.weight, self.bias, padding=3, groups=C).permute(0, 2, 3, 1)
        # On a map as small as this most of the kernel meets zeros: add up the pairs of positions that are left.
        kernel, positions, y = self.weight.permute(1, 2, 3, 0)[0], x.reshape(B, H * W, C), self.bias
        for source in range(H * W):
            row, column = divmod(source, W)
            taps = kernel[3 + row - H + 1:4 + row, 3 + column - W + 1:4 + column].flip(0, 1).reshape(H * W, C)
            y = torch.addcmul(y, positions[:, source, None], taps)
        return y.reshape(B, H, W, C)


class GlobalResponseNorm(nn.Module):
    """Scales each channel of [B, H, W, C] by its norm over the map, relative to the mean norm of all channels.

    Source: Woo et al. 2023, section 3.2, with the mean of the norms where the paper has their sum, as all published
    weights were trained.
    """

    def __init__(self, channels: int, eps: float = 1e-6):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.zeros(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))   # squares of half precision overflow
        # A channel that is zero everywhere (GELU far below zero) has no slope at 0: the floor keeps 0 * inf out.
        norm = (wide * wide).sum((1, 2), keepdim=True).add(1e-30).sqrt()
        relative = norm / (norm.mean(-1, keepdim=True) + self.eps)
        return torch.addcmul(self.bias, wide, 1 + self.weight * relative).to(x.dtype)


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
        layer = Pointwise if convolutional else nn.Linear
        self.fc1 = layer(channels, 4 * channels)
        self.grn = GlobalResponseNorm(4 * channels)
        self.fc2 = layer(4 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.grn(F.gelu(self.fc1(x))))


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

    def __init__(self, before: int, channels: int, drop_paths: list[float], convolutional: bool):
        super().__init__()
        self.downsample = nn.Identity() if before == channels else nn.Sequential(
            nn.LayerNorm(before, eps=1e-6), PatchConv(before, channels, 2))
        self.blocks = nn.Sequential(*[Block(channels, rate, convolutional) for rate in drop_paths])

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.downsample(x))


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

    def __init__(self, size: str = "nano", in_chans: int = 1, num_classes: int = 1, drop_path_rate: float = 0.0):
        super().__init__()
        if size not in SIZES:
            nearest = get_close_matches(str(size), SIZES, 1, 0)[0]
            raise ValueError(f"ConvNeXt V2 has no size {size!r}: expected one of {', '.join(SIZES)} "
                             f"(nearest: {nearest})")
        if in_chans < 1 or num_classes < 1 or not 0 <= drop_path_rate < 1:
            raise ValueError(f"ConvNeXt V2: got in_chans {in_chans}, num_classes {num_classes}, drop_path_rate "
                             f"{drop_path_rate}; expected at least 1, at least 1, and a rate in [0, 1)")
        depths, widths, convolutional = SIZES[size].depths, SIZES[size].widths, SIZES[size].convolutional
        self.in_chans, self.num_features = in_chans, widths[-1]
        self.stem = nn.Sequential(PatchConv(in_chans, widths[0], 4), nn.LayerNorm(widths[0], eps=1e-6))
        rates = [rates.tolist() for rates in torch.linspace(0, drop_path_rate, sum(depths), device="cpu").split(depths)]
        self.stages = nn.Sequential(*[Stage(widths[max(0, i - 1)], widths[i], rates[i], convolutional)
                                      for i in range(4)])
        self.head = Head(widths[-1], num_classes)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def maps(self, x: Tensor) -> Tensor:
        """Last feature map [B, F, H // 32, W // 32] of images [B, C, H, W]."""
        if x.ndim != 4 or x.shape[1] != self.in_chans or min(x.shape[2:]) < STRIDE:
            raise ValueError(f"ConvNeXt V2 got images {list(x.shape)}: expected [B, {self.in_chans}, H, W], "
                             f"H and W at least {STRIDE}")
        return self.stages(self.stem(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)

    def features(self, x: Tensor) -> Tensor:
        """What the classifier sees of images [B, C, H, W]: [B, F], pooled and normalised."""
        return self.head.norm(self.maps(x).mean((2, 3)))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.maps(x).mean((2, 3)))
