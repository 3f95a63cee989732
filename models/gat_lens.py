"""Graph attention between the objects of a cutout: the central galaxy, what may be images of a source,
and what is beside them.

Objects come from a plain peak finder (models/layers/peaks.py). Convolutions make maps; what they hold around
each object, its brightness, colour and place are a node; objects near each other exchange messages;
the head sees the central object, all objects and all pixels.

Source: GATv2, Brody et al. 2022, arXiv:2105.14491, equation 7, as torch_geometric's GATv2Conv; attention
pooling: Ilse et al. 2018, arXiv:1802.04712, equation 8.
"""

import importlib
import importlib.util
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.convnextv2 import DropPath
from models.layers.metadata import deviation_of
from models.layers.peaks import Peaks, find_peaks

WIDTHS = (32, 64, 128)  # channels of the maps at the resolution of the image, a half and a quarter of it
PATCH = 7.0  # pixels on a side of what a node sees averaged beside the value at its place
METADATA = 32  # numbers that metadata become
EDGE = 3  # features of an edge
SMALLEST = 32  # pixels on a side of an image


def import_attention() -> type[nn.Module]:
    """torch_geometric's GATv2Conv. Raises ValueError, one line that says what to install,
    where it is absent.
    """
    if importlib.util.find_spec("torch_geometric") is None:
        raise ValueError(
            "torch_geometric is not installed, and gat_lens needs it: pip install -r requirements-graph.txt"
        )
    return importlib.import_module("torch_geometric.nn").GATv2Conv


class Residual(nn.Module):
    """Two 3x3 convolutions with norms, added to what came in; [B, C, H, W]."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm_1, self.norm_2 = nn.GroupNorm(8, channels), nn.GroupNorm(8, channels)
        self.conv_1, self.conv_2 = (nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv_2(F.gelu(self.norm_2(self.conv_1(F.gelu(self.norm_1(x))))))


class Trunk(nn.Module):
    """Images [B, C, H, W] -> maps [B, F, H / 2, W / 2] and [B, G, H / 4, W / 4], sides rounded up.

    Position i of a map looks at pixels around 2 i or 4 i.
    """

    def __init__(self, in_chans: int):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(in_chans, WIDTHS[0], 3, padding=1), nn.GroupNorm(8, WIDTHS[0]), nn.GELU()
        )
        self.to_half = nn.Sequential(nn.Conv2d(WIDTHS[0], WIDTHS[1], 3, 2, 1), Residual(WIDTHS[1]))
        self.to_quarter = nn.Sequential(
            nn.Conv2d(WIDTHS[1], WIDTHS[2], 3, 2, 1), Residual(WIDTHS[2]), Residual(WIDTHS[2])
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        half = self.to_half(self.stem(x))
        return half, self.to_quarter(half)


class GraphLayer(nn.Module):
    """Graph attention over normalised nodes, then GELU, added to what came in;
    nodes [M, F] of all images, edges [2, E] and [E, 3].
    """

    def __init__(self, attention: type[nn.Module], width: int, heads: int, drop_path: float):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = attention(width, width // heads, heads, edge_dim=EDGE, add_self_loops=False)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(
        self, nodes: Tensor, edges: Tensor, edge_features: Tensor, image: Tensor, images: int
    ) -> Tensor:
        """image [M] int64: which of the `images` images a node belongs to;
        the whole branch of an image is dropped or none of it.
        """
        change = F.gelu(self.attention(self.norm(nodes), edges, edge_features))
        return nodes + change * self.drop_path(change.new_ones(images, 1, 1, 1)).view(images, 1)[image]


class GATLens(nn.Module):
    """Images [B, in_chans, H, W], H and W at least 32 -> logits [B, num_classes];
    metadata values and present [B, M] where it has fields.

    max_nodes         N, objects of an image, the central one included; the brightest are taken
    threshold         of the peak finder, in units of the noise of its detection image
    spatial_radius    arcsec; objects that are not farther apart than this have an edge,
                      so has each with itself
    pixel_scale       arcsec
    node_features     numbers of a node, a multiple of `heads`
    `drop_path_rate` is that of the last layer; it rises from zero linearly over the layers.
    Images should be linear in flux, raw or
    standardised: the peak finder says why.

    Edges of a batch are one list, of as many as there are: the graph's cost is that of the objects that were
    found, 2.5 of 16 on average in simulated cutouts, where a full graph with edges masked would pay for all
    pairs (over ten times the time on a CPU). Making the lists asks a GPU for their lengths, which waits for
    it, twice a batch. Not for private training: the first axis inside is that of the nodes of all images,
    not of examples.

    Raises ValueError for numbers that cannot be met, for images with other channels or too few pixels, for
    metadata of another shape, and where torch_geometric is not installed.
    """

    def __init__(
        self,
        in_chans: int = 1,
        num_classes: int = 1,
        drop_path_rate: float = 0.0,
        fields: Sequence[str] = (),
        node_features: int = 128,
        layers: int = 4,
        heads: int = 8,
        feature_dim: int = 512,
        spatial_radius: float = 5.0,
        pixel_scale: float = 0.2,
        max_nodes: int = 16,
        threshold: float = 3.5,
    ):
        super().__init__()
        if in_chans < 1 or num_classes < 1 or not 0 <= drop_path_rate < 1:
            raise ValueError(
                f"gat_lens: got in_chans {in_chans}, num_classes {num_classes}, drop_path_rate "
                f"{drop_path_rate}; expected at least 1, at least 1, and a rate in [0, 1)"
            )
        if (
            min(layers, heads, feature_dim, node_features) < 1
            or node_features % heads
            or not 2 <= max_nodes <= SMALLEST**2
        ):
            raise ValueError(
                f"gat_lens: got layers {layers}, heads {heads}, node_features {node_features}, feature_dim "
                f"{feature_dim}, max_nodes {max_nodes}; expected at least 1, node_features a multiple of "
                f"heads, max_nodes 2 to {SMALLEST**2}"
            )
        if not (spatial_radius > 0 and pixel_scale > 0 and threshold > 0):
            raise ValueError(
                f"gat_lens: got spatial_radius {spatial_radius} arcsec, pixel_scale {pixel_scale} arcsec, "
                f"threshold {threshold}; expected more than 0"
            )
        attention = import_attention()
        self.in_chans = in_chans
        self.fields = tuple(fields)
        self.feature_dim = feature_dim
        self.spatial_radius = spatial_radius
        self.pixel_scale = pixel_scale
        self.max_nodes = max_nodes
        self.threshold = threshold
        self.trunk = Trunk(in_chans)
        self.embed = nn.Linear(2 * (WIDTHS[1] + WIDTHS[2]) + 2 * in_chans + 5, node_features)
        rates = torch.linspace(0, drop_path_rate, layers, device="cpu").tolist()
        self.layers = nn.ModuleList([GraphLayer(attention, node_features, heads, rate) for rate in rates])
        self.norm = nn.LayerNorm(node_features)
        self.score = nn.Sequential(nn.Linear(node_features, 64), nn.Tanh(), nn.Linear(64, 1))
        self.register_buffer("mean", torch.zeros(len(self.fields)))
        self.register_buffer("deviation", torch.ones(len(self.fields)))
        if fields:
            self.metadata = nn.Sequential(nn.Linear(2 * len(self.fields), METADATA), nn.GELU())
        joined = 2 * node_features + WIDTHS[2] + (METADATA if fields else 0)
        self.join = nn.Sequential(nn.Linear(joined, feature_dim), nn.LayerNorm(feature_dim), nn.GELU())
        self.head = nn.Linear(feature_dim, num_classes)

    def fit(self, values: np.ndarray, present: np.ndarray) -> None:
        """Take mean and deviation of each field over the examples [N, M] that have it;
        0 and 1 for a field that none has.
        """
        for field, (column, there) in enumerate(zip(values.T, present.T)):
            if there.any():
                self.mean[field] = float(column[there].mean(dtype=np.float64))
                self.deviation[field] = deviation_of(column[there])

    def band_places(self, channels: int) -> dict[str, list[list[int]]]:
        """See models/pretrained.py: a node has the brightness and the colour in each band."""
        before = 2 * (WIDTHS[1] + WIDTHS[2])
        return {
            "trunk.stem.0.weight": [[band] for band in range(channels)],
            "embed.weight": [[before + band, before + channels + band] for band in range(channels)],
        }

    def classify(self, features: Tensor) -> Tensor:
        """Logits [B, num_classes] of features [B, feature_dim]."""
        return self.head(features)

    def features(self, x: Tensor, values: Tensor | None = None, present: Tensor | None = None) -> Tensor:
        """What the classifier sees of images [B, C, H, W] and metadata [B, M] (None: all missing):
        [B, feature_dim].
        """
        if x.ndim != 4 or x.shape[1] != self.in_chans or min(x.shape[2:]) < SMALLEST:
            raise ValueError(
                f"gat_lens got images {list(x.shape)}: expected [B, {self.in_chans}, H, W], H and W at least "
                f"{SMALLEST}"
            )
        return self.features_of(x, find_peaks(x, self.max_nodes, self.threshold), values, present)

    def features_of(
        self, x: Tensor, peaks: Peaks, values: Tensor | None = None, present: Tensor | None = None
    ) -> Tensor:
        """`features` of images whose objects are known."""
        half, quarter = self.trunk(x)
        nodes = self.embed(
            torch.cat(
                [
                    around(half, peaks.position / 2, PATCH / 2),
                    around(quarter, peaks.position / 4, PATCH / 4),
                    self.describe(peaks),
                ],
                2,
            )
        )
        nodes = self.norm(self.exchange(nodes, peaks))
        weight = self.score(nodes).squeeze(2).masked_fill(~peaks.mask, -torch.inf).softmax(1)
        parts = [(weight[..., None] * nodes).sum(1), nodes[:, 0], quarter.mean((2, 3))]
        if self.fields:
            parts.append(self.metadata(self.standard(x, values, present)))
        return self.join(torch.cat(parts, 1))

    def forward(self, x: Tensor, values: Tensor | None = None, present: Tensor | None = None) -> Tensor:
        return self.classify(self.features(x, values, present))

    def describe(self, peaks: Peaks) -> Tensor:
        """[B, N, 2 C + 5]: brightness in each band, in noise; colour less the central object's;
        signal-to-noise; place; is it central.

        Numbers that run over decades are under asinh. The place is polar, around the central object.
        """
        brightness = torch.asinh(peaks.flux / peaks.noise[:, None])
        colour = brightness - brightness.mean(2, keepdim=True)
        offset, distance = self.offset_from_central(peaks)
        central = torch.zeros_like(distance)
        central[:, 0] = 1
        direction = offset / distance.clamp_min(1e-6)
        return torch.cat(
            [
                brightness,
                colour - colour[:, :1],
                torch.asinh(peaks.snr)[..., None],
                distance / self.spatial_radius,
                direction,
                central,
            ],
            2,
        )

    def offset_from_central(self, peaks: Peaks) -> tuple[Tensor, Tensor]:
        """Offset [B, N, 2] and distance [B, N, 1] from the central object in arcsec."""
        offset = (peaks.position - peaks.position[:, :1]) * self.pixel_scale
        return offset, offset.norm(dim=2, keepdim=True)

    def exchange(self, nodes: Tensor, peaks: Peaks) -> Tensor:
        """Nodes [B, N, F] after all layers, in float32 also under autocast; zero where the mask is False."""
        B, N, width = nodes.shape
        with torch.autocast(nodes.device.type, enabled=False):
            nodes = nodes.to(torch.promote_types(nodes.dtype, torch.float32))
            place, edges, edge_features = self.edges(peaks)
            image = place // N
            packed = nodes.flatten(0, 1)[place]
            for layer in self.layers:
                packed = layer(packed, edges, edge_features.to(packed.dtype), image, B)
            return torch.zeros_like(nodes).flatten(0, 1).index_copy(0, place, packed).view(B, N, width)

    def edges(self, peaks: Peaks) -> tuple[Tensor, Tensor, Tensor]:
        """Places [M] of the nodes that are there in the flattened [B N];
        edges [2, E] (from, to) between these; their features [E, 3].

        The features: distance over `spatial_radius`, cosine and sine of the difference of the position angles
        (to less from), as the central object sees the two; zero where one of them is the central object.
        """
        B, N = peaks.mask.shape
        # [B, to, from]
        separation = (peaks.position[:, :, None] - peaks.position[:, None]).norm(dim=3) * self.pixel_scale
        joined = peaks.mask[:, :, None] & peaks.mask[:, None] & (separation <= self.spatial_radius)
        offset, distance = self.offset_from_central(peaks)
        x, y = (offset / distance.clamp_min(1e-6)).unbind(2)
        cosine = x[:, :, None] * x[:, None] + y[:, :, None] * y[:, None]
        sine = y[:, :, None] * x[:, None] - x[:, :, None] * y[:, None]
        place = peaks.mask.flatten().nonzero().squeeze(1)
        number = peaks.mask.flatten().cumsum(0).view(B, N) - 1  # of a node among those that are there
        b, to, start = joined.nonzero().unbind(1)
        edge_features = torch.stack([separation / self.spatial_radius, cosine, sine], 3)[b, to, start]
        return place, torch.stack([number[b, start], number[b, to]]), edge_features

    def standard(self, x: Tensor, values: Tensor | None, present: Tensor | None) -> Tensor:
        """Metadata in deviations from the mean of the training split, 0 where missing, and which are there:
        [B, 2 M].
        """
        if values is None or present is None:
            return self.mean.new_zeros(len(x), 2 * len(self.fields))
        if values.shape != (len(x), len(self.fields)) or present.shape != values.shape:
            raise ValueError(
                f"gat_lens got metadata {list(values.shape)} and their mask {list(present.shape)}: expected "
                f"[{len(x)}, {len(self.fields)}] both, for {', '.join(self.fields)}"
            )
        standard = torch.where(present, (values - self.mean) / self.deviation, 0.0)
        return torch.cat([standard, present.to(standard.dtype)], 1)


def around(maps: Tensor, position: Tensor, side: float) -> Tensor:
    """Maps [B, F, H, W] at positions [B, N, 2] (x, y), bilinear, and their mean over squares of this side:
    [B, N, 2 F].

    Beyond the edge a map goes on as its edge for the value; the mean is over the part of the square that is
    inside. Both are one product of matrices, with the same bits every time, which a GPU's grid_sample has not
    backwards.
    """
    weights = []
    for axis, length in ((1, maps.shape[2]), (0, maps.shape[3])):
        at = position[..., axis, None].clamp(0, length - 1)
        offset = (torch.arange(length, device=maps.device) - at).abs()  # [B, N, length]
        inside = ((side + 1) / 2 - offset).clamp(0, 1)  # the part of each pixel that is in the square
        weights.append(torch.stack([(1 - offset).clamp_min(0), inside / inside.sum(2, keepdim=True)], 2))
    rows, columns = weights
    weight = (rows[..., None] * columns[..., None, :]).to(maps.dtype).flatten(3)  # [B, N, 2, H W]
    return torch.bmm(weight.flatten(1, 2), maps.flatten(2).transpose(1, 2)).view(
        *position.shape[:2], 2 * maps.shape[1]
    )
