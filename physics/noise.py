"""How noisy an image is, from its own pixels."""

import math

import torch
from torch import Tensor

MAD = 1.4826  # standard deviation of a Gaussian / its median absolute deviation


def noise_rms(image: Tensor, present: Tensor | None = None) -> Tensor:
    """White noise of each image and channel, [B, C], in the unit of the pixels;
    0 for a band that is not there.

    image [B, C, H, W], present [B, C] bool (None: all). The median of the absolute differences of pixels that
    touch along a row or a column: galaxies, smooth or few pixels wide, hardly change it. Where noise is
    correlated from pixel to pixel it is that of the differences, which is less; it is 0 where more than half
    of the pixels equal their neighbours.

    Raises ValueError for an image with a side of one pixel.
    """
    if min(image.shape[2:]) < 2:
        raise ValueError(
            f"noise from differences of pixels: got images {list(image.shape)}, expected at least 2 pixels "
            "on a side"
        )
    differences = torch.cat([image.diff(dim=axis).flatten(2).abs() for axis in (2, 3)], 2)
    rms = MAD / math.sqrt(2) * differences.median(2).values
    return rms if present is None else torch.where(present, rms, 0.0)
