"""From physical pixels to what a network sees: smoothing, background, clipping, scaling, padding.

Modules in front of the network, batched and on its device. The recipe is a buffer, so it travels with the
weights: a checkpoint that is loaded brings its own preprocessing along, whatever the module was built with.

Source: the steps, their order and constants are those of the challenge entry
    github.com/mmingyeong/2508_slchallenge.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

SMOOTHINGS = ("none", "gaussian", "guided", "psf")
EDGES = ("reflect", "zero")
FWHM = math.sqrt(8 * math.log(2))  # full width at half maximum of a Gaussian, in standard deviations
BACKGROUND = 0.2  # the background is the median of this faint part of the pixels
MAD = 1.4826  # standard deviation of a Gaussian / its median absolute deviation
# Added to the spread: FLOOR in the unit of the pixels, but no more than a part of the spread, nor less than
# the rounding of the brightest pixel: so the unit decides nothing, and a flat image stays flat.
FLOOR = 1e-6
OF_SPREAD, OF_BRIGHTEST = 2.0**-14, 2.0**-23


class Preprocess(nn.Module):
    """Physical pixels [B, C, H, W] -> [B, C, H', W'] float32, the same under any autocast.

    size          (H, W) of the images that go in
    smoothing     gaussian: standard deviation `gaussian_sigma` pixels
                  guided: self-guided filter, window 2 `guided_radius` + 1 pixels,
                      `guided_eps` in pixel units squared
                  psf: Gaussian that brings a seeing of `psf_fwhm[domain]` to `psf_target`, both FWHM in
                  pixels; nothing where the seeing is as wide already, nor for an unknown domain (-1)
    edge          what Gaussians meet beyond the edge: `reflect` mirrors (edge pixel once),
                  `zero` darkens the border
    normalise     subtract the background, clip, centre and scale to unit spread, for each image and channel:
                  background = median of the pixels not above their 0.2 quantile; clip at the quantiles
                  `clip_q` (above) and `low_clip_q` (below), negative = off; then mean and population
                  deviation + 1e-6, or with `use_mad` the median and 1.4826 median absolute deviation + 1e-6;
                  of a spread below 0.016, in whatever unit, 6e-5 of it instead of 1e-6. A factor on the
                  pixels changes the result by less than 1e-4 of it, from 1e-29 to 1e11 and beyond
    pad_to        zeros around the result up to this side (the odd one right and below); 0 = off

    A quantile is interpolated linearly between order statistics (torch.quantile and numpy.quantile by
    default); a median of an even number of values is the lower of the middle two (torch.median;
    numpy.median would average them).

    Raises ValueError for settings that cannot be met, and for images of another size.
    Source: guided filter He et al. 2013 (doi 10.1109/TPAMI.2012.213), algorithm 1 with guide = input.
    """

    def __init__(
        self,
        size: tuple[int, int] = (41, 41),
        *,
        smoothing: str = "none",
        gaussian_sigma: float = 0.8,
        guided_radius: int = 2,
        guided_eps: float = 1e-2,
        psf_fwhm: tuple[float, ...] = (0.0, 0.0),
        psf_target: float = 0.0,
        edge: str = "reflect",
        normalise: bool = True,
        clip_q: float = 0.997,
        low_clip_q: float = -1.0,
        use_mad: bool = False,
        pad_to: int = 0,
    ):
        super().__init__()
        if smoothing not in SMOOTHINGS or edge not in EDGES:
            raise ValueError(
                f"preprocessing: got smoothing {smoothing!r}, edge {edge!r}; expected one of "
                f"{', '.join(SMOOTHINGS)}, and one of {', '.join(EDGES)}"
            )
        recipe = [
            *size,
            SMOOTHINGS.index(smoothing),
            gaussian_sigma,
            guided_radius,
            guided_eps,
            psf_target,
            EDGES.index(edge),
            normalise,
            clip_q,
            low_clip_q,
            use_mad,
            pad_to,
            *psf_fwhm,
        ]
        # the bits of float64 as integers: no average, and no .half() of the whole network, changes them
        # on the CPU also where a network is built of shapes alone, since they follow from it
        bits = torch.tensor(recipe, dtype=torch.float64, device="cpu").view(torch.int64)
        self.register_buffer("recipe", bits)
        self.register_buffer("kernels", None, persistent=False)
        self.follow_recipe()

    def follow_recipe(self) -> None:
        """Set all that forward reads. Raises ValueError for settings that cannot be met."""
        (
            H,
            W,
            smoothing,
            sigma,
            radius,
            self.guided_eps,
            target,
            edge,
            normalise,
            clip,
            low_clip,
            use_mad,
            pad,
            *seeing,
        ) = self.recipe.view(torch.float64).tolist()
        self.size = (int(H), int(W))
        self.pad_to = int(pad)
        self.guided_radius = int(radius)
        self.smoothing, self.edge = SMOOTHINGS[int(smoothing)], EDGES[int(edge)]
        self.normalise = bool(normalise)
        self.use_mad = bool(use_mad)
        self.clip_q = clip
        self.low_clip_q = low_clip
        sigmas = []
        if self.smoothing == "gaussian":
            sigmas = [sigma]
            if not 0 < sigma < math.inf:
                raise ValueError(f"gaussian smoothing: got sigma {sigma:g}, expected more than 0 pixels")
        if self.smoothing == "psf":
            if not (target > 0 and all(fwhm > 0 for fwhm in seeing)):
                raise ValueError(
                    f"psf smoothing: got target {target:g} and seeing {seeing} pixels of FWHM, expected more "
                    "than 0 for the target and for every domain"
                )
            sigmas = [math.sqrt(max(target**2 - fwhm**2, 0)) / FWHM for fwhm in seeing] + [0]
        if self.smoothing == "guided" and not (radius >= 1 and self.guided_eps > 0):
            raise ValueError(
                f"guided smoothing: got radius {radius:g} and eps {self.guided_eps:g}, expected at least 1 "
                "pixel, and more than 0"
            )
        if not (clip <= 1 and low_clip <= 1) or 0 <= clip <= low_clip:
            raise ValueError(
                f"clipping: got quantiles {low_clip:g} (low) and {clip:g}, expected low < high <= 1, or "
                "negative for off"
            )
        if pad and pad < max(H, W):
            raise ValueError(f"padding to {pad:g} pixels: expected at least the images' own {H:g} x {W:g}")
        kernels = gaussian_kernels(sigmas).to(self.recipe.device) if sigmas else None
        if kernels is not None and self.edge == "reflect" and kernels.shape[1] // 2 >= min(H, W):
            raise ValueError(
                f"smoothing by {max(sigmas):.3g} pixels reaches {kernels.shape[1] // 2} pixels: images of "
                f"{H:g} x {W:g} are too small to reflect"
            )
        self.kernels = kernels

    def _load_from_state_dict(self, *args):
        super()._load_from_state_dict(*args)
        self.follow_recipe()

    def _apply(self, *args, **kwargs):
        super()._apply(*args, **kwargs)  # to another device or precision
        self.follow_recipe()
        return self

    def forward(self, image: Tensor, present: Tensor, domain: Tensor) -> Tensor:
        """image [B, C, H, W], present [B, C] bool (False: the band comes out zero), domain [B] int64."""
        if image.shape[2:] != self.size:
            raise ValueError(
                f"got images {list(image.shape)}: expected {self.size[0]} x {self.size[1]} pixels"
            )
        with torch.autocast(image.device.type, enabled=False):
            there = present[:, :, None, None]
            x = torch.where(there, image.float(), 0.0)
            if self.smoothing == "guided":
                x = guided_filter(x, self.guided_radius, self.guided_eps)
            elif self.smoothing != "none":
                # an unknown domain, -1, finds the last kernel, which changes nothing
                x = blur(x, self.kernels[domain] if self.smoothing == "psf" else self.kernels, self.edge)
            if self.normalise:
                x = normalise(x, self.clip_q, self.low_clip_q, self.use_mad)
            x = torch.where(there, x, 0.0)
            if self.pad_to:
                left, top = (self.pad_to - self.size[1]) // 2, (self.pad_to - self.size[0]) // 2
                x = F.pad(x, (left, self.pad_to - self.size[1] - left, top, self.pad_to - self.size[0] - top))
            return x

    def extra_repr(self) -> str:
        return f"{self.size}, smoothing={self.smoothing}, normalise={self.normalise}, pad_to={self.pad_to}"


def gaussian_kernels(sigmas: list[float]) -> Tensor:
    """Kernels [len(sigmas), 2 r + 1] float32, each cut at 3 sigma and summing to one;
    r is that of the widest.
    """
    radius = math.ceil(3 * max(sigmas))
    offset = torch.arange(-radius, radius + 1, dtype=torch.float64, device="cpu")
    kernels = [
        torch.exp(-0.5 * (offset / max(sigma, 1e-6)) ** 2) * (offset.abs() <= math.ceil(3 * sigma))
        for sigma in sigmas
    ]
    return torch.stack([kernel / kernel.sum() for kernel in kernels]).float()


def blur(x: Tensor, kernels: Tensor, edge: str) -> Tensor:
    """x [B, C, H, W] smoothed along both axes with kernels [B or 1, K], which are symmetric.

    Shifted copies are added up: as fast here as a convolution or two matrix products,
    and unlike these never in TF32.
    """
    for axis in (-1, -2):
        x = shifted_sum(x, kernels[:, None, None, None, :], edge, axis)
    return x


def shifted_sum(x: Tensor, weights: Tensor, edge: str, axis: int) -> Tensor:
    """Sum over k of weights[..., k] x, shifted by k - K // 2 along `axis` (-1 or -2)."""
    radius = weights.shape[-1] // 2
    length = x.shape[axis]
    around = (radius, radius, 0, 0) if axis == -1 else (0, 0, radius, radius)
    wide = F.pad(x, around, mode="reflect") if edge == "reflect" else F.pad(x, around)
    total = wide.narrow(axis, radius, length) * weights[..., radius]
    for k in range(radius):
        pair = wide.narrow(axis, k, length) + wide.narrow(axis, 2 * radius - k, length)
        total = torch.addcmul(total, pair, weights[..., k])
    return total


def guided_filter(x: Tensor, radius: int, eps: float) -> Tensor:
    """Self-guided filter of x [B, C, H, W]: smooths where the variance in the window is below `eps`.

    Windows end at the edge of the image.
    """
    ones = x.new_ones(1, 2 * radius + 1)
    count = blur(torch.ones_like(x[:1, :1]), ones, "zero")

    def mean(y: Tensor) -> Tensor:
        return blur(y, ones, "zero") / count

    # The filter moves with a constant; taking it out first keeps mean(x^2) - mean(x)^2 exact on a bright sky.
    level = x.mean((2, 3), keepdim=True)
    x = x - level
    average = mean(x)
    variance = (mean(x * x) - average * average).clamp_min(0)
    slope = variance / (variance + eps)
    return mean(slope) * x + mean(average - slope * average) + level


def normalise(x: Tensor, clip_q: float, low_clip_q: float, use_mad: bool) -> Tensor:
    """x [B, C, H, W] without background, clipped, centred and scaled,
    for each image and channel by itself.
    """
    pixels = x.flatten(2)
    last = pixels.shape[-1] - 1
    faint = extremes(pixels, max(BACKGROUND, low_clip_q) * last, largest=False)
    threshold = between(faint, BACKGROUND * last)
    count = (pixels <= threshold).sum(-1, keepdim=True)
    # pixels that tie with the threshold count as well: beyond the extremes that are at hand all are equal to
    # it
    background = faint.gather(-1, ((count - 1) // 2).clamp(0, math.ceil(BACKGROUND * last)))
    # what clips below, none: the lowest pixel; above, none: the highest
    low = between(faint, low_clip_q * last) if low_clip_q >= 0 else None
    high = None
    if clip_q >= 0:
        from_top = (1 - clip_q) * last
        high = between(extremes(pixels, from_top, largest=True), from_top)
    highest = pixels.amax(-1, keepdim=True) if high is None else high
    brightest = torch.maximum(highest.abs(), faint[..., :1].abs())
    # In units of a power of two: a factor that rounds nothing, and keeps squares within float32.
    factor = 1 / power_of_two(brightest)
    pixels = torch.addcmul(-background * factor, pixels, factor)  # (pixels - background) factor
    if low is not None or high is not None:
        ends = ((end - background) * factor if end is not None else None for end in (low, high))
        pixels = pixels.clamp(*ends)
    if use_mad:
        pixels = pixels - lower_median(pixels)
        spread = MAD * lower_median(pixels.abs())
    else:
        # in steps: on a CPU torch.var_mean is slower than a sort
        pixels = pixels - pixels.mean(-1, keepdim=True)
        spread = pixels.square().mean(-1, keepdim=True).sqrt()
    return (pixels / (spread + floor_of(spread, brightest * factor, factor))).view_as(x)


def floor_of(spread: Tensor, brightest: Tensor, factor: Tensor) -> Tensor:
    """What is added to the spread of pixels whose largest is `brightest`, all three times `factor`."""
    least = torch.maximum(OF_SPREAD * spread.detach(), OF_BRIGHTEST * brightest.detach())
    return torch.minimum(least, FLOOR * factor)


def power_of_two(size: Tensor) -> Tensor:
    """The largest power of two that is not above `size`, 1 where that is not a normal number.

    No larger than 2^126, so that its inverse is a normal number too; without derivative.
    """
    size = size.detach()
    known = (size >= torch.finfo(size.dtype).tiny) & size.isfinite()
    exponent = torch.frexp(torch.where(known, size, 1.0)).exponent - 1
    return torch.ldexp(torch.ones_like(size), exponent.clamp(max=126))


def extremes(values: Tensor, position: float, largest: bool) -> Tensor:
    """The values [..., N] at one end, in order from it, as many as `between` needs at `position`.

    On a CPU by numpy's sort, which has vector instructions and takes a tenth of topk's time; on a GPU, and
    where torch looks inside (derivatives, torch.compile, torch.export, tracing, torch.func), by topk:
    a third of the time of torch's sort.
    """
    count = min(math.ceil(position) + 1, values.shape[-1])
    looked_into = (
        torch.compiler.is_compiling() or torch.jit.is_tracing() or torch._C._are_functorch_transforms_active()
    )
    if values.device.type != "cpu" or values.requires_grad or looked_into:
        return values.topk(count, largest=largest).values
    ordered = torch.from_numpy(np.sort(values.numpy(), -1))
    return ordered[..., -count:].flip(-1) if largest else ordered[..., :count]


def between(ordered: Tensor, position: float) -> Tensor:
    """[..., 1] at `position`, counted from 0, interpolated linearly."""
    left, right = ordered[..., math.floor(position), None], ordered[..., math.ceil(position), None]
    return left.lerp(right, position - math.floor(position))


def lower_median(values: Tensor) -> Tensor:
    """Median over the last axis, [..., 1]; of two in the middle the lower."""
    return extremes(values, (values.shape[-1] - 1) // 2, largest=False)[..., -1:]
