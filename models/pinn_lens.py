"""A network that explains a cutout by a lens: it infers the geometry, traces the rays,
and judges by what is left over.

Source of the idea: physics-informed networks (Raissi et al. 2019, J. Comput. Phys.
378, 686), with the lens equation as the physics.
"""

from difflib import get_close_matches

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers.lens_fit import LensFit, soft_geometry
from models.layers.preprocess import power_of_two
from models.layers.quantity_head import QuantityHead
from models.layers.symmetric import ORDER, turned, unturned
from models.resnet import ResNet
from physics.lens_parameters import GEOMETRY, turn
from physics.noise import noise_rms

# widths of the two ResNet-18: the one that infers, and the one that judges
SIZES = {"small": (0.5, 0.25), "base": (1.0, 0.5)}
STRETCH = 3.0  # in units of the noise: brighter pixels are seen by their logarithm
PLACES = 3  # the encoder's last map is read at so many places along a side


class PinnLens(nn.Module):
    """Images [B, in_chans, H, W], H and W at least 32, in any unit that is linear in flux -> logits [B,
    num_classes].

    1. An encoder infers the geometry of a lens and its uncertainty (`quantity_head`), whatever the image is.
    2. The lens equation makes an image of it, at the fluxes that fit best (models/layers/lens_fit.py).
    3. A second network sees the image, the image without the lens galaxy, and without the modelled arcs too;
    with the fluxes in units of
       their errors, chi^2, and the geometry it decides.
    What decides cannot change what is inferred: in training no gradient goes from 3 into 1 and 2. Otherwise
    the geometry would become a code for the class instead of one for the sky. So what the encoder makes of
    its maps as geometry is learnt from the geometry's own losses alone (--use_physics; --regression_weight,
    where the training lenses' parameters are known); the maps themselves serve the label too.
    Both networks see asinh(x / 3 rms), each image in units of its own noise; sky that is not subtracted is
    fitted. The encoder sees the image without the logarithm besides, in units of its spread: so a galaxy of
    one colour vanishes in the difference of two bands. Both know the symmetries of the square
    (models/layers/symmetric.py): where a square image is turned or mirrored, the geometry is too,
    and the logit stays.

    pixel_scale and seeing (FWHM) in arcsec. Raises ValueError for a size that is not known.
    """

    def __init__(
        self,
        size: str = "small",
        in_chans: int = 1,
        num_classes: int = 1,
        drop_path_rate: float = 0.0,
        image_size: int = 41,
        pixel_scale: float = 0.2,
        seeing: float = 0.75,
        feature_dim: int = 512,
    ):
        super().__init__()
        if size not in SIZES:
            raise ValueError(
                f"pinn_lens has no size {size!r}: expected one of {', '.join(SIZES)} (nearest: "
                f"{get_close_matches(str(size), SIZES, 1, 0)[0]})"
            )
        infers, judges = SIZES[size]
        self.feature_dim = feature_dim
        self.encoder, self.judge = (
            ResNet("18", channels, 1, drop_path_rate, width, image_size=image_size, symmetric=True)
            for channels, width in ((2 * in_chans, infers), (3 * in_chans, judges))
        )
        self.encoder.head = self.judge.head = None
        self.quantity_head = QuantityHead(self.encoder.feature_dim * PLACES**2, GEOMETRY)
        self.fit = LensFit(pixel_scale, seeing)
        evidence = 4 * in_chans + 2 * len(self.quantity_head.centre)
        self.join = nn.Linear(
            (self.encoder.feature_dim + self.judge.feature_dim) // ORDER + evidence, feature_dim
        )
        self.classify = nn.Linear(feature_dim, num_classes)

    def band_places(self, channels: int) -> dict[str, list[list[int]]]:
        """See models/pretrained.py: images that are stacked, and the evidence of each band (`evidence`)."""
        bands = range(channels)
        at = (self.encoder.feature_dim + self.judge.feature_dim) // ORDER
        return {
            "encoder.conv1.weight": [[band, channels + band] for band in bands],
            "judge.conv1.weight": [[band, channels + band, 2 * channels + band] for band in bands],
            "join.weight": [
                [at + place for place in (2 * band, 2 * band + 1, 2 * channels + band, 3 * channels + band)]
                for band in bands
            ],
        }

    def inferred(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """(features [B, feature_dim], mean and variance [B, P] of the geometry's components and all of
        LensFit's answers).
        """
        noise = noise_rms(x)
        maps = self.encoder.maps(torch.cat([standardised(x), stretched(x, noise)], 1))
        mean, variance = self.geometry(maps)
        fit = self.fit(x, noise, soft_geometry(mean, self.quantity_head))
        shown = fit | dict(mean=mean, variance=variance)
        if self.training:  # in evaluation, explanations and attacks follow the whole way
            shown = {name: value.detach() for name, value in shown.items()}
        left = x - shown["light"]
        judged = self.judge.features(
            torch.cat([stretched(image, noise) for image in (x, left, left - shown["arcs"])], 1)
        )
        unmoved = torch.cat([unturned(maps.mean((2, 3))), unturned(judged), self.evidence(shown)], 1)
        turning = torch.cat(
            [
                in_each_frame(shown["mean"] - self.quantity_head.centre, signed=True)
                / self.quantity_head.spread,
                (in_each_frame(shown["variance"], signed=False) / self.quantity_head.spread.square()).log(),
            ],
            2,
        )
        features = F.gelu(self.join(torch.cat([unmoved[:, None].expand(-1, ORDER, -1), turning], 2))).mean(1)
        return features, fit | dict(mean=mean, variance=variance)

    def geometry(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance [B, P] of the geometry's components, from the encoder's maps [B, F, H', W'] as
        they would be were the image turned by each symmetry of the square:
        each answer turned back, and their mean.
        """
        # B, F / 8, views, 72
        views = turned(F.adaptive_avg_pool2d(maps, PLACES).unflatten(1, (-1, ORDER)).flatten(2), PLACES)
        answers = self.quantity_head(views.transpose(1, 2).flatten(2).flatten(0, 1))
        mean, variance = (
            turn(GEOMETRY, answer, symmetries(answer), back=True, signed=signed)
            .unflatten(0, (-1, ORDER))
            .mean(1)
            for answer, signed in zip(answers, (True, False))
        )
        return mean, variance

    def evidence(self, shown: dict[str, Tensor]) -> Tensor:
        """[B, 4 C]: fluxes of lens and source in their errors, how well all fits, strength of the arcs."""
        rms = above_zero(shown["noise"])
        significance = (
            torch.asinh(shown["flux"] / above_zero(shown["error"])) * (shown["noise"] > 0)[..., None]
        )
        strength = (shown["arcs"] / rms[..., None, None]).square().mean((2, 3)).add(1e-4).log()
        return torch.cat([significance.flatten(1), shown["chi2"].log1p(), strength], 1)

    def features(self, x: Tensor) -> Tensor:
        return self.inferred(x)[0]

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.features(x))


def stretched(x: Tensor, noise: Tensor) -> Tensor:
    """x [B, C, H, W] in units of the noise [B, C], linear where it is faint;
    a band that is not there stays 0.
    """
    return torch.asinh(x / (STRETCH * above_zero(noise))[..., None, None]) * (noise > 0)[..., None, None]


def above_zero(x: Tensor) -> Tensor:
    """x, 1 where it is not above zero."""
    return torch.where(x > 0, x, 1.0)


def standardised(x: Tensor) -> Tensor:
    """x [B, C, H, W] less its mean, in units of its spread, for each image and channel;
    a band that is not there stays 0.
    """
    x = x - x.mean((2, 3), keepdim=True)
    x = x / power_of_two(
        x.abs().amax((2, 3), keepdim=True)
    )  # in steps that round nothing: squares of any unit
    # clamped before the root, whose slope at 0 is infinite
    return x / x.square().mean((2, 3), keepdim=True).clamp(min=1e-24).sqrt()


def symmetries(rows: Tensor) -> Tensor:
    """Numbers of the symmetries, 0 to 7 over and over, as many as there are `rows` [8 B, ...]."""
    return torch.arange(ORDER, device=rows.device).repeat(len(rows) // ORDER)


def in_each_frame(components: Tensor, signed: bool) -> Tensor:
    """Components [B, P] of the geometry, or their variances (not `signed`), -> [B, 8, P]:
    as they are where the image is turned by each symmetry.
    """
    rows = components.repeat_interleave(ORDER, 0)
    return turn(GEOMETRY, rows, symmetries(rows), signed=signed).unflatten(0, (-1, ORDER))
