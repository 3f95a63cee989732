"""The noise of an image from its own pixels, against noise that was put in."""

import numpy as np
import pytest
import torch

from physics.imaging import pixel_grid
from physics.light import brightness_sersic
from physics.noise import noise_rms


def test_white_noise():
    sigma = torch.tensor([[0.01, 3.0], [50.0, 1e-8]])
    image = sigma[:, :, None, None] * torch.randn(2, 2, 300, 200) + 1e2 * sigma[:, :, None, None]
    # efficiency of the MAD 0.37; each pixel is in four differences, which are correlated
    assert torch.allclose(noise_rms(image), sigma, rtol=0.02)


def test_numpy_finds_the_same():
    image = np.random.default_rng(0).normal(size=(2, 3, 21, 30)).astype(np.float32)
    for b in range(2):
        for c in range(3):
            x = image[b, c]
            found = (
                1.4826
                * np.median(np.abs(np.concatenate([np.diff(x, axis=0).ravel(), np.diff(x, axis=1).ravel()])))
                / 2**0.5
            )
            # the lower of two in the middle
            assert noise_rms(torch.from_numpy(image))[b, c].item() == pytest.approx(found, rel=1e-2)


def test_a_galaxy_hardly_changes_it():
    """A bright Sersic galaxy (peak of 100 sigma and more) in a cutout of 41 pixels: by less than 15 %;
    the plain rms by far more.
    """
    x, y = pixel_grid(41, 0.2)
    galaxy = brightness_sersic(
        x,
        y,
        0.0,
        0.0,
        torch.tensor(1.0),
        torch.tensor(0.8),
        torch.tensor(2.0),
        torch.tensor(0.7),
        torch.tensor(0.3),
    )
    noise = torch.randn(20, 1, 41, 41)
    image = 200 * galaxy / galaxy.max() + noise
    assert (noise_rms(image).mean() / noise_rms(noise).mean()).item() == pytest.approx(1, abs=0.15)
    assert image.std((2, 3)).mean() > 3


def test_bands_that_are_not_there_and_scaling():
    image, present = torch.randn(3, 2, 9, 9), torch.tensor([[True, False], [True, True], [False, False]])
    rms = noise_rms(image, present)
    assert torch.equal(rms > 0, present)
    assert torch.allclose(noise_rms(7 * image + 5, present), 7 * rms, rtol=1e-4)
    assert torch.equal(noise_rms(image.transpose(2, 3), present), rms)
    assert not noise_rms(torch.full((1, 1, 5, 5), 3.0)).any()
    with pytest.raises(ValueError, match="at least 2 pixels"):
        noise_rms(torch.zeros(1, 1, 1, 5))
