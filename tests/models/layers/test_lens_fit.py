"""The lens model of an image: what it makes of simulated systems whose geometry is known."""

import numpy as np
import pytest
import torch

from losses import lens_constraints as losses
from losses.regression import gaussian_nll
from models.layers.augment import dihedral
from models.layers.lens_fit import LensFit
from models.layers.quantity_head import QuantityHead
from physics.lens_parameters import GEOMETRY, QUANTITIES, encode, slices, turn
from simulations.challenge.images import pixel_noise, simulate_objects
from simulations.challenge.lenses import BANDS

PLACES = slices(GEOMETRY)


@pytest.fixture(scope="module")
def systems():
    """32 simulated lenses: images [32, 5, 41, 41], noise [32, 5], and their true geometry."""
    generators = [np.random.default_rng([3, i]) for i in range(32)]
    images, scenes = simulate_objects(generators, ["slsim"] * 32, [1] * 32)
    geometry = {
        name: encode(
            name,
            torch.tensor(
                [[scene.lens.get(column, 0.0) for column in QUANTITIES[name].columns] for scene in scenes]
            ),
        ).float()
        for name in GEOMETRY
    }
    return images, pixel_noise().expand(32, len(BANDS)), geometry


def test_the_true_geometry_leaves_noise(systems):
    """Reduced chi^2 near 1, and flux in the arcs many errors above zero;
    the simulator has knots and a Moffat seeing, the model has none.
    """
    images, noise, geometry = systems
    fit = LensFit()(images, noise, geometry)
    assert 0.9 < fit["chi2"].median() < 1.25
    assert (fit["flux"][:, 2, 1] / fit["error"][:, 2, 1]).median() > 10


@pytest.mark.parametrize("name,change", [("Rein", 0.4), ("srcx", 0.4), ("ell_m", 0.5)])
def test_a_wrong_geometry_fits_worse(systems, name, change):
    images, noise, geometry = systems
    right = LensFit()(images, noise, geometry)
    wrong = LensFit()(images, noise, geometry | {name: geometry[name] + change})
    assert (wrong["chi2"].mean(1) > right["chi2"].mean(1)).float().mean() > 0.8
    evidence, weaker = ((fit["flux"] / fit["error"])[:, :, 1].mean(1) for fit in (right, wrong))
    assert (weaker < evidence).float().mean() > 0.8


def test_nothing_depends_on_the_unit_of_the_pixels_or_the_order_of_examples(systems):
    images, noise, geometry = systems
    fit, other = LensFit()(images, noise, geometry), LensFit()(1000 * images, 1000 * noise, geometry)
    torch.testing.assert_close(other["chi2"], fit["chi2"], rtol=1e-3, atol=0)
    torch.testing.assert_close(other["ring"], fit["ring"], rtol=1e-3, atol=0)
    back = torch.arange(31, -1, -1)
    turned = LensFit()(images[back], noise[back], {key: value[back] for key, value in geometry.items()})
    torch.testing.assert_close(turned["chi2"][back], fit["chi2"], rtol=1e-4, atol=1e-5)


def test_a_band_that_is_not_there_has_no_part(systems):
    images, noise, geometry = systems
    without, silent = images.clone(), noise.clone()
    without[:, 1], silent[:, 1] = 0, 0
    fit, whole = LensFit()(without, silent, geometry), LensFit()(images, noise, geometry)
    assert (
        (fit["chi2"][:, 1] == 0).all()
        and (fit["flux"][:, 1] == 0).all()
        and all(value.isfinite().all() for value in fit.values())
    )
    torch.testing.assert_close(
        fit["chi2"][:, [0, 2, 3, 4]], whole["chi2"][:, [0, 2, 3, 4]], rtol=1e-4, atol=1e-5
    )


def test_the_ring_that_the_pixels_show_is_the_models_for_the_true_lens(systems):
    images, noise, geometry = systems
    fit = LensFit()(images, noise, geometry)
    said = fit | dict(mean=torch.cat([geometry[name] for name in GEOMETRY], 1), logit=torch.zeros(32))
    right = losses.mass_conservation(said, None, PLACES)
    heavy = LensFit()(images, noise, geometry | dict(Rein=geometry["Rein"] + 0.5))
    assert (
        right.median() < 0.02
        and losses.mass_conservation(said | heavy, None, PLACES).median() > 3 * right.median()
    )
    assert (
        losses.lens_equation(said, None, PLACES) < losses.lens_equation(said | heavy, None, PLACES)
    ).float().mean() > 0.8


def test_an_image_of_another_shape(systems):
    """Cut to 33 x 38, with the lens where it was: the same lens, the same fit but for what is cut away."""
    images, noise, geometry = systems
    part = images[:, :, 3:36, 1:39]
    # where the middle of the image now is, from the lens
    shift = torch.tensor([(41 - 38) / 2 - 1, (41 - 33) / 2 - 3]) * 0.2
    fit = LensFit()(part, noise, geometry | dict(x_l=geometry["x_l"] + shift))
    whole = LensFit()(images, noise, geometry)
    torch.testing.assert_close(fit["ring_model"], whole["ring_model"], rtol=0.1, atol=0.02)
    assert (fit["chi2"].median() / whole["chi2"].median()).item() == pytest.approx(1, abs=0.1)


def test_shear_turns_with_the_image():
    """Two views of one image, turned back, must agree; what does not turn is found out."""
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(6, sum(len(QUANTITIES[name].columns) for name in GEOMETRY), generator=generator)
    k = torch.tensor([1, 2, 3, 4, 5, 6])
    said, again = (
        dict(mean=mean, logit=mean[:, 0]),
        dict(mean=turn(GEOMETRY, turn(GEOMETRY, mean, k), k, back=True)),
    )
    torch.testing.assert_close(losses.shear_consistency(said, again, PLACES), torch.zeros(6))
    assert (losses.shear_consistency(said, dict(mean=turn(GEOMETRY, mean, k)), PLACES)[[0, 1, 3]] > 0).all()
    assert (losses.shear_consistency(said, None, PLACES) == 0).all()


def test_the_geometry_can_be_found_by_gradients(systems):
    """From a wrong Einstein radius, source position and shear,
    descent on chi^2 comes to where it is as small as at the truth.
    """
    images, noise, geometry = systems
    wrong = {name: value.clone() for name, value in geometry.items()}
    for name in ("Rein", "srcx", "sh"):
        wrong[name] += 0.6 * torch.tensor(QUANTITIES[name].spread)
    free = [wrong[name].requires_grad_() for name in ("Rein", "srcx", "sh")]
    optimizer, course = torch.optim.Adam(free, lr=0.01), []
    for _ in range(60):
        optimizer.zero_grad()
        chi2 = LensFit()(images, noise, wrong)["chi2"].mean(1)
        chi2.sum().backward()
        optimizer.step()
        course.append(chi2.detach())
    truth = LensFit()(images, noise, geometry)["chi2"].mean(1)
    assert (course[0] > 1.05 * truth).float().mean() > 0.7 and (
        course[-1] < 1.02 * truth
    ).float().mean() > 0.8


def test_the_likelihood_of_inferred_numbers():
    """Against torch's own Gaussian loss; what is not known has no part and no gradient that is
    not a number.
    """
    mean, variance, target = torch.randn(5, 4), torch.rand(5, 4) + 0.1, torch.randn(5, 4)
    theirs = torch.nn.functional.gaussian_nll_loss(mean, target, variance, reduction="none", eps=0).mean(1)
    torch.testing.assert_close(gaussian_nll(mean, variance, target), theirs)
    target[0, 1:], target[1] = float("nan"), float("nan")
    mean.requires_grad_()
    value = gaussian_nll(mean, variance, target)
    assert value[1] == 0 and value[0].item() == pytest.approx(
        0.5 * ((target[0, 0] - mean[0, 0]) ** 2 / variance[0, 0] + variance[0, 0].log()).item()
    )
    value.sum().backward()
    assert mean.grad.isfinite().all() and (mean.grad[1] == 0).all()


def test_a_head_begins_at_what_is_typical():
    torch.manual_seed(0)
    head = QuantityHead(16, ("Rein", "srcx", "zlens"))
    targets = np.full((200, 4), np.nan, np.float32)
    targets[:100] = np.random.default_rng(0).normal([0.2, 0.1, 0.1, 1.0], [0.5, 0.3, 0.3, 0.1], (100, 4))
    head.fit(targets)
    # no direction of the sky is special
    assert head.centre.tolist()[1:3] == [0, 0] and head.spread[1] == head.spread[2]
    assert head.centre[0].item() == pytest.approx(targets[:100, 0].mean(), abs=1e-5)
    assert head.spread[3].item() == pytest.approx(targets[:100, 3].std(), rel=1e-4)
    mean, variance = head(torch.randn(64, 16))
    assert ((mean - head.centre).abs() < 0.3 * head.spread).all()
    torch.testing.assert_close(variance, head.spread.square().expand(64, 4), rtol=0.2, atol=0)
    before = head.centre.clone()
    head.fit(np.full((10, 4), np.nan, np.float32))
    assert torch.equal(head.centre, before)


def test_a_symmetry_of_the_image_is_one_of_the_fit(systems):
    images, noise, geometry = systems
    row, k = torch.cat([geometry[name] for name in GEOMETRY], 1), torch.arange(32) % 8
    turned = turn(GEOMETRY, row, k)
    fit = LensFit()(dihedral(images, k), noise, {name: turned[:, place] for name, place in PLACES.items()})
    torch.testing.assert_close(fit["chi2"], LensFit()(images, noise, geometry)["chi2"], rtol=1e-3, atol=1e-4)
