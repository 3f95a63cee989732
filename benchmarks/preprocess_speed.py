"""models/layers/preprocess.py on batches beside the same steps image by image:
images a second of one thread, and how far apart.

    python benchmarks/preprocess_speed.py
    python benchmarks/preprocess_speed.py --batch 256 --repeats 15

The other side is what a data set does that prepares each image as it reads it, as the code that ours stands
in for did: the formulas written once more with torch's operations on one image, then stacked to a batch. Its
kernels are made beforehand. The sides take turns in one process on the same batches; the least process time
of a batch counts. A difference is the largest of any pixel, relative to the largest pixel of its image after
preprocessing. How far each side is from the image-by-image code in float64 is said too.
"""

import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import utils  # noqa: E402, F401  before torch: it says how threads wait

import torch  # noqa: E402  the path above comes first
import torch.nn.functional as F  # noqa: E402
from torch import Tensor  # noqa: E402

from models.layers.preprocess import Preprocess  # noqa: E402
from table import Row, show  # noqa: E402
from utils import config  # noqa: E402

SIDE, SIGMA, RADIUS, EPS = 41, 1.0, 2, 1e-2
SEEING, TARGET = (3.5, 4.1), 5.0  # pixels, full width at half maximum
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Config:
    batch: int = 128  # examples at a time
    repeats: int = 9  # turns of each side; the fastest counts
    seed: int = 0  # of the images
    json: str = ""  # also write the rows to this file


def gaussian(sigma: float) -> dict[torch.dtype, Tensor]:
    radius = math.ceil(3 * sigma)
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, dtype=torch.float64) / sigma) ** 2)
    return {dtype: (kernel / kernel.sum()).to(dtype) for dtype in (torch.float32, torch.float64)}


KERNEL = gaussian(SIGMA)
KERNEL_OF_DOMAIN = [
    gaussian(math.sqrt(TARGET**2 - seeing**2) / math.sqrt(8 * math.log(2))) for seeing in SEEING
]


def blurred(image: Tensor, kernels: dict[torch.dtype, Tensor]) -> Tensor:
    """image [H, W], zeros beyond the edge."""
    kernel = kernels[image.dtype]
    radius = len(kernel) // 2
    x = F.conv2d(image[None, None], kernel.view(1, 1, 1, -1), padding=(0, radius))
    return F.conv2d(x, kernel.view(1, 1, -1, 1), padding=(radius, 0))[0, 0]


def guided(image: Tensor) -> Tensor:
    def mean(x: Tensor) -> Tensor:
        return F.avg_pool2d(x[None], 2 * RADIUS + 1, stride=1, padding=RADIUS, count_include_pad=False)[0]

    average = mean(image)
    variance = mean(image * image) - average * average
    slope = variance / (variance + EPS)
    return mean(slope) * image + mean(average - slope * average)


def normalised(image: Tensor, mad: bool = False) -> Tensor:
    image = image - image[image <= torch.quantile(image, 0.2)].median()
    image = image.clamp(max=torch.quantile(image, 0.997))
    if mad:
        image = image - image.median()
        return image / (1.4826 * image.abs().median() + 1e-6)
    return (image - image.mean()) / (image.std(correction=0) + 1e-6)


def one_by_one(prepare: Callable[[Tensor, int], Tensor], images: Tensor, domain: Tensor) -> Tensor:
    """images [B, C, H, W] and domain [B]; `prepare` is given one image [H, W]
    and the number of its domain.
    """
    return torch.stack(
        [
            torch.stack([prepare(band, number) for band in example])
            for example, number in zip(images, domain.tolist())
        ]
    )


CASES = {  # name: (channels, options of ours, the same for one image, aim)
    "normalised": (1, {}, lambda image, domain: normalised(image), None),
    "gaussian, normalised": (
        1,
        dict(smoothing="gaussian", gaussian_sigma=SIGMA),
        lambda image, domain: normalised(blurred(image, KERNEL)),
        6,
    ),
    "gaussian, normalised, 5 bands": (
        5,
        dict(smoothing="gaussian", gaussian_sigma=SIGMA),
        lambda image, domain: normalised(blurred(image, KERNEL)),
        None,
    ),
    "gaussian, median deviation": (
        1,
        dict(smoothing="gaussian", gaussian_sigma=SIGMA, use_mad=True),
        lambda image, domain: normalised(blurred(image, KERNEL), mad=True),
        None,
    ),
    "guided, normalised": (
        1,
        dict(smoothing="guided", guided_radius=RADIUS, guided_eps=EPS),
        lambda image, domain: normalised(guided(image)),
        None,
    ),
    "psf, normalised": (
        1,
        dict(smoothing="psf", psf_fwhm=SEEING, psf_target=TARGET),
        lambda image, domain: normalised(blurred(image, KERNEL_OF_DOMAIN[domain])),
        None,
    ),
}


def farthest(images: Tensor, reference: Tensor) -> float:
    """The largest difference of any pixel, relative to the largest of its image."""
    return ((images - reference).abs().amax((2, 3)) / reference.abs().amax((2, 3))).max().item()


def galaxies(count: int, channels: int) -> Tensor:
    """Noise of a sky, and something bright in the middle, [count, channels, 41, 41]."""
    y, x = torch.meshgrid(*[torch.arange(SIDE) - SIDE // 2.0] * 2, indexing="ij")
    width, light = (
        low + (high - low) * torch.rand(count, channels, 1, 1) for low, high in ((1.5, 6), (2, 100))
    )
    return light * torch.exp(-torch.hypot(x, y) / width) + torch.randn(count, channels, SIDE, SIDE)


def measure(options: Config) -> list[Row]:
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    rows = []
    for name, (channels, recipe, prepare, aim) in CASES.items():
        images, domain = galaxies(options.batch, channels), torch.arange(options.batch) % 2
        present = torch.ones(options.batch, channels, dtype=torch.bool)
        sides = {
            "ours": partial(Preprocess(edge="zero", **recipe), images, present, domain),
            "theirs": partial(one_by_one, prepare, images, domain),
        }
        apart, exact = (
            farthest(sides["ours"](), sides["theirs"]()),
            one_by_one(prepare, images.double(), domain),
        )
        from_exact = [farthest(run(), exact) for run in sides.values()]
        least = dict.fromkeys(sides, math.inf)
        for _ in range(options.repeats):
            for side, run in sides.items():
                start = time.process_time()
                run()
                least[side] = min(least[side], time.process_time() - start)
        ours, theirs = (options.batch * channels / least[side] for side in sides)
        verdict = "at most" if apart <= TOLERANCE else f"MORE than {TOLERANCE:g},"
        equal = (
            f"differ by {verdict} {apart:.1e} of an image's largest pixel; from float64 ours by "
            f"{from_exact[0]:.1e}, theirs by {from_exact[1]:.1e}"
        )
        rows.append(
            Row(f"preprocessing: {name}", "images/s", ours, "image by image", theirs, aim, equal=equal)
        )
    return rows


def main(argv: list[str]) -> None:
    (options,) = config.read_options(argv, Config)
    show(measure(options), options.json)


if __name__ == "__main__":
    config.run_script(main)
