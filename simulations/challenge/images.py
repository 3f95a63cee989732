"""From the scenes of the simulated lens challenge to noisy pixels, as two surveys would record them.

Batches have one fixed size, so that the pixels of an object do not depend on which others are asked for.
"""

from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from physics import imaging, light
from simulations.challenge.lenses import BANDS, PIXEL_SCALE, ZERO_POINT, source_plane
from simulations.challenge.sky import SIZE, Component, Scene, draw_scenes

SUPERSAMPLE = 4  # sub-pixels along a pixel's side where light is lensed or has arms: 0.05 arcsec
SMOOTH_SUPERSAMPLE = 2  # for smooth profiles, outside of the cusp
CUSP = 5  # pixels a side around the centre of a smooth profile that are integrated finely,
CUSP_SUPERSAMPLE = 16  # with 0.0125 arcsec
MARGIN = 5  # pixels rendered around the frame, whose light the seeing brings in
GROUP = 4  # components rendered at a time: their fields stay in the processor's cache
KERNEL = 25  # pixels of a point-spread function

# Rubin, SMTN-002 (v1.9 throughputs): AB magnitude of one electron per second, dark sky at zenith (mag /
# arcsec^2), effective seeing (arcsec), read noise and dark current of one 30 s visit (electrons per pixel).
RUBIN_ZERO_POINT = (28.51, 28.36, 28.17, 27.78, 26.82)
RUBIN_SKY = (22.25, 21.20, 20.46, 19.61, 18.60)
RUBIN_SEEING = (0.87, 0.83, 0.80, 0.78, 0.76)
RUBIN_READ_NOISE = 12.7
RUBIN_VISIT = 30.0
# A tenth of the visits of ten years: Ivezic et al. 2019 (ApJ 873, 111), table 1.
RUBIN_VISITS = (8.0, 18.4, 18.4, 16.0, 16.0)
# Hyper Suprime-Cam Wide, Aihara et al. 2022 (PASJ 74, 247), table 2:
# median seeing, 5-sigma depth of a point source.
HSC_SEEING = (0.79, 0.75, 0.61, 0.68, 0.68)
HSC_DEPTH = (26.5, 26.1, 25.9, 25.1, 24.4)


@dataclass(frozen=True)
class Survey:
    """How a domain looks at the sky. Seeing in arcsec, noise in counts per pixel at the zero point of all
    images.
    """

    seeing: tuple[float, ...]  # full width of the point-spread function that the images have in the end
    seeing_spread: float  # relative scatter from object to object
    slope: float  # of the Moffat profile of the atmosphere
    native_seeing: tuple[float, ...] | None  # what is broadened by a Gaussian to `seeing`; None: nothing is
    native_noise: tuple[float, ...] | None  # noise from before the broadening, which it correlates
    sky_residual: float  # scatter of the background's level and slope over the frame, in noise of a pixel
    calibration: float  # scatter of the photometric zero point in magnitudes


def native_noise_hsc() -> tuple[float, ...]:
    """Noise of an HSC pixel resampled to ours, from the depth and the seeing (SMTN-002's effective pixel
    count).
    """
    area = [2.266 * (seeing / PIXEL_SCALE) ** 2 for seeing in HSC_SEEING]
    return tuple(10 ** (-0.4 * (depth - ZERO_POINT)) / 5 / n**0.5 for depth, n in zip(HSC_DEPTH, area))


SURVEYS = {
    # Full width of a von Karman profile from its effective width: SMTN-002, FWHM_geom.
    "slsim": Survey(tuple(0.822 * s + 0.052 for s in RUBIN_SEEING), 0.05, 3.5, None, None, 0.05, 0.0),
    "hsc": Survey(RUBIN_SEEING, 0.08, 3.0, HSC_SEEING, native_noise_hsc(), 0.15, 0.02),
}


def rubin_gain() -> Tensor:
    """Electrons [5] that a coadd of one year collects for each count."""
    zero_point, visits = torch.tensor(RUBIN_ZERO_POINT), torch.tensor(RUBIN_VISITS)
    return visits * RUBIN_VISIT * 10 ** (0.4 * (zero_point - ZERO_POINT))


def pixel_noise() -> Tensor:
    """Noise [5] of an empty pixel of a coadd of one year, in counts: sky photons and read-out."""
    visits = torch.tensor(RUBIN_VISITS)
    rate = 10 ** (0.4 * (torch.tensor(RUBIN_ZERO_POINT) - torch.tensor(RUBIN_SKY))) * PIXEL_SCALE**2
    electrons = visits * (rate * RUBIN_VISIT + RUBIN_READ_NOISE**2)
    return electrons.sqrt() / rubin_gain()


def simulate_objects(
    generators: list[np.random.Generator], domains: list[str], labels: list[int], scenes_only: bool = False
) -> tuple[Tensor | None, list[Scene]]:
    """Images [N, 5, 41, 41] float32 in counts (zero point 27) and the scenes;
    object i is drawn from generators[i].
    """
    scenes = draw_scenes(generators, domains, labels, pixel_noise())
    return (None if scenes_only else observe(render(scenes), scenes, generators)), scenes


def render(scenes: list[Scene], finer: int = 1) -> Tensor:
    """The sky before the telescope: flux in each pixel, [N, 5, H, W] in counts, `MARGIN` wider on each side.

    finer: factor on the numbers of sub-pixels, to measure the error of the integration.
    """
    size = SIZE + 2 * MARGIN
    image = torch.zeros(len(scenes), len(BANDS), size * size)
    kinds: dict[tuple[bool, bool, bool], list[tuple[int, Component]]] = {}
    for i, scene in enumerate(scenes):
        for part in scene.components:
            kinds.setdefault((part.lensed, part.ring_width > 0, part.arms is not None), []).append((i, part))
    for (lensed, is_ring, has_arms), items in sorted(kinds.items(), key=lambda kind: kind[0]):
        smooth = not (lensed or is_ring or has_arms)
        supersample = finer * (SMOOTH_SUPERSAMPLE if smooth else SUPERSAMPLE)
        x, y = imaging.pixel_grid(size, PIXEL_SCALE, supersample)
        # What is behind one lens shares its rays.
        groups = (
            [list(group) for _, group in groupby(items, lambda item: item[0])]
            if lensed
            else [items[start : start + GROUP] for start in range(0, len(items), GROUP)]
        )
        for group in groups:
            owners, parts = zip(*group)
            px, py = x, y
            if lensed:
                lens = scenes[owners[0]].lens
                px, py = source_plane(
                    x,
                    y,
                    {
                        name: torch.tensor(lens[name], dtype=torch.float32)
                        for name in ("Rein", "ell_m", "ell_m_PA", "sh", "sh_PA")
                    },
                )
            shape = imaging.integrate_pixels(
                brightness_of(px, py, parts, is_ring, has_arms), PIXEL_SCALE, supersample
            )
            if smooth:
                integrate_cusps(shape, parts, finer)
            flux = torch.from_numpy(np.stack([part.flux for part in parts])).float()
            image.index_add_(0, torch.tensor(owners), flux[..., None] * shape.flatten(1)[:, None])
    return image.reshape(len(scenes), len(BANDS), size, size)


def integrate_cusps(shape: Tensor, parts: tuple[Component, ...], finer: int) -> None:
    """Put finely integrated pixels around the centres of smooth profiles into their images [K, H, W],
    in place.
    """
    size = shape.shape[-1]
    half = CUSP // 2
    at = torch.tensor([[part.x, part.y] for part in parts]) / PIXEL_SCALE + size // 2
    at = at.round().long().clamp(half, size - 1 - half)  # the pixel in the middle of each patch
    x, y = imaging.pixel_grid(CUSP, PIXEL_SCALE, CUSP_SUPERSAMPLE * finer)
    offset = (at - size // 2) * PIXEL_SCALE
    fine = brightness_of(x + offset[:, 0, None, None], y + offset[:, 1, None, None], parts, False, False)
    reach = torch.arange(-half, half + 1)
    rows, columns = at[:, 1, None, None] + reach[:, None], at[:, 0, None, None] + reach
    shape[torch.arange(len(parts))[:, None, None], rows, columns] = imaging.integrate_pixels(
        fine, PIXEL_SCALE, CUSP_SUPERSAMPLE * finer
    )


def brightness_of(
    x: Tensor, y: Tensor, parts: tuple[Component, ...], is_ring: bool, has_arms: bool
) -> Tensor:
    """Brightness [K, H, W] of components of one kind, each of total flux 1."""

    def of_each(name: str) -> Tensor:
        return column([getattr(part, name) for part in parts])

    place = of_each("x"), of_each("y")
    radius = of_each("radius")
    index = of_each("index")
    q = of_each("axis_ratio")
    angle = of_each("angle")
    if is_ring:
        width = column([part.ring_width for part in parts])
        brightness = light.brightness_ring(x, y, *place, 1.0, radius, width, q, angle)
    else:
        brightness = light.brightness_sersic(x, y, *place, 1.0, radius, index, q, angle)
    if has_arms:
        arms = torch.tensor([part.arms for part in parts], dtype=torch.float32).T[..., None, None]
        brightness = brightness * light.contrast_arms(x, y, *place, q, angle, *arms)
    return brightness


def column(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)[:, None, None]


def observe(sky: Tensor, scenes: list[Scene], generators: list[np.random.Generator]) -> Tensor:
    """What the survey of each scene's domain records of the sky [N, 5, H, W]: [N, 5, 41, 41] in counts.

    The photons of a coadd are many (above 3,000 electrons in an empty pixel), so Poisson noise is drawn as
    Gaussian of the same variance.
    """
    surveys = [SURVEYS[scene.domain] for scene in scenes]
    # Numbers of each object's own stream, in one order: instrument, then white noise, then correlated noise.
    instrument = torch.from_numpy(
        np.stack([rng.standard_normal((len(BANDS), 8)) for rng in generators])
    ).float()
    white = torch.from_numpy(
        np.stack([rng.standard_normal((len(BANDS), SIZE, SIZE), dtype=np.float32) for rng in generators])
    )
    atmosphere, broadening = point_spread(surveys, instrument)
    image = imaging.convolve(sky, atmosphere)
    broadened = [i for i, survey in enumerate(surveys) if survey.native_noise]
    if broadened:
        # What was noise before the broadening is broadened with the light.
        drawn = np.stack([generators[i].standard_normal(sky.shape[1:], dtype=np.float32) for i in broadened])
        native = torch.tensor([surveys[i].native_noise for i in broadened])[..., None, None]
        image[broadened] = imaging.convolve(
            image[broadened] + torch.from_numpy(drawn) * native, broadening[broadened]
        )
    image = crop(image)
    spread = torch.tensor([survey.calibration for survey in surveys])[:, None]
    image = image * 10 ** (-0.4 * spread * instrument[..., 4])[..., None, None]

    depth = torch.exp(0.1 * instrument[:, :1, 5])  # some fields are visited more often than others
    noise = (pixel_noise() / depth)[..., None, None]
    electrons = (rubin_gain() * depth**2)[..., None, None]
    residual = torch.tensor([survey.sky_residual for survey in surveys])[:, None, None, None] * noise
    ramp = torch.linspace(-1, 1, SIZE)
    level, slope_x, slope_y = (instrument[..., i, None, None] for i in (0, 6, 7))
    background = residual * (level + 0.5 * (slope_x * ramp + slope_y * ramp[:, None]))
    return image + background + white * torch.sqrt(noise**2 + image.clamp(min=0) / electrons)


def point_spread(surveys: list[Survey], instrument: Tensor) -> tuple[Tensor, Tensor]:
    """The kernels [N, 5, K, K] of the atmosphere and of the broadening, which only some surveys have."""
    x, y = imaging.pixel_grid(KERNEL, PIXEL_SCALE)
    target = torch.tensor([survey.seeing for survey in surveys])
    native = torch.tensor([survey.native_seeing or survey.seeing for survey in surveys])
    spread = torch.tensor([survey.seeing_spread for survey in surveys])[:, None]
    native = native * torch.exp(spread * instrument[..., 1])
    slope = torch.tensor([survey.slope for survey in surveys])[:, None, None, None]
    shape_1, shape_2 = (0.012 * instrument[..., i, None, None] for i in (2, 3))
    atmosphere = imaging.kernel_moffat(x, y, native[..., None, None], slope, shape_1, shape_2)
    # Resampling from HSC's 0.168 arcsec pixels smooths even where the seeing needs no broadening.
    width = torch.sqrt((target**2 - native**2).clamp(min=0.25**2))[..., None, None]
    return atmosphere, imaging.kernel_gaussian(x, y, width)


def crop(image: Tensor) -> Tensor:
    return image[..., MARGIN:-MARGIN, MARGIN:-MARGIN]
