"""The symmetries of the square against numpy's rotations and mirrors; how often, how much noise."""

import numpy as np
import pytest
import torch

from models.layers.augment import Augment, dihedral


def test_the_eight_symmetries():
    image = np.arange(25.0).reshape(5, 5)
    group = {np.rot90(mirrored, quarter).tobytes() for mirrored in (image, image.T) for quarter in range(4)}
    x = torch.from_numpy(image)[None, None]
    ours = {dihedral(x, k).contiguous().numpy().tobytes() for k in range(8)}
    assert len(group) == 8 and ours == group
    assert torch.equal(dihedral(x, 0), x)


def test_each_example_its_own():
    x, k = torch.randn(40, 3, 7, 7), torch.randint(8, (40,))
    y = dihedral(x, k)
    for i in range(40):
        assert torch.equal(y[i : i + 1], dihedral(x[i : i + 1], int(k[i])))
    assert torch.equal(y.flatten(2).sort().values, x.flatten(2).sort().values)  # not one pixel is changed


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="H = W"):
        dihedral(torch.zeros(1, 1, 4, 5), 0)
    with pytest.raises(ValueError, match="got 8"):
        dihedral(torch.zeros(1, 1, 4, 4), 8)


def test_all_symmetries_are_drawn_alike():
    x = torch.arange(25.0).view(1, 1, 5, 5).expand(4000, 1, 5, 5)
    y, symmetry = Augment(noise=0)(x, torch.ones(4000, 1, dtype=torch.bool))
    assert torch.equal(y, dihedral(x, symmetry))
    counts = torch.stack([(y == dihedral(x, k)).flatten(1).all(1).sum() for k in range(8)])
    assert counts.sum() == 4000 and (counts - 500).abs().max() < 5 * (4000 / 8 * 7 / 8) ** 0.5


def test_noise():
    present = torch.tensor([True, False]).expand(2000, 2)
    y, _ = Augment()(torch.zeros(2000, 2, 8, 8), present)
    noisy = (y[:, 0] != 0).flatten(1).any(1)
    assert not y[:, 1].any()  # a missing band stays exactly zero
    assert abs(noisy.sum().item() - 1000) < 5 * 500**0.5
    noise = y[noisy, 0]
    assert (
        (noise != 0).all()
        and noise.std().item() == pytest.approx(0.01, rel=0.02)
        and abs(noise.mean()) < 2e-4
    )


def test_one_seed_one_result():
    x, present, augment = torch.randn(6, 2, 8, 8), torch.ones(6, 2, dtype=torch.bool), Augment()
    results = []
    for _ in range(2):
        torch.manual_seed(5)
        results.append(augment(x, present))
    assert all(torch.equal(*pair) for pair in zip(*results)) and not augment.state_dict()
