"""Random worsening of images in physical units: wider seeing and more noise,
as another night or survey would have them.
"""

import math

import torch
from torch import Tensor, nn

from models.layers.preprocess import FWHM, blur
from physics.noise import noise_rms

ANGLES = 128  # the discrete Gaussian is a Fourier series; so many terms hold kernels up to 50 pixels


class Degrade(nn.Module):
    """image [B, C, H, W] in physical units, present [B, C] bool -> [B, C, H, W], for training,
    in front of preprocessing.

    seeing   FWHM in pixels of the widest Gaussian that an image is convolved with;
             its sigma is drawn evenly between 0 and that.
             All channels of an example are broadened alike; beyond the edge the image is mirrored.
    noise    largest standard deviation of added white noise, in units of the noise of each image and channel
             before broadening (physics/noise.py); drawn evenly between 0 and that for an example.
    chance   of an example to be broadened, and again of one to be made noisier

    A band that is not there stays as it is, and so does, to the bit, an example that is not chosen. All
    random numbers come from the global generator of the image's device. With a `noise` or `seeing` of 0 that
    part is off.

    Raises ValueError for numbers that cannot be, and for images that are too small to be mirrored as far as
    the seeing reaches.
    """

    def __init__(self, noise: float = 1.0, seeing: float = 2.0, chance: float = 0.5):
        super().__init__()
        if not (0 <= noise < math.inf and 0 <= seeing <= 20 and 0 <= chance <= 1):
            raise ValueError(
                f"degrading images: got noise {noise}, seeing {seeing}, chance {chance}; expected at least 0 "
                "noise rms, 0 to 20 pixels, and a chance from 0 to 1"
            )
        self.noise, self.seeing, self.chance = noise, seeing, chance
        self.reach = math.ceil(4 * seeing / FWHM)

    def forward(self, image: Tensor, present: Tensor) -> Tensor:
        if self.reach >= min(image.shape[2:]):
            raise ValueError(
                f"a seeing of {self.seeing:g} pixels reaches {self.reach} pixels: images {list(image.shape)} "
                "are too small"
            )
        with torch.autocast(image.device.type, enabled=False):
            x = image.float()
            there = present[:, :, None, None]
            rms = noise_rms(x.detach(), present)[:, :, None, None]
            if self.seeing:
                sigma, chosen = self.drawn(x, self.seeing / FWHM)
                x = torch.where(
                    chosen & there, blur(x, discrete_gaussian(sigma.flatten(), self.reach), "reflect"), x
                )
            if self.noise:
                factor, chosen = self.drawn(x, self.noise)
                x = torch.where(chosen & there, x + factor * rms * torch.randn_like(x), x)
            return x

    def drawn(self, x: Tensor, largest: float) -> tuple[Tensor, Tensor]:
        """A number for each example between 0 and `largest`, and whether it is chosen: [B, 1, 1, 1] each."""
        amount, luck = torch.rand(2, len(x), 1, 1, 1, device=x.device)
        return amount * largest, luck < self.chance

    def extra_repr(self) -> str:
        return f"noise={self.noise:g}, seeing={self.seeing:g}, chance={self.chance:g}"


def discrete_gaussian(sigma: Tensor, reach: int) -> Tensor:
    """Kernels [B, 2 reach + 1], each of sum 1, whose variance is sigma^2 (sigma [B], pixels)
    however narrow they are.

    A sampled Gaussian narrower than half a pixel is a peak and nothing beside it.
    Source: exp(-t) I_n(t) with t = sigma^2, Lindeberg 1990, IEEE PAMI 12, 234, eq.
        23, by its Fourier series exp(t (cos w - 1)).
    """
    angle = torch.arange(ANGLES, device=sigma.device, dtype=sigma.dtype) * (2 * math.pi / ANGLES)
    waves = torch.cos(angle[:, None] * torch.arange(-reach, reach + 1, device=sigma.device))
    spectrum = torch.exp(sigma[:, None].square() * (angle.cos() - 1))
    kernel = (spectrum[:, :, None] * waves).mean(1)  # not a matrix product, which may come in TF32
    return kernel / kernel.sum(1, keepdim=True)
