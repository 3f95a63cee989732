"""Images turned by any angle, against closed forms, and what is inferred of them."""

import math

import pytest
import torch
from torch import nn

from models.layers.preprocess import Preprocess
from models.layers.rotate import Rotate
from models.lens_network import LensNetwork


def blob(angle: torch.Tensor, height: int = 41, width: int = 41) -> torch.Tensor:
    """[B, 1, H, W] of an oblong Gaussian beside the middle, both rotated by `angle` [B]
    from +x towards +y.
    """
    y, x = torch.meshgrid(
        torch.arange(height) - (height - 1) / 2, torch.arange(width) - (width - 1) / 2, indexing="ij"
    )
    c, s = angle.cos()[:, None, None], angle.sin()[:, None, None]
    along, across = c * x + s * y - 3, c * y - s * x - 1
    return torch.exp(-0.5 * (along**2 / 3.0**2 + across**2 / 2.0**2))[:, None]


@pytest.mark.parametrize("shape", [(41, 41), (40, 40), (41, 52)])
def test_a_blob_comes_out_at_its_angle(shape):
    torch.manual_seed(0)
    given = blob(torch.zeros(64), *shape)
    image, angle = Rotate(1.0)(given)
    assert angle.min() >= 0 and 5.5 < angle.max() < 2 * math.pi and len(angle.unique()) > 60
    # of a peak of 1: cubic interpolation
    assert (image - blob(angle, *shape)).abs().max() < 0.02 < 0.5 < (image - given).abs().max()


def test_a_quarter_is_exact(monkeypatch):
    monkeypatch.setattr(torch, "rand", lambda *shape, device: torch.full(shape, 0.25))
    given = torch.randn(3, 2, 32, 32)
    image, angle = Rotate(0.3)(given)
    assert torch.allclose(angle, torch.tensor(math.pi / 2))
    # (x, y) -> (-y, x)
    torch.testing.assert_close(image, given.flip(-2).transpose(-1, -2), rtol=0, atol=1e-4)


def test_what_is_not_chosen_stays_to_the_bit():
    torch.manual_seed(1)
    given = torch.randn(4000, 1, 8, 8)
    image, angle = Rotate(0.3)(given)
    stays = angle == 0
    assert torch.equal(image[stays], given[stays]) and stays.float().mean().item() == pytest.approx(
        0.7, abs=0.03
    )
    assert image[~stays].var().item() == pytest.approx(0.75, abs=0.05)  # what is said of the noise
    with pytest.raises(ValueError, match="got chance 1.5, expected 0 to 1"):
        Rotate(1.5)


class Centroid(nn.Module):
    """Infers where the light is, in pixels from the middle, and how sure it is:
    x better than y, as it sees the image.
    """

    feature_dim, fields = 1, ()

    class quantity_head:
        names, centre = ("x_l",), torch.zeros(2)

    def inferred(self, x):
        grid = torch.arange(x.shape[-1]) - (x.shape[-1] - 1) / 2
        flux = x.sum((1, 2, 3))
        place = torch.stack([(x.sum((1, 2)) * grid).sum(1), (x.sum((1, 3)) * grid).sum(1)], 1) / flux[:, None]
        return flux[:, None], dict(mean=place, variance=torch.tensor([[1.0, 3.0]]).expand(len(x), 2))

    def classify(self, features):
        return features


def test_what_is_inferred_is_turned_back():
    torch.manual_seed(2)
    image = blob(torch.zeros(50))
    present, domain = torch.ones(50, 1, dtype=torch.bool), torch.zeros(50, dtype=torch.int64)
    model = LensNetwork(Preprocess(normalise=False), None, Centroid(), rotate=Rotate(1.0))
    seen, said = model.eval()(image, present, domain), model.train()(image, present, domain)
    torch.testing.assert_close(said["mean"], seen["mean"], rtol=0, atol=0.03)
    assert torch.allclose(seen["mean"], torch.tensor([3.0, 1.0]), atol=0.03)
    variance = said["variance"]
    torch.testing.assert_close(variance.sum(1), torch.full((50,), 4.0))
    assert (
        variance[:, 0].min() < 1.1
        and variance[:, 0].max() > 2.9
        and torch.equal(seen["variance"], torch.tensor([[1.0, 3.0]]).expand(50, 2))
    )
