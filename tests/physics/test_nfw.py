"""physics/nfw.py against lenstronomy, caustics, closed limits and finite differences."""

import math

import numpy as np
import pytest
import torch

from physics import imaging, nfw

DOUBLE = torch.float64
NFW = dict(
    x0=[0.0, 0.11, -0.05],
    y0=[0.0, -0.07, 0.02],
    scale_radius=[5.0, 0.8, 1.7],
    convergence_scale=[0.1, 0.9, 0.02],
)


def batch(dtype=DOUBLE) -> dict:
    return {name: torch.tensor(value, dtype=dtype)[:, None, None] for name, value in NFW.items()}


def grid(size=41):
    x, y = imaging.pixel_grid(size, 0.2, dtype=DOUBLE)
    return x + 0.013, y - 0.007


def relative(ours, theirs):
    return float(np.abs(np.asarray(ours) - np.asarray(theirs)).max() / np.abs(np.asarray(theirs)).max())


def test_equals_lenstronomy():
    from lenstronomy.LensModel.lens_model import LensModel

    x, y = grid()
    model = LensModel(["NFW"])
    alpha = nfw.deflection_nfw(x, y, **batch(), core=1e-10)
    kappa, potential = (
        function(x, y, **batch(), core=1e-10) for function in (nfw.convergence_nfw, nfw.potential_nfw)
    )
    for i in range(3):
        scale, kappa_s = NFW["scale_radius"][i], NFW["convergence_scale"][i]
        alpha_scale = 4 * kappa_s * scale * (1 + math.log(0.5))
        assert nfw.convergence_scale_nfw(alpha_scale, scale) == pytest.approx(kappa_s, rel=1e-14)
        at = (
            x.numpy(),
            y.numpy(),
            [dict(Rs=scale, alpha_Rs=alpha_scale, center_x=NFW["x0"][i], center_y=NFW["y0"][i])],
        )
        for ours, theirs in zip(alpha, model.alpha(*at)):
            assert relative(ours[i], theirs) < 1e-10
        assert relative(kappa[i], model.kappa(*at)) < 1e-9
        # lenstronomy's potential is cut at r = 0.001 Rs and has cancellation above it;
        # it is compared as the differences that lensing sees.
        theirs = model.potential(*at)
        assert relative(potential[i] - potential[i, 0, 0], theirs - theirs[0, 0]) < 1e-9


def test_equals_caustics():
    from caustics.lenses.func.nfw import (
        convergence_nfw,
        convergence_s_nfw,
        physical_deflection_angle_nfw,
        potential_nfw,
        scale_radius_nfw,
    )

    x, y = grid()
    mass, c, critical, surface, distance = (
        torch.tensor(v, dtype=DOUBLE) for v in (1e13, 6.0, 1.3e11 * 1.5, 2e15, 1200.0)
    )
    scale = scale_radius_nfw(critical, mass, c) / distance * (180 * 3600 / math.pi)
    kappa_s = convergence_s_nfw(surface, critical, mass, c, 200.0)
    theirs = convergence_nfw(surface, critical, 0.1, 0.0, mass, c, x, y, distance)
    assert relative(nfw.convergence_nfw(x, y, 0.1, 0.0, scale, kappa_s, core=1e-10), theirs) < 1e-9
    theirs = potential_nfw(surface, critical, 0.1, 0.0, mass, c, distance, x, y)
    assert relative(nfw.potential_nfw(x, y, 0.1, 0.0, scale, kappa_s, core=1e-10), theirs) < 1e-9
    # Its deflection is physical, so it differs by a factor of distances; the shape is compared.
    theirs = torch.stack(physical_deflection_angle_nfw(0.1, 0.0, mass, c, critical, distance, x, y))
    ours = torch.stack(nfw.deflection_nfw(x, y, 0.1, 0.0, scale, kappa_s, core=1e-10))
    assert relative(ours / ours[0, 0, 0], theirs / theirs[0, 0, 0]) < 1e-9


def test_closed_values_at_and_around_the_scale_radius():
    one = torch.tensor([1 - 1e-3, 1 - 1e-9, 1.0, 1 + 1e-9, 1 + 1e-3], dtype=DOUBLE, requires_grad=True)
    at = (one, torch.zeros_like(one), 0.0, 0.0, 1.0, 1.0)
    kappa, (alpha, _), potential = (
        f(*at, core=1e-12) for f in (nfw.convergence_nfw, nfw.deflection_nfw, nfw.potential_nfw)
    )
    # At x = 1: kappa = 2/3, alpha = 4 (1 - ln 2), potential = 2 ln(2)^2;
    # their slopes are -4/5 kappa_s, 2 kappa - alpha / x and alpha.
    assert kappa[2].item() == pytest.approx(2 / 3, rel=1e-14) and alpha[2].item() == pytest.approx(
        4 * (1 - math.log(2)), rel=1e-14
    )
    assert potential[2].item() == pytest.approx(2 * math.log(2) ** 2, rel=1e-14)
    for value, slope in (
        (kappa, torch.tensor(-0.8, dtype=DOUBLE)),
        (alpha, 2 * kappa - alpha / one),
        (potential, alpha),
    ):
        (gradient,) = torch.autograd.grad(value.sum(), one, retain_graph=True)
        torch.testing.assert_close(gradient[1:4], slope.expand(5)[1:4].detach(), rtol=1e-8, atol=0)
        torch.testing.assert_close(gradient[[0, 4]], gradient[2].expand(2), rtol=1e-2, atol=0)


def test_branches_meet():
    x = torch.tensor([0.5 - 1e-12, 0.5 + 1e-12], dtype=DOUBLE, requires_grad=True)
    at = (x, torch.zeros_like(x), 0.0, 0.0, 1.0, 1.0)
    for value in (nfw.convergence_nfw(*at), nfw.deflection_nfw(*at)[0], nfw.potential_nfw(*at)):
        (gradient,) = torch.autograd.grad(value.sum(), x)
        assert abs(value[0] - value[1]) < 1e-11 and abs(gradient[0] - gradient[1]) < 1e-10


def test_potential_deflection_and_convergence_agree():
    x, y = (t.expand(3, -1, -1).clone().requires_grad_() for t in grid(11))
    alpha = nfw.deflection_nfw(x, y, **batch())
    gradient = torch.autograd.grad(nfw.potential_nfw(x, y, **batch()).sum(), (x, y))
    for ours, theirs in zip(alpha, gradient):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)  # exact, also in the core
    alpha = nfw.deflection_nfw(x, y, **batch(), core=1e-8)
    divergence = (
        torch.autograd.grad(alpha[0].sum(), x, retain_graph=True)[0]
        + torch.autograd.grad(alpha[1].sum(), y)[0]
    )
    torch.testing.assert_close(
        divergence / 2, nfw.convergence_nfw(x, y, **batch(), core=1e-8), rtol=1e-9, atol=1e-9
    )


def test_gradients_equal_finite_differences():
    def halo(x, y, scale, kappa_s):
        at = (x, y, 0.02, 0.01, scale, kappa_s)
        return torch.stack([*nfw.deflection_nfw(*at), nfw.convergence_nfw(*at), nfw.potential_nfw(*at)])

    # In the core, inside, at the scale radius and outside.
    x = torch.tensor([0.0203, 0.3, 0.82, 2.0], dtype=DOUBLE, requires_grad=True)
    y = torch.tensor([0.0101, 0.2, 0.01, 1.0], dtype=DOUBLE, requires_grad=True)
    values = [torch.tensor(v, dtype=DOUBLE, requires_grad=True) for v in (0.8, 0.3)]
    assert torch.autograd.gradcheck(halo, [x, y, *values], eps=1e-7, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
def test_centre_is_finite_and_single_precision_is_near(dtype):
    x, y = (t.to(dtype).requires_grad_() for t in imaging.pixel_grid(41, 0.2, dtype=DOUBLE))
    lens = {name: value[:1] for name, value in batch(dtype).items()}
    functions = (
        lambda *at, **p: torch.stack(nfw.deflection_nfw(*at, **p)),
        nfw.convergence_nfw,
        nfw.potential_nfw,
    )
    for function in functions:
        value = function(x, y, **lens)
        assert all(torch.isfinite(gradient).all() for gradient in torch.autograd.grad(value.sum(), (x, y)))
        exact = function(
            x.detach().double(), y.detach().double(), **{name: value[:1] for name, value in batch().items()}
        )
        assert relative(value.detach(), exact) < 2e-6
    assert nfw.deflection_nfw(x, y, **lens)[0][0, 20, 20] == 0
    with pytest.raises(ValueError, match="core is -1"):
        nfw.convergence_nfw(x, y, **lens, core=-1)
