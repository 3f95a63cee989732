"""From surface brightness to pixels: grids, point-spread functions, pixel integration."""

import math

import torch
from torch import Tensor


def pixel_grid(
    size: int,
    pixel_scale: float,
    supersample: int = 1,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> tuple[Tensor, Tensor]:
    """Coordinates x and y (arcsec, [size * supersample] * 2) of sub-pixel centres;
    the origin is the image centre.
    """
    count = size * supersample
    axis = (torch.arange(count, dtype=dtype, device=device) - (count - 1) / 2) * (pixel_scale / supersample)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return x, y


def integrate_pixels(brightness: Tensor, pixel_scale: float, supersample: int) -> Tensor:
    """Flux in each pixel [..., H, W] from brightness (flux per square arcsec) at sub-pixel centres [..., H s,
    W s].
    """
    if supersample == 1:
        return brightness * pixel_scale**2
    batch, (height, width) = brightness.shape[:-2], brightness.shape[-2:]
    binned = torch.nn.functional.avg_pool2d(brightness.reshape(-1, 1, height, width), supersample)
    return binned.reshape(*batch, *binned.shape[-2:]) * pixel_scale**2


def kernel_gaussian(x: Tensor, y: Tensor, fwhm: Tensor) -> Tensor:
    """Round Gaussian point-spread function on a pixel grid, sum 1. x, y, fwhm in arcsec; fwhm [..., 1, 1]."""
    kernel = torch.exp(-4 * math.log(2) * (x**2 + y**2) / fwhm**2)
    return kernel / kernel.sum((-2, -1), keepdim=True)


def kernel_moffat(
    x: Tensor,
    y: Tensor,
    fwhm: Tensor,
    beta: Tensor | float,
    shape_1: Tensor | float = 0.0,
    shape_2: Tensor | float = 0.0,
) -> Tensor:
    """Moffat point-spread function on a pixel grid, sum 1.

    x, y, fwhm in arcsec; beta: the slope of the wings; shape_1, shape_2: reduced-shear ellipticity (a - b) /
    (a + b) along x and along the diagonal. Source: Moffat 1969; Trujillo et al. 2001, MNRAS 328, 977, eq. 2.
    """
    squared = (1 - shape_1) ** 2 * x**2 + (1 + shape_1) ** 2 * y**2 - 4 * shape_2 * x * y
    squared = squared + shape_2**2 * (x**2 + y**2)
    alpha = fwhm / (2 * (2 ** (1 / torch.as_tensor(beta, dtype=x.dtype, device=x.device)) - 1) ** 0.5)
    kernel = (1 + squared / (1 - shape_1**2 - shape_2**2) / alpha**2) ** -beta
    return kernel / kernel.sum((-2, -1), keepdim=True)


def convolve(image: Tensor, *kernels: Tensor) -> Tensor:
    """`image` [..., H, W] convolved with each centred kernel [..., K, K] (K odd), same size,
    zero beyond the edge.

    By Fourier transform, padded so that nothing wraps around. Raises ValueError for an even kernel.
    """
    height, width = image.shape[-2:]
    reach = 0
    for kernel in kernels:
        if kernel.shape[-1] % 2 == 0 or kernel.shape[-2] % 2 == 0:
            raise ValueError(
                f"kernel of {tuple(kernel.shape[-2:])} pixels has no central pixel; give odd sizes"
            )
        reach += max(kernel.shape[-2:]) // 2
    size = [_fast_length(height + reach), _fast_length(width + reach)]
    spectrum = torch.fft.rfft2(image, s=size)
    for kernel in kernels:
        rolled = torch.nn.functional.pad(
            kernel, (0, size[1] - kernel.shape[-1], 0, size[0] - kernel.shape[-2])
        )
        rolled = rolled.roll((-(kernel.shape[-2] // 2), -(kernel.shape[-1] // 2)), (-2, -1))
        spectrum = spectrum * torch.fft.rfft2(rolled)
    return torch.fft.irfft2(spectrum, s=size)[..., :height, :width]


def noise_variance(counts: Tensor, sky_rms: Tensor | float, gain: Tensor | float) -> Tensor:
    """Variance (counts squared) of the noise of pixels that hold `counts` of light above the sky;
    counts below zero have none.

    sky_rms: noise of an empty pixel in counts, by the sky's photons, dark current and read-out together;
    gain: electrons that are collected for one count. All broadcast. Source: the CCD equation, Howell 2006,
    section 4.4.
    """
    return sky_rms**2 + counts.clamp(min=0) / gain


def _fast_length(count: int) -> int:
    """The next length with no prime factor above 5."""
    while True:
        rest = count
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return count
        count += 1
