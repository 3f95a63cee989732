"""Objects in a cutout: local maxima of the image between two scales of smoothing,
in units of its own noise.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from models.layers.preprocess import MAD, blur, extremes, gaussian_kernels

FINE, COARSE = 1.0, 2.5  # standard deviations in pixels of the two Gaussians whose difference is searched
WINDOW = 5  # pixels; a peak is the highest pixel of the square of this side around it
# pixels; the central object is the highest peak this near to the middle of the frame, and the only one
CENTRAL = 2.0


class Peaks(NamedTuple):
    """Up to N objects of each image. Entry 0 is the central object,
    the others follow by falling signal-to-noise.

    The central object is there in every image: where there is no peak near the middle, it is the middle
    itself with what the image has there. Of an entry that is not there (mask False) everything is zero.
    """

    # [B, N, 2] float32: x (column) and y (row) in pixels, 0 is the middle of the first pixel
    position: Tensor
    flux: Tensor  # [B, N, C] float32, units of the image: smoothed by FINE, less the background
    snr: Tensor  # [B, N] float32: height in the detection image over that image's noise
    mask: Tensor  # [B, N] bool
    # [B, C] float32, units of the image: that of a band's difference image; inf for a missing band
    noise: Tensor


@torch.no_grad()
def find_peaks(image: Tensor, count: int = 16, threshold: float = 3.5) -> Peaks:
    """The central object and the `count` - 1 highest other peaks above `threshold` of images [B, C, H, W],
    without derivatives.

    The detection image is the difference of two Gaussian smoothings of each band, divided by its noise,
    summed over the bands: a factor on a band changes nothing. The difference takes away the sky and the
    smooth wings of the lens. From what is left of the lens, arcs come out by its symmetry: where an image
    turned by half a turn about the middle of the frame is bright too, the fainter of the two is subtracted
    (never anything negative, so that noise makes no more peaks than before). Of two equal images exactly
    opposite each other nothing is found. The central object alone is sought before that,
    and others not nearer to the middle than CENTRAL.

    Noise is 1.4826 times the median of absolute values. A pixel that is exactly zero is taken for a missing
    one (a band that is not there, zeros around the frame): it has no say in the noise and is no peak, neither
    are the outermost pixels. The image should be linear in flux: simulated cutouts under asinh(image / 3
    noise) gave 0.55 objects within 8 pixels of the lens, linear ones 0.78.

    Of pure white noise, 41 x 41 pixels, thresholds of 3, 3.5, 4 and 4.5 let 0.75, 0.15,
    0.020 and 0.001 false peaks through per image.
    """
    with torch.autocast(image.device.type, enabled=False):
        x = image.detach().float()
        (B, C, H, W), seen = x.shape, x != 0
        x = torch.where(seen, x - median(x, seen), 0.0)
        fine, coarse = (gaussian_kernels([sigma]).to(x.device) for sigma in (FINE, COARSE))
        smooth = blur(x, fine, "reflect")
        band = smooth - blur(x, coarse, "reflect")
        noise = noise_of(band, seen)
        total = (band / noise).sum(1, keepdim=True)
        seen = seen.any(1, keepdim=True)
        snr = total / noise_of(total, seen)
        beside = snr - torch.minimum(snr, snr.flip(2, 3)).clamp_min(0)  # without what is symmetric

        pixel = torch.arange(H * W, device=x.device)
        row = pixel // W
        column = pixel % W
        inside = (row > 0) & (row < H - 1) & (column > 0) & (column < W - 1)
        near = (row - (H - 1) / 2) ** 2 + (column - (W - 1) / 2) ** 2 <= CENTRAL**2
        allowed = seen.flatten(1) & inside
        top, central = heights(snr, allowed & near, threshold).max(1, keepdim=True)
        found = top > 0
        central = torch.where(found, central, (H - 1) // 2 * W + (W - 1) // 2)
        top, others = heights(beside, allowed & ~near, threshold).topk(count - 1)

        snr, beside = snr.flatten(1), beside.flatten(1)
        middle = x.new_tensor([(W - 1) / 2, (H - 1) / 2])
        place = torch.where(found[..., None], refined(snr, central, W), middle)
        position, at = torch.cat([place, refined(beside, others, W)], 1), torch.cat([central, others], 1)
        mask = torch.cat([torch.ones_like(found), top > 0], 1)
        flux = smooth.flatten(2).gather(2, at[:, None].expand(B, C, count)).transpose(1, 2)
        height = torch.cat([snr.gather(1, central), top], 1)
        return Peaks(position * mask[..., None], flux * mask[..., None], height, mask, noise.flatten(1))


def heights(snr: Tensor, allowed: Tensor, threshold: float) -> Tensor:
    """[B, H W] of snr [B, 1, H, W] where it is a local maximum above the threshold and allowed,
    and zero elsewhere.
    """
    # Where equal pixels make a plateau (clipped cores), the pool names one of them.
    highest = F.max_pool2d(snr, WINDOW, 1, WINDOW // 2, return_indices=True)[1].flatten(1)
    snr, pixel = snr.flatten(1), torch.arange(highest.shape[1], device=snr.device)
    return torch.where((highest == pixel) & (snr > threshold) & allowed, snr, 0.0)


def refined(height: Tensor, at: Tensor, W: int) -> Tensor:
    """Positions [B, N, 2] (x, y) in pixels of the maxima of height [B, H W] that are at pixels `at` [B,
    N].
    """
    return torch.stack([at % W + vertex(height, at, 1), at // W + vertex(height, at, W)], 2)


def vertex(height: Tensor, at: Tensor, step: int) -> Tensor:
    """Offset [B, N] in pixels, within half of one, of the vertex of a parabola through pixels `at` and those
    `step` before and after.
    """
    last = height.shape[1] - 1
    before, here, after = (height.gather(1, (at + move).clamp(0, last)) for move in (-step, 0, step))
    return (0.5 * (after - before) / (2 * here - before - after).clamp_min(1e-12)).clamp(-0.5, 0.5)


def noise_of(image: Tensor, seen: Tensor) -> Tensor:
    """Standard deviation [B, C, 1, 1] of a Gaussian with the median absolute value of image [B, C, H, W];
    inf where that is zero.
    """
    noise = MAD * median(image.abs(), seen)
    return torch.where(noise > 0, noise, torch.inf)


def median(image: Tensor, seen: Tensor) -> Tensor:
    """Median [B, C, 1, 1] of the pixels of [B, C, H, W] that are seen, of two in the middle the lower;
    0 where none is.
    """
    values = torch.where(seen, image, torch.inf).flatten(2)
    ordered = extremes(values, values.shape[2] - 1, largest=False)
    middle = ordered.gather(2, ((seen.flatten(2).sum(2, keepdim=True) - 1) // 2).clamp_min(0))
    return torch.where(middle.isfinite(), middle, 0.0)[..., None]
