"""Preprocessing against one image at a time in numpy and scipy, in float64, written from the formulas."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import nn

from models.layers.preprocess import Preprocess

FWHM = 2 * math.sqrt(2 * math.log(2))


def galaxies(count: int = 4, channels: int = 2, side: int = 41, seed: int = 0) -> torch.Tensor:
    """Noise of a sky, and bright things in the middle, [count, channels, side, side]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] - side // 2
    width = rng.uniform(1.5, 6, (count, channels, 1, 1))
    light = rng.uniform(2, 100, (count, channels, 1, 1)) * np.exp(-np.hypot(x, y) / width)
    return torch.from_numpy(light + rng.normal(1, 1, light.shape)).float()


def lower_median(values: np.ndarray) -> float:
    return np.sort(values, axis=None)[(values.size - 1) // 2]


def reference_blur(image: np.ndarray, sigma: float, edge: str) -> np.ndarray:
    if sigma == 0:
        return image
    return ndimage.gaussian_filter(
        image, sigma, radius=math.ceil(3 * sigma), mode={"reflect": "mirror", "zero": "constant"}[edge]
    )


def reference_guided(image: np.ndarray, radius: int, eps: float) -> np.ndarray:
    """Algorithm 1 of He et al. 2013 with guide = input, window by window."""

    def mean(values):
        result = np.empty_like(values)
        for i, j in np.ndindex(values.shape):
            result[i, j] = values[
                max(0, i - radius) : i + radius + 1, max(0, j - radius) : j + radius + 1
            ].mean()
        return result

    average = mean(image)
    variance = mean(image * image) - average**2
    a = variance / (variance + eps)
    return mean(a) * image + mean(average - a * average)


def reference_normalise(image, clip_q=0.997, low_clip_q=-1.0, use_mad=False):
    image = image - lower_median(image[image <= np.quantile(image, 0.2)])
    low = np.quantile(image, low_clip_q) if low_clip_q >= 0 else -np.inf
    high = np.quantile(image, clip_q) if clip_q >= 0 else np.inf
    image = np.clip(image, low, high)
    if use_mad:
        image = image - lower_median(image)
        return image / (1.4826 * lower_median(np.abs(image)) + 1e-6)
    return (image - image.mean()) / (image.std() + 1e-6)


def one_by_one(images: torch.Tensor, function) -> np.ndarray:
    return np.array([[function(channel) for channel in image] for image in images.double().numpy()])


def run(preprocess: nn.Module, images: torch.Tensor, present=None, domain=None) -> torch.Tensor:
    present = torch.ones(images.shape[:2], dtype=torch.bool) if present is None else present
    domain = torch.zeros(len(images), dtype=torch.int64) if domain is None else domain
    return preprocess(images, present, domain)


def assert_equal(ours: torch.Tensor, reference: np.ndarray) -> None:
    assert ours.dtype == torch.float32 and ours.shape == reference.shape
    assert np.abs(ours.numpy() - reference).max() < 1e-5 * max(1, np.abs(reference).max())


@pytest.mark.parametrize("edge", ["reflect", "zero"])
@pytest.mark.parametrize("sigma", [0.8, 1.0, 2.3])
def test_gaussian(sigma, edge):
    x = galaxies()
    ours = run(Preprocess(smoothing="gaussian", gaussian_sigma=sigma, edge=edge, normalise=False), x)
    assert_equal(ours, one_by_one(x, lambda image: reference_blur(image, sigma, edge)))


@pytest.mark.parametrize("sky", [0.0, 3000.0])
@pytest.mark.parametrize("radius, eps", [(2, 1e-2), (1, 3.0), (4, 50.0)])
def test_guided(radius, eps, sky):
    x = galaxies(2) + sky
    ours = run(Preprocess(smoothing="guided", guided_radius=radius, guided_eps=eps, normalise=False), x)
    assert_equal(ours, one_by_one(x, lambda image: reference_guided(image, radius, eps)))


@pytest.mark.parametrize("edge", ["reflect", "zero"])
def test_psf_brings_each_domain_to_the_target(edge):
    x, domain = galaxies(6), torch.tensor([0, 1, 2, -1, 0, 1])
    seeing, target = (3.5, 4.1, 6.0), 5.0  # the third is wider than the target, -1 is unknown
    ours = run(
        Preprocess(smoothing="psf", psf_fwhm=seeing, psf_target=target, edge=edge, normalise=False),
        x,
        domain=domain,
    )
    sigmas = [math.sqrt(target**2 - 3.5**2) / FWHM, math.sqrt(target**2 - 4.1**2) / FWHM, 0, 0]
    for i in range(6):
        sigma = sigmas[domain[i]]
        blurred = one_by_one(x[i : i + 1], lambda image, sigma=sigma: reference_blur(image, sigma, edge))
        assert_equal(ours[i : i + 1], blurred)
    assert torch.equal(ours[2:4], x[2:4])


def test_psf_gives_the_target_seeing():
    y, x = np.mgrid[:41, :41] - 20
    star = torch.from_numpy(np.exp(-(x**2 + y**2) / (2 * (4.0 / FWHM) ** 2))).float()[None, None]
    wider = run(Preprocess(smoothing="psf", psf_fwhm=(4.0, 4.0), psf_target=6.0, normalise=False), star)[
        0, 0
    ].numpy()
    fwhm = FWHM * math.sqrt((wider * x**2).sum() / wider.sum())
    assert fwhm == pytest.approx(6.0, rel=0.02)  # the kernel is cut at 3 sigma


@pytest.mark.parametrize(
    "options",
    [
        {},
        dict(use_mad=True),
        dict(clip_q=-1.0),
        dict(clip_q=0.9, low_clip_q=0.05),
        dict(clip_q=-1.0, low_clip_q=0.3),
        dict(clip_q=1.0, use_mad=True),
    ],
)
@pytest.mark.parametrize("side", [41, 20])
def test_normalise(options, side):
    x = galaxies(side=side)
    ours = run(Preprocess((side, side), **options), x)
    assert_equal(ours, one_by_one(x, lambda image: reference_normalise(image, **options)))


def test_ties():
    x = galaxies()
    x = x.clamp_min(x.flatten(2).quantile(0.4, -1)[:, :, None, None])  # many pixels share the lowest value
    x[1, :, :30] = 0  # a dead part of the chip
    assert ((x == x.amin((2, 3), keepdim=True)).float().mean((2, 3)) > 0.2).all()
    assert_equal(run(Preprocess(), x), one_by_one(x, reference_normalise))
    x = galaxies().round()  # counts: ties around every quantile
    assert_equal(run(Preprocess(), x), one_by_one(x, reference_normalise))


@pytest.mark.parametrize("smoothing", ["none", "gaussian", "guided", "psf"])
def test_the_whole_chain(smoothing):
    x = galaxies(3)
    preprocess = Preprocess(
        smoothing=smoothing,
        gaussian_sigma=1.0,
        guided_eps=2.0,
        psf_fwhm=(3.0, 4.0),
        psf_target=4.5,
        pad_to=64,
    )
    smooth = dict(
        none=lambda image: image,
        gaussian=lambda image: reference_blur(image, 1.0, "reflect"),
        guided=lambda image: reference_guided(image, 2, 2.0),
        psf=lambda image: reference_blur(image, math.sqrt(4.5**2 - 9) / FWHM, "reflect"),
    )[smoothing]
    # 11 zeros before, 12 after
    assert_equal(
        run(preprocess, x), one_by_one(x, lambda image: np.pad(reference_normalise(smooth(image)), (11, 12)))
    )


@pytest.mark.parametrize(
    "options", [{}, dict(use_mad=True), dict(clip_q=0.9, low_clip_q=0.05), dict(clip_q=1.0)]
)
def test_both_ways_to_order_statistics_agree(options):
    x = torch.cat([galaxies(), galaxies().round(), torch.full((1, 2, 41, 41), 7.0)])  # the second with ties
    x[0, 0, 3, 4] = float("nan")
    watched = run(Preprocess(**options), x.clone().requires_grad_())  # numpy cannot be differentiated
    assert torch.equal(run(Preprocess(**options), x).nan_to_num(), watched.nan_to_num())
    watched[1:].square().mean().backward()


def test_constant_images_and_missing_bands():
    x, present = galaxies(3), torch.tensor([[True, True], [True, False], [False, True]])
    x[0, 0] = 7.0
    x[1, 1] = float("nan")  # whatever stands in for a missing band
    for options in ({}, dict(use_mad=True), dict(smoothing="gaussian"), dict(smoothing="guided")):
        y = run(Preprocess(pad_to=64, **options), x, present)
        assert (
            y.isfinite().all() and (y[~present] == 0).all() and (y[present][1:] != 0).flatten(1).any(1).all()
        )
        assert y[0, 0].abs().max() < (1e-5 if not options else 1.5)  # rounding of a blur, over 1e-6


@pytest.mark.parametrize("smoothing", ["gaussian", "guided", "psf"])
def test_each_example_by_itself(smoothing):
    preprocess = Preprocess(
        smoothing=smoothing, psf_fwhm=(3.0, 4.0), psf_target=4.5, use_mad=smoothing == "psf"
    )
    x, domain, order = galaxies(8), torch.tensor([0, 1] * 4), torch.randperm(8)
    whole = run(preprocess, x, domain=domain)
    assert torch.equal(run(preprocess, x[order], domain=domain[order]), whole[order])
    assert torch.equal(
        torch.cat([run(preprocess, x[i : i + 1], domain=domain[i : i + 1]) for i in range(8)]), whole
    )


def test_autocast_changes_nothing():
    preprocess, x = Preprocess(smoothing="gaussian", pad_to=64), galaxies()
    with torch.autocast("cpu", torch.bfloat16):
        half = run(preprocess, x)
    assert torch.equal(half, run(preprocess, x)) and half.dtype == torch.float32


def test_one_graph_for_the_compiler():
    preprocess, x = Preprocess(smoothing="psf", psf_fwhm=(3.0, 4.0), psf_target=4.5, use_mad=True), galaxies()
    assert torch.allclose(
        run(torch.compile(preprocess, backend="aot_eager", fullgraph=True), x), run(preprocess, x)
    )


def test_the_recipe_travels_with_the_weights(tmp_path):
    x, domain = galaxies(), torch.tensor([0, 1, 0, 1])
    saved = Preprocess(
        smoothing="psf",
        psf_fwhm=(3.0, 4.0),
        psf_target=4.5,
        edge="zero",
        clip_q=0.98,
        use_mad=True,
        pad_to=50,
    )
    torch.save(saved.state_dict(), tmp_path / "weights.pt")
    other = Preprocess(smoothing="gaussian", gaussian_sigma=2.0)
    other.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    assert torch.equal(run(other, x, domain=domain), run(saved, x, domain=domain))
    assert repr(other) == repr(saved)
    assert torch.equal(run(other.half().bfloat16(), x, domain=domain), run(saved, x, domain=domain))


@pytest.mark.parametrize(
    "options, words",
    [
        (dict(smoothing="median"), "'median'.*gaussian"),
        (dict(edge="wrap"), "'wrap'.*reflect"),
        (dict(smoothing="gaussian", gaussian_sigma=0.0), "sigma 0"),
        (dict(smoothing="gaussian", gaussian_sigma=14.0), "41 x 41"),
        (dict(smoothing="psf", psf_fwhm=(3.0, 0.0), psf_target=4.0), "every domain"),
        (dict(smoothing="guided", guided_eps=0.0), "eps 0"),
        (dict(clip_q=1.5), "clipping"),
        (dict(clip_q=0.5, low_clip_q=0.6), "low < high"),
        (dict(pad_to=40), "41 x 41"),
    ],
)
def test_mistakes_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        Preprocess(**options)
    with pytest.raises(ValueError, match="expected 41 x 41"):
        run(Preprocess(), galaxies(side=40))
