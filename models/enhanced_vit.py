"""Vision transformer whose attention knows of lensing: where two patches lie around the centre of the image
weighs how they attend.

The images of a lensed source lie at like radii around the lens, beside or across from each other. So each
head learns a bias of its logits that is a function of the two radii and of the difference in azimuth, the
same for a turned or mirrored image. Sky position and other metadata come in as one more token.

Source: Dosovitskiy et al. 2021, arXiv:2010.11929 (transformer of patches); the bias is ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.convnextv2 import Linear, PatchConv
from models.layers.metadata import Standardise
from models.layers.recompute import chain
from models.layers.sky_position import SkyPosition


@dataclass(frozen=True)
class Size:
    """Features of a token, blocks, attention heads, the side of a patch in pixels,
    and whether convolutions make the tokens.
    """

    width: int
    depth: int
    heads: int
    patch: int
    convolutional: bool


SIZES = {
    "tiny": Size(64, 4, 4, 4, True),  # images of about 41 pixels
    "small": Size(128, 5, 4, 4, True),  # likewise
    "base": Size(768, 12, 12, 16, False),  # images of about 224 pixels: ViT-B/16
}
SMALLEST = 32  # pixels on a side
# Gaussians of log(1 + radius / patch side), and their distance and width: up to 15 patches
RADII, SPACING = 8, 0.4
ORDERS = 5  # cos(m * difference in azimuth), m = 0 to 4


def radial_basis(rows: int, columns: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """(basis [T, RADII], direction [T] complex) of the patches of a grid around its centre,
    T = rows * columns, float32 and complex64.

    The direction is (x + i y) / sqrt(r^2 + 1) with lengths in patches: its phase is the azimuth, which has no
    meaning at the centre, and there it fades to zero.
    """
    y = torch.arange(rows, device=device) - (rows - 1) / 2
    x = torch.arange(columns, device=device) - (columns - 1) / 2
    place = torch.complex(x.expand(rows, -1), y[:, None].expand(-1, columns)).flatten()
    radius = place.abs()
    centres = SPACING * torch.arange(RADII, device=device)
    basis = torch.exp(-0.5 * ((torch.log1p(radius)[:, None] - centres) / SPACING) ** 2)
    return basis, place / torch.sqrt(radius**2 + 1)


def make_geometry(rows: int, columns: int, device: torch.device) -> Tensor:
    """[ORDERS, T, 2, RADII]: of each patch the radial basis times cos and sin of m * azimuth,
    m the first axis.

    The sum over cos and sin of two patches' products has the cosine of the difference in azimuth and nothing
    else of the azimuths.
    """
    with torch.inference_mode(False):  # kept for later passes, which may want gradients
        basis, direction = radial_basis(rows, columns, device)
        powers = torch.stack([direction**m for m in range(ORDERS)])
        return torch.view_as_real(powers)[..., None] * basis[:, None]


def make_positions(rows: int, columns: int, width: int, device: torch.device) -> Tensor:
    """[T, width]: sine and cosine of both coordinates around the centre, in patches,
    at wavelengths of 2 pi to 20,000 pi patches.
    """
    with torch.inference_mode(False):
        frequency = 10000 ** (-torch.arange(width // 4, device=device) / (width // 4))
        y, x = ((torch.arange(n, device=device) - (n - 1) / 2)[:, None] * frequency for n in (rows, columns))
        y, x = y[:, None].expand(-1, columns, -1), x.expand(rows, -1, -1)
        return torch.cat([x.sin(), x.cos(), y.sin(), y.cos()], -1).flatten(0, 1)


cached_geometry, cached_positions = lru_cache(16)(make_geometry), lru_cache(16)(make_positions)


class Patches(PatchConv):
    """Disjoint patches: [B, I, H, W] -> [B, ceil(H / patch), ceil(W / patch), width],
    zeros around the image as far as patches reach.
    """

    def __init__(self, in_chans: int, width: int, patch: int):
        super().__init__(in_chans, width, patch)
        # tokens as large as the pixels: beside a place of order 1, the usual 0.02 would drown them
        nn.init.trunc_normal_(self.weight, std=self.weight[0].numel() ** -0.5)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(
            surrounded(x, *(-side % self.stride[0] for side in x.shape[2:])).permute(0, 2, 3, 1)
        )


class Convolutions(nn.Sequential):
    """Convolutions of 3x3 with stride 2, each with norm and GELU, then 1x1:
    [B, I, H, W] -> [B, rows, columns, width].

    For a patch of 2^n pixels n of them; tokens lie `patch` pixels apart, the outer ones at the edge of the
    image, which zeros surround to a multiple of `patch`, plus 1. So an odd image of 41 pixels has a token at
    its centre.

    Source: Xiao et al. 2021, arXiv:2106.14881, who find such a stem easier to train than disjoint patches.
    """

    def __init__(self, in_chans: int, width: int, patch: int):
        channels = [in_chans, *(32 * 2**i for i in range(patch.bit_length() - 1))]
        layers = [
            layer
            for before, after in zip(channels, channels[1:])
            for layer in (nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GroupNorm(1, after), nn.GELU())
        ]
        super().__init__(*layers, nn.Conv2d(channels[-1], width, 1))
        self.patch = patch

    def forward(self, x: Tensor) -> Tensor:
        return (
            super()
            .forward(surrounded(x, *((1 - side) % self.patch for side in x.shape[2:])))
            .permute(0, 2, 3, 1)
        )


def surrounded(x: Tensor, high: int, wide: int) -> Tensor:
    """Images with as many rows and columns of zeros in all, the odd one below and on the right."""
    return F.pad(x, (wide // 2, wide - wide // 2, high // 2, high - high // 2))


class LensingBias(nn.Module):
    """What is added to the attention logits: [B, heads, T, T] for a grid of T patches,
    the same for all examples.

        bias[h, query, key] = sum over m, k, l of weight[h, m, k, l] R_k(query) R_l(key)
        s(query)^m s(key)^m cos(m (azimuth - azimuth'))

    with the Gaussians R of the radius and s = r / sqrt(r^2 + 1), r in patches. It begins at zero: an ordinary
    transformer. The argument [B, rows, columns] only says how many examples and which grid, so that the bias
    has an example axis, as per-example gradients need.
    """

    def __init__(self, heads: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(heads, ORDERS, RADII, RADII))

    def forward(self, grid: Tensor) -> Tensor:
        B, rows, columns = grid.shape
        make = make_geometry if torch.compiler.is_compiling() else cached_geometry
        geometry = make(rows, columns, grid.device).to(self.weight.dtype)
        query = torch.einsum("mtck,hmkl->htmcl", geometry, self.weight).flatten(2)
        bias = query @ geometry.permute(0, 2, 3, 1).flatten(0, 2)
        return bias.expand(B, -1, -1, -1)


class Attention(nn.Module):
    """Self-attention over tokens [B, S, C]; `bias` [B, heads, S, S] or None is added to the logits."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.heads = heads
        self.qkv = Linear(width, 3 * width)
        self.proj = Linear(width, width)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=None if bias is None else bias.to(q.dtype))
        return self.drop(self.proj(x.transpose(1, 2).flatten(2)))


class Perceptron(nn.Module):
    """Widens four times, GELU, narrows; on [B, S, C]."""

    def __init__(self, width: int, dropout: float):
        super().__init__()
        self.fc1 = Linear(width, 4 * width)
        self.fc2 = Linear(4 * width, width)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.fc2(self.drop(F.gelu(self.fc1(x)))))


class Block(nn.Module):
    """Attention, then a perceptron, each of the normalised tokens and added to them: [B, S, C].

    The first tokens are the patches of `grid` = (rows, columns); those after them have no place, and no bias.
    """

    def __init__(
        self, width: int, heads: int, drop_path: float = 0.0, dropout: float = 0.0, lensing_bias: bool = True
    ):
        super().__init__()
        self.drop_path = drop_path
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads, dropout)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Perceptron(width, dropout)
        self.bias = LensingBias(heads) if lensing_bias else None

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        bias = None
        if self.bias is not None:
            bias = self.bias(x.new_zeros(()).expand(len(x), *grid))
            extra = x.shape[1] - bias.shape[-1]
            bias = F.pad(bias, (0, extra, 0, extra)) if extra else bias
        x = x + self.branch(self.attn(self.norm1(x), bias))
        return x + self.branch(self.mlp(self.norm2(x)))

    def branch(self, x: Tensor) -> Tensor:
        """Stochastic depth: in training, zero for an example with chance `drop_path`. Source:
        Huang et al. 2016, arXiv:1603.09382.
        """
        if not self.training or not self.drop_path:
            return x
        return x * (x.new_empty(len(x), 1, 1).bernoulli_(1 - self.drop_path) / (1 - self.drop_path))


class MetadataToken(nn.Module):
    """(values [B, M], present [B, M] bool) -> one token [B, width]:
    a linear map of what is known, and of what is known at all.

    Fields "ra" and "dec", degrees, become the position on the sky, every other one is standardised. The map
    begins at zero and has a learned constant, so that the token of an object of which nothing is known is
    that constant, and metadata begin without influence.
    """

    def __init__(self, fields: tuple[str, ...], width: int, sky_degree: int):
        super().__init__()
        self.ra, self.dec = (fields.index(name) if name in fields else None for name in ("ra", "dec"))
        self.others = [i for i, name in enumerate(fields) if name not in ("ra", "dec")]
        self.standardise = Standardise(len(self.others))
        self.sky = None if self.ra is None else SkyPosition(sky_degree)
        self.linear = nn.Linear(2 * len(self.others) + (self.sky.width if self.sky else 0), width)

    def forward(self, values: Tensor, present: Tensor) -> Tensor:
        known = self.standardise(values[:, self.others], present[:, self.others])
        if self.sky is not None:
            there = present[:, self.ra] & present[:, self.dec]
            known = torch.cat([known, self.sky(values[:, self.ra], values[:, self.dec], there)], 1)
        return self.linear(known)


class EnhancedViT(nn.Module):
    """Images [B, in_chans, H, W], H and W at least 32 -> logits [B, num_classes].

    size             a name in SIZES
    drop_path_rate   stochastic depth: chance that a branch of the last block is skipped;
                     it rises from zero linearly over the blocks
    patch_size       pixels from token to token; 0 for the size's own. Zeros are put around images that
                     patches do not fit: Patches for "base", Convolutions for the others
    fields           names of the M columns of metadata, which then make one more token; none:
                     a network of images
    sky_degree       of the harmonics of the fields "ra" and "dec"
    lensing_bias     off: an ordinary vision transformer
    dropout          chance that a number is dropped after the attention and within and after the perceptron
                     of each block

    The features are the normalised mean of the patches' last tokens: a class token would have to learn where
    to look, and to pool all patches alike keeps the centre of an image no more special than its radius makes
    it.

    Raises ValueError for what cannot be built, for images with other channels or too few pixels,
    and for metadata of another shape.
    """

    recompute = False  # see models/layers/recompute.py
    fresh = ("metadata",)  # see models/pretrained.py

    def __init__(
        self,
        size: str = "small",
        in_chans: int = 1,
        num_classes: int = 1,
        drop_path_rate: float = 0.0,
        patch_size: int = 0,
        fields: Sequence[str] = (),
        sky_degree: int = 6,
        lensing_bias: bool = True,
        dropout: float = 0.0,
    ):
        super().__init__()
        if size not in SIZES:
            raise ValueError(
                f"enhanced ViT has no size {size!r}: expected one of {', '.join(SIZES)} (nearest: "
                f"{get_close_matches(str(size), SIZES, 1, 0)[0]})"
            )
        if (
            in_chans < 1
            or num_classes < 1
            or not 0 <= drop_path_rate < 1
            or not 0 <= dropout < 1
            or not 0 <= patch_size <= SMALLEST
        ):
            raise ValueError(
                f"enhanced ViT: got in_chans {in_chans}, num_classes {num_classes}, drop_path_rate "
                f"{drop_path_rate}, dropout {dropout}, patch_size {patch_size}; expected at least 1, at "
                f"least 1, rates in [0, 1), and 0 to {SMALLEST} pixels"
            )
        if ("ra" in fields) != ("dec" in fields):
            raise ValueError(
                f"enhanced ViT: got fields {', '.join(fields)}; expected both ra and dec, or neither"
            )
        shape = SIZES[size]
        self.fields = tuple(fields)
        patch = patch_size or shape.patch
        if shape.convolutional and patch not in (2, 4, 8, 16, 32):
            raise ValueError(
                f"enhanced ViT {size!r}: got patch_size {patch}, expected 2, 4, 8, 16 or 32: each of its "
                "convolutions halves"
            )
        self.in_chans, self.feature_dim = in_chans, shape.width
        self.stem = (Convolutions if shape.convolutional else Patches)(in_chans, shape.width, patch)
        self.metadata = MetadataToken(self.fields, shape.width, sky_degree) if self.fields else None
        rates = torch.linspace(0, drop_path_rate, shape.depth, device="cpu").tolist()
        self.blocks = nn.ModuleList(
            [Block(shape.width, shape.heads, rate, dropout, lensing_bias) for rate in rates]
        )
        self.norm = nn.LayerNorm(shape.width, eps=1e-6)
        self.head = nn.Linear(shape.width, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        if self.metadata is not None:
            nn.init.zeros_(self.metadata.linear.weight)
            # of order 1 too: a norm near zero would have a steep slope
            nn.init.trunc_normal_(self.metadata.linear.bias)

    def fit(self, values: np.ndarray, present: np.ndarray) -> None:
        """Take mean and deviation of each field but ra and dec over the training examples:
        values [N, M], present [N, M].
        """
        if self.metadata is not None:
            self.metadata.standardise.fit(values[:, self.metadata.others], present[:, self.metadata.others])

    def features(self, x: Tensor, values: Tensor | None = None, present: Tensor | None = None) -> Tensor:
        """What the classifier sees: [B, feature_dim]. Without `values`, nothing is known of any object."""
        if x.ndim != 4 or x.shape[1] != self.in_chans or min(x.shape[2:]) < SMALLEST:
            raise ValueError(
                f"enhanced ViT got images {list(x.shape)}: expected [B, {self.in_chans}, H, W], H and W at "
                f"least {SMALLEST}"
            )
        tokens = self.stem(x)
        B, *grid = tokens.shape[:3]
        place = make_positions if torch.compiler.is_compiling() else cached_positions
        tokens = tokens.flatten(1, 2) + place(*grid, self.feature_dim, x.device)
        count = tokens.shape[1]
        if self.metadata is not None:
            if values is None:
                values = x.new_zeros(B, len(self.fields))
                present = x.new_zeros(B, len(self.fields), dtype=torch.bool)
            if values.shape != (B, len(self.fields)) or present.shape != values.shape:
                raise ValueError(
                    f"enhanced ViT got metadata {list(values.shape)} and their mask {list(present.shape)} of "
                    f"{B} images: expected both [B, {len(self.fields)}], a column for each of "
                    f"{', '.join(self.fields)}"
                )
            tokens = torch.cat([tokens, self.metadata(values, present)[:, None]], 1)
        tokens = chain(self.blocks, tokens, grid, recompute=self.recompute)
        return self.norm(tokens[:, :count].mean(1))

    def classify(self, features: Tensor) -> Tensor:
        """Logits [B, num_classes] of features [B, feature_dim]."""
        return self.head(features)

    def forward(self, x: Tensor, values: Tensor | None = None, present: Tensor | None = None) -> Tensor:
        return self.classify(self.features(x, values, present))
