"""ResNet with GroupNorm: convolutions of 3x3 pixels, each pair or triple of them added to what came in.

Names and shapes of the weights are those of timm's ResNet with GroupNorm (so `bn1` is a GroupNorm), but for
the classifier, which is `head` and not `fc`. Every parameter is used by the forward of its own module only,
as per-example gradients need it.

With `symmetric` the convolutions know that a sky turned or mirrored is a sky (models/layers/symmetric.py),
and the logit does not change at all with the eight symmetries of the square.

Source: He et al. 2015, arXiv:1512.03385, table 1, with the stride in the 3x3 convolution of a bottleneck as
    in torchvision;
GroupNorm: Wu & He 2018, arXiv:1803.08494; the last norm of a block begins at zero:
    Goyal et al. 2017, arXiv:1706.02677, 5.1.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.convnextv2 import DropPath
from models.layers.recompute import chain
from models.layers.symmetric import ORDER, SymmetricConv2d, SymmetricMaxPool2d, SymmetricNorm, unturned


@dataclass(frozen=True)
class Size:
    """Blocks of each of the four stages, and whether they are bottlenecks:
    1x1, 3x3, 1x1 to four times the channels.
    """

    depths: tuple[int, int, int, int]
    bottleneck: bool


@dataclass(frozen=True)
class Stem:
    """The first convolution: its kernel and stride in pixels,
    and whether a 3x3 maximum with stride 2 follows.
    """

    kernel: int
    stride: int
    pool: bool


SIZES = {"18": Size((2, 2, 2, 2), False), "34": Size((3, 4, 6, 3), False), "50": Size((3, 4, 6, 3), True)}
STEMS = {"patch": Stem(7, 2, True), "fine": Stem(3, 2, False)}
FINE_BELOW = 96  # pixels on a side: at 96 the last map of the stem "patch" has 3 x 3 positions
SMALLEST = 32  # pixels on a side of an image


def norm(channels: int) -> nn.GroupNorm:
    """GroupNorm in 32 groups, or in fewer so that each has at least two channels."""
    return nn.GroupNorm(math.gcd(32, channels // 2), channels)


def conv(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """Without bias, zeros beyond the edge: H x W -> ceil(H / stride) x ceil(W / stride)."""
    return nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False)


class Layers(NamedTuple):
    """What blocks are made of: first and conv of (channels in, out, kernel, stride), norm of channels,
    pool of 3x3 pixels with stride 2.
    """

    first: Callable[..., nn.Module]
    conv: Callable[..., nn.Module]
    norm: Callable[[int], nn.Module]
    pool: Callable[[], nn.Module]


PLAIN = Layers(conv, conv, norm, partial(nn.MaxPool2d, 3, 2, 1))
SYMMETRIC = Layers(partial(SymmetricConv2d, first=True), SymmetricConv2d, SymmetricNorm, SymmetricMaxPool2d)


class Block(nn.Module):
    """[B, I, H, W] -> [B, O, ceil(H / stride), ceil(W / stride)]: convolutions, added to what came in.

    Two of 3x3 to `channels` = O, or with `bottleneck` 1x1, 3x3 to `channels` and 1x1 to 4 `channels` = O.
    Where shape changes, what came in goes through a 1x1 convolution.
    """

    def __init__(
        self,
        before: int,
        channels: int,
        stride: int,
        drop_path: float,
        bottleneck: bool,
        layers: Layers = PLAIN,
    ):
        super().__init__()
        _, conv, norm, _ = layers
        if bottleneck:
            after = 4 * channels
            self.conv1 = conv(before, channels, 1)
            self.bn1 = norm(channels)
            self.conv2 = conv(channels, channels, 3, stride)
            self.bn2 = norm(channels)
            self.conv3 = conv(channels, after, 1)
            self.bn3 = norm(after)
        else:
            after = channels
            self.conv1 = conv(before, channels, 3, stride)
            self.bn1 = norm(channels)
            self.conv2 = conv(channels, channels, 3)
            self.bn2 = norm(channels)
        self.bottleneck = bottleneck
        nn.init.zeros_((self.bn3 if bottleneck else self.bn2).weight)
        self.downsample = (
            nn.Identity()
            if (before, stride) == (after, 1)
            else nn.Sequential(conv(before, after, 1, stride), norm(after))
        )
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.bottleneck:
            y = self.bn3(self.conv3(F.relu(y)))
        return F.relu(self.drop_path(y) + self.downsample(x))


class ResNet(nn.Module):
    """Images [B, in_chans, H, W], H and W at least 32 -> logits [B, num_classes].

    size             "18", "34" or "50" layers
    drop_path_rate   stochastic depth: chance that the last block is skipped;
                     it rises from zero linearly over the blocks
    width            factor on the channels of all layers, 1 for 64, 128, 256 and 512;
                     rounded to multiples of 8
    stem             "patch": 7x7 convolution with stride 2 and a maximum with stride 2,
                     a quarter of the resolution;
                     "fine": 3x3 convolution with stride 2, half of it; "auto":
                     fine where `image_size` is below 96, else patch
    image_size       pixels on a side that images will have; only "auto" reads it,
                     any size can be given to either stem
    symmetric        an eighth of the weights at the same cost;
                     a square image turned or mirrored has the same logit

    Raises ValueError for a size or stem that is not known, numbers that cannot be,
    and images with other channels or too few pixels.
    """

    recompute = False  # see models/layers/recompute.py

    def __init__(
        self,
        size: str = "50",
        in_chans: int = 1,
        num_classes: int = 1,
        drop_path_rate: float = 0.0,
        width: float = 1.0,
        stem: str = "auto",
        image_size: int = 41,
        symmetric: bool = False,
    ):
        super().__init__()
        size = str(size)
        for what, name, names in (("size", size, SIZES), ("stem", stem, ("auto", *STEMS))):
            if name not in names:
                raise ValueError(
                    f"ResNet has no {what} {name!r}: expected one of {', '.join(names)} (nearest: "
                    f"{get_close_matches(name, names, 1, 0)[0]})"
                )
        if in_chans < 1 or num_classes < 1 or not 0 <= drop_path_rate < 1 or not 0 < width < math.inf:
            raise ValueError(
                f"ResNet: got in_chans {in_chans}, num_classes {num_classes}, drop_path_rate "
                f"{drop_path_rate}, width {width}; expected at least 1, at least 1, a rate in [0, 1), and a "
                "width above 0"
            )
        stem = ("fine" if image_size < FINE_BELOW else "patch") if stem == "auto" else stem
        first = STEMS[stem]
        depths = SIZES[size].depths
        bottleneck = SIZES[size].bottleneck
        channels = [max(8, 8 * round(width * 2**i * 8)) for i in range(4)]
        self.widths = tuple(4 * c if bottleneck else c for c in channels)  # channels of each stage's map
        self.in_chans = in_chans
        self.feature_dim = self.widths[-1]
        self.stem = stem
        self.symmetric = symmetric
        layers = SYMMETRIC if symmetric else PLAIN
        self.conv1 = layers.first(in_chans, channels[0], first.kernel, first.stride)
        self.bn1 = layers.norm(channels[0])
        self.maxpool = layers.pool() if first.pool else nn.Identity()
        rates = iter(torch.linspace(0, drop_path_rate, sum(depths), device="cpu").tolist())
        before = channels[0]
        for i in range(4):
            blocks = []
            for number in range(depths[i]):
                blocks.append(
                    Block(before, channels[i], 2 if i and not number else 1, next(rates), bottleneck, layers)
                )
                before = self.widths[i]
            setattr(self, f"layer{i + 1}", nn.Sequential(*blocks))
        self.head = nn.Linear(self.feature_dim // ORDER if symmetric else self.feature_dim, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def maps(self, x: Tensor, change: Callable[[int, Tensor], Tensor] | None = None) -> Tensor:
        """Last feature map [B, F, H', W'] of images [B, C, H, W].

        `change`, where given, is called with the number of each stage, 1 to 4, and its map [B, widths[number
        - 1], h, w]; what it returns goes on in place of the map.
        """
        if x.ndim != 4 or x.shape[1] != self.in_chans or min(x.shape[2:]) < SMALLEST:
            raise ValueError(
                f"ResNet got images {list(x.shape)}: expected [B, {self.in_chans}, H, W], H and W at least "
                f"{SMALLEST}"
            )
        x = self.maxpool(F.relu(self.bn1(self.conv1(x))))
        for number, stage in enumerate((self.layer1, self.layer2, self.layer3, self.layer4), 1):
            x = chain(stage, x, recompute=True) if self.recompute else stage(x)
            if change is not None:
                x = change(number, x)
        return x

    def features(self, x: Tensor) -> Tensor:
        """The mean over the last map of images [B, C, H, W]: [B, feature_dim].
        Where `symmetric`, they turn with the image.
        """
        return self.maps(x).mean((2, 3))

    def classify(self, features: Tensor) -> Tensor:
        """Logits [B, num_classes] of features [B, feature_dim]."""
        return self.head(unturned(features) if self.symmetric else features)

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.features(x))
