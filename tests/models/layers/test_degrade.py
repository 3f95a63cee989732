"""Worse images, against what noise and Gaussians are known to do."""

import pytest
import torch

from models.layers.degrade import Degrade, discrete_gaussian
from models.layers.preprocess import FWHM

ALL = torch.ones(1, 1, dtype=torch.bool)


def drawn(module: Degrade, image: torch.Tensor, present: torch.Tensor, seed: int = 0) -> torch.Tensor:
    torch.manual_seed(seed)
    return module(image, present)


@pytest.mark.parametrize("sigma", [0.1, 0.3, 0.5, 1.0, 2.5, 8.0])
def test_kernels_have_the_variance_that_is_asked_for(sigma):
    reach = 50
    (kernel,) = discrete_gaussian(torch.tensor([sigma], dtype=torch.float64), reach)
    offset = torch.arange(-reach, reach + 1)
    assert kernel.sum().item() == pytest.approx(1) and kernel.min() > -1e-12
    assert (kernel * offset**2).sum().item() == pytest.approx(sigma**2, rel=1e-6)
    if sigma >= 2:
        gaussian = torch.exp(-0.5 * (offset / sigma) ** 2) / (2 * torch.pi) ** 0.5 / sigma
        assert torch.allclose(kernel, gaussian.double(), atol=0.005)


def test_noise_adds_its_variance():
    """Factors even in [0, f]: the mean variance is that of the image times 1 + f^2 / 3."""
    sigma = torch.tensor([0.02, 30.0])[:, None, None]
    image, present = sigma * torch.randn(1500, 2, 32, 32), torch.ones(1500, 2, dtype=torch.bool)
    worse = Degrade(noise=2.0, seeing=0, chance=1.0)(image, present)
    growth = worse.var((2, 3)).mean(0) / image.var((2, 3)).mean(0)
    assert growth.tolist() == pytest.approx([1 + 4 / 3] * 2, rel=0.05)
    added = (worse - image).std((2, 3)) / sigma.flatten()
    assert added.max() < 2 * 1.25 and added.min() < 0.1  # noise_rms of 32 x 32 pixels scatters by 4 %
    # one factor for all channels of an example
    assert torch.allclose(added[:, 0], added[:, 1], rtol=0.35, atol=0.05)


def test_seeing_smooths_noise_by_the_kernel(monkeypatch):
    """White noise keeps sum k^2 of its variance along each axis;
    for a Gaussian of sigma that is near 1 / (2 sqrt(pi) sigma).
    """
    module, sigma = Degrade(noise=0, seeing=2 * FWHM, chance=1.0), 1.5
    monkeypatch.setattr(
        module, "drawn", lambda x, largest: (torch.full((len(x), 1, 1, 1), sigma), torch.tensor(True))
    )
    image = torch.randn(200, 1, 64, 64)
    ratio = (module(image, ALL)[..., 10:-10, 10:-10].var() / image.var()).item()
    (kernel,) = discrete_gaussian(torch.tensor([sigma]), module.reach)
    assert ratio == pytest.approx(kernel.square().sum().item() ** 2, rel=0.03)
    assert ratio == pytest.approx((1 / (2 * torch.pi**0.5 * sigma)) ** 2, rel=0.12)


def test_a_star_becomes_wider_by_sigma_squared():
    y, x = torch.meshgrid(*2 * [torch.arange(-20.0, 21)], indexing="ij")
    star = torch.exp(-(x**2 + y**2) / (2 * 1.2**2)).expand(300, 1, 41, 41)
    wider = Degrade(noise=0, seeing=3.0, chance=1.0)(star, ALL)

    def moments(image):
        flux = image.sum((1, 2, 3))
        return flux, (image * x**2).sum((1, 2, 3)) / flux, (image * y**2).sum((1, 2, 3)) / flux

    (flux, xx, yy), (flux_after, xx_after, yy_after) = moments(star), moments(wider)
    grown = xx_after - xx
    assert torch.allclose(flux_after, flux, rtol=1e-4) and torch.allclose(grown, yy_after - yy, atol=2e-3)
    largest = (3.0 / FWHM) ** 2
    assert -1e-3 < grown.min() < 0.05 and 0.9 * largest < grown.max() < 1.01 * largest
    # sigma is even in [0, s]: the mean of its square is s^2 / 3
    assert grown.mean().item() == pytest.approx(largest / 3, rel=0.2)


def test_some_examples_and_only_bands_that_are_there():
    image, present = torch.randn(2000, 2, 9, 9), torch.tensor([True, False]).expand(2000, 2)
    for part in (dict(noise=1.0, seeing=0), dict(noise=0, seeing=2.0)):
        worse = Degrade(**part, chance=0.3)(image, present)
        changed = (worse != image).flatten(2).any(2)
        assert not changed[:, 1].any()
        assert abs(changed[:, 0].sum().item() - 600) < 5 * (2000 * 0.3 * 0.7) ** 0.5
    for off in (Degrade(0, 0), Degrade(1, 2, chance=0.0)):
        assert torch.equal(off(image, present), image)


def test_one_seed_one_result_and_no_memory():
    module, image, present = Degrade(), torch.randn(4, 2, 41, 41), torch.ones(4, 2, dtype=torch.bool)
    assert (
        torch.equal(drawn(module, image, present), drawn(module, image, present)) and not module.state_dict()
    )
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(drawn(module, image, present), drawn(module, image, present))
        half = drawn(module, image, present)
    assert torch.equal(half, drawn(module, image, present)) and half.dtype == torch.float32
    # an example's neighbours do not matter, and its slope is its own
    other = image.clone()
    other[1:] += 5
    assert torch.equal(drawn(module, other, present)[0], drawn(module, image, present)[0])
    x = image.clone().requires_grad_()
    drawn(module, x, present)[2].sum().backward()
    assert x.grad[2].any() and not x.grad[[0, 1, 3]].any()


def test_mistakes_are_named():
    for options in (dict(noise=-1), dict(seeing=-1), dict(seeing=30), dict(chance=2)):
        with pytest.raises(ValueError, match="degrading images"):
            Degrade(**options)
    with pytest.raises(ValueError, match="too small"):
        Degrade(seeing=20)(torch.zeros(1, 1, 32, 32), ALL)
